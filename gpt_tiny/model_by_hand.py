"""GPT-2 in NumPy, forward and backward written out. Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
section 2.3; the block is that of Vaswani et al. 2017 with the layer norms moved before each part.

    x       = wte[tokens] + wpe[positions]
    x       = x + attention(ln_1(x))
    x       = x + mlp(ln_2(x))                       the two, once a layer
    hidden  = ln_f(x)
    logits  = hidden wteᵀ                            the head is tied: ∂/∂wte sums both uses

Weights are a dict from name to array: the names of GPT2LMHeadModel without `transformer.`, no `lm_head.weight`, matrices used
as x W + b. B is rows, T positions, D width, H heads, V vocabulary; all is computed in the dtype of the weights. A function `f`
returns its output and its cache: what `f_backward` needs to turn the gradient of a scalar in f's output into those in f's input
and, by name, in the weights that f used, where rows and positions add up.

A position where the attention mask is false is as if removed: nothing attends to it, it takes no place in the count of
positions, its token may be any number, its hidden state and logits are 0 and no gradient leaves it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minipref.arrays import softmax, to_numpy

Weights = Mapping[str, np.ndarray]
Grads = dict[str, np.ndarray]

SCORE = "score.weight"  # what a reward model has beside a GPT-2's weights


@dataclass(frozen=True)
class Config:
    """The size of a GPT-2. ValueError for a number that is not a whole one >= 1, and where heads does not divide width."""

    vocab_size: int
    context: int  # most tokens in a row, padding excluded
    width: int
    layers: int
    heads: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Config: {name} must be a whole number >= 1, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"Config: heads must divide width = {self.width}, got {self.heads}")

    @classmethod
    def of(cls, weights: Weights, heads: int) -> "Config":
        """The size that these weights have; ValueError where they are not a GPT-2's."""
        for name in ("wte.weight", "wpe.weight"):
            if name not in weights or weights[name].ndim != 2:
                raise ValueError(f"weights: must hold the matrix {name}, got {sorted(weights)[:4]}")
        (vocab_size, width), context = weights["wte.weight"].shape, len(weights["wpe.weight"])
        config = cls(vocab_size, context, width, sum(name.endswith(".ln_1.weight") for name in weights), heads)
        config.check_weights(weights)
        return config

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight by name, in the order of the model."""
        d = self.width
        parts = {"ln_1": (d,), "attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d)}
        parts |= {"ln_2": (d,), "mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}
        named = {f"h.{layer}.{part}": shape for layer in range(self.layers) for part, shape in parts.items()} | {"ln_f": (d,)}
        shapes: dict[str, tuple[int, ...]] = {"wte.weight": (self.vocab_size, d), "wpe.weight": (self.context, d)}
        for name, shape in named.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
        return shapes

    def check_weights(self, weights: Weights) -> None:
        """ValueError for a weight that is missing, left over, of another shape, or not floating point of the one dtype."""
        shapes = self.shapes
        if different := shapes.keys() ^ weights.keys():
            raise ValueError(f"weights: names must be a GPT-2's, got a difference in {min(different)}")
        for name, weight in weights.items():
            if weight.shape != shapes[name]:
                raise ValueError(f"weights: {name} must have the shape {shapes[name]}, got {weight.shape}")
            if weight.dtype.kind != "f" or weight.dtype != weights["wte.weight"].dtype:
                raise ValueError(f"weights: {name} must be floating point of the dtype of wte.weight, got {weight.dtype}")

    def check_scored(self, weights: Weights) -> None:
        """As `check_weights`, of a model that may have a score of its states: score.weight [1, D]."""
        body = {name: weight for name, weight in weights.items() if name != SCORE}
        self.check_weights(body)
        if SCORE in weights and weights[SCORE].shape != (1, self.width):
            raise ValueError(f"weights: {SCORE} must have the shape {(1, self.width)}, got {weights[SCORE].shape}")

    def check_inputs(self, tokens: Any, attention_mask: Any) -> None:
        """ValueError unless tokens [B,T] are whole numbers, in the vocabulary where the boolean attention_mask [B,T] is true,
        and each row holds 1 to `context` of them. NumPy arrays and tensors; a tensor is copied to the host."""
        tokens, mask = to_numpy(tokens), to_numpy(attention_mask)
        if tokens.dtype.kind not in "iu":
            raise ValueError(f"tokens: must be an array of integers, got {tokens.dtype}")
        if tokens.ndim != 2 or not tokens.size:
            raise ValueError(f"tokens: must have the shape [B, T] with no side of 0, got {tokens.shape}")
        if mask.dtype != bool or mask.shape != tokens.shape:
            raise ValueError(f"attention_mask: must be booleans of the shape {tokens.shape}, got {mask.dtype} {mask.shape}")
        for row, length in enumerate(mask.sum(axis=1)):
            if not 1 <= length <= self.context:
                raise ValueError(f"attention_mask: a row must hold 1 to {self.context} tokens, got {length} in row {row}")
        outside = tokens[mask & ((tokens < 0) | (tokens >= self.vocab_size))]
        if outside.size:
            raise ValueError(f"tokens: must lie in the vocabulary [0, {self.vocab_size}), got {outside[0]}")


def initial_weights(config: Config, seed: int, dtype: type[np.floating] = np.float32) -> Grads:
    """GPT-2's start: matrices N(0, 0.02²), those that end a residual branch divided by √(2 layers) (section 2.3), biases 0 and
    gains 1. The same numbers in every dtype, up to rounding."""
    rng, weights = np.random.default_rng(seed), {}
    for name, shape in config.shapes.items():
        if len(shape) == 1:
            weights[name] = np.full(shape, float(name.endswith("weight")), dtype)
        else:
            scale = 0.02 / math.sqrt(2 * config.layers if name.endswith("c_proj.weight") else 1)
            weights[name] = (scale * rng.standard_normal(shape)).astype(dtype)
    return weights


class Cache(NamedTuple):
    weights: Weights
    tokens: np.ndarray  # [B, T], 0 where the mask is false
    positions: np.ndarray  # [B, T]
    attention_mask: np.ndarray  # [B, T]
    blocks: list[Any]
    ln_f: Any
    hidden: np.ndarray  # [B, T, D]


def forward(weights: Weights, n_head: int, tokens: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Logits [B,T,V] of the token after each position, from tokens [B,T] padded on either side, and what backward needs.

    ValueError for weights that are not a GPT-2's and for tokens that these weights cannot take: see Config.
    """
    config = Config.of(weights, n_head)
    config.check_inputs(tokens, attention_mask)
    tokens = np.where(attention_mask, tokens, 0)
    positions = np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0)
    allowed = attends(attention_mask)

    x, blocks = weights["wte.weight"][tokens] + weights["wpe.weight"][positions], []
    for layer in range(config.layers):
        x, cache = block(weights, f"h.{layer}", n_head, x, allowed)
        blocks.append(cache)
    x, ln_f = layer_norm(weights, "ln_f", x)

    hidden = x * attention_mask[..., None]
    logits = hidden @ weights["wte.weight"].T
    return logits, Cache(weights, tokens, positions, attention_mask, blocks, ln_f, hidden)


def backward(cache: Cache, grad_logits: np.ndarray) -> Grads:
    """Gradients by weight name of a scalar with gradient grad_logits [B,T,V] in the logits; ValueError for another shape."""
    weights, grads = cache.weights, {name: np.zeros_like(weight) for name, weight in cache.weights.items()}
    head = weights["wte.weight"]
    if grad_logits.shape != (*cache.tokens.shape, len(head)):
        raise ValueError(f"grad_logits: must have the shape {(*cache.tokens.shape, len(head))}, got {grad_logits.shape}")

    grad, more = layer_norm_backward(weights, "ln_f", cache.ln_f, (grad_logits @ head) * cache.attention_mask[..., None])
    grads |= more
    for layer, block_cache in reversed(list(enumerate(cache.blocks))):
        grad, more = block_backward(weights, f"h.{layer}", block_cache, grad)
        grads |= more

    grads["wte.weight"] += sum_of_outer_products(grad_logits, cache.hidden)
    np.add.at(grads["wte.weight"], cache.tokens, grad)
    np.add.at(grads["wpe.weight"], cache.positions, grad)
    return grads


def attends(attention_mask: np.ndarray) -> np.ndarray:
    """[B,1,T,T]: whether position i may look at j, a token of its row no later than i. Padding looks at itself, for want of
    anything else: a row of no keys has no softmax."""
    size = attention_mask.shape[1]
    return (np.tri(size, dtype=bool) & attention_mask[:, None] | np.eye(size, dtype=bool))[:, None]


def block(weights: Weights, name: str, n_head: int, x: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, Any]:
    """x [B,T,D] and what its two residual branches add."""
    normed, ln_1 = layer_norm(weights, f"{name}.ln_1", x)
    added, attn = attention(weights, f"{name}.attn", n_head, normed, allowed)
    x = x + added
    normed, ln_2 = layer_norm(weights, f"{name}.ln_2", x)
    added, feed = mlp(weights, f"{name}.mlp", normed)
    return x + added, (ln_1, attn, ln_2, feed)


def block_backward(weights: Weights, name: str, cache: Any, grad: np.ndarray) -> tuple[np.ndarray, Grads]:
    """The gradient passes each branch and the way around it, and the two add up."""
    ln_1, attn, ln_2, feed = cache
    grad_normed, grads = mlp_backward(weights, f"{name}.mlp", feed, grad)
    through, of_ln_2 = layer_norm_backward(weights, f"{name}.ln_2", ln_2, grad_normed)
    grad = grad + through
    grad_normed, of_attn = attention_backward(weights, f"{name}.attn", attn, grad)
    through, of_ln_1 = layer_norm_backward(weights, f"{name}.ln_1", ln_1, grad_normed)
    return grad + through, grads | of_ln_2 | of_attn | of_ln_1


def attention(weights: Weights, name: str, n_head: int, x: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, Any]:
    """softmax(q kᵀ / √(D/H)) v in each head, forbidden scores being -inf. Vaswani et al. 2017, arXiv:1706.03762v7 eq. 1."""
    q, k, v = split_heads(linear(weights, f"{name}.c_attn", x), 3, n_head)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    probabilities = softmax(np.where(allowed, scores, -np.inf))
    mixed = join_heads((probabilities @ v)[None])
    return linear(weights, f"{name}.c_proj", mixed), (x, q, k, v, probabilities, mixed)


def attention_backward(weights: Weights, name: str, cache: Any, grad: np.ndarray) -> tuple[np.ndarray, Grads]:
    """∂/∂scores_ij = p_ij (g_ij - Σ_j p_ij g_ij) with g = ∂/∂p: what a softmax does to a gradient; 0 where p is."""
    x, q, k, v, p, mixed = cache
    grad_mixed, grads = linear_backward(weights, f"{name}.c_proj", mixed, grad)
    (grad_out,) = split_heads(grad_mixed, 1, q.shape[1])
    grad_p = grad_out @ v.mT
    grad_scores = p * (grad_p - (p * grad_p).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])
    grad_qkv = join_heads(np.stack([grad_scores @ k, grad_scores.mT @ q, p.mT @ grad_out]))
    grad_x, more = linear_backward(weights, f"{name}.c_attn", x, grad_qkv)
    return grad_x, grads | more


def split_heads(x: np.ndarray, parts: int, n_head: int) -> np.ndarray:
    """[B,T,parts·D] -> [parts,B,H,T,D/H]: within each part, heads are consecutive slices of the width."""
    rows, positions, _ = x.shape
    return x.reshape(rows, positions, parts, n_head, -1).transpose(2, 0, 3, 1, 4)


def join_heads(x: np.ndarray) -> np.ndarray:
    """[parts,B,H,T,D/H] -> [B,T,parts·D], the inverse of split_heads."""
    _, rows, _, positions, _ = x.shape
    return x.transpose(1, 3, 0, 2, 4).reshape(rows, positions, -1)


def mlp(weights: Weights, name: str, x: np.ndarray) -> tuple[np.ndarray, Any]:
    """gelu(x W + b) W' + b', four times as wide inside."""
    active, slope = gelu(linear(weights, f"{name}.c_fc", x))
    return linear(weights, f"{name}.c_proj", active), (x, active, slope)


def mlp_backward(weights: Weights, name: str, cache: Any, grad: np.ndarray) -> tuple[np.ndarray, Grads]:
    """Back through the two matrices and the slope between them."""
    x, active, slope = cache
    grad_active, grads = linear_backward(weights, f"{name}.c_proj", active, grad)
    grad_x, more = linear_backward(weights, f"{name}.c_fc", x, grad_active * slope)
    return grad_x, grads | more


def gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x/2 (1 + tanh u) with u = √(2/π) (x + 0.044715 x³), and its slope ½ (1 + tanh u) + x/2 (1 - tanh² u) ∂u/∂x.
    Hendrycks and Gimpel 2016, arXiv:1606.08415v5 section 2."""
    tanh = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    slope_inside = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return 0.5 * x * (1 + tanh), 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * slope_inside


def layer_norm(weights: Weights, name: str, x: np.ndarray) -> tuple[np.ndarray, Any]:
    """n w + b with n = (x - mean) / √(variance + 1e-5) over the width, the variance divided by D. Ba et al. 2016,
    arXiv:1607.06450v1 eq. 3 and 4."""
    centered = x - x.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + 1e-5)
    normed = centered * scale
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"], (normed, scale)


def layer_norm_backward(weights: Weights, name: str, cache: Any, grad: np.ndarray) -> tuple[np.ndarray, Grads]:
    """∂/∂x = (g - mean g - n mean(g n)) / √(variance + 1e-5) with g = ∂/∂n: less what would shift or stretch x."""
    normed, scale = cache
    g = grad * weights[f"{name}.weight"]
    grad_x = scale * (g - g.mean(axis=-1, keepdims=True) - normed * (g * normed).mean(axis=-1, keepdims=True))
    return grad_x, {f"{name}.weight": (grad * normed).sum(axis=(0, 1)), f"{name}.bias": grad.sum(axis=(0, 1))}


def linear(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """x W + b, [..., in] -> [..., out]."""
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear_backward(weights: Weights, name: str, x: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, Grads]:
    """∂/∂x = g Wᵀ, ∂/∂W = Σ xᵀ g, ∂/∂b = Σ g."""
    grads = {f"{name}.weight": sum_of_outer_products(x, grad), f"{name}.bias": grad.sum(axis=(0, 1))}
    return grad @ weights[f"{name}.weight"].T, grads


def sum_of_outer_products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ_bt x_bt y_btᵀ, [B,T,M] and [B,T,N] -> [M,N]."""
    return x.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1])


class Moments(NamedTuple):
    steps: int
    mean: Grads  # running mean of the gradient, biased towards 0
    square: Grads  # running mean of its square, biased too


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay on every weight. Loshchilov and Hutter 2019, arXiv:1711.05101v3 algorithm 2, the decay
    multiplied by the learning rate as PyTorch does:

        m = β1 m + (1 - β1) g          m̂ = m / (1 - β1^t)
        v = β2 v + (1 - β2) g²         v̂ = v / (1 - β2^t)
        w = (1 - lr decay) w - lr m̂ / (√v̂ + ε)

    ValueError for lr or weight_decay < 0, a beta outside [0, 1) and eps < 1e-8, where rounding would steer.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name, low in (("lr", 0.0), ("weight_decay", 0.0), ("eps", 1e-8)):
            if not low <= getattr(self, name) < math.inf:
                raise ValueError(f"AdamW: {name} must be finite and >= {low:g}, got {getattr(self, name)!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"AdamW: betas must be two numbers in [0, 1), got {self.betas!r}")

    def start(self, weights: Weights) -> Moments:
        """Before the first step."""
        return Moments(0, *({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2)))

    def step(self, weights: Weights, grads: Weights, moments: Moments) -> tuple[Grads, Moments]:
        """New weights and moments; the given ones stay as they are. KeyError for a weight without a gradient."""
        (beta1, beta2), t = self.betas, moments.steps + 1
        mean = {name: beta1 * m + (1 - beta1) * grads[name] for name, m in moments.mean.items()}
        square = {name: beta2 * v + (1 - beta2) * grads[name] ** 2 for name, v in moments.square.items()}

        def updated(name: str, w: np.ndarray) -> np.ndarray:
            stretch = np.sqrt(square[name] / (1 - beta2**t)) + self.eps
            return (1 - self.lr * self.weight_decay) * w - self.lr * (mean[name] / (1 - beta1**t)) / stretch

        return {name: updated(name, w) for name, w in weights.items()}, Moments(t, mean, square)
