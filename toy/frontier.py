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

from minipref import dpo, ipo, orpo, simpo
from minipref.arrays import softmax

from . import roads
from .bandit import Array, PairLoss, World, descend, different_pairs, kl, objective, of_lengths_one, random_world
from .bandit import total_variation as distance
from .experiment import Experiment, Measured, Reading, stated, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETAS, MIDDLE = np.geomspace(50, 0.02, 41), 20  # of the learned reward; BETAS[20] is 1
SETS, PAIRS = 1000, 60
SIZES, REPEATS = (10, 30, 100, 300, 1000, 3000), 100
STYLES = {"DPO": "C0o", "IPO": "C1-", "best of n": "C2.-", "Dr. GRPO, k3 loss": "C3-", "SimPO": "C0:", "ORPO": "C1:"}
CLASSES = {"free, DPO": "C0-", "free, reward model": "C1x", "linear, DPO": "C0--", "linear, reward model": "C1--"}


class Learned(NamedTuple):
    """At each of BETAS: divergence, true reward and the learned reward [sets, B], less those of the reference."""

    divergence: Array
    true: Array
    learned: Array


class Numbers(NamedTuple):
    """Places [S, 3] are means over prompts: divergence in nats, reward, win rate against the reference."""

    frontier: Array
    methods: dict[str, Array]  # each at several strengths
    beyond: dict[str, Array]  # those places less that of π* at the same divergence
    learned: Learned
    lost: dict[str, Array]  # [S + 1, repeats], by class and way: share of J(π*) - J(π_ref), by SIZES, last exact labels
    apart: Array  # the largest total variation from the free reward model's policy: free DPO, free IPO


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    world = random_world(rng)
    methods = {name: np.array([place(world, policy) for policy in found]) for name, found in strengths(world).items()}
    beyond = {name: places - [at_divergence(world, at[0]) for at in places] for name, places in methods.items()}
    frontier = np.array([of_optimum(world, beta) for beta in np.geomspace(30, 0.05, 120)])
    return Numbers(frontier, methods, beyond, overoptimize(rng), *compare(rng))


def place(world: World, policy: Array) -> Array:
    wins = np.einsum("pi,pj,pij->p", policy, world.reference, world.preferences)
    return np.array([kl(policy, world.reference), (policy * world.rewards).sum(1), wins]).mean(1)


def of_optimum(world: World, beta: Any) -> Array:
    return place(world, world._replace(beta=float(beta)).optimum)


def at_divergence(world: World, divergence: float) -> Array:
    """Where π* stands whose β gives this divergence, by bisection of log β."""
    found = roads.bisect(lambda log: of_optimum(world, np.exp(log))[0] > divergence, np.array(-8.0), np.array(12.0))
    return of_optimum(world, np.exp(found))


def strengths(world: World) -> dict[str, list[Array]]:
    """Policies [P, K] of each method, from its weakest setting to its strongest."""
    pairs, wins = different_pairs(world), (world.preferences * world.reference[:, None, :]).sum(2)

    def solved(loss: PairLoss) -> Array:
        return softmax(roads.newton(roads.pair_field(loss, world, pairs), world.reference_logps))

    return {
        "DPO": [solved(partial(dpo.formula, beta=beta)) for beta in (3.0, 1.5, 0.8, 0.5, 0.3)],
        "IPO": [world._replace(rewards=wins, beta=tau).optimum for tau in np.geomspace(0.6, 0.04, 25)],
        "best of n": [best_of(world, n) for n in (1, 2, 4, 8, 16, 32, 64)],
        "Dr. GRPO, k3 loss": [roads.forward_kl_optimum(world, b) for b in np.geomspace(10, 0.03, 40)],
        "SimPO": [solved(of_lengths_one(simpo.formula, beta=beta, gamma=0.5)) for beta in np.geomspace(4, 0.8, 8)],
        "ORPO": [solved(of_lengths_one(orpo.formula, odds_weight=weight)) for weight in np.geomspace(0.1, 3, 8)],
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
    scores = roads.reward_model(sampled(rng, law[0], PAIRS, SETS))
    scores -= scores @ world.reference[0][:, None]
    policies = [softmax(world.reference_logps + scores / beta) for beta in BETAS]
    divergence = np.stack([kl(policy, world.reference) for policy in policies], 1)
    gained = rewards - (world.reference * rewards).sum()
    true, learned = (np.stack([(policy * values).sum(1) for policy in policies], 1) for values in (gained, scores))
    return Learned(divergence, true, learned)


def sampled(rng: np.random.Generator, law: Array, pairs: int, sets: int) -> Array:
    """How often [sets, K, K] each response beat each other, and 0.02 times more so that every fit is finite."""
    counts = rng.multinomial(pairs, law.ravel() / law.sum(), sets).reshape(sets, *law.shape)
    return counts + 0.02 * (1 - np.eye(len(law)))


def compare(rng: np.random.Generator) -> tuple[dict[str, Array], Array]:
    """One prompt; each number of pairs REPEATS times, each with features of its own, and so the exact labels on all pairs."""
    world, features = random_world(rng, prompts=1), rng.normal(size=(REPEATS, 6, 2))
    law = different_pairs(world)
    weights = [sampled(rng, law[0], size, REPEATS) / size for size in SIZES] + [np.repeat(law, REPEATS, axis=0)]
    lost, apart = zip(*(both_classes(world, features, known) for known in weights), strict=True)
    return {name: np.array([row[name] for row in lost]) for name in CLASSES}, np.max(apart, axis=0)


def both_classes(world: World, features: Array, weights: Array) -> tuple[dict[str, Array], list[float]]:
    """The share lost [sets], of labelled pairs [sets, K, K], and how far DPO and IPO are from the free reward model."""
    known = roads.copies(world, len(weights))
    fitted = known._replace(rewards=roads.reward_model(weights))
    logistic, squared = (roads.pair_field(partial(loss.formula, beta=world.beta), known, weights) for loss in (dpo, ipo))
    free, other = (softmax(roads.newton(field, known.reference_logps)) for field in (logistic, squared))
    linear = [within(known, features, field) for field in (logistic, roads.reward_field(fitted))]
    policies = dict(zip(CLASSES, (free, fitted.optimum, *linear), strict=True))
    best, start = objective(known, known.optimum), objective(known, known.reference)
    lost = {name: (best - objective(known, policy)) / (best - start) for name, policy in policies.items()}
    return lost, [distance(policy, fitted.optimum) for policy in (free, other)]


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
        reward, wins = (f"{column.min():.1e} to {column.max():.1e}" for column in numbers.beyond[name].T[1:])
        rows.append((name, *places[-1, :2].tolist(), reward, wins))
    methods = table(("method", "KL (nats)", "reward", "reward beyond π*'s", "win rate beyond π*'s"), rows)
    means = [curve.mean(0)[::5] for curve in numbers.learned]
    learned = table(("β", "KL (nats)", "true reward", "learned reward"), zip(BETAS[::5].tolist(), *means, strict=True))
    lost = [(name, *losses.mean(1).tolist()) for name, losses in numbers.lost.items()]
    return (
        f"At the strongest setting; beyond: at equal KL, over all settings.\n\n{methods}\n\n"
        f"A reward model of {PAIRS} pairs, mean of {SETS:,}; rewards less the reference's:\n\n{learned}\n\n"
        f"Share of J(π*) - J(π_ref) lost, mean of {REPEATS}:\n\n"
        f"{table(('pairs', *map(str, SIZES), 'all'), lost)}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    (rewards, wins), (learned, pairs) = figure.subplots(2, 2)
    rewards.plot(*numbers.frontier.T[:2], color="C4", lw=5, alpha=0.35, label="exact frontier")
    for name, style in STYLES.items():
        rewards.plot(*numbers.methods[name].T[:2], style, label=name)
    rewards.set(title="Reward against divergence", xlabel="KL(π || π_ref) (nats)", ylabel="reward", xlim=(0, 1.8))
    rewards.legend(fontsize=8, loc="lower right")
    wins.plot(numbers.methods["IPO"][:, 0], 100 * numbers.beyond["IPO"][:, 2], STYLES["IPO"])
    wins.set(title="IPO's win rate beyond π*'s at equal KL", xlabel="KL(π || π_ref) (nats)", ylabel="percentage points")
    wins.set(xlim=(0, None), ylim=(0, None))
    _draw_learned(numbers.learned, learned)
    for name, style in CLASSES.items():
        pairs.plot(SIZES, numbers.lost[name][:-1].mean(1), style, label=name)
    pairs.set(title="What finitely many pairs cost", xlabel="pairs", xscale="log", yscale="log")
    pairs.set_ylabel("share of J(π*) - J(π_ref) lost")
    pairs.legend(fontsize=8, loc="lower left")


def _draw_learned(found: Learned, axes: Any) -> None:
    divergence = found.divergence.mean(0)
    for name, curves, colour in (("learned reward", found.learned, "C4"), ("true reward", found.true, "C1")):
        axes.plot(divergence, curves.mean(0), color=colour, label=name)
        axes.fill_between(divergence, *np.quantile(curves, (0.25, 0.75), axis=0), color=colour, alpha=0.15, lw=0)
    axes.plot(divergence[MIDDLE], found.true[:, MIDDLE].mean(), "C1o", label="β = 1")
    axes.set(title=f"Optimizing a reward model of {PAIRS} pairs", xlabel="KL(π || π_ref) (nats)")
    axes.set_ylabel("reward gained; band: middle half")
    axes.legend(fontsize=8, loc="upper left")


def _on_frontier(numbers: Numbers) -> Measured:
    short, other = (Reading.worst(numbers.beyond[name][:, 1]) for name in ("DPO", "Dr. GRPO, k3 loss"))
    return Measured(short, other)


def _win_rate(numbers: Numbers) -> Measured:
    _, rewards, wins = numbers.beyond["IPO"].T
    return Measured(Reading(float(np.min(wins))), Reading(float(np.min(rewards))))


def _overoptimized(numbers: Numbers) -> Measured:
    def turn(curve: Array) -> Reading:
        changes = Reading.mean(curve[:, MIDDLE]), Reading.mean(curve[:, MIDDLE] - curve[:, -1])
        return min(changes, key=lambda change: change.value)

    return Measured(turn(numbers.learned.true), turn(numbers.learned.learned))


def _restricted(numbers: Numbers) -> Measured:
    exact = {name: shares[-1] for name, shares in numbers.lost.items()}
    linear, free = (Reading.mean(exact[f"{kind}, DPO"] - exact[f"{kind}, reward model"]) for kind in ("linear", "free"))
    return Measured(linear, free)


TABLE = f"""
on-frontier | DPO's minimum on exact Bradley-Terry labels has, at every β, the greatest reward that its divergence allows.
    | Dr. GRPO with k3 in its loss has it too. | arXiv:2305.18290v3 eq. 4, figure 2
    | 0, 1e-8: largest reward short of π* at equal KL(π || π_ref)
win-rate | At equal KL, IPO's optimum with μ = π_ref beats the reference more often than π* of the reward does.
    | At equal KL it has more reward than π*. | arXiv:2310.12036v2 eq. 9
    | 1e-9, 1: smallest advantage over π* at equal KL, over 25 strengths; 1e-9 is far above the error of the bisection
overoptimization | As β shrinks against a reward model of 60 pairs that show few bad responses, the true reward rises, then
    falls. | The learned reward does so. | arXiv:2210.10760 figure 1; arXiv:2305.18290v3 eq. 4
    | 0.02, 2: lesser of the rise to β = 1 and the fall to β = 0.02, mean of {SETS:,} reward models; rewards span 3
pairs-needed | With a free logit a response, DPO and a reward model with exact optimization give one policy on the same pairs.
    | IPO gives that policy too. | arXiv:2305.18290v3 eq. 4-7
    | 0, 1e-10: largest total variation over {len(SIZES)} numbers of pairs, {REPEATS} samples of each, and exact labels
restricted-class | With logits linear in two features, DPO on exact labels ends with less E[R] - β KL than its ascent, on
    average. | So it does with a free logit a response. | arXiv:2305.18290v3 eq. 3 and 7, in an exponential family
    | 1e-3, 1: what DPO loses more, as a share of J(π*) - J(π_ref); mean of {REPEATS} draws of the features
"""
MEASURES = {
    "on-frontier": _on_frontier,
    "win-rate": _win_rate,
    "overoptimization": _overoptimized,
    "pairs-needed": lambda numbers: Measured(Reading(numbers.apart[0]), Reading(numbers.apart[1])),
    "restricted-class": _restricted,
}
STATEMENTS = stated("toy.frontier", TABLE, MEASURES)
EXPERIMENT = Experiment("Reward against divergence, and what pairs can buy", run, report, draw, STATEMENTS, (9.0, 8.0))
