"""The two GPT-2s are one model: in NumPy by hand, in PyTorch with autograd; and the model is the one that others call GPT-2."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gpt_tiny import model, model_by_hand
from gpt_tiny.model import GPT
from gpt_tiny.model_by_hand import AdamW, Config, Grads, Weights, backward, forward, initial_weights
from minipref import dpo, sequence_logps
from minipref.autograd import differentiable

CONFIG = Config(vocab_size=23, context=12, width=16, layers=2, heads=4)
BLOCK = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]


def weights_away_from_the_start(config: Config = CONFIG, seed: int = 1) -> Grads:
    """No gain is 1, no bias is 0, and attention is far from uniform: nothing is hidden by a special value."""
    rng = np.random.default_rng(seed)
    start = initial_weights(config, seed, np.float64)
    return {name: 5 * weight + 0.2 * rng.standard_normal(weight.shape) for name, weight in start.items()}


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask of four rows of different lengths: padded left, right, on both sides, not at all."""
    tokens = np.random.default_rng(2).integers(0, CONFIG.vocab_size, (4, 10))
    mask = np.ones((4, 10), bool)
    mask[0, :3] = mask[1, 7:] = mask[2, :2] = mask[2, 8:] = False
    return tokens, mask


def module(weights: Weights, config: Config = CONFIG) -> GPT:
    gpt = GPT(config).double()
    gpt.load_weights(weights)
    return gpt


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(x) for x in arrays]


@pytest.fixture(scope="module")
def both_gradients() -> tuple[Grads, Grads]:
    """Of the same random projection of the logits, padding included: by hand and by autograd."""
    weights, (tokens, mask) = weights_away_from_the_start(), rows()
    logits, cache = forward(weights, CONFIG.heads, tokens, mask)
    slopes = np.random.default_rng(3).standard_normal(logits.shape)
    gpt = module(weights)
    gpt(*tensors(tokens, mask)).backward(torch.tensor(slopes))
    return backward(cache, slopes), {name: p.grad.numpy() for name, p in gpt.named_parameters() if p.grad is not None}


def query_key_value(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """The three parts of the fused projection apart; every other tensor whole."""
    if "c_attn" not in name:
        return {name: x}
    return {f"{name} {part}": values for part, values in zip("qkv", np.split(x, 3, axis=-1), strict=True)}


def test_names_and_shapes_are_those_of_gpt2() -> None:
    named = ["wte.weight", "wpe.weight"]
    named += [f"h.{layer}.{part}.{kind}" for layer in range(2) for part in BLOCK for kind in ("weight", "bias")]
    named += ["ln_f.weight", "ln_f.bias"]
    assert list(GPT(CONFIG).state_dict()) == list(CONFIG.shapes) == named
    assert {name: tuple(p.shape) for name, p in GPT(CONFIG).state_dict().items()} == CONFIG.shapes
    assert CONFIG.shapes["h.1.attn.c_attn.weight"] == (16, 48) and CONFIG.shapes["h.1.mlp.c_proj.weight"] == (64, 16)


@pytest.mark.parametrize("config", [CONFIG, Config(5, 11, 6, 1, 1), Config(300, 10, 32, 4, 8)], ids=str)
def test_logits_agree(config: Config) -> None:
    weights, (tokens, mask) = weights_away_from_the_start(config), rows()
    tokens %= config.vocab_size
    got, _ = forward(weights, config.heads, tokens, mask)
    right = module(weights, config)(*tensors(tokens, mask)).detach().numpy()
    assert got.shape == (*tokens.shape, config.vocab_size) and got[mask].std() > 0.1
    assert np.all(abs(got - right) <= 1e-12 * (1 + abs(right)))
    assert not np.any(got[~mask]) and not np.any(right[~mask])


def test_gradients_by_hand_are_those_of_autograd(both_gradients: tuple[Grads, Grads]) -> None:
    by_hand, by_autograd = both_gradients
    assert by_hand.keys() == by_autograd.keys() == CONFIG.shapes.keys()
    for name in by_hand:
        right = query_key_value(name, by_autograd[name])
        for part, got in query_key_value(name, by_hand[name]).items():
            if not part.endswith("c_attn.bias k"):
                assert np.linalg.norm(right[part]) > 1e-3, part
                assert np.linalg.norm(got - right[part]) <= 1e-11 * np.linalg.norm(right[part]), part


def test_the_key_bias_has_no_gradient(both_gradients: tuple[Grads, Grads]) -> None:
    """A bias c on every key adds q·c to all the scores of a query alike, and a softmax does not see what is added to all: the
    logits do not depend on it. What is computed is rounding, as large as the rest of the tensor allows."""
    for grads in both_gradients:
        for layer in range(CONFIG.layers):
            query, key, value = np.split(grads[f"h.{layer}.attn.c_attn.bias"], 3)
            assert np.linalg.norm(key) <= 1e-13 * np.linalg.norm(value)
            assert np.linalg.norm(query) > 1e-3 * np.linalg.norm(value)

    weights = weights_away_from_the_start()
    before, _ = forward(weights, CONFIG.heads, *rows())
    weights["h.0.attn.c_attn.bias"][16:32] += 3.0
    after, _ = forward(weights, CONFIG.heads, *rows())
    assert np.all(abs(after - before) <= 1e-12 * (1 + abs(before)))


@pytest.mark.parametrize("name", CONFIG.shapes)
def test_gradients_by_hand_are_finite_differences(name: str, both_gradients: tuple[Grads, Grads]) -> None:
    slopes = np.random.default_rng(3).standard_normal((4, 10, CONFIG.vocab_size))
    weights, step = weights_away_from_the_start(), 1e-5
    place = tuple(np.random.default_rng(4).integers(0, 6, weights[name].ndim))

    def projected(shift: float) -> float:
        moved = weights | {name: weights[name].copy()}
        moved[name][place] += shift
        return float((forward(moved, CONFIG.heads, *rows())[0] * slopes).sum())

    slope = (projected(step) - projected(-step)) / (2 * step)
    assert abs(both_gradients[0][name][place] - slope) <= 1e-6 * (1 + abs(slope))


def by_hand(weights: Weights, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return forward(weights, CONFIG.heads, tokens, mask)[0]


def by_torch(weights: Weights, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return module(weights)(*tensors(tokens, mask)).detach().numpy()


MODELS = pytest.mark.parametrize("logits_of", [by_hand, by_torch])


@MODELS
@pytest.mark.parametrize("left, right", [(0, 5), (5, 0), (2, 7), (9, 9)])
def test_padding_changes_nothing(logits_of: Callable[..., np.ndarray], left: int, right: int) -> None:
    weights, (tokens, _) = weights_away_from_the_start(), rows()
    alone = logits_of(weights, tokens, np.ones_like(tokens, bool))
    padded = np.pad(tokens, ((0, 0), (left, right)), constant_values=10**9)  # more columns than the context, impossible tokens
    got = logits_of(weights, padded, padded < 10**9)[:, left : left + 10]
    assert np.all(abs(got - alone) <= 1e-12 * (1 + abs(alone)))


@MODELS
def test_no_position_sees_a_later_one(logits_of: Callable[..., np.ndarray]) -> None:
    weights, (tokens, mask) = weights_away_from_the_start(), rows()
    changed = tokens.copy()
    changed[:, 6] = (tokens[:, 6] + 1) % CONFIG.vocab_size
    difference = abs(logits_of(weights, changed, mask) - logits_of(weights, tokens, mask)).max(axis=(0, 2))
    assert np.all(difference[:6] == 0) and np.all(difference[6:] > 1e-3)


def test_a_position_looks_at_the_past_and_padding_at_itself() -> None:
    _, mask = rows()
    for seen in (model_by_hand.attends(mask), model.attends(torch.tensor(mask)).numpy()):
        assert seen.shape == (4, 1, 10, 10)
        for row, i, j in np.ndindex(4, 10, 10):
            assert seen[row, 0, i, j] == (i == j or (j < i and mask[row, j]))


def test_padding_has_no_gradient() -> None:
    """One row whose neighbours are padding, and the same row alone: the gradients of the weights are the same."""
    weights, (tokens, mask) = weights_away_from_the_start(), rows()
    logits, cache = forward(weights, CONFIG.heads, tokens[2:3], mask[2:3])
    slopes = np.random.default_rng(5).standard_normal(logits.shape)
    padded = backward(cache, slopes)
    _, cache = forward(weights, CONFIG.heads, tokens[2:3, 2:8], mask[2:3, 2:8])
    for name, right in backward(cache, slopes[:, 2:8]).items():
        assert np.linalg.norm(padded[name] - right) <= 1e-12 * (1 + np.linalg.norm(right)), name


def test_a_dpo_run_without_autograd_is_the_run_with_it() -> None:
    """Fifty steps of AdamW on pairs: the first four rows are chosen, the others rejected."""
    rng = np.random.default_rng(6)
    tokens = rng.integers(0, CONFIG.vocab_size, (8, 11))
    mask = np.arange(11) < rng.integers(7, 12, (8, 1))
    mask[::2] = mask[::2, ::-1]
    response = mask & (np.arange(11) >= 5)
    start = initial_weights(CONFIG, 7, np.float64)
    reference = sequence_logps(by_hand(start, tokens, mask), tokens, response).logps
    settings: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    losses: list[tuple[float, float]] = []

    weights, optimizer = start, AdamW(**settings)
    moments = optimizer.start(weights)
    gpt = module(start)
    tape = torch.optim.AdamW(gpt.parameters(), **settings)
    inputs, right_reference = tensors(tokens, mask), torch.tensor(reference)
    for _ in range(50):
        logits, cache = forward(weights, CONFIG.heads, tokens, mask)
        scored = sequence_logps(logits, tokens, response)
        pair = dpo(scored.logps[:4], scored.logps[4:], reference[:4], reference[4:], beta=0.5)
        arriving = np.concatenate([pair.grad_policy_chosen_logps, pair.grad_policy_rejected_logps]) / 4
        grads = backward(cache, arriving[:, None, None] * scored.grad_logits)
        weights, moments = optimizer.step(weights, grads, moments)

        tape.zero_grad()
        logps = differentiable(sequence_logps)(gpt(*inputs), inputs[0], torch.tensor(response)).logps
        loss = differentiable(dpo)(logps[:4], logps[4:], right_reference[:4], right_reference[4:], beta=0.5).losses.mean()
        loss.backward()
        tape.step()
        losses.append((pair.losses.mean(), loss.item()))

    assert abs(losses[0][0] - np.log(2)) <= 1e-12 and losses[-1][0] < 0.1
    assert all(abs(got - right) <= 1e-9 for got, right in losses)
    assert np.all(abs(by_hand(weights, tokens, mask) - gpt(*inputs).detach().numpy()) <= 1e-8)


def test_what_others_call_gpt2() -> None:
    transformers = pytest.importorskip("transformers", reason="the comparison with GPT2LMHeadModel needs transformers")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=23, n_positions=12, n_embd=16, n_layer=2, n_head=4)
    ).eval()
    arrays = {name.removeprefix("transformer."): p.detach().numpy() for name, p in theirs.named_parameters()}
    scaled = {name: (3 * weight).astype(np.float32) for name, weight in arrays.items()}
    theirs.load_state_dict({f"transformer.{name}": torch.tensor(x) for name, x in scaled.items()}, strict=False)
    tokens, mask = rows()
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    ids, attention, places = tensors(tokens, mask, positions)
    right = theirs(input_ids=ids, attention_mask=attention.long(), position_ids=places).logits.detach().numpy()
    gpt = GPT(CONFIG)
    gpt.load_weights(scaled)
    got = forward(scaled, 4, tokens, mask)[0], gpt(ids, attention).detach().numpy()
    assert right[mask].std() > 0.1 and got[0].dtype == got[1].dtype == np.float32
    assert all(np.all(abs(ours - right)[mask] <= 1e-5) for ours in got)


def test_float32_stays_float32() -> None:
    weights = initial_weights(CONFIG, 0)
    logits, cache = forward(weights, CONFIG.heads, *rows())
    grads = backward(cache, np.ones_like(logits))
    stepped, moments = AdamW(1e-3).step(weights, grads, AdamW(1e-3).start(weights))
    given = [logits, *grads.values(), *stepped.values(), *moments.mean.values(), *moments.square.values()]
    assert {x.dtype for x in given} == {np.dtype(np.float32)}


def test_the_start_is_gpt2s_and_the_seeds() -> None:
    config = Config(vocab_size=500, context=64, width=64, layers=8, heads=2)
    weights = initial_weights(config, 0)
    spread = {name: float(w.std()) for name, w in weights.items() if w.ndim == 2}
    for name, value in spread.items():
        assert abs(value / (0.005 if name.endswith("c_proj.weight") else 0.02) - 1) <= 0.05, name  # 0.02 / √16
    assert all(np.all(w == name.endswith("weight")) for name, w in weights.items() if w.ndim == 1)
    again, other = initial_weights(config, 0), initial_weights(config, 1)
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    assert not np.array_equal(weights["wte.weight"], other["wte.weight"])


def test_weights_go_in_and_come_out_the_same() -> None:
    weights = weights_away_from_the_start()
    gpt = module(weights)
    out = gpt.weights()
    assert all(np.array_equal(out[name], weight) and out[name].dtype == weight.dtype for name, weight in weights.items())
    out["wte.weight"][:] = 0
    assert np.array_equal(gpt.weights()["wte.weight"], weights["wte.weight"])
    state = torch.get_rng_state()
    assert np.array_equal(GPT(CONFIG, seed=5).weights()["wte.weight"], initial_weights(CONFIG, 5)["wte.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_is_for_training_only() -> None:
    inputs = tensors(*rows())
    gpt = GPT(CONFIG, dropout=0.5)
    assert torch.equal(gpt.eval()(*inputs), GPT(CONFIG)(*inputs))

    drops, calls = [part for part in gpt.train().modules() if isinstance(part, torch.nn.Dropout)], []
    for drop in drops:
        drop.register_forward_hook(lambda *_: calls.append(1))
    assert not torch.equal(gpt(*inputs), gpt(*inputs))
    assert len(calls) == 2 * (1 + 2 * CONFIG.layers)  # the embeddings and two branches a layer, twice
    for drop in drops:
        drop.p = 0.0
    assert not torch.equal(gpt(*inputs), gpt(*inputs))  # the attention weights'


TOKENS, MASK = rows()
LAST_FULL = np.array([[0], [0], [0], [-1]])
BAD_INPUTS = {
    "tokens: must lie in the vocabulary [0, 23), got 23": (np.where(TOKENS < 3, 23, TOKENS), MASK),
    "tokens: must lie in the vocabulary [0, 23), got -1": (np.where(TOKENS < 3, -1, TOKENS), MASK),
    "tokens: must be an array of integers, got float64": (TOKENS.astype(float), MASK),
    "tokens: must have the shape [B, T] with no side of 0, got (10,)": (TOKENS[0], MASK[0]),
    "tokens: must have the shape [B, T] with no side of 0, got (0, 10)": (TOKENS[:0], MASK[:0]),
    "attention_mask: must be booleans of the shape (4, 10), got int64 (4, 10)": (TOKENS, MASK.astype(int)),
    "attention_mask: must be booleans of the shape (4, 10), got bool (4, 9)": (TOKENS, MASK[:, :9]),
    "attention_mask: a row must hold 1 to 12 tokens, got 0 in row 0": (TOKENS, MASK & (np.arange(4) > 0)[:, None]),
    "attention_mask: a row must hold 1 to 12 tokens, got 13 in row 3": (np.tile(TOKENS, 2)[:, :13], np.arange(13) > LAST_FULL),
}


@MODELS
@pytest.mark.parametrize("message", BAD_INPUTS)
def test_bad_inputs_are_refused_by_name(logits_of: Callable[..., np.ndarray], message: str) -> None:
    tokens, mask = BAD_INPUTS[message]
    with pytest.raises(ValueError) as error:
        logits_of(weights_away_from_the_start(), tokens, mask)
    assert str(error.value) == message


GOOD = initial_weights(CONFIG, 0)
REFUSALS: dict[str, Callable[[], object]] = {
    "Config: layers must be a whole number >= 1, got 0": lambda: Config(23, 12, 16, 0, 4),
    "Config: width must be a whole number >= 1, got 16.0": lambda: Config(23, 12, 16.0, 2, 4),  # type: ignore[arg-type]
    "Config: heads must divide width = 16, got 3": lambda: Config.of(GOOD, 3),
    "weights: must hold the matrix wte.weight, got []": lambda: Config.of({}, 4),
    "weights: names must be a GPT-2's, got a difference in lm_head.weight": lambda: GPT(CONFIG).load_weights(
        GOOD | {"lm_head.weight": GOOD["wte.weight"]}
    ),
    "weights: names must be a GPT-2's, got a difference in ln_f.bias": lambda: Config.of(
        {name: weight for name, weight in GOOD.items() if name != "ln_f.bias"}, 4
    ),
    "weights: ln_f.bias must have the shape (16,), got (15,)": lambda: Config.of(GOOD | {"ln_f.bias": np.zeros(15)}, 4),
    "weights: ln_f.bias must be floating point of the dtype of wte.weight, got float64": lambda: Config.of(
        GOOD | {"ln_f.bias": np.zeros(16)}, 4
    ),
    "grad_logits: must have the shape (4, 10, 23), got (4, 10, 22)": lambda: backward(
        forward(GOOD, 4, TOKENS, MASK)[1], np.zeros((4, 10, 22))
    ),
    "GPT: dropout must lie in [0, 1), got 1.0": lambda: GPT(CONFIG, dropout=1.0),
    "AdamW: lr must be finite and >= 0, got nan": lambda: AdamW(float("nan")),
    "AdamW: eps must be finite and >= 1e-08, got 1e-09": lambda: AdamW(0.1, eps=1e-9),
    "AdamW: weight_decay must be finite and >= 0, got -0.1": lambda: AdamW(0.1, weight_decay=-0.1),
    "AdamW: betas must be two numbers in [0, 1), got (0.9, 1.0)": lambda: AdamW(0.1, betas=(0.9, 1.0)),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_bad_settings_are_refused_by_name(message: str) -> None:
    with pytest.raises(ValueError) as error:
        REFUSALS[message]()
    assert str(error.value) == message
