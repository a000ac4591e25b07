"""minipref on PyTorch tensors, on the device that the environment names in MINIPREF_DEVICE, or on the CPU.

Whole models are what gpt_tiny trains: its model on flat rows, the losses of `methods`, gradients by autograd and minipref's by
the bridge, PyTorch's AdamW.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import minipref
from gpt_tiny.methods import Objective, reference_point
from gpt_tiny.model import GPT
from gpt_tiny.model_by_hand import AdamW, Config
from gpt_tiny.packed import Group, Ids
from gpt_tiny.reference import scored
from gpt_tiny.steps_by_hand import Batch, check_batch, check_method, is_whole, learned_from
from minipref.arrays import to_numpy
from minipref.contract import Operation
from verify.weights import read

DEVICE = torch.device(os.environ.get("MINIPREF_DEVICE", "cpu"))
NAME, VERSION = f"minipref (PyTorch, {DEVICE})", minipref.__version__
warnings.filterwarnings("ignore", "The given NumPy array is not writable")


def on_tensors(operation: Operation[Any]) -> Callable[..., dict[str, np.ndarray]]:
    """The operation as a function of NumPy arrays that computes on tensors sharing their memory where the device allows."""

    def call(**arguments: Any) -> dict[str, np.ndarray]:
        tensors = {n: torch.from_numpy(x).to(DEVICE) if isinstance(x, np.ndarray) else x for n, x in arguments.items()}
        return {name: to_numpy(value) for name, value in operation(**tensors)._asdict().items()}

    return call


torch.zeros(1, device=DEVICE)  # a device that is not there is a broken start, not a failure of every operation
torch.optim.AdamW(GPT(Config(1, 1, 1, 1, 1)).parameters())  # imports, for seconds, what an answer should not wait for
globals().update({name: on_tensors(operation) for name, operation in minipref.REGISTRY.items()})


def loaded(path: str, n_head: int) -> GPT:
    """On the device, in the dtype of the weights."""
    weights = read(path)
    model = GPT(Config.of(weights, n_head)).to(DEVICE, torch.from_numpy(weights["wte.weight"]).dtype)
    model.load_weights(weights)
    return model


def logits_of(model: GPT, tokens: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    model.config.check_inputs(tokens, attention_mask)
    with torch.no_grad():
        return to_numpy(model(torch.from_numpy(tokens).to(DEVICE), torch.from_numpy(attention_mask).to(DEVICE)))


class Task(NamedTuple):
    """What all batches of a request have in common."""

    reference: GPT
    objective: Objective
    max_length: int

    def groups(self, prompts: list[Ids], *responses: list[Ids]) -> list[Group]:
        """Responses cut at their end; what is left empty is refused where groups are packed."""
        rows = zip(prompts, *responses, strict=True)
        return [(prompt, [ids[: max(0, self.max_length - len(prompt))] for ids in of]) for prompt, *of in rows]

    def loss(self, model: GPT, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the examples, in the tape; and the log-probabilities of the responses by output."""
        check_batch(batch, self.objective.method)
        prompts, learned = batch["prompt_ids"], learned_from(self.objective.method)
        responses = [name for name in learned if name.endswith("_ids")]
        groups = self.groups(prompts, *(batch[name] for name in responses))
        references = scored(self.reference, groups) if self.objective.needs_reference else None
        desirable, point = None, 0.0
        if "desirable" in learned:
            others = self.groups([*prompts[1:], prompts[0]], batch["completion_ids"])
            desirable = torch.from_numpy(np.asarray(batch["desirable"])).to(DEVICE)
            point = reference_point(scored(model, others), scored(self.reference, others))
        found = self.objective.loss(model, groups, references, desirable, point)
        columns = found.logps.reshape(len(prompts), -1).unbind(1)
        return found.total / len(prompts), {f"{name[:-4]}_logps": x for name, x in zip(responses, columns, strict=True)}


def task(reference_weights: str, n_head: int, method: str, hyperparameters: dict[str, float], max_length: int) -> Task:
    check_method(method, hyperparameters, max_length)
    return Task(loaded(reference_weights, n_head), Objective(method, hyperparameters), max_length)


def gpt_logits(weights: str, n_head: int, tokens: np.ndarray, attention_mask: np.ndarray) -> dict[str, Any]:
    return {"logits": logits_of(loaded(weights, n_head), tokens, attention_mask)}


def preference_step(weights: str, **asked: Any) -> dict[str, Any]:
    batch = {name: asked.pop(name) for name in [*asked] if name.endswith("_ids") or name == "desirable"}
    model = loaded(weights, asked["n_head"])
    loss, logps = task(**asked).loss(model, batch)
    loss.backward()
    grads = {name: to_numpy(p.grad) for name, p in model.named_parameters()}
    return {"loss": to_numpy(loss), "grads": grads, **{name: to_numpy(x) for name, x in logps.items()}}


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
    AdamW(lr, betas, eps, weight_decay)  # its checks: PyTorch takes an infinite rate, and any epsilon
    if not is_whole(steps, 1) or not batches:
        raise ValueError(f"steps must be a whole number >= 1 and batches at least one, got {steps!r} and {len(batches)}")
    model, found = loaded(weights, asked["n_head"]), task(**asked)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr, betas, eps, weight_decay), []
    for s in range(steps):
        optimizer.zero_grad()
        loss, _ = found.loss(model, batches[s % len(batches)])
        loss.backward()
        optimizer.step()
        losses.append(to_numpy(loss))
    return {"losses": np.array(losses), "logits": logits_of(model, probe_tokens, np.ones_like(probe_tokens, bool))}
