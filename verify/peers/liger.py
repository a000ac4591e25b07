"""Liger-Kernel behind the judge, written for 0.8.5: its chunked losses, by their own backward, on a CPU. No formula is here.

They take hidden states and the head's weight, and score them in float32 whatever comes in; so float32 is all that is declared.
A response is its first token with the whole log-probability, and further ones with 0, as a head of one row has them: there the
hidden state is the logit, and the log-softmax takes it for the log-probability that it is. Liger's code begins after that.

Not here, for want of such code: IPO, SPPO on win rates, k1 and k2, advantages, GAE, the value loss. Its kernels in Triton
need a GPU. Nothing is checked that Liger does not check.
"""

import math
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOLoss
from liger_kernel.chunked_loss.fused_linear_preference import LigerFusedLinearPreferenceBase
from liger_kernel.chunked_loss.fused_linear_unpaired_preference import LigerFusedLinearUnpairedPreferenceBase
from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction
from liger_kernel.chunked_loss.kto_loss import LigerFusedLinearKTOLoss
from liger_kernel.chunked_loss.orpo_loss import LigerFusedLinearORPOLoss
from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOLoss
from torch import Tensor
from torch.nn import functional

from minipref.arrays import to_numpy
from verify.own.with_torch import loaded
from verify.peers import tape
from verify.peers.tape import Array, Arrays, Operation

NAME, VERSION, DTYPES = "liger-kernel", version("liger-kernel"), ("float32",)

SOURCES = {  # what stands behind each operation
    "dpo": "LigerFusedLinearDPOLoss, sigmoid",
    "cdpo": "LigerFusedLinearDPOLoss, sigmoid",
    "robust_dpo": "LigerFusedLinearDPOLoss, robust",
    "rso_hinge": "LigerFusedLinearDPOLoss, hinge",
    "kto": "LigerFusedLinearKTOLoss",
    "orpo": "LigerFusedLinearORPOLoss",
    "simpo": "LigerFusedLinearSimPOLoss",
    "linear_sequence_logps": "LigerFusedLinearUnpairedPreferenceBase.chunk_forward",
    "ppo_policy": "LigerFusedLinearGRPOFunction.ppo_loss_fn, beta 0",
    "grpo": "LigerFusedLinearGRPOFunction.ppo_loss_fn",
    "sequence_mean": "LigerFusedLinearGRPOFunction.ppo_loss_fn, grpo",
    "token_mean": "LigerFusedLinearGRPOFunction.ppo_loss_fn, bnpo",
    "constant_mean": "LigerFusedLinearGRPOFunction.ppo_loss_fn, dr_grpo",
    "preference_step": "LigerFusedLinearDPOLoss, LigerFusedLinearORPOLoss, LigerFusedLinearSimPOLoss",
}

HEAD = torch.ones(1, 1)  # [V,D]


# Losses on log-probabilities


def _given_log_softmax() -> Any:
    return patch.object(functional, "log_softmax", lambda logits, dim: logits)


def _targets(lengths: Array) -> Tensor:
    """Token ids [rows, longest]: response tokens, then padding."""
    return torch.where(torch.arange(max(lengths)) < torch.tensor(lengths)[:, None], 0, -100)


def _hidden(logps: Tensor, lengths: Array) -> Tensor:
    """States [rows, longest, 1] whose log-probs sum to logps over a row."""
    return functional.pad(logps[:, None], (0, max(lengths) - 1))[..., None]


def _direct(loss_type: str) -> Operation:
    """LigerFusedLinearDPOLoss, the reference's states beside the policy's."""

    def operation(*, beta: float, label_smoothing: float = 0.0, **pairs: Array) -> Arrays:
        loss = LigerFusedLinearDPOLoss(beta=beta, loss_type=loss_type, label_smoothing=label_smoothing, compiled=False)
        lengths = np.ones(2, int)

        def example(policy: Tensor, reference: Array) -> tuple[Tensor, ...]:
            states = _hidden(policy, lengths), _hidden(torch.tensor(reference), lengths)
            found, logged = loss(HEAD, states[0], _targets(lengths), ref_input=states[1], ref_weight=HEAD)
            return found, *logged[-2:]

        with _given_log_softmax():
            sides = tape.sides("policy_{}_logps", pairs), tape.sides("reference_{}_logps", pairs)
            return tape.one_by_one(tape.REWARDED, example, *sides)

    return operation


dpo = cdpo = _direct("sigmoid")
robust_dpo = _direct("robust")
rso_hinge = _direct("hinge")


def _without_reference(loss: Callable[..., Any], pairs: Arrays, **logged: int) -> Arrays:
    """A loss that averages over tokens. `logged`: the place of further outputs among what it logs."""

    def example(logps: Tensor, lengths: Array) -> tuple[Tensor, ...]:
        found, others = loss(HEAD, _hidden(logps, lengths), _targets(lengths))
        return found, *(others[place] for place in logged.values())

    with _given_log_softmax():
        sides = tape.sides("policy_{}_logps", pairs), tape.sides("{}_lengths", pairs)
        return tape.one_by_one((*tape.PAIR, *logged), example, *sides)


def orpo(*, odds_weight: float, **pairs: Array) -> Arrays:
    """LigerFusedLinearORPOLoss, whose log-odds are the last that it logs."""
    return _without_reference(LigerFusedLinearORPOLoss(beta=odds_weight, compiled=False), pairs, log_odds_ratio=-1)


def simpo(*, beta: float, gamma: float, **pairs: Array) -> Arrays:
    """LigerFusedLinearSimPOLoss without the likelihood that it adds unless told not to."""
    loss = LigerFusedLinearSimPOLoss(beta=beta, gamma=gamma, compute_nll_loss=False, compiled=False)
    return _without_reference(loss, pairs)


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
    """LigerFusedLinearKTOLoss, which is given the reference point. It has no weights: what is judged is multiplied by them."""
    loss, lengths = LigerFusedLinearKTOLoss(beta=beta, use_ref_model=True, compiled=False), np.ones(1, int)

    def example(policy: Tensor, reference: Array, label: Array) -> tuple[Tensor, Tensor]:
        states = _hidden(policy, lengths), _hidden(torch.tensor(reference), lengths)
        point = torch.tensor(reference_point, dtype=policy.dtype)
        fixed = {"preference_labels": torch.tensor(label), "ref_input": states[1], "ref_weight": HEAD, "kl": point}
        found, logged = loss(states[0], HEAD, _targets(lengths), **fixed)
        return found * (desirable_weight if label else undesirable_weight), logged[-2 if label else -1]

    names, columns = ("losses", "grad_policy_logps", "rewards"), (policy_logps, reference_logps, desirable)
    with _given_log_softmax():
        return tape.one_by_one(names, example, *(x[:, None] for x in columns))


# Sequences


def linear_sequence_logps(*, hidden: Array, weight: Array, tokens: Array, response_mask: Array) -> Arrays:
    """The scoring half of the unpaired losses, whose caller shifts the labels. Log-probs of 1 sum to the length."""
    leaves = torch.tensor(hidden, requires_grad=True), torch.tensor(weight, requires_grad=True)
    labels = tape.labels(tokens, response_mask)[:, 1:]

    def logps() -> Tensor:
        fixed = labels, torch.ones(len(labels), dtype=torch.bool)
        return LigerFusedLinearUnpairedPreferenceBase.chunk_forward(leaves[0][:, :-1], leaves[1], *fixed)[0]

    found = logps()
    with patch.object(functional, "log_softmax", lambda logits, dim: torch.ones_like(logits)):
        lengths = logps().long()
    to_hidden, to_weight = torch.autograd.grad(found.sum(), leaves)
    return tape.numpy(logps=found, lengths=lengths, grad_hidden=to_hidden, grad_weight=to_weight)


# On-policy pieces, aggregation


def _loss(logps: Tensor, advantages: Tensor, mask: Tensor, loss_type: str = "grpo", **settings: Any) -> Any:
    """LigerFusedLinearGRPOFunction.ppo_loss_fn, the half of the fused loss that follows the log-probs [rows, T]."""
    masks = {"attention_mask": mask, "full_attention_mask": mask}
    return LigerFusedLinearGRPOFunction.ppo_loss_fn(logps, advantages=advantages, loss_type=loss_type, **masks, **settings)


def _surrogate(clip_low: float, clip_high: float, beta: float, *tokens: Array) -> Arrays:
    """Each of B x T tokens the only one of a completion."""
    settings: dict[str, Any] = {"epsilon_low": clip_low, "epsilon_high": clip_high, "beta": beta}

    def token(logp: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        fixed: dict[str, Any] = {"old_per_token_logps": old[None], "ref_per_token_logps": reference[None]}
        found, metrics = _loss(logp[None], advantage, counts[None], **fixed, **settings)
        return found, metrics[-1]

    return tape.surrogate(token, *tokens)


def ppo_policy(*, logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float, clip_high: float) -> Arrays:
    """GRPO without its KL term is PPO's clipped surrogate."""
    return _surrogate(clip_low, clip_high, 0.0, logps, old_logps, np.zeros_like(logps), advantages, mask)


def grpo(*, clip_low: float, clip_high: float, beta: float, advantages: Array, mask: Array, **logps: Array) -> Arrays:
    """Each token under the advantage of its sequence."""
    fixed = logps["old_logps"], logps["reference_logps"], tape.spread(advantages, mask), mask
    return _surrogate(clip_low, clip_high, beta, logps["logps"], *fixed)


def _reduction(loss_type: str) -> Operation:
    """The mean of given token losses: log-ratios that are taken for ratios, at advantage -1, never clipped."""

    def operation(*, token_losses: Array, mask: Array, max_length: int | None = None) -> Arrays:
        settings: dict[str, Any] = {"beta": 0.0, "epsilon_low": math.inf, "epsilon_high": math.inf}
        settings["max_completion_length"] = max_length

        def loss(leaf: Tensor) -> Tensor:
            old = torch.zeros_like(leaf)
            return _loss(leaf, old[:, 0] - 1, torch.tensor(mask), loss_type, old_per_token_logps=old, **settings)[0]

        with patch.object(torch, "exp", lambda x: x):
            return tape.differentiated("loss", "weights", loss, token_losses)

    return operation


sequence_mean = _reduction("grpo")
token_mean = _reduction("bnpo")
constant_mean = _reduction("dr_grpo")


# Whole models: the losses between a GPT-2's last hidden states and its tied head


STEPS: dict[str, Callable[..., Any]] = {
    "dpo": partial(LigerFusedLinearDPOLoss, loss_type="sigmoid"),
    "robust_dpo": partial(LigerFusedLinearDPOLoss, loss_type="robust"),
    "rso_hinge": partial(LigerFusedLinearDPOLoss, loss_type="hinge"),
    "orpo": lambda odds_weight, **plain: LigerFusedLinearORPOLoss(beta=odds_weight, **plain),
    "simpo": partial(LigerFusedLinearSimPOLoss, compute_nll_loss=False),
}


def _padded(prompts: list[list[int]], responses: list[list[int]], max_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention and labels [rows, longest] of rows cut at their end and padded there."""
    rows = [(prompt + response)[:max_length] for prompt, response in zip(prompts, responses, strict=True)]
    position = torch.arange(max(map(len, rows)))
    attention, starts = position < torch.tensor([[len(row)] for row in rows]), torch.tensor([[len(x)] for x in prompts])
    ids = torch.zeros(attention.shape, dtype=torch.long)
    ids[attention] = torch.tensor([token for row in rows for token in row])
    return ids, attention, ids.masked_fill(~attention | (position < starts), -100)


def preference_step(
    *,
    weights: str,
    reference_weights: str,
    n_head: int,
    method: str,
    hyperparameters: dict[str, float],
    max_length: int,
    prompt_ids: list[list[int]],
    chosen_ids: list[list[int]] | None = None,
    rejected_ids: list[list[int]] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Pairs by the fused losses, the model being this project's; the log-probs are those of the losses, summed."""
    if method not in STEPS or chosen_ids is None or rejected_ids is None:
        raise ValueError(f"method must be one of {', '.join(STEPS)}, got {method}")
    policy, reference = loaded(weights, n_head), loaded(reference_weights, n_head)
    ids, attention, labels = _padded(prompt_ids * 2, chosen_ids + rejected_ids, max_length)
    states, targets, fixed = policy.hidden(ids, attention)[:, :-1], labels[:, 1:], {}
    if method in ("dpo", "robust_dpo", "rso_hinge"):
        with torch.no_grad():
            fixed = {"ref_input": reference.hidden(ids, attention)[:, :-1], "ref_weight": reference.wte.weight}
    loss, _logged = STEPS[method](**hyperparameters, compiled=False)(policy.wte.weight, states, targets, **fixed)
    loss.backward()
    sums = {"compute_nll_loss": False, "average_log_prob": False}
    chosen, rejected, *_rest = LigerFusedLinearPreferenceBase.chunk_forward(states, policy.wte.weight, targets, **sums)
    grads = {name: to_numpy(x.grad) for name, x in policy.named_parameters()}
    return tape.numpy(loss=loss, chosen_logps=chosen, rejected_logps=rejected) | {"grads": grads}
