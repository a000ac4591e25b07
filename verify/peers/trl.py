"""TRL behind the judge: every number comes out of TRL's own code, values and gradients by its own autograd.

Written for TRL 1.16.0 (requirements-trl.txt) and started as `python -m verify.child verify.peers.trl`: by its
path it would be imported as trl and stand in TRL's place. An operation is here if TRL computes it; no formula
is. Each feeds stub models and small batches to a real trainer, made without its constructor.

Not here, for want of such code in TRL: IPO on token sums, SPPO on soft win rates, k1 and k2 as losses, GAE,
the value loss, RSO's sampling, Plackett-Luce. Nothing is checked that TRL does not check.

A sequence is one prompt token and n response tokens. The first of these carries the whole log-probability,
the others 0: TRL's sum over tokens is the input to the last bit. DPO, KTO and GRPO take token log-probs from
the model. ORPO and CPO take logits, and no log-softmax answers a given log-prob to the last bit: there the
stub's logits already are log-probs, and `selective_log_softmax` and the cross-entropy of ORPO's NLL term take
them as they are.
"""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from trl import DPOTrainer, GRPOConfig, GRPOTrainer, KTOTrainer, RewardTrainer, RLOOConfig, RLOOTrainer, __version__
from trl.experimental.cpo import CPOTrainer, cpo_trainer
from trl.experimental.orpo import ORPOTrainer, orpo_trainer
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.utils import add_fused_lm_head

from verify.peers import tape, trl_models
from verify.peers.tape import Array, Arrays, Operation

NAME, VERSION = "trl", __version__

SOURCES = {  # what stands behind each operation
    "bradley_terry": "RewardTrainer.compute_loss",
    "dpo": "DPOTrainer._compute_loss, sigmoid",
    "cdpo": "DPOTrainer._compute_loss, sigmoid",
    "robust_dpo": "DPOTrainer._compute_loss, robust",
    "ipo_length_normalized": "DPOTrainer._compute_loss, ipo",
    "rso_hinge": "DPOTrainer._compute_loss, hinge",
    "kto": "KTOTrainer._compute_loss",
    "kto_reference_point": "KTOTrainer._compute_loss, metric kl",
    "orpo": "ORPOTrainer.get_batch_loss_metrics",
    "simpo": "CPOTrainer.get_batch_loss_metrics, simpo",
    "sequence_logps": "CPOTrainer.get_batch_logps",
    "linear_sequence_logps": "add_fused_lm_head",
    "ppo_policy": "GRPOTrainer._compute_loss, beta 0",
    "grpo": "GRPOTrainer._compute_loss",
    "sequence_mean": "GRPOTrainer._compute_loss, grpo",
    "token_mean": "GRPOTrainer._compute_loss, bnpo",
    "constant_mean": "GRPOTrainer._compute_loss, dr_grpo",
    "advantages_grpo": "GRPOTrainer._generate_and_score_completions, group",
    "advantages_dr_grpo": "GRPOTrainer._generate_and_score_completions, none",
    "advantages_rloo": "RLOOTrainer._generate_and_score_completions",
    "overlong_penalty": "get_soft_overlong_punishment",
    "gpt_logits": "CPOTrainer.concatenated_forward",
    "preference_step": "compute_loss of DPOTrainer and KTOTrainer, get_batch_loss_metrics of CPOTrainer and ORPOTrainer",
}


# Trainers without their constructors, and what is fed to them


class _Model:
    """A model in eval mode that answers its calls, whatever they ask, with the given outputs in turn."""

    training = False
    is_gradient_checkpointing = False

    def __init__(self, *outputs: SimpleNamespace) -> None:
        self.outputs = iter(outputs)

    def __call__(self, *_: Any, **__: Any) -> SimpleNamespace:
        return next(self.outputs)


def _trainer(kind: type, **attributes: Any) -> Any:
    """A bare one on a stub model."""
    return trl_models.bare_trainer(kind, _Model(), **attributes)


def _metric(trainer: Any, name: str) -> float:
    """The value that the trainer logged last under this name."""
    return trainer._metrics["eval"][name][-1]


def _sequences(lengths: Array) -> dict[str, Tensor]:
    """Token ids and masks [rows, 1 + longest]: one prompt token, then response tokens, then padding."""
    position, end = torch.arange(1 + max(lengths)), torch.tensor(lengths)[:, None]
    attention, completion = position <= end, (position >= 1) & (position <= end)
    masks = {"attention_mask": attention.long(), "completion_mask": completion.long()}
    return {"input_ids": torch.zeros_like(masks["attention_mask"]), **masks}


def _token_logps(logps: Tensor, lengths: Array) -> Tensor:
    """Token log-probs [rows, longest] whose sum over a row is logps[row] exactly."""
    return functional.pad(logps[:, None], (0, max(lengths) - 1))


def _scored(token_logps: Tensor) -> SimpleNamespace:
    """What a model with TRL's fused head answers; all but the log-probs [rows, T] is only logged."""
    nothing = torch.zeros_like(token_logps)
    logged = {"entropy": nothing, "mean_logits": nothing, "is_top1": nothing.bool()}
    return SimpleNamespace(log_probs=token_logps, **logged)


# Losses on log-probabilities


def bradley_terry(*, margin: float, **pairs: Array) -> Arrays:
    """RewardTrainer.compute_loss: the model's scores are the rewards, the batch brings the margin."""
    trainer = _trainer(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=None))

    def example(rewards: Tensor) -> tuple[Tensor]:
        model = _Model(SimpleNamespace(logits=rewards[:, None]))
        return (trainer.compute_loss(model, {"margin": margin}),)

    names = ("losses", "grad_chosen_rewards", "grad_rejected_rewards")
    return tape.one_by_one(names, example, tape.sides("{}_rewards", pairs))


def _direct(loss_type: str) -> Operation:
    """DPOTrainer._compute_loss, reference log-probs precomputed; it counts lengths in completion_mask, and logs the rewards."""
    plain: dict[str, Any] = {"f_divergence_type": "reverse_kl", "ld_alpha": None, "use_weighting": False}
    plain |= {"loss_types": [loss_type], "loss_weights": [1.0], "precompute_ref_logps": True}

    def operation(*, beta: float, label_smoothing: float = 0.0, **pairs: Array) -> Arrays:
        trainer = _trainer(DPOTrainer, **plain, beta=beta, label_smoothing=label_smoothing)

        def example(policy: Tensor, reference: Array, lengths: Array) -> tuple[Tensor, float, float]:
            chosen, rejected = torch.tensor(reference).split(1)
            batch = _sequences(lengths) | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
            loss = trainer._compute_loss(_Model(_scored(_token_logps(policy, lengths))), batch, return_outputs=False)
            return loss, _metric(trainer, "rewards/chosen"), _metric(trainer, "rewards/rejected")

        policy, reference = tape.sides("policy_{}_logps", pairs), tape.sides("reference_{}_logps", pairs)
        lengths = tape.sides("{}_lengths", pairs) if "chosen_lengths" in pairs else np.ones(policy.shape, int)
        return tape.one_by_one(tape.REWARDED, example, policy, reference, lengths)

    return operation


dpo = cdpo = _direct("sigmoid")
robust_dpo = _direct("robust")
rso_hinge = _direct("hinge")
ipo_length_normalized = _direct("ipo")


def _kto_trainer(**settings: float) -> Any:
    return _trainer(KTOTrainer, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **settings)


def _kto_loss(trainer: Any, completion: tuple[Tensor, Tensor], mismatched: tuple[Tensor, Tensor], desirable: bool) -> Tensor:
    """KTOTrainer._compute_loss of one completion and M mismatched ones, each as (policy, reference); the latter come first."""
    model = _Model(_scored(mismatched[0][:, None]), _scored(completion[0][:, None]))
    others = {f"KL_{name}": value for name, value in _sequences(np.ones(len(mismatched[0]), int)).items()}
    references = {"ref_logps": completion[1], "ref_KL_logps": mismatched[1]}
    batch = _sequences(np.ones(1, int)) | others | references | {"label": torch.tensor([desirable])}
    return trainer._compute_loss(model, batch, return_outputs=False)


def kto(*, policy_logps: Array, reference_logps: Array, desirable: Array, reference_point: float, **plain: float) -> Arrays:
    """Beside each completion a mismatched one whose log-ratio, z0, is the reference point."""
    trainer = _kto_trainer(**plain)

    def example(policy: Tensor, fixed: Array, label: float) -> tuple[Tensor, float]:
        reference = torch.tensor(fixed)
        point = torch.full_like(reference, reference_point)
        loss = _kto_loss(trainer, (policy, reference), (point, torch.zeros_like(point)), bool(label))
        return loss, _metric(trainer, "rewards/chosen" if label else "rewards/rejected")

    table = np.stack([policy_logps, reference_logps, desirable], axis=1)
    return tape.one_by_one(("losses", "grad_policy_logps", "rewards"), example, table[:, :1], table[:, 1:2], table[:, 2])


def kto_reference_point(*, policy_mismatched_logps: Array, reference_mismatched_logps: Array) -> Arrays:
    """The metric kl is the point that TRL's loss subtracts; the completion beside it does not matter."""
    trainer = _kto_trainer(beta=1.0, desirable_weight=1.0, undesirable_weight=1.0)
    mismatched = torch.tensor(policy_mismatched_logps), torch.tensor(reference_mismatched_logps)
    _kto_loss(trainer, (torch.zeros(1), torch.zeros(1)), mismatched, True)
    return {"reference_point": np.array(_metric(trainer, "kl"), policy_mismatched_logps.dtype)}


def _given_log_softmax(logits: Tensor, index: Tensor) -> Tensor:
    """The log-softmax of logits that already are log-probs, the response's in their only column."""
    return logits[..., 0]


def _from_logits(module: Any, trainer: Any, pairs: Arrays, **logged: str) -> Arrays:
    """get_batch_loss_metrics, logits [2, 1 + longest, 1]; position t predicts token t + 1. `logged`: metrics by output."""

    def example(logps: Tensor, lengths: Array) -> list[Any]:
        batch: dict[str, Tensor] = {}
        for side, length in zip(("chosen", "rejected"), lengths, strict=True):
            sequence = _sequences(np.array([length]))
            prompt = sequence.pop("completion_mask") == 0
            sequence["labels"] = sequence["input_ids"].masked_fill(prompt, -100)
            batch |= {f"{side}_{name}": values for name, values in sequence.items()}
        model = _Model(SimpleNamespace(logits=functional.pad(_token_logps(logps, lengths), (0, 1))[..., None]))
        with (
            patch.object(module, "selective_log_softmax", _given_log_softmax),
            patch.object(module.nn, "CrossEntropyLoss", torch.nn.NLLLoss),
        ):
            loss, metrics = trainer.get_batch_loss_metrics(model, batch, "train")
        return [loss, *(metrics[name] for name in logged.values())]

    return tape.one_by_one(
        (*tape.PAIR, *logged), example, tape.sides("policy_{}_logps", pairs), tape.sides("{}_lengths", pairs)
    )


def orpo(*, odds_weight: float, **pairs: Array) -> Arrays:
    """ORPOTrainer's NLL term also counts each prompt token but the first: of a prompt of one token, none."""
    trainer = _trainer(ORPOTrainer, beta=odds_weight, is_encoder_decoder=False, padding_value=0)
    return _from_logits(orpo_trainer, trainer, pairs, log_odds_ratio="log_odds_chosen")


def simpo(*, beta: float, gamma: float, **pairs: Array) -> Arrays:
    """CPOTrainer too takes the absolute gamma, as simpo_gamma, and divides it by beta."""
    plain = {"loss_type": "simpo", "cpo_alpha": 0.0, "alpha": 0.0, "label_smoothing": 0.0}
    trainer = _trainer(CPOTrainer, **plain, is_encoder_decoder=False, pad_token_id=0)
    vars(trainer).update(beta=beta, simpo_gamma=gamma)
    return _from_logits(cpo_trainer, trainer, pairs)


# Sequences


def sequence_logps(*, logits: Array, tokens: Array, response_mask: Array) -> Arrays:
    """CPOTrainer.get_batch_logps. Log-probs of 1 sum to its count of the response, the length."""
    leaf, labels = torch.tensor(logits, requires_grad=True), tape.labels(tokens, response_mask)
    logps = CPOTrainer.get_batch_logps(leaf, labels)
    with patch.object(cpo_trainer, "selective_log_softmax", _given_log_softmax):
        lengths = CPOTrainer.get_batch_logps(torch.ones(*labels.shape, 1), labels)
    (gradient,) = torch.autograd.grad(logps.sum(), leaf)
    return tape.numpy(logps=logps, lengths=lengths.long(), grad_logits=gradient)


class _LinearModel:
    """What add_fused_lm_head asks of a language model: hidden states [1,T,D], its head's weight [V,D]."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.config = SimpleNamespace(get_text_config=SimpleNamespace)
        self.base_model = lambda **_: SimpleNamespace(last_hidden_state=hidden)
        self.get_output_embeddings = lambda: SimpleNamespace(weight=weight, bias=None)

    def forward(self, **_: Any) -> Any:
        """Replaced by add_fused_lm_head."""


def linear_sequence_logps(*, hidden: Array, weight: Array, tokens: Array, response_mask: Array) -> Arrays:
    """The head that TRL fuses into the models it trains: minus the loss of one row, divided by one item."""
    leaves = torch.tensor(hidden, requires_grad=True), torch.tensor(weight, requires_grad=True)

    def row(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        model = _LinearModel(states[None], leaves[1])
        add_fused_lm_head(model)
        output = model.forward(labels=labels[None], fused_lm_head=True, num_items_in_batch=1)
        return -output.loss, output.label_mask.sum()

    rows = [row(*pair) for pair in zip(leaves[0], tape.labels(tokens, response_mask), strict=True)]
    logps, lengths = (torch.stack(column) for column in zip(*rows, strict=True))
    to_hidden, to_weight = torch.autograd.grad(logps.sum(), leaves)
    return tape.numpy(logps=logps.to(leaves[0].dtype), lengths=lengths, grad_hidden=to_hidden, grad_weight=to_weight)


# On-policy pieces, aggregation


def _grpo_trainer(loss_type: str, **settings: Any) -> Any:
    """A GRPOTrainer whose loss is the clipped surrogate alone: no entropy bonus, ratios of tokens."""
    off = {"top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "use_vllm": False}
    plain = {"importance_sampling_level": "token", "_entropy_bonus_enabled": False}
    plain |= {"args": SimpleNamespace(delta=None, use_bias_correction_kl=False)}
    surrogate = {"beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2} | settings
    return _trainer(GRPOTrainer, loss_type=loss_type, **off, **plain, **surrogate)


def _grpo_loss(trainer: Any, logps: Tensor, advantages: Tensor, mask: Tensor, **fixed: Tensor) -> Tensor:
    """GRPOTrainer._compute_loss on completions [rows, T] after a prompt of one token."""
    prompt = torch.zeros(len(mask), 1, dtype=torch.long)
    prompts = {"prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt)}
    completions = {"completion_ids": torch.zeros_like(mask), "completion_mask": mask}
    inputs = prompts | completions | {"advantages": advantages} | fixed
    return trainer._compute_loss(_Model(_scored(logps)), inputs)


def _surrogate(trainer: Any, *tokens: Array) -> Arrays:
    """Losses, slopes and clipping of B x T tokens, each the only token of a completion padded to two.

    Padded because TRL's clipping metric does not look at the mask of a batch that is one token wide. The tokens' log-probs, the
    old ones, the reference's, advantages and mask, each [B,T].
    """

    def token(logp: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, counts: Tensor) -> tuple[Tensor, float]:
        padded = [functional.pad(value[None], (0, 1)) for value in (logp, old, reference, counts.long())]
        fixed = {"old_per_token_logps": padded[1], "ref_per_token_logps": padded[2]}
        loss = _grpo_loss(trainer, padded[0], advantage, padded[3], **fixed)
        return loss, _metric(trainer, "clip_ratio/region_mean")

    return tape.surrogate(token, *tokens)


def ppo_policy(*, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float) -> Arrays:
    """GRPO without its KL term is PPO's clipped surrogate."""
    trainer = _grpo_trainer("grpo", epsilon_low=clip_low, epsilon_high=clip_high)
    return _surrogate(trainer, logps, old_logps, np.zeros_like(logps), advantages, mask)


def grpo(*, clip_low: float, clip_high: float, beta: float, advantages: Array, mask: Array, **logps: Array) -> Arrays:
    """Each token under the advantage of its sequence."""
    trainer = _grpo_trainer("grpo", beta=beta, epsilon_low=clip_low, epsilon_high=clip_high)
    fixed = logps["old_logps"], logps["reference_logps"], tape.spread(advantages, mask), mask
    return _surrogate(trainer, logps["logps"], *fixed)


def _reduction(loss_type: str) -> Operation:
    """GRPOTrainer's mean of given token losses and its slope in them: at ratio 1 a loss is minus its advantage."""

    def operation(*, token_losses: Array, mask: Array, max_length: int | None = None) -> Arrays:
        losses = torch.tensor(token_losses, requires_grad=True)
        trainer = _grpo_trainer(loss_type, max_completion_length=max_length)
        loss = _grpo_loss(trainer, torch.zeros_like(losses), -losses, torch.tensor(mask).long())
        return tape.numpy(loss=loss, weights=torch.autograd.grad(loss, losses)[0])

    return operation


sequence_mean = _reduction("grpo")
token_mean = _reduction("bnpo")  # which counts the tokens of its batch; dapo is told their number
constant_mean = _reduction("dr_grpo")


def _advantages(kind: type, config: type, generated: Callable[[Any, Any], tuple], **settings: Any) -> Operation:
    """_generate_and_score_completions of N groups of G completions whose reward function answers rewards [N,G], in float32.

    The config is a real one: that is where TRL refuses groups of one. `generated`: what _generate returns for ids and texts.
    """
    plain = settings | {"reward_clip_range": None, "normalize_advantages": False, "num_iterations": 1, "beta": 0.0}
    plain |= {"multi_objective_aggregation": "sum_then_normalize", "reward_func_names": ["reward"]}
    plain |= {"reward_processing_classes": [None], "reward_weights": torch.ones(1)}
    plain |= dict.fromkeys(["environment_factories", "environments", "tools", "pad_to_multiple_of"])
    plain |= dict.fromkeys(["mask_truncated_completions", "use_vllm", "log_multimodal"], False)
    plain |= {"state": SimpleNamespace(global_step=0), "_tokenizer": SimpleNamespace(pad_token_id=0)}

    def operation(*, rewards: Array) -> Arrays:
        prompts, group = rewards.shape
        count = prompts * group
        batches = {"per_device_train_batch_size": count, "per_device_eval_batch_size": count}
        arguments = config(num_generations=group, use_cpu=True, bf16=False, report_to=[], **batches)
        logged: Any = defaultdict(list, {"rewards": defaultdict(list)})
        logs = {"_pending_extra_logs": {}, "_pending_metrics": {}, "_logs": logged}
        trainer = _trainer(kind, **plain, **logs, args=arguments, num_generations_eval=group)
        trainer.model = _Model(_scored(torch.zeros(count, 1)))
        trainer.reward_funcs = [lambda **_: rewards.ravel().tolist()]
        trainer._generate = lambda texts: generated([[0]] * count, texts)
        scored = trainer._generate_and_score_completions([{"prompt": ""}] * count)
        advantages = scored["advantages"].numpy().reshape(rewards.shape)
        return {"advantages": advantages.astype(np.result_type(rewards, advantages))}

    return operation


def _grpo_generated(ids: list[list[int]], texts: list[str]) -> tuple:
    """Without tools, sampler log-probs or images."""
    return ids, ids, None, texts, None, None, None, None


advantages_grpo = _advantages(GRPOTrainer, GRPOConfig, _grpo_generated, scale_rewards="group")
advantages_dr_grpo = _advantages(GRPOTrainer, GRPOConfig, _grpo_generated, scale_rewards="none")
advantages_rloo = _advantages(RLOOTrainer, RLOOConfig, lambda ids, texts: (ids, ids, texts))


def overlong_penalty(*, lengths: Array, max_length: int, cache_length: int) -> Arrays:
    """TRL asks each completion for its length alone: a range has one, and no tokens."""
    punishment = get_soft_overlong_punishment(max_length, cache_length)
    return {"penalties": np.array(punishment([range(length) for length in lengths]), np.float64)}


# Whole models


gpt_logits, preference_step = trl_models.gpt_logits, trl_models.preference_step
