"""Wrong labels: each one flipped with probability ε. What DPO, cDPO, robust DPO and IPO make of them.

    P_ε(y beats y') = (1-ε) σ(R(y) - R(y')) + ε σ(R(y') - R(y))

    DPO          takes P_ε for Bradley-Terry, and is less sure than the truth           arXiv:2305.18290v3 equation 7
    cDPO         smoothing a label by ε is flipping it at rate ε: flips count twice     Mitchell 2023, equations 3 and 4
    robust DPO   (1-ε) L(w, l) + ε L(l, w) is DPO's loss, so its optimum is π*          arXiv:2403.00409v2 equation 12
    IPO          log π/π_ref = P_ε(y beats a uniform draw)/β + c, linear in the         arXiv:2310.12036v2 equations 7, 17
                 labels, so log-ratio gaps shrink by 1 - 2ε

Six responses, all pairs alike. Regret is J(π*) - J(π) = β KL(π || π*), in units of reward; IPO, whose β weighs probabilities of
winning and not rewards, has some even without flips. Where no two labels contradict each other, DPO and robust DPO have no
optimum; cDPO and IPO do.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minipref import cdpo, dpo, ipo, robust_dpo
from minipref.arrays import softmax

from .bandit import Array, World, descend, different_pairs, objective, pair_gradient, total_variation
from .experiment import Experiment, Measured, Reading, Statement, said, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REWARDS, BETA, FLIPS = (1.2, 0.6, 0.2, -0.2, -0.6, -1.2), 0.5, 0.2
RATES = np.linspace(0, 0.4, 9)
SIZES = 2 ** np.arange(10, 17)  # labelled pairs; with fewer, some data sets leave robust DPO without an optimum
DATA_SETS = 300
TIMES = np.unique(np.geomspace(1, 1000, 30).astype(int))
METHODS = ("DPO", "cDPO", "robust DPO", "IPO")


class Numbers(NamedTuple):
    world: World
    exact: dict[str, Array]  # [RATES, 6]: policies fitted to the labels' exact probabilities, each told ε
    regrets: dict[str, Array]  # [SIZES, DATA_SETS]: fitted to labels drawn at ε = FLIPS, in at most 1,000 steps
    errors: dict[str, Array]  # [SIZES, DATA_SETS]: squared, of DPO's implicit rewards, labels "clean" or "flipped"
    unanimous: dict[str, Array]  # [TIMES]: largest log-ratio gap, where the better response is chosen always


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    world = World(np.array([REWARDS]), rng.dirichlet(np.full(6, 10.0), 1), BETA)
    return Numbers(world, _exact(world), *_sampled(world, rng), _unanimous(world))


def losses(flips: float) -> "dict[str, partial[Any]]":
    """The methods, each told the rate of flips if it wants to know."""
    return {
        "DPO": partial(dpo, beta=BETA),
        "cDPO": partial(cdpo, beta=BETA, label_smoothing=flips),
        "robust DPO": partial(robust_dpo, beta=BETA, label_smoothing=flips),
        "IPO": partial(ipo, beta=BETA),
    }


def labels(world: World, flips: float) -> Array:
    """The chance [1, 6, 6] that a pair is drawn and labelled so: exact Bradley-Terry, then flips."""
    clean = different_pairs(world)
    return (1 - flips) * clean + flips * clean.transpose(0, 2, 1)


def fit(loss: "partial[Any]", start: Array, reference_logps: Array, weights: Array, steps: int, enough: float = 0.0) -> Array:
    """Logits [P, 6] after descent from `start`, until no slope exceeds `enough`."""
    step = 1.0 if loss.func is ipo else 60.0  # about the inverse of the largest curvature
    return descend(lambda z: pair_gradient(loss, z, reference_logps, weights), start, step, steps, enough)


def _exact(world: World) -> dict[str, Array]:
    reference = world.reference_logps

    def solved(name: str, told: float, flips: float) -> Array:
        return softmax(fit(losses(told)[name], reference, reference, labels(world, flips), 1000, 1e-14))[0]

    found = {name: np.array([solved(name, rate, rate) for rate in RATES]) for name in METHODS}
    return found | {"DPO, flipped twice": np.array([solved("DPO", 0, 2 * rate * (1 - rate)) for rate in RATES])}


def _sampled(world: World, rng: np.random.Generator) -> tuple[dict[str, Array], dict[str, Array]]:
    reference = np.repeat(world.reference_logps, DATA_SETS, 0)

    def solved(loss: "partial[Any]", counts: Array) -> Array:
        return np.array([fit(loss, reference, reference, drawn / drawn[0].sum(), 1000, 1e-7) for drawn in counts])

    clean, flipped = (
        np.array([rng.multinomial(size, labels(world, flips).ravel(), DATA_SETS).reshape(-1, 6, 6) for size in SIZES])
        for flips in (0, FLIPS)
    )
    logits = {name: solved(loss, flipped) for name, loss in losses(FLIPS).items()}
    regrets = {name: np.array([regret(world, softmax(z)) for z in found]) for name, found in logits.items()}
    both = {"clean": solved(losses(0)["DPO"], clean), "flipped": logits["DPO"]}
    return regrets, {name: np.array([_squared_error(world, z) for z in found]) for name, found in both.items()}


def regret(world: World, policies: Array) -> Array:
    """J(π*) - J(π) [P]."""
    return objective(world, world.optimum) - objective(world, policies)


def _squared_error(world: World, logits: Array) -> Array:
    """Of the implicit rewards, up to a constant: mean over the responses, [P]."""
    error = BETA * (logits - world.reference_logps) - world.rewards
    return error.var(1)


def _unanimous(world: World) -> dict[str, Array]:
    always = (world.preferences > 0.5) / 15
    return {name: _gaps(loss, world.reference_logps, always) for name, loss in losses(FLIPS).items()}


def _gaps(loss: "partial[Any]", reference_logps: Array, weights: Array) -> Array:
    logits, gaps = reference_logps, []
    for steps in np.diff(TIMES, prepend=0):
        logits = fit(loss, logits, reference_logps, weights, steps)
        gaps.append(np.ptp(logits - reference_logps))
    return np.array(gaps)


def slope(numbers: Numbers, name: str) -> Reading:
    """Of log root-mean-square error against log N, least squares, with the standard error that the data sets leave."""
    squares = numbers.errors[name]
    means, errors = squares.mean(1), squares.std(1, ddof=1) / np.sqrt(DATA_SETS)
    away = np.log(SIZES) - np.log(SIZES).mean()
    weights = away / (away @ away)
    return Reading(float(weights @ np.log(means) / 2), float(np.linalg.norm(weights * errors / means / 2)))


def shrinkage(numbers: Numbers, factors: Array) -> Reading:
    """Largest error where flips at RATES are to shrink IPO's log-ratios, in closed form for clean labels, by factors."""
    world = numbers.world
    clean = (world.preferences.mean(2) - 0.5) / BETA
    found = np.log(numbers.exact["IPO"]) - world.reference_logps
    return Reading.worst(found - found.mean(1, keepdims=True) - factors[:, None] * clean)


def distance(numbers: Numbers, name: str, target: Array) -> Reading:
    """Largest total variation over RATES between a method's policies and the target's [RATES or 1, 6]."""
    return Reading(total_variation(numbers.exact[name], target))


def late_growth(numbers: Numbers, *names: str) -> Reading:
    """Largest growth of the largest gap, in nats, over the last threefold of the steps."""
    late = TIMES >= TIMES[-1] / 3
    return Reading.worst([np.ptp(numbers.unanimous[name][late]) for name in names])


def report(numbers: Numbers) -> str:
    exact = [
        [f"{rate:.2f}", *(float(regret(numbers.world, numbers.exact[m][[k]])[0]) for m in METHODS)]
        for k, rate in enumerate(RATES)
    ]
    drawn = [[size, *(float(numbers.regrets[m][k].mean()) for m in METHODS)] for k, size in enumerate(SIZES)]
    steps = [[t, *(float(numbers.unanimous[m][k]) for m in METHODS)] for k, t in enumerate(TIMES) if k % 4 == 1]
    clean, flipped = slope(numbers, "clean"), slope(numbers, "flipped")
    return (
        f"Regret J(π*) - J(π), fitted to exact probabilities with flips at rate ε:\n\n{table(('ε', *METHODS), exact)}\n\n"
        f"The same at ε = {FLIPS}, fitted to N labels, mean of {DATA_SETS} data sets:\n\n{table(('N', *METHODS), drawn)}\n\n"
        f"Slope of DPO's log error against log N: clean {said(clean)}, flipped {said(flipped)}.\n\n"
        f"Largest log-ratio gap in nats where the better response is always chosen (ε told: {FLIPS}):\n\n"
        f"{table(('steps', *METHODS), steps)}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    (rates, sizes), (errors, steps) = figure.subplots(2, 2)
    for name, colour in zip(METHODS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True):
        rates.plot(RATES, regret(numbers.world, numbers.exact[name]), "o-", ms=4, color=colour, label=name)
        sizes.plot(SIZES, numbers.regrets[name].mean(1), "o-", ms=4, color=colour)
        steps.plot(TIMES, numbers.unanimous[name], color=colour)
    for name, colour, marker in (("flipped", "#0072b2", "s-"), ("clean", "#555555", "o-")):
        root = np.sqrt(numbers.errors[name].mean(1))
        errors.plot(SIZES, root, marker, ms=4, color=colour)
        errors.text(SIZES[0], root[0] * 1.1, "20 % flipped" if name == "flipped" else "clean", color=colour, va="bottom")
    errors.plot(SIZES, 0.6 * root[0] * np.sqrt(SIZES[0] / SIZES), ":", color="#555555")
    errors.text(SIZES[1], 0.2 * root[0], "slope -½", color="#555555", va="top")
    rates.set(title="exact labels", xlabel="rate of flips ε", ylabel="regret J(π*) - J(π), reward", ylim=(-0.02, None))
    sizes.set(
        title=f"N drawn labels, ε = {FLIPS}", xlabel="labelled pairs N", ylabel="regret, mean of 300 data sets", ylim=(5e-4, 1)
    )
    errors.set(
        title="DPO's implicit rewards", xlabel="labelled pairs N", ylabel="root-mean-square error, reward", ylim=(0.01, 1)
    )
    steps.set(title="labels that all agree", xlabel="steps of gradient descent", ylabel="largest log-ratio gap, nats")
    for axes in (sizes, errors, steps):
        axes.set(xscale="log", yscale="log")
    figure.legend(loc="outside upper center", ncols=4)


EXPERIMENT = Experiment(
    "labels flipped by chance, and labels that never contradict each other",
    run,
    report,
    draw,
    (
        Statement(
            "toy.noise.flips-shrink-ipo",
            "Labels flipped with probability ε shrink every log-ratio gap of IPO's optimum by the factor 1 - 2ε.",
            "arXiv:2310.12036v2 eq. 7, 17",
            "By the factor 1 - ε, the share of labels that are right.",
            (0.0, 1e-10),
            "largest |log π/π_ref - factor (P(y beats a uniform draw) - 1/2)/β|, mean removed, ε = 0 to 0.4",
            lambda n: Measured(shrinkage(n, 1 - 2 * RATES), shrinkage(n, 1 - RATES)),
        ),
        Statement(
            "toy.noise.robust-dpo-unbiased",
            "Robust DPO that is told the rate of flips has the optimum π* of clean labels.",
            "arXiv:2403.00409v2 eq. 12",
            "DPO has it too: flips cancel on average.",
            (0.0, 1e-10),
            "largest total variation to π*, ε = 0 to 0.4; descent ends at slopes of 1e-14",
            lambda n: Measured(distance(n, "robust DPO", n.world.optimum), distance(n, "DPO", n.world.optimum)),
        ),
        Statement(
            "toy.noise.cdpo-biased",
            "cDPO that is told the rate of flips does not undo but repeats them: its optimum is DPO's at the rate 2ε(1-ε).",
            "Mitchell 2023, A note on DPO with noisy preferences, eq. 3",
            "Its optimum is π*.",
            (0.0, 1e-10),
            "largest total variation to DPO's optimum at the rate 2ε(1-ε), ε = 0 to 0.4",
            lambda n: Measured(distance(n, "cDPO", n.exact["DPO, flipped twice"]), distance(n, "cDPO", n.world.optimum)),
        ),
        Statement(
            "toy.noise.overconfidence",
            "Where no two labels contradict each other, IPO and cDPO stop at finite gaps, as DPO does not.",
            "arXiv:2310.12036v2 section 5.3",
            "DPO stops too.",
            (0.0, 1e-9),
            "largest growth of the largest log-ratio gap in nats, from step 330 to 1,000",
            lambda n: Measured(late_growth(n, "IPO", "cDPO"), late_growth(n, "DPO")),
        ),
        Statement(
            "toy.noise.consistency-slope",
            "The error of DPO's implicit rewards falls like 1/√N with the number N of Bradley-Terry labels.",
            "arXiv:2305.18290v3 eq. 7, as maximum likelihood",
            "It does so too where 20 % of the labels are flipped.",
            (-0.55, -0.45),
            "slope of log root-mean-square error against log N, 1,024 to 65,536, of 300 data sets each; margin: a tenth of 1/2",
            lambda n: Measured(slope(n, "clean"), slope(n, "flipped")),
        ),
    ),
    size=(9.0, 7.0),
)
