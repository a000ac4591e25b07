"""TRL behind the judge: every number comes out of TRL's own code, values and gradients by its own autograd.

Written for TRL 1.16.0 (requirements-trl.txt) and started as `python -m verify.child verify.peers.trl`: by its
path it would be imported as trl and stand in TRL's place. An operation is here if TRL computes it; no formula
is. Each function feeds stub models and small batches to a real trainer, made without its constructor:

    bradley_terry            RewardTrainer.compute_loss, margin in the batch
    dpo, cdpo                DPOTrainer._compute_loss, loss type sigmoid
    robust_dpo               DPOTrainer._compute_loss, loss type robust
    rso_hinge                DPOTrainer._compute_loss, loss type hinge
    ipo_length_normalized    DPOTrainer._compute_loss, loss type ipo
    kto                      KTOTrainer._compute_loss, loss type kto
    kto_reference_point      KTOTrainer._compute_loss, its metric kl
    orpo                     experimental.orpo.ORPOTrainer.get_batch_loss_metrics
    simpo                    experimental.cpo.CPOTrainer.get_batch_loss_metrics, loss type simpo, cpo_alpha 0
    sequence_logps           experimental.cpo.CPOTrainer.get_batch_logps
    linear_sequence_logps    trainer.utils.add_fused_lm_head, the loss of the model it patches
    ppo_policy, grpo         GRPOTrainer._compute_loss, loss type grpo, one token a call
    sequence_mean            GRPOTrainer._compute_loss, loss type grpo
    token_mean               GRPOTrainer._compute_loss, loss type bnpo
    constant_mean            GRPOTrainer._compute_loss, loss type dr_grpo
    advantages_grpo          GRPOTrainer._generate_and_score_completions, scale_rewards group
    advantages_dr_grpo       GRPOTrainer._generate_and_score_completions, scale_rewards none
    advantages_rloo          RLOOTrainer._generate_and_score_completions
    overlong_penalty         rewards.get_soft_overlong_punishment

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
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional
from trl import (
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOTrainer,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    __version__,
)
from trl.experimental.cpo import CPOTrainer, cpo_trainer
from trl.experimental.orpo import ORPOTrainer, orpo_trainer
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.utils import add_fused_lm_head

NAME, VERSION = "trl", __version__

Array = np.ndarray
Outputs = dict[str, Array]

PAIR = ("losses", "grad_policy_chosen_logps", "grad_policy_rejected_logps")


# Level 1: losses on log-probabilities


def bradley_terry(*, chosen_rewards: Array, rejected_rewards: Array, margin: float) -> Outputs:
    """RewardTrainer.compute_loss: the model's scores are the rewards, the batch brings the margin."""
    trainer = _trainer(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=None))

    def example(rewards: Tensor) -> list[float]:
        model = _Model(SimpleNamespace(logits=rewards[:, None]))
        loss = trainer.compute_loss(model, {"margin": margin})
        return [loss.item(), *_gradient(loss, rewards)]

    rows = [example(_leaf(pair)) for pair in np.stack([chosen_rewards, rejected_rewards], axis=1)]
    return _columns(("losses", "grad_chosen_rewards", "grad_rejected_rewards"), rows, chosen_rewards.dtype)


def dpo(*, beta: float, **logps: Array) -> Outputs:
    """Loss type sigmoid."""
    return _direct("sigmoid", logps, beta=beta, label_smoothing=0.0)


def cdpo(*, beta: float, label_smoothing: float, **logps: Array) -> Outputs:
    """Loss type sigmoid with TRL's option of the same name."""
    return _direct("sigmoid", logps, beta=beta, label_smoothing=label_smoothing)


def robust_dpo(*, beta: float, label_smoothing: float, **logps: Array) -> Outputs:
    """Loss type robust."""
    return _direct("robust", logps, beta=beta, label_smoothing=label_smoothing)


def rso_hinge(*, beta: float, **logps: Array) -> Outputs:
    """Loss type hinge."""
    return _direct("hinge", logps, beta=beta, label_smoothing=0.0)


def ipo_length_normalized(*, chosen_lengths: Array, rejected_lengths: Array, beta: float, **logps: Array) -> Outputs:
    """Loss type ipo; the lengths are what TRL counts in completion_mask."""
    lengths = np.stack([chosen_lengths, rejected_lengths], axis=1)
    return _direct("ipo", logps, lengths, beta=beta, label_smoothing=0.0)


def kto(*, policy_logps: Array, reference_logps: Array, desirable: Array, reference_point: float, **plain: float) -> Outputs:
    """One completion a call, beside a mismatched one whose log-ratio, z0, is the reference point."""
    trainer = _kto_trainer(**plain)

    def example(policy: Tensor, reference: Tensor, label: bool) -> list[float]:
        point = torch.full_like(reference, reference_point)
        loss = _kto_loss(trainer, (policy, reference), (point, torch.zeros_like(point)), label)
        reward = _metric(trainer, "rewards/chosen" if label else "rewards/rejected")
        return [loss.item(), *_gradient(loss, policy), reward]

    examples = np.stack([policy_logps, reference_logps, desirable], axis=1)
    rows = [example(_leaf([policy]), _tensor([fixed]), bool(label)) for policy, fixed, label in examples]
    return _columns(("losses", "grad_policy_logps", "rewards"), rows, policy_logps.dtype)


def kto_reference_point(*, policy_mismatched_logps: Array, reference_mismatched_logps: Array) -> Outputs:
    """The metric kl is the point that TRL's loss subtracts; the completion beside it does not matter."""
    trainer = _kto_trainer(beta=1.0, desirable_weight=1.0, undesirable_weight=1.0)
    mismatched = _tensor(policy_mismatched_logps), _tensor(reference_mismatched_logps)
    _kto_loss(trainer, (torch.zeros(1), torch.zeros(1)), mismatched, True)
    return {"reference_point": np.array(_metric(trainer, "kl"), policy_mismatched_logps.dtype)}


def orpo(*, odds_weight: float, **pairs: Array) -> Outputs:
    """What the contract calls log_odds_ratio, TRL logs as log_odds_chosen.

    TRL's NLL term also counts each prompt token but the first: of a prompt of one token, none.
    """
    trainer = _trainer(ORPOTrainer, beta=odds_weight, is_encoder_decoder=False, padding_value=0)

    def example(logps: Tensor, lengths: Array) -> list[float]:
        loss, metrics = _from_logits(orpo_trainer, trainer, logps, lengths)
        return [loss.item(), *_gradient(loss, logps), metrics["log_odds_chosen"]]

    return _columns((*PAIR, "log_odds_ratio"), *_map_pairs(example, **pairs))


def simpo(*, beta: float, gamma: float, **pairs: Array) -> Outputs:
    """TRL too takes the absolute gamma, as simpo_gamma, and divides it by beta."""
    plain = {"loss_type": "simpo", "cpo_alpha": 0.0, "alpha": 0.0, "label_smoothing": 0.0}
    trainer = _trainer(CPOTrainer, **plain, is_encoder_decoder=False, pad_token_id=0)
    vars(trainer).update(beta=beta, simpo_gamma=gamma)

    def example(logps: Tensor, lengths: Array) -> list[float]:
        loss, _ = _from_logits(cpo_trainer, trainer, logps, lengths)
        return [loss.item(), *_gradient(loss, logps)]

    return _columns(PAIR, *_map_pairs(example, **pairs))


# Level 2: sequences, on-policy pieces, aggregation


def sequence_logps(*, logits: Array, tokens: Array, response_mask: Array) -> Outputs:
    """Labels are -100 outside the response. Log-probs of 1 sum to TRL's count of it, the length."""
    leaf, labels = _leaf(logits), _labels(tokens, response_mask)
    logps = CPOTrainer.get_batch_logps(leaf, labels)
    with patch.object(cpo_trainer, "selective_log_softmax", _given_log_softmax):
        lengths = CPOTrainer.get_batch_logps(torch.ones(*labels.shape, 1), labels)
    (gradient,) = torch.autograd.grad(logps.sum(), leaf)
    outputs = {"logps": logps.detach(), "lengths": lengths.long(), "grad_logits": gradient}
    return {name: values.numpy() for name, values in outputs.items()}


def linear_sequence_logps(*, hidden: Array, weight: Array, tokens: Array, response_mask: Array) -> Outputs:
    """The head that TRL fuses into the models it trains: minus the loss of one row, divided by one item."""
    states, head, labels = _leaf(hidden), _leaf(weight), _labels(tokens, response_mask)

    def row(hidden_row: Tensor, labels_row: Tensor) -> tuple[Tensor, Tensor]:
        model = _LinearModel(hidden_row[None], head)
        add_fused_lm_head(model)
        output = model.forward(labels=labels_row[None], fused_lm_head=True, num_items_in_batch=1)
        return -output.loss, output.label_mask.sum()

    rows = [row(*pair) for pair in zip(states, labels, strict=True)]
    logps, lengths = (torch.stack(column) for column in zip(*rows, strict=True))
    gradients = torch.autograd.grad(logps.sum(), (states, head))
    outputs = {"logps": logps.detach().to(states.dtype), "lengths": lengths}
    outputs |= dict(zip(("grad_hidden", "grad_weight"), gradients, strict=True))
    return {name: values.numpy() for name, values in outputs.items()}


def ppo_policy(*, clip_low: float, clip_high: float, **tokens: Array) -> Outputs:
    """GRPO without its KL term is PPO's clipped surrogate."""
    trainer = _grpo_trainer("grpo", beta=0.0, epsilon_low=clip_low, epsilon_high=clip_high)
    return _surrogate(trainer, **tokens, reference_logps=np.zeros_like(tokens["logps"]))


def grpo(*, clip_low: float, clip_high: float, beta: float, advantages: Array, **tokens: Array) -> Outputs:
    """Each token under the advantage of its sequence."""
    trainer = _grpo_trainer("grpo", beta=beta, epsilon_low=clip_low, epsilon_high=clip_high)
    per_token = np.repeat(advantages[:, None], tokens["logps"].shape[1], axis=1)
    return _surrogate(trainer, **tokens, advantages=per_token)


def sequence_mean(*, token_losses: Array, mask: Array) -> Outputs:
    """The reduction of loss type grpo."""
    return _reduction(_grpo_trainer("grpo"), token_losses, mask)


def token_mean(*, token_losses: Array, mask: Array) -> Outputs:
    """The reduction of loss type bnpo, which counts the tokens of its batch; dapo is told their number."""
    return _reduction(_grpo_trainer("bnpo"), token_losses, mask)


def constant_mean(*, token_losses: Array, mask: Array, max_length: int) -> Outputs:
    """The reduction of loss type dr_grpo."""
    return _reduction(_grpo_trainer("dr_grpo", max_completion_length=max_length), token_losses, mask)


def advantages_grpo(*, rewards: Array) -> Outputs:
    """TRL computes in float32, whatever the rewards."""
    summed = {"multi_objective_aggregation": "sum_then_normalize", "scale_rewards": "group"}
    return _advantages(GRPOTrainer, GRPOConfig, rewards, _grpo_generated, **summed)


def advantages_dr_grpo(*, rewards: Array) -> Outputs:
    """TRL computes in float32, whatever the rewards."""
    summed = {"multi_objective_aggregation": "sum_then_normalize", "scale_rewards": "none"}
    return _advantages(GRPOTrainer, GRPOConfig, rewards, _grpo_generated, **summed)


def advantages_rloo(*, rewards: Array) -> Outputs:
    """TRL computes in float32, whatever the rewards."""
    plain = {"reward_clip_range": None, "normalize_advantages": False}
    return _advantages(RLOOTrainer, RLOOConfig, rewards, _rloo_generated, **plain)


def overlong_penalty(*, lengths: Array, max_length: int, cache_length: int) -> Outputs:
    """TRL asks each completion for its length alone: a range has one, and no tokens."""
    punishment = get_soft_overlong_punishment(max_length, cache_length)
    return {"penalties": np.array(punishment([range(length) for length in lengths]), np.float64)}


# Trainers without their constructors, and what is fed to them


class _Model:
    """A model in eval mode that answers its calls, whatever they ask, with the given outputs in turn."""

    training = False
    is_gradient_checkpointing = False

    def __init__(self, *outputs: SimpleNamespace) -> None:
        self.outputs = iter(outputs)

    def __call__(self, *_: Any, **__: Any) -> SimpleNamespace:
        return next(self.outputs)


class _LinearModel:
    """What add_fused_lm_head asks of a language model: hidden states [1,T,D], its head's weight [V,D]."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.config = SimpleNamespace(get_text_config=SimpleNamespace)
        self.base_model = lambda **_: SimpleNamespace(last_hidden_state=hidden)
        self.get_output_embeddings = lambda: SimpleNamespace(weight=weight, bias=None)

    def forward(self, **_: Any) -> Any:
        """Replaced by add_fused_lm_head."""


def _trainer(kind: type, **attributes: Any) -> Any:
    """A trainer that has only what its loss reads; in eval mode, where no loss is divided by steps."""
    trainer: Any = object.__new__(kind)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    counters = {"_metrics": {"eval": defaultdict(list)}, "_total_train_tokens": 0}
    vars(trainer).update(model=_Model(), accelerator=accelerator, aux_loss_enabled=False, **counters)
    vars(trainer).update(attributes)
    return trainer


def _metric(trainer: Any, name: str) -> float:
    """The value that the trainer logged last under this name."""
    return trainer._metrics["eval"][name][-1]


def _tensor(values: Any) -> Tensor:
    """A tensor of the values' dtype that shares no memory with them."""
    return torch.tensor(np.array(values))


def _leaf(values: Any) -> Tensor:
    """A tensor of the values' dtype to differentiate by."""
    return _tensor(values).requires_grad_()


def _gradient(loss: Tensor, leaf: Tensor) -> list[float]:
    """d loss / d leaf, one number for each entry of a leaf of rank 1."""
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient.tolist()


def _columns(names: tuple[str, ...], rows: list[list[float]], dtype: np.dtype) -> Outputs:
    """Answers of N examples, a row each, as named arrays [N]."""
    table = np.array(rows, dtype).reshape(-1, len(names))
    return {name: table[:, column].copy() for column, name in enumerate(names)}


def _labels(tokens: Array, response_mask: Array) -> Tensor:
    """Tokens where the mask is true, -100 elsewhere."""
    labels = np.full(response_mask.shape, -100)
    labels[response_mask] = tokens[response_mask]
    return _tensor(labels)


def _sequences(lengths: Array) -> dict[str, Tensor]:
    """Token ids and masks [rows, 1 + longest]: one prompt token, then response tokens, then padding."""
    position, end = torch.arange(1 + max(lengths)), _tensor(lengths)[:, None]
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


def _direct(loss_type: str, logps: Outputs, lengths: Array | None = None, **settings: float) -> Outputs:
    """DPOTrainer._compute_loss, one pair a call, reference log-probs precomputed; it logs the rewards."""
    plain = {"f_divergence_type": "reverse_kl", "ld_alpha": None, "use_weighting": False}
    losses = {"loss_types": [loss_type], "loss_weights": [1.0], "precompute_ref_logps": True}
    trainer = _trainer(DPOTrainer, **plain, **losses, **settings)

    def example(policy: Tensor, reference: Tensor, counts: Array) -> list[float]:
        references = {"ref_chosen_logps": reference[:1], "ref_rejected_logps": reference[1:]}
        model = _Model(_scored(_token_logps(policy, counts)))
        loss = trainer._compute_loss(model, _sequences(counts) | references, return_outputs=False)
        rewards = _metric(trainer, "rewards/chosen"), _metric(trainer, "rewards/rejected")
        return [loss.item(), *_gradient(loss, policy), *rewards]

    policy = np.stack([logps["policy_chosen_logps"], logps["policy_rejected_logps"]], axis=1)
    reference = np.stack([logps["reference_chosen_logps"], logps["reference_rejected_logps"]], axis=1)
    examples = zip(policy, reference, np.ones(policy.shape, int) if lengths is None else lengths, strict=True)
    rows = [example(_leaf(pair), _tensor(fixed), counts) for pair, fixed, counts in examples]
    return _columns((*PAIR, "chosen_rewards", "rejected_rewards"), rows, policy.dtype)


def _kto_trainer(**settings: float) -> Any:
    return _trainer(KTOTrainer, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **settings)


def _kto_loss(trainer: Any, completion: tuple[Tensor, Tensor], mismatched: tuple[Tensor, Tensor], desirable: bool) -> Tensor:
    """One completion and M mismatched ones, each as (policy, reference); TRL scores the latter first."""
    model = _Model(_scored(mismatched[0][:, None]), _scored(completion[0][:, None]))
    others = {f"KL_{name}": value for name, value in _sequences(np.ones(len(mismatched[0]), int)).items()}
    references = {"ref_logps": completion[1], "ref_KL_logps": mismatched[1]}
    batch = _sequences(np.ones(1, int)) | others | references | {"label": torch.tensor([desirable])}
    return trainer._compute_loss(model, batch, return_outputs=False)


def _map_pairs(
    example: Callable[[Tensor, Array], list[float]],
    *,
    policy_chosen_logps: Array,
    policy_rejected_logps: Array,
    chosen_lengths: Array,
    rejected_lengths: Array,
) -> tuple[list[list[float]], np.dtype]:
    """`example` of each pair: of its log-probs [2], a leaf, and its lengths [2]."""
    logps = np.stack([policy_chosen_logps, policy_rejected_logps], axis=1)
    lengths = np.stack([chosen_lengths, rejected_lengths], axis=1)
    return [example(_leaf(pair), counts) for pair, counts in zip(logps, lengths, strict=True)], logps.dtype


def _given_log_softmax(logits: Tensor, index: Tensor) -> Tensor:
    """The log-softmax of logits that already are log-probs, the response's in their only column."""
    return logits[..., 0]


def _from_logits(module: Any, trainer: Any, logps: Tensor, lengths: Array) -> tuple[Tensor, dict]:
    """get_batch_loss_metrics on one pair, logits [2, 1 + longest, 1]; position t predicts token t + 1."""
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
        return trainer.get_batch_loss_metrics(model, batch, "train")


def _grpo_trainer(loss_type: str, **settings: float) -> Any:
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


def _surrogate(
    trainer: Any, *, logps: Array, old_logps: Array, reference_logps: Array, advantages: Array, mask: Array
) -> Outputs:
    """Losses, slopes and clipping of B x T tokens, each the only token of a completion padded to two.

    Padded because TRL's clipping metric does not look at the mask of a batch that is one token wide.
    """

    def token(logp: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, counts: Tensor) -> list[float]:
        padded = [functional.pad(value[None], (0, 1)) for value in (logp, old, reference, counts.long())]
        fixed = {"old_per_token_logps": padded[1], "ref_per_token_logps": padded[2]}
        loss = _grpo_loss(trainer, padded[0], advantage, padded[3], **fixed)
        return [loss.item(), *_gradient(loss, logp), _metric(trainer, "clip_ratio/region_mean")]

    tokens = np.stack([logps, old_logps, reference_logps, advantages, mask], axis=-1).reshape(-1, 5)
    rows = [token(_leaf(numbers[:1]), *_tensor(numbers[1:, None])) for numbers in tokens]
    flat = _columns(("token_losses", "grad_logps", "clipped"), rows, logps.dtype)
    shaped = {name: values.reshape(logps.shape) for name, values in flat.items()}
    return shaped | {"clipped": shaped["clipped"] > 0}


def _reduction(trainer: Any, token_losses: Array, mask: Array) -> Outputs:
    """TRL's mean of given token losses and its slope in them: at ratio 1 a loss is minus its advantage."""
    losses = _leaf(token_losses)
    loss = _grpo_loss(trainer, torch.zeros_like(losses), -losses, _tensor(mask).long())
    (weights,) = torch.autograd.grad(loss, losses)
    return {"loss": loss.detach().numpy(), "weights": weights.numpy()}


def _grpo_generated(ids: list[list[int]], texts: list[str]) -> tuple:
    """What GRPOTrainer._generate returns where there are no tools, sampler log-probs or images."""
    return ids, ids, None, texts, None, None, None, None


def _rloo_generated(ids: list[list[int]], texts: list[str]) -> tuple:
    return ids, ids, texts


def _advantages(kind: type, config: type, rewards: Array, generated: Callable[..., tuple], **settings: Any) -> Outputs:
    """What the trainer makes of N groups of G completions whose reward function answers rewards [N,G].

    Its config is a real one: that is where TRL refuses groups of one.
    """
    prompts, group = rewards.shape
    count = prompts * group
    batches = {"per_device_train_batch_size": count, "per_device_eval_batch_size": count}
    arguments = config(num_generations=group, use_cpu=True, bf16=False, report_to=[], **batches)
    settings |= {"args": arguments, "num_iterations": 1, "num_generations_eval": group, "beta": 0.0}
    trainer = _trainer(kind, **settings)
    scoring = {"reward_funcs": [lambda **_: rewards.ravel().tolist()], "reward_func_names": ["reward"]}
    scoring |= {"reward_processing_classes": [None], "reward_weights": torch.ones(1)}
    absent = dict.fromkeys(["environment_factories", "environments", "tools", "pad_to_multiple_of"])
    off = dict.fromkeys(["mask_truncated_completions", "use_vllm", "log_multimodal"], False)
    logs: dict[str, Any] = {"_pending_extra_logs": {}, "_pending_metrics": {}, "_logs": defaultdict(list)}
    logs["_logs"]["rewards"] = defaultdict(list)
    vars(trainer).update(scoring | absent | off | logs, model=_Model(_scored(torch.zeros(count, 1))))
    vars(trainer).update(state=SimpleNamespace(global_step=0), _tokenizer=SimpleNamespace(pad_token_id=0))
    trainer._generate = lambda texts: generated([[0]] * count, texts)
    scored = trainer._generate_and_score_completions([{"prompt": ""}] * count)
    advantages = scored["advantages"].numpy().reshape(rewards.shape)
    return {"advantages": advantages.astype(np.result_type(rewards, advantages))}
