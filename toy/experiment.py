"""What an experiment is: a function that returns numbers, a figure of them, and the statements that they back.

A statement is true where the number measured for it lies in the range it allows. The same measurement of a declared
false variant must lie outside: one that cannot tell the two apart proves nothing. Sampled numbers carry their standard error.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOLDS, FAILS, INCONCLUSIVE = "HOLDS", "FAILS", "INCONCLUSIVE"
INTERVAL, POWER = 3.2905, 2.3263  # normal quantiles: intervals of 99.9 %, a power of 99 %


class Reading(NamedTuple):
    """A measured number and its standard error, which is 0 where nothing was sampled."""

    value: float
    error: float = 0.0

    @classmethod
    def worst(cls, *residuals: Any) -> "Reading":
        """The largest magnitude in some arrays; NaN if any is."""
        return cls(float(np.max([np.max(np.abs(residual)) for residual in residuals])))

    @classmethod
    def mean(cls, samples: Any) -> "Reading":
        """The mean of independent samples, its error that much larger as Student's interval of so few is wider."""
        return cls(float(np.mean(samples)), float(np.std(samples, ddof=1) / math.sqrt(len(samples))) * student(len(samples)))

    @property
    def interval(self) -> tuple[float, float]:
        """Its 99.9 % interval."""
        return self.value - INTERVAL * self.error, self.value + INTERVAL * self.error

    @property
    def detectable(self) -> float:
        """How far beyond the allowed range a truth is found out with a chance of 99 %."""
        return (INTERVAL + POWER) * self.error

    def verdict(self, allowed: tuple[float, float]) -> str:
        """HOLDS if the whole interval is allowed, INCONCLUSIVE if a part is, else FAILS, as NaN does."""
        low, high = self.interval
        if allowed[0] <= low and high <= allowed[1]:
            return HOLDS
        return INCONCLUSIVE if low <= allowed[1] and high >= allowed[0] else FAILS

    def refutes(self, allowed: tuple[float, float]) -> bool:
        """Whether the whole interval lies outside, by enough to be found with a chance of 99 %. NaN refutes nothing."""
        return self.value + self.detectable < allowed[0] or self.value - self.detectable > allowed[1]


@cache
def student(samples: int) -> float:
    """Student's 99.9 % interval of a mean over the normal one: 3.9 for four samples, 1.01 for 256."""
    from scipy.stats import t  # takes half a second to import, which what samples nothing need not wait for

    return float(t.ppf(0.9995, samples - 1)) / INTERVAL


class Measured(NamedTuple):
    """A statement's number, its false variant's, and what else a reader wants to see, by name."""

    true: Reading
    false: Reading
    numbers: dict[str, Any] = {}

    def verdict(self, allowed: tuple[float, float]) -> str:
        """The statement's, but FAILS where its false variant is not refuted."""
        return self.true.verdict(allowed) if self.false.refutes(allowed) else FAILS


class Statement(NamedTuple):
    """A sentence somebody could doubt, and how it is decided."""

    id: str
    statement: str
    source: str
    false: str  # the variant that is not true
    allowed: tuple[float, float]
    measured: str  # what the number is
    read: Callable[[Any], Measured]  # from an experiment's numbers
    shown: str = ""  # of an erratum: the counterexample, a template for the numbers measured


def rows(text: str) -> list[list[str]]:
    """The rows of a table of statements, each in five fields; a line that begins with four spaces continues its row.

        name | statement | its false variant | source | allowed range: what is measured

    Raises ValueError where a row has not five fields.
    """
    found = [row.split(" | ") for row in text.strip().replace("\n    ", " ").splitlines()]
    for row in found:
        if len(row) != 5:
            raise ValueError(f"a row of statements must have five fields, {row[0]} has {len(row)}")
    return found


def stated(prefix: str, text: str, measures: Mapping[str, Callable[[Any], Measured]]) -> tuple[Statement, ...]:
    """The statements of such a table, with the ids `<prefix>.<name>`; `measures` has by name what each reads from numbers.

    Raises ValueError as `rows` does, and where a row has no measure or a measure no row.
    """
    found = rows(text)
    if alone := {name for name, *_ in found} ^ measures.keys():
        raise ValueError(f"each row must have a measure and each measure a row, {prefix}.{min(alone)} stands alone")
    statements = []
    for name, statement, false, source, decided in found:
        allowed, measured = decided.split(": ", 1)
        low, high = map(float, allowed.split(", "))
        statements.append(Statement(f"{prefix}.{name}", statement, source, false, (low, high), measured, measures[name]))
    return tuple(statements)


class Experiment(NamedTuple):
    """One file of this folder. `run` takes a seed and returns its numbers, which all else is made from."""

    title: str
    run: Callable[[int], Any]
    report: Callable[[Any], str]  # the numbers as text
    draw: Callable[[Any, "Figure"], None]  # on an empty figure of 8 by 5 inches, or as `size` says
    statements: tuple[Statement, ...]
    size: tuple[float, float] = (8.0, 5.0)


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Columns of text: the first to the left, the others to the right; numbers with four significant digits."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def described(statement: Statement, measured: Measured) -> str:
    """The verdict, the sentence, what was measured for it, what the same measurement gives for its false variant, and what else
    there is to see."""
    true, false, numbers = measured
    detects = f", detects {true.detectable:.2g} beyond" if true.error else ""
    refuted = "REFUTED" if false.refutes(statement.allowed) else "not refuted"
    lines = [
        statement.statement,
        f"measured {said(true)}, allowed {span(statement.allowed)}{detects}: {statement.measured}",
        f"false variant {said(false)}, {refuted}: {statement.false}",
    ]
    if numbers and not statement.shown:
        lines.append("apart: " + ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()))
    if statement.shown:
        belief = f"often written, {refuted}: {statement.false}"
        lines = [belief, statement.shown.format(**numbers), f"what is true: {lines[0]}", f"{lines[1]}; belief {said(false)}"]
    body = (textwrap.fill(line, 120, initial_indent="  ", subsequent_indent="    ") for line in lines)
    return "\n".join([f"{measured.verdict(statement.allowed)} {statement.id}", *body])


def said(reading: Reading) -> str:
    """A number, with its 99.9 % interval if it has one."""
    return f"{reading.value:.3g}" + (f" ± {INTERVAL * reading.error:.2g}" if reading.error else "")


def span(allowed: tuple[float, float]) -> str:
    """A range, as text."""
    return f"[{allowed[0]:.10g}, {allowed[1]:.10g}]"


def save(experiment: Experiment, numbers: Any, path: Path) -> None:
    """Draw the figure into a file; its ending (.svg, .png) says how. Raises ImportError without matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=experiment.size, layout="constrained")
        experiment.draw(numbers, figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=144)


STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.prop_cycle": "cycler('color', ['0072b2', 'd55e00', '009e73', 'cc79a7', '555555'])",  # C0 to C4: colour-blind safe
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 10.0,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "minipref",
}
