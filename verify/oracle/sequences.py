"""Level 2, sequences: log-probabilities of responses from logits, token by token.

A token outside the response is never looked at, nor are the logits that predict it. Tokens share no logits,
so the condition sums of a row's log-probability add up over its tokens; they do share the weights of a linear
head, whose slopes are added over tokens before magnitudes are taken.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from verify.oracle.machine import Exact, Outputs, Sized, cell, measure, scale
from verify.oracle.numbers import ONE, ZERO, largest, log_softmax


class Token(NamedTuple):
    """A response token: its row, the position t - 1 that predicts it, and which of the V tokens it is."""

    row: int
    place: int
    sampled: int


def response(tokens: np.ndarray, response_mask: np.ndarray) -> Iterator[Token]:
    for b, t in np.argwhere(response_mask):
        yield Token(int(b), int(t) - 1, int(tokens[b, t]))


def token(logits: list[Decimal], sampled: int) -> Outputs:
    """log softmax(logits)[sampled], and its gradient onehot - softmax.

    S = 1 + max |logit|, for the gradient times what the chain rule passes on: all to the sampled logit, p_v
    to others. The sampled logit's gradient is the sum of the other probabilities, not a difference from 1.
    """
    logps, _ = log_softmax(logits)
    size = ONE + largest(logits)
    chances = [logp.exp() for logp in logps]
    grads = [Sized(-p, size * p) for p in chances]
    grads[sampled] = Sized(sum(chances[:sampled] + chances[sampled + 1 :], ZERO), size)
    return Sized(logps[sampled], size), grads


def linear_token(hidden: list[Decimal], weight: list[Decimal], sampled: int) -> Outputs:
    """`token` for logits h w^T, w given row after row: log-prob, gradient in h [D], gradient in w [V D].

    S = 1 + max over v of sum_d |h_d w_vd|, passed on through |w| to h, and through |h| to w.
    """
    width = len(hidden)
    rows = [weight[i : i + width] for i in range(0, len(weight), width)]
    products = [[h * w for h, w in zip(hidden, row, strict=True)] for row in rows]
    logp, grads = token([sum(row, ZERO) for row in products], sampled)
    size = ONE + largest(sum(map(abs, row), ZERO) for row in products)
    factors = [ONE if v == sampled else abs(grad.value) for v, grad in enumerate(grads)]
    to_hidden = [
        Sized(
            sum((grad.value * row[d] for grad, row in zip(grads, rows, strict=True)), ZERO),
            size * sum((factor * abs(row[d]) for factor, row in zip(factors, rows, strict=True)), ZERO),
        )
        for d in range(width)
    ]
    passed = list(zip(grads, factors, strict=True))
    to_weight = [Sized(grad.value * h, size * factor * abs(h)) for grad, factor in passed for h in hidden]
    return Sized(logp.value, size), to_hidden, to_weight


class Total:
    """An array of sums over tokens: values, S, and, apart for each number they depend on, slopes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.value, self.size, self.slope = (np.full(shape, ZERO, object) for _ in range(3))
        self.shared: dict[Any, Any] = {}

    def add(self, place: Any, values: Any, sizes: Any, slopes: dict[Any, Any]) -> None:
        """Adds a token's share at a place; those in "weight" wait for other tokens', the rest are its own."""
        self.value[place] += values
        self.size[place] += sizes
        for (name, i), slope in slopes.items():
            if name == "weight":
                self.shared.setdefault(i, np.full(self.value.shape, ZERO, object))[place] += slope
            else:
                self.slope[place] += abs(slope)

    def exact(self, terms: int) -> Exact:
        slope = sum(map(abs, self.shared.values()), self.slope)
        scales = map(scale, self.value.flat, self.size.flat, ([x] for x in slope.flat))
        return Exact(self.value, np.array(list(scales), object).reshape(self.value.shape), terms)


def accumulate(totals: list[Total], places: list[Any], row: Any, cells: dict[str, Any]) -> None:
    """Measures one token and adds its outputs, one after the other, to the totals at the places."""
    found = measure(row, cells)
    start = 0
    for total, place in zip(totals, places, strict=True):
        shape = np.shape(total.value[place])
        chunk = slice(start, start + int(np.prod(shape)))
        slopes = {key: part(x, chunk, shape) for key, x in found.slopes.items()}
        total.add(place, part(found.values, chunk, shape), part(found.sizes, chunk, shape), slopes)
        start = chunk.stop


def part(numbers: list[Decimal], chunk: slice, shape: tuple[int, ...]) -> Any:
    return np.array(numbers[chunk], object).reshape(shape)[()]


def lengths(response_mask: np.ndarray) -> Exact:
    counts = response_mask.sum(axis=1, dtype=np.int64)
    return Exact(counts, np.full(counts.shape, ZERO, object), 1)


def sequence_logps(logits: np.ndarray, tokens: np.ndarray, response_mask: np.ndarray) -> dict[str, Exact]:
    """log pi(y|x) = sum of the response tokens' log softmax, and its gradient in the logits."""
    logps, grads = Total(logits.shape[:1]), Total(logits.shape)
    for b, t, sampled in response(tokens, response_mask):
        cells = {"logits": cell("logits", logits[b, t]), "sampled": sampled}
        accumulate([logps, grads], [b, (b, t)], token, cells)
    vocabulary, longest = logits.shape[-1], int(response_mask.sum(axis=1).max(initial=1))
    return {
        "logps": logps.exact(vocabulary + longest),
        "lengths": lengths(response_mask),
        "grad_logits": grads.exact(vocabulary),
    }


def linear_sequence_logps(
    hidden: np.ndarray, weight: np.ndarray, tokens: np.ndarray, response_mask: np.ndarray
) -> dict[str, Exact]:
    """`sequence_logps` as if logits = hidden weight^T; the gradient in the weight sums over the batch."""
    totals = [Total(hidden.shape[:1]), Total(hidden.shape), Total(weight.shape)]
    head = cell("weight", weight.reshape(-1))
    for b, t, sampled in response(tokens, response_mask):
        cells = {"hidden": cell("hidden", hidden[b, t]), "weight": head, "sampled": sampled}
        accumulate(totals, [b, (b, t), ...], linear_token, cells)
    counts = response_mask.sum(axis=1)
    inner = sum(weight.shape)
    return {
        "logps": totals[0].exact(inner + int(counts.max(initial=1))),
        "lengths": lengths(response_mask),
        "grad_hidden": totals[1].exact(inner),
        "grad_weight": totals[2].exact(inner + int(counts.sum())),
    }
