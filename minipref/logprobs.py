"""From logits to the log-probability of a response, with the backward pass written out.

    ℓ_t             = log softmax(z_{t-1})[y_t]         position t - 1 predicts token t
    log π(y|x)      = Σ_t ℓ_t                           in nats, over response positions only
    ∂log π/∂z_t,v   = 1[v = y_{t+1}] - softmax(z_t)_v   0 where position t predicts no response token

With a linear head, z = h Wᵀ:

    ∂log π/∂h_t = (∂log π/∂z_t) W
    ∂log π/∂W   = Σ_t (∂log π/∂z_t)ᵀ h_t

The head of a language model is its widest layer. `linear_sequence_logps` computes logits for a chunk of predicting positions
at a time and drops them, so that (tokens x vocabulary) numbers never exist, forward or backward.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .arrays import Array, concat, floats_like, log_softmax, logsumexp, one_hot_like, pick, softmax, sum_over, where, zeros_like
from .contract import B, D, Floats, Integers, ResponseMask, Rule, T, Tokens, V, operation

CHUNK = 1024  # predicting positions whose logits exist at once


class SequenceLogps(NamedTuple):
    logps: Floats[B]
    lengths: Integers[B]
    grad_logits: Floats[B, T, V]


class LinearSequenceLogps(NamedTuple):
    logps: Floats[B]
    lengths: Integers[B]
    grad_hidden: Floats[B, T, D]
    grad_weight: Floats[V, D]


RESPONSE_RULES = [
    Rule("response_mask", "must be false at position 0, which nothing predicts", lambda response_mask: ~response_mask[:, :1]),
    Rule("response_mask", "must be true somewhere in every row", lambda response_mask: response_mask.any(axis=1)),
]


def _in_vocabulary(tokens: Array, response_mask: Array, size: int) -> Array:
    return ~response_mask | ((0 <= tokens) & (tokens < size))


@operation(
    level=2,
    source="arXiv:2305.18290v3 section 4: log π(y|x), the sum over response tokens",
    rules=[
        *RESPONSE_RULES,
        Rule(
            "tokens",
            "must lie in the vocabulary of logits",
            lambda tokens, response_mask, logits: _in_vocabulary(tokens, response_mask, logits.shape[2]),
        ),
    ],
)
def sequence_logps(logits: Floats[B, T, V], tokens: Tokens[B, T], response_mask: ResponseMask[B, T]) -> SequenceLogps:
    """Log-probability of each row's response, in nats, its length in tokens, and the gradient of their sum."""
    predicts = response_mask[:, 1:]
    logits_that_count = where(predicts[..., None], logits[:, :-1], 0.0)
    targets = where(predicts, tokens[:, 1:], 0)

    logps = sum_over(where(predicts, pick(log_softmax(logits_that_count), targets), 0.0), axis=1)

    slopes = one_hot_like(logits_that_count, targets) - softmax(logits_that_count)
    grad_logits = concat([where(predicts[..., None], slopes, 0.0), zeros_like(logits[:, :1])], axis=1)
    return SequenceLogps(logps, sum_over(response_mask, axis=1), grad_logits)


@operation(
    level=2,
    source="arXiv:2305.18290v3 section 4, with logits = hidden weightᵀ",
    rules=[
        *RESPONSE_RULES,
        Rule(
            "tokens",
            "must lie in the vocabulary of weight",
            lambda tokens, response_mask, weight: _in_vocabulary(tokens, response_mask, weight.shape[0]),
        ),
    ],
)
def linear_sequence_logps(
    hidden: Floats[B, T, D], weight: Floats[V, D], tokens: Tokens[B, T], response_mask: ResponseMask[B, T]
) -> LinearSequenceLogps:
    """`sequence_logps` of logits = hidden weightᵀ, holding at most (CHUNK x V) of them at a time."""
    rows, positions, _ = hidden.shape
    states, targets, counts = predicting_positions(hidden, tokens, response_mask)

    token_logps = linear_token_logps(states, weight, targets)
    logps = sum_over(where(counts, token_logps, 0.0).reshape(rows, positions - 1), axis=1)

    grad_states, grad_weight = linear_token_grads(states, weight, targets, floats_like(counts, states))
    grad_hidden = concat([grad_states.reshape(hidden[:, 1:].shape), zeros_like(hidden[:, :1])], axis=1)
    return LinearSequenceLogps(logps, sum_over(response_mask, axis=1), grad_hidden, grad_weight)


def predicting_positions(hidden: Array, tokens: Array, response_mask: Array) -> tuple[Array, Array, Array]:
    """Every position but the last of each row, in one list whose size compilers can see: states [M, D], the token that each
    predicts [M], and whether that token is of the response [M]. States and tokens that do not count are 0."""
    counts = response_mask[:, 1:].reshape(-1)
    states = where(counts[:, None], hidden[:, :-1].reshape(-1, hidden.shape[2]), 0.0)
    return states, where(counts, tokens[:, 1:].reshape(-1), 0), counts


def linear_token_logps(states: Array, weight: Array, targets: Array, chunk: int = CHUNK) -> Array:
    """ℓ [M] of the target tokens [M] under the head weight [V, D] on states [M, D]."""
    parts = ((h @ weight.T, y) for h, y in _chunks(states, targets, chunk=chunk))
    return concat([pick(logits, y) - logsumexp(logits) for logits, y in parts], axis=0)


def linear_token_grads(
    states: Array, weight: Array, targets: Array, cotangents: Array, chunk: int = CHUNK
) -> tuple[Array, Array]:
    """Gradients [M, D] and [V, D] of Σ_m cotangents[m] ℓ[m]; the logits are computed once more, not kept."""
    grad_states, grad_weight = [], zeros_like(weight)
    for h, y, c in _chunks(states, targets, cotangents, chunk=chunk):
        logits = h @ weight.T
        slopes = c[:, None] * (one_hot_like(logits, y) - softmax(logits))
        grad_states.append(slopes @ weight)
        grad_weight += slopes.T @ h
    return concat(grad_states, axis=0), grad_weight


def _chunks(*arrays: Array, chunk: int) -> Iterator[list[Array]]:
    for start in range(0, max(arrays[0].shape[0], 1), chunk):
        yield [x[start : start + chunk] for x in arrays]
