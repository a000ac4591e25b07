"""Inputs by regime: what an operation is sent, drawn so that a wrong line shows and an honest port does not suffer.

An argument has a range, and stands alone or opposite another: a policy opposite its reference, what is chosen opposite what is
rejected. What *spreads* is the difference of two opposites, or the first array where none has an opposite; a regime says how
far and from which level, in one way for all operations; `FINISHES` and `TIES` hold the little that is an operation's own.

Numbers stand on a grid, four decimals or, in float32, multiples of 1/1024: they read well, are exact in their dtype, and come
out the same on every machine. Arguments are unlike each other (lengths, weights, both ends of a clip), so that none can be
taken for another. An output that is an exponential times something large is kept clear of the smallest normal number, where
textbook forms flush to zero first and multiply then.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from verify.cases.laws import ignores_masked, keeps_rows, polluted
from verify.contract import CONTRACTS, Contract, Input

Inputs = dict[str, Any]
Shape = tuple[int, ...]

RANGES: dict[str, tuple[float, float]] = {  # by operation and argument, by argument, or by its last word
    "advantages": (-2, 2),
    "errors": (0.05, 0.4),
    "hidden": (-2, 2),
    "logits": (-4, 4),
    "logps": (-60, -3),
    "orpo.logps": (-3, -0.05),
    "returns": (-4, 4),
    "rewards": (-2, 2),
    "token_losses": (-1, 3),
    "values": (-4, 4),
    "weight": (-1, 1),
    "win_rates": (0.05, 0.95),
    "beta": (0.12, 0.44),
    "diffusion_dpo.beta": (1500, 6000),
    "clip": (0.25, 0.75),
    "clip_high": (0.35, 0.6),
    "clip_low": (0.1, 0.3),
    "desirable_weight": (1.1, 1.9),
    "discount": (0.85, 0.99),
    "eta": (2, 40),
    "gamma": (0.3, 1.6),
    "label_smoothing": (0.05, 0.35),
    "margin": (0.3, 2),
    "odds_weight": (0.15, 0.9),
    "reference_point": (0.3, 3),
    "trace_decay": (0.5, 0.8),
    "undesirable_weight": (0.3, 0.9),
}
OPPOSITES = (("policy_", "reference_"), ("chosen_", "rejected_"), ("", "old_"))
REACHES = {"logps": 6, "rewards": 6, "errors": 0.002, "old_logps": 1, "old_values": 1.5}  # of differences, by the opposite
UNITS = {  # a margin is this times beta to this power times what spreads; or beta times it
    "diffusion_dpo": (0.5, 1),
    "grpo": (1, 0),
    "kl_regularized_objective": (1, 0),
    "linear_sequence_logps": (3, 0),
    "optimal_policy": (1, -1),
    "rejection_acceptance": (1, -1),
}

# Between 85 and 99 (float32) and 705 and 800 (float64) textbook sigmoids are zero where a factor of 1e4 could still be seen.
MARGINS = {"float32": (40, 60, 80, 100), "float64": (40, 100, 400, 700, 800)}
EXPONENTS = {"float32": (15, 27), "float64": (15, 60, 250)}  # the exponential of a difference neither overflows nor vanishes
EXPONENTIAL = ("kl_regularized_objective", "linear_sequence_logps", "ppo_policy", "grpo")  # multiply an exponential
JUNK = (math.inf, -(2.0**100), 2.0**100)  # for where nothing counts

SIZES = {"N": 3, "K": 4, "G": 4, "V": 4, "D": 3}
RESIZED = {"empty": {"N": 0}, "one example": {"N": 1}, "equal rewards": {"G": 3}}  # three tenths by three are no tenth
TIES: dict[str, tuple[list[float], Inputs]] = {  # what spreads, over and over, and what else is fixed
    "rso_hinge": ([4, 4.5, 3.5], {"beta": 0.25}),
    "ppo_policy": ([1000, -1000], {"advantages": 0}),  # a ratio beyond every number, to no advantage
    "grpo": ([1000, -1000], {"advantages": 0}),
    "ppo_value": ([-1, 0.5, -0.5, 1], {"clip": 0.5}),
}


class Regime(NamedTuple):
    """What inputs of a regime have in common, and which operations it is for."""

    comment: str
    suits: Callable[[Contract], bool]


def learns(contract: Contract) -> bool:
    return any(output.with_respect_to not in (None, "token_losses") for output in contract.outputs.values())


def compares_scores(contract: Contract) -> bool:
    return any({"K", "G"} & {*x.dims} for x in contract.inputs.values())


def impossible(contract: Contract) -> list[str]:
    """Arguments that may be -inf where the answer has a limit: not what the policy is compared with."""
    constants = () if contract.name == "optimal_policy" else ("reference_", "old_")
    return [x.name for x in contract.inputs.values() if x.minus_infinity and not x.name.startswith(constants)]


def has_ends(x: Input) -> bool:
    return (x.low, x.high) == (0, 1) and not x.low_open and not x.high_open


def may_vanish(x: Input) -> bool:
    return x.kind == "scalar" and x.low == 0 and not x.low_open


ALL: dict[str, Regime] = {
    "ordinary": Regime("Middling numbers, all arguments different from each other.", lambda c: True),
    "step 0": Regime("The policy is its reference: nothing has been learned yet.", learns),
    "saturated": Regime(
        "Margins of both signs beyond which exponentials overflow or vanish.",
        lambda c: (learns(c) or c.name in UNITS) and c.name != "ppo_value",
    ),
    "cancelling": Regime(
        "Large numbers that differ by little.",
        lambda c: c.name not in ("linear_sequence_logps", "ppo_value", "overlong_penalty"),
    ),
    "tiny": Regime("Differences of 1e-12 to 1e-5.", lambda c: (learns(c) or compares_scores(c)) and c.name != "ppo_value"),
    "ties": Regime(
        "Comparisons that are exactly tied, differences that are exactly 0.",
        lambda c: c.name in (*TIES, "overlong_penalty"),
    ),
    "ends": Regime(
        "At the ends of legal ranges.",
        lambda c: any(map(has_ends, c.inputs.values())) or c.name in ("overlong_penalty", "rejection_acceptance"),
    ),
    "minus infinity": Regime("Impossible events: the answer is the limit.", lambda c: bool(impossible(c))),
    "zero weight": Regime("Weights of 0, also on what is infinite.", lambda c: any(map(may_vanish, c.inputs.values()))),
    "equal rewards": Regime("Scores that do not differ.", compares_scores),
    "single token": Regime("One token counts in every row.", ignores_masked),
    "long and ragged": Regime("Rows of very different lengths.", ignores_masked),
    "polluted": Regime("Junk and impossible tokens wherever the mask is false.", ignores_masked),
    "empty row": Regime(
        "A row in which nothing counts.",
        lambda c: ignores_masked(c) and (c.mask, "must be true somewhere in every row") not in c.rules,
    ),
    "one example": Regime("A batch of one.", lambda c: True),
    "empty": Regime(
        "No examples: empty answers.",
        lambda c: keeps_rows(c) and all(x.dims in ((), ("N",)) for x in c.inputs.values()),
    ),
}
REGIMES = {name: tuple(r for r, regime in ALL.items() if regime.suits(c)) for name, c in CONTRACTS.items()}


class Draft:
    """A request in the making: `found` holds its arguments. The same generator gives the same ones on every machine."""

    def __init__(self, contract: Contract, regime: str, rng: np.random.Generator, dtype: str) -> None:
        self.contract, self.regime, self.rng, self.dtype = contract, regime, rng, dtype
        self.sizes = SIZES | RESIZED.get(regime, {})
        fine = 2**16 if contract.name == "diffusion_dpo" else 1024 if dtype == "float32" else 10_000
        # On multiples of 1/64 v_old + clip(v - v_old) is exact, and so are ties.
        self.grid = 64 if regime == "ties" or contract.name == "ppo_value" else fine
        self.found: Inputs = {}

    def range(self, name: str) -> tuple[float, float]:
        word = name.rpartition("_")[2]
        keys = (f"{self.contract.name}.{word}", name, word)
        return next(RANGES[key] for key in keys if key in RANGES)

    def exact(self, x: Any) -> Any:
        """Sums and products of grid numbers without their last rounding error, exact in the dtype."""
        return np.round(x, 12).astype(self.dtype).astype(np.float64)

    def between(self, low: float, high: float, shape: Shape = ()) -> Any:
        ends = math.ceil(low * self.grid), math.floor(high * self.grid)
        return self.exact(self.rng.integers(*ends, shape, endpoint=True) / self.grid)

    def mixed(self, sizes: np.ndarray) -> np.ndarray:
        """Given magnitudes, with signs that alternate from a random one."""
        return sizes * np.resize([1.0, -1.0], sizes.shape) * self.rng.choice([1.0, -1.0])

    def extremes(self, shape: Shape) -> np.ndarray:
        """Margins where textbook forms fail, the largest of them with both signs."""
        choices = (EXPONENTS if self.contract.name in EXPONENTIAL else MARGINS)[self.dtype]
        sizes = self.rng.choice(np.array(choices, float), shape)
        sizes.flat[:2] = choices[-1]
        factor, power = UNITS.get(self.contract.name, (1, 1))
        unit = factor * self.found.get("beta", 1.0) ** power
        return np.rint(self.mixed(sizes) / unit * self.grid) / self.grid

    def tiny(self, shape: Shape) -> np.ndarray:
        """1e-12 to 1e-6, or in float32 powers of two of which a grid number below 8 keeps every bit."""
        if self.dtype == "float32":
            return self.mixed(0.5 ** self.rng.integers(14, 21, shape))
        return self.mixed(1 / 10.0 ** self.rng.integers(6, 13, shape))

    def spread(self, low: float, high: float, shape: Shape) -> np.ndarray:
        """Differences, or scores that stand alone."""
        if self.regime == "ties":
            return np.resize(np.array(TIES[self.contract.name][0], float), shape)
        if self.regime == "saturated":
            return self.extremes(shape)
        if self.regime == "tiny":
            return self.tiny(shape)
        if self.regime == "equal rewards":
            return np.zeros(shape) + self.exact(np.resize([0.1, 0.9, -1.7], (shape[0], 1)))
        near = {"step 0": 0, "cancelling": 0.25}.get(self.regime, 1)
        return self.between(near * low, near * high, shape)

    def apart(self, name: str, other: str, shape: Shape) -> None:
        """Two opposites: the level of both, from which one of them moves away from 0 by their difference."""
        low, high = self.range(name)
        away, near = math.copysign(1, low), 0.125 if self.regime == "tiny" else 1
        level = self.between(near * low, near * high, shape) + away * 3000 * (self.regime == "cancelling")
        reach = REACHES.get(other) or REACHES[name.rpartition("_")[2]]
        # One margin of two is extreme, or tied; two of them could cancel.
        quiet = "rejected" in name and self.regime in ("saturated", "ties")
        gap = away * (np.zeros(shape) if quiet else self.spread(-reach, reach, shape))
        self.found[name] = self.exact(level + away * np.maximum(gap, 0))
        self.found[other] = self.exact(level + away * np.maximum(-gap, 0))

    def opposite(self, name: str) -> str | None:
        others = (name.replace(old, new, 1) for old, new in OPPOSITES)
        return next((other for other in others if other != name and other in self.contract.inputs), None)

    def scalar(self, x: Input) -> float:
        if self.regime == "zero weight" and may_vanish(x):
            return 0.0
        if self.regime == "ends" and has_ends(x):
            return 1.0
        return float(self.between(*self.range(x.name)))

    def mask(self) -> np.ndarray:
        """[3, 6], or [3, 14] if long: rows of different lengths, with holes; or one row, one token a row, an empty row."""
        width = 14 if self.regime == "long and ragged" else 6
        starts, stops, places = np.array([[0], [1], [2]]), np.array([[width], [width - 1], [4]]), np.arange(width)
        rows = (starts <= places) & (places < stops) & (places != self.rng.integers(1, 4, (3, 1)))
        if self.regime == "single token":
            rows = places == self.rng.integers(1, width, (3, 1))
        rows = rows[self.rng.permutation(3)[: 1 if self.regime == "one example" else 3]]
        if self.regime == "empty row":
            rows[1] = False
        if self.contract.mask_is_shifted:
            rows[:, 0] = False
        return rows

    def complete(self) -> Inputs:
        """All arguments of the contract, and some that it may not have."""
        known = [x for x in self.contract.inputs.values() if x.kind == "scalar" and x.name in RANGES]
        self.found |= {x.name: self.scalar(x) for x in known}
        self.counted()
        self.floats()
        if self.regime == "ties" and self.contract.name in TIES:
            fixed = TIES[self.contract.name][1]
            self.found |= {name: np.full_like(self.found[name], value)[()] for name, value in fixed.items()}
        FINISHES.get(self.contract.name, lambda draft: None)(self)
        if self.regime in ("minus infinity", "zero weight"):
            strike(self)
        return self.found

    def counted(self) -> None:
        """Masks, tokens and lengths. Lengths of two responses are never equal."""
        if self.contract.mask:
            rows = self.found[self.contract.mask] = self.mask()
            self.sizes |= dict(zip("BT", rows.shape, strict=True))
        count = self.sizes["N"]
        chosen = self.rng.integers(4, 20, count)
        rejected = chosen + self.rng.choice([-3, -2, 1, 2, 5, 11], count)
        desirable = np.array([True, True, False])[:count]
        self.found |= {"chosen_lengths": chosen, "rejected_lengths": rejected, "desirable": desirable}
        if self.contract.mask_is_shifted:
            self.found["tokens"] = self.rng.integers(0, self.sizes["V"], rows.shape)

    def floats(self) -> None:
        inputs = [x for x in self.contract.inputs.values() if x.kind == "float"]
        alone = not any(self.opposite(x.name) for x in inputs)
        for x in inputs:
            shape, other = tuple(self.sizes[dim] for dim in x.dims), self.opposite(x.name)
            if x.name in self.found:
                continue
            if other:
                self.apart(x.name, other, shape)
            elif alone and x is inputs[0]:
                self.found[x.name] = self.exact(self.spread(*self.range(x.name), shape) + 3000 * (self.regime == "cancelling"))
            elif self.regime == "ends" and has_ends(x):
                self.found[x.name] = np.resize([0.0, 1.0], shape)
            else:
                self.found[x.name] = self.between(*self.range(x.name), shape)


def grpo(draft: Draft) -> None:
    """At weight 0 k3 overflows: it must not be looked at."""
    found, shape = draft.found, draft.found["mask"].shape
    if draft.regime == "zero weight":
        found["logps"], found["old_logps"] = (draft.exact(found[name] - 1000) for name in ("logps", "old_logps"))
    else:
        gap = draft.extremes(shape) if draft.regime == "ties" else draft.spread(-1.5, 1.5, shape)
        found["reference_logps"] = draft.exact(found["logps"] - gap)


def ppo_value(draft: Draft) -> None:
    """At a tie a step is as long as the clip, or twice that with the return halfway between what it leaves and reaches."""
    if draft.regime == "ties":
        found = draft.found
        found["returns"] = found["old_values"] + 0.75 * (found["values"] - found["old_values"])


def token_means(draft: Draft) -> None:
    """Log-probabilities were drawn a token."""
    for response in ("chosen", "rejected"):
        name = f"policy_{response}_logps"
        draft.found[name] = draft.exact(draft.found[name] * draft.found[f"{response}_lengths"])


def orpo(draft: Draft) -> None:
    """Tiny are the log-probabilities of responses that are almost certain: in each case one whose probability rounds to 1."""
    if draft.regime == "tiny":
        for name in ("policy_chosen_logps", "policy_rejected_logps"):
            exponents = np.resize([30, 23, 12], draft.sizes["N"]) - draft.rng.integers(0, 4)
            draft.found[name] = -(0.5 ** draft.rng.permutation(exponents))
    token_means(draft)


def rejection_acceptance(draft: Draft) -> None:
    top = draft.found["rewards"].max(initial=-1)
    draft.found["reward_max"] = float(top if draft.regime == "ends" else draft.exact(top + draft.between(0.25, 1)))


def overlong_penalty(draft: Draft) -> None:
    """Lengths inside, before and beyond the last stretch; at the ties on both its ends, at the ends without a before."""
    cache_length = int(draft.rng.integers(3, 30))
    start = 0 if draft.regime == "ends" else int(draft.rng.integers(40, 90))
    inside = int(draft.rng.integers(1, cache_length))
    offsets = {"ties": (0, cache_length), "ends": (inside, cache_length)}.get(draft.regime, (inside, -7, cache_length + 5))
    lengths = start + np.array(offsets[: draft.sizes["N"]], np.int64)
    draft.found |= {"lengths": lengths, "max_length": start + cache_length, "cache_length": cache_length}


def constant_mean(draft: Draft) -> None:
    draft.found["max_length"] = int(draft.rng.integers(15, 40))


OWN: tuple[Callable[[Draft], None], ...] = (constant_mean, grpo, orpo, overlong_penalty, ppo_value, rejection_acceptance)
FINISHES = {finish.__name__: finish for finish in OWN} | {"simpo": token_means}


def strike(draft: Draft) -> None:
    """Puts -inf into entries of every argument in turn: never all of a row, never two that meet."""
    for turn, name in enumerate(impossible(draft.contract)):
        x, dims = draft.found[name], draft.contract.inputs[name].dims
        if dims == ("N",):
            x[turn::2] = -np.inf
        elif dims == ("N", "K"):
            x[[0, 1, 2], [-1, 0, 1]] = -np.inf
        elif dims == ("B", "T"):
            x[draft.found["mask"].cumsum(axis=1) <= 2] = -np.inf
        else:
            # In row 0 a token that is not sampled, in row 1 the one that is.
            rows, places = [0, 1], draft.found["response_mask"][:2].argmax(axis=1)
            x[rows, places - 1, (draft.found["tokens"][rows, places] + [1, 0]) % 4] = -np.inf


def inputs(operation: str, regime: str, rng: np.random.Generator, dtype: str) -> Inputs:
    """One set of legal inputs, in the contract's order; a comparison in the definition may still be nearly tied."""
    contract = CONTRACTS[operation]
    found = Draft(contract, regime, rng, dtype).complete()
    if regime == "polluted":
        found = polluted(contract, found, rng, JUNK)
    return {name: found[name] for name in contract.inputs}
