"""TRL behind the judge: every number comes out of TRL's own code, values and gradients by its own autograd.

Written for TRL 1.16.0. An operation of the contract is here if TRL computes it; no formula of a method is. Each
function hands stub models and one-example batches to a method of a real trainer, made without its constructor:

| operation | code that answers |
|---|---|
| bradley_terry | `RewardTrainer.compute_loss`, `margin` in the batch |
| dpo, cdpo, robust_dpo, rso_hinge | `DPOTrainer._compute_loss`, loss types sigmoid, sigmoid, robust, hinge |
| ipo_length_normalized | `DPOTrainer._compute_loss`, loss type ipo |
| kto, kto_reference_point | `KTOTrainer._compute_loss`, loss type kto; the point is the metric `kl` |
| orpo | `experimental.orpo.ORPOTrainer.get_batch_loss_metrics` |
| simpo | `experimental.cpo.CPOTrainer.get_batch_loss_metrics`, loss type simpo, cpo_alpha 0 |
| sequence_logps | `experimental.cpo.CPOTrainer.get_batch_logps` |
| linear_sequence_logps | the model patched by `trainer.utils.add_fused_lm_head`, its `loss` |
| ppo_policy, grpo | `GRPOTrainer._compute_loss`, loss type grpo, one token a call |
| sequence_mean, token_mean, constant_mean | `GRPOTrainer._compute_loss`, loss types grpo, bnpo, dr_grpo |
| advantages_grpo, advantages_dr_grpo | `GRPOTrainer._generate_and_score_completions`, scale_rewards group, none |
| advantages_rloo | `RLOOTrainer._generate_and_score_completions` |
| overlong_penalty | `rewards.get_soft_overlong_punishment` |

Not here, because TRL has no such code: IPO on token sums, SPPO with soft win rates, k1 and k2 as losses, GAE, the value
loss, RSO's sampling, Plackett-Luce. Nothing is checked that TRL does not check.

What the stubs fix. A sequence is one prompt token and n response tokens; the first carries the whole log-probability
and the others 0, so that TRL's sum over tokens is the input to the last bit. DPO, KTO and GRPO read token log-probs
from the model. ORPO and CPO read logits, and no log-softmax returns a given log-prob to the last bit: there the stub
emits log-probabilities, whose log-softmax is themselves, and `selective_log_softmax` hands them through.
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
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer, RLOOTrainer, __version__
from trl.experimental.cpo import CPOTrainer, cpo_trainer
from trl.experimental.orpo import ORPOTrainer, orpo_trainer
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.utils import add_fused_lm_head

Array = np.ndarray
Outputs = dict[str, Array]

VERSION = __version__
ACCELERATOR = Accelerator(cpu=True, mixed_precision="no")
PAIR = ("losses", "grad_policy_chosen_logps", "grad_policy_rejected_logps")
SUMMED = {"multi_objective_aggregation": "sum_then_normalize"}
REWARDS = ("chosen_rewards", "rejected_rewards")


# Level 1: losses on log-probabilities


def bradley_terry(*, chosen_rewards: Array, rejected_rewards: Array, margin: float) -> Outputs:
    """`RewardTrainer.compute_loss`: the model's scores are the rewards, the batch brings the margin."""
    trainer = _trainer(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=None))

    def example(rewards: Tensor) -> list[float]:
        model = _Model(SimpleNamespace(logits=rewards[:, None]))
        loss = trainer.compute_loss(model, {"margin": margin})
        return [loss.item(), *_gradient(loss, rewards)]

    rows = [example(_leaf(pair)) for pair in np.stack([chosen_rewards, rejected_rewards], axis=1)]
    return _columns(("losses", "grad_chosen_rewards", "grad_rejected_rewards"), rows, chosen_rewards.dtype)


def dpo(*, beta: float, **logps: Array) -> Outputs:
    """`DPOTrainer._compute_loss`, loss type sigmoid."""
    return _direct("sigmoid", logps, beta=beta, label_smoothing=0.0)


def cdpo(*, beta: float, label_smoothing: float, **logps: Array) -> Outputs:
    """The same loss type: TRL has no other use of its label_smoothing on DPO's loss."""
    return _direct("sigmoid", logps, beta=beta, label_smoothing=label_smoothing)


def robust_dpo(*, beta: float, label_smoothing: float, **logps: Array) -> Outputs:
    """`DPOTrainer._compute_loss`, loss type robust."""
    return _direct("robust", logps, beta=beta, label_smoothing=label_smoothing)


def rso_hinge(*, beta: float, **logps: Array) -> Outputs:
    """`DPOTrainer._compute_loss`, loss type hinge."""
    return _direct("hinge", logps, beta=beta, label_smoothing=0.0)


def ipo_length_normalized(*, chosen_lengths: Array, rejected_lengths: Array, beta: float, **logps: Array) -> Outputs:
    """`DPOTrainer._compute_loss`, loss type ipo; lengths are what TRL counts in `completion_mask`."""
    lengths = np.stack([chosen_lengths, rejected_lengths], axis=1)
    return _direct("ipo", logps, lengths, beta=beta, label_smoothing=0.0)


def kto(
    *,
    policy_logps: Array,
    reference_logps: Array,
    desirable: Array,
    reference_point: float,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Outputs:
    """`KTOTrainer._compute_loss`, one completion a call; a mismatched log-ratio of z0 gives the reference point z0."""
    trainer = _kto_trainer(beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)

    def example(policy: Tensor, reference: Tensor, label: bool) -> list[float]:
        point = torch.full_like(reference, reference_point)
        loss = _kto_loss(trainer, (policy, reference), (point, torch.zeros_like(point)), label)
        reward = _metric(trainer, "rewards/chosen" if label else "rewards/rejected")
        return [loss.item(), *_gradient(loss, policy), reward]

    examples = zip(policy_logps, reference_logps, desirable, strict=True)
    rows = [example(_leaf([policy]), torch.tensor([ref]), bool(label)) for policy, ref, label in examples]
    return _columns(("losses", "grad_policy_logps", "rewards"), rows, policy_logps.dtype)


def kto_reference_point(*, policy_mismatched_logps: Array, reference_mismatched_logps: Array) -> Outputs:
    """`KTOTrainer._compute_loss`: the metric `kl` that it logs is the point that its loss subtracts."""
    trainer = _kto_trainer(beta=1.0, desirable_weight=1.0, undesirable_weight=1.0)
    mismatched = (torch.tensor(policy_mismatched_logps), torch.tensor(reference_mismatched_logps))
    _kto_loss(trainer, (torch.zeros(1), torch.zeros(1)), mismatched, True)
    return {"reference_point": np.array(_metric(trainer, "kl"), policy_mismatched_logps.dtype)}


def orpo(*, odds_weight: float, **pairs: Array) -> Outputs:
    """`ORPOTrainer.get_batch_loss_metrics`; what the contract calls the log odds ratio TRL logs as log_odds_chosen.

    TRL's NLL term also counts every prompt token but the first: the stub's one-token prompt leaves the response alone.
    """
    trainer = _trainer(ORPOTrainer, beta=odds_weight, is_encoder_decoder=False, padding_value=0)

    def example(logps: Tensor, lengths: Array) -> list[float]:
        tokens = _token_logps(logps, lengths)
        rest_of_vocabulary = torch.log(-torch.expm1(tokens))
        logits = torch.stack([tokens, rest_of_vocabulary], dim=-1)
        loss, metrics = _from_logits(orpo_trainer, trainer, logits, lengths)
        return [loss.item(), *_gradient(loss, logps), metrics["log_odds_chosen"]]

    return _columns((*PAIR, "log_odds_ratio"), *_map_pairs(example, **pairs))


def simpo(*, beta: float, gamma: float, **pairs: Array) -> Outputs:
    """`CPOTrainer.get_batch_loss_metrics`, loss type simpo; TRL takes the absolute gamma and divides it by beta."""
    simpo_only = {"loss_type": "simpo", "cpo_alpha": 0.0, "alpha": 0.0, "label_smoothing": 0.0}
    settings = {"is_encoder_decoder": False, "pad_token_id": 0}
    trainer = _trainer(CPOTrainer, beta=beta, simpo_gamma=gamma, **simpo_only, **settings)

    def example(logps: Tensor, lengths: Array) -> list[float]:
        logits = _token_logps(logps, lengths)[..., None]
        loss, _ = _from_logits(cpo_trainer, trainer, logits, lengths)
        return [loss.item(), *_gradient(loss, logps)]

    return _columns(PAIR, *_map_pairs(example, **pairs))


# Level 2: sequences, on-policy pieces, aggregation


def sequence_logps(*, logits: Array, tokens: Array, response_mask: Array) -> Outputs:
    """`CPOTrainer.get_batch_logps` on labels that are -100 outside the response, shifted there.

    The lengths come from the same code: token log-probs of 1 sum to TRL's count of the response.
    """
    leaf, labels = _leaf(logits), torch.tensor(np.where(response_mask, tokens, -100))
    logps = CPOTrainer.get_batch_logps(leaf, labels)
    with patch.object(cpo_trainer, "selective_log_softmax", _given_log_softmax):
        lengths = CPOTrainer.get_batch_logps(torch.ones(*labels.shape, 1), labels)
    logps.sum().backward()
    return {"logps": logps.detach().numpy(), "lengths": lengths.long().numpy(), "grad_logits": leaf.grad.numpy()}


def linear_sequence_logps(*, hidden: Array, weight: Array, tokens: Array, response_mask: Array) -> Outputs:
    """The head that TRL fuses into every model it trains: minus its `loss`, one row and one divided item a call."""
    states, head = _leaf(hidden), _leaf(weight)
    labels = torch.tensor(np.where(response_mask, tokens, -100))
    logps, lengths = [], []
    for row in range(len(labels)):
        model = _LinearModel(states[row : row + 1], head)
        add_fused_lm_head(model)  # type: ignore[arg-type]
        output = model.forward(labels=labels[row : row + 1], fused_lm_head=True, num_items_in_batch=1)
        (-output.loss).backward()
        logps.append(-output.loss.item())
        lengths.append(output.label_mask.sum().item())
    gradients = {"grad_hidden": states.grad.numpy(), "grad_weight": head.grad.numpy()}
    return {"logps": np.array(logps, hidden.dtype), "lengths": np.array(lengths), **gradients}


def ppo_policy(
    *, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float
) -> Outputs:
    """`GRPOTrainer._compute_loss` without a KL term: the clipped surrogate of PPO, token by token."""
    trainer = _grpo_trainer("grpo", beta=0.0, epsilon_low=clip_low, epsilon_high=clip_high)
    return _surrogate(trainer, logps, old_logps, np.zeros_like(logps), advantages, mask)


def grpo(
    *,
    logps: Array,
    old_logps: Array,
    reference_logps: Array,
    advantages: Array,
    mask: Array,
    clip_low: float,
    clip_high: float,
    beta: float,
) -> Outputs:
    """`GRPOTrainer._compute_loss`, loss type grpo, each token under its sequence's advantage."""
    trainer = _grpo_trainer("grpo", beta=beta, epsilon_low=clip_low, epsilon_high=clip_high)
    per_token = np.broadcast_to(advantages[:, None], logps.shape)
    return _surrogate(trainer, logps, old_logps, reference_logps, per_token, mask)


def sequence_mean(*, token_losses: Array, mask: Array) -> Outputs:
    """The reduction of GRPO's loss type grpo."""
    return _reduction(_grpo_trainer("grpo"), token_losses, mask)


def token_mean(*, token_losses: Array, mask: Array) -> Outputs:
    """The reduction of GRPO's loss type bnpo, which counts the tokens of the batch at hand (dapo is told a number)."""
    return _reduction(_grpo_trainer("bnpo"), token_losses, mask)


def constant_mean(*, token_losses: Array, mask: Array, max_length: int) -> Outputs:
    """The reduction of GRPO's loss type dr_grpo."""
    return _reduction(_grpo_trainer("dr_grpo", max_completion_length=max_length), token_losses, mask)


def advantages_grpo(*, rewards: Array) -> Outputs:
    """`GRPOTrainer._generate_and_score_completions`, scale_rewards group. TRL keeps rewards in float32."""
    return _advantages(GRPOTrainer, rewards, _grpo_generated, **SUMMED, scale_rewards="group")


def advantages_dr_grpo(*, rewards: Array) -> Outputs:
    """`GRPOTrainer._generate_and_score_completions`, scale_rewards none. TRL keeps rewards in float32."""
    return _advantages(GRPOTrainer, rewards, _grpo_generated, **SUMMED, scale_rewards="none")


def advantages_rloo(*, rewards: Array) -> Outputs:
    """`RLOOTrainer._generate_and_score_completions`, no normalization, no clip. TRL keeps rewards in float32."""
    plain = {"reward_clip_range": None, "normalize_advantages": False}
    return _advantages(RLOOTrainer, rewards, lambda ids, texts: (ids, ids, texts), **plain)


def overlong_penalty(*, lengths: Array, max_length: int, cache_length: int) -> Outputs:
    """`get_soft_overlong_punishment`, which takes the length of each completion; a range has one without tokens."""
    punishment = get_soft_overlong_punishment(max_length, cache_length)
    return {"penalties": np.array(punishment([range(length) for length in lengths]), np.float64)}


# Trainers without their constructors, and the stubs that feed them


class _Model:
    """A model in eval mode that answers its calls, whatever they ask, with the given outputs in turn."""

    training = False
    is_gradient_checkpointing = False

    def __init__(self, *outputs: SimpleNamespace) -> None:
        self.outputs = iter(outputs)

    def __call__(self, *_: Any, **__: Any) -> SimpleNamespace:
        return next(self.outputs)


def _trainer(kind: type, **attributes: Any) -> Any:
    """An instance of a TRL trainer that has only what its loss reads. In eval mode nothing is divided by steps."""
    trainer = object.__new__(kind)
    shared = {"model": _Model(), "accelerator": ACCELERATOR}
    counters = {"_metrics": {"eval": defaultdict(list)}, "_total_train_tokens": 0, "aux_loss_enabled": False}
    vars(trainer).update(shared | counters | attributes)
    return trainer


def _metric(trainer: Any, name: str) -> float:
    """The value that the trainer logged last under this name."""
    return trainer._metrics["eval"][name][-1]


def _leaf(values: Any) -> Tensor:
    """A tensor with a gradient, in the dtype of the values, that shares no memory with them."""
    return torch.tensor(np.array(values)).requires_grad_()


def _gradient(loss: Tensor, leaf: Tensor) -> list[float]:
    """d loss / d leaf by TRL's autograd graph, one number for each entry of a leaf of rank 1."""
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient.tolist()


def _columns(names: tuple[str, ...], rows: list[list[float]], dtype: np.dtype) -> Outputs:
    """Answers of N examples, one row each, as named arrays [N]."""
    table = np.array(rows, dtype).reshape(-1, len(names))
    return {name: table[:, column].copy() for column, name in enumerate(names)}


def _sequences(lengths: Array) -> dict[str, Tensor]:
    """Token ids and masks [rows, 1 + longest]: one prompt token, then as many response tokens as the length says."""
    position, end = torch.arange(1 + max(lengths)), torch.tensor(lengths)[:, None]
    attention, completion = position <= end, (position >= 1) & (position <= end)
    return {
        "input_ids": torch.zeros(attention.shape, dtype=torch.long),
        "attention_mask": attention.long(),
        "completion_mask": completion.long(),
    }


def _token_logps(logps: Tensor, lengths: Array) -> Tensor:
    """Token log-probs [rows, longest] whose sum over a row is logps[row] exactly: the first token carries it."""
    return functional.pad(logps[:, None], (0, max(lengths) - 1))


def _scored(token_logps: Tensor) -> SimpleNamespace:
    """What a model with TRL's fused head returns, all arrays [rows, T]; the last three are only logged."""
    nothing = torch.zeros_like(token_logps)
    return SimpleNamespace(
        log_probs=token_logps, entropy=nothing, mean_logits=nothing, is_top1=torch.zeros_like(nothing, dtype=torch.bool)
    )


def _direct(
    loss_type: str, logps: dict[str, Array], lengths: Array | None = None, *, beta: float, label_smoothing: float
) -> Outputs:
    """`DPOTrainer._compute_loss` on one pair a call, reference log-probs precomputed, rewards from its metrics."""
    divergence = {"f_divergence_type": "reverse_kl", "ld_alpha": None, "use_weighting": False}
    settings = {"loss_types": [loss_type], "loss_weights": [1.0], "precompute_ref_logps": True}
    trainer = _trainer(DPOTrainer, beta=beta, label_smoothing=label_smoothing, **divergence, **settings)

    def example(policy: Tensor, reference: Tensor, pair_lengths: Array) -> list[float]:
        references = {"ref_chosen_logps": reference[:1], "ref_rejected_logps": reference[1:]}
        model = _Model(_scored(_token_logps(policy, pair_lengths)))
        loss = trainer._compute_loss(model, _sequences(pair_lengths) | references, return_outputs=False)
        rewards = [_metric(trainer, "rewards/chosen"), _metric(trainer, "rewards/rejected")]
        return [loss.item(), *_gradient(loss, policy), *rewards]

    policy = np.stack([logps["policy_chosen_logps"], logps["policy_rejected_logps"]], axis=1)
    reference = np.stack([logps["reference_chosen_logps"], logps["reference_rejected_logps"]], axis=1)
    lengths = np.ones(policy.shape, int) if lengths is None else lengths
    examples = zip(policy, reference, lengths, strict=True)
    rows = [example(_leaf(pair), torch.tensor(fixed), count) for pair, fixed, count in examples]
    return _columns((*PAIR, *REWARDS), rows, policy.dtype)


def _kto_trainer(**settings: float) -> Any:
    return _trainer(KTOTrainer, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **settings)


def _kto_loss(
    trainer: Any, completion: tuple[Tensor, Tensor], mismatched: tuple[Tensor, Tensor], desirable: bool
) -> Tensor:
    """One completion and M mismatched ones, each as (policy, reference) log-probs; TRL scores the mismatched first."""
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
    """`example` of each pair, called with its log-probs [2], a leaf, and its lengths [2]."""
    logps = np.stack([policy_chosen_logps, policy_rejected_logps], axis=1)
    lengths = np.stack([chosen_lengths, rejected_lengths], axis=1)
    return [example(_leaf(pair), counts) for pair, counts in zip(logps, lengths, strict=True)], logps.dtype


def _given_log_softmax(logits: Tensor, index: Tensor) -> Tensor:
    """The log-softmax of logits that already are log-probabilities, those of the tokens drawn in column 0."""
    return logits[..., 0]


def _from_logits(module: Any, trainer: Any, logits: Tensor, lengths: Array) -> tuple[Tensor, dict[str, float]]:
    """`get_batch_loss_metrics` on one pair: logits [2, longest, V], of which position t predicts response token t."""
    batch: dict[str, Tensor] = {}
    for side, length in zip(("chosen", "rejected"), lengths, strict=True):
        sequence = _sequences(np.array([length]))
        labels = sequence["input_ids"].masked_fill(sequence["completion_mask"] == 0, -100)
        named = {"input_ids": sequence["input_ids"], "attention_mask": sequence["attention_mask"], "labels": labels}
        batch |= {f"{side}_{name}": value for name, value in named.items()}
    model = _Model(SimpleNamespace(logits=functional.pad(logits, (0, 0, 0, 1))))
    with patch.object(module, "selective_log_softmax", _given_log_softmax):
        return trainer.get_batch_loss_metrics(model, batch, "train")


class _LinearModel:
    """What `add_fused_lm_head` asks of a language model, with hidden states [1,T,D] given and head weight [V,D]."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.config = SimpleNamespace(get_text_config=SimpleNamespace)
        self.base_model = lambda **_: SimpleNamespace(last_hidden_state=hidden)
        self.get_output_embeddings = lambda: SimpleNamespace(weight=weight, bias=None)

    def forward(self, **_: Any) -> Any:
        """Replaced by `add_fused_lm_head`."""


def _grpo_trainer(loss_type: str, **settings: float) -> Any:
    """A GRPOTrainer whose loss is the clipped surrogate alone: no entropy bonus, no masking, token-level ratios."""
    off = {"top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "use_vllm": False}
    plain = {"importance_sampling_level": "token", "_entropy_bonus_enabled": False}
    arguments = SimpleNamespace(delta=None, use_bias_correction_kl=False)
    surrogate = {"beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2}
    return _trainer(GRPOTrainer, loss_type=loss_type, args=arguments, **off, **plain, **(surrogate | settings))


def _grpo_loss(
    trainer: Any, logps: Tensor, advantages: Tensor, mask: Tensor, fixed: dict[str, Tensor]
) -> Tensor:
    """`GRPOTrainer._compute_loss` on completions [rows, T] after a prompt of one token."""
    prompt = torch.zeros(len(mask), 1, dtype=torch.long)
    prompts = {"prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt)}
    completions = {"completion_ids": torch.zeros_like(mask), "completion_mask": mask, "advantages": advantages}
    return trainer._compute_loss(_Model(_scored(logps)), prompts | completions | fixed)


def _surrogate(
    trainer: Any, logps: Array, old_logps: Array, reference_logps: Array, advantages: Array, mask: Array
) -> Outputs:
    """Losses, gradients and clipping of B x T tokens, each the only token of a completion padded to two.

    The padding is there because TRL ignores the mask in its clipping metric when a batch is one token wide.
    """

    def token(logp: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, counts: bool) -> list[float]:
        pad = lambda value: functional.pad(value[None], (0, 1))  # noqa: E731
        fixed = {"old_per_token_logps": pad(old), "ref_per_token_logps": pad(reference)}
        loss = _grpo_loss(trainer, pad(logp), advantage, torch.tensor([[int(counts), 0]]), fixed)
        return [loss.item(), *_gradient(loss, logp), _metric(trainer, "clip_ratio/region_mean")]

    tokens = zip(*map(np.ravel, (logps, old_logps, reference_logps, advantages, mask)), strict=True)
    rows = [token(_leaf([x]), *(torch.tensor([y]) for y in fixed), counts) for x, *fixed, counts in tokens]
    flat = _columns(("token_losses", "grad_logps", "clipped"), rows, logps.dtype)
    shaped = {name: values.reshape(mask.shape) for name, values in flat.items()}
    return shaped | {"clipped": shaped["clipped"] > 0}


def _reduction(trainer: Any, token_losses: Array, mask: Array) -> Outputs:
    """TRL's mean of given token losses, and its slope in them: at ratio 1, a token's loss is minus its advantage."""
    losses, counted = _leaf(token_losses), torch.tensor(mask).long()
    loss = _grpo_loss(trainer, torch.zeros_like(losses), -losses, counted, {})
    loss.backward()
    return {"loss": loss.detach().numpy(), "weights": losses.grad.numpy()}


def _grpo_generated(ids: list[list[int]], texts: list[str]) -> tuple:
    """What `GRPOTrainer._generate` returns for completions without tools, sampler log-probs or images."""
    return ids, ids, None, texts, None, None, None, None


def _advantages(kind: type, rewards: Array, generated: Callable[[list, list], tuple], **settings: Any) -> Outputs:
    """What a trainer makes of N groups of G completions whose reward function answers `rewards`, [N,G]."""
    count, group = rewards.size, rewards.shape[1]
    steps = {"steps_per_generation": 1, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": count}
    arguments = SimpleNamespace(gradient_checkpointing_kwargs=None, report_to=[], **steps)
    rewarding = {"reward_funcs": [lambda **_: rewards.ravel().tolist()], "reward_weights": torch.ones(1)}
    naming = {"reward_func_names": ["reward"], "reward_processing_classes": [None]}
    absent = dict.fromkeys(["environment_factories", "environments", "tools", "pad_to_multiple_of"])
    off = dict.fromkeys(["mask_truncated_completions", "use_vllm", "log_multimodal"], False)
    logs = {"_logs": defaultdict(list, rewards=defaultdict(list)), "_pending_extra_logs": {}, "_pending_metrics": {}}
    progress = {"state": SimpleNamespace(global_step=0), "num_iterations": 1, "num_generations_eval": group}
    trainer = _trainer(kind, beta=0.0, args=arguments, **rewarding, **naming, **absent, **off, **logs, **progress)
    vars(trainer).update(model=_Model(_scored(torch.zeros(count, 1))), _tokenizer=SimpleNamespace(pad_token_id=0))
    vars(trainer).update(settings, _generate=lambda texts: generated([[0]] * count, texts))
    scored = trainer._generate_and_score_completions([{"prompt": ""}] * count)
    return {"advantages": scored["advantages"].numpy().reshape(rewards.shape)}
