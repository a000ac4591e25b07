"""Every offline method that scores text, and supervised fine-tuning, as a loss on rows of data.

    rows -> log-probabilities of their responses -> minipref's operation -> losses, of which a step takes the mean

A pair has two responses, chosen and rejected; a judged completion has one. What an operation takes is read from its signature:
where it names chosen and rejected, their log-probabilities; where it names a reference, that model's as well. On pairs `sppo`
has win rates of 1 and 0, and `plackett_luce_dpo` ranks the two. `sft` learns what was chosen, or found desirable, or a text.
`bradley_terry` learns what responses are worth, with a reward model for the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minipref import REGISTRY, kto_reference_point, pair_monitors
from minipref.autograd import differentiable, token_logps
from minipref.contract import Operation
from minipref.defaults import DEFAULTS

from .data import TokenizedCompletion, TokenizedPair, TokenizedRow
from .model import GPT, Head
from .packed import Group, Ids, pack
from .value_model import ValueModel

PAIRED = (
    "dpo", "cdpo", "robust_dpo", "ipo", "ipo_length_normalized", "rso_hinge", "plackett_luce_dpo", "orpo", "simpo", "sppo",
)  # fmt: skip
METHODS: dict[str, Operation[Any]] = {name: REGISTRY[name] for name in (*PAIRED, "kto")}
OPERATIONS = METHODS | {"bradley_terry": REGISTRY["bradley_terry"]}  # which learns what a response is worth


class Loss(NamedTuple):
    """Of some rows: the sum of their losses, in the tape, and for people, without it, what each response has."""

    total: Tensor
    rewards: Tensor  # [N], implicit, as `Objective.rewards` has them; 0 for sft
    logps: Tensor  # [N], nats


@dataclass(frozen=True)
class Objective:
    """What a step minimizes: a method, its hyperparameters, and whether PyTorch differentiates in place of minipref.

    ValueError for an unknown method, and for a hyperparameter that it has not, lacks, or that is out of range.
    """

    method: str
    hyperparameters: Mapping[str, float]
    autograd: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("sft", *OPERATIONS):
            raise ValueError(f"method must be one of sft, {', '.join(OPERATIONS)}, got {self.method!r}")
        due = hyperparameters_of(self.method)
        if different := due ^ self.hyperparameters.keys():
            raise ValueError(f"{self.method}: hyperparameters must be {sorted(due)}, got a difference in {sorted(different)}")
        for name, value in self.hyperparameters.items():
            interval = OPERATIONS[self.method].inputs[name].interval
            if not interval.holds(value):
                raise ValueError(f"{self.method}: {name} {interval}, got {value!r}")

    @property
    def operation(self) -> Operation[Any] | None:
        return OPERATIONS.get(self.method)

    @property
    def needs_reference(self) -> bool:
        return self.operation is not None and any(name.startswith("reference_") for name in self.operation.inputs)

    def groups(self, rows: Sequence[TokenizedRow]) -> list[Group]:
        """By row its prompt and the responses that are scored: a pair's two, chosen first; else the one that is learned.

        ValueError, with the row's place, for rows of which the method can make nothing.
        """
        return [self._group(row) for row in rows]

    def _group(self, row: TokenizedRow) -> Group:
        match row:
            case TokenizedPair() if self.method in (*PAIRED, "bradley_terry"):
                return row.prompt_ids, [row.chosen_ids, row.rejected_ids]
            case TokenizedPair() if self.method == "sft":
                return row.prompt_ids, [row.chosen_ids]
            case TokenizedCompletion() if self.method == "sft" and row.label is not False:
                return row.prompt_ids, [row.completion_ids]
            case TokenizedCompletion() if self.method == "kto" and row.label is not None:
                return row.prompt_ids, [row.completion_ids]
        due = {"kto": "judged completions", "sft": "something to learn"}.get(self.method, "pairs")
        raise ValueError(
            f"{row.place}: {self.method} needs {due}, got {type(row).__name__} {getattr(row, 'label', '')}".rstrip()
        )

    def examples(self, groups: Sequence[Group]) -> int:
        """What the sum of losses is divided by: tokens for sft, responses for sppo and kto, pairs for the others."""
        if self.method == "sft":
            return sum(len(response) for _, responses in groups for response in responses)
        return len(groups) * (2 if self.method == "sppo" else 1)

    def loss(
        self,
        model: GPT,
        groups: Sequence[Group],
        reference_logps: Tensor | None = None,
        desirable: Tensor | None = None,
        reference_point: float = 0.0,
    ) -> Loss:
        """Of groups as `groups` gives them; reference_logps [N] by response; desirable [N] and the point, in nats, for kto."""
        if self.method == "bradley_terry":
            return self._reward_loss(model, groups)
        head: Head = _differentiated if self.autograd else token_logps
        policy = model.response_logps(pack(groups, model.config, model.wte.weight.device), head)
        if self.operation is None:
            return Loss(-policy.logps.sum(), torch.zeros_like(policy.logps), policy.logps.detach())
        given: dict[str, Any] = {"desirable": desirable, "reference_point": reference_point, **self.hyperparameters}
        given |= self._named("policy_{}logps", policy.logps) | self._named("{}lengths", policy.lengths)
        if reference_logps is not None:
            given |= self._named("reference_{}logps", reference_logps)
        given["win_rates"] = (torch.arange(len(policy.logps), device=policy.logps.device) % 2 == 0).to(policy.logps)
        arguments = {name: given[name] for name in self.operation.inputs}
        losses = self._losses(**arguments)
        logps = policy.logps.detach()
        return Loss(losses.sum(), self.rewards(logps, policy.lengths, reference_logps), logps)

    def _losses(self, **arguments: Any) -> Tensor:
        assert self.operation
        return (self.operation.formula if self.autograd else differentiable(self.operation))(**arguments).losses

    def _reward_loss(self, model: GPT, groups: Sequence[Group]) -> Loss:
        """Of a reward model, which gives a response its reward in place of a log-probability."""
        assert isinstance(model, ValueModel)
        rewards = model.rewards(groups)
        chosen, rejected = rewards.reshape(-1, 2).unbind(1)
        losses = self._losses(chosen_rewards=chosen, rejected_rewards=rejected, **self.hyperparameters)
        return Loss(losses.sum(), rewards.detach(), torch.zeros_like(rewards))

    def _named(self, template: str, numbers: Tensor) -> dict[str, Tensor]:
        """[N] by response as the operation takes it: for chosen and rejected apart, as [pairs, 2], or as it is."""
        if self.method in ("kto", "sppo"):
            return {template.format(""): numbers}
        by_pair = numbers.reshape(-1, 2)
        sides = {template.format("chosen_"): by_pair[:, 0], template.format("rejected_"): by_pair[:, 1]}
        return sides | {template.format(""): by_pair}

    def rewards(self, logps: Tensor, lengths: Tensor, reference_logps: Tensor | None) -> Tensor:
        """The implicit reward of each response [N]: scale · log-ratio; without a reference scale · mean log-probability.

        The scale is β; 1/η for sppo; for orpo λ, as TRL logs it.
        """
        scales = self.hyperparameters
        scale = 1 / scales["eta"] if "eta" in scales else scales.get("beta", scales.get("odds_weight", 1.0))
        return scale * (logps / lengths if reference_logps is None else logps - reference_logps)

    def monitors(self, rewards: Tensor, logps: Tensor, desirable: Tensor | None) -> dict[str, float]:
        """What people watch, under TRL's names, from what the N responses of a step have; desirable [N] for kto."""
        if self.operation is None:
            return {}
        if desirable is not None:
            return _judged_monitors(rewards, logps, desirable)
        met = pair_monitors(*rewards.reshape(-1, 2).unbind(1), *logps.reshape(-1, 2).unbind(1))
        return {name: x for name, x in met.items() if self.method != "bradley_terry" or not name.startswith("logps")}


def _judged_monitors(rewards: Tensor, logps: Tensor, desirable: Tensor) -> dict[str, float]:
    """Means over the desirable and over the others; a batch may have none of one kind."""
    sides = {side: on for side, on in (("chosen", desirable), ("rejected", ~desirable)) if on.any()}
    named = {"rewards": rewards, "logps": logps}
    means = {f"{name}/{side}": x[on].mean().item() for name, x in named.items() for side, on in sides.items()}
    if len(sides) == 2:
        means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
    return means


def _differentiated(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`token_logps` for comparison: all logits at once, and PyTorch's own gradient; in the weight's precision, as that."""
    with torch.autocast(states.device.type, enabled=False):
        logits = F.linear(states.to(weight.dtype), weight)
        return F.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


def hyperparameters_of(method: str) -> set[str]:
    """The numbers that a person chooses: those of the defaults table."""
    return {argument for operation, argument in DEFAULTS if operation == method}


def mismatched(groups: Sequence[Group], context: int) -> list[Group]:
    """For kto: each completion after the prompt of the next row, cyclically; its own, where there is one row.

    A prompt loses tokens at its left where the two do not fit the context.
    """
    prompts = [prompt for prompt, _ in groups]
    return [
        (fitted(prompt, completion, context), [completion])
        for prompt, (_, [completion]) in zip([*prompts[1:], *prompts[:1]], groups, strict=True)
    ]


def fitted(prompt: Ids, response: Ids, context: int) -> Ids:
    """What of the prompt has room before the response, one token at least."""
    return prompt[-max(1, context - len(response)) :]


def reference_point(policy_logps: Tensor, reference_logps: Tensor) -> float:
    """KTO's z₀ of the mismatched completions [N] of a whole step."""
    return float(kto_reference_point.formula(policy_logps, reference_logps).reference_point)
