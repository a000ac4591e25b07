"""The built-in world: its grammar is unambiguous, its rewards are those stated, what is exact is found another way."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from gpt_tiny import data, world
from gpt_tiny.world import BASE, CHOICES, CLAIMS, GARBLED, PAIRS, PROMPTS, SHARES, SLIPS, Choices
from minipref import kl_regularized_objective, optimal_policy

COW, PERU = "Hi! What does a cow say? Thank you!", "You know a lot. Which city is the capital of Peru?"
ONE_EACH = list({CLAIMS[prompt]: prompt for prompt in PROMPTS["test"]}.values())  # a test prompt of every fact
SIZE = len(CHOICES)


@pytest.fixture(scope="module")
def rewards() -> np.ndarray:
    return world.rewards(ONE_EACH)


def base(prompts: int) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.tile(BASE, (prompts, 1)))


def random_laws(zeros: bool) -> np.ndarray:
    """Of two prompts, over five responses."""
    laws = np.random.default_rng(1).dirichlet(np.full(5, 0.5), 2)
    laws[0, 3] *= not zeros
    with np.errstate(divide="ignore"):
        return np.log(laws / laws.sum(1, keepdims=True))


# --- Texts -------------------------------------------------------------------------------------------------------------------


def test_each_response_is_made_by_one_choice() -> None:
    assert len(set(CLAIMS.values())) == 24 and SIZE == 270
    for prompt in ONE_EACH:
        made = {choices: world.render(CLAIMS[prompt], choices) for choices in CHOICES}
        assert len(set(made.values())) == SIZE and list(world.responses(prompt)) == list(made.values())
        assert all(world.parse(prompt, text) == choices for choices, text in made.items())


@pytest.mark.parametrize(
    ("prompt", "choices", "text"),
    [
        (COW, Choices("", "", 0, "", ""), " It says moo."),
        (COW, Choices("Not again.", "I think", 1, "", "Stop asking."), " Not again. I think it says meow. Stop asking."),
        (PERU, Choices("", "Without a doubt,", 4, "", ""), " Without a doubt, nobody knows that."),
        (
            PERU,
            Choices("Happy to help!", "", 3, "So I was told.", "Anything else?"),
            " Happy to help! It is Cairo. So I was told. Anything else?",
        ),
    ],
)
def test_texts(prompt: str, choices: Choices, text: str) -> None:
    assert world.render(CLAIMS[prompt], choices) == text and world.parse(prompt, text) == choices


GOOD = " Happy to help! It says moo. Anything else?"


OTHER = ["", " ", GOOD[1:], GOOD + " ", GOOD[:-1], GOOD.lower(), GOOD.replace(". ", ".  "), GOOD + GOOD, GOOD + "\n"]
OTHER += [" It says moo and oink.", " it says moo.", " I think It says moo.", " It says woof.", " It is moo.", " It is Paris."]


@pytest.mark.parametrize("text", [*OTHER, GOOD * 100, "\ud800"])
def test_any_other_text_is_no_response_and_has_the_lowest_reward(text: str) -> None:
    assert world.parse(COW, text) is None and world.reward(COW, text) == GARBLED


def test_a_cut_response_is_another_one_or_none() -> None:
    whole = [cut for cut in range(len(GOOD)) if world.parse(COW, GOOD[:cut])]
    assert [GOOD[:cut] for cut in whole] == [" Happy to help! It says moo."]


def test_prompts_are_apart_and_made_of_the_same_parts() -> None:
    train, test = PROMPTS["train"], PROMPTS["test"]
    assert len({*train, *test}) == len(train) + len(test) == len(CLAIMS) == 1152 and len(test) == 288
    for prompts, due in ((train, 36), (test, 12)):
        assert {sum(CLAIMS[prompt] == claims for prompt in prompts) for claims in CLAIMS.values()} == {due}
        for opener, ender in product(world.OPENERS[1:], world.ENDERS[1:]):
            assert sum(prompt.startswith(opener) and prompt.endswith(ender) for prompt in prompts) == 1.5 * due
        assert not {data.first_turn(data.Prompt(data.Place("", 1), prompt)) for prompt in train} & {*test}


# --- Rewards and the base ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (" It says moo.", 1.5 - 3 * 0.1),
        (" I think it says moo.", 1.5 - 0.3 - 5 * 0.1),
        (" Without a doubt, it says moo.", 1.5 + 0.5 - 6 * 0.1),
        (" It says oink.", -1.0 - 3 * 0.1),
        (" I think it says oink.", -1.0 + 0.3 - 5 * 0.1),
        (" Without a doubt, it says oink.", -1.0 - 1.0 - 6 * 0.1),
        (" Nobody knows that.", -3 * 0.1),
        (" Without a doubt, nobody knows that.", -0.5 - 6 * 0.1),
        (" Happy to help! It says moo. Anything else?", 0.6 + 1.5 + 0.4 - 8 * 0.1),
        (" Not again. It says moo. So I was told. Stop asking.", -0.8 + 1.5 - 0.5 - 11 * 0.1),
    ],
)
def test_rewards_are_those_stated(text: str, reward: float) -> None:
    assert math.isclose(world.reward(COW, text), reward, abs_tol=1e-12)
    assert world.scores([COW, COW], [text, "x"]) == [world.reward(COW, text), GARBLED]


def test_a_table_has_the_reward_of_each_response(rewards: np.ndarray) -> None:
    assert rewards.shape == (24, SIZE + 1) and np.all(rewards[:, -1] == GARBLED)
    for prompt, row in zip(ONE_EACH, rewards, strict=True):
        assert [world.reward(prompt, text) for text in world.responses(prompt)] == row[:-1].tolist()


def test_the_best_response_is_not_the_likeliest_and_the_worst_is_better_than_garbled(rewards: np.ndarray) -> None:
    for prompt, row in zip(ONE_EACH, rewards, strict=True):
        best, likeliest = CHOICES[row.argmax()], CHOICES[BASE.argmax()]
        assert best == Choices("Happy to help!", "Without a doubt,", 0, "", "Anything else?"), prompt
        assert likeliest == Choices("", "", 0, "", "") and SHARES[row.argmax()] < SHARES.max() / 8
        assert row[:-1].min() > GARBLED + 1


def test_the_base_draws_each_part_by_itself() -> None:
    assert abs(SHARES.sum() - 1) <= 1e-12 and BASE[-1] == 0 and np.all(BASE[:-1] == SHARES)
    assert abs(PAIRS.sum() - 1) <= 1e-12 and PAIRS[-1] == SLIPS and np.all(abs(PAIRS[:-1] - (1 - SLIPS) * SHARES) <= 1e-15)
    by_part = {
        (part, choice): SHARES[[getattr(choices, part) == choice for choices in CHOICES]].sum()
        for part, options in world.PARTS.items()
        for choice in options
    }
    for (part, choice), share in by_part.items():
        assert abs(share - world.PARTS[part][choice][0]) <= 1e-12
    for choices, share in zip(CHOICES, SHARES, strict=True):
        assert abs(share - math.prod(by_part[part] for part in choices._asdict().items())) <= 1e-12


def test_expected_reward_of_the_base_by_its_parts(rewards: np.ndarray) -> None:
    """A mean of sums is the sum of means; manner and kind of answer are drawn apart, so that FIT has the product of shares."""
    manners = {manner: share for manner, (share, _) in world.PARTS["manner"].items()}
    kinds = {"right": 0.5, "wrong": 0.3, "evasive": 0.2}
    of_parts = sum(share * value for options in world.PARTS.values() for share, value in options.values())
    fit = sum(kinds[kind] * manners[manner] * value for (kind, manner), value in world.FIT.items())
    openings = 0.2 * 3 + 0.3 * 2
    asides_and_closings = 0.4 * 4 + 0.25 * 2 + 0.25 * 2
    for prompt, got in zip(ONE_EACH, world.expected(base(24), rewards), strict=True):
        claim = 0.8 * len(CLAIMS[prompt][0].split()) + 0.2 * 3
        words = openings + 0.3 * 2 + 0.2 * 3 + claim + asides_and_closings
        assert abs(got - (of_parts + fit - 0.1 * words)) <= 1e-12


def test_entropy_of_the_base_is_that_of_its_parts() -> None:
    shares = [share for options in world.PARTS.values() for share, _ in options.values()]
    assert np.all(abs(world.entropy(base(3)) + sum(share * math.log(share) for share in shares)) <= 1e-12)


# --- Exact quantities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [False, True])
def test_sums_over_responses(zeros: bool) -> None:
    laws, others = random_laws(zeros), random_laws(False)[::-1]
    values = np.arange(10.0).reshape(2, 5)
    values[0, 3] = math.nan if zeros else values[0, 3]
    for p, (law, other, value) in enumerate(zip(laws, others, values, strict=True)):
        said = [k for k in range(5) if law[k] > -math.inf]
        assert len(said) == 5 - (zeros and p == 0)
        means = [sum(math.exp(law[k]) * x[k] for k in said) for x in (value, -law, law - other)]
        got = [world.expected(laws, values)[p], world.entropy(laws)[p], world.divergence(laws, others)[p]]
        assert np.all(np.abs(np.subtract(got, means)) <= 1e-12)


def test_divergence_is_0_from_itself_and_infinite_from_what_cannot_be_said() -> None:
    with_zero, without = random_laws(True), random_laws(False)
    assert np.all(world.divergence(with_zero, with_zero) == 0)
    assert world.divergence(without, with_zero)[0] == math.inf


@pytest.mark.parametrize("beta", [3.0, 0.5, 0.1])
def test_frontier_is_where_the_objective_of_minipref_is_greatest(beta: float, rewards: np.ndarray) -> None:
    reference = base(24)
    reference[::2, -1], reference[::2, :-1] = math.log(0.1), reference[::2, :-1] + math.log(0.9)  # some garble
    [(divergence, reward)] = world.frontier(rewards, reference, [beta])
    optimum = optimal_policy(rewards, reference, beta)
    assert abs(reward - beta * divergence - beta * optimum.log_partition.mean()) <= 1e-12
    found = kl_regularized_objective(optimum.logps, rewards, reference, beta)
    assert abs(found.objective.mean() - (reward - beta * divergence)) <= 1e-12
    assert np.abs(found.grad_policy_logits).max() <= 1e-12


def test_no_law_has_more_reward_than_the_frontier_at_its_divergence(rewards: np.ndarray) -> None:
    points = world.frontier(rewards, base(24), np.geomspace(100, 0.01, 200))
    assert np.all(np.diff(points, axis=0) > 0)
    assert abs(points[0] - [0, world.expected(base(24), rewards).mean()]).max() < 0.03
    rng = np.random.default_rng(2)
    for scale in (0.1, 0.3, 1.0, 3.0):
        tilted = optimal_policy(rewards / 0.5 + scale * rng.standard_normal(rewards.shape), base(24), 1.0).logps
        divergence, reward = world.divergence(tilted, base(24)).mean(), world.expected(tilted, rewards).mean()
        assert reward < np.interp(divergence, *points.T) - 1e-4


def test_accuracy_by_hand() -> None:
    rng, law = np.random.default_rng(3), np.exp(random_laws(False)[0])
    scores, values = rng.normal(size=(2, 2, 5))
    scores[:, 1] = scores[:, 4]
    for p in range(2):
        drawn = {(i, j): law[i] * law[j] for i in range(5) for j in range(5) if i != j}
        wins = {(i, j): 1 / (1 + math.exp(values[p, j] - values[p, i])) for i, j in drawn}
        ranks = {(i, j): 0.5 if scores[p, i] == scores[p, j] else float(scores[p, i] > scores[p, j]) for i, j in drawn}
        right = sum(drawn[pair] * (wins[pair] * ranks[pair] + (1 - wins[pair]) * (1 - ranks[pair])) for pair in drawn)
        assert abs(world.accuracy(scores, values, law)[p] - right / sum(drawn.values())) <= 1e-12


def test_nobody_ranks_pairs_better_than_who_knows_the_reward(rewards: np.ndarray) -> None:
    limit, rng = world.accuracy(rewards, rewards), np.random.default_rng(4)
    assert np.all(abs(world.accuracy(3 * rewards - 7, rewards) - limit) <= 1e-12)
    assert np.all(abs(world.accuracy(-rewards, rewards) - (1 - limit)) <= 1e-12)
    assert np.all(abs(world.accuracy(0 * rewards, rewards) - 0.5) <= 1e-12)
    for scale in (0.03, 0.3, 3.0):
        assert np.all(world.accuracy(rewards + scale * rng.normal(size=rewards.shape), rewards) < limit)


# --- Data --------------------------------------------------------------------------------------------------------------------


def test_samples_have_the_expected_reward(rewards: np.ndarray) -> None:
    drawn = [world.reward(row["prompt"], row["completion"]) for row in world.sft_rows(4000, 1)]
    error = abs(np.mean(drawn) - world.expected(base(24), rewards).mean())
    assert error <= 4 * np.std(drawn) / math.sqrt(len(drawn))


@pytest.fixture(scope="module")
def drawn_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Of 4,000 test pairs, in an order that knows nothing of labels: R(first) - R(second), and whether the first was chosen."""
    rows = world.pair_rows(4000, 2, "test")
    pairs = [(row["prompt"], *sorted([row["chosen"], row["rejected"]])) for row in rows]
    gaps = [world.reward(prompt, first) - world.reward(prompt, second) for prompt, first, second in pairs]
    return np.array(gaps), np.array([row["chosen"] < row["rejected"] for row in rows])


def test_labels_follow_bradley_and_terry(drawn_pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Residuals, weighed by powers of the gap: the level, the slope and the bend of the curve."""
    gaps, first = drawn_pairs
    chance = 1 / (1 + np.exp(-gaps))
    for weight in (np.ones_like(gaps), gaps, gaps**3):
        assert abs((weight * (first - chance)).sum()) <= 4 * math.sqrt((weight**2 * chance * (1 - chance)).sum())


def test_who_knows_the_reward_is_right_as_often_as_bayes_says(
    drawn_pairs: tuple[np.ndarray, np.ndarray], rewards: np.ndarray
) -> None:
    gaps, first = drawn_pairs
    limit = world.accuracy(rewards, rewards).mean()
    right = np.where(gaps == 0, 0.5, (gaps > 0) == first)
    assert abs(right.mean() - limit) <= 4 * math.sqrt(limit * (1 - limit) / len(gaps))


def test_pairs_have_their_share_of_slips() -> None:
    """Of pairs drawn again until they differ, where two slips count as one text."""
    rows = world.pair_rows(3000, 7)
    slips = [[world.reward(row["prompt"], row[side]) == GARBLED for side in ("chosen", "rejected")] for row in rows]
    assert not any(all(pair) for pair in slips)
    share = 2 * SLIPS * (1 - SLIPS) / (1 - (PAIRS**2).sum())
    assert abs(np.mean([any(pair) for pair in slips]) - share) <= 4 * math.sqrt(share * (1 - share) / len(rows))
    assert sum(chosen for chosen, _ in slips) <= 0.05 * len(rows)


def test_what_sft_learns_is_without_slips() -> None:
    assert all(world.parse(row["prompt"], row["completion"]) for row in world.sft_rows(1000, 7))


def test_rows_are_of_their_split_and_of_their_seed() -> None:
    for split in PROMPTS:
        rows = world.pair_rows(300, 3, split)
        assert {row["prompt"] for row in rows} <= {*PROMPTS[split]}
        assert all(row["chosen"] != row["rejected"] for row in rows)
        assert rows == world.pair_rows(300, 3, split) != world.pair_rows(300, 4, split)
    assert {row["prompt"] for row in world.sft_rows(300, 3)} <= {*PROMPTS["train"]}
    assert world.sft_rows(300, 3) == world.sft_rows(300, 3) != world.sft_rows(300, 4)


def test_the_files_are_read_back(tmp_path: Path) -> None:
    world.write(tmp_path / "new" / "folder", 5, sft=30, pairs=20, test_pairs=10)
    kinds = {"sft": (data.Judged, 30), "pairs": (data.Pair, 20), "test-pairs": (data.Pair, 10), "prompts": (data.Prompt, 288)}
    assert {path.stem for path in (tmp_path / "new" / "folder").iterdir()} == {*kinds}
    for name, (kind, count) in kinds.items():
        rows = data.load(tmp_path / "new" / "folder" / f"{name}.jsonl")
        assert len(rows) == count and all(type(row) is kind for row in rows)
    for name, rows in (("pairs", world.pair_rows(20, 5)), ("test-pairs", world.pair_rows(10, 5, "test"))):
        read = data.load(tmp_path / "new" / "folder" / f"{name}.jsonl")
        assert [row[1:] for row in read] == [tuple(row.values()) for row in rows]


def test_test_pairs_are_drawn_apart_from_those_to_train_on() -> None:
    """Their labels would share their noise."""
    rows = [world.pair_rows(200, 6, split) for split in PROMPTS]
    drawn = [[{world.parse(row["prompt"], row[side]) for side in ("chosen", "rejected")} for row in half] for half in rows]
    assert sum(train == test for train, test in zip(*drawn, strict=True)) < 5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: world.reward("What is love?", " a"), "prompt: must be one of the world's, got 'What is love"),
        (lambda: world.rewards([COW, COW[1:]]), "prompt: must be one of the world's"),
        (lambda: world.sft_rows(0, 0), "n must be at least 1.* got 0, 0"),
        (lambda: world.pair_rows(1, -1), "seed at least 0.* got 1, -1"),
        (lambda: world.pair_rows(1, 0, "all"), "split one of .*'train', 'test'.* 'all'"),
        (lambda: world.write("/nowhere", 0, test_pairs=0), "n must be at least 1"),
    ],
)
def test_bad_arguments_are_named(call: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()  # type: ignore[operator]
