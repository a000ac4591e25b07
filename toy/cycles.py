"""Where Bradley-Terry has nothing to say, and where a verifier does.

Rock, paper, scissors: each beats the next in 80 % of comparisons. Bradley-Terry's best scores are all equal, so reward models
and DPO learn nothing. The game has a Nash policy, the uniform one: against it nothing wins more than half. A step of 1/2 in
log π down SPPO's loss (arXiv:2405.00675v4 equation 4.7), from π_t, is one of multiplicative weights (Freund & Schapire 1999):

    π_{t+1}(y) = π_t(y) e^{η P(y beats π_t)} / Z
    exploitability(π) = max_y P(y beats π) - 1/2       <= log(1/min π_ref)/(ηT) + η/8 for the average of T iterates
    KL(Nash || π_{t+1}) - KL(Nash || π_t) = log E_{y~π_t} e^{η (P(y beats π_t) - 1/2)} > 0 unless π_t is Nash

so the average approaches Nash, to η/8, while the iterates themselves leave it.

A verifier: of eight responses one is right, at 2 % under the reference, and no pair shows it. GRPO (arXiv:2402.03300v3 section
4.1), RLOO (arXiv:2402.14740v2 section 2.3) and online DPO (arXiv:2402.04792v2 section 3) draw responses from the policy that
they train and have them verified; DPO has the pairs, labelled by taste, which knows nothing of right and wrong.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minipref import advantages_grpo, advantages_rloo, dpo, online_pairs, ppo_policy, sppo
from minipref.arrays import log_softmax, softmax

from .bandit import Array, World, descend, different_pairs, kl, moved, pair_gradient, path, preferences, to_logits
from .experiment import Experiment, Measured, Reading, stated, table
from .roads import Field, pair_field

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CIRCLE = [[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]]  # rock, scissors, paper
LINE = [[0.5, 0.8, 0.8], [0.2, 0.5, 0.8], [0.2, 0.2, 0.5]]
REFERENCE, NASH = np.array([0.5, 0.3, 0.2]), np.full(3, 1 / 3)
ETA, ROUNDS = 0.1, 3000
PROMPTS, GROUP, UPDATES = 128, 8, 200
RIGHT = np.eye(8)[[-1] * PROMPTS]  # the verifier's reward [P, K]: the last response is right
DPO = partial(dpo.formula, beta=0.3)


def fitted(rng: np.random.Generator) -> Array:
    """P(y beats y') [2, 3, 3] by DPO's implicit rewards, which fit Bradley-Terry to CIRCLE and LINE from random starts."""
    reference, weights = np.log([REFERENCE, REFERENCE]), np.array([CIRCLE, LINE]) * (1 - np.eye(3)) / 6
    start = rng.normal(size=(2, 3))
    logits = descend(lambda z: pair_gradient(DPO, z, reference, weights), start, 50.0, 1000, enough=1e-13)
    return preferences(0.3 * (logits - reference))


def self_play() -> Array:
    """SPPO's iterates [ROUNDS, 3], from the reference on, the win rates exact."""

    def slope(logits: Array) -> Array:
        logps = log_softmax(logits)
        return sppo.formula(logps, logps, CIRCLE @ np.exp(logps), ETA).grad_policy_logps

    return softmax(path(slope, np.log(REFERENCE), 0.5, ROUNDS - 1))


def exploitability(policies: Array) -> Array:
    """[T, 3] -> [T]: how much more than half of the comparisons the best answer to each policy wins."""
    return (policies @ np.transpose(CIRCLE)).max(1) - 0.5


def sampled(logps: Array, rng: np.random.Generator) -> Array:
    """Indices [P, GROUP] of responses drawn from the policy [P, K]."""
    return np.argmax(logps[:, None] + rng.gumbel(size=(PROMPTS, GROUP, logps.shape[1])), axis=2)


def by_group(advantages: Callable[[Array], tuple[Array]], rng: np.random.Generator) -> Field:
    """The loss of GRPO and of RLOO on fresh, verified samples, where both are PPO's: no KL, nothing to clip."""

    def gradient(logits: Array) -> Array:
        logps = log_softmax(logits)
        drawn = sampled(logps, rng)
        logps_drawn, rewards = (np.take_along_axis(values, drawn, 1) for values in (logps, RIGHT))
        loss = ppo_policy.formula(logps_drawn, logps_drawn, advantages(rewards)[0], np.ones_like(drawn, bool))
        slopes = np.einsum("pg,pgk->pk", loss.grad_logps, np.eye(8)[drawn]) / GROUP
        return to_logits(slopes, np.exp(logps))

    return gradient


def by_pair(rewards: Array, reference_logps: Array, rng: np.random.Generator) -> Field:
    """DPO's loss on fresh samples, two by two: the one with the higher reward [P, K] is chosen; ties are left out."""
    prompts = np.repeat(np.arange(PROMPTS), GROUP // 2)

    def gradient(logits: Array) -> Array:
        drawn = sampled(log_softmax(logits), rng).reshape(-1, 2)
        pairs = online_pairs(rewards[prompts[:, None], drawn])
        chosen, rejected = (drawn[np.arange(len(drawn)), side] for side in (pairs.chosen, pairs.rejected))
        weights = np.zeros((PROMPTS, 8, 8))
        np.add.at(weights, (prompts, chosen, rejected), ~pairs.tied * 2 / GROUP)
        return pair_gradient(DPO, logits, reference_logps, weights)

    return gradient


class Numbers(NamedTuple):
    fits: Array  # [2, 3, 3], what Bradley-Terry makes of CIRCLE and of LINE
    iterates: Array  # SPPO's [ROUNDS, 3]
    logits: dict[str, Array]  # [UPDATES + 1, P, K], by method

    @property
    def averages(self) -> Array:
        return np.cumsum(self.iterates, axis=0) / np.arange(1, ROUNDS + 1)[:, None]


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    wrong, right = 0.98 * rng.dirichlet(np.full(7, 2.0), PROMPTS), np.full((PROMPTS, 1), 0.02)
    world = World(rng.normal(size=(PROMPTS, 8)), np.append(wrong, right, axis=1), 0.3)  # its rewards are matters of taste
    reference, pairs = world.reference_logps, different_pairs(world)
    pairs[:, -1] = pairs[:, :, -1] = 0
    methods: dict[str, tuple[Field, float]] = {  # each with its step
        "GRPO": (by_group(advantages_grpo.formula, rng), 2.0),
        "RLOO": (by_group(advantages_rloo.formula, rng), 4.0),
        "online DPO": (by_pair(RIGHT, reference, rng), 8.0),
        "online DPO, labelled by taste": (by_pair(world.rewards, reference, rng), 8.0),
        "DPO on fixed pairs": (pair_field(DPO, world, pairs), 40.0),
    }
    logits = {name: path(gradient, reference, step, UPDATES) for name, (gradient, step) in methods.items()}
    return Numbers(fitted(rng), self_play(), logits)


def solved(numbers: Numbers, name: str) -> Array:
    """Probability of the right response [UPDATES + 1, P]."""
    return softmax(numbers.logits[name])[:, :, -1]


def found_out(numbers: Numbers, *methods: str) -> Reading:
    """That probability in the end, by the worse method on each prompt; mean over the prompts."""
    return Reading.mean(np.min([solved(numbers, name)[-1] for name in methods], axis=0))


def bound() -> Array:
    """On the exploitability of the average, by rounds."""
    return np.log(1 / REFERENCE.min()) / (ETA * np.arange(1, ROUNDS + 1)) + ETA / 8


def beyond_bound(policies: Array) -> Reading:
    return Reading(float(np.max(exploitability(policies) - bound())))


def outward(policies: Array) -> Reading:
    """Smallest change of KL(Nash || π_t) in a round."""
    return Reading(float(np.diff(kl(NASH[None], policies)).min()))


def report(numbers: Numbers) -> str:
    curves = exploitability(numbers.averages), bound(), exploitability(numbers.iterates)
    rounds = [(str(t), *(float(curve[t - 1]) for curve in curves)) for t in (10, 100, 1000, ROUNDS)]
    marks = (0, 10, 30, 100, UPDATES)
    rows = [(name, *map(float, solved(numbers, name).mean(1)[list(marks)])) for name in numbers.logits]
    return (
        f"Rock, paper, scissors by SPPO, η = {ETA}: exploitability.\n\n"
        f"{table(('rounds', 'average iterate', 'its bound', 'last iterate'), rounds)}\n\n"
        f"Probability of the right response after so many updates, mean of {PROMPTS} prompts:\n\n"
        f"{table(('method', *map(str, marks)), rows)}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    plane, game, right = figure.subplot_mosaic("AB;CC").values()
    rounds = np.arange(1, ROUNDS + 1)
    for name, policies, width in (("average iterate", numbers.averages, 1.6), ("last iterate", numbers.iterates, 0.7)):
        plane.plot(policies[:, 0], policies[:, 2], lw=width)
        game.plot(rounds, exploitability(policies), lw=width, label=name)
    game.plot(rounds, bound(), color="C4", ls=":", label="bound on the average")
    plane.plot(NASH[0], NASH[2], "ko", label="Nash")
    plane.plot(REFERENCE[0], REFERENCE[2], "ks", label="reference")
    for name in numbers.logits:
        right.plot(solved(numbers, name).mean(1), label=name)
    plane.set(
        title="SPPO: iterates (thin) and their average",
        xlabel="π(rock)",
        ylabel="π(paper)",
        xlim=(0, 0.7),
        ylim=(0, 0.7),
        aspect="equal",
    )
    game.set(title="exploitability", xlabel="rounds of SPPO", xscale="log", yscale="log", xlim=(1, ROUNDS), ylim=(1e-3, 10))
    right.set(
        title="verifier: the right response", xlabel="updates", ylabel="its probability", xlim=(0, UPDATES), ylim=(0, 1.03)
    )
    plane.legend(loc="upper right")
    game.legend(loc="upper right")
    right.legend(loc="center right")


TABLE = """
bradley-terry-half | Labellers who prefer in a circle teach Bradley-Terry nothing: the best fit to rock, paper, scissors, each
    pair as often, each at 80 %, gives every comparison 1/2, and DPO returns to its reference.
    | Labellers who prefer in a line do, too. | Bradley & Terry 1952; arXiv:2305.18290v3 eq. 7
    | 0, 1e-9: largest distance of a fitted probability from 1/2; descent to slopes of 1e-13
average-is-nash | SPPO with exact win rates comes near the Nash policy of this game by the average of its iterates: after T
    rounds, nothing wins more than 1/2 + log(1/min π_ref)/(ηT) + η/8 against it. | By the last iterate.
    | Freund & Schapire 1999 with Hoeffding's lemma, on arXiv:2405.00675v4 eq. 4.7
    | -inf, 0: largest exploitability less bound over all T, here at η = 0.1
last-iterate-cycles | The iterates themselves circle outward: KL(Nash || π_t) grows at every round.
    | The average iterate's does. | the equations of this file
    | 1e-9, inf: smallest change in a round, in nats; margin: far above rounding
verifier-found | With a verifier, GRPO and RLOO find a right response that the reference gives in 2 % of samples and no pair
    shows. | DPO on all pairs of the other responses does. | arXiv:2402.03300v3 section 4.1; arXiv:2402.14740v2 section 2.3
    | 0.95, 1.01: its probability after 200 updates of 8 samples, mean over 128 prompts, each by the worse method; margin: 5 %
pairs-never-find | DPO on those pairs never moves the right response's logit. | GRPO does not, either.
    | arXiv:2305.18290v3 eq. 7
    | 0, 1e-12: largest change of that logit against the mean of the others, over 128 prompts; rounding
online-dpo-verifier | DPO can use a verifier: on pairs of its own samples, labelled by it, it finds the right response.
    | Labelled by a taste that does not know what is right, it does as well. | arXiv:2402.04792v2 section 3
    | 0.95, 1.01: its probability after 200 updates of 4 pairs, mean over 128 prompts; margin: 5 %
"""
MEASURES = {
    "bradley-terry-half": lambda n: Measured(Reading.worst(n.fits[0] - 0.5), Reading.worst(n.fits[1] - 0.5)),
    "average-is-nash": lambda n: Measured(beyond_bound(n.averages), beyond_bound(n.iterates)),
    "last-iterate-cycles": lambda n: Measured(outward(n.iterates), outward(n.averages)),
    "verifier-found": lambda n: Measured(found_out(n, "GRPO", "RLOO"), found_out(n, "DPO on fixed pairs")),
    "pairs-never-find": lambda n: Measured(
        Reading.worst(moved(n.logits["DPO on fixed pairs"])), Reading.worst(moved(n.logits["GRPO"]))
    ),
    "online-dpo-verifier": lambda n: Measured(found_out(n, "online DPO"), found_out(n, "online DPO, labelled by taste")),
}
STATEMENTS = stated("toy.cycles", TABLE, MEASURES)
EXPERIMENT = Experiment(
    "Preferences that go in circles, and rewards that are verified", run, report, draw, STATEMENTS, (9.0, 7.0)
)
