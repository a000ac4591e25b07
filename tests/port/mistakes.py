"""A hundred mistakes in one line of the textbook port: (operation, old text, new text). The old text occurs once there."""

MISTAKES = [
    # A sign, a margin, a form that underflows
    ("bradley_terry", "chosen_rewards - rejected_rewards - margin", "chosen_rewards - rejected_rewards + margin"),
    ("bradley_terry", "push = sigmoid(-lead)", "push = sigmoid(lead)"),
    ("bradley_terry", "losses=np.logaddexp(0, -lead)", "losses=-np.log(sigmoid(lead))"),
    # The last choice forgotten, gradients of earlier ones overwritten, the chosen not taken out
    ("plackett_luce", "for k in range(scores.shape[1] - 1):", "for k in range(scores.shape[1] - 2):"),
    ("plackett_luce", "grad[:, k:] += np.exp(log_p)", "grad[:, k:] = np.exp(log_p)"),
    ("plackett_luce", "log_p, _ = log_softmax(scores[:, k:])", "log_p = log_softmax(scores)[0][:, k:]"),
    ("plackett_luce", 'require(scores.shape[1] >= 2, "K"', 'require(scores.shape[1] >= 1, "K"'),
    # Beta on the wrong side, the reference ignored, the wrong normalizer
    ("optimal_policy", "reference_logps + rewards / beta)", "reference_logps + rewards * beta)"),
    ("optimal_policy", "log_softmax(reference_logps + rewards / beta)", "log_softmax(rewards / beta)"),
    ("optimal_policy", "log_partition=log_partition)", "log_partition=beta * log_partition)"),
    # The KL term turned around or rewarded, its baseline forgotten, 0 log 0
    ("kl_regularized_objective", "gain = rewards - beta * (", "gain = rewards + beta * ("),
    ("kl_regularized_objective", "p * (gain - objective[:, None])", "p * gain"),
    ("kl_regularized_objective", "possible = policy_logits > -np.inf", "possible = policy_logits < np.inf"),
    ("kl_regularized_objective", "objective = (p * gain).sum(axis=1)", "objective = (p * gain).mean(axis=1)"),
    # The classics
    ("dpo", "logits = beta * (pi_logratios - ref_logratios)", "logits = beta * (pi_logratios + ref_logratios)"),
    ("dpo", "logits = beta * (pi_logratios - ref_logratios)", "logits = beta * pi_logratios"),
    ("dpo", "grad = -beta * sigmoid(-logits)", "grad = -sigmoid(-logits)"),
    ("dpo", "grad = -beta * sigmoid(-logits)", "grad = -beta * sigmoid(logits)"),
    ("dpo", "grad, -grad, chosen_rewards, rejected_rewards)", "grad, -grad, rejected_rewards, chosen_rewards)"),
    # Smoothing in the loss but not in the slope, weights that do not sum to 1, 0 times infinity
    ("cdpo", "beta * (label_smoothing * sigmoid(z) -", "beta * (-label_smoothing * sigmoid(z) -"),
    ("cdpo", "losses = (1 - label_smoothing) * np.logaddexp(0, -z) +", "losses = np.logaddexp(0, -z) +"),
    ("cdpo", "np.logaddexp(0, z) if label_smoothing > 0 else 0", "np.logaddexp(0, z)"),
    ("cdpo", "return pair(losses, slope, -slope, beta * w, beta * l_)", "return pair(losses, slope, -slope, w, l_)"),
    # Conservative instead of robust
    ("robust_dpo", "debias = 1 - 2 * label_smoothing", "debias = 1"),
    ("robust_dpo", "np.logaddexp(0, -m) - noise) / debias", "np.logaddexp(0, -m) + noise) / debias"),
    ("robust_dpo", "+ label_smoothing * sigmoid(m)) / debias", "- label_smoothing * sigmoid(m)) / debias"),
    ("robust_dpo", "lambda x: 0 <= x < 0.5", "lambda x: 0 <= x <= 0.5"),
    # Beta missing, the chain rule stopped short
    ("plackett_luce_dpo", "ranking(beta * (policy_logps - reference_logps))", "ranking(policy_logps - reference_logps)"),
    ("plackett_luce_dpo", "grad_policy_logps=beta * grad)", "grad_policy_logps=grad)"),
    # The target of IPO, and the slope of a square
    ("ipo", "off = up - down - 1 / (2 * beta)", "off = up - down - 1 / beta"),
    ("ipo", "pair(off**2, 2 * off, -2 * off,", "pair(off**2, off, -off,"),
    # Lengths: one for both, missing from the slope, present in the rewards, promoting float32
    ("ipo_length_normalized", "miss = up / n_up - down / n_down -", "miss = up / n_up - down / n_up -"),
    ("ipo_length_normalized", "2 * miss / n_up, -2 * miss / n_down,", "2 * miss, -2 * miss,"),
    ("ipo_length_normalized", "n_down, up * beta, down * beta)", "n_down, up / n_up * beta, down / n_down * beta)"),
    ("ipo_length_normalized", "n_up, n_down = chosen_lengths.astype(up.dtype),", "n_up, n_down = chosen_lengths,"),
    # The kink of the hinge
    ("rso_hinge", "short = 1 - beta * (up - down)", "short = beta - (up - down)"),
    ("rso_hinge", "np.where(short > 0, -beta, 0)", "np.where(short >= 0, -beta, 0)"),
    ("rso_hinge", "-beta, 0).astype(short.dtype)", "-beta, 0)"),
    ("rso_hinge", "pair(np.maximum(0, short), slope", "pair(short, slope"),
    # Odds: forgotten, cancelled, of sums, 0 times infinity
    ("orpo", "losses=-a_w + penalty,", "losses=penalty,"),
    ("orpo", "return np.where(a > -0.693, np.log(-np.expm1(a)), np.log1p(-np.exp(a)))", "return np.log(1 - np.exp(a))"),
    ("orpo", "-(1 + pull / -np.expm1(a_w)) / n_w", "-(1 + pull) / n_w"),
    ("orpo", "np.logaddexp(0, -log_odds_ratio) if odds_weight > 0 else 0", "np.logaddexp(0, -log_odds_ratio)"),
    ("orpo", "policy_chosen_logps / n_w, policy_rejected_logps / n_l", "policy_chosen_logps, policy_rejected_logps"),
    # The margin's sign and scale, and the averages
    ("simpo", "policy_rejected_logps / size_l) - gamma", "policy_rejected_logps / size_l) + gamma"),
    ("simpo", "policy_rejected_logps / size_l) - gamma", "policy_rejected_logps / size_l - gamma)"),
    ("simpo", "grad_policy_chosen_logps=-weight / size_w", "grad_policy_chosen_logps=-weight"),
    # Errors are to be small, log-probabilities large; and the half
    ("diffusion_dpo", "inside = -beta / 2 * (", "inside = beta / 2 * ("),
    ("diffusion_dpo", "inside = -beta / 2 * (", "inside = -beta * ("),
    # Labels, weights, the reference point, the slope of a sigmoid
    ("kto", "beta * (reference_point - r))", "-beta * (reference_point + r))"),
    ("kto", "(desirable, desirable_weight, undesirable_weight)", "(desirable, undesirable_weight, desirable_weight)"),
    ("kto", "undesirable_weight).astype(r.dtype)", "undesirable_weight)"),
    ("kto", "beta * sigmoid(value) * sigmoid(-value)", "beta * sigmoid(-value)"),
    ("kto", "rewards=beta * r)", "rewards=beta * (r - reference_point))"),
    # The clamp: dropped, or before the mean
    ("kto_reference_point", "np.maximum(0, (policy_mismatched_logps", "np.asarray((policy_mismatched_logps"),
    ("kto_reference_point", "reference_mismatched_logps).mean())", "reference_mismatched_logps)).mean()"),
    ("kto_reference_point", "reference_mismatched_logps).mean())", "reference_mismatched_logps).sum())"),
    # Win rates from 0 to 1, not from -1/2 to 1/2
    ("sppo", "eta * (win_rates - 0.5)", "eta * win_rates"),
    ("sppo", "((win_rates >= 0) & (win_rates <= 1)).all()", "(win_rates >= 0).all()"),
    # Token t is predicted at t - 1; sums, not means; NaN behind the mask; tokens that wrap around
    ("sequence_logps", "np.where(predicts, np.roll(tokens, -1, axis=1), 0)", "np.where(predicts, tokens, 0)"),
    ("sequence_logps", "return picked.sum(axis=1), response_mask.sum", "return picked.mean(axis=1), response_mask.sum"),
    ("sequence_logps", "clean_logits = np.where(predicting(response_mask)[..., None], logits, 0)", "clean_logits = logits"),
    ("sequence_logps", "(known >= 0) & (known < vocabulary)", "known < vocabulary"),
    ("sequence_logps", 'require(not response_mask[:, :1].any(), "response_mask', 'require(True, "response_mask'),
    ("linear_sequence_logps", '"btv,btd->vd", grad, clean_hidden)', '"btv,btd->vd", grad, hidden)'),
    ("linear_sequence_logps", "score(clean_hidden @ weight.T,", "score(hidden @ weight.T,"),
    # Directions, halves, the slope that is 0 only on average, cancellation
    ("kl_estimates", "d = reference_logps - policy_logps", "d = policy_logps - reference_logps"),
    ("kl_estimates", "k2=d**2 / 2", "k2=d**2"),
    ("kl_estimates", "grad_k1=np.ones_like(d)", "grad_k1=np.zeros_like(d)"),
    ("kl_estimates", "np.where(d == np.inf, np.inf, np.expm1(d) - d)", "np.expm1(d) - d"),
    # Steps: the last one, those removed, those after a gap
    ("gae", "in reversed(range(values.shape[1]))", "in reversed(range(values.shape[1] - 1))"),
    ("gae", "delta + discount * trace_decay * trace, trace)", "delta + trace_decay * trace, trace)"),
    ("gae", "delta + discount * trace_decay * trace, trace)", "delta + discount * trace_decay * trace, 0)"),
    ("gae", "next_value = np.where(mask[:, now], values[:, now], next_value)", "next_value = values[:, now]"),
    ("gae", "advantages[:, now] = np.where(mask[:, now], trace, 0)", "advantages[:, now] = trace"),
    # Clipping: the pessimist's side, ties, both ends, 0 times infinity, inputs edited in place
    ("ppo_policy", "return -np.minimum(free, bounded)", "return -np.maximum(free, bounded)"),
    ("ppo_policy", "clipped = bounded < free", "clipped = bounded <= free"),
    ("ppo_policy", "1 - clip_low, 1 + clip_high)", "1 - clip_low, 1 + clip_low)"),
    ("ppo_policy", "free = np.where(advantages == 0, 0, ratio * advantages)", "free = ratio * advantages"),
    ("ppo_value", "np.clip(values, old_values - clip, old_values + clip)", "np.clip(values - old_values, -clip, clip)"),
    (
        "ppo_value",
        "values, old_values, returns = (np.where(mask, x, 0) for x in (",
        "values[~mask] = old_values[~mask] = returns[~mask] = 0  # ((",
    ),
    # The KL term: turned around, without a slope, evaluated at 0
    (
        "grpo",
        "np.where(mask, reference_logps, 0) - np.where(mask, logps, 0)",
        "np.where(mask, logps, 0) - np.where(mask, reference_logps, 0)",
    ),
    ("grpo", "losses + beta * away, grad + beta * grad_away", "losses + beta * away, grad"),
    ("grpo", "if beta:", "if beta >= 0:"),
    # Deviations of a sample, and what keeps them from 0
    ("advantages_grpo", "ddof=1", "ddof=0"),
    ("advantages_grpo", "keepdims=True) + 1e-4", "keepdims=True) + 1e-8"),
    ("advantages_dr_grpo", "rewards - rewards.mean(axis=1, keepdims=True)))", "rewards - rewards.mean()))"),
    ("advantages_dr_grpo", 'require(rewards.shape[1] >= 2, "G"', 'require(rewards.shape[1] >= 1, "G"'),
    ("advantages_rloo", "rewards - others))", "others - rewards))"),
    ("advantages_rloo", "- rewards) / (rewards.shape[1] - 1)", "- rewards) / rewards.shape[1]"),
    # Which mean
    ("sequence_mean", "1 / (len(mask) * row_lengths)", "1 / row_lengths"),
    ("sequence_mean", "len(mask) > 0 and (row_lengths > 0).all()", "len(mask) > 0"),
    ("token_mean", "1 / mask.sum())", "1 / mask.size)"),
    ("token_mean", "(np.where(mask, token_losses, 0) * weights).sum()", "(token_losses * weights).sum()"),
    ("constant_mean", "1 / (len(mask) * max_length)", "1 / (len(mask) * mask.shape[1])"),
    ("constant_mean", "np.where(mask, weights, 0).astype(token_losses.dtype)", "np.where(mask, weights, 0)"),
    # A clamp dropped, a scale
    ("overlong_penalty", "lengths) / cache_length, -1, 0)", "lengths) / cache_length, None, 0)"),
    ("overlong_penalty", "lengths) / cache_length, -1, 0)", "lengths) / max_length, -1, 0)"),
    ("rejection_acceptance", "(rewards - reward_max) / beta", "(rewards - reward_max) * beta"),
    ("rejection_acceptance", "(rewards <= reward_max).all()", "rewards.size >= 0"),
]
