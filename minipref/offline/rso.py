"""The hinge loss of statistical rejection sampling. Liu et al. 2023, arXiv:2309.06657v2, equation 10; β here is its γ.

    h = β [(log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))]
    L = max(0, 1 - h)

    ∂L/∂log π(y_w|x) = -β where h < 1, else 0
    ∂L/∂log π(y_l|x) = +β where h < 1, else 0        0 at the kink

The paper's pairs come from rejection sampling: `minipref.online.sampling`. Its sigmoid loss, equation 8, is `dpo`.
"""

from ..arrays import constant_like, positive_part, where
from ..contract import Constant, Floats, N, Positive, operation
from .pairs import PairLoss


@operation(level=1, source="arXiv:2309.06657v2 eq. 10")
def rso_hinge(
    policy_chosen_logps: Floats[N],
    policy_rejected_logps: Floats[N],
    reference_chosen_logps: Constant[N],
    reference_rejected_logps: Constant[N],
    beta: Positive = 0.1,
) -> PairLoss:
    """Hinge on the gap between two implicit rewards: no push once the margin is 1. The paper uses γ = 0.05."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)

    h = chosen_rewards - rejected_rewards
    losses = positive_part(1 - h)

    weight = where(h < 1, constant_like(h, beta), 0.0)
    return PairLoss(losses, -weight, weight, chosen_rewards, rejected_rewards)
