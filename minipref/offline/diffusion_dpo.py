"""DPO for diffusion models. Wallace et al. 2023, arXiv:2311.12908v1, equation 14.

    h = -(β/2) [(e_w - e_w^ref) - (e_l - e_l^ref)]
    L = -log σ(h)

    ∂L/∂e_w = +(β/2) σ(-h)
    ∂L/∂e_l = -(β/2) σ(-h)

e is the mean squared error of the predicted noise. The half is the authors' code's: their equation has none.
"""

from typing import NamedTuple

from ..arrays import log_sigmoid, sigmoid
from ..contract import Constant, Floats, N, Positive, operation


class DenoisingPairLoss(NamedTuple):
    losses: Floats[N]
    grad_policy_chosen_errors: Floats[N]
    grad_policy_rejected_errors: Floats[N]


@operation(level=1, source="arXiv:2311.12908v1 eq. 14")
def diffusion_dpo(
    policy_chosen_errors: Floats[N],
    policy_rejected_errors: Floats[N],
    reference_chosen_errors: Constant[N],
    reference_rejected_errors: Constant[N],
    beta: Positive = 5000.0,
) -> DenoisingPairLoss:
    """Logistic loss on how much better than its reference the policy denoises the chosen image than the rejected one.

    Errors are means over latent dimensions, at one timestep and one noise for policy and reference; the paper's T ω(λ) is
    part of beta, which is why it is in the thousands.
    """
    chosen_excess = policy_chosen_errors - reference_chosen_errors
    rejected_excess = policy_rejected_errors - reference_rejected_errors

    h = -(beta / 2) * (chosen_excess - rejected_excess)
    losses = -log_sigmoid(h)

    weight = (beta / 2) * sigmoid(-h)
    return DenoisingPairLoss(losses, weight, -weight)
