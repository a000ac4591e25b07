"""The world whose responses can all be asked for, and what methods cost in it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_tiny import accounting, enumerable
from gpt_tiny.accounting import Cost, of_pairs, of_samples
from gpt_tiny.enumerable import (
    EOS,
    GROUPS,
    PROMPTS,
    RESPONSES,
    expected_loss,
    fit_preferences,
    law,
    laws,
    of_responses,
    of_table,
    rest,
    sampling,
    table_of,
    total_variation,
    world,
)
from gpt_tiny.on_policy import ON_POLICY, OnPolicy
from gpt_tiny.trainer import Optimization

ROOT = Path(__file__).resolve().parents[1]


def objective(method: str, group_size: int = 8, **more: float) -> OnPolicy:
    numbers = {name: number.value for name, number in ON_POLICY[method].numbers.items()} | more
    return OnPolicy(method, "the world's", numbers, group_size=group_size, max_tokens=enumerable.LONGEST)


def test_the_responses_are_all_there_are() -> None:
    """A transformer's probabilities of them add up to 1."""
    here = world(3)
    assert len(RESPONSES) == len({tuple(ids) for ids in RESPONSES}) == 85
    assert here.reference_logps.exp().sum(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-12)
    assert all(EOS not in ids[:-1] and (ids[-1] == EOS or len(ids) == 3) for ids in RESPONSES)


def test_a_response_has_its_reward() -> None:
    here = world(3)
    assert here.reward([([2], [[1, EOS], [0, 1, 2]])]).tolist() == [
        here.rewards[2, RESPONSES.index([1, EOS])].item(), here.rewards[2, RESPONSES.index([0, 1, 2])].item(),
    ]  # fmt: skip


def test_the_gap_is_1_at_the_reference_and_0_at_the_optimum() -> None:
    here = world(3)
    assert here.gap(here.reference_logps) == 1 and abs(here.gap(here.optimum)) < 1e-12
    assert here.gap(law(here.policy())) == pytest.approx(1, abs=1e-12)
    apart = (here.optimum.exp() * (here.optimum - here.reference_logps)).sum(dim=1)
    reached = (here.optimum.exp() * here.rewards).sum(dim=1) - here.beta * apart
    torch.testing.assert_close(here.objective(here.optimum), reached.mean())


def test_a_table_has_the_law_of_the_network_it_is_made_of() -> None:
    here = world(3)
    torch.testing.assert_close(of_responses(of_table(table_of(here.reference))), here.reference_logps, rtol=0, atol=1e-12)


def test_rloo_comes_to_rest_at_the_optimum() -> None:
    here = world(3)
    found = rest(objective("rloo", 2, beta=here.beta), here, steps=35, rate=4.0)
    assert total_variation(of_responses(found), here.optimum) < 1e-9
    with pytest.raises(ArithmeticError, match="rest: the gradient must be 0 after 3 steps, got 0.0"):
        rest(objective("rloo", 2, beta=here.beta), here, steps=3, rate=4.0)


@pytest.mark.parametrize("asked", [objective("rloo", 8), objective("ppo", 2), objective("online-dpo", 2)])
def test_what_has_no_loss_of_two_responses_has_no_expected_one(asked: OnPolicy) -> None:
    with pytest.raises(
        ValueError, match=f"must be grpo, dapo, dr-grpo or rloo in groups of 2, got {asked.method} in groups of"
    ):
        expected_loss(asked, world(3), world(3).reference_tokens)


def test_dapo_s_expected_loss_is_the_sum_over_all_pairs_of_responses() -> None:
    """Its price on length included; divided by the tokens that are expected, as in an update of many groups."""
    here, asked = world(3), objective("dapo", 2, beta=0.5, overlong_share=0.9)
    model = here.policy()
    with torch.no_grad():
        model.wpe.weight.mul_(1.5)
        logps = enumerable.tokens(model)
    lengths = np.array([len(ids) for ids in RESPONSES])
    above = below = 0.0
    for prompt, (mine, theirs) in enumerate(zip(logps.split(85), here.reference_tokens.split(85), strict=True)):
        gaps, chances = (theirs - mine).numpy(), mine.sum(dim=1).exp().numpy()
        k3 = (np.exp(gaps) - 1 - gaps).sum(axis=1)
        scores = here.rewards[prompt].numpy() - np.maximum(0, lengths - 0.3) / 2.7
        half = (scores[:, None] - scores[None]) / 2
        advantages = half / (np.abs(half) * np.sqrt(2) + 1e-4)
        losses = -advantages * (lengths[:, None] - lengths[None]) + 0.5 * (k3[:, None] + k3[None])
        above += chances @ losses @ chances
        below += chances @ (lengths[:, None] + lengths[None]) @ chances
    assert float(expected_loss(asked, here, logps)) == pytest.approx(above / below, rel=1e-12)


def test_preferences_bring_the_policy_nearer() -> None:
    here = world(3)
    model = here.policy()
    fit_preferences(here, model, 80)
    assert here.gap(law(model)) < 0.8
    assert total_variation(law(model), here.optimum) < total_variation(here.reference_logps, here.optimum)


@pytest.mark.parametrize("method", ON_POLICY)
def test_sampling_raises_the_reward(method: str) -> None:
    here = world(3)
    trainer = sampling(here, objective(method), 25, Optimization(2e-3), seed=1)
    for _ in range(25):
        trainer.step()
    before, after = ((logps.exp() * here.rewards).sum() / 4 for logps in (here.reference_logps, law(trainer.model)))
    assert after > before + 0.05


def test_what_is_drawn_are_responses_of_the_world() -> None:
    here = world(3)
    trainer = sampling(here, objective("rloo", beta=here.beta), 1, Optimization(1e-3), seed=1)
    groups, scores, _ = trainer.sampled(trainer.rows, np.random.default_rng(0))
    assert [prompt for prompt, _ in groups] == PROMPTS and scores.shape == (4, 8)
    assert all(ids in RESPONSES for _, responses in groups for ids in responses)
    assert len(GROUPS) == 4 and laws(trainer.model).shape == (4, 85)


# --- What methods cost -------------------------------------------------------------------------------------------------------

# Models asked; passes forward of rewards, of π_old, of π_ref, of values; passes that learn; tokens of two responses of four.
SAMPLED = {
    "ppo": Cost(4, 1 + 1 + 1 + 1, 2, 8),
    "grpo": Cost(3, 1 + 1 + 1, 1, 8),
    "dapo": Cost(2, 1 + 1, 1, 8),
    "dr-grpo": Cost(2, 1 + 1, 1, 8),
    "rloo": Cost(3, 1 + 1 + 1, 1, 8),
    "online-dpo": Cost(3, 1 + 1 + 1, 1, 8),
    "rso": Cost(3, 1 + 1, 1, 8),  # it asks for no π_old
    "sppo": Cost(2, 1 + 1, 1, 8),
}
PAIRS = {"copy": Cost(2, 1, 1, 0), "offload": Cost(2, 1, 1, 0), "cached": Cost(1, 0, 1, 0), "lora": Cost(1, 1, 1, 0)}


@pytest.mark.parametrize("method", ON_POLICY)
def test_a_method_that_samples_costs_what_it_says(method: str) -> None:
    assert of_samples(method) == SAMPLED[method]


def test_a_method_of_pairs_costs_what_its_reference_does() -> None:
    assert {way: of_pairs("dpo", way) for way in PAIRS} == PAIRS
    assert of_pairs("simpo") == of_pairs("orpo") == Cost(1, 0, 1, 0)


def test_the_readme_has_the_table() -> None:
    assert accounting.table() in (ROOT / "README.md").read_text("utf-8")
