// The losses on log-probabilities and their gradients, in JavaScript: numbers and nested arrays in, nested arrays out.
//
//     evaluate("dpo", { policy_chosen_logps: [-9], policy_rejected_logps: [-8],
//                       reference_chosen_logps: [-10], reference_rejected_logps: [-8] })      // losses: [0.6443966600735709]
//
// An operation is its arguments, with what is legal for each; the names of its outputs; and its formula for one example,
// which returns them in that order. `evaluate` checks, takes the examples one by one, and refuses to answer NaN.
// Level 2 of the contract, on sequences, stands on this file: verify/ports/js/sequences.mjs.
// Log-probabilities are in nats; grad_X is the derivative of the loss in X; π_ref is a constant. Where a log-probability
// is -inf, the answer is the limit.

// Elementary functions. No exponential in them grows, and nothing cancels.

const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))); // log(1 + e^x)
const logSigmoid = (x) => -softplus(-x);
const log1mexp = (a) => (a > -Math.LN2 ? Math.log(-Math.expm1(a)) : Math.log1p(-Math.exp(a))); // log(1 - e^a), a < 0
const scaled = (factor, x) => (factor === 0 ? 0 : factor * x); // the limit at infinity, not 0 · inf
export const sum = (row) => row.reduce((total, x) => total + x, 0);

export function sigmoid(x) {
  const decay = Math.exp(-Math.abs(x));
  return (x < 0 ? decay : 1) / (1 + decay);
}

function logSumExp(row) {
  const largest = row.reduce((a, b) => Math.max(a, b), -Infinity); // a vocabulary is too long to be spread as arguments
  return largest + Math.log(sum(row.map((x) => Math.exp(x - largest))));
}

export function logSoftmax(row) {
  const total = logSumExp(row);
  return row.map((x) => x - total);
}

const softmax = (row) => logSoftmax(row).map(Math.exp);

// What an argument may be.

export const number = (rule, holds) => ({ rule, holds: (x) => typeof x === "number" && holds(x) });
export const FINITE = number("must be finite", Number.isFinite);
export const POSITIVE = number("must lie in (0, inf)", (x) => x > 0 && x < Infinity);
export const NOT_NEGATIVE = number("must lie in [0, inf)", (x) => x >= 0 && x < Infinity);
const FLIP_RATE = number("must lie in [0, 0.5)", (x) => x >= 0 && x < 0.5);
export const SHARE = number("must lie in [0, 1]", (x) => x >= 0 && x <= 1);
export const COUNT = number("must be a whole number >= 1", (x) => Number.isInteger(x) && x >= 1);
export const LOGP = number("must be finite or -inf", (x) => x < Infinity);
const LOGP_BELOW_0 = number("must lie in (-inf, 0) or be -inf", (x) => x < 0);
export const BOOLEAN = { rule: "must be true or false", holds: (x) => typeof x === "boolean" };

export const N = { name: "N", least: 0 }; // examples
const SOME = { name: "N", least: 1 };
const K = { name: "K", least: 1 }; // responses to one prompt
const RANKED = { name: "K", least: 2 };
export const array = (entry, ...dims) => ({ ...entry, dims });
export const scalar = (entry, usual) => ({ ...entry, dims: [], usual }); // without a usual value it has to be given

const policyPair = { policy_chosen_logps: array(LOGP, N), policy_rejected_logps: array(LOGP, N) };
const fourLogps = { ...policyPair, reference_chosen_logps: array(LOGP, N), reference_rejected_logps: array(LOGP, N) };
const ratio = { policy_logps: array(LOGP, N), reference_logps: array(LOGP, N) };
const lengths = { chosen_lengths: array(COUNT, N), rejected_lengths: array(COUNT, N) }; // response tokens, EOS included
const beta = scalar(POSITIVE, 0.1);

const pairGrads = ["grad_policy_chosen_logps", "grad_policy_rejected_logps"];
const pairLoss = ["losses", ...pairGrads, "chosen_rewards", "rejected_rewards"];

// r̂ = β log(π/π_ref) of both responses, and h = r̂_w - r̂_l: all that a loss on a pair sees.
function implicit(x) {
  const chosen = x.beta * (x.policy_chosen_logps - x.reference_chosen_logps);
  const rejected = x.beta * (x.policy_rejected_logps - x.reference_rejected_logps);
  return { chosen, rejected, h: chosen - rejected };
}

// A formula for one example, made one for all of them.
export const each = (outputs, formula) => (inputs, count) => {
  const at = (i) => Object.entries(inputs).map(([name, x]) => [name, Array.isArray(x) ? x[i] : x]);
  const answers = Array.from({ length: count }, (_, i) => formula(Object.fromEntries(at(i))));
  return Object.fromEntries(outputs.map((output, k) => [output, answers.map((answer) => answer[k])]));
};

export const operations = {
  // Bradley & Terry 1952; margin m: arXiv:2307.09288v2 eq. 2
  //     L = -log σ(r_w - r_l - m)
  bradley_terry: {
    inputs: { chosen_rewards: array(FINITE, N), rejected_rewards: array(FINITE, N), margin: scalar(FINITE, 0) },
    formula: each(["losses", "grad_chosen_rewards", "grad_rejected_rewards"], (x) => {
      const h = x.chosen_rewards - x.rejected_rewards - x.margin;
      const weight = sigmoid(-h);
      return [-logSigmoid(h), -weight, weight];
    }),
  },

  // Plackett 1975, Luce 1959; arXiv:2305.18290v3 eq. 18. Best response first.
  //     L = Σ_{k<K} [log Σ_{j>=k} e^{r_j} - r_k]
  plackett_luce: {
    inputs: { rewards: array(FINITE, N, RANKED) },
    formula: each(["losses", "grad_rewards"], (x) => plackettLuce(x.rewards)),
  },

  // The optimum of J(π) = E_π[R] - β KL(π || π_ref). arXiv:2305.18290v3 eq. 4
  //     π* = π_ref e^{R/β} / Z
  optimal_policy: {
    inputs: { rewards: array(FINITE, N, K), reference_logps: array(LOGP, N, K), beta: scalar(POSITIVE) },
    formula: each(["logps", "log_partition"], (x) => {
      const tilted = x.reference_logps.map((logp, k) => logp + x.rewards[k] / x.beta);
      return [logSoftmax(tilted), logSumExp(tilted)];
    }),
  },

  // J itself, to be maximized. arXiv:2305.18290v3 eq. 3
  //     ∂J/∂z_k = π_k (P_k - J),   P = R - β log(π/π_ref),   π = softmax(z)
  kl_regularized_objective: {
    inputs: {
      policy_logits: array(LOGP, N, K),
      rewards: array(FINITE, N, K),
      reference_logps: array(LOGP, N, K),
      beta: scalar(POSITIVE),
    },
    formula: each(["objective", "grad_policy_logits"], (x) => {
      const logps = logSoftmax(x.policy_logits);
      const penalized = (logp, k) => (logp === -Infinity ? 0 : x.rewards[k] - x.beta * (logp - x.reference_logps[k]));
      const objective = sum(logps.map((logp, k) => Math.exp(logp) * penalized(logp, k)));
      return [objective, logps.map((logp, k) => Math.exp(logp) * (penalized(logp, k) - objective))];
    }),
  },

  // Direct Preference Optimization. arXiv:2305.18290v3 eq. 7
  //     L = -log σ(h)                          ∂L/∂log π(y_w|x) = -β σ(-h)
  dpo: {
    inputs: { ...fourLogps, beta },
    formula: each(pairLoss, (x) => {
      const { chosen, rejected, h } = implicit(x);
      const weight = x.beta * sigmoid(-h);
      return [-logSigmoid(h), -weight, weight, chosen, rejected];
    }),
  },

  // Conservative DPO. Mitchell 2023, "A note on DPO with noisy preferences", eq. 3 and 4. Its minimum is at h = logit(1-ε).
  //     L = -(1-ε) log σ(h) - ε log σ(-h)      ∂L/∂log π(y_w|x) = -β [(1-ε) σ(-h) - ε σ(h)]
  cdpo: {
    inputs: { ...fourLogps, beta, label_smoothing: scalar(FLIP_RATE, 0.1) },
    formula: each(pairLoss, (x) => {
      const { chosen, rejected, h } = implicit(x), flipped = x.label_smoothing;
      const loss = -(1 - flipped) * logSigmoid(h) - scaled(flipped, logSigmoid(-h));
      const weight = x.beta * ((1 - flipped) * sigmoid(-h) - flipped * sigmoid(h));
      return [loss, -weight, weight, chosen, rejected];
    }),
  },

  // Robust DPO: its mean over flipped labels is DPO's on clean ones. arXiv:2403.00409v2 eq. 12. Unbounded below.
  //     L = [-(1-ε) log σ(h) + ε log σ(-h)] / (1-2ε)
  //     ∂L/∂log π(y_w|x) = -β [(1-ε) σ(-h) + ε σ(h)] / (1-2ε)
  robust_dpo: {
    inputs: { ...fourLogps, beta, label_smoothing: scalar(FLIP_RATE, 0.1) },
    formula: each(pairLoss, (x) => {
      const { chosen, rejected, h } = implicit(x), flipped = x.label_smoothing, unflipped = 1 - 2 * flipped;
      const loss = (scaled(flipped, logSigmoid(-h)) - (1 - flipped) * logSigmoid(h)) / unflipped;
      const weight = (x.beta * ((1 - flipped) * sigmoid(-h) + flipped * sigmoid(h))) / unflipped;
      return [loss, -weight, weight, chosen, rejected];
    }),
  },

  // DPO on rankings: Plackett-Luce on implicit rewards. arXiv:2305.18290v3 eq. 20
  plackett_luce_dpo: {
    inputs: { policy_logps: array(LOGP, N, RANKED), reference_logps: array(LOGP, N, RANKED), beta },
    formula: each(["losses", "grad_policy_logps"], (x) => {
      const rewards = x.policy_logps.map((logp, k) => x.beta * (logp - x.reference_logps[k]));
      const [loss, slopes] = plackettLuce(rewards);
      return [loss, slopes.map((slope) => x.beta * slope)];
    }),
  },

  // Identity Preference Optimization; β is the paper's τ. arXiv:2310.12036v2 eq. 17
  //     L = (Δ - 1/(2β))²,   Δ = h/β           ∂L/∂log π(y_w|x) = 2 (Δ - 1/(2β))
  ipo: {
    inputs: { ...fourLogps, beta },
    formula: each(pairLoss, (x) => ipo({ ...x, chosen_lengths: 1, rejected_lengths: 1 })),
  },

  // The same on means over tokens; gradients and rewards are still those of the sums.
  ipo_length_normalized: {
    inputs: { ...fourLogps, ...lengths, beta },
    formula: each(pairLoss, ipo),
  },

  // The hinge of statistical rejection sampling; β is the paper's γ. arXiv:2309.06657v2 eq. 10
  //     L = max(0, 1 - h)                      ∂L/∂log π(y_w|x) = -β where h < 1, else 0
  rso_hinge: {
    inputs: { ...fourLogps, beta },
    formula: each(pairLoss, (x) => {
      const { chosen, rejected, h } = implicit(x);
      const weight = h < 1 ? x.beta : 0;
      return [Math.max(0, 1 - h), -weight, weight, chosen, rejected];
    }),
  },

  // Kahneman-Tversky Optimization, on single responses. arXiv:2402.01306v4 eq. 8
  //     L = λ (1 - σ(z)),   z = ±β (log(π/π_ref) - z_0)      ∂L/∂log π = ∓λ β σ(z) σ(-z)      upper sign: desirable
  kto: {
    inputs: {
      ...ratio,
      desirable: array(BOOLEAN, N),
      reference_point: scalar(NOT_NEGATIVE),
      beta,
      desirable_weight: scalar(NOT_NEGATIVE, 1),
      undesirable_weight: scalar(NOT_NEGATIVE, 1),
    },
    formula: each(["losses", "grad_policy_logps", "rewards"], (x) => {
      const reward = x.beta * (x.policy_logps - x.reference_logps);
      const [sign, weight] = x.desirable ? [1, x.desirable_weight] : [-1, x.undesirable_weight];
      const z = sign * (reward - x.beta * x.reference_point);
      return [weight * sigmoid(-z), -sign * weight * x.beta * sigmoid(z) * sigmoid(-z), reward];
    }),
  },

  // Its reference point: the divergence from π_ref, estimated on mismatched prompts and responses. Section 4.1 there.
  //     z_0 = max(0, mean of log(π/π_ref))
  kto_reference_point: {
    inputs: { policy_mismatched_logps: array(LOGP, SOME), reference_mismatched_logps: array(LOGP, SOME) },
    formula: (x, count) => {
      const ratios = x.policy_mismatched_logps.map((logp, i) => logp - x.reference_mismatched_logps[i]);
      return { reference_point: Math.max(0, sum(ratios) / count) };
    },
  },

  // Odds Ratio Preference Optimization. arXiv:2403.07691v2 eq. 3 to 7
  //     L = -a_w - λ log σ(h),   h = o(a_w) - o(a_l),   o(a) = a - log(1 - e^a),   a = log π(y|x) / |y|
  //     ∂L/∂log π(y_w|x) = -(1 + λ σ(-h) / (1 - e^{a_w})) / |y_w|      ∂L/∂log π(y_l|x) = λ σ(-h) / (1 - e^{a_l}) / |y_l|
  orpo: {
    inputs: {
      policy_chosen_logps: array(LOGP_BELOW_0, N),
      policy_rejected_logps: array(LOGP_BELOW_0, N),
      ...lengths,
      odds_weight: scalar(NOT_NEGATIVE, 0.1),
    },
    formula: each(["losses", ...pairGrads, "log_odds_ratio"], (x) => {
      const chosen = x.policy_chosen_logps / x.chosen_lengths, rejected = x.policy_rejected_logps / x.rejected_lengths;
      const h = chosen - log1mexp(chosen) - (rejected - log1mexp(rejected));
      const loss = -chosen - scaled(x.odds_weight, logSigmoid(h));
      // One exponential: σ(-h) may underflow and 1/(1 - e^a) overflow where their product is ordinary.
      const push = (a) => scaled(x.odds_weight, Math.exp(logSigmoid(-h) - log1mexp(a)));
      return [loss, -(1 + push(chosen)) / x.chosen_lengths, push(rejected) / x.rejected_lengths, h];
    }),
  },

  // Simple Preference Optimization. arXiv:2405.14734v3 eq. 6; γ is absolute, not γ/β.
  //     L = -log σ(h),   h = β (a_w - a_l) - γ,   a = log π(y|x) / |y|      ∂L/∂log π(y_w|x) = -β σ(-h) / |y_w|
  simpo: {
    inputs: { ...policyPair, ...lengths, beta: scalar(POSITIVE, 2), gamma: scalar(FINITE, 0.5) },
    formula: each(["losses", ...pairGrads], (x) => {
      const chosen = x.policy_chosen_logps / x.chosen_lengths, rejected = x.policy_rejected_logps / x.rejected_lengths;
      const h = x.beta * (chosen - rejected) - x.gamma;
      const weight = x.beta * sigmoid(-h);
      return [-logSigmoid(h), -weight / x.chosen_lengths, weight / x.rejected_lengths];
    }),
  },

  // Self-Play Preference Optimization; π_ref is the previous iterate. arXiv:2405.00675v4 eq. 4.7
  //     L = (log(π/π_ref) - η (P - 1/2))²      P: how often the response beats one of the previous iterate
  sppo: {
    inputs: { ...ratio, win_rates: array(SHARE, N), eta: scalar(POSITIVE) },
    formula: each(["losses", "grad_policy_logps"], (x) => {
      const excess = x.policy_logps - x.reference_logps - x.eta * (x.win_rates - 0.5);
      return [excess * excess, 2 * excess];
    }),
  },

  // DPO for diffusion models, on mean squared denoising errors e. arXiv:2311.12908v1 eq. 14; the half is its code's.
  //     L = -log σ(h),   h = -(β/2) [(e_w - e_w^ref) - (e_l - e_l^ref)]
  diffusion_dpo: {
    inputs: {
      policy_chosen_errors: array(FINITE, N),
      policy_rejected_errors: array(FINITE, N),
      reference_chosen_errors: array(FINITE, N),
      reference_rejected_errors: array(FINITE, N),
      beta: scalar(POSITIVE, 5000),
    },
    formula: each(["losses", "grad_policy_chosen_errors", "grad_policy_rejected_errors"], (x) => {
      const chosen = x.policy_chosen_errors - x.reference_chosen_errors;
      const rejected = x.policy_rejected_errors - x.reference_rejected_errors;
      const h = -(x.beta / 2) * (chosen - rejected);
      const weight = (x.beta / 2) * sigmoid(-h);
      return [-logSigmoid(h), weight, -weight];
    }),
  },
};

// A ranking is a row of choices, each of the best of what is left; the last is chosen from nothing.
//     ∂L/∂r_m = Σ_{k<K, k<=m} softmax(r_k .. r_K)_m - 1[m < K]
function plackettLuce(rewards) {
  const slopes = rewards.map(() => 0);
  let loss = 0;
  for (let k = 0; k < rewards.length - 1; k++) {
    const left = rewards.slice(k);
    loss += logSumExp(left) - left[0];
    softmax(left).forEach((chance, j) => (slopes[k + j] += j === 0 ? chance - 1 : chance));
  }
  return [loss, slopes];
}

// The log-ratios are per token. A reward is β times that of the whole response.
function ipo(x) {
  const chosen = x.policy_chosen_logps - x.reference_chosen_logps;
  const rejected = x.policy_rejected_logps - x.reference_rejected_logps;
  const excess = chosen / x.chosen_lengths - rejected / x.rejected_lengths - 1 / (2 * x.beta);
  const grads = [(2 * excess) / x.chosen_lengths, (-2 * excess) / x.rejected_lengths];
  return [excess * excess, ...grads, x.beta * chosen, x.beta * rejected];
}

// Bad input. The message names the operation, the argument, the rule and the value.
export class Refusal extends Error {}

// The outputs of an operation by name. Arguments that are not given take their usual value. Throws a Refusal.
export function evaluate(name, given, known = operations) {
  if (!Object.hasOwn(known, name)) throw new Refusal(`no operation is called ${name}`);
  const { inputs, rules = [], formula } = known[name];
  const refuse = (argument, rule, value) => {
    throw new Refusal(`${name}: ${argument} ${rule}, got ${value}`);
  };
  const usual = Object.fromEntries(Object.entries(inputs).map(([argument, { usual }]) => [argument, usual]));
  const values = { ...usual, ...given }, sizes = {};
  for (const argument in values) {
    if (!Object.hasOwn(inputs, argument)) refuse(argument, "is no argument", values[argument]);
    check(values[argument], inputs[argument], sizes, (rule, value) => refuse(argument, rule, value));
  }
  for (const [argument, rule, holds] of rules) if (!holds(values)) refuse(argument, rule, values[argument]);
  checkSupport(values, refuse);
  const answer = formula(values, sizes.N);
  checkLimits(values, answer, refuse);
  return answer;
}

// Ranks, sizes equal where dimensions are, legal entries.
function check(value, { dims, rule, holds }, sizes, refuse, depth = 0) {
  if (depth === dims.length) return holds(value) || refuse(rule, value);
  const { name, least } = dims[depth];
  if (!Array.isArray(value)) refuse(`must have the shape [${dims.map((dim) => dim.name)}]`, value);
  sizes[name] ??= value.length;
  if (value.length !== sizes[name]) refuse(`must have ${name} = ${sizes[name]}`, value.length);
  if (value.length < least) refuse(`must have ${name} >= ${least}`, value.length);
  for (const entry of value) check(entry, { dims, rule, holds }, sizes, refuse, depth + 1);
}

// A reference probability of 0 where the policy is positive makes their divergence infinite.
function checkSupport(values, refuse) {
  for (const name in values) {
    const partner = name.replace("reference_", "policy_");
    const policy = values[partner] ?? values[partner.replace("logps", "logits")] ?? values[name.replace("reference_", "")];
    if (!name.startsWith("reference_") || !Array.isArray(policy)) continue;
    const logps = policy.flat();
    const escapes = values[name].flat().some((logp, i) => logp === -Infinity && logps[i] !== -Infinity);
    if (escapes) refuse(name, "must be finite where the policy is", values[name]);
  }
}

// NaN means that infinities met, or that finite numbers overflowed.
function checkLimits(values, answer, refuse) {
  for (const output in answer) {
    if (![answer[output]].flat(3).some(Number.isNaN)) continue;
    const names = Object.keys(values), culprit = names.find((name) => [values[name]].flat(3).includes(-Infinity)) ?? names[0];
    refuse(culprit, `must leave ${output} a limit`, values[culprit]);
  }
}
