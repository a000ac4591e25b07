"""Nine losses on a pair, along one line: two responses, a uniform reference, and a policy that moves between them.

    π(y_w) = σ(Δ), π(y_l) = σ(-Δ), π_ref = 1/2      Δ: the log-ratio gap; βΔ: the implicit-reward gap
    dL/dΔ  = σ(-Δ) ∂L/∂log π(y_w) - σ(Δ) ∂L/∂log π(y_l)        -dL/dΔ: the push that widens the gap

Each response is one token long. KTO gets the pair as one good and one bad response with z_0 = 0, SPPO as win rates 1 and 0, and
the two losses are added. What the hyperparameter of each loss does is drawn; what β does to DPO and IPO is stated.

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

from .bandit import Array, PairLoss, Slopes, of_lengths_one, pair_gradient
from .experiment import Experiment, Measured, Reading, stated, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAPS = np.linspace(-12, 12, 481)
FAR = 100.0  # nats: where tails are read


def split(loss: Callable[[Array, Array, Any], Any], good: Any, bad: Any) -> PairLoss:
    """A loss on single responses, KTO or SPPO, as one on pairs: the sum over a response labelled good and one labelled bad."""

    def on_pair(chosen: Array, rejected: Array, reference_chosen: Array, reference_rejected: Array) -> Slopes:
        up, down = loss(chosen, reference_chosen, good), loss(rejected, reference_rejected, bad)
        return Slopes(up.losses + down.losses, up.grad_policy_logps, down.grad_policy_logps)

    return on_pair


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
    Shape(
        "KTO on both, z₀ = 0",
        "β",
        (0.5, 1, 2),
        lambda beta: split(partial(kto.formula, reference_point=0.0, beta=beta), True, False),
    ),
    Shape("SimPO, β = 1", "γ", (0, 1, 2), lambda gamma: of_lengths_one(simpo, beta=1.0, gamma=gamma)),
    Shape("ORPO", "λ", (0.1, 0.5, 1), lambda weight: of_lengths_one(orpo, odds_weight=weight)),
    Shape("SPPO on both", "η", (0.5, 1, 2), lambda eta: split(partial(sppo.formula, eta=eta), 1.0, 0.0)),
)


class Curve(NamedTuple):
    label: str
    losses: Array  # at GAPS
    slopes: Array
    tails: Array  # slopes at -FAR, 0, FAR
    minimum: float  # Δ of the smallest minimizer; NaN where there is none within FAR


class Numbers(NamedTuple):
    curves: dict[str, list[Curve]]  # by title, one for each value
    drawn: Array  # [6, 2]: β, and the log-odds of labels that prefer y_w


def run(seed: int) -> Numbers:
    drawn = np.random.default_rng(seed).uniform([np.log(0.05), 0.5], [np.log(5), 3], (6, 2))
    drawn[:, 0] = np.exp(drawn[:, 0])
    return Numbers({shape.title: [_curve(shape, value) for value in shape.values] for shape in SHAPES}, drawn)


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


def _curve(shape: Shape, value: float) -> Curve:
    loss = shape.loss(value)
    slope = partial(slopes, loss)
    tails = slope(np.array([-FAR, 0, FAR]))
    return Curve(f"{shape.symbol} = {value:g}", on_line(loss, GAPS).losses, slope(GAPS), tails, minimum(slope))


def _dpo(beta: float) -> Callable[[Array], Array]:
    return partial(slopes, partial(dpo, beta=beta))


def _ipo(beta: float) -> Callable[[Array], Array]:
    return partial(slopes, partial(ipo, beta=beta))


def _ipo_doubling(beta: float) -> float:
    near, far = _ipo(beta)(minimum(_ipo(beta)) - np.array([1e6, 2e6]))
    return float(far / near)


def _dpo_first_step(beta: float) -> float:
    even, first_wins = np.full((1, 2), np.log(0.5)), np.array([[[0.0, 1.0], [0.0, 0.0]]])
    slope = pair_gradient(partial(dpo, beta=beta), even, even, first_wins)[0]
    return float(slope[1] - slope[0])


def _dpo_minimum(beta: float, log_odds: float) -> float:
    """Of the expected loss under labels of these odds."""
    slope = _dpo(beta)
    return minimum(lambda gaps: sigmoid(log_odds) * slope(gaps) - sigmoid(-log_odds) * slope(-gaps))


def report(numbers: Numbers) -> str:
    rows = [
        (title, curve.label, *(curve.tails + 0.0), "none" if np.isnan(curve.minimum) else curve.minimum)
        for title, curves in numbers.curves.items()
        for curve in curves
    ]
    return table(("loss", "", f"dL/dΔ at -{FAR:g}", "at 0", f"at +{FAR:g}", "minimum at Δ"), rows)


def draw(numbers: Numbers, figure: "Figure") -> None:
    panels = figure.subplots(4, 3)
    for (title, curves), axes in zip(numbers.curves.items(), panels[:3].flat, strict=True):
        for k, curve in enumerate(curves):
            axes.plot(GAPS, curve.losses, label=curve.label)
            axes.plot(curve.minimum, np.interp(curve.minimum, GAPS, curve.losses), "o", color=f"C{k}")
        axes.set(title=title, ylabel="loss", ylim=(-2.5, 9))
    for title, axes in zip(("DPO", "IPO"), panels[3], strict=False):
        for curve in numbers.curves[title]:
            axes.plot(GAPS, -curve.slopes, label=curve.label)
        axes.set(title=f"{title}: push", ylabel="-dL/dΔ")
    for beta, curve in zip(SHAPES[3].values, numbers.curves["IPO"], strict=True):
        panels[3, 2].plot(beta * GAPS, curve.losses, label=curve.label)
    for axes in panels.flat:
        axes.legend(fontsize=8, handlelength=1, borderaxespad=0)
        axes.set(xlabel="log-ratio gap Δ (nats)", xlim=(-6, 6), xticks=(-6, -3, 0, 3, 6))
    panels[3, 2].set(title="IPO over the reward gap", ylabel="loss", ylim=(-2.5, 9))
    panels[3, 2].set(xlabel="implicit-reward gap βΔ", xlim=(-1, 2), xticks=(-1, 0, 0.5, 1, 2))


Law = Callable[[float, float], tuple[float, float, float]]


def _law(at: Law, numbers: Numbers) -> Measured:
    """`at` a β and the log-odds of labels: a number found, the number the statement says, the number the false variant says."""
    found, said, wrong = np.array([at(*each) for each in numbers.drawn]).T
    return Measured(Reading.worst(found / said - 1), Reading.worst(found / wrong - 1))


OFF = "0, 1e-12: largest |found / said - 1| over six drawn β, rounding allowed, of"
TABLE = f"""
ipo-target-log-ratio | On the axis of the log-ratio gap, IPO's minimum is at 1/(2β): it slides with β.
    | It is at 1/2 there, for every β. | arXiv:2310.12036v2 eq. 17 | {OFF} the minimum
ipo-target-reward | On the axis of the implicit-reward gap βΔ, IPO's minimum is at 1/2 for every β: it stands still.
    | It is at 1/(2β) there. | arXiv:2310.12036v2 eq. 17 | {OFF} β times the minimum
dpo-slope-cap | DPO's push on the log-ratio gap stays below β, which it approaches as the gap goes to minus infinity.
    | It is strongest where training begins: β/2. | arXiv:2305.18290v3 section 4
    | {OFF} the largest push, Δ from -2,000 to 2,000 nats
ipo-slope-unbounded | IPO's push has no cap: it grows in proportion to the distance from the minimum.
    | It levels off, as DPO's does. | arXiv:2310.12036v2 eq. 17
    | {OFF} the push 2 million nats below the minimum over that at 1 million, said to be 2 (false variant: 1)
beta-saturation | DPO's push has fallen to 1 % of β at a log-ratio gap of log(99)/β: the larger β, the sooner.
    | The smaller β, the sooner: at β log 99. | arXiv:2305.18290v3 section 4 | {OFF} the gap at which it crosses 1 %
beta-first-step | DPO's first step of gradient descent on a pair grows with β: from the reference, a step size of s on two free
    logits widens their gap by sβ. | It shrinks with β, as s/β. | arXiv:2305.18290v3 section 4 | {OFF} the growth for s = 1
beta-optimum | β moves the policy that DPO ends at: labels that prefer one of two responses with probability p take it to a gap
    of logit(p)/β in the log-ratio. | It only rescales the implicit reward: the policy ends at logit(p) for every β.
    | arXiv:2305.18290v3 eq. 4-7 | {OFF} the minimum of the expected loss, for a drawn p
"""
LAWS: dict[str, Law] = {
    "ipo-target-log-ratio": lambda beta, _: (minimum(_ipo(beta)), 1 / (2 * beta), 1 / 2),
    "ipo-target-reward": lambda beta, _: (beta * minimum(_ipo(beta)), 1 / 2, 1 / (2 * beta)),
    "dpo-slope-cap": lambda beta, _: (np.max(-_dpo(beta)(np.linspace(-2e3, 2e3, 4001))), beta, beta / 2),
    "ipo-slope-unbounded": lambda beta, _: (_ipo_doubling(beta), 2, 1),
    "beta-saturation": lambda beta, _: (
        minimum(lambda gaps: _dpo(beta)(gaps) + beta / 100),
        np.log(99) / beta,
        np.log(99) * beta,
    ),
    "beta-first-step": lambda beta, _: (_dpo_first_step(beta), beta, 1 / beta),
    "beta-optimum": lambda beta, log_odds: (_dpo_minimum(beta, log_odds), log_odds / beta, log_odds),
}
MEASURES = {name: partial(_law, law) for name, law in LAWS.items()}
STATEMENTS = stated("toy.loss-shapes", TABLE, MEASURES)
EXPERIMENT = Experiment("The shapes of nine losses, and what β changes", run, report, draw, STATEMENTS, (9.0, 11.0))
