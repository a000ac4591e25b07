"""OpenRLHF behind the judge, written for 0.11.2: its losses and advantages, by autograd. No formula is here.

Its packages import at once what only their other halves use, on GPUs and clusters. For that, empty modules stand in: ABSENT,
which no function below calls. Without flash_attn's cross-entropy, log-probs take OpenRLHF's path in plain PyTorch.

Not here, for want of such code: KTO, ORPO, SimPO. GRPO's KL term is added inside a worker of the cluster. Nothing is checked
that OpenRLHF does not check.
"""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verify.peers import absent, tape
from verify.peers.tape import Array, Arrays, Operation

ABSENT = "aiohttp deepspeed flash_attn.bert_padding flash_attn.utils peft pylatexenc ray torchdata transformers vllm".split()
absent.stand_in(*ABSENT)

from openrlhf.models import DPOLoss, PairWiseLoss, PolicyLoss, ValueLoss, aggregate_loss  # noqa: E402
from openrlhf.models.utils import compute_approx_kl, log_probs_from_logits  # noqa: E402
from openrlhf.trainer.dpo_trainer import DPOTrainer  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from openrlhf.trainer.ppo_utils.length_penalty import apply_overlong_penalty  # noqa: E402

NAME, VERSION = "openrlhf", version("openrlhf")

SOURCES = {  # what stands behind each operation
    "bradley_terry": "PairWiseLoss",
    "dpo": "DPOLoss",
    "cdpo": "DPOLoss",
    "ipo": "DPOLoss, ipo",
    "sequence_logps": "log_probs_from_logits, DPOTrainer._get_batch_logps",
    "kl_estimates": "compute_approx_kl",
    "ppo_policy": "PolicyLoss",
    "ppo_value": "ValueLoss",
    "gae": "RemoteExperienceMaker.get_advantages_and_returns",
    "advantages_grpo": "RemoteExperienceMaker.compute_advantages_and_returns, group_norm",
    "advantages_dr_grpo": "RemoteExperienceMaker.compute_advantages_and_returns, dr_grpo",
    "advantages_rloo": "RemoteExperienceMaker.compute_advantages_and_returns, rloo",
    "sequence_mean": "aggregate_loss, token_level_loss False",
    "token_mean": "aggregate_loss",
    "overlong_penalty": "apply_overlong_penalty",
}


# Losses on log-probabilities


def bradley_terry(*, margin: float, **pairs: Array) -> Arrays:
    """PairWiseLoss."""

    def example(rewards: Tensor) -> tuple[Tensor]:
        return (PairWiseLoss()(*rewards.split(1), margin),)

    names = ("losses", "grad_chosen_rewards", "grad_rejected_rewards")
    return tape.one_by_one(names, example, tape.sides("{}_rewards", pairs))


def dpo(*, beta: float, label_smoothing: float = 0.0, **pairs: Array) -> Arrays:
    """DPOLoss, which is cDPO where label_smoothing is given."""
    return tape.rewarded(DPOLoss(beta, label_smoothing), pairs)


cdpo = dpo


def ipo(*, beta: float, **pairs: Array) -> Arrays:
    """DPOLoss with ipo, on token sums."""
    return tape.rewarded(DPOLoss(beta, ipo=True), pairs)


# Sequences


def sequence_logps(*, logits: Array, tokens: Array, response_mask: Array) -> Arrays:
    """Actor's log-probs of the next tokens, summed by DPOTrainer; padding is token 0. Log-probs of 1 sum to the length."""
    ids, mask = torch.tensor(np.where(response_mask, tokens, 0)), torch.tensor(response_mask)

    def summed(token_logps: Tensor) -> Tensor:
        return DPOTrainer._get_batch_logps(None, token_logps[:, :-1], mask, [0] * len(ids))[0]

    def logps(leaf: Tensor) -> Tensor:
        return summed(log_probs_from_logits(leaf, ids.roll(-1, dims=1)))

    found = tape.differentiated("logps", "grad_logits", logps, logits)
    return found | tape.numpy(lengths=summed(torch.ones(ids.shape)).long())


# On-policy pieces, aggregation


def kl_estimates(*, policy_logps: Array, reference_logps: Array) -> Arrays:
    """compute_approx_kl of each kind."""
    reference = torch.tensor(reference_logps)
    found: Arrays = {}
    for kind in ("k1", "k2", "k3"):

        def estimate(policy: Tensor, kind: str = kind) -> Tensor:
            return compute_approx_kl(policy, reference, kl_estimator=kind)

        found |= tape.differentiated(kind, f"grad_{kind}", estimate, policy_logps)
    return found


def ppo_policy(*, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float) -> Arrays:
    """PolicyLoss of a token a call."""
    loss = PolicyLoss(clip_low, clip_high)

    def token(logp: Tensor, *fixed: Tensor) -> tuple[Tensor, Tensor]:
        return loss(logp[None], *(x[None] for x in fixed), batch_num_tokens=1)[:2]

    return tape.surrogate(token, logps, old_logps, advantages, mask)


def ppo_value(*, values: Array, old_values: Array, returns: Array, mask: Array, clip: float) -> Arrays:
    """ValueLoss of a token a call."""
    loss = ValueLoss(clip)

    def token(value: Tensor, *fixed: Tensor) -> tuple[Tensor]:
        return (loss(value[None], *(x[None] for x in fixed), batch_num_tokens=1),)

    return tape.token_by_token(("token_losses", "grad_values"), token, values, old_values, returns, mask)


def gae(*, rewards: Array, values: Array, mask: Array, discount: float, trace_decay: float) -> Arrays:
    """RemoteExperienceMaker.get_advantages_and_returns."""
    tensors = torch.tensor(values), torch.tensor(rewards), torch.tensor(mask)
    advantages, returns = RemoteExperienceMaker.get_advantages_and_returns(None, *tensors, discount, trace_decay)
    return tape.where_counted(mask, advantages=advantages, returns=returns)


def _advantages(estimator: str) -> Operation:
    """RemoteExperienceMaker.compute_advantages_and_returns of N groups of G responses of one token, without a KL penalty."""

    def operation(*, rewards: Array) -> Arrays:
        maker: Any = object.__new__(RemoteExperienceMaker)
        algorithm = SimpleNamespace(advantage=SimpleNamespace(estimator=estimator, gamma=1.0))
        arguments = SimpleNamespace(algo=algorithm, reward=SimpleNamespace(clip_range=None))
        arguments.rollout = SimpleNamespace(n_samples_per_prompt=rewards.shape[1])
        vars(maker).update(strategy=SimpleNamespace(args=arguments), advantage_estimator=estimator)
        maker.kl_ctl = SimpleNamespace(value=0.0)

        flat = torch.tensor(rewards).flatten()
        nothing, mask = torch.zeros_like(flat)[:, None], torch.ones(len(flat), 1, dtype=torch.bool)
        batch = Experience(rewards=flat, kl=nothing, action_mask=mask, index=[*range(len(flat))])
        (scored,) = maker.compute_advantages_and_returns([batch])
        return {"advantages": scored.advantages.numpy().reshape(rewards.shape)}

    return operation


advantages_grpo = _advantages("group_norm")
advantages_dr_grpo = _advantages("dr_grpo")
advantages_rloo = _advantages("rloo")


def _aggregation(token_level: bool) -> Operation:
    def operation(*, token_losses: Array, mask: Array) -> Arrays:
        def loss(leaf: Tensor) -> Tensor:
            return aggregate_loss(leaf, torch.tensor(mask), token_level)

        return tape.differentiated("loss", "weights", loss, token_losses)

    return operation


sequence_mean = _aggregation(False)
token_mean = _aggregation(True)


def overlong_penalty(*, lengths: Array, max_length: int, cache_length: int) -> Arrays:
    """apply_overlong_penalty of responses whose rewards are 0."""
    batch = Experience(rewards=torch.zeros(len(lengths), dtype=torch.float64), response_length=torch.tensor(lengths))
    apply_overlong_penalty([batch], max_length, cache_length)
    return tape.numpy(penalties=batch.rewards)
