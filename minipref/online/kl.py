"""Three estimates of KL(π || π_ref) from tokens sampled from the policy. Schulman 2020, "Approximating KL divergence".

    d  = log π_ref - log π
    k1 = -d                  unbiased, of both signs          ∂k1/∂log π = 1
    k2 = d²/2                biased, never negative           ∂k2/∂log π = -d
    k3 = e^d - 1 - d         unbiased, never negative         ∂k3/∂log π = 1 - e^d

As a loss on sampled tokens each is another thing than as an estimate: in expectation the slope of k1 is 0, that of k2 is the
gradient of KL(π || π_ref), and that of k3 the gradient of KL(π_ref || π). GRPO uses k3: arXiv:2402.03300v3, equation 4.
"""

import math
from typing import NamedTuple

from ..arrays import Array, constant_like, cumulative_sum, expm1, sum_over, where
from ..contract import Constant, Floats, Gradient, N, operation


class KLEstimates(NamedTuple):
    k1: Floats[N]
    k2: Floats[N]
    k3: Floats[N]
    grad_k1: Floats[N]
    grad_k2: Floats[N]
    grad_k3: Floats[N]


@operation(
    level=2,
    source="Schulman 2020, Approximating KL divergence; k3: arXiv:2402.03300v3 eq. 4",
    gradients=[Gradient(f"grad_{k}", k, "policy_logps") for k in ("k1", "k2", "k3")],
)
def kl_estimates(policy_logps: Floats[N], reference_logps: Constant[N]) -> KLEstimates:
    """The three estimates per sampled token, in nats, and the slope in policy_logps of each as a loss."""
    d = reference_logps - policy_logps
    k3, grad_k3 = k3_and_slope(policy_logps, reference_logps)
    return KLEstimates(-d, d * d / 2, k3, constant_like(d, 1.0), -d, grad_k3)


def k3_and_slope(policy_logps: Array, reference_logps: Array) -> tuple[Array, Array]:
    """k3 and its slope in policy_logps, in any shape. Where d is infinite the exponential outgrows it."""
    d = reference_logps - policy_logps
    growth = expm1(d)
    return growth - where(d == math.inf, 0.0, d), -growth


def kl_shaped_rewards(scores: Array, policy_logps: Array, reference_logps: Array, mask: Array, beta: float) -> Array:
    """PPO's per-token rewards [B, T]: -β (log π - log π_ref) at every token that counts, and the score [B] of the whole
    response at the last one. Inputs [B, T] in nats, mask true where a token counts; unchecked.

    Ziegler et al. 2019, arXiv:1909.08593v2, equation 2; Ouyang et al. 2022, arXiv:2203.02155v1, equation 2.
    """
    penalties = where(mask, -beta * (policy_logps - reference_logps), 0.0)
    is_last = cumulative_sum(mask, axis=1) == sum_over(mask, axis=1, keepdims=True)
    return penalties + where(mask & is_last, scores[:, None], 0.0)
