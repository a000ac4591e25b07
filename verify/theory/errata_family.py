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
from minipref.arrays import log_softmax, sigmoid, softmax
from toy.bandit import World, descend, different_pairs, kl, pair_gradient, random_world, to_logits, total_variation
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
    Truth: The target 1/(2β) is that of the log-ratio gap h; the gap β h between the implicit rewards is 1/2 for every β. (β is
      the paper's τ.)
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
    Truth: IPO's loss is a parabola in the log-ratio gap, unbounded on both sides, where DPO's is unbounded on one. What is
      bounded is Ψ, the function of the preference probability that IPO maximizes, so that its optimum stays finite even where
      preferences are certain. A bounded loss is KTO's.
    Source: arXiv:2310.12036v2 eq. 17 and section 5
    Measured: power of |h| with which the loss grows from |h| = 1e5 to 1e6, on the side where it is smaller (belief: 0, which is
      what KTO's loss shows where it is largest)
    Shown: At gaps of +1e6 and -1e6 nats IPO's loss is {right:.1e} and {left:.1e}, DPO's {above:.1f} and {below:.1e} (β = 0.1).
    """
    zero, far = np.zeros(4), np.array([-1e6, -1e5, 1e5, 1e6])
    losses, bounded = ipo(far, zero, zero, zero).losses, kto(far, zero, np.ones(4, dtype=bool), 0.0).losses
    power = min(np.log10(losses[0] / losses[1]), np.log10(losses[3] / losses[2]))
    numbers = dict(zip(("below", "above"), dpo(far, zero, zero, zero).losses[[0, 3]], strict=True))
    numbers |= {"left": losses[0], "right": losses[3]}
    return Measured(Reading(power), Reading(np.log10(bounded[0] / bounded[1])), numbers)


@erratum("ipo.bounded-gap", CONDITIONAL, (0.0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: Under IPO no gap between implicit rewards can run away: it is bounded.
    Truth: IPO sets a target for each pair that it is trained on; every other gap follows from these. Where all pairs of
      different responses are equally likely, no gap between implicit rewards reaches 1 at the minimum. But along a chain of n
      pairs, each response always preferred to the next and no other pair seen, the gap between the ends is n/2 at the minimum.
    Source: arXiv:2310.12036v2 eq. 17
    Measured: distance of the gap between the ends of a trained chain of 4 pairs from 4 · 1/2 (belief: from one pair's 1/2)
    Shown: Five responses and four pairs, 1 over 2, 2 over 3, 3 over 4 and 4 over 5: with each pair at its target the gap
      between the implicit rewards of the first and the last response is {gap:.4f}, not 0.5.
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
    Truth: IPO's loss on token sums depends on the gap h alone, as DPO's does: adding the same number to both log-probabilities
      changes nothing. It was made against overfitting to preferences that are nearly certain. (KTO's loss does depend on the
      level.)
    Source: arXiv:2310.12036v2 eq. 17 and section 4.2; arXiv:2402.01306v4 section 4
    Measured: largest change of a loss between 0 and 1 nat from the target when both log-probabilities fall by 1 nat (belief:
      of KTO's on the same two responses, which does see the level)
    Shown: Three responses with logits (-5θ, -6θ, 0), the first chosen, the second rejected, θ = 0 the reference: descent on
      IPO's loss reaches its target, h = {gap:.3f} at β = 0.1, while log π of the chosen response falls from {start:.2f} to
      {end:.2f} and that of the rejected one to {rejected:.2f}.
    """
    features, pair, theta = np.array([[-5.0, -6.0, 0.0]]), pair_weights(3, [(0, 1)]), np.zeros((1, 1))
    theta = descend(lambda t: pair_gradient(ipo, t * features, 0 * features, pair) @ features.T, theta, 0.1, 200)
    logps = log_softmax(theta * features)[0]

    w, zero, labels = rng.uniform(4, 6, 20), np.zeros(20), np.arange(20) % 2 == 0
    true = ipo(w, zero, zero, zero).losses - ipo(w - 1, zero - 1, zero, zero).losses
    false = kto(w, zero, labels, 0.0).losses - kto(w - 1, zero, labels, 0.0).losses
    numbers = {"gap": logps[0] - logps[1], "start": -np.log(3), "end": logps[0], "rejected": logps[1]}
    return Measured(Reading.worst(true), Reading.worst(false), numbers)


@erratum("ipo.noise", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: IPO is robust to noisy labels: flips do not move what it learns.
    Truth: Labels flipped with probability ε, whatever the pair, multiply all of IPO's gaps by 1 - 2ε: the gap of a pair with
      one winner shrinks from 1/(2β) to (1 - 2ε)/(2β). For ε < 1/2 it keeps its sign, no more.
    Source: arXiv:2310.12036v2 eq. 17, minimized over labels that hold with probability 1 - ε
    Measured: largest distance of the minimizing gap, relative to 1/(2β), from 1 - 2ε (belief: from 1) at ε = 0.1, 0.2 and 0.3
    Shown: One pair, β = 0.1: the learned gap is {clean:.3f} nats with clean labels and {noisy:.3f} with 20 % of them flipped.
    """
    flips = np.array([0.1, 0.2, 0.3])
    shares = np.array([best_gap(ipo, 1 - flip) for flip in flips]) / 5
    numbers = {"clean": best_gap(ipo), "noisy": 5 * shares[1]}
    return Measured(Reading.worst(shares - (1 - 2 * flips)), Reading.worst(shares - 1), numbers)


@erratum("ipo.near-ties", CONDITIONAL, (0.0, 0.02))
def _(rng: np.random.Generator) -> Measured:
    """Belief: IPO differs from DPO most where preferences are noisy or nearly tied.
    Truth: With many labels a pair it is the other way round. If a share p of them agree, DPO's best gap is logit(p)/β and IPO's
      (2p - 1)/(2β). With IPO's β a quarter of DPO's the two differ near a tie by a share of (2p - 1)²/3 to leading order; they
      part where labels are nearly unanimous, as those of a near tie are, by chance, if there are few.
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
    Truth: The paper has no tokens, and libraries read it in two ways. On token sums, as in DPO, the target of the log-ratio gap
      h is 1/(2β) whatever the lengths; on token means, as in TRL, it is n/(2β) for two responses of n tokens.
    Source: arXiv:2310.12036v2 eq. 17; TRL 1.16.0, loss_type ipo
    Measured: distance of (best h on means)/(best h on sums) from the common length 50 (belief: from 1)
    Shown: Two responses of 50 tokens, β = 0.1: the best h is {sums:.1f} nats on sums and {means:.1f} on means.
    """
    length = np.array([50])
    sums = best_gap(ipo)
    means = best_gap(partial(ipo_length_normalized, chosen_lengths=length, rejected_lengths=length))
    return Measured(Reading.worst(means / sums - 50), Reading.worst(means / sums - 1), {"sums": sums, "means": means})


@erratum("ipo.psi", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: In the general objective of the IPO paper, IPO is the choice Ψ = logit.
    Truth: Under Bradley-Terry with reward R, Ψ = logit gives DPO's optimum π_ref e^{R/β}/Z. IPO is Ψ = identity; its optimum is
      π_ref(y) e^{p(y)/β}/Z, where p(y) is the chance that y beats a response from the distribution that pairs are drawn from,
      both responses independently.
    Source: arXiv:2310.12036v2 section 4 and eq. 9
    Measured: largest slope of the exact IPO loss, over Bradley-Terry labels on all pairs of 6 responses, at the optimum of Ψ =
      identity (belief: of Ψ = logit)
    Shown: Two responses, each 1/2 in the reference, the first preferred with probability 0.9, β = 0.5: at IPO's minimum it has
      probability {identity:.3f} = σ(0.8/(2β)), at the optimum of Ψ = logit {logit:.3f} = σ(logit(0.9)/β).
    """
    world = random_world(rng)
    wins = world.preferences.mean(2)
    identity = optimal_policy(wins, world.reference_logps, beta=world.beta).logps
    slope = partial(
        pair_gradient, partial(ipo, beta=world.beta), reference_logps=world.reference_logps, weights=different_pairs(world)
    )
    gaps = {"identity": best_gap(partial(ipo, beta=0.5), 0.9), "logit": best_gap(partial(dpo, beta=0.5), 0.9)}
    numbers = {name: sigmoid(np.array(gap)) for name, gap in gaps.items()}
    return Measured(Reading.worst(slope(identity)), Reading.worst(slope(np.log(world.optimum))), numbers)


# KTO


@erratum("kto.reference-point", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: KTO's reference point is the divergence of the policy from a uniform baseline.
    Truth: z_0 stands for KL(π || π_ref), the divergence of the policy from its reference. It is estimated on mismatched prompts
      and responses, and no gradient flows through it. Where training starts at the reference it is 0.
    Source: arXiv:2402.01306v4 eq. 8 and section 4.1
    Measured: distance of the first loss from 1/2, with z_0 estimated from the log-ratios (belief: with KL(π || uniform)); β = 1
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
    Truth: β multiplies the reference point too: 1 - σ(β (log(π/π_ref) - z_0)) with z_0 in nats. KTO is steepest at a log-ratio
      of z_0, whatever β. (The belief's form is right if z_0 stands for β times the divergence.)
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
    Truth: As it stands (λ_D = λ_U = 1) KTO is symmetric about its reference point. Its weights decide between good and bad
      responses, and the range advised for as many of one as of the other, 1 <= λ_D/λ_U <= 3/2, gives gains the larger weight or
      the same.
    Source: arXiv:2402.01306v4 eq. 8 and 9; Tversky & Kahneman 1992
    Measured: largest distance from 1 of (value lost)/(value gained), value being minus the loss: a good response t below z_0
      against t above it, and a bad one t above z_0 against a good one t above it, t from 1 to 20 nats (belief: of 2.25, that
      ratio in the value function of Tversky and Kahneman, t^0.88 for gains and -2.25 |t|^0.88 for losses)
    Shown: At 1 nat, β = 0.1, a good response gains {gain:.4f} above z_0 and loses {fall:.4f} below it, and a bad one loses
      {bad:.4f} above it. With λ_D = 3/2 the good one gains {advised:.4f}.
    """
    t, point = np.array([1.0, *rng.uniform(1, 20, 99)]), 1.5

    def gained(distance: Array, good: bool, **weights: float) -> Array:
        at, start = (
            kto(r, np.zeros(100), np.full(100, good), point, **weights).losses for r in (point + distance, np.full(100, point))
        )
        return start - at

    gain, fall, bad = gained(t, True), -gained(-t, True), -gained(t, False)
    numbers = {"gain": gain[0], "fall": fall[0], "bad": bad[0], "advised": gained(t, True, desirable_weight=1.5)[0]}
    return Measured(Reading.worst(fall / gain - 1, bad / gain - 1), Reading(2.25 - 1), numbers)


@erratum("kto.class-means", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: KTO's loss is the mean over the good responses plus the mean over the bad ones.
    Truth: It is one mean over all n examples, each with its weight. The sum of the two means equals it for weights λ_D = n/n_D
      and λ_U = n/n_U, which balance the classes whatever their sizes n_D and n_U.
    Source: arXiv:2402.01306v4 eq. 8
    Measured: relative distance of the sum of class means from the mean with weights n/n_D and n/n_U (belief: with weights 1),
      for 9 good and 3 bad responses
    Shown: 9 good and 3 bad responses at the reference, each loss 1/2: the mean over examples is {mean:.3f}, the sum of the
      class means {classes:.3f}. In the first all weigh 1/12; in the second a bad one weighs 1/3, a good one 1/9.
    """
    logps, zero, good = rng.normal(0, 8, 12), np.zeros(12), np.arange(12) < 9

    def both(at: Array) -> tuple[float, float]:
        losses = kto(at, zero, good, 0.0).losses
        return losses.mean(), losses[good].mean() + losses[~good].mean()

    balanced = kto(logps, zero, good, 0.0, desirable_weight=12 / 9, undesirable_weight=12 / 3).losses.mean()
    mean, classes = both(logps)
    numbers = dict(zip(("mean", "classes"), both(zero), strict=True))
    return Measured(Reading.worst(1 - balanced / classes), Reading.worst(1 - mean / classes), numbers)


@erratum("kto.pairs", WRONG, (0.99, 1.0))
def _(rng: np.random.Generator) -> Measured:
    """Belief: KTO cannot be trained on pairs.
    Truth: A pair is split into a good and a bad example, as the paper does to compare KTO with DPO on the same data. Only who
      was paired with whom is lost.
    Source: arXiv:2402.01306v4 section 4
    Measured: probability of the chosen one of two responses after 200 steps of gradient descent, 100 each, on the two losses of
      the split pair (belief: no training, as before them)
    Shown: Two responses, each 1/2 in the reference, β = 0.1, z_0 = 0: the probability of the chosen one rises from {start:.2f}
      to {end:.4f}.
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
    Truth: ORPO adds -λ log σ(log odds ratio). With the other sign, descent on that term lowers the odds of the chosen response
      against those of the rejected one.
    Source: arXiv:2403.07691v2 eq. 6 and 7
    Measured: how much the log odds ratio rises over 50 steps of gradient descent, 0.1 each, on the odds-ratio term alone,
      starting at π = (0.3, 0.4, 0.3), the first chosen, the second rejected (belief: with its sign)
    Shown: From {start:.3f}, at probabilities 0.3 and 0.4, the log odds ratio goes to {true:+.2f}; with the sign of the belief,
      to {false:+.2f}.
    """
    start = np.log([[0.3, 0.4, 0.3]])

    def after(sign: float) -> float:
        def gradient(z: Array) -> Array:
            slopes = odds_term(softmax(z)[:, :2])[1:, 0]
            return to_logits(sign * np.array([[*slopes, 0.0]]), softmax(z))

        p = softmax(descend(gradient, start, 0.1, 50))[0]
        return float(np.log(p[0] / (1 - p[0])) - np.log(p[1] / (1 - p[1])))

    numbers = {"start": np.log(3 / 7) - np.log(4 / 6), "true": after(1.0), "false": after(-1.0)}
    true, false = (Reading(numbers[name] - numbers["start"]) for name in ("true", "false"))
    return Measured(true, false, numbers)


@erratum("orpo.odds", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: ORPO's odds are those of the whole response, π/(1 - π) with π the product over its tokens.
    Truth: They are P/(1 - P) with P the geometric mean of the token probabilities; the two agree for one token. The product π
      of a long response is so small that π/(1 - π) is all but π: the odds ratio would be the plain ratio of probabilities.
    Source: arXiv:2403.07691v2 eq. 3 and 4
    Measured: distance of ORPO's log odds ratio from that of the mean token probabilities, for responses of 40 tokens (belief:
      of the products)
    Shown: Forty tokens of probability e^-1 each against forty of e^-2: ORPO's log odds ratio is {odds:.4f}; of the products it
      would be {products:.4f}, where the difference of the log-probabilities is {ratio:.0f}.
    """
    a, lengths = np.array([-1.0, -2.0]), np.array([40])
    found = orpo(40 * a[:1], 40 * a[1:], lengths, lengths).log_odds_ratio[0]
    means, products = (float(np.subtract(*np.log(p / (1 - p)))) for p in (np.exp(a), np.exp(40 * a)))
    numbers = {"odds": found, "products": products, "ratio": 40.0}
    return Measured(Reading.worst(found - means), Reading.worst(found - products), numbers)


@erratum("orpo.rejected-only", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: ORPO's odds-ratio term is a penalty on the rejected response.
    Truth: It pushes both: the mean log-probability of the chosen response up and that of the rejected one down, in the ratio (1
      - P_l) : (1 - P_w), with P the geometric mean of the token probabilities. The likelier one is pushed harder.
    Source: arXiv:2403.07691v2 eq. 7
    Measured: largest distance of (push on the chosen)/(push on the rejected) from (1 - P_l)/(1 - P_w), 20 random pairs of equal
      length (belief: from 0)
    Shown: At P_w = 0.6 and P_l = 0.2 the slopes in the mean log-probabilities are {chosen:.3f} and {rejected:+.3f}: the chosen
      response is pushed twice as hard.
    """
    chances = np.array([[0.6, 0.2], *rng.uniform(0.05, 0.95, (20, 2))])
    _, chosen, rejected = odds_term(chances)
    pushes, expected = -chosen / rejected, (1 - chances[:, 1]) / (1 - chances[:, 0])
    numbers = {"chosen": chosen[0], "rejected": rejected[0]}
    return Measured(Reading.worst(pushes / expected - 1), Reading.worst(pushes), numbers)


@erratum("orpo.printed-gradient", WRONG, (0.0, 1e-8))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The gradient of ORPO's odds-ratio loss is +δ d, as the paper prints it: δ = 1/(1 + odds_w/odds_l) and d = (∇log
      P_w)/(1 - P_w) - (∇log P_l)/(1 - P_l).
    Truth: It is -δ d. The printed one is the gradient of log σ(log odds ratio); the loss is minus that.
    Source: arXiv:2403.07691v2 eq. 7 against eq. 8 to 10 and A.20
    Measured: largest distance of central differences of eq. 7 in log P_w from -δ/(1 - P_w) (belief: from +δ/(1 - P_w)), 20
      random pairs; differences of step 1e-5 are good to 1e-8
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
    Truth: 1/(1 - P) grows with P: it amplifies the side whose likelihood is high. On the rejected side the gradient grows
      without bound as P_l goes to 1; on the chosen side δ = 1/(1 + odds_w/odds_l), shrinking as P_w grows, keeps
      it bounded.
    Source: arXiv:2403.07691v2 eq. 7 to 10; the belief is in the text of section 4.3
    Measured: (factor at P_l = 0.1)/(factor at P_l = 0.9), the factor being the slope of the loss in log P_l divided by δ:
      distance from 1/9 (belief: from 1, the least that would be an amplification)
    Shown: On the rejected side, with P_w = 0.5, the factor is {low:.3f} at P_l = 0.1 and {high:.2f} at P_l = 0.9.
    """
    loss, _, slopes = odds_term(np.array([[0.5, 0.1], [0.5, 0.9]]))
    low, high = slopes / (1 - np.exp(-loss))
    return Measured(Reading.worst(low / high - 1 / 9), Reading.worst(low / high - 1), {"low": low, "high": high})


# SimPO


@erratum("simpo.length-drops-reference", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: SimPO needs no reference because it divides log-probabilities by length.
    Truth: Length and reference are two switches. DPO on means over tokens still has its reference; SimPO is that loss with the
      reference taken away and a margin γ put in.
    Source: arXiv:2405.14734v3 eq. 4 to 6
    Measured: largest distance of SimPO's loss at γ = 0 from DPO's on mean log-probabilities with a constant reference (belief:
      with the reference that division by length should have removed)
    Shown: A pair of 10 and 8 tokens, log π = -10 and -9, log π_ref = -11 and -9.5, β = 2, γ = 0: the loss is {summed:.3f} on
      sums with reference, {bare:.3f} on sums without, {mean:.3f} on means with, {simpo:.3f} on means without.
    """
    lengths = np.array([[10, 20, 5, 40], [8, 10, 15, 30]])
    sums, reference = -lengths * rng.uniform(1.0, 1.5, (2, 2, 4))
    sums[:, 0], reference[:, 0] = (-10, -9), (-11, -9.5)
    without = simpo(*sums, *lengths, gamma=0.0).losses
    means = [dpo(*(sums / lengths), *ref, beta=2.0).losses for ref in (0 * sums, reference / lengths)]
    numbers = {"simpo": without[0], "mean": means[1][0]}
    numbers |= {"summed": dpo(*sums, *reference, beta=2.0).losses[0], "bare": dpo(*sums, *(0 * sums), beta=2.0).losses[0]}
    return Measured(Reading.worst(without - means[0]), Reading.worst(without - means[1]), numbers)


@erratum("simpo.margin", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: Take away DPO's reference, divide by length, and you have SimPO.
    Truth: It also has a target margin γ: where both responses have the same mean log-probability the loss is log(1 + e^γ), not
      log 2, and the gradient's weight is 1/2 not there but where they differ by γ/β.
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
    Truth: A proposal from π_sft is kept with probability e^{(R - R_max)/β}, so what is kept follows π_sft e^{R/β}/Z, an
      estimate of the optimal policy: in general neither the policy in training nor the proposal. (The paper keeps a few of
      finitely many candidates, without replacement, which approximates this.)
    Source: arXiv:2309.06657v2 eq. 14 and section 3.2
    Measured: largest total variation, over 3 prompts, of the law of the kept samples from the optimum (belief: from the policy
      at the start of training)
    Shown: Two responses, each 1/2 under π_sft, rewards 1 and 0, β = 0.5: a proposal is kept with probability {best:.0f} and
      {other:.3f}. Of those kept {share:.3f} are the first response, its probability under the optimum; training starts at 0.5.
    """
    world = random_world(rng)
    kept = world.reference * np.array(
        [rejection_acceptance(r, world.beta, float(r.max())).acceptance_probabilities for r in world.rewards]
    )
    law = kept / kept.sum(1, keepdims=True)
    best, other = rejection_acceptance(np.array([1.0, 0.0]), 0.5, 1.0).acceptance_probabilities
    numbers = {"best": best, "other": other, "share": best / (best + other)}
    return Measured(Reading(total_variation(law, world.optimum)), Reading(total_variation(law, world.reference)), numbers)


@erratum("rso.optimum", CONDITIONAL, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: Trained on samples from the optimal policy, RSO's sigmoid loss leads to that policy.
    Truth: Under Bradley-Terry labels on the reward R that loss, -log σ(γ h), has its minimum at π_ref e^{R/γ}/Z, however likely
      each pair is, as long as all can occur. That is the policy that the samples came from, π_ref e^{R/β}/Z, only if γ = β (or
      R is constant); the paper's values are γ = 0.05 and β = 0.5.
    Source: arXiv:2309.06657v2 eq. 8 and 14, section 5
    Measured: largest slope of the exact loss, pairs drawn from the optimum and labels from Bradley-Terry, at π_ref e^{R/γ}/Z
      (belief: at π_ref e^{R/β}/Z), γ = 0.05, β = 0.5
    Shown: Two responses of rewards 1 and 0, at the paper's values: in the policy that was sampled their log-ratio gap is
      {sampled:.1f} nats, in the one that the loss leads to {learned:.1f}.
    """
    world = random_world(rng)
    drawn = different_pairs(world) * world.optimum[:, :, None] * world.optimum[:, None, :]
    sharper = optimal_policy(world.rewards, world.reference_logps, beta=0.05).logps
    slope = partial(pair_gradient, partial(dpo, beta=0.05), reference_logps=world.reference_logps, weights=drawn)
    numbers = {"sampled": 1 / world.beta, "learned": best_gap(partial(dpo, beta=0.05), float(sigmoid(np.ones(1))[0]))}
    return Measured(Reading.worst(slope(sharper)), Reading.worst(slope(np.log(world.optimum))), numbers)


@erratum("sppo.half", CONDITIONAL, (0.0, 0.001 / 8))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The 1/2 in SPPO's target η (P - 1/2) is the exact log Z / η of the multiplicative-weights update that it follows.
    Truth: It is the limit of small η: log Z/η lies between 1/2 and 1/2 + η/8. At the paper's η = 1000 that says no more than
      that log Z/η is at least 1/2.
    Source: arXiv:2405.00675v4 eq. 4.7; the bound is Hoeffding's lemma
    Measured: log Z/η - 1/2 at η = 0.001, where the bound is η/8 (belief: at η = 1000), 6 responses, Bradley-Terry win rates
    Shown: Two responses, each 1/2 under the policy, one preferred with probability 0.9, so that they win with probability 0.7
      and 0.3 against the policy: log Z/η is {small:.6f} at η = 0.001 and {large:.3f} at η = 1000.
    """
    world = random_world(rng, prompts=1)
    wins = (world.preferences * world.reference[:, None, :]).sum(2)

    def offsets(wins: Array, logps: Array) -> list[float]:
        return [float(optimal_policy(wins, logps, beta=1 / eta).log_partition[0]) / eta for eta in (1e-3, 1e3)]

    true, false = offsets(wins, world.reference_logps)
    numbers = dict(zip(("small", "large"), offsets(np.array([[0.7, 0.3]]), np.log([[0.5, 0.5]])), strict=True))
    return Measured(Reading(true - 0.5), Reading(false - 0.5), numbers)


@erratum("bco.pair-loss", WRONG, (1e-9, np.inf))
def _(rng: np.random.Generator) -> Measured:
    """Belief: BCO's loss on a pair is DPO's.
    Truth: It is -log σ(r̂_w - δ) - log σ(δ - r̂_l), larger than DPO's -log σ(r̂_w - r̂_l) for every shift δ.
    Source: arXiv:2404.04656; TRL 1.16.0, loss_type bco_pair, where δ = 0
    Measured: smallest (BCO's loss - DPO's)/(1 + DPO's loss) over 1000 random pairs and shifts (belief: 0)
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


@erratum("grpo.batch", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: GRPO's baseline is the mean reward of the batch of sampled responses.
    Truth: It is the mean over the group, the responses to one prompt, and the difference is then divided by the group's
      standard deviation. A prompt whose responses all have the same reward gives no advantage.
    Source: arXiv:2402.03300v3 section 4.1.2
    Measured: largest magnitude of a group's mean advantage, rewards (1, 1, 1, 0) and (0, 0, 0, 1) (belief: of the rewards minus
      the batch's mean)
    Shown: Two prompts, solved by 3 and by 1 of 4 responses. Minus the group's mean the rewards of the first are {group}; minus
      the batch's, {batch}, whose mean is not 0.
    """
    rewards = np.array([[1.0, 1, 1, 0], [0, 0, 0, 1]])
    group, batch = advantages_dr_grpo(rewards).advantages, rewards - rewards.mean()
    numbers = {"group": group[0].tolist(), "batch": batch[0].tolist()}
    return Measured(Reading.worst(advantages_grpo(rewards).advantages.mean(1)), Reading.worst(batch.mean(1)), numbers)


@erratum("grpo.standard-deviation", WRONG, ROUNDING)
def _(rng: np.random.Generator) -> Measured:
    """Belief: GRPO's group-relative advantage is a baseline: it lowers the variance and leaves the expected gradient what it
      was.
    Truth: Subtracting the mean of a group of G does so, but for the factor (G - 1)/G, the same for every prompt. Dividing by
      the standard deviation does not: with rewards 0 and 1 it weighs prompts by how often they are solved, most those solved
      nearly always or nearly never.
    Source: arXiv:2503.20783v2 section 3.1
    Measured: distance from (G - 1)/G of (expected update)/(gradient of the success rate), by enumeration of all groups of G = 8
      drawn on-policy, success rates 0.02 to 0.98, without the standard deviation (belief: with it)
    Shown: Groups of 8, rewards 0 and 1: with the standard deviation (over G - 1) the ratio of the expected update to the
      gradient of the success rate is {half:.2f} at a success rate of 0.5 and {rare:.2f} at 0.02; without it {centred:.3f} at
      both.
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
    Truth: On tokens drawn from π the number k3 is unbiased; differentiated as a loss on those tokens its expected gradient is
      that of KL(π_ref || π), the other direction, token by token. (In the logits it is π - π_ref.)
    Source: arXiv:2402.03300v3 eq. 4; Schulman 2020, Approximating KL divergence
    Measured: largest distance of k3's expected slope in the logits from π - π_ref, by enumeration (belief: from the gradient of
      KL(π || π_ref))
    Shown: At π = (0.6, 0.3, 0.1), π_ref = (0.2, 0.3, 0.5) the mean of k3 is {mean:.4f} = KL(π || π_ref). Its slope in the last
      logit is {slope:+.4f}; that of KL(π_ref || π) is {forward:+.4f}, that of KL(π || π_ref) {reverse:+.4f}.
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
    Truth: The first update on the samples of a policy is. Later ones on the same samples are not: the ratios ρ to the policy
      that drew them leave 1 and clipping sets in. The GRPO paper makes one update for each sampling, DAPO 16.
    Source: arXiv:2402.03300v3 section 4.2; arXiv:2503.14476v2 section 4.1; arXiv:1707.06347v2 eq. 7
    Measured: largest ρ - 1 at the 16th update on one batch; beyond 0.2, the clip, a rewarded token has no gradient (belief: at
      the first)
    Shown: Four responses of probability 0.1, 0.2, 0.3 and 0.4 with rewards 1, 1, 0 and 0, expected updates of step 0.1 in the
      logits: the largest ρ is {first:.0f} at the first and {last:.3f} at the 16th, where {clipped:.0%} of the probability is
      clipped.
    """
    advantages = advantages_grpo(np.array([[1.0, 1, 0, 0]])).advantages[0]
    _, ratios, clipped = clipped_steps(np.log([[0.1, 0.2, 0.3, 0.4]]), advantages, 0.1, 16)
    numbers = {"first": ratios[0], "last": ratios[-1], "clipped": clipped[-1]}
    return Measured(Reading(ratios[-1] - 1), Reading(ratios[0] - 1), numbers)


@erratum("ppo.ratio-bound", WRONG, (1.21, np.inf))
def _(rng: np.random.Generator) -> Measured:
    """Belief: PPO's clipping keeps the probability ratio between 1 - ε and 1 + ε.
    Truth: It bounds the incentive, not the ratio. A token whose ratio has left the interval on the side that its advantage
      favours has gradient 0: nothing in its own term leads it back. A large step, or the updates of other tokens, can carry a
      ratio well beyond.
    Source: arXiv:1707.06347v2 eq. 7 and section 3
    Measured: largest ratio after 4 updates on one batch, ε = 0.2, as described above (belief: at most 1 + ε)
    Shown: Four responses of probability 0.1, 0.2, 0.3 and 0.4, advantages 1, 1, -1 and -1, expected updates of step 2 in the
      logits: the first carries a ratio to {ratio:.2f}, the next three change it by {moved:.3f}.
    """
    advantages = np.array([1.0, 1.0, -1.0, -1.0])
    _, ratios, _ = clipped_steps(np.log([[0.1, 0.2, 0.3, 0.4]]), advantages, 2.0, 5)
    return Measured(Reading(ratios[4]), Reading(1.2), {"ratio": ratios[1], "moved": ratios[4] - ratios[1]})


@erratum("ppo.trust-region", WRONG, (0.0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: β is DPO's trust region, as it is PPO's.
    Truth: β says where training ends, in PPO on R - β log(π/π_ref) as in DPO: at log-ratio gaps of ΔR/β, if the optimum is
      reached. What stands for a trust region in PPO is ε, around the policy that drew the batch; it moves along with every
      batch and bounds no distance from the reference.
    Source: arXiv:1707.06347v2 eq. 7; arXiv:2305.18290v3 eq. 3 and 4
    Measured: distance of the log-ratio gap of two responses from ΔR/β = 2 after 100 batches of clipped PPO, with the reward
      less β log(π/π_ref) (belief: with the clip alone)
    Shown: π_ref = (0.3, 0.7), rewards 1 and 0, 4 expected updates of step 0.5 a batch: with β = 0.5 in the reward the gap ends
      at {anchored:.4f} nats. With ε = 0.2 alone it is {early:.2f} after 50 batches and {late:.2f} after 100.
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
      seen, β is the same and the policy can be anything. DPO ends lower where, for instance, the better response always wins.
    Source: arXiv:2305.18290v3 eq. 4 and 7
    Measured: difference of entropy between DPO's minimum and the maximum that natural policy gradients reach on the
      KL-regularized objective (belief: DPO where the better response always wins, after as many steps)
    Shown: π_ref = (0.5, 0.3, 0.2), rewards 1, 0 and -1, β = 0.5. The entropy of the reference is {reference:.3f} nats, after
      policy gradients {gradients:.3f}, after DPO on all pairs {dpo:.3f}, after 400 steps of 50 of DPO on labels that never err
      {hard:.3f}.
    """
    world = World(np.array([[1.0, 0.0, -1.0]]), np.array([[0.5, 0.3, 0.2]]), 0.5)
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
    """In nats, of probabilities [P, K], the mean over prompts."""
    return float(-(policy * np.log(policy)).sum(1).mean())


@erratum("dpo.verifier", WRONG, (0.0, 0.01))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO cannot use a reward that a program computes.
    Truth: A verifier orders responses as a labeller does: pair those that pass with those that fail. A prompt whose responses
      all pass or all fail gives no pair; in GRPO it gives no advantage.
    Source: arXiv:2404.19733, iterative reasoning preference optimization
    Measured: failure rate after 400 steps of DPO, 5 each, on pairs that a verifier labelled (belief: as before them)
    Shown: Six responses, of which the first two pass, π_ref = (0.05, 0.05, 0.2, 0.2, 0.2, 0.3), the eight pairs of one that
      passes and one that fails, β = 0.1: the success rate rises from {start:.3f} to {end:.4f}.
    """
    passes = np.array([1.0, 1, 0, 0, 0, 0])
    reference = np.log([[0.05, 0.05, 0.2, 0.2, 0.2, 0.3]])
    pairs = (passes[:, None] > passes)[None].astype(float)
    trained = descend(partial(pair_gradient, dpo, reference_logps=reference, weights=pairs), reference, 5.0, 400)
    start, end = (float(softmax(z)[0] @ (1 - passes)) for z in (reference, trained))
    return Measured(Reading(end), Reading(start), {"start": 1 - start, "end": 1 - end})


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
        "The PPO paper's KL penalty is towards the policy that drew the batch. A penalty towards a fixed reference is in "
        "earlier work (Jaques et al. 2016) and, with PPO and learned preferences, in Ziegler et al. 2019.",
        "arXiv:1707.06347v2 section 4; arXiv:1611.02796; arXiv:1909.08593v2 eq. 2",
    ),
    Documentary(
        "DPO's β, 0.1 to 0.5, is larger than the KL coefficients used with PPO.",
        "The ranges overlap: OpenAI's code for PPO from preferences has 0.01 to 0.2, TRL's PPO 0.05. Nor do the numbers "
        "compare as such: β counts in units of the reward, whose scale the labels fix in DPO.",
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
        "arXiv:2203.02155v1 section 3.5 and appendix C",
    ),
]
