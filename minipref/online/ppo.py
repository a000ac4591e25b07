"""Proximal Policy Optimization. Schulman et al. 2017, arXiv:1707.06347v2, equation 7, per token and as a loss.

    ρ = π(y_t|x, y_<t) / π_old(y_t|x, y_<t)
    L = -min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A)

    ∂L/∂log π = -ρ A, and 0 where the clipped branch is strictly smaller

The critic's clipped loss, of the authors' code (openai/baselines, ppo2):

    V_c = clip(V, V_old - c, V_old + c)
    L   = max((V - G)², (V_c - G)²) / 2

    ∂L/∂V = V - G, and 0 where the clipped branch is strictly larger        G is the return, `gae`'s second output
"""

from typing import NamedTuple

from ..arrays import clip as clipped_to
from ..arrays import exp, where
from ..contract import B, Booleans, ClipLow, Constant, Floats, Mask, Positive, T, operation


class PolicyLoss(NamedTuple):
    token_losses: Floats[B, T]
    grad_logps: Floats[B, T]
    clipped: Booleans[B, T]


class ValueLoss(NamedTuple):
    token_losses: Floats[B, T]
    grad_values: Floats[B, T]


@operation(level=2, source="arXiv:1707.06347v2 eq. 7")
def ppo_policy(
    logps: Floats[B, T],
    old_logps: Constant[B, T],
    advantages: Constant[B, T],
    mask: Mask[B, T],
    clip_low: ClipLow = 0.2,
    clip_high: Positive = 0.2,
) -> PolicyLoss:
    """Clipped surrogate of every token that counts. Separate clips are DAPO's; equal ones are PPO's.

    clipped is true where the clipped branch decides, not wherever the ratio has left its interval.
    """
    # An advantage of 0 gives 0 whatever the ratio, even one that overflows.
    ratios = exp(where(mask & (advantages != 0), logps - old_logps, 0.0))

    surrogate = ratios * where(mask, advantages, 0.0)
    bounded = clipped_to(ratios, 1 - clip_low, 1 + clip_high) * where(mask, advantages, 0.0)
    clipped = bounded < surrogate
    token_losses = -where(clipped, bounded, surrogate)

    grad_logps = where(clipped, 0.0, -surrogate)
    return PolicyLoss(token_losses, grad_logps, clipped)


@operation(level=2, source="openai/baselines ppo2, after arXiv:1707.06347v2")
def ppo_value(
    values: Floats[B, T],
    old_values: Constant[B, T],
    returns: Constant[B, T],
    mask: Mask[B, T],
    clip: Positive = 0.2,
) -> ValueLoss:
    """Half the squared error of the critic per token, or that of its clipped step where this is larger."""
    errors = where(mask, values - returns, 0.0)
    bounded_errors = where(mask, clipped_to(values, old_values - clip, old_values + clip) - returns, 0.0)

    bounded_is_larger = bounded_errors * bounded_errors > errors * errors
    worst = where(bounded_is_larger, bounded_errors, errors)
    token_losses = worst * worst / 2

    grad_values = where(bounded_is_larger, 0.0, errors)
    return ValueLoss(token_losses, grad_values)
