"""Four responses, hidden scores, one labelled pair at a time: where DPO's implicit rewards go.

    P(y beats y') = σ(R(y) - R(y'))                  who labels: Bradley-Terry on the scores R
    L             = -log σ(r̂(y_w) - r̂(y_l))          arXiv:2305.18290v3 equation 7; r̂ = β log(π/π_ref)

On an endless stream of fresh labels this is maximum likelihood for the scores: r̂ ends at R up to a constant, so the policy at
π* = π_ref e^{R/β} / Z (equation 4). Here the step falls like 1/√t, and the average weighs the iterate of step t by t.

On finitely many labels, all in agreement with some order of the responses, the loss has no minimizer. For a single pair,
descent obeys dh/dt = c σ(-h), so h + e^h = ct + 1 and h = log t + O(1). For more, every gap h between neighbours in the order
grows like that (Soudry et al. 2018, arXiv:1710.10345 theorem 3), and so their log-ratio gap h/β like (1/β) log t.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minipref import dpo, implicit_rewards
from minipref.arrays import log_softmax, sigmoid, softmax

from .bandit import Array, World, descend, pair_gradient
from .experiment import Experiment, Measured, Reading, Statement, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORLD = World(np.array([[1.0, 0.3, -0.3, -1.0]]), np.full((1, 4), 0.25), beta=0.5)
LOSS = partial(dpo.formula, beta=WORLD.beta)
STREAMS, STEPS = 256, 10_000
TIMES = np.unique(np.geomspace(1, STEPS, 60).astype(int))
RATE = 1 / WORLD.beta**2  # steps of order 1 in the implicit rewards


class Numbers(NamedTuple):
    """Implicit rewards at TIMES, the mean over the responses removed."""

    streamed: Array  # [T, STREAMS, 4]: of the averaged logits of independent streams, a fresh pair a step
    repeated: Array  # [T, 4]: at each step the same six pairs, every pair once, the better response chosen

    @property
    def policies(self) -> Array:
        """At the end of each stream [STREAMS, 4]."""
        return softmax(WORLD.reference_logps + self.streamed[-1] / WORLD.beta)

    @property
    def growth(self) -> Array:
        """Of the log-ratio gaps between neighbours [3]: nats for each factor e in steps, over the last tenfold."""
        late = TIMES >= STEPS // 10
        gaps = -np.diff(self.repeated[late]) / WORLD.beta
        return (gaps[-1] - gaps[0]) / np.log(TIMES[late][-1] / TIMES[late][0])


def run(seed: int) -> Numbers:
    return Numbers(_stream(np.random.default_rng(seed)), _repeat())


def _draw(rng: np.random.Generator) -> tuple[Array, Array]:
    """Chosen and rejected responses [STEPS, STREAMS]: two different ones, all pairs alike, labelled by Bradley-Terry."""
    first = rng.integers(4, size=(STEPS, STREAMS))
    second = (first + rng.integers(1, 4, size=first.shape)) % 4
    wins = rng.random(first.shape) < sigmoid(WORLD.rewards[0][first] - WORLD.rewards[0][second])
    return np.where(wins, first, second), np.where(wins, second, first)


def _stream(rng: np.random.Generator) -> Array:
    logits, average = np.zeros((2, STREAMS, 4))
    stream, reference, seen = np.arange(STREAMS), WORLD.reference_logps[0], []
    for t, (chosen, rejected) in enumerate(zip(*_draw(rng), strict=True), 1):
        logps = log_softmax(logits)
        found = LOSS(logps[stream, chosen], logps[stream, rejected], reference[chosen], reference[rejected])
        # The two slopes sum to 0, so the log-softmax hands them to the logits as they are.
        logits[stream, chosen] -= RATE / np.sqrt(t) * found.grad_policy_chosen_logps
        logits[stream, rejected] -= RATE / np.sqrt(t) * found.grad_policy_rejected_logps
        average += 2 / (t + 1) * (logits - average)
        if t in TIMES:
            seen.append(_rewards(average))
    return np.array(seen)


def _repeat() -> Array:
    better = 1.0 * (WORLD.preferences > 0.5)
    logits, seen = np.zeros((1, 4)), []
    for steps in np.diff(TIMES, prepend=0):
        logits = descend(lambda z: pair_gradient(LOSS, z, WORLD.reference_logps, better), logits, RATE, steps)
        seen.append(_rewards(logits)[0])
    return np.array(seen)


def _rewards(logits: Array) -> Array:
    rewards = implicit_rewards(log_softmax(logits), WORLD.reference_logps, WORLD.beta)
    return rewards - rewards.mean(1, keepdims=True)


def _worst_mean(samples: Array) -> Reading:
    """Of the means over the streams [STREAMS, 4], the one farthest from 0."""
    return Reading.mean(samples[:, np.argmax(np.abs(samples.mean(0)))])


def report(numbers: Numbers) -> str:
    ended = numbers.streamed[-1]
    rows = zip(
        "ABCD",
        WORLD.rewards[0],
        ended.mean(0),
        ended.std(0),
        WORLD.optimum[0],
        numbers.policies.mean(0),
        numbers.repeated[-1],
        strict=True,
    )
    head = ("response", "score R", "r̂, fresh labels", "its spread", "π*", "π, fresh labels", "r̂, six labels")
    slopes = ", ".join(f"{slope:.3f}" for slope in numbers.growth)
    return (
        f"β = {WORLD.beta}, uniform reference. Fresh labels: {STREAMS} streams of {STEPS} pairs, means and standard deviations "
        f"over the streams.\nSix labels: each pair once, the better response chosen, gradient descent for {STEPS} steps.\n\n"
        f"{table(head, rows)}\n\n"
        f"Log-ratio gaps between neighbours, six labels, last tenfold: + {slopes} nats for each factor e in steps "
        f"(1/β = {1 / WORLD.beta:g})."
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2)
    middle, spread = numbers.streamed.mean(1), numbers.streamed.std(1)
    for k, colour in enumerate(("#0072b2", "#009e73", "#cc79a7", "#d55e00")):
        left.fill_between(TIMES, middle[:, k] - spread[:, k], middle[:, k] + spread[:, k], color=colour, alpha=0.2, lw=0)
        for axes, drawn in ((left, middle), (right, numbers.repeated)):
            axes.axhline(WORLD.rewards[0, k], color=colour, ls=":", lw=1)
            axes.plot(TIMES, drawn[:, k], color=colour)
            axes.text(STEPS * 1.15, drawn[-1, k], "ABCD"[k], color=colour, va="center")
    left.set(title="endless: a fresh label at every step", xlabel="pairs seen", ylim=(-1.6, 1.6))
    left.set_ylabel(r"implicit reward $\hat r = \beta\,\log\,\pi/\pi_{ref}$, mean 0")
    left.text(0.97, 0.97, "dotted: hidden scores R\nband: ± 1 sd over streams", transform=left.transAxes, va="top", ha="right")
    right.axhspan(-1.6, 1.6, color="#555555", alpha=0.12, lw=0)
    right.text(1.3, 13, "grey: the range of the left panel", va="top", color="#555555")
    right.set(title="finite: the same six labels at every step", xlabel="steps of gradient descent")
    for axes in (left, right):
        axes.set(xscale="log", xlim=(1, STEPS))


EXPERIMENT = Experiment(
    "four responses, one pair at a time",
    run,
    report,
    draw,
    (
        Statement(
            "toy.four-responses.converges-to-truth",
            "On an endless stream of Bradley-Terry labels, DPO's implicit rewards converge to the hidden scores, up to a "
            "constant: they do not run away.",
            "arXiv:2305.18290v3 eq. 5-7",
            "The same on six labels, one for each pair, seen over and over.",
            (-0.02, 0.02),
            "r̂ - R after 10,000 pairs, mean over 256 streams, for the response where it is farthest from 0; margin: 1 % of the "
            "range of R",
            lambda n: Measured(_worst_mean(n.streamed[-1] - WORLD.rewards), Reading.worst(n.repeated[-1] - WORLD.rewards)),
        ),
        Statement(
            "toy.four-responses.policy-is-optimum",
            "That stream leads DPO's policy to π_ref e^{R/β} / Z: the best response keeps the share that β allows it.",
            "arXiv:2305.18290v3 eq. 4",
            "It leads to the best response alone.",
            (-0.01, 0.01),
            "π - π* after 10,000 pairs, mean over 256 streams, for the response where it is farthest from 0; margin: a "
            "probability of 0.01",
            lambda n: Measured(_worst_mean(n.policies - WORLD.optimum), _worst_mean(n.policies - np.eye(4)[0])),
        ),
        Statement(
            "toy.four-responses.separable-grows-like-log",
            "On finitely many labels that agree with an order of the responses, every log-ratio gap between neighbours in that "
            "order grows for ever, like (1/β) log t.",
            "arXiv:1710.10345 theorem 3, on arXiv:2305.18290v3 eq. 7",
            "It grows like β log t.",
            (-0.02, 0.02),
            "β (growth of the gap for each factor e in steps, from 1,000 to 10,000) - 1, for the gap where it is farthest from "
            "0; margin: the O(1) in h = log t + O(1) still moves by h e^{-h}, 0.01 at h = 6.5",
            lambda n: Measured(Reading.worst(WORLD.beta * n.growth - 1), Reading.worst(n.growth / WORLD.beta - 1)),
        ),
    ),
    size=(9.0, 4.2),
)
