"""Errata about the objective, Bradley-Terry and DPO: what is often written, refuted, and what is true instead.

In a table each response has one logit of its own; with a shared weight one number moves several responses at once.
"""

from collections.abc import Callable
from functools import partial
from itertools import permutations
from math import comb
from typing import Any

import numpy as np

from minipref import cdpo, dpo, ipo, kl_regularized_objective, optimal_policy, plackett_luce_dpo
from minipref.arrays import log_softmax, sigmoid, softmax
from toy.bandit import (
    Array,
    PairLoss,
    World,
    descend,
    different_pairs,
    kl,
    objective,
    over_pairs,
    pair_gradient,
    preferences,
    random_world,
    to_logits,
    total_variation,
)
from toy.experiment import Measured, Reading
from verify.theory.claim import CONDITIONAL, WRONG, Documentary, erratum

DPO = "arXiv:2305.18290v3"
SHARED = np.array([1.0, 0.0, 2.0])  # how far a step of the shared weight moves the chosen, the rejected, an unseen response
UNIFORM = np.full((1, 3), -np.log(3))


def example_first(rng: np.random.Generator, beta: float = 0.5) -> World:
    """Three prompts of three responses: the first has rewards 1, 0, -1 and reference 0.2, 0.3, 0.5, the others are random."""
    world = random_world(rng, responses=3, beta=beta)
    world.rewards[0], world.reference[0] = (1.0, 0.0, -1.0), (0.2, 0.3, 0.5)
    return world


def labelled(chance: float, responses: int = 2) -> Array:
    """Weights [1, K, K] of labels on two responses: the first is chosen over the second with this chance."""
    weights = np.zeros((1, responses, responses))
    weights[0, 0, 1], weights[0, 1, 0] = chance, 1 - chance
    return weights


def cycle(chance: float) -> Array:
    """Weights [1, 3, 3]: each response is chosen over the next one, cyclically, with this chance."""
    ahead = np.roll(np.eye(3), 1, axis=1)
    return (chance * ahead + (1 - chance) * ahead.T)[None]


def trained(loss: PairLoss, start: Array, reference_logps: Array, weights: Array, step: float, steps: int) -> Array:
    """Logits [P, K] of a table after gradient descent on the weighted pairs."""
    return descend(lambda z: pair_gradient(loss, z, reference_logps, weights), start, step, steps)


def with_shared_weight(loss: PairLoss, reference_logps: Array, weights: Array, step: float, steps: int) -> Array:
    """Log-probabilities [1, 3] after descent on the one weight θ of a policy with the logits log π_ref + θ SHARED."""

    def gradient(weight: Array) -> Array:
        return pair_gradient(loss, reference_logps + weight * SHARED, reference_logps, weights) @ SHARED[:, None]

    return log_softmax(reference_logps + descend(gradient, np.zeros((1, 1)), step, steps) * SHARED)


def slope(loss: PairLoss, gaps: Array, chances: Array | float = 1.0) -> Array:
    """Expected ∂L/∂h at log-ratio gaps [N] where the first response is chosen with these chances."""
    zero = np.zeros_like(gaps)
    as_labelled, flipped = loss(gaps, zero, zero, zero), loss(zero, gaps, zero, zero)
    return chances * as_labelled.grad_policy_chosen_logps + (1 - chances) * flipped.grad_policy_rejected_logps


def resting_gaps(loss: PairLoss, reach: float, chances: Array) -> Array:
    """Where within ±reach the expected slope in the gap changes sign, by bisection [N]; ±reach where it never does."""
    low, high = np.full_like(chances, -reach), np.full_like(chances, reach)
    for _ in range(80):
        middle = (low + high) / 2
        rising = slope(loss, middle, chances) < 0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    return np.where(high == reach, high, low)


def path(loss: PairLoss, step: float, steps: int, chance: float = 1.0) -> Array:
    """Log-ratio gaps [steps + 1] of one pair in a table under gradient descent from the reference."""
    gaps = np.zeros(steps + 1)
    for t in range(steps):
        gaps[t + 1] = gaps[t] - 2 * step * slope(loss, gaps[t : t + 1], chance)[0]
    return gaps


def logit(chance: Array) -> Array:
    return np.log(chance) - np.log1p(-chance)


@erratum("objective.optimum-always-exists", CONDITIONAL, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: For any reward, the KL-regularized objective is maximized by π_ref e^(R/β)/Z.
    Truth: Only where Z = E_ref[e^(R/β)] is finite, as it is for a finite set of responses. If lengths have no limit, the
      reference ends after each token with chance 1 - q and the reward pays c > 0 per token, there is no optimum for
      β <= c / log(1/q): the objective has no upper bound.
    Source: arXiv:2305.18290v3 eq. 4, which presupposes Z(x); here Z = Σ_n (1-q) q^(n-1) e^(cn/β), a geometric series
    Measured: growth of the best objective per token between 500 and 1,000 tokens allowed, β = 1, less c - β log(1/q), which
      the series gives; belief: less 0, the growth of an objective that has an optimum
    Shown: With q = 0.9 and c = 0.2 the limit is β = {limit:.4f}. Of policies of at most 500 and at most 1,000 tokens the best
      objectives differ, at β = 1, by {growth:.4f} for each token more; at β = 3 they are {finite[0]:.4f} and {finite[1]:.4f}.
    """

    def best(longest: int, beta: float) -> float:
        tokens = np.arange(1.0, longest + 1)[None]
        found = optimal_policy(0.2 * tokens, log_softmax((tokens - 1) * np.log(0.9)), beta=beta)
        return beta * float(found.log_partition[0])

    growth, limit = (best(1000, 1.0) - best(500, 1.0)) / 500, 0.2 / np.log(1 / 0.9)
    numbers = {"limit": limit, "growth": growth, "finite": (best(500, 3.0), best(1000, 3.0))}
    return Measured(Reading.worst(growth - (0.2 - np.log(1 / 0.9))), Reading.worst(growth), numbers)


@erratum("objective.beta-is-a-constraint", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: β fixes how far the policy may move: it is a trust region, a bound on KL(π || π_ref).
    Truth: β is the price of a nat of KL, not a bound. For one given reward it amounts to some bound, but to which depends on
      the reward: R and β enter the optimum as R/β alone, so rewards times four move it exactly as a quarter of β does.
    Source: arXiv:2305.18290v3 eq. 3 and 4
    Measured: difference between the KL(π* || π_ref) of (R, β) and of (4R, 4β), worst of three prompts; belief: of (R, β) and
      (4R, β)
    Shown: Rewards 1, 0, -1, reference 0.2, 0.3, 0.5, β = 0.5: KL(π* || π_ref) is {once:.3f} nats. For the same rewards times
      four it is {scaled:.3f} nats.
    """
    world = example_first(rng)
    louder = world._replace(rewards=4 * world.rewards)
    once, scaled, both = (kl(w.optimum, w.reference) for w in (world, louder, louder._replace(beta=4 * world.beta)))
    return Measured(Reading.worst(both - once), Reading.worst(scaled - once), {"once": once[0], "scaled": scaled[0]})


@erratum("objective.maximum-entropy", CONDITIONAL, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: KL-regularized RL is maximum-entropy RL.
    Truth: Only for a uniform reference. Else it is maximum-entropy RL, at temperature β, of another reward, R + β log π_ref;
      the maximum-entropy policy of R itself is proportional to e^(R/β), without the reference.
    Source: arXiv:2305.18290v3 eq. 3, with -β KL(π || π_ref) = β H(π) + β E_π[log π_ref]
    Measured: largest slope of the KL-regularized objective at the maximum-entropy policy of R + β log π_ref under π_ref, and
      of R under a uniform reference; belief: at that of R under π_ref
    Shown: Rewards 1, 0, -1, reference 0.2, 0.3, 0.5, β = 0.5: the best KL-regularized objective is {best:.3f}; the
      maximum-entropy policy of R has {entropic:.3f}. They give the first response {optimum:.3f} and {softmax:.3f}.
    """
    world = example_first(rng)
    uniform = np.full_like(world.rewards, -np.log(world.rewards.shape[1]))
    scores = world.rewards / world.beta

    def slopes(logits: Array, reference_logps: Array) -> Array:
        return kl_regularized_objective(logits, world.rewards, reference_logps, beta=world.beta).grad_policy_logits

    true = Reading.worst(slopes(scores + world.reference_logps, world.reference_logps), slopes(scores, uniform))
    (best, *_), (entropic, *_) = (objective(world, policy) for policy in (world.optimum, softmax(scores)))
    numbers = {"best": best, "entropic": entropic, "optimum": world.optimum[0, 0], "softmax": softmax(scores)[0, 0]}
    return Measured(true, Reading.worst(slopes(scores, world.reference_logps)), numbers)


@erratum("objective.one-sign-flips", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: Dividing the KL-regularized objective by -β flips the sign of the reward term only.
    Truth: Both terms change sign: J/(-β) = E_π[log(π/π_ref) - R/β], which is to be minimized.
    Source: arXiv:2305.18290v3 appendix A.1
    Measured: largest difference from J/(-β) on a random policy; belief: with only the sign of the reward term flipped
    Shown: Rewards 1, 0, -1, reference 0.2, 0.3, 0.5, β = 0.5: the uniform policy has J/(-β) = {value:.4f}. The two terms with
      both signs changed give {both:.4f}, with only the reward's {one:.4f}: off by 2 KL(π || π_ref).
    """
    world, logits = example_first(rng), rng.normal(size=(3, 3))
    logits[0] = 0
    value = -kl_regularized_objective(logits, world.rewards, world.reference_logps, beta=world.beta).objective / world.beta
    policy = softmax(logits)
    ratios, rewards = np.log(policy / world.reference), world.rewards / world.beta
    both, one = (policy * (ratios - rewards)).sum(1), (policy * (-ratios - rewards)).sum(1)
    return Measured(
        Reading.worst(both - value), Reading.worst(one - value), {"value": value[0], "both": both[0], "one": one[0]}
    )


@erratum("implicit-reward.is-the-log-ratio", CONDITIONAL, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: At the optimum the reward is the log-ratio of policy to reference.
    Truth: R = β log(π*/π_ref) + β log Z(x). Without β the scale is lost; without β log Z(x) what is left compares only
      responses to the same prompt.
    Source: arXiv:2305.18290v3 eq. 5
    Measured: largest |R - β log(π*/π_ref) - β log Z| on a random world; belief: |R - log(π*/π_ref)|
    Shown: Rewards 1, 0, -1, reference 0.2, 0.3, 0.5, β = 0.5: the log-ratios at the optimum are {bare[0]:.3f}, {bare[1]:.3f}
      and {bare[2]:.3f}. Times β they are {scaled[0]:.3f}, {scaled[1]:.3f} and {scaled[2]:.3f}, each {constant:.3f} below its
      reward.
    """
    world = example_first(rng)
    ratios = np.log(world.optimum / world.reference)
    constant = world.beta * np.log((world.reference * np.exp(world.rewards / world.beta)).sum(1, keepdims=True))
    scaled = world.beta * ratios
    numbers = {"bare": ratios[0], "scaled": scaled[0], "constant": constant[0, 0]}
    return Measured(Reading.worst(world.rewards - scaled - constant), Reading.worst(world.rewards - ratios), numbers)


@erratum("implicit-reward.of-any-policy", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The true reward is R = β log(π_θ/π_ref) + β log Z(x) for the policy π_θ being trained.
    Truth: Only for the optimum π*. For any other policy R and β log(π_θ/π_ref) differ, on some prompt, by more than a
      constant. The latter is a reward of DPO's own, fitted to the labels.
    Source: arXiv:2305.18290v3 eq. 5, where the policy is the optimum; section 5.1
    Measured: range of R - β log(π/π_ref) over the responses to one prompt, worst of three, at π*; belief: at π_ref and
      at random policies
    Shown: Rewards 1, 0, -1: where training starts, at π = π_ref, every log-ratio is 0. What the identity says is a constant is
      then R itself, and varies by {varies:.3f}.
    """
    world, other = example_first(rng), softmax(rng.normal(size=(3, 3)))
    other[0] = world.reference[0]
    at_optimum, varies = (
        np.ptp(world.rewards - world.beta * np.log(policy / world.reference), axis=1) for policy in (world.optimum, other)
    )
    return Measured(Reading.worst(at_optimum), Reading.worst(varies), {"varies": varies[0]})


@erratum("bradley-terry.any-preferences", WRONG, (0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: Bradley-Terry scores can represent whatever people prefer between responses.
    Truth: Only chances other than 0 and 1 whose odds multiply along chains: odds(a, c) = odds(a, b) odds(b, c). The best
      scores for a cycle of equal chances are all equal, and predict 1/2 for every pair.
    Source: Bradley & Terry 1952, Rank analysis of incomplete block designs: the odds are a ratio of two numbers, one for each
      response
    Measured: largest distance of the fitted preferences from 1/2, labels 80 to 20 along a cycle of three; belief: from 80 %
    Shown: Of three responses each is preferred to the next 80 % of the time. The maximum-likelihood scores predict {fit:.4f}
      for all three pairs, with a loss of {loss:.4f} a pair; the labels themselves have an entropy of {entropy:.4f}.
    """
    loss: PairLoss = partial(dpo, beta=1.0)
    scores = trained(loss, rng.normal(size=(1, 3)), UNIFORM, cycle(0.8), 1.0, 200)
    fitted = np.sum(preferences(scores) * cycle(1.0), axis=2)
    entropy = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    numbers = {"fit": fitted[0, 0], "loss": over_pairs(loss, scores, UNIFORM, cycle(0.8))[0] / 3, "entropy": entropy}
    return Measured(Reading.worst(fitted - 0.5), Reading.worst(fitted - 0.8), numbers)


@erratum("bradley-terry.noise-breaks-the-fit", WRONG, (0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The maximum-likelihood fit of Bradley-Terry, and with it DPO, needs labels that agree: noise and cycles are what
      breaks it.
    Truth: Labels that agree with one ranking have no finite fit at all; it takes contradictions to make it finite. If the
      comparisons link all responses, the fit is finite exactly if no group of them won every comparison with the rest.
      (Whether it is a good fit is another matter: see bradley-terry.any-preferences.)
    Source: Ford 1957, Solution of a ranking problem from binary comparisons
    Measured: largest score gap after 300 gradient steps of size 1 from random scores, one label a pair, a > b > c > a;
      belief: from equal scores, a > b > c and a > c
    Shown: From random scores the cycle's become equal. Without a contradiction the scores of best and worst are {once:.2f}
      apart after 300 gradient steps of size 1 and {later:.2f} after 900.
    """

    def apart(start: Array, weights: Array, steps: int) -> float:
        return float(np.ptp(trained(partial(dpo, beta=1.0), start, UNIFORM, weights, 1.0, steps)))

    ranking = np.triu(np.ones((1, 3, 3)), 1)
    once, later = (apart(UNIFORM, ranking, steps) for steps in (300, 900))
    return Measured(Reading(apart(rng.normal(size=(1, 3)), cycle(1.0), 300)), Reading(once), {"once": once, "later": later})


@erratum("bradley-terry.repetition-diverges", CONDITIONAL, (0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: A preference that occurs often in the data is pushed to an infinite score gap.
    Truth: Only if its labels are unanimous, and then one label suffices. In a table, a pair on its own whose labels
      agree in a share p < 1 has its optimum at the gap logit(p)/β, however often it is repeated.
    Source: arXiv:2305.18290v3 eq. 7: its expected slope in the gap is β (σ(βh) - p)
    Measured: distance of the log-ratio gap from logit(0.8)/β after 400 steps of size 100 on the expected gradient of one
      pair, labels 80 to 20, β = 0.1; belief: unanimous labels
    Shown: At β = 0.1 and a step of 100, 400 visits bring a preference of 80 % to the gap {mixed:.3f} = logit(0.8)/β, and a
      unanimous one to {unanimous:.3f}.
    """
    mixed, unanimous = (path(dpo, 100.0, 400, chance)[-1] for chance in (0.8, 1.0))
    target = logit(np.array(0.8)) / 0.1
    return Measured(Reading.worst(mixed - target), Reading.worst(unanimous - target), {"mixed": mixed, "unanimous": unanimous})


@erratum("dpo.no-fixed-point", CONDITIONAL, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The log-sigmoid loss never comes to rest: it keeps pushing at every gap.
    Truth: Only under unanimous labels. If a share p < 1 of a pair's labels agrees, the expected gradient vanishes at
      h = logit(p)/β. That of conservative DPO, with label smoothing ε, vanishes at logit(1 - ε)/β even if all agree.
    Source: arXiv:2305.18290v3 eq. 7; Mitchell 2023, A note on DPO with noisy preferences, eq. 3-4
    Measured: largest expected slope at h = logit(p)/β, p from 0.55 to 0.95, β = 0.1, of DPO under shares p and of
      conservative DPO with ε = 1 - p under unanimous labels; belief: of DPO under unanimous labels
    Shown: At β = 0.1 and p = 0.8 the gradient vanishes at the gap {gap:.3f}. A unanimous label still pushes there, with a
      slope of {push:.3f}.
    """
    shares = np.linspace(0.55, 0.95, 9)
    gaps = logit(shares) / 0.1
    smoothed = [slope(partial(cdpo, label_smoothing=1 - p), gaps[i : i + 1]) for i, p in enumerate(shares)]
    unanimous = slope(dpo, gaps)
    return Measured(
        Reading.worst(slope(dpo, gaps, shares), smoothed), Reading.worst(unanimous), {"gap": gaps[5], "push": unanimous[5]}
    )


@erratum("dpo.maximum-likelihood-is-consistent", CONDITIONAL, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO is a maximum-likelihood estimate, so with enough pairs it finds the true reward gaps.
    Truth: The number of pairs alone does not suffice: Bradley-Terry must hold, and each parameter needs enough labels. Where
      each pair has a gap of its own, n labels, each for the first response with chance p, leave its estimate infinite with
      chance p^n + (1-p)^n: always, with the usual one label, however many pairs there are.
    Source: Ford 1957, Solution of a ranking problem from binary comparisons; the chance is that of n equal labels
    Measured: chance that DPO's loss on 10 labels, p = 0.8, has no finite minimum, by enumeration, less p^10 + (1-p)^10;
      belief: less 0
    Shown: With p = 0.8 the estimate of a pair's own gap is infinite with chance {one:.3f} from 1 label, {ten:.3f} from 10.
    """

    def infinite(labels: int) -> float:
        wins = np.arange(labels + 1)
        chances = np.array([comb(labels, k) for k in wins]) * 0.8**wins * 0.2 ** (labels - wins)
        return float(chances[np.abs(resting_gaps(dpo, 7000.0, wins / labels)) > 3500].sum())

    one, ten = infinite(1), infinite(10)
    return Measured(Reading.worst(one - 1, ten - 0.8**10 - 0.2**10), Reading(ten), {"one": one, "ten": ten})


@erratum("dpo.reference-head-start", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: A pair that the reference already ranks correctly starts with a small loss and gradient, so DPO hardly moves it.
    Truth: At π = π_ref every pair has the loss log 2 and the weight σ(-βh) = 1/2, whatever the reference prefers. In a table
      gradient descent from π_ref takes log π/π_ref along the same path whatever π_ref is, up to a constant of the prompt.
      What makes the push fade is the policy moving past its reference.
    Source: arXiv:2305.18290v3 eq. 7 and section 4
    Measured: largest difference, between references whose own gap is -6 to 6 nats, in how far 200 steps move the logits;
      belief: without π_ref in the loss, where its head start would count
    Shown: β = 0.1, a step of 1: from a reference 6 nats behind and one 6 nats ahead the first loss is {loss:.6f} = log 2, and
      200 steps move the gap by {behind:.3f} and {ahead:.3f} nats.
    """
    ahead = np.linspace(-6.0, 6.0, 5)
    reference = log_softmax(np.stack([ahead / 2, -ahead / 2, rng.normal(size=5)], axis=1))
    weights = np.tile(labelled(1.0, 3), (5, 1, 1))
    moved, counted = (trained(dpo, reference, r, weights, 1.0, 200) - reference for r in (reference, 0 * reference))
    gaps = moved[:, 0] - moved[:, 1]
    numbers = {"loss": over_pairs(dpo, reference, reference, weights)[0] / 5, "behind": gaps[0], "ahead": gaps[-1]}
    return Measured(Reading.worst(np.ptp(moved, axis=0)), Reading.worst(np.ptp(counted, axis=0)), numbers)


@erratum("dpo.direction-depends-on-reference", WRONG, (1, 1))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO does not push the chosen response up and the rejected one down as such, only until their gap exceeds the
      reference's.
    Truth: It does at every gap: the loss has the slope -βσ(-βh) in log π(y_w) and +βσ(-βh) in log π(y_l). The reference
      enters the size of the push, not its direction. (Where weights are shared, both may fall all the same.)
    Source: arXiv:2305.18290v3 section 4, the gradient of eq. 7
    Measured: share of 1,000 random pairs that are pushed so; belief: share whose gap does not exceed the reference's
    Shown: Of 1,000 pairs with normal log-probabilities (mean -50, deviation 10; β = 0.1), {pushed:,} push chosen up and
      rejected down; {below} have a gap that does not exceed the reference's.
    """
    logps = rng.normal(-50, 10, size=(4, 1000))
    found = dpo(*logps)
    pushed = np.logical_and(found.grad_policy_chosen_logps < 0, found.grad_policy_rejected_logps > 0)
    below = np.less_equal(found.chosen_rewards, found.rejected_rewards)
    return Measured(Reading(pushed.mean()), Reading(below.mean()), {"pushed": int(pushed.sum()), "below": int(below.sum())})


@erratum("dpo.absolute-likelihood-is-anchored", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The reference pins the absolute log-probabilities of both responses.
    Truth: The loss sees only the difference of the two log-ratios: adding any number to both log-probabilities of a pair
      changes neither the loss nor its slopes in them. Both may fall without limit while the loss falls.
    Source: arXiv:2305.18290v3 eq. 7
    Measured: largest change of loss and gradient as both log-probabilities of random pairs move by up to 100 nats together;
      belief: nats by which log π(y_w) leaves its reference value while a shared weight learns one pair
    Shown: One weight θ moves the logits of chosen, rejected and a third response by θ, 0 and 2θ from a uniform reference.
      Descent on the pair (β = 0.1, 1,000 steps of 100) lowers the loss from log 2 to {loss:.5f}, log π(y_w) from
      {before:.2f} to {chosen:.1f} and log π(y_l) to {rejected:.1f}.
    """
    logps, shifts = rng.normal(size=(4, 50)), rng.uniform(-100, 100, size=50)
    together = (dpo(logps[0] + shifts, logps[1] + shifts, logps[2], logps[3]), dpo(*logps))
    changes = [np.subtract(*fields) for fields in list(zip(*together, strict=True))[:3]]
    after = with_shared_weight(dpo, UNIFORM, labelled(1.0, 3), 100.0, 1000)
    loss = over_pairs(dpo, after, UNIFORM, labelled(1.0, 3))[0]
    numbers = {"loss": loss, "before": UNIFORM[0, 0], "chosen": after[0, 0], "rejected": after[0, 1]}
    return Measured(Reading.worst(changes), Reading.worst(after[0, 0] - UNIFORM[0, 0]), numbers)


@erratum("dpo.reference-bounds-kl", CONDITIONAL, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The log-ratios act as a KL penalty: they keep the policy near the reference, the nearer the larger β.
    Truth: Only at the optimum for labels that disagree, where β sets the distance. DPO computes no KL and bounds none: in a
      table, under unanimous labels, the loss falls for every β towards one limit, all mass of the pair on the chosen response.
    Source: arXiv:2305.18290v3 eq. 7; arXiv:2310.12036v2 section 4
    Measured: largest distance of KL(π || π_ref) from its supremum, log 2, at the gap 700/β, where DPO still pushes; two
      responses, uniform reference, unanimous labels, β = 0.1, 1, 10; belief: at IPO's optimum, where β does set the KL
    Shown: Two responses, uniform reference, unanimous labels, β = 0.1, 1, 10: DPO takes the KL towards {dpo[0]:.4f},
      {dpo[1]:.4f}, {dpo[2]:.4f} nats, that is log 2. IPO's optimum is at {ipo[0]:.4f}, {ipo[1]:.4f}, {ipo[2]:.6f}.
    """

    def distance(loss: Callable[..., Any], beta: float) -> float:
        gap = resting_gaps(partial(loss, beta=beta), 700 / beta, np.ones(1))
        return float(kl(softmax(np.stack([gap, 0 * gap], axis=1)), np.full((1, 2), 0.5))[0])

    found = {loss.name: np.array([distance(loss, beta) for beta in (0.1, 1.0, 10.0)]) for loss in (dpo, ipo)}
    return Measured(Reading.worst(found["dpo"] - np.log(2)), Reading.worst(found["ipo"] - np.log(2)), found)


@erratum("dpo.reference-stops-drift", WRONG, (0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: Without the reference, pushing chosen up and rejected down drifts without bound; subtracting it is what stops
      that.
    Truth: The reference decides where the gap stops, not whether. In a table, labels of which a share p < 1 agrees stop it
      either way: at logit(p)/β in log π without a reference, in log π/π_ref with one. Unanimous labels never stop it.
    Source: arXiv:2305.18290v3 eq. 7; leaving π_ref out is a uniform reference
    Measured: distance of the gap of log π from logit(0.8)/β after 400 steps of 100 without a reference, labels 80 to 20,
      β = 0.1; belief: of the gap of log π/π_ref, with a reference, unanimous labels
    Shown: β = 0.1, a step of 100: without a reference the gap settles at {without:.3f} under labels of 80 %. With one it is at
      {after:.3f} after 400 steps of unanimous labels, and at {later:.3f} after 800.
    """
    reference = log_softmax(rng.normal(size=(1, 2)))

    def gap(reference_logps: Array, chance: float, steps: int) -> float:
        ratios = trained(dpo, reference, reference_logps, labelled(chance), 100.0, steps) - reference_logps
        return float(ratios[0, 0] - ratios[0, 1])

    target = logit(np.array(0.8)) / 0.1
    without, after = gap(np.zeros((1, 2)), 0.8, 400), gap(reference, 1.0, 400)
    numbers = {"without": without, "after": after, "later": gap(reference, 1.0, 800)}
    return Measured(Reading.worst(without - target), Reading.worst(after - target), numbers)


@erratum("dpo.implicit-reward-diverges", CONDITIONAL, (0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: On labels simulated from Bradley-Terry scores, DPO's implicit reward gaps grow for ever and one response takes
      all.
    Truth: Over all pairs of a table, the expected loss of such labels has one minimum: implicit rewards equal to the scores up
      to a constant, the policy π_ref e^(R/β)/Z. What blows up is a finite set of labels in which some responses never lose to
      the others.
    Source: arXiv:2305.18290v3 eq. 4 to 7, section 5.1
    Measured: largest error of the centred implicit rewards after 400 steps on the expected gradient, four responses, β = 0.5;
      belief: with the better response labelled as chosen in every pair
    Shown: Scores 1.25, 0.25, -0.25, -1.25, β = 0.5, all pairs alike, 400 steps of 20: the expected gradient brings the first
      and the last to {best:.4f} and {worst:.4f}. With the better response always chosen they reach {blown:.2f} and {sunk:.2f}.
    """
    world = World(np.array([[1.25, 0.25, -0.25, -1.25]]), np.full((1, 4), 0.25), 0.5)

    def rewards(weights: Array) -> Array:
        logits = trained(partial(dpo, beta=0.5), world.reference_logps, world.reference_logps, weights, 20.0, 400)
        return 0.5 * (logits - logits.mean())

    stream, consistent = rewards(different_pairs(world)), rewards(np.triu(np.ones((1, 4, 4)), 1) / 6)
    numbers = {"best": stream[0, 0], "worst": stream[0, 3], "blown": consistent[0, 0], "sunk": consistent[0, 3]}
    return Measured(Reading.worst(stream - world.rewards), Reading.worst(consistent - world.rewards), numbers)


@erratum("dpo.same-objective-as-rlhf", CONDITIONAL, (0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: Minimizing the DPO loss maximizes the same KL-regularized objective that PPO maximizes.
    Truth: The two optima agree if the policy can represent π* and the DPO loss is its expectation over Bradley-Terry labels on
      all pairs. A policy that cannot represent π* gets from DPO the best fit of the preferences, whose objective may be
      lower than the reference's.
    Source: arXiv:2305.18290v3 sections 4 and 5.1; on policies that cannot represent π*, arXiv:2505.19770v1
    Measured: what the minimizer of DPO's expected loss lacks of the best objective in its class, in a table; belief: with one
      shared weight (rewards 2, 0, -1, reference 0.495, 0.495, 0.01, all pairs alike, β = 0.5)
    Shown: Rewards 2, 0, -1, reference 0.495, 0.495, 0.01, β = 0.5, logits log π_ref + θ (1, 0, 2): the best objective of any θ
      is {best:.3f}. The minimizer of DPO's expected loss, all pairs alike, has {dpo:.3f}, less than the reference's
      {reference:.3f}: two of the three pairs it fits have a response that the reference gives once in a hundred.
    """
    world = World(np.array([[2.0, 0.0, -1.0]]), np.array([[0.495, 0.495, 0.01]]), 0.5)
    problem = (partial(dpo, beta=0.5), world.reference_logps, different_pairs(world))
    table = trained(problem[0], world.reference_logps, *problem[1:], 20.0, 400)
    fitted = objective(world, np.exp(with_shared_weight(*problem, 10.0, 400)))[0]
    best = np.max(objective(world, softmax(world.reference_logps + np.linspace(-4, 4, 8001)[:, None] * SHARED)))
    numbers = {"best": best, "dpo": fitted, "reference": objective(world, world.reference)[0]}
    return Measured(
        Reading.worst(objective(world, world.optimum) - objective(world, softmax(table))), Reading(best - fitted), numbers
    )


@erratum("dpo.no-reward-no-hacking", WRONG, (0, 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: Without a reward model there is nothing to over-optimize.
    Truth: There is a reward, β log(π/π_ref), fitted to the pairs alone; elsewhere the labels do not check it. The loss on
      correct labels can fall towards 0 while the true reward falls to that of the worst response.
    Source: arXiv:2305.18290v3 section 4; seen in language models in arXiv:2406.02900v2
    Measured: distance of the expected true reward from that of the worst response after 1,000 steps on one correct label,
      with a shared weight; belief: before them, since it cannot fall
    Shown: True rewards 1 (chosen), 0 (rejected), -5 (in no pair), uniform reference; one weight θ moves their logits by θ, 0
      and 2θ. In 1,000 steps of 100 at β = 0.1 the loss falls from log 2 to {loss:.5f}, the expected reward from {before:.2f}
      to {after:.2f}.
    """
    rewards = np.array([1.0, 0.0, -5.0])
    logps = with_shared_weight(dpo, UNIFORM, labelled(1.0, 3), 100.0, 1000)
    before, after = (float((np.exp(log) @ rewards)[0]) for log in (UNIFORM, logps))
    numbers = {"loss": over_pairs(dpo, logps, UNIFORM, labelled(1.0, 3))[0], "before": before, "after": after}
    return Measured(Reading.worst(after + 5), Reading(before + 5), numbers)


@erratum("dpo.cannot-raise-the-unseen", CONDITIONAL, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO cannot raise a response that is in no pair, so the pairs are a ceiling on what it can reach.
    Truth: Only the logit stays, and only in a table. The probability moves even there, as gradient descent moves the logits of
      the pair by h/2 and -h/2: π(u) = u / (u + w e^(h/2) + l e^(-h/2)), where w, l, u are the reference's probabilities of
      chosen, rejected and unseen. With shared weights the unseen logit moves too.
    Source: arXiv:2305.18290v3 eq. 7 through a softmax
    Measured: distance of the unseen response's probability after 200 steps from the formula; belief: from the reference's
    Shown: Reference 0.01 (chosen), 0.90 (rejected), 0.09 (unseen), β = 0.1: 200 steps of 0.2 in a table bring the unseen
      response to {table:.3f}. If one weight θ moves their logits by θ, 0 and 2θ, 100 steps of 10 from a uniform reference
      bring it to {shared:.4f}.
    """
    reference = np.log([[0.01, 0.90, 0.09]])
    ratios = trained(dpo, reference, reference, labelled(1.0, 3), 0.2, 200) - reference
    h = ratios[0, 0] - ratios[0, 1]
    found = softmax(reference + ratios)[0, 2]
    shared = with_shared_weight(dpo, UNIFORM, labelled(1.0, 3), 10.0, 100)
    expected = 0.09 / (0.09 + 0.01 * np.exp(h / 2) + 0.90 * np.exp(-h / 2))
    return Measured(
        Reading.worst(found - expected), Reading.worst(found - 0.09), {"table": found, "shared": np.exp(shared[0, 2])}
    )


@erratum("dpo.own-samples", WRONG, (0, 1e-8))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO must learn from pairs collected beforehand: the equivalence to RLHF is lost on the policy's own samples.
    Truth: Nothing in the loss asks where a pair came from. On pairs of the policy's own samples with Bradley-Terry labels the
      expected gradient is 0 at π* as well. In a table small steps on it lead to π* from any start, and so to responses
      that a fixed set of pairs lacks.
    Source: arXiv:2402.04792v2 section 3; no gradient flows through sampling or labels
    Measured: total variation from π* after 600 steps on the expected gradient of own samples; belief: of the pairs that were
      collected, which lack the best of three responses
    Shown: Rewards 1, 0, -1, uniform reference, β = 1: π* gives the best response {optimum:.3f}. 600 steps of 3 on own samples
      bring it to {own:.3f}; 600 steps of 1 on the one pair of the other two, to {collected:.3f}.
    """
    world = World(np.array([[1.0, 0.0, -1.0]]), np.full((1, 3), 1 / 3), 1.0)
    loss: PairLoss = partial(dpo, beta=1.0)

    def own_samples(logits: Array) -> Array:
        policy = softmax(logits)
        return pair_gradient(loss, logits, UNIFORM, policy[:, :, None] * policy[:, None, :] * world.preferences)

    own = softmax(descend(own_samples, UNIFORM, 3.0, 600))
    seen = world.preferences * (1 - np.eye(3))
    seen[:, 0], seen[:, :, 0] = 0, 0
    collected = softmax(trained(loss, UNIFORM, UNIFORM, seen, 1.0, 600))
    true, false = (Reading(total_variation(policy, world.optimum)) for policy in (own, collected))
    return Measured(true, false, {"optimum": world.optimum[0, 0], "own": own[0, 0], "collected": collected[0, 0]})


@erratum("dpo.sampling-temperature", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO's settings are β and the temperature of sampling.
    Truth: DPO's loss draws no samples, so it has no temperature. That belongs to whoever made the pairs; for a table, under
      Bradley-Terry labels on all pairs, it does not move the optimum of DPO's expected loss.
    Source: arXiv:2305.18290v3 eq. 7, a function of four log-probabilities a pair and β
    Measured: largest slope at π*, on pairs sampled from the reference at temperatures 0.5, 1 and 2, of DPO; belief: of IPO at
      its optimum for temperature 1, which the sampling does move
    Shown: Rewards 1, 0, -1, reference 0.2, 0.3, 0.5, β = 0.5: on pairs sampled at temperatures 0.5 and 2, DPO's optimum gives
      the first response {dpo:.3f} both times, IPO's {ipo[0]:.3f} and {ipo[1]:.3f}.
    """
    world = example_first(rng)

    def sampled(temperature: float) -> Array:
        return softmax(world.reference_logps / temperature)

    def pairs(temperature: float) -> Array:
        return sampled(temperature)[:, :, None] * sampled(temperature)[:, None, :] * world.preferences

    def ipo_optimum(temperature: float) -> Array:
        return world.reference_logps + (world.preferences * sampled(temperature)[:, None, :]).sum(2) / world.beta

    optima = {dpo: np.log(world.optimum), ipo: ipo_optimum(1.0)}
    true, false = (
        Reading.worst(
            [pair_gradient(partial(loss, beta=world.beta), z, world.reference_logps, pairs(t)) for t in (0.5, 1.0, 2.0)]
        )
        for loss, z in optima.items()
    )
    return Measured(
        true,
        false,
        {"dpo": world.optimum[0, 0], "ipo": [softmax(ipo_optimum(temperature))[0, 0] for temperature in (0.5, 2.0)]},
    )


@erratum("dpo.any-cut-of-a-ranking", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: DPO needs pairs, so a ranking has to be cut into pairs; best against worst is as good a cut as any.
    Truth: Rankings have a DPO loss of their own. If they follow Plackett-Luce, π* minimizes it in expectation, as it does DPO's
      on best against a random other response. Best against worst, of three or more, exaggerates the gaps: wherever rewards
      differ, its odds lie farther from 1 than e^(R(y) - R(y')).
    Source: arXiv:2305.18290v3 eq. 20; odds of two responses to come first in a Plackett-Luce ranking are e^(R(y) - R(y'))
    Measured: largest expected slope at π* of the ranking loss and of DPO on best against random, all 24 Plackett-Luce
      rankings of four responses; belief: of DPO on best against worst
    Shown: True rewards 1.5, 0.5, -0.5, -1.5, Plackett-Luce rankings, β = 0.5: trained on best against worst, DPO ends at an
      implicit reward gap of {cut:.3f} between the first and the last, in place of 3.
    """
    world = World(np.array([[1.5, 0.5, -0.5, -1.5]]), rng.dirichlet(np.full(4, 5.0), 1), 0.5)
    loss: PairLoss = partial(dpo, beta=0.5)
    orders = np.array(list(permutations(range(4))))
    worth = np.exp(world.rewards[0])[orders]
    chances = np.prod(worth / np.cumsum(worth[:, ::-1], axis=1)[:, ::-1], axis=1)
    optimum, reference = np.log(world.optimum), world.reference_logps
    ranked = plackett_luce_dpo(optimum[0, orders], reference[0, orders], beta=0.5).grad_policy_logps
    slopes = np.bincount(orders.ravel(), (chances[:, None] * ranked).ravel())[None]

    def against(places: list[int]) -> Array:
        weights = np.zeros((1, 4, 4))
        np.add.at(weights[0], (orders[:, :1], orders[:, places]), chances[:, None])
        return weights

    on_random, on_worst = (pair_gradient(loss, optimum, reference, against(places)) for places in ([1, 2, 3], [3]))
    ratios = trained(loss, optimum, reference, against([3]), 10.0, 500) - reference
    true = Reading.worst(to_logits(slopes, world.optimum), on_random)
    return Measured(true, Reading.worst(on_worst), {"cut": 0.5 * (ratios[0, 0] - ratios[0, 3])})


@erratum("dpo.beta-only-rescales", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: β is the unit of DPO's implicit reward, no more: training takes the same path for every β.
    Truth: β sets the size of the gradient and the optimum. Under plain gradient descent, only if the step is scaled by 1/β²
      does the implicit reward gap of a pair in a table follow the same path; the log-ratio gaps then differ by the factor 1/β.
    Source: arXiv:2305.18290v3 eq. 7: with u = βh, a step of size η on two logits moves u by 2ηβ²σ(-u)
    Measured: largest difference of βh over 600 steps between (β, step) = (0.05, 50) and (0.5, 0.5); belief: of h between
      (0.05, 0.5) and (0.5, 0.5)
    Shown: At a step of 0.5 on one unanimous pair the gaps h for β = 0.05 and 0.5 are {early[0]:.2f} and {early[1]:.2f} after 20
      steps, {late[0]:.2f} and {late[1]:.2f} after 600. Under labels of 80 % their optima are {ends[0]:.2f} and {ends[1]:.2f}.
    """
    small, large, scaled = (path(partial(dpo, beta=beta), step, 600) for beta, step in ((0.05, 0.5), (0.5, 0.5), (0.05, 50.0)))
    ends = logit(np.array(0.8)) / np.array([0.05, 0.5])
    numbers = {"early": (small[20], large[20]), "late": (small[-1], large[-1]), "ends": ends}
    return Measured(Reading.worst(0.05 * scaled - 0.5 * large), Reading.worst(small - large), numbers)


@erratum("dpo.beta-is-in-the-data", WRONG, (0, 1e-12))
def _(rng: np.random.Generator) -> Measured:
    """Belief: Collecting the preferences settles β: it is a property of the data.
    Truth: Labels know nothing of β. In a table, the same Bradley-Terry labels have the optimum π_ref e^(R/β)/Z for whichever β
      the loss is given.
    Source: arXiv:2305.18290v3 eq. 4 and 7
    Measured: largest slope at π* of β on the same labels, β = 0.3, 1, 3; belief: at π* of β = 1 for all three
    Shown: Rewards 1, 0, -1, reference 0.2, 0.3, 0.5: trained on the same labels with β = 0.3, 1 and 3, DPO's optimum gives the
      first response {best[0]:.3f}, {best[1]:.3f} and {best[2]:.3f}.
    """
    labels = example_first(rng, beta=1.0)
    worlds = [labels._replace(beta=beta) for beta in (0.3, 1.0, 3.0)]

    def slopes(world: World, at: World) -> Array:
        logits, reference = np.log(at.optimum), world.reference_logps
        return pair_gradient(partial(dpo, beta=world.beta), logits, reference, different_pairs(world))

    true, false = [slopes(w, w) for w in worlds], [slopes(w, labels) for w in worlds]
    return Measured(Reading.worst(true), Reading.worst(false), {"best": [w.optimum[0, 0] for w in worlds]})


@erratum("dpo.small-beta-larger-updates", WRONG, (1 - 1e-9, 1 + 1e-9))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The smaller β, the larger the steps and the sooner the sigmoid saturates; a large β learns slowly.
    Truth: The first slope in each log-probability is β/2, and the weight σ(-βh) falls to 1 % at the gap 4.6/β: under plain
      gradient descent a large β starts faster and saturates first. (Adam rescales the gradient, so its first step hardly
      depends on β.) What grows as β shrinks is the distance to the optimum, logit(p)/β where a share p of the labels agrees.
    Source: arXiv:2305.18290v3 eq. 7
    Measured: elasticity in β (slope of the logarithm in log β) of the first gradient and of 1 over the gap at which the weight
      is 1 %, between 0.05 and 0.5 (the one farther from 1); belief: of the distance to the optimum under labels of 80 %
    Shown: From β = 0.05 to 0.5 the first gradient rises from {first[0]:.3f} to {first[1]:.3f}, and the gap at which the
      weight is 1 % falls from {full[0]:.1f} to {full[1]:.1f} nats.
    """
    losses = [partial(dpo, beta=beta) for beta in (0.05, 0.5)]
    first = np.array([-slope(loss, np.zeros(1))[0] for loss in losses])
    # The weight is 1 % where labels of 99 % come to rest.
    full, rest = (np.array([resting_gaps(loss, 1e4, np.array([p]))[0] for loss in losses]) for p in (0.99, 0.8))
    elasticity = [float(np.log10(x[1] / x[0])) for x in (first, 1 / full, rest)]
    true = max(elasticity[:2], key=lambda e: abs(e - 1))
    return Measured(Reading(true), Reading(elasticity[2]), {"first": first, "full": full})


@erratum("dpo.no-gradient-cap", WRONG, (0, 1))
def _(rng: np.random.Generator) -> Measured:
    """Belief: On pairs already decided DPO's gradient is unlimited; IPO's is limited.
    Truth: DPO's slope in each log-probability never exceeds β, and vanishes as the gap h grows. IPO's is twice the distance of
      h from its target, 1/(2β), and has no cap.
    Source: arXiv:2305.18290v3 section 4; arXiv:2310.12036v2 eq. 17
    Measured: largest slope over gaps of -1,000 to 1,000 nats as a multiple of β = 0.1, of DPO; belief: of IPO
    Shown: At β = 0.1, over gaps of -1,000 to 1,000 nats, DPO's largest slope is {dpo:.4f}, IPO's {ipo:.0f}. At 1,000, decided
      beyond doubt, DPO's is {last[0]:.1e} and IPO's {last[1]:.0f}.
    """
    gaps = np.linspace(-1000, 1000, 2001)
    dpos, ipos = np.abs(slope(dpo, gaps)), np.abs(slope(ipo, gaps))
    numbers = {"dpo": dpos.max(), "ipo": ipos.max(), "last": (dpos[-1], ipos[-1])}
    return Measured(Reading(dpos.max() / 0.1), Reading(ipos.max() / 0.1), numbers)


@erratum("dpo.sigmoid-then-log", CONDITIONAL, (0, 1e-14))
def _(rng: np.random.Generator) -> Measured:
    """Belief: The DPO loss is computed as it is written: the negative logarithm of the sigmoid of the margin.
    Truth: Not in floating point: σ rounds to 1 for large margins u, and the loss to 0; it underflows for very negative ones,
      and the loss is infinite. Exact to rounding, until e^-u itself underflows, is -log σ(u) = max(-u, 0) + log(1 + e^-|u|)
      by log1p.
    Source: IEEE 754 double and single precision
    Measured: largest relative error of the loss, double precision, margins of -700 to 700; belief: by sigmoid, then logarithm
    Shown: At a margin of 40 the loss is {small:.3e}, and 0 by way of the sigmoid. At -{double} (double) or -{single} (single
      precision), even an accurate sigmoid underflows and the loss is infinite, not {double} or {single}.
    """
    margins = np.linspace(-700.0, 700.0, 1401)
    zero, exact = np.zeros_like(margins), np.logaddexp(0, -margins)
    errors = [loss / exact - 1 for loss in (dpo(margins, zero, zero, zero, beta=1.0).losses, -np.log(sigmoid(margins)))]
    double, single = (
        next(m for m in range(50, 1000) if sigmoid(np.array([-m], dtype))[0] == 0) for dtype in (np.float64, np.float32)
    )
    numbers = {"small": exact[740], "double": double, "single": single}
    return Measured(Reading.worst(errors[0]), Reading.worst(errors[1]), numbers)


@erratum("dpo.two-passes-two-models", CONDITIONAL, (0, 0))
def _(rng: np.random.Generator) -> Measured:
    """Belief: A DPO step costs one forward pass a response, two a pair, with policy and reference in memory.
    Truth: Four passes a pair: two through the policy, two through the reference. The reference's do not depend on the weights
      trained: made once beforehand and stored, they leave two a pair and step, the same losses and one model in memory.
    Source: arXiv:2305.18290v3 eq. 7 has four log-probabilities; references are constants
    Measured: largest difference from the four-pass losses over 3 epochs, with stored references; belief: with two passes a
      pair and nothing stored
    Shown: Counted over 3 epochs: {four} passes a pair live, {stored} with stored references. With only two a pair and epoch
      the reference is left out, and the loss of random pairs is off by up to {off:.3f}.
    """
    passes = 0

    def passed(model: Array) -> Array:
        nonlocal passes
        passes += 2
        return model

    reference, epochs = rng.normal(-20, 3, size=(2, 8)), rng.normal(-20, 3, size=(3, 2, 8))
    live = [dpo(*passed(policy), *passed(reference)).losses for policy in epochs]
    four, passes = passes, 0
    stored = passed(reference)
    cached = [dpo(*passed(policy), *stored).losses for policy in epochs]
    two_only = [dpo(*policy, *np.zeros_like(reference)).losses for policy in epochs]
    off = Reading.worst(np.subtract(two_only, live))
    return Measured(Reading.worst(np.subtract(cached, live)), off, {"four": four, "stored": passes, "off": off.value})


DOCUMENTARY = [
    Documentary(
        "DPO trains in one stage what RLHF trains in several.",
        "It replaces the reward model and RL. A supervised stage still comes first: the reference is the fine-tuned model or, "
        "where that is not to be had, one trained on the chosen responses. Zephyr's ablation reports that DPO without it "
        "fails.",
        f"{DPO} section 4 (DPO outline); arXiv:2310.16944v1 section 5",
    ),
    Documentary(
        "With fewer than 10,000 pairs DPO beats PPO, as the papers on DPO and Zephyr found.",
        "Neither paper varies the number of pairs to compare the two. DPO's compares them at one data set per task; Zephyr's "
        "sets its model beside others' models trained by PPO, on benchmarks.",
        f"{DPO} section 6; arXiv:2310.16944v1 section 5",
    ),
]
