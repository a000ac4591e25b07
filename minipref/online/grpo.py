"""Group Relative Policy Optimization, per token. Shao et al. 2024, arXiv:2402.03300v3, equations 3 and 4.

    L = -min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A) + β k3
    ∂L/∂log π = ∂L_PPO/∂log π + β (1 - e^d)            d = log π_ref - log π

A is one advantage for all tokens of a response, relative to its group: `advantages`. How tokens are averaged differs between
GRPO, DAPO and Dr. GRPO: `aggregation`.
"""

from typing import NamedTuple

from ..arrays import where
from ..contract import B, ClipLow, Constant, Floats, Mask, NonNegative, Positive, T, operation
from .kl import k3_and_slope
from .ppo import ppo_policy


class TokenLoss(NamedTuple):
    token_losses: Floats[B, T]
    grad_logps: Floats[B, T]


@operation(level=2, source="arXiv:2402.03300v3 eq. 3-4")
def grpo(
    logps: Floats[B, T],
    old_logps: Constant[B, T],
    reference_logps: Constant[B, T],
    advantages: Constant[B],
    mask: Mask[B, T],
    clip_low: ClipLow = 0.2,
    clip_high: Positive = 0.2,
    beta: NonNegative = 0.04,
) -> TokenLoss:
    """PPO's clipped surrogate plus β times k3 towards the reference; at beta = 0 the reference does not enter.

    Log-probabilities are of each token, and the mask is aligned with them. Advantages are those of `advantages_grpo`, flattened
    to one for each row. The losses are averaged by `sequence_mean`, as the paper does, not by a plain mean.
    """
    token_advantages = where(mask, advantages[:, None], 0.0)
    token_losses, grad_logps, _ = ppo_policy.formula(logps, old_logps, token_advantages, mask, clip_low, clip_high)
    if beta == 0:
        return TokenLoss(token_losses, grad_logps)

    k3, slope = k3_and_slope(where(mask, logps, 0.0), where(mask, reference_logps, 0.0))
    return TokenLoss(token_losses + beta * k3, grad_logps + beta * slope)
