"""Low-rank adapters over a frozen GPT. Hu et al. 2021, "LoRA", arXiv:2106.09685v2 eq. 3 and section 4.1.

    y = x W + b + (α/r) (x A) B                                     W [in, out], A [in, r], B [r, out]
    ∂/∂A = (α/r) xᵀ (g Bᵀ)        ∂/∂B = (α/r) (x A)ᵀ g             g = ∂/∂y; rows and positions add up

Trained: A, which starts at N(0, 1/in), and B, at 0, of each linear map of each block. Frozen: W, b, layer norms, embeddings.

W in four bits. Dettmers et al. 2023, "QLoRA", arXiv:2305.14314v1 section 3: 64 weights, neighbours in memory, share a scale s.

    s = max |w|        k = argmin |w/s - level_k|        ŵ = s level_k        |w - ŵ| <= s (largest gap between levels) / 2

The 16 levels are quantiles of the normal distribution over the outermost one, 7 below 0, 0 itself and 8 above: 0 and ±s come
back exactly. The matrix Ŵ exists only while a product with it runs, forward or backward.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipref.arrays import to_numpy

from .model import GPT, Linear

BLOCK = 64
# The paper prints the levels (appendix E), not how far out they go: this probability is that of its authors' bitsandbytes.
_outermost, _quantile = (31 / 32 + 29 / 30) / 2, NormalDist().inv_cdf
LEVELS = [_quantile(0.5 + (_outermost - 0.5) * i / (7 if i < 0 else 8)) / _quantile(_outermost) for i in range(-7, 9)]


class NF4(NamedTuple):
    """A tensor in four bits: codes uint8 [32 blocks], two a byte, scales float32 [blocks]. Zeros fill the last block up."""

    codes: Tensor
    scales: Tensor
    shape: tuple[int, ...]


def quantize_nf4(w: Tensor) -> NF4:
    """Every weight by the nearest level of its block. ValueError for one that is not finite in float32."""
    _require_finite("w", w)
    flat = w.detach().flatten().float()
    blocks, levels = F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK), flat.new_tensor(LEVELS)
    scales = blocks.abs().amax(dim=1)
    normed = blocks / scales.where(scales > 0, 1)[:, None]
    first, second = torch.bucketize(normed, (levels[1:] + levels[:-1]) / 2).view(-1, 2).unbind(dim=1)
    return NF4((16 * first + second).to(torch.uint8), scales, tuple(w.shape))


def dequantize(nf4: NF4, dtype: torch.dtype) -> Tensor:
    """ŵ, computed in float32."""
    codes = torch.stack([nf4.codes >> 4, nf4.codes & 15], dim=1).flatten().int()
    blocks = nf4.scales.new_tensor(LEVELS).index_select(0, codes).view(-1, BLOCK) * nf4.scales[:, None]
    return blocks.flatten()[: math.prod(nf4.shape)].view(nf4.shape).to(dtype)


class QuantizedLinear(nn.Module):
    """A frozen Linear with W in four bits."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        codes, scales, self.shape = quantize_nf4(linear.weight)
        # Scales as integers, which a cast of the model to another dtype leaves alone.
        self.codes, self.scales, self.bias = nn.Buffer(codes), nn.Buffer(scales.view(torch.int32)), linear.bias

    @property
    def weight(self) -> Tensor:
        """Ŵ [in, out], made anew at every look."""
        return dequantize(NF4(self.codes, self.scales.view(torch.float32), self.shape), self.bias.dtype)

    def columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        return _Columns.apply(x, self, slice(start, stop))


class _Columns(torch.autograd.Function):
    """Some columns of x Ŵ + b; ∂/∂x = g Ŵᵀ. Nothing is kept for backward but where to find Ŵ."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantizedLinear, columns: slice) -> Tensor:
        ctx.linear, ctx.columns = linear, columns
        return F.linear(x, linear.weight[:, columns].T, linear.bias[columns])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] @ ctx.linear.weight[:, ctx.columns].T.to(grads[0].dtype), None, None


class Adapted(nn.Module):
    """A Linear and its adapter: x W + b + (α/r) (x A) B, without the last term where `on` is false."""

    def __init__(self, base: Linear | QuantizedLinear, rank: int, alpha: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.base, self.scale, self.on = base, alpha / rank, True
        inputs, outputs = base.weight.shape
        self.lora_A = nn.Parameter(base.bias.new_tensor(rng.standard_normal((inputs, rank)) / math.sqrt(inputs)))
        self.lora_B = nn.Parameter(base.bias.new_zeros(rank, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.columns(x, 0, self.lora_B.shape[1])

    def columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        y = self.base.columns(x, start, stop)
        return y + self.scale * (x @ self.lora_A) @ self.lora_B[:, start:stop] if self.on else y


def add_adapters(model: GPT, rank: int, alpha: float, seed: int, quantize_base: str | None = None) -> None:
    """Freeze the model and put an adapter on each of its linear maps; with "nf4" their W is then in four bits.

    A comes from the seed; PyTorch's random state is left alone. ValueError, before anything is changed, for a rank outside 1 to
    the width, an alpha not finite or <= 0, an unknown quantization, a weight not finite in float32, a model that has adapters.
    """
    width, rng = model.config.width, np.random.default_rng(seed)
    _require(type(rank) is int and 1 <= rank <= width, f"rank: must be a whole number in [1, width = {width}], got {rank!r}")
    _require(0 < alpha < math.inf, f"alpha: must be finite and > 0, got {alpha!r}")
    _require(quantize_base in (None, "nf4"), f"quantize_base: must be None or 'nf4', got {quantize_base!r}")
    _require(not any(isinstance(part, Adapted) for part in model.modules()), "model: must have no adapters, got one that has")
    for name, weight in model.named_parameters():
        _require_finite(name, weight)
    model.requires_grad_(False).zero_grad()  # a gradient of before would still be applied by an optimizer
    for name, linear in [(name, part) for name, part in model.named_modules() if isinstance(part, Linear)]:
        model.set_submodule(name, Adapted(QuantizedLinear(linear) if quantize_base else linear, rank, alpha, rng))


def adapters(model: GPT) -> dict[str, Adapted]:
    """By the name of what they adapt, such as h.0.attn.c_attn. ValueError for a model without."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, Adapted)}
    _require(found, "model: must have adapters, got one without")
    return found


@contextmanager
def adapters_off(model: GPT) -> Iterator[None]:
    """Inside, the network is the frozen base, bit for bit: the reference. Dropout stays as the model's mode has it."""
    switched = [part for part in adapters(model).values() if part.on]
    try:
        for part in switched:
            part.on = False
        yield
    finally:
        for part in switched:
            part.on = True


def merged_weights(model: GPT) -> dict[str, np.ndarray]:
    """The weights of the plain GPT-2 that computes the same: W + (α/r) A B, summed in float64 and rounded once."""
    weights = {name.replace(".base.", "."): to_numpy(weight).copy() for name, weight in model.state_dict().items()}
    for name, part in adapters(model).items():
        w, a, b = (to_numpy(x).astype(np.float64) for x in (part.base.weight, part.lora_A, part.lora_B))
        weights[f"{name}.weight"] = (w + part.scale * a @ b).astype(weights[f"{name}.bias"].dtype)
    return {name: weights[name] for name in model.config.shapes}


def adapter_weights(model: GPT) -> dict[str, np.ndarray]:
    """Copies of every A and B by name, such as h.0.attn.c_attn.lora_A; none for a model without."""
    return {name: to_numpy(x).copy() for name, x in model.state_dict().items() if ".lora_" in name}


def load_adapters(model: GPT, arrays: Mapping[str, np.ndarray]) -> None:
    """Take copies of every A and B; α stays the model's. ValueError, before anything is changed, for an array that is missing,
    left over, of another shape (None is the shape of one that is not there), or not finite."""
    own = adapter_weights(model)
    for name in sorted(own.keys() | arrays.keys()):
        expected, got = (some[name].shape if name in some else None for some in (own, arrays))
        _require(expected == got, f"arrays: {name} must have the shape {expected}, got {got}")
        _require_finite(f"arrays: {name}", torch.tensor(arrays[name]))
    model.load_state_dict({name: torch.tensor(x) for name, x in arrays.items()}, strict=False)


def bytes_held(model: nn.Module) -> dict[str, int]:
    """Bytes of what is frozen (`base`), of the rest (`trained`), and of its `gradients` and AdamW moments (`optimizer`)."""
    size = {False: 0, True: 0}
    for x in [*model.parameters(), *model.buffers()]:
        size[x.requires_grad] += x.untyped_storage().nbytes()
    return {"base": size[False], "trained": size[True], "gradients": size[True], "optimizer": 2 * size[True]}


def _require_finite(name: str, x: Tensor) -> None:
    bad = x.detach()[~x.detach().float().isfinite()]
    _require(not len(bad), f"{name}: must be finite in float32, got {bad[:1].tolist()}")


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)
