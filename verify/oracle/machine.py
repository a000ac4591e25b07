"""From one row to a batch: exact values, and the condition sums that bound an honest port's rounding.

Each operation is written as a *row function*: one example, one token, one sequence, in decimals, returning a
tuple of outputs. A `Layout` says how the arrays of a request split into rows and where the answers go.
Positions that a mask takes out never reach a row function, so that "masked" means "removed" by construction.
"""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from verify.oracle.numbers import ZERO, branches, digits, limit

VALUE_DIGITS = 80  # 50 asked for; the rest is for cancellation among ordinary numbers
SLOPE_DIGITS = 45  # a nudge of 1e-20 leaves 25 digits of a slope
NUDGE = Decimal("1e-20")

Inputs = dict[str, Any]
Cells = dict[str, Any]  # a Decimal, a bool, or a list of either, by argument name
Outputs = tuple[Any, ...]  # each a Decimal, a Sized, a bool, or a list of them


class Exact(NamedTuple):
    """One output: its exact value, the scale of admissible rounding, and the number of terms it sums.

    `scale` = |exact| + sum_i |x_i d exact / d x_i| + S, 0 where exact is infinite, an integer or a boolean.
    """

    value: np.ndarray
    scale: np.ndarray
    terms: int


class Sized(NamedTuple):
    """A value whose textbook form cancels honestly: `size` is the contract's S."""

    value: Decimal
    size: Decimal


class Measured(NamedTuple):
    """A row's outputs, flat: values, their S, and for each nudged input (name, index) the list of x dy/dx."""

    values: list[Any]
    sizes: list[Decimal]
    slopes: dict[tuple[str, int], list[Decimal]]


def number(name: str, x: Any) -> Any:
    """The exact Decimal of an int or float (a bool stays one); -inf only where it is legal."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    value = Decimal(x.item() if isinstance(x, np.generic) else x)
    legal = value.is_finite() or (value == Decimal("-inf") and name.endswith(("logps", "logits")))
    if not legal:
        raise ValueError(f"{name} must be finite (-inf in log-probabilities and logits apart), got {x}")
    return value


def span(cells: Cells) -> int:
    """Decimal orders between the largest and the smallest number: the digits that their sum needs."""
    orders = [x.adjusted() for x in flat(cells.values()) if isinstance(x, Decimal) and x.is_finite() and x]
    return max(orders) - min(orders) if orders else 0


def nudged(cells: Cells) -> Iterator[tuple[tuple[str, int], Cells]]:
    """The cells with one number moved by 1e-20 of itself, in turn; lengths, zeros and infinities stay."""
    for name, held in cells.items():
        numbers = held if isinstance(held, list) else [held]
        for i, x in enumerate(numbers):
            if isinstance(x, Decimal) and x.is_finite() and x and "length" not in name:
                moved = [*numbers[:i], x + x * NUDGE, *numbers[i + 1 :]]
                yield (name, i), {**cells, name: moved if isinstance(held, list) else moved[0]}


def flat(mixed: Iterable[Any]) -> list[Any]:
    return [x for item in mixed for x in (item if isinstance(item, list) else [item])]


def bare(outputs: Outputs) -> list[Any]:
    return [x.value if isinstance(x, Sized) else x for x in flat(outputs)]


def measure(row: Callable[..., Outputs], cells: Cells) -> Measured:
    """A row's values at full precision; its slopes, branches kept, at the precision that a slope needs."""
    extra = span(cells)
    branches.take()
    with digits(VALUE_DIGITS + extra):
        outputs = flat(row(**cells))
    values = [x if isinstance(x, bool) else limit(x) for x in bare((outputs,))]
    with digits(SLOPE_DIGITS + extra):
        branches.keep()
        still = bare(row(**cells))
        slopes = {}
        for place, moved in nudged(cells):
            branches.keep()
            slopes[place] = [(y - x) / NUDGE for x, y in zip(still, bare(row(**moved)), strict=True)]
    return Measured(values, [x.size if isinstance(x, Sized) else ZERO for x in outputs], slopes)


def scale(value: Any, size: Decimal, slopes: Iterable[Decimal]) -> Decimal:
    """|exact| + sum |x d exact/dx| + S; 0 for booleans and infinities."""
    if isinstance(value, bool) or value.is_infinite():
        return ZERO
    return abs(value) + sum(map(abs, slopes), size)


class Layout(NamedTuple):
    """How a request's arrays split into rows; its outputs' shapes and number of summed terms."""

    split: Callable[[Inputs], Iterator[tuple[Any, Cells]]]  # (place of the row in the outputs, its cells)
    scalar_shape: Callable[[Inputs], tuple[int, ...]]  # of an output with one number a row
    vector_shape: Callable[[Inputs], tuple[int, ...]]  # of an output with a list a row
    terms: Callable[[Inputs], int]


def cell(name: str, x: Any) -> Any:
    return [number(name, y) for y in x] if np.ndim(x) else number(name, x)


def arrays(inputs: Inputs) -> list[np.ndarray]:
    return [x for name, x in inputs.items() if np.ndim(x) and name != "mask"]


def split_examples(inputs: Inputs) -> Iterator[tuple[int, Cells]]:
    for n in range(len(arrays(inputs)[0])):
        yield n, {name: cell(name, x[n] if np.ndim(x) else x) for name, x in inputs.items()}


def split_tokens(inputs: Inputs) -> Iterator[tuple[tuple[int, int], Cells]]:
    for b, t in np.argwhere(inputs["mask"]):
        place = {0: (), 1: b, 2: (b, t)}
        rest = {name: x for name, x in inputs.items() if name != "mask"}
        yield (b, t), {name: cell(name, np.asarray(x)[place[np.ndim(x)]]) for name, x in rest.items()}


def split_sequences(inputs: Inputs) -> Iterator[tuple[tuple[int, np.ndarray], Cells]]:
    for b, kept in enumerate(inputs["mask"]):
        rest = {name: x for name, x in inputs.items() if name != "mask"}
        yield (b, kept), {name: cell(name, x[b][kept] if np.ndim(x) else x) for name, x in rest.items()}


def split_batch(inputs: Inputs) -> Iterator[tuple[Any, Cells]]:
    """One row: all true positions in order, with the rows' counts of them where there is a mask."""
    mask = inputs.get("mask", ...)
    rest = {name: x for name, x in inputs.items() if name != "mask"}
    cells = {name: cell(name, x[mask] if np.ndim(x) else x) for name, x in rest.items()}
    counts = {} if mask is ... else {"row_lengths": [Decimal(int(n)) for n in mask.sum(axis=1)]}
    yield mask, cells | counts


def leading(inputs: Inputs) -> tuple[int, ...]:
    return arrays(inputs)[0].shape[:1]


def whole(inputs: Inputs) -> tuple[int, ...]:
    return arrays(inputs)[0].shape


def masked(inputs: Inputs) -> tuple[int, ...]:
    return inputs["mask"].shape


def summed(inputs: Inputs) -> int:
    return int(np.sum(inputs["mask"])) if "mask" in inputs else len(arrays(inputs)[0])


EXAMPLES = Layout(split_examples, leading, whole, lambda inputs: int(np.prod(whole(inputs)[1:])))
TOKENS = Layout(split_tokens, masked, masked, lambda inputs: 1)
SEQUENCES = Layout(split_sequences, leading, masked, lambda inputs: masked(inputs)[1])
BATCH = Layout(split_batch, lambda inputs: (), masked, summed)


class Operation(NamedTuple):
    """A row function, its layout, and its outputs' names: those with one number a row, then the lists."""

    row: Callable[..., Outputs]
    layout: Layout
    scalars: tuple[str, ...]
    vectors: tuple[str, ...] = ()

    def __call__(self, **inputs: Any) -> dict[str, Exact]:
        shapes = [self.layout.scalar_shape(inputs) for _ in self.scalars]
        shapes += [self.layout.vector_shape(inputs) for _ in self.vectors]
        values, scales = ([np.full(shape, ZERO, object) for shape in shapes] for _ in range(2))
        for place, cells in self.layout.split(inputs):
            row = measure(self.row, cells)
            slopes = zip(*row.slopes.values(), strict=True) if row.slopes else [()] * len(row.values)
            self.place(values, place, row.values)
            self.place(scales, place, list(map(scale, row.values, row.sizes, slopes)))
        terms = self.layout.terms(inputs)
        kinds = [bool if name == "clipped" else object for name in self.scalars + self.vectors]
        made = zip(values, scales, kinds, strict=True)
        exact = [Exact(value.astype(kind), size, terms) for value, size, kind in made]
        return dict(zip(self.scalars + self.vectors, exact, strict=True))

    def place(self, outputs: list[np.ndarray], place: Any, found: list[Any]) -> None:
        """Puts a row's flat results into the outputs: a number each to scalars, equal shares to vectors."""
        count = len(self.scalars)
        for array, x in zip(outputs, found[:count], strict=False):
            array[place if array.ndim else ()] = x
        share = (len(found) - count) // max(1, len(self.vectors))
        for i, array in enumerate(outputs[count:]):
            array[place] = found[count + i * share : count + (i + 1) * share]
