"""Ludwig behind the judge, written for 0.17.10: the losses of its modules, by autograd, on a CPU. No formula is here.

They take logits and score them first. Where log-probabilities are given, the scoring is left out, and a batch is one example.
Of these losses its trainers call dpo_loss alone; the others are for whoever imports them.

grpo_loss knows responses, not tokens: its ratio is that of two sums of log-probs, clipped once. Here each token is a response,
of which that is the token's ratio; a token that does not count is none.

Not here, for want of such code: robust DPO, SimPO, GAE, the value loss, aggregation of token losses. KTO has no weights. It
is not told what was clipped, so that PPO is not here. Nothing is checked that Ludwig does not check.
"""

import math
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from ludwig.modules import dpo_loss as direct
from ludwig.modules import preference_losses as others
from torch import Tensor
from torch.nn import functional

from verify.peers import tape
from verify.peers.tape import Array, Arrays, Operation

NAME, VERSION = "ludwig", version("ludwig")

SOURCES = {  # what stands behind each operation
    "dpo": "dpo_loss, sigmoid",
    "cdpo": "dpo_loss, sigmoid",
    "ipo": "dpo_loss, ipo",
    "kto": "kto_loss, the value of its kl given",
    "kto_reference_point": "kto_loss, its kl",
    "orpo": "orpo_loss",
    "sequence_logps": "compute_token_log_probs",
    "grpo": "grpo_loss",
    "advantages_grpo": "grpo_loss, its advantages",
}


def _given_logps(module: Any) -> Any:
    return patch.object(module, "compute_token_log_probs", lambda logps, _: logps)


# Losses on log-probabilities


def _direct(loss_type: str) -> Operation:
    def operation(*, beta: float, label_smoothing: float = 0.0, **pairs: Array) -> Arrays:
        def loss(*logps: Tensor) -> Any:
            return direct.dpo_loss(*logps[:2], None, None, *logps[2:], beta, label_smoothing, loss_type)

        with _given_logps(direct):
            return tape.rewarded(loss, pairs)

    return operation


dpo = cdpo = _direct("sigmoid")
ipo = _direct("ipo")


def kto(
    *,
    policy_logps: Array,
    reference_logps: Array,
    desirable: Array,
    reference_point: float,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Arrays:
    """kto_loss, whose point, the mean of absolute log-ratios, is given its value; its slope it keeps, as it is not detached.

    The other half of its batch is so good, or so bad, that its loss is 0. What is judged is multiplied by 2 for it, and by the
    weights, of which there are none.
    """
    absolute = Tensor.abs

    def point(ratios: Tensor) -> Tensor:
        sizes = absolute(ratios)
        return torch.where(ratios.isinf(), 0, sizes - sizes.detach()) + reference_point

    def example(policy: Tensor, fixed: Array, label: Array) -> tuple[Tensor, Tensor]:
        good, bad = torch.full_like(policy, math.inf), torch.full_like(policy, -math.inf)
        own, zero = torch.tensor(fixed), torch.zeros_like(policy)
        sides = (policy, bad, None, None, own, zero) if label else (good, policy, None, None, zero, own)
        with patch.object(Tensor, "abs", point):
            found, *logged = others.kto_loss(*sides, beta)
        return 2 * found * (desirable_weight if label else undesirable_weight), logged[0 if label else 1]

    names, columns = ("losses", "grad_policy_logps", "rewards"), (policy_logps, reference_logps, desirable)
    with _given_logps(others):
        return tape.one_by_one(names, example, *(x[:, None] for x in columns))


def kto_reference_point(*, policy_mismatched_logps: Array, reference_mismatched_logps: Array) -> Arrays:
    """The kl of kto_loss, the mean of two halves, one of them a log-ratio of 0: seen where it is subtracted, beta being 2."""
    policy, reference = torch.tensor(policy_mismatched_logps), torch.tensor(reference_mismatched_logps)
    zero = torch.zeros_like(policy[:1])
    with _given_logps(others), patch.object(functional, "sigmoid", wraps=functional.sigmoid) as sigmoid:
        others.kto_loss(policy, zero, None, None, reference, zero, beta=2.0)
    (point,) = sigmoid.call_args.args
    return tape.numpy(reference_point=point.squeeze())


def _response(logp: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Logits [1, 1 + length, 1] that already are log-probs, all in the first; and labels, a prompt of one before them."""
    labels = functional.pad(torch.zeros(1, length, dtype=torch.long), (1, 0), value=-100)
    return functional.pad(logp[None], (0, length))[..., None], labels


def orpo(*, odds_weight: float, **pairs: Array) -> Arrays:
    """orpo_loss, its log-softmax and cross-entropy given log-probs. The log-odds are what its logsigmoid is given."""

    def example(logps: Tensor, lengths: Array) -> tuple[Tensor, Tensor]:
        logits, labels = zip(*map(_response, logps.split(1), lengths), strict=True)
        with patch.object(functional, "logsigmoid", wraps=functional.logsigmoid) as logsigmoid:
            loss, *_ = others.orpo_loss(*logits, *labels, odds_weight)
        return loss, logsigmoid.call_args.args[0]

    names, sides = (*tape.PAIR, "log_odds_ratio"), (tape.sides("policy_{}_logps", pairs), tape.sides("{}_lengths", pairs))
    with (
        patch.object(functional, "log_softmax", lambda logits, dim: logits),
        patch.object(functional, "cross_entropy", functional.nll_loss),
    ):
        return tape.one_by_one(names, example, *sides)


# Sequences


def sequence_logps(*, logits: Array, tokens: Array, response_mask: Array) -> Arrays:
    """compute_token_log_probs. Log-probs of 1 sum to the length."""
    labels = tape.labels(tokens, response_mask)
    found = tape.differentiated("logps", "grad_logits", lambda leaf: direct.compute_token_log_probs(leaf, labels), logits)
    with patch.object(functional, "log_softmax", lambda rows, dim: torch.ones_like(rows)):
        lengths = direct.compute_token_log_probs(torch.tensor(logits), labels)
    return found | tape.numpy(lengths=lengths.long())


# On-policy pieces


class _Advantages(Tensor):
    """Rewards that are their own advantages: a mean of 0, and a standard deviation that is 1 once 1e-8 is added."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    def mean(self, *_: Any, **__: Any) -> Any:
        return 0.0

    def std(self, *_: Any, **__: Any) -> Any:
        return 1 - 1e-8


def grpo(*, clip_low: float, clip_high: float, beta: float, advantages: Array, mask: Array, **logps: Array) -> Arrays:
    """A token a call, the one epsilon the bound that its advantage can run into; at beta 0 without a reference."""

    def token(logp: Tensor, old: Tensor, reference: Tensor, advantage: Tensor) -> tuple[Tensor]:
        settings = {"beta": beta, "epsilon": clip_high if advantage > 0 else clip_low}
        rewards = advantage.as_subclass(_Advantages)
        return (others.grpo_loss(logp, None, rewards, old, reference if beta else None, **settings)[0],)

    tokens = *(logps[name] for name in ("logps", "old_logps", "reference_logps")), tape.spread(advantages, mask)
    with _given_logps(others):
        found = tape.token_by_token(("token_losses", "grad_logps"), token, *tokens)
    return {name: np.where(mask, values, 0) for name, values in found.items()}


def advantages_grpo(*, rewards: Array) -> Arrays:
    """grpo_loss, a group a call. At a ratio of 1 the minimum that it takes is of the advantages themselves."""

    def group(row: Array) -> Array:
        with patch.object(torch, "min", wraps=torch.min) as least:
            others.grpo_loss(torch.zeros(len(row)), None, torch.tensor(row))
        return least.call_args.args[0].numpy()

    with _given_logps(others):
        return {"advantages": np.array([group(row) for row in rewards], rewards.dtype).reshape(rewards.shape)}
