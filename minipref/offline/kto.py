"""Kahneman-Tversky Optimization, for unpaired feedback: good or bad. Ethayarajh et al. 2024, arXiv:2402.01306v4, equation 8.

    r = log π(y|x) - log π_ref(y|x)
    z = +β (r - z_0) for a desirable response, -β (r - z_0) for an undesirable one
    L = λ (1 - σ(z))                    λ = λ_D or λ_U

    ∂L/∂log π(y|x) = ∓ λ β σ(z) σ(-z)    - desirable, + undesirable

The reference point z_0 is a constant: the divergence of the policy from its reference, estimated on m mismatched pairs, each
prompt with the response of another (section 4.1). The maximum with 0 biases it upwards.

    z_0 = max(0, 1/m Σ_i [log π(y_j|x_i) - log π_ref(y_j|x_i)]),   j ≠ i
"""

from typing import NamedTuple

from ..arrays import constant_like, mean_over, positive_part, sigmoid, where
from ..contract import Booleans, Constant, Floats, N, NonNegative, Positive, Rule, operation


class UnpairedLoss(NamedTuple):
    losses: Floats[N]
    grad_policy_logps: Floats[N]
    rewards: Floats[N]


class ReferencePoint(NamedTuple):
    reference_point: Floats


@operation(level=1, source="arXiv:2402.01306v4 eq. 8")
def kto(
    policy_logps: Floats[N],
    reference_logps: Constant[N],
    desirable: Booleans[N],
    reference_point: NonNegative,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
) -> UnpairedLoss:
    """Value lost against the best possible, per response, between 0 and its weight; half of it at r = z_0.

    reference_point is z_0 in nats, not yet multiplied by beta: one number for the batch, of `kto_reference_point`.
    The weights are the paper's λ_D and λ_U; it advises λ_D n_D / (λ_U n_U) between 1 and 3/2 (equation 9).
    """
    rewards = beta * (policy_logps - reference_logps)
    signs = where(desirable, constant_like(rewards, 1.0), -1.0)
    weights = where(desirable, constant_like(rewards, desirable_weight), undesirable_weight)

    z = signs * (rewards - beta * reference_point)
    losses = weights * sigmoid(-z)

    grad_policy_logps = -signs * weights * beta * sigmoid(z) * sigmoid(-z)
    return UnpairedLoss(losses, grad_policy_logps, rewards)


@operation(
    level=1,
    source="arXiv:2402.01306v4 section 4.1",
    rules=[Rule("policy_mismatched_logps", "must not be empty", lambda policy_mismatched_logps: policy_mismatched_logps.size)],
)
def kto_reference_point(policy_mismatched_logps: Constant[N], reference_mismatched_logps: Constant[N]) -> ReferencePoint:
    """Mean log-ratio, in nats, over mismatched prompts and responses, and never below 0. It has no gradient by design.

    Its inputs are of each response behind the prompt of another, under both models: in a batch, say, of the next one.
    """
    return ReferencePoint(positive_part(mean_over(policy_mismatched_logps - reference_mismatched_logps)))
