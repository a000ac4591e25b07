"""How theory claims are written: a function that measures, under a decorator that says what is claimed.

The docstring of such a function is the claim: fields of text, each on lines of its own. `@exact` and `@erratum` functions take
a random generator and return the numbers of the statement and of its false variant. `@symbolic` functions return two
expressions, the statement's to vanish identically and its false variant's not to.
"""

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import numpy as np

from toy.experiment import Measured, Reading, Statement

Measure = Callable[[np.random.Generator], Measured]
Range = tuple[float, float]

WRONG, CONDITIONAL = "wrong", "only under conditions"


class Erratum(NamedTuple):
    """A belief often written, refuted by a counterexample in numbers, and its correction, which holds."""

    statement: Statement  # the correction; its false variant is the belief, its `shown` the counterexample
    verdict: str  # on the belief: WRONG or CONDITIONAL


class Documentary(NamedTuple):
    """A belief about history or bibliography: no computation decides it."""

    belief: str
    correction: str
    source: str


STATED: dict[str, list[Statement]] = {}  # all of them, by the module that states them
ERRATA: list[Erratum] = []


def exact(name: str, allowed: Range, measured: str = "", kind: str = "theory") -> Callable[[Measure], Statement]:
    """Registers a claim `<kind>.<name>`. Fields: the statement first, Source, False, and Measured, else what is given here."""

    def register(measure: Measure) -> Statement:
        said = fields(measure)
        return _stated(f"{kind}.{name}", said, allowed, said.get("Measured", measured), measure.__module__, measure)

    return register


def symbolic(name: str) -> Callable[[Callable[[], tuple[Any, Any]]], Statement]:
    """Registers a claim `theory.<name>` that is proved: its expressions vanish identically, and the false variant's do not."""

    def register(derive: Callable[[], tuple[Any, Any]]) -> Statement:
        @wraps(derive)
        def measure(rng: np.random.Generator) -> Measured:
            true, false = derive()
            return Measured(Reading(_size(true, rng)), Reading(_size(false, rng)))

        left = "magnitude of what is left after simplification, 0 if nothing is"
        return _stated(f"theory.{name}", fields(derive), (0.0, 0.0), left, derive.__module__, measure)

    return register


def _stated(name: str, said: dict[str, str], allowed: Range, measured: str, module: str, measure: Measure) -> Statement:
    made = Statement(name, said[""], said["Source"], said["False"], allowed, measured, measure)
    STATED.setdefault(module, []).append(made)
    return made


def erratum(name: str, verdict: str, allowed: Range) -> Callable[[Measure], Erratum]:
    """Registers a claim `errata.<name>`: Belief, Truth, Source, Measured, and Shown, a template of the counterexample."""

    def register(measure: Measure) -> Erratum:
        said = fields(measure)
        texts = said["Truth"], said["Source"], said["Belief"]
        made = Erratum(Statement(f"errata.{name}", *texts, allowed, said["Measured"], measure, said["Shown"]), verdict)
        STATED.setdefault(measure.__module__, []).append(made.statement)
        ERRATA.append(made)
        return made

    return register


def fields(function: Callable[..., Any]) -> dict[str, str]:
    """The fields of a docstring, each from `Name: ` at the start of a line to the next. What stands first has the name ""."""
    text = inspect.cleandoc(function.__doc__ or "")
    first, *rest = re.split(r"^(Belief|False|Measured|Shown|Source|Truth): ", text, flags=re.M)
    return {name: " ".join(said.split()) for name, said in zip(["", *rest[::2]], [first, *rest[1::2]], strict=True)}


def _size(expressions: Any, rng: np.random.Generator) -> float:
    """0 if every expression simplifies to 0, else the largest magnitude at a random point where all symbols are positive."""
    import sympy

    listed = [sympy.simplify(e) for e in (expressions if isinstance(expressions, (list, tuple)) else [expressions])]
    left = [expression for expression in listed if expression != 0]
    symbols = sorted({s for e in left for s in e.free_symbols}, key=str)
    point = {symbol: sympy.Float(rng.uniform(0.2, 0.9), 30) for symbol in symbols}
    return max((abs(float(e.evalf(30, subs=point))) for e in left), default=0.0)
