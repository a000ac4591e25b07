"""ms-swift behind the judge, written for 4.6.0: losses of its trainers, advantages, a reward, by autograd. No formula is here.

For the models and trainers that it builds on, empty modules stand in: ABSENT; and for its own halves that load models, data and
engines: UNUSED. No function below calls either. Its trainers inherit from TRL's and are made without a constructor.

CPO, ORPO, SimPO and KTO are TRL's, called from there, and are judged as such; its token log-probs are TRL's too. Nothing is
checked that ms-swift does not check.
"""

import sys
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from verify.peers import absent, tape
from verify.peers.tape import Array, Arrays, Operation

ABSENT = (
    "PIL accelerate dacite datasets json_repair modelscope pandas peft pydantic requests safetensors transformers trl urllib3"
)
absent.stand_in(*ABSENT.split())

import swift.rewards  # noqa: E402
import swift.rlhf_trainers  # noqa: E402, F401

UNUSED = "dataset infer_engine sequence_parallel template trainers".split()
UNUSED += [f"rlhf_trainers.{name}" for name in ("arguments", "gkd_helpers", "rollout_mixin", "utils")]
absent.stand_in(*(f"swift.{name}" for name in UNUSED))
sys.meta_path.insert(0, sys.meta_path.pop())  # before what is installed

from swift.rewards.orm import SoftOverlong  # noqa: E402
from swift.rl_core.advantage import compute_advantages  # noqa: E402
from swift.rlhf_trainers.dpo_trainer import DPOTrainer  # noqa: E402
from swift.rlhf_trainers.grpo_trainer import GRPOTrainer  # noqa: E402
from swift.rlhf_trainers.reward_trainer import RewardTrainer  # noqa: E402

NAME, VERSION = "ms-swift", version("ms-swift")

SOURCES = {  # what stands behind each operation
    "bradley_terry": "RewardTrainer.compute_loss",
    "dpo": "DPOTrainer.get_batch_loss_metrics, sigmoid",
    "cdpo": "DPOTrainer.get_batch_loss_metrics, sigmoid",
    "robust_dpo": "DPOTrainer.get_batch_loss_metrics, robust",
    "ipo_length_normalized": "DPOTrainer.get_batch_loss_metrics, ipo",
    "rso_hinge": "DPOTrainer.get_batch_loss_metrics, hinge",
    "ppo_policy": "GRPOTrainer._compute_loss_and_metrics, beta 0",
    "grpo": "GRPOTrainer._compute_loss_and_metrics",
    "sequence_mean": "GRPOTrainer._compute_loss_and_metrics, grpo",
    "token_mean": "GRPOTrainer._compute_loss_and_metrics, bnpo",
    "constant_mean": "GRPOTrainer._compute_loss_and_metrics, dr_grpo",
    "advantages_grpo": "compute_advantages, grpo, group",
    "advantages_dr_grpo": "compute_advantages, grpo, none",
    "advantages_rloo": "compute_advantages, rloo, none",
    "overlong_penalty": "SoftOverlong",
}


def _trainer(kind: type, **settings: Any) -> Any:
    """A trainer in eval mode and alone: what it gathers to log is what it has."""
    trainer: Any = object.__new__(kind)
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x)
    vars(trainer).update(model=SimpleNamespace(training=False), accelerator=accelerator, **settings)
    return trainer


# Losses on log-probabilities


def bradley_terry(*, margin: float, **pairs: Array) -> Arrays:
    """RewardTrainer.compute_loss: the model's scores are the rewards, the batch brings the margin."""
    trainer = _trainer(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=None), custom_metrics=MagicMock())

    def example(rewards: Tensor) -> tuple[Tensor]:
        batch = {"attention_mask": torch.ones(2, 1), "margin": rewards.new_tensor([margin])}
        return (trainer.compute_loss(lambda **_: SimpleNamespace(logits=rewards[:, None]), batch),)

    names = ("losses", "grad_chosen_rewards", "grad_rejected_rewards")
    return tape.one_by_one(names, example, tape.sides("{}_rewards", pairs))


def _direct(loss_type: str) -> Operation:
    """DPOTrainer.get_batch_loss_metrics, which logs the rewards; the sums and lengths stand for a model's answer."""
    off = dict.fromkeys(["reference_free", "use_weighting", "aux_loss_enabled"], False)
    plain = off | {"f_divergence_type": "reverse_kl", "args": SimpleNamespace(rpo_alpha=None), "loss_type": loss_type}

    def operation(*, beta: float, label_smoothing: float = 0.0, **pairs: Array) -> Arrays:
        trainer = _trainer(DPOTrainer, **plain, beta=beta, label_smoothing=label_smoothing)

        def example(policy: Tensor, reference: Array, lengths: Array) -> tuple[Tensor, float, float]:
            answer = dict.fromkeys(["mean_chosen_logits", "mean_rejected_logits"], torch.zeros(()))
            for name, values in (("logps", policy), ("completion_token_counts", torch.tensor(lengths))):
                answer |= dict(zip((f"chosen_{name}", f"rejected_{name}"), values.split(1), strict=True))
            trainer.concatenated_forward = lambda *_: answer
            chosen, rejected = torch.tensor(reference).split(1)
            loss, logged = trainer.get_batch_loss_metrics(None, {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
            return loss, logged["rewards/chosen"], logged["rewards/rejected"]

        policy, reference = tape.sides("policy_{}_logps", pairs), tape.sides("reference_{}_logps", pairs)
        lengths = tape.sides("{}_lengths", pairs) if "chosen_lengths" in pairs else np.ones(policy.shape, int)
        return tape.one_by_one(tape.REWARDED, example, policy, reference, lengths)

    return operation


dpo = cdpo = _direct("sigmoid")
robust_dpo = _direct("robust")
rso_hinge = _direct("hinge")
ipo_length_normalized = _direct("ipo")


# On-policy pieces, aggregation


def _grpo_loss(loss_type: str, logps: Tensor, advantages: Tensor, mask: Tensor, **settings: Any) -> tuple[Tensor, float]:
    """GRPOTrainer's loss and share of clipped tokens, [rows, T] each: the clip alone, ratios of tokens, one sampler."""
    off = ["compute_entropy", "overlong_filter", "kl_in_reward", "disable_rollout_importance_sampling"]
    off += ["log_rollout_offpolicy_metrics", "_has_teacher"]
    plain: dict[str, Any] = dict.fromkeys(off, False) | {"args": SimpleNamespace(delta=None), "sdar_loss_coef": 0}
    plain |= dict.fromkeys(["rollout_importance_sampling_mode", "off_policy_sequence_mask_delta", "chord_sft_iterator"])
    plain |= {"importance_sampling_level": "token", "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2}
    references = {f"{name}_per_token_logps": settings.pop(name, None) for name in ("old", "ref", "rollout")}
    batch = SimpleNamespace(completion_mask=mask, truncated_mask=None, advantages=advantages, **references)

    trainer = _trainer(GRPOTrainer, **plain | settings | {"loss_type": loss_type})
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logps, None)
    loss, logged = trainer._compute_loss_and_metrics(None, {}, batch)
    return loss, logged["clipping"]["region_clip_mean"]


def _surrogate(clip_low: float, clip_high: float, beta: float, *tokens: Array) -> Arrays:
    """Tokens, each the only one of a completion padded to two: of a batch one token wide its clipping metric has no mask."""

    def token(logp: Tensor, *rest: Tensor) -> tuple[Tensor, float]:
        padded, old, reference, advantage, counts = (functional.pad(x[None], (0, 1)) for x in (logp, *rest))
        settings = {"epsilon_low": clip_low, "epsilon_high": clip_high, "beta": beta, "old": old, "ref": reference}
        return _grpo_loss("grpo", padded, advantage, counts.bool(), **settings)

    return tape.surrogate(token, *tokens)


def ppo_policy(*, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float) -> Arrays:
    """GRPO without its KL term is PPO's clipped surrogate."""
    return _surrogate(clip_low, clip_high, 0.0, logps, old_logps, np.zeros_like(logps), advantages, mask)


def grpo(*, clip_low: float, clip_high: float, beta: float, advantages: Array, mask: Array, **logps: Array) -> Arrays:
    """Each token under the advantage of its sequence."""
    fixed = logps["old_logps"], logps["reference_logps"], tape.spread(advantages, mask), mask
    return _surrogate(clip_low, clip_high, beta, logps["logps"], *fixed)


def _reduction(loss_type: str) -> Operation:
    """GRPOTrainer's mean of given token losses and its slope in them: at ratio 1 a loss is minus its advantage."""

    def operation(*, token_losses: Array, mask: Array, max_length: int | None = None) -> Arrays:
        def loss(leaf: Tensor) -> Tensor:
            settings = {"max_completion_length": max_length}
            return _grpo_loss(loss_type, torch.zeros_like(leaf), -leaf, torch.tensor(mask), **settings)[0]

        return tape.differentiated("loss", "weights", loss, token_losses)

    return operation


sequence_mean = _reduction("grpo")
token_mean = _reduction("bnpo")  # which counts the tokens of its batch; dapo is told their number
constant_mean = _reduction("dr_grpo")


def _advantages(estimator: str, scale: str) -> Operation:
    """compute_advantages of N groups of G, of one reward function that weighs 1."""

    def operation(*, rewards: Array) -> Arrays:
        column = torch.tensor(rewards).reshape(-1, 1)
        found, _ = compute_advantages(column, torch.ones(1, dtype=column.dtype), rewards.shape[1], estimator, scale)
        return {"advantages": found.numpy().reshape(rewards.shape)}

    return operation


advantages_grpo = _advantages("grpo", "group")
advantages_dr_grpo = _advantages("grpo", "none")
advantages_rloo = _advantages("rloo", "none")  # as where nothing is said


def overlong_penalty(*, lengths: Array, max_length: int, cache_length: int) -> Arrays:
    """SoftOverlong asks each completion for its length and its first token alone: a range has both."""
    reward = SoftOverlong(SimpleNamespace(soft_max_length=max_length, soft_cache_length=cache_length))
    return {"penalties": np.array(reward([], response_token_ids=[range(length) for length in lengths]), np.float64)}
