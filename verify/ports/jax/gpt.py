"""Levels 3 and 4: a GPT-2 as a pure function of its weights, the loss of a batch, and AdamW.

The model is written for one row, mapped over rows by `vmap` and compiled. Rows are filled up to as many tokens as the model has
positions, and batches to a power of two of rows, so that one program serves a model whatever it is asked. A row begins at the
left, where place and position are one; what follows its end is never attended to. The losses on top are the pure functions of
level 1, op by op, all of it under one `value_and_grad`: so no method and no size of a batch is compiled anew.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax, nn
from jax import numpy as jnp

from . import losses
from .losses import Outputs
from .sequences import response_logp

Weights = Mapping[str, Array]  # names of GPT2LMHeadModel, without "transformer."
Batch = Mapping[str, Any]
Ids = Sequence[Sequence[int]]  # ragged: token ids of each example

NO_REFERENCE, LENGTHS = ("orpo", "simpo"), ("orpo", "simpo", "ipo_length_normalized")
SIDES = {"chosen_ids": "chosen_", "rejected_ids": "rejected_", "completion_ids": ""}


def linear(weights: Weights, name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def layer_norm(weights: Weights, name: str, x: Array) -> Array:
    normal = (x - x.mean(axis=-1, keepdims=True)) / jnp.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(weights: Weights, name: str, n_head: int, x: Array) -> Array:
    """[T,D] to [T,D]."""
    query, key, value = linear(weights, f"{name}.c_attn", x).reshape(len(x), 3, n_head, -1).transpose(1, 2, 0, 3)
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    past = jnp.tri(len(x), dtype=bool)
    mixed = nn.softmax(jnp.where(past, scores, -jnp.inf)) @ value
    return linear(weights, f"{name}.c_proj", mixed.transpose(1, 0, 2).reshape(x.shape))


def gpt(weights: Weights, n_head: int, tokens: Array) -> Array:
    """Tokens [T] to the logits [T,V] of what follows each."""
    x = weights["wte.weight"][tokens] + weights["wpe.weight"][: len(tokens)]
    for layer in range(sum(name.endswith("ln_1.weight") for name in weights)):
        h = f"h.{layer}"
        x = x + attention(weights, f"{h}.attn", n_head, layer_norm(weights, f"{h}.ln_1", x))
        wide = linear(weights, f"{h}.mlp.c_fc", layer_norm(weights, f"{h}.ln_2", x))
        x = x + linear(weights, f"{h}.mlp.c_proj", nn.gelu(wide, approximate=True))
    return layer_norm(weights, "ln_f", x) @ weights["wte.weight"].T


@partial(jax.jit, static_argnames="n_head")
def logits_of(weights: Weights, n_head: int, tokens: Array) -> Array:
    """[R,T] to [R,T,V]."""
    return jax.vmap(partial(gpt, weights, n_head))(tokens)


@partial(jax.jit, static_argnames="n_head")
def scores_of(weights: Weights, n_head: int, tokens: Array, response_mask: Array) -> Array:
    """The log-probability of each row's response: [R,T] and [R,T] to [R]."""
    return jax.vmap(response_logp)(logits_of(weights, n_head, tokens), tokens, response_mask)


class Rows(NamedTuple):
    """[R,T] tokens, which of them are of responses, and the lengths [N] of these; N of the rows are used."""

    tokens: np.ndarray
    response_mask: np.ndarray
    lengths: np.ndarray


def filled(rows: Ids, context: int) -> np.ndarray:
    """[R,context], R a power of two and at least 4."""
    tokens = np.zeros((max(4, 1 << (len(rows) - 1).bit_length()), context), np.int64)
    for place, row in zip(tokens, rows, strict=False):
        place[: len(row)] = row
    return tokens


class Task(NamedTuple):
    """What all batches of a request have in common. `context` is how many positions the model has."""

    reference: Weights
    n_head: int
    method: str
    hyperparameters: Mapping[str, float]
    max_length: int
    context: int

    def rows(self, prompts: Ids, responses: Ids) -> Rows:
        """Each response after its prompt, cut at max_length. ValueError where nothing of one is left, or too much."""
        whole = [[*prompt, *response][: self.max_length] for prompt, response in zip(prompts, responses, strict=True)]
        starts, ends = (np.array([[len(row)] for row in rows]) for rows in (prompts, whole))
        if not np.all((starts < ends) & (ends <= self.context)):
            allowed = f"leave a token of every response, and no more than {self.context} with its prompt"
            raise ValueError(f"max_length must {allowed}, got {self.max_length}")
        tokens, place = filled(whole, self.context), np.arange(self.context)
        mask = np.zeros(tokens.shape, bool)
        mask[: len(whole)] = (starts <= place) & (place < ends)
        return Rows(tokens, mask, (ends - starts)[:, 0])

    def score(self, weights: Weights, rows: Rows) -> Array:
        """[N] log-probabilities."""
        return scores_of(weights, self.n_head, rows.tokens, rows.response_mask)[: len(rows.lengths)]

    def loss(self, weights: Weights, batch: Batch) -> tuple[Array, Outputs]:
        """The mean over the examples; and the log-probabilities [N] of the responses, by output."""
        arguments, scored = dict[str, Any](self.hyperparameters), Outputs()
        for name, side in ((name, side) for name, side in SIDES.items() if name in batch):
            rows = self.rows(batch["prompt_ids"], batch[name])
            scored[name.replace("ids", "logps")] = arguments[f"policy_{side}logps"] = self.score(weights, rows)
            if self.method not in NO_REFERENCE:
                arguments[f"reference_{side}logps"] = self.score(self.reference, rows)
            if self.method in LENGTHS:
                arguments[f"{side}lengths"] = rows.lengths
        if self.method == "kto":
            arguments |= {"desirable": np.array(batch["desirable"]), "reference_point": self.reference_point(weights, batch)}
        return getattr(losses, self.method)(**arguments)["losses"].mean(), scored

    def reference_point(self, weights: Weights, batch: Batch) -> Array:
        """From each completion after the next prompt of the batch, cyclically; a constant."""
        first, *rest = batch["prompt_ids"]
        rows = self.rows([*rest, first], batch["completion_ids"])
        scored = [self.score(w, rows) for w in (weights, self.reference)]
        return lax.stop_gradient(losses.kto_reference_point(*scored)["reference_point"])

    def step(self, weights: Weights, batch: Batch) -> tuple[tuple[Array, Outputs], Weights]:
        """What `loss` returns, and the gradient of the loss."""
        return jax.value_and_grad(self.loss, has_aux=True)(weights, batch)


Moments = tuple[Weights, Weights]


@jax.jit
def adamw(weights: Weights, grads: Weights, moments: Moments, step: int, rates: Mapping[str, Any]) -> tuple[Weights, Moments]:
    """Weights and moments after a step, the first of which is 1. Decay is decoupled, times lr, and on every tensor."""
    b1, b2 = rates["betas"]
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, moments[0], grads)
    second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, moments[1], grads)

    def moved(w: Array, m: Array, v: Array) -> Array:
        push = m / (1 - b1**step) / (jnp.sqrt(v / (1 - b2**step)) + rates["eps"])
        return w - rates["lr"] * (push + rates["weight_decay"] * w)

    return jax.tree.map(moved, weights, first, second), (first, second)
