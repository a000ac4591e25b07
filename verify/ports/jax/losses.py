"""Level 1 in jax.numpy: pure functions of arrays, to be differentiated, batched and compiled by whoever calls them.

Arrays are [N] unless said otherwise, log-probabilities in nats summed over a response. The first output is the one to
differentiate. `logps` are the four of a pair:
policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps.

What is infinite must not meet a zero, forward or backward. `log_sigmoid` is safe there, in value and slope; so is a `where`
whose other branch is linear.
"""

from collections.abc import Callable

import jax
from jax import Array, nn
from jax import numpy as jnp

Outputs = dict[str, Array]


def scaled(weight: Array | float, x: Array) -> Array:
    """weight · x; a weight of 0 removes even an infinity, and its slope."""
    return weight * jnp.where(weight == 0, 0.0, x)


def log_odds(a: Array) -> Array:
    """log(p / (1 - p)) of log-probabilities a = log p < 0."""
    return a - nn.log1mexp(-a)


def implicit_rewards(
    beta: float,
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    reference_chosen_logps: Array,
    reference_rejected_logps: Array,
) -> tuple[Array, Array]:
    """β log(π/π_ref) of the chosen and of the rejected response."""
    return beta * (policy_chosen_logps - reference_chosen_logps), beta * (policy_rejected_logps - reference_rejected_logps)


def of_rewards(loss: Callable[[Array], Array], beta: float, logps: Outputs) -> Outputs:
    """A loss on the gap between the implicit rewards, with these."""
    chosen, rejected = implicit_rewards(beta, **logps)
    return {"losses": loss(chosen - rejected), "chosen_rewards": chosen, "rejected_rewards": rejected}


def bradley_terry(chosen_rewards: Array, rejected_rewards: Array, margin: float = 0.0) -> Outputs:
    return {"losses": -nn.log_sigmoid(chosen_rewards - rejected_rewards - margin)}


def ranking(scores: Array) -> Array:
    """-log P(this order) of scores [K], best first: at each rank but the last, the best of those left wins."""
    stages = [nn.logsumexp(scores[k:]) - scores[k] for k in range(len(scores) - 1)]
    return jnp.stack(stages).sum()


def plackett_luce(rewards: Array) -> Outputs:
    """rewards: [N,K]."""
    return {"losses": jax.vmap(ranking)(rewards)}


def plackett_luce_dpo(policy_logps: Array, reference_logps: Array, beta: float = 0.1) -> Outputs:
    """Log-probabilities: [N,K]."""
    return plackett_luce(beta * (policy_logps - reference_logps))


def optimal_policy(rewards: Array, reference_logps: Array, beta: float) -> Outputs:
    """Rewards and log-probabilities: [N,K]."""
    tilted = reference_logps + rewards / beta
    return {"logps": nn.log_softmax(tilted), "log_partition": nn.logsumexp(tilted, axis=1)}


def kl_regularized_objective(policy_logits: Array, rewards: Array, reference_logps: Array, beta: float) -> Outputs:
    """All arrays [N,K]. What has no probability takes no part: 0 log 0 = 0."""
    logps = nn.log_softmax(policy_logits)
    gains = jnp.where(policy_logits > -jnp.inf, rewards - beta * (logps - reference_logps), 0.0)
    return {"objective": (jnp.exp(logps) * gains).sum(axis=1)}


def dpo(beta: float = 0.1, **logps: Array) -> Outputs:
    return of_rewards(lambda h: -nn.log_sigmoid(h), beta, logps)


def cdpo(beta: float = 0.1, label_smoothing: float = 0.1, **logps: Array) -> Outputs:
    def loss(h: Array) -> Array:
        return -(1 - label_smoothing) * nn.log_sigmoid(h) - scaled(label_smoothing, nn.log_sigmoid(-h))

    return of_rewards(loss, beta, logps)


def robust_dpo(beta: float = 0.1, label_smoothing: float = 0.1, **logps: Array) -> Outputs:
    def loss(h: Array) -> Array:
        flipped = scaled(label_smoothing, nn.log_sigmoid(-h))
        return (flipped - (1 - label_smoothing) * nn.log_sigmoid(h)) / (1 - 2 * label_smoothing)

    return of_rewards(loss, beta, logps)


def rso_hinge(beta: float = 0.1, **logps: Array) -> Outputs:
    # At its kink relu has slope 0, jnp.maximum 1/2.
    return of_rewards(lambda h: nn.relu(1 - h), beta, logps)


def ipo(beta: float = 0.1, **logps: Array) -> Outputs:
    return ipo_length_normalized(beta=beta, **logps)


def ipo_length_normalized(
    chosen_lengths: Array | int = 1, rejected_lengths: Array | int = 1, beta: float = 0.1, **logps: Array
) -> Outputs:
    chosen, rejected = implicit_rewards(1.0, **logps)
    gap = chosen / chosen_lengths - rejected / rejected_lengths
    return {"losses": (gap - 1 / (2 * beta)) ** 2, "chosen_rewards": beta * chosen, "rejected_rewards": beta * rejected}


def kto(
    policy_logps: Array,
    reference_logps: Array,
    desirable: Array,
    reference_point: Array | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Outputs:
    rewards = beta * (policy_logps - reference_logps)
    gain = jnp.where(desirable, 1, -1) * (rewards - beta * reference_point)
    weights = jnp.where(desirable, desirable_weight, undesirable_weight).astype(rewards.dtype)
    return {"losses": weights * nn.sigmoid(-gain), "rewards": rewards}


def kto_reference_point(policy_mismatched_logps: Array, reference_mismatched_logps: Array) -> Outputs:
    return {"reference_point": jnp.maximum(0, jnp.mean(policy_mismatched_logps - reference_mismatched_logps))}


def orpo(
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    chosen_lengths: Array,
    rejected_lengths: Array,
    odds_weight: float = 0.1,
) -> Outputs:
    chosen, rejected = policy_chosen_logps / chosen_lengths, policy_rejected_logps / rejected_lengths
    ratio = log_odds(chosen) - log_odds(rejected)
    return {"losses": -chosen - scaled(odds_weight, nn.log_sigmoid(ratio)), "log_odds_ratio": ratio}


def simpo(
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    chosen_lengths: Array,
    rejected_lengths: Array,
    beta: float = 2.0,
    gamma: float = 0.5,
) -> Outputs:
    lead = policy_chosen_logps / chosen_lengths - policy_rejected_logps / rejected_lengths
    return {"losses": -nn.log_sigmoid(beta * lead - gamma)}


def sppo(policy_logps: Array, reference_logps: Array, win_rates: Array, eta: float) -> Outputs:
    return {"losses": (policy_logps - reference_logps - eta * (win_rates - 0.5)) ** 2}


def diffusion_dpo(
    policy_chosen_errors: Array,
    policy_rejected_errors: Array,
    reference_chosen_errors: Array,
    reference_rejected_errors: Array,
    beta: float = 5000.0,
) -> Outputs:
    worse = policy_chosen_errors - reference_chosen_errors - (policy_rejected_errors - reference_rejected_errors)
    return {"losses": -nn.log_sigmoid(-beta / 2 * worse)}
