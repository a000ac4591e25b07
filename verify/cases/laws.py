"""Laws that tie one request to another: a permuted batch, a split one, polluted masks, masked positions taken out.

Pure functions from inputs to other inputs, and what they do to the answers. Which operation a law applies to is read from
the dimensions of its contract.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verify.contract import Contract, Input

Inputs = dict[str, Any]


def has_rows(argument: Any) -> bool:
    """Whether an input or output has one entry, or one row of entries, an example."""
    return argument.dims[:1] in (("N",), ("B",))


def keeps_rows(contract: Contract) -> bool:
    """Whether every output has a row of its own for every example: then `permuted` and `parts` apply."""
    return all(has_rows(output) for output in contract.outputs.values())


def ignores_masked(contract: Contract) -> bool:
    """Whether something is masked: then `polluted` applies, and the answers stay."""
    return contract.mask is not None


def allows_removal(contract: Contract) -> bool:
    """Whether masked positions can be taken out row by row: then `removed` applies."""
    return ignores_masked(contract) and not contract.mask_is_shifted and keeps_rows(contract)


def taken(contract: Contract, inputs: Inputs, rows: Any) -> Inputs:
    """The given rows of a batch, an index or a slice of the first axis."""
    return {name: x[rows] if has_rows(contract.inputs[name]) else x for name, x in inputs.items()}


def row_count(contract: Contract, inputs: Inputs) -> int:
    return next(len(inputs[name]) for name, argument in contract.inputs.items() if has_rows(argument))


def permuted(contract: Contract, inputs: Inputs, rng: np.random.Generator) -> tuple[Inputs, np.ndarray]:
    """A batch in another order, and the order: its answers are `answers[order]`."""
    order = rng.permutation(row_count(contract, inputs))
    return taken(contract, inputs, order), order


def parts(contract: Contract, inputs: Inputs) -> list[Inputs]:
    """Every row as a batch of its own; their answers, one after the other, are the answers."""
    return [taken(contract, inputs, slice(n, n + 1)) for n in range(row_count(contract, inputs))]


def counts(contract: Contract, argument: Input, inputs: Inputs) -> np.ndarray:
    """Where an input's entries count, in its own shape.

    Masked positions do not, nor, where tokens are masked, the logits or hidden states at t that predict no token of the
    response at t + 1; nor is a row's one number looked at where all of its row is masked.
    """
    shape = np.shape(inputs[argument.name])
    if contract.mask is None or argument.dims[:1] != ("B",) or argument.name == contract.mask:
        return np.ones(shape, bool)
    kept = inputs[contract.mask]
    if contract.mask_is_shifted and argument.kind == "float":
        kept = np.concatenate([kept[:, 1:], np.zeros_like(kept[:, :1])], axis=1)
    if len(shape) == 1:
        kept = kept.any(axis=1)
    return np.broadcast_to(kept.reshape(kept.shape + (1,) * (len(shape) - kept.ndim)), shape)


def polluted(
    contract: Contract, inputs: Inputs, rng: np.random.Generator, junk: Sequence[float] = (np.nan, np.inf, -np.inf, 1e30)
) -> Inputs:
    """The same request with junk where nothing counts, and tokens there that no vocabulary has."""
    found = dict(inputs)
    for name, argument in contract.inputs.items():
        if argument.dims and argument.name != contract.mask:
            kept = counts(contract, argument, inputs)
            choices = np.array(junk) if argument.kind == "float" else np.array([-100, 10**6])
            found[name] = np.where(kept, inputs[name], rng.choice(choices, kept.shape))
    return found


def removed(contract: Contract, inputs: Inputs) -> Iterator[tuple[int, Inputs]]:
    """Each row that has a true position, alone and without its masked ones. The answers to row n are
    `answers[n][mask[n]]`, in a batch of one."""
    for n, row in enumerate(parts(contract, inputs)):
        kept = row[str(contract.mask)][0]
        positional = {name for name, argument in contract.inputs.items() if argument.dims[:2] == ("B", "T")}
        if kept.any():
            yield n, {name: x[:, kept] if name in positional else x for name, x in row.items()}
