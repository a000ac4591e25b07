"""Proofs: what follows from the papers' definitions for all values of the symbols, positive or real as they are declared.

The losses below are written as their papers print them. The first claim shows at random points that minipref computes them, so
that what SymPy proves of the formulas is true of the code. K is 3 where a number of responses is needed. Symbols are named as
in the contract.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import sympy as sp

import minipref
from toy.experiment import Measured, Reading
from verify import cases
from verify.theory.claim import exact, symbolic

Expression = Any
K = 3
BETA, GAMMA, ETA, ODDS_WEIGHT = sp.symbols("beta gamma eta odds_weight", positive=True)
EPSILON, MARGIN, Z0 = sp.symbols("label_smoothing margin reference_point", positive=True)
GOOD, UP, DOWN = sp.symbols("desirable desirable_weight undesirable_weight", positive=True)
W, L, REF_W, REF_L = sp.symbols("policy_chosen_logps policy_rejected_logps reference_chosen_logps reference_rejected_logps")
E_W, E_L, EREF_W, EREF_L = sp.symbols(
    "policy_chosen_errors policy_rejected_errors reference_chosen_errors reference_rejected_errors"
)
N_W, N_L = sp.symbols("chosen_lengths rejected_lengths", positive=True)
Y, REF_Y, WIN_RATE = sp.symbols("policy_logps reference_logps win_rates")
R_W, R_L = sp.symbols("chosen_rewards rejected_rewards", real=True)
REWARDS = sp.symbols(f"rewards_:{K}", real=True)
RANKED, REF_RANKED = sp.symbols(f"policy_logps_:{K}"), sp.symbols(f"reference_logps_:{K}")
POLICY, REFERENCE = sp.symbols(f"p:{K}", positive=True), sp.symbols(f"q:{K}", positive=True)


def sigmoid(x: Expression) -> Expression:
    return 1 / (1 + sp.exp(-x))


def odds(mean: Expression) -> Expression:
    return sp.exp(mean) / (1 - sp.exp(mean))


def ranking_loss(scores: Any) -> Expression:
    return -sum(sp.log(sp.exp(scores[k]) / sum(map(sp.exp, scores[k:]))) for k in range(len(scores)))


GAP = (W - REF_W) - (L - REF_L)
H = BETA * GAP
SIGN, WEIGHT = 2 * GOOD - 1, GOOD * UP + (1 - GOOD) * DOWN
Z_KTO = BETA * SIGN * (Y - REF_Y - Z0)
ODDS_TERM = -sp.log(sigmoid(sp.log(odds(W / N_W)) - sp.log(odds(L / N_L))))
LOSSES: Mapping[str, Expression] = {
    "bradley_terry": -sp.log(sigmoid(R_W - R_L - MARGIN)),
    "plackett_luce": ranking_loss(REWARDS),
    "dpo": -sp.log(sigmoid(H)),
    "cdpo": -(1 - EPSILON) * sp.log(sigmoid(H)) - EPSILON * sp.log(sigmoid(-H)),
    "robust_dpo": (-(1 - EPSILON) * sp.log(sigmoid(H)) + EPSILON * sp.log(sigmoid(-H))) / (1 - 2 * EPSILON),
    "plackett_luce_dpo": ranking_loss([BETA * (y - ref) for y, ref in zip(RANKED, REF_RANKED, strict=True)]),
    "ipo": (GAP - 1 / (2 * BETA)) ** 2,
    "ipo_length_normalized": ((W - REF_W) / N_W - (L - REF_L) / N_L - 1 / (2 * BETA)) ** 2,
    "kto": WEIGHT * (1 - sigmoid(Z_KTO)),
    "orpo": -W / N_W + ODDS_WEIGHT * ODDS_TERM,
    "simpo": -sp.log(sigmoid(BETA * W / N_W - BETA * L / N_L - GAMMA)),
    "sppo": (Y - REF_Y - ETA * (WIN_RATE - sp.Rational(1, 2))) ** 2,
    "diffusion_dpo": -sp.log(sigmoid(-BETA / 2 * ((E_W - EREF_W) - (E_L - EREF_L)))),
}
DPO, CDPO, IPO, KTO = (LOSSES[name] for name in ("dpo", "cdpo", "ipo", "kto"))


@exact("symbolic.formulas-are-the-code", (0.0, 1e-11))
def _(rng: np.random.Generator) -> Measured:
    """minipref's smooth losses on scores, pairs, rankings and single responses are the papers' formulas, and their hand-written
    gradients are the formulas' symbolic derivatives.
    Source: the equations named in each file of minipref
    False: The gradients are those of the mean over the batch.
    Measured: largest relative difference over all losses; for the false variant, that of the loss which tells least
    """
    sums, means = zip(*(_differences(name, rng) for name in LOSSES), strict=True)
    return Measured(Reading.worst(sums), Reading(float(np.min(means))))


def _differences(name: str, rng: np.random.Generator) -> tuple[float, float]:
    """How far the code is from the formula, and from it with gradients divided by the number of examples."""
    drawn = cases.draw(name, "ordinary", rng, "float64").inputs
    inputs = {n: x[:, :K] if np.ndim(x) == 2 else x for n, x in drawn.items()}
    point = {n: v for name, value in inputs.items() for n, v in _columns(name, value).items()}
    got = getattr(minipref, name)(**inputs)
    slopes = {n: v for f in got._fields if f.startswith("grad_") for n, v in _columns(f[5:], getattr(got, f)).items()}

    symbols = sorted(LOSSES[name].free_symbols, key=str)
    derivatives = [sp.diff(LOSSES[name], symbol) for symbol in symbols if symbol.name in slopes]
    loss, *due = sp.lambdify(symbols, [LOSSES[name], *derivatives], "numpy")(*(point[s.name] for s in symbols))
    found = np.array([slopes[symbol.name] for symbol in symbols if symbol.name in slopes])
    off = Reading.worst((got.losses - loss) / (1 + np.abs(loss)), (found - due) / (1 + np.abs(due))).value
    return off, Reading.worst(found - np.array(due) / len(loss)).value


def _columns(name: str, value: Any) -> dict[str, Any]:
    """An array of two axes as its columns, under the names of their symbols."""
    return {f"{name}_{k}": value[:, k] for k in range(K)} if np.ndim(value) == 2 else {name: value}


# The objective and its optimum, for any policy p / Σ p. The reference q need not even be normalized.

PI = [p / sum(POLICY) for p in POLICY]
Z = sum(q * sp.exp(r / BETA) for q, r in zip(REFERENCE, REWARDS, strict=True))
BEST = [q * sp.exp(r / BETA) / Z for q, r in zip(REFERENCE, REWARDS, strict=True)]
LOG_Z = sp.Symbol("log_Z", real=True)


def divergence(p: Any, q: Any) -> Expression:
    return sum(a * sp.log(a / b) for a, b in zip(p, q, strict=True))


def objective(p: Any) -> Expression:
    return sum(a * r for a, r in zip(p, REWARDS, strict=True)) - BETA * divergence(p, REFERENCE)


def expanded(expression: Expression) -> Expression:
    """Logarithms of products taken apart: every factor here is positive."""
    return sp.expand(sp.expand_log(expression, force=True))


@symbolic("optimum.lagrangian")
def _() -> tuple[Any, Any]:
    """The Lagrangian of E R - β KL(π‖π_ref) on the simplex has one stationary point, π_ref e^{R/β}/Z, and the multiplier of the
    constraint is β(log Z - 1).
    Source: arXiv:2305.18290v3 eq. 4 and appendix A.1
    False: The multiplier is β log Z, the value of the optimum.
    """
    free, multiplier = sp.symbols(f"x:{K}", positive=True), sp.Symbol("multiplier", real=True)
    lagrangian = objective(free) - multiplier * (sum(free) - 1)
    stationary = [sp.solve(sp.diff(lagrangian, x), x) for x in free]
    (solved,) = sp.solve(sum(only for (only,) in stationary) - 1, multiplier)
    points = [only.subs(multiplier, solved) - best for (only,), best in zip(stationary, BEST, strict=True)]
    return [solved - BETA * (sp.log(Z) - 1), *points], solved - BETA * sp.log(Z)


@symbolic("optimum.gibbs")
def _() -> tuple[Any, Any]:
    """Every policy falls short of the optimum by exactly β KL(π‖π*), a sum of terms π(t - 1 - log t), t = π*/π, none of them
    negative.
    Source: arXiv:2305.18290v3 appendix A.1
    False: It falls short by β KL(π*‖π).
    """
    t = sp.Symbol("t", positive=True)
    gap, terms = t - 1 - sp.log(t), [a * (b / a - 1 - sp.log(b / a)) for a, b in zip(PI, BEST, strict=True)]
    (lowest,) = sp.solve(sp.diff(gap, t), t)
    short = objective(BEST) - objective(PI)
    proofs = [expanded(short - BETA * divergence(PI, BEST)), expanded(divergence(PI, BEST) - sum(terms))]
    wrong = (short - BETA * divergence(BEST, PI)).subs(dict.fromkeys(REWARDS, 0) | dict.fromkeys(REFERENCE, 1))
    return [*proofs, gap.subs(t, lowest), sp.diff(gap, t, 2) - 1 / t**2], wrong


@symbolic("optimum.inversion")
def _() -> tuple[Any, Any]:
    """The reward is β log(π*/π_ref) + β log Z at the optimum, for every response.
    Source: arXiv:2305.18290v3 eq. 5
    False: The reward is β log(π*/π_ref).
    """
    implied = [expanded(BETA * sp.log(best / q)) - r for best, q, r in zip(BEST, REFERENCE, REWARDS, strict=True)]
    return [left + BETA * expanded(sp.log(Z)) for left in implied], implied


@symbolic("bradley-terry.z-cancels")
def _() -> tuple[Any, Any]:
    """With the reward written as β log(π/π_ref) + β log Z, the Bradley-Terry probability of a pair is σ of the gap of the
    implicit rewards, whatever log Z.
    Source: arXiv:2305.18290v3 eq. 6
    False: The chance σ(R) that one response alone is judged good does not depend on log Z either.
    """
    chosen, rejected = BETA * (W - REF_W + LOG_Z), BETA * (L - REF_L + LOG_Z)
    return sp.exp(chosen) / (sp.exp(chosen) + sp.exp(rejected)) - sigmoid(H), sp.diff(sigmoid(chosen), LOG_Z)


# Gradients, weights, fixed points.


@symbolic("dpo.gradient")
def _() -> tuple[Any, Any]:
    """DPO pushes the chosen log-probability up and the rejected one down by the same β σ(r̂_l - r̂_w); reference and policy
    enter by their difference alone.
    Source: arXiv:2305.18290v3 section 4
    False: The push is β σ(r̂_w - r̂_l), large where the ranking is already right.
    """
    weight = BETA * sigmoid(BETA * (L - REF_L) - BETA * (W - REF_W))
    pushes = [sp.diff(DPO, W) + weight, sp.diff(DPO, L) - weight]
    by_difference = [sp.diff(DPO, policy) + sp.diff(DPO, reference) for policy, reference in ((W, REF_W), (L, REF_L))]
    return [*pushes, *by_difference], sp.diff(DPO, W) + BETA * sigmoid(H)


@symbolic("dpo.weight")
def _() -> tuple[Any, Any]:
    """The weight of DPO's gradient, its slope over β, falls strictly from 1 at h → -∞ through 1/2 at 0 to 0 at +∞: as a
    function of u = βh its derivative is -σ(u)σ(-u).
    Source: arXiv:2305.18290v3 section 4
    False: The weight is largest at a tie, as KTO's is.
    """
    u = sp.Symbol("u", real=True)
    weight = -sp.diff(DPO.subs(W, u / BETA + REF_W + L - REF_L), u)
    ends = [sp.limit(weight, u, -sp.oo) - 1, weight.subs(u, 0) - sp.Rational(1, 2), sp.limit(weight, u, sp.oo)]
    return [*ends, sp.diff(weight, u) + sigmoid(u) * sigmoid(-u)], sp.diff(weight, u).subs(u, 0)


@symbolic("sigmoid.log-derivative")
def _() -> tuple[Any, Any]:
    """The derivative of log σ(z) is σ(-z) = 1 - σ(z).
    Source: arXiv:2305.18290v3 appendix A.4
    False: It is σ(z).
    """
    slope = sp.diff(sp.log(sigmoid(R_W)), R_W)
    return [slope - sigmoid(-R_W), slope - 1 + sigmoid(R_W)], slope - sigmoid(R_W)


@symbolic("ipo.fixed-point")
def _() -> tuple[Any, Any]:
    """IPO's slope vanishes at one log-ratio gap, 1/(2β), and has the sign of the distance from it; the gap of the implicit
    rewards is 1/2 there for every β.
    Source: arXiv:2310.12036v2 eq. 17
    False: The gap of the implicit rewards is 1/(2β) there.
    """
    (target,) = sp.solve(sp.diff(IPO, W), W)
    at_target = [(GAP - 1 / (2 * BETA)).subs(W, target), H.subs(W, target) - sp.Rational(1, 2)]
    return [*at_target, sp.diff(IPO, W) - 2 * (GAP - 1 / (2 * BETA))], H.subs(W, target) - 1 / (2 * BETA)


@symbolic("cdpo.fixed-point")
def _() -> tuple[Any, Any]:
    """Conservative DPO has its minimum at the log-ratio gap logit(1 - ε)/β; the curvature is DPO's, β²σ(βh)σ(-βh).
    Source: Mitchell 2023, A note on DPO with noisy preferences, eq. 3-4
    False: The log-ratio gap is logit(1 - ε) there.
    """

    def slope_at(gap: Expression) -> Expression:
        return sp.diff(CDPO, W).subs(W, gap + REF_W + L - REF_L)

    logit = sp.log((1 - EPSILON) / EPSILON)
    curvatures = [sp.diff(loss, W, 2) - BETA**2 * sigmoid(H) * sigmoid(-H) for loss in (CDPO, DPO)]
    return [slope_at(logit / BETA), *curvatures], slope_at(logit)


@symbolic("robust-dpo.unbiased")
def _() -> tuple[Any, Any]:
    """Averaged over labels flipped with probability ε, robust DPO is DPO on the clean label.
    Source: arXiv:2403.00409v2 eq. 12
    False: So is conservative DPO.
    """
    flip = {W: L, L: W, REF_W: REF_L, REF_L: REF_W}

    def averaged(loss: Expression) -> Expression:
        return (1 - EPSILON) * loss + EPSILON * loss.subs(flip, simultaneous=True) - DPO

    return averaged(LOSSES["robust_dpo"]), averaged(CDPO)


@symbolic("kto.slope")
def _() -> tuple[Any, Any]:
    """KTO pushes a desirable response up and an undesirable one down by βλσ(z)σ(-z), z = β(log-ratio - z_0): most, by βλ/4, at
    the reference point.
    Source: arXiv:2402.01306v4 eq. 8
    False: The push is β λ σ(-z), DPO's.
    """
    push = BETA * sigmoid(Z_KTO) * sigmoid(-Z_KTO)
    up, down = sp.diff(KTO, Y).subs(GOOD, 1), sp.diff(KTO, Y).subs(GOOD, 0)
    at_z0 = {GOOD: 1, Y: REF_Y + Z0}
    peak = [sp.diff(KTO, Y).subs(at_z0) + BETA * UP / 4, sp.diff(KTO, Y, 2).subs(at_z0)]
    signed = [up + (UP * push).subs(GOOD, 1), down - (DOWN * push).subs(GOOD, 0)]
    return [*signed, *peak], up + (BETA * UP * sigmoid(-Z_KTO)).subs(GOOD, 1)


@symbolic("orpo.gradient")
def _() -> tuple[Any, Any]:
    """The odds-ratio term -log σ(log OR) has the slopes -δ/(1 - P_w) and +δ/(1 - P_l) in the mean log-probabilities, δ = 1/(1 +
    OR): it raises the chosen response and lowers the rejected one.
    Source: arXiv:2403.07691v2 eq. 3-7
    False: They are +δ/(1 - P_w) and -δ/(1 - P_l), as equations 8 to 10 are printed.
    """
    mean_w, mean_l = W / N_W, L / N_L
    delta = 1 / (1 + odds(mean_w) / odds(mean_l))
    slopes = N_W * sp.diff(ODDS_TERM, W), N_L * sp.diff(ODDS_TERM, L)
    due = -delta / (1 - sp.exp(mean_w)), delta / (1 - sp.exp(mean_l))
    return [a - b for a, b in zip(slopes, due, strict=True)], [a + b for a, b in zip(slopes, due, strict=True)]


@symbolic("plackett-luce.two")
def _() -> tuple[Any, Any]:
    """A Plackett-Luce ranking of two is a Bradley-Terry pair.
    Source: arXiv:2305.18290v3 eq. 18
    False: A ranking of three is its two neighbouring pairs, independently.
    """
    pairs = [-sp.log(sigmoid(best - next_best)) for best, next_best in zip(REWARDS, REWARDS[1:], strict=False)]
    return sp.exp(-ranking_loss(REWARDS[:2])) - sp.exp(-pairs[0]), ranking_loss(REWARDS) - sum(pairs)


@symbolic("plackett-luce.marginals")
def _() -> tuple[Any, Any]:
    """Over all Plackett-Luce rankings of three, one stands before another with its Bradley-Terry probability.
    Source: Luce 1959; arXiv:2305.18290v3 appendix A.3
    False: It stands first with that probability.
    """
    chances = {order: sp.exp(-ranking_loss([REWARDS[k] for k in order])) for order in permutations(range(K))}
    before = sum(chance for order, chance in chances.items() if order.index(0) < order.index(1))
    first = sum(chance for order, chance in chances.items() if order[0] == 0)
    pair = sp.exp(REWARDS[0]) / (sp.exp(REWARDS[0]) + sp.exp(REWARDS[1]))
    return [before - pair, sum(chances.values()) - 1], first - pair


@symbolic("kl.k3-nonnegative")
def _() -> tuple[Any, Any]:
    """k3 = e^d - 1 - d is convex in d with its only minimum, 0, at d = 0: no sample of it is negative.
    Source: Schulman 2020, Approximating KL divergence
    False: No sample of k1 = -d is negative either.
    """
    d = sp.Symbol("d", real=True)
    k3 = sp.exp(d) - 1 - d
    (lowest,) = sp.solve(sp.diff(k3, d), d)
    return [lowest, k3.subs(d, lowest), sp.diff(k3, d, 2) - sp.exp(d)], sp.Abs(-d) - (-d)
