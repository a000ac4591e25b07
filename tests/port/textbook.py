"""Levels 1 and 2 in plain NumPy, as an engineer who has the contract and no other source writes them in an afternoon.

Textbook forms throughout: logaddexp for -log σ, a shift by the maximum for the log-softmax, a loop for GAE, np.where for masks.
"""

import numpy as np

FOUR = "policy_chosen_logps policy_rejected_logps reference_chosen_logps reference_rejected_logps"
LENGTHS = {"lengths", "chosen_lengths", "rejected_lengths"}
KINDS = dict.fromkeys(LENGTHS, "iuf") | dict.fromkeys(["mask", "response_mask", "desirable"], "b") | {"tokens": "iu"}
RULES = {
    "clip_low": ("in (0, 1)", lambda x: 0 < x < 1),
    "label_smoothing": ("in [0, 0.5)", lambda x: 0 <= x < 0.5),
    "max_length": ("at least 1", lambda x: x >= 1),
    **dict.fromkeys(["discount", "trace_decay"], ("in [0, 1]", lambda x: 0 <= x <= 1)),
    **dict.fromkeys(["beta", "eta", "clip", "clip_high", "cache_length"], ("positive", lambda x: x > 0)),
    **dict.fromkeys(
        ["desirable_weight", "undesirable_weight", "odds_weight", "reference_point"], ("not negative", lambda x: x >= 0)
    ),
    **dict.fromkeys(["margin", "gamma", "reward_max"], ("a number", lambda x: True)),
}


def require(condition, name, rule, value):
    if not condition:
        raise ValueError(f"{name} must be {rule}, got {value}")


def valid(given, **shapes):
    """valid(locals(), NK="rewards reference_logps") checks ranks, sizes, types and values of arrays, and every scalar."""
    sizes = {}
    for dims, name in [(dims, name) for dims, names in shapes.items() for name in names.split()]:
        array = np.asarray(given[name])
        require(array.ndim == len(dims), name, f"of rank {len(dims)}", array.shape)
        fits = all(sizes.setdefault(dim, size) == size for dim, size in zip(dims, array.shape, strict=True))
        require(fits, name, f"of shape {list(dims)} with {sizes}", array.shape)
        require(array.dtype.kind in KINDS.get(name, "f"), name, f"of kind {KINDS.get(name, 'f')}", array.dtype)
    for name in " ".join(shapes.values()).split():
        part = counting(given, name)
        require(not np.isnan(part).any() and not (part == np.inf).any(), name, "neither NaN nor +inf", part)
        require(name.endswith(("logps", "logits")) or np.isfinite(part).all(), name, "finite", part)
        require(name not in LENGTHS or ((part >= 1) & (part == np.floor(part))).all(), name, "whole and >= 1", part)
    for name in RULES.keys() & given.keys():
        rule, holds = RULES[name]
        scalar = np.ndim(given[name]) == 0 and np.isfinite(given[name])
        require(scalar and holds(given[name]), name, f"finite and {rule}", given[name])


def counting(given, name):
    """The entries of an argument that a mask, where there is one, lets count."""
    array, mask = given[name], given.get("mask", given.get("response_mask"))
    if mask is None or name in ("weight", "response_mask"):
        return array
    if name in ("logits", "hidden"):
        return array[predicting(mask)]
    return array[mask.any(axis=1)] if array.ndim == 1 else array[mask]


def answer(**outputs):
    for name, value in outputs.items():
        require(not np.isnan(value).any(), name, "a single limit", "two infinities that meet")
    return outputs


@np.errstate(over="ignore")
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@np.errstate(invalid="ignore")
def log_softmax(x):
    """Log-softmax and log-sum-exp along the last axis; one entry of +inf takes all."""
    top = x.max(axis=-1, keepdims=True)
    crowd = (top == np.inf) & ((x == top).sum(axis=-1, keepdims=True) > 1)
    require(not (crowd | (top == -np.inf)).any(), "every row", "led by a finite entry or a single infinite one", x)
    shifted = np.where(x == top, 0, x - top)
    log_sum = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted - log_sum, (top + log_sum)[..., 0]


# Pairs and rankings


def bradley_terry(chosen_rewards, rejected_rewards, margin=0.0):
    valid(locals(), N="chosen_rewards rejected_rewards")
    lead = chosen_rewards - rejected_rewards - margin
    push = sigmoid(-lead)
    return answer(losses=np.logaddexp(0, -lead), grad_chosen_rewards=-push, grad_rejected_rewards=push)


def ranking(scores):
    """-Σ over ranks of the log-softmax of the best among those left, and its gradient."""
    require(scores.shape[1] >= 2, "K", "at least 2", scores.shape[1])
    losses, grad = np.zeros_like(scores[:, 0]), np.zeros_like(scores)
    for k in range(scores.shape[1] - 1):
        log_p, _ = log_softmax(scores[:, k:])
        losses -= log_p[:, 0]
        grad[:, k:] += np.exp(log_p)
        grad[:, k] -= 1
    return losses, grad


def plackett_luce(rewards):
    valid(locals(), NK="rewards")
    losses, grad = ranking(rewards)
    return answer(losses=losses, grad_rewards=grad)


def optimal_policy(rewards, reference_logps, beta):
    valid(locals(), NK="rewards reference_logps")
    logps, log_partition = log_softmax(reference_logps + rewards / beta)
    return answer(logps=logps, log_partition=log_partition)


def kl_regularized_objective(policy_logits, rewards, reference_logps, beta):
    valid(locals(), NK="policy_logits rewards reference_logps")
    possible = policy_logits > -np.inf
    require(np.isfinite(reference_logps[possible]).all(), "reference_logps", "finite where the policy is positive", "-inf")
    logps, _ = log_softmax(policy_logits)
    p = np.exp(logps)
    gain = rewards - beta * (np.where(possible, logps, 0) - np.where(possible, reference_logps, 0))
    objective = (p * gain).sum(axis=1)
    return answer(objective=objective, grad_policy_logits=p * (gain - objective[:, None]))


# Offline pair losses


def log_ratios(policy_chosen, policy_rejected, reference_chosen, reference_rejected):
    return policy_chosen - reference_chosen, policy_rejected - reference_rejected


def pair(losses, slope_chosen, slope_rejected, chosen_rewards, rejected_rewards):
    return answer(
        losses=losses,
        grad_policy_chosen_logps=slope_chosen,
        grad_policy_rejected_logps=slope_rejected,
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
    )


def dpo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    valid(locals(), N=FOUR)
    pi_logratios = policy_chosen_logps - policy_rejected_logps
    ref_logratios = reference_chosen_logps - reference_rejected_logps
    logits = beta * (pi_logratios - ref_logratios)
    grad = -beta * sigmoid(-logits)
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    return pair(np.logaddexp(0, -logits), grad, -grad, chosen_rewards, rejected_rewards)


def cdpo(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1, label_smoothing=0.1
):
    valid(locals(), N=FOUR)
    w, l_ = log_ratios(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    z = beta * (w - l_)
    flipped = label_smoothing * np.logaddexp(0, z) if label_smoothing > 0 else 0  # 0 x inf
    losses = (1 - label_smoothing) * np.logaddexp(0, -z) + flipped
    slope = beta * (label_smoothing * sigmoid(z) - (1 - label_smoothing) * sigmoid(-z))
    return pair(losses, slope, -slope, beta * w, beta * l_)


def robust_dpo(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1, label_smoothing=0.1
):
    valid(locals(), N=FOUR)
    w, l_ = log_ratios(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    m = beta * (w - l_)
    debias = 1 - 2 * label_smoothing
    noise = label_smoothing * np.logaddexp(0, m) if label_smoothing > 0 else 0  # 0 x inf
    losses = ((1 - label_smoothing) * np.logaddexp(0, -m) - noise) / debias
    slope = -beta * ((1 - label_smoothing) * sigmoid(-m) + label_smoothing * sigmoid(m)) / debias
    return pair(losses, slope, -slope, w * beta, l_ * beta)


def plackett_luce_dpo(policy_logps, reference_logps, beta=0.1):
    valid(locals(), NK="policy_logps reference_logps")
    losses, grad = ranking(beta * (policy_logps - reference_logps))
    return answer(losses=losses, grad_policy_logps=beta * grad)


def ipo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    valid(locals(), N=FOUR)
    up, down = log_ratios(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    off = up - down - 1 / (2 * beta)
    return pair(off**2, 2 * off, -2 * off, beta * up, beta * down)


def ipo_length_normalized(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    chosen_lengths,
    rejected_lengths,
    beta=0.1,
):
    valid(locals(), N=FOUR + " chosen_lengths rejected_lengths")
    up, down = log_ratios(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    n_up, n_down = chosen_lengths.astype(up.dtype), rejected_lengths.astype(up.dtype)
    miss = up / n_up - down / n_down - 1 / (2 * beta)
    return pair(miss**2, 2 * miss / n_up, -2 * miss / n_down, up * beta, down * beta)


def rso_hinge(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    valid(locals(), N=FOUR)
    up, down = log_ratios(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    short = 1 - beta * (up - down)
    slope = np.where(short > 0, -beta, 0).astype(short.dtype)
    return pair(np.maximum(0, short), slope, -slope, beta * up, beta * down)


def orpo(policy_chosen_logps, policy_rejected_logps, chosen_lengths, rejected_lengths, odds_weight=0.1):
    valid(locals(), N="policy_chosen_logps policy_rejected_logps chosen_lengths rejected_lengths")
    n_w, n_l = chosen_lengths.astype(policy_chosen_logps.dtype), rejected_lengths.astype(policy_rejected_logps.dtype)
    a_w, a_l = policy_chosen_logps / n_w, policy_rejected_logps / n_l
    require((a_w < 0).all() and (a_l < 0).all(), "log-probabilities", "below 0", (a_w, a_l))
    log_odds_ratio = (a_w - log1mexp(a_w)) - (a_l - log1mexp(a_l))
    penalty = odds_weight * np.logaddexp(0, -log_odds_ratio) if odds_weight > 0 else 0  # 0 x inf
    pull = odds_weight * sigmoid(-log_odds_ratio)
    return answer(
        losses=-a_w + penalty,
        grad_policy_chosen_logps=-(1 + pull / -np.expm1(a_w)) / n_w,
        grad_policy_rejected_logps=pull / -np.expm1(a_l) / n_l,
        log_odds_ratio=log_odds_ratio,
    )


@np.errstate(divide="ignore")
def log1mexp(a):
    """log(1 - exp(a)) for a < 0."""
    return np.where(a > -0.693, np.log(-np.expm1(a)), np.log1p(-np.exp(a)))


def simpo(policy_chosen_logps, policy_rejected_logps, chosen_lengths, rejected_lengths, beta=2.0, gamma=0.5):
    valid(locals(), N="policy_chosen_logps policy_rejected_logps chosen_lengths rejected_lengths")
    size_w, size_l = (n.astype(policy_chosen_logps.dtype) for n in (chosen_lengths, rejected_lengths))
    clear = beta * (policy_chosen_logps / size_w - policy_rejected_logps / size_l) - gamma
    weight = beta * sigmoid(-clear)
    return answer(
        losses=np.logaddexp(0, -clear), grad_policy_chosen_logps=-weight / size_w, grad_policy_rejected_logps=weight / size_l
    )


def diffusion_dpo(
    policy_chosen_errors, policy_rejected_errors, reference_chosen_errors, reference_rejected_errors, beta=5000.0
):
    valid(locals(), N=FOUR.replace("logps", "errors"))
    worse_w = policy_chosen_errors - reference_chosen_errors
    worse_l = policy_rejected_errors - reference_rejected_errors
    inside = -beta / 2 * (worse_w - worse_l)
    grad = beta / 2 * sigmoid(-inside)
    return answer(losses=np.logaddexp(0, -inside), grad_policy_chosen_errors=grad, grad_policy_rejected_errors=-grad)


# Offline losses without pairs


def kto(policy_logps, reference_logps, desirable, reference_point, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    valid(locals(), N="policy_logps reference_logps desirable")
    r = policy_logps - reference_logps
    value = np.where(desirable, beta * (r - reference_point), beta * (reference_point - r))
    weight = np.where(desirable, desirable_weight, undesirable_weight).astype(r.dtype)
    steep = weight * beta * sigmoid(value) * sigmoid(-value)
    return answer(losses=weight * sigmoid(-value), grad_policy_logps=np.where(desirable, -steep, steep), rewards=beta * r)


def kto_reference_point(policy_mismatched_logps, reference_mismatched_logps):
    valid(locals(), N="policy_mismatched_logps reference_mismatched_logps")
    require(policy_mismatched_logps.size > 0, "N", "at least 1", 0)
    return answer(reference_point=np.maximum(0, (policy_mismatched_logps - reference_mismatched_logps).mean()))


def sppo(policy_logps, reference_logps, win_rates, eta):
    valid(locals(), N="policy_logps reference_logps win_rates")
    require(((win_rates >= 0) & (win_rates <= 1)).all(), "win_rates", "in [0, 1]", win_rates)
    residual = policy_logps - reference_logps - eta * (win_rates - 0.5)
    return answer(losses=residual**2, grad_policy_logps=2 * residual)


# Sequences


def predicting(response_mask):
    """True where a position's logits predict a response token: the mask, one step earlier."""
    return np.concatenate([response_mask[:, 1:], np.zeros_like(response_mask[:, :1])], axis=1)


def score(logits, tokens, response_mask):
    """Summed log-probabilities, lengths and the gradient in the logits, which must be clean where nothing is predicted."""
    vocabulary = logits.shape[-1]
    require(not response_mask[:, :1].any(), "response_mask[:, 0]", "false", True)
    require(response_mask.any(axis=1).all(), "response_mask", "true somewhere in every row", response_mask)
    known = tokens[response_mask]
    require(((known >= 0) & (known < vocabulary)).all(), "tokens", f"in [0, {vocabulary})", known)
    predicts = predicting(response_mask)
    targets = np.where(predicts, np.roll(tokens, -1, axis=1), 0)[..., None]
    log_p, _ = log_softmax(logits)
    picked = np.where(predicts, np.take_along_axis(log_p, targets, axis=-1)[..., 0], 0)
    grad = np.where(predicts[..., None], (np.arange(vocabulary) == targets) - np.exp(log_p), 0)
    return picked.sum(axis=1), response_mask.sum(axis=1), grad


def sequence_logps(logits, tokens, response_mask):
    valid(locals(), BTV="logits", BT="tokens response_mask")
    clean_logits = np.where(predicting(response_mask)[..., None], logits, 0)
    logps, lengths, grad = score(clean_logits, tokens, response_mask)
    return answer(logps=logps, lengths=lengths, grad_logits=grad)


def linear_sequence_logps(hidden, weight, tokens, response_mask):
    valid(locals(), BTD="hidden", VD="weight", BT="tokens response_mask")
    clean_hidden = np.where(predicting(response_mask)[..., None], hidden, 0)
    logps, lengths, grad = score(clean_hidden @ weight.T, tokens, response_mask)
    grad_weight = np.einsum("btv,btd->vd", grad, clean_hidden)
    return answer(logps=logps, lengths=lengths, grad_hidden=grad @ weight, grad_weight=grad_weight)


# On-policy


@np.errstate(over="ignore", invalid="ignore")
def k3(d):
    """e^d - 1 - d and its slope in the policy's log-probability."""
    return np.where(d == np.inf, np.inf, np.expm1(d) - d), -np.expm1(d)


def kl_estimates(policy_logps, reference_logps):
    valid(locals(), N="policy_logps reference_logps")
    d = reference_logps - policy_logps
    third, grad_third = k3(d)
    return answer(k1=-d, k2=d**2 / 2, k3=third, grad_k1=np.ones_like(d), grad_k2=-d, grad_k3=grad_third)


def gae(rewards, values, mask, discount, trace_decay):
    valid(locals(), BT="rewards values mask")
    rewards, values = np.where(mask, rewards, 0), np.where(mask, values, 0)
    advantages = np.zeros_like(values)
    next_value, trace = np.zeros_like(values[:, :1]), np.zeros_like(values[:, :1])
    for t in reversed(range(values.shape[1])):
        now = slice(t, t + 1)
        delta = rewards[:, now] + discount * next_value - values[:, now]
        trace = np.where(mask[:, now], delta + discount * trace_decay * trace, trace)
        next_value = np.where(mask[:, now], values[:, now], next_value)
        advantages[:, now] = np.where(mask[:, now], trace, 0)
    return answer(advantages=advantages, returns=advantages + values)


@np.errstate(over="ignore", invalid="ignore")
def surrogate(logps, old_logps, advantages, mask, clip_low, clip_high):
    logps, old_logps, advantages = (np.where(mask, x, 0) for x in (logps, old_logps, advantages))
    log_ratio = logps - old_logps
    require(not np.isnan(log_ratio).any(), "logps - old_logps", "a number", log_ratio)
    ratio = np.exp(log_ratio)
    free = np.where(advantages == 0, 0, ratio * advantages)
    bounded = np.clip(ratio, 1 - clip_low, 1 + clip_high) * advantages
    clipped = bounded < free
    return -np.minimum(free, bounded), np.where(clipped, 0, -free), clipped


def ppo_policy(logps, old_logps, advantages, mask, clip_low=0.2, clip_high=0.2):
    valid(locals(), BT="logps old_logps advantages mask")
    token_losses, grad, clipped = surrogate(logps, old_logps, advantages, mask, clip_low, clip_high)
    return answer(token_losses=token_losses, grad_logps=grad, clipped=clipped)


def ppo_value(values, old_values, returns, mask, clip=0.2):
    valid(locals(), BT="values old_values returns mask")
    values, old_values, returns = (np.where(mask, x, 0) for x in (values, old_values, returns))
    near = np.clip(values, old_values - clip, old_values + clip)
    plain, held = (values - returns) ** 2, (near - returns) ** 2
    token_losses = 0.5 * np.maximum(plain, held)
    return answer(token_losses=token_losses, grad_values=np.where(held > plain, 0, values - returns))


def grpo(logps, old_logps, reference_logps, advantages, mask, clip_low=0.2, clip_high=0.2, beta=0.04):
    valid(locals() | {"beta": beta or 1}, B="advantages", BT="logps old_logps reference_logps mask")  # 0 is legal here
    losses, grad, _ = surrogate(logps, old_logps, advantages[:, None], mask, clip_low, clip_high)
    if beta:
        away, grad_away = k3(np.where(mask, reference_logps, 0) - np.where(mask, logps, 0))
        losses, grad = losses + beta * away, grad + beta * grad_away
    return answer(token_losses=losses, grad_logps=grad)


# Groups


def several(rewards):
    require(rewards.shape[1] >= 2, "G", "at least 2", rewards.shape[1])
    return rewards.max(axis=1, keepdims=True) == rewards.min(axis=1, keepdims=True)


def advantages_grpo(rewards):
    valid(locals(), NG="rewards")
    level = several(rewards)
    scale = rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4
    return answer(advantages=np.where(level, 0, (rewards - rewards.mean(axis=1, keepdims=True)) / scale))


def advantages_dr_grpo(rewards):
    valid(locals(), NG="rewards")
    level = several(rewards)
    return answer(advantages=np.where(level, 0, rewards - rewards.mean(axis=1, keepdims=True)))


def advantages_rloo(rewards):
    valid(locals(), NG="rewards")
    level = several(rewards)
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return answer(advantages=np.where(level, 0, rewards - others))


# Aggregation and shaping


def weighted(token_losses, mask, weights):
    weights = np.where(mask, weights, 0).astype(token_losses.dtype)
    return answer(loss=(np.where(mask, token_losses, 0) * weights).sum(), weights=weights)


def sequence_mean(token_losses, mask):
    valid(locals(), BT="token_losses mask")
    row_lengths = mask.sum(axis=1, keepdims=True)
    require(len(mask) > 0 and (row_lengths > 0).all(), "mask", "true somewhere in every row, of one row or more", mask)
    return weighted(token_losses, mask, 1 / (len(mask) * row_lengths))


def token_mean(token_losses, mask):
    valid(locals(), BT="token_losses mask")
    require(mask.any(), "mask", "true somewhere", mask)
    return weighted(token_losses, mask, 1 / mask.sum())


def constant_mean(token_losses, mask, max_length):
    valid(locals(), BT="token_losses mask")
    require(len(mask) > 0, "B", "at least 1", 0)
    return weighted(token_losses, mask, 1 / (len(mask) * max_length))


def overlong_penalty(lengths, max_length, cache_length):
    valid(locals(), N="lengths")
    require(cache_length <= max_length, "cache_length", "at most max_length", cache_length)
    return answer(penalties=np.clip((max_length - cache_length - lengths) / cache_length, -1, 0))


def rejection_acceptance(rewards, beta, reward_max):
    valid(locals(), N="rewards")
    require((rewards <= reward_max).all(), "reward_max", "at least every reward", reward_max)
    return answer(acceptance_probabilities=np.exp((rewards - reward_max) / beta))
