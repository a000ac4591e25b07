"""Methods that sample while they train: what each makes of responses and their rewards.

    method       advantage                       KL to the reference       token losses add up
    ppo          GAE, with a critic               in the reward, k1         to the mean over all tokens of an update
    grpo         (R - mean) / (std + 1e-4)        in the loss, k3           to the mean of means over a response
    dapo         the same                         none, or as grpo's        to the mean over all tokens of an update
    dr-grpo      R - mean                         none, or as grpo's        by max_tokens, to the mean over responses
    rloo         R - mean of the others           in the reward, k1         to the mean of sums over a response

    online-dpo   DPO on pairs of fresh responses, labelled by their rewards           arXiv:2402.04792v2
    rso          hinge on pairs accepted among responses of the reference             arXiv:2309.06657v2
    sppo         (log π/π_old - η (win rate - 1/2))², π_old being the last iterate    arXiv:2405.00675v4

All of the upper table clip the ratio π/π_old of a token, which is 1 in the first update after a rollout. R is a response's
reward, less β log(π_old/π_ref) where the KL is in the reward; ppo takes that from the reward of each token. Everything but
log π is a constant. A response that is cut at max_tokens ends there, and nothing is expected beyond. dapo clips higher above
than below, draws a group again whose rewards are all equal, and takes from the reward of a response of nearly max_tokens; its
mean is over the tokens of the update, as in its authors' code, where arXiv:2503.14476v2 equation 8 has a group's. The
operations are minipref's, their gradients hand-written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minipref import REGISTRY, sppo
from minipref.arrays import sigmoid
from minipref.autograd import differentiable
from minipref.contract import Interval, Operation
from minipref.defaults import DEFAULTS
from minipref.online.aggregation import constant_mean, sequence_mean, token_mean
from minipref.online.dapo import overlong_penalty
from minipref.online.gae import gae
from minipref.online.grpo import grpo
from minipref.online.kl import kl_shaped_rewards
from minipref.online.ppo import ppo_policy, ppo_value
from minipref.online.sampling import online_pairs, rejection_sample

from .data import Prompt, Row, Text, TokenizedRow
from .packed import Group
from .rollouts import Rows

LABELS = ("best", "sampled")


class Experience(NamedTuple):
    """P groups of G responses, N = P G in a row. Numbers by token are [N, T], log-probabilities in nats; all are constants."""

    rows: Rows
    scores: Tensor  # [P, G], rewards without any KL
    old_logps: Tensor  # [N, T], of the policy before the updates of this step; 0 for rso, which does not ask
    reference_logps: Tensor  # [N, T]; 0 where the method asks for none
    values: Tensor  # [N, T], the critic's; 0 where there is none
    pairs: Tensor  # [P, K, 2], of each pair which of the G is chosen and which rejected
    tied: Tensor  # [P, K], pairs of equal rewards, which say nothing

    def of(self, groups: slice) -> "Experience":
        """Some of the groups."""
        size = self.scores.shape[1]
        rows = slice(groups.start * size, groups.stop * size)
        old, reference, values = (x[rows] for x in (self.old_logps, self.reference_logps, self.values))
        return Experience(
            self.rows.of(rows), self.scores[groups], old, reference, values, self.pairs[groups], self.tied[groups]
        )


class Number(NamedTuple):
    """A hyperparameter: what it is where nothing is said, and what it may be."""

    value: float
    interval: Interval


class Method(NamedTuple):
    """Losses and the weights with which they add up, both [N, T] by token, [P, K] by pair or [P, G] by response."""

    losses: "Callable[[OnPolicy, Experience, Tensor], Tensor]"  # from log π [N, T], in the tape
    weights: "Callable[[OnPolicy, Experience], Tensor]"
    numbers: dict[str, Number]
    kl: tuple[str, ...] = ()  # where the KL may stand, its default first
    critic: bool = False
    from_reference: bool = False  # who samples


# --- By token ----------------------------------------------------------------------------------------------------------------


def by_group(advantages: str) -> Callable[["OnPolicy", Experience, Tensor], Tensor]:
    """One advantage for all tokens of a response, relative to its group: arXiv:2402.03300v3 equation 3."""

    def losses(self: "OnPolicy", x: Experience, logps: Tensor) -> Tensor:
        given = self.hyperparameters
        scores = x.scores - (self.beta_in("reward") * (x.old_logps - x.reference_logps).sum(dim=1)).reshape(x.scores.shape)
        relative = REGISTRY[advantages].formula(scores).advantages.flatten().to(logps)
        constants = (x.old_logps, x.reference_logps, relative, x.rows.mask, given["clip_low"], given["clip_high"])
        return differentiable(grpo)(logps, *constants, self.beta_in("loss")).token_losses

    return losses


def by_critic(self: "OnPolicy", x: Experience, logps: Tensor) -> Tensor:
    """An advantage for each token: arXiv:1707.06347v2 equation 7, with the rewards of arXiv:2203.02155v1 equation 2."""
    given, advantages = self.hyperparameters, self.estimates(x).advantages
    constants = (x.old_logps, advantages, x.rows.mask, given["clip_low"], given["clip_high"])
    return differentiable(ppo_policy)(logps, *constants).token_losses


def averaged(mean: Operation[Any], **fixed: float) -> Callable[["OnPolicy", Experience], Tensor]:
    """The weights of one of the three means over tokens; where it wants a length that is not fixed, max_tokens."""

    def weights(self: "OnPolicy", x: Experience) -> Tensor:
        lengths = {"max_length": float(self.max_tokens)} if "max_length" in mean.inputs else {}
        return mean.formula(torch.zeros_like(x.old_logps), x.rows.mask, **lengths | fixed).weights

    return weights


# --- By pair and by response -------------------------------------------------------------------------------------------------


def by_pair(operation: str) -> Callable[["OnPolicy", Experience, Tensor], Tensor]:
    """A loss on chosen and rejected responses, with the reference that the run began with."""

    def losses(self: "OnPolicy", x: Experience, logps: Tensor) -> Tensor:
        sums = (of.sum(dim=1).reshape(x.scores.shape) for of in (logps, x.reference_logps))
        policy, reference = (of.gather(1, x.pairs.flatten(1)).reshape(x.pairs.shape) for of in sums)
        sides = (side.flatten() for both in (policy, reference) for side in both.unbind(dim=2))
        found = differentiable(REGISTRY[operation])(*sides, beta=self.hyperparameters["beta"])
        return found.losses.reshape(x.tied.shape)

    return losses


def mean_of_pairs(self: "OnPolicy", x: Experience) -> Tensor:
    """Over pairs that are not tied."""
    return (~x.tied).to(x.old_logps) / (~x.tied).sum().clamp(min=1)


def by_win_rate(self: "OnPolicy", x: Experience, logps: Tensor) -> Tensor:
    """Each response against its group, itself included, P(y > y') being σ(R - R'): arXiv:2405.00675v4 equation 4.7."""
    win_rates = sigmoid(x.scores[:, :, None] - x.scores[:, None, :]).mean(dim=2).flatten().to(logps)
    sums = (of.sum(dim=1) for of in (logps, x.old_logps))
    return differentiable(sppo)(*sums, win_rates, self.hyperparameters["eta"]).losses.reshape(x.scores.shape)


def mean_of_responses(self: "OnPolicy", x: Experience) -> Tensor:
    return torch.full_like(x.scores, 1 / x.scores.numel())


def number(operation: str, argument: str, value: float | None = None) -> Number:
    """A hyperparameter as the operation has it, with its default or the method's own."""
    known = DEFAULTS[operation, argument].value if value is None else value
    return Number(known, REGISTRY[operation].inputs[argument].interval)


OVER_TOKENS = averaged(token_mean)
CLIPS = {name: number("grpo", name) for name in ("clip_low", "clip_high")}
IN_REWARD = {"beta": number("grpo", "beta", DEFAULTS["kl_regularized_objective", "beta"].value), **CLIPS}
PPO = IN_REWARD | {"value_clip": number("ppo_value", "clip"), **{x: number("gae", x) for x in ("discount", "trace_decay")}}
GRPO = {"beta": number("grpo", "beta"), **CLIPS}
DR_GRPO = {"beta": number("grpo", "beta", 0.0), **CLIPS}  # arXiv:2503.20783v2 section 3.2 and arXiv:2503.14476v2 section 2.3
DAPO = DR_GRPO | {"clip_high": number("grpo", "clip_high", 0.28), "overlong_share": number("gae", "discount", 0.2)}
RSO = {"beta": number("rso_hinge", "beta"), "acceptance_beta": number("rejection_acceptance", "beta")}
ON_POLICY = {
    "ppo": Method(by_critic, OVER_TOKENS, PPO, ("reward",), critic=True),
    "grpo": Method(by_group("advantages_grpo"), averaged(sequence_mean), GRPO, ("loss", "reward")),
    "dapo": Method(by_group("advantages_grpo"), OVER_TOKENS, DAPO, ("loss", "reward")),
    "dr-grpo": Method(by_group("advantages_dr_grpo"), averaged(constant_mean), DR_GRPO, ("loss", "reward")),
    "rloo": Method(by_group("advantages_rloo"), averaged(constant_mean, max_length=1.0), IN_REWARD, ("reward", "loss")),
    "online-dpo": Method(by_pair("dpo"), mean_of_pairs, {"beta": number("dpo", "beta")}),
    "rso": Method(by_pair("rso_hinge"), mean_of_pairs, RSO, from_reference=True),
    "sppo": Method(by_win_rate, mean_of_responses, {"eta": number("sppo", "eta")}),
}


@dataclass(frozen=True)
class OnPolicy:
    """What a step samples and minimizes. ValueError for an unknown method, a setting out of range, and one that it has not."""

    method: str
    reward: str  # as `rewards.find` takes it
    hyperparameters: Mapping[str, float]
    group_size: int = 8  # responses to a prompt
    max_tokens: int = 64  # of a response
    temperature: float = 1.0
    kl: str | None = None  # None: where the method has it
    labels: str | None = None  # of pairs: of the higher reward, or drawn with σ(R - R'); None: best
    iterations: int | None = None  # passes over the responses of a step; None: 4 for sppo, whose first has π = π_old, else 1
    minibatches: int = 1  # updates in a pass
    tries: int | None = None  # draws of a group until its rewards differ, each with any prompt; None: 10 for dapo, else 1
    critic_lr: float | None = None  # None: the policy's

    autograd = False

    def __post_init__(self) -> None:
        if self.method not in ON_POLICY:
            raise ValueError(f"method must be one of {', '.join(ON_POLICY)}, got {self.method!r}")
        due = self.made.numbers.keys()
        if different := due ^ self.hyperparameters.keys():
            raise ValueError(f"{self.method}: hyperparameters must be {sorted(due)}, got a difference in {sorted(different)}")
        pairs, whole = self.method in ("online-dpo", "rso"), ("max_tokens", "minibatches")
        least, even = 1 if self.made.critic else 2, self.method != "online-dpo" or self.group_size % 2 == 0
        rules: dict[str, tuple[object, str]] = {name: (getattr(self, name) >= 1, ">= 1") for name in whole} | {
            "tries": (self.tries is None or self.method == "dapo" and self.tries >= 1, ">= 1, and for dapo alone"),
            "reward": (self.reward, "a folder or module:name"),
            "iterations": (self.iterations is None or self.iterations >= 1, ">= 1"),
            "group_size": (self.group_size >= least and even, f">= {least}, and even for online-dpo"),
            "temperature": (0 < self.temperature < float("inf"), "finite and > 0"),
            "kl": (self.kl is None or self.kl in self.made.kl, " or ".join([*self.made.kl, "left out"])),
            "labels": (self.labels is None or pairs and self.labels in LABELS, f"{' or '.join(LABELS)}, for pairs alone"),
            "critic_lr": (self.critic_lr is None or self.made.critic and self.critic_lr > 0, "> 0, and for ppo alone"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{self.method}: {name} must be {rule}, got {getattr(self, name)!r}")
        for name, value in self.hyperparameters.items():
            if not (interval := self.made.numbers[name].interval).holds(value):
                raise ValueError(f"{self.method}: {name} {interval}, got {value!r}")

    @property
    def made(self) -> Method:
        return ON_POLICY[self.method]

    def beta_in(self, place: str) -> float:
        """β where the KL stands, else 0."""
        return self.hyperparameters["beta"] if place == (self.kl or self.made.kl[0]) else 0.0

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of the model that the run began with are asked for."""
        return self.method != "sppo" and (not self.made.kl or self.hyperparameters["beta"] > 0)

    def shaped(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Scores [P, G] with DAPO's penalty on responses of nearly max_tokens, from lengths [N]."""
        cache = self.hyperparameters.get("overlong_share", 0.0) * self.max_tokens
        if cache == 0:
            return scores
        found = overlong_penalty.formula(lengths.to(scores), float(self.max_tokens), cache)
        return scores + found.penalties.reshape(scores.shape)

    @property
    def draws(self) -> int:
        """How often at most a group is drawn."""
        return self.tries or (10 if self.method == "dapo" else 1)

    @property
    def passes(self) -> int:
        """How often all responses of a step are learned from."""
        return self.iterations or (4 if self.method == "sppo" else 1)

    def estimates(self, x: Experience) -> Any:
        """PPO's advantages and returns [N, T], of which the second is what the critic learns."""
        given = self.hyperparameters
        rewards = kl_shaped_rewards(x.scores.flatten().to(x.values), x.old_logps, x.reference_logps, x.rows.mask, given["beta"])
        return gae.formula(rewards, x.values, x.rows.mask, given["discount"], given["trace_decay"])

    def critic_losses(self, x: Experience, values: Tensor) -> Tensor:
        """[N, T], in the tape; they add up as the policy's do."""
        clip = self.hyperparameters["value_clip"]
        return differentiable(ppo_value)(values, x.values, self.estimates(x).returns, x.rows.mask, clip).token_losses

    def paired(self, scores: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pairs [P, K, 2] of scores [P, G], chosen first, and which are tied [P, K]. K is 0 for methods without pairs.

        online-dpo: neighbours; rso: the first two that are accepted.
        """
        if self.method == "rso":
            beta = self.hyperparameters["acceptance_beta"]
            asked = np.stack([rejection_sample(row, beta, 2, rng) for row in scores])[:, None]
        elif self.method == "online-dpo":
            asked = np.broadcast_to(np.arange(scores.shape[1]).reshape(-1, 2), (len(scores), scores.shape[1] // 2, 2))
        else:
            return np.zeros((len(scores), 0, 2), int), np.zeros((len(scores), 0), bool)
        rewards = np.take_along_axis(scores, asked.reshape(len(scores), -1), axis=1).reshape(-1, 2)
        chosen, _, tied = online_pairs(rewards)
        if self.labels == "sampled":
            chosen = (rng.random(len(rewards)) >= sigmoid(rewards[:, 0] - rewards[:, 1])).astype(int)
            tied = np.zeros_like(tied)
        ordered = np.take_along_axis(asked.reshape(-1, 2), np.stack([chosen, 1 - chosen], axis=1), axis=1)
        return ordered.reshape(asked.shape), tied.reshape(asked.shape[:2])

    def groups(self, rows: Sequence[TokenizedRow]) -> list[Group]:
        """By row its prompt, and no response yet."""
        return [(row.prompt_ids, []) for row in rows]


def prompts(rows: Sequence[Row]) -> list[Row]:
    """The prompts of rows of any format. ValueError, with its place, for a text."""
    for row in rows:
        if isinstance(row, Text):
            raise ValueError(f"{row.place}: a method that samples needs prompts, got a text")
    return [Prompt(row.place, row.prompt) for row in rows if not isinstance(row, Text)]
