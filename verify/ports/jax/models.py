"""Requests on whole models: weights by their path and batches as lists, checked; then a step or a run of `gpt`."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from .checks import NOT_NEGATIVE, Interval, check_array, check_scalar, is_whole, need, on_host
from .gpt import Batch, Task, Weights, adamw, filled, logits_of

HYPERPARAMETERS = {
    **dict.fromkeys(("dpo", "ipo", "ipo_length_normalized", "rso_hinge"), ("beta",)),
    **dict.fromkeys(("cdpo", "robust_dpo"), ("beta", "label_smoothing")),
    "kto": ("beta", "desirable_weight", "undesirable_weight"),
    "orpo": ("odds_weight",),
    "simpo": ("beta", "gamma"),
}
EPSILON: Interval = ("must lie in [1e-8, inf)", lambda x: 1e-8 <= x < math.inf)
RATES = {"lr": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE, "eps": EPSILON}
PAIRS, THUMBS = ("prompt_ids", "chosen_ids", "rejected_ids"), ("prompt_ids", "completion_ids", "desirable")


def model(name: str, path: str, n_head: int) -> Weights:
    """The arrays of an .npz, whose width n_head divides. ValueError, naming the argument, where there are none."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            weights = {key: jnp.asarray(x) for key, x in stored.items()}
        width = weights["wte.weight"].shape[1]
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"{name} must be weights in an .npz, got {path}: {error}") from None
    need(is_whole(n_head, 1) and width % n_head == 0, "n_head", f"must be a whole number that divides {width}", n_head)
    return weights


def task(w: Weights, reference_weights: str, n_head: int, method: str, hyperparameters: Batch, max_length: int) -> Task:
    """What a request asks of every batch; w are the weights of its policy."""
    need(method in HYPERPARAMETERS, "method", f"must be one of {', '.join(HYPERPARAMETERS)}", method)
    given, due = sorted(hyperparameters), sorted(HYPERPARAMETERS[method])
    need(given == due, "hyperparameters", f"must be {', '.join(due)}", given)
    need(is_whole(max_length, 1), "max_length", "must be a whole number >= 1", max_length)
    numbers = {name: check_scalar(name, x) for name, x in hyperparameters.items()}
    reference = model("reference_weights", reference_weights, n_head)
    return Task(reference, n_head, method, numbers, max_length, len(w["wpe.weight"]))


def check_batch(asked: Task, batch: Batch, vocabulary: int) -> None:
    """ValueError unless there is one of everything, and of nothing else, for each example, and the model can take them all."""
    due = THUMBS if asked.method == "kto" else PAIRS
    need({*batch} == {*due}, "batch", f"must hold {', '.join(due)}", [*batch])
    sizes = {name: len(x) for name, x in batch.items()}
    need(len({*sizes.values()}) == 1 and sizes["prompt_ids"] > 0, "prompt_ids", "must be as many as all else, and some", sizes)
    for name in (name for name in due if name.endswith("_ids")):
        for ids in batch[name]:
            inside = len(ids) > 0 and all(is_whole(x, 0) and x < vocabulary for x in ids)
            need(inside, name, f"must hold a token in every example, and none beyond {vocabulary - 1}", ids)
        if name != "prompt_ids":
            asked.rows(batch["prompt_ids"], batch[name])
    if "desirable" in due:
        check_array("desirable", batch["desirable"], "N", {})


def row_logits(w: Weights, n_head: int, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """[B,T,V] where [B,T] is kept, wherever a row begins and ends; 0 elsewhere. ValueError for what the model cannot take."""
    (vocabulary, _), context, counts = w["wte.weight"].shape, len(w["wpe.weight"]), kept.sum(axis=1)
    need(np.all((1 <= counts) & (counts <= context)), "attention_mask", f"must be true 1 to {context} times a row", counts)
    need(np.all(~kept | (0 <= tokens) & (tokens < vocabulary)), "tokens", f"must not lie beyond {vocabulary - 1}", tokens)
    rows = [row[there].tolist() for row, there in zip(tokens, kept, strict=True)]
    found = np.asarray(logits_of(w, n_head, filled(rows, context)))
    logits = np.zeros((*tokens.shape, vocabulary), found.dtype)
    for place, there, row in zip(logits, kept, found, strict=False):
        place[there] = row[: there.sum()]
    return logits


def gpt_logits(*, weights: str, n_head: int, tokens: np.ndarray, attention_mask: np.ndarray) -> dict[str, Any]:
    sizes: dict[str, int] = {}
    tokens, kept = check_array("tokens", tokens, "BT", sizes), check_array("attention_mask", attention_mask, "BT", sizes)
    return dict(on_host({"logits": row_logits(model("weights", weights, n_head), n_head, tokens, kept)}))


def preference_step(*, weights: str, n_head: int, **asked: Any) -> dict[str, Any]:
    w, batch = model("weights", weights, n_head), {name: asked.pop(name) for name in {*PAIRS, *THUMBS} & asked.keys()}
    found = task(w, n_head=n_head, **asked)
    check_batch(found, batch, len(w["wte.weight"]))
    (loss, logps), grads = found.step(w, batch)
    return dict(on_host({"loss": loss, **logps})) | {"grads": dict(on_host(grads))}


def train(
    *,
    weights: str,
    n_head: int,
    batches: Sequence[Batch],
    betas: Sequence[float],
    steps: int,
    probe_tokens: np.ndarray,
    **asked: Any,
) -> dict[str, Any]:
    w, rates = model("weights", weights, n_head), {name: check_scalar(name, asked.pop(name), RATES) for name in RATES}
    need(len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "betas", "must be two numbers in [0, 1)", betas)
    need(is_whole(steps, 1), "steps", "must be a whole number >= 1", steps)
    need(len(batches) > 0, "batches", "must hold at least one batch", batches)
    probe, found = check_array("probe_tokens", probe_tokens, "BT", {}), task(w, n_head=n_head, **asked)
    row_logits(w, n_head, probe, np.ones_like(probe, bool))  # what is wrong with the probe should not wait for the run
    for batch in batches:
        check_batch(found, batch, len(w["wte.weight"]))
    losses, zeros = [], jax.tree.map(jnp.zeros_like, w)
    moments = zeros, zeros
    for step in range(steps):
        (loss, _), grads = found.step(w, batches[step % len(batches)])
        w, moments = adamw(w, grads, moments, step + 1, {**rates, "betas": tuple(betas)})
        losses.append(loss)
    return dict(on_host({"losses": jnp.stack(losses), "logits": row_logits(w, n_head, probe, np.ones_like(probe, bool))}))
