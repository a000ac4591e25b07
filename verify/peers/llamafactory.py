"""LLaMA-Factory behind the judge, written for 0.9.5: its own ORPO and SimPO and its log-probs, by autograd. No formula is here.

For the models, data and trainers that it builds on, empty modules stand in: ABSENT, which no function below calls. Its trainer
inherits from TRL's and is made without a constructor. DPO, IPO and KTO are TRL's, called from there, and are judged as such;
PPO is TRL's too. Its reward models' loss has no margin, and its BCO has no operation here. Nothing is checked that
LLaMA-Factory does not check.
"""

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from verify.peers import absent, tape
from verify.peers.tape import Array, Arrays

ABSENT = ("datasets", "huggingface_hub", "omegaconf", "peft", "torchaudio", "transformers", "trl")
absent.stand_in(*ABSENT)

from llamafactory.train import trainer_utils  # noqa: E402
from llamafactory.train.dpo import trainer as dpo_trainer  # noqa: E402

NAME, VERSION = "llamafactory", version("llamafactory")

SOURCES = {  # what stands behind each operation
    "orpo": "CustomDPOTrainer.get_batch_loss_metrics, odds_ratio_loss",
    "simpo": "CustomDPOTrainer.get_batch_loss_metrics, simpo_loss",
    "sequence_logps": "get_batch_logps",
}

BATCH = {"input_ids": torch.zeros(2, 1), "labels": torch.zeros(2, 1)}  # a pair


def _model(**_: Any) -> SimpleNamespace:
    return SimpleNamespace(logits=torch.zeros(2, 1, 1))


def _losses(loss_type: str, beta: float, pairs: Arrays, **settings: float) -> Arrays:
    """A pair a call, of which the trainer takes the mean, without a weight of its own on the chosen response's likelihood.

    In the place of the scored tokens come the given sums and lengths; the trainer divides the one by the other.
    """
    trainer: Any = object.__new__(dpo_trainer.CustomDPOTrainer)
    vars(trainer).update(loss_type=loss_type, beta=beta, **settings, ftx_gamma=0.0, ld_alpha=None)
    trainer.finetuning_args = SimpleNamespace(use_ref_model=False)
    trainer.accelerator = SimpleNamespace(device="cpu")

    def example(sums: Tensor, lengths: Array) -> tuple[Tensor]:
        with patch.object(dpo_trainer, "get_batch_logps", lambda **_: (sums, torch.tensor(lengths))):
            return (trainer.get_batch_loss_metrics(_model, {**BATCH})[0],)

    return tape.one_by_one(tape.PAIR, example, tape.sides("policy_{}_logps", pairs), tape.sides("{}_lengths", pairs))


def orpo(*, odds_weight: float, **pairs: Array) -> Arrays:
    """Its weight is called pref_beta; log-odds are not given out."""
    return _losses("orpo", odds_weight, pairs)


def simpo(*, beta: float, gamma: float, **pairs: Array) -> Arrays:
    """The absolute gamma, as simpo_gamma, which is divided by beta."""
    return _losses("simpo", beta, pairs, simpo_gamma=gamma)


def sequence_logps(*, logits: Array, tokens: Array, response_mask: Array) -> Arrays:
    """get_batch_logps, of sequences in full: without ld_alpha, and its count of what is scored."""
    labels = tape.labels(tokens, response_mask)
    found = tape.differentiated("logps", "grad_logits", lambda leaf: trainer_utils.get_batch_logps(leaf, labels)[0], logits)
    return found | tape.numpy(lengths=trainer_utils.get_batch_logps(torch.tensor(logits), labels)[1])
