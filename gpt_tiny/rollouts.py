"""Responses as padded rows, and what a network says of each of their tokens: what methods that sample learn from.

    prompt | response | padding          positions count from the prompt's first token

Numbers by token are [N, T]: column t is the t-th token of a response, however long its prompt is. Where the mask is false there
is no token, and they are 0. Log-probabilities are in nats, those of softmax(logits / temperature): at the temperature of
sampling they are of the policy that was sampled from, which is another one than at temperature 1.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from minipref.autograd import token_logps

from .model import GPT
from .packed import Group


class Rows(NamedTuple):
    """N responses, each behind its prompt."""

    tokens: Tensor  # [N, L]
    attention_mask: Tensor  # [N, L]
    predicting: Tensor  # [N, T], by response token the place in its row that predicts it
    targets: Tensor  # [N, T]
    mask: Tensor  # [N, T]

    def of(self, chosen: slice) -> "Rows":
        """Some of them."""
        return Rows(*(x[chosen] for x in self))


def layout(groups: Sequence[Group], device: torch.device | str | None = None) -> Rows:
    """Every response behind its prompt, in the order of the groups. ValueError for an empty prompt or response, or none."""
    rows = [(prompt, response) for prompt, responses in groups for response in responses]
    if not rows or (empty := [row for row in rows if not all(row)]):
        raise ValueError(f"groups: must hold responses, each with a token and a prompt, got {empty[:1] if rows else 'none'}")
    width = max(len(prompt) + len(response) for prompt, response in rows)
    longest = max(len(response) for _, response in rows)
    places = torch.arange(width)[None]
    starts, lengths = (torch.tensor([len(row[side]) for row in rows])[:, None] for side in (0, 1))
    tokens = torch.tensor([[*prompt, *response] + [0] * (width - len(prompt) - len(response)) for prompt, response in rows])
    columns = torch.arange(longest)[None]
    mask = columns < lengths
    predicting = (starts + columns - 1).clamp(max=width - 1)
    targets = tokens.gather(1, (predicting + 1).clamp(max=width - 1)).masked_fill(~mask, 0)
    return Rows(*(x.to(device) for x in (tokens, places < starts + lengths, predicting, targets, mask)))


def states(model: GPT, rows: Rows) -> Tensor:
    """The hidden states [M, D] that predict the M response tokens there are, row after row."""
    hidden = model.hidden(rows.tokens, rows.attention_mask)
    row = torch.arange(len(hidden), device=hidden.device)[:, None].expand_as(rows.mask)
    return hidden[row[rows.mask], rows.predicting[rows.mask]]


def logps_by_token(model: GPT, rows: Rows, temperature: float = 1.0) -> Tensor:
    """Log-probabilities [N, T] of response tokens, in the tape."""
    found = token_logps(states(model, rows) / temperature, model.wte.weight, rows.targets[rows.mask])
    return by_token(found, rows.mask)


def by_token(numbers: Tensor, mask: Tensor) -> Tensor:
    """[M] -> [N, T], with 0 where there is no token."""
    return torch.zeros(mask.shape, dtype=numbers.dtype, device=numbers.device).masked_scatter(mask, numbers)


def scored_by_token(model: GPT, rows: Rows, temperature: float = 1.0) -> Tensor:
    """As `logps_by_token`, without dropout and without a tape."""
    with quiet(model):
        return logps_by_token(model, rows, temperature)


@contextmanager
def quiet(model: GPT) -> Iterator[None]:
    """The model as it answers: without dropout and without a tape."""
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        model.train(training)
