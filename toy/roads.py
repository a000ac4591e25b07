"""Roads of `all_roads`: what each method does in one step, every expectation over responses, pairs or groups a sum.

    group of G:  Σ_{y_1..y_G} Π_i π(y_i) (1/G) Σ_i ∂L(y_i)/∂z        all K^G groups
    PPO:         Σ_y π_old(y) ∂L(y)/∂z                             π_old, advantages, exact values fixed for some epochs
    KTO:         Σ_y c(y) ∂L(y)/∂z,  c(y) = λ_D P(y, good) - λ_U P(y, bad)

Dr. GRPO with k3 in its loss descends KL(π_ref || π), scaled, and has another optimum than π* (`forward_kl_optimum`):

    π(y) = b π_ref(y) / (λ - R(y)),    b = β G/(G-1),    λ > max R such that Σ_y π(y) = 1

Fields are gradients of losses in the logits [P, K], to be descended; prompts do not touch each other.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minipref import bradley_terry, grpo, kl_regularized_objective, kto, ppo_policy
from minipref.arrays import log_softmax, sigmoid, softmax

from .bandit import Array, PairLoss, World, kl, pair_gradient, to_logits, total_variation

Field = Callable[[Array], Array]
ARRIVED = 1e-9


class Road(NamedTuple):
    """Where a method went: its distance to its goal after each step, as total variation of the worst prompt."""

    distances: Array
    end: Array  # [P, K], the last policy


def follow(advance: Field, start: Array, goal: Array, steps: int) -> Road:
    """Step by step from the logits [P, K] until the goal is reached, or all steps are done."""
    logits, distances = start, [total_variation(softmax(start), goal)]
    while len(distances) <= steps and not distances[-1] <= ARRIVED:
        logits = advance(logits)
        distances.append(total_variation(softmax(logits), goal))
    return Road(np.array(distances), softmax(logits))


def copies(world: World, times: int) -> World:
    """The same prompts again and again."""
    rewards, reference = (np.tile(values, (times, 1)) for values in (world.rewards, world.reference))
    return World(rewards, reference, world.beta)


def descent(field: Field, step: float) -> Field:
    """One step of gradient descent."""
    return lambda logits: logits - step * field(logits)


def reward_field(world: World) -> Field:
    """-∇J."""
    return lambda logits: (
        -kl_regularized_objective.formula(logits, world.rewards, world.reference_logps, world.beta).grad_policy_logits
    )


def natural_step(world: World, step: float) -> Field:
    """Ascent of J by the inverse of Fisher's matrix, diag π - π πᵀ."""

    def advance(logits: Array) -> Array:
        policy = softmax(logits)
        fisher = policy[:, :, None] * (np.eye(policy.shape[1]) - policy[:, None, :])
        return logits - step * _solve(fisher, reward_field(world)(logits))

    return advance


def pair_field(loss: PairLoss, world: World, weights: Array | Callable[[Array], Array]) -> Field:
    """Of a pair loss; weights [P, K, K] as `over_pairs`, or made from the policy that samples the pairs, and then constant."""
    return lambda logits: pair_gradient(
        loss, logits, world.reference_logps, weights(softmax(logits)) if callable(weights) else weights
    )


def group_field(world: World, advantages: Any, size: int, in_reward: float = 0.0, in_loss: float = 0.0) -> Field:
    """Of groups of `size` responses; β times k1 within the reward, or β times k3 within the loss, by the β given there."""
    groups = all_groups(world, size)
    taken = np.eye(world.rewards.shape[1])[groups.ravel()]

    def field(logits: Array) -> Array:
        logps, policy = log_softmax(logits), softmax(logits)
        shaped = world.rewards - in_reward * (logps - world.reference_logps)
        relative = advantages.formula(shaped[:, groups].reshape(-1, size)).advantages.reshape(-1)
        sampled, reference = logps[:, groups].reshape(-1, 1), world.reference_logps[:, groups].reshape(-1, 1)
        loss = grpo.formula(sampled, sampled, reference, relative, np.ones_like(sampled, bool), beta=in_loss)
        chances = policy[:, groups].prod(2, keepdims=True) / size
        slopes = chances * loss.grad_logps.reshape(len(policy), *groups.shape)
        return to_logits(slopes.reshape(len(policy), -1) @ taken, policy)

    return field


def all_groups(world: World, size: int) -> Array:
    """Every group [K^G, G] of G indices of responses."""
    return np.array(list(itertools.product(range(world.rewards.shape[1]), repeat=size)))


def ppo_step(world: World, step: float, epochs: int, clips: list[int]) -> Field:
    """Sample, then some epochs; appends to `clips` how many ratios were clipped."""

    def advance(logits: Array) -> Array:
        old_logps, old = log_softmax(logits), softmax(logits)
        shaped = world.rewards - world.beta * (old_logps - world.reference_logps)
        advantages, clipped = shaped - (old * shaped).sum(1, keepdims=True), 0
        for _ in range(epochs):
            loss = ppo_policy.formula(log_softmax(logits), old_logps, advantages, np.ones_like(old, bool))
            logits = logits - step * to_logits(old * loss.grad_logps, softmax(logits))
            clipped += int(loss.clipped.sum())
        clips.append(clipped)
        return logits

    return advance


def kto_field(world: World, good: Array, bad: Array, good_weight: float = 1.0, bad_weight: float = 1.0) -> Field:
    """Of exact unpaired feedback: P(y, good) and P(y, bad) [P, K]; the reference point is each prompt's exact divergence."""

    def field(logits: Array) -> Array:
        logps, policy = log_softmax(logits), softmax(logits)
        point = kl(policy, world.reference)[:, None]
        slope = partial(kto.formula, logps, world.reference_logps, reference_point=point, beta=world.beta)
        liked = slope(np.ones_like(good, bool), desirable_weight=good_weight).grad_policy_logps
        disliked = slope(np.zeros_like(bad, bool), undesirable_weight=bad_weight).grad_policy_logps
        return to_logits(good * liked + bad * disliked, policy)

    return field


def forward_kl_optimum(world: World, strength: float) -> Array:
    """argmax of E[R] - b KL(π_ref || π) for each prompt."""

    def too_low(bound: Array) -> Array:
        return (strength * world.reference / (bound - world.rewards)).sum(1, keepdims=True) > 1

    best = world.rewards.max(1, keepdims=True)
    return strength * world.reference / (bisect(too_low, best, best + strength) - world.rewards)


def bisect(too_low: Callable[[Array], Any], low: Array, high: Array) -> Array:
    """Where too_low turns false between low and high, each halved 60 times."""
    for _ in range(60):
        middle = (low + high) / 2
        below = too_low(middle)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


def reward_model(weights: Array, margin: float = 0.0) -> Array:
    """Scores [P, K] of greatest Bradley-Terry likelihood, where weights [P, i, j] say how often i beat j."""

    def slopes(scores: Array) -> Array:
        found = bradley_terry.formula(scores[:, :, None], scores[:, None, :], margin)
        return (weights * found.grad_chosen_rewards).sum(2) + (weights * found.grad_rejected_rewards).sum(1)

    def curvatures(scores: Array) -> Array:
        """The Laplacian of a graph whose edges are pairs."""
        wins = sigmoid(scores[:, :, None] - scores[:, None, :] - margin)
        edges = weights * wins * (1 - wins)
        edges = edges + edges.transpose(0, 2, 1)
        return np.eye(weights.shape[1]) * edges.sum(2, keepdims=True) - edges

    return newton(slopes, np.zeros(weights.shape[:2]), curvatures)


def kto_optimum(world: World, surplus: Array) -> Array:
    """The policy [P, K] with π ∝ c σ'(β (r - z_0)) where c > 0, by repeating it: each round is nearer by a factor of about β.

    surplus is c. There the slopes of `kto_field` are all in proportion to π; a response with c < 0 is given up.
    """
    liked = np.maximum(surplus, 0)
    policy = liked / liked.sum(1, keepdims=True)
    for _ in range(200):
        ratios = np.log(np.where(policy > 0, policy, 1.0)) - world.reference_logps
        gaps = world.beta * (ratios - kl(policy, world.reference)[:, None])
        policy = liked * sigmoid(gaps) * sigmoid(-gaps)
        policy /= policy.sum(1, keepdims=True)
    return policy


def jacobian(field: Field, logits: Array, width: float = 1e-5) -> Array:
    """∂field_i/∂z_k of each prompt [P, K, K], by central differences."""
    nudges = width * np.eye(logits.shape[1])
    return np.stack([(field(logits + nudge) - field(logits - nudge)) / (2 * width) for nudge in nudges], axis=2)


def newton(field: Field, logits: Array, derivative: Field | None = None) -> Array:
    """Where the field is zero, from the logits [P, K]; no step is longer than one nat. Derivative: its `jacobian`, if known."""
    for _ in range(60):
        slopes = derivative(logits) if derivative else jacobian(field, logits)
        move = _solve(slopes, field(logits))
        logits = logits - move / np.maximum(1, np.abs(move).max(1, keepdims=True))
        if np.max(np.abs(move)) <= 1e-12:
            break
    return logits


def _solve(matrices: Array, vectors: Array) -> Array:
    """Least squares for each prompt: a common shift of the logits changes nothing, so the matrices are singular."""
    return (np.linalg.pinv(matrices, rcond=1e-9) @ vectors[:, :, None])[:, :, 0]
