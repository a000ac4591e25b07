"""What a changed specification is tried on: vectors, polluted masks, invalid inputs, fresh cases, searched ones.

The judge is the one that judges everybody: the same bound, the same cases. Of our own code more is asked than of a port: errors
are ValueErrors that open with the argument and its rule; arrays have the dtype of the case, whatever NumPy's own numbers are;
inputs are read-only; a reference of -inf under a finite policy is refused, and so is a boolean for a number; defaults
and description are those of the frozen contract; reductions work along every axis; and nothing takes a second.
"""

import json
import re
import signal
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase

from verify import cases, oracle, vectors
from verify.cases.laws import counts
from verify.contract import CONTRACTS, MODELS, PATH, Contract
from verify.judge import Exact, compare
from verify.subject import compared
from verify.weights import Weights

SECONDS = 1.0
SEARCHED = 25
KINDS = {"float": "f", "int": "iu", "bool": "b"}


class Trial(NamedTuple):
    """One request, and what is due: exact answers, or where `expected` is None an error."""

    operation: str
    name: str
    dtype: str
    arguments: dict[str, Any]
    expected: Mapping[str, Exact] | None
    complaint: str = ""  # the pattern that its message begins with
    flags: tuple[str, ...] = ()  # of the vector that it is
    accepted: dict[str, np.ndarray] | None = None  # an answer that was judged right: the same bits need no judge


class Overtime(BaseException):
    """A trial took longer than SECONDS."""


def trials(operation: str, seed: int) -> list[Trial]:
    """All trials of an operation, the frozen first."""
    if operation in MODELS:
        return list(_of_model(MODELS[operation]))
    contract = CONTRACTS[operation]
    frozen = (_vectors(contract), _polluted(contract, seed), _numpy_numbers(contract), _defaults(contract))
    refused = (_invalid, _unsupported, _not_numbers, _without_entries, _overflowing)
    makers = (*frozen, *(make(contract) for make in refused), _fresh(contract, seed), _searched(contract))
    return [trial for maker in makers for trial in maker]


def finding(operations: Mapping[str, Any], trial: Trial) -> str:
    """What is wrong with the answer to a trial; empty if nothing is."""
    try:
        with time_limit():
            answer = operations[trial.operation](**trial.arguments)
    except Overtime:
        return f"takes more than {SECONDS:g} s"
    except Exception as error:
        return _wrong_error(trial, error)
    if trial.expected is None:
        return "answers where an error is due"
    if trial.operation in MODELS:
        return _wrong_answer_of_model(trial, trial.expected, answer)
    return _wrong_answer(trial, trial.expected, answer._asdict())


def with_accepted(operations: Mapping[str, Any], trial: Trial) -> Trial:
    """The trial with the answer of operations that passed it; as it is where an error is due, or a model answers."""
    if trial.expected is None or trial.operation in MODELS:
        return trial
    answer = operations[trial.operation](**trial.arguments)._asdict()
    return trial._replace(accepted={name: np.asarray(answer[name]) for name in trial.expected})


def misdescribed(operations: Mapping[str, Any]) -> str:
    """Whether the operations say of themselves anything else than the frozen contract; empty if they do not."""
    module = sys.modules[type(next(iter(operations.values()))).__module__]
    described, frozen = module.describe(operations), json.loads(PATH.read_bytes())["operations"]
    if json.dumps(described) != json.dumps(frozen):
        return "the contract is not the frozen one"
    return "" if all(op.__doc__ == op.formula.__doc__ for op in operations.values()) else "help() does not show the operation"


def unlike_numpy(operations: Mapping[str, Any]) -> str:
    """Whether a reduction of the array layer differs from NumPy's along any axis; empty if none does."""
    module = sys.modules[type(next(iter(operations.values()))).__module__.replace("contract", "arrays")]
    x = np.arange(24.0).reshape(2, 3, 4) ** 0.5
    calls = [{"axis": axis, "keepdims": keepdims} for axis in (0, 1, 2) for keepdims in (False, True)]
    for name in ("sum", "mean", "max"):
        for arguments in (*calls, *({"axis": axis} for axis in (0, 1, 2))):
            if not np.allclose(getattr(module, f"{name}_over")(x, **arguments), getattr(np, name)(x, **arguments), 1e-12):
                return f"{name}_over is not NumPy's {name} for {arguments}"
    expected = np.log(np.exp(x).sum(axis=-1))
    return "" if np.allclose(module.logsumexp(x), expected, 1e-12) else "logsumexp is not along the last axis"


@contextmanager
def time_limit() -> Iterator[None]:
    """Raises Overtime in what takes longer than SECONDS. In the main thread only, as signals are."""
    before = signal.signal(signal.SIGALRM, _overtime)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _overtime(*_: object) -> None:
    raise Overtime


def _wrong_error(trial: Trial, error: Exception) -> str:
    message = f"{type(error).__name__}: {error}"
    if trial.expected is not None:
        return f"raises {message}"
    due = isinstance(error, ValueError) and re.match(trial.complaint, str(error))
    return "" if due else f"raises {message}, due is a ValueError like {trial.complaint!r}"


def _wrong_answer(trial: Trial, expected: Mapping[str, Exact], answer: dict[str, Any]) -> str:
    contract = CONTRACTS[trial.operation]
    for name, output in contract.outputs.items():
        array, shape = np.asarray(answer.get(name)), expected[name].value.shape
        if array.dtype.kind not in KINDS[output.kind] or array.shape != shape:
            return f"{name} is {array.dtype}{list(array.shape)}, expected {output.kind}{list(shape)}"
        if output.kind == "float" and array.dtype != trial.dtype and _says_precision(contract):
            return f"{name} is {array.dtype}, expected {trial.dtype}"
        answer[name] = array
    if trial.accepted and all(np.array_equal(answer[name], array) for name, array in trial.accepted.items()):
        return ""
    _, misses = compare(expected, answer, trial.dtype)
    return str(misses[0]) if misses else ""


def _wrong_answer_of_model(trial: Trial, expected: Mapping[str, Exact], answer: dict[str, Any]) -> str:
    outputs = [MODELS[trial.operation].outputs[name] for name in answer]
    found = {part: x for o in outputs for part, x in compared(o, answer[o.name], trial.arguments).items()}
    _, misses = compare(expected, {name: np.asarray(x) for name, x in found.items()}, trial.dtype)
    return str(misses[0]) if misses else "" if found.keys() == expected.keys() else "answers in part"


def _of_model(contract: Contract) -> Iterator[Trial]:
    """Vectors and invalid requests, with weights as the files that they are in."""
    for vector in vectors.load(contract.name):
        named = _placed(vector.case.inputs)
        yield Trial(contract.name, f"vector {vector.id}, float64", "float64", named, vector.expected)
    for case in cases.invalid(contract.name, "float64"):
        yield Trial(contract.name, f"invalid: {case.argument} {case.rule}", "float64", _placed(case.sent()), None)


def _placed(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: str(vectors.path(x.name)) if isinstance(x, Weights) else x for name, x in inputs.items()}


def _says_precision(contract: Contract) -> bool:
    return any(argument.kind == "float" for argument in contract.inputs.values())


def _vectors(contract: Contract) -> Iterator[Trial]:
    for vector in vectors.load(contract.name):
        for dtype in vector.dtypes:
            trial = _legal(contract, f"vector {vector.id}", dtype, vector.case.inputs, vector.expected)
            yield trial._replace(flags=vector.case.flags)


def _polluted(contract: Contract, seed: int) -> Iterator[Trial]:
    """Vectors with NaN, infinities and impossible tokens wherever nothing counts."""
    rng = np.random.default_rng([seed, zlib.crc32(contract.name.encode())])
    for vector in vectors.load(contract.name) if contract.mask else []:
        inputs = cases.polluted(contract, vector.case.inputs, rng)
        yield _legal(contract, f"vector {vector.id}, polluted", "float64", inputs, vector.expected)


def _defaults(contract: Contract) -> Iterator[Trial]:
    """Vectors without the arguments that have a default in the frozen contract."""
    listed = json.loads(PATH.read_bytes())["operations"][contract.name]["inputs"]
    defaults = {name: entry["default"] for name, entry in listed.items() if "default" in entry}
    for vector in vectors.load(contract.name) if defaults else []:
        inputs = {**vector.case.inputs, **defaults}
        with suppress(oracle.NearTie, oracle.NoLimit):
            expected = oracle.answer(contract.name, inputs)
            sent = {name: value for name, value in inputs.items() if name not in defaults}
            yield _legal(contract, f"vector {vector.id} by default", "float64", sent, expected)


def _numpy_numbers(contract: Contract) -> Iterator[Trial]:
    """The first vector with its numbers as NumPy's, in double precision: arrays in single precision stay so."""
    vector = vectors.load(contract.name)[0]
    trial = _legal(contract, "vector 1 with NumPy's numbers", vector.dtypes[-1], vector.case.inputs, vector.expected)
    numbers = {name: np.float64(x) for name, x in trial.arguments.items() if isinstance(x, float)}
    yield trial._replace(arguments={**trial.arguments, **numbers})


def _not_numbers(contract: Contract) -> Iterator[Trial]:
    inputs = vectors.load(contract.name)[0].case.inputs
    for name, argument in contract.inputs.items():
        if argument.kind == "scalar":
            arguments = _arguments({**inputs, name: True}, "float64")
            yield Trial(contract.name, f"invalid: {name} True", "float64", arguments, None, f"{contract.name}: {name} ")


def _invalid(contract: Contract) -> Iterator[Trial]:
    for case in cases.invalid(contract.name, "float64"):
        arguments = _arguments(case.sent(), "float64")
        rule = f" {case.rule}" if (case.argument, case.rule) in contract.rules else " "
        # Of two arguments whose sizes differ either may be named first.
        complaint = f"{contract.name}: ({case.argument}{re.escape(rule)}|.* like {case.argument}, )"
        if case.rule == "NaN" and contract.inputs[case.argument].kind == "float":
            legal = "must .* or be -inf, got" if contract.inputs[case.argument].minus_infinity else "(?!.* or be -inf)"
            complaint = f"{contract.name}: {case.argument} {legal}"
        yield Trial(contract.name, f"invalid: {case.argument} {case.rule}", "float64", arguments, None, complaint)


def _unsupported(contract: Contract) -> Iterator[Trial]:
    """Where each reference that has a policy is -inf at the first place that counts, and the policy is not."""
    inputs = vectors.load(contract.name)[0].case.inputs
    for name, argument in contract.inputs.items():
        if name.startswith("reference_") and argument.minus_infinity and contract.name != "optimal_policy":
            moved = inputs[name].copy()
            moved[tuple(np.argwhere(counts(contract, argument, inputs))[0])] = -np.inf
            arguments = _arguments({**inputs, name: moved}, "float64")
            rule = f"{name} -inf under a finite policy"
            yield Trial(contract.name, f"invalid: {rule}", "float64", arguments, None, f"{contract.name}: {name} ")


def _without_entries(contract: Contract) -> Iterator[Trial]:
    """Vector 1 with nothing along a dimension that must have something, in all arrays that have it."""
    inputs = vectors.load(contract.name)[0].case.inputs
    for dim in {dim for argument in contract.inputs.values() for dim in argument.dims} - {"N", "B"}:
        emptied = {
            name: np.take(x, [], axis=argument.dims.index(dim)) if dim in argument.dims else x
            for (name, x), argument in zip(inputs.items(), contract.inputs.values(), strict=True)
        }
        arguments = _arguments(emptied, "float64")
        yield Trial(contract.name, f"invalid: {dim} = 0", "float64", arguments, None, f"{contract.name}: .* {dim} >= 1")


def _overflowing(contract: Contract) -> Iterator[Trial]:
    """IPO's log-ratios beyond the largest double: finite inputs whose gap, as the text subtracts, is inf - inf."""
    inputs = vectors.load(contract.name)[0].case.inputs
    if contract.name == "ipo":
        ends = {"policy": -1.7e308, "reference": 1.7e308}
        far = {name: x * 0 + ends[name.split("_")[0]] if name.endswith("logps") else x for name, x in inputs.items()}
        complaint = f"{contract.name}: .* finite inputs overflow"
        yield Trial(contract.name, "invalid: overflow", "float64", _arguments(far, "float64"), None, complaint)


def _fresh(contract: Contract, seed: int) -> Iterator[Trial]:
    count = len(cases.regimes(contract.name))
    for dtype in ("float64", "float32") if _says_precision(contract) else ("float64",):
        for case in cases.fresh(contract.name, dtype, seed, count):
            expected = oracle.answer(contract.name, case.inputs)
            yield _legal(contract, f"fresh, {case.regime}", dtype, case.inputs, expected)


def _searched(contract: Contract) -> Iterator[Trial]:
    """What hypothesis finds in the legal domain, the same in every run, where the oracle has an answer."""
    found: list[dict[str, Any]] = []
    settings = hypothesis.settings(
        max_examples=SEARCHED,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    settings(hypothesis.given(cases.strategy(contract.name, "float64"))(lambda inputs: found.append(inputs)))()
    for inputs in found:
        with suppress(oracle.NearTie, oracle.NoLimit):
            yield _legal(contract, "searched", "float64", inputs, oracle.answer(contract.name, inputs))


def _legal(contract: Contract, name: str, dtype: str, inputs: dict[str, Any], expected: Mapping[str, Exact]) -> Trial:
    return Trial(contract.name, f"{name}, {dtype}", dtype, _arguments(inputs, dtype), expected)


def _arguments(inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Arrays of the case's dtype, read-only; numbers as they are."""
    return {name: _read_only(value, dtype) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}


def _read_only(values: np.ndarray, dtype: str) -> np.ndarray:
    values = values.astype(dtype) if values.dtype.kind == "f" else values.copy()
    values.flags.writeable = False
    return values
