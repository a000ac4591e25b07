"""Wrong labels: each one flipped with probability ε. What DPO, cDPO, robust DPO and IPO make of them.

    P_ε(y beats y') = (1-ε) σ(R(y) - R(y')) + ε σ(R(y') - R(y))

    DPO          takes P_ε for Bradley-Terry, and is less sure than the truth           arXiv:2305.18290v3 equation 7
    cDPO         smoothing a label by ε is flipping it at rate ε: flips count twice     Mitchell 2023, equations 3 and 4
    robust DPO   (1-ε) L(w, l) + ε L(l, w) is DPO's loss, so its optimum is π*          arXiv:2403.00409v2 equation 12
    IPO          log π/π_ref = P_ε(y beats a uniform draw)/β + c, linear in the         arXiv:2310.12036v2 equations 9, 17
                 labels, so log-ratio gaps shrink by 1 - 2ε

Six responses, all pairs alike; cDPO and robust DPO are told ε. First the labels' exact probabilities: regret is
J(π*) - J(π) = β KL(π || π*), in units of reward; IPO, whose β weighs probabilities of winning and not rewards, has some even
without flips. Then N drawn labels. Last, labels that all agree with one order of the responses: they leave DPO and robust DPO
without an optimum, but not cDPO and IPO.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minipref import cdpo, dpo, ipo, robust_dpo
from minipref.arrays import softmax

from .bandit import Array, World, descend, different_pairs, kl, pair_gradient, path, total_variation
from .experiment import Experiment, Measured, Reading, said, stated, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REWARDS, BETA, FLIPS = np.array([[1.2, 0.6, 0.2, -0.2, -0.6, -1.2]]), 0.5, 0.2
RATES = np.linspace(0, 0.4, 9)
SIZES = 2 ** np.arange(10, 17)  # labelled pairs; with fewer, some data sets leave robust DPO without an optimum
DATA_SETS, STEPS = 300, 1000
METHODS = ("DPO", "cDPO", "robust DPO", "IPO")


class Numbers(NamedTuple):
    world: World
    exact: dict[str, Array]  # [RATES, 6]: policies fitted to the labels' exact probabilities
    errors: dict[str, Array]  # [SIZES, DATA_SETS]: of implicit rewards fitted to drawn labels, root mean square over responses
    gaps: dict[str, Array]  # [STEPS + 1]: largest log-ratio gap where all labels agree

    @property
    def regrets(self) -> dict[str, Array]:
        """J(π*) - J(π) [RATES]."""
        return {name: BETA * kl(self.exact[name], self.world.optimum) for name in METHODS}


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    world = World(REWARDS, rng.dirichlet(np.full(6, 10.0), 1), BETA)
    sampled = {"DPO, clean labels": ("DPO", 0.0), "DPO": ("DPO", FLIPS), "robust DPO": ("robust DPO", FLIPS)}
    return Numbers(
        world,
        _exact(world),
        {title: _errors(name, flips, world, rng) for title, (name, flips) in sampled.items()},
        {name: _gaps(loss, world) for name, loss in losses(FLIPS).items()},
    )


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
    clean = 2 * different_pairs(world)
    return (1 - flips) * clean + flips * clean.transpose(0, 2, 1)


def descent(loss: "partial[Any]", reference_logps: Array, weights: Array) -> tuple[Callable[[Array], Array], Array, float]:
    """Gradient, start and step, as `descend` and `path` take them."""
    step = 1.25 if loss.func is ipo else 10 / BETA**2  # the inverse of the largest curvature where all pairs are alike
    return partial(pair_gradient, loss, reference_logps=reference_logps, weights=weights), reference_logps, step


def _exact(world: World) -> dict[str, Array]:
    def solved(name: str, told: float, flips: float) -> Array:
        fit = descent(losses(told)[name], world.reference_logps, labels(world, flips))
        return softmax(descend(*fit, STEPS, enough=1e-14))[0]

    found = {name: np.array([solved(name, rate, rate) for rate in RATES]) for name in METHODS}
    return found | {"DPO, flipped twice": np.array([solved("DPO", 0, 2 * rate * (1 - rate)) for rate in RATES])}


def _errors(name: str, flips: float, world: World, rng: np.random.Generator) -> Array:
    reference, chances, errors = np.repeat(world.reference_logps, DATA_SETS, 0), labels(world, flips).ravel(), []
    for size in SIZES:
        shares = rng.multinomial(size, chances, DATA_SETS).reshape(-1, 6, 6) / size
        logits = descend(*descent(losses(flips)[name], reference, shares), STEPS, enough=1e-7)
        errors.append((BETA * (logits - reference) - world.rewards).std(1))
    return np.array(errors)


def _gaps(loss: "partial[Any]", world: World) -> Array:
    logits = path(*descent(loss, world.reference_logps, (world.preferences > 0.5) / 15), STEPS)
    return np.ptp(logits - world.reference_logps, axis=2)[:, 0]


def slope(errors: Array) -> Reading:
    """Of log error against log N, by least squares in each run over the sizes."""
    return Reading.mean(np.polyfit(np.log(SIZES), np.log(errors), 1)[0])


def shrinkage(numbers: Numbers, factors: Array) -> Reading:
    """Largest error where flips at RATES are to shrink IPO's log-ratios, in closed form for clean labels, by factors."""
    clean = (numbers.world.preferences.mean(2) - 0.5) / BETA
    found = np.log(numbers.exact["IPO"]) - numbers.world.reference_logps
    return Reading.worst(found - found.mean(1, keepdims=True) - factors[:, None] * clean)


def distance(numbers: Numbers, name: str, target: Array) -> Reading:
    """Largest total variation over RATES between a method's policies and the target's [RATES or 1, 6]."""
    return Reading(total_variation(numbers.exact[name], target))


def late_growth(numbers: Numbers, *names: str) -> Reading:
    """Of the largest gap, in nats, from step 300 on; the largest."""
    return Reading.worst([np.ptp(numbers.gaps[name][300:]) for name in names])


def report(numbers: Numbers) -> str:
    exact = [(name, *(regrets[::2].round(9) + 0.0), numbers.gaps[name][-1]) for name, regrets in numbers.regrets.items()]
    drawn = [(name, *_root_mean(errors), said(slope(errors))) for name, errors in numbers.errors.items()]
    return (
        "Regret J(π*) - J(π), fitted to exact probabilities with flips at rate ε. Gap: the largest log-ratio gap in nats\n"
        f"after {STEPS} steps of descent on labels that all agree, told ε = {FLIPS}.\n\n"
        f"{table(('', *(f'ε = {rate:.1f}' for rate in RATES[::2]), 'gap'), exact)}\n\n"
        f"Error of the implicit rewards, fitted to N labels, flipped at ε = {FLIPS} or clean: root mean square over\n"
        f"{DATA_SETS} data sets. Slope: of its logarithm against log N.\n\n{table(('N', *map(str, SIZES), 'slope'), drawn)}"
    )


def _root_mean(errors: Array) -> Array:
    return np.sqrt((errors**2).mean(1))


def draw(numbers: Numbers, figure: "Figure") -> None:
    rates, sizes, steps = figure.subplots(1, 3)
    for name in METHODS:
        rates.plot(RATES, numbers.regrets[name], "o-", ms=4, label=name)
        steps.plot(np.arange(1, STEPS + 1), numbers.gaps[name][1:])
    for errors, style in zip(numbers.errors.values(), ("C0o--", "C0o-", "C2o-"), strict=True):
        sizes.plot(SIZES, _root_mean(errors), style, ms=4)
    sizes.text(SIZES[0], 0.012, f"solid: ε = {FLIPS}\ndashed: clean labels")
    rates.set(title="exact labels", xlabel="rate of flips ε", ylabel="regret J(π*) - J(π), reward")
    sizes.set(title="drawn labels", xlabel="labelled pairs N", ylabel="error of implicit rewards, rms", ylim=(0.01, 1))
    steps.set(title="labels that all agree", xlabel="steps of gradient descent", ylabel="largest log-ratio gap, nats")
    for axes in (sizes, steps):
        axes.set(xscale="log", yscale="log")
    figure.legend(loc="outside upper center", ncols=4)


TABLE = """
flips-shrink-ipo | Labels flipped with probability ε shrink every log-ratio gap of IPO's optimum by the factor 1 - 2ε.
    | By the factor 1 - ε, the share of labels that are right. | arXiv:2310.12036v2 eq. 9, 17
    | 0, 1e-10: largest |log π/π_ref - factor (P(y beats a uniform draw) - 1/2)/β|, mean removed, ε = 0 to 0.4; descent to
    slopes of 1e-14
robust-dpo-unbiased | On endless Bradley-Terry labels, flipped at a rate that robust DPO is told, its optimum is π* of clean
    labels. | DPO's is, too: flips cancel on average. | arXiv:2403.00409v2 eq. 12
    | 0, 1e-10: largest total variation to π*, ε = 0 to 0.4; descent to slopes of 1e-14
cdpo-biased | cDPO that is told the rate of flips does not undo but repeats them: its optimum is DPO's at the rate 2ε(1-ε).
    | Its optimum is π*. | Mitchell 2023, A note on DPO with noisy preferences, eq. 3
    | 0, 1e-10: largest total variation to DPO's optimum at the rate 2ε(1-ε), ε = 0 to 0.4; descent to slopes of 1e-14
overconfidence | Where all labels agree with one order of the responses, IPO and cDPO (ε > 0) stop at finite gaps; DPO does not.
    | DPO stops too. | arXiv:2310.12036v2 section 4.2 and eq. 17; Mitchell 2023, A note on DPO with noisy preferences, eq. 3
    | 0, 1e-9: growth of the largest log-ratio gap in nats from step 300 to 1,000; one label for each pair, ε = 0.2
consistency-slope | The error of DPO's implicit rewards falls like 1/√N with the number N of Bradley-Terry labels.
    | It does so too where 20 % of the labels are flipped. | arXiv:2305.18290v3 eq. 7, as maximum likelihood
    | -0.55, -0.45: slope of log root-mean-square error against log N, 1,024 to 65,536, mean of 300 fits; margin: a tenth of 1/2
"""
MEASURES = {
    "flips-shrink-ipo": lambda n: Measured(shrinkage(n, 1 - 2 * RATES), shrinkage(n, 1 - RATES)),
    "robust-dpo-unbiased": lambda n: Measured(distance(n, "robust DPO", n.world.optimum), distance(n, "DPO", n.world.optimum)),
    "cdpo-biased": lambda n: Measured(distance(n, "cDPO", n.exact["DPO, flipped twice"]), distance(n, "cDPO", n.world.optimum)),
    "overconfidence": lambda n: Measured(late_growth(n, "IPO", "cDPO"), late_growth(n, "DPO")),
    "consistency-slope": lambda n: Measured(slope(n.errors["DPO, clean labels"]), slope(n.errors["DPO"])),
}
STATEMENTS = stated("toy.noise", TABLE, MEASURES)
EXPERIMENT = Experiment("Labels flipped by chance, and labels that all agree", run, report, draw, STATEMENTS, (9.0, 3.8))
