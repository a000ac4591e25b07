"""What usually causes a wrong answer: which known mistake gives the same numbers.

An implementation that is off is asked the operation's frozen vectors. Every bug that the museum has of the operation, and every
small change of the specification's lines, is run on the same requests: one explains an answer if it gives all of its outputs
within the judge's bound, and is off itself. What no change explains is narrowed down by what the vectors that fail, and none
that passes, are there to catch.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from verify import vectors
from verify.bugs import museum
from verify.bugs.mutants import mutants
from verify.bugs.specimen import SOURCES, defined, specimen
from verify.bugs.trials import Overtime, time_limit
from verify.contract import ALL, MODELS, Contract
from verify.judge import FACTOR, Exact, bounds, compare
from verify.subject import Failure, Inputs, NoAnswer, Subject, compared, exact_answer
from verify.vectors import Vector
from verify.vectors.notes import notes
from verify.weights import Weights

SHOWN = 3  # of changes that explain equally much

Answer = dict[str, np.ndarray]


class Asked(NamedTuple):
    """A legal request, its answer, and the outputs that are off."""

    inputs: Inputs
    answer: Answer
    expected: Mapping[str, Exact]
    off: list[str]


class Change(NamedTuple):
    """A way to be wrong: the changed text of a file of the specification, and what to say of it."""

    file: str
    source: str
    told: str


class Diagnosis(NamedTuple):
    """The outputs that are right where others are off; how many legal requests are off, and how many of them the changes
    explain; what mistakes the vectors leave possible; and whether all that is off is right in single precision. Of a request to
    be refused, the changes that accept it too."""

    right: list[str]
    off: int
    explained: int
    changes: list[Change]
    suspected: list[str]
    single: bool = False


def diagnose(subject: Subject, failure: Failure, *, legal: bool) -> Diagnosis:
    """What may have caused a failure, on a legal request or on one to be refused, asked of the implementation and of changed
    copies of the specification."""
    contract = ALL[failure.operation]
    if not legal:
        bugs = _of_museum(contract) if failure.message.startswith("accepted") else ()
        accepting = [bug for bug in bugs if _answers(bug, contract, [failure.inputs], subject) != [None]]
        return Diagnosis([], 0, 0, accepting[:SHOWN], [])
    due = [vector for vector in vectors.load(contract.name) if subject.dtype in vector.dtypes]
    asked = [_asked(subject, contract, failure.inputs, exact_answer(contract.name, failure.inputs))]
    asked += [_asked(subject, contract, vector.case.inputs, vector.expected) for vector in due]
    wrong = list({repr(x.inputs): x for x in asked if x and x.off}.values())
    suspected = _suspected(due, [bool(x and not x.off) for x in asked[1:]])
    if not wrong:
        return Diagnosis([], 0, 0, [], suspected)
    count, changes = _best(_of_museum(contract), wrong, contract, subject)
    if count <= len(wrong) / 2:
        count, changes = max((count, changes), _best(_of_lines(contract), wrong, contract, subject), key=lambda best: best[0])
    count, changes = (count, changes) if count > len(wrong) / 4 else (0, [])  # a coincidence
    right = [name for name in wrong[0].answer if name not in wrong[0].off]
    single = subject.dtype == "float64" and len(wrong) > len(due) / 2 and _in_single(wrong)
    return Diagnosis(right, len(wrong), count, changes, suspected, single)


def _in_single(wrong: list[Asked]) -> bool:
    """Whether all that is wrong in double precision is right in single."""
    return not any(compare(x.expected, x.answer, "float32")[1] for x in wrong)


def _asked(subject: Subject, contract: Contract, inputs: Inputs, expected: Mapping[str, Exact]) -> Asked | None:
    """None where there is no answer."""
    with contextlib.suppress(NoAnswer):
        answer = subject.ask(contract, inputs)
        off = dict.fromkeys(miss.output for miss in compare(expected, answer, subject.dtype)[1])
        return Asked(inputs, answer, expected, list(off))
    return None


def _suspected(due: list[Vector], right: list[bool]) -> list[str]:
    """The effects of mistakes that only failing vectors catch; if there is none, of those that they catch. They say nothing
    where the first, an ordinary one, fails."""
    flags = {which: {f for v, x in zip(due, right, strict=True) if x is which for f in v.case.flags} for which in (True, False)}
    suspects = flags[False] - flags[True] or flags[False] if right[0] else set()
    return [note.effect for note in notes(due[0].case.operation) if note.flag in suspects] if suspects else []


def _of_museum(contract: Contract) -> Iterator[Change]:
    for bug in museum.by_operation(contract.name):
        yield Change(bug.file, bug.apply(), f"{bug.id}: {bug.history} {bug.link}")


def _of_lines(contract: Contract) -> Iterator[Change]:
    for file in (file for file in SOURCES if contract.name in defined(file)):
        for mutant in mutants(file, SOURCES[file]):
            before, after = mutant.lines(SOURCES[file])
            told = f"minipref/{file}, line {mutant.line}:\n  - {before}\n  + {after}"
            yield Change(file, mutant.apply(SOURCES[file]), told)


def _best(changes: Iterable[Change], wrong: list[Asked], contract: Contract, subject: Subject) -> tuple[int, list[Change]]:
    """In how many of the wrong answers some changes explain most, and these."""
    requests = [asked.inputs for asked in wrong]
    counted = []
    for change in changes:
        made = _answers(change, contract, requests, subject)
        counted.append((sum(_explains(x, asked, subject.dtype) for x, asked in zip(made, wrong, strict=True)), change))
    most = max((count for count, _ in counted), default=0)
    return most, [change for count, change in counted if count == most][:SHOWN]


def _answers(change: Change, contract: Contract, requests: list[Inputs], subject: Subject) -> list[Answer | None]:
    """What the changed specification answers; None where it raises, or hangs, or cannot be loaded."""
    try:
        with specimen(change.file, change.source, models=contract.name in MODELS) as operations:
            return [_called(operations[contract.name], contract, inputs, subject) for inputs in requests]
    except Exception:
        return [None] * len(requests)


def _called(operation: Callable[..., Any], contract: Contract, inputs: Inputs, subject: Subject) -> Answer | None:
    arguments = {name: _argument(value, subject) for name, value in inputs.items()}
    try:
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"), time_limit():
            result = operation(**arguments)
        given = result._asdict() if hasattr(result, "_asdict") else result
        parts = [compared(contract.outputs[name], value, inputs) for name, value in given.items()]
        return {name: np.asarray(x) for part in parts for name, x in part.items()}
    except (Exception, Overtime):
        return None


def _argument(value: Any, subject: Subject) -> Any:
    """As a Python module gets it."""
    if isinstance(value, Weights):
        return os.path.join(subject.directory, value.placed(subject.directory, subject.dtype))
    return value.astype(subject.dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def _explains(made: Answer | None, asked: Asked, dtype: str) -> bool:
    """Whether a change gives every output that came, and is off where they are."""
    if made is None or not all(_near(x, made.get(name), asked.expected[name], dtype) for name, x in asked.answer.items()):
        return False
    misses = compare(asked.expected, {name: made[name] for name in asked.off}, dtype)[1]
    return {miss.output for miss in misses} == set(asked.off)


def _near(came: np.ndarray, made: np.ndarray | None, exact: Exact, dtype: str) -> bool:
    """Whether two answers are one: within the bound of the exact answer, and of one as large as they are. NaN is NaN here."""
    if made is None or came.shape != made.shape:
        return False
    x, y = came.astype(float), made.astype(float)
    axes = tuple(range(exact.scale.ndim, x.ndim))
    with np.errstate(all="ignore"):
        away = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y)).max(axis=axes, initial=0.0)
        size = np.where(np.isfinite(y), np.abs(y), 0.0).max(axis=axes, initial=0.0)
    return bool(np.all(away <= bounds(exact, dtype) + FACTOR * np.finfo(dtype).eps / 2 * exact.terms * size))
