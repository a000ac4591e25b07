"""Generalized advantage estimation. Schulman et al. 2015, arXiv:1506.02438v6, equations 11 and 16.

    δ_t = r_t + γ V_{t+1} - V_t          V after the last step is 0
    A_t = δ_t + γ λ A_{t+1}
    G_t = A_t + V_t                      the return that the critic is trained on

λ = 0 leaves δ; λ = 1 leaves the discounted reward to go minus V.
"""

from typing import NamedTuple

from ..arrays import stack, where, zeros_like
from ..contract import B, Constant, Floats, Mask, T, UnitInterval, operation


class Advantages(NamedTuple):
    advantages: Floats[B, T]
    returns: Floats[B, T]


@operation(level=2, source="arXiv:1506.02438v6 eq. 11, 16")
def gae(
    rewards: Constant[B, T], values: Constant[B, T], mask: Mask[B, T], discount: UnitInterval, trace_decay: UnitInterval
) -> Advantages:
    """Advantages and returns of every step. Steps whose mask is false are skipped, as if they were not there: the step after
    them is the next one of the step before. discount is γ, trace_decay λ."""
    value_after = advantage_after = zeros_like(values[:, 0])
    advantages, returns = [], []
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + discount * value_after - values[:, t]
        advantage = delta + discount * trace_decay * advantage_after

        advantages.append(where(mask[:, t], advantage, 0.0))
        returns.append(where(mask[:, t], advantage + values[:, t], 0.0))
        value_after = where(mask[:, t], values[:, t], value_after)
        advantage_after = where(mask[:, t], advantage, advantage_after)
    return Advantages(stack(advantages[::-1], axis=1), stack(returns[::-1], axis=1))
