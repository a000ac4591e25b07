"""Four responses with hidden scores, trained by DPO on labelled pairs of them: where its implicit rewards go.

    P(y beats y') = σ(R(y) - R(y'))                  who labels: Bradley-Terry on the scores R
    L             = -log σ(r̂(y_w) - r̂(y_l))          arXiv:2305.18290v3 equation 7; r̂ = β log(π/π_ref)

An endless stream, each label seen once. Descent on it is maximum likelihood for the scores: r̂ ends at R up to a constant, so
the policy at π* = π_ref e^{R/β} / Z (equation 4). The step falls like 1/√t; the average of the logits weighs step t by t.

Six labels, one for each pair, the better response chosen, seen at every step: they agree with an order of the responses, so
the loss has no minimizer. For a single pair, descent obeys dh/dt = c σ(-h), so h + e^h = ct + 1 and h = log t + O(1). Here each
gap h between neighbours in the order grows like that (Soudry et al. 2018, arXiv:1710.10345 theorem 3: h is the margin that is
largest), and so their log-ratio gap h/β like (1/β) log t.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minipref import dpo
from minipref.arrays import softmax

from .bandit import Array, World, different_pairs, pair_gradient, path
from .experiment import Experiment, Measured, Reading, stated, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORLD = World(np.array([[1.0, 0.3, -0.3, -1.0]]), np.full((1, 4), 0.25), beta=0.5)
STREAMS, STEPS = 256, 10_000
TIMES = np.unique(np.geomspace(1, STEPS, 61).round().astype(int))
RATE = 1 / WORLD.beta**2  # steps of order 1 in the implicit rewards
GRADIENT = partial(pair_gradient, partial(dpo.formula, beta=WORLD.beta))


class Numbers(NamedTuple):
    """Implicit rewards at TIMES, the mean over the responses removed."""

    streamed: Array  # [T, STREAMS, 4]: of the averaged logits, in independent streams
    repeated: Array  # [T, 4]: on six labels

    @property
    def policies(self) -> Array:
        """At the end of each stream [STREAMS, 4]."""
        return softmax(WORLD.reference_logps + self.streamed[-1] / WORLD.beta)

    @property
    def growth(self) -> Array:
        """Of the log-ratio gaps between neighbours, on six labels [3]: nats for each factor e in steps, in the last tenfold."""
        late = TIMES >= STEPS // 10
        gaps = -np.diff(self.repeated[late]) / WORLD.beta
        return (gaps[-1] - gaps[0]) / np.log(TIMES[late][-1] / TIMES[late][0])


def run(seed: int) -> Numbers:
    reference, six = WORLD.reference_logps, 1.0 * (WORLD.preferences > 0.5)
    repeated = path(lambda logits: GRADIENT(logits, reference, six), reference, RATE, STEPS)
    return Numbers(_rewards(_stream(np.random.default_rng(seed))), _rewards(repeated[TIMES])[:, 0])


def _stream(rng: np.random.Generator) -> Array:
    """Averaged logits at TIMES [T, STREAMS, 4]."""
    labels = rng.choice(16, (STEPS, STREAMS), p=2 * different_pairs(WORLD).ravel())  # 4 times the chosen one plus the rejected
    reference = np.repeat(WORLD.reference_logps, STREAMS, 0)
    logits, average, seen = reference, reference, []
    for t, label in enumerate(labels, 1):
        logits = logits - RATE / np.sqrt(t) * GRADIENT(logits, reference, np.eye(16)[label].reshape(STREAMS, 4, 4))
        average = average + 2 / (t + 1) * (logits - average)
        if t in TIMES:
            seen.append(average)
    return np.array(seen)


def _rewards(logits: Array) -> Array:
    rewards = WORLD.beta * (logits - WORLD.reference_logps)
    return rewards - rewards.mean(-1, keepdims=True)


def _largest(errors: Array) -> Reading:
    """Of the four responses [STREAMS, 4], mean over the streams."""
    return Reading.mean(np.abs(errors).max(1))


def report(numbers: Numbers) -> str:
    ended = numbers.streamed[-1]
    columns = {
        "response": "ABCD",
        "score R": WORLD.rewards[0],
        "r̂, stream": ended.mean(0),
        "its spread": ended.std(0),
        "π*": WORLD.optimum[0],
        "π, stream": numbers.policies.mean(0),
        "r̂, six labels": numbers.repeated[-1],
    }
    slopes = ", ".join(f"{slope:.3f}" for slope in numbers.growth)
    return (
        f"β = {WORLD.beta}, uniform reference, {STEPS:,} steps: on a stream (means and standard deviations over {STREAMS}\n"
        f"streams), and on the same six labels, one for each pair.\n\n{table(columns, zip(*columns.values(), strict=True))}\n\n"
        f"Log-ratio gaps between neighbours on six labels, over the last tenfold: {slopes} nats for each factor e in steps\n"
        f"(1/β = {1 / WORLD.beta:g})."
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    left, right = figure.subplots(1, 2)
    middle, spread = numbers.streamed.mean(1), numbers.streamed.std(1)
    for k, colour in enumerate(("C0", "C2", "C3", "C1")):
        left.fill_between(TIMES, middle[:, k] - spread[:, k], middle[:, k] + spread[:, k], color=colour, alpha=0.2, lw=0)
        for axes, drawn in ((left, middle), (right, numbers.repeated)):
            axes.axhline(WORLD.rewards[0, k], color=colour, ls=":", lw=1)
            axes.plot(TIMES, drawn[:, k], color=colour)
            axes.text(STEPS * 1.15, drawn[-1, k], "ABCD"[k], color=colour, va="center")
    left.set(title="endless: a fresh label at every step", xlabel="pairs seen", ylim=(-1.6, 1.6))
    left.set_ylabel(r"implicit reward $\hat r = \beta\,\log\,\pi/\pi_{ref}$, mean 0")
    note = "of the averaged logits: mean, ± 1 sd\nover streams; dotted: hidden scores R"
    left.text(0.98, 0.98, note, transform=left.transAxes, va="top", ha="right")
    right.axhspan(-1.6, 1.6, color="C4", alpha=0.12, lw=0)
    right.text(1.3, 13, "grey: the range of the left panel", va="top", color="C4")
    right.set(title="finite: the same six labels at every step", xlabel="steps of gradient descent")
    for axes in (left, right):
        axes.set(xscale="log", xlim=(1, STEPS))


TABLE = """
converges-to-truth | On an endless stream of Bradley-Terry labels of all pairs, DPO's implicit rewards converge to the hidden
    scores, up to a constant: they do not run away. | The same on six labels, one for each pair, seen over and over.
    | arXiv:2305.18290v3 eq. 5-7, as maximum likelihood
    | 0, 0.1: largest |r̂ - R| of the four after 10,000 pairs with falling steps, mean over 256 streams; margin: 5 % of R's
    range
policy-is-optimum | On an endless stream of Bradley-Terry labels DPO's policy goes to π_ref e^{R/β} / Z: the best
    response gets the share that β allows it.
    | It leads to the best response alone. | arXiv:2305.18290v3 eq. 4
    | 0, 0.05: largest |π - π*| of the four after 10,000 pairs, mean over 256 streams; margin: a probability of 0.05
separable-grows-like-log | On finitely many labels of all pairs that agree with one order of the responses, gradient descent in
    small steps widens every log-ratio gap between neighbours in that order without end, like (1/β) log t.
    | It grows like β log t. | arXiv:1710.10345 theorem 3, on arXiv:2305.18290v3 eq. 7
    | 0, 0.02: |β growth - 1|, growth of the gap for each factor e in steps from 1,000 to 10,000, for the neighbours where it is
    largest; margin: the O(1) in h = log t + O(1) still moves by h e^{-h}, 0.01 at h = 6.5
"""
MEASURES = {
    "converges-to-truth": lambda n: Measured(
        _largest(n.streamed[-1] - WORLD.rewards), Reading.worst(n.repeated[-1] - WORLD.rewards)
    ),
    "policy-is-optimum": lambda n: Measured(_largest(n.policies - WORLD.optimum), _largest(n.policies - np.eye(4)[0])),
    "separable-grows-like-log": lambda n: Measured(
        Reading.worst(WORLD.beta * n.growth - 1), Reading.worst(n.growth / WORLD.beta - 1)
    ),
}
STATEMENTS = stated("toy.four-responses", TABLE, MEASURES)
EXPERIMENT = Experiment(
    "One pair at a time: endless labels, and six labels again and again", run, report, draw, STATEMENTS, (9.0, 4.2)
)
