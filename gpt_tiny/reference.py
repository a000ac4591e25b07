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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .checkpoint import digest, read_arrays, write_arrays
from .lora import adapters_off
from .model import GPT
from .packed import Group, pack
from .rollouts import quiet

WAYS = ("cached", "copy", "offload", "lora")
Reference = Callable[[Sequence[Group]], Tensor]  # log-probabilities [N], in nats, by response
Held = Callable[[], AbstractContextManager[GPT]]  # the reference itself, for as long as it is asked
Key = tuple[tuple[int, ...], tuple[int, ...]]


def scored(model: GPT, groups: Sequence[Group]) -> Tensor:
    """Log-probabilities [N] of the responses, in nats, summed over tokens: without dropout, without a tape."""
    with quiet(model):
        return model.response_logps(pack(groups, model.config, model.wte.weight.device)).logps


def held(model: GPT, way: str) -> Held:
    """The model as it is now, for later: a frozen copy, one that waits in the host's memory, or itself without its adapters.

    ValueError for another way.
    """
    if way not in WAYS[1:]:
        raise ValueError(f"way must be one of {', '.join(WAYS[1:])}, got {way!r}")
    if way == "lora":
        return lambda: _without_adapters(model)
    frozen, device = copy.deepcopy(model).requires_grad_(False), model.wte.weight.device
    if way == "copy":
        return lambda: nullcontext(frozen)
    waiting = frozen.cpu()
    return lambda: _visiting(waiting, device)


@contextmanager
def _without_adapters(model: GPT) -> Iterator[GPT]:
    with adapters_off(model):
        yield model


@contextmanager
def _visiting(waiting: GPT, device: torch.device) -> Iterator[GPT]:
    try:
        yield waiting.to(device)
    finally:
        waiting.cpu()


def computed(model: GPT, way: str) -> Reference:
    """Answers by the model as it is now, computed when they are asked for."""
    holding = held(model, way)

    def answer(groups: Sequence[Group]) -> Tensor:
        with holding() as frozen:
            return scored(frozen, groups)

    return answer


def copied(model: GPT) -> Reference:
    """A frozen copy."""
    return computed(model, "copy")


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
