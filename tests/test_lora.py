"""Adapters: their gradients, a base that stays as it was bit for bit, what is merged; and four bits: how far off, how small."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from torch import Tensor

from gpt_tiny import lora
from gpt_tiny.lora import (
    LEVELS,
    Adapted,
    QuantizedLinear,
    adapter_weights,
    adapters,
    adapters_off,
    add_adapters,
    bytes_held,
    dequantize,
    load_adapters,
    merged_weights,
    quantize_nf4,
)
from gpt_tiny.model import GPT, Linear
from gpt_tiny.model_by_hand import Config, initial_weights
from gpt_tiny.packed import pack

CONFIG = Config(vocab_size=23, context=12, width=16, layers=2, heads=4)
OF_C_FC = ["h.0.mlp.c_fc.lora_A", "h.0.mlp.c_fc.lora_B"]
GROUPS = [([1, 2, 3], [[4, 5, 0], [6, 0]]), ([7], [[8, 9, 10, 0]])]
LINEARS = [f"h.{layer}.{part}" for layer in range(2) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
Way = Callable[[GPT], Tensor]
BASES = pytest.mark.parametrize("base", [None, "nf4"], ids=["dense", "nf4"])

# Appendix E of arXiv:2305.14314v1.
PUBLISHED = """-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224 0.44070982933044434
0.5626170039176941 0.7229568362236023 1.0""".split()


def plain(seed: int = 1) -> GPT:
    """In float64 and away from the start: no gain is 1, no bias is 0."""
    rng, gpt = np.random.default_rng(seed), GPT(CONFIG).double()
    start = initial_weights(CONFIG, seed, np.float64)
    gpt.load_weights({name: 5 * weight + 0.2 * rng.standard_normal(weight.shape) for name, weight in start.items()})
    return gpt


def adapted(base: str | None, rank: int = 3, alpha: float = 6.0) -> GPT:
    """With adapters that are away from their start too."""
    gpt, rng = plain(), np.random.default_rng(5)
    add_adapters(gpt, rank, alpha, seed=4, quantize_base=base)
    load_adapters(gpt, {name: x + 0.1 * rng.standard_normal(x.shape) for name, x in adapter_weights(gpt).items()})
    return gpt


def tokens_and_mask() -> tuple[Tensor, Tensor]:
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[0, :3] = mask[1, 6:] = False
    return torch.tensor(np.random.default_rng(2).integers(0, CONFIG.vocab_size, (3, 8))), mask


def logits(gpt: GPT) -> Tensor:
    return gpt(*tokens_and_mask())


def response_logps(gpt: GPT) -> Tensor:
    return gpt.response_logps(pack(GROUPS, gpt.config)).logps


WAYS = pytest.mark.parametrize("way", [logits, response_logps])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def frozen_base(gpt: GPT, base: str | None) -> GPT:
    """A plain model with the weights that the base of `gpt` has: those that were there, or what four bits made of them."""
    frozen = plain()
    if base:
        for part in frozen.modules():
            if isinstance(part, Linear):
                part.weight.data = dequantize(quantize_nf4(part.weight), torch.float64)
    return frozen.to(gpt.wte.weight.dtype)


# --- Four bits ---------------------------------------------------------------------------------------------------------------


def test_the_levels_are_the_published_ones() -> None:
    """Published in float32, from a probability rounded to 7 digits (off by 3.3e-8) and to float32 (by 3e-8). A level moves by
    at most 1 / (density of the outermost quantile, 0.072, times the quantile, 1.85) = 7.5 times that."""
    assert len(LEVELS) == 16 and LEVELS == sorted(LEVELS)
    assert LEVELS[0] == -1 and LEVELS[7] == 0 and LEVELS[15] == 1
    assert np.all(abs(np.array(LEVELS) - np.array(PUBLISHED, float)) <= 7.5 * 6.4e-8)


UNIT = 2.0**-24  # relative rounding of a float32
SMALLEST = 2.0**-150  # half of the smallest float32 above 0
HALF_GAP = max(high - low for low, high in zip(LEVELS, LEVELS[1:], strict=False)) / 2
any_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
magnitudes = st.sampled_from([1e-44, 1e-38, 1e-3, 1.0, 3e38])
scaled = st.tuples(st.floats(-1, 1, width=32), magnitudes).map(lambda x: np.float32(x[0] * x[1]))
shapes = st.tuples(st.integers(0, 200)) | arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7)
tensors = arrays_of.arrays(np.float32, shapes, elements=any_float32 | scaled, fill=any_float32)


def by_block(x: np.ndarray) -> list[np.ndarray]:
    flat = x.astype(np.float64).ravel()
    return np.split(flat, range(64, len(flat), 64)) if len(flat) else []


@settings(deadline=None)
@given(tensors)
def test_no_weight_is_further_off_than_half_of_the_largest_gap(w: np.ndarray) -> None:
    """Four roundings at most: of the quotient, the middle, the level and the product. The last may also be of a subnormal."""
    nf4 = quantize_nf4(torch.tensor(w))
    got = dequantize(nf4, torch.float32)
    assert got.shape == w.shape and nf4.codes.dtype == torch.uint8 and nf4.scales.dtype == torch.float32
    assert 2 * len(nf4.codes) == 64 * len(nf4.scales) and len(nf4.scales) == len(by_block(w))
    for block, back, scale in zip(by_block(w), by_block(got.numpy()), nf4.scales.tolist(), strict=True):
        largest = abs(block).max()
        assert scale == largest
        assert np.all(abs(block - back) <= largest * (HALF_GAP + 4 * UNIT) + SMALLEST)
        exact = (block == 0) | (abs(block) == largest)
        assert np.array_equal(back[exact], block[exact])


@settings(deadline=None)
@given(tensors)
def test_the_level_is_the_nearest(w: np.ndarray) -> None:
    got = dequantize(quantize_nf4(torch.tensor(w)), torch.float32).numpy()
    for block, back in zip(by_block(w), by_block(got), strict=True):
        largest = abs(block).max()
        nearest = abs(block[:, None] - largest * np.array(LEVELS)).min(axis=1)
        assert np.all(abs(block - back) <= nearest + 4 * UNIT * largest + SMALLEST)


@settings(deadline=None)
@given(tensors)
def test_what_has_been_in_four_bits_goes_there_again_unchanged(w: np.ndarray) -> None:
    once = dequantize(quantize_nf4(torch.tensor(w)), torch.float32)
    assert torch.equal(dequantize(quantize_nf4(once), torch.float32), once)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_any_dtype_is_quantized_as_the_float32_that_it_is(dtype: torch.dtype) -> None:
    w = torch.tensor(np.random.default_rng(0).standard_normal((5, 77)), dtype=dtype)
    got, right = quantize_nf4(w), quantize_nf4(w.float())
    assert torch.equal(got.codes, right.codes) and torch.equal(got.scales, right.scales)
    assert torch.equal(dequantize(got, dtype), dequantize(right, torch.float32).to(dtype))
    assert abs(w - dequantize(got, dtype)).max() > 0.01


def test_two_codes_share_a_byte() -> None:
    nf4 = quantize_nf4(torch.tensor([-1.0, 1.0, 0.0, -0.7, *[0.0] * 61, 0.5]))
    assert nf4.codes.tolist() == [0x0F, 0x71, *[0x77] * 30, 0x7F, *[0x77] * 31] and nf4.scales.tolist() == [1.0, 0.5]
    assert quantize_nf4(torch.zeros(3)).codes.tolist() == [0x77] * 32


# --- Gradients ---------------------------------------------------------------------------------------------------------------


def close(got: Any, right: Any, bound: float) -> bool:
    got, right = (np.asarray(x.detach()) for x in (got, right))
    return bool(got.shape == right.shape and abs(right).max() > 1e-3 and np.all(abs(got - right) <= bound * abs(right).max()))


@BASES
@pytest.mark.parametrize("columns", [None, (0, 16), (16, 48), (5, 6)], ids=str)
def test_gradients_are_the_formula(base: str | None, columns: tuple[int, int] | None) -> None:
    part = adapters(adapted(base))["h.1.attn.c_attn"]
    start, stop = columns or (0, 48)
    w, a, b = part.base.weight.detach(), part.lora_A.detach(), part.lora_B.detach()[:, start:stop]
    draws = np.random.default_rng(6)
    x = torch.tensor(draws.standard_normal((3, 8, 16)), requires_grad=True)
    g = torch.tensor(draws.standard_normal((3, 8, stop - start)))
    y = part.columns(x, *columns) if columns else part(x)
    y.backward(g)

    rows, of_rows = x.detach().flatten(0, 1), g.flatten(0, 1)
    merged = w[:, start:stop] + 2 * a @ b  # α/r = 6/3
    assert close(y, x.detach() @ merged + part.base.bias[start:stop], 1e-12)
    assert x.grad is not None and part.lora_A.grad is not None and part.lora_B.grad is not None
    assert close(x.grad, g @ merged.T, 1e-12)
    assert close(part.lora_A.grad, 2 * rows.T @ (of_rows @ b.T), 1e-12)
    assert close(part.lora_B.grad[:, start:stop], 2 * (rows @ a).T @ of_rows, 1e-12)
    assert part.lora_B.grad.count_nonzero() == b.numel()


@BASES
@WAYS
@pytest.mark.parametrize("name", [f"{linear}.{matrix}" for linear in LINEARS for matrix in ("lora_A", "lora_B")])
def test_gradients_are_finite_differences(base: str | None, way: Way, name: str) -> None:
    gpt, step = adapted(base), 1e-5
    matrix = gpt.get_parameter(name)
    slopes = torch.tensor(np.random.default_rng(3).standard_normal(way(gpt).shape))
    (way(gpt) * slopes).sum().backward()
    direction = torch.tensor(np.random.default_rng(4).standard_normal(matrix.shape))
    direction /= direction.norm()

    def projected(shift: float) -> float:
        with torch.no_grad():
            matrix.add_(direction, alpha=shift)
            value = float((way(gpt) * slopes).sum())
            matrix.sub_(direction, alpha=shift)
        return value

    assert matrix.grad is not None and matrix.grad.norm() > 1e-3
    slope = float((matrix.grad * direction).sum())
    assert abs((projected(step) - projected(-step)) / (2 * step) - slope) <= 1e-6 * matrix.grad.norm()


# --- The base ----------------------------------------------------------------------------------------------------------------


@BASES
def test_names_are_clear_and_all_but_adapters_is_frozen(base: str | None) -> None:
    gpt = adapted(base)
    trained = {name for name, p in gpt.named_parameters() if p.requires_grad}
    assert list(adapters(gpt)) == LINEARS
    assert trained == {f"{name}.{matrix}" for name in LINEARS for matrix in ("lora_A", "lora_B")} == set(adapter_weights(gpt))
    assert gpt.h[0].mlp.c_fc.lora_A.shape == (16, 3) and gpt.h[0].mlp.c_fc.lora_B.shape == (3, 64)
    weights = {"codes", "scales"} if base else {"weight"}
    assert {name.removeprefix("h.0.mlp.c_fc.base.") for name in gpt.state_dict() if name.startswith("h.0.mlp.c_fc.base")} == {
        "bias",
        *weights,
    }


@BASES
@WAYS
def test_an_adapted_model_starts_as_its_base(base: str | None, way: Way) -> None:
    gpt = plain()
    add_adapters(gpt, rank=4, alpha=8, seed=0, quantize_base=base)
    assert torch.equal(way(gpt), way(frozen_base(gpt, base)))


def train(gpt: GPT, steps: int) -> None:
    """With an optimizer that is given everything, and weight decay that would shrink whatever it is let."""
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=0.01, weight_decay=0.5)
    for _ in range(steps):
        response_logps(gpt).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@BASES
@WAYS
@DTYPES
def test_adapters_off_is_the_frozen_copy_bit_for_bit(base: str | None, way: Way, dtype: torch.dtype) -> None:
    gpt = plain().to(dtype)
    frozen = copy.deepcopy(gpt)
    response_logps(gpt).sum().backward()  # gradients of before, which must go
    add_adapters(gpt, rank=4, alpha=8, seed=0, quantize_base=base)
    if base:
        frozen.load_weights(merged_weights(gpt))
    arrays = {name: x.clone() for name, x in gpt.state_dict().items() if "lora" not in name}
    for _ in range(3):
        train(gpt, 2)
        with adapters_off(gpt):
            assert torch.equal(way(gpt), way(frozen))
        assert not torch.equal(way(gpt), way(frozen))
    assert all(torch.equal(gpt.state_dict()[name], x) for name, x in arrays.items())


@BASES
def test_the_reference_may_be_asked_while_the_policy_waits_for_backward(base: str | None) -> None:
    alone, both = adapted(base), adapted(base)
    response_logps(alone).square().sum().backward()
    logps = response_logps(both)
    with adapters_off(both):
        assert not response_logps(both).requires_grad
    logps.square().sum().backward()
    pairs = zip(alone.parameters(), both.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs if one.grad is not None and other.grad is not None)
    assert sum(p.grad is not None for p in both.parameters()) == 2 * len(LINEARS)


def test_adapters_come_on_again_where_they_were_on() -> None:
    gpt = adapted(None)
    on, off = logits(gpt), logits(plain())
    with pytest.raises(KeyError), adapters_off(gpt):
        with adapters_off(gpt):
            pass
        assert torch.equal(logits(gpt), off)
        raise KeyError
    assert torch.equal(logits(gpt), on) and not torch.equal(on, off)


def test_a_starts_from_the_seed_and_b_at_0() -> None:
    config = Config(vocab_size=5, context=4, width=64, layers=2, heads=2)

    def start(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, np.ndarray]:
        gpt = GPT(config).to(dtype)
        add_adapters(gpt, 32, 32, seed)
        return adapter_weights(gpt)

    state = torch.get_rng_state()
    first, again, other, double = start(0), start(0), start(1), start(0, torch.float64)
    assert torch.equal(state, torch.get_rng_state())
    for name, x in first.items():
        assert np.array_equal(x, again[name]) and np.array_equal(x, double[name].astype(np.float32))
        if name.endswith("lora_A"):
            assert not np.array_equal(x, other[name])
            assert abs(x.std() * np.sqrt(len(x)) - 1) <= 0.1 and abs(x.mean() * np.sqrt(len(x))) <= 0.1
        else:
            assert not np.any(x)
    flat = [x.ravel()[:8].tolist() for name, x in first.items() if name.endswith("lora_A")]
    assert len({tuple(x) for x in flat}) == len(flat)


# --- Weights that go in and out ----------------------------------------------------------------------------------------------


@BASES
@WAYS
def test_merged_weights_are_a_plain_model_that_computes_the_same(base: str | None, way: Way) -> None:
    gpt, merged = adapted(base), GPT(CONFIG).double()
    merged.load_weights(merged_weights(gpt))
    assert abs(way(gpt) - way(frozen_base(gpt, base))).max() > 0.1
    assert close(way(merged), way(gpt), 1e-13)


@BASES
def test_merging_rounds_once(base: str | None) -> None:
    """In float32: the nearest to the sum in float64."""
    gpt = adapted(base).float()
    for name, part in adapters(gpt).items():
        w, a, b = (np.asarray(x.detach(), np.float64) for x in (part.base.weight, part.lora_A, part.lora_B))
        right = w + 2 * (a @ b)
        got = merged_weights(gpt)[f"{name}.weight"]
        assert got.dtype == np.float32 and np.all(abs(got - right) <= 2.0**-24 * (1 + 1e-6) * abs(right))


@BASES
def test_adapters_go_out_and_come_in_the_same(base: str | None) -> None:
    gpt, other = adapted(base), plain()
    add_adapters(other, 3, 6.0, seed=99, quantize_base=base)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    out = adapter_weights(gpt)
    load_adapters(other, out)
    assert torch.equal(logits(other), logits(gpt))
    for x in out.values():
        x[:] = 0
    merged_weights(gpt)["ln_f.bias"][:] = 0
    assert torch.equal(logits(other), logits(gpt)) and not torch.equal(logits(gpt), logits(frozen_base(gpt, base)))
    before = adapter_weights(other)
    logits(other).square().sum().backward()
    optimizer.step()  # of the parameters that it was given
    assert all(not np.array_equal(x, before[name]) for name, x in adapter_weights(other).items())


# --- Memory ------------------------------------------------------------------------------------------------------------------


def dense_memory(gpt: GPT) -> list[weakref.ref[Any]]:
    return [weakref.ref(part.weight.untyped_storage()) for part in gpt.modules() if isinstance(part, Linear)]


def test_four_bits_a_weight_and_nothing_dense_is_left() -> None:
    gpt = GPT(CONFIG)
    dense = dense_memory(gpt)
    assert len(dense) == len(LINEARS) and all(memory() is not None for memory in dense)
    add_adapters(gpt, 3, 6.0, seed=0, quantize_base="nf4")
    assert all(memory() is None for memory in dense)
    for part in adapters(gpt).values():
        assert isinstance(part.base, QuantizedLinear)
        bits = 8 * sum(x.untyped_storage().nbytes() for x in part.base.buffers())
        assert 4 <= bits / part.base.weight.numel() <= 4.6


def test_the_dense_matrix_is_not_kept_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    def watched(*arguments: Any) -> Tensor:
        matrix = dequantize(*arguments)
        made.append(weakref.ref(matrix.untyped_storage()))
        return matrix

    gpt = adapted("nf4")
    monkeypatch.setattr(lora, "dequantize", watched)
    result = response_logps(gpt).sum()
    assert len(made) == len(LINEARS) + 1 and all(memory() is None for memory in made)  # the last c_attn in two parts
    result.backward()
    assert len(made) > 2 * len(LINEARS) and all(memory() is None for memory in made)


def test_bytes_held_are_those_counted_by_hand() -> None:
    """Of one block of width d = 16: 12 d² weights in matrices, 9 d in their biases, 4 d in layer norms; 2 d in ln_f."""
    d, rank = 16, 2
    config = Config(vocab_size=10, context=6, width=d, layers=1, heads=2)
    rest, matrices, trained = 10 * d + 6 * d + 9 * d + 6 * d, 12 * d * d, rank * (d + 3 * d + d + d + d + 4 * d + 4 * d + d)
    whole = {name: 4 * (rest + matrices) for name in ("trained", "gradients")}
    assert bytes_held(GPT(config)) == {"base": 0, **whole, "optimizer": 8 * (rest + matrices)}
    for base, weights in ((None, 4 * matrices), ("nf4", matrices // 2 + 4 * matrices // 64)):
        gpt = GPT(config)
        add_adapters(gpt, rank, 1.0, 0, base)
        added = {"trained": 4 * trained, "gradients": 4 * trained, "optimizer": 8 * trained}
        assert bytes_held(gpt) == {"base": 4 * rest + weights, **added}


# --- Precision ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_cast_there_and_back_does_not_touch_the_codes_and_scales(dtype: torch.dtype) -> None:
    gpt = adapted("nf4")
    before = [part.base.weight for part in adapters(gpt).values()]
    cast = [part.base.weight for part in adapters(gpt.to(dtype)).values()]
    back = [part.base.weight for part in adapters(gpt.double()).values()]
    assert all(torch.equal(x, y) for x, y in zip(before, back, strict=True))
    assert all(torch.equal(x.to(dtype), y) for x, y in zip(before, cast, strict=True))


@BASES
def test_autocast_computes_in_half_precision_and_trains_in_single(base: str | None) -> None:
    gpt, exact = adapted(base).float(), adapted(base)
    x, g = (np.random.default_rng(seed).standard_normal((2, 5, width)) for seed, width in ((7, 16), (8, 64)))
    inputs, right = (torch.tensor(x, dtype=dtype, requires_grad=True) for dtype in (torch.float32, torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        y = gpt.h[0].mlp.c_fc(inputs)
    assert y.dtype == torch.bfloat16
    y.backward(torch.tensor(g, dtype=torch.bfloat16))
    exact.h[0].mlp.c_fc(right).backward(torch.tensor(g))
    for got, other in ((inputs, right), *((gpt.get_parameter(name), exact.get_parameter(name)) for name in OF_C_FC)):
        assert got.grad is not None and other.grad is not None and got.grad.dtype == torch.float32
        assert 1e-4 * other.grad.norm() <= (got.grad - other.grad).norm() <= 2e-2 * other.grad.norm()


def test_compiled_is_the_same() -> None:
    part = adapted("nf4").h[0].mlp.c_fc
    run = torch.compile(part, backend="aot_eager", fullgraph=True)
    inputs = [torch.tensor(np.random.default_rng(3).standard_normal((2, 16)), requires_grad=True), part.lora_A, part.lora_B]
    for got, right in zip(*(torch.autograd.grad(f(inputs[0]).square().sum(), inputs) for f in (run, part)), strict=True):
        assert close(got, right, 1e-12)
    before = part(inputs[0])
    part.on = False
    assert close(run(inputs[0]), part(inputs[0]), 1e-12) and not close(part(inputs[0]), before, 1e-3)


# --- Refusals ----------------------------------------------------------------------------------------------------------------


def broken(name: str, value: float) -> GPT:
    gpt = plain()
    with torch.no_grad():
        gpt.get_parameter(name).flatten()[7] = value
    return gpt


def changed(**arrays: np.ndarray | None) -> dict[str, np.ndarray]:
    weights = adapter_weights(adapted(None)) | {f"h.0.mlp.c_fc.{name}": x for name, x in arrays.items()}
    return {name: x for name, x in weights.items() if x is not None}


def add(**settings: Any) -> Callable[[GPT], None]:
    return lambda gpt: add_adapters(gpt, **({"rank": 4, "alpha": 8.0, "seed": 0} | settings))


def load(**arrays: np.ndarray | None) -> Callable[[GPT], None]:
    return lambda gpt: load_adapters(gpt, changed(**arrays))


REFUSALS: dict[str, tuple[Callable[[], GPT], Callable[[GPT], object]]] = {
    "rank: must be a whole number in [1, width = 16], got 0": (plain, add(rank=0)),
    "rank: must be a whole number in [1, width = 16], got 17": (plain, add(rank=17)),
    "rank: must be a whole number in [1, width = 16], got 4.0": (plain, add(rank=4.0)),
    "rank: must be a whole number in [1, width = 16], got True": (plain, add(rank=True)),
    "alpha: must be finite and > 0, got 0.0": (plain, add(alpha=0.0)),
    "alpha: must be finite and > 0, got nan": (plain, add(alpha=float("nan"))),
    "alpha: must be finite and > 0, got inf": (plain, add(alpha=float("inf"))),
    "quantize_base: must be None or 'nf4', got 'int8'": (plain, add(quantize_base="int8")),
    "model: must have no adapters, got one that has": (lambda: adapted("nf4"), add()),
    "h.1.mlp.c_fc.weight: must be finite in float32, got [nan]": (lambda: broken("h.1.mlp.c_fc.weight", float("nan")), add()),
    "h.1.attn.c_proj.bias: must be finite in float32, got [inf]": (lambda: broken("h.1.attn.c_proj.bias", float("inf")), add()),
    "wte.weight: must be finite in float32, got [1e+39]": (lambda: broken("wte.weight", 1e39), add(quantize_base="nf4")),
    "model: must have adapters, got one without": (plain, adapters),
    "arrays: h.0.mlp.c_fc.lora_A must have the shape (16, 3), got None": (lambda: adapted(None), load(lora_A=None)),
    "arrays: h.0.mlp.c_fc.lora_C must have the shape None, got (2,)": (lambda: adapted(None), load(lora_C=np.zeros(2))),
    "arrays: h.0.mlp.c_fc.lora_B must have the shape (3, 64), got (2, 64)": (
        lambda: adapted(None),
        load(lora_B=np.zeros((2, 64))),
    ),
    "arrays: h.0.mlp.c_fc.lora_B: must be finite in float32, got [nan]": (
        lambda: adapted(None),
        load(lora_B=np.full((3, 64), np.nan)),
    ),
    "arrays: h.0.attn.c_attn.lora_A must have the shape None, got (16, 3)": (plain, load()),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_what_is_refused_is_named_and_changes_nothing(message: str) -> None:
    make, refused = REFUSALS[message]
    gpt, before = make(), make().state_dict()
    trained = [name for name, p in gpt.named_parameters() if p.requires_grad]
    with pytest.raises(ValueError) as error:
        refused(gpt)
    assert str(error.value) == message
    assert gpt.state_dict().keys() == before.keys()
    assert all(torch.equal(x.nan_to_num(), before[name].nan_to_num()) for name, x in gpt.state_dict().items())
    assert [name for name, p in gpt.named_parameters() if p.requires_grad] == trained


@pytest.mark.parametrize("use", [merged_weights, adapters_off, adapter_weights], ids=["merged", "off", "weights"])
def test_a_model_without_adapters_has_none(use: Callable[[GPT], Any]) -> None:
    gpt = plain()
    assert not any(isinstance(part, Adapted) for part in gpt.modules())
    if use is adapter_weights:
        assert adapter_weights(gpt) == {}
        return
    with pytest.raises(ValueError, match="^model: must have adapters, got one without$"):
        with use(gpt):
            pass


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e39], ids=str)
def test_a_weight_that_is_not_finite_in_float32_is_not_quantized(value: float) -> None:
    w = torch.zeros(70, 2, dtype=torch.float64)
    w[60, 1] = value
    with pytest.raises(ValueError) as error:
        quantize_nf4(w)
    assert str(error.value) == f"w: must be finite in float32, got [{value}]"
