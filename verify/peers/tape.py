"""What the adapters share: NumPy in, a library's loss on PyTorch's tape, NumPy out. No formula is here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
Arrays = dict[str, Array]
Operation = Callable[..., Arrays]

PAIR = ("losses", "grad_policy_chosen_logps", "grad_policy_rejected_logps")
REWARDED = (*PAIR, "chosen_rewards", "rejected_rewards")


def one_by_one(names: tuple[str, ...], example: Callable[..., Any], leaves: Array, *others: Array) -> Arrays:
    """Named arrays [N] of N examples, one a call: losses, their slopes in the k leaves of an example, what was logged.

    `example` takes a row of the leaves [N,k], to differentiate by, and a row of each other; it returns the loss and the logged.
    """
    rows = []
    for numbers, *rest in zip(leaves, *others, strict=True):
        leaf = torch.tensor(numbers, requires_grad=True)
        loss, *logged = example(leaf, *rest)
        slopes = torch.autograd.grad(loss, leaf)[0]
        rows.append([x.item() if isinstance(x, Tensor) else float(x) for x in (loss, *slopes, *logged)])
    table = np.array(rows, leaves.dtype).reshape(-1, len(names))
    return {name: table[:, column].copy() for column, name in enumerate(names)}


def sides(name: str, inputs: Arrays) -> Array:
    """What the pairs' chosen and rejected responses have by this name, [N,2]."""
    return np.stack([inputs[name.format(side)] for side in ("chosen", "rejected")], axis=1)


def rewarded(loss: Callable[..., Any], pairs: Arrays) -> Arrays:
    """Pair outputs of a loss that takes the four logps, [1] each, and returns its value and both rewards."""

    def example(policy: Tensor, reference: Array) -> Any:
        return loss(*policy.split(1), *torch.tensor(reference).split(1))

    return one_by_one(REWARDED, example, sides("policy_{}_logps", pairs), sides("reference_{}_logps", pairs))


def token_by_token(names: tuple[str, ...], token: Callable[..., Any], *tokens: Array) -> Arrays:
    """Named arrays [B,T], one token a call, which takes the first of the given arrays to differentiate by and the others."""
    table = np.stack(tokens, axis=-1).reshape(-1, len(tokens))
    flat = one_by_one(names, lambda leaf, rest: token(leaf, *torch.tensor(rest)[:, None]), table[:, :1], table[:, 1:])
    return {name: values.reshape(tokens[0].shape) for name, values in flat.items()}


def surrogate(token: Callable[..., Any], *tokens: Array) -> Arrays:
    """Outputs of a clipped surrogate which returns the loss of one token, and the share of tokens that were clipped."""
    found = token_by_token(("token_losses", "grad_logps", "clipped"), token, *tokens)
    return found | {"clipped": found["clipped"] > 0}


def spread(advantages: Array, mask: Array) -> Array:
    """Advantages [B] of sequences as those of their tokens, [B,T]."""
    return np.repeat(advantages[:, None], mask.shape[1], axis=1)


def where_counted(mask: Array, **outputs: Tensor) -> Arrays:
    """Outputs [B,T] with 0 where the mask is false, for libraries that leave it to their losses not to look there."""
    return {name: np.where(mask, values, 0) for name, values in numpy(**outputs).items()}


def differentiated(output: str, slope: str, loss: Callable[[Tensor], Tensor], values: Array) -> Arrays:
    """A loss of one array by the name `output`, in the array's precision, and its gradient by the name `slope`."""
    tensor = torch.tensor(values, requires_grad=True)
    found = loss(tensor).to(tensor.dtype)
    return numpy(**{output: found, slope: torch.autograd.grad(found.sum(), tensor)[0]})


def labels(tokens: Array, response_mask: Array) -> Tensor:
    """Tokens where the mask is true, -100 elsewhere."""
    marked = np.full(response_mask.shape, -100)
    marked[response_mask] = tokens[response_mask]
    return torch.tensor(marked)


def numpy(**outputs: Tensor) -> Arrays:
    return {name: values.detach().numpy() for name, values in outputs.items()}
