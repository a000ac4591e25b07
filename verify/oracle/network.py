"""A GPT-2 in decimals, written from the papers, with reverse-mode differentiation of its own.

A *node* is a matrix of decimals and the ways in which a gradient passes back from it. A row of tokens stands alone, without
padding: what is masked never gets here. Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section
2.3, on the decoder of arXiv:1706.03762v7 section 3; layer norm: arXiv:1607.06450v1 eq. 3-4; GELU: arXiv:1606.08415v5 section 2,
in its tanh form.

`rounding` is how the condition of an answer is measured: meanwhile every number that is made, forward and backward, weights
included, moves by 1e-20 of itself, up or down at random, as if every operation of an honest port rounded.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np

from verify.oracle.machine import NUDGE
from verify.oracle.numbers import HALF, ONE, TWO, ZERO

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798")
CUBIC, EPSILON = Decimal("0.044715"), Decimal("1e-5")
MOVES, ZERO_ONE = np.array([ONE - NUDGE, ONE + NUDGE], object), np.array([ZERO, ONE], object)
exp, ln, sqrt = (np.frompyfunc(function, 1, 1) for function in (Decimal.exp, Decimal.ln, Decimal.sqrt))

count, generators = itertools.count(), list[Random]()


@contextmanager
def rounding(seed: int) -> Iterator[None]:
    generators.append(Random(seed))
    try:
        yield
    finally:
        generators.pop()


def made(x: Any) -> Any:
    """Numbers as an operation leaves them: moved, while there is rounding."""
    if not generators:
        return x
    x = np.asarray(x, object)
    coins = np.frombuffer(generators[-1].randbytes(x.size), np.uint8) & 1
    return x * MOVES[coins].reshape(x.shape)


class Node:
    """A matrix, or a row [1, columns] or column [rows, 1] that broadcasts; links say what a gradient is one step back."""

    def __init__(self, value: Any, *links: tuple["Node", Callable[[Any], Any]]) -> None:
        self.value, self.links, self.order = made(value), links, next(count)
        self.gradient: Any = None

    def __add__(self, other: "Node") -> "Node":
        return Node(self.value + other.value, (self, lambda g: g), (other, lambda g: g))

    def __mul__(self, other: "Node") -> "Node":
        return Node(self.value * other.value, (self, lambda g: g * other.value), (other, lambda g: g * self.value))

    def __matmul__(self, other: "Node") -> "Node":
        return Node(self.value @ other.value, (self, lambda g: g @ other.value.T), (other, lambda g: self.value.T @ g))

    def __getitem__(self, place: Any) -> "Node":
        return Node(self.value[place], (self, lambda g: scattered(self.value.shape, place, g)))

    def transposed(self) -> "Node":
        return Node(self.value.T, (self, lambda g: g.T))

    def each(self, values: Any, slopes: Any) -> "Node":
        """A function of every entry, given by its values and its slopes."""
        return Node(values, (self, lambda g: g * slopes))

    def by(self, factor: Any) -> "Node":
        return self.each(self.value * factor, factor)

    def total(self) -> "Node":
        """The sum of each row, a column."""
        return Node(self.value.sum(axis=1, keepdims=True), (self, lambda g: g))


def scattered(shape: tuple[int, ...], place: Any, g: Any) -> Any:
    found = np.full(shape, ZERO, object)
    np.add.at(found, place, g)
    return found


def fitted(shape: tuple[int, ...], g: Any) -> Any:
    """A gradient in the shape of what it is of: summed over what was repeated, repeated over what was summed."""
    summed = tuple(axis for axis in (0, 1) if shape[axis] < g.shape[axis])
    return np.broadcast_to(g.sum(axis=summed, keepdims=True) if summed else g, shape)


def backward(ends: Iterable[tuple[Node, Any]]) -> None:
    """Leaves in every node behind the ends the gradient of Σ slope · end."""
    waiting = {}
    for node, slope in ends:
        node.gradient, waiting[node.order] = np.full(node.value.shape, slope), node
    while waiting:
        node = waiting.pop(max(waiting))
        for parent, back in node.links:
            passed = made(fitted(parent.value.shape, back(node.gradient)))
            parent.gradient = passed if parent.gradient is None else made(parent.gradient + passed)
            waiting[parent.order] = parent


def joined(parts: list[Node]) -> Node:
    """Matrices side by side."""
    ends = np.cumsum([0, *(part.value.shape[1] for part in parts)])
    slices = [slice(*pair) for pair in itertools.pairwise(ends)]
    return Node(
        np.concatenate([part.value for part in parts], axis=1),
        *((part, lambda g, place=place: g[:, place]) for part, place in zip(parts, slices, strict=True)),
    )


def logits(w: Mapping[str, Node], heads: int, tokens: list[int]) -> Node:
    """[T, V]: scores of what follows each token of a row."""
    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for layer in range(sum(name.endswith("ln_1.weight") for name in w)):
        x = x + attention(w, f"h.{layer}.attn", heads, normed(w, f"h.{layer}.ln_1", x))
        wide = affine(w, f"h.{layer}.mlp.c_fc", normed(w, f"h.{layer}.ln_2", x))
        x = x + affine(w, f"h.{layer}.mlp.c_proj", gelu(wide))
    return normed(w, "ln_f", x) @ w["wte.weight"].transposed()


def affine(w: Mapping[str, Node], name: str, x: Node) -> Node:
    matrix, offset = (w[f"{name}.{part}"] for part in ("weight", "bias"))
    return x @ matrix + offset


def normed(w: Mapping[str, Node], name: str, x: Node) -> Node:
    """Gain · (x - mean) / sqrt(variance + 1e-5) + bias, token by token."""
    share = ONE / x.value.shape[1]
    away = x + x.total().by(-share)
    variance = (away * away).total().by(share)
    shrink = ONE / sqrt(variance.value + EPSILON)
    return away * variance.each(shrink, -HALF * shrink**3) * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(w: Mapping[str, Node], name: str, heads: int, x: Node) -> Node:
    """In each head a token mixes the values up to its own in proportion to exp(query · key / sqrt(size of the head))."""
    fused = affine(w, f"{name}.c_attn", x)
    rows, size = len(x.value), x.value.shape[1] // heads
    past = ZERO_ONE[np.tri(rows, dtype=int)]
    mixed = []
    for head in range(heads):
        query, key, value = (fused[:, start + head * size :][:, :size] for start in range(0, 3 * size * heads, size * heads))
        scores = (query @ key.transposed()).by(ONE / Decimal(size).sqrt())
        pull = past * exp(scores.value * past)
        pulls = scores.each(pull, pull)
        whole = pulls.total()
        mixed.append(pulls * whole.each(ONE / whole.value, -ONE / whole.value**2) @ value)
    return affine(w, f"{name}.c_proj", joined(mixed))


def gelu(x: Node) -> Node:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the tanh as 1 - 2/(e^2u + 1)."""
    inner = (x + (x * x * x).by(CUBIC)).by((TWO / PI).sqrt())
    bent = ONE - TWO / (exp(TWO * inner.value) + ONE)
    tanh = inner.each(bent, ONE - bent * bent)
    return (x * tanh.each(tanh.value + ONE, ONE)).by(HALF)


def response_logp(w: Mapping[str, Node], heads: int, prompt: list[int], response: list[int]) -> Node:
    """log pi(y|x), [1, 1]: each token's score less the log of the sum of all exponentials, at the position before it."""
    scores = logits(w, heads, [*prompt, *response])[len(prompt) - 1 : -1]
    asked = Node(ZERO_ONE[np.eye(scores.value.shape[1], dtype=int)[response]])
    powers = exp(scores.value)
    whole = scores.each(powers, powers).total()
    by_token = (scores * asked).total() + whole.each(ln(whole.value), ONE / whole.value).by(-ONE)
    return by_token.transposed().total()
