"""Where probability goes: what pairs push down, what they never show, and what holds the chosen response up.

A policy with shared parameters θ: log π(y) = log π_ref(y) + φ(y)·θ - log Z, with features φ(y) of each response. A pair loss
whose two slopes cancel moves θ along d = φ(w) - φ(l) and nowhere else, so the gap h of the log-ratios says where the policy is:

    log π(y) = log π_ref(y) + h φ(y)·d / |d|² - log Z        if some φ(y)·d exceeds φ(w)·d, log π(w) falls without end

A table (φ = identity, a logit for each response) cannot do so: there φ(w)·d is the largest. Its logits in the pairs keep their
sum, those in no pair stay where they were. DPO's optimum on exact Bradley-Terry labels of rewards R, whose mean over the
responses that pairs show is R̄, gives an unseen response o

    π(o) = π_ref(o) / [π_ref(o) + Σ_seen π_ref(y) e^{(R(y) - R̄)/β}]

DPO: arXiv:2305.18290v3 equation 7. Both likelihoods falling, and likelihood terms against it: arXiv:2402.13228,
arXiv:2404.19733, arXiv:2410.05779. Training that lowers A - α log π(w), A >= 0, lets log π(w) fall by at most A(0)/α.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minipref import dpo, ipo, kl_regularized_objective, kto, orpo, simpo
from minipref.arrays import log_softmax, softmax

from .bandit import Array, PairLoss, Slopes, World, pair_gradient
from .experiment import Experiment, Measured, Reading, Statement, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555"
WORLDS, UPDATES = 100, 400
FEATURES = np.array([[[1.0, 1.0], [0.0, 1.0], [3.0, 0.0]]])  # chosen, rejected, and one with more of what tells the two apart
TABLE = np.eye(3)[None]
REWARDS = np.array([1.6, 0.8, 0.4, 0.0, -0.4, -0.8])  # of `coverage`: the best is in no pair
DPO = partial(dpo.formula, beta=0.3)


def dpo_nll(up: Array, down: Array, *references: Array) -> Slopes:
    """DPO minus the chosen response's log-likelihood: α = 1."""
    losses, slope_up, slope_down, *_ = DPO(up, down, *references)
    return Slopes(losses - up, slope_up - 1, slope_down)


def kto_pair(up: Array, down: Array, reference_up: Array, reference_down: Array) -> Slopes:
    """KTO on the two halves of a pair, its reference point at the floor of 0."""
    good = kto.formula(up, reference_up, np.full(len(up), True), 0.0, 0.3)
    bad = kto.formula(down, reference_down, np.full(len(down), False), 0.0, 0.3)
    return Slopes(good.losses + bad.losses, good.grad_policy_logps, bad.grad_policy_logps)


def push_pull(up: Array, down: Array, *_: Array) -> Slopes:
    """log π(l) - log π(w): DPO without its weight σ(-h) and without a reference."""
    return Slopes(down - up, -np.ones_like(up), np.ones_like(down))


def without_reference(loss: Callable[..., Any], *strengths: float) -> PairLoss:
    """ORPO or SimPO, on responses of one token."""
    return lambda up, down, *_: loss(up, down, np.ones_like(up), np.ones_like(down), *strengths)


METHODS: dict[str, tuple[PairLoss, float]] = {  # each with its step
    "DPO": (DPO, 1.0),
    "IPO": (partial(ipo.formula, beta=0.1), 0.02),
    "SimPO": (without_reference(simpo.formula, 2.0, 0.5), 0.2),
    "KTO": (kto_pair, 2.0),
    "ORPO": (without_reference(orpo.formula, 1.0), 0.1),
    "DPO + NLL": (dpo_nll, 0.1),
}

TWO: dict[str, tuple[PairLoss, float]] = {"DPO": (DPO, 20.0), "push": (push_pull, 0.02)}


def train(slope: Callable[[Array], Array], features: Array, start: Array, step: float, updates: int) -> Array:
    """log π after each update [updates + 1, P, K], of logits [P, K] = start + features [P, K, D] · θ [P, D]."""
    theta, history = np.zeros_like(features[:, 0]), []
    for _ in range(updates + 1):
        logits = start + np.einsum("pkd,pd->pk", features, theta)
        history.append(log_softmax(logits))
        theta = theta - step * np.einsum("pkd,pk->pd", features, slope(logits))
    return np.array(history)


def on_one_pair(loss: PairLoss, step: float, features: Array, agree: float = 1.0) -> Array:
    """Training from a uniform reference where that share of the labellers prefers response 0 to response 1."""
    start, weights = np.zeros(features.shape[:2]), np.zeros((*features.shape[:2], features.shape[1]))
    weights[:, 0, 1], weights[:, 1, 0] = agree, 1 - agree
    return train(lambda z: pair_gradient(loss, z, log_softmax(start), weights), features, start, step, UPDATES)


class Coverage(NamedTuple):
    """Two references, one that likes the bad responses and one that likes the good: probability of the best, [T, 2] or [2]."""

    offline: Array
    online: Array
    ascent: Array
    predicted: Array  # where DPO on fixed pairs ends by the closed form
    optimum: Array
    moved: Array  # what DPO on fixed pairs added to the best one's logit, against the mean of the others [2]


def coverage() -> Coverage:
    reference = np.concatenate([np.full((2, 1), 0.06), 0.94 * softmax(np.array([[-2.0], [1.0]]) * REWARDS[1:])], axis=1)
    world = World(np.array([REWARDS, REWARDS]), reference, 0.5)
    start, identity, loss = world.reference_logps, np.array([np.eye(6), np.eye(6)]), partial(dpo.formula, beta=world.beta)
    shown = world.preferences * (1 - np.eye(6)) / 20
    shown[:, 0, :] = shown[:, :, 0] = 0

    def online(logits: Array) -> Array:
        policy = softmax(logits)
        return pair_gradient(loss, logits, start, world.preferences * policy[:, :, None] * policy[:, None, :])

    def downhill(logits: Array) -> Array:
        return -kl_regularized_objective.formula(logits, world.rewards, start, world.beta).grad_policy_logits

    offline = train(lambda logits: pair_gradient(loss, logits, start, shown), identity, start, 30.0, 2000)
    on_policy = [train(slope, identity, start, step, 2000) for slope, step in ((online, 50.0), (downhill, 5.0))]
    rivals = reference[:, 1:] * np.exp((REWARDS[1:] - REWARDS[1:].mean()) / world.beta)
    predicted = reference[:, 0] / (reference[:, 0] + rivals.sum(1))
    shares = [np.exp(history[:, :, 0]) for history in (offline, *on_policy)]
    moved = offline[-1] - start
    return Coverage(shares[0], shares[1], shares[2], predicted, world.optimum[:, 0], moved[:, 0] - moved[:, 1:].mean(1))


class Numbers(NamedTuple):
    three: dict[str, Array]  # log π [T, 3] on one pair of FEATURES, by method
    tables: dict[str, Array]  # log π [T, 3] on one pair of TABLE where 80 % of the labellers agree, with and without a weight
    features: Array  # [WORLDS, 6, 3], random
    worlds: dict[str, Array]  # log π [T, WORLDS, 6] on one pair of each, by method
    shifted: dict[str, Array]  # what a common shift of both log-probabilities changes in losses and slopes
    coverage: Coverage


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(WORLDS, 6, 3))
    pair, shift = rng.normal(size=(4, 1000)), rng.normal(scale=10.0, size=1000)
    both = pair + np.stack([shift, shift, 0 * shift, 0 * shift])
    return Numbers(
        {name: on_one_pair(*method, FEATURES)[:, 0] for name, method in METHODS.items()},
        {name: on_one_pair(*method, TABLE, 0.8)[:, 0] for name, method in TWO.items()},
        features,
        {name: on_one_pair(*method, features) for name, method in METHODS.items()},
        {name: np.array(loss(*both)[:3]) - np.array(loss(*pair)[:3]) for name, loss in (("DPO", DPO), ("NLL", dpo_nll))},
        coverage(),
    )


def gap(logps: Array) -> Array:
    return logps[..., 0] - logps[..., 1]


def price(logps: Array) -> Reading:
    """What log π(w) gains for each nat that the gap gains, over the second half of the updates [T, 3]."""
    gained = logps[-1] - logps[UPDATES // 2]
    return Reading(float(gained[0] / gap(gained)))


def growth(logps: Array) -> Reading:
    """Of the gap in the second half of the updates, over that in the first."""
    first, middle, last = gap(logps)[[0, UPDATES // 2, -1]]
    return Reading(float((last - middle) / (middle - first)))


def off_the_curve(numbers: Numbers, *methods: str) -> Reading:
    """Largest distance of any log π from what features and gap predict, over all updates and worlds."""
    d = numbers.features[:, 0] - numbers.features[:, 1]
    along = np.einsum("pkd,pd->pk", numbers.features, d / (d * d).sum(1, keepdims=True))
    runs = [numbers.worlds[name] for name in methods]
    return Reading.worst(*(logps - log_softmax(gap(logps)[..., None] * along) for logps in runs))


def deepest(numbers: Numbers, *methods: str) -> Reading:
    """How far log π(w) was below its reference, in nats, in the worst of all updates and worlds."""
    return Reading(float(np.max([numbers.worlds[name][0, :, 0] - numbers.worlds[name][..., 0] for name in methods])))


def fallen(logps: Array) -> float:
    """Percentage of the worlds [T, WORLDS, 6] in which chosen and rejected both ended below the reference."""
    return float(100 * np.mean(np.all(logps[-1, :, :2] < logps[0, :, :2], axis=1)))


def report(numbers: Numbers) -> str:
    ended = {name: logps[-1] - logps[0] for name, logps in numbers.three.items()}
    rows = [(n, *end, f"{fallen(numbers.worlds[n]):.0f} %", deepest(numbers, n).value) for n, end in ended.items()]
    c = numbers.coverage
    ways = {"reference": c.offline[0], "DPO, fixed pairs": c.offline[-1], "online DPO": c.online[-1]}
    ways |= {"policy gradient": c.ascent[-1], "π*": c.optimum}
    return (
        f"One pair, {UPDATES} updates. Left: change of log π in nats, where the response in no pair has more of what tells\n"
        f"chosen from rejected. Right, in {WORLDS} worlds of random features: how often chosen and rejected both ended below\n"
        "the reference, and how far the chosen one ever fell in the worst of them, in nats.\n\n"
        f"{table(('method', 'chosen', 'rejected', 'in no pair', 'both fell', 'worst fall'), rows)}\n\n"
        "The best response is in no pair, the policy a table of logits: its probability.\n\n"
        f"{table(('method', 'reference likes the bad', 'likes the good'), [(name, *way) for name, way in ways.items()])}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    (fall, curve), (shares, covered) = figure.subplots(2, 2)
    for k, name in enumerate(("chosen", "rejected", "in no pair")):
        logps = numbers.three["DPO"][:, k]
        fall.plot(logps, color=COLOURS[k])
        fall.annotate(name, (UPDATES, logps[-1]), (0, -16), textcoords="offset points", color=COLOURS[k], ha="right")
    fall.set(title="DPO, shared features: both fall", xlabel="updates", ylabel="log π (nats)", ylim=(-42, 4))
    draw_curve(numbers.three, curve)
    bars = shares.barh(list(METHODS), [fallen(logps) for logps in numbers.worlds.values()], color=COLOURS[4], height=0.6)
    shares.bar_label(bars, fmt="%.0f %%", padding=4)
    shares.invert_yaxis()
    shares.set(title="random features: chosen and rejected fell", xlabel="% of worlds", xlim=(0, 60))
    draw_coverage(numbers.coverage, covered)


def draw_curve(three: dict[str, Array], axes: "Axes") -> None:
    for (name, logps), colour in zip(three.items(), (0, 0, 0, 3, 1, 2), strict=True):
        gaps, change = gap(logps), logps[:, 0] - logps[0, 0]
        axes.plot(gaps, change, color=COLOURS[colour], zorder=3 - colour)
        axes.plot(gaps[-1], change[-1], "o", color=COLOURS[colour])
        height = {"ORPO": -12, "DPO + NLL": 8}.get(name, 2)
        axes.annotate(name, (gaps[-1], change[-1]), (6, height), textcoords="offset points", color=COLOURS[colour])
    axes.set(
        ylim=(-24, 4),
        title="the same world: one curve, or another",
        xlabel="log-ratio gap h (nats)",
        ylabel="change of log π(chosen) (nats)",
    )


def draw_coverage(covered: Coverage, axes: "Axes") -> None:
    ways = {"policy gradient": covered.ascent, "online DPO": covered.online, "DPO, fixed pairs": covered.offline}
    for (name, way), colour in zip(ways.items(), (COLOURS[2], COLOURS[1], COLOURS[0]), strict=True):
        axes.plot(way[:, 0], color=colour, label=name)
    axes.axhline(covered.optimum[0], color=COLOURS[4], ls=":", label="π*")
    axes.set(title="the best response is in no pair", xlabel="updates", ylabel="its probability", ylim=(0, 1))
    axes.set(xlim=(0, 50))
    axes.legend(loc="center right")


EXPERIMENT = Experiment(
    "where probability goes: displaced, unseen, anchored",
    run,
    report,
    draw,
    (
        Statement(
            "toy.displacement.both-fall",
            "DPO can lower the probability of the chosen response for ever: where one in no pair has three times as much of "
            "what tells chosen from rejected, each nat that the log-ratio gap gains costs the chosen 2 nats, the rejected 3.",
            "arXiv:2402.13228 and arXiv:2410.05779, on arXiv:2305.18290v3 eq. 7",
            "The same in a table of logits.",
            (-2.001, -1.999),
            "change of log π(chosen) for each nat of gap, in the second half of the updates; margin: the chosen response's "
            "share, which falls like e^(-2h), is below 1e-7 there",
            lambda n: Measured(price(n.three["DPO"]), price(n.tables["push"])),
        ),
        Statement(
            "toy.displacement.shared-parameters",
            "On one pair, every loss that sees the log-ratio gap alone leads a log-linear policy along the same curve: DPO, "
            "IPO and (at equal lengths) SimPO displace the same probability at the same gap, and differ in where they stop.",
            "arXiv:2305.18290v3 eq. 7, arXiv:2310.12036v2 eq. 17, arXiv:2405.14734v3 eq. 6",
            "Every loss on pairs does, ORPO too.",
            (0.0, 1e-9),
            "largest distance of a log π from what features and gap predict, over all updates, responses and worlds; rounding",
            lambda n: Measured(off_the_curve(n, "DPO", "IPO", "SimPO"), off_the_curve(n, "ORPO")),
        ),
        Statement(
            "toy.displacement.anchors",
            "A likelihood term anchors the chosen response: under DPO with α = 1 times its negative log-likelihood, and under "
            "ORPO with λ = 1, log π(chosen) never falls by more than log 2.",
            "arXiv:2404.19733; arXiv:2403.07691v2 eq. 6",
            "Under DPO, anchored by its reference policy.",
            (-np.inf, float(np.log(2))),
            "largest fall of log π(chosen) in nats over all updates and worlds; bound: log 2, where the other term begins",
            lambda n: Measured(deepest(n, "DPO + NLL", "ORPO"), deepest(n, "DPO"), {"KTO": deepest(n, "KTO").value}),
        ),
        Statement(
            "toy.displacement.level-is-free",
            "DPO does not see the level of a pair: the same amount added to both of its log-probabilities changes neither the "
            "loss nor a slope.",
            "arXiv:2305.18290v3 eq. 7",
            "The same for DPO with a likelihood term.",
            (0.0, 1e-12),
            "largest change in 1000 random pairs, moved by 10 nats or so; rounding",
            lambda n: Measured(Reading.worst(n.shifted["DPO"]), Reading.worst(n.shifted["NLL"])),
        ),
        Statement(
            "toy.displacement.push-pull-drifts",
            "Pushing the chosen log-probability up and the rejected down at constant weight never ends, even if 20 % of the "
            "labellers disagree: the gap grows by the same amount at every update.",
            "arXiv:2305.18290v3 section 4, on the weight σ(-h)",
            "The same for DPO, whose gap ends at logit(0.8)/β.",
            (1 - 1e-9, 1 + 1e-9),
            "growth of the gap in the second half of the updates over that in the first; rounding",
            lambda n: Measured(growth(n.tables["push"]), growth(n.tables["DPO"])),
        ),
        Statement(
            "toy.displacement.unseen-logit",
            "In a table of logits, DPO on fixed pairs leaves the logit of a response that no pair shows where it was.",
            "arXiv:2305.18290v3 eq. 7",
            "The same with shared features.",
            (0.0, 1e-12),
            "change of the unseen logit against the mean of the others; rounding",
            lambda n: Measured(Reading.worst(n.coverage.moved), Reading.worst(n.three["DPO"][-1] @ [-0.5, -0.5, 1.0])),
        ),
        Statement(
            "toy.displacement.unseen-can-rise",
            "Its probability moves all the same, by normalization, to π_ref(o) / [π_ref(o) + Σ π_ref e^{(R - R̄)/β}]: up where "
            "the reference likes the bad responses, down where it likes the good.",
            "arXiv:2305.18290v3 eq. 4, on the responses that pairs show",
            "It stays what it was.",
            (0.0, 1e-9),
            "largest distance from that probability under two references; gradient descent has converged to rounding",
            lambda n: Measured(
                Reading.worst(n.coverage.offline[-1] - n.coverage.predicted),
                Reading.worst(n.coverage.offline[0] - n.coverage.predicted),
            ),
        ),
        Statement(
            "toy.displacement.online-finds",
            "Online DPO and policy gradients, which draw from the policy they train, give the response that no fixed pair "
            "shows its share of π*.",
            "arXiv:2402.04792v2 section 3; arXiv:2305.18290v3 eq. 3",
            "DPO on the fixed pairs does too.",
            (0.0, 1e-6),
            "largest distance of its probability from π* under two references, expectations exact; convergence is linear, and "
            "2000 updates take it below 1e-6",
            lambda n: Measured(
                Reading.worst(n.coverage.online[-1] - n.coverage.optimum, n.coverage.ascent[-1] - n.coverage.optimum),
                Reading.worst(n.coverage.offline[-1] - n.coverage.optimum),
            ),
        ),
    ),
    size=(9.0, 7.0),
)
