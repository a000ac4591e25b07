"""Log-probabilities under the reference: the model that training must not stray from, as it was before the first step.

    cached    every one that the run will ask for is computed once, before it, and kept in a file; no second model is held
    copy      a frozen copy answers in every step
    offload   the same, but its weights are on the device only while it answers
    lora      the network itself with its adapters switched off

Whichever it is, it answers without dropout and without a gradient. The file of a cache has the hash of weights, rows in their
batches, and precision: where one of them is another, so is the cache.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .checkpoint import digest, read_arrays, write_arrays
from .lora import adapters_off
from .model import GPT
from .packed import Group, pack

WAYS = ("cached", "copy", "offload", "lora")
Reference = Callable[[Sequence[Group]], Tensor]  # log-probabilities [N], in nats, by response
Key = tuple[tuple[int, ...], tuple[int, ...]]


def scored(model: GPT, groups: Sequence[Group]) -> Tensor:
    """Log-probabilities [N] of the responses, in nats, summed over tokens: without dropout, without a tape."""
    training = model.training
    with torch.no_grad():
        try:
            return model.eval().response_logps(pack(groups, model.config, model.wte.weight.device)).logps
        finally:
            model.train(training)


def copied(model: GPT) -> Reference:
    """A frozen copy."""
    frozen = copy.deepcopy(model).requires_grad_(False)
    return lambda groups: scored(frozen, groups)


def offloaded(model: GPT) -> Reference:
    """A frozen copy that waits in the host's memory."""
    frozen, device = copy.deepcopy(model).requires_grad_(False).cpu(), model.wte.weight.device

    def answer(groups: Sequence[Group]) -> Tensor:
        try:
            return scored(frozen.to(device), groups)
        finally:
            frozen.cpu()

    return answer


def without_adapters(model: GPT) -> Reference:
    """The model itself, as it is without what has been learned."""

    def answer(groups: Sequence[Group]) -> Tensor:
        with adapters_off(model):
            return scored(model, groups)

    return answer


def cached(model: GPT, batches: Iterable[Sequence[Group]], path: Path, precision: str) -> Reference:
    """A table of what batch after batch asks for, read from the file if that is of the same model, batches and precision."""
    batches = list(batches)
    key = digest({"weights": model.weights(), "batches": batches, "precision": precision})
    arrays = read_arrays(path) if path.exists() else {}
    if str(arrays.get("key")) != key:
        progress = tqdm(list(_new(batches)), "reference", unit="batch", leave=False, disable=None)
        arrays = {"key": np.array(key), "logps": np.concatenate([scored(model, new).cpu().numpy() for new in progress])}
        write_arrays(path, arrays)
    keys = [key for new in _new(batches) for key in _keys(new)]
    table = dict(zip(keys, arrays["logps"].tolist(), strict=True))
    like = model.wte.weight.detach()
    return lambda groups: like.new_tensor([table[key] for key in _keys(groups)])


def _new(batches: Iterable[Sequence[Group]]) -> Iterator[list[Group]]:
    """What in each batch no batch before it asked, in the company in which training will ask it first."""
    known: set[Key] = set()
    for batch in batches:
        new = [group for group in batch if not known.issuperset(_keys([group]))]
        known.update(_keys(new))
        if new:
            yield new


def _keys(groups: Sequence[Group]) -> list[Key]:
    return [(tuple(prompt), tuple(response)) for prompt, responses in groups for response in responses]
