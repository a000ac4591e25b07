"""Where Bradley-Terry has nothing to say, and where a verifier does.

Rock, paper, scissors: each beats the next in 80 % of comparisons. Bradley-Terry's best scores are all equal, so reward models
and DPO learn nothing. The game has a Nash policy, the uniform one: against it nothing wins more than half. A step of 1/2
down SPPO's loss (arXiv:2405.00675v4 equation 4.7) from π_t is one of multiplicative weights (Freund & Schapire 1999):

    π_{t+1}(y) = π_t(y) e^{η P(y beats π_t)} / Z
    exploitability(π) = max_y P(y beats π) - 1/2       <= log(1/min π_ref)/(ηT) + η/8 for the average of T iterates
    KL(Nash || π_{t+1}) - KL(Nash || π_t) = log E_{y~π_t} e^{η (P(y beats π_t) - 1/2)} > 0

so the average approaches Nash while the iterates themselves leave it.

A verifier: of eight responses one is right, at 2 % under the reference, and no pair shows it. GRPO (arXiv:2402.03300v3 section
4.1), RLOO (arXiv:2402.14740v2 section 2.3) and online DPO (arXiv:2402.04792v2 section 3) sample responses of their own and have
them verified; DPO has the pairs.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minipref import advantages_grpo, advantages_rloo, dpo, grpo, online_pairs, sppo
from minipref.arrays import log_softmax, softmax

from .bandit import Array, World, descend, kl, pair_gradient, preferences, to_logits
from .experiment import Experiment, Measured, Reading, Statement, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555"
CYCLE = np.array([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]])
ORDER = np.array([[0.5, 0.8, 0.8], [0.2, 0.5, 0.8], [0.2, 0.2, 0.5]])
REFERENCE = np.array([0.5, 0.3, 0.2])
NASH = np.full(3, 1 / 3)
ETA, ROUNDS = 0.1, 3000
PROMPTS, GROUP, UPDATES, RIGHT = 128, 8, 300, 0
DPO = partial(dpo.formula, beta=0.3)
Slope = Callable[[Array, Array, Array], Array]  # sampled log-probs, references, scores [P, G] -> slopes [P, G]


def fitted(wins: Array, rng: np.random.Generator) -> Array:
    """P(y beats y') [3, 3] by the best Bradley-Terry scores, DPO's implicit rewards, from a random start."""
    reference, weights = np.log(REFERENCE)[None], wins[None] * (1 - np.eye(3)) / 6
    start = rng.normal(size=(1, 3))
    logits = descend(lambda z: pair_gradient(DPO, z, reference, weights), start, 50.0, 1000, enough=1e-13)
    return preferences(0.3 * (log_softmax(logits) - reference))[0]


def self_play() -> Array:
    """SPPO's iterates [ROUNDS, 3], from the reference on."""
    logps, iterates = np.log(REFERENCE), []
    for _ in range(ROUNDS):
        iterates.append(np.exp(logps))
        slope = sppo.formula(logps, logps, CYCLE @ iterates[-1], ETA).grad_policy_logps
        logps = log_softmax(logps - slope / 2)
    return np.array(iterates)


def exploitability(policies: Array) -> Array:
    """[T, 3] -> [T]: how much more than half of the comparisons the best answer to each policy wins."""
    return (policies @ CYCLE.T).max(1) - 0.5


def by_group(advantages: Callable[[Array], tuple[Array]], logps: Array, references: Array, scores: Array) -> Array:
    """Slopes of GRPO's loss, fresh samples and no KL, with these advantages."""
    rows, mask = logps.reshape(-1, 1), np.full((logps.size, 1), True)
    weights = advantages(scores)[0].ravel()
    return grpo.formula(rows, rows, rows, weights, mask, 0.2, 0.2, 0.0).grad_logps.reshape(scores.shape) / GROUP


def by_pair(logps: Array, references: Array, scores: Array) -> Array:
    """Slopes of DPO's loss on neighbours in the group, the better score chosen, ties left out."""
    pairs, rows = online_pairs(scores.reshape(-1, 2)), np.arange(scores.size // 2)
    policy, reference = logps.reshape(-1, 2), references.reshape(-1, 2)
    sides = pairs.chosen, pairs.rejected
    found = DPO(*(policy[rows, side] for side in sides), *(reference[rows, side] for side in sides))
    slopes = np.zeros_like(policy)
    slopes[rows, pairs.chosen] = np.where(pairs.tied, 0.0, found.grad_policy_chosen_logps)
    slopes[rows, pairs.rejected] = np.where(pairs.tied, 0.0, found.grad_policy_rejected_logps)
    return slopes.reshape(scores.shape) * 2 / GROUP


def on_policy(slope: Slope, step: float, scores: Array, noise: float, world: World, rng: np.random.Generator) -> Array:
    """Logits [UPDATES + 1, P, K] of training on groups drawn from the policy, scored by `scores` [P, K] and Gumbel noise."""
    logits, prompts, history = world.reference_logps, np.arange(PROMPTS)[:, None], [world.reference_logps]
    for _ in range(UPDATES):
        logps = log_softmax(logits)
        drawn = np.argmax(logps[:, None] + rng.gumbel(size=(PROMPTS, GROUP, logits.shape[1])), axis=2)
        seen = scores[prompts, drawn] + noise * rng.gumbel(size=drawn.shape)
        slopes = np.zeros_like(logits)
        np.add.at(slopes, (prompts, drawn), slope(logps[prompts, drawn], world.reference_logps[prompts, drawn], seen))
        logits = logits - step * to_logits(slopes, np.exp(logps))
        history.append(logits)
    return np.array(history)


def from_pairs(world: World) -> Array:
    """Logits [UPDATES + 1, P, K] of DPO on all pairs without the right response, labelled by taste."""
    weights = world.preferences * (1 - np.eye(world.rewards.shape[1])) / 42
    weights[:, RIGHT, :] = weights[:, :, RIGHT] = 0
    history = [world.reference_logps]
    for _ in range(UPDATES):
        history.append(history[-1] - 30.0 * pair_gradient(DPO, history[-1], world.reference_logps, weights))
    return np.array(history)


class Numbers(NamedTuple):
    cyclic: Array  # [3, 3], what Bradley-Terry fits to CYCLE
    ordered: Array  # to ORDER
    iterates: Array  # SPPO's [ROUNDS, 3]
    solved: dict[str, Array]  # probability of the right response [UPDATES + 1, P], by method
    moved: dict[str, Array]  # change of its logit against the mean of the others' [P]

    @property
    def averages(self) -> Array:
        return np.cumsum(self.iterates, axis=0) / np.arange(1, ROUNDS + 1)[:, None]


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    wrong = 0.98 * rng.dirichlet(np.full(7, 2.0), PROMPTS)
    taste = np.concatenate([np.zeros((PROMPTS, 1)), rng.normal(size=(PROMPTS, 7))], axis=1)
    world = World(taste, np.concatenate([np.full((PROMPTS, 1), 0.02), wrong], axis=1), 0.3)
    verdicts = np.eye(8)[[RIGHT] * PROMPTS]
    logits = {
        "GRPO": on_policy(partial(by_group, advantages_grpo.formula), 2.0, verdicts, 0.0, world, rng),
        "RLOO": on_policy(partial(by_group, advantages_rloo.formula), 4.0, verdicts, 0.0, world, rng),
        "online DPO": on_policy(by_pair, 8.0, verdicts, 0.0, world, rng),
        "online DPO, labelled by taste": on_policy(by_pair, 8.0, taste, 1.0, world, rng),
        "DPO on fixed pairs": from_pairs(world),
    }
    moved = {name: history[-1] - history[0] for name, history in logits.items()}
    return Numbers(
        fitted(CYCLE, rng),
        fitted(ORDER, rng),
        self_play(),
        {name: softmax(history)[:, :, RIGHT] for name, history in logits.items()},
        {name: change[:, RIGHT] - np.delete(change, RIGHT, axis=1).mean(1) for name, change in moved.items()},
    )


def found_out(numbers: Numbers, *methods: str) -> Reading:
    """Probability of the right response in the end, by the worse method on each prompt; mean over the prompts."""
    return Reading.mean(np.min([numbers.solved[name][-1] for name in methods], axis=0))


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
    game = table(("rounds", "average iterate", "its bound", "last iterate"), rounds)
    marks = (0, 10, 30, 100, UPDATES)
    rows = [(name, *map(float, shares.mean(1)[list(marks)])) for name, shares in numbers.solved.items()]
    return (
        f"Rock, paper, scissors: Bradley-Terry's best fit of P = 0.8, 0.8, 0.2 is {numbers.cyclic[0, 1]:.3f}, "
        f"{numbers.cyclic[1, 2]:.3f}, {numbers.cyclic[0, 2]:.3f}. Exploitability under SPPO, η = {ETA}:\n\n{game}\n\n"
        f"Probability of the right response after so many updates, mean of {PROMPTS} prompts:\n\n"
        f"{table(('method', *map(str, marks)), rows)}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    panels = figure.subplot_mosaic("AB;CC", height_ratios=[1.2, 1])
    simplex, game, solved = (panels[key] for key in "ABC")
    draw_simplex(numbers, simplex)
    rounds = np.arange(1, ROUNDS + 1)
    game.plot(rounds, exploitability(numbers.iterates), color=COLOURS[1], lw=1, label="last iterate")
    game.plot(rounds, exploitability(numbers.averages), color=COLOURS[0], label="average iterate")
    game.plot(rounds, bound(), color=COLOURS[4], ls=":", label="bound on the average")
    game.set(title="exploitability", xlabel="rounds of SPPO", xscale="log", yscale="log", xlim=(1, ROUNDS), ylim=(1e-3, 30))
    game.legend(loc="upper right")
    for (name, shares), colour in zip(numbers.solved.items(), COLOURS, strict=True):
        solved.plot(shares.mean(1), color=colour, label=name)
    solved.set(title="verifier: the right response", xlabel="updates", ylabel="its probability", xlim=(0, 200), ylim=(0, 1.03))
    solved.legend(loc="center right")


def draw_simplex(numbers: Numbers, axes: "Axes") -> None:
    corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    axes.fill(*corners.T, fill=False, color=COLOURS[4])
    axes.plot(*(numbers.iterates @ corners).T, color=COLOURS[1], lw=0.7)
    axes.plot(*(numbers.averages @ corners).T, color=COLOURS[0])
    axes.plot(*(NASH @ corners), "o", color="black", zorder=3)
    axes.plot(*(REFERENCE @ corners), "s", color="black", zorder=3)
    for name, corner, place in zip(("rock", "scissors", "paper"), corners, ("top", "top", "bottom"), strict=True):
        axes.text(corner[0], corner[1], name, ha="center", va=place)
    axes.set(title="SPPO: iterates (thin) and their average", aspect="equal", ylim=(-0.15, 1))
    axes.text(0.5, -0.14, "● Nash   ■ reference", ha="center", va="top")
    axes.axis("off")


EXPERIMENT = Experiment(
    "cycles of preference, and verified rewards",
    run,
    report,
    draw,
    (
        Statement(
            "toy.cycles.bradley-terry-half",
            "Labellers who prefer in a circle teach Bradley-Terry nothing: the best fit to rock, paper, "
            "scissors at 80 % gives every comparison 1/2, and DPO returns to its reference.",
            "Bradley & Terry 1952; arXiv:2305.18290v3 eq. 7",
            "Labellers who prefer in a line do, too.",
            (0.0, 1e-9),
            "largest distance of a fitted probability from 1/2; descent to slopes of 1e-13",
            lambda n: Measured(Reading.worst(n.cyclic - 0.5), Reading.worst(n.ordered - 0.5)),
        ),
        Statement(
            "toy.cycles.average-is-nash",
            "SPPO finds the Nash policy of such a game by the average of its iterates: after T rounds nothing wins more than "
            "1/2 + log(1/min π_ref)/(ηT) + η/8 against it.",
            "Freund & Schapire 1999, on arXiv:2405.00675v4 eq. 4.7",
            "By the last iterate.",
            (-np.inf, 0.0),
            "largest exploitability less bound over all T, here at η = 0.1",
            lambda n: Measured(beyond_bound(n.averages), beyond_bound(n.iterates)),
        ),
        Statement(
            "toy.cycles.last-iterate-cycles",
            "The iterates themselves circle outward: KL(Nash || π_t) grows at every round.",
            "the equations of this file",
            "The average iterate's does.",
            (1e-9, np.inf),
            "smallest change in a round, in nats; margin: far above rounding",
            lambda n: Measured(outward(n.iterates), outward(n.averages)),
        ),
        Statement(
            "toy.cycles.verifier-found",
            "With a verifier, GRPO and RLOO find a right response that the reference gives in 2 % of samples and no pair "
            "shows.",
            "arXiv:2402.03300v3 section 4.1; arXiv:2402.14740v2 section 2.3",
            "DPO on all pairs of the other responses does.",
            (0.95, 1.01),
            "its probability after 300 updates of 8 samples, mean over 128 prompts, each by the worse method; margin: 5 %",
            lambda n: Measured(found_out(n, "GRPO", "RLOO"), found_out(n, "DPO on fixed pairs")),
        ),
        Statement(
            "toy.cycles.pairs-never-find",
            "DPO on those pairs never moves the right response's logit.",
            "arXiv:2305.18290v3 eq. 7",
            "GRPO does not, either.",
            (0.0, 1e-12),
            "largest change of that logit against the mean of the others, over 128 prompts; rounding",
            lambda n: Measured(Reading.worst(n.moved["DPO on fixed pairs"]), Reading.worst(n.moved["GRPO"])),
        ),
        Statement(
            "toy.cycles.online-dpo-verifier",
            "It is not the loss: DPO on pairs of its own samples, labelled by the verifier, finds the right response.",
            "arXiv:2402.04792v2 section 3",
            "Labelled by a taste that does not know what is right, it does as well.",
            (0.95, 1.01),
            "its probability after 300 updates of 4 pairs, mean over 128 prompts; margin: 5 %",
            lambda n: Measured(found_out(n, "online DPO"), found_out(n, "online DPO, labelled by taste")),
        ),
    ),
    size=(9.0, 7.0),
)
