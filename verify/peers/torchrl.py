"""TorchRL behind the judge, written for 0.14.1: its losses for language models and its GAE, by autograd. No formula is here.

Not here, for want of such code: everything offline, k1 and k2, a value loss with a mask. Nothing is checked that TorchRL does
not check.
"""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.objectives.llm import GRPOLoss
from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

from verify.peers import tape
from verify.peers.tape import Array, Arrays, Operation

NAME, VERSION = "torchrl", version("torchrl")

SOURCES = {  # what stands behind each operation
    "gae": "vec_generalized_advantage_estimate",
    "ppo_policy": "GRPOLoss",
    "grpo": "GRPOLoss, kl_to_ref_coeff",
    "sequence_mean": "GRPOLoss, prompt_mean",
    "token_mean": "GRPOLoss, token_mean",
}


def gae(*, rewards: Array, values: Array, mask: Array, discount: float, trace_decay: float) -> Arrays:
    """vec_generalized_advantage_estimate, which GAE calls unless told not to, of what a row's mask leaves: it knows no mask."""
    found = {"advantages": np.zeros_like(values), "returns": np.zeros_like(values)}
    for row, counts in enumerate(mask):
        value, reward = (torch.tensor(x[row, counts])[:, None] for x in (values, rewards))
        if counts.any():
            following = torch.cat([value[1:], torch.zeros_like(value[:1])])
            done = torch.arange(len(value))[:, None] == len(value) - 1
            both = vec_generalized_advantage_estimate(discount, trace_decay, value, following, reward, done)
            found["advantages"][row, counts], found["returns"][row, counts] = (x[:, 0].numpy() for x in both)
    return found


class _Actor:
    """A policy whose log-probs [B,T] are given."""

    in_keys = ()

    def __init__(self, logps: Tensor, mask: Tensor) -> None:
        self.dist = SimpleNamespace(mask=mask, log_prob=lambda _: logps)

    def get_dist(self, *_: Any, **__: Any) -> SimpleNamespace:
        return self.dist


def _loss(logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, reference: Tensor, **settings: Any) -> Any:
    """GRPOLoss without an entropy bonus; all but the settings [B,T]."""
    loss = GRPOLoss(entropy_bonus=False, masking_strategy="generic", **settings)
    vars(loss)["actor_network"] = _Actor(logps, mask.bool())
    batch = {"tokens": {"full": torch.zeros(mask.shape)}, "log_probs": {"full": old}, "advantage": advantages[..., None]}
    return loss(TensorDict(batch | {"next": {"ref_log_probs": {"full": reference}}}, batch_size=[len(mask)]))


def _surrogate(clip_low: float, clip_high: float, beta: float, *tokens: Array) -> Arrays:
    """Each of B x T tokens the only one of a response, the two losses added as its trainer does."""
    settings = {"clip_epsilon": (clip_low, clip_high), "aggregation": "none", "kl_to_ref_coeff": beta}

    def token(logp: Tensor, *fixed: Tensor) -> tuple[Tensor, Tensor]:
        old, reference, advantage, counts = (x[None] for x in fixed)
        found = _loss(logp[None], old, advantage, counts, reference, **settings)
        parts = (found.loss_objective, found.loss_kl_to_ref)
        return sum(part.sum() for part in parts if part is not None), found.clip_fraction

    return tape.surrogate(token, *tokens)


def ppo_policy(*, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float) -> Arrays:
    """GRPO without its KL term is PPO's clipped surrogate."""
    return _surrogate(clip_low, clip_high, 0.0, logps, old_logps, np.zeros_like(logps), advantages, mask)


def grpo(*, clip_low: float, clip_high: float, beta: float, advantages: Array, mask: Array, **logps: Array) -> Arrays:
    """Each token under the advantage of its sequence."""
    fixed = logps["old_logps"], logps["reference_logps"], tape.spread(advantages, mask), mask
    return _surrogate(clip_low, clip_high, beta, logps["logps"], *fixed)


def _reduction(aggregation: str) -> Operation:
    """GRPOLoss's mean of given token losses and its slope in them: at ratio 1 a loss is minus its advantage."""

    def operation(*, token_losses: Array, mask: Array) -> Arrays:
        def loss(leaf: Tensor) -> Tensor:
            zeros = torch.zeros_like(leaf)
            return _loss(zeros, zeros, -leaf, torch.tensor(mask), zeros, aggregation=aggregation).loss_objective.squeeze()

        return tape.differentiated("loss", "weights", loss, token_losses)

    return operation


sequence_mean = _reduction("prompt_mean")
token_mean = _reduction("token_mean")
