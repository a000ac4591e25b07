"""The oracle against naive formulas at 1000 digits, its own differences, identities, limits and ties."""

from decimal import Decimal

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from verify.oracle import OPERATIONS, NearTie, NoLimit, answer, machine, sequences
from verify.oracle.numbers import digits, exp_tail, log1mexp, log1p, logistic

INF = float("inf")
RATIO = "policy_logps[N] reference_logps[N]"
SUMS = "policy_chosen_logps[N] policy_rejected_logps[N]"
PAIR = SUMS + " reference_chosen_logps[N] reference_rejected_logps[N] beta"
LENGTHS = " chosen_lengths[N] rejected_lengths[N]"
TOKENS = "logps[BT] old_logps[BT] mask[BT] clip_low clip_high"
ARGUMENTS = {
    "bradley_terry": "chosen_rewards[N] rejected_rewards[N] margin",
    "plackett_luce": "rewards[NK]",
    "optimal_policy": "rewards[NK] reference_logps[NK] beta",
    "kl_regularized_objective": "policy_logits[NK] rewards[NK] reference_logps[NK] beta",
    "dpo": PAIR,
    "cdpo": PAIR + " label_smoothing",
    "robust_dpo": PAIR + " label_smoothing",
    "plackett_luce_dpo": "policy_logps[NK] reference_logps[NK] beta",
    "ipo": PAIR,
    "ipo_length_normalized": PAIR + LENGTHS,
    "rso_hinge": PAIR,
    "kto": RATIO + " desirable[N] reference_point beta desirable_weight undesirable_weight",
    "kto_reference_point": "policy_mismatched_logps[N] reference_mismatched_logps[N]",
    "orpo": SUMS + LENGTHS + " odds_weight",
    "simpo": SUMS + LENGTHS + " beta gamma",
    "sppo": RATIO + " win_rates[N] eta",
    "diffusion_dpo": PAIR.replace("logps", "errors"),
    "sequence_logps": "logits[BTV] tokens[BT] response_mask[BT]",
    "linear_sequence_logps": "hidden[BTD] weight[VD] tokens[BT] response_mask[BT]",
    "kl_estimates": RATIO,
    "gae": "rewards[BT] values[BT] mask[BT] discount trace_decay",
    "ppo_policy": TOKENS + " advantages[BT]",
    "ppo_value": "values[BT] old_values[BT] returns[BT] mask[BT] clip",
    "advantages_grpo": "rewards[NK]",
    "advantages_dr_grpo": "rewards[NK]",
    "advantages_rloo": "rewards[NK]",
    "grpo": TOKENS + " reference_logps[BT] advantages[B] beta",
    "sequence_mean": "token_losses[BT] mask[BT]",
    "token_mean": "token_losses[BT] mask[BT]",
    "constant_mean": "token_losses[BT] mask[BT] max_length",
    "overlong_penalty": "lengths[N] max_length cache_length",
    "rejection_acceptance": "rewards[N] beta reward_max",
}
SIZES = {"N": 3, "K": 4, "B": 2, "T": 4, "V": 3, "D": 2}
SCALARS = {
    "beta": 0.3, "eta": 2.5, "margin": 0.25, "gamma": 0.5, "label_smoothing": 0.1, "odds_weight": 0.2,
    "reference_point": 0.7, "desirable_weight": 1.3, "undesirable_weight": 0.8, "reward_max": 5.0,
    "discount": 0.97, "trace_decay": 0.9, "clip_low": 0.2, "clip_high": 0.28, "clip": 0.2,
    "max_length": 16, "cache_length": 4,
}  # fmt: skip


def draw(rng, name, shape, spread):
    if "mask" in name:
        return np.array([[False, True, True, False], [False, True, False, True]])
    if name in ("tokens", "desirable"):
        return rng.integers(0, 3, shape) if name == "tokens" else np.arange(shape[0]) % 2 == 0
    if "lengths" in name:
        return np.array([9, 14, 20]) if name == "lengths" else rng.integers(1, 9, shape)
    if name == "win_rates" or "errors" in name:
        return rng.uniform(0, 1, shape)
    return -spread * rng.uniform(0.1, 9, shape) if name.endswith("logps") else rng.normal(0, 1, shape)


def case(operation, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    named = [argument.rstrip("]").partition("[")[::2] for argument in ARGUMENTS[operation].split()]
    sizes = [(name, tuple(SIZES[letter] for letter in letters)) for name, letters in named]
    return {name: draw(rng, name, shape, spread) if shape else SCALARS[name] for name, shape in sizes}


def values(operation, **inputs):
    return {name: exact.value for name, exact in answer(operation, inputs).items()}


def close(got, due, tolerance):
    """Every |got - due| <= tolerance |due|; NaN and a difference in shape fail."""
    got, due = np.asarray(got, object), np.asarray(due, object)
    assert got.shape == due.shape
    with digits(90):
        for x, y in zip(got.flat, due.flat, strict=True):
            assert abs(x - y) <= Decimal(tolerance) * abs(y), (x, y)


def test_every_operation_is_drawn_here():
    assert set(ARGUMENTS) == set(OPERATIONS)


def big(x):
    """An mpmath number equal to a Decimal, exact for 60 digits and any exponent."""
    return mpf(str(x))


TAILS = ("1e-300", "-1e-300", "1e-150", "-0.04", "0.3", "-0.499", "0.6", "-2", "-99", "-800", "740")


@pytest.mark.parametrize("x", TAILS)
def test_elementary_functions_keep_50_digits_in_the_tails(x):
    with digits(80), mpmath.workdps(1000):
        d, m = Decimal(x), mpf(x)
        pairs = [(exp_tail(d, 1), mpmath.exp(m) - 1), (exp_tail(d, 2), mpmath.exp(m) - 1 - m)]
        pairs += zip(logistic(d), (mpmath.log(1 + mpmath.exp(m)), 1 / (1 + mpmath.exp(-m))), strict=True)
        pairs += [(log1p(d), mpmath.log(1 + m))] if m > -1 else []
        pairs += [(log1mexp(d), mpmath.log(1 - mpmath.exp(m)))] if m < 0 else []
        assert all(abs(big(got) - due) <= mpf("1e-60") * abs(due) for got, due in pairs)


def test_astronomic_numbers_neither_hang_nor_turn_into_nan():
    for huge in (1e18, -1e18, 1e300, -1e300):
        one, zero = np.array([huge]), np.zeros(1)
        loss = values("bradley_terry", chosen_rewards=one, rejected_rewards=zero, margin=0.0)["losses"]
        assert float(loss[0]) == max(0.0, -huge)
        assert values("kl_estimates", policy_logps=one, reference_logps=zero)["k3"][0] > 1e17


def sigma(z):
    return 1 / (1 + mpmath.exp(-z))


def lse(scores):
    return mpmath.log(sum(map(mpmath.exp, scores)))


def odds(a):
    return mpmath.exp(a) / (1 - mpmath.exp(a))


def ranking(scores):
    return sum(lse(scores[k:]) - scores[k] for k in range(len(scores)))


def objective(logits, rewards, reference, beta):
    logps = [z - lse(logits) for z in logits]
    gaps = [R - beta * (p - q) for p, R, q in zip(logps, rewards, reference, strict=True)]
    return sum(mpmath.exp(p) * gap for p, gap in zip(logps, gaps, strict=True))


def group(rewards):
    mean = sum(rewards) / len(rewards)
    return (rewards[0] - mean) / (mpmath.sqrt(sum((r - mean) ** 2 for r in rewards) / 3) + mpf("1e-4"))


def margin(pw, pl, rw, rl, beta, *_):
    return beta * ((pw - rw) - (pl - rl))


def surprise(z):
    return -mpmath.log(sigma(z))


def smoothed(sign, *x):
    return (1 - x[5]) * surprise(margin(*x)) + sign * x[5] * surprise(-margin(*x))


NAIVE = {  # the contract's words, for the first example
    "bradley_terry": lambda won, lost, by: surprise(won - lost - by),
    "plackett_luce": ranking,
    "optimal_policy": lambda R, q, b: lse([x + r / b for x, r in zip(q, R, strict=True)]),
    "kl_regularized_objective": objective,
    "dpo": lambda *x: surprise(margin(*x)),
    "cdpo": lambda *x: smoothed(1, *x),
    "robust_dpo": lambda *x: smoothed(-1, *x) / (1 - 2 * x[5]),
    "plackett_luce_dpo": lambda p, q, b: ranking([b * (x - y) for x, y in zip(p, q, strict=True)]),
    "ipo": lambda *x: (margin(*x) / x[4] - 1 / (2 * x[4])) ** 2,
    "ipo_length_normalized": lambda w, v, x, y, b, n, m: ((w - x) / n - (v - y) / m - 1 / (2 * b)) ** 2,
    "rso_hinge": lambda *x: max(0, 1 - margin(*x)),
    "kto": lambda p, q, good, z0, b, weight, _: weight * (1 - sigma(b * (p - q - z0))),
    "orpo": lambda w, v, n, m, weight: -w / n + weight * surprise(mpmath.log(odds(w / n) / odds(v / m))),
    "simpo": lambda w, v, n, m, b, g: surprise(b * (w / n - v / m) - g),
    "sppo": lambda p, q, rate, eta: (p - q - eta * (rate - mpf(1) / 2)) ** 2,
    "diffusion_dpo": lambda *x: surprise(-margin(*x) / 2),
    "kl_estimates": lambda p, q: p - q,
    "advantages_grpo": group,
    "rejection_acceptance": lambda R, b, top: mpmath.exp((R - top) / b),
}
OPERANDS = {  # the contract's S
    "plackett_luce": lambda R: 1 + max(map(abs, R)),
    "plackett_luce_dpo": lambda p, q, b: 1 + b * max(abs(x) + abs(y) for x, y in zip(p, q, strict=True)),
    "optimal_policy": lambda R, q, b: 1 + max(abs(x) + abs(r) / b for x, r in zip(q, R, strict=True)),
    "kl_regularized_objective": lambda z, R, q, b: (1 + max(map(abs, z))) * sum(
        mpmath.exp(x - lse(z)) * (abs(r) + b * (1 + abs(x - lse(z)) + abs(y)))
        for x, r, y in zip(z, R, q, strict=True)
    ),
    "kto": lambda *x: x[5],
}  # fmt: skip


def naive_derivatives(formula, names, numbers):
    """|x df/dx| for each number x, or list of them, that rounding can reach."""
    step, value = mpf("1e-300"), formula(*numbers)
    for i, (name, held) in enumerate(zip(names, numbers, strict=True)):
        many = held if isinstance(held, list) else [held]
        for j, x in enumerate(many if "lengths" not in name and name != "desirable" else []):
            moved = [*many[:j], x * (1 + step), *many[j + 1 :]]
            moved = moved if isinstance(held, list) else moved[0]
            yield abs(formula(*numbers[:i], moved, *numbers[i + 1 :]) - value) / step


@pytest.mark.parametrize("operation", NAIVE)
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_value_and_condition_sum_are_those_of_the_naive_formula(operation, spread):
    inputs = case(operation, spread)
    exact = next(iter(answer(operation, inputs).values()))
    with mpmath.workdps(1000):
        rows = [x[0] if np.ndim(x) else x for x in inputs.values()]
        numbers = [[mpf(float(y)) for y in x] if np.ndim(x) else mpf(float(x)) for x in rows]
        value = NAIVE[operation](*numbers)
        assert abs(big(exact.value.flat[0]) - value) <= mpf("1e-55") * abs(value)
        due = abs(value) + sum(naive_derivatives(NAIVE[operation], inputs, numbers))
        due += OPERANDS[operation](*numbers) if operation in OPERANDS else 0
        assert abs(big(exact.scale.flat[0]) - due) <= mpf("1e-15") * due


def gradients(operation, outputs):
    """(output, the output it is the gradient of, the input it is taken in) for every gradient."""
    losses = [name for name in ("losses", "objective", "token_losses", "logps") if name in outputs]
    for name in outputs:
        if name.startswith("grad_k"):
            yield name, name[5:], "policy_logps"
        elif name.startswith("grad_"):
            yield name, losses[0], name[5:]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_gradients_are_central_differences_of_the_values(operation, spread, monkeypatch):
    monkeypatch.setattr(machine, "VALUE_DIGITS", 200)
    inputs, step = case(operation, spread), Decimal("1e-50")
    outputs = values(operation, **inputs)
    for name, loss, variable in gradients(operation, outputs):
        due = np.full(outputs[name].shape, Decimal(0), object)
        for place in np.ndindex(due.shape):
            sums = []
            with digits(1000):
                for move in (step, -step):
                    moved = np.vectorize(Decimal, otypes=[object])(inputs[variable])
                    moved[place] += move
                    sums.append(values(operation, **inputs | {variable: moved})[loss].sum())
                due[place] = (sums[0] - sums[1]) / (2 * step)
        close(outputs[name], due, "1e-20")


def naive_sequence(logits, tokens, mask):
    rows = [[[mpf(x) for x in logits[b, t - 1]] for t in np.flatnonzero(mask[b])] for b in range(len(mask))]
    kept = [tokens[b][mask[b]] for b in range(len(mask))]
    return [sum(z[v] - lse(z) for z, v in zip(*x, strict=True)) for x in zip(rows, kept, strict=True)]


@pytest.mark.parametrize("spread", [1.0, 40.0])
def test_sequences_are_sums_of_log_softmax(spread):
    inputs = case("sequence_logps")
    inputs["logits"] = np.where(inputs["response_mask"][:, [1, 2, 3, 0], None], spread * inputs["logits"], np.nan)
    with mpmath.workdps(200):
        due = naive_sequence(*inputs.values())
        exact = answer("sequence_logps", inputs)
        assert all(abs(big(x) - y) <= 1e-60 * abs(y) for x, y in zip(exact["logps"].value, due, strict=True))
    assert exact["logps"].terms == 3 + 2 and exact["lengths"].value.tolist() == [2, 2]
    assert exact["lengths"].value.dtype == np.int64


def test_a_linear_head_is_the_chain_rule():
    inputs = case("linear_sequence_logps")
    hidden, weight = (np.vectorize(Decimal, otypes=[object])(inputs.pop(name)) for name in ("hidden", "weight"))
    got = answer("linear_sequence_logps", {"hidden": hidden, "weight": weight} | inputs)
    with digits(200):
        plain = answer("sequence_logps", {"logits": hidden @ weight.T} | inputs)
        grads = plain["grad_logits"].value
        close(got["logps"].value, plain["logps"].value, "1e-60")
        close(got["grad_hidden"].value, grads @ weight, "1e-60")
        flat = grads.reshape(-1, 3).T @ hidden.reshape(-1, 2)
        close(got["grad_weight"].value, flat, "1e-60")
        slopes = (abs(np.tensordot(grads[b].T, hidden[b], 1) * weight).sum() for b in range(2))
        own = abs(got["grad_hidden"].value * hidden).sum(axis=(1, 2))
        sizes = 1 + abs(hidden[:, :, None] * weight).sum(axis=-1).max(axis=-1)
        size = np.where(inputs["response_mask"][:, [1, 2, 3, 0]], sizes, 0).sum(axis=1)
        close(got["logps"].scale, abs(got["logps"].value) + own + list(slopes) + size, "1e-15")


SIZES_BY_HAND = [
    ("kl_estimates", {"policy_logps": "-1", "reference_logps": "-1.5"}, [0, 0, 1, 0, 0, 1]),
    ("ppo_value", {"values": "1", "old_values": "0.5", "returns": "-2", "clip": "0.25"}, [4, 2]),
    ("gae", {"rewards": "1 -2", "values": "3 -4", "discount": "0.5", "trace_decay": "0.5"}, [7.5, 6, 7.5, 6]),
    (
        "plackett_luce_dpo",
        {"policy_logps": "-1 -2", "reference_logps": "-3 -1", "beta": "0.5"},
        [3, 1.5, 1.5],
    ),
    ("plackett_luce", {"rewards": "-4 1"}, [5, 5, 5]),
    ("optimal_policy", {"rewards": "1 -1", "reference_logps": "-3 -4", "beta": "0.5"}, [7, 7, 7]),
]


@pytest.mark.parametrize("operation, cells, sizes", SIZES_BY_HAND)
def test_honest_cancellation_is_allowed_for(operation, cells, sizes):
    split = {name: [Decimal(x) for x in text.split()] for name, text in cells.items()}
    row = {name: x if len(x) > 1 or operation == "plackett_luce" else x[0] for name, x in split.items()}
    assert machine.measure(OPERATIONS[operation].row, row).sizes == sizes


def test_honest_cancellation_in_softmaxes_and_penalties():
    two, threes = Decimal(2), [Decimal(3)] * 2
    assert machine.measure(sequences.token, {"logits": [two, two], "sampled": 0}).sizes == [3, 3, 1.5]
    cells = {"hidden": [two], "weight": threes, "sampled": 1}
    assert machine.measure(sequences.linear_token, cells).sizes == [7, 31.5, 7, 14]
    penalty = {"beta": Decimal("0.5"), "clip_low": Decimal("0.5"), "clip_high": Decimal("0.5")}
    cells = dict.fromkeys(("logps", "old_logps", "advantages"), Decimal(1)) | {"reference_logps": -two}
    assert machine.measure(OPERATIONS["grpo"].row, penalty | cells).sizes == [1.5, 1.5]
    rating = {"rewards": [Decimal(1), Decimal(-3)], "reference_logps": [Decimal(-1)] * 2, "beta": Decimal(1)}
    found = machine.measure(OPERATIONS["kl_regularized_objective"].row, rating | {"policy_logits": [two, two]})
    mean = 4 + np.log(2)
    due = [3 * mean, 1.5 * (2 * mean - 1), 1.5 * (2 * mean + 1)]
    assert [float(x) for x in found.sizes] == pytest.approx(due, rel=1e-14)
    cells = {"policy_logps": -two, "reference_logps": two, "desirable": True, "reference_point": Decimal(0)}
    cells |= {"beta": two, "desirable_weight": Decimal(3), "undesirable_weight": two}
    assert machine.measure(OPERATIONS["kto"].row, cells).sizes == [3, 6, 0]


def test_terms_count_what_is_summed():
    terms = {"dpo": 1, "plackett_luce": 4, "kto_reference_point": 3, "gae": 4, "token_mean": 4, "grpo": 1}
    assert all(next(iter(answer(name, case(name)).values())).terms == due for name, due in terms.items())
    linear = answer("linear_sequence_logps", case("linear_sequence_logps"))
    assert [exact.terms for exact in linear.values()] == [3 + 2 + 2, 1, 3 + 2, 3 + 2 + 4]


def test_masked_is_removed():
    inputs, mask = case("gae"), case("gae")["mask"]
    row = {"mask": np.ones((1, 2), bool), "discount": 0.97, "trace_decay": 0.9}
    row |= {name: inputs[name][1:][mask[1:]][None] for name in ("rewards", "values")}
    for name, value in values("gae", **row).items():
        whole = values("gae", **inputs)[name]
        close(value[0], whole[1][mask[1]], "0")
        assert not whole[~mask].any()


def test_identities_between_methods():
    pair = case("dpo", 20.0)
    dpo = values("dpo", **pair)
    rewards = {name: dpo[name] for name in ("chosen_rewards", "rejected_rewards")}
    close(values("bradley_terry", **rewards, margin=0.0)["losses"], dpo["losses"], "1e-60")
    for smoothed in ("cdpo", "robust_dpo"):
        for name, value in values(smoothed, **pair, label_smoothing=0.0).items():
            close(value, dpo[name], "1e-60")
    ones = np.ones(3, int)
    per_token = values("ipo_length_normalized", **pair, chosen_lengths=ones, rejected_lengths=ones)
    for name, value in values("ipo", **pair).items():
        close(per_token[name], value, "1e-60")
    couples = np.array([[1.0, 0.25], [-3.0, 40.0]])
    pl = values("plackett_luce", rewards=couples)
    bt = values("bradley_terry", chosen_rewards=couples[:, 0], rejected_rewards=couples[:, 1], margin=0.0)
    close(pl["losses"], bt["losses"], "1e-60")
    close(pl["grad_rewards"][:, 0], bt["grad_chosen_rewards"], "1e-60")


def test_identities_on_policy():
    inputs = case("grpo")
    grpo = values("grpo", **inputs | {"beta": 0.0})
    clipping = {name: inputs[name] for name in ("logps", "old_logps", "mask", "clip_low", "clip_high")}
    ppo = values("ppo_policy", **clipping, advantages=np.repeat(inputs["advantages"][:, None], 4, axis=1))
    close(grpo["token_losses"], ppo["token_losses"], "0")
    close(grpo["grad_logps"], ppo["grad_logps"], "0")
    rewards = {"rewards": case("advantages_rloo")["rewards"]}
    centred = values("advantages_dr_grpo", **rewards)["advantages"]
    with digits(80):
        close(values("advantages_rloo", **rewards)["advantages"] * 3, centred * 4, "1e-60")


def test_gae_is_the_sum_of_temporal_differences():
    inputs = case("gae") | {"mask": np.ones((2, 4), bool)}
    got = values("gae", **inputs)
    for b, t in np.ndindex(2, 4):
        rewards, ahead = inputs["rewards"][b], np.append(inputs["values"][b], 0.0)
        differences = rewards + 0.97 * ahead[1:] - ahead[:-1]
        due = sum((0.97 * 0.9) ** (k - t) * differences[k] for k in range(t, 4))
        assert abs(float(got["advantages"][b, t]) - due) <= 1e-14
        assert abs(float(got["returns"][b, t]) - due - ahead[t]) <= 1e-14


def test_estimators_value_loss_and_penalty():
    got = values("kl_estimates", policy_logps=np.array([-1.0]), reference_logps=np.array([-1.5]))
    assert [float(got[k][0]) for k in ("k1", "k2", "k3")] == pytest.approx([0.5, 0.125, np.exp(-0.5) - 0.5], rel=1e-14)
    drawn = case("ppo_value", seed=3)
    v, old, due = (drawn[name] for name in ("values", "old_values", "returns"))
    due = np.maximum((v - due) ** 2, (np.clip(v, old - 0.2, old + 0.2) - due) ** 2) / 2
    got = values("ppo_value", **drawn)["token_losses"].astype(float)
    assert np.abs(got - np.where(drawn["mask"], due, 0)).max() <= 1e-14
    penalties = values("overlong_penalty", **case("overlong_penalty"))["penalties"]
    assert penalties.tolist() == [0, Decimal("-0.5"), -1]
    logps = {"policy_mismatched_logps": np.array([-1.0, -2.0]), "reference_mismatched_logps": -np.ones(2) * 4}
    assert values("kto_reference_point", **logps)["reference_point"] == Decimal("2.5")


def test_aggregations():
    inputs = case("token_mean")
    kept, mask = {name: inputs[name] for name in ("token_losses", "mask")}, inputs["mask"]
    losses = inputs["token_losses"][mask]
    due = {"sequence_mean": (losses[0] + losses[1] + losses[2] + losses[3]) / 4, "token_mean": losses.mean()}
    for operation, loss in due.items():
        assert abs(float(values(operation, **kept)["loss"]) - loss) <= 1e-15
    weights = values("constant_mean", **kept, max_length=16)["weights"]
    assert (weights == np.where(mask, Decimal(1) / 32, 0)).all()
    skewed = mask & np.array([[True], [False]]) | np.eye(2, 4, k=2, dtype=bool)
    weights = values("sequence_mean", token_losses=inputs["token_losses"], mask=skewed)["weights"]
    assert weights[0, 1] == Decimal("0.25") and weights[1, 3] == Decimal("0.5") and weights[1, 1] == 0


def pair(*logps, **more):
    names = [argument.removesuffix("[N]") for argument in PAIR.split()[:4]]
    return {name: np.array([x]) for name, x in zip(names, logps, strict=True)} | {"beta": 0.5} | more


def test_limits():
    low, high = values("dpo", **pair(-INF, -1.0, -1.0, -1.0)), values("dpo", **pair(-1.0, -INF, -1.0, -1.0))
    assert (low["losses"][0], low["grad_policy_chosen_logps"][0]) == (INF, Decimal("-0.5"))
    assert (high["losses"][0], high["grad_policy_rejected_logps"][0]) == (0, 0)
    assert values("cdpo", **pair(-1.0, -INF, -1.0, -1.0, label_smoothing=0.0))["losses"][0] == 0
    assert values("cdpo", **pair(-1.0, -INF, -1.0, -1.0, label_smoothing=0.1))["losses"][0] == INF
    inputs = {
        "logits": np.array([[[-INF, 0.0, 0.0], [0.0, 0.0, 0.0]]]),
        "response_mask": np.array([[False, True]]),
    }
    never = values("sequence_logps", **inputs, tokens=np.array([[2, 0]]))
    assert never["logps"][0] == -INF
    close(never["grad_logits"][0, 0], [Decimal(1), Decimal("-0.5"), Decimal("-0.5")], "1e-60")
    half = values("sequence_logps", **inputs, tokens=np.array([[2, 1]]))
    assert abs(float(half["logps"][0]) + np.log(2)) <= 1e-15
    close(half["grad_logits"][0, 0], [Decimal(0), Decimal("0.5"), Decimal("-0.5")], "1e-60")
    support = {"rewards": np.array([[1.0, 9.0]]), "reference_logps": np.array([[-0.5, -INF]]), "beta": 1.0}
    assert values("optimal_policy", **support)["logps"].tolist() == [[0, -INF]]
    nothing = support | {"policy_logits": np.array([[0.5, -INF]]), "reference_logps": -np.ones((1, 2)) / 2}
    assert values("kl_regularized_objective", **nothing)["objective"][0] == Decimal("0.5")


LAST_TWO = {"policy_logps": np.array([[-1.0, -INF, -INF]]), "reference_logps": -np.ones((1, 3)), "beta": 1.0}
NO_SUPPORT = {"rewards": np.ones((1, 2)), "reference_logps": np.array([[-INF, -INF]]), "beta": 1.0}


@pytest.mark.parametrize("operation, inputs", [
    ("dpo", pair(-INF, -INF, -1.0, -1.0)),
    ("dpo", pair(-1.0, -1.0, -INF, -1.0)),
    ("ipo", pair(-INF, -1.0, -INF, -1.0)),
    ("plackett_luce_dpo", LAST_TWO),
    ("optimal_policy", NO_SUPPORT),
])  # fmt: skip
def test_where_infinities_meet_there_is_no_limit(operation, inputs):
    with pytest.raises(NoLimit):
        answer(operation, inputs)


def test_illegal_numbers_are_named():
    with pytest.raises(ValueError, match="chosen_rewards"):
        answer("bradley_terry", case("bradley_terry") | {"chosen_rewards": np.array([-INF])})
    with pytest.raises(ValueError, match=r"beta.*nan"):
        answer("dpo", pair(-1.0, -1.0, -1.0, -1.0, beta=float("nan")))


def token(logp, old, advantage):
    arrays = {"logps": logp, "old_logps": old, "advantages": advantage}
    inputs = {name: np.array([[x]]) for name, x in arrays.items()}
    return values("ppo_policy", **inputs, mask=np.ones((1, 1), bool), clip_low=0.5, clip_high=0.5)


def test_ties_take_the_branch_of_the_contract():
    hinge = values("rso_hinge", **pair(-1.0, -3.0, -1.0, -1.0))
    assert (hinge["losses"][0], hinge["grad_policy_chosen_logps"][0]) == (0, 0)
    assert not any(x.any() for x in token(900.0, 0.0, 0.0).values())
    kept = {"values": 1.0, "old_values": 0.5, "returns": 0.75}
    arrays = {name: np.array([[x]]) for name, x in kept.items()} | {"mask": np.ones((1, 1), bool)}
    assert values("ppo_value", **arrays, clip=0.5)["grad_values"].item() == Decimal("0.25")
    for operation in ("advantages_grpo", "advantages_dr_grpo", "advantages_rloo"):
        exact = answer(operation, {"rewards": np.full((1, 3), 0.1)})["advantages"]
        assert not exact.value.any() and not exact.scale.any()


def test_clipped_where_strictly_smaller():
    got = [token(logp, 0.0, advantage) for logp in (2.0, -2.0) for advantage in (1.0, -1.0)]
    assert [x["clipped"].item() for x in got] == [True, False, False, True]
    losses = [float(x["token_losses"].item()) for x in got]
    assert losses == pytest.approx([-1.5, np.exp(2), -np.exp(-2), 0.5], rel=1e-15)
    assert [bool(x["grad_logps"].item()) for x in got] == [False, True, True, False]
    assert got[0]["clipped"].dtype == bool


MISMATCHED = {
    "policy_mismatched_logps": np.array([-1.0]),
    "reference_mismatched_logps": np.array([-1.0000001]),
}


@pytest.mark.parametrize("operation, inputs", [
    ("rso_hinge", pair(-1.0, -3.0000001, -1.0, -1.0)),
    ("rso_hinge", pair(-1e8, -1e8 - 3.0, -1.0, -1.0)),
    ("advantages_grpo", {"rewards": np.array([[1.0, 1.0, 1.0000001]])}),
    ("kto_reference_point", MISMATCHED),
    ("overlong_penalty", {"lengths": np.array([6000001]), "max_length": 8000000, "cache_length": 2000000}),
])  # fmt: skip
def test_near_ties_are_refused(operation, inputs):
    with pytest.raises(NearTie):
        answer(operation, inputs)


def test_near_ties_of_clip_edges_are_refused():
    with pytest.raises(NearTie):
        token(float(np.log(1.5)), 0.0, 1.0)
