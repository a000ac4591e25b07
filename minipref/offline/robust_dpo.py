"""Provably robust DPO: unbiased under label flips. Chowdhury et al. 2024, arXiv:2403.00409v2, equation 12.

    h = β [(log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))]
    L = [-(1-ε) log σ(h) + ε log σ(-h)] / (1-2ε)

    ∂L/∂log π(y_w|x) = -β [(1-ε) σ(-h) + ε σ(h)] / (1-2ε)
    ∂L/∂log π(y_l|x) = +β [(1-ε) σ(-h) + ε σ(h)] / (1-2ε)

Neither gradient is ever zero.
"""

from ..arrays import log_sigmoid, scaled, sigmoid
from ..contract import Constant, FlipRate, Floats, N, Positive, operation
from .pairs import PairLoss


@operation(level=1, source="arXiv:2403.00409v2 eq. 12")
def robust_dpo(
    policy_chosen_logps: Floats[N],
    policy_rejected_logps: Floats[N],
    reference_chosen_logps: Constant[N],
    reference_rejected_logps: Constant[N],
    beta: Positive = 0.1,
    label_smoothing: FlipRate = 0.1,
) -> PairLoss:
    """The loss whose mean over labels flipped with probability label_smoothing is DPO's on clean labels.

    A single loss is unbounded below: it falls with slope ε/(1-2ε) as h grows. label_smoothing = 0 is DPO.
    """
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)

    h = chosen_rewards - rejected_rewards
    unflipped = 1 - 2 * label_smoothing
    losses = (scaled(label_smoothing, log_sigmoid(-h)) - (1 - label_smoothing) * log_sigmoid(h)) / unflipped

    weight = beta * ((1 - label_smoothing) * sigmoid(-h) + label_smoothing * sigmoid(h)) / unflipped
    return PairLoss(losses, -weight, weight, chosen_rewards, rejected_rewards)
