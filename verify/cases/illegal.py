"""Requests that must be refused: generated from the contract, and by hand for its rules on several arguments.

What the contract leaves open is left out: a reference of -inf under a finite policy except in `kl_regularized_objective`,
one that beta = 0 does not look at, and advantages of rows that are masked away.
"""

import math
from collections.abc import Iterator
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


def invalid(operation: str, dtype: str) -> list[Invalid]:
    """Everything that an implementation of the operation must refuse. The same list at every call."""
    contract = CONTRACTS[operation]
    rng = np.random.default_rng([0, *operation.encode()])
    # Only one rule is broken at a time: a max_length below 1 still holds a cache of half a token.
    regime = "half a token" if operation == "overlong_penalty" else "ordinary"
    base = draw(operation, regime, rng, dtype).inputs
    broken = [
        *(found for x in contract.inputs.values() for found in _one_argument(contract, x, base, dtype)),
        *_rules(operation, base),
        *_meeting_infinities(contract, base),
    ]
    plain = [Invalid(operation, name, rule, base | changed) for name, rule, changed in broken]
    return plain + list(_layouts(contract, base))


def _one_argument(contract: Contract, x: Input, base: Inputs, dtype: str) -> Iterator[Broken]:
    value = base[x.name]
    if x.kind == "scalar":
        yield x.name, "rank", {x.name: np.array([float(value)])}
        bad = [("NaN", math.nan), ("inf", math.inf), ("-inf", -math.inf), *_outside(x, dtype)]
        yield from ((x.name, rule, {x.name: number}) for rule, number in bad)
        return
    yield x.name, "rank, one more", {x.name: value[..., None]}
    yield x.name, "rank, one fewer", {x.name: value[0]}
    yield from _shapes(contract, x, value)
    yield from _entries(contract, x, base, dtype)


def _shapes(contract: Contract, x: Input, value: np.ndarray) -> Iterator[Broken]:
    """One entry too many, and a single one that would be broadcast, along every dimension shared with another argument."""
    for axis, dim in enumerate(x.dims):
        if any(dim in other.dims for other in contract.inputs.values() if other is not x):
            longer = np.concatenate([value, value.take([-1], axis)], axis)
            yield x.name, f"{dim} one too many", {x.name: longer}
            yield x.name, f"{dim} of 1, broadcast", {x.name: value.take([0], axis)}


def _entries(contract: Contract, x: Input, base: Inputs, dtype: str) -> Iterator[Broken]:
    """One entry that counts is not a number, is infinite, or is just outside its interval."""
    bad: list[tuple[str, float]] = []
    if x.kind == "float":
        bad = [("NaN", math.nan), ("inf", math.inf), *_outside(x, dtype)]
        bad += [] if x.minus_infinity else [("-inf", -math.inf)]
    elif x.kind == "int":
        bad = [("below its interval", x.low - 1)]
    for rule, number in bad:
        yield x.name, rule, {x.name: _with_entry(contract, x, base, number)}
    if x.kind == "int" and x.low == 1:
        yield x.name, "not whole", {x.name: base[x.name] + 0.5}


def _with_entry(contract: Contract, x: Input, base: Inputs, number: float) -> np.ndarray:
    changed = base[x.name].copy()
    changed[tuple(np.argwhere(counts(contract, x, base))[0])] = number
    return changed


def _outside(x: Input, dtype: str) -> Iterator[tuple[str, float]]:
    """Open ends themselves, and what is just beyond every end."""
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


def _rules(operation: str, base: Inputs) -> list[Broken]:
    """A request for every rule on several arguments, named as the contract names it."""
    if operation == "kto_reference_point":
        return [("policy_mismatched_logps", "must not be empty", {name: np.zeros(0) for name in base})]
    if operation in ("plackett_luce", "plackett_luce_dpo"):
        single = {name: x[:, :1] for name, x in base.items() if np.ndim(x)}
        return [(next(iter(single)), "must rank at least 2 responses", single)]
    if operation.startswith("advantages_"):
        return [("rewards", "must hold at least 2 responses a group", {"rewards": base["rewards"][:, :1]})]
    if operation == "overlong_penalty":
        return [("cache_length", "must not exceed max_length", {"cache_length": base["max_length"] + 1})]
    if operation == "rejection_acceptance":
        return [("reward_max", "must be at least every reward", {"reward_max": float(base["rewards"].max()) - 0.5})]
    if operation in ("sequence_logps", "linear_sequence_logps"):
        return list(_response_rules(operation, base))
    return list(_mask_rules(operation, base))


def _response_rules(operation: str, base: Inputs) -> Iterator[Broken]:
    scores, axis = ("logits", 2) if operation == "sequence_logps" else ("weight", 0)
    kept = base["response_mask"]
    first, emptied, beyond = kept.copy(), kept.copy(), base["tokens"].copy()
    first[1, 0], emptied[1], beyond[kept] = True, False, base[scores].shape[axis]
    yield "response_mask", "must be false at position 0, which nothing predicts", {"response_mask": first}
    yield "response_mask", "must be true somewhere in every row", {"response_mask": emptied}
    yield "tokens", f"must lie in the vocabulary of {scores}", {"tokens": beyond}


def _mask_rules(operation: str, base: Inputs) -> Iterator[Broken]:
    if operation in ("sequence_mean", "constant_mean"):
        rowless = {name: base[name][:0] for name in ("token_losses", "mask")}
        yield "mask", "must have at least one row", rowless
    if operation == "sequence_mean":
        emptied = base["mask"].copy()
        emptied[1] = False
        yield "mask", "must be true somewhere in every row", {"mask": emptied}
    if operation == "token_mean":
        yield "mask", "must be true somewhere", {"mask": np.zeros_like(base["mask"])}


MEETING: dict[str, tuple[str, ...]] = {
    "kl_regularized_objective": ("reference_logps",),
    "plackett_luce_dpo": ("policy_logps",),
    "optimal_policy": ("reference_logps",),
    "kto": ("policy_logps", "reference_logps"),
    "kto_reference_point": ("policy_mismatched_logps", "reference_mismatched_logps"),
    "sppo": ("policy_logps", "reference_logps"),
    "kl_estimates": ("policy_logps", "reference_logps"),
    "ppo_policy": ("logps", "old_logps"),
    "grpo": ("logps", "old_logps"),
    "sequence_logps": ("logits",),
}


def _meeting_infinities(contract: Contract, base: Inputs) -> Iterator[Broken]:
    """-inf less -inf: in two arguments, or in all of a row. An answer would have to be NaN."""
    pair = ("policy_chosen_logps", "policy_rejected_logps")
    names = pair if pair[0] in base else MEETING.get(contract.name, ())
    changed = {name: _with_impossible_row(contract, contract.inputs[name], base) for name in names}
    if names:
        yield names[0], "infinities meet", changed
    if contract.name == "kl_regularized_objective":
        yield "policy_logits", "no finite entry", {"policy_logits": np.full_like(base["policy_logits"], -np.inf)}


def _with_impossible_row(contract: Contract, x: Input, base: Inputs) -> np.ndarray:
    """-inf at the first entry that counts, and at all others of its row of scores."""
    changed = base[x.name].copy()
    place = tuple(np.argwhere(counts(contract, x, base))[0])
    scores = x.dims[-1:] in (("K",), ("V",))
    changed[place[:-1] if scores else place] = -np.inf
    return changed
