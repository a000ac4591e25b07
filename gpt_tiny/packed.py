"""Prompts and their responses in one row of tokens, without padding and with nothing that no loss looks at.

    prompt | response | response | prompt | response | ...          each response without its last token, which predicts nothing

A response attends to its prompt and itself; its positions go on from the prompt's, so that every response is computed as if it
stood there alone. The prompt is computed once for all of its responses: for a pair half of the work on prompts, and prompts
that occur twice in a batch are merged. In the last block only a prompt's last token and the responses' have query and MLP.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from .model_by_hand import Config

Ids = list[int]
Group = tuple[Ids, list[Ids]]  # a prompt and its responses, each with whatever ends it


class Call(NamedTuple):
    """One call of attention. Its queries are the last of its keys: `own` keys, behind those of a prompt that is shared."""

    prompt: int  # tokens of the prompt, which are the first of `own` where it is not shared
    shared: bool
    own: int
    queries: int
    allowed: Tensor | None  # [queries, keys]; None where there are as many of both


class Packed(NamedTuple):
    """M tokens, of which A ask something of the last block; R response tokens to predict, of N responses."""

    calls: list[Call]
    asking_calls: list[Call]  # of the last block
    tokens: Tensor  # [M]
    positions: Tensor  # [M]
    asking: Tensor  # [A], places among the M
    predicting: Tensor  # [R], by response token the place among the A that predicts it
    targets: Tensor  # [R]
    lengths: Tensor  # [N], tokens, in the order in which the responses were given
    order: Tensor  # [N], by response its place among the packed ones

    def by_response(self, token_logps: Tensor) -> Tensor:
        """Sums [N] over the tokens of each response, from [R]."""
        packed = token_logps.split(self.lengths[self.order.argsort()].tolist())
        return torch.stack([part.sum() for part in packed])[self.order]


def pack(groups: Sequence[Group], config: Config, device: torch.device | str | None = None) -> Packed:
    """Prompts and responses for a model of this size; N counts responses in the order of the groups.

    ValueError where there is nothing, for an empty prompt or response, a token outside the vocabulary, and a prompt and
    response that are longer together than the context.
    """
    _check(groups, config)
    rows, order = _merged(groups)
    tokens, positions, asking, predicting, targets = [list[int]() for _ in range(5)]
    for prompt, responses in rows:
        tokens += prompt
        positions += range(len(prompt))
        last = len(asking)
        asking.append(len(tokens) - 1)
        for response in responses:
            more = len(response) - 1
            predicting += [last, *range(len(asking), len(asking) + more)]
            targets += response
            asking += range(len(tokens), len(tokens) + more)
            tokens += response[:-1]
            positions += range(len(prompt), len(prompt) + more)

    of_all, of_last = (list(_calls(rows, only_asking, device)) for only_asking in (False, True))
    lengths = [len(response) for _, responses in groups for response in responses]
    numbers = (tokens, positions, asking, predicting, targets, lengths, order)
    return Packed(of_all, of_last, *(torch.tensor(x, device=device) for x in numbers))


def _check(groups: Sequence[Group], config: Config) -> None:
    if not any(responses for _, responses in groups):
        raise ValueError("groups: must hold a response, got none")
    for i, (prompt, responses) in enumerate(groups):
        if not prompt or not all(responses):
            raise ValueError(
                f"groups[{i}]: prompt and responses must have a token, got lengths {[*map(len, [prompt, *responses])]}"
            )
        longest = len(prompt) + max(map(len, responses), default=0)
        if longest > config.context:
            raise ValueError(f"groups[{i}]: prompt and response must have at most {config.context} tokens, got {longest}")
        outside = [token for ids in (prompt, *responses) for token in ids if not 0 <= token < config.vocab_size]
        if outside:
            raise ValueError(f"groups[{i}]: tokens must lie in the vocabulary [0, {config.vocab_size}), got {outside[0]}")


def _merged(groups: Sequence[Group]) -> tuple[list[Group], list[int]]:
    """Each prompt once with all of its responses; and by response of `groups` its place in that list."""
    rows: dict[tuple[int, ...], list[tuple[int, Ids]]] = {}
    number = count()
    for prompt, responses in groups:
        rows.setdefault(tuple(prompt), []).extend((next(number), response) for response in responses)
    place = {n: i for i, (n, _) in enumerate(member for members in rows.values() for member in members)}
    return [([*prompt], [ids for _, ids in members]) for prompt, members in rows.items()], [place[n] for n in range(len(place))]


def _calls(rows: Sequence[Group], only_asking: bool, device: torch.device | str | None) -> Iterator[Call]:
    """The first response is computed with its prompt, the others behind the prompt's keys."""
    for prompt, responses in rows:
        first, *others = [len(response) - 1 for response in responses] or [0]
        own = len(prompt) + first
        queries = 1 + first if only_asking else own
        yield Call(len(prompt), False, own, queries, _lower_right(queries, own, device))
        for more in others:
            yield Call(len(prompt), True, more, more, _lower_right(more, len(prompt) + more, device))


def _lower_right(queries: int, keys: int, device: torch.device | str | None) -> Tensor | None:
    """Where the last of the keys may look, each at itself and what is before."""
    return None if queries == keys else torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def mix(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, calls: Sequence[Call]) -> Tensor:
    """Attention call by call: q [queries of all, D], k and v [own keys of all, D] -> [queries of all, D]."""
    mixed, own = [], [call.own for call in calls]
    prompt_keys, prompt_values = k[:0], v[:0]
    parts = q.split([call.queries for call in calls]), k.split(own), v.split(own)
    for call, asked, keys, values in zip(calls, *parts, strict=True):
        if call.shared:
            keys, values = torch.cat([prompt_keys, keys]), torch.cat([prompt_values, values])
        else:
            prompt_keys, prompt_values = keys[: call.prompt], values[: call.prompt]
        if call.queries:
            mixed.append(attend(asked[None], keys[None], values[None], call.allowed)[0])
    return torch.cat(mixed)
