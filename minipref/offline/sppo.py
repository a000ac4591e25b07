"""Self-Play Preference Optimization. Wu et al. 2024, arXiv:2405.00675v4, equation 4.7.

    r = log π(y|x) - log π_t(y|x)                    π_t, the previous iterate, is the reference
    L = (r - η (P - 1/2))²

    ∂L/∂log π(y|x) = 2 (r - η (P - 1/2))

P is the estimated probability that y beats a response of π_t, and 1/2 stands for log Z / η.
"""

from typing import Annotated, NamedTuple

from ..contract import Constant, Floats, Interval, N, Positive, operation


class ResponseLoss(NamedTuple):
    losses: Floats[N]
    grad_policy_logps: Floats[N]


@operation(level=1, source="arXiv:2405.00675v4 eq. 4.7")
def sppo(
    policy_logps: Floats[N],
    reference_logps: Constant[N],
    win_rates: Annotated[Constant[N], Interval(0, 1)],
    eta: Positive,
) -> ResponseLoss:
    """Squared distance of each response's log-ratio from what its win rate calls for. The paper's eta is 1000."""
    log_ratios = policy_logps - reference_logps

    excess = log_ratios - eta * (win_rates - 0.5)
    losses = excess * excess

    return ResponseLoss(losses, 2 * excess)
