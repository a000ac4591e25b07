"""Nine losses on a pair, along one line: two responses, a uniform reference, and a policy that moves between them.

    π(y_w) = σ(Δ), π(y_l) = σ(-Δ), π_ref = 1/2      Δ: the log-ratio gap; βΔ: the implicit-reward gap
    dL/dΔ  = σ(-Δ) ∂L/∂log π(y_w) - σ(Δ) ∂L/∂log π(y_l)

Each response is one token long. KTO gets the pair as one good and one bad response with z_0 = 0, SPPO as win rates 1 and 0, and
the two losses are added.

    DPO    dL/dΔ = -β σ(-βΔ): -β/2 at the reference, 1 % of β at βΔ = log 99          arXiv:2305.18290v3 section 4
           labels that prefer y_w with probability p move the minimum to βΔ = logit p
    IPO    L = (Δ - 1/(2β))²: minimum at Δ = 1/(2β), that is βΔ = 1/2                 arXiv:2310.12036v2 equation 17
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minipref import cdpo, dpo, ipo, kto, orpo, robust_dpo, rso_hinge, simpo, sppo
from minipref.arrays import log_sigmoid, sigmoid

from .bandit import Array, PairLoss, pair_gradient
from .experiment import Experiment, Measured, Reading, Statement, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAPS = np.linspace(-12, 12, 481)
FAR = 100.0  # nats: where tails are read
COLOURS = ("#0072b2", "#d55e00", "#009e73")


class Two(NamedTuple):
    """The sum of two losses on single responses."""

    losses: Array
    grad_policy_chosen_logps: Array
    grad_policy_rejected_logps: Array


def of_lengths_one(loss: Callable[..., Any], **settings: float) -> PairLoss:
    """A loss without a reference as one on four log-probabilities."""
    return lambda chosen, rejected, *_: loss(chosen, rejected, *2 * [np.ones(len(chosen), int)], **settings)


def both(chosen: Any, rejected: Any) -> Two:
    return Two(chosen.losses + rejected.losses, chosen.grad_policy_logps, rejected.grad_policy_logps)


def kto_split(beta: float, chosen: Array, rejected: Array, *reference: Array) -> Two:
    good = np.ones(len(chosen), bool)
    return both(kto(chosen, reference[0], good, 0.0, beta), kto(rejected, reference[1], ~good, 0.0, beta))


def sppo_split(eta: float, chosen: Array, rejected: Array, *reference: Array) -> Two:
    always = np.ones(len(chosen))
    return both(sppo(chosen, reference[0], always, eta), sppo(rejected, reference[1], 0 * always, eta))


class Shape(NamedTuple):
    title: str
    symbol: str  # of the hyperparameter that is varied
    values: tuple[float, float, float]
    loss: Callable[[float], PairLoss]


SHAPES = (
    Shape("DPO", "β", (0.5, 1, 2), lambda beta: partial(dpo, beta=beta)),
    Shape("cDPO, β = 1", "ε", (0.01, 0.1, 0.3), lambda flips: partial(cdpo, beta=1.0, label_smoothing=flips)),
    Shape("robust DPO, β = 1", "ε", (0.01, 0.1, 0.3), lambda flips: partial(robust_dpo, beta=1.0, label_smoothing=flips)),
    Shape("IPO", "β", (0.2, 0.5, 1), lambda beta: partial(ipo, beta=beta)),
    Shape("RSO hinge", "β", (0.5, 1, 2), lambda beta: partial(rso_hinge, beta=beta)),
    Shape("KTO on both, z₀ = 0", "β", (0.5, 1, 2), lambda beta: partial(kto_split, beta)),
    Shape("SimPO, β = 1", "γ", (0, 1, 2), lambda gamma: of_lengths_one(simpo, beta=1.0, gamma=gamma)),
    Shape("ORPO", "λ", (0.1, 0.5, 1), lambda weight: of_lengths_one(orpo, odds_weight=weight)),
    Shape("SPPO on both", "η", (0.5, 1, 2), lambda eta: partial(sppo_split, eta)),
)


class Curve(NamedTuple):
    losses: Array  # at GAPS
    slopes: Array
    tails: Array  # slopes at -FAR, 0, FAR
    minimum: float  # Δ of the smallest minimizer; NaN where there is none within FAR


class OfBeta(NamedTuple):
    """What β changes, for each β [B]; gaps are in nats of Δ."""

    beta: Array
    ipo_minimum: Array
    dpo_first_step: Array  # growth of Δ in one step of gradient descent from the reference, for a step size of 1
    dpo_steepest: Array
    dpo_one_percent: Array  # the gap at which dL/dΔ has fallen to 1 % of β
    dpo_optimum: Array  # where labels agree with the probability below


class Numbers(NamedTuple):
    curves: dict[tuple[str, float], Curve]  # by title and value
    agreement: float
    of_beta: OfBeta
    exponents: tuple[float, float]  # d log |dL/dΔ| / d log |Δ| far out where the loss grows: IPO, DPO


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    betas, agreement = np.exp(rng.uniform(np.log(0.05), np.log(5), 6)), float(rng.uniform(0.6, 0.95))
    return Numbers(
        {(shape.title, value): _curve(shape.loss(value)) for shape in SHAPES for value in shape.values},
        agreement,
        OfBeta(*np.array([_of_beta(beta, agreement) for beta in betas]).T),
        (_exponent(partial(ipo, beta=1.0)), _exponent(partial(dpo, beta=1.0))),
    )


def on_line(loss: PairLoss, gaps: Array) -> Any:
    """Losses and gradients in the log-probabilities at log-ratio gaps [G]."""
    half = np.full(len(gaps), np.log(0.5))
    return loss(log_sigmoid(gaps), log_sigmoid(-gaps), half, half)


def slopes(loss: PairLoss, gaps: Array) -> Array:
    """dL/dΔ at log-ratio gaps [G]."""
    found = on_line(loss, gaps)
    return sigmoid(-gaps) * found.grad_policy_chosen_logps - sigmoid(gaps) * found.grad_policy_rejected_logps


def minimum(slope: Callable[[Array], Array]) -> float:
    """The least gap within FAR at which a slope stops being negative, to rounding; NaN if there is none."""
    low, high = -FAR, FAR
    for _ in range(6):
        gaps = np.linspace(low, high, 1001)
        first = np.argmax(slope(gaps) >= 0)
        if first == 0:
            return np.nan
        low, high = gaps[first - 1], gaps[first]
    return float(high)


def _curve(loss: PairLoss) -> Curve:
    slope = partial(slopes, loss)
    return Curve(on_line(loss, GAPS).losses, slope(GAPS), slope(np.array([-FAR, 0, FAR])), minimum(slope))


def _of_beta(beta: float, agreement: float) -> tuple[float, ...]:
    loss = partial(dpo, beta=beta)
    slope = partial(slopes, loss)
    first_wins, reference = np.array([[[0.0, 1.0], [0.0, 0.0]]]), np.full((1, 2), np.log(0.5))
    step = -pair_gradient(loss, reference, reference, first_wins)[0]
    return (
        beta,
        minimum(partial(slopes, partial(ipo, beta=beta))),
        step[0] - step[1],
        np.max(np.abs(slope(np.linspace(-2e3, 2e3, 4001)))),
        minimum(lambda gaps: slope(gaps) + beta / 100),
        minimum(lambda gaps: agreement * slope(gaps) - (1 - agreement) * slope(-gaps)),
    )


def _exponent(loss: PairLoss) -> float:
    near, far = np.abs(slopes(loss, np.array([-1e6, -1e7])))
    return float(np.log10(far / near))


def report(numbers: Numbers) -> str:
    rows = []
    for shape in SHAPES:
        for value in shape.values:
            found = numbers.curves[shape.title, value]
            lowest = "none" if np.isnan(found.minimum) else found.minimum
            rows.append((shape.title, f"{shape.symbol} = {value:g}", *(found.tails + 0.0), lowest))
    shapes = table(("loss", "", f"dL/dΔ at -{FAR:g}", "at 0", f"at +{FAR:g}", "minimum at Δ"), rows)
    head = ("β", "IPO: minimum Δ", "DPO: first step", "steepest", "Δ of 1 %", f"optimum Δ, p = {numbers.agreement:.3f}")
    of_beta = table(head, zip(*numbers.of_beta, strict=True))
    return f"{shapes}\n\nWhat β changes (Δ in nats; the step for a step size of 1 on two logits):\n\n{of_beta}"


def draw(numbers: Numbers, figure: "Figure") -> None:
    panels = figure.subplots(4, 3, gridspec_kw={"height_ratios": (1, 1, 1, 1.15)})
    for shape, axes in zip(SHAPES, panels[:3].flat, strict=True):
        for value, colour in zip(shape.values, COLOURS, strict=True):
            found = numbers.curves[shape.title, value]
            axes.plot(GAPS, found.losses, color=colour, label=f"{shape.symbol} = {value:g}")
            axes.plot(found.minimum, np.interp(found.minimum, GAPS, found.losses), "o", color=colour, ms=6)
        axes.set(title=shape.title, ylim=(-2.5, 9), xlim=(-6, 6), xticks=(-6, -3, 0, 3, 6))
        axes.legend(fontsize=8, handlelength=1, loc="lower left", borderaxespad=0)
    for axes in panels[:3, 0]:
        axes.set_ylabel("loss")
    for axes in panels[2]:
        axes.set_xlabel("log-ratio gap Δ (nats)")
    _draw_beta(numbers, panels[3])


def _draw_beta(numbers: Numbers, panels: Any) -> None:
    dpo_shape, ipo_shape = SHAPES[0], SHAPES[3]
    for axes, shape, title in ((panels[0], dpo_shape, "DPO's push: at most β"), (panels[1], ipo_shape, "IPO's push: no cap")):
        for beta, colour in zip(shape.values, COLOURS, strict=True):
            axes.plot(GAPS, -numbers.curves[shape.title, beta].slopes, color=colour, label=f"β = {beta:g}")
        axes.set(title=title, xlabel="log-ratio gap Δ (nats)", xlim=(-6, 6), xticks=(-6, -3, 0, 3, 6))
        axes.legend(fontsize=8, handlelength=1, loc="upper right")
    for beta, colour in zip(ipo_shape.values, COLOURS, strict=True):
        panels[2].plot(beta * GAPS, numbers.curves["IPO", beta].losses, color=colour)
    panels[0].set_ylabel("push -dL/dΔ")
    panels[2].axvline(0.5, color="#555555", ls=":")
    panels[2].set(title="IPO over the reward gap", xlabel="implicit-reward gap βΔ", xlim=(-1, 2), ylim=(-2.5, 9))
    panels[2].set_xticks((-1, 0, 0.5, 1, 2), ("-1", "0", "½", "1", "2"))


def _claim(name: str, statement: str, source: str, false: str, measured: str, residuals: Callable[[Numbers], Any]) -> Statement:
    """On two residuals over the drawn β, the statement's and its false variant's, in double precision."""

    def read(numbers: Numbers) -> Measured:
        true, wrong = residuals(numbers)
        return Measured(Reading.worst(true), Reading.worst(wrong))

    return Statement(f"toy.loss-shapes.{name}", statement, source, false, (0.0, 1e-12), f"largest {measured}", read)


EXPERIMENT = Experiment(
    "the shapes of nine losses, and what β changes",
    run,
    report,
    draw,
    (
        _claim(
            "ipo-target-log-ratio",
            "On the axis of the log-ratio gap, IPO's minimum is at 1/(2β): it slides with β.",
            "arXiv:2310.12036v2 eq. 17",
            "It is at 1/2 there, for every β.",
            "|2βΔ - 1| at the minimum of six drawn β (false variant: |2Δ - 1|)",
            lambda n: (2 * n.of_beta.beta * n.of_beta.ipo_minimum - 1, 2 * n.of_beta.ipo_minimum - 1),
        ),
        _claim(
            "ipo-target-reward",
            "On the axis of the implicit-reward gap βΔ, IPO's minimum is at 1/2 for every β: it stands still.",
            "arXiv:2310.12036v2 eq. 17",
            "It is at 1/(2β) there.",
            "|βΔ - 1/2| at the minimum of six drawn β (false variant: |βΔ - 1/(2β)|)",
            lambda n: [n.of_beta.beta * n.of_beta.ipo_minimum - target for target in (0.5, 0.5 / n.of_beta.beta)],
        ),
        _claim(
            "dpo-slope-cap",
            "DPO's push on the gap is capped at β, which it approaches where the policy ranks the pair wrong.",
            "arXiv:2305.18290v3 section 4",
            "It is strongest where training begins: β/2.",
            "|max |dL/dΔ| / β - 1| of six drawn β, Δ from -2,000 to 2,000 nats (false variant: over β/2)",
            lambda n: [n.of_beta.dpo_steepest / cap - 1 for cap in (n.of_beta.beta, n.of_beta.beta / 2)],
        ),
        Statement(
            "toy.loss-shapes.ipo-slope-unbounded",
            "IPO's push has no cap: it grows in proportion to the distance from the target.",
            "arXiv:2310.12036v2 eq. 17",
            "It levels off, as DPO's does.",
            (1 - 1e-6, 1 + 1e-6),
            "d log |dL/dΔ| / d log |Δ| from -10⁶ to -10⁷ nats; the target of 1/2 shifts it by 2·10⁻⁷ (false variant: DPO)",
            lambda n: Measured(Reading(n.exponents[0]), Reading(n.exponents[1])),
        ),
        _claim(
            "beta-saturation",
            "DPO's push has fallen to 1 % of β at a gap of log(99)/β nats: the larger β, the sooner.",
            "arXiv:2305.18290v3 section 4",
            "The smaller β, the sooner: at β log 99.",
            "|βΔ - log 99| where the push crosses 1 %, of six drawn β (false variant: |Δ/β - log 99|)",
            lambda n: [n.of_beta.dpo_one_percent * scale - np.log(99) for scale in (n.of_beta.beta, 1 / n.of_beta.beta)],
        ),
        _claim(
            "beta-first-step",
            "DPO's first step of gradient descent grows with β: a step of size s on the logits widens the gap by sβ.",
            "arXiv:2305.18290v3 section 4",
            "It shrinks with β, as s/β.",
            "|growth of Δ - β| in a step of size 1 from the reference, of six drawn β (false variant: from 1/β)",
            lambda n: [n.of_beta.dpo_first_step - growth for growth in (n.of_beta.beta, 1 / n.of_beta.beta)],
        ),
        _claim(
            "beta-optimum",
            "β moves the policy that DPO ends at: where labels agree with probability p, to a gap of logit(p)/β nats.",
            "arXiv:2305.18290v3 eq. 4-7",
            "It only rescales the implicit reward; the policy ends at a gap of logit(p) for every β.",
            "|βΔ - logit p| at the minimum of six drawn β (false variant: |Δ - logit p|)",
            lambda n: [
                n.of_beta.dpo_optimum * scale - np.log(n.agreement / (1 - n.agreement)) for scale in (n.of_beta.beta, 1)
            ],
        ),
    ),
    size=(9.0, 10.5),
)
