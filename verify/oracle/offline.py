"""Level 1, one example at a time: losses on log-probabilities, written from the papers.

Log-probabilities in nats, summed over a response's tokens; "a" is such a sum by its length. Rows return
outputs in the order of the table in `verify.oracle`; `Sized(value, S)` where a textbook form cancels.
"""

from decimal import Decimal
from typing import NamedTuple

from verify.oracle.machine import Outputs, Sized
from verify.oracle.numbers import (
    HALF,
    ONE,
    TWO,
    ZERO,
    compare,
    exp_tail,
    largest,
    log1mexp,
    log_ratio,
    log_softmax,
    logistic,
    times,
)


def bradley_terry(chosen_rewards: Decimal, rejected_rewards: Decimal, margin: Decimal) -> Outputs:
    """-log P(chosen beats rejected by a margin): Bradley-Terry; margin of arXiv:2307.09288, eq. 2."""
    loss, upset = logistic(rejected_rewards + margin - chosen_rewards)
    return loss, -upset, upset


def ranking(scores: list[Decimal]) -> tuple[Decimal, list[Decimal]]:
    """Plackett-Luce's -log P(best first) and its gradient in the scores, built from the last rank forward.

    The k-th stage loses log(1 + e^(T - s_k)), T the log-sum-exp of the scores behind; its winner is pushed up
    by the chance of an upset there, and each score behind is pushed down by its chance to win the stage.
    """
    behind, loss, pulls = scores[-1], ZERO, [ZERO]
    for place in range(len(scores) - 2, -1, -1):
        stage, upset = logistic(behind - scores[place])
        behind = behind if stage.is_infinite() else scores[place] + stage
        wins = [(score - behind).exp() for score in scores[place + 1 :]]
        pulls = [-upset, *(pull + win for pull, win in zip(pulls, wins, strict=True))]
        loss += stage
    return loss, pulls


def plackett_luce(rewards: list[Decimal]) -> Outputs:
    """-log P(ranking), K >= 2 scores in rank order: arXiv:2305.18290, eq. 18. S = 1 + max |score|."""
    loss, pulls = ranking(rewards)
    size = ONE + largest(rewards)
    return Sized(loss, size), [Sized(pull, size) for pull in pulls]


def plackett_luce_dpo(policy_logps: list[Decimal], reference_logps: list[Decimal], beta: Decimal) -> Outputs:
    """Plackett-Luce on the implicit rewards beta log(policy/reference): arXiv:2305.18290, appendix A.3."""
    pairs = list(zip(policy_logps, reference_logps, strict=True))
    loss, pulls = ranking([beta * log_ratio(*pair) for pair in pairs])
    size = ONE + beta * largest(abs(policy) + abs(reference) for policy, reference in pairs)
    return Sized(loss, size), [Sized(beta * pull, beta * size) for pull in pulls]


def optimal_policy(rewards: list[Decimal], reference_logps: list[Decimal], beta: Decimal) -> Outputs:
    """log Z, and log of pi_ref e^(R/beta) / Z: arXiv:2305.18290, eq. 4. A reference of -inf stays -inf.

    S is 1 + the row's largest |reference| + |R/beta|: a shift by the maximum rounds at that size everywhere.
    """
    tilts = [reward / beta for reward in rewards]
    operands = list(zip(reference_logps, tilts, strict=True))
    logps, log_partition = log_softmax([reference + tilt for reference, tilt in operands])
    size = ONE + largest(abs(reference) + abs(tilt) for reference, tilt in operands)
    return Sized(log_partition, size), [Sized(logp, size) for logp in logps]


def kl_regularized_objective(
    policy_logits: list[Decimal], rewards: list[Decimal], reference_logps: list[Decimal], beta: Decimal
) -> Outputs:
    """J = sum_k pi_k A_k, A = R - beta log(pi/pi_ref): arXiv:2305.18290, eq. 3; maximized.

    Gradient in logit k: sum_j pi_k pi_j (A_k - A_j), a comparison with every other response. What has no
    probability takes no part (0 log 0 = 0). A log pi shifted by the maximum is off by (1 + max |logit|) u,
    which moves every pi relatively and every A by beta times that: hence S.
    """
    logps, _ = log_softmax(policy_logits)
    sharpness = ONE + largest(policy_logits)
    chances, values, sizes = [], [], []
    for logp, reward, reference in zip(logps, rewards, reference_logps, strict=True):
        chances.append(logp.exp())
        gap = log_ratio(logp, reference)
        values.append(reward - beta * gap if not gap.is_infinite() else ZERO)
        sizes.append(largest([abs(reward) + beta * (ONE + abs(logp) + abs(reference))]))
    objective, size = dot(chances, values), dot(chances, sizes)
    leads = [dot(chances, [value - other for other in values]) for value in values]
    pulls = [Sized(p * lead, sharpness * p * (own + size)) for p, lead, own in zip(chances, leads, sizes, strict=True)]
    return Sized(objective, sharpness * size), pulls


def dot(left: list[Decimal], right: list[Decimal]) -> Decimal:
    return sum((x * y for x, y in zip(left, right, strict=True)), ZERO)


class Pair(NamedTuple):
    """The log-ratios log(policy/reference) of a preferred and a rejected response."""

    chosen: Decimal
    rejected: Decimal

    @classmethod
    def of(
        cls,
        policy_chosen_logps: Decimal,
        policy_rejected_logps: Decimal,
        reference_chosen_logps: Decimal,
        reference_rejected_logps: Decimal,
    ) -> "Pair":
        chosen = log_ratio(policy_chosen_logps, reference_chosen_logps)
        return cls(chosen, log_ratio(policy_rejected_logps, reference_rejected_logps))

    @property
    def gap(self) -> Decimal:
        return self.chosen - self.rejected

    def outputs(self, loss: Decimal, slope: Decimal, beta: Decimal) -> Outputs:
        """The pair outputs of a loss whose slope in the gap is given."""
        return loss, slope, -slope, beta * self.chosen, beta * self.rejected


def dpo(beta: Decimal, **logps: Decimal) -> Outputs:
    """-log sigma(beta gap): arXiv:2305.18290v3, eq. 7; gradient as in its section 4."""
    pair = Pair.of(**logps)
    loss, upset = logistic(-beta * pair.gap)
    return pair.outputs(loss, -beta * upset, beta)


def cdpo(beta: Decimal, label_smoothing: Decimal, **logps: Decimal) -> Outputs:
    """The expected DPO loss if labels flip with probability e: E. Mitchell, A note on DPO with noisy
    preferences (2023), eq. 3."""
    pair = Pair.of(**logps)
    kept, upset = logistic(-beta * pair.gap)
    flipped, agreement = logistic(beta * pair.gap)
    loss = (ONE - label_smoothing) * kept + times(label_smoothing, flipped)
    slope = beta * (label_smoothing * agreement - (ONE - label_smoothing) * upset)
    return pair.outputs(loss, slope, beta)


def robust_dpo(beta: Decimal, label_smoothing: Decimal, **logps: Decimal) -> Outputs:
    """The loss whose expectation under flips of probability e is the clean DPO loss: arXiv:2403.00409."""
    pair = Pair.of(**logps)
    kept, upset = logistic(-beta * pair.gap)
    flipped, agreement = logistic(beta * pair.gap)
    clean = ONE - TWO * label_smoothing
    loss = ((ONE - label_smoothing) * kept - times(label_smoothing, flipped)) / clean
    slope = -beta * ((ONE - label_smoothing) * upset + label_smoothing * agreement) / clean
    return pair.outputs(loss, slope, beta)


def ipo(beta: Decimal, **logps: Decimal) -> Outputs:
    """(gap - 1/(2 tau))^2 on token sums, tau = beta: arXiv:2310.12036, eq. 17."""
    pair = Pair.of(**logps)
    residual = pair.gap - HALF / beta
    return pair.outputs(residual * residual, TWO * residual, beta)


def ipo_length_normalized(chosen_lengths: Decimal, rejected_lengths: Decimal, beta: Decimal, **logps: Decimal) -> Outputs:
    """IPO with each log-ratio per token, as most libraries have it; gradients and rewards of the sums."""
    pair = Pair.of(**logps)
    residual = pair.chosen / chosen_lengths - pair.rejected / rejected_lengths - HALF / beta
    slopes = TWO * residual / chosen_lengths, -TWO * residual / rejected_lengths
    return residual * residual, *slopes, beta * pair.chosen, beta * pair.rejected


def rso_hinge(beta: Decimal, **logps: Decimal) -> Outputs:
    """max(0, 1 - beta gap): arXiv:2309.06657, eq. 10 (its gamma is beta here); gradient 0 at the kink."""
    pair = Pair.of(**logps)
    side = compare(beta * pair.gap, ONE, *(beta * logp for logp in logps.values()))
    slope = -beta if side < 0 else ZERO
    return pair.outputs(ONE - beta * pair.gap if side <= 0 else ZERO, slope, beta)


def kto(
    policy_logps: Decimal,
    reference_logps: Decimal,
    desirable: bool,
    reference_point: Decimal,
    beta: Decimal,
    desirable_weight: Decimal,
    undesirable_weight: Decimal,
) -> Outputs:
    """lambda (1 - sigma(+-beta (r - z0))): arXiv:2402.01306, eq. 8; sigma's slope is 1 / (2 + e^z + e^-z).

    S = lambda (lambda beta for the slope): the definition subtracts a sigma from 1.
    """
    ratio = log_ratio(policy_logps, reference_logps)
    sign, weight = (ONE, desirable_weight) if desirable else (-ONE, undesirable_weight)
    z = sign * beta * (ratio - reference_point)
    growth = abs(z).exp()
    slope = -sign * weight * beta / (TWO + growth + ONE / growth)
    return Sized(weight * logistic(-z)[1], weight), Sized(slope, weight * beta), beta * ratio


def kto_reference_point(policy_mismatched_logps: list[Decimal], reference_mismatched_logps: list[Decimal]) -> Outputs:
    """max(0, mean log-ratio of mismatched pairs): the estimate of z0 in arXiv:2402.01306, section 4."""
    logps = policy_mismatched_logps, reference_mismatched_logps
    mean = sum(map(log_ratio, *logps), ZERO) / len(policy_mismatched_logps)
    return (mean if compare(mean, ZERO, *logps[0], *logps[1]) >= 0 else ZERO,)


def orpo(
    policy_chosen_logps: Decimal,
    policy_rejected_logps: Decimal,
    chosen_lengths: Decimal,
    rejected_lengths: Decimal,
    odds_weight: Decimal,
) -> Outputs:
    """-a_w + lambda log(1 + odds_l/odds_w), a per token, odds = P/(1 - P): arXiv:2403.07691, eqs. 3, 4, 6, 7.

    The log-odds a - log(1 - e^a) have slope 1/(1 - e^a); the signs follow eq. 7, not the paper's eqs. 8-10.
    """
    chosen = policy_chosen_logps / chosen_lengths
    rejected = policy_rejected_logps / rejected_lengths
    if not (chosen < 0 and rejected < 0):
        raise ValueError(f"policy logps must be < 0 to have odds, got {chosen:.9g}, {rejected:.9g} a token")
    log_odds_ratio = chosen - rejected + log1mexp(rejected) - log1mexp(chosen)
    loss, upset = logistic(-log_odds_ratio)
    push = odds_weight * upset
    grad_chosen = (-ONE + push / exp_tail(chosen, 1)) / chosen_lengths
    grad_rejected = -push / exp_tail(rejected, 1) / rejected_lengths
    return -chosen + times(odds_weight, loss), grad_chosen, grad_rejected, log_odds_ratio


def simpo(
    policy_chosen_logps: Decimal,
    policy_rejected_logps: Decimal,
    chosen_lengths: Decimal,
    rejected_lengths: Decimal,
    beta: Decimal,
    gamma: Decimal,
) -> Outputs:
    """-log sigma(beta (a_w - a_l) - gamma) on per-token a: arXiv:2405.14734, eq. 6; gradients of the sums."""
    lead = policy_chosen_logps / chosen_lengths - policy_rejected_logps / rejected_lengths
    loss, upset = logistic(gamma - beta * lead)
    return loss, -beta * upset / chosen_lengths, beta * upset / rejected_lengths


def sppo(policy_logps: Decimal, reference_logps: Decimal, win_rates: Decimal, eta: Decimal) -> Outputs:
    """(log-ratio - eta (P - 1/2))^2, the reference being the previous iterate: arXiv:2405.00675, eq. 4.7."""
    residual = log_ratio(policy_logps, reference_logps) - eta * (win_rates - HALF)
    return residual * residual, TWO * residual


def diffusion_dpo(
    policy_chosen_errors: Decimal,
    policy_rejected_errors: Decimal,
    reference_chosen_errors: Decimal,
    reference_rejected_errors: Decimal,
    beta: Decimal,
) -> Outputs:
    """DPO on denoising errors, which fall as likelihood rises: arXiv:2311.12908, eq. 14, T omega in beta."""
    chosen = policy_chosen_errors - reference_chosen_errors
    rejected = policy_rejected_errors - reference_rejected_errors
    loss, upset = logistic(beta / 2 * (chosen - rejected))
    return loss, beta / 2 * upset, -beta / 2 * upset
