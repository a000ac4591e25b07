"""The array layer's promise, measured: elementwise functions within 4 ulp of the truth, reductions within log2(V) + 4.

A truth is a pair: the nearest number of the dtype, and the remainder that this leaves out, in ulp. For float32 it comes from
extended precision, for float64 from 50 digits, by forms that `minipref.arrays` does not use.
"""

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest

from minipref import arrays

Array = Callable[[np.ndarray], Any]
TINY = float(np.finfo(np.float64).smallest_subnormal)
INF = math.inf

# Where forms change over, or the result becomes subnormal, zero, one or infinite.
PLACES = [
    0.0,
    *(s * x for s in (1, -1) for x in (math.log(2), 1, 2, 5, 16.6, 36.7, 87.34, 88.73, 103.97, 104, 708.4, 709.8, 745.2)),
]

PLAIN = ("exp", "expm1", "log", "log1p")
DOMAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # where it is not the whole line
    "log": abs,
    "log1p": lambda x: x[x > -1],
    "log1mexp": lambda x: -abs(x[x != 0]),
}
EXTENDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {name: getattr(np, name) for name in PLAIN} | {
    "softplus": lambda x: np.logaddexp(0, x),
    "log_sigmoid": lambda x: -np.logaddexp(0, -x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    # log(e^-a - 1) + a near 0; far from it log((1-u)/(1+u)) + log(1+u), u = e^a.
    "log1mexp": lambda a: np.where(a > -1, np.log(np.expm1(-a)) + a, np.log1p(np.exp(a)) - 2 * np.arctanh(np.exp(a))),
}
FIFTY_DIGITS: dict[str, Callable[[Any], Any]] = {name: getattr(mpmath, name) for name in PLAIN} | {
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "log_sigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "log1mexp": lambda a: mpmath.log(-mpmath.expm1(a)) if a > -1 else mpmath.log1p(-mpmath.exp(a)),
}


class Truth(NamedTuple):
    points: np.ndarray
    nearest: np.ndarray  # of the dtype; infinite beyond its range
    remainder: np.ndarray  # exact minus nearest, in ulp


def ulps(got: np.ndarray, nearest: np.ndarray, remainder: np.ndarray | float = 0.0) -> np.ndarray:
    """Error of each number in units in the last place of the truth, subnormals' too; inf for NaN and for a wrong infinity."""
    with np.errstate(all="ignore"):
        unit = np.spacing(abs(nearest)).astype(np.float64)
        error = abs((got.astype(np.float64) - nearest.astype(np.float64)) / unit - remainder)
    error = np.where(got == nearest, abs(np.asarray(remainder)), error)
    return np.where(np.isnan(error), INF, error)


def points(dtype: type, count: int) -> np.ndarray:
    """Half the numbers uniform over the bit patterns of the finite ones, half at all scales of distance from PLACES."""
    rng = np.random.default_rng(20240529)
    width = np.dtype(dtype).itemsize * 8
    patterns = rng.integers(0, 2**width, count // 2, dtype=f"u{width // 8}").view(dtype)
    distances = rng.choice([-1.0, 1.0], count // 2) * 10 ** rng.uniform(-np.finfo(dtype).precision - 2, 1, count // 2)
    near = (rng.choice(PLACES, count // 2) + distances).astype(dtype)
    return np.concatenate([patterns[np.isfinite(patterns)], near, np.array(PLACES, dtype)])


@cache
def truth(name: str, dtype: type, count: int) -> Truth:
    x = DOMAINS.get(name, np.asarray)(points(dtype, count))
    with np.errstate(all="ignore"), mpmath.workdps(50):
        digits = np.frompyfunc(lambda v: FIFTY_DIGITS[name](mpmath.mpf(v)), 1, 1)
        exact = EXTENDED[name](x.astype(np.longdouble)) if dtype is np.float32 else digits(x)
        nearest = exact.astype(dtype)
        remainder = np.where(np.isfinite(nearest), (exact - nearest) / np.spacing(abs(nearest)), 0.0)
    return Truth(x, nearest, remainder.astype(np.float64))


def test_the_measure_itself() -> None:
    one, tiny = np.array([1.0]), np.array([TINY])
    assert ulps(one + 2**-52, one) == 1 and ulps(one, one, 0.25) == 0.25
    assert ulps(0 * tiny, tiny) == 1 and ulps(3 * tiny, tiny) == 2
    assert ulps(np.float32([1e-45]), np.float32([0])) == 1
    assert ulps(np.array([INF]), np.array([INF])) == 0
    for got, right in [(math.nan, 1.0), (math.nan, INF), (INF, 1.0), (-INF, INF), (1.0, INF), (math.nan, 0.0)]:
        assert ulps(np.array([got]), np.array([right])) == INF


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EXTENDED)
def test_elementwise_functions_err_by_4_ulp_at_most(name: str, dtype: type, library: Array, sweep: bool) -> None:
    default, dense = (20_000, 3_000_000) if dtype is np.float32 else (1_500, 40_000)
    x, nearest, remainder = truth(name, dtype, dense if sweep else default)
    with np.errstate(all="ignore"):
        got = np.asarray(getattr(arrays, name)(library(x)))
        errors = ulps(got, nearest, remainder)
    worst = np.argmax(errors)
    assert got.dtype == dtype
    assert errors[worst] <= 4, f"{name}({x[worst]!r}) = {got[worst]!r}, exactly {nearest[worst]!r}"


EDGES = [
    ("exp", [(0, 1), (-0.0, 1), (TINY, 1), (-INF, 0), (INF, INF), (709.8, INF), (-745.1, TINY), (-745.2, 0)]),
    ("expm1", [(0, 0), (-0.0, 0), (TINY, TINY), (-TINY, -TINY), (-INF, -1), (INF, INF), (709.8, INF), (-745.2, -1)]),
    ("log", [(0, -INF), (-0.0, -INF), (1, 0), (TINY, -744.4400719213812), (INF, INF)]),
    ("log1p", [(-1, -INF), (0, 0), (-0.0, 0), (TINY, TINY), (-TINY, -TINY), (INF, INF)]),
    ("softplus", [(0, math.log(2)), (-INF, 0), (INF, INF), (1e308, 1e308), (-745.1, TINY), (-745.2, 0), (709.8, 709.8)]),
    ("log_sigmoid", [(0, -math.log(2)), (-INF, -INF), (INF, 0), (-1e308, -1e308), (745.1, -TINY), (745.2, 0)]),
    ("sigmoid", [(0, 0.5), (-0.0, 0.5), (TINY, 0.5), (-INF, 0), (INF, 1), (-745.1, TINY), (-745.2, 0), (36.8, 1)]),
    ("log1mexp", [(-0.0, -INF), (-INF, 0), (-TINY, -744.4400719213812), (-745.1, -TINY), (-745.2, 0)]),
]
SINGLE_EDGES = [
    ("exp", [(88.73, INF), (-103.97, 1e-45), (-104, 0)]),
    ("softplus", [(88.7, 88.7), (-103.97, 1e-45), (-104, 0), (3e38, 3e38)]),
    ("log_sigmoid", [(103.97, -1e-45), (104, 0), (-3e38, -3e38)]),
    ("sigmoid", [(-103.97, 1e-45), (-104, 0), (88.7, 1)]),
    ("log1mexp", [(-103.97, -1e-45), (-104, 0), (-1e-45, -103.278929903)]),
]


@pytest.mark.parametrize(
    ("dtype", "name", "edges"), [(np.float64, *edge) for edge in EDGES] + [(np.float32, *edge) for edge in SINGLE_EDGES]
)
def test_edges(dtype: type, name: str, edges: list[tuple[float, float]], library: Array) -> None:
    x, right = np.array(edges, dtype).T
    with np.errstate(all="ignore"):
        got = np.asarray(getattr(arrays, name)(library(x)))
        errors = ulps(got, right)
    assert np.all(errors <= 1), f"{name} of {x}: {got}, not {right}"


SIZES = [2, 1000, 50257]
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
}


def logit_rows(dtype: type, size: int) -> np.ndarray:
    """Four kinds of logits: ordinary, far from 0, one entry above all, and half of them impossible."""
    rng = np.random.default_rng(size)
    rows = rng.normal(scale=3, size=(4, size))
    rows[1] += 1e4
    rows[2] -= 30 * (np.arange(size) > 0)
    rows[3, 1::2] = -INF
    return rows.astype(dtype)


class SoftmaxTruth(NamedTuple):
    logits: np.ndarray
    sums: np.ndarray  # log Σ e^x of each row
    logps: np.ndarray
    terms: np.ndarray  # the largest number that each log-probability is made of: x, max x, log Σ e^(x - max x)


@cache
def softmax_truth(dtype: type, size: int) -> SoftmaxTruth:
    x = logit_rows(dtype, size)
    exact = [mpmath.log(mpmath.fsum(mpmath.exp(v) for v in row if v > -INF)) for row in x.astype(float).tolist()]
    logps = [[float(v - s) for v in row] for row, s in zip(x.astype(float).tolist(), exact, strict=True)]
    sums, largest = np.array([float(s) for s in exact]), x.max(axis=1)
    shared = np.maximum(abs(largest), sums - largest)[:, None]
    return SoftmaxTruth(x, sums, np.array(logps), np.maximum(np.where(np.isfinite(x), abs(x), 0), shared).astype(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_sums_and_means_err_by_log2_v_plus_4_ulp_of_their_size(size: int, dtype: type, library: Array, layout: str) -> None:
    x = LAYOUTS[layout](np.exp(logit_rows(np.float32, size)[[0, 2]]).astype(dtype) * np.array([[1], [-1]], dtype))
    sums = np.array([math.fsum(row) for row in x.astype(float).tolist()])
    given = library(x)
    for axis, keepdims in itertools.product((1, -1, 0), (False, True)):
        along = given if axis else given.T
        for reduce, due in ((arrays.sum_over, sums), (arrays.mean_over, sums / size)):
            got = np.asarray(reduce(along, axis, keepdims))
            assert got.shape == np.sum(x if axis else x.T, axis, keepdims=keepdims).shape and got.dtype == dtype
            assert np.all(ulps(got.ravel(), due.astype(dtype)) <= math.log2(size) + 4)
    everything, unit = np.asarray(arrays.sum_over(given)), np.spacing(abs(x).sum(dtype=dtype))
    assert everything.shape == () and abs(everything - sums.sum()) <= (math.log2(size) + 5) * unit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_log_softmax_errs_by_log2_v_plus_4_ulp_of_its_largest_term(size: int, dtype: type, library: Array) -> None:
    x, sums, logps, terms = softmax_truth(dtype, size)
    got_sums = np.asarray(arrays.logsumexp(library(x)))
    got = np.asarray(arrays.log_softmax(library(x)))
    bound = (math.log2(size) + 4) * np.spacing(terms)
    possible = np.isfinite(x)
    assert np.all(abs(got_sums - sums) <= bound.min(axis=1))
    assert np.all(abs(got[possible] - logps[possible]) <= bound[possible]) and np.all(got[~possible] == -INF)
    assert got.dtype == got_sums.dtype == dtype
