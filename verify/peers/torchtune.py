"""torchtune behind the judge, written for 0.6.1, whose PPO and DPO are functions of arrays. No formula is here.

It is imported at once, with its models and tokenizers. For what they need, empty modules stand in: ABSENT, which no function
below calls. Not here, for want of such code: IPO, KTO, ORPO, SimPO, GRPO. Nothing is checked that torchtune does not check.
"""

from importlib.metadata import version
from unittest.mock import patch

import torch
from torch import Tensor

from verify.peers import absent, tape
from verify.peers.tape import Array, Arrays

ABSENT = ("datasets", "omegaconf", "sentencepiece", "tiktoken", "tokenizers", "torchao")
absent.stand_in(*ABSENT)

from torchtune import rlhf  # noqa: E402
from torchtune.rlhf import sequence_processing  # noqa: E402
from torchtune.rlhf.loss import DPOLoss, PPOLoss, RSOLoss  # noqa: E402

NAME, VERSION = "torchtune", version("torchtune")

SOURCES = {  # what stands behind each operation
    "dpo": "DPOLoss",
    "cdpo": "DPOLoss",
    "rso_hinge": "RSOLoss",
    "sequence_logps": "get_batch_log_probs",
    "ppo_policy": "PPOLoss",
    "ppo_value": "PPOLoss",
    "gae": "estimate_advantages",
    "token_mean": "masked_mean",
}


def dpo(*, beta: float, label_smoothing: float = 0.0, **pairs: Array) -> Arrays:
    """DPOLoss, which is cDPO where label_smoothing is given."""
    return tape.rewarded(DPOLoss(beta, label_smoothing), pairs)


cdpo = dpo


def rso_hinge(*, beta: float, **pairs: Array) -> Arrays:
    """RSOLoss, which calls beta gamma."""
    return tape.rewarded(RSOLoss(beta), pairs)


def sequence_logps(*, logits: Array, tokens: Array, response_mask: Array) -> Arrays:
    """get_batch_log_probs. Log-probs of 1 sum to its count of the response, the length."""
    labels = tape.labels(tokens, response_mask)
    found = tape.differentiated("logps", "grad_logits", lambda leaf: rlhf.get_batch_log_probs(leaf, labels), logits)
    with patch.object(sequence_processing, "logits_to_logprobs", lambda _, marked, **__: torch.ones(marked.shape)):
        lengths = rlhf.get_batch_log_probs(torch.tensor(logits), labels)
    return found | tape.numpy(lengths=lengths.long())


def _mask(counts: Tensor) -> Tensor | None:
    """None where the token counts: with a mask, even of ones alone, PPOLoss divides by the count + 1e-8; see token_mean."""
    return None if counts else torch.tensor([False])


def ppo_policy(*, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float) -> Arrays:
    """PPOLoss with a value coefficient of 0, a token a call: its one epsilon is the bound that the advantage can run into."""
    zero = torch.zeros(1)

    def token(logp: Tensor, old: Tensor, advantage: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        loss = PPOLoss(epsilon=clip_high if advantage > 0 else clip_low, value_coeff=0.0)
        found = loss(old, logp, advantage, zero, zero, zero, padding_masks=_mask(counts))
        return found[0], found[-1]

    return tape.surrogate(token, logps, old_logps, advantages, mask)


def ppo_value(*, values: Array, old_values: Array, returns: Array, mask: Array, clip: float) -> Arrays:
    """PPOLoss with a value coefficient of 1 and advantages of 0, a token a call."""
    loss, zero = PPOLoss(value_clip_range=clip, value_coeff=1.0), torch.zeros(1)

    def token(value: Tensor, old: Tensor, target: Tensor, counts: Tensor) -> tuple[Tensor]:
        return (loss(zero, zero, zero, old, value, target, value_padding_masks=_mask(counts))[0],)

    return tape.token_by_token(("token_losses", "grad_values"), token, values, old_values, returns, mask)


def gae(*, rewards: Array, values: Array, mask: Array, discount: float, trace_decay: float) -> Arrays:
    """estimate_advantages, whose advantages are whitened."""
    tensors = torch.tensor(values), torch.tensor(rewards)
    advantages, returns = rlhf.estimate_advantages(*tensors, discount, trace_decay, torch.tensor(mask))
    return tape.where_counted(mask, advantages=advantages, returns=returns)


def token_mean(*, token_losses: Array, mask: Array) -> Arrays:
    """masked_mean, which PPOLoss averages by."""
    return tape.differentiated("loss", "weights", lambda leaf: rlhf.masked_mean(leaf, torch.tensor(mask)), token_losses)
