"""The DPO steps that `bench` compares, and the pairs that they take.

A step is forward, loss, backward, gradient norm clipped to 1 and AdamW, in float32: descend(*plain(given), after_step).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipref import dpo
from minipref.autograd import differentiable

from .model import GPT
from .model_by_hand import Config
from .packed import pack

BETA, LEARNING_RATE = 0.1, 1e-6
SIDE = 2048  # of the matrices of `products`

Pair = tuple[list[int], list[int], list[int]]  # prompt, chosen, rejected
AfterStep = Callable[[tuple[float, float]], Any]  # takes loss and gradient norm, and waits until the next step may run


class Workload(NamedTuple):
    """Batches of pairs that a step takes in turn, and the model."""

    config: Config
    batches: list[list[Pair]]

    @property
    def tokens(self) -> float:
        """Of an average step."""
        return sum(2 * len(p) + len(c) + len(r) for pairs in self.batches for p, c, r in pairs) / len(self.batches)


def workload(prompt: int, responses: tuple[int, int], vocab: int, pairs: int, seed: int = 0, batches: int = 1) -> Workload:
    """Random tokens: prompts of one length, responses of lengths uniform within bounds that end with the last of the tokens.
    The model has 11M parameters beside those of the vocabulary."""
    rng = np.random.default_rng(seed)

    def response() -> list[int]:
        return [*rng.integers(vocab - 1, size=rng.integers(responses[0], responses[1] + 1) - 1).tolist(), vocab - 1]

    def pair() -> Pair:
        return rng.integers(vocab - 1, size=prompt).tolist(), response(), response()

    config = Config(vocab_size=vocab, context=512, width=384, layers=6, heads=6)
    return Workload(config, [[pair() for _ in range(pairs)] for _ in range(batches)])


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "base": lambda: workload(128, (32, 96), vocab=512, pairs=8, batches=4),
    "1:1": lambda: workload(256, (256, 256), vocab=512, pairs=8),
    "4:1": lambda: workload(408, (102, 102), vocab=512, pairs=8),
    "8:1": lambda: workload(455, (57, 57), vocab=512, pairs=8),
    "50257": lambda: workload(128, (32, 96), vocab=50257, pairs=4, batches=4),
    "tiny": lambda: workload(8, (2, 8), vocab=64, pairs=2, batches=2)._replace(config=Config(64, 16, 32, layers=2, heads=2)),
}


def padded_work(config: Config, pairs: Sequence[Pair]) -> int:
    """Multiply-adds of TRL's step with precomputed reference, which pads both rows of all pairs to the longest.

    In a row of T tokens the entries of a block's matrices (12 D²) each work T times forward and 2 T backward, those of the head
    (V D) at all positions but the last, and once more backward, as logits are not kept. Attention's 7 products have T² D each.
    """
    length = max(len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in pairs)
    blocks = config.layers * (3 * length * 12 * config.width**2 + 7 * length**2 * config.width)
    return 2 * len(pairs) * (blocks + 4 * (length - 1) * config.vocab_size * config.width)


def models(config: Config) -> tuple[GPT, GPT]:
    """Policy and reference, which differ: else the loss would be log 2 whatever is computed."""
    return GPT(config, seed=0), GPT(config, seed=1)


def plain(given: Workload) -> tuple[GPT, Iterator[Tensor]]:
    """The textbook's policy and its losses, a batch at a time and without end, with none of minipref."""
    policy, reference = models(given.config)

    def loss_of(pairs: Sequence[Pair]) -> Tensor:
        chosen, rejected = ([(pair[0], pair[side]) for pair in pairs] for side in (1, 2))
        policy_gap = full_logps(policy, chosen) - full_logps(policy, rejected)
        with torch.no_grad():
            reference_gap = full_logps(reference, chosen) - full_logps(reference, rejected)
        return -F.logsigmoid(BETA * (policy_gap - reference_gap)).mean()

    return policy, map(loss_of, itertools.cycle(given.batches))


def full_logps(gpt: GPT, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Log-probability [B] of each response after its prompt, in nats, from all logits of padded rows."""
    length = max(len(prompt) + len(response) for prompt, response in rows)
    tokens, mask, responses = torch.zeros(3, len(rows), length, dtype=torch.long)
    for row, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        tokens[row, :end], mask[row, :end], responses[row, len(prompt) : end] = torch.tensor(prompt + response), 1, 1
    logps = gpt(tokens, mask.bool())[:, :-1].log_softmax(dim=-1)
    return (logps.gather(-1, tokens[:, 1:, None]).squeeze(-1) * responses[:, 1:]).sum(dim=1)


def fast(given: Workload) -> tuple[GPT, Iterator[Tensor]]:
    """The policy and the losses that gpt_tiny trains with; the reference is asked once and gone."""
    policy, reference = models(given.config)
    with torch.no_grad():
        cached = [packed_logps(reference, pairs) for pairs in given.batches]

    def loss_of(pairs: Sequence[Pair], reference_logps: Tensor) -> Tensor:
        policy_logps = packed_logps(policy, pairs)
        sides = policy_logps[::2], policy_logps[1::2], reference_logps[::2], reference_logps[1::2]
        loss: Tensor = differentiable(dpo)(*sides, beta=BETA).losses.mean()
        return loss

    return policy, map(loss_of, itertools.cycle(given.batches), itertools.cycle(cached))


def packed_logps(gpt: GPT, pairs: Sequence[Pair]) -> Tensor:
    """Log-probabilities [2 pairs] in nats: chosen, rejected, chosen, rejected, ..."""
    groups = [(prompt, [chosen, rejected]) for prompt, chosen, rejected in pairs]
    return gpt.response_logps(pack(groups, gpt.config)).logps


def descend(policy: nn.Module, losses: Iterable[Tensor], after_step: AfterStep) -> None:
    """Steps, as long as there are losses; each is computed when its turn comes."""
    optimizer = torch.optim.AdamW(policy.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
    for loss in losses:
        loss.backward()
        norm = nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after_step((loss.item(), norm.item()))


def products(after_step: AfterStep) -> None:
    """Large products of matrices, whose rate the others are held against."""
    left, right, out = torch.randn(3, SIDE, SIDE)
    while True:
        torch.mm(left, right, out=out)
        after_step((0.0, 0.0))
