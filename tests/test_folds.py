"""Pairs held out: nobody learns what is scored, each is scored once, and the statistics are those found another way."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from gpt_tiny import data, folds
from gpt_tiny.__main__ import main
from gpt_tiny.checkpoint import load_model
from gpt_tiny.folds import Plan
from gpt_tiny.margins import Score, accuracy, bag_of_words, holds, logistic, report, table
from gpt_tiny.model import GPT
from gpt_tiny.tokenizer import Tokenizer

Array = np.ndarray
REAL = [*(Path(__file__).parents[2] / "shared" / "data").glob("*.jsonl.gz")]
TINY = ["--sft-epochs", "1", "--dpo-epochs", "1", "--vocab-size", "300", "--width", "16", "--layers", "1", "--heads", "2"]
RNG = np.random.default_rng(3)
CORRELATED = RNG.normal([0.4, -0.2, 0.1], 1.0, (80, 3)) @ [[1, 0.5, 0], [0, 2, 0.3], [0, 0, 0.7]]

# --- Statistics --------------------------------------------------------------------------------------------------------------


def fitted(x: Array, ridge: float) -> tuple[Array, Array]:
    """The likeliest weights and the curvature there, in the usual form: sides at random, and which of them was chosen."""
    first = np.random.default_rng(0).integers(0, 2, len(x))
    shown = np.where(first, 1, -1)[:, None] * x

    def loss(w: Array) -> float:
        logit = shown @ w
        logps = np.where(first, special.log_expit(logit), special.log_expit(-logit))
        return float(-logps.sum() + ridge / 2 * (w**2).sum())

    w = optimize.minimize(loss, np.zeros(x.shape[1]), method="BFGS", options={"gtol": 1e-7}).x

    def smooth(w: torch.Tensor) -> torch.Tensor:
        return -torch.nn.functional.logsigmoid(torch.tensor(x) @ w).sum() + ridge / 2 * (w**2).sum()

    return w, torch.autograd.functional.hessian(smooth, torch.tensor(w)).numpy()


@pytest.mark.parametrize("ridge", [1e-6, 0.5, 20.0])
@pytest.mark.parametrize("x", [CORRELATED, CORRELATED[:, :1], 30 * CORRELATED[:, 1:]], ids=["three", "one", "steep"])
def test_logistic_is_what_scipy_finds(x: Array, ridge: float) -> None:
    w, errors = logistic(x, ridge)
    expected, curvature = fitted(x, ridge)
    assert np.abs(w - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(ridge * w - special.expit(-(x @ w)) @ x).max() <= 1e-6
    assert np.allclose(errors, np.sqrt(np.diag(np.linalg.inv(curvature))), rtol=1e-4, atol=0)


def test_standard_errors_are_how_weights_scatter() -> None:
    rng, truth = np.random.default_rng(4), np.array([0.8, -0.5])
    found = []
    for _ in range(400):
        shown = rng.normal(size=(300, 2))
        chosen = rng.random(300) < special.expit(shown @ truth)
        found.append(logistic(np.where(chosen, 1, -1)[:, None] * shown))
    weights, errors = (np.array(x) for x in zip(*found, strict=True))
    # 400 samples tell a standard deviation to 3.5 %, a mean to a twentieth of one; the bias of so few pairs is a tenth.
    assert np.abs(weights.std(axis=0) / errors.mean(axis=0) - 1).max() <= 0.12
    assert (np.abs(weights.mean(axis=0) - truth) <= 0.3 * errors.mean(axis=0)).all()


def test_logistic_stays_finite_where_the_sides_are_separable_or_a_column_is_zero() -> None:
    w, errors = logistic(np.array([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0]]))
    assert 5 <= w[0] <= 60 and w[1] == 0
    assert np.isfinite(errors).all() and errors[0] > abs(w[0])


def test_logistic_descends_where_newtons_whole_steps_lead_astray() -> None:
    x = np.array([[-124.05, -1.34], [-3.01, 2.38], [-5.22, 3.52], [-192.3, 9.34], [-0.45, -0.74], [16.39, 16.23]])
    w, _ = logistic(x)
    assert np.abs(special.expit(-(x @ w)) @ x).max() <= 1e-5  # which the ridge adds


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_logistic_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ArithmeticError, match="must converge"):
        logistic(np.array([[1.0], [bad]]))


@pytest.mark.parametrize(("right", "wrong"), [(60, 40), (3, 9), (7, 0), (5, 5)])
def test_accuracy_against_a_coin(right: int, wrong: int) -> None:
    found = accuracy(np.array([0.3] * right + [-2.0] * wrong))
    n = right + wrong
    assert (found["pairs"], found["accuracy"]) == (n, right / n)
    assert math.isclose(found["error"], stats.binom(n, 0.5).std() / n)
    assert math.isclose(found["z"] ** 2, stats.chisquare([right, wrong]).statistic, abs_tol=1e-12)
    assert (found["z"] > 0) == (right > wrong)


def test_ties_count_as_half() -> None:
    assert accuracy(np.array([1.0, 0.0, 0.0, -1.0, 5.0]))["accuracy"] == 3 / 5
    assert accuracy(np.zeros(9)) == {"pairs": 9, "accuracy": 0.5, "error": 1 / 6, "z": 0.0}


def some_scores(n: int = 200) -> list[Score]:
    rng = np.random.default_rng(8)
    tokens, characters = rng.integers(1, 12, (n, 2)), rng.integers(1, 60, (n, 2))
    margins = 0.1 * (tokens[:, 1] - tokens[:, 0]) + rng.normal(0.1, 0.5, n)
    numbers = zip(margins.tolist(), rng.normal(size=n).round(1).tolist(), characters.tolist(), tokens.tolist(), strict=True)
    return [Score(1 + i % 3, i, margin, words, *c, *t) for i, (margin, words, c, t) in enumerate(numbers)]


def test_a_report_counts_what_it_says() -> None:
    scores = some_scores()

    def right(values: Sequence[float]) -> float:
        return sum(1 if value > 0 else 0.5 if value == 0 else 0 for value in values) / len(values)

    longer = [s for s in scores if s.chosen_tokens > s.rejected_tokens]
    shorter = [s for s in scores if s.chosen_tokens < s.rejected_tokens]
    expected = {
        "implicit reward": right([s.margin for s in scores]),
        **{f"  of fold {k}": right([s.margin for s in scores if s.fold == k]) for k in (1, 2, 3)},
        "  longer chosen": right([s.margin for s in longer]),
        "  shorter chosen": right([s.margin for s in shorter]),
        "fewer characters": right([s.rejected_characters - s.chosen_characters for s in scores]),
        "fewer tokens": right([s.rejected_tokens - s.chosen_tokens for s in scores]),
        "bag of words": right([s.word_margin for s in scores]),
    }
    found = report(scores)["accuracies"]
    assert {name: row["accuracy"] for name, row in found.items()} == pytest.approx(expected, abs=1e-12)
    assert list(found) == list(expected)
    assert (
        0
        < len(scores) - len(longer) - len(shorter)
        == 200 - sum(found[f"  {x} chosen"]["pairs"] for x in ("longer", "shorter"))
    )


def test_a_report_of_loss_correlation_and_what_is_left_given_length() -> None:
    scores = some_scores()
    margins = np.array([s.margin for s in scores])
    tokens = np.array([(s.chosen_tokens, s.rejected_tokens) for s in scores])
    found = report(scores)
    losses = -np.log(special.expit(margins))
    assert found["loss"] == pytest.approx({"mean": losses.mean(), "error": stats.sem(losses, ddof=0)}, rel=1e-12)

    def either_side_first(x: Array) -> Array:
        return np.concatenate([x, -x])

    correlation = stats.pearsonr(*map(either_side_first, (margins, tokens[:, 1] - tokens[:, 0]))).statistic
    assert found["correlation of margin and fewer tokens"] == pytest.approx(correlation, abs=1e-12)
    x = np.stack([margins, np.log(tokens[:, 1]) - np.log(tokens[:, 0])], axis=1)
    scaled = x / either_side_first(x).std(axis=0)
    expected, curvature = fitted(scaled, 0.0)
    for name, w, variance in zip(("margin", "log of lengths"), expected, np.diag(np.linalg.inv(curvature)), strict=True):
        row = {"coefficient": w, "error": math.sqrt(variance), "z": w / math.sqrt(variance)}
        assert found["given both"][name] == pytest.approx(row, rel=1e-3)


def test_a_report_does_not_depend_on_units() -> None:
    scores, before = some_scores(), report(some_scores())
    after = report([s._replace(margin=7 * s.margin, word_margin=7 * s.word_margin) for s in scores])
    assert after["accuracies"] == before["accuracies"]
    for name, row in before["given both"].items():
        assert after["given both"][name] == pytest.approx(row, rel=1e-6)


def test_a_report_of_margins_of_zero_and_equal_lengths_is_one_of_ties() -> None:
    found = report([Score(1 + i % 2, i, 0.0, 0.0, 5, 5, 2, 2) for i in range(6)])
    assert {row["accuracy"] for row in found["accuracies"].values()} == {0.5}
    assert found["loss"]["mean"] == pytest.approx(math.log(2)) and found["correlation of margin and fewer tokens"] == 0
    assert all(row["z"] == 0 for row in found["given both"].values())
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("z", "verdict"), [(3.0, True), (2.999, False), (-9.0, False), (math.nan, False)])
def test_the_claim_is_decided_by_z(z: float, verdict: bool) -> None:
    found = {"held out": {"rows": 200}} | report(some_scores())
    found["accuracies"]["implicit reward"]["z"] = z
    assert holds(found) is verdict
    assert table(found).splitlines()[-1].startswith("HOLDS" if verdict else "FAILS")


@pytest.mark.parametrize(("margin", "side"), [(0.1, "below"), (-0.1, "above")])
def test_the_table_says_on_which_side_of_log_2_the_loss_is(margin: float, side: str) -> None:
    found = {"held out": {"rows": 4}} | report([Score(1, i, margin, 0.0, 5, 5, 2, 2) for i in range(4)])
    loss = math.log1p(math.exp(-margin))
    assert f"loss {loss:.4f} ± 0.0000, {abs(loss - math.log(2)):.4f} {side} log 2" in table(found)


TEXTS = [
    (" Good, good.", " bad"),
    (" bad good", " bad"),
    (" ok", " BAD ok!"),
    (" bad", " good"),
    (" x1", " x2"),
    (" ok", " good"),
]
ASKED = [(" good", " bad"), (" bad", " good"), (" unheard of", " unheard"), (" Good!", " ok good"), (" ", " ok.")]


@pytest.mark.parametrize("most", [3, 500])
def test_a_bag_of_words_is_a_regression_on_counts(most: int) -> None:
    words = ["good", "bad", "ok", ",", ".", "!", "x1", "x2"][:most]  # in 5, 5, 3, 1, ... responses

    def counts(text: str) -> list[int]:
        separated = text.lower().replace(",", " , ").replace(".", " . ").replace("!", " ! ").split()
        return [separated.count(word) for word in words]

    learned, asked = (np.array([np.subtract(*map(counts, pair)) for pair in pairs], float) for pairs in (TEXTS, ASKED))
    assert bag_of_words(TEXTS, ASKED, most, 0.7) == pytest.approx(asked @ fitted(learned, 0.7)[0], abs=1e-4)


def test_a_bag_of_words_knows_no_sides_and_no_words_that_it_never_met() -> None:
    margins = bag_of_words(TEXTS, ASKED)
    assert bag_of_words(TEXTS, [pair[::-1] for pair in ASKED]).tolist() == (-margins).tolist()
    assert margins[0] > 0 and margins[1] == -margins[0] and margins[2] == 0
    assert (
        bag_of_words(TEXTS, [*ASKED, *[(" x1 x2", " x2 x1 x1")] * 9], most=3)[:5].tolist()
        == bag_of_words(TEXTS, ASKED, 3).tolist()
    )


# --- The command -------------------------------------------------------------------------------------------------------------

SUBJECTS = [f"{one}{two}" for one in ("red", "green", "blue") for two in ("bird", "stone", "house", "river", "shirt")]
LONG = "word " * 70
AGAIN = "\n\nHuman: And now?\n\nAssistant:"


def pairs() -> list[dict[str, str]]:
    """Good is chosen, bad is not; three questions are asked twice; one pair of responses differs where both are cut."""
    rows = []
    for i, subject in enumerate(SUBJECTS * 2):
        prompt = f"\n\nHuman: What about the {subject}?\n\nAssistant:"
        ending = f" the {subject}." if i % 3 else f" the {subject}, as everyone says."
        rows.append({"prompt": prompt, "chosen": " Good is" + ending, "rejected": " Bad is" + f" the {subject}."})
    for row in rows[:3]:
        rows.append({**row, "prompt": row["prompt"] + " Well." + AGAIN})
    prompt = "\n\nHuman: Long?\n\nAssistant:"
    rows.append({"prompt": prompt, "chosen": " Good " + LONG, "rejected": " Bad " + LONG})
    return [*rows, {"prompt": prompt, "chosen": LONG + "a", "rejected": LONG + "b"}]


ROWS = pairs()


def command(source: Path, out: Path, *more: str) -> list[str]:
    return ["folds", "--data", str(source), "--out", str(out), *TINY, "--context", "64", *more]


LEARNING = ["--dpo-epochs", "4", "--dpo-lr", "0.02", "--batch-size", "4"]


@pytest.fixture(scope="module", autouse=True)
def no_curves() -> Iterator[None]:
    """Drawing them takes longer than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_tiny.train.draw", lambda *_: False)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return path


@pytest.fixture(scope="module")
def done(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended, whose claim holds."""
    out = tmp_path_factory.mktemp("folds") / "out"
    assert main(command(source, out, *LEARNING)) == 0
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def scores_in(out: Path) -> list[Score]:
    return [Score(**line) for line in lines(out / "scores.jsonl")]


def test_no_fold_learns_from_a_question_that_it_is_asked(done: Path) -> None:
    for k in (1, 2, 3):
        learned, held_out = (lines(done / f"fold-{k}" / f"{name}.jsonl") for name in ("train", "held-out"))
        questions = [{row["prompt"].split("\n\n")[1] for row in rows} for rows in (learned, held_out)]
        assert learned and held_out and not questions[0] & questions[1]
        assert Counter(map(str, learned + held_out)) == Counter(map(str, ROWS))
        for stage in ("sft", "dpo"):
            assert json.loads((done / f"fold-{k}" / stage / "run.json").read_text())["settings"]["data"].endswith(
                f"fold-{k}/train.jsonl"
            )


def test_each_pair_is_scored_exactly_once_or_dropped_with_its_reason(done: Path) -> None:
    scored = [score.line for score in scores_in(done)]
    dropped = [row for k in (1, 2, 3) for row in lines(done / f"fold-{k}" / "dropped.jsonl")]
    assert sorted([*scored, *(row["line"] for row in dropped)]) == [*range(1, len(ROWS) + 1)]
    assert [row["line"] for row in dropped] == [len(ROWS)] and "same tokens" in dropped[0]["reason"]
    for score in scores_in(done):
        held_out, row = lines(done / f"fold-{score.fold}" / "held-out.jsonl"), ROWS[score.line - 1]
        assert row in held_out
        assert (score.chosen_characters, score.rejected_characters) == (len(row["chosen"]), len(row["rejected"]))


def test_the_tokenizer_has_seen_the_other_folds_alone(done: Path) -> None:
    for k in (1, 2, 3):
        texts = [text for row in lines(done / f"fold-{k}" / "train.jsonl") for text in row.values()]
        for stage in ("sft", "dpo"):
            assert Tokenizer.load(done / f"fold-{k}" / stage) == Tokenizer.train(texts, 300)


def plain_margin(fold: Path, row: dict[str, str]) -> float:
    """By the plain forward, of each response alone, a token at a time."""
    rewards = {"chosen": 0.0, "rejected": 0.0}
    for stage, sign in (("dpo", 0.1), ("sft", -0.1)):
        config, weights, tokenizer = load_model(fold / stage)
        gpt = GPT(config).double()
        gpt.load_weights({name: weight.astype(np.float64) for name, weight in weights.items()})
        responses = {side: [*tokenizer.encode(row[side]), tokenizer.eos][:63] for side in rewards}
        prompt = tokenizer.encode(row["prompt"])[-(64 - max(map(len, responses.values()))) :]
        for side, response in responses.items():
            ids = torch.tensor([prompt + response])
            with torch.no_grad():
                logps = gpt(ids, torch.ones_like(ids, dtype=torch.bool))[0].log_softmax(-1)
            rewards[side] += sign * sum(float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(response))
    return rewards["chosen"] - rewards["rejected"]


def test_margins_are_those_of_the_policy_against_its_start(done: Path) -> None:
    scores = sorted(scores_in(done), key=lambda score: score.line)
    assert LONG in ROWS[scores[-1].line - 1]["chosen"]
    for score in scores[-1::-6]:
        expected = plain_margin(done / f"fold-{score.fold}", ROWS[score.line - 1])
        assert abs(score.margin) >= 1e-3 and score.margin == pytest.approx(expected, abs=1e-5)


def test_margins_of_words_are_learned_from_the_other_folds(done: Path) -> None:
    for k in (1, 2, 3):
        learned = [(row["chosen"], row["rejected"]) for row in lines(done / f"fold-{k}" / "train.jsonl")]
        own = [score for score in scores_in(done) if score.fold == k]
        asked = [(ROWS[score.line - 1]["chosen"], ROWS[score.line - 1]["rejected"]) for score in own]
        assert [score.word_margin for score in own] == pytest.approx(bag_of_words(learned, asked).tolist(), abs=1e-9)


def test_the_report_is_of_these_scores_and_counts(done: Path) -> None:
    found = json.loads((done / "folds.json").read_text())
    cut = [sum(cuts) for cuts in zip(*(cut_in(done, score) for score in scores_in(done)), strict=True)]
    counts = dict(zip(("rows", "dropped", "cut_prompts", "cut_responses"), (len(ROWS) - 1, 1, *cut), strict=True))
    assert found.pop("held out") == counts and min(cut) >= 1
    assert found == report(scores_in(done))
    assert (done / "folds.png").read_bytes().startswith(b"\x89PNG")


def cut_in(out: Path, score: Score) -> tuple[bool, bool]:
    """Whether its prompt and its responses have no room in 64 tokens; and the lengths are those of what has."""
    tokenizer, row = Tokenizer.load(out / f"fold-{score.fold}" / "sft"), ROWS[score.line - 1]
    lengths = [len(tokenizer.encode(row[side])) + 1 for side in ("chosen", "rejected")]
    assert [score.chosen_tokens, score.rejected_tokens] == [min(length, 63) for length in lengths]
    return len(tokenizer.encode(row["prompt"])) + min(max(lengths), 63) > 64, max(lengths) > 63


def test_the_same_again_gives_the_same_numbers(source: Path, done: Path, tmp_path: Path) -> None:
    assert main(command(source, tmp_path / "other", *LEARNING)) == 0
    for name in ("scores.jsonl", "folds.json"):
        assert (tmp_path / "other" / name).read_bytes() == (done / name).read_bytes()


class Killed(BaseException):
    """What nothing catches."""


def test_a_run_that_was_stopped_goes_on(source: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, run, calls = tmp_path / "out", folds.run, []

    def stopped(*given: Any) -> None:
        calls.append(given[1])
        if len(calls) == 4:
            raise Killed
        run(*given)

    monkeypatch.setattr(folds, "run", stopped)
    with pytest.raises(Killed):
        main(command(source, out, *LEARNING))
    assert calls == [out / f"fold-{k}" / stage for k in (1, 2) for stage in ("sft", "dpo")]
    assert not (out / "folds.json").exists()
    assert main(command(source, out, *LEARNING, "--resume")) == 0
    assert (out / "scores.jsonl").read_bytes() == (done / "scores.jsonl").read_bytes()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_who_is_held_out_follows_from_the_seed(
    source: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(folds, "run", stopped)
    with pytest.raises(Killed):
        main(command(source, tmp_path / "out", "--seed", str(seed)))
    held_out = data.split(data.load(source), 3, seed)[0]
    assert lines(tmp_path / "out" / "fold-1" / "held-out.jsonl") == [ROWS[row.place.line - 1] for row in held_out]


def test_another_run_is_not_written_over(source: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    assert main(command(source, done, *LEARNING)) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(command(source, done, *LEARNING, "--resume", "--seed", "1")) == 2
    assert "settings.seed was 0, is 1" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--folds", "1"], "folds: must be at least 2"),
        (["--folds", "99"], "folds: must be at least 2 and at most the 16 first turns"),
        (["--heads", "3"], "heads must divide width = 16"),
        (["--sft-epochs", "0"], "epochs must be >= 1, got 0"),
        (["--dpo-lr", "-1"], "lr must be finite and > 0, got -1.0"),
        (["--beta", "0"], "beta must lie in (0, inf), got 0.0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(command(source, tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_data_that_are_no_pairs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    assert main(command(texts, tmp_path / "out")) == 2
    assert f"data must be pairs, but {texts} has rows of Text" in capsys.readouterr().err


@pytest.mark.parametrize(("z", "code", "word"), [(3.1, 0, "HOLDS"), (2.9, 1, "FAILS")])
def test_the_exit_code_is_the_claims(
    z: float, code: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"held out": {"rows": 200}} | report(some_scores())
    found["accuracies"]["implicit reward"]["z"] = z
    monkeypatch.setattr(folds, "train_and_score", lambda *_: found)
    assert main(command(Path("pairs"), Path("out"))) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith(word)


def test_what_the_command_is_told_is_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = asdict(Plan("d", 5, 7, 9, 0.1, 0.2, 0.3, 11, 400, 13, 16, 15, 4, 17))
    seen = []
    monkeypatch.setattr(folds, "train_and_score", lambda *given: seen.append(given) or {"held out": {}} | report(some_scores()))
    main(
        [
            "folds",
            "--out",
            "o",
            "--resume",
            *(word for name, x in told.items() for word in (f"--{name.replace('_', '-')}", str(x))),
        ]
    )
    assert seen == [(Plan(**told), Path("o"), True)]
    stages = Plan(**told).stages(Path("o"))
    assert [(s.epochs, s.optimization.lr, s.seed, s.batch_size) for s in stages.values()] == [
        (7, 0.1, 17, 11),
        (9, 0.2, 17, 11),
    ]
    assert [s.optimization.schedule for s in stages.values()] == ["cosine", "linear"]
    assert stages["sft"].size is not None and list(vars(stages["sft"].size).values()) == [400, 13, 16, 15, 4]
    assert dict(stages["dpo"].objective.hyperparameters) == {"beta": 0.3}


# --- Real pairs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[pytest.param(60, id="part"), pytest.param(None, id="whole", marks=pytest.mark.sweep)])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if not REAL:
        pytest.skip("needs preference pairs in ../shared/data")
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"".join(gzip.open(REAL[0]).readlines()[: request.param]))
    return path


def test_real_pairs(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, whole = data.load(real), len(data.load(real)) > 60
    code = main(["folds", "--data", str(real), "--out", str(tmp_path / "out"), *([] if whole else TINY)])
    said = capsys.readouterr().out
    scores, found = scores_in(tmp_path / "out"), json.loads((tmp_path / "out" / "folds.json").read_text())
    assert len({score.line for score in scores}) == len(scores) == len(rows) - found["held out"]["dropped"]
    assert said == table(found) + "\n" and code == (0 if holds(found) else 1)
    texts = {row.place.line: (row[2], row[3]) for row in rows}
    shorter = np.array([len(texts[score.line][1]) - len(texts[score.line][0]) for score in scores])
    assert found["accuracies"]["fewer characters"] == accuracy(shorter)
    if whole:
        assert found["accuracies"]["implicit reward"]["z"] >= 3
