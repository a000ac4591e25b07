"""Exact claims in finite worlds: every expectation is a sum over all responses, pairs, rankings or groups that there are.

Worlds are drawn at random, three prompts and six responses unless said. What minipref computes is held against closed forms,
enumeration and finite differences; minimizers are found by Newton's method, which knows nothing of the closed form. Only the
statistics of estimates, where a comment says so, are sampled.
"""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from itertools import permutations, product
from typing import Any, NamedTuple

import numpy as np

import minipref
from minipref.arrays import log_softmax, sigmoid, softmax
from minipref.online.advantages import GroupAdvantages
from toy.bandit import World, kl, objective, over_pairs, pair_gradient, random_world, to_logits
from toy.experiment import Measured, Reading
from toy.roads import newton
from verify import cases
from verify.theory.claim import exact

Array = np.ndarray
Residuals = tuple[Any, Any]  # what is left of the statement and of its false variant: an array, or a list of several


def identity(
    name: str, bound: float = 1e-11, measured: str = "largest difference of the two sides"
) -> Callable[[Callable[[np.random.Generator], Residuals]], Any]:
    """Registers a claim that something vanishes, to rounding, from a function that returns what is left of it."""

    def register(left: Callable[[np.random.Generator], Residuals]) -> Any:
        @wraps(left)
        def measure(rng: np.random.Generator) -> Measured:
            true, false = (Reading.worst(*(x if isinstance(x, list) else [x])) for x in left(rng))
            return Measured(true, false)

        return exact(name, (0.0, bound), measured)(measure)

    return register


# The error is step² times a third derivative, which reaches hundreds where β is 1/2.
slope_identity = partial(identity, bound=1e-7, measured="largest difference, slopes by central differences of step 1e-5")
# Newton's method stops within rounding of the minimum, and probabilities are at most 1.
population = partial(identity, bound=1e-9, measured="largest error of a probability, at the minimum that Newton's method finds")


def derivative(f: Callable[[Array], Array], x: Array) -> Array:
    """Slopes of f [P, ...] in x [P, K] by central differences, on a last axis of size K. Prompts do not see each other."""
    steps = 1e-5 * np.eye(x.shape[1])
    return np.stack([(f(x + step) - f(x - step)) / 2e-5 for step in steps], axis=-1)


def random_policy(rng: np.random.Generator, world: World) -> Array:
    """Probabilities [P, K], uniform on the simplex."""
    return rng.dirichlet(np.ones(world.rewards.shape[1]), len(world.rewards))


def tilted(reference: Array, scores: Array) -> Array:
    """reference · e^scores, normalized."""
    return softmax(np.log(reference) + scores)


def log_partition(world: World) -> Array:
    """log Z [P], as its definition is written."""
    return np.log((world.reference * np.exp(world.rewards / world.beta)).sum(1))


# The objective and its optimum.


@identity("optimum.gap")
def _(rng: np.random.Generator) -> Residuals:
    """At every policy J = E R - β KL(π‖π_ref) = -β E[log(π/π_ref) - R/β] = -β (E log[π Z/(π_ref e^{R/β})] - log Z) = β log Z -
    β KL(π‖π*), so that J(π*) - J(π) = β KL(π‖π*).
    Source: arXiv:2305.18290v3 eq. 3 and appendix A.1
    False: J(π*) - J(π) = β KL(π*‖π).
    """
    world = random_world(rng)
    pi, beta, best, log_z = random_policy(rng, world), world.beta, world.optimum, log_partition(world)
    got = minipref.kl_regularized_objective(np.log(pi), world.rewards, world.reference_logps, beta=beta).objective
    tilt = world.reference * np.exp(world.rewards / beta)
    forms = (
        objective(world, pi),
        -beta * (pi * (np.log(pi / world.reference) - world.rewards / beta)).sum(1),
        -beta * ((pi * np.log(pi * np.exp(log_z)[:, None] / tilt)).sum(1) - log_z),
        objective(world, best) - beta * kl(pi, best),
        beta * (log_z - kl(pi, best)),
    )
    return [got - form for form in forms], got - (objective(world, best) - beta * kl(best, pi))


@identity("optimum.partition")
def _(rng: np.random.Generator) -> Residuals:
    """Adding f(x) to the reward of every response to a prompt leaves π* as it is and moves log Z by f/β.
    Source: arXiv:2305.18290v3 lemma 2
    False: Scaling the reward leaves π* as it is, as it leaves every ranking.
    """
    world, shift = random_world(rng), rng.normal(size=3)
    moved, scaled = world._replace(rewards=world.rewards + shift[:, None]), world._replace(rewards=2 * world.rewards)
    log_z = minipref.optimal_policy(moved.rewards, world.reference_logps, beta=world.beta).log_partition
    lifted = log_z - log_partition(world) - shift / world.beta
    return [moved.optimum - world.optimum, lifted], scaled.optimum - world.optimum


@slope_identity("optimum.multiplier")
def _(rng: np.random.Generator) -> Residuals:
    """At π* the slope of the objective in each probability, not kept normalized, is one number: β(log Z - 1).
    Source: arXiv:2305.18290v3 appendix A.1
    False: It is β log Z, the value there.
    """
    world = random_world(rng)
    slopes = derivative(lambda logps: objective(world, np.exp(logps)), np.log(world.optimum)) / world.optimum
    value = world.beta * log_partition(world)[:, None]
    return slopes - (value - world.beta), slopes - value


@slope_identity("optimum.monotone")
def _(rng: np.random.Generator) -> Residuals:
    """As β grows the optimum gives up reward at the rate Var(R)/β² and divergence from the reference at Var(R)/β³, variances
    under π*: both fall strictly, unless all rewards are equal.
    Source: arXiv:2305.18290v3 eq. 4, differentiated
    False: Divergence is given up at the rate Var(R)/β², as reward is.
    """
    world = random_world(rng)
    best, beta = world.optimum, world.beta

    def at(betas: Array) -> Array:
        pi = tilted(world.reference, world.rewards / betas)
        return np.stack([(pi * world.rewards).sum(1), kl(pi, world.reference)], axis=1)

    variance = (best * world.rewards**2).sum(1) - (best * world.rewards).sum(1) ** 2
    reward, divergence = derivative(at, np.full((3, 1), beta))[:, :, 0].T
    return [reward + variance / beta**2, divergence + variance / beta**3], divergence + variance / beta**2


@identity("optimum.limits")
def _(rng: np.random.Generator) -> Residuals:
    """As β → 0 the optimum becomes the reference among the best responses alone, as β → ∞ the reference.
    Source: arXiv:2305.18290v3 eq. 4
    False: As β → 0 the best responses become equally likely.
    Measured: largest difference, at β = 1e-3 with rewards 0, 1 and 2, and at β = 1e12
    """
    reference, rewards = random_world(rng).reference, np.sort(rng.integers(0, 3, (3, 6)), axis=1) * 1.0
    rewards[:, 4] = rewards[:, 5]
    is_best = rewards == rewards.max(1, keepdims=True)
    cold, warm = World(rewards, reference, 1e-3).optimum, World(rewards, reference, 1e12).optimum
    split = is_best * reference / (is_best * reference).sum(1, keepdims=True)
    return [cold - split, warm - reference], cold - is_best / is_best.sum(1, keepdims=True)


@identity("optimum.symmetric-gain")
def _(rng: np.random.Generator) -> Residuals:
    """The expected reward of the optimum is above the reference's by β(KL(π*‖π_ref) + KL(π_ref‖π*)).
    Source: arXiv:2305.18290v3 eq. 5, averaged under both
    False: It is above by β KL(π*‖π_ref).
    """
    world = random_world(rng)
    best, reference = world.optimum, world.reference
    beyond = ((best - reference) * world.rewards).sum(1) - world.beta * kl(best, reference)
    return beyond - world.beta * kl(reference, best), beyond


@slope_identity("js.bends")
def _(rng: np.random.Generator) -> Residuals:
    """With the Jensen-Shannon divergence in place of KL, of f = u log u - (u + 1) log[(u + 1)/2], the optimum has f'(u) =
    log[2u/(1 + u)] affine in the reward, u = π/π_ref, not log u: it is not an exponential tilt.
    Source: arXiv:2309.16240
    False: Another divergence leaves the optimum the exponential tilt π_ref e^{R/β}/Z.
    Measured: largest slope of E R - β Σ π_ref f(u) in the logits, by central differences, where the reward is made such
    """
    world = random_world(rng)
    policy = random_policy(rng, world)
    made = world._replace(rewards=world.beta * np.log(2 * policy / (world.reference + policy)) + rng.normal(size=(3, 1)))

    def j(logits: Array) -> Array:
        u = softmax(logits) / world.reference
        generator = u * np.log(u) - (u + 1) * np.log((u + 1) / 2)
        return (world.reference * (u * made.rewards - world.beta * generator)).sum(1)

    return derivative(j, np.log(policy)), derivative(j, np.log(made.optimum))


# What each loss is minimized by, over all policies, when every pair is counted as often as it is drawn and labelled so.


def fitted(loss: Any, reference: Array, weights: Array) -> Array:
    """The policy of least loss over the weighted pairs, from the reference on."""
    logps = np.log(reference)
    return softmax(newton(lambda logits: pair_gradient(loss, logits, logps, weights), logps))


def drawn_pairs(rng: np.random.Generator, responses: int = 6) -> Array:
    """How often each pair of different responses is compared [3, K, K]: any positive numbers, the same in both orders."""
    often = rng.uniform(0.5, 1.5, (3, responses, responses))
    return (often + often.transpose(0, 2, 1)) * (1 - np.eye(responses)) / (2 * responses**2)


def flipped(preferences: Array, rate: float) -> Array:
    """Preferences [P, K, K] of labellers whose labels are turned round at some rate."""
    return (1 - rate) * preferences + rate * preferences.transpose(0, 2, 1)


@population("dpo.population-optimum")
def _(rng: np.random.Generator) -> Residuals:
    """With Bradley-Terry labels DPO's minimizer is the optimum π_ref e^{R/β}/Z of the KL-regularized objective, however often
    each pair is drawn.
    Source: arXiv:2305.18290v3 section 5.1
    False: It is e^{R/β}/Z: the reference only regularizes the path.
    """
    world = random_world(rng)
    found = fitted(partial(minipref.dpo, beta=world.beta), world.reference, world.preferences * drawn_pairs(rng))
    return found - world.optimum, found - softmax(world.rewards / world.beta)


@population("rso.population-optimum")
def _(rng: np.random.Generator) -> Residuals:
    """RSO's sigmoid loss with its own γ is minimized by π_ref e^{R/γ}/Z: the β of the rejection sampling decides which pairs
    are seen, not where the policy ends.
    Source: arXiv:2309.06657v2 eq. 8
    False: It is minimized by π_ref e^{R/β}/Z.
    """
    world, gamma = random_world(rng), 0.8
    pairs = world.optimum[:, :, None] * world.optimum[:, None, :] * (1 - np.eye(6))
    found = fitted(partial(minipref.dpo, beta=gamma), world.reference, world.preferences * pairs)
    return found - tilted(world.reference, world.rewards / gamma), found - world.optimum


@population("ipo.population-optimum")
def _(rng: np.random.Generator) -> Residuals:
    """IPO on pairs of two draws from μ is minimized by π_ref e^{p/τ}/Z, p(y) the chance that y beats a draw from μ, whatever
    the preferences.
    Source: arXiv:2310.12036v2 eq. 9 and 17
    False: The exponent is the mean log-odds of beating μ, Bradley-Terry's score, over τ.
    """
    world, mu, upper = random_world(rng), rng.dirichlet(np.full(6, 2.0), 3), np.triu(rng.uniform(0.05, 0.95, (3, 6, 6)), 1)
    beats = upper + np.tril(1 - upper.transpose(0, 2, 1), -1) + 0.5 * np.eye(6)
    found = fitted(partial(minipref.ipo, beta=1.0), world.reference, beats * mu[:, :, None] * mu[:, None, :])
    wins, log_odds = (np.einsum("pij,pj->pi", x, mu) for x in (beats, np.log(beats / (1 - beats))))
    return found - tilted(world.reference, wins), found - tilted(world.reference, log_odds)


@population("ipo.deterministic")
def _(rng: np.random.Generator) -> Residuals:
    """Where one of two responses always wins, IPO still has a minimizer, at the log-ratio gap 1/(2τ).
    Source: arXiv:2310.12036v2 section 5.3.1
    False: The gap is 1/(2τ²), a target on the implicit rewards.
    """
    reference, tau, win = rng.dirichlet(np.full(2, 3.0), 3), 0.4, np.array([1.0, 0.0])
    found = fitted(partial(minipref.ipo, beta=tau), reference, np.broadcast_to(np.outer(win, 1 - win), (3, 2, 2)))
    return found - tilted(reference, win / (2 * tau)), found - tilted(reference, win / (2 * tau**2))


@population("cdpo.population-optimum")
def _(rng: np.random.Generator) -> Residuals:
    """Where labels prefer y to y' with probability P, conservative DPO ends where DPO does at (1 - ε)P + ε(1 - P): it is biased
    where labels are not flipped.
    Source: Mitchell 2023, A note on DPO with noisy preferences, eq. 3-4
    False: It ends at π*, as DPO does.
    """
    world, pairs = random_world(rng), drawn_pairs(rng)
    found = fitted(partial(minipref.cdpo, beta=0.5, label_smoothing=0.2), world.reference, world.preferences * pairs)
    smoothed = fitted(partial(minipref.dpo, beta=0.5), world.reference, flipped(world.preferences, 0.2) * pairs)
    return found - smoothed, found - world.optimum


@population("robust-dpo.population-optimum")
def _(rng: np.random.Generator) -> Residuals:
    """With labels flipped at its rate ε, robust DPO ends where DPO ends with clean ones: at π*.
    Source: arXiv:2403.00409v2 eq. 12
    False: DPO with the same labels ends there too.
    """
    world, epsilon = random_world(rng), 0.2
    weights = flipped(world.preferences, epsilon) * drawn_pairs(rng)
    robust = partial(minipref.robust_dpo, beta=world.beta, label_smoothing=epsilon)
    true, false = (fitted(loss, world.reference, weights) for loss in (robust, partial(minipref.dpo, beta=world.beta)))
    return true - world.optimum, false - world.optimum


@population("plackett-luce-dpo.population-optimum")
def _(rng: np.random.Generator) -> Residuals:
    """Over all rankings of four responses that Plackett-Luce labellers give, DPO on rankings is minimized by π*.
    Source: arXiv:2305.18290v3 eq. 20
    False: It is e^{R/β}/Z, without the reference.
    """
    world, orders = random_world(rng, responses=4), np.array(list(permutations(range(4))))
    strengths = np.exp(world.rewards[:, orders])
    chances = np.prod(strengths / np.cumsum(strengths[..., ::-1], axis=-1)[..., ::-1], axis=-1)

    def gradient(logits: Array) -> Array:
        policy, reference = (x[:, orders].reshape(-1, 4) for x in (log_softmax(logits), world.reference_logps))
        slopes = minipref.plackett_luce_dpo(policy, reference, beta=world.beta).grad_policy_logps
        return to_logits(gathered(orders, chances[..., None] * slopes.reshape(3, -1, 4), 4), softmax(logits))

    found = softmax(newton(gradient, world.reference_logps))
    return found - world.optimum, found - softmax(world.rewards / world.beta)


def gathered(responses: Array, slopes: Array, count: int) -> Array:
    """Slopes [P, M, G] of the responses [M, G], summed for each of the `count` responses: [P, count]."""
    return np.stack([(slopes * (responses == k)).sum((1, 2)) for k in range(count)], axis=1)


@identity("simpo.population-optimum", measured="largest expected slope at that gap")
def _(rng: np.random.Generator) -> Residuals:
    """Between two responses with labels of probability p, SimPO's mean log-probabilities end apart by d with e^{βd} = [(k - 1)g
    + √((k - 1)²g² + 4k)]/2, k = p/(1 - p), g = e^γ.
    Source: arXiv:2405.14734v3 eq. 6, its expected slope set to 0
    False: βd = logit(p) + γ: the margin is added to what Bradley-Terry asks.
    """
    p, g, beta, tokens = rng.uniform(0.1, 0.9, 20), np.exp(0.5), 2.0, np.full(20, 4)
    k = p / (1 - p)

    def expected_slope(gap: Array) -> Array:
        """Of the first response, which is chosen with probability p, gap / β above the other."""
        first, other = -4.0 + 4 * gap / beta, np.full(20, -4.0)
        won, lost = (minipref.simpo(*pair, tokens, tokens, beta=beta, gamma=0.5) for pair in ((first, other), (other, first)))
        return p * won.grad_policy_chosen_logps + (1 - p) * lost.grad_policy_rejected_logps

    closed = np.log(((k - 1) * g + np.sqrt((k - 1) ** 2 * g**2 + 4 * k)) / 2)
    return expected_slope(closed), expected_slope(np.log(k) + 0.5)


@identity("kto.population-optimum")
def _(rng: np.random.Generator) -> Residuals:
    """For a response judged good with probability p, KTO's expected slope in its log-ratio r is βσ(z)σ(-z) [(1 - p)λ_U - pλ_D],
    z = β(r - z_0): of one sign at every r, so that no probability between 0 and 1 is its aim.
    Source: arXiv:2402.01306v4 theorem 4.3
    False: It vanishes at the log-ratio z_0 + logit(p)/β, as DPO's would.
    """
    p, beta, z0, up, down = rng.uniform(0.2, 0.8, 30), 0.5, 0.7, 1.2, 0.9

    def expected_slope(ratios: Array) -> Array:
        def slopes(good: bool) -> Array:
            judged = np.full(30, good)
            return minipref.kto(ratios - 5, np.full(30, -5.0), judged, z0, beta, up, down).grad_policy_logps

        return p * slopes(True) + (1 - p) * slopes(False)

    ratios = rng.normal(size=30) * 4
    closed = beta * sigmoid(beta * (ratios - z0)) * sigmoid(beta * (z0 - ratios)) * ((1 - p) * down - p * up)
    return expected_slope(ratios) - closed, expected_slope(z0 + np.log(p / (1 - p)) / beta)


@identity("sppo.half")
def _(rng: np.random.Generator) -> Residuals:
    """At the step π_t e^{ηP}/Z, P the win rates against π_t, SPPO's slope is 2(η/2 - log Z) for every response; the 1/2 of its
    target stands for log Z/η, which is at least 1/2 and at most 1/2 + η/8.
    Source: arXiv:2405.00675v4 eq. 4.7; the bound is Hoeffding's lemma
    False: The same holds for win rates against a uniform opponent.
    Measured: largest difference of a slope, and how far log Z/η is beyond its bounds, η = 0.02
    """
    world, eta = random_world(rng), 0.02

    def residuals(opponent: Array) -> list[Array]:
        wins = np.einsum("pij,pj->pi", world.preferences, opponent)
        log_z = np.log((world.reference * np.exp(eta * wins)).sum(1))
        stepped = np.log(tilted(world.reference, eta * wins))
        slopes = minipref.sppo.formula(stepped, world.reference_logps, wins, eta).grad_policy_logps
        beyond = np.abs(log_z / eta - 0.5 - eta / 16) - eta / 16
        return [slopes - (eta - 2 * log_z)[:, None], np.maximum(beyond, 0.0)]

    return residuals(world.reference), residuals(np.full((3, 6), 1 / 6))


# DPO is the maximum-likelihood fit of Bradley-Terry.


@identity("dpo.is-bradley-terry-mle")
def _(rng: np.random.Generator) -> Residuals:
    """DPO's loss, summed over any weighted pairs, is Bradley-Terry's negative log-likelihood with the strengths (π/π_ref)^β.
    Source: arXiv:2305.18290v3 eq. 1 and 7
    False: The strengths are π^β.
    """
    world, weights = random_world(rng), rng.uniform(size=(3, 6, 6)) * (1 - np.eye(6))
    pi = random_policy(rng, world)
    loss = over_pairs(partial(minipref.dpo, beta=world.beta), np.log(pi), world.reference_logps, weights)[0]

    def likelihood(strengths: Array) -> float:
        return float((weights * np.log(strengths[:, :, None] / (strengths[:, :, None] + strengths[:, None, :]))).sum())

    return loss + likelihood((pi / world.reference) ** world.beta), loss + likelihood(pi**world.beta)


# How good an estimate it is. Labels are sampled here: of three responses, whose rewards lie GAPS above the first one's.

GAPS, ASKED, BETA = np.array([0.8, -0.5]), np.array([0.5, 0.3, 0.2]), 0.5
FIRST, SECOND = np.array([0, 0, 1]), np.array([1, 2, 2])  # the three pairs, and above how often each is asked
DPO = partial(minipref.dpo, beta=BETA)


def chances(gaps: Array) -> Array:
    """How often the first of each pair wins [..., 3] where the rewards are 0 and the gaps [..., 2]."""
    rewards = np.insert(gaps, 0, 0.0, axis=-1)
    return sigmoid(rewards[..., FIRST] - rewards[..., SECOND])


def information(gaps: Array, asked: Array) -> Array:
    """Fisher's information [..., 2, 2] of labels on `asked` [..., 3] pairs about the gaps [..., 2] to the first reward."""
    p, contrasts = chances(gaps), np.eye(3)[FIRST] - np.eye(3)[SECOND]
    return np.einsum("...k,ki,kj->...ij", asked * p * (1 - p), contrasts, contrasts)[..., 1:, 1:]


def estimates(loss: Any, rng: np.random.Generator, pairs: int, samples: int) -> Array:
    """Gaps [samples, 2] of the implicit rewards that minimize the loss, each on as many sampled labels; by Newton's method."""
    p = chances(GAPS)
    counts = rng.multinomial(pairs, np.concatenate([ASKED * p, ASKED * (1 - p)]), samples) / pairs
    weights = np.zeros((samples, 3, 3))
    weights[:, FIRST, SECOND], weights[:, SECOND, FIRST] = counts[:, :3], counts[:, 3:]
    gaps, level = np.zeros((samples, 2)), np.zeros((samples, 3))
    for _ in range(7):
        slopes = over_pairs(loss, np.insert(gaps, 0, 0.0, axis=1) / BETA, level, weights)[1][:, 1:] / BETA
        gaps = gaps - np.linalg.solve(information(gaps, counts[:, :3] + counts[:, 3:]), slopes[..., None])[..., 0]
    return gaps


@exact("dpo.consistency", (-0.55, -0.45))
def _(rng: np.random.Generator) -> Measured:
    """The error of DPO's reward gaps shrinks like one over the square root of the number of labelled pairs.
    Source: maximum likelihood, for arXiv:2305.18290v3 eq. 7
    False: So does conservative DPO's on labels that are not flipped (ε = 0.1).
    Measured: slope of log root-mean-square error in log pairs, 1,000 to 100,000 pairs, 20 batches of 100 samples; -1/2 to a
      tenth of it
    """

    def slope(loss: Any) -> Reading:
        squares = [((estimates(loss, rng, pairs, 2000) - GAPS) ** 2).reshape(20, -1).mean(1) for pairs in (10**3, 10**5)]
        return Reading.mean(np.log(squares[1] / squares[0]) / 2 / np.log(100))

    return Measured(slope(DPO), slope(partial(minipref.cdpo, beta=BETA, label_smoothing=0.1)))


@exact("dpo.fisher-information", (0.97, 1.03))
def _(rng: np.random.Generator) -> Measured:
    """The standard deviation of DPO's reward gaps is that of the inverse Fisher information, in which each pair
    counts p(1 - p).
    Source: maximum likelihood, for arXiv:2305.18290v3 eq. 7
    False: Each pair counts 1/4, as at policy = reference.
    Measured: standard deviation over 40,000 samples of 4,000 pairs over what is predicted; 3 % is equal here
    """
    spread = estimates(DPO, rng, 4000, 40000)[:, 0].std(ddof=1)

    def ratio(gaps: Array) -> Reading:
        share = spread / np.sqrt(np.linalg.inv(information(gaps, 4000 * ASKED))[0, 0])
        return Reading(float(share), float(share / np.sqrt(2 * 40000)))

    return Measured(ratio(GAPS), ratio(np.zeros(2)))


@exact("dpo.asymptotic-normality", (0.94, 0.96))
def _(rng: np.random.Generator) -> Measured:
    """The 95 % confidence region that the inverse Fisher information gives DPO's reward gaps holds the true ones in 95 % of
    samples.
    Source: maximum likelihood, for arXiv:2305.18290v3 eq. 7
    False: So does the region in which each pair counts 1/4.
    Measured: share of 40,000 samples of 4,000 pairs whose Wald statistic is below -2 log 0.05, to one percent
    """
    errors = estimates(DPO, rng, 4000, 40000) - GAPS

    def coverage(gaps: Array) -> Reading:
        fisher = information(gaps, 4000 * ASKED)
        return Reading.mean(np.einsum("mi,ij,mj->m", errors, fisher, errors) <= -2 * np.log(0.05))

    return Measured(coverage(GAPS), coverage(np.zeros(2)))


# What changes no loss. Every method is asked for losses before and after; `INVARIANCES` says of which the losses stay.

Change = Callable[[Mapping[str, Any], Mapping[str, Array]], dict[str, Any]]  # of inputs, a length given for each response


class Invariance(NamedTuple):
    change: str  # what is done to the log-probabilities
    apply: Change
    methods: frozenset[str]  # whose losses it leaves as they are
    moved: str  # one that a hasty reader puts on the wrong side


def _shift(*models: str) -> Change:
    return lambda inputs, _: {n: x - 0.3 if n.endswith("logps") and n.startswith(models) else x for n, x in inputs.items()}


def _token_shift(inputs: Mapping[str, Any], lengths: Mapping[str, Array]) -> dict[str, Any]:
    return {n: x - 0.3 * lengths[n] if n.startswith("policy") else x for n, x in inputs.items()}


def _scale(inputs: Mapping[str, Any], _: Mapping[str, Array]) -> dict[str, Any]:
    nats = ("logps", "reference_point")
    return {n: 2 * x if n.endswith(nats) else x / 2 if n == "beta" else x for n, x in inputs.items()}


OF_REWARD_GAPS = frozenset({"dpo", "cdpo", "robust_dpo", "rso_hinge", "plackett_luce_dpo"})  # β times gaps of log-ratios
WITH_REFERENCE = OF_REWARD_GAPS | {"ipo", "ipo_length_normalized", "kto", "sppo"}
METHODS = WITH_REFERENCE | {"orpo", "simpo"}
INVARIANCES: dict[str, Invariance] = {
    "prompt-shift": Invariance(
        "the policy's log-probabilities of all responses to a prompt move by one number",
        _shift("policy"),
        OF_REWARD_GAPS | {"ipo"},
        "ipo_length_normalized",
    ),
    "reference-shift": Invariance(
        "the reference's log-probabilities of all responses to a prompt move by one number",
        _shift("reference"),
        OF_REWARD_GAPS | {"ipo", "orpo", "simpo"},
        "kto",
    ),
    "common-shift": Invariance(
        "policy and reference move by one number, so that no log-ratio changes",
        _shift("policy", "reference"),
        WITH_REFERENCE,
        "simpo",
    ),
    "token-shift": Invariance(
        "the policy's log-probability of every token moves by one number, whatever the lengths",
        _token_shift,
        frozenset({"simpo", "ipo_length_normalized"}),
        "dpo",
    ),
    "scale": Invariance(
        "all log-probabilities are doubled, the reference point with them, and β is halved",
        _scale,
        OF_REWARD_GAPS | {"kto", "simpo"},
        "ipo",
    ),
}


def effect(method: str, invariance: Invariance, rng: np.random.Generator) -> float:
    """The largest change |ΔL| / (1 + |L|) that it makes to a loss of the method, over ten ordinary cases."""
    largest = 0.0
    for _ in range(10):
        inputs = cases.draw(method, "ordinary", rng, "float64").inputs
        responses = {n: x for n, x in inputs.items() if n.endswith("logps")}
        lengths = {n: inputs.get(f"{n.split('_')[1]}_lengths", rng.integers(2, 9, x.shape)) for n, x in responses.items()}
        before, after = (getattr(minipref, method)(**x).losses for x in (inputs, invariance.apply(inputs, lengths)))
        largest = np.maximum(largest, np.max(np.abs(after - before) / (1 + np.abs(before))))
    return float(largest)


def _claim(name: str, invariance: Invariance) -> None:
    has, lacks = sorted(invariance.methods), sorted(METHODS - invariance.methods)

    def measure(rng: np.random.Generator) -> Measured:
        change = {method: effect(method, invariance, rng) for method in sorted(METHODS)}

        def misplaced(methods: frozenset[str]) -> Reading:
            return Reading(float(sum(not (x <= 1e-11 if method in methods else x >= 1e-3) for method, x in change.items())))

        return Measured(misplaced(invariance.methods), misplaced(invariance.methods ^ {invariance.moved}))

    measure.__doc__ = f"""If {invariance.change}, the losses of {", ".join(has)} stay; those of {", ".join(lacks)} do not.
    Source: the methods' equations
    False: {invariance.moved} is on the other side.
    Measured: methods on the wrong side; a loss L stays if it changes by at most 1e-11 (1 + |L|), and not from 1e-3 on
    """
    exact(f"invariance.{name}", (0.0, 0.0))(measure)


for _name, _found in INVARIANCES.items():
    _claim(_name, _found)


# On-policy gradients, in expectation over all groups that can be sampled. The reward is shaped with k1: R - β log(π/π_ref).


def ascent(world: World, policy: Array, advantages: Callable[[Array], Any], members: int, old: Array | None = None) -> Array:
    """Minus the expected gradient [P, K] in the logits of PPO's mean loss over groups of responses sampled from `old`."""
    behind = policy if old is None else old
    groups = np.array(list(product(range(policy.shape[1]), repeat=members)))
    shaped = (world.rewards - world.beta * np.log(behind / world.reference))[:, groups].reshape(-1, members)
    new, was = (np.log(x)[:, groups].reshape(-1, members) for x in (policy, behind))
    slopes = minipref.ppo_policy(new, was, advantages(shaped).advantages, np.ones(new.shape, bool)).grad_logps
    likely = behind[:, groups].prod(-1)[..., None]
    return -to_logits(gathered(groups, likely * slopes.reshape(3, -1, members), policy.shape[1]), policy) / members


def somewhere(rng: np.random.Generator) -> tuple[Array, Callable[..., Array]]:
    """At a random policy of a random world: ∇J in the logits, and `ascent`, which takes what follows the policy."""
    world = random_world(rng)
    policy = random_policy(rng, world)
    truth = derivative(lambda logits: objective(world, softmax(logits)), np.log(policy))
    return truth, partial(ascent, world, policy)


@slope_identity("ppo.expected-gradient")
def _(rng: np.random.Generator) -> Residuals:
    """Before its first update PPO's expected gradient is that of the KL-regularized objective, the KL being in the reward and
    the baseline any number.
    Source: arXiv:1707.06347v2 eq. 7; arXiv:2203.02155v1 eq. 2
    False: In later epochs too.
    """
    truth, climb = somewhere(rng)
    baseline, old = rng.normal(), softmax(rng.normal(size=truth.shape))

    def advantages(rewards: Any) -> GroupAdvantages:
        return GroupAdvantages(rewards - baseline)

    return climb(advantages, 1) - truth, climb(advantages, 1, old) - truth


@slope_identity("rloo.expected-gradient")
def _(rng: np.random.Generator) -> Residuals:
    """RLOO's expected gradient is that of the KL-regularized objective, for groups of two and of three.
    Source: arXiv:2402.14740v2 section 2.3
    False: So is that of rewards less the mean of the whole group.
    """
    truth, climb = somewhere(rng)
    left = [climb(minipref.advantages_rloo, members) - truth for members in (2, 3)]
    return left, climb(minipref.advantages_dr_grpo, 3) - truth


@slope_identity("dr-grpo.expected-gradient")
def _(rng: np.random.Generator) -> Residuals:
    """The expected gradient of Dr. GRPO, the KL in the reward, is (G - 1)/G of the objective's, for groups of two and of three:
    no bias but a scale.
    Source: arXiv:2503.20783v2 section 3.2
    False: It is the objective's, without a factor.
    """
    truth, climb = somewhere(rng)
    two, three = (climb(minipref.advantages_dr_grpo, members) for members in (2, 3))
    return [two - truth / 2, three - 2 * truth / 3], three - truth


@exact("grpo.expected-gradient-biased", (1e-5, 2.0))
def _(rng: np.random.Generator) -> Measured:
    """Dividing by the group's standard deviation turns the expected gradient: GRPO's is not proportional to the objective's,
    the KL being in the reward of both.
    Source: arXiv:2402.03300v3 section 4.1.2; arXiv:2503.20783v2 section 3.2
    False: Subtracting the group's mean turns it too.
    Measured: 1 - cosine of the angle between them for groups of three, at the prompt where it is largest; rounding and central
      differences leave below 1e-12
    """
    truth, climb = somewhere(rng)

    def turned(advantages: Callable[[Array], Any]) -> Reading:
        found = climb(advantages, 3)
        cosines = (found * truth).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(truth, axis=1)
        return Reading(float(np.max(1 - cosines)))

    return Measured(turned(minipref.advantages_grpo), turned(minipref.advantages_dr_grpo))


@identity("grpo.two-responses", 1e-4, "largest distance from ±1/√2, for rewards at least 1 apart")
def _(rng: np.random.Generator) -> Residuals:
    """In a group of two, GRPO's advantages are ±1/√2 however far the rewards are apart, less what the 1e-4 beside the standard
    deviation takes: a pair, as in online DPO, with a constant weight.
    Source: arXiv:2402.03300v3 section 4.1.2
    False: They are ±1.
    """
    low, gap = rng.normal(size=(2, 50))
    found = minipref.advantages_grpo(np.stack([low + 1 + np.abs(gap), low], axis=1)).advantages
    sides = np.array([1.0, -1.0])
    return found - sides / np.sqrt(2), found - sides


@exact("ppo.clip-regions", (0.0, 0.0))
def _(rng: np.random.Generator) -> Measured:
    """PPO's slope is 0 just where the ratio is above 1 + ε and the advantage positive, or below 1 - ε and the advantage
    negative.
    Source: arXiv:1707.06347v2 eq. 7
    False: It is 0 wherever the ratio is outside [1 - ε, 1 + ε].
    Measured: tokens, of 500, of which the rule says otherwise
    """
    ratios, advantages = np.exp(rng.normal(size=500)), rng.normal(size=500)
    new, was = (np.log(x)[None] for x in (ratios, np.ones(500)))
    flat = minipref.ppo_policy(new, was, advantages[None], np.ones((1, 500), bool)).grad_logps[0] == 0
    outside = (ratios > 1.2) | (ratios < 0.8)
    rule = np.where(advantages > 0, ratios > 1.2, ratios < 0.8)
    return Measured(Reading(float(np.sum(flat != rule))), Reading(float(np.sum(flat != outside))))


def k_estimates(rng: np.random.Generator) -> tuple[World, Array, Any]:
    """A random world and policy, and what `kl_estimates` says of every response."""
    world = random_world(rng)
    policy = random_policy(rng, world)
    return world, policy, minipref.kl_estimates.formula(np.log(policy), world.reference_logps)


@identity("kl.k1-k2-k3-values")
def _(rng: np.random.Generator) -> Residuals:
    """Under the policy's samples k1 and k3 have the mean KL(π‖π_ref) exactly; k2 does not.
    Source: Schulman 2020, Approximating KL divergence
    False: k2 has that mean too.
    """
    world, policy, found = k_estimates(rng)
    k1, k2, k3 = ((policy * k).sum(1) - kl(policy, world.reference) for k in (found.k1, found.k2, found.k3))
    return [k1, k3], k2


@slope_identity("kl.as-losses")
def _(rng: np.random.Generator) -> Residuals:
    """As losses on the policy's samples, k1 has the expected gradient 0, k2 that of KL(π‖π_ref), and k3 that of KL(π_ref‖π).
    Source: the slopes of Schulman 2020's estimators, in expectation
    False: k3, which estimates KL(π‖π_ref) without bias, has its gradient.
    """
    world, policy, found = k_estimates(rng)
    k1, k2, k3 = (to_logits(policy * slope, policy) for slope in (found.grad_k1, found.grad_k2, found.grad_k3))
    reverse = derivative(lambda logits: kl(softmax(logits), world.reference), np.log(policy))
    forward = derivative(lambda logits: kl(world.reference, softmax(logits)), np.log(policy))
    return [k1, k2 - reverse, k3 - forward], k3 - reverse


# Two things about practice.


@exact("dpo.underflow", (745.0, 745.0))
def _(rng: np.random.Generator) -> Measured:
    """DPO's loss and slope are positive at every finite gap; in float64 they stay so up to h = 745, the last whole number whose
    e^-h is not rounded to 0.
    Source: arXiv:2305.18290v3 eq. 7
    False: Computed as -log(1/(1 + e^-h)) the loss does too.
    Measured: last whole h, from 0 to 800, with a positive loss and slope
    """
    h = np.arange(801.0)
    got = minipref.dpo(h, 0 * h, 0 * h, 0 * h, beta=1.0)
    positive = (got.losses > 0) & (got.grad_policy_rejected_logps > 0)
    naive = -np.log(1 / (1 + np.exp(-h))) > 0
    return Measured(Reading(float(h[positive].max())), Reading(float(h[naive].max())))


@identity("dpo.cached-reference")
def _(rng: np.random.Generator) -> Residuals:
    """A reference's log-probabilities may be computed once, a response at a time and without padding. With a low-rank adapter,
    W + BA, it is the model with the adapter off, and DPO begins at log 2 if B begins at 0.
    Source: arXiv:2305.18290v3 eq. 7; arXiv:2106.09685v2 section 4.1
    False: Those of the sampler, at its temperature of 0.7, do as well.
    """
    hidden, weight, down = rng.normal(size=(2, 6, 4)), rng.normal(size=(7, 4)), rng.normal(size=(2, 4))
    tokens, mask = rng.integers(0, 7, (2, 6)), np.array([[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]], bool)

    def logps(up: Array, rows: slice = slice(0, 2), end: int = 6) -> Array:
        cut = (x[rows, :end] for x in (tokens, mask))
        return minipref.linear_sequence_logps(hidden[rows, :end], weight + up @ down, *cut).logps

    def loss(policy: Array, reference: Array) -> Array:
        return minipref.dpo(policy[:1], policy[1:], reference[:1], reference[1:]).losses

    off, up = np.zeros((7, 2)), rng.normal(size=(7, 2))
    cached = np.concatenate([logps(off, slice(0, 1)), logps(off, slice(1, 2), 4)])
    sampler = minipref.linear_sequence_logps(hidden, weight / 0.7, tokens, mask).logps
    live = loss(logps(up), logps(off))
    return [loss(logps(up), cached) - live, loss(logps(off), cached) - np.log(2)], loss(logps(up), sampler) - live
