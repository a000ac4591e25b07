"""What an operation is: a pure function from arrays to arrays whose signature is its contract.

    @operation(level=1, source="arXiv:2305.18290v3 eq. 7")
    def dpo(policy_chosen_logps: Floats[N], ..., beta: Positive = 0.1) -> PairLoss: ...

From the annotations come rank, shape, dtype, which inputs have a gradient, and the legal range of every number. The decorator
checks them before any arithmetic, registers the operation, and leaves the bare mathematics reachable as `dpo.formula`: what
compilers trace and training calls, checking nothing. `python -m minipref` prints all contracts as JSON.

A bad argument raises ValueError with the operation, the argument, the rule and the value. -inf is legal in arrays whose name
ends in logps or logits, and the answer is the limit; where infinities meet and there is no limit, that is an error too.
"""

import functools
import inspect
import math
import typing
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypeVar, TypeVarTuple

import numpy as np

from .arrays import to_numpy

N = NewType("N", int)  # examples
K = NewType("K", int)  # responses to one prompt
G = NewType("G", int)  # responses in a group
B = NewType("B", int)  # rows
T = NewType("T", int)  # positions
V = NewType("V", int)  # vocabulary
D = NewType("D", int)  # width

Dims = TypeVarTuple("Dims")


class Interval(NamedTuple):
    """Legal values of a number. An open end is not legal itself; infinity never is."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def holds(self, x: Any) -> Any:
        """Whether x, a number or an array, lies inside; false for NaN."""
        above = x > self.low if self.low_open else x >= self.low
        below = x < self.high if self.high_open else x <= self.high
        return above & below & np.isfinite(x)

    def __str__(self) -> str:
        if self == Interval():
            return "must be finite"
        left = "(" if self.low_open or math.isinf(self.low) else "["
        right = ")" if self.high_open or math.isinf(self.high) else "]"
        return f"must lie in {left}{self.low:g}, {self.high:g}{right}"


class ArrayOf(Any, Generic[*Dims]):
    """An array of the named dimensions, a scalar where none is named. Subclasses say what its entries are."""

    kind = "float"
    interval = Interval()


class Floats(ArrayOf[*Dims]):
    """Floating point. An input of this kind has a gradient among the outputs: usually the one called grad_ and its name."""


class Constant(ArrayOf[*Dims]):
    """Floating-point input without a gradient: references, old log-probs, advantages, returns."""


class Booleans(ArrayOf[*Dims]):
    """Booleans, never numbers."""

    kind = "bool"


class Mask(Booleans[*Dims]):
    """True counts. Where it is false, the other arrays of these dimensions may hold anything, without effect."""


class ResponseMask(Booleans[*Dims]):
    """True where the token at [b, t] belongs to the response. Position t - 1 predicts it, so [b, 0] is never true."""


class Integers(ArrayOf[*Dims]):
    """Whole numbers."""

    kind = "int"


class Lengths(Integers[*Dims]):
    """Response tokens, EOS included, prompt and padding excluded: whole numbers >= 1."""

    interval = Interval(low=1)


class Tokens(Integers[*Dims]):
    """Token ids, 0 to V - 1 where they count."""

    interval = Interval(low=0)


Positive = Annotated[float, Interval(low=0, low_open=True)]
NonNegative = Annotated[float, Interval(low=0)]
Finite = Annotated[float, Interval()]
UnitInterval = Annotated[float, Interval(low=0, high=1)]
FlipRate = Annotated[float, Interval(low=0, high=0.5, high_open=True)]
ClipLow = Annotated[float, Interval(low=0, high=1, low_open=True, high_open=True)]
AtLeastOne = Annotated[float, Interval(low=1)]


class Argument(NamedTuple):
    """One input or output, as its annotation reads."""

    name: str
    type: "type[ArrayOf] | None"  # None is a plain number
    dims: tuple[str, ...]
    interval: Interval
    default: Any = inspect.Parameter.empty

    @classmethod
    def read(cls, name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> "Argument":
        """From `Floats[N]`, `Annotated[Floats[N], Interval(...)]` or `Annotated[float, Interval(...)]`."""
        base, *extra = typing.get_args(annotation) if typing.get_origin(annotation) is Annotated else (annotation,)
        kind = typing.get_origin(base) or base
        dims = tuple(dim.__name__ for dim in typing.get_args(base))
        interval = extra[0] if extra else getattr(kind, "interval", Interval())
        return cls(name, None if kind is float else kind, dims, interval, default)

    @property
    def kind(self) -> str:
        return self.type.kind if self.type else "scalar"

    @property
    def may_be_minus_infinity(self) -> bool:
        return self.kind == "float" and self.name.endswith(("logps", "logits")) and not self.name.startswith("grad_")

    @property
    def rule(self) -> str:
        return f"{self.interval} or be -inf" if self.may_be_minus_infinity else f"{self.interval}"


class Rule(NamedTuple):
    """A condition beyond ranks and ranges, often on several arguments, named after the one it is about."""

    argument: str
    text: str
    holds: Callable[..., Any]  # takes inputs of the operation by name, as NumPy arrays and numbers


class Gradient(NamedTuple):
    """`output` is the derivative of the sum of `of` in the input `wrt`."""

    output: str
    of: str
    wrt: str


Result = TypeVar("Result", bound=tuple)
REGISTRY: dict[str, "Operation[Any]"] = {}


def operation(
    *, level: int, source: str, rules: Sequence[Rule] = (), gradients: Sequence[Gradient] = ()
) -> Callable[[Callable[..., Result]], "Operation[Result]"]:
    """Make a function an operation. Gradients are read from the output names grad_X unless they are given."""

    def register(formula: Callable[..., Result]) -> Operation[Result]:
        made = REGISTRY[formula.__name__] = Operation(formula, level, source, tuple(rules), tuple(gradients))
        return made

    return register


class Operation(Generic[Result]):
    """A checked and registered operation. Call it; or call its `.formula`, where nothing is checked."""

    formula: Callable[..., Any]  # its fields are of whichever array library came in

    def __init__(
        self,
        formula: Callable[..., Result],
        level: int,
        source: str,
        rules: tuple[Rule, ...],
        gradients: tuple[Gradient, ...],
    ):
        functools.update_wrapper(self, formula)
        self.formula, self.name, self.level, self.source, self.rules = formula, formula.__name__, level, source, rules
        self.signature = inspect.signature(formula)
        self.inputs = {p.name: Argument.read(p.name, p.annotation, p.default) for p in self.signature.parameters.values()}
        fields = typing.get_type_hints(self.signature.return_annotation, include_extras=True)
        self.outputs = {name: Argument.read(name, annotation) for name, annotation in fields.items()}
        self.gradients = gradients or tuple(self._gradients_by_name())
        self.mask = next((a for a in self.inputs.values() if a.type in (Mask, ResponseMask)), None)

    def _gradients_by_name(self) -> Iterator[Gradient]:
        loss = next(iter(self.outputs))
        for output in self.outputs:
            if output.startswith("grad_"):
                yield Gradient(output, loss, output.removeprefix("grad_"))

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        inputs = {name: _on_host(value) for name, value in bound.arguments.items()}
        self._check_types(inputs)
        self._check_values(inputs)
        numbers = {name: inputs[name] for name, argument in self.inputs.items() if argument.type is None}
        with np.errstate(all="ignore"):
            result = self.formula(**bound.arguments | numbers)  # a NumPy number would promote float32
        self._check_limit(inputs, result)
        return result

    def _refuse(self, argument: str, rule: str, value: Any) -> typing.NoReturn:
        shown = np.array2string(value, threshold=8) if isinstance(value, np.ndarray) else repr(value)
        raise ValueError(f"{self.name}: {argument} {rule}, got {shown}")

    def _check_types(self, inputs: dict[str, Any]) -> None:
        """Numbers are numbers; arrays have the rank and kind of their annotation, and equal dimensions equal sizes."""
        sizes: dict[str, tuple[int, str]] = {}
        for name, argument in self.inputs.items():
            value = inputs[name]
            if argument.type is None:
                if not isinstance(value, Real) or isinstance(value, bool):
                    self._refuse(name, "must be a real number", value)
                continue
            if not isinstance(value, np.ndarray):
                self._refuse(name, "must be an array", value)
            if value.ndim != len(argument.dims):
                self._refuse(name, f"must have the shape [{', '.join(argument.dims)}]", value.shape)
            if value.dtype.kind not in {"float": "f", "int": "iu", "bool": "b"}[argument.kind]:
                self._refuse(name, f"must be an array of {argument.kind}", value.dtype.name)
            for dim, size in zip(argument.dims, value.shape, strict=True):
                if size == 0 and dim not in ("N", "B"):
                    self._refuse(name, f"must have {dim} >= 1", value.shape)
                expected, holder = sizes.setdefault(dim, (size, name))
                if size != expected:
                    self._refuse(name, f"must have {dim} = {expected} like {holder}", value.shape)

    def _check_values(self, inputs: dict[str, Any]) -> None:
        """What counts lies in its interval, or is a legal -inf; the rules hold; no policy leaves its reference's support."""
        for name, argument in self.inputs.items():
            value, legal = inputs[name], argument.interval.holds(inputs[name])
            if argument.may_be_minus_infinity:
                legal = legal | np.isneginf(value)
            illegal = self._counts(argument, inputs) & ~np.asarray(legal)
            if np.any(illegal):
                self._refuse(name, argument.rule, value[illegal] if argument.type else value)
        for rule in self.rules:
            if not np.all(rule.holds(**{name: inputs[name] for name in inspect.signature(rule.holds).parameters})):
                self._refuse(rule.argument, rule.text, inputs[rule.argument])
        self._check_support(inputs)

    def _counts(self, argument: Argument, inputs: dict[str, Any]) -> np.ndarray | np.bool:
        """Where the entries of an input count, broadcastable against it: what the mask of the operation leaves."""
        if self.mask is None or argument.dims[:1] != ("B",) or argument is self.mask:
            return np.True_
        counts = inputs[self.mask.name]
        if self.mask.type is ResponseMask and argument.type is not Tokens:
            counts = np.concatenate([counts[:, 1:], np.zeros_like(counts[:, :1])], axis=1)
        if len(argument.dims) == 1:
            return counts.any(axis=1)
        return counts if len(argument.dims) == 2 else counts[:, :, None]

    def _check_support(self, inputs: dict[str, Any]) -> None:
        """A reference probability of 0 where the policy is positive makes their divergence infinite."""
        for name in inputs:
            stem = name.removeprefix("reference_")
            for partner in (f"policy_{stem}", f"policy_{stem.removesuffix('logps')}logits", stem):
                if partner in inputs:
                    escaped = np.isneginf(inputs[name]) & ~np.isneginf(inputs[partner])
                    if np.any(escaped & self._counts(self.inputs[name], inputs)):
                        self._refuse(name, f"must be finite where {partner} is", inputs[name])

    def _check_limit(self, inputs: dict[str, Any], result: tuple) -> None:
        """No legal output is NaN: it would mean that infinities met, or that finite operands overflowed."""
        for output, value in zip(self.outputs, result, strict=True):
            if np.any(np.isnan(to_numpy(value))):
                for name, x in inputs.items():
                    if np.any(x == -np.inf):
                        self._refuse(name, f"must leave {output} a limit: infinities meet", x)
                raise ValueError(f"{self.name}: {output} is NaN: finite inputs overflow")


def _on_host(value: Any) -> Any:
    """Arrays as NumPy arrays; arrays of rank 0, such as another operation's scalar, and numbers as numbers."""
    array = to_numpy(value) if hasattr(value, "shape") else value
    return array.item() if isinstance(array, np.ndarray | np.generic) and array.ndim == 0 else array


def describe(registry: dict[str, Operation[Any]]) -> dict[str, Any]:
    """Every contract as plain data, the file that judging reads. Infinite ends of intervals are left out."""
    return {name: _describe_operation(op) for name, op in sorted(registry.items(), key=lambda item: (item[1].level, item[0]))}


def _describe_operation(op: Operation[Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"level": op.level, "source": op.source}
    described["inputs"] = {name: _describe_argument(argument) for name, argument in op.inputs.items()}
    described["outputs"] = {name: _describe_argument(argument) for name, argument in op.outputs.items()}
    for gradient in op.gradients:
        described["outputs"][gradient.output] |= {"gradient_of": gradient.of, "with_respect_to": gradient.wrt}
    if op.mask:
        described["mask"] = {"argument": op.mask.name, "shifted": op.mask.type is ResponseMask}
    described["rules"] = [{"argument": rule.argument, "text": rule.text} for rule in op.rules]
    return described


def _describe_argument(argument: Argument) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": argument.kind}
    if argument.type:
        described["dims"] = list(argument.dims)
    if argument.may_be_minus_infinity:
        described["minus_infinity"] = True
    described |= {end: x for end, x in argument.interval._asdict().items() if x is not False and not math.isinf(x)}
    if argument.default is not inspect.Parameter.empty:
        described["default"] = argument.default
    return described
