"""An implementation under judgement: asks it one operation at a time and reads what comes back against the contract."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from verify import oracle
from verify.contract import Contract
from verify.judge import Exact, Miss, compare
from verify.pipe import Session
from verify.protocol import Misbehaviour, Refusal, decode_output

Inputs = dict[str, Any]


class Failure(NamedTuple):
    """What went wrong in one case. The message is stable enough to be listed as a known deviation; details hold the numbers."""

    message: str
    operation: str
    inputs: Inputs
    details: tuple[str, ...] = ()


class Result(NamedTuple):
    """One case judged: worst error over bound, and what failed, one failure an output."""

    worst: float
    failures: tuple[Failure, ...] = ()


class NoAnswer(Exception):
    """A legal case was not answered."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.result = Result(np.inf, (failure,))


class Undeclared(Exception):
    """The implementation turns out not to have this operation."""


def value_outputs(contract: Contract) -> set[str]:
    """Outputs without which there is nothing to judge: the first, and those that gradients are of."""
    return {next(iter(contract.outputs))} | {o.gradient_of for o in contract.outputs.values() if o.gradient_of}


class Subject:
    """One running implementation, judged in one dtype. `missing` lists by operation the outputs that it does not give."""

    def __init__(self, session: Session, dtype: str, *, python: bool):
        self.session, self.dtype, self.python = session, dtype, python
        self.missing: dict[str, set[str]] = {}
        self.declared = set(session.declaration.operations)
        self.shrink_seconds = 8.0  # left for shrinking counterexamples, over all claims

    def ask(self, contract: Contract, inputs: Inputs, layout: str = "plain", dtype: str | None = None) -> dict[str, np.ndarray]:
        """Its outputs for a legal case. Raises NoAnswer for a refusal, a misbehaviour, or numbers and shapes that are none; and
        Undeclared."""
        dtype = dtype or self.dtype
        answer = self.session.run(contract.name, dtype, inputs, layout=layout)
        if isinstance(answer, Refusal):
            if answer.undeclared:
                self.undeclare(contract)
            raise NoAnswer(Failure("refused a legal case", contract.name, inputs, (answer.message,)))
        if isinstance(answer, Misbehaviour):
            raise NoAnswer(Failure(answer.kind, contract.name, inputs, (answer.message,)))
        named = {name: raw for name, raw in answer.values.items() if name in contract.outputs}
        outputs = {name: self._decoded(contract, inputs, name, raw, dtype) for name, raw in named.items()}
        self._check_presence(contract, inputs, set(outputs))
        return outputs

    def undeclare(self, contract: Contract) -> NoReturn:
        """Take an operation off the list for good: it said on its first call that it is not implemented."""
        self.declared.discard(contract.name)
        raise Undeclared(contract.name)

    def _decoded(self, contract: Contract, inputs: Inputs, name: str, raw: object, dtype: str) -> np.ndarray:
        try:
            return decode_output(raw, contract.shapes(inputs)[name], contract.outputs[name].kind, dtype)
        except ValueError as error:
            raise NoAnswer(Failure(f"{name} malformed", contract.name, inputs, (str(error),))) from None

    def _check_presence(self, contract: Contract, inputs: Inputs, present: set[str]) -> None:
        absent = set(contract.outputs) - present
        if absent & value_outputs(contract):
            raise NoAnswer(Failure("nothing to judge", contract.name, inputs, (f"missing: {', '.join(sorted(absent))}",)))
        if absent != self.missing.setdefault(contract.name, absent):
            raise NoAnswer(Failure("outputs come and go", contract.name, inputs, (f"here missing: {sorted(absent)}",)))

    def judge(
        self,
        contract: Contract,
        inputs: Inputs,
        expected: Mapping[str, Exact] | None = None,
        layout: str = "plain",
        dtype: str | None = None,
    ) -> Result:
        """Ask, and hold the answer against the exact one (the oracle's where none is given)."""
        try:
            answer = self.ask(contract, inputs, layout, dtype)
        except NoAnswer as none:
            return none.result
        worst, misses = compare(expected or exact_answer(contract.name, inputs), answer, dtype or self.dtype)
        return Result(worst, tuple(_missed(misses, contract, inputs)))


def _missed(misses: list[Miss], contract: Contract, inputs: Inputs) -> Iterator[Failure]:
    for output in dict.fromkeys(miss.output for miss in misses):
        details = [str(miss) for miss in misses if miss.output == output]
        yield Failure(f"{output} off", contract.name, inputs, tuple(details[:4]))


def exact_answer(operation: str, inputs: Inputs) -> dict[str, oracle.Exact]:
    """The oracle's answer, kept: another implementation is asked the same. Raises NearTie, NoLimit."""
    return _remembered(operation, tuple((name, _frozen(value)) for name, value in inputs.items()))


def _frozen(value: Any) -> Any:
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def _thawed(value: Any) -> Any:
    return np.frombuffer(value[2], value[0]).reshape(value[1]) if isinstance(value, tuple) else value


@functools.lru_cache(maxsize=100_000)
def _remembered(operation: str, frozen: tuple[tuple[str, Any], ...]) -> dict[str, oracle.Exact]:
    return oracle.answer(operation, {name: _thawed(value) for name, value in frozen})
