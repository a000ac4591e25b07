"""TRL's trainers on whole models, for level 3: a GPT2LMHeadModel with the weights of the request, in their dtype.

Token ids go into each trainer's own collator, the batch into its own loss, and PyTorch's backward through all of it; the
log-probabilities of single responses come from the functions that score a reference. Not here, for want of such code: cDPO, as
loss type sigmoid ignores label_smoothing, and IPO on token sums. Nothing is checked that TRL does not check.
"""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.experimental.utils import DPODataCollatorWithPadding
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference
from trl.trainer.utils import add_fused_lm_head

from verify.weights import read

Example = dict[str, Any]  # prompt_ids, chosen_ids, ... of one example
Found = tuple[Tensor, dict[str, Tensor]]  # the mean loss, in the tape, and log-probs [N] by output
Step = Callable[..., Found]

ARGUMENTS = SimpleNamespace(gradient_checkpointing_kwargs=None)
PAD = 0  # any token: where one stands, every mask is false
LOGGED = ("log_probs", "entropy", "mean_logits", "is_top1")  # what DPOTrainer and KTOTrainer ask of the fused head
SIGMOID_IGNORES = "TRL has no cdpo: loss type sigmoid ignores label_smoothing (trainer/dpo_trainer.py, _compute_loss)"
IPO_AVERAGES = "TRL has no ipo on token sums: loss type ipo divides by lengths (trainer/dpo_trainer.py, _compute_loss)"


def bare_trainer(kind: type, model: Any, **attributes: Any) -> Any:
    """A trainer without its constructor, with what its loss reads; in eval mode, where no loss is divided by steps."""
    trainer: Any = object.__new__(kind)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    counters = {"_metrics": {"eval": defaultdict(list)}, "_total_train_tokens": 0}
    vars(trainer).update(model=model, accelerator=accelerator, aux_loss_enabled=False, **counters)
    vars(trainer).update(attributes)
    return trainer


def loaded(path: str, n_head: int) -> GPT2LMHeadModel:
    """With TRL's head beside its own, without drop-out."""
    tensors = {name: torch.from_numpy(x) for name, x in read(path).items()}
    vocabulary, width = tensors["wte.weight"].shape
    sizes = {"vocab_size": vocabulary, "n_positions": len(tensors["wpe.weight"]), "n_embd": width, "n_head": n_head}
    sizes["n_layer"] = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    model = model.to(tensors["wte.weight"].dtype).eval()
    model.transformer.load_state_dict(tensors)
    add_fused_lm_head(model, outputs=LOGGED)
    return model


# A batch of each trainer


def _direct(loss_type: str) -> Step:
    """DPOTrainer, the reference beside the policy."""
    plain: dict[str, Any] = {"f_divergence_type": "reverse_kl", "ld_alpha": None, "use_weighting": False}
    plain |= {"loss_types": [loss_type], "loss_weights": [1.0], "precompute_ref_logps": False}

    def step(
        policy: Any, reference: Any, examples: list[Example], max_length: int, beta: float, label_smoothing: float = 0.0
    ) -> Found:
        settings = {"beta": beta, "label_smoothing": label_smoothing}
        trainer = bare_trainer(DPOTrainer, policy, ref_model=reference, args=ARGUMENTS, **plain, **settings)
        batch = DataCollatorForPreference(PAD, max_length)(examples)
        chosen, rejected = trainer.compute_ref_log_probs(policy, batch)
        return trainer.compute_loss(policy, batch), {"chosen_logps": chosen, "rejected_logps": rejected}

    return step


def _unpaired(policy: Any, reference: Any, examples: list[Example], max_length: int, **settings: float) -> Found:
    """KTOTrainer. Each prompt is also followed by the completion before its own, cyclically, as _prepare_dataset has it."""
    plain = {"loss_type": "kto", "calculate_KL": True, "precompute_ref_logps": False, "ref_model": reference}
    trainer = bare_trainer(KTOTrainer, policy, args=ARGUMENTS, **plain, **settings)
    others = [examples[-1], *examples[:-1]]
    rows = [
        {"prompt_ids": one["prompt_ids"], "completion_ids": one["completion_ids"], "label": one["desirable"]}
        | {"KL_completion_ids": other["completion_ids"]}
        for one, other in zip(examples, others, strict=True)
    ]
    batch = DataCollatorForUnpairedPreference(PAD, max_length)(rows)
    logps, _ = trainer.compute_ref_log_probs(policy, batch)
    return trainer.compute_loss(policy, batch), {"completion_logps": logps}


def _pairs(examples: list[Example], max_length: int) -> dict[str, Tensor]:
    """The batch of ORPOTrainer and CPOTrainer; rows are cut as their tokenize_row does, which starts from text."""
    rows = []
    for example in examples:
        row, prompt = {}, example["prompt_ids"]
        for side in ("chosen", "rejected"):
            response = example[f"{side}_ids"][: max(0, max_length - len(prompt))]
            row[f"{side}_input_ids"] = [*prompt, *response]
            row[f"{side}_attention_mask"] = [1] * len(row[f"{side}_input_ids"])
            row[f"{side}_labels"] = [-100] * len(prompt) + response
        rows.append(row)
    return DPODataCollatorWithPadding(PAD)(rows)


def _without_reference(trainer: Any, examples: list[Example], max_length: int) -> Found:
    """Sums over tokens by the trainer's own get_batch_logps, which the loss asks for means."""
    batch = _pairs(examples, max_length)
    both = trainer.concatenated_inputs(batch)
    with torch.no_grad():
        logits = trainer.model(both["concatenated_input_ids"], attention_mask=both["concatenated_attention_mask"]).logits
    chosen, rejected = trainer.get_batch_logps(logits, both["concatenated_labels"]).chunk(2)
    loss, _ = trainer.get_batch_loss_metrics(trainer.model, batch, "train")
    return loss, {"chosen_logps": chosen, "rejected_logps": rejected}


def _orpo(policy: Any, reference: Any, examples: list[Example], max_length: int, odds_weight: float) -> Found:
    trainer = bare_trainer(ORPOTrainer, policy, beta=odds_weight, is_encoder_decoder=False, padding_value=PAD)
    return _without_reference(trainer, examples, max_length)


def _cpo_trainer(policy: Any, beta: float, gamma: float) -> Any:
    plain = {"loss_type": "simpo", "cpo_alpha": 0.0, "alpha": 0.0, "label_smoothing": 0.0}
    settings = {"beta": beta, "simpo_gamma": gamma, "is_encoder_decoder": False, "pad_token_id": PAD}
    return bare_trainer(CPOTrainer, policy, **plain, **settings)


def _simpo(policy: Any, reference: Any, examples: list[Example], max_length: int, beta: float, gamma: float) -> Found:
    return _without_reference(_cpo_trainer(policy, beta, gamma), examples, max_length)


def _missing(why: str) -> Step:
    def step(*_: Any, **__: Any) -> Found:
        raise ValueError(why)

    return step


METHODS: dict[str, Step] = {
    "dpo": _direct("sigmoid"),
    "cdpo": _missing(SIGMOID_IGNORES),
    "robust_dpo": _direct("robust"),
    "ipo": _missing(IPO_AVERAGES),
    "ipo_length_normalized": _direct("ipo"),
    "rso_hinge": _direct("hinge"),
    "kto": _unpaired,
    "orpo": _orpo,
    "simpo": _simpo,
}


# The operations


def gpt_logits(*, weights: str, n_head: int, tokens: np.ndarray, attention_mask: np.ndarray) -> dict[str, Any]:
    """The logits that CPOTrainer.concatenated_forward gets of rows padded as they come: no trainer passes positions.

    Columns of padding alone are left out, as every collator pads to the longest row: there the logits are 0.
    """
    kept = attention_mask.any(axis=0)
    ids, mask = torch.tensor(tokens[:, kept]), torch.tensor(attention_mask[:, kept])
    ids[~mask] = PAD
    rows = {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}
    batch = {f"chosen_{name}": x for name, x in rows.items()} | {f"rejected_{name}": x[:0] for name, x in rows.items()}
    model = loaded(weights, n_head)
    with torch.no_grad():
        _, _, found, *_ = _cpo_trainer(model, 1.0, 0.0).concatenated_forward(model, batch)
    logits = np.zeros((*attention_mask.shape, found.shape[-1]), found.numpy().dtype)
    logits[:, kept] = found.numpy()
    return {"logits": logits}


def preference_step(
    *,
    weights: str,
    reference_weights: str,
    n_head: int,
    method: str,
    hyperparameters: dict[str, float],
    max_length: int,
    **columns: Any,
) -> dict[str, Any]:
    """One batch, in float32 or float64 but for TRL's fused head, which is float32."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method}")
    policy, reference = loaded(weights, n_head), loaded(reference_weights, n_head)
    examples = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    loss, logps = METHODS[method](policy, reference, examples, max_length, **hyperparameters)
    loss.backward()
    grads = {name.removeprefix("transformer."): p.grad.numpy() for name, p in policy.named_parameters()}
    found = {name: x.detach().to(policy.dtype).numpy() for name, x in {"loss": loss, **logps}.items()}
    return found | {"grads": grads}
