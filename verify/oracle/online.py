"""Level 2 without the sequences: KL estimators, advantages, clipped losses, aggregation, sampling.

Token rows see one true position; sequence and batch rows see lists of true positions only.
"""

from decimal import Decimal

from verify.oracle.machine import Outputs, Sized
from verify.oracle.numbers import ONE, ZERO, compare, exp_tail, largest, limit, log_ratio


def kl_estimates(policy_logps: Decimal, reference_logps: Decimal) -> Outputs:
    """k1 = -d, k2 = d^2/2, k3 = e^d - 1 - d, d = reference - policy, and their slopes in the policy's.

    J. Schulman, Approximating KL Divergence (2020); k3: arXiv:2402.03300, eq. 4. Its textbook form subtracts 1
    and d: S is the larger of them, for k3 and its slope.
    """
    gap = log_ratio(policy_logps, reference_logps)
    size = max(ONE, abs(gap))
    k3 = Sized(exp_tail(-gap, 2), size)
    return gap, gap * gap / 2, k3, ONE, gap, Sized(-exp_tail(-gap, 1), size)


def gae(rewards: list[Decimal], values: list[Decimal], discount: Decimal, trace_decay: Decimal) -> Outputs:
    """Generalized advantages (arXiv:1506.02438, eq. 16), as lambda-returns less values.

    G_t = R_t + gamma [(1 - lambda) V_{t+1} + lambda G_{t+1}], A_t = G_t - V_t, V = G = 0 after the last step.
    The usual sum of temporal differences adds every later V and takes it away again; at lambda = 1 the exact
    answer does not depend on it at all. So S is the discounted sum of the operands' magnitudes.
    """
    advantages: list[Sized] = []
    returns: list[Sized] = []
    ahead = target = size = ZERO
    for reward, value in reversed(list(zip(rewards, values, strict=True))):
        target = reward + discount * ((ONE - trace_decay) * ahead + trace_decay * target)
        size = abs(reward) + abs(value) + discount * (abs(ahead) + trace_decay * size)
        advantages.insert(0, Sized(target - value, size))
        returns.insert(0, Sized(target, size))
        ahead = value
    return advantages, returns


def ppo_policy(logps: Decimal, old_logps: Decimal, advantages: Decimal, clip_low: Decimal, clip_high: Decimal) -> Outputs:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A): arXiv:1707.06347, eq. 7; the asymmetric clip is DAPO's.

    The minimum is the clipped one just where rho has left the interval in the direction that A rewards.
    """
    ratio = limit(logps - old_logps).exp()
    if not advantages:
        return ZERO, ZERO, False
    low, high = ONE - clip_low, ONE + clip_high
    below = compare(ratio, low, low * logps, low * old_logps) < 0
    above = compare(ratio, high, high * logps, high * old_logps) > 0
    if above and advantages > 0:
        return -high * advantages, ZERO, True
    if below and advantages < 0:
        return -low * advantages, ZERO, True
    return -ratio * advantages, -ratio * advantages, False


def ppo_value(values: Decimal, old_values: Decimal, returns: Decimal, clip: Decimal) -> Outputs:
    """Half the larger of (v - R)^2 and (v_c - R)^2, v_c kept within clip of the old value.

    At a tie the slope is the unclipped one's. As in the code that came with arXiv:1707.06347. S = max(|v|,
    |v_old|, |R|)^2, its root for the slope.
    """
    size = largest((values, old_values, returns))
    residual = values - returns
    clipped = residual
    if compare(values - old_values, clip, values, old_values) > 0:
        clipped = old_values + clip - returns
    elif compare(old_values - values, clip, values, old_values) > 0:
        clipped = old_values - clip - returns
    stuck = compare(abs(clipped), abs(residual), size) > 0
    worst, slope = (clipped, ZERO) if stuck else (residual, residual)
    return Sized(worst * worst / 2, size * size), Sized(slope, size)


def grpo(reference_logps: Decimal, beta: Decimal, **clipping: Decimal) -> Outputs:
    """The clipped loss plus beta k3, token by token: arXiv:2402.03300, eqs. 3 and 4. S = beta max(1, |d|)."""
    loss, slope, _ = ppo_policy(**clipping)
    if not beta:
        return loss, slope
    gap = log_ratio(clipping["logps"], reference_logps)
    penalty, pull = beta * exp_tail(-gap, 2), -beta * exp_tail(-gap, 1)
    size = beta * max(ONE, abs(gap))
    return Sized(loss + penalty, size), Sized(slope + pull, size)


def leads(rewards: list[Decimal]) -> list[Decimal]:
    """Each reward's lead over the group, summed over its members; exactly 0 if no two rewards differ."""
    if compare(max(rewards), min(rewards)) == 0:
        return [ZERO] * len(rewards)
    return [sum((reward - other for other in rewards), ZERO) for reward in rewards]


def advantages_grpo(rewards: list[Decimal]) -> Outputs:
    """(R - mean) / (std + 1e-4), G - 1 under the root: arXiv:2402.03300, section 4.1.2.

    The variance from all pairs: sum over i, j of (R_i - R_j)^2 / (2 G (G - 1)).
    """
    count = len(rewards)
    squares = sum(((x - y) ** 2 for x in rewards for y in rewards), ZERO)
    spread = (squares / (2 * count * (count - 1))).sqrt() + Decimal("1e-4")
    return ([lead / count / spread for lead in leads(rewards)],)


def advantages_dr_grpo(rewards: list[Decimal]) -> Outputs:
    """R - mean, by leads over the group: arXiv:2503.20783, section 3.2."""
    return ([lead / len(rewards) for lead in leads(rewards)],)


def advantages_rloo(rewards: list[Decimal]) -> Outputs:
    """R - mean of the others, by leads over the group: arXiv:2402.14740."""
    return ([lead / (len(rewards) - 1) for lead in leads(rewards)],)


def sequence_mean(token_losses: list[Decimal], row_lengths: list[Decimal]) -> Outputs:
    """Mean over rows of each row's mean: arXiv:2402.03300, eq. 3. Weights 1 / (B x row length)."""
    weights = [ONE / (len(row_lengths) * count) for count in row_lengths for _ in range(int(count))]
    return weighted(token_losses, weights)


def token_mean(token_losses: list[Decimal], row_lengths: list[Decimal]) -> Outputs:
    """Mean over the batch's tokens: arXiv:2503.14476, eq. 8."""
    return weighted(token_losses, [ONE / sum(row_lengths, ZERO)] * len(token_losses))


def constant_mean(token_losses: list[Decimal], row_lengths: list[Decimal], max_length: Decimal) -> Outputs:
    """Sums over tokens by a constant, mean over rows: arXiv:2503.20783. Weights 1 / (B x max_length)."""
    return weighted(token_losses, [ONE / (len(row_lengths) * max_length)] * len(token_losses))


def weighted(losses: list[Decimal], weights: list[Decimal]) -> Outputs:
    return sum(map(Decimal.__mul__, losses, weights), ZERO), weights


def overlong_penalty(lengths: Decimal, max_length: Decimal, cache_length: Decimal) -> Outputs:
    """0, then a slope over the last cache_length tokens down to -1 for good: arXiv:2503.14476, eq. 13."""
    start = max_length - cache_length
    if compare(lengths, start, max_length) <= 0:
        return (ZERO,)
    return ((start - lengths) / cache_length if compare(lengths, max_length) <= 0 else -ONE,)


def rejection_acceptance(rewards: Decimal, beta: Decimal, reward_max: Decimal) -> Outputs:
    """exp((R - R_max)/beta): the acceptance probability of arXiv:2309.06657, algorithm 1."""
    return (((rewards - reward_max) / beta).exp(),)
