"""The exactly solvable world: prompts x with K responses each, a true reward, a reference policy. Every expectation is a sum.

    P(y beats y') = σ(R(y) - R(y'))              Bradley-Terry on the true reward
    π*(y)         = π_ref(y) e^{R(y)/β} / Z      arXiv:2305.18290v3 equation 4
    TV(p, q)      = ½ Σ_y |p(y) - q(y)|          reported for the worst prompt

A policy is a table of logits [P, K], one free number a response: P prompts, K responses. Losses and gradients are minipref's;
this file adds the sums over responses and pairs, and the chain rule from log-probabilities to logits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minipref import optimal_policy
from minipref.arrays import log_softmax, sigmoid, softmax

Array = np.ndarray
PairLoss = Callable[[Array, Array, Array, Array], Any]  # as dpo: policy chosen, rejected, reference chosen, rejected


class Slopes(NamedTuple):
    """What `over_pairs` reads of a loss on pairs."""

    losses: Array
    grad_policy_chosen_logps: Array
    grad_policy_rejected_logps: Array


class World(NamedTuple):
    """True rewards [P, K], the reference's probabilities [P, K], and the strength β of the reference."""

    rewards: Array
    reference: Array
    beta: float

    @property
    def reference_logps(self) -> Array:
        return np.log(self.reference)

    @property
    def optimum(self) -> Array:
        """π* [P, K], the closed form."""
        return np.exp(optimal_policy(self.rewards, self.reference_logps, beta=self.beta).logps)

    @property
    def preferences(self) -> Array:
        """P(y beats y') [P, K, K] of labellers who follow Bradley-Terry on the true reward."""
        return preferences(self.rewards)


def random_world(
    rng: np.random.Generator, prompts: int = 3, responses: int = 6, beta: float = 0.5, rarest: float = 1e-3
) -> World:
    """Normal rewards and a Dirichlet reference, redrawn until reference and optimum give each response at least `rarest`."""
    while True:
        rewards, reference = rng.normal(size=(prompts, responses)), rng.dirichlet(np.full(responses, 2.0), prompts)
        world = World(rewards, reference, beta)
        if min(world.optimum.min(), reference.min()) >= rarest:
            return world


def preferences(scores: Array) -> Array:
    """Bradley-Terry's P(y beats y') [P, K, K] from scores [P, K]."""
    return sigmoid(scores[:, :, None] - scores[:, None, :])


def objective(world: World, policy: Array) -> Array:
    """J(π) [P] of probabilities [P, K], in units of reward."""
    return (policy * world.rewards).sum(1) - world.beta * kl(policy, world.reference)


def kl(p: Array, q: Array) -> Array:
    """KL(p || q) [P] in nats, of probabilities [P, K]; 0 log 0 is 0."""
    ratio = np.log(np.where(p > 0, p, 1.0)) - np.log(np.where(p > 0, q, 1.0))
    return (p * ratio).sum(1)


def total_variation(p: Array, q: Array) -> float:
    """Half the distance between probabilities [..., K], for the prompt where it is largest."""
    return float(np.max(np.abs(p - q).sum(-1)) / 2)


def to_logits(slopes: Array, policy: Array) -> Array:
    """∂/∂z [P, K] from ∂/∂log π [P, K]: a log-softmax passes on g_k - π_k Σ_j g_j."""
    return slopes - policy * slopes.sum(1, keepdims=True)


def of_lengths_one(loss: Callable[..., Any], **settings: float) -> PairLoss:
    """A loss without a reference, ORPO or SimPO, as one on four log-probabilities of responses of one token."""
    return lambda chosen, rejected, *_: loss(chosen, rejected, *2 * [np.ones(len(chosen), int)], **settings)


def over_pairs(loss: PairLoss, logps: Array, reference_logps: Array, weights: Array) -> tuple[float, Array]:
    """Σ weights[p, i, j] loss(i chosen, j rejected) over all ordered pairs, and its slopes in the log-probabilities [P, K].

    weights [P, K, K] are the chance that a pair is drawn and labelled so; for exact Bradley-Terry labels on pairs drawn
    alike, `world.preferences` with a zero diagonal.
    """
    prompts, chosen, rejected = np.nonzero(weights)
    drawn = weights[prompts, chosen, rejected]
    found = loss(
        logps[prompts, chosen],
        logps[prompts, rejected],
        reference_logps[prompts, chosen],
        reference_logps[prompts, rejected],
    )
    slopes = np.zeros_like(logps)
    np.add.at(slopes, (prompts, chosen), drawn * found.grad_policy_chosen_logps)
    np.add.at(slopes, (prompts, rejected), drawn * found.grad_policy_rejected_logps)
    return float(drawn @ found.losses), slopes


def pair_gradient(loss: PairLoss, logits: Array, reference_logps: Array, weights: Array) -> Array:
    """The gradient in the logits [P, K] of the sum of `over_pairs`."""
    return to_logits(over_pairs(loss, log_softmax(logits), reference_logps, weights)[1], softmax(logits))


def descend(gradient: Callable[[Array], Array], logits: Array, step: float, steps: int, enough: float = 0.0) -> Array:
    """Gradient descent from the logits [P, K]; stops early where no slope exceeds `enough`."""
    for _ in range(steps):
        slope = gradient(logits)
        if np.max(np.abs(slope)) <= enough:
            break
        logits = logits - step * slope
    return logits


def path(gradient: Callable[[Array], Array], logits: Array, step: float, steps: int) -> Array:
    """Where gradient descent goes: the logits at the start and after each step, [steps + 1, P, K]."""
    seen = [logits]
    for _ in range(steps):
        seen.append(seen[-1] - step * gradient(seen[-1]))
    return np.array(seen)


def moved(logits: Array) -> Array:
    """How far a `path` took each last response's logit, against the mean of the others' [P]: levels are free."""
    change = logits[-1] - logits[0]
    return change[:, -1] - change[:, :-1].mean(1)


def different_pairs(world: World) -> Array:
    """Exact Bradley-Terry labels on every pair of two different responses, all pairs alike: weights [P, K, K].

    They sum to 1/2 for each prompt: the chance that two responses are drawn in this order and the first wins.
    """
    responses = world.rewards.shape[1]
    return world.preferences * (1 - np.eye(responses)) / (responses * (responses - 1))
