"""Errata about the relatives of DPO: IPO, KTO, ORPO, SimPO, RSO, SPPO, and the methods that sample, PPO and GRPO.

Every expectation is a sum, every policy a table of logits, every response one token unless lengths are given. β in IPO is the
paper's τ.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minipref import (
    advantages_dr_grpo,
    advantages_grpo,
    bradley_terry,
    dpo,
    ipo,
    ipo_length_normalized,
    kl_estimates,
    kl_regularized_objective,
    kto,
    kto_reference_point,
    optimal_policy,
    orpo,
    ppo_policy,
    rejection_acceptance,
    simpo,
)
from minipref.arrays import log_softmax, softmax
from toy.bandit import descend, different_pairs, kl, pair_gradient, random_world, to_logits, total_variation
from toy.experiment import Measured, Reading
from verify.theory.claim import CONDITIONAL, WRONG, Documentary, erratum

Array = np.ndarray
ROUNDING = (0.0, 1e-12)


def gap_slope(loss: Callable[..., Any], gap: float, chance: float) -> float:
    """The slope, in the log-ratio gap h, of a pair's loss where a share `chance` of its labels agree."""
    here, zero = np.array([gap]), np.zeros(1)
    agree, oppose = loss(here, zero, zero, zero), loss(zero, here, zero, zero)
    return float((chance * agree.grad_policy_chosen_logps + (1 - chance) * oppose.grad_policy_rejected_logps)[0])


def best_gap(loss: Callable[..., Any], chance: float = 1.0) -> float:
    """The gap h that minimizes it, by bisection of the slope."""
    low, high = -1e3, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if gap_slope(loss, middle, chance) < 0 else (low, middle)
    return (low + high) / 2


def pair_weights(responses: int, pairs: list[tuple[int, int]]) -> Array:
    """Weight 1 for each (chosen, rejected) of one prompt: [1, K, K]."""
    weights = np.zeros((1, responses, responses))
    weights[0, [chosen for chosen, _ in pairs], [rejected for _, rejected in pairs]] = 1
    return weights


# IPO


@erratum("ipo.target", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: IPO regresses the gap between the implicit rewards to 1/(2β), so that its minimum moves along that axis with β.
    Truth: The target 1/(2β) is that of the log-ratio gap h; the gap β h between the implicit rewards is 1/2 for every β.
    Source: arXiv:2310.12036v2 eq. 17
    Measured: largest distance, over β = 0.1, 0.2, 0.5, 1 and 2, of the minimizing reward gap from 1/2 (belief: from 1/(2β))
    Shown: The loss is least at reward gaps of {low:.3f} (β = 0.1) and {high:.3f} (β = 2); the belief says 5 and 0.25.
    """
    betas = np.array([0.1, 0.2, 0.5, 1.0, 2.0])
    gaps = betas * [best_gap(partial(ipo, beta=beta)) for beta in betas]
    numbers = {"low": gaps[0], "high": gaps[-1]}
    return Measured(Reading.worst(gaps - 0.5), Reading.worst(gaps - 1 / (2 * betas)), numbers)


@erratum("ipo.bounded-loss", WRONG, (1.99, 2.01))
def _(rng: np.random.Generator) -> Measured:
    """Belief: IPO's loss is bounded, and that is what keeps it from DPO's overconfidence.
    Truth: IPO's loss is a parabola, unbounded on both sides, where DPO's is unbounded on one. What is bounded is the function
      Ψ of the preference that IPO maximizes, and with it the minimizer. A bounded loss is KTO's.
    Source: arXiv:2310.12036v2 eq. 17 and section 5
    Measured: power of |h| with which the loss grows from |h| = 1e5 to 1e6, on the side where it is smaller (belief: 0, which
      is what KTO's loss shows where it is largest)
    Shown: At gaps of +1e6 and -1e6 nats the IPO loss is {right:.1e} and {left:.1e} (β = 0.1); DPO's is {dpo:.1f} at +1e6.
    """
    zero, far = np.zeros(4), np.array([-1e6, -1e5, 1e5, 1e6])
    losses, bounded = ipo(far, zero, zero, zero).losses, kto(far, zero, np.ones(4, dtype=bool), 0.0).losses
    power = min(np.log10(losses[0] / losses[1]), np.log10(losses[3] / losses[2]))
    numbers = {"left": losses[0], "right": losses[3], "dpo": dpo(far, zero, zero, zero).losses[3]}
    return Measured(Reading(power), Reading(np.log10(bounded[0] / bounded[1])), numbers)


@erratum("ipo.bounded-gap", CONDITIONAL, (0.0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: Under IPO no gap between implicit rewards can run away: it is bounded.
    Truth: IPO sets a finite target for each pair that it is trained on and bounds nothing else: along a chain of n pairs,
      each response preferred to the next, the gap between the implicit rewards of its ends is n/2 at the minimum.
    Source: arXiv:2310.12036v2 eq. 17
    Measured: distance of the gap between the ends of a trained chain of 4 pairs from 4 · 1/2 (belief: from one pair's 1/2)
    Shown: Four pairs, each at its target: the gap between the first and the last response is {gap:.4f}, not 0.5.
    """
    reference, beta = np.log(rng.dirichlet(np.full(5, 2.0), 1)), 0.1
    chain = pair_weights(5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    ratios = descend(lambda z: pair_gradient(ipo, z, reference, chain), reference, 0.2, 2000, 1e-10) - reference
    gap = beta * (ratios[0, 0] - ratios[0, 4])
    return Measured(Reading.worst(gap - 2.0), Reading.worst(gap - 0.5), {"gap": gap})


@erratum("ipo.both-fall", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: Under DPO the probabilities of the chosen and of the rejected response can both fall; IPO was made to prevent
      this.
    Truth: IPO sees the difference alone, as DPO does: adding the same number to both log-probabilities changes nothing. It
      was made for preferences that are nearly certain. (KTO is not invariant, and was made for labels without pairs.)
    Source: arXiv:2310.12036v2 eq. 17 and section 4.2; arXiv:2402.01306v4 section 4
    Measured: largest change of a loss between 0 and 1 nat from the target when both log-probabilities fall by 1 nat (the
      false variant is KTO on the same two responses, which does see the level)
    Shown: Three responses with logits (-5θ, -6θ, 0): gradient descent on IPO reaches its target, h = {gap:.3f} at β = 0.1,
      while log π of the chosen response falls from {start:.2f} to {end:.2f}.
    """
    features, pair, theta = np.array([[-5.0, -6.0, 0.0]]), pair_weights(3, [(0, 1)]), np.zeros((1, 1))
    theta = descend(lambda t: pair_gradient(ipo, t * features, 0 * features, pair) @ features.T, theta, 0.1, 200)
    logps = log_softmax(theta * features)[0]

    w, zero, labels = rng.uniform(4, 6, 20), np.zeros(20), np.arange(20) % 2 == 0
    true = ipo(w, zero, zero, zero).losses - ipo(w - 1, zero - 1, zero, zero).losses
    false = kto(w, zero, labels, 0.0).losses - kto(w - 1, zero, labels, 0.0).losses
    numbers = {"gap": logps[0] - logps[1], "start": -np.log(3), "end": logps[0]}
    return Measured(Reading.worst(true), Reading.worst(false), numbers)


@erratum("ipo.noise", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: IPO is robust to noisy labels: flips do not move what it learns.
    Truth: Labels flipped with probability ε shrink IPO's solution to (1 - 2ε)/(2β).
    Source: arXiv:2310.12036v2 eq. 17, minimized over labels that hold with probability 1 - ε
    Measured: largest distance of the minimizing gap, relative to 1/(2β), from 1 - 2ε (belief: from 1) at ε = 0.1, 0.2 and 0.3
    Shown: At β = 0.1 the learned gap is {clean:.3f} nats with clean labels and {noisy:.3f} with 20 % of them flipped.
    """
    flips = np.array([0.1, 0.2, 0.3])
    shares = np.array([best_gap(ipo, 1 - flip) for flip in flips]) / 5
    numbers = {"clean": best_gap(ipo), "noisy": 5 * shares[1]}
    return Measured(Reading.worst(shares - (1 - 2 * flips)), Reading.worst(shares - 1), numbers)


@erratum("ipo.near-ties", WRONG, (0.0, 0.02))
def _(rng: np.random.Generator) -> Measured:
    """Belief: IPO gains on DPO most where preferences are noisy or nearly tied.
    Truth: Near a tie the two agree: with IPO's β a quarter of DPO's, their best gaps differ by a share of (2p - 1)²/3 to
      leading order. They part where labels are nearly unanimous: DPO's gap grows as logit(p)/β, IPO's stays below 1/(2β).
    Source: arXiv:2305.18290v3 eq. 7; arXiv:2310.12036v2 eq. 17 and section 4.2
    Measured: 1 - (IPO's best gap)/(DPO's) where a share p = 0.6 of the labels agree; (2p - 1)²/3 is 0.013 (belief: the
      difference that IPO makes, as it is at p = 0.99)
    Shown: Best gaps of DPO (β = 0.1) and IPO (β = 0.025): {dpo60:.2f} and {ipo60:.2f} nats at p = 0.6, {dpo99:.1f} and
      {ipo99:.1f} at p = 0.99.
    """
    dpo60, dpo99 = (best_gap(dpo, p) for p in (0.6, 0.99))
    ipo60, ipo99 = (best_gap(partial(ipo, beta=0.025), p) for p in (0.6, 0.99))
    numbers = {"dpo60": dpo60, "ipo60": ipo60, "dpo99": dpo99, "ipo99": ipo99}
    return Measured(Reading(1 - ipo60 / dpo60), Reading(1 - ipo99 / dpo99), numbers)


@erratum("ipo.one-loss", CONDITIONAL, (0.0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: To go from DPO to IPO, replace the log-sigmoid by the square and keep the rest.
    Truth: The paper has no tokens, and libraries read it in two ways. On token sums the target of a response's log-ratio is
      1/(2β) whatever the length; on token means, as in TRL, it is the length n times that. DPO is on sums.
    Source: arXiv:2310.12036v2 eq. 17; TRL 1.16.0, loss_type ipo
    Measured: distance of the best gap on means, by the one on sums, from the common length 50 (belief: from 1)
    Shown: Two responses of 50 tokens, β = 0.1: the best gap is {sums:.1f} nats on sums and {means:.1f} on means.
    """
    length = np.array([50])
    sums = best_gap(ipo)
    means = best_gap(partial(ipo_length_normalized, chosen_lengths=length, rejected_lengths=length))
    return Measured(Reading.worst(means / sums - 50), Reading.worst(means / sums - 1), {"sums": sums, "means": means})


@erratum("ipo.psi", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: In the general objective of the IPO paper, IPO is the choice Ψ = logit.
    Truth: Ψ = logit gives DPO's optimum π_ref e^{R/β}/Z. IPO is Ψ = identity; its optimum is π_ref(y) e^{p(y)/β}/Z, where
      p(y) is the chance that y beats a response drawn as the pairs are.
    Source: arXiv:2310.12036v2 section 4 and eq. 9
    Measured: largest slope of the exact IPO loss, over Bradley-Terry labels on all pairs, at the optimum of Ψ = identity
      (belief: of Ψ = logit)
    Shown: In a world of 3 prompts and 6 responses the optima of identity and logit are {distance:.3f} apart in total
      variation (β = 0.5); IPO's loss is flat at the first.
    """
    world = random_world(rng)
    wins = world.preferences.mean(2)
    identity = optimal_policy(wins, world.reference_logps, beta=world.beta).logps
    slope = partial(
        pair_gradient, partial(ipo, beta=world.beta), reference_logps=world.reference_logps, weights=different_pairs(world)
    )
    numbers = {"distance": total_variation(np.exp(identity), world.optimum)}
    return Measured(Reading.worst(slope(identity)), Reading.worst(slope(np.log(world.optimum))), numbers)


# KTO


@erratum("kto.reference-point", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: KTO's reference point is the divergence of the policy from a uniform baseline.
    Truth: z_0 is the divergence KL(π || π_ref) of the policy from its reference, estimated on mismatched prompts and
      responses and held constant. It is 0 at the start of training.
    Source: arXiv:2402.01306v4 eq. 8 and section 4.1
    Measured: distance of the first loss from 1/2, with z_0 estimated from the log-ratios (belief: with KL(π || uniform)); β =
      1
    Shown: At π = π_ref = (0.7, 0.2, 0.1), β = 1, z_0 is {point:.3f} and each loss {loss:.3f}. With the divergence from the
      uniform distribution, {uniform:.3f}, a good response would start at {wrong:.3f}.
    """
    policy = np.array([[0.7, 0.2, 0.1]])
    logps = np.log(policy[0])
    point = float(kto_reference_point(logps, logps).reference_point)
    uniform = float(kl(policy, np.full((1, 3), 1 / 3))[0])
    first, wrong = (kto(logps, logps, np.ones(3, dtype=bool), z, beta=1.0).losses for z in (point, uniform))
    numbers = {"point": point, "loss": first[0], "uniform": uniform, "wrong": wrong[0]}
    return Measured(Reading.worst(first - 0.5), Reading.worst(wrong - 0.5), numbers)


@erratum("kto.beta-inside", CONDITIONAL, (0.0, 0.01))
def _(rng: np.random.Generator) -> Measured:
    """Belief: A good response's loss in KTO is 1 - σ(β log(π/π_ref) - z_0), with z_0 the divergence from the reference.
    Truth: β multiplies the reference point too: 1 - σ(β (log(π/π_ref) - z_0)) with z_0 in nats. KTO is steepest at a
      log-ratio of z_0, whatever β. (The belief's form is right if z_0 is said to be β times the divergence.)
    Source: arXiv:2402.01306v4 eq. 8
    Measured: distance of the steepest log-ratio from z_0 = 1, on a grid of steps of 0.01, at β = 0.1 (belief: of its own
      formula)
    Shown: At z_0 = 1 and β = 0.1 the slope is largest at {true:.2f} nats; with β inside one term only, at {false:.2f}.
    """
    ratios = np.linspace(-20, 20, 4001)
    good, zero = np.ones(len(ratios), dtype=bool), np.zeros(len(ratios))
    # σ(β r - z) = σ(β (r - z/β))
    true, false = (ratios[np.argmin(kto(ratios, zero, good, z, beta=0.1).grad_policy_logps)] for z in (1.0, 1.0 / 0.1))
    return Measured(Reading.worst(true - 1), Reading.worst(false - 1), {"true": true, "false": false})


@erratum("kto.loss-aversion", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: Like the people of prospect theory, KTO weighs a loss more than a gain of the same size.
    Truth: As it stands (λ_D = λ_U = 1) KTO is symmetric about its reference point. Only weights make it asymmetric, and the
      range advised for balanced data, 1 <= λ_D/λ_U <= 3/2, favours gains.
    Source: arXiv:2402.01306v4 eq. 8 and 9; Tversky & Kahneman 1992
    Measured: largest distance from 1 of |slope of a bad response at z_0 - t| / |slope of a good one at z_0 + t|, 0 < t < 20
      nats (belief: of the value |v(-t)|/v(t) of Tversky and Kahneman, v(t) = t^0.88 for gains and -2.25 (-t)^0.88 for losses)
    Shown: The ratio is {default:.4f} by default and {advised:.3f} at the end of the advised range; the prospect theory of
      1992 has {prospect:.2f}.
    """
    t, zero = rng.uniform(0, 20, 100), np.zeros(100)
    good, z = np.ones(100, dtype=bool), 1.5

    def ratios(**weights: float) -> Array:
        bad_slope = kto(z - t, zero, ~good, z, **weights).grad_policy_logps
        return bad_slope / -kto(z + t, zero, good, z, **weights).grad_policy_logps

    prospect = 2.25 * t**0.88 / t**0.88
    numbers = {"default": ratios()[0], "advised": ratios(desirable_weight=1.5)[0], "prospect": prospect[0]}
    return Measured(Reading.worst(ratios() - 1), Reading.worst(prospect - 1), numbers)


@erratum("kto.class-means", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: KTO's loss is the mean over the good responses plus the mean over the bad ones.
    Truth: It is one mean over all examples, each with its weight. The sum of the two means is that only for weights λ_D =
      n/n_D and λ_U = n/n_U: it silently balances the classes.
    Source: arXiv:2402.01306v4 eq. 8
    Measured: distance of the sum of class means from the mean with weights n/n_D and n/n_U (belief: with weights 1), relative
    Shown: On 9 good and 3 bad responses the mean over examples is {mean:.3f}, the sum of the class means {classes:.3f}.
    """
    logps, zero, good = rng.normal(0, 8, 12), np.zeros(12), np.arange(12) < 9
    losses = kto(logps, zero, good, 0.0).losses
    balanced = kto(logps, zero, good, 0.0, desirable_weight=12 / 9, undesirable_weight=12 / 3).losses.mean()
    classes, mean = losses[good].mean() + losses[~good].mean(), losses.mean()
    return Measured(
        Reading.worst(1 - balanced / classes), Reading.worst(1 - mean / classes), {"mean": mean, "classes": classes}
    )


@erratum("kto.pairs", WRONG, (0.99, 1.0))
def _(rng: np.random.Generator) -> Measured:
    """Belief: KTO cannot be trained on pairs.
    Truth: A pair is split into a good and a bad example, as the paper does to compare KTO with DPO on the same data. Only who
      was paired with whom is lost.
    Source: arXiv:2402.01306v4 section 4
    Measured: probability of the chosen one of two responses after 200 steps on the split pair (belief: no training, as before
      them)
    Shown: From {start:.2f} the probability of the chosen response rises to {end:.4f}.
    """
    reference = np.log([[0.5, 0.5]])
    chosen = np.array([True, False])

    def gradient(logits: Array) -> Array:
        return to_logits(kto(log_softmax(logits)[0], reference[0], chosen, 0.0).grad_policy_logps[None], softmax(logits))

    end = softmax(descend(gradient, reference, 100.0, 200))[0, 0]
    return Measured(Reading(end), Reading(0.5), {"start": 0.5, "end": end})


# ORPO


def odds_term(chances: Array) -> Array:
    """ORPO's odds-ratio term alone, for probabilities [N, 2] of chosen and rejected responses.

    Its loss and its slopes in the two log-probabilities: [3, N].
    """
    logps, token = np.log(chances).T, np.ones(len(chances), dtype=int)
    whole, likelihood = (orpo(*logps, token, token, odds_weight=weight) for weight in (1.0, 0.0))
    return np.array(whole[:3]) - np.array(likelihood[:3])


@erratum("orpo.sign", WRONG, (1.0, np.inf))
def _(rng: np.random.Generator) -> Measured:
    """Belief: ORPO adds λ log σ(log odds ratio) to the likelihood loss.
    Truth: ORPO adds -λ log σ(log odds ratio). With the other sign, descent makes the rejected response the likelier one.
    Source: arXiv:2403.07691v2 eq. 6 and 7
    Measured: how much the log odds ratio rises over 100 steps of gradient descent, 0.1 each, on the odds-ratio term alone,
      starting at a chosen 0.3 and a rejected 0.4 (belief: with its sign)
    Shown: From {start:.3f} the log odds ratio goes to {true:+.2f}; with the sign of the belief, to {false:+.2f}.
    """
    start = np.log([[0.3, 0.4, 0.3]])

    def after(sign: float) -> float:
        def gradient(z: Array) -> Array:
            slopes = odds_term(softmax(z)[:, :2])[1:, 0]
            return to_logits(sign * np.array([[*slopes, 0.0]]), softmax(z))

        p = softmax(descend(gradient, start, 0.1, 100))[0]
        return float(np.log(p[0] / (1 - p[0])) - np.log(p[1] / (1 - p[1])))

    numbers = {"start": np.log(3 / 7) - np.log(4 / 6), "true": after(1.0), "false": after(-1.0)}
    true, false = (Reading(numbers[name] - numbers["start"]) for name in ("true", "false"))
    return Measured(true, false, numbers)


@erratum("orpo.odds", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: ORPO's odds are those of the response: π(y|x)/(1 - π(y|x)).
    Truth: They are the odds of e^a, the geometric mean of the token probabilities. The product π(y|x) of a long response is
      so small that its odds are it: the ratio of odds would be the plain ratio of probabilities.
    Source: arXiv:2403.07691v2 eq. 3 and 4
    Measured: distance of ORPO's log odds ratio from that of the mean token probabilities, for responses of 40 tokens (belief:
      of the products)
    Shown: Forty tokens of probability e^-1 each against forty of e^-2: ORPO's log odds ratio is {odds:.4f}; of the products
      it would be {products:.4f}, and the log-ratio is {ratio:.4f}.
    """
    a, lengths = np.array([-1.0, -2.0]), np.array([40])
    found = orpo(40 * a[:1], 40 * a[1:], lengths, lengths).log_odds_ratio[0]
    means, products = (float(np.subtract(*np.log(p / (1 - p)))) for p in (np.exp(a), np.exp(40 * a)))
    numbers = {"odds": found, "products": products, "ratio": 40.0}
    return Measured(Reading.worst(found - means), Reading.worst(found - products), numbers)


@erratum("orpo.rejected-only", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: ORPO's odds-ratio term is a penalty on the rejected response.
    Truth: It pushes both: the chosen response up and the rejected one down, in the ratio (1 - P_l) : (1 - P_w) of the mean
      token probabilities. The likelier response is pushed harder.
    Source: arXiv:2403.07691v2 eq. 7
    Measured: largest distance of (push on the chosen)/(push on the rejected) from (1 - P_l)/(1 - P_w), 20 random pairs of
      equal length (belief: from 0)
    Shown: At P_w = 0.6 and P_l = 0.2 the slopes in the mean log-probabilities are {chosen:.3f} and {rejected:+.3f}: twice the
      push on the chosen response.
    """
    chances = np.array([[0.6, 0.2], *rng.uniform(0.05, 0.95, (20, 2))])
    _, chosen, rejected = odds_term(chances)
    pushes, expected = -chosen / rejected, (1 - chances[:, 1]) / (1 - chances[:, 0])
    numbers = {"chosen": chosen[0], "rejected": rejected[0]}
    return Measured(Reading.worst(pushes / expected - 1), Reading.worst(pushes), numbers)


@erratum("orpo.printed-gradient", WRONG, (0.0, 1e-8))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The gradient of ORPO's odds-ratio loss is +δ d, as the paper prints it, δ = 1/(1 + odds_w/odds_l) and d = ∇log
      P_w/(1 - P_w) - ∇log P_l/(1 - P_l).
    Truth: It is -δ d: the printed sign is that of the gradient of +log σ, not of the loss -log σ.
    Source: arXiv:2403.07691v2 eq. 7 against eq. 8 to 10 and A.20
    Measured: largest distance of central differences of eq. 7 from -δ d (belief: from +δ d), 20 random pairs; differences of
      step 1e-5 are good to 1e-8
    Shown: At P_w = 0.6 and P_l = 0.2 the slope of the loss in log P_w is {slope:.4f}; the paper's eq. 8 gives {printed:+.4f}.
    """
    chances = np.array([[0.6, 0.2], *rng.uniform(0.05, 0.8, (20, 2))])
    step = np.array([np.exp(1e-5), 1.0])
    slopes = (odds_term(chances * step)[0] - odds_term(chances / step)[0]) / 2e-5
    odds = chances / (1 - chances)
    printed = 1 / (1 + odds[:, 0] / odds[:, 1]) / (1 - chances[:, 0])
    numbers = {"slope": slopes[0], "printed": printed[0]}
    return Measured(Reading.worst(slopes + printed), Reading.worst(slopes - printed), numbers)


@erratum("orpo.amplification", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: In ORPO's gradient the factors 1/(1 - P) amplify the side whose likelihood is low.
    Truth: 1/(1 - P) grows with P: it amplifies the side whose likelihood is high, and without bound on the rejected side.
    Source: arXiv:2403.07691v2 eq. 7; the belief is the text of section 4.3
    Measured: the factor at P = 0.1 by that at P = 0.9, from the slope of the loss divided by σ(-log odds ratio): distance
      from 1/9 (belief: from 1, the least that would be an amplification)
    Shown: The factor is {low:.3f} at P = 0.1 and {high:.2f} at P = 0.9.
    """
    loss, _, slopes = odds_term(np.array([[0.5, 0.1], [0.5, 0.9]]))
    low, high = slopes / (1 - np.exp(-loss))
    return Measured(Reading.worst(low / high - 1 / 9), Reading.worst(low / high - 1), {"low": low, "high": high})


# SimPO


@erratum("simpo.length-drops-reference", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: SimPO needs no reference because it divides log-probabilities by length.
    Truth: Length and reference are two switches. On means over tokens DPO keeps its reference; SimPO is that loss with the
      reference taken away and a margin γ put in.
    Source: arXiv:2405.14734v3 eq. 4 to 6
    Measured: largest distance of SimPO's loss at γ = 0 from DPO's on mean log-probabilities with a constant reference
      (belief: with the reference that division by length should have removed)
    Shown: One pair, β = 2: {summed:.3f} on sums with reference, {bare:.3f} on sums without, {mean:.3f} on means with,
      {simpo:.3f} on means without. Four losses, not two.
    """
    lengths = np.array([[11, 20, 5, 40], [12, 10, 15, 30]])
    sums, reference = -lengths * rng.uniform(1.0, 1.5, (2, 4)), -lengths * rng.uniform(1.0, 1.5, (2, 4))
    without = simpo(*sums, *lengths, gamma=0.0).losses
    means = [dpo(*(sums / lengths), *ref, beta=2.0).losses for ref in (0 * sums, reference / lengths)]
    numbers = {"simpo": without[0], "mean": means[1][0]}
    numbers |= {"summed": dpo(*sums, *reference, beta=2.0).losses[0], "bare": dpo(*sums, *(0 * sums), beta=2.0).losses[0]}
    return Measured(Reading.worst(without - means[0]), Reading.worst(without - means[1]), numbers)


@erratum("simpo.margin", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: Take away DPO's reference, divide by length, and you have SimPO.
    Truth: It also has a target margin γ: where both responses have the same mean log-probability the loss is log(1 + e^γ),
      not log 2, and σ weighs the pair by 1/2 only at a difference of γ/β.
    Source: arXiv:2405.14734v3 eq. 6
    Measured: largest distance of the loss at equal means from log(1 + e^γ) (belief: from log 2), γ = 0.3, 0.5, 1.4 and 1.6
    Shown: At equal means the loss is {loss:.4f} with γ = 1.6, against log 2 = {half:.4f}.
    """
    gammas, length, sums = [0.3, 0.5, 1.4, 1.6], np.array([7]), np.array([-9.0])
    losses = np.array([simpo(sums, 2 * sums, length, 2 * length, gamma=gamma).losses[0] for gamma in gammas])
    numbers = {"loss": losses[-1], "half": np.log(2)}
    return Measured(Reading.worst(losses - np.log(1 + np.exp(gammas))), Reading.worst(losses - np.log(2)), numbers)


# RSO, SPPO, BCO


@erratum("rso.on-policy", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: RSO's rejection sampling makes its training data on-policy.
    Truth: What is kept follows the estimated optimal policy π_sft e^{R/β}/Z, drawn once from π_sft before training: neither
      the policy being trained nor the proposal.
    Source: arXiv:2309.06657v2 eq. 14 and section 3.2
    Measured: largest total variation, over prompts, of the law of the kept samples from the optimum (belief: from the policy
      at the start of training)
    Shown: Distance from the optimum: 0 to rounding. From the policy that starts to train: {start:.3f}. A share {kept:.2f} of
      the proposals is kept.
    """
    world = random_world(rng)
    best = float(world.rewards.max())
    kept = world.reference * np.array(
        [rejection_acceptance(r, world.beta, best).acceptance_probabilities for r in world.rewards]
    )
    law = kept / kept.sum(1, keepdims=True)
    start = total_variation(law, world.reference)
    numbers = {"start": start, "kept": kept.sum(1).mean()}
    return Measured(Reading(total_variation(law, world.optimum)), Reading(start), numbers)


@erratum("rso.optimum", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: Trained on samples from the optimal policy, RSO's sigmoid loss leads to that policy.
    Truth: Whatever pairs it is trained on, under Bradley-Terry labels that loss with strength γ has its minimum at π_ref
      e^{R/γ}/Z. It is the policy that the samples came from, π_ref e^{R/β}/Z, only if γ = β; the paper uses γ = 0.05 and β =
      0.5.
    Source: arXiv:2309.06657v2 eq. 8 and 14, section 5
    Measured: largest slope of the exact loss, pairs drawn from the optimum and labels from Bradley-Terry, at π_ref e^{R/γ}/Z
      (belief: at π_ref e^{R/β}/Z), γ = 0.05, β = 0.5
    Shown: At the paper's values the policy that the loss leads to is {distance:.2f} from the one that was sampled, in total
      variation.
    """
    world = random_world(rng)
    drawn = different_pairs(world) * world.optimum[:, :, None] * world.optimum[:, None, :]
    sharper = optimal_policy(world.rewards, world.reference_logps, beta=0.05).logps
    slope = partial(pair_gradient, partial(dpo, beta=0.05), reference_logps=world.reference_logps, weights=drawn)
    numbers = {"distance": total_variation(np.exp(sharper), world.optimum)}
    return Measured(Reading.worst(slope(sharper)), Reading.worst(slope(np.log(world.optimum))), numbers)


@erratum("sppo.half", CONDITIONAL, (0.0, 0.001 / 8))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The 1/2 in SPPO's target η (P - 1/2) is the exact log Z / η of the multiplicative-weights update that it follows.
    Truth: It is the limit of small η: log Z/η lies between 1/2 and 1/2 + η/8. At the paper's η = 1000 that says nothing.
    Source: arXiv:2405.00675v4 eq. 4.7; the bound is Hoeffding's lemma
    Measured: log Z/η - 1/2 at η = 0.001, where the bound is η/8 (belief: at η = 1000), 6 responses, Bradley-Terry win rates
    Shown: log Z/η is {small:.6f} at η = 0.001 and {large:.3f} at η = 1000.
    """
    world = random_world(rng, prompts=1)
    wins = (world.preferences * world.reference[:, None, :]).sum(2)
    small, large = (
        float(optimal_policy(wins, world.reference_logps, beta=1 / eta).log_partition[0]) / eta for eta in (1e-3, 1e3)
    )
    return Measured(Reading(small - 0.5), Reading(large - 0.5), {"small": small, "large": large})


@erratum("bco.pair-loss", WRONG, (1e-9, np.inf))
def _(rng: np.random.Generator) -> Measured:
    """Belief: BCO's loss on a pair is DPO's.
    Truth: It is -log σ(r̂_w - δ) - log σ(δ - r̂_l), an upper bound of DPO's -log σ(r̂_w - r̂_l) for every shift δ, and never
      equal.
    Source: arXiv:2404.04656; TRL 1.16.0, loss_type bco_pair, whose documentation states the belief
    Measured: smallest excess of the BCO loss over DPO's, over 1000 random pairs and shifts, by 1 + DPO's loss (belief: of
      DPO's)
    Shown: At r̂_w = r̂_l = δ = 0 BCO's loss is {bco:.4f} and DPO's {dpo:.4f}.
    """
    chosen, rejected, shift = np.concatenate([np.zeros((3, 1)), rng.normal(0, 3, (3, 1000))], axis=1)
    pair = bradley_terry(chosen, rejected).losses
    split = bradley_terry(chosen, shift).losses + bradley_terry(shift, rejected).losses
    numbers = {"bco": split[0], "dpo": pair[0]}
    return Measured(Reading(float(np.min((split - pair) / (1 + pair)))), Reading(0.0), numbers)


# GRPO, PPO, and DPO beside them


def clipped_steps(logits: Array, advantages: Array, step: float, steps: int) -> tuple[Array, list[float], list[float]]:
    """Updates of a policy [1, K] on one batch, which holds every response in proportion to its probability.

    The new logits; and, before each update, the largest ratio to the policy that drew the batch, and the share that is clipped.
    """
    old, mask = log_softmax(logits)[0][:, None], np.ones((logits.shape[1], 1), dtype=bool)
    ratios, clipped = [], []
    for _ in range(steps):
        found = ppo_policy(log_softmax(logits)[0][:, None], old, advantages[:, None], mask)
        ratios.append(float(np.exp(log_softmax(logits)[0][:, None] - old).max()))
        clipped.append(float((np.exp(old) * found.clipped).sum()))
        logits = logits - step * to_logits((np.exp(old) * found.grad_logps).T, softmax(logits))
    return logits, ratios, clipped


@erratum("grpo.batch", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: GRPO's baseline is the mean reward of the batch of sampled responses.
    Truth: It is the mean of the group, the responses to one prompt, and the difference is then divided by that group's
      standard deviation: a prompt where all responses are good teaches nothing.
    Source: arXiv:2402.03300v3 section 4.1.2
    Measured: largest mean advantage of a group, rewards (1, 1, 1, 0) and (0, 0, 0, 1) (belief: of the rewards minus the
      batch's mean)
    Shown: Two prompts, solved by 3 and by 1 of 4 responses. Minus the group's mean the first is {group}; minus the batch's,
      {batch}, which tells an easy prompt from a hard one, not a good response from a bad one.
    """
    rewards = np.array([[1.0, 1, 1, 0], [0, 0, 0, 1]])
    group, batch = advantages_dr_grpo(rewards).advantages, rewards - rewards.mean()
    numbers = {"group": group[0].tolist(), "batch": batch[0].tolist()}
    return Measured(Reading.worst(advantages_grpo(rewards).advantages.mean(1)), Reading.worst(batch.mean(1)), numbers)


@erratum("grpo.standard-deviation", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: GRPO's group-relative advantage is a baseline: it lowers the variance and leaves the expected gradient what it
      was.
    Truth: Subtracting the group's mean does so, but for the factor (G - 1)/G, the same for every prompt. Dividing by the
      standard deviation does not: it weighs prompts by how often they are solved, and most those solved nearly always or
      nearly never.
    Source: arXiv:2503.20783v2 section 3.1
    Measured: distance from (G - 1)/G of (expected update)/(gradient of the success rate), by enumeration of all groups of G =
      8, success rates 0.02 to 0.98, without the standard deviation (belief: with it)
    Shown: With the standard deviation the ratio is {half:.2f} at a success rate of 0.5 and {rare:.2f} at 0.02; without it
      {centred:.3f} at both.
    """
    rewards, rates = np.array(list(itertools.product([0.0, 1.0], repeat=8))), np.array([0.02, 0.1, 0.5, 0.9, 0.98])
    solved = rewards.sum(1)

    def ratio(advantages: Array, rate: float) -> float:
        chances = rate**solved * (1 - rate) ** (8 - solved)
        update = (advantages * (rewards - rate)).mean(1)  # the score of a success of rate σ(z) is reward - rate
        return float(chances @ update / (rate * (1 - rate)))

    centred = np.array([ratio(advantages_dr_grpo(rewards).advantages, rate) for rate in rates])
    standard = np.array([ratio(advantages_grpo(rewards).advantages, rate) for rate in rates])
    numbers = {"half": standard[2], "rare": standard[0], "centred": centred[0]}
    return Measured(Reading.worst(centred - 7 / 8), Reading.worst(standard - 7 / 8), numbers)


@erratum("grpo.kl-term", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: GRPO's KL term estimates KL(π || π_ref) without bias, so its gradient is that of KL(π || π_ref).
    Truth: As a number k3 is unbiased; as a loss on sampled tokens its expected gradient is that of KL(π_ref || π), the other
      direction. (With respect to the logits it is π - π_ref.)
    Source: arXiv:2402.03300v3 eq. 4; Schulman 2020, Approximating KL divergence
    Measured: largest distance of k3's expected slope in the logits from π - π_ref, by enumeration (belief: from the gradient
      of KL(π || π_ref))
    Shown: At π = (0.6, 0.3, 0.1), π_ref = (0.2, 0.3, 0.5) the mean of k3 is {mean:.4f} = KL(π || π_ref). Its slope in the
      last logit is {slope:+.4f}; that of KL(π_ref || π) is {forward:+.4f}, that of KL(π || π_ref) {reverse:+.4f}.
    """
    policy, reference = np.array([[0.6, 0.3, 0.1]]), np.array([[0.2, 0.3, 0.5]])
    found = kl_estimates(np.log(policy[0]), np.log(reference[0]))
    slopes = to_logits(policy * found.grad_k3, policy)
    reverse = policy * (np.log(policy / reference) - kl(policy, reference))
    numbers = {"mean": policy[0] @ found.k3, "slope": slopes[0, 2]}
    numbers |= {"forward": (policy - reference)[0, 2], "reverse": reverse[0, 2]}
    return Measured(Reading.worst(slopes - (policy - reference)), Reading.worst(slopes - reverse), numbers)


@erratum("grpo.on-policy", CONDITIONAL, (0.2, np.inf))
def _(rng: np.random.Generator) -> Measured:
    """Belief: GRPO, RLOO, DAPO and Dr. GRPO are on-policy.
    Truth: Only the first update on a batch is. From the second on the ratios to the policy that drew it leave 1 and clipping
      begins; DAPO makes 16 updates a batch.
    Source: arXiv:2503.14476v2 section 4.1; arXiv:1707.06347v2 eq. 7
    Measured: largest |ρ - 1| at the 16th update on one batch; from 0.2, the clip, tokens are dropped (belief: at the first)
    Shown: Four responses with rewards 1, 1, 0 and 0: the largest ratio is {first:.0f} at the first update and {last:.3f} at
      the 16th, where {clipped:.0%} of the tokens are clipped.
    """
    advantages = advantages_grpo(np.array([[1.0, 1, 0, 0]])).advantages[0]
    _, ratios, clipped = clipped_steps(np.log([[0.1, 0.2, 0.3, 0.4]]), advantages, 0.1, 16)
    numbers = {"first": ratios[0], "last": ratios[-1], "clipped": clipped[-1]}
    return Measured(Reading(ratios[-1] - 1), Reading(ratios[0] - 1), numbers)


@erratum("ppo.ratio-bound", WRONG, (1.21, np.inf))
def _(rng: np.random.Generator) -> Measured:
    """Belief: PPO's clipping keeps the probability ratio between 1 - ε and 1 + ε.
    Truth: It bounds the incentive, not the ratio: beyond the clip the gradient is 0, and nothing leads back. One large step,
      or the push on another token, carries a ratio as far as it likes.
    Source: arXiv:1707.06347v2 eq. 7 and section 3
    Measured: largest ratio after 4 updates of step 2 on one batch, ε = 0.2 (belief: at most 1 + ε)
    Shown: Four responses, two rewarded: the ratio reaches {ratio:.2f}, and the next update moves it by {moved:.0f}.
    """
    advantages = np.array([1.0, 1.0, -1.0, -1.0])
    _, ratios, _ = clipped_steps(np.log([[0.1, 0.2, 0.3, 0.4]]), advantages, 2.0, 6)
    return Measured(Reading(ratios[4]), Reading(1.2), {"ratio": ratios[4], "moved": ratios[5] - ratios[4]})


@erratum("ppo.trust-region", WRONG, (0.0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: β is DPO's trust region, as it is PPO's.
    Truth: β says where training ends: at a log-ratio gap of ΔR/β from the reference. PPO's trust region is ε, around the
      policy that drew the batch; it moves along with every batch and bounds no distance from the reference.
    Source: arXiv:1707.06347v2 eq. 7; arXiv:2305.18290v3 eq. 3 and 4
    Measured: distance of the log-ratio gap of two responses from ΔR/β = 2 after 100 batches of clipped PPO, with the reward
      less β log(π/π_ref) (belief: with the clip alone)
    Shown: With β = 0.5 in the reward the gap ends at {anchored:.4f} nats. With ε = 0.2 alone it is {early:.2f} after 50
      batches and {late:.2f} after 100.
    """
    reference, rewards = np.log([[0.3, 0.7]]), np.array([1.0, 0.0])

    def gap(beta: float, batches: int) -> float:
        logits = reference
        for _ in range(batches):
            penalized = rewards - beta * (log_softmax(logits) - reference)[0]
            logits = clipped_steps(logits, penalized - softmax(logits)[0] @ penalized, 0.5, 4)[0]
        return float(np.diff(reference - logits)[0, 0])

    numbers = {"anchored": gap(0.5, 100), "early": gap(0.0, 50), "late": gap(0.0, 100)}
    return Measured(Reading.worst(numbers["anchored"] - 2), Reading.worst(numbers["late"] - 2), numbers)


@erratum("dpo.entropy", CONDITIONAL, (0.0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO lowers the entropy of the policy more than PPO does.
    Truth: The two have the same optimum and so the same entropy, if labels follow Bradley-Terry on the reward, all pairs are
      seen and the policy can be anything. What lowers it is data where the same response always wins.
    Source: arXiv:2305.18290v3 section 5.1
    Measured: difference of entropy, mean over prompts, between DPO's minimum and the maximum that natural policy gradients
      reach on the KL-regularized objective (belief: DPO where the better response always wins, after as many steps)
    Shown: Entropy of the reference {reference:.3f} nats; after policy gradients {gradients:.3f}; after DPO {dpo:.3f}; after
      DPO on labels that never err {hard:.3f}.
    """
    world = random_world(rng)
    pairs, loss = different_pairs(world), partial(dpo, beta=world.beta)

    def trained(weights: Array) -> float:
        gradient = partial(pair_gradient, loss, reference_logps=world.reference_logps, weights=weights)
        return entropy(softmax(descend(gradient, world.reference_logps, 50.0, 400)))

    def natural(logits: Array) -> Array:
        found = kl_regularized_objective(logits, world.rewards, world.reference_logps, beta=world.beta)
        return -found.grad_policy_logits / softmax(logits)

    numbers = {"reference": entropy(world.reference), "dpo": trained(pairs)}
    numbers["hard"] = trained(np.where(pairs > pairs.swapaxes(1, 2), pairs, 0.0))
    numbers["gradients"] = entropy(softmax(descend(natural, world.reference_logps, 1.0, 60)))
    true, false = (Reading.worst(numbers[name] - numbers["gradients"]) for name in ("dpo", "hard"))
    return Measured(true, false, numbers)


def entropy(policy: Array) -> float:
    """In nats, the mean over prompts."""
    return float(-(policy * np.log(policy)).sum(1).mean())


@erratum("dpo.verifier", WRONG, (0.99, 1.0))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO cannot use a reward that a program computes.
    Truth: A verifier orders responses as a labeller does: pair those that pass with those that fail. What DPO cannot use is a
      prompt where all pass or all fail, nor can GRPO.
    Source: arXiv:2404.19733, iterative reasoning preference optimization
    Measured: smallest success rate over prompts after 400 steps of DPO on pairs that a verifier labelled (belief: as before
      them)
    Shown: Six responses, two of which pass: the worst success rate rises from {start:.3f} to {end:.4f}.
    """
    passes = np.array([1.0, 1, 0, 0, 0, 0])
    reference = np.log(rng.dirichlet(np.full(6, 2.0), 3))
    pairs = np.repeat((passes[:, None] > passes)[None].astype(float), 3, axis=0)
    trained = descend(partial(pair_gradient, dpo, reference_logps=reference, weights=pairs), reference, 5.0, 400)
    start, end = (float((softmax(z) @ passes).min()) for z in (reference, trained))
    return Measured(Reading(end), Reading(start), {"start": start, "end": end})


DOCUMENTARY = [
    Documentary(
        "SPPO (Wu et al.) appeared at ICML 2024.",
        "It appeared at ICLR 2025. At ICML 2024 were two others: SPO, Swamy et al., of almost the same name, and SPIN, Chen "
        "et al.",
        "arXiv:2405.00675v4; arXiv:2401.04056; arXiv:2401.01335",
    ),
    Documentary(
        "DeepSeek-R1 ends with a stage in which reasoning is trained by reinforcement and helpfulness by DPO.",
        "Its last stage is reinforcement learning throughout: rule-based rewards for reasoning, reward models for general "
        "data. No DPO.",
        "arXiv:2501.12948v1 section 2.3.4",
    ),
    Documentary(
        "DPO is by M. Rafailov et al., ICLR 2024.",
        "It is by Rafael Rafailov et al., NeurIPS 2023.",
        "arXiv:2305.18290v3",
    ),
    Documentary(
        "The KL-regularized objective with a reference policy is that of the PPO paper.",
        "The PPO paper's KL penalty is towards the policy that drew the batch. The penalty towards a fixed reference came "
        "with fine-tuning from preferences.",
        "arXiv:1707.06347v2 section 4; arXiv:1909.08593v2 eq. 2; arXiv:2203.02155v1 eq. 2",
    ),
    Documentary(
        "DPO's β, 0.1 to 0.5, is larger than the KL coefficients used with PPO.",
        "The ranges overlap: the first public code of PPO from preferences has 0.2, TRL's PPO 0.05.",
        "openai/lm-human-preferences; TRL 1.10",
    ),
    Documentary(
        "KTO advises λ_D n_D/(λ_U n_U) between 1 and 4/3.",
        "Between 1 and 3/2 in the current version of the paper; 4/3 is where TRL 1.16.0 warns.",
        "arXiv:2402.01306v4 eq. 9",
    ),
    Documentary(
        "PPO from preferences needs four models of the size of the policy.",
        "Reward model and critic may be smaller: InstructGPT's have 6 billion parameters beside a policy of 175 billion.",
        "arXiv:2203.02155v1 section 3.5",
    ),
]
