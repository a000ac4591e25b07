"""What no operation of the contract covers: monitors, the inversion of the optimum, sampling, shaped rewards."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from minipref import (
    dpo,
    implicit_rewards,
    kl_shaped_rewards,
    online_pairs,
    optimal_policy,
    pair_monitors,
    rejection_sample,
    rewards_of_optimum,
)
from minipref.autograd import differentiable

Array = Callable[[Any], Any]
MONITORS = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "rewards/ties"]
MONITORS += ["logps/chosen", "logps/rejected"]


def test_monitors_are_plain_means_and_count_ties_apart(library: Array) -> None:
    chosen, rejected = (library(x) for x in ([-1.0, -2, -3, -4], [-2.0, -1, -3, -6]))
    reference = library([-3.0, -3, -3, -3])
    loss = dpo(chosen, rejected, reference, reference, beta=0.5)
    monitors = pair_monitors(loss.chosen_rewards, loss.rejected_rewards, chosen, rejected)
    assert monitors == dict(zip(MONITORS, [0.25, 0.0, 0.25, 0.5, 0.25, -2.5, -3.0], strict=True))
    assert all(type(value) is float for value in monitors.values())


def test_at_step_0_all_pairs_are_ties_and_none_is_right() -> None:
    chosen, rejected = np.array([-1.0, -9]), np.array([-4.0, -2])
    loss = dpo(chosen, rejected, chosen, rejected)
    monitors = pair_monitors(loss.chosen_rewards, loss.rejected_rewards, chosen, rejected)
    assert (monitors["rewards/ties"], monitors["rewards/accuracies"], monitors["rewards/margins"]) == (1, 0, 0)


def test_monitors_read_tensors_in_the_tape_and_half_precision() -> None:
    policy = torch.tensor([-1.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
    reference = torch.tensor([-3.0, -3.0])
    loss = differentiable(dpo)(policy, policy - 1, reference, reference)
    monitors = pair_monitors(loss.chosen_rewards, loss.rejected_rewards, policy, policy - 1)
    assert monitors["logps/chosen"] == -1.5 and monitors["rewards/accuracies"] == 1 and policy.grad is None


def test_monitors_refuse_an_empty_batch() -> None:
    empty = np.zeros(0)
    with pytest.raises(ValueError, match="pair_monitors: chosen_rewards must hold at least one pair, got an empty batch"):
        pair_monitors(empty, empty, empty, empty)


def test_the_optimum_gives_its_rewards_back(library: Array) -> None:
    rng = np.random.default_rng(1)
    rewards, probabilities = rng.normal(size=(6, 5)), rng.dirichlet(np.ones(5), size=6)
    reference = library(np.log(probabilities))
    logps, log_partition = optimal_policy(library(rewards), reference, beta=0.3)
    recovered = rewards_of_optimum(logps, reference, log_partition, beta=0.3)
    np.testing.assert_allclose(recovered, rewards, atol=1e-14)
    implicit = np.asarray(implicit_rewards(logps, reference, beta=0.3))
    np.testing.assert_allclose(np.diff(implicit, axis=1), np.diff(rewards, axis=1), atol=1e-14)  # all that differences can see
    weighted = probabilities * np.exp(implicit / 0.3)
    np.testing.assert_allclose(weighted.sum(axis=1), 1, rtol=1e-13)


def exact_law(rewards: np.ndarray, beta: float, samples: int) -> dict[tuple[int, ...], float]:
    """Probability of each sequence of accepted candidates: one after the other in proportion to e^(R/β) of those left."""
    weights = np.exp(rewards / beta)
    law = {}
    for order in itertools.permutations(range(len(rewards)), samples):
        left = [weights.sum() - sum(weights[i] for i in order[:k]) for k in range(samples)]
        law[order] = math.prod(weights[i] / total for i, total in zip(order, left, strict=True))
    return law


def chi_square(counts: Counter[tuple[int, ...]], law: dict[tuple[int, ...], float]) -> float:
    draws = sum(counts.values())
    assert set(counts) <= set(law)
    return sum((counts[order] - draws * p) ** 2 / (draws * p) for order, p in law.items())


def test_rejection_sampling_accepts_by_the_exact_law() -> None:
    rewards, beta, draws = np.array([0.3, 1.0, -0.4]), 0.8, 3000
    rng = np.random.default_rng(20230913)
    counts = Counter(tuple(rejection_sample(rewards, beta, 2, rng).tolist()) for _ in range(draws))
    law = exact_law(rewards, beta, 2)
    assert abs(sum(law.values()) - 1) <= 1e-12
    quantile = 20.52  # of χ² with 5 degrees of freedom, 0.999
    assert chi_square(counts, law) <= quantile
    assert chi_square(counts, exact_law(rewards, 1.2 * beta, 2)) > quantile  # what the sample size can tell apart


def test_rejection_sampling_draws_without_replacement() -> None:
    rng = np.random.default_rng(2)
    rewards = np.array([0.5, 2.0, -1.0, 1.0])
    assert sorted(rejection_sample(rewards, 1.0, 4, rng).tolist()) == [0, 1, 2, 3]
    assert rejection_sample(rewards, 1e-3, 4, rng).tolist() == [1, 3, 0, 2]  # β → 0: best first
    none = rejection_sample(rewards, 1.0, 0, rng)
    assert none.shape == (0,) and none.dtype == np.int64


@pytest.mark.parametrize("samples", [-1, 4])
def test_rejection_sampling_refuses_too_few_candidates(samples: int) -> None:
    with pytest.raises(ValueError, match=rf"samples must lie in \[0, 3\], the number of candidates, got {samples}"):
        rejection_sample(np.zeros(3), 1.0, samples, np.random.default_rng(0))


def test_online_pairs_flag_ties(library: Array) -> None:
    pairs = online_pairs(library([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]))
    assert pairs.tied.tolist() == [False, False, True]
    assert pairs.chosen[:2].tolist() == [1, 0] and np.array_equal(pairs.rejected, 1 - pairs.chosen)


@pytest.mark.parametrize("rewards", [[[1.0, math.nan]], [[1.0, 2.0, 3.0]], [1.0, 2.0], [[1.0, math.inf]]])
def test_online_pairs_refuse_other_shapes_and_values(rewards: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"online_pairs: rewards must be finite and of shape \[N, 2\], got "):
        online_pairs(np.array(rewards))


HOLES = np.array([[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool)


def test_shaped_rewards_put_the_score_on_the_last_token_that_counts(library: Array) -> None:
    rng = np.random.default_rng(3)
    policy, reference = np.where(HOLES, rng.normal(size=(2, *HOLES.shape)), np.nan)  # what does not count is without effect
    scores, beta = np.array([2.0, -1.0, 7.0, 0.5]), 0.2
    shaped = np.asarray(kl_shaped_rewards(library(scores), library(policy), library(reference), library(HOLES), beta))
    unscored = np.asarray(kl_shaped_rewards(library(0 * scores), library(policy), library(reference), library(HOLES), beta))
    log_ratios = np.where(HOLES, policy - reference, 0)
    last = np.zeros(HOLES.shape)
    last[[0, 1, 3], [4, 0, 5]] = 1  # no token of the third row counts: its score has no place
    np.testing.assert_allclose(unscored, -beta * log_ratios, atol=1e-15)
    np.testing.assert_allclose(shaped - unscored, last * scores[:, None], atol=1e-15)
    np.testing.assert_allclose(
        shaped.sum(axis=1), np.where(HOLES.any(axis=1), scores, 0) - beta * log_ratios.sum(axis=1), atol=1e-14
    )
