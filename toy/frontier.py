"""Reward against divergence: the exact frontier, where each method stands beside it, and what a learned reward changes.

    frontier  max E[R] at a given KL(π || π_ref) is π* of some β: arXiv:2305.18290v3 equation 4, and its figure 2, here exact
    IPO       max of the win rate against π_ref at a given KL: π_ref e^{p(y beats π_ref)/τ} / Z, arXiv:2310.12036v2 equation 9
    best of n P(y) = F(y)^n - F(y-)^n, F the reference's law of the reward of y

Then a reward model of 60 pairs, sampled from a reference that prefers good responses: π_ref e^{R̂/β} / Z for ever smaller β.
Then N pairs for DPO and for the reward model with policy optimization after it, in two classes: a free logit a response, where
both are one method, and logits linear in two features, where they are not.

Everything is a sum over responses except the pairs of the last two parts.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minipref import bradley_terry, dpo, ipo, orpo, simpo
from minipref.arrays import softmax

from . import roads
from .bandit import Array, PairLoss, World, descend, different_pairs, kl, objective, preferences, random_world, total_variation
from .experiment import Experiment, Measured, Reading, Statement, table
from .loss_shapes import of_lengths_one

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETAS = np.geomspace(20, 0.02, 41)  # of the learned reward
MIDDLE = 17  # BETAS[17] is about 1
SETS, PAIRS = 1000, 60
SIZES, REPEATS, PRIOR = (10, 30, 100, 300, 1000, 3000), 100, 0.1
BLUE, RED, GREY = "#0072b2", "#d55e00", "#555555"
STYLES = {
    "DPO": (BLUE, "o"),
    "IPO": (RED, "-"),
    "best of n": ("#009e73", ".-"),
    "Dr. GRPO, k3 loss": ("#cc79a7", "-"),
    "SimPO": (BLUE, ":"),
    "ORPO": (RED, ":"),
}


class Place(NamedTuple):
    """Means over prompts: divergence in nats, reward, win rate against the reference."""

    divergence: float
    reward: float
    win_rate: float


class Learned(NamedTuple):
    """At each of BETAS: divergence, true reward and the learned reward [sets, B], less those of the reference."""

    divergence: Array
    true: Array
    learned: Array


class Pairs(NamedTuple):
    """By class and way, what is lost of J(π*)."""

    lost: dict[str, Array]  # with each number of pairs [S], mean of the repeats
    limit: dict[str, Array]  # with exact labels on all pairs [repeats]
    apart: Array  # the largest total variation from the free reward model's policy: free DPO, free IPO
    gain: float  # J(π*) - J(π_ref)


class Numbers(NamedTuple):
    frontier: list[Place]
    methods: dict[str, list[Place]]
    beyond: dict[str, Array]  # [S, 3]: places less those of π* at the same divergence
    learned: Learned
    pairs: Pairs


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    methods = {name: [place(world, policy) for policy in policies] for name, policies in strengths(world).items()}
    beyond = {
        name: np.array([np.subtract(at, at_equal_divergence(world, at)) for at in places]) for name, places in methods.items()
    }
    frontier = [place(world, world._replace(beta=beta).optimum) for beta in np.geomspace(30, 0.05, 120)]
    return Numbers(frontier, methods, beyond, overoptimize(rng), compare(rng))


def place(world: World, policy: Array) -> Place:
    wins = np.einsum("pi,pj,pij->p", policy, world.reference, world.preferences)
    return Place(*(float(np.mean(x)) for x in (kl(policy, world.reference), (policy * world.rewards).sum(1), wins)))


def at_equal_divergence(world: World, target: Place) -> Place:
    """Where π* stands whose β gives the same divergence, by bisection of log β."""
    low, high = -8.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        found = place(world, world._replace(beta=float(np.exp(middle))).optimum)
        low, high = (middle, high) if found.divergence > target.divergence else (low, middle)
    return found


def strengths(world: World) -> dict[str, list[Array]]:
    """Policies [P, K] of each method, from its weakest setting to its strongest."""
    pairs, wins = different_pairs(world), (world.preferences * world.reference[:, None, :]).sum(2)
    start = world.reference_logps

    def trained(loss: PairLoss, step: float) -> Array:
        return softmax(descend(roads.pair_field(loss, world, pairs), start, step, 3000, 1e-14))

    def solved(loss: Any, **settings: float) -> Array:
        return softmax(roads.newton(roads.pair_field(of_lengths_one(loss, **settings), world, pairs), start))

    return {
        "DPO": [trained(partial(dpo.formula, beta=beta), 12 / beta**2) for beta in (3.0, 1.5, 0.8, 0.5, 0.3)],
        "IPO": [world._replace(rewards=wins, beta=tau).optimum for tau in np.geomspace(0.6, 0.04, 25)],
        "best of n": [best_of(world, n) for n in (1, 2, 4, 8, 16, 32, 64)],
        "Dr. GRPO, k3 loss": [roads.forward_kl_optimum(world, b) for b in np.geomspace(10, 0.03, 40)],
        "SimPO": [solved(simpo.formula, beta=beta, gamma=0.5) for beta in np.geomspace(4, 0.8, 8)],
        "ORPO": [solved(orpo.formula, odds_weight=weight) for weight in np.geomspace(0.1, 3, 8)],
    }


def best_of(world: World, n: int) -> Array:
    """The law [P, K] of the best of n responses of the reference."""
    order = np.argsort(world.rewards, axis=1)
    upto = np.cumsum(np.take_along_axis(world.reference, order, 1), axis=1) ** n
    law = np.empty_like(upto)
    np.put_along_axis(law, order, np.diff(upto, axis=1, prepend=0.0), 1)
    return law


def overoptimize(rng: np.random.Generator) -> Learned:
    """20 responses with evenly spaced rewards; the reference has them in proportion to about e^{2R}, so bad ones are rare."""
    rewards = np.linspace(-1.5, 1.5, 20)[None]
    world = World(rewards, softmax(2 * rewards + rng.normal(scale=0.3, size=rewards.shape)), 1.0)
    law = world.reference[:, :, None] * world.reference[:, None, :] * world.preferences * (1 - np.eye(20))
    scores = fit(sampled(rng, law[0] / law.sum(), PAIRS, SETS, 0.02))
    scores -= scores @ world.reference[0][:, None]
    policies = [softmax(world.reference_logps + scores / beta) for beta in BETAS]
    divergence = np.stack([kl(policy, world.reference) for policy in policies], 1)
    gained = rewards - (world.reference * rewards).sum()
    true, learned = (np.stack([(policy * values).sum(1) for policy in policies], 1) for values in (gained, scores))
    return Learned(divergence, true, learned)


def sampled(rng: np.random.Generator, law: Array, pairs: int, sets: int, prior: float) -> Array:
    """How often [sets, K, K] each response beat each other; `prior` is added to all so that every fit is finite."""
    counts = rng.multinomial(pairs, law.ravel(), sets).reshape(sets, *law.shape)
    return counts + prior * (1 - np.eye(len(law)))


def fit(counts: Array) -> Array:
    """Scores [sets, K] of greatest Bradley-Terry likelihood, by Newton's method: the curvature is a graph's Laplacian."""
    scores: Array = np.zeros(counts.shape[:2])
    for _ in range(100):
        found = bradley_terry.formula(scores[:, :, None], scores[:, None, :])
        slopes = (counts * found.grad_chosen_rewards).sum(2) + (counts * found.grad_rejected_rewards).sum(1)
        likely = preferences(scores)
        weights = (counts + counts.transpose(0, 2, 1)) * likely * (1 - likely)
        laplacian = np.eye(scores.shape[1]) * weights.sum(2, keepdims=True) - weights
        move = np.linalg.solve(laplacian + 1e-3, slopes[:, :, None])[:, :, 0]
        scores = scores - move / np.maximum(1, np.abs(move).max(1, keepdims=True))
        if np.max(np.abs(move)) <= 1e-13:
            break
    return scores


def compare(rng: np.random.Generator) -> Pairs:
    """One prompt; each number of pairs REPEATS times, each with features of its own, and once the exact labels on all pairs."""
    world, features = random_world(rng, prompts=1), rng.normal(size=(REPEATS, 6, 2))
    law, apart = different_pairs(world), np.zeros(2)
    rows = []
    for size in SIZES:
        counts = sampled(rng, law[0], size, REPEATS, PRIOR)
        losses, distances = both_classes(world, features, counts / counts.sum((1, 2), keepdims=True))
        apart = np.maximum(apart, distances)
        rows.append({name: loss.mean() for name, loss in losses.items()})
    limit, _ = both_classes(world, features, np.repeat(law, REPEATS, axis=0))
    gain = objective(world, world.optimum) - objective(world, world.reference)
    return Pairs({name: np.array([row[name] for row in rows]) for name in limit}, limit, apart, float(gain[0]))


def both_classes(world: World, features: Array, weights: Array) -> tuple[dict[str, Array], Array]:
    """What is lost of J(π*) [sets], of labelled pairs [sets, K, K], and how far DPO and IPO are from the free reward model."""
    rewards, reference = (np.repeat(values, len(weights), axis=0) for values in (world.rewards, world.reference))
    known = World(rewards, reference, world.beta)
    fitted = known._replace(rewards=fit(weights))
    logistic, squared = (roads.pair_field(partial(loss.formula, beta=world.beta), known, weights) for loss in (dpo, ipo))
    free, other = (softmax(roads.newton(field, known.reference_logps)) for field in (logistic, squared))
    policies = {
        "free, DPO": free,
        "free, reward model": fitted.optimum,
        "linear, DPO": within(known, features, logistic),
        "linear, reward model": within(known, features, roads.reward_field(fitted)),
    }
    best = objective(known, known.optimum)
    losses = {name: best - objective(known, policy) for name, policy in policies.items()}
    return losses, np.array([total_variation(policy, fitted.optimum) for policy in (free, other)])


def within(world: World, features: Array, field: roads.Field) -> Array:
    """The policies π_ref e^{φ·θ} / Z [sets, K], φ [sets, K, 2], where a field brought to θ is zero: descent, then Newton."""

    def logits(weights: Array) -> Array:
        return world.reference_logps + (features @ weights[:, :, None])[:, :, 0]

    def pulled(weights: Array) -> Array:
        return (field(logits(weights))[:, None, :] @ features)[:, 0]

    start = descend(pulled, np.zeros((len(features), features.shape[2])), 0.5, 300)
    return softmax(logits(roads.newton(pulled, start)))


def report(numbers: Numbers) -> str:
    rows = []
    for name, places in numbers.methods.items():
        ends = (
            f"{abs(places[0].divergence):.3f} to {places[-1].divergence:.3f}",
            f"{places[0].reward:.3f} to {places[-1].reward:.3f}",
        )
        reward, wins = (f"{column.min():.1e} to {column.max():.1e}" for column in numbers.beyond[name].T[1:])
        rows.append((name, *ends, reward, wins))
    head = ("method, weakest to strongest", "KL (nats)", "reward", "reward beyond π*'s", "win rate beyond π*'s")
    of_learned = [(f"{BETAS[i]:.2g}", *(float(np.mean(curve[:, i])) for curve in numbers.learned)) for i in range(0, 41, 5)]
    learned = table(("β", "KL (nats)", "true reward", "learned reward"), of_learned)
    lost = [(name, *curve.tolist(), float(numbers.pairs.limit[name].mean())) for name, curve in numbers.pairs.lost.items()]
    return (
        f"{table(head, rows)}\n\nBeyond: at equal KL.\n\nA reward model of {PAIRS} pairs, mean of {SETS:,}; "
        f"rewards less the reference's:\n\n{learned}\n\nWhat is lost of J(π*), mean of {REPEATS}; "
        f"J(π*) - J(π_ref) is {numbers.pairs.gain:.3g}:\n\n{table(('class, method', *map(str, SIZES), 'all pairs'), lost)}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    (rewards, wins), (learned, pairs) = figure.subplots(2, 2)
    _draw_frontier(numbers, rewards)
    _draw_wins(numbers, wins)
    _draw_learned(numbers.learned, learned)
    _draw_pairs(numbers.pairs, pairs)


def _draw_frontier(numbers: Numbers, axes: Any) -> None:
    frontier = np.array(numbers.frontier)
    axes.plot(frontier[:, 0], frontier[:, 1], color=GREY, lw=5, alpha=0.35, label="exact frontier")
    for name, places in numbers.methods.items():
        at = np.array(places)
        colour, style = STYLES[name]
        axes.plot(at[:, 0], at[:, 1], style, color=colour, label=name)
    axes.set(title="Reward against divergence", xlabel="KL(π || π_ref) (nats)", ylabel="reward", xlim=(0, 1.8))
    axes.legend(fontsize=8, loc="lower right")


def _draw_wins(numbers: Numbers, axes: Any) -> None:
    axes.axhline(0, color=GREY, lw=5, alpha=0.35)
    for name in ("IPO", "best of n", "Dr. GRPO, k3 loss"):
        divergence = [place.divergence for place in numbers.methods[name]]
        colour, style = STYLES[name]
        axes.plot(divergence, 100 * numbers.beyond[name][:, 2], style, color=colour, label=name)
    axes.set(title="Win rate against the reference, beyond π*'s", xlabel="KL(π || π_ref) (nats)", ylabel="percentage points")
    axes.set_xlim(0, 1.8)
    axes.legend(fontsize=8, loc="lower right")


def _draw_learned(found: Learned, axes: Any) -> None:
    divergence = found.divergence.mean(0)
    for name, curve, colour in (("learned reward", found.learned, GREY), ("true reward", found.true, RED)):
        axes.plot(divergence, curve.mean(0), color=colour, label=name)
        axes.fill_between(divergence, *np.quantile(curve, (0.25, 0.75), axis=0), color=colour, alpha=0.15, lw=0)
    middle = (divergence[MIDDLE], found.true.mean(0)[MIDDLE])
    axes.annotate("β = 1", middle, xytext=(0, -14), textcoords="offset points", fontsize=8, ha="center")
    axes.plot(*middle, "o", color=RED)
    axes.set(title=f"Optimizing a reward model of {PAIRS} pairs", xlabel="KL(π || π_ref) (nats)")
    axes.set_ylabel("reward gained; band: middle half")
    axes.legend(fontsize=8, loc="upper left")


def _draw_pairs(found: Pairs, axes: Any) -> None:
    styles = {
        "free, DPO": (BLUE, "-"),
        "free, reward model": (RED, "x"),
        "linear, DPO": (BLUE, "--"),
        "linear, reward model": (RED, "--"),
    }
    for name, (colour, style) in styles.items():
        axes.plot(SIZES, found.lost[name] / found.gain, style, color=colour, label=name)
    axes.set(title="What finitely many pairs cost", xlabel="pairs", xscale="log", yscale="log")
    axes.set_ylabel("share of J(π*) - J(π_ref) lost")
    axes.legend(fontsize=8, loc="lower left")


def _on_frontier(numbers: Numbers) -> Measured:
    short = {name: Reading.worst(beyond[:, 1]) for name, beyond in numbers.beyond.items()}
    return Measured(short["DPO"], short["Dr. GRPO, k3 loss"], {name: reading.value for name, reading in short.items()})


def _win_rate(numbers: Numbers) -> Measured:
    _, rewards, wins = numbers.beyond["IPO"].T
    return Measured(Reading(float(np.min(wins))), Reading(float(np.min(rewards))))


def _overoptimized(numbers: Numbers) -> Measured:
    def turn(curve: Array) -> Reading:
        changes = Reading.mean(curve[:, MIDDLE]), Reading.mean(curve[:, MIDDLE] - curve[:, -1])
        return min(changes, key=lambda change: change.value)

    return Measured(turn(numbers.learned.true), turn(numbers.learned.learned))


def _restricted(numbers: Numbers) -> Measured:
    limit, gain = numbers.pairs.limit, numbers.pairs.gain
    linear, free = ((limit[f"{kind}, DPO"] - limit[f"{kind}, reward model"]) / gain for kind in ("linear", "free"))
    return Measured(Reading.mean(linear), Reading.mean(free))


STATEMENTS = (
    Statement(
        "toy.frontier.on-frontier",
        "DPO trained on exact Bradley-Terry labels has, at every β, the greatest reward that its divergence allows.",
        "arXiv:2305.18290v3 eq. 4, figure 2",
        "Dr. GRPO with k3 in its loss has it too.",
        (0, 1e-8),
        "largest reward short of π* at equal KL(π || π_ref)",
        _on_frontier,
    ),
    Statement(
        "toy.frontier.win-rate",
        "At equal KL, IPO's optimum with μ = π_ref beats the reference more often than π* of the reward does.",
        "arXiv:2310.12036v2 eq. 9",
        "At equal KL it has more reward than π*.",
        (1e-9, 1),
        "smallest advantage over π* at equal KL, over 25 strengths; 1e-9 is far above the error of the bisection",
        _win_rate,
    ),
    Statement(
        "toy.frontier.overoptimization",
        "As β shrinks against a reward model of few pairs, the true reward rises, and falls again well below its peak.",
        "arXiv:2210.10760 figure 1; arXiv:2305.18290v3 eq. 4",
        "The learned reward does so.",
        (0.02, 2),
        f"lesser of the rise to β = 1 and the fall to β = 0.02, mean of {SETS:,} reward models; rewards span 3",
        _overoptimized,
    ),
    Statement(
        "toy.frontier.pairs-needed",
        "With a free logit a response, DPO and a reward model with exact optimization are one policy on the same pairs.",
        "arXiv:2305.18290v3 eq. 4-7",
        "IPO gives that policy too.",
        (0, 1e-10),
        f"largest total variation over {len(SIZES)} numbers of pairs, {REPEATS} samples of each",
        lambda numbers: Measured(Reading(numbers.pairs.apart[0]), Reading(numbers.pairs.apart[1])),
    ),
    Statement(
        "toy.frontier.restricted-class",
        "With logits linear in two features, DPO on exact labels ends with less E[R] - β KL than policy gradient on it.",
        "arXiv:2305.18290v3 eq. 3 and 7, in an exponential family",
        "So it does with a free logit a response.",
        (1e-3, 1),
        f"what DPO loses more, as a share of J(π*) - J(π_ref); mean of {REPEATS} draws of the features",
        _restricted,
    ),
)
EXPERIMENT = Experiment("Reward against divergence, and what pairs can buy", run, report, draw, STATEMENTS, (9.0, 8.0))
