"""Direct Preference Optimization. Rafailov et al. 2023, arXiv:2305.18290v3, equation 7.

    h = β [(log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))]
    L = -log σ(h)

    ∂L/∂log π(y_w|x) = -β σ(-h)
    ∂L/∂log π(y_l|x) = +β σ(-h)

σ(-h) = σ(r̂_l - r̂_w) is large where the ranking is wrong (section 4).
"""

from ..arrays import log_sigmoid, sigmoid
from ..contract import Constant, Floats, N, Positive, operation
from .pairs import PairLoss


@operation(level=1, source="arXiv:2305.18290v3 eq. 7")
def dpo(
    policy_chosen_logps: Floats[N],
    policy_rejected_logps: Floats[N],
    reference_chosen_logps: Constant[N],
    reference_rejected_logps: Constant[N],
    beta: Positive = 0.1,
) -> PairLoss:
    """Logistic loss on the gap between two implicit rewards.

    log 2 where the policy is the reference, whatever the reference prefers. The slope never exceeds beta; the loss has no
    finite minimizer where all labels agree. beta = 0.1 is the paper's (0.5 for summarization).
    """
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)

    h = chosen_rewards - rejected_rewards
    losses = -log_sigmoid(h)

    weight = beta * sigmoid(-h)
    return PairLoss(losses, -weight, weight, chosen_rewards, rejected_rewards)
