"""Identity Preference Optimization. Azar et al. 2023, arXiv:2310.12036v2, equation 17; β here is the paper's τ.

    Δ = (log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))
    L = (Δ - 1/(2β))²

    ∂L/∂log π(y_w|x) = +2 (Δ - 1/(2β))
    ∂L/∂log π(y_l|x) = -2 (Δ - 1/(2β))        zero at Δ = 1/(2β), a gap of 1/2 between implicit rewards for every β

The paper has no tokens, and libraries read it in two ways: sums over the response, or means. The second is an operation of its
own: each log-ratio is divided by its length, and the chain rule divides the gradients.
"""

from ..arrays import floats_like
from ..contract import Constant, Floats, Lengths, N, Positive, operation
from .pairs import PairLoss


@operation(level=1, source="arXiv:2310.12036v2 eq. 17")
def ipo(
    policy_chosen_logps: Floats[N],
    policy_rejected_logps: Floats[N],
    reference_chosen_logps: Constant[N],
    reference_rejected_logps: Constant[N],
    beta: Positive = 0.1,
) -> PairLoss:
    """Squared distance of the log-ratio gap from its target. Its minimum is finite, its gradient unbounded."""
    chosen_ratios = policy_chosen_logps - reference_chosen_logps
    rejected_ratios = policy_rejected_logps - reference_rejected_logps

    excess = chosen_ratios - rejected_ratios - 1 / (2 * beta)
    losses = excess * excess

    return PairLoss(losses, 2 * excess, -2 * excess, beta * chosen_ratios, beta * rejected_ratios)


@operation(level=1, source="arXiv:2310.12036v2 eq. 17, on means over tokens")
def ipo_length_normalized(
    policy_chosen_logps: Floats[N],
    policy_rejected_logps: Floats[N],
    reference_chosen_logps: Constant[N],
    reference_rejected_logps: Constant[N],
    chosen_lengths: Lengths[N],
    rejected_lengths: Lengths[N],
    beta: Positive = 0.1,
) -> PairLoss:
    """IPO on mean log-ratios. Log-probabilities, gradients and rewards still refer to sums over tokens."""
    chosen_ratios = policy_chosen_logps - reference_chosen_logps
    rejected_ratios = policy_rejected_logps - reference_rejected_logps
    chosen_tokens = floats_like(chosen_lengths, policy_chosen_logps)
    rejected_tokens = floats_like(rejected_lengths, policy_rejected_logps)

    excess = chosen_ratios / chosen_tokens - rejected_ratios / rejected_tokens - 1 / (2 * beta)
    losses = excess * excess

    grads = 2 * excess / chosen_tokens, -2 * excess / rejected_tokens
    return PairLoss(losses, *grads, beta * chosen_ratios, beta * rejected_ratios)
