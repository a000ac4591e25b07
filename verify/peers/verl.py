"""verl behind the judge, written for 0.9.1: the functions of its trainer.ppo.core_algos, by autograd. No formula is here.

Its workers are imported too. For what they need of clusters and models, empty modules stand in: ABSENT, which no function below
calls. Not here, for want of such code: everything offline. Nothing is checked that verl does not check.
"""

import math
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from verify.peers import absent, tape
from verify.peers.tape import Array, Arrays, Operation

ABSENT = ("PIL", "codetiming", "datasets", "omegaconf", "pandas", "ray", "transformers")
absent.stand_in(*ABSENT)

from verl.trainer.ppo import core_algos  # noqa: E402
from verl.workers.utils import losses  # noqa: E402

NAME, VERSION = "verl", version("verl")

SOURCES = {  # what stands behind each operation
    "kl_estimates": "kl_penalty",
    "gae": "compute_gae_advantage_return",
    "ppo_policy": "ppo_loss, vanilla",
    "grpo": "ppo_loss, vanilla, use_kl_loss",
    "ppo_value": "compute_value_loss",
    "advantages_grpo": "compute_grpo_outcome_advantage",
    "advantages_dr_grpo": "compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo False",
    "advantages_rloo": "compute_rloo_outcome_advantage",
    "sequence_mean": "agg_loss, seq-mean-token-mean",
    "token_mean": "agg_loss, token-mean",
    "constant_mean": "agg_loss, seq-mean-token-sum-norm",
}

ONE_TOKEN = {"dp_size": 1, "batch_num_tokens": 1, "global_batch_size": None, "loss_scale_factor": None}


def kl_estimates(*, policy_logps: Array, reference_logps: Array) -> Arrays:
    """kl_penalty of each kind."""
    reference = torch.tensor(reference_logps)
    found: Arrays = {}
    for kind in ("k1", "k2", "k3"):

        def estimate(policy: Tensor, kind: str = kind) -> Tensor:
            return core_algos.kl_penalty(policy, reference, kind)

        found |= tape.differentiated(kind, f"grad_{kind}", estimate, policy_logps)
    return found


def gae(*, rewards: Array, values: Array, mask: Array, discount: float, trace_decay: float) -> Arrays:
    """compute_gae_advantage_return without its whitening, which the contract does not know."""
    tensors = torch.tensor(rewards), torch.tensor(values), torch.tensor(mask).long()
    with patch.object(core_algos.verl_F, "masked_whiten", lambda x, mask: x):
        advantages, returns = core_algos.compute_gae_advantage_return(*tensors, discount, trace_decay)
    return tape.where_counted(mask, advantages=advantages, returns=returns)


class _Batch(dict):
    """Padded as it is: what ppo_loss asks of a TensorDict."""

    def select(self, *_: str) -> "_Batch":
        return self

    def to_padded_tensor(self) -> "_Batch":
        return self


def _surrogate(clip_low: float, clip_high: float, beta: float, *tokens: Array) -> Arrays:
    """ppo_loss of a token a call, with KL loss k3 and without the bound on negative advantages that verl calls dual clip."""
    clips = {"clip_ratio": clip_low, "clip_ratio_low": clip_low, "clip_ratio_high": clip_high, "clip_ratio_c": math.inf}
    plain: dict[str, Any] = {"loss_agg_mode": "token-mean", "policy_loss": {}, "loss_scale_factor": None}
    kl = {"use_kl_loss": beta != 0, "kl_loss_type": "low_var_kl", "kl_loss_coef": beta}
    config = SimpleNamespace(**clips, **plain, **kl, global_batch_info={}, get=clips.get)

    def token(logp: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, counts: Tensor) -> tuple[Tensor, float]:
        fixed = {"old_log_probs": old, "ref_log_prob": reference, "advantages": advantage, "response_mask": counts}
        batch = _Batch({name: x[None] for name, x in fixed.items()} | ONE_TOKEN)
        loss, metrics = losses.ppo_loss(config, {"log_probs": logp[None]}, batch)
        return loss, metrics["actor/pg_clipfrac"].aggregate()

    with patch.object(losses, "no_padding_2_padding", lambda x, _: x):
        return tape.surrogate(token, *tokens)


def ppo_policy(*, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float) -> Arrays:
    """Policy loss "vanilla"."""
    return _surrogate(clip_low, clip_high, 0.0, logps, old_logps, np.zeros_like(logps), advantages, mask)


def grpo(*, clip_low: float, clip_high: float, beta: float, advantages: Array, mask: Array, **logps: Array) -> Arrays:
    """The same, and its KL loss."""
    fixed = logps["old_logps"], logps["reference_logps"], tape.spread(advantages, mask), mask
    return _surrogate(clip_low, clip_high, beta, logps["logps"], *fixed)


def ppo_value(*, values: Array, old_values: Array, returns: Array, mask: Array, clip: float) -> Arrays:
    """compute_value_loss of a token a call."""

    def token(value: Tensor, old: Tensor, target: Tensor, counts: Tensor) -> tuple[Tensor]:
        return (core_algos.compute_value_loss(value, target, old, counts, clip, batch_num_tokens=1)[0],)

    return tape.token_by_token(("token_losses", "grad_values"), token, values, old_values, returns, mask)


def _advantages(estimator: str, **settings: Any) -> Operation:
    """A registered estimator on the rewards of one-token responses."""

    def operation(*, rewards: Array) -> Arrays:
        column = torch.tensor(rewards).reshape(-1, 1)
        groups = np.repeat(np.arange(len(rewards)), rewards.shape[1])
        found, _ = core_algos.get_adv_estimator_fn(estimator)(column, torch.ones_like(column), groups, **settings)
        return {"advantages": found.numpy().reshape(rewards.shape)}

    return operation


advantages_grpo = _advantages("grpo", epsilon=1e-4)  # 1e-6 where nothing is said
advantages_dr_grpo = _advantages("grpo", norm_adv_by_std_in_grpo=False)
advantages_rloo = _advantages("rloo")


def _aggregation(mode: str, token_losses: Array, mask: Array, **settings: int) -> Arrays:
    def loss(leaf: Tensor) -> Tensor:
        return core_algos.agg_loss(leaf, torch.tensor(mask), mode, **settings)

    return tape.differentiated("loss", "weights", loss, token_losses)


def sequence_mean(*, token_losses: Array, mask: Array) -> Arrays:
    return _aggregation("seq-mean-token-mean", token_losses, mask)


def token_mean(*, token_losses: Array, mask: Array) -> Arrays:
    return _aggregation("token-mean", token_losses, mask)


def constant_mean(*, token_losses: Array, mask: Array, max_length: int) -> Arrays:
    """Told the size of the batch, as the trainer does."""
    settings = {"loss_scale_factor": max_length, "global_batch_size": len(mask)}
    return _aggregation("seq-mean-token-sum-norm", token_losses, mask, **settings)
