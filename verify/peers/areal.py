"""AReaL behind the judge, written for 1.0.4: its losses and advantages, by autograd. No formula is here.

Most of it is float32 whatever comes in, and the value loss takes nothing else; so float32 is all that is declared. Its engines
and controllers are imported too. For what they need of clusters and models, empty modules stand in: ABSENT, which no function
below calls. What scores tokens is compiled, and is run as it was written.

Not here, for want of such code: IPO on token sums, a margin, KTO, ORPO, SimPO, a KL term beside the policy loss, a mean over
sequences. Nothing is checked that AReaL does not check.
"""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from verify.peers import absent, tape
from verify.peers.tape import Array, Arrays, Operation

ABSENT = (
    "PIL aiofiles aiohttp datasets einops flask httpx hydra lark numba omegaconf openai psutil pybase64 pydantic ray requests "
    "swanlab tabulate tenacity tensorboardX torchdata trackio transformers uvloop wandb werkzeug yaml"
).split()
absent.stand_in(*ABSENT)

from areal.api.cli_args import NormConfig  # noqa: E402
from areal.trainer.dpo import dpo_engine  # noqa: E402
from areal.trainer.ppo.actor import PPOActor  # noqa: E402
from areal.utils.data import KLEstimator, Normalization  # noqa: E402
from areal.utils.functional import (  # noqa: E402
    dpo_pair_logratios,
    gather_logprobs,
    ppo_actor_loss_fn,
    ppo_critic_loss_fn,
    reward_overlong_penalty,
)

NAME, VERSION, DTYPES = "areal", version("areal"), ("float32",)

SOURCES = {  # what stands behind each operation
    "dpo": "compute_dpo_loss, sigmoid",
    "ipo_length_normalized": "compute_dpo_loss, ipo",
    "sequence_logps": "gather_logprobs, dpo_pair_logratios",
    "kl_estimates": "KLEstimator",
    "gae": "PPOActor._compute_advantages",
    "ppo_policy": "ppo_actor_loss_fn",
    "ppo_value": "ppo_critic_loss_fn",
    "advantages_grpo": "Normalization, mean_level and std_level group",
    "advantages_dr_grpo": "Normalization, mean_level group",
    "advantages_rloo": "Normalization, mean_level group, mean_leave1out",
    "token_mean": "ppo_actor_loss_fn",
    "overlong_penalty": "reward_overlong_penalty",
}


# Losses on log-probabilities


def _pairs(loss_type: str, beta: float, pairs: Arrays, lengths: Array) -> Arrays:
    """compute_dpo_loss of a pair a call. The first token of a response has its whole log-probability, further ones 0."""

    def packed(logps: Tensor, counts: list[int]) -> Tensor:
        return torch.cat([functional.pad(logp, (0, count)) for logp, count in zip(logps.split(1), counts, strict=True)])

    def example(policy: Tensor, reference: Array, row: Array) -> tuple[Tensor, ...]:
        counts = row.tolist()
        prompts = packed(torch.ones(2), counts).bool()
        ends = torch.tensor([0, *counts]).cumsum(0) + torch.arange(3)
        fixed = {"cu_seqlens": ends, "loss_mask": ~prompts, "ref_logprobs": packed(torch.tensor(reference), counts)}
        loss = dpo_engine.compute_dpo_loss(packed(policy, counts), None, fixed, beta=beta, loss_type=loss_type)
        logged = dpo_engine.stats_tracker.export()
        return loss, logged["chosen_reward/avg"], logged["rejected_reward/avg"]

    sides = tape.sides("policy_{}_logps", pairs), tape.sides("reference_{}_logps", pairs)
    return tape.one_by_one(tape.REWARDED, example, *sides, lengths)


def dpo(*, beta: float, **pairs: Array) -> Arrays:
    """Loss type sigmoid, for which lengths are nothing."""
    return _pairs("sigmoid", beta, pairs, np.ones((len(pairs["policy_chosen_logps"]), 2), int))


def ipo_length_normalized(*, beta: float, **pairs: Array) -> Arrays:
    """Loss type ipo."""
    return _pairs("ipo", beta, pairs, tape.sides("{}_lengths", pairs))


# Sequences


def sequence_logps(*, logits: Array, tokens: Array, response_mask: Array) -> Arrays:
    """gather_logprobs of the next tokens, padding being token 0, summed by dpo_pair_logratios. Beside each row an empty one."""
    rows, width = tokens.shape
    labels = torch.tensor(np.where(response_mask, tokens, 0)).roll(-1, dims=1).flatten()
    ends = torch.arange(rows + 1).repeat_interleave(2)[1:] * width
    fixed = ends, torch.tensor(response_mask).flatten(), torch.ones(rows, dtype=torch.bool)

    def summed(token_logps: Tensor) -> tuple[Tensor, ...]:
        return dpo_pair_logratios(token_logps, torch.zeros(rows * width), *fixed)

    def logps(leaf: Tensor) -> Tensor:
        return summed(gather_logprobs(leaf.flatten(0, 1), labels))[0][:, 0]

    with torch.compiler.set_stance("force_eager"):
        found = tape.differentiated("logps", "grad_logits", logps, logits)
    return found | tape.numpy(lengths=summed(torch.zeros(rows * width))[2][:, 0].long())


# On-policy pieces, aggregation


def kl_estimates(*, policy_logps: Array, reference_logps: Array) -> Arrays:
    """KLEstimator of each kind, without the clamp to ±10 that it has unless told otherwise."""
    reference = torch.tensor(reference_logps)
    found: Arrays = {}
    for kind in ("k1", "k2", "k3"):
        estimator = KLEstimator(kind, apply_clamp=False)

        def estimate(policy: Tensor, estimator: KLEstimator = estimator) -> Tensor:
            return estimator(policy, reference)

        found |= tape.differentiated(kind, f"grad_{kind}", estimate, policy_logps)
    return found


def gae(*, rewards: Array, values: Array, mask: Array, discount: float, trace_decay: float) -> Arrays:
    """PPOActor._compute_advantages, given token rewards in the place of its KL penalty, and a last token, whose value is 0."""
    padded = torch.tensor(np.pad([rewards, values], [(0, 0), (0, 0), (0, 1)]))
    nothing, all_there = torch.zeros(padded[0].shape), torch.ones(padded[0].shape)
    batch = {"input_ids": nothing, "logprobs": nothing, "attention_mask": all_there, "rewards": nothing[:, 0]}
    batch |= {"loss_mask": torch.tensor(np.pad(mask, [(0, 0), (1, 0)])), "values": padded[1]}
    plain = {"reward_bias": 0.0, "reward_scaling": 1.0, "reward_clip": 0.0, "reward_norm": None, "adv_norm": None}
    given = {"kl_ctl": -1.0, "kl_estimator": lambda *_: padded[0], "discount": discount, "gae_lambda": trace_decay}
    config = SimpleNamespace(overlong_reward_penalty=False, use_decoupled_loss=True)
    actor: Any = SimpleNamespace(**plain, **given, config=config, mask_no_eos_with_zero=False)
    found = PPOActor._compute_advantages(actor, batch)
    return tape.where_counted(mask, **{name: found[name][:, :-1] for name in ("advantages", "returns")})


def ppo_policy(*, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float) -> Arrays:
    """ppo_actor_loss_fn of a token a call."""

    def token(logp: Tensor, old: Tensor, advantage: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        loss, logged = ppo_actor_loss_fn(logp, old, old, advantage, clip_low, counts.bool(), clip_high)
        return loss, logged["clip_mask"]

    return tape.surrogate(token, logps, old_logps, advantages, mask)


def ppo_value(*, values: Array, old_values: Array, returns: Array, mask: Array, clip: float) -> Arrays:
    """ppo_critic_loss_fn of a token a call, beside one of loss 0 that counts if it does not: of none the mean is NaN."""

    def token(*numbers: Tensor) -> tuple[Tensor]:
        *three, counts = (torch.cat([x, torch.zeros(1)]) for x in numbers)
        one = torch.stack([counts[0] > 0, counts[0] == 0])
        return (ppo_critic_loss_fn(*three, clip, one)[0],)

    return tape.token_by_token(("token_losses", "grad_values"), token, values, old_values, returns, mask)


def _advantages(**settings: Any) -> Operation:
    """Normalization of N groups of G rewards."""

    def operation(*, rewards: Array) -> Arrays:
        config = NormConfig(mean_level="group", group_size=rewards.shape[1], **settings)
        return {"advantages": Normalization(config)(torch.tensor(rewards).flatten()).numpy().reshape(rewards.shape)}

    return operation


advantages_grpo = _advantages(std_level="group", eps=1e-4)  # 1e-5 where nothing is said
advantages_dr_grpo = _advantages(std_level=None)
advantages_rloo = _advantages(std_level=None, mean_leave1out=True)


def token_mean(*, token_losses: Array, mask: Array) -> Arrays:
    """ppo_actor_loss_fn of ratios of 1, where the losses are the advantages with the other sign."""

    def loss(leaf: Tensor) -> Tensor:
        same = torch.zeros_like(leaf)
        return ppo_actor_loss_fn(same, same, same, -leaf, 0.2, torch.tensor(mask))[0]

    return tape.differentiated("loss", "weights", loss, token_losses)


def overlong_penalty(*, lengths: Array, max_length: int, cache_length: int) -> Arrays:
    """reward_overlong_penalty of responses whose rewards are 0."""
    column = torch.tensor(lengths)[:, None]
    batch = {"rewards": torch.zeros(len(lengths)), "input_ids": column, "loss_mask": column}
    return tape.numpy(penalties=reward_overlong_penalty(batch, cache_length, 1.0, max_length)["rewards"])
