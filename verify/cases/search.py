"""Inputs over the whole legal domain, for hypothesis to search and to shrink.

Sizes are small and numbers are drawn one by one, so that a counterexample shrinks to a few short ones. Magnitudes stay
where the textbook form of an operation neither overflows nor, on its way to a number that can be seen, underflows.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from verify.cases.regimes import EXPONENTIAL, REGIMES, impossible
from verify.contract import CONTRACTS, Contract, Input

Inputs = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

SIZES = {"N": (0, 3), "K": (1, 4), "G": (2, 4), "B": (1, 3), "T": (1, 5), "V": (1, 4), "D": (1, 3)}
ON_GRID = "ppo_value"  # v_old + clip(v - v_old) must be exact too
ARRAYS = {"float": float, "int": np.int64, "bool": bool}


def strategy(operation: str, dtype: str) -> st.SearchStrategy[Inputs]:
    """Legal inputs, the contract's cross rules kept. The oracle may still find a near tie, or infinities that meet."""
    return _inputs(CONTRACTS[operation], dtype)


@st.composite
def _inputs(draw: Draw, contract: Contract, dtype: str) -> Inputs:
    sizes = {dim: draw(st.integers(*_bounds(contract, dim))) for dim in SIZES}
    arguments = contract.inputs.values()
    found: Inputs = {x.name: draw(_scalar(contract, x, dtype)) for x in arguments if x.kind == "scalar"}
    reach, infinite = _reach(contract.name, found, dtype), impossible(contract) if draw(st.booleans()) else ()
    for x in arguments:
        if x.kind != "scalar":
            shape = tuple(sizes[dim] for dim in x.dims)
            entries = _entries(contract, x, dtype, reach, sizes["V"])
            entries = entries | st.just(-np.inf) if x.name in infinite else entries
            drawn = draw(st.lists(entries, min_size=math.prod(shape), max_size=math.prod(shape)))
            found[x.name] = np.array(drawn, ARRAYS[x.kind]).reshape(shape)
    _mend(contract, found)
    return {name: found[name] for name in contract.inputs}


def _bounds(contract: Contract, dim: str) -> tuple[int, int]:
    """A size's range. Two are ranked at least, and a token needs one before it; only a list of numbers may be empty."""
    low, high = SIZES[dim]
    ruled = any("rank at least 2" in text for _, text in contract.rules)
    if (dim == "K" and ruled) or (dim == "T" and contract.mask_is_shifted):
        return 2, high
    return (1 if dim == "N" and "empty" not in REGIMES[contract.name] else low), high


def _floats(low: float, high: float, dtype: str) -> st.SearchStrategy[float]:
    """Small fractions first, to which others shrink; then any magnitude down to 1e-300, or 1e-30."""
    single = dtype == "float32"
    least = 1e-30 if single else 1e-300
    low, high = (float(np.float32(end)) if single else end for end in (low, high))
    fractions = st.integers(max(-64, math.ceil(8 * low)), min(64, math.floor(8 * high))).map(lambda n: n / 8)
    anything = st.floats(low, high, width=32 if single else 64, allow_subnormal=False)
    return fractions | anything.filter(lambda x: x == 0 or abs(x) >= least)


def _scalar(contract: Contract, x: Input, dtype: str) -> st.SearchStrategy[float]:
    """Hyperparameters from 1e-3 to 1e3, and 0 where that is legal; lengths are whole, but for a short cache."""
    if x.name == "max_length":
        return st.integers(1, 10_000)
    if x.name == "cache_length":
        return st.integers(1, 10_000) | st.integers(1, 7).map(lambda n: n / 8)
    if contract.name == ON_GRID:
        return st.integers(1, 4096).map(lambda n: n / 1024)
    top = {0.5: 0.49, 1: 1 if not x.high_open else 0.99}.get(x.high, 1000.0)
    bottom = -1000.0 if x.low < 0 else 0.001
    positive = _floats(bottom, top, dtype)
    return positive | st.just(0.0) if x.low == 0 and not x.low_open else positive


def _reach(operation: str, scalars: Inputs, dtype: str) -> float:
    """How large numbers may be: 1e4, or so that an exponential never vanishes before something large multiplies it."""
    span = 60.0 if dtype == "float32" else 600.0
    factor = max(scalars.get(name, 0) for name in ("beta", "odds_weight"))
    if operation == "linear_sequence_logps":
        return (span / 8) ** 0.5
    if operation in (*EXPONENTIAL, "kl_estimates"):
        return span / 2
    return 1e4 if factor <= 1 else span / 4 / factor


def _entries(contract: Contract, x: Input, dtype: str, reach: float, vocabulary: int) -> st.SearchStrategy[Any]:
    if x.kind == "bool":
        return st.booleans()
    if x.kind == "int":
        return st.integers(0, vocabulary - 1) if x.name == "tokens" else st.integers(1, 10_000)
    if contract.name == ON_GRID:
        return st.integers(-(2**16), 2**16).map(lambda n: n / 1024)
    if contract.name == "orpo":
        return _floats(-60.0, -1e-9, dtype)  # textbook forms fail for a certain response beside an impossible one
    return _floats(max(x.low, -reach), min(x.high, reach), dtype)


def _mend(contract: Contract, found: Inputs) -> None:
    """Moves what breaks a rule on several arguments to the nearest that does not."""
    if contract.mask_is_shifted:
        found["response_mask"][:, 0] = False
        found["response_mask"][:, -1] |= ~found["response_mask"].any(axis=1)
    elif contract.name in ("sequence_mean", "token_mean"):
        found["mask"][:, 0] |= ~found["mask"].any(axis=1)
    elif contract.name == "overlong_penalty":
        found["cache_length"] = min(found["cache_length"], found["max_length"])
    elif contract.name == "rejection_acceptance":
        found["reward_max"] = float(max([found["reward_max"], *found["rewards"]]))
