"""The border of the port: NumPy arrays in, checked, then JAX, then NumPy arrays out.

Under a trace no number can be looked at, so what may be wrong is looked at before, on the host: JAX itself would broadcast what
does not fit, take the last row of an embedding for a token beyond it, and go on with NaN.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)  # else float64 would be cut to float32 without a word

Values = dict[str, Any]
Holds = Callable[[Any], Any]
Interval = tuple[str, Holds]  # in words, and as a test
Rule = tuple[str, str, Holds]  # of an argument, in words, and as a test of all arguments by name

POSITIVE = ("must lie in (0, inf)", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = ("must lie in [0, inf)", lambda x: 0 <= x < math.inf)
AT_LEAST_1 = ("must lie in [1, inf)", lambda x: 1 <= x < math.inf)
SHARE = ("must lie in [0, 1]", lambda x: 0 <= x <= 1)
FINITE = ("must be finite", math.isfinite)

SCALARS: dict[str, Interval] = {
    **dict.fromkeys(("beta", "eta", "clip", "clip_high", "cache_length"), POSITIVE),
    **dict.fromkeys(("desirable_weight", "undesirable_weight", "odds_weight", "reference_point"), NOT_NEGATIVE),
    **dict.fromkeys(("discount", "trace_decay"), SHARE),
    **dict.fromkeys(("margin", "gamma", "reward_max"), FINITE),
    "clip_low": ("must lie in (0, 1)", lambda x: 0 < x < 1),
    "label_smoothing": ("must lie in [0, 0.5)", lambda x: 0 <= x < 0.5),
    "max_length": AT_LEAST_1,
}
KINDS = dict.fromkeys(("mask", "response_mask", "attention_mask", "desirable"), "b")
KINDS |= dict.fromkeys(("tokens", "probe_tokens", "lengths", "chosen_lengths", "rejected_lengths"), "i")
LEAST = {"R": 2, "G": 2}  # ranked responses, responses of a group
BUCKETS = {"N": 4, "B": 4, "T": 8}  # sizes are filled up to multiples of these


def need(holds: Any, argument: str, rule: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{argument} {rule}, got {value}")


def check_scalar(name: str, value: Any, rules: Mapping[str, Interval] = SCALARS) -> float:
    rule, holds = rules[name]
    number = isinstance(value, Real) and not isinstance(value, bool)
    need(number and holds(value), name, rule, value)
    return float(value)  # a NumPy float64 would make float64 of float32 arrays; a Python float does not


def is_whole(value: Any, low: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= low)


def check_array(name: str, value: Any, dims: str, sizes: dict[str, int]) -> np.ndarray:
    """Kind, rank and sizes: each letter of dims is a size that must be the same everywhere."""
    array = np.asarray(value)
    kind = KINDS.get(name, "f")
    need(array.dtype.kind == kind, name, f"must have a dtype of kind {kind}", array.dtype)
    need(array.ndim == len(dims), name, f"must have rank {len(dims)}", array.shape)
    for dim, size in zip(dims, array.shape, strict=True):
        need(size == sizes.setdefault(dim, size), name, f"must have {dim} = {sizes[dim]}", array.shape)
        need(size >= LEAST.get(dim, 0), name, f"must have {dim} >= {LEAST.get(dim)}", size)
    return array


def counted(name: str, dims: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """Where entries count: where the mask says so; what predicts tokens, a position before."""
    mask = next((mask for mask in ("mask", "response_mask") if mask in arrays), name)
    if mask == name or dims[0] != "B":
        return True
    kept: Any = arrays[mask]
    if mask == "response_mask" and name != "tokens":
        kept = np.pad(kept[:, 1:], ((0, 0), (0, 1)))
    if dims == "B":
        kept = kept.any(axis=1)
    return kept.reshape(kept.shape + (1,) * (len(dims) - kept.ndim))


def legal(name: str, x: np.ndarray, sizes: Mapping[str, int]) -> tuple[str, np.ndarray]:
    """What its entries must be, and which of them are."""
    if x.dtype.kind == "b":
        return "", np.ones_like(x)
    if name == "tokens":
        return "must lie in the vocabulary", (0 <= x) & (x < sizes["V"])
    if x.dtype.kind == "i":
        return "must be >= 1", x >= 1
    if name == "win_rates":
        return "must lie in [0, 1]", (0 <= x) & (x <= 1)
    if name.endswith(("logps", "logits")):
        return "must be finite or -inf", x < np.inf
    return "must be finite", np.isfinite(x)


def check_reference(arrays: Mapping[str, np.ndarray]) -> None:
    """What the policy can say, its reference can say too: else there is no limit."""
    for name in (name for name in arrays if name.startswith("reference_")):
        partners = (name.replace("reference", "policy"), name.replace("reference_logps", "policy_logits"), "logps")
        policy = next((arrays[partner] for partner in partners if partner in arrays), -np.inf)
        escapes = np.isneginf(arrays[name]) & ~np.isneginf(policy) & arrays.get("mask", True)
        need(not np.any(escapes), name, "must be finite where the policy is", arrays[name])


def check(given: Values, dims: Mapping[str, str], scalars: Mapping[str, Interval], rules: tuple[Rule, ...]) -> Values:
    """The arguments, arrays and numbers, ready to be traced. ValueError for what is not legal."""
    sizes: dict[str, int] = {}
    arrays = {name: check_array(name, given[name], letters, sizes) for name, letters in dims.items()}
    for name, x in arrays.items():
        must, right = legal(name, x, sizes)
        need(np.all(right | np.logical_not(counted(name, dims[name], arrays))), name, must, x)
    check_reference(arrays)
    values = arrays | {name: check_scalar(name, x, scalars) for name, x in given.items() if name not in dims}
    for name, rule, holds in rules:
        need(np.all(holds(values)), name, rule, values[name])
    return values


def on_host(outputs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """As NumPy arrays. ValueError for NaN: infinities met on the way, so that there is no limit."""
    for name, x in outputs.items():
        array = np.asarray(x)
        need(not np.any(np.isnan(array)), "the arguments", f"must leave {name} a limit", array)
        yield name, array


def operation(
    function: Callable[..., Values],
    *,
    grads: str = "",
    scalars: Mapping[str, Interval] = SCALARS,
    rules: tuple[Rule, ...] = (),
    counted_over: str = "",
    **shapes: str,
) -> Callable[..., Values]:
    """A pure function as an operation of the contract, differentiated and compiled.

    shapes: arguments by their dimensions, a letter each: NK="rewards". grads: in which of them the sum of the first output is
    differentiated. counted_over: dimensions whose size is part of the answer.

    A program is compiled for each set of shapes. So that there are few of them, sizes are filled up: examples with zeros, whose
    answers are dropped, rows and positions with what is masked; and hyperparameters are arguments of the program too. (Op by op
    nothing is compiled as a whole, but a gradient takes twenty milliseconds of dispatch each time.)
    """
    dims = {name: letters for letters, names in shapes.items() for name in names.split()}
    parameters = inspect.signature(function).parameters.values()
    defaults = {x.name: x.default for x in parameters if x.default is not x.empty and x.name not in dims}
    known = dict.fromkeys([*dims, *(x.name for x in parameters if x.kind is not x.VAR_KEYWORD)])
    steps = {dim: step for dim, step in BUCKETS.items() if dim not in counted_over}

    @jax.jit
    def answer(arguments: Values) -> Values:
        def total(moved: Values) -> tuple[Any, Values]:
            outputs = function(**arguments | moved)
            return next(iter(outputs.values())).sum(), outputs

        slopes, outputs = jax.grad(total, has_aux=True)({name: arguments[name] for name in grads.split()})
        return outputs | {f"grad_{name}": slope for name, slope in slopes.items()}

    def filled(name: str, x: Any) -> Any:
        letters = dims.get(name, "")
        return np.pad(x, [(0, -size % steps.get(dim, 1)) for dim, size in zip(letters, x.shape, strict=True)]) if letters else x

    def cut(name: str, x: Any, sizes: Mapping[str, int]) -> Any:
        """A gradient has the dimensions of its argument, all else the first of the first argument's."""
        letters = dims.get(name.removeprefix("grad_"), next(iter(dims.values())))
        return x[tuple(slice(sizes[dim]) for dim in letters[: x.ndim])]

    @functools.wraps(function)
    def call(**given: Any) -> Values:
        for name in given:
            need(name in known, name, f"must be one of {', '.join(known)}", given[name])
        for name in known:
            need(name in defaults | given, name, "must be given", "nothing")
        values = check(defaults | given, dims, scalars, rules)
        sizes = {dim: size for name in dims for dim, size in zip(dims[name], values[name].shape, strict=True)}
        outputs = answer({name: filled(name, x) for name, x in values.items()})
        return dict(on_host({name: cut(name, np.asarray(x), sizes) for name, x in outputs.items()}))

    return call
