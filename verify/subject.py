"""An implementation under judgement: asks it one operation at a time and reads what comes back against the contract."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from verify import weights
from verify.contract import Contract, Output
from verify.judge import Exact, Miss, compare
from verify.oracle import remembered as exact_answer
from verify.oracle.steps import parts
from verify.pipe import Session
from verify.protocol import Misbehaviour, Outputs, Refusal, decode_output
from verify.weights import Weights

Inputs = dict[str, Any]


class Failure(NamedTuple):
    """What went wrong in one case. The message is stable enough to be listed as a known deviation; details hold the numbers.

    `regimes` are those of all cases with this message; none where the claim does not draw its cases by regime.
    """

    message: str
    operation: str
    inputs: Inputs
    details: tuple[str, ...] = ()
    regimes: tuple[str, ...] = ()

    @classmethod
    def of(cls, message: str, contract: Contract, inputs: Inputs, details: Iterable[str] = ()) -> "Failure":
        """With the method in front, where the operation has several."""
        return cls(f"{inputs['method']}: {message}" if "method" in inputs else message, contract.name, inputs, tuple(details))


class Result(NamedTuple):
    """One case judged: worst error over bound, and what failed, one failure an output."""

    worst: float
    failures: tuple[Failure, ...] = ()
    regime: str = ""

    def at(self, regime: str) -> "Result":
        """The same, of a case of this regime."""
        return Result(self.worst, tuple(failure._replace(regimes=(regime,)) for failure in self.failures), regime)


class NoAnswer(Exception):
    """A legal case was not answered."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.result = Result(np.inf, (failure,))


class Undeclared(Exception):
    """The implementation turns out not to have this operation."""


def compared(output: Output, value: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """What is compared of an output, by name: all of it, or where a mask says so, or tensors with their parts apart."""
    if output.kind == "tensors":
        return {part: x for name, tensor in value.items() for part, x in parts(name, tensor).items()}
    return {output.name: value[inputs[output.only_where]] if output.only_where else value}


def value_outputs(contract: Contract) -> set[str]:
    """Outputs without which there is nothing to judge: the first, and those that gradients are of."""
    return {next(iter(contract.outputs))} | {o.gradient_of for o in contract.outputs.values() if o.gradient_of}


class Subject:
    """One running implementation, judged in one dtype. `missing` lists by operation the outputs that it does not give;
    `directory` is where weights are put for it."""

    def __init__(self, session: Session, dtype: str, *, python: bool, directory: str = ""):
        self.session, self.dtype, self.python, self.directory = session, dtype, python, directory
        self.missing: dict[str, set[str]] = {}
        self.given: dict[str, set[str]] = {}
        self.declared = set(session.declaration.operations)
        self.shrink_seconds = 8.0  # left for shrinking counterexamples, over all claims

    def ask(self, contract: Contract, inputs: Inputs, layout: str = "plain", dtype: str | None = None) -> dict[str, np.ndarray]:
        """Its outputs for a legal case. Raises NoAnswer for a refusal, a misbehaviour, or numbers and shapes that are none; and
        Undeclared."""
        dtype = dtype or self.dtype
        answer = self.send(contract.name, dtype, inputs, layout)
        if isinstance(answer, Refusal):
            if answer.undeclared:
                self.undeclare(contract)
            raise NoAnswer(Failure.of("refused a legal case", contract, inputs, [answer.message]))
        if isinstance(answer, Misbehaviour):
            raise NoAnswer(Failure(answer.kind, contract.name, inputs, (answer.message,)))
        shapes = contract.shapes(inputs)
        named = {name: raw for name, raw in answer.values.items() if name in shapes}
        outputs = [self._decoded(contract, inputs, contract.outputs[name], raw, dtype) for name, raw in named.items()]
        self._check_presence(contract, inputs, set(shapes), set(named))
        return {name: x for parts in outputs for name, x in parts.items()}

    def send(self, operation: str, dtype: str, inputs: Inputs, layout: str = "plain") -> Outputs | Refusal | Misbehaviour:
        """Ask, with weights put where they are named, and take what comes back as it is."""
        named = {name: x.placed(self.directory, dtype) if isinstance(x, Weights) else x for name, x in inputs.items()}
        return self.session.run(operation, dtype, named, layout=layout)

    def undeclare(self, contract: Contract) -> NoReturn:
        """Take an operation off the list for good: it said on its first call that it is not implemented."""
        self.declared.discard(contract.name)
        raise Undeclared(contract.name)

    def _decoded(self, contract: Contract, inputs: Inputs, output: Output, raw: Any, dtype: str) -> dict[str, np.ndarray]:
        try:
            if output.kind == "tensors":
                return compared(output, self._tensors(inputs[str(output.with_respect_to)], raw, dtype), inputs)
            return compared(output, decode_output(raw, contract.shapes(inputs)[output.name], output.kind, dtype), inputs)
        except ValueError as error:
            raise NoAnswer(Failure.of(f"{output.name} malformed", contract, inputs, [str(error)])) from None

    def _tensors(self, due: Weights, raw: Any, dtype: str) -> dict[str, np.ndarray]:
        """One for every weight, inline or from a file. ValueError for what is missing, or of another shape or dtype."""
        stored = weights.read(Path(self.directory, raw)) if isinstance(raw, str) else None
        given = raw if stored is None else stored
        if not isinstance(given, dict) or due.arrays.keys() - given.keys():
            raise ValueError(f"expected a tensor for each of {', '.join(due.arrays)}")
        if stored is None:
            return {name: decode_output(given[name], weight.shape, "float", dtype) for name, weight in due.arrays.items()}
        for name, weight in due.arrays.items():
            if stored[name].shape != weight.shape or stored[name].dtype != np.dtype(dtype):
                raise ValueError(f"{name}: expected {dtype} {weight.shape}, got {stored[name].dtype} {stored[name].shape}")
        return {name: stored[name] for name in due.arrays}

    def _check_presence(self, contract: Contract, inputs: Inputs, due: set[str], present: set[str]) -> None:
        absent = due - present
        if absent & value_outputs(contract):
            raise NoAnswer(Failure.of("nothing to judge", contract, inputs, [f"missing: {', '.join(sorted(absent))}"]))
        missing, given = (known.setdefault(contract.name, set()) for known in (self.missing, self.given))
        if absent & given or present & missing:
            raise NoAnswer(Failure("outputs come and go", contract.name, inputs, (f"here missing: {sorted(absent)}",)))
        missing |= absent
        given |= present

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
        yield Failure.of(f"{output} off", contract, inputs, details[:4])
