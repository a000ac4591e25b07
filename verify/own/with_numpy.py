"""minipref on NumPy arrays; on whole models, the steps of gpt_tiny by hand."""

from functools import partial
from typing import Any

import numpy as np

import minipref
from gpt_tiny.model_by_hand import AdamW, Weights, forward
from gpt_tiny.steps_by_hand import Batch, Scorer, Step
from gpt_tiny.steps_by_hand import preference_step as taken
from gpt_tiny.steps_by_hand import train as trained
from verify.weights import read

NAME, VERSION = "minipref (NumPy)", minipref.__version__
globals().update(minipref.REGISTRY)


def gpt_logits(weights: str, n_head: int, tokens: np.ndarray, attention_mask: np.ndarray) -> dict[str, Any]:
    return {"logits": forward(read(weights), n_head, tokens, attention_mask)[0]}


def step(
    weights: Weights,
    batch: Batch,
    reference_weights: str,
    n_head: int,
    method: str,
    hyperparameters: dict[str, float],
    max_length: int,
) -> Step:
    policy, reference = (Scorer(w, n_head, max_length) for w in (weights, read(reference_weights)))
    return taken(policy, reference, method, hyperparameters, batch)


def preference_step(weights: str, **asked: Any) -> dict[str, Any]:
    batch = {name: asked.pop(name) for name in [*asked] if name.endswith("_ids") or name == "desirable"}
    loss, grads, logps = step(read(weights), batch, **asked)
    return {"loss": loss, "grads": grads, **logps}


def train(
    weights: str,
    batches: list[Batch],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    steps: int,
    probe_tokens: np.ndarray,
    **asked: Any,
) -> dict[str, Any]:
    losses, after = trained(read(weights), partial(step, **asked), batches, AdamW(lr, betas, eps, weight_decay), steps)
    return {"losses": losses, "logits": forward(after, asked["n_head"], probe_tokens, np.ones_like(probe_tokens, bool))[0]}
