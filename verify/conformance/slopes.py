"""A gradient is the slope of the implementation's own values.

Along a direction v, from the implementation's own losses F at four points around x,

    D(h) = [8 (F(x + hv) - F(x - hv)) - (F(x + 2hv) - F(x - 2hv))] / 12h

differs from v · ∇F by the formula's truncation and the rounding of F. Both are known: from exact values, D(h) less D of a tiny
step is the truncation, kinks included, and the judge's bound on F says the rest. The oracle's gradients only say how
far rounding may carry a gradient, so this claim would also notice a mistake in them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from verify import cases
from verify.claims import Claim, Evidence, Run
from verify.contract import Contract, Output
from verify.judge import bounds
from verify.oracle import NearTie, NoLimit
from verify.subject import Failure, Inputs, NoAnswer, Result, exact_answer

STEPS = {"float64": (2.0**-9, 2.0**-15), "float32": (2.0**-3, 2.0**-7)}
TINY = 2.0**-30
STENCIL = {1: 8, -1: -8, 2: -1, -2: 1}  # weight of F(x + k h v), over 12h


class Line(NamedTuple):
    """Where a gradient is measured: one argument of a case, moved along a direction. Sums run over what one loss depends on."""

    gradient: Output
    losses: Output
    inputs: Inputs
    direction: np.ndarray

    def points(self, step: float, dtype: str) -> dict[int, Inputs]:
        name = str(self.gradient.with_respect_to)
        moved = {k: (self.inputs[name] + k * step * self.direction).astype(dtype) for k in STENCIL}
        return {k: {**self.inputs, name: x.astype(np.float64)} for k, x in moved.items()}

    def quotient(self, losses: Mapping[int, np.ndarray], step: float) -> np.ndarray:
        return self._per_loss(sum(weight * losses[k] for k, weight in STENCIL.items())) / type(losses[1].flat[0])(12 * step)

    def slope(self, gradient: np.ndarray) -> np.ndarray:
        return self._per_loss(gradient.astype(np.float64) * self.direction)

    def _per_loss(self, x: Any) -> np.ndarray:
        """Sums over the trailing dimensions that the losses do not have; over everything where rows share the argument."""
        own = self.losses.dims if self.gradient.dims[: len(self.losses.dims)] == self.losses.dims else ()
        return np.sum(x, axis=tuple(range(len(own), np.ndim(x))))


def claims(contract: Contract) -> Iterator[Claim]:
    if any(output.gradient_of for output in contract.outputs.values()):
        yield Claim(
            f"{contract.name}.slopes",
            contract,
            f"Every gradient of {contract.name} is the slope of the losses that it returns.",
            "Fourth-order differences of its own losses along a random direction, within truncation and rounding.",
            slopes_agree,
        )


def slopes_agree(run: Run, contract: Contract) -> Evidence:
    absent = run.subject.missing.get(contract.name, set())
    due = [o for o in contract.outputs.values() if o.gradient_of and o.name not in absent]
    return Evidence.of(_slope_agrees(run, contract, gradient) for gradient in due)


def _slope_agrees(run: Run, contract: Contract, gradient: Output) -> Result:
    line, step, tolerance = _sharpest_line(contract, gradient, run)
    requests = {0: line.inputs, **line.points(step, run.subject.dtype)}
    try:
        answers = {k: run.subject.ask(contract, inputs) for k, inputs in requests.items()}
    except NoAnswer as none:
        return none.result
    losses = {k: answers[k][line.losses.name].astype(np.float64) for k in STENCIL}
    slope, quotient = line.slope(answers[0][gradient.name]), line.quotient(losses, step)
    ratios = np.abs(slope - quotient) / tolerance
    worst = float(np.max(ratios, initial=0.0)) if np.all(np.isfinite(ratios)) else np.inf
    if worst <= 1:
        return Result(worst)
    detail = f"along a direction its slope is {slope.tolist()}, its losses say {quotient.tolist()} +- {tolerance.tolist()}"
    message = f"{gradient.name} is not the slope of {line.losses.name}"
    return Result(worst, (Failure(message, contract.name, line.inputs, (detail,)),))


def _sharpest_line(contract: Contract, gradient: Output, run: Run) -> tuple[Line, float, np.ndarray]:
    """An ordinary case whose four points stay away from ties, and the step at which the quotient can be trusted most."""
    rng = np.random.default_rng([run.seed, *gradient.name.encode()])
    for _ in range(50):
        inputs = cases.draw(contract.name, "ordinary", rng, run.subject.dtype).inputs
        argument = inputs[str(gradient.with_respect_to)]
        size = np.exp2(np.floor(np.log2(np.clip(np.abs(argument), 2.0**-20, 1.0))))
        line = Line(gradient, contract.outputs[str(gradient.gradient_of)], inputs, size * rng.choice([-1.0, 1.0], size.shape))
        try:
            tolerances = {step: _tolerance(line, contract, step, run.subject.dtype) for step in STEPS[run.subject.dtype]}
        except (NearTie, NoLimit):
            continue
        step = min(tolerances, key=lambda step: float(np.sum(tolerances[step])))
        return line, step, tolerances[step]
    raise AssertionError(f"{contract.name}: found no ordinary case away from ties")


def _tolerance(line: Line, contract: Contract, step: float, dtype: str) -> np.ndarray:
    coarse, fine = (
        {k: exact_answer(contract.name, x)[line.losses.name] for k, x in line.points(h, kind).items()}
        for h, kind in ((step, dtype), (TINY, "float64"))
    )
    quotients = (line.quotient({k: losses.value for k, losses in at.items()}, h) for at, h in ((coarse, step), (fine, TINY)))
    truncation = 2 * np.abs(np.asarray(np.subtract(*quotients), dtype=np.float64))
    rounding = sum(abs(weight) * bounds(coarse[k], dtype) for k, weight in STENCIL.items())
    own = bounds(exact_answer(contract.name, line.inputs)[line.gradient.name], dtype) * np.abs(line.direction)
    return truncation + line._per_loss(rounding) / (12 * step) + line._per_loss(own)
