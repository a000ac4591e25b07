"""Where probability goes: why DPO can lower the chosen response too, what holds it up, and what becomes of unseen responses.

First, one pair, chosen w and rejected l, in a policy with shared parameters θ, trained from π_ref by gradient descent in θ:

    log π(y) = log π_ref(y) + φ(y)·θ - log Z                     φ(y) are the features of response y

A loss of log π(w) - log π(l) alone moves θ along d = φ(w) - φ(l) and nowhere else, so the gap h of the two log-ratios
log(π/π_ref) says where the policy is. With Z its normalization, as above,

    log π(y) = log π_ref(y) + h φ(y)·d/|d|² - log Z              if some φ(y)·d exceeds φ(w)·d, log π(w) falls without end

In a table, a logit of its own for each response, φ(w)·d is the largest. Likelihood terms hold log π(w) up: training that lowers
A - α log π(w), A >= 0, lets it fall by at most A(0)/α.

Then a table again, and Bradley-Terry labels of rewards R on pairs that never show the best response o. DPO keeps the sum of the
logits in the pairs and leaves the others where they were, so with the mean R̄ of R over what the pairs show, its optimum has

    π(o) = π_ref(o) / [π_ref(o) + Σ_seen π_ref(y) e^{(R(y) - R̄)/β}]

DPO: arXiv:2305.18290v3 equation 7. Both likelihoods falling: arXiv:2402.13228, arXiv:2410.08847. DPO with a likelihood term:
arXiv:2404.19733.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minipref import dpo, ipo, orpo, simpo
from minipref.arrays import log_softmax, softmax

from .bandit import Array, PairLoss, Slopes, World, different_pairs, moved, of_lengths_one, pair_gradient, path
from .experiment import Experiment, Measured, Reading, stated, table
from .roads import pair_field, reward_field

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETA, UPDATES = 0.5, 400
OUTDONE = [[1, 1, 0], [0, 1, 0], [3, 0, 0]]  # features of w, l, and one in no pair with more of what tells the two apart
WORLDS = 100  # these features, a table, then random features
REWARDS = np.array([-0.8, -0.4, 0.0, 0.4, 0.8, 1.6])  # the best is in no pair
LIKED = softmax(np.array([[-2.0], [1.0]]) * REWARDS[:-1])  # by a reference that likes the bad, by one that likes the good
WORLD = World(np.array([REWARDS, REWARDS]), np.append(0.94 * LIKED, [[0.06], [0.06]], axis=1), BETA)
DPO = partial(dpo.formula, beta=BETA)


def dpo_nll(chosen: Array, rejected: Array, *references: Array) -> Slopes:
    """DPO minus the chosen response's log-likelihood: α = 1."""
    losses, slope_chosen, slope_rejected, *_ = DPO(chosen, rejected, *references)
    return Slopes(losses - chosen, slope_chosen - 1, slope_rejected)


def push_pull(chosen: Array, rejected: Array, *_: Array) -> Slopes:
    """log π(l) - log π(w): DPO without its weight σ(-βh), and so without its reference."""
    return Slopes(rejected - chosen, -np.ones_like(chosen), np.ones_like(rejected))


METHODS: dict[str, tuple[PairLoss, float]] = {  # each with its step
    "DPO": (DPO, 1.0),
    "IPO": (partial(ipo.formula, beta=0.1), 0.02),
    "SimPO": (of_lengths_one(simpo.formula, beta=2.0, gamma=0.5), 0.1),
    "ORPO": (of_lengths_one(orpo.formula, odds_weight=1.0), 0.1),
    "DPO + NLL": (dpo_nll, 0.1),
}


def on_one_pair(loss: PairLoss, step: float, features: Array, agree: float = 1.0) -> Array:
    """log π [UPDATES + 1, P, 3] from a uniform reference; that share of the labellers prefers response 0 to response 1."""
    weights = np.zeros_like(features)
    weights[:, 0, 1], weights[:, 1, 0] = agree, 1 - agree
    start = np.zeros(features.shape[:2])
    kernel = features @ features.transpose(0, 2, 1)  # a step down the slopes in θ moves the logits by this times their slopes

    def slopes(logits: Array) -> Array:
        return np.einsum("pij,pj->pi", kernel, pair_gradient(loss, logits, log_softmax(start), weights))

    return log_softmax(path(slopes, start, step, UPDATES))


def on_unseen() -> dict[str, Array]:
    """Logits [2001, 2, 6] of each method, from the reference on; every expectation is exact."""
    shown = different_pairs(WORLD)
    shown[:, -1] = shown[:, :, -1] = 0

    def sampled(policy: Array) -> Array:
        return WORLD.preferences * policy[:, :, None] * policy[:, None, :]

    methods = {
        "DPO, fixed pairs": (pair_field(DPO, WORLD, shown), 45.0),
        "online DPO": (pair_field(DPO, WORLD, sampled), 50.0),
        "policy gradient": (reward_field(WORLD), 5.0),
    }
    return {name: path(field, WORLD.reference_logps, step, 2000) for name, (field, step) in methods.items()}


class Numbers(NamedTuple):
    features: Array  # [WORLDS, 3, 3]: OUTDONE, a table's, then random
    runs: dict[str, Array]  # log π [UPDATES + 1, WORLDS, 3] on one pair, by method
    divided: dict[str, Array]  # log π [UPDATES + 1, 1, 3] of OUTDONE, where 20 % of the labellers disagree
    unseen: dict[str, Array]  # logits [2001, 2, 6] in WORLD, by method


def run(seed: int) -> Numbers:
    features = np.random.default_rng(seed).normal(size=(WORLDS, 3, 3))
    features[:2] = OUTDONE, np.eye(3)
    return Numbers(
        features,
        {name: on_one_pair(loss, step, features) for name, (loss, step) in METHODS.items()},
        {"DPO": on_one_pair(DPO, 5.0, features[:1], 0.8), "push": on_one_pair(push_pull, 0.02, features[:1], 0.8)},
        on_unseen(),
    )


def gap(logps: Array) -> Array:
    """h [...] of log π [..., 3], the reference uniform."""
    return logps[..., 0] - logps[..., 1]


def price(logps: Array) -> Reading:
    """What log π(w) gains for each nat that the gap gains, over the second half of the updates [T, 3]."""
    gained = logps[-1] - logps[UPDATES // 2]
    return Reading(float(gained[0] / gap(gained)))


def off_the_curve(numbers: Numbers, *methods: str) -> Reading:
    """Largest distance of any log π from what features and gap predict, over all updates and worlds."""
    d = numbers.features[:, 0] - numbers.features[:, 1]
    along = np.einsum("pkd,pd->pk", numbers.features, d / (d * d).sum(1, keepdims=True))
    runs = [numbers.runs[name] for name in methods]
    return Reading.worst(*(logps - log_softmax(gap(logps)[..., None] * along) for logps in runs))


def deepest(numbers: Numbers, *methods: str) -> Reading:
    """How far log π(w) was below its reference, in nats, in the worst of all updates and worlds."""
    return Reading(float(np.max([-np.log(3) - numbers.runs[name][..., 0] for name in methods])))


def level(loss: PairLoss, logps: Array) -> Reading:
    """Largest change of losses and slopes at these log π [..., 3] if w and l both lose 10 nats more."""
    chosen, rejected, reference = logps[..., 0].ravel(), logps[..., 1].ravel(), np.full(logps[..., 0].size, -np.log(3))
    before, after = (np.array(loss(chosen - lost, rejected - lost, reference, reference)[:3]) for lost in (0, 10))
    return Reading.worst(after - before)


def growth(logps: Array) -> Reading:
    """Of the gap in the second half of the updates [T, 3], over that in the first."""
    first, middle, last = gap(logps)[[0, UPDATES // 2, -1]]
    return Reading(float((last - middle) / (middle - first)))


def share(logits: Array) -> Array:
    """Probability [...] of the last response, from logits [..., 6]."""
    return softmax(logits)[..., -1]


def predicted() -> Array:
    """Where DPO on fixed pairs takes the unseen response: the equation of this file [2]."""
    seen = WORLD.reference[:, :-1] * np.exp((REWARDS[:-1] - REWARDS[:-1].mean()) / BETA)
    return WORLD.reference[:, -1] / (WORLD.reference[:, -1] + seen.sum(1))


def ends_from(target: Array, numbers: Numbers, *methods: str) -> Reading:
    """Largest distance of the unseen response's probability, in the end, from a target [2]."""
    return Reading.worst(*(share(numbers.unseen[name][-1]) - target for name in methods))


def report(numbers: Numbers) -> str:
    ended = {name: logps[-1, 0] - logps[0, 0] for name, logps in numbers.runs.items()}
    pair = [(name, *end, gap(end), deepest(numbers, name).value) for name, end in ended.items()]
    shares = {"reference": WORLD.reference[:, -1], "π*": WORLD.optimum[:, -1]}
    shares |= {name: share(logits[-1]) for name, logits in numbers.unseen.items()}
    return (
        "One pair, each method at its own step. Change of log π in nats where the response in no pair has three times as\n"
        f"much of what tells chosen from rejected, the gap reached, and the chosen one's deepest fall in {WORLDS} worlds.\n\n"
        f"{table(('method', 'chosen', 'rejected', 'in no pair', 'gap', 'deepest fall'), pair)}\n\n"
        "The best response is in no pair, the policy a table of logits: its probability.\n\n"
        f"{table(('method', 'reference likes the bad', 'likes the good'), [(name, *way) for name, way in shares.items()])}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    fall, curve, unseen = figure.subplots(1, 3)
    for k, name in enumerate(("chosen", "rejected", "in no pair")):
        logps = numbers.runs["DPO"][:, 0, k]
        fall.plot(logps)
        fall.annotate(name, (UPDATES, logps[-1]), (0, -14), textcoords="offset points", color=f"C{k}", ha="right")
    fall.set(title="DPO: both fall", xlabel="updates", ylabel="log π (nats)", ylim=(-32, 2))
    for (name, logps), colour in zip(numbers.runs.items(), ("C0", "C0", "C0", "C1", "C2"), strict=True):
        gaps, change = gap(logps[:, 0]), logps[:, 0, 0] - logps[0, 0, 0]
        curve.plot(gaps, change, "o-", color=colour, markevery=[-1])
        above = -12 if name == "ORPO" else 4
        curve.annotate(name, (gaps[-1], change[-1]), (6, above), textcoords="offset points", color=colour)
    curve.set(title="the same world, by gap", xlabel="log-ratio gap h (nats)", ylabel="change of log π(chosen) (nats)")
    curve.set(xlim=(-0.3, 11), ylim=(-20, 3))
    for k, (name, logits) in enumerate(numbers.unseen.items()):
        liking_bad, liking_good = share(logits).T
        unseen.plot(liking_bad, color=f"C{k}", label=name)
        unseen.plot(liking_good, "--", color=f"C{k}")
    for optimum in WORLD.optimum[:, -1]:
        unseen.axhline(optimum, color="C4", ls=":", zorder=0)
        unseen.text(50, optimum, "π*", color="C4", ha="right", va="bottom")
    unseen.set(title="the best response, in no pair", xlabel="updates", ylabel="its probability", xlim=(0, 50), ylim=(0, 1))
    unseen.legend(loc=(0.2, 0.42), title="dashed: π_ref likes good")


TABLE = """
both-fall | DPO on a pair whose labels all agree can lower the chosen probability without end: if a response in no pair has
    three times as much of what tells chosen from rejected, each nat of log-ratio gap costs the chosen one 2 nats.
    | The same in a table of logits. | arXiv:2402.13228 and arXiv:2410.08847, on arXiv:2305.18290v3 eq. 7
    | -2.001, -1.999: change of log π(chosen) for each nat of gap, in the second half of the updates; margin: what the chosen
    response adds to Z, a share of e^(-2h), is below 1e-6 there
shared-parameters | On one pair, every loss of log π(w) - log π(l) alone leads a log-linear policy along one curve from its
    start: DPO, IPO and (at equal lengths) SimPO displace the same probability at the same gap.
    | Every loss on pairs does, ORPO too. | arXiv:2305.18290v3 eq. 7, arXiv:2310.12036v2 eq. 17, arXiv:2405.14734v3 eq. 6
    | 0, 1e-9: largest distance of a log π from what features and gap predict, over all updates, responses and worlds; rounding
anchors | A likelihood term anchors the chosen response: while the loss falls, log π(chosen) never falls by more than log 2
    under DPO with NLL, α = 1, nor under ORPO, λ = 1, on responses of one token that are equally likely at first.
    | Under DPO, anchored by its reference policy. | arXiv:2404.19733; arXiv:2403.07691v2 eq. 6
    | 0, 0.6931471805599453: largest fall of log π(chosen) in nats over all updates and worlds; bound: log 2, where the other
    term begins
level-is-free | DPO does not see the level of a pair: the same amount added to both of its log-probabilities changes neither the
    loss nor a slope. | The same for DPO with a likelihood term. | arXiv:2305.18290v3 eq. 7
    | 0, 1e-12: largest change at all updates of DPO in all worlds, if both lose 10 nats more; rounding
push-pull-drifts | Pushing the chosen log-probability up and the rejected down at constant weight never ends, even if 20 % of
    the labellers disagree: the gap grows by the same amount at every update.
    | The same for DPO, whose gap ends at logit(0.8)/β. | arXiv:2305.18290v3 section 4, on the weight of each example
    | 0.999999999, 1.000000001: growth of the gap in the second half of the updates over that in the first; rounding
unseen-logit | In a table of logits, DPO on fixed pairs leaves the logit of a response that no pair shows where it was.
    | The same with shared features. | arXiv:2305.18290v3 eq. 7
    | 0, 1e-12: change of the unseen logit against the mean of the others; rounding
unseen-can-rise | Its probability moves all the same, by normalization, to π_ref(o) / [π_ref(o) + Σ_seen π_ref e^{(R - R̄)/β}]:
    here from 6 % to 10 % under a reference that likes the bad responses, to 2 % under one that likes the good.
    | It stays what it was. | arXiv:2305.18290v3 eq. 4, on the responses that pairs show
    | 0, 1e-9: largest distance from that probability under the two references; gradient descent has converged to rounding
online-finds | Online DPO and policy gradients, which draw from the policy they train, give the response that no fixed pair has
    its share of π*: in a table, with Bradley-Terry labels and exact expectations. | DPO on the fixed pairs does too.
    | arXiv:2402.04792v2 section 3; arXiv:2305.18290v3 eq. 3
    | 0, 1e-6: largest distance of its probability from π* under two references; convergence is linear, and 2000 updates take it
    below 1e-6
"""
MEASURES = {
    "both-fall": lambda n: Measured(price(n.runs["DPO"][:, 0]), price(n.runs["DPO"][:, 1])),
    "shared-parameters": lambda n: Measured(off_the_curve(n, "DPO", "IPO", "SimPO"), off_the_curve(n, "ORPO")),
    "anchors": lambda n: Measured(deepest(n, "DPO + NLL", "ORPO"), deepest(n, "DPO")),
    "level-is-free": lambda n: Measured(level(DPO, n.runs["DPO"]), level(dpo_nll, n.runs["DPO"])),
    "push-pull-drifts": lambda n: Measured(growth(n.divided["push"][:, 0]), growth(n.divided["DPO"][:, 0])),
    "unseen-logit": lambda n: Measured(
        Reading.worst(moved(n.unseen["DPO, fixed pairs"])), Reading.worst(moved(n.runs["DPO"][:, :1]))
    ),
    "unseen-can-rise": lambda n: Measured(
        ends_from(predicted(), n, "DPO, fixed pairs"), ends_from(WORLD.reference[:, -1], n, "DPO, fixed pairs")
    ),
    "online-finds": lambda n: Measured(
        ends_from(WORLD.optimum[:, -1], n, "online DPO", "policy gradient"),
        ends_from(WORLD.optimum[:, -1], n, "DPO, fixed pairs"),
    ),
}
STATEMENTS = stated("toy.displacement", TABLE, MEASURES)
EXPERIMENT = Experiment("Where probability goes: displaced, unseen, anchored", run, report, draw, STATEMENTS, (9.0, 4.0))
