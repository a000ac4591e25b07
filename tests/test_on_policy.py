"""Methods that sample: what each makes of responses and rewards, held against the papers' sums written out by loops."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt_tiny.checkpoint import load_model, load_reward_model, save_model
from gpt_tiny.data import Place, TokenizedPrompt
from gpt_tiny.model import GPT
from gpt_tiny.model_by_hand import Config, initial_weights
from gpt_tiny.on_policy import ON_POLICY, Experience, OnPolicy
from gpt_tiny.on_policy_trainer import OnPolicyTrainer
from gpt_tiny.packed import Group, pack
from gpt_tiny.reference import held
from gpt_tiny.rewards import by_function, find
from gpt_tiny.rollouts import layout, logps_by_token
from gpt_tiny.tokenizer import Tokenizer
from gpt_tiny.trainer import Diverged, Optimization, Step
from gpt_tiny.value_model import ValueModel

CONFIG = Config(vocab_size=13, context=14, width=16, layers=2, heads=2)
EOS = 12
GROUPS: list[Group] = [
    ([3, 1, 4], [[1, 5, 9, EOS], [2, EOS], [6, 5, 3, 5, 8]]),
    ([9, 7], [[9, 3, EOS], [2, 3, 8, 4, 6, EOS], [EOS]]),
]
NUMBERS = {"beta": 0.3, "clip_low": 0.15, "clip_high": 0.25, "value_clip": 0.4, "discount": 0.9, "trace_decay": 0.8}
NUMBERS |= {"overlong_share": 0.5, "acceptance_beta": 0.7, "eta": 3.0}
GROUP_METHODS = ("grpo", "dapo", "dr-grpo", "rloo")


def model(seed: int, kind: type[GPT] = GPT) -> Any:
    """In float64, far from every special value."""
    rng, start = np.random.default_rng(seed), initial_weights(CONFIG, seed, np.float64)
    made = kind(CONFIG).double()
    weights = {name: 5 * weight + 0.1 * rng.standard_normal(weight.shape) for name, weight in start.items()}
    score = {"score.weight": rng.standard_normal((1, CONFIG.width))} if kind is ValueModel else {}
    made.load_weights(weights | score)
    return made


def objective(method: str, **more: Any) -> OnPolicy:
    numbers = {name: NUMBERS[name] for name in ON_POLICY[method].numbers}
    return OnPolicy(method, "module:name", numbers, **{"group_size": 3, "max_tokens": 6, **more})


def reward(groups: Sequence[Group]) -> Tensor:
    """Of the tokens, differs between almost all responses."""
    return torch.tensor(
        [math.sin(7 * sum(ids) + len(ids)) for _, responses in groups for ids in responses], dtype=torch.float64
    )


def trainer(method: str, policy: GPT | None = None, steps: int = 4, prompts: int = 3, **more: Any) -> OnPolicyTrainer:
    asked = more.pop("objective", None) or objective(method, group_size=more.pop("group_size", 4))
    rows = [TokenizedPrompt(Place("prompts.jsonl", n), [1 + n, 2, 3][: 1 + n % 3]) for n in range(prompts)]
    course = [Step(1.0, [*range(prompts)])] * steps
    critic = model(4, ValueModel) if method == "ppo" else None
    given = {"reward": reward, "optimization": Optimization(1e-2, warmup=0.0), "seed": 5, **more}
    return OnPolicyTrainer(
        policy or model(1), asked, rows, course, given.pop("optimization"), given.pop("reward"), held(model(2), "copy"),
        EOS, critic=critic, **given,
    )  # fmt: skip


# --- Rows --------------------------------------------------------------------------------------------------------------------


def test_rows_are_prompt_response_and_padding() -> None:
    rows = layout([([3, 1], [[5, 9, EOS]]), ([7], [[EOS]])])
    assert rows.tokens.tolist() == [[3, 1, 5, 9, EOS], [7, EOS, 0, 0, 0]]
    assert rows.attention_mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert rows.targets.tolist() == [[5, 9, EOS], [EOS, 0, 0]]
    assert rows.mask.tolist() == [[True] * 3, [True, False, False]]
    assert rows.predicting[0].tolist() == [1, 2, 3] and rows.predicting[1, 0] == 0


@pytest.mark.parametrize("groups", [[], [([1], [])], [([], [[1]])], [([1], [[2], []])]])
def test_a_prompt_and_a_response_have_a_token(groups: list[Group]) -> None:
    with pytest.raises(ValueError, match="groups: must hold responses, each with a token and a prompt, got"):
        layout(groups)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_by_token_are_those_of_the_plain_logits(temperature: float) -> None:
    gpt, found = model(1), logps_by_token(model(1), layout(GROUPS), temperature)
    rows = [(prompt, ids) for prompt, responses in GROUPS for ids in responses]
    for row, (prompt, ids) in zip(found.tolist(), rows, strict=True):
        tokens = torch.tensor([[*prompt, *ids]])
        laws = torch.log_softmax(gpt(tokens, torch.ones_like(tokens, dtype=torch.bool))[0] / temperature, dim=-1)
        right = [laws[len(prompt) + t - 1, token].item() for t, token in enumerate(ids)]
        assert row == pytest.approx(right + [0.0] * (len(row) - len(ids)), abs=1e-12)


def test_their_sums_are_those_of_the_packed_pass() -> None:
    gpt = model(1)
    right = gpt.response_logps(pack(GROUPS, CONFIG)).logps
    torch.testing.assert_close(logps_by_token(gpt, layout(GROUPS)).sum(dim=1), right, rtol=0, atol=1e-12)


# --- Reward models -----------------------------------------------------------------------------------------------------------


def test_a_reward_is_the_score_of_the_last_token_whoever_stands_beside() -> None:
    scorer = model(3, ValueModel)
    found = scorer.rewards(GROUPS)
    alone = torch.cat([scorer.rewards([(prompt, [ids])]) for prompt, responses in GROUPS for ids in responses])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)
    tokens = torch.tensor([[9, 7, 9, 3, EOS]])
    hidden = scorer.hidden(tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert found[3].item() == pytest.approx((hidden[0, -1] @ scorer.score.weight[0]).item(), abs=1e-12)


def test_a_value_is_the_score_before_the_token() -> None:
    scorer, rows = model(3, ValueModel), layout(GROUPS)
    found, prompt, ids = scorer.values(rows), *(GROUPS[0][0], GROUPS[0][1][0])
    for t in range(len(ids)):
        before = torch.tensor([[*prompt, *ids[:t]]])
        hidden = scorer.hidden(before, torch.ones_like(before, dtype=torch.bool))
        assert found[0, t].item() == pytest.approx((hidden[0, -1] @ scorer.score.weight[0]).item(), abs=1e-12)
    assert (found[~rows.mask] == 0).all()


def test_it_starts_at_0_and_knows_the_shape_of_its_score() -> None:
    scorer = ValueModel(CONFIG)
    assert (scorer.rewards(GROUPS) == 0).all()
    wrong = scorer.weights() | {"score.weight": np.zeros((2, CONFIG.width), np.float32)}
    with pytest.raises(ValueError, match=r"score.weight must have the shape \(1, 16\), got \(2, 16\)"):
        scorer.load_weights(wrong)


def test_its_folder_is_told_from_a_policy_s(tmp_path: Path) -> None:
    tokenizer, scorer = Tokenizer.train(["How are you?"] * 2, 258), ValueModel(replace(CONFIG, vocab_size=300))
    save_model(tmp_path / "reward", scorer.config, scorer.weights(), tokenizer)
    config, weights, _ = load_reward_model(tmp_path / "reward")
    assert config == scorer.config and weights["score.weight"].shape == (1, 16)
    assert json.loads((tmp_path / "reward/config.json").read_text())["architectures"] == ["GPT2ForSequenceClassification"]
    with pytest.raises(ValueError, match="reward: must be a model that predicts tokens, got a reward model"):
        load_model(tmp_path / "reward")
    save_model(tmp_path / "policy", scorer.config, GPT(scorer.config).weights(), tokenizer)
    with pytest.raises(ValueError, match="policy: must be a reward model, got one that predicts tokens"):
        load_reward_model(tmp_path / "policy")
    other = Tokenizer.train(["Why so?"] * 2, 258)
    with pytest.raises(ValueError, match="reward must be a model with the tokenizer of the policy"):
        find(str(tmp_path / "reward"), other, "cpu", 1)
    with pytest.raises(ValueError, match="reward must be a model of at least the policy's context, 100, got .*reward of"):
        find(str(tmp_path / "reward"), tokenizer, "cpu", 100)


# --- Rewards of texts --------------------------------------------------------------------------------------------------------


def lengths(prompts: list[str], completions: list[str]) -> list[float]:
    return [len(prompt) + 100.0 * len(completion) for prompt, completion in zip(prompts, completions, strict=True)]


def test_a_function_is_given_texts_without_eos(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.train(["How are you?"] * 2, 258)
    prompt, answer = tokenizer.encode("Why?"), tokenizer.encode(" So.")
    ask = by_function(f"{__name__}:lengths", tokenizer)
    assert ask([(prompt, [[*answer, tokenizer.eos], answer, [tokenizer.eos]])]).tolist() == [404.0, 404.0, 4.0]


ANSWERS: dict[str, Any] = {"short": [1.0], "nan": [1.0, math.nan], "text": ["1", "2"], "none": [None, 1.0]}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_a_finite_number_for_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.train(["How are you?"] * 2, 258)
    monkeypatch.setattr(f"{__name__}.lengths", lambda prompts, completions: ANSWERS[name])
    with pytest.raises(ValueError, match="lengths: must give a finite number for each of 2 responses, got "):
        by_function(f"{__name__}:lengths", tokenizer)([([1], [[2], [3]])])


@pytest.mark.parametrize("name", ["", "nowhere:f", "json:nothing", "json", ":f", "/no/such/folder"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"reward must be a folder or a function, module:name, got {name!r}")):
        find(name, Tokenizer.train(["a b"] * 2, 258), "cpu", 1)


# --- Losses, by loops over the papers' sums ----------------------------------------------------------------------------------


def experience(asked: OnPolicy) -> tuple[Experience, Tensor]:
    """Two groups of three, old and new policy apart by enough to clip some tokens; and log π in a tape."""
    rows = layout(GROUPS)
    with torch.no_grad():
        old, reference, values = (logps_by_token(model(seed), rows) for seed in (1, 2, 6))
    scores = torch.tensor([[0.2, 1.5, -0.7], [0.9, 0.9, 2.0]], dtype=torch.float64)
    pairs, tied = asked.paired(scores.numpy(), np.random.default_rng(0))
    noise = torch.tensor(np.random.default_rng(1).normal(0, 0.25, old.shape))
    logps = (old + noise).where(rows.mask, 0.0).requires_grad_()
    x = Experience(rows, scores, old, reference, values, torch.tensor(pairs), torch.tensor(tied))
    return x, logps


def clipped(ratio: float, advantage: float) -> float:
    low, high = 1 - NUMBERS["clip_low"], 1 + NUMBERS["clip_high"]
    return min(ratio * advantage, min(max(ratio, low), high) * advantage)


def advantage(method: str, rewards: list[float], i: int) -> float:
    mean = sum(rewards) / len(rewards)
    if method == "rloo":
        return rewards[i] - (sum(rewards) - rewards[i]) / (len(rewards) - 1)
    if method == "dr-grpo":
        return rewards[i] - mean
    return (rewards[i] - mean) / (math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) + 1e-4)


@pytest.mark.parametrize("method", GROUP_METHODS)
@pytest.mark.parametrize("kl", ["reward", "loss"])
def test_a_loss_relative_to_groups_is_its_papers_sum(method: str, kl: str) -> None:
    asked = objective(method, kl=kl)
    x, logps = experience(asked)
    now, old, reference = (of.tolist() for of in (logps, x.old_logps, x.reference_logps))
    sizes = [[len(ids) for ids in responses] for _, responses in GROUPS]
    tokens, total = sum(map(sum, sizes)), 0.0
    for g, group in enumerate(sizes):
        row = [3 * g + i for i in range(3)]
        drift = [sum(old[n][t] - reference[n][t] for t in range(size)) for n, size in zip(row, group, strict=True)]
        rewards = [r - NUMBERS["beta"] * d * (kl == "reward") for r, d in zip(x.scores[g].tolist(), drift, strict=True)]
        for i, (n, size) in enumerate(zip(row, group, strict=True)):
            share = {"grpo": 6 * size, "dapo": tokens, "dr-grpo": 6 * asked.max_tokens, "rloo": 6}[method]
            for t in range(size):
                d = reference[n][t] - now[n][t]
                k3 = NUMBERS["beta"] * (math.exp(d) - 1 - d) * (kl == "loss")
                total += (k3 - clipped(math.exp(now[n][t] - old[n][t]), advantage(method, rewards, i))) / share
    found = (asked.made.weights(asked, x) * asked.made.losses(asked, x, logps)).sum()
    assert found.item() == pytest.approx(total, rel=1e-12)


def test_ppo_s_losses_are_its_papers_sums() -> None:
    asked = objective("ppo")
    x, logps = experience(asked)
    now, old, reference, values = (of.tolist() for of in (logps, x.old_logps, x.reference_logps, x.values))
    policy = critic = 0.0
    fresh = [[value + 0.3 * (-1) ** t for t, value in enumerate(row)] for row in values]
    for n, size in enumerate(len(ids) for _, responses in GROUPS for ids in responses):
        rewards = [-NUMBERS["beta"] * (old[n][t] - reference[n][t]) for t in range(size)]
        rewards[-1] += float(x.scores.flatten()[n])
        later = [*values[n][1:size], 0.0]
        deltas = [rewards[t] + NUMBERS["discount"] * later[t] - values[n][t] for t in range(size)]
        decay = NUMBERS["discount"] * NUMBERS["trace_decay"]
        for t in range(size):
            gained = sum(decay ** (k - t) * deltas[k] for k in range(t, size))
            policy -= clipped(math.exp(now[n][t] - old[n][t]), gained)
            goal, near = gained + values[n][t], NUMBERS["value_clip"]
            bounded = min(max(fresh[n][t], values[n][t] - near), values[n][t] + near)
            critic += max((fresh[n][t] - goal) ** 2, (bounded - goal) ** 2) / 2
    tokens = int(x.rows.mask.sum())
    weights = asked.made.weights(asked, x)
    assert (weights * asked.made.losses(asked, x, logps)).sum().item() == pytest.approx(policy / tokens, abs=1e-12)
    found = asked.critic_losses(x, torch.tensor(fresh, dtype=torch.float64).where(x.rows.mask, 0.0))
    assert (weights * found).sum().item() == pytest.approx(critic / tokens, rel=1e-12)


def test_sppo_s_loss_is_its_papers_sum() -> None:
    asked = objective("sppo")
    x, logps = experience(asked)
    sums, old = (of.sum(dim=1).tolist() for of in (logps, x.old_logps))
    total = 0.0
    for n in range(6):
        mine, others = float(x.scores.flatten()[n]), x.scores[n // 3].tolist()
        wins = sum(1 / (1 + math.exp(other - mine)) for other in others) / 3
        total += (sums[n] - old[n] - NUMBERS["eta"] * (wins - 0.5)) ** 2 / 6
    assert (asked.made.weights(asked, x) * asked.made.losses(asked, x, logps)).sum().item() == pytest.approx(total, abs=1e-12)


def test_online_dpo_is_dpo_on_pairs_that_are_not_tied() -> None:
    asked = objective("online-dpo", group_size=2)
    rows = layout([(prompt, responses[:2]) for prompt, responses in GROUPS])
    scores = torch.tensor([[0.2, 1.5], [0.9, 0.9]], dtype=torch.float64)
    pairs, tied = asked.paired(scores.numpy(), np.random.default_rng(0))
    assert pairs.tolist() == [[[1, 0]], [[0, 1]]] and tied.tolist() == [[False], [True]]
    with torch.no_grad():
        old, reference = (logps_by_token(model(seed), rows) for seed in (1, 2))
    x = Experience(rows, scores, old, reference, old, torch.tensor(pairs), torch.tensor(tied))
    found = (asked.made.weights(asked, x) * asked.made.losses(asked, x, old)).sum()
    gap = [float(old[n].sum() - reference[n].sum()) for n in (1, 0)]
    assert found.item() == pytest.approx(math.log1p(math.exp(-NUMBERS["beta"] * (gap[0] - gap[1]))), abs=1e-12)


def test_labels_that_are_sampled_follow_the_difference_of_rewards() -> None:
    asked = objective("online-dpo", group_size=2, labels="sampled")
    scores = np.tile([[1.0, 0.0]], (4000, 1))
    pairs, tied = asked.paired(scores, np.random.default_rng(0))
    share, right = (pairs[:, 0, 0] == 0).mean(), 1 / (1 + math.exp(-1))
    assert abs(share - right) < 4 * math.sqrt(right * (1 - right) / 4000) and not tied.any()
    assert (pairs.sum(axis=2) == 1).all()


def test_rso_pairs_what_it_accepts_the_better_first() -> None:
    asked = objective("rso", group_size=8)
    scores = np.random.default_rng(0).normal(size=(500, 8))
    pairs, _ = asked.paired(scores, np.random.default_rng(0))
    chosen, rejected = (np.take_along_axis(scores, pairs[:, 0, side : side + 1], axis=1) for side in (0, 1))
    assert pairs.shape == (500, 1, 2) and (chosen > rejected).all()
    tilted = np.exp(scores / NUMBERS["acceptance_beta"])
    expected = (tilted * scores).sum(axis=1) / tilted.sum(axis=1)  # of the first accepted
    assert np.mean(chosen + rejected) / 2 > scores.mean() and abs(np.mean(chosen) - expected.mean()) < 0.5


def test_dapo_takes_from_responses_that_are_nearly_too_long() -> None:
    found = objective("dapo").shaped(torch.zeros(2, 3), torch.tensor([3, 4, 5, 6, 2, 6]))
    assert found.flatten().tolist() == pytest.approx([0, -1 / 3, -2 / 3, -1, 0, -1])  # the last half of 6
    assert objective("grpo").shaped(torch.zeros(1, 2), torch.tensor([6, 6])).flatten().tolist() == [0, 0]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("grpo", {"group_size": 1}, "group_size must be >= 2, and even for online-dpo, got 1"),
    ("online-dpo", {"group_size": 3}, "group_size must be >= 2, and even for online-dpo, got 3"),
    ("grpo", {"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
    ("grpo", {"temperature": 0.0}, "temperature must be finite and > 0, got 0.0"),
    ("grpo", {"temperature": math.inf}, "temperature must be finite and > 0, got inf"),
    ("ppo", {"kl": "loss"}, "kl must be reward or left out, got 'loss'"),
    ("online-dpo", {"kl": "reward", "group_size": 2}, "kl must be left out, got 'reward'"),
    ("grpo", {"labels": "best"}, "labels must be best or sampled, for pairs alone, got 'best'"),
    ("grpo", {"tries": 3}, "tries must be >= 1, and for dapo alone, got 3"),
    ("grpo", {"critic_lr": 0.1}, "critic_lr must be > 0, and for ppo alone, got 0.1"),
    ("grpo", {"iterations": 0}, "iterations must be >= 1, got 0"),
    ("grpo", {"minibatches": 0}, "minibatches must be >= 1, got 0"),
]


@pytest.mark.parametrize("method, more, said", WRONG)
def test_settings_that_are_none_are_refused(method: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{method}: {said}")):
        objective(method, **more)


@pytest.mark.parametrize("name, value", [("beta", -1.0), ("clip_low", 1.0), ("clip_high", 0.0), ("beta", math.nan)])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    numbers = {"beta": 0.1, "clip_low": 0.2, "clip_high": 0.2, name: value}
    with pytest.raises(ValueError, match=f"grpo: {name} must lie in "):
        OnPolicy("grpo", "module:name", numbers)
    with pytest.raises(ValueError, match="hyperparameters must be .* got a difference in"):
        OnPolicy("grpo", "module:name", {"beta": 0.1})
    with pytest.raises(ValueError, match="method must be one of ppo, grpo"):
        OnPolicy("dpo", "module:name", {"beta": 0.1})


# --- Steps -------------------------------------------------------------------------------------------------------------------

EVERY = pytest.mark.parametrize("method", ON_POLICY)


def bits(made: OnPolicyTrainer) -> dict[str, bytes]:
    return {name: x.tobytes() for name, x in made.state()["weights"].items()}


@EVERY
def test_a_step_in_parts_is_the_step_at_once(method: str) -> None:
    whole, parts = (trainer(method, size=size) for size in (16, 1))
    for _ in range(2):
        first, second = whole.step(), parts.step()
        assert {n: x for n, x in first.items()} == pytest.approx(second, rel=1e-9, abs=1e-12)


@EVERY
def test_a_run_that_goes_on_from_its_state_ends_in_the_same_bits(method: str) -> None:
    whole, first, second = (trainer(method) for _ in range(3))
    lines = [whole.step() for _ in range(4)]
    again = [first.step() for _ in range(2)]
    second.load(first.state())
    again += [second.step() for _ in range(2)]
    assert lines == again and bits(whole) == bits(second)
    assert any(x != y for x, y in zip(bits(whole).values(), bits(trainer(method)).values(), strict=True))


def test_a_second_pass_has_ratios_to_the_policy_that_sampled() -> None:
    asked = objective("rloo", group_size=4, iterations=2, minibatches=3)
    made, seen = trainer("rloo", objective=asked), []
    losses = ON_POLICY["rloo"].losses

    def watched(self: OnPolicy, x: Experience, logps: Tensor) -> Tensor:
        seen.append((len(x.scores), float((logps - x.old_logps).abs().max())))
        return losses(self, x, logps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ON_POLICY, "rloo", ON_POLICY["rloo"]._replace(losses=watched))
        made.step()
    assert [groups for groups, _ in seen] == [1] * 6
    assert seen[0][1] < 1e-12 and all(gap > 1e-6 for _, gap in seen[3:])


def test_groups_of_equal_rewards_are_drawn_again_with_other_prompts() -> None:
    """The first prompt's rewards never differ; it is replaced until another prompt came, and so often at most."""

    def constant_for_the_first(groups: Sequence[Group]) -> Tensor:
        spread = torch.tensor([float(prompt != [1]) for prompt, responses in groups for _ in responses], dtype=torch.float64)
        return spread * reward(groups)

    found = {}
    for tries in (1, 20):
        asked = OnPolicy("dapo", "module:name", {"beta": 0.0, "clip_low": 0.2, "clip_high": 0.28, "overlong_share": 0.0}, 4, 6)
        made = trainer("dapo", objective=replace(asked, tries=tries), reward=constant_for_the_first)
        found[tries] = made.step()
    assert found[1]["frac_reward_zero_std"] == pytest.approx(1 / 3) and "groups drawn again" not in found[1]
    assert found[20]["frac_reward_zero_std"] == 0 and 1 <= found[20]["groups drawn again"] < 20
    asked = replace(asked, tries=5)
    never = trainer("dapo", objective=asked, reward=lambda groups: torch.zeros(sum(len(r) for _, r in groups)).double()).step()
    assert never["groups drawn again"] == 12 and never["frac_reward_zero_std"] == 1 and never["grad_norm"] == 0


def test_a_step_that_diverges_leaves_all_as_it_was() -> None:
    asked = objective("grpo", group_size=4, minibatches=3)
    made = trainer("grpo", objective=asked)
    made.step()
    before, losses, calls = bits(made), ON_POLICY["grpo"].losses, []

    def third_is_nan(self: OnPolicy, x: Experience, logps: Tensor) -> Tensor:
        calls.append(1)
        return losses(self, x, logps) * (math.nan if len(calls) == 3 else 1.0)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Diverged, match="step 2: loss is nan"):
        patch.setitem(ON_POLICY, "grpo", ON_POLICY["grpo"]._replace(losses=third_is_nan))
        made.step()
    assert len(calls) == 3 and bits(made) == before and made.done == 1
    made.step()


def test_rso_samples_from_the_reference_and_the_others_from_the_policy() -> None:
    for method in ("rso", "online-dpo"):
        made = trainer(method)
        with made.sampler() as sampler:
            assert (sampler is made.model) == (method != "rso")


def test_the_critic_learns_at_its_own_rate_and_is_no_part_of_the_model() -> None:
    asked = replace(objective("ppo", group_size=4), critic_lr=5e-2)
    made = trainer("ppo", objective=asked)
    assert made.critic
    both = made.model, made.critic
    before = [[p.detach().clone() for p in of.parameters()] for of in both]
    made.step()
    after = [[p.detach() for p in of.parameters()] for of in both]
    moved = [max(float((p - q).abs().max()) for p, q in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)]
    assert moved == pytest.approx([1e-2, 5e-2], rel=1e-3)  # AdamW's first step is the rate
    assert not any(name.startswith("beside.") for name in made.weights()) and any(n.startswith("beside.") for n in bits(made))
