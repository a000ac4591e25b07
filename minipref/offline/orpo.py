"""Odds Ratio Preference Optimization. Hong et al. 2024, arXiv:2403.07691v2, equations 3 to 7. No reference.

    a    = (1/|y|) log π(y|x)                        mean over tokens, so e^a is a geometric mean: equation 3
    o(a) = a - log(1 - e^a)                          log-odds: equation 4
    h    = o(a_w) - o(a_l)
    L    = -a_w - λ log σ(h)

    ∂L/∂log π(y_w|x) = -(1 + λ σ(-h) / (1 - e^{a_w})) / |y_w|
    ∂L/∂log π(y_l|x) = +λ σ(-h) / (1 - e^{a_l}) / |y_l|

The paper's equations 8 to 10 print the gradient of the second term with the opposite sign.
"""

from typing import Annotated, NamedTuple

from ..arrays import exp, floats_like, log1mexp, log_sigmoid, scaled
from ..contract import Floats, Interval, Lengths, N, NonNegative, operation

BelowZero = Interval(high=0, high_open=True)


class OddsRatioLoss(NamedTuple):
    losses: Floats[N]
    grad_policy_chosen_logps: Floats[N]
    grad_policy_rejected_logps: Floats[N]
    log_odds_ratio: Floats[N]


@operation(level=1, source="arXiv:2403.07691v2 eq. 6-7")
def orpo(
    policy_chosen_logps: Annotated[Floats[N], BelowZero],
    policy_rejected_logps: Annotated[Floats[N], BelowZero],
    chosen_lengths: Lengths[N],
    rejected_lengths: Lengths[N],
    odds_weight: NonNegative = 0.1,
) -> OddsRatioLoss:
    """Mean negative log-likelihood of the chosen response, plus the weighted odds-ratio term; odds_weight is the paper's λ.

    Log-probabilities and gradients are those of sums over the response. A certain response has no odds: an error.
    """
    chosen_tokens = floats_like(chosen_lengths, policy_chosen_logps)
    rejected_tokens = floats_like(rejected_lengths, policy_rejected_logps)
    chosen_means, rejected_means = policy_chosen_logps / chosen_tokens, policy_rejected_logps / rejected_tokens
    log1m_chosen, log1m_rejected = log1mexp(chosen_means), log1mexp(rejected_means)

    h = (chosen_means - log1m_chosen) - (rejected_means - log1m_rejected)
    losses = -chosen_means - scaled(odds_weight, log_sigmoid(h))

    # As one exponential: σ(-h) may underflow and 1/(1 - e^a) overflow where their product is ordinary.
    chosen_push = scaled(odds_weight, exp(log_sigmoid(-h) - log1m_chosen))
    rejected_push = scaled(odds_weight, exp(log_sigmoid(-h) - log1m_rejected))
    return OddsRatioLoss(losses, -(1 + chosen_push) / chosen_tokens, rejected_push / rejected_tokens, h)
