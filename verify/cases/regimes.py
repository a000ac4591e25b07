"""Inputs by regime: what an operation is sent, drawn so that a wrong line shows and an honest port does not suffer.

Numbers stand on a grid, four decimals or, in float32, multiples of 1/1024: they read well, are exact in their dtype, and come
out the same on every machine. Arguments are unlike each other (lengths, weights, both ends of a clip), so that none can be
taken for another. An output that is an exponential times something large is kept clear of the smallest normal number, where
textbook forms flush to zero first and multiply then.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from verify.cases.laws import polluted
from verify.contract import CONTRACTS

Inputs = dict[str, Any]
Scalars = dict[str, float]

NUMBERS = ("ordinary", "step 0", "saturated", "cancelling", "tiny")
VECTOR = (*NUMBERS, "one example", "empty")
MASKED = ("single token", "long and ragged", "polluted", "one example")
PAIR = (*VECTOR, "minus infinity")
RANKING = ("ordinary", "equal rewards", "saturated", "cancelling", "two responses", "one example")
BANDIT = ("ordinary", "step 0", "equal rewards", "saturated", "cancelling", "minus infinity", "one response", "one example")
MEAN = ("ordinary", "step 0", "saturated", "cancelling", "negative", "ties", "minus infinity", "one example")
GROUP = ("ordinary", "equal rewards", "two responses", "odd group", "binary rewards", "tiny", "cancelling", "one example")
CLIPPED = (*NUMBERS, "ties", "minus infinity", "empty row", *MASKED)

REGIMES: dict[str, tuple[str, ...]] = {
    "bradley_terry": VECTOR,
    "plackett_luce": RANKING,
    "optimal_policy": BANDIT,
    "kl_regularized_objective": BANDIT,
    "dpo": PAIR,
    "cdpo": (*PAIR, "zero weight"),
    "robust_dpo": (*PAIR, "zero weight"),
    "plackett_luce_dpo": (*RANKING, "step 0", "tiny", "minus infinity"),
    "ipo": (*PAIR, "ties"),
    "ipo_length_normalized": (*PAIR, "ties"),
    "rso_hinge": (*PAIR, "ties"),
    "kto": (*PAIR, "ties", "zero weight"),
    "kto_reference_point": MEAN,
    "orpo": ("ordinary", "step 0", "saturated", "tiny", "minus infinity", "zero weight", "one example", "empty"),
    "simpo": PAIR,
    "sppo": (*PAIR, "ties", "ends"),
    "diffusion_dpo": VECTOR,
    "sequence_logps": ("ordinary", "step 0", "saturated", "cancelling", "minus infinity", *MASKED),
    "linear_sequence_logps": ("ordinary", "step 0", "saturated", *MASKED),
    "kl_estimates": PAIR,
    "gae": ("ordinary", "step 0", "sparse reward", "zero weight", "ends", "cancelling", "empty row", "one position", *MASKED),
    "ppo_policy": CLIPPED,
    "ppo_value": ("ordinary", "step 0", "ties", "empty row", *MASKED),
    "advantages_grpo": GROUP,
    "advantages_dr_grpo": GROUP,
    "advantages_rloo": GROUP,
    "grpo": (*CLIPPED, "zero weight"),
    "sequence_mean": ("ordinary", "cancelling", "saturated", *MASKED),
    "token_mean": ("ordinary", "cancelling", "saturated", "empty row", *MASKED),
    "constant_mean": ("ordinary", "cancelling", "saturated", "empty row", *MASKED),
    "overlong_penalty": ("ordinary", "ties", "ends", "half a token", "one example", "empty"),
    "rejection_acceptance": ("ordinary", "ends", "saturated", "cancelling", "one example", "empty"),
}

RANGES: dict[str, tuple[float, float]] = {
    "beta": (0.06, 0.44),
    "clip_high": (0.35, 0.6),
    "clip_low": (0.1, 0.3),
    "desirable_weight": (1.1, 1.9),
    "discount": (0.85, 0.99),
    "eta": (2.0, 40.0),
    "gamma": (0.3, 1.6),
    "label_smoothing": (0.05, 0.35),
    "margin": (0.3, 2.0),
    "odds_weight": (0.15, 0.9),
    "reference_point": (0.3, 3.0),
    "trace_decay": (0.5, 0.8),
    "undesirable_weight": (0.3, 0.9),
}
BETAS = {
    "simpo": (1.6, 2.9),
    "diffusion_dpo": (1500.0, 6000.0),
    "optimal_policy": (0.6, 1.9),
    "kl_regularized_objective": (0.6, 1.9),
    "rejection_acceptance": (0.6, 1.9),
}

# Between 85 and 99 (float32) and 705 and 800 (float64) textbook sigmoids are zero where a factor of 1e4 could still be seen.
MARGINS = {"float32": (40, 60, 80, 100), "float64": (40, 100, 400, 700, 800)}
EXPONENTS = {"float32": (15, 30, 55), "float64": (15, 60, 500)}  # whose exponentials neither overflow nor vanish
JUNK = (math.inf, -(2.0**100), 2.0**100)  # for where nothing counts


class Pen:
    """Draws numbers on the grid of a dtype. The same generator gives the same numbers on every machine."""

    def __init__(self, rng: np.random.Generator, dtype: str) -> None:
        self.rng, self.dtype = rng, dtype

    def between(self, low: float, high: float, *shape: int) -> Any:
        """Multiples of 1/10000, or of 1/1024 in float32."""
        return self.on_grid(1024 if self.dtype == "float32" else 10_000, low, high, *shape)

    def dyadic(self, low: float, high: float, *shape: int) -> Any:
        """Multiples of 1/64: sums and differences are exact in every arithmetic."""
        return self.on_grid(64, low, high, *shape)

    def on_grid(self, grid: int, low: float, high: float, *shape: int) -> Any:
        return self.rng.integers(math.ceil(low * grid), math.floor(high * grid), shape, endpoint=True) / grid

    def snapped(self, x: Any) -> Any:
        """Numbers moved to the grid."""
        grid = 1024 if self.dtype == "float32" else 10_000
        return np.rint(np.asarray(x) * grid) / grid

    def tidied(self, x: Any) -> Any:
        """Sums and products of grid numbers without their last rounding error, exact in the dtype."""
        return np.round(x, 12).astype(self.dtype).astype(np.float64)

    def mixed(self, sizes: np.ndarray) -> np.ndarray:
        """Given magnitudes, with signs that alternate from a random one."""
        signs = np.resize([1.0, -1.0], sizes.size) * self.rng.choice([1.0, -1.0])
        return sizes * signs.reshape(sizes.shape)

    def extremes(self, choices: tuple[float, ...], *shape: int) -> np.ndarray:
        """Some of the choices with signs, the last of them with both."""
        sizes = self.rng.choice(np.array(choices, float), shape)
        sizes.flat[:2] = choices[-1]
        return self.mixed(sizes)

    def tiny(self, *shape: int) -> np.ndarray:
        """Of both signs, 1e-12 to 1e-6, or in float32 powers of two of which a grid number below 8 keeps every bit."""
        if self.dtype == "float32":
            return self.mixed(0.5 ** self.rng.integers(14, 21, shape))
        return self.mixed(1 / 10.0 ** self.rng.integers(6, 13, shape))


def scalars(pen: Pen, operation: str, regime: str) -> Scalars:
    """Hyperparameters; in the regime "zero weight" 0 wherever that is legal."""
    found = {}
    for argument in CONTRACTS[operation].inputs.values():
        closed_at_zero = argument.low == 0 and not argument.low_open
        if argument.kind == "scalar" and regime == "zero weight" and closed_at_zero:
            found[argument.name] = 0.0
        elif argument.kind == "scalar" and argument.name in RANGES:
            ends = RANGES | ({"beta": BETAS[operation]} if operation in BETAS else {})
            found[argument.name] = float(pen.between(*ends[argument.name]))
    return found


def examples(regime: str) -> int:
    return {"one example": 1, "empty": 0}.get(regime, 3)


def gaps(pen: Pen, regime: str, unit: float, *shape: int, reach: float = 6.0) -> np.ndarray:
    """Log-ratios, or differences of scores, of which `unit` times one is a margin; ordinary ones go as far as the reach."""
    if regime == "saturated":
        return pen.snapped(pen.extremes(MARGINS[pen.dtype], *shape) / unit)
    if regime == "tiny":
        return pen.tiny(*shape)
    reach = {"step 0": 0.0, "cancelling": min(reach, 1.5)}.get(regime, reach)
    return pen.between(-reach, reach, *shape)


def around(pen: Pen, regime: str, gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two log-probabilities, none positive, whose difference is the gap."""
    low, high = {"cancelling": (2900, 3100), "tiny": (1, 7)}.get(regime, (3, 60))
    draw = pen.dyadic if regime == "ties" else pen.between
    base = -draw(low, high, *gap.shape)
    return pen.tidied(base + np.minimum(gap, 0)), pen.tidied(base - np.maximum(gap, 0))


def lengths_apart(pen: Pen, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Token counts of two responses, never equal."""
    chosen = pen.rng.integers(4, 20, count)
    return chosen, chosen + pen.rng.choice([-3, -2, 1, 2, 5, 11], count)


def with_minus_infinity(regime: str, *policies: np.ndarray) -> None:
    """Puts -inf into one entry of each array in turn: its first, its second."""
    if regime in ("minus infinity", "zero weight"):
        for place, policy in enumerate(policies):
            policy[place] = -np.inf


def bradley_terry(pen: Pen, regime: str, given: Scalars) -> Inputs:
    gap = gaps(pen, regime, 1.0, examples(regime))
    chosen, rejected = around(pen, regime, gap)
    return {"chosen_rewards": chosen, "rejected_rewards": rejected}


def pair(pen: Pen, regime: str, given: Scalars) -> Inputs:
    count = examples(regime)
    quiet = "ordinary" if regime == "saturated" else regime
    chosen, rejected = gaps(pen, regime, given["beta"], count), gaps(pen, quiet, 1.0, count, reach=1.5)
    drawn = pair_from(pen, regime, chosen, rejected)
    with_minus_infinity(regime, drawn["policy_chosen_logps"], drawn["policy_rejected_logps"])
    return drawn


def pair_from(pen: Pen, regime: str, chosen_gap: np.ndarray, rejected_gap: np.ndarray) -> Inputs:
    """The four log-probabilities around given log-ratios."""
    policy_chosen, reference_chosen = around(pen, regime, chosen_gap)
    policy_rejected, reference_rejected = around(pen, regime, rejected_gap)
    return {
        "policy_chosen_logps": policy_chosen,
        "policy_rejected_logps": policy_rejected,
        "reference_chosen_logps": reference_chosen,
        "reference_rejected_logps": reference_rejected,
    }


TIED_BETA = 0.25
BESIDE = np.array([0, 0.5, -0.5])  # on a tie, and to both sides of it


def ipo(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """The ties are at the optimum: gaps of 1/(2 beta) = 2 nats."""
    if regime != "ties":
        return pair(pen, regime, given)
    shift = pen.dyadic(-2, 2, 3)
    return pair_from(pen, regime, shift + 2 + BESIDE, shift) | {"beta": TIED_BETA}


def ipo_length_normalized(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """The ties are at the optimum, per token."""
    chosen, rejected = lengths_apart(pen, examples(regime))
    if regime != "ties":
        return pair(pen, regime, given) | {"chosen_lengths": chosen, "rejected_lengths": rejected}
    chosen, rejected, shift = np.array([2, 8, 4]), np.array([4, 2, 8]), pen.dyadic(-1, 1, 3)
    drawn = pair_from(pen, regime, (shift + 2 + BESIDE) * chosen, shift * rejected)
    return drawn | {"chosen_lengths": chosen, "rejected_lengths": rejected, "beta": TIED_BETA}


def rso_hinge(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """Margins on both sides of the kink; the ties are on it: gaps of 1/beta = 4 nats."""
    if regime == "ties":
        shift = pen.dyadic(-2, 2, 3)
        return pair_from(pen, regime, shift + 4 + BESIDE, shift) | {"beta": TIED_BETA}
    if regime != "ordinary":
        return pair(pen, regime, given)
    chosen = pen.snapped(1 / given["beta"]) + pen.mixed(pen.between(2, 6, 3))
    return pair_from(pen, regime, chosen, pen.between(-1.5, 1.5, 3))


def reference_free(pen: Pen, regime: str, means: tuple[np.ndarray, np.ndarray]) -> Inputs:
    """Sums over tokens from log-probabilities a token, with lengths apart."""
    chosen, rejected = lengths_apart(pen, len(means[0]))
    sums = [pen.tidied(mean * length) for mean, length in zip(means, (chosen, rejected), strict=True)]
    with_minus_infinity(regime, *sums)
    return {
        "policy_chosen_logps": sums[0],
        "policy_rejected_logps": sums[1],
        "chosen_lengths": chosen,
        "rejected_lengths": rejected,
    }


def simpo(pen: Pen, regime: str, given: Scalars) -> Inputs:
    return reference_free(pen, regime, around(pen, regime, gaps(pen, regime, given["beta"], examples(regime))))


def orpo(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """Log-probabilities a token: ordinary ones, one of the two almost impossible, or both almost certain."""
    count = examples(regime)
    chosen, rejected = -pen.between(0.05, 3, count), -pen.between(0.05, 3, count)
    if regime == "step 0":
        rejected = chosen
    if regime == "saturated":
        far = -abs(pen.extremes(MARGINS[pen.dtype][:3], count))
        first = np.arange(count) % 2 == 0
        chosen, rejected = np.where(first, far, chosen), np.where(first, rejected, far)
    if regime == "tiny":
        chosen, rejected = -(0.5 ** pen.rng.integers(10, 31, count)), -(0.5 ** pen.rng.integers(10, 31, count))
    return reference_free(pen, regime, (chosen, rejected))


def unpaired(pen: Pen, regime: str, given: Scalars) -> Inputs:
    unit = given.get("beta", 1.0)
    policy, reference = around(pen, regime, gaps(pen, regime, unit, examples(regime)))
    with_minus_infinity(regime, policy)
    return {"policy_logps": policy, "reference_logps": reference}


def kto(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """At the ties the log-ratio is the reference point itself."""
    count = 4 if examples(regime) == 3 else examples(regime)
    point = 1.5 if regime == "ties" else given["reference_point"]
    gap = np.full(count, point) if regime == "ties" else gaps(pen, regime, given["beta"], count)
    policy, reference = around(pen, regime, gap)
    desirable = np.array([True, True, False, False][:count], bool)
    with_minus_infinity(regime, policy, policy[1:])
    found = {"policy_logps": policy, "reference_logps": reference, "desirable": desirable}
    return found | {"reference_point": point}


def kto_reference_point(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """A positive mean; one below 0, which counts as 0; one that is exactly 0."""
    gap = gaps(pen, regime, 1.0, 1 if regime == "one example" else 4)
    if regime == "negative":
        gap = -abs(gap) + [1, 0, 0, 0]
    elif regime == "ties":
        gap = np.array([1.5, -0.5, 0.25, -1.25])
    elif regime in ("ordinary", "saturated"):
        gap = abs(gap) - [0, 1, 0, 2]
    policy, reference = around(pen, regime, gap)
    with_minus_infinity(regime, policy)
    return {"policy_mismatched_logps": policy, "reference_mismatched_logps": reference}


def sppo(pen: Pen, regime: str, given: Scalars) -> Inputs:
    drawn = unpaired(pen, "step 0" if regime == "ties" else regime, given)
    count = len(drawn["policy_logps"])
    win_rates = {"ties": np.full(count, 0.5), "ends": np.array([0.0, 1.0, 0.0])}.get(regime, pen.between(0.05, 0.95, count))
    return drawn | {"win_rates": win_rates}


def diffusion_dpo(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """Errors of a few tenths that differ in the third decimal: the margin is beta/2 times that."""
    count = examples(regime)
    base = pen.on_grid(2**16, 0.05, 0.4, 4, count)
    excess = pen.on_grid(2**16, -0.002, 0.002, 2, count)
    if regime == "step 0":
        excess = np.zeros((2, count))
    elif regime == "tiny":
        excess = pen.mixed(np.full((2, count), 2.0**-19))
    elif regime == "saturated":
        margin = pen.extremes(MARGINS[pen.dtype], count) * 2 / given["beta"]
        excess = np.array([np.rint(margin * 2**16) / 2**16, np.zeros(count)])
    elif regime == "cancelling":
        base = base + 100
    return {
        "policy_chosen_errors": base[0] + excess[0],
        "policy_rejected_errors": base[1] + excess[1],
        "reference_chosen_errors": base[0],
        "reference_rejected_errors": base[1],
    }


def ranked(regime: str) -> tuple[int, int]:
    return examples(regime), {"two responses": 2, "one response": 1}.get(regime, 4)


def plackett_luce(pen: Pen, regime: str, given: Scalars) -> Inputs:
    shape = ranked(regime)
    if regime == "equal rewards":
        return {"rewards": np.repeat(pen.between(-3, 3, shape[0], 1), shape[1], axis=1)}
    level = 3000.0 if regime == "cancelling" else 0.0
    return {"rewards": pen.tidied(level + gaps(pen, regime, 1.0, *shape, reach=3.0))}


def plackett_luce_dpo(pen: Pen, regime: str, given: Scalars) -> Inputs:
    shape = ranked(regime)
    gap = np.full(shape, 1.25) if regime == "equal rewards" else gaps(pen, regime, given["beta"], *shape)
    policy, reference = around(pen, "ties" if regime == "equal rewards" else regime, gap)
    if regime == "minus infinity":
        policy[0, -1] = policy[1, 0] = policy[2, 1] = -np.inf
    return {"policy_logps": policy, "reference_logps": reference}


def bandit(pen: Pen, regime: str) -> Inputs:
    """Rewards and reference log-probabilities, which no definition needs to be normalized."""
    count, responses = ranked(regime)
    rewards = pen.between(-2, 2, count, responses)
    if regime == "equal rewards":
        rewards = np.repeat(rewards[:, :1], responses, axis=1)
    return {"rewards": rewards, "reference_logps": -pen.between(0.2, 6, count, responses)}


def optimal_policy(pen: Pen, regime: str, given: Scalars) -> Inputs:
    drawn = bandit(pen, regime)
    if regime == "step 0":
        drawn["rewards"] = np.zeros_like(drawn["rewards"])
    elif regime == "saturated":
        drawn["rewards"] = gaps(pen, regime, 1 / given["beta"], *ranked(regime))
    elif regime == "cancelling":
        drawn["rewards"] = pen.tidied(drawn["rewards"] + 3000)
    elif regime == "minus infinity":
        drawn["reference_logps"][[0, 1, 1], [0, 1, 3]] = -np.inf
    return drawn


def kl_regularized_objective(pen: Pen, regime: str, given: Scalars) -> Inputs:
    drawn = bandit(pen, regime)
    logits = drawn["reference_logps"].copy() if regime == "step 0" else pen.between(-3, 3, *ranked(regime))
    if regime == "saturated":
        logits = pen.extremes(EXPONENTS[pen.dtype], *ranked(regime)) / 2
    elif regime == "cancelling":
        logits = pen.tidied(logits + 3000)
    elif regime == "minus infinity":
        logits[[0, 1, 1], [0, 1, 3]] = -np.inf
    return drawn | {"policy_logits": logits}


def mask(pen: Pen, regime: str) -> np.ndarray:
    """[3, 6], or [3, 14] if long: rows of different lengths, with holes; one row, one token a row, an empty row; or [3, 1]."""
    if regime == "one position":
        return np.ones((3, 1), bool)
    width = 14 if regime == "long and ragged" else 6
    starts, stops = np.array([[0], [1], [2]]), np.array([[width], [width - 1], [4]])
    places = np.arange(width)
    rows = (starts <= places) & (places < stops) & (places != pen.rng.integers(1, 4, (3, 1)))
    if regime == "single token":
        rows = places == pen.rng.integers(1, width, (3, 1))
    rows = rows[pen.rng.permutation(3)]
    if regime == "empty row":
        rows[1] = False
    return rows[:1] if regime == "one example" else rows


def sequence(pen: Pen, regime: str, vocabulary: int) -> Inputs:
    response_mask = mask(pen, regime)
    response_mask[:, 0] = False
    return {"tokens": pen.rng.integers(0, vocabulary, response_mask.shape), "response_mask": response_mask}


def sequence_logps(pen: Pen, regime: str, given: Scalars) -> Inputs:
    drawn = sequence(pen, regime, 4)
    shape = (*drawn["tokens"].shape, 4)
    logits = np.zeros(shape) if regime == "step 0" else pen.between(-4, 4, *shape)
    if regime == "saturated":
        logits = gaps(pen, regime, 1.0, *shape)
    elif regime == "cancelling":
        logits = pen.tidied(logits + 3000)
    elif regime == "minus infinity":
        # In row 0 a token that is not sampled, in row 1 the one that is.
        rows, places = [0, 1], [int(np.argmax(drawn["response_mask"][b])) for b in (0, 1)]
        sampled = drawn["tokens"][rows, places]
        logits[rows, np.array(places) - 1, (sampled + [1, 0]) % 4] = -np.inf
    return drawn | {"logits": logits}


def linear_sequence_logps(pen: Pen, regime: str, given: Scalars) -> Inputs:
    drawn = sequence(pen, regime, 4)
    reach = {"step 0": 0.0, "saturated": max(EXPONENTS[pen.dtype]) / 6}.get(regime, 2.0)
    return drawn | {
        "hidden": pen.between(-reach, reach, *drawn["tokens"].shape, 3),
        "weight": pen.between(-1, 1, 4, 3),
    }


def gae(pen: Pen, regime: str, given: Scalars) -> Inputs:
    kept = mask(pen, regime)
    rewards, values = pen.between(-2, 2, *kept.shape), pen.between(-3, 3, *kept.shape)
    if regime == "step 0":
        values = np.zeros(kept.shape)
    elif regime == "sparse reward":
        rewards = rewards * (np.arange(kept.shape[1]) == [[5], [4], [3]])
    elif regime == "cancelling":
        values = pen.tidied(values + 3000)
    ends = {"discount": 1.0, "trace_decay": 1.0} if regime == "ends" else {}
    return {"rewards": rewards, "values": values, "mask": kept, **ends}


def first_four(kept: np.ndarray) -> tuple[np.ndarray, ...]:
    """Places of the first four tokens that count: two ratios above both clips and two below, each with an advantage of
    either sign."""
    return tuple(np.argwhere(kept)[:4].T)


def token_logps(pen: Pen, regime: str, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of tokens now and before: ratios on both sides of both clips."""
    gap = gaps(pen, regime, 1.0, *kept.shape, reach=1.0)
    if regime == "ordinary":
        gap[first_four(kept)] = pen.between(0.6, 1, 4) * [1, 1, -1, -1]
    elif regime == "saturated":
        gap = pen.extremes(EXPONENTS[pen.dtype], *kept.shape)
    elif regime == "ties":
        gap = pen.mixed(np.full(kept.shape, 1000.0))
    return around(pen, regime, gap)


def ppo_policy(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """At the ties the advantage is 0 and the ratio beyond every number."""
    kept = mask(pen, regime)
    logps, old_logps = token_logps(pen, regime, kept)
    advantages = np.zeros(kept.shape) if regime == "ties" else pen.between(-2, 2, *kept.shape)
    if regime == "ordinary":
        advantages[first_four(kept)] = pen.between(0.2, 2, 4) * [1, -1, 1, -1]
    elif regime == "minus infinity":
        impossible(kept, logps, old_logps)
    return {"logps": logps, "old_logps": old_logps, "advantages": advantages, "mask": kept}


def impossible(kept: np.ndarray, logps: np.ndarray, old_logps: np.ndarray) -> None:
    """-inf: of the tokens that count in a row, now at the first two, before at the third."""
    order = np.cumsum(kept, axis=1)
    logps[kept & (order <= 2)] = old_logps[kept & (order == 3)] = -np.inf


def grpo(pen: Pen, regime: str, given: Scalars) -> Inputs:
    kept = mask(pen, regime)
    logps, old_logps = token_logps(pen, regime, kept)
    gap = gaps(pen, regime, 1.0, *kept.shape, reach=1.5)
    if regime in ("saturated", "ties"):
        gap = pen.extremes(EXPONENTS[pen.dtype], *kept.shape)
    advantages = np.zeros(len(kept)) if regime == "ties" else pen.mixed(pen.between(0.1, 2, len(kept)))
    reference_logps = pen.tidied(logps - gap)
    if regime == "minus infinity":
        impossible(kept, logps, old_logps)
    found = {"logps": logps, "old_logps": old_logps, "reference_logps": reference_logps}
    return found | {"advantages": advantages, "mask": kept}


def ppo_value(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """On a dyadic grid, so that v_old + clip(v - v_old) is exact too. Ties: a step as long as the clip, or one twice as long
    with the return halfway between what it leaves and what it reaches."""
    kept = mask(pen, regime)
    old_values, returns = pen.dyadic(-4, 4, *kept.shape), pen.dyadic(-4, 4, *kept.shape)
    clip = float(pen.dyadic(0.25, 0.75))
    steps = pen.dyadic(-1.5, 1.5, *kept.shape) * (regime != "step 0")
    if regime == "ties":
        steps = clip * pen.rng.choice([-2, -1, 1, 2], kept.shape)
        returns = old_values + 0.75 * steps
    return {"values": old_values + steps, "old_values": old_values, "returns": returns, "mask": kept, "clip": clip}


def group(pen: Pen, regime: str, given: Scalars) -> Inputs:
    count, responses = examples(regime), {"two responses": 2, "odd group": 5}.get(regime, 4)
    rewards = pen.between(-2, 2, count, responses)
    if regime == "equal rewards":
        # A mean of equal numbers need not be that number: of three times 0.1, or in float32 0.9.
        tenths = np.array([[0.1, 0.9, -1.7]], pen.dtype).astype(np.float64).T
        rewards = np.repeat(tenths, 3, axis=1)
    elif regime == "binary rewards":
        rewards = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], float)[pen.rng.permutation(3)]
    elif regime == "tiny":
        rewards = rewards / 2**14
    elif regime == "cancelling":
        rewards = pen.tidied(rewards + 3000)
    return {"rewards": rewards}


def aggregation(pen: Pen, regime: str, given: Scalars) -> Inputs:
    kept = mask(pen, regime)
    token_losses = pen.between(-1, 3, *kept.shape)
    if regime == "cancelling":
        token_losses = pen.mixed(pen.tidied(token_losses + 3000))
    elif regime == "saturated":
        token_losses = token_losses * 2**40
    return {"token_losses": token_losses, "mask": kept}


def constant_mean(pen: Pen, regime: str, given: Scalars) -> Inputs:
    return aggregation(pen, regime, given) | {"max_length": int(pen.rng.integers(15, 40))}


def overlong_penalty(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """Lengths before, inside and beyond the last stretch; at the ties on both its ends. It may be half a token long."""
    if regime == "half a token":
        return {"lengths": np.array([49, 50, 51]), "max_length": 50, "cache_length": 0.5}
    cache_length = int(pen.rng.integers(3, 30))
    start = 0 if regime == "ends" else int(pen.rng.integers(40, 90))
    inside = int(pen.rng.integers(1, cache_length))
    offsets = {
        "ties": (0, cache_length),
        "ends": (inside, cache_length, cache_length + 1),
        "one example": (inside,),
        "empty": (),
    }.get(regime, (-7, inside, cache_length + 5))
    lengths = np.array([start + offset for offset in offsets], np.int64)
    return {"lengths": lengths, "max_length": start + cache_length, "cache_length": cache_length}


def rejection_acceptance(pen: Pen, regime: str, given: Scalars) -> Inputs:
    """Rewards below the bound; at the ends one equals it. One example is of a bound below 0."""
    count = examples(regime)
    level = {"cancelling": 3000.0, "one example": -5.0}.get(regime, 0.0)
    reward_max = level + float(pen.between(1, 3))
    below = pen.between(0.1, 4, count)
    if regime == "saturated":
        below = pen.snapped(abs(pen.extremes(MARGINS[pen.dtype], count)) * given["beta"])
    elif regime == "ends":
        below[0] = 0
    return {"rewards": pen.tidied(reward_max - below), "reward_max": float(pen.tidied(reward_max))}


DRAWERS: dict[str, Callable[[Pen, str, Scalars], Inputs]] = {
    "bradley_terry": bradley_terry,
    "plackett_luce": plackett_luce,
    "optimal_policy": optimal_policy,
    "kl_regularized_objective": kl_regularized_objective,
    "dpo": pair,
    "cdpo": pair,
    "robust_dpo": pair,
    "plackett_luce_dpo": plackett_luce_dpo,
    "ipo": ipo,
    "ipo_length_normalized": ipo_length_normalized,
    "rso_hinge": rso_hinge,
    "kto": kto,
    "kto_reference_point": kto_reference_point,
    "orpo": orpo,
    "simpo": simpo,
    "sppo": sppo,
    "diffusion_dpo": diffusion_dpo,
    "sequence_logps": sequence_logps,
    "linear_sequence_logps": linear_sequence_logps,
    "kl_estimates": unpaired,
    "gae": gae,
    "ppo_policy": ppo_policy,
    "ppo_value": ppo_value,
    "advantages_grpo": group,
    "advantages_dr_grpo": group,
    "advantages_rloo": group,
    "grpo": grpo,
    "sequence_mean": aggregation,
    "token_mean": aggregation,
    "constant_mean": constant_mean,
    "overlong_penalty": overlong_penalty,
    "rejection_acceptance": rejection_acceptance,
}


def inputs(operation: str, regime: str, rng: np.random.Generator, dtype: str) -> Inputs:
    """One set of legal inputs, in the contract's order; a comparison in the definition may still be nearly tied."""
    pen, contract = Pen(rng, dtype), CONTRACTS[operation]
    given = scalars(pen, operation, regime)
    drawn = {**given, **DRAWERS[operation](pen, regime, given)}
    if regime == "polluted":
        drawn = polluted(contract, drawn, rng, JUNK)
    return {name: drawn[name] for name in contract.inputs}
