"""The oracle against the contract's words at 300 digits or more: values, slopes, bounds; then limits, ties, refusals."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from verify import cases
from verify.contract import CONTRACTS
from verify.oracle import OPERATIONS, NearTie, NoLimit, answer, machine, offline, online, sequences
from verify.oracle.numbers import digits, exp_tail, log1mexp, log1p, logistic

INF = float("inf")
Inputs = dict[str, Any]


def ordinary(operation: str) -> Inputs:
    return cases.draw(operation, "ordinary", np.random.default_rng(0), "float64").inputs


def values(operation: str, **inputs: Any) -> dict[str, np.ndarray]:
    return {name: exact.value for name, exact in answer(operation, inputs).items()}


def big(x: Any) -> Any:
    """Numbers, or arrays of them, at mpmath's precision: a Decimal to 80 digits, whatever its exponent."""
    return np.vectorize(lambda y: mpf(str(y) if isinstance(y, Decimal) else y), otypes=[object])(x)[()]


def close(got: Any, due: Any, tolerance: str) -> None:
    """Every |got - due| <= tolerance |due|; NaN and a difference in shape fail."""
    assert np.shape(got) == np.shape(due)
    assert np.all(abs(got - due) <= mpf(tolerance) * abs(due)), (got, due)


TAILS = ("1e-300", "-1e-300", "1e-150", "-0.04", "0.3", "-0.499", "0.6", "-2", "-99", "-800", "740")


@pytest.mark.parametrize("x", TAILS)
def test_elementary_functions_keep_50_digits_in_the_tails(x: str) -> None:
    with digits(80), mpmath.workdps(1000):
        d, m = Decimal(x), mpf(x)
        pairs = [(exp_tail(d, 1), mpmath.exp(m) - 1), (exp_tail(d, 2), mpmath.exp(m) - 1 - m)]
        pairs += zip(logistic(d), (mpmath.log(1 + mpmath.exp(m)), 1 / (1 + mpmath.exp(-m))), strict=True)
        pairs += [(log1p(d), mpmath.log(1 + m))] if m > -1 else []
        pairs += [(log1mexp(d), mpmath.log(1 - mpmath.exp(m)))] if m < 0 else []
        for got, due in pairs:
            close(big(got), due, "1e-60")


def test_astronomic_numbers_neither_hang_nor_turn_into_nan() -> None:
    for huge in (1e18, -1e18, 1e300, -1e300):
        one, zero = np.array([huge]), np.zeros(1)
        loss = values("bradley_terry", chosen_rewards=one, rejected_rewards=zero, margin=0.0)["losses"]
        assert float(loss[0]) == max(0.0, -huge)
        assert values("kl_estimates", policy_logps=one, reference_logps=zero)["k3"][0] > 1e17


# The contract's words, on arrays of long numbers

exp, log, sqrt = (np.frompyfunc(function, 1, 1) for function in (mpmath.exp, mpmath.log, mpmath.sqrt))


def surprise(z: Any) -> Any:
    return log(1 + exp(-z))


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - log(exp(x).sum(axis=-1, keepdims=True))


def odds(a: Any) -> Any:
    return exp(a) / (1 - exp(a))


def margin(pw: Any, pl: Any, rw: Any, rl: Any, beta: Any, *_: Any) -> Any:
    return beta * ((pw - rw) - (pl - rl))


def smoothed(sign: int, *x: Any) -> Any:
    return (1 - x[5]) * surprise(margin(*x)) + sign * x[5] * surprise(-margin(*x))


def ranking(scores: np.ndarray) -> Any:
    return sum(-log_softmax(scores[:, k:])[:, 0] for k in range(scores.shape[1]))


def gains(z: Any, rewards: Any, q: Any, beta: Any) -> Any:
    return exp(log_softmax(z)) * (rewards - beta * (log_softmax(z) - q))


def clipped(x: Any, low: Any, high: Any) -> Any:
    return np.minimum(np.maximum(x, low), high)


def surrogate(new: Any, old: Any, advantages: Any, mask: Any, low: Any, high: Any) -> Any:
    ratio = exp(new - old)
    return np.where(mask, -np.minimum(ratio * advantages, clipped(ratio, 1 - low, 1 + high) * advantages), 0)


def of_response(per_token: np.ndarray, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sums over a response of what stands at the position before each token, in that token's column."""
    sampled = np.take_along_axis(per_token[:, :-1], tokens[:, 1:, None], axis=2)[:, :, 0]
    return np.where(mask[:, 1:], sampled, 0).sum(axis=1)


def discounted(rewards: Any, values: Any, mask: Any, discount: Any, trace_decay: Any) -> Any:
    """Σ_k (γλ)^(k-t) (R_k + γ V_(k+1) - V_k) over the steps that count."""
    found = np.zeros(mask.shape, object)
    for b, kept in enumerate(mask):
        now = values[b][kept]
        errors = rewards[b][kept] + discount * np.append(now[1:], 0) - now
        found[b][kept] = [sum((discount * trace_decay) ** k * x for k, x in enumerate(errors[t:])) for t in range(len(now))]
    return found


def k3(d: Any) -> Any:
    return exp(d) - 1 - d


def deviations(rewards: np.ndarray) -> np.ndarray:
    return rewards - rewards.mean(axis=1, keepdims=True)


NAIVE: dict[str, Callable[..., Any]] = {  # by operation and output; the first output where none is named
    "bradley_terry": lambda won, lost, by: surprise(won - lost - by),
    "plackett_luce": ranking,
    "optimal_policy": lambda R, q, b: log_softmax(q + R / b),
    "optimal_policy.log_partition": lambda R, q, b: log(exp(q + R / b).sum(axis=1)),
    "kl_regularized_objective": lambda *x: gains(*x).sum(axis=1),
    "dpo": lambda *x: surprise(margin(*x)),
    "dpo.chosen_rewards": lambda w, v, x, y, b: b * (w - x),
    "dpo.rejected_rewards": lambda w, v, x, y, b: b * (v - y),
    "cdpo": lambda *x: smoothed(1, *x),
    "robust_dpo": lambda *x: smoothed(-1, *x) / (1 - 2 * x[5]),
    "plackett_luce_dpo": lambda p, q, b: ranking(b * (p - q)),
    "ipo": lambda *x: (margin(*x) / x[4] - 1 / (2 * x[4])) ** 2,
    "ipo_length_normalized": lambda w, v, x, y, n, m, b: ((w - x) / n - (v - y) / m - 1 / (2 * b)) ** 2,
    "rso_hinge": lambda *x: np.maximum(0, 1 - margin(*x)),
    "kto": lambda p, q, good, z0, b, *w: np.where(good, *w) / (1 + exp(np.where(good, b, -b) * (p - q - z0))),
    "kto_reference_point": lambda p, q: max(0, (p - q).mean()),
    "orpo": lambda w, v, n, m, weight: weight * surprise(log(odds(w / n) / odds(v / m))) - w / n,
    "orpo.log_odds_ratio": lambda w, v, n, m, _: log(odds(w / n) / odds(v / m)),
    "simpo": lambda w, v, n, m, b, g: surprise(b * (w / n - v / m) - g),
    "sppo": lambda p, q, rate, eta: (p - q - eta * (rate - mpf(1) / 2)) ** 2,
    "diffusion_dpo": lambda *x: surprise(-margin(*x) / 2),
    "sequence_logps": lambda z, tokens, mask: of_response(log_softmax(z), tokens, mask),
    "linear_sequence_logps": lambda h, w, tokens, mask: of_response(log_softmax(h @ w.T), tokens, mask),
    "kl_estimates": lambda p, q: p - q,
    "kl_estimates.k2": lambda p, q: (p - q) ** 2 / 2,
    "kl_estimates.k3": lambda p, q: k3(q - p),
    "gae": discounted,
    "gae.returns": lambda R, V, mask, *x: np.where(mask, discounted(R, V, mask, *x) + V, 0),
    "ppo_policy": surrogate,
    "ppo_value": lambda v, old, R, mask, c: np.where(
        mask, np.maximum((v - R) ** 2, (clipped(v, old - c, old + c) - R) ** 2) / 2, 0
    ),
    "advantages_grpo": lambda R: deviations(R) / (sqrt((deviations(R) ** 2).sum(axis=1, keepdims=True) / 3) + mpf("1e-4")),
    "advantages_dr_grpo": deviations,
    "advantages_rloo": lambda R: R - (R.sum(axis=1, keepdims=True) - R) / 3,
    "grpo": lambda new, old, q, A, mask, low, high, b: (
        surrogate(new, old, A[:, None], mask, low, high) + np.where(mask, b * k3(q - new), 0)
    ),
    "sequence_mean": lambda losses, mask: (np.where(mask, losses, 0).sum(axis=1) / mask.sum(axis=1)).mean(),
    "token_mean": lambda losses, mask: losses[mask].mean(),
    "constant_mean": lambda losses, mask, longest: losses[mask].sum() / len(mask) / longest,
    "overlong_penalty": lambda n, longest, cache: clipped((longest - cache - n) / cache, -1, 0),
    "rejection_acceptance": lambda R, b, top: exp((R - top) / b),
}
OPERANDS: dict[str, Callable[..., Any]] = {  # the contract's S
    "plackett_luce": lambda R: 1 + abs(R).max(axis=1),
    "plackett_luce_dpo": lambda p, q, b: 1 + b * (abs(p) + abs(q)).max(axis=1),
    "optimal_policy": lambda R, q, b: 1 + (abs(q) + abs(R) / b).max(axis=1, keepdims=True),
    "optimal_policy.log_partition": lambda R, q, b: 1 + (abs(q) + abs(R) / b).max(axis=1),
    "kl_regularized_objective": lambda z, R, q, b: (
        (1 + abs(z).max(axis=1)) * (exp(log_softmax(z)) * (abs(R) + b * (1 + abs(log_softmax(z)) + abs(q)))).sum(axis=1)
    ),
    "kto": lambda p, q, good, z0, b, *w: np.where(good, *w),
    "sequence_logps": lambda z, *response: of_response(1 + 0 * z + abs(z).max(axis=2, keepdims=True), *response),
    "linear_sequence_logps": lambda h, w, *response: OPERANDS["sequence_logps"](abs(h) @ abs(w).T, *response),
    "kl_estimates.k3": lambda p, q: np.maximum(1, abs(p - q)),
    "gae": lambda R, V, *x: discounted(abs(R) + 2 * abs(V), abs(V), *x),  # each V is taken away once
    "gae.returns": lambda *x: OPERANDS["gae"](*x),
    "ppo_value": lambda v, old, R, mask, _: np.where(mask, np.maximum(np.maximum(abs(v), abs(old)), abs(R)) ** 2, 0),
    "grpo": lambda new, old, q, A, mask, low, high, b: np.where(mask, b * np.maximum(1, abs(q - new)), 0),
}


def slopes(formula: Callable[..., Any], operation: str, inputs: Inputs) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """(input, place, the formula's slopes there) for every number that rounding can reach."""
    step, value = mpf("1e-100"), formula(*inputs.values())
    for name, argument in CONTRACTS[operation].inputs.items():
        if argument.kind in ("float", "scalar") and "length" not in name:
            for place in np.ndindex(np.shape(inputs[name])):
                moved = np.array(inputs[name], object)
                moved[place] += step
                yield name, place, (formula(*(inputs | {name: moved[()]}).values()) - value) / step


REGIMES = {"ordinary": 300, "tiny": 300, "cancelling": 300, "saturated": 1000}  # digits: e^-1600 has 700 zeros
DRAWN = [(key, regime) for key in NAIVE for regime in REGIMES if regime in cases.regimes(key.partition(".")[0])]


@pytest.mark.parametrize("key, regime", DRAWN)
def test_value_gradient_and_condition_sum_are_those_of_the_naive_formula(key: str, regime: str) -> None:
    operation, _, output = key.partition(".")
    contract = CONTRACTS[operation]
    output = output or next(iter(contract.outputs))
    drawn = cases.draw(operation, regime, np.random.default_rng(1), "float64").inputs
    exact = answer(operation, drawn)
    with mpmath.workdps(REGIMES[regime]):
        inputs = {name: big(x) if contract.inputs[name].kind in ("float", "scalar") else x for name, x in drawn.items()}
        found = NAIVE[key](*inputs.values())
        close(big(exact[output].value), found, "1e-55")
        due, size = {name: np.zeros(np.shape(x), object) for name, x in inputs.items()}, abs(found)
        for name, place, slope in slopes(NAIVE[key], operation, inputs):
            due[name][place] = np.sum(slope)
            size = size + abs(np.asarray(inputs[name])[place] * slope)
        for name, gradient in contract.outputs.items():
            if gradient.gradient_of == output:
                close(big(exact[name].value), due[gradient.with_respect_to], "1e-40")
        close(big(exact[output].scale), size + OPERANDS.get(key, lambda *_: 0)(*inputs.values()), "1e-15")


def test_every_operation_has_a_naive_formula() -> None:
    assert {key.partition(".")[0] for key in NAIVE} == set(OPERATIONS)


# S of every output, by hand

TWO, LOG_2 = [2.0, 2.0], Decimal(2).ln()
RATES = {"beta": 2.0, "desirable_weight": 3.0, "undesirable_weight": 2.0}
TOKEN = {"logps": 1.0, "old_logps": 1.0, "advantages": 1.0, "clip_low": 0.5, "clip_high": 0.5}
OBJECTIVE = {"policy_logits": TWO, "rewards": [1.0, -3.0], "reference_logps": [-1.0, -1.0], "beta": 1.0}
SIZES: list[tuple[Callable[..., Any], Inputs, list[Any]]] = [
    (online.kl_estimates, {"policy_logps": -1.0, "reference_logps": -1.5}, [0, 0, 1, 0, 0, 1]),
    (online.ppo_value, {"values": 1.0, "old_values": 0.5, "returns": -2.0, "clip": 0.25}, [4, 2]),
    (online.gae, {"rewards": [1.0, -2.0], "values": [3.0, -4.0], "discount": 0.5, "trace_decay": 0.5}, [7.5, 6, 7.5, 6]),
    (online.grpo, TOKEN | {"reference_logps": -2.0, "beta": 0.5}, [1.5, 1.5]),
    (offline.plackett_luce_dpo, {"policy_logps": [-1.0, -2.0], "reference_logps": [-3.0, -1.0], "beta": 0.5}, [3, 1.5, 1.5]),
    (offline.plackett_luce, {"rewards": [-4.0, 1.0]}, [5, 5, 5]),
    (offline.optimal_policy, {"rewards": [1.0, -1.0], "reference_logps": [-3.0, -4.0], "beta": 0.5}, [7, 7, 7]),
    (offline.kto, RATES | {"policy_logps": -2.0, "reference_logps": 2.0, "desirable": True, "reference_point": 0.0}, [3, 6, 0]),
    (offline.kl_regularized_objective, OBJECTIVE, [12 + 3 * LOG_2, (21 + 6 * LOG_2) / 2, (27 + 6 * LOG_2) / 2]),
    (sequences.token, {"logits": TWO, "sampled": 0}, [3, 3, 1.5]),
    (sequences.linear_token, {"hidden": [2.0], "weight": [3.0, 3.0], "sampled": 1}, [7, 31.5, 7, 14]),
]


@pytest.mark.parametrize("row, inputs, sizes", SIZES)
def test_honest_cancellation_is_allowed_for(row: Callable[..., Any], inputs: Inputs, sizes: list[Any]) -> None:
    cells = {name: machine.cell(name, x) if name != "sampled" else x for name, x in inputs.items()}
    close(big(machine.measure(row, cells).sizes), big(sizes), "1e-25")


def test_terms_count_what_is_summed() -> None:
    terms = {name: [exact.terms for exact in answer(name, ordinary(name)).values()] for name in OPERATIONS}
    tokens = ordinary("token_mean")["mask"].sum()
    due = {"dpo": 1, "plackett_luce": 4, "kto_reference_point": 3, "gae": 6, "token_mean": tokens, "grpo": 1}
    assert {name: terms[name][0] for name in due} == due
    tokens = ordinary("linear_sequence_logps")["response_mask"].sum(axis=1)
    assert terms["linear_sequence_logps"] == [4 + 3 + tokens.max(), 1, 4 + 3, 4 + 3 + tokens.sum()]
    assert terms["sequence_logps"] == [4 + ordinary("sequence_logps")["response_mask"].sum(axis=1).max(), 1, 4]


# Limits, ties, refusals


def pair(*logps: float, **more: float) -> Inputs:
    names = ("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
    return {name: np.array([x]) for name, x in zip(names, logps, strict=True)} | {"beta": 0.5} | more


def test_limits() -> None:
    low, high = values("dpo", **pair(-INF, -1.0, -1.0, -1.0)), values("dpo", **pair(-1.0, -INF, -1.0, -1.0))
    assert (low["losses"][0], low["grad_policy_chosen_logps"][0]) == (INF, Decimal("-0.5"))
    assert (high["losses"][0], high["grad_policy_rejected_logps"][0]) == (0, 0)
    for label_smoothing, loss in ((0.0, 0), (0.1, INF)):
        assert values("cdpo", **pair(-1.0, -INF, -1.0, -1.0, label_smoothing=label_smoothing))["losses"][0] == loss
    support = {"rewards": np.array([[1.0, 9.0]]), "reference_logps": np.array([[-0.5, -INF]]), "beta": 1.0}
    assert values("optimal_policy", **support)["logps"].tolist() == [[0, -INF]]
    nothing = support | {"policy_logits": np.array([[0.5, -INF]]), "reference_logps": -np.ones((1, 2)) / 2}
    assert values("kl_regularized_objective", **nothing)["objective"][0] == Decimal("0.5")


@pytest.mark.parametrize("sampled, logp, slopes", [(0, -INF, [1.0, -0.5, -0.5]), (1, -LOG_2, [0.0, 0.5, -0.5])])
def test_limits_of_an_impossible_token(sampled: int, logp: Any, slopes: list[float]) -> None:
    logits, mask = np.array([[[-INF, 0.0, 0.0], [0.0, 0.0, 0.0]]]), np.array([[False, True]])
    found = values("sequence_logps", logits=logits, tokens=np.array([[2, sampled]]), response_mask=mask)
    assert found["logps"][0] == logp or abs(found["logps"][0] - logp) <= Decimal("1e-25")
    close(big(found["grad_logits"][0, 0]), big(slopes), "1e-60")


LAST_TWO = {"policy_logps": np.array([[-1.0, -INF, -INF]]), "reference_logps": -np.ones((1, 3)), "beta": 1.0}
NO_SUPPORT = {"rewards": np.ones((1, 2)), "reference_logps": np.array([[-INF, -INF]]), "beta": 1.0}
MISMATCHED = {"policy_mismatched_logps": np.array([-1.0]), "reference_mismatched_logps": np.array([-1.0000001])}


def token(logp: float, old: float, advantage: float) -> Inputs:
    arrays = {"logps": logp, "old_logps": old, "advantages": advantage, "mask": True}
    return {name: np.array([[x]]) for name, x in arrays.items()} | {"clip_low": 0.5, "clip_high": 0.5}


REFUSED: list[tuple[str, Inputs, type[ValueError], str]] = [
    ("dpo", pair(-INF, -INF, -1.0, -1.0), NoLimit, "infinities meet"),
    ("dpo", pair(-1.0, -1.0, -INF, -1.0), NoLimit, "reference"),
    ("ipo", pair(-INF, -1.0, -INF, -1.0), NoLimit, "reference"),
    ("plackett_luce_dpo", LAST_TWO, NoLimit, "infinities meet"),
    ("optimal_policy", NO_SUPPORT, NoLimit, "infinities meet"),
    ("rso_hinge", pair(-1.0, -3.0000001, -1.0, -1.0), NearTie, "within 1e-6"),
    ("rso_hinge", pair(-1e8, -1e8 - 3.0, -1.0, -1.0), NearTie, "within 1e-6"),
    ("advantages_grpo", {"rewards": np.array([[1.0, 1.0, 1.0000001]])}, NearTie, "within 1e-6"),
    ("kto_reference_point", MISMATCHED, NearTie, "within 1e-6"),
    ("overlong_penalty", {"lengths": np.array([6000001]), "max_length": 8000000, "cache_length": 2000000}, NearTie, "1e-6"),
    ("ppo_policy", token(float(np.log(1.5)), 0.0, 1.0), NearTie, "within 1e-6"),
    (
        "bradley_terry",
        {"chosen_rewards": np.array([-INF]), "rejected_rewards": np.zeros(1), "margin": 0.0},
        ValueError,
        "chosen",
    ),
    ("dpo", pair(-1.0, -1.0, -1.0, -1.0, beta=float("nan")), ValueError, r"beta.*nan"),
]


@pytest.mark.parametrize("operation, inputs, error, message", REFUSED)
def test_what_has_no_limit_is_nearly_tied_or_illegal_is_refused(
    operation: str, inputs: Inputs, error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        answer(operation, inputs)


def test_ties_take_the_branch_of_the_contract() -> None:
    hinge = values("rso_hinge", **pair(-1.0, -3.0, -1.0, -1.0))
    assert (hinge["losses"][0], hinge["grad_policy_chosen_logps"][0]) == (0, 0)
    assert not any(x.any() for x in values("ppo_policy", **token(900.0, 0.0, 0.0)).values())
    arrays = {name: np.array([[x]]) for name, x in (("values", 1.0), ("old_values", 0.5), ("returns", 0.75), ("mask", True))}
    assert values("ppo_value", **arrays, clip=0.5)["grad_values"].item() == Decimal("0.25")
    for operation in ("advantages_grpo", "advantages_dr_grpo", "advantages_rloo"):
        exact = answer(operation, {"rewards": np.full((1, 3), 0.1)})["advantages"]
        assert not exact.value.any() and not exact.scale.any()


def test_clipped_is_where_the_clipped_branch_is_strictly_smaller() -> None:
    found = [values("ppo_policy", **token(logp, 0.0, A))["clipped"] for logp in (2.0, -2.0) for A in (1.0, -1.0)]
    assert [x.item() for x in found] == [True, False, False, True] and found[0].dtype == bool
