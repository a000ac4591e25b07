"""Holds answers against the exact ones.

    |answer - exact| <= 64 u · terms · (|exact| + Σ_i |x_i ∂exact/∂x_i| + S) + η

u is the unit roundoff of the case's dtype, η its smallest normal number. The sum says how far rounding the inputs alone would
move the answer; S is what a textbook form loses where it cancels; `terms` is how many terms the operation sums. All three come
with the expected answer. An honest port in any arithmetic passes; one factor serves all operations. Infinite, integer and
boolean answers are compared by equality; where the exact answer is beyond the dtype's range, the infinity of its sign is right.

Where a scale has fewer dimensions than its answer, the answer is compared in norm over the rest: the logits of a position, a
whole tensor of a gradient. There |exact| is a norm too. Answers of whole models have a measured condition in place of the sum
and S: how far they move, over u, when every weight and every number on the way moves by u of itself at random, which is what
rounding does to any honest port. Their sums' terms are among the numbers that move, so `terms` is 1.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple, Protocol

import numpy as np

FACTOR = 64


class Exact(Protocol):
    """What is expected of one output; see `verify.oracle`."""

    @property
    def value(self) -> np.ndarray: ...
    @property
    def scale(self) -> np.ndarray: ...
    @property
    def terms(self) -> int: ...


class Miss(NamedTuple):
    """One entry of one output that is not what it should be."""

    output: str
    place: tuple[int, ...]
    got: str
    exact: str
    times_bound: float  # error over bound; infinite where no bound applies

    def __str__(self) -> str:
        entry = f"{self.output}{list(self.place) if self.place else ''}"
        excess = f" ({self.times_bound:.3g} times the bound)" if np.isfinite(self.times_bound) else ""
        return f"{entry} is {self.got}, exact {self.exact}{excess}"


def compare(expected: Mapping[str, Exact], answers: Mapping[str, np.ndarray], dtype: str) -> tuple[float, list[Miss]]:
    """Worst error over bound among all entries of the answers given, and every miss. NaN is a miss."""
    worst, misses = 0.0, []
    for output, answer in answers.items():
        for miss in _entries(output, expected[output], answer, dtype):
            worst = max(worst, miss.times_bound)
            if not miss.times_bound <= 1:
                misses.append(miss)
    return worst, misses


def bound(scale: Decimal, terms: int, dtype: str) -> Decimal:
    """How far one entry of an answer may be off."""
    limits = np.finfo(dtype)
    return FACTOR * Decimal(float(limits.eps) / 2) * terms * scale + Decimal(float(limits.smallest_normal))


def bounds(exact: Exact, dtype: str) -> np.ndarray:
    """How far each entry of an answer may be off, as float64."""
    return np.array([float(bound(x, exact.terms, dtype)) for x in exact.scale.flat]).reshape(exact.scale.shape)


def _entries(output: str, exact: Exact, answer: np.ndarray, dtype: str) -> Iterator[Miss]:
    if answer.shape != exact.value.shape:
        raise ValueError(f"{output}: expected shape {exact.value.shape}, got {answer.shape}")
    for index in np.ndindex(exact.scale.shape):
        value, got, scale = exact.value[index], answer[index], Decimal(exact.scale[index])  # type: ignore[arg-type]
        if np.ndim(got):
            yield _in_norm(output, index, value, got, bound(scale, exact.terms, dtype))
        elif isinstance(value, Decimal):
            ratio = _error_over_bound(Decimal(float(got)), value, scale, exact.terms, dtype)
            yield Miss(output, index, repr(float(got)), f"{value:.17g}", ratio)
        else:
            yield Miss(output, index, str(got), str(value), 0.0 if got == value else np.inf)


def _in_norm(output: str, index: tuple[int, ...], value: np.ndarray, got: np.ndarray, allowed: Decimal) -> Miss:
    away, size = (_norm(x) for x in (np.vectorize(Decimal, [object])(got.astype(float)) - value, value))
    ratio = float(away / allowed) if np.all(np.isfinite(got)) else np.inf
    return Miss(output, index, f"off by {away:.3g} in norm", f"norm {size:.3g}", ratio)


def _norm(x: np.ndarray) -> Decimal:
    return sum((y * y for y in x.flat), Decimal(0)).sqrt()


def _error_over_bound(got: Decimal, value: Decimal, scale: Decimal, terms: int, dtype: str) -> float:
    if got.is_nan():
        return np.inf
    if abs(value) > Decimal(float(np.finfo(dtype).max)):
        return 0.0 if got.is_infinite() and got.is_signed() == value.is_signed() else np.inf
    return np.inf if got.is_infinite() else float(abs(got - value) / bound(scale, terms, dtype))
