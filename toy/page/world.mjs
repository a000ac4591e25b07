// One prompt with four responses of one token each: small enough to know the optimum, and to train without sampling.
//
//     P(y beats y') = (1-ρ) σ(R(y) - R(y')) + ρ σ(R(y') - R(y))      Bradley-Terry, labels flipped with probability ρ
//     π*            = π_ref e^{R/β} / Z                              arXiv:2305.18290v3 eq. 4
//
// A policy is four logits. Gradients are sums over all pairs, weighted by how often a pair occurs in the data.

import { evaluate, logSoftmax, operations, Refusal, sigmoid } from "./losses.mjs";

export const RESPONSES = ["A", "B", "C", "D"];
export const REWARDS = [0.75, 1.25, 0, -0.25]; // six pairs, six gaps: 0.25 to 1.5
export const REFERENCE = [0.1, 0.2, 0.3, 0.4];
const LOGPS = REFERENCE.map(Math.log);
const PAIRS = RESPONSES.flatMap((_, i) => RESPONSES.slice(i + 1).map((_, j) => [i, i + 1 + j])); // six, unordered

const total = (row) => row.reduce((sum, x) => sum + x, 0);

// An operation's answer, its arguments taken from a bag that holds more.
function ask(name, bag) {
  const known = Object.entries(bag).filter(([argument]) => argument in operations[name].inputs);
  return evaluate(name, Object.fromEntries(known));
}

// Uniform numbers in (0, 1): Park, Miller & Stockmeyer 1993, x ← 48271 x mod (2³¹ - 1). The first eight still show the seed.
function generator(seed) {
  let x = seed;
  const next = () => (x = (48271 * x) % 2147483647) / 2147483647;
  for (let i = 0; i < 8; i++) next();
  return next;
}

// How often i is preferred to j, as a share of all pairs [4][4]: counted in `pairs` labelled pairs, or expected if that is 0.
export function preferences({ noise, pairs, seed }) {
  const shares = RESPONSES.map(() => RESPONSES.map(() => 0)), uniform = generator(seed);
  const wins = (i, j) => (1 - noise) * sigmoid(REWARDS[i] - REWARDS[j]) + noise * sigmoid(REWARDS[j] - REWARDS[i]);
  for (let n = 0; n < pairs; n++) {
    const [i, j] = PAIRS[Math.floor(uniform() * PAIRS.length)];
    if (uniform() < wins(i, j)) shares[i][j] += 1;
    else shares[j][i] += 1;
  }
  if (pairs > 0) return shares.map((row) => row.map((count) => count / pairs));
  return shares.map((row, i) => row.map((_, j) => (i === j ? 0 : wins(i, j) / PAIRS.length)));
}

// π* as log-probabilities.
export const optimum = (beta) => evaluate("optimal_policy", { rewards: [REWARDS], reference_logps: [LOGPS], beta }).logps[0];

export const totalVariation = (logps, others) => total(logps.map((a, k) => Math.abs(Math.exp(a) - Math.exp(others[k])))) / 2;

// Four ways to a gradient in the log-probabilities.

function overPairs(settings, shares, logps) {
  const ordered = PAIRS.flatMap(([i, j]) => [[i, j], [j, i]]), slopes = RESPONSES.map(() => 0), ones = ordered.map(() => 1);
  const [chosen, rejected] = [0, 1].map((side) => ordered.map((pair) => pair[side]));
  const found = ask(settings.method, {
    ...settings,
    policy_chosen_logps: chosen.map((i) => logps[i]),
    policy_rejected_logps: rejected.map((j) => logps[j]),
    reference_chosen_logps: chosen.map((i) => LOGPS[i]),
    reference_rejected_logps: rejected.map((j) => LOGPS[j]),
    chosen_lengths: ones,
    rejected_lengths: ones,
  });
  ordered.forEach(([i, j], n) => {
    slopes[i] += shares[i][j] * found.grad_policy_chosen_logps[n];
    slopes[j] += shares[i][j] * found.grad_policy_rejected_logps[n];
  });
  return slopes;
}

// A preferred response is desirable, the other is not; z_0 is the divergence itself.
function overResponses({ beta }, shares, logps) {
  const divergence = total(logps.map((logp, k) => Math.exp(logp) * (logp - LOGPS[k])));
  const grads = [true, false].map((good) => {
    const bag = { policy_logps: logps, reference_logps: LOGPS, desirable: logps.map(() => good) };
    return evaluate("kto", { ...bag, reference_point: Math.max(0, divergence), beta }).grad_policy_logps;
  });
  return RESPONSES.map((_, i) => total(shares[i]) * grads[0][i] + total(shares.map((row) => row[i])) * grads[1][i]);
}

// One iteration from π_ref with η = 1/β, responses weighted as π_ref gives them.
function overWinRates({ beta }, shares, logps) {
  const rate = (i, j) => (shares[i][j] + shares[j][i] > 0 ? shares[i][j] / (shares[i][j] + shares[j][i]) : 0.5);
  const win_rates = RESPONSES.map((_, i) => total(REFERENCE.map((chance, j) => chance * rate(i, j))));
  const found = evaluate("sppo", { policy_logps: logps, reference_logps: LOGPS, win_rates, eta: 1 / beta });
  return found.grad_policy_logps.map((slope, i) => REFERENCE[i] * slope);
}

function ofObjective({ beta }, shares, logps) {
  const bag = { policy_logits: [logps], rewards: [REWARDS], reference_logps: [LOGPS], beta };
  return evaluate("kl_regularized_objective", bag).grad_policy_logits[0].map((slope) => -slope);
}

// The learning rate is the step over this curvature: the largest of the loss where it is bounded, else a moderate number.
const logistic = (beta) => beta ** 2 / 6;
const one = () => 1;

const method = (label, gradient, curvature, loss, source) => ({ label, gradient, curvature, loss, source });

export const METHODS = {
  dpo: method("DPO", overPairs, logistic, "−log σ(βΔ)", "arXiv:2305.18290v3 eq. 7"),
  cdpo: method("cDPO", overPairs, logistic, "−(1−ε) log σ(βΔ) − ε log σ(−βΔ)", "Mitchell 2023, eq. 3"),
  robust_dpo: method("robust DPO", overPairs, logistic, "[ε log σ(−βΔ) − (1−ε) log σ(βΔ)]/(1−2ε)", "arXiv:2403.00409v2 eq. 12"),
  ipo: method("IPO", overPairs, () => 4 / 3, "(Δ − 1/(2β))²", "arXiv:2310.12036v2 eq. 17"),
  rso_hinge: method("hinge", overPairs, (beta) => beta, "max(0, 1 − βΔ)", "arXiv:2309.06657v2 eq. 10"),
  kto: method("KTO", overResponses, logistic, "1 − σ(±β(log π/π_ref − z₀))", "arXiv:2402.01306v4 eq. 8"),
  simpo: method("SimPO", overPairs, logistic, "−log σ(β(a_w − a_l) − γ)", "arXiv:2405.14734v3 eq. 6"),
  orpo: method("ORPO", overPairs, one, "−a_w − λ log σ(o(a_w) − o(a_l))", "arXiv:2403.07691v2 eq. 6"),
  sppo: method("SPPO", overWinRates, one, "(log π/π_ref − (P − ½)/β)², one iteration", "arXiv:2405.00675v4 eq. 4.7"),
  kl_regularized_objective: method("true reward", ofObjective, one, "−E[R] + β KL(π‖π_ref)", "arXiv:2305.18290v3 eq. 3"),
};

export const learningRate = ({ method, beta, step }) => step / METHODS[method].curvature(beta);

// Gradient descent on the logits from the reference's, or from those given. A log-softmax passes on g_k - π_k Σ_j g_j.
export function train(settings, steps, logits = LOGPS, shares = preferences(settings)) {
  for (let n = 0; n < steps; n++) {
    const logps = logSoftmax(logits), slopes = METHODS[settings.method].gradient(settings, shares, logps);
    const common = total(slopes);
    logits = logits.map((z, k) => z - learningRate(settings) * (slopes[k] - Math.exp(logps[k]) * common));
    if (!logits.every(Number.isFinite)) throw new Refusal("the logits overflow: the learning rate is too large");
  }
  return logits;
}

// A loss and its slope along the log-ratio gap: references at 0, lengths 1; ORPO, without a reference, from log π(y_l|x) = -1.
export function curve(method, settings, gaps) {
  const level = method === "orpo" ? -1 : 0, all = (value) => gaps.map(() => value), moved = gaps.map((gap) => level + gap);
  const found = ask(method, {
    ...settings,
    policy_chosen_logps: moved,
    policy_rejected_logps: all(level),
    reference_chosen_logps: all(0),
    reference_rejected_logps: all(0),
    chosen_lengths: all(1),
    rejected_lengths: all(1),
    policy_logps: gaps,
    reference_logps: all(0),
    desirable: all(true),
    reference_point: 0,
    win_rates: all(1),
    eta: 1 / settings.beta,
  });
  return { losses: found.losses, slopes: found.grad_policy_chosen_logps ?? found.grad_policy_logps };
}

// The gap from which on the loss falls no more, by bisection of its slope in [low, high]; NaN if there is none.
export function minimum(method, settings, low, high) {
  const falls = (gap) => curve(method, settings, [gap]).slopes[0] < 0;
  if (!falls(low) || falls(high)) return NaN;
  for (let n = 0; n < 60; n++) {
    const middle = (low + high) / 2;
    if (falls(middle)) low = middle;
    else high = middle;
  }
  return high;
}
