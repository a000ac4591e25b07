"""Simple Preference Optimization. Meng et al. 2024, arXiv:2405.14734v3, equations 4 to 6. No reference.

    a = (1/|y|) log π(y|x)                           mean over tokens
    h = β (a_w - a_l) - γ
    L = -log σ(h)

    ∂L/∂log π(y_w|x) = -β σ(-h) / |y_w|
    ∂L/∂log π(y_l|x) = +β σ(-h) / |y_l|

γ is the paper's, absolute: some libraries take the ratio γ/β instead.
"""

from typing import NamedTuple

from ..arrays import floats_like, log_sigmoid, sigmoid
from ..contract import Finite, Floats, Lengths, N, Positive, operation


class ReferenceFreePairLoss(NamedTuple):
    losses: Floats[N]
    grad_policy_chosen_logps: Floats[N]
    grad_policy_rejected_logps: Floats[N]


@operation(level=1, source="arXiv:2405.14734v3 eq. 6")
def simpo(
    policy_chosen_logps: Floats[N],
    policy_rejected_logps: Floats[N],
    chosen_lengths: Lengths[N],
    rejected_lengths: Lengths[N],
    beta: Positive = 2.0,
    gamma: Finite = 0.5,
) -> ReferenceFreePairLoss:
    """Logistic loss on the gap between two mean log-probabilities, asked to exceed gamma/beta nats a token.

    Log-probabilities and gradients are those of sums over the response. The paper tunes beta in 2 to 2.5, gamma in 0.3 to 1.6.
    """
    chosen_tokens = floats_like(chosen_lengths, policy_chosen_logps)
    rejected_tokens = floats_like(rejected_lengths, policy_rejected_logps)

    h = beta * (policy_chosen_logps / chosen_tokens - policy_rejected_logps / rejected_tokens) - gamma
    losses = -log_sigmoid(h)

    weight = beta * sigmoid(-h)
    return ReferenceFreePairLoss(losses, -weight / chosen_tokens, weight / rejected_tokens)
