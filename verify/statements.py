"""Claims about the mathematics, and claims that train something: loaded and decided only when asked for.

They say nothing about the implementation that is judged. Kinds, counted apart: `theory`, proved or measured on finite worlds;
`errata`, where a belief is refuted and its correction holds; `experiment`, what the toy worlds back; `model`, that the ways of
training the tiny GPT are one; `pipeline`, that nothing is lost on the way from text to its step; `sampled`, what methods that
sample come to, which takes long and is decided by name alone.
"""

import fnmatch
import importlib
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from toy import NAMES
from toy.experiment import HOLDS, INCONCLUSIVE, Measured, Reading, Statement, described, span

FEW = 20  # statements that are shown in full though they hold
KINDS = {  # of the modules that state something
    **{f"toy.{name}": "experiment" for name in NAMES},
    "verify.theory.symbolic": "theory",
    "verify.theory.worlds": "theory",
    "verify.theory.errata_dpo": "errata",
    "verify.theory.errata_family": "errata",
    "verify.experiments.model": "model",
    "verify.experiments.pipeline": "pipeline",
    "verify.experiments.on_policy": "model",
    "verify.experiments.sampled": "sampled",
}


class Ruling(NamedTuple):
    """A statement's verdict (HOLDS, FAILS, INCONCLUSIVE) and what it rests on."""

    kind: str
    statement: Statement
    measured: Measured

    @property
    def verdict(self) -> str:
        return self.measured.verdict(self.statement.allowed)


def stated(module: str) -> list[Statement]:
    """What a module of KINDS states, in its order. Raises ModuleNotFoundError where something it needs is not installed."""
    loaded = importlib.import_module(module)
    if module.startswith("toy."):
        return list(loaded.EXPERIMENT.statements)
    from verify.theory.claim import STATED

    return STATED[module]


class Chosen(NamedTuple):
    """Statements by module, and by module why it cannot be loaded."""

    statements: dict[str, list[Statement]]
    absent: dict[str, str]


def select(glob: str, kinds: Iterable[str] = ("theory", "errata", "experiment", "model", "pipeline")) -> Chosen:
    """The statements of some kinds whose id matches; those of `sampled` only where they are named."""
    chosen, head = Chosen({}, {}), re.split(r"[*?[]", glob)[0]
    for module, kind in KINDS.items():
        prefix = module.replace("_", "-") + "." if kind == "experiment" else f"{kind}."
        named = kind == "sampled" and head.startswith(prefix)
        if not named and (kind not in kinds or not (head.startswith(prefix) or prefix.startswith(head))):
            continue
        try:
            found = [statement for statement in stated(module) if fnmatch.fnmatchcase(statement.id, glob)]
        except ModuleNotFoundError as error:
            chosen.absent[module] = f"it needs {error.name}, which is not installed"
        else:
            if found:
                chosen.statements[module] = found
    return chosen


def decide(chosen: dict[str, list[Statement]], seed: int) -> Iterator[Ruling]:
    """A ruling for each, in order. Modules run beside each other, two at a time; an error inside one ends the run.

    Of what takes minutes each statement runs alone, so that one sees how far it is.
    """
    slow = [(module, [statement]) for module in chosen if KINDS[module] == "sampled" for statement in chosen[module]]
    parts = [(module, found) for module, found in chosen.items() if KINDS[module] != "sampled"] + slow
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        names = [[statement.id for statement in part] for _, part in parts]
        answers = pool.map(measure, [module for module, _ in parts], names, [seed] * len(parts))
        for (module, part), measured in zip(parts, answers, strict=True):
            yield from (Ruling(KINDS[module], s, m) for s, m in zip(part, measured, strict=True))


def measure(module: str, names: Iterable[str], seed: int) -> list[Measured]:
    """What some statements of a module measure: of an experiment that has run once, or each with its own generator."""
    by_id = {statement.id: statement for statement in stated(module)}
    if module.startswith("toy."):
        numbers = importlib.import_module(module).EXPERIMENT.run(seed)
        return [by_id[name].read(numbers) for name in names]
    return [by_id[name].read(np.random.default_rng(seed)) for name in names]


def text(rulings: list[Ruling]) -> str:
    """What does not hold, in full, or all of a few; and a line of counts for each kind."""
    shown = rulings if len(rulings) <= FEW else [ruling for ruling in rulings if ruling.verdict != HOLDS]
    return "\n".join([*(described(ruling.statement, ruling.measured) + "\n" for ruling in shown), *counts(rulings)])


def counts(rulings: list[Ruling]) -> list[str]:
    """A line for each kind."""
    kinds = dict.fromkeys(ruling.kind for ruling in rulings)
    return [_count([ruling for ruling in rulings if ruling.kind == kind]) for kind in kinds]


def _count(rulings: list[Ruling]) -> str:
    """As `theory: 52 hold, 0 fail`; of errata also how many beliefs are refuted, and where they stand."""
    kind, total = rulings[0].kind, len(rulings)
    hold, unclear = (sum(r.verdict == verdict for r in rulings) for verdict in (HOLDS, INCONCLUSIVE))
    refuted = sum(r.measured.false.refutes(r.statement.allowed) for r in rulings)
    beliefs = f"{refuted} of {total} beliefs REFUTED (verify/theory/ERRATA.md), corrections: " if kind == "errata" else ""
    inconclusive = f"{unclear} inconclusive, " if unclear else ""
    return f"{kind}: {beliefs}{hold} hold, {inconclusive}{total - hold - unclear} fail"


def entry(ruling: Ruling) -> dict[str, Any]:
    """A ruling for programs."""
    statement, (true, false, numbers) = ruling.statement, ruling.measured
    return {
        "id": statement.id,
        "kind": ruling.kind,
        "statement": statement.statement,
        "verdict": ruling.verdict,
        "measured": {"what": statement.measured, **_reading(true), "allowed": list(map(number, statement.allowed))},
        "false_variant": {"statement": statement.false, **_reading(false)},
        "shown": statement.shown.format(**numbers),
        "apart": {} if statement.shown else {name: number(value) for name, value in numbers.items()},
    }


def _reading(reading: Reading) -> dict[str, Any]:
    numbers = {"value": reading.value, "standard_error": reading.error, "detects_beyond": reading.detectable}
    return {name: number(value) for name, value in numbers.items()}


def number(value: float) -> float | str:
    """As JSON has it, which knows no infinities and no NaN."""
    return value if math.isfinite(value) else str(value)


def explain(statement: Statement) -> str:
    """The statement, its source, how it is measured, what is allowed, its false variant; and the code that decides."""
    belief = f"Often written, and refuted: {statement.false}"
    variant = f"False variant, which must lie outside: {statement.false}"
    lines = [statement.id, f"  {statement.statement}", belief if statement.shown else variant]
    lines += [f"Source: {statement.source}", f"Measured: {statement.measured}", f"Holds within: {span(statement.allowed)}"]
    if statement.id.startswith("toy."):
        return "\n".join([*lines, f"Decided by: toy/{statement.id.split('.')[1].replace('-', '_')}.py"])
    function = inspect.unwrap(statement.read)
    code = re.sub(r'\n    """.*?"""(?=\n)', "", inspect.getsource(function), count=1, flags=re.S)
    return "\n".join([*lines, f"Decided by, in {function.__module__}:", textwrap.indent(code.rstrip(), "  ")])
