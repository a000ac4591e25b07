"""The only file that knows array libraries. Everything above it is one text for NumPy, PyTorch, JAX and CuPy.

The elementwise functions are accurate to 4 units in the last place over the whole finite range, subnormals included, in
float32 and float64; reductions to log2(V) + 4 units of their largest term. In the functions below no exponential grows.

    softplus(x)    = max(x, 0) + log1p(e^-|x|)
    log_sigmoid(x) = -softplus(-x)                  never log(sigmoid(x)), which underflows to -inf
    sigmoid(x)     = e^min(x, 0) / (1 + e^-|x|)
    log1mexp(a)    = log(1 - e^a), a < 0            Maechler 2012, "Accurately computing log(1 - exp(-|a|))", eq. 7
"""

import math
import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any


def is_torch(x: Array) -> bool:
    """Whether x is a PyTorch tensor, asked without importing torch."""
    return type(x).__module__.startswith("torch")


def namespace(x: Array) -> ModuleType:
    """The library x belongs to: torch, or its Array API namespace, or numpy."""
    if is_torch(x):
        return sys.modules["torch"]
    return x.__array_namespace__() if hasattr(x, "__array_namespace__") else np


def to_numpy(x: Array) -> np.ndarray:
    """The same numbers as a NumPy array on the host, for checks and for people; no gradient flows through."""
    if is_torch(x):
        x = x.detach().cpu()
        x = x.float() if x.dtype == sys.modules["torch"].bfloat16 else x
    return np.asarray(x)


def _elementwise(name: str, x: Array) -> Array:
    xp = namespace(x)
    if xp is np and x.dtype == np.float32:
        # NumPy's float32 kernels err by up to 3.6 ulp, which leaves no room for what is built on them.
        return getattr(np, name)(x.astype(np.float64)).astype(np.float32)
    return getattr(xp, name)(x)


def exp(x: Array) -> Array:
    """e^x."""
    return _elementwise("exp", x)


def expm1(x: Array) -> Array:
    """e^x - 1, accurate near 0."""
    return _elementwise("expm1", x)


def log(x: Array) -> Array:
    """Natural logarithm."""
    return _elementwise("log", x)


def log1p(x: Array) -> Array:
    """log(1 + x), accurate near 0."""
    return _elementwise("log1p", x)


def where(condition: Array, x: Array | float, otherwise: Array | float) -> Array:
    """x where the condition holds, otherwise `otherwise`."""
    return namespace(condition).where(condition, x, otherwise)


def positive_part(x: Array) -> Array:
    """max(x, 0); NaN stays NaN. Whoever differentiates it automatically gets 1/2 at 0, and so the slopes of all that follow."""
    return namespace(x).maximum(x, zeros_like(x))


def clip(x: Array, low: Array | float, high: Array | float) -> Array:
    """x held inside [low, high]."""
    return where(x < low, low, where(x > high, high, x))


def softplus(x: Array) -> Array:
    """log(1 + e^x)."""
    return positive_part(x) + log1p(exp(-abs(x)))


def log_sigmoid(x: Array) -> Array:
    """log σ(x)."""
    return -softplus(-x)


def sigmoid(x: Array) -> Array:
    """σ(x) = 1/(1 + e^-x)."""
    return exp(-positive_part(-x)) / (1 + exp(-abs(x)))


def log1mexp(a: Array) -> Array:
    """log(1 - e^a) for a < 0; -inf at 0. Each form is used where it loses least, and kept away from where it loses all."""
    near_zero = a > -math.log(2)
    return where(
        near_zero,
        log(-expm1(where(near_zero, a, -1.0))),
        log1p(-exp(where(near_zero, -1.0, a))),
    )


def scaled(factor: float, x: Array) -> Array:
    """factor · x, where a factor of exactly 0 gives 0 even at infinity: the limit, not 0 · inf."""
    return factor * x if factor != 0 else zeros_like(x)


def floats_like(counts: Array, x: Array) -> Array:
    """Whole numbers in the floating dtype of x, so that a division does not promote float32."""
    return counts.to(x.dtype) if is_torch(x) else counts.astype(x.dtype)


def float64(counts: Array) -> Array:
    """Whole numbers in double precision, where no floating input says which is meant."""
    return counts.double() if is_torch(counts) else counts.astype(np.float64)


def constant_like(x: Array, value: float) -> Array:
    """One value in x's shape, dtype and device."""
    return zeros_like(x) + value


def zeros_like(x: Array) -> Array:
    """Zeros of x's shape, dtype and device."""
    return namespace(x).zeros_like(x)


def _reduced(name: str, x: Array, axis: int | None, keepdims: bool) -> Array:
    xp = namespace(x)
    if axis is None:
        x, axis = x.reshape(-1), 0
    if xp is np:
        # NumPy adds in pairs only along memory; elsewhere its error grows with the length instead of the logarithm.
        total = getattr(np, name)(np.ascontiguousarray(np.moveaxis(x, axis, -1)), axis=-1)
        return np.expand_dims(total, axis) if keepdims else total
    return getattr(xp, name)(x, axis=axis, keepdims=keepdims)


def sum_over(x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """Sum along an axis, or of everything."""
    return _reduced("sum", x, axis, keepdims)


def mean_over(x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """Mean along an axis, or of everything."""
    return _reduced("mean", x, axis, keepdims)


def cumulative_sum(x: Array, axis: int) -> Array:
    """Sums of the entries up to and including each."""
    return namespace(x).cumsum(x, axis=axis)


def max_over(x: Array, axis: int, keepdims: bool = False) -> Array:
    """Largest entry along an axis."""
    largest = namespace(x).max(x, axis=axis, keepdims=keepdims)
    return largest.values if is_torch(x) else largest


def logsumexp(x: Array, axis: int = -1, keepdims: bool = False) -> Array:
    """log Σ e^x along an axis, shifted by the largest entry so that nothing overflows."""
    largest = max_over(x, axis, keepdims=True)
    total = largest + log(sum_over(exp(x - largest), axis, keepdims=True))
    return total if keepdims else sum_over(total, axis)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """x - log Σ e^x along an axis: log-probabilities in nats."""
    return x - logsumexp(x, axis, keepdims=True)


def softmax(x: Array, axis: int = -1) -> Array:
    """e^x / Σ e^x along an axis."""
    weights = exp(x - max_over(x, axis, keepdims=True))
    return weights / sum_over(weights, axis, keepdims=True)


def stack(columns: list[Array], axis: int) -> Array:
    """Arrays of one shape side by side along a new axis."""
    return namespace(columns[0]).stack(columns, axis=axis)


def concat(parts: list[Array], axis: int) -> Array:
    """Arrays one after the other along an axis."""
    return namespace(parts[0]).concat(parts, axis=axis)


def pick(x: Array, indices: Array) -> Array:
    """x[..., indices]: one entry of the last axis for each index, [..., V] and [...] -> [...]."""
    xp = namespace(x)
    take = xp.take_along_dim if is_torch(x) else xp.take_along_axis
    return take(x, indices[..., None], -1)[..., 0]


def one_hot_like(x: Array, indices: Array) -> Array:
    """1 at each index of the last axis of x, 0 elsewhere: [..., V] and [...] -> [..., V], in the dtype of x."""
    xp = namespace(x)
    places = xp.arange(x.shape[-1], device=x.device) if is_torch(x) else xp.arange(x.shape[-1])
    return floats_like(places == indices[..., None], x)
