"""What a step costs, counted while it runs: multiply-adds of its matrix products, and the numbers it keeps alive.

Multiply-adds are half of the operations of PyTorch's FlopCounterMode. Attention counts as its products over the whole rectangle
of queries x keys, though a causal kernel skips a part of it: 2 products forward, 5 backward, where the scores are computed once
more. What is elementwise does not count. Elements are those of the floating-point tensors that the step makes, half precision
or not; a view makes none, and what a kernel takes and gives back inside is not seen.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


class Work(NamedTuple):
    multiply_adds: int
    peak_elements: int  # most alive at once, beyond what lived before the step
    largest: int  # elements of the largest tensor


def count(step: Callable[[], Any]) -> Work:
    """Run step once, and count what it does."""
    with Counter() as counter:
        step()
    return counter.work


class Counter:
    """Counts what runs in its context: `work`, so far."""

    def __init__(self) -> None:
        self._elements = _Elements()
        self._operations = FlopCounterMode(display=False, custom_mapping=_FORMULAS)

    def __enter__(self) -> "Counter":
        self._elements.__enter__()  # first, to be called last: with what composite operations are made of
        self._operations.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._operations.__exit__(*error)
        self._elements.__exit__(*error)

    @property
    def work(self) -> Work:
        elements = self._elements
        return Work(self._operations.get_total_flops() // 2, elements.peak, elements.largest)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _added_product(_: Any, left: Any, right: Any, **__: Any) -> int:
    return int(2 * left[0] * left[1] * right[1])


# What PyTorch 2.13 has no formula for: attention's kernel for CPUs, and a product that is added in place.
_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.addmm_: _added_product,
}


class _Elements(TorchDispatchMode):
    """Follows storages from the operation that makes them to the end of the last tensor that holds them."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, int] = {}  # elements by the address of a storage that lives, 0 where it lived before
        self.alive = self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _floats((args, kwargs)):
            self._meet(tensor, made=False)
        out = func(*args, **(kwargs or {}))
        for tensor in _floats(out):
            self._meet(tensor, made=True)
        return out

    def _meet(self, tensor: torch.Tensor, made: bool) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._made:
            return
        elements = storage.nbytes() // tensor.element_size() if made else 0
        self._made[storage._cdata] = elements
        weakref.finalize(storage, self._gone, storage._cdata).atexit = False
        self.alive += elements
        self.peak, self.largest = max(self.peak, self.alive), max(self.largest, elements)

    def _gone(self, address: int) -> None:
        self.alive -= self._made.pop(address)


def _floats(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
