"""Requests that must be refused: generated from the contract, and by hand for its rules on several arguments.

What the contract leaves open is left out: a reference of -inf under a finite policy except in `kl_regularized_objective`,
one that beta = 0 does not look at, and advantages of rows that are masked away.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from verify.cases.laws import counts
from verify.cases.sampling import draw
from verify.contract import CONTRACTS, Contract, Input

Inputs = dict[str, Any]
Broken = tuple[str, str, Inputs]  # argument, rule, the arguments to replace


class Invalid(NamedTuple):
    """A request with one thing wrong. `layout` as in the protocol: "plain", or one that only Python modules are sent."""

    operation: str
    argument: str
    rule: str
    inputs: Inputs
    layout: str = "plain"

    def sent(self) -> Inputs:
        """The arguments in their layout: floating-point arrays as integers, or masks as numbers."""
        kind, dtype = {"integer": ("f", np.int64), "numeric-mask": ("b", np.float64)}.get(self.layout, ("", None))
        changed = {n: x.astype(dtype) for n, x in self.inputs.items() if isinstance(x, np.ndarray) and x.dtype.kind == kind}
        return self.inputs | changed


def invalid(operation: str, dtype: str) -> list[Invalid]:
    """Everything that an implementation of the operation must refuse. The same list at every call."""
    contract = CONTRACTS[operation]
    rng = np.random.default_rng([0, *operation.encode()])
    base = draw(operation, "ordinary", rng, dtype).inputs
    if "cache_length" in base:
        base["cache_length"] = 0.5  # only one rule is broken at a time: a max_length below 1 still holds it
    broken = [
        *(found for x in contract.inputs.values() for found in _one_argument(contract, x, base, dtype)),
        *((name, rule, BREAKS[rule](base)) for name, rule in contract.rules),
        *_meeting_infinities(contract, base),
    ]
    plain = [Invalid(operation, name, rule, base | changed) for name, rule, changed in broken]
    return plain + list(_layouts(contract, base))


def _one_argument(contract: Contract, x: Input, base: Inputs, dtype: str) -> Iterator[Broken]:
    """Another rank, other sizes, and one entry, that counts, of a number that is not legal."""
    value = base[x.name]
    if x.kind == "scalar":
        yield x.name, "rank", {x.name: np.array([float(value)])}
    else:
        yield x.name, "rank, one more", {x.name: value[..., None]}
        yield x.name, "rank, one fewer", {x.name: value[0]}
        yield from _shapes(contract, x, value)
    for rule, number in illegal_numbers(x, dtype):
        yield x.name, rule, {x.name: _with_entry(contract, x, base, number) if x.dims else number}
    if x.kind == "int" and x.low == 1:
        yield x.name, "not whole", {x.name: value + 0.5}


def _shapes(contract: Contract, x: Input, value: np.ndarray) -> Iterator[Broken]:
    """One entry too many, and a single one that would be broadcast, along every dimension shared with another argument."""
    for axis, dim in enumerate(x.dims):
        if any(dim in other.dims for other in contract.inputs.values() if other is not x):
            longer = np.concatenate([value, value.take([-1], axis)], axis)
            yield x.name, f"{dim} one too many", {x.name: longer}
            yield x.name, f"{dim} of 1, broadcast", {x.name: value.take([0], axis)}


def _with_entry(contract: Contract, x: Input, base: Inputs, number: float) -> np.ndarray:
    changed = base[x.name].copy()
    changed[_place(contract, x, base)] = number
    return changed


def _place(contract: Contract, x: Input, base: Inputs) -> tuple[int, ...]:
    """The first entry that counts."""
    return tuple(np.argwhere(counts(contract, x, base))[0])


def illegal_numbers(x: Input, dtype: str) -> Iterator[tuple[str, float]]:
    """What is not finite, open ends themselves, and what is just beyond every end."""
    if x.kind in ("int", "count"):
        yield "below its interval", x.low - 1
    if x.kind in ("int", "count", "bool"):
        return
    yield from (("NaN", math.nan), ("inf", math.inf))
    if not x.minus_infinity:
        yield "-inf", -math.inf
    step = float(np.finfo(dtype).eps)
    for end, is_open, beyond in ((x.low, x.low_open, -step), (x.high, x.high_open, step)):
        if math.isfinite(end):
            yield f"beyond {end:g}", end + beyond * max(1.0, abs(end))
            if is_open:
                yield f"at the open end {end:g}", end


def _layouts(contract: Contract, base: Inputs) -> Iterator[Invalid]:
    """Whole numbers in an array of integers, and masks that are numbers: only a Python module can be sent these."""
    kinds = {x.kind for x in contract.inputs.values()}
    if "float" in kinds:
        whole = {x.name: np.rint(base[x.name]) for x in contract.inputs.values() if x.kind == "float"}
        first = next(iter(whole))
        yield Invalid(contract.name, first, "an integer array where a float one is due", base | whole, "integer")
    for x in contract.inputs.values():
        if x.kind == "bool":
            yield Invalid(contract.name, x.name, "not boolean", base, "numeric-mask")


def _refilled(base: Inputs, place: Any, value: bool) -> Inputs:
    """The request's mask with some of its entries set."""
    name = "mask" if "mask" in base else "response_mask"
    changed = base[name].copy()
    changed[place] = value
    return {name: changed}


# A request for every rule on several arguments, by the words of the contract.
BREAKS: dict[str, Callable[[Inputs], Inputs]] = {
    "must be at least every reward": lambda x: {"reward_max": float(x["rewards"].max()) - 0.5},
    "must be false at position 0, which nothing predicts": lambda x: _refilled(x, (1, 0), True),
    "must be true somewhere": lambda x: _refilled(x, ..., False),
    "must be true somewhere in every row": lambda x: _refilled(x, 1, False),
    "must have at least one row": lambda x: {name: value[:0] for name, value in x.items() if np.ndim(value)},
    "must hold at least 2 responses a group": lambda x: {"rewards": x["rewards"][:, :1]},
    "must lie in the vocabulary of logits": lambda x: {"tokens": np.full_like(x["tokens"], x["logits"].shape[2])},
    "must lie in the vocabulary of weight": lambda x: {"tokens": np.full_like(x["tokens"], x["weight"].shape[0])},
    "must not be empty": lambda x: {name: value[:0] for name, value in x.items()},
    "must not exceed max_length": lambda x: {"cache_length": x["max_length"] + 1},
    "must rank at least 2 responses": lambda x: {name: value[:, :1] for name, value in x.items() if np.ndim(value)},
}


def _meeting_infinities(contract: Contract, base: Inputs) -> Iterator[Broken]:
    """-inf less -inf, in all of a row of scores or in two arguments. An answer would have to be NaN."""
    able = [x for x in contract.inputs.values() if x.minus_infinity]
    for x in able:
        if x.dims[-1] in ("K", "V"):
            changed = base[x.name].copy()
            changed[_place(contract, x, base)[:-1]] = -np.inf
            yield x.name, "no finite entry", {x.name: changed}
    if len(able) > 1 and able[0].dims[-1] in ("N", "T"):
        yield able[0].name, "infinities meet", {x.name: _with_entry(contract, x, base, -np.inf) for x in able[:2]}
