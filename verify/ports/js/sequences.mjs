// Level 2 in JavaScript, on top of level 1: sequences, on-policy pieces, averages over tokens, with their gradients.
//
//     evaluate("gae", { rewards: [[0, 1]], values: [[0.5, 0.25]], mask: [[true, true]], discount: 1, trace_decay: 1 })
//                                                                         // advantages: [[0.5, 0.75]], returns: [[1, 1]]
//
// Arrays are [B][T] unless their dimensions say otherwise. Where a mask is false anything may stand, so all that does not count
// is made 0 before it is checked, and answers there are 0. Position t - 1 predicts token t.

import {
  array, BOOLEAN, COUNT, each, evaluate as evaluateKnown, FINITE, logSoftmax, LOGP, N, NOT_NEGATIVE, number,
  operations as losses, POSITIVE, scalar, SHARE, sum,
} from "../../../toy/page/losses.mjs";

const TOKEN = number("must be a whole number >= 0", (x) => Number.isInteger(x) && x >= 0);
const CLIP_LOW = number("must lie in (0, 1)", (x) => x > 0 && x < 1);
const AT_LEAST_1 = number("must lie in [1, inf)", (x) => x >= 1 && x < Infinity);

const dimension = (name, least = 0) => ({ name, least });
const B = dimension("B"), T = dimension("T", 1), V = dimension("V", 1), D = dimension("D", 1); // rows, positions, words, width
const GROUP = dimension("G", 2); // responses to one prompt

const mask = array(BOOLEAN, B, T);
const response = { tokens: array(TOKEN, B, T), response_mask: mask };
const sampled = { logps: array(LOGP, B, T), old_logps: array(LOGP, B, T) };
const clips = { clip_low: scalar(CLIP_LOW, 0.2), clip_high: scalar(POSITIVE, 0.2) };
const group = { rewards: array(FINITE, N, GROUP) };
const averaged = { token_losses: array(FINITE, B, T), mask };

const A_ROW = ["mask", "must have at least one row", (x) => x.mask.length > 0];
const A_TOKEN = ["mask", "must be true somewhere", (x) => x.mask.flat().includes(true)];
const A_TOKEN_A_ROW = ["mask", "must be true somewhere in every row", (x) => x.mask.every((row) => row.includes(true))];

const responseRules = (vocabulary) => [
  ["response_mask", "must be false at position 0, which nothing predicts", (x) => !x.response_mask.some((row) => row[0])],
  ["response_mask", "must be true somewhere in every row", (x) => x.response_mask.every((row) => row.includes(true))],
  ["tokens", "must lie in the vocabulary", (x) => x.tokens.flat().every((token) => token < vocabulary(x))],
];

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const dot = (u, v) => sum(u.map((x, i) => x * v[i]));
const nothing = (x) => (Array.isArray(x) ? x.map(nothing) : 0);

// The rows, places and tokens of all responses: where the logits are that predict them.
const predicted = (x) =>
  x.response_mask.flatMap((row, b) =>
    row.flatMap((counts, t) => (counts ? [{ b, place: t - 1, token: x.tokens[b][t] }] : [])));

const lengthsOf = (x) => x.response_mask.map((row) => row.filter(Boolean).length);

// log softmax(z)[y], and its slopes 1[v = y] - softmax(z)_v.
function scored(logits, token) {
  const logps = logSoftmax(logits);
  return [logps[token], logps.map((logp, v) => (v === token ? -Math.expm1(logp) : -Math.exp(logp)))];
}

// A formula for one position, made one for all that count; elsewhere the answers are `empty`.
const eachToken = (outputs, empty, formula) => (inputs) => {
  const at = (x, b, t) => (Array.isArray(x) ? (Array.isArray(x[b]) ? x[b][t] : x[b]) : x);
  const here = (b, t) => Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, at(x, b, t)]));
  const answers = inputs.mask.map((row, b) => row.map((counts, t) => (counts ? formula(here(b, t)) : empty)));
  return Object.fromEntries(outputs.map((output, k) => [output, answers.map((row) => row.map((answer) => answer[k]))]));
};

// e^d - 1 - d, and its slope in log π, d being log(π_ref/π).
function k3(d) {
  return [d === Infinity ? d : Math.expm1(d) - d, -Math.expm1(d)];
}

function clippedLoss(x) {
  const ratio = Math.exp(x.logps - x.old_logps);
  const times = (factor) => (x.advantages === 0 && factor === Infinity ? 0 : factor * x.advantages);
  const free = times(ratio), held = times(clamp(ratio, 1 - x.clip_low, 1 + x.clip_high));
  return held < free ? [-held, 0, true] : [-free, -free, false];
}

// Σ weight · loss, with one weight for all tokens of a row.
function weighted(x, weight) {
  const weights = x.mask.map((row) => row.map((counts) => (counts ? weight(row) : 0)));
  return { loss: sum(weights.map((row, b) => dot(row, x.token_losses[b]))), weights };
}

const inGroup = (advantage) =>
  each(["advantages"], ({ rewards }) =>
    [rewards.every((reward) => reward === rewards[0]) ? nothing(rewards) : advantage(rewards, sum(rewards) / rewards.length)]);

export const operations = {
  ...losses,

  // arXiv:2305.18290v3 section 4
  //     log π(y|x) = Σ_t log softmax(z_{t-1})[y_t]
  sequence_logps: {
    inputs: { logits: array(LOGP, B, T, V), ...response },
    rules: responseRules((x) => x.logits[0][0].length),
    formula: (x) => {
      const logps = nothing(x.logits.map(() => 0)), grad_logits = nothing(x.logits);
      for (const { b, place, token } of predicted(x)) {
        const [logp, slopes] = scored(x.logits[b][place], token);
        logps[b] += logp;
        grad_logits[b][place] = slopes;
      }
      return { logps, lengths: lengthsOf(x), grad_logits };
    },
  },

  // The same, with z = W h.
  //     ∂log π/∂h_t = Wᵀ ∂log π/∂z_t      ∂log π/∂W = Σ_t ∂log π/∂z_t h_tᵀ
  linear_sequence_logps: {
    inputs: { hidden: array(FINITE, B, T, D), weight: array(FINITE, V, D), ...response },
    rules: responseRules((x) => x.weight.length),
    formula: (x) => {
      const logps = x.hidden.map(() => 0), grad_hidden = nothing(x.hidden), grad_weight = nothing(x.weight);
      for (const { b, place, token } of predicted(x)) {
        const h = x.hidden[b][place];
        const [logp, slopes] = scored(x.weight.map((w) => dot(w, h)), token);
        logps[b] += logp;
        grad_hidden[b][place] = h.map((_, d) => dot(slopes, x.weight.map((w) => w[d])));
        slopes.forEach((slope, v) => h.forEach((value, d) => (grad_weight[v][d] += slope * value)));
      }
      return { logps, lengths: lengthsOf(x), grad_hidden, grad_weight };
    },
  },

  // J. Schulman 2020, "Approximating KL divergence". Gradients are those of each as a loss.
  kl_estimates: {
    inputs: { policy_logps: array(LOGP, N), reference_logps: array(LOGP, N) },
    formula: each(["k1", "k2", "k3", "grad_k1", "grad_k2", "grad_k3"], (x) => {
      const d = x.reference_logps - x.policy_logps, [estimate, slope] = k3(d);
      return [-d, (d * d) / 2, estimate, 1, -d, slope];
    }),
  },

  // arXiv:1506.02438v6 eq. 11 and 16, on the positions that count as if there were no others
  //     δ_t = r_t + γ V_{t+1} - V_t,   A_t = δ_t + γλ A_{t+1},   G_t = A_t + V_t
  gae: {
    inputs: {
      rewards: array(FINITE, B, T), values: array(FINITE, B, T), mask,
      discount: scalar(SHARE), trace_decay: scalar(SHARE),
    },
    formula: (x) => {
      const advantages = nothing(x.mask);
      x.mask.forEach((row, b) => {
        let ahead = 0, trace = 0;
        for (let t = row.length - 1; t >= 0; t--) {
          if (!row[t]) continue;
          const delta = x.rewards[b][t] + x.discount * ahead - x.values[b][t];
          advantages[b][t] = trace = delta + x.discount * x.trace_decay * trace;
          ahead = x.values[b][t];
        }
      });
      return { advantages, returns: advantages.map((row, b) => row.map((advantage, t) => advantage + x.values[b][t])) };
    },
  },

  // arXiv:1707.06347v2 eq. 7, with a clip on either side
  //     L = -min(ρA, clip(ρ) A),   ρ = π/π_old      ∂L/∂log π = -ρA, 0 where clipped
  ppo_policy: {
    inputs: { ...sampled, advantages: array(FINITE, B, T), mask, ...clips },
    formula: eachToken(["token_losses", "grad_logps", "clipped"], [0, 0, false], clippedLoss),
  },

  // openai/baselines, ppo2
  //     L = max((V - G)², (V_c - G)²) / 2,   V_c = clip(V, V_old - c, V_old + c)
  ppo_value: {
    inputs: {
      values: array(FINITE, B, T), old_values: array(FINITE, B, T), returns: array(FINITE, B, T), mask,
      clip: scalar(POSITIVE, 0.2),
    },
    formula: eachToken(["token_losses", "grad_values"], [0, 0], (x) => {
      const free = x.values - x.returns, held = clamp(x.values, x.old_values - x.clip, x.old_values + x.clip) - x.returns;
      return held * held > free * free ? [(held * held) / 2, 0] : [(free * free) / 2, free];
    }),
  },

  // arXiv:2402.03300v3 eq. 3 and 4; one advantage a row
  //     L = L_PPO + β k3
  grpo: {
    inputs: {
      ...sampled, reference_logps: array(LOGP, B, T), advantages: array(FINITE, B), mask, ...clips,
      beta: scalar(NOT_NEGATIVE, 0.04),
    },
    formula: eachToken(["token_losses", "grad_logps"], [0, 0], (x) => {
      const [loss, slope] = clippedLoss(x);
      if (x.beta === 0) return [loss, slope];
      const [penalty, pull] = k3(x.reference_logps - x.logps);
      return [loss + x.beta * penalty, slope + x.beta * pull];
    }),
  },

  // arXiv:2402.03300v3 section 4.1.2
  //     A = (R - mean) / (std + 1e-4), G - 1 in the denominator of std²
  advantages_grpo: {
    inputs: group,
    formula: inGroup((rewards, mean) => {
      const away = rewards.map((reward) => reward - mean), spread = Math.sqrt(dot(away, away) / (away.length - 1)) + 1e-4;
      return away.map((x) => x / spread);
    }),
  },

  // arXiv:2503.20783v2 section 3.2
  advantages_dr_grpo: { inputs: group, formula: inGroup((rewards, mean) => rewards.map((reward) => reward - mean)) },

  // arXiv:2402.14740v2 section 2.3: R less the mean of the others, which is G/(G-1) times R less the mean of all
  advantages_rloo: {
    inputs: group,
    formula: inGroup((rewards, mean) => rewards.map((reward) => ((reward - mean) * rewards.length) / (rewards.length - 1))),
  },

  // arXiv:2402.03300v3 eq. 3: every row counts the same
  sequence_mean: {
    inputs: averaged,
    rules: [A_ROW, A_TOKEN_A_ROW],
    formula: (x) => weighted(x, (row) => 1 / (x.mask.length * row.filter(Boolean).length)),
  },

  // arXiv:2503.14476v2 eq. 8: every token counts the same
  token_mean: {
    inputs: averaged,
    rules: [A_TOKEN],
    formula: (x) => weighted(x, () => 1 / x.mask.flat().filter(Boolean).length),
  },

  // arXiv:2503.20783v2 section 3.2: every token counts the same, however many there are
  constant_mean: {
    inputs: { ...averaged, max_length: scalar(AT_LEAST_1) },
    rules: [A_ROW],
    formula: (x) => weighted(x, () => 1 / (x.mask.length * x.max_length)),
  },

  // arXiv:2503.14476v2 eq. 13
  overlong_penalty: {
    inputs: { lengths: array(COUNT, N), max_length: scalar(AT_LEAST_1), cache_length: scalar(POSITIVE) },
    rules: [["cache_length", "must not exceed max_length", (x) => x.cache_length <= x.max_length]],
    formula: each(["penalties"], (x) => [clamp((x.max_length - x.cache_length - x.lengths) / x.cache_length, -1, 0)]),
  },

  // arXiv:2309.06657v2 eq. 14
  rejection_acceptance: {
    inputs: { rewards: array(FINITE, N), beta: scalar(POSITIVE), reward_max: scalar(FINITE) },
    rules: [["reward_max", "must be at least every reward", (x) => x.rewards.every((reward) => reward <= x.reward_max)]],
    formula: each(["acceptance_probabilities"], (x) => [Math.exp((x.rewards - x.reward_max) / x.beta)]),
  },
};

// `value` with 0 wherever `counts` is false; as it is where their shapes do not fit, which is for `evaluate` to say.
function blanked(value, counts) {
  if (counts === false) return nothing(value);
  if (!Array.isArray(counts) || !Array.isArray(value)) return value;
  return value.map((x, i) => blanked(x, counts[i]));
}

// Where the entries of an argument count: of tokens, at the mask; of what predicts them, one position before; of a row's own
// number, where anything of the row does.
function counting(argument, { dims }, given) {
  const rows = given.mask ?? given.response_mask;
  if (dims[0] !== B || argument.endsWith("mask") || !Array.isArray(rows) || !rows.every(Array.isArray)) return true;
  if (dims.length === 1) return rows.map((row) => row.includes(true));
  const shifted = given.response_mask && argument !== "tokens";
  return shifted ? rows.map((row) => [...row.slice(1), false]) : rows;
}

// The outputs of an operation by name. Throws a Refusal.
export function evaluate(name, given) {
  const inputs = Object.entries(operations[name]?.inputs ?? {}).filter(([argument]) => argument in given);
  const kept = inputs.map(([argument, entry]) => [argument, blanked(given[argument], counting(argument, entry, given))]);
  return evaluateKnown(name, { ...given, ...Object.fromEntries(kept) }, operations);
}
