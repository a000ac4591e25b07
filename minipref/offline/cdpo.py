"""Conservative DPO: DPO with smoothed labels. Mitchell 2023, "A note on DPO with noisy preferences", equations 3 and 4.

    h = β [(log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))]
    L = -(1-ε) log σ(h) - ε log σ(-h)

    ∂L/∂log π(y_w|x) = -β [(1-ε) σ(-h) - ε σ(h)]
    ∂L/∂log π(y_l|x) = +β [(1-ε) σ(-h) - ε σ(h)]

Both gradients are zero at h = logit(1-ε).
"""

from ..arrays import log_sigmoid, scaled, sigmoid
from ..contract import Constant, FlipRate, Floats, N, Positive, operation
from .pairs import PairLoss


@operation(level=1, source="Mitchell 2023, A note on DPO with noisy preferences, eq. 3-4")
def cdpo(
    policy_chosen_logps: Floats[N],
    policy_rejected_logps: Floats[N],
    reference_chosen_logps: Constant[N],
    reference_rejected_logps: Constant[N],
    beta: Positive = 0.1,
    label_smoothing: FlipRate = 0.1,
) -> PairLoss:
    """Cross-entropy of the implied preference against a label believed with probability 1 - label_smoothing.

    Unlike DPO it has a minimum, the entropy of the label. label_smoothing = 0 is DPO.
    """
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)

    h = chosen_rewards - rejected_rewards
    losses = -(1 - label_smoothing) * log_sigmoid(h) - scaled(label_smoothing, log_sigmoid(-h))

    weight = beta * ((1 - label_smoothing) * sigmoid(-h) - label_smoothing * sigmoid(h))
    return PairLoss(losses, -weight, weight, chosen_rewards, rejected_rewards)
