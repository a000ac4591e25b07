"""Levels 3 and 4: a model's logits, one step of preference optimization, and a whole run, in decimals.

The condition of these answers is measured, not derived: all is computed again a few times while every weight and every number
on the way moves by 1e-20 of itself at random (see `network.rounding`). The scale of an output, or of each part of it that is
compared in norm, is its norm plus the largest distance that it moved, over 1e-20. Of a gradient that is exactly zero, such as
that of the keys' bias, the distance alone says what rounding makes of it.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from verify.oracle import offline
from verify.oracle.machine import NUDGE, Exact, bare, number
from verify.oracle.network import Node, backward, logits, made, response_logp, rounding, sqrt
from verify.oracle.numbers import ONE, ZERO, apart, branches, digits

VALUE_DIGITS, SLOPE_DIGITS, DRAWS = 50, 32, 3
APART = Decimal("1e-3")  # nearer to a tie than this the arithmetic of a whole network may part
NO_REFERENCE, LENGTHS = ("orpo", "simpo"), ("orpo", "simpo", "ipo_length_normalized")
SIDES = {"chosen_ids": "chosen_", "rejected_ids": "rejected_", "completion_ids": ""}

Inputs = dict[str, Any]
Arrays = dict[str, Any]  # of decimals by name
Nodes = dict[str, Node]


def answer(operation: Callable[..., Arrays], inputs: Inputs) -> dict[str, Exact]:
    """Exact outputs by name, tensors of a gradient apart: see `parts`. NearTie if a loss compares too near to a tie."""
    with apart(APART):
        with digits(VALUE_DIGITS):
            values = operation(**inputs)
        with digits(SLOPE_DIGITS):
            moved = []
            for draw in range(DRAWS):
                branches.keep()
                with rounding(draw):
                    moved.append(operation(**inputs))
            return {name: exact(name, x, [(y[name] - x) / NUDGE for y in moved]) for name, x in values.items()}


def exact(name: str, value: Any, slopes: list[Any]) -> Exact:
    """With the scale of every part: a logit's row, a whole tensor of the gradient, else every number."""
    kept = 0 if name.startswith("grads") else value.ndim - name.startswith("logits")
    axes = tuple(range(kept, value.ndim))
    norms = [sqrt(np.sum(x * x, axis=axes)) for x in (value, *slopes)]
    return Exact(value, np.asarray(norms[0] + np.maximum.reduce(norms[1:]), object), 1)


def parts(name: str, tensor: Any) -> Arrays:
    """What is compared by itself: a tensor of the gradient, or the query, key and value parts of the fused projection's."""
    if "c_attn" not in name:
        return {f"grads[{name}]": tensor}
    thirds = zip(("query", "key", "value"), np.split(tensor, 3, axis=-1), strict=True)
    return {f"grads[{name}, {part}]": third for part, third in thirds}


def decimals(weights: Arrays) -> Arrays:
    return {name: np.array([number(name, x) for x in w.flat], object).reshape(w.shape) for name, w in weights.items()}


def nodes(weights: Arrays) -> Nodes:
    return {name: Node(np.atleast_2d(w)) for name, w in weights.items()}


def gpt_logits(weights: Arrays, n_head: int, tokens: np.ndarray, attention_mask: np.ndarray) -> Arrays:
    """The logits of every token that there is, row after row, [tokens, V]."""
    w = nodes(decimals(weights))
    rows = [logits(w, n_head, row[kept].tolist()).value for row, kept in zip(tokens, attention_mask, strict=True)]
    return {"logits": np.concatenate(rows)}


def preference_step(weights: Arrays, reference_weights: Arrays, **inputs: Any) -> Arrays:
    """The mean loss of a batch, the parts of its gradient, and the log-probabilities of its responses."""
    loss, grads, logps = step(decimals(weights), nodes(decimals(reference_weights)), **inputs)
    tensors = [parts(name, grad) for name, grad in grads.items()]
    return {"loss": np.asarray(loss, object), **logps, **{name: part for tensor in tensors for name, part in tensor.items()}}


def step(weights: Arrays, reference: Nodes, prompt_ids: list[list[int]], **inputs: Any) -> tuple[Decimal, Arrays, Arrays]:
    """Example by example: its log-probabilities, the row of `offline` that they are arguments of, its loss and its slopes."""
    policy, size, method = nodes(weights), len(prompt_ids), inputs["method"]
    shared = {name: number(name, x) for name, x in inputs["hyperparameters"].items()}
    if method == "kto":
        shared["reference_point"] = reference_point([policy, reference], prompt_ids, inputs)
    losses, ends, logps = [], [], dict[str, list[Decimal]]()
    for n, prompt in enumerate(prompt_ids):
        cells: Inputs = shared | ({"desirable": bool(inputs["desirable"][n])} if method == "kto" else {})
        scored = []
        for side, name in ((side, name) for name, side in SIDES.items() if name in inputs):
            scored.append(logp(policy, prompt, inputs[name][n], inputs))
            cells[f"policy_{side}logps"] = scored[-1].value.item()
            if method not in NO_REFERENCE:
                cells[f"reference_{side}logps"] = logp(reference, prompt, inputs[name][n], inputs).value.item()
            if method in LENGTHS:
                cells[f"{side}lengths"] = Decimal(len(cut(prompt, inputs[name][n], inputs)))
            logps.setdefault(name.replace("ids", "logps"), []).append(scored[-1].value.item())
        loss, *slopes = bare(getattr(offline, method)(**cells))
        losses.append(made(loss))
        ends += [(node, made(slope / size)) for node, slope in zip(scored, slopes, strict=False)]
    backward(ends)
    grads = {name: node.gradient.reshape(weights[name].shape) for name, node in policy.items()}
    return made(sum(losses, ZERO) / size), grads, {name: np.array(x, object) for name, x in logps.items()}


def reference_point(models: list[Nodes], prompt_ids: list[list[int]], inputs: Inputs) -> Decimal:
    """Estimated on each completion after the prompt of the next example, after the last example the first."""
    mismatched = list(zip([*prompt_ids[1:], prompt_ids[0]], inputs["completion_ids"], strict=True))
    (estimate,) = offline.kto_reference_point(*([logp(w, *pair, inputs).value.item() for pair in mismatched] for w in models))
    return estimate


def cut(prompt: list[int], response: list[int], inputs: Inputs) -> list[int]:
    """What max_length leaves of a response: the end of prompt and response together is lost."""
    return response[: inputs["max_length"] - len(prompt)]


def logp(w: Nodes, prompt: list[int], response: list[int], inputs: Inputs) -> Node:
    return response_logp(w, inputs["n_head"], prompt, cut(prompt, response, inputs))


def train(
    weights: Arrays,
    reference_weights: Arrays,
    batches: list[Inputs],
    lr: float,
    betas: list[float],
    eps: float,
    weight_decay: float,
    steps: int,
    probe_tokens: np.ndarray,
    **inputs: Any,
) -> Arrays:
    """AdamW: arXiv:1711.05101v3 algorithm 2, the decay times lr as well, on every tensor; moments corrected for their start."""
    w, reference = decimals(weights), nodes(decimals(reference_weights))
    rate, decay, tiny, (b1, b2) = number("lr", lr), number("", weight_decay), number("eps", eps), map(Decimal, betas)
    mean, square = ({name: x * ZERO for name, x in w.items()} for _ in range(2))
    losses = []
    for t in range(1, steps + 1):
        loss, grads, _ = step(w, reference, **inputs, **batches[(t - 1) % len(batches)])
        losses.append(loss)
        for name, g in grads.items():
            mean[name] = made(b1 * mean[name] + (ONE - b1) * g)
            square[name] = made(b2 * square[name] + (ONE - b2) * g * g)
            pace = made(sqrt(square[name] / (ONE - b2**t))) + tiny
            w[name] = made(w[name] - rate * (decay * w[name] + made(mean[name] / (ONE - b1**t) / pace)))
    rows = [logits(nodes(w), inputs["n_head"], row.tolist()).value for row in probe_tokens]
    return {"losses": np.array(losses, object), "logits": np.array(rows, object)}
