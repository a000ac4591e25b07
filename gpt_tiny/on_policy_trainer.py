"""A step of a method that samples: prompts, responses, rewards, and then the updates that are learned from them.

    draw G responses to each prompt     from the policy as it is, or for rso from the one that the run began with
    ask for rewards, and for log π_old, log π_ref and the critic's values of every token: constants from here on
    pass `iterations` times over them, in `minibatches` updates each

What a step draws comes from the run's seed and the number of the step, so that a run that was killed draws the same again.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from minipref.online.kl import k3_and_slope

from .data import TokenizedRow
from .model import GPT
from .on_policy import Experience, OnPolicy
from .packed import Group
from .reference import Held
from .rewards import Reward
from .rollouts import Rows, layout, logps_by_token, quiet, scored_by_token
from .sampling import sample
from .trainer import Learner, Optimization, Step, precisely
from .value_model import ValueModel


class OnPolicyTrainer(Learner):
    """A policy, what rewards it, and how far it is.

    `held` gives the model that the run began with, None where the method asks for none; `size` is how many groups at once are
    scored, and learned from; `critic` is ppo's.
    """

    def __init__(
        self,
        model: GPT,
        objective: OnPolicy,
        rows: Sequence[TokenizedRow],
        steps: Sequence[Step],
        optimization: Optimization,
        reward: Reward,
        held: Held | None,
        eos: int,
        seed: int = 0,
        size: int = 16,
        precision: torch.dtype = torch.float32,
        critic: ValueModel | None = None,
    ) -> None:
        critic_rate = (objective.critic_lr or optimization.lr) / optimization.lr
        super().__init__(model, steps, optimization, beside=critic, beside_rate=critic_rate)
        self.objective, self.rows, self.reward, self.held = objective, rows, reward, held
        self.eos, self.seed, self.size, self.precision, self.critic = eos, seed, size, precision, critic
        # Log-probabilities of policy gradients are those of what sampled; a loss on pairs or win rates is on the policy itself.
        self.temperature = objective.temperature if objective.made.kl else 1.0

    def step(self) -> dict[str, float]:
        """Take the next step; its metrics, those of the losses means over its updates. Raises Diverged, all as it was."""
        rng, epoch, rate = np.random.default_rng([self.seed, self.done]), self.steps[self.done].epoch, self.rate
        groups, rewards, again = self.sampled([self.rows[i] for i in self.steps[self.done].rows], rng)
        x = self.experience(groups, rewards, rng=rng)
        parts = self.parts(len(rewards)) * self.objective.passes
        with self.undone(whole=len(parts) > 1):
            learned = [self.learn(x, part) for part in parts]
        self.done += 1
        self.tokens += int(x.rows.attention_mask.sum())
        met = {name: sum(update[name] for update in learned) / len(learned) for name in learned[0]}
        met = {"step": self.done, "epoch": epoch} | met | self.monitors(x, groups, rewards, again)
        return met | {"learning_rate": rate, "num_tokens": self.tokens}

    def sampled(self, rows: Sequence[TokenizedRow], rng: np.random.Generator) -> tuple[list[Group], Tensor, int]:
        """Groups of G responses, their rewards [P, G], and how many groups were drawn again, with any prompt of the data.

        Those whose rewards are all equal still after the last draw stay.
        """
        groups, rewards = self.drawn(rows, rng)
        again = 0
        for _ in range(self.objective.draws - 1):
            same = (rewards == rewards[:, :1]).all(dim=1).nonzero()[:, 0].tolist()
            if not same:
                break
            others, other_rewards = self.drawn([self.rows[i] for i in rng.integers(len(self.rows), size=len(same))], rng)
            for place, group, row in zip(same, others, other_rewards, strict=True):
                groups[place], rewards[place] = group, row
            again += len(same)
        return groups, rewards, again

    def drawn(self, rows: Sequence[TokenizedRow], rng: np.random.Generator) -> tuple[list[Group], Tensor]:
        """G responses to the prompt of each row, and their rewards [P, G]."""
        size, objective = self.objective.group_size, self.objective
        asked = [prompt for prompt, _ in objective.groups(rows) for _ in range(size)]
        seed = int(rng.integers(2**63))
        with self.sampler() as model, precisely(self.device, self.precision):
            ids = sample(model, asked, self.eos, objective.max_tokens, objective.temperature, seed=seed)
        groups = [(asked[n], ids[n : n + size]) for n in range(0, len(ids), size)]
        return groups, self.reward(groups).reshape(-1, size).to(self.device)

    def sampler(self) -> AbstractContextManager[GPT]:
        return self.reference() if self.objective.made.from_reference else nullcontext(self.model)

    def reference(self) -> AbstractContextManager[GPT]:
        assert self.held
        return self.held()

    def experience(self, groups: Sequence[Group], rewards: Tensor, rng: np.random.Generator) -> Experience:
        """What is learned from, all of it constant; scores are the rewards as the method shapes them."""
        rows = layout(groups, self.device)
        scores = self.objective.shaped(rewards, rows.mask.sum(dim=1))
        old = reference = values = torch.zeros_like(rows.mask, dtype=self.model.wte.weight.dtype)
        if not self.objective.made.from_reference:
            old = self.scored(self.model, rows)
        if self.objective.needs_reference:
            with self.reference() as frozen:
                reference = self.scored(frozen, rows)
        if self.critic:
            with quiet(self.critic):
                values = self.in_parts(self.critic.values, rows)
        pairs, tied = (torch.tensor(x, device=self.device) for x in self.objective.paired(scores.cpu().numpy(), rng))
        return Experience(rows, scores, old, reference, values, pairs, tied)

    def scored(self, model: GPT, rows: Rows) -> Tensor:
        """Log-probabilities [N, T]."""
        return self.in_parts(lambda some: scored_by_token(model, some, self.temperature), rows)

    def in_parts(self, ask: Callable[[Rows], Tensor], rows: Rows) -> Tensor:
        """Numbers [N, T], of `size` groups at once."""
        size = self.size * self.objective.group_size
        with precisely(self.device, self.precision):
            return torch.cat([ask(rows.of(slice(first, first + size))) for first in range(0, len(rows.mask), size)])

    def parts(self, groups: int) -> list[slice]:
        """Of the groups those of each update, in as equal numbers as there are; a group is never split."""
        ends = np.linspace(0, groups, min(groups, self.objective.minibatches) + 1).round().astype(int).tolist()
        return [slice(first, last) for first, last in zip(ends, ends[1:], strict=False)]

    def learn(self, x: Experience, part: slice) -> dict[str, float]:
        """An update from some of the groups, `size` of them at once; what is averaged is averaged over all of `part`."""
        x, losses = x.of(part), {"loss": 0.0} | ({"value_loss": 0.0} if self.critic else {})
        groups = len(x.scores)
        weights = self.objective.made.weights(self.objective, x)
        for first in range(0, groups, self.size):
            some = slice(first, min(groups, first + self.size))
            for name, total in self.totals(x.of(some), weights[scaled(some, len(weights) // groups)]).items():
                total.backward()
                losses[name] += total.item()
        norm = self.update(sum(losses.values()), f"{groups} groups of {x.scores.shape[1]} responses")
        return losses | {"grad_norm": norm}

    def totals(self, x: Experience, weights: Tensor) -> dict[str, Tensor]:
        """Weighed losses, in the tape: the policy's, and the critic's."""
        with precisely(self.device, self.precision):
            logps = logps_by_token(self.model, x.rows, self.temperature)
            found = {"loss": (weights * self.objective.made.losses(self.objective, x, logps)).sum()}
            if self.critic:
                found["value_loss"] = (weights * self.objective.critic_losses(x, self.critic.values(x.rows))).sum()
        return found

    def monitors(self, x: Experience, groups: Sequence[Group], rewards: Tensor, again: int) -> dict[str, float]:
        """What people watch, under TRL's names. Rewards are as they were given.

        kl, in nats, is there where the policy sampled: of a method that has it in its loss the mean over all tokens of k3, else
        the mean over responses of log π_old/π_ref, summed over tokens.
        """
        lengths = x.rows.mask.sum(dim=1)
        ended = [response[-1] == self.eos for _, responses in groups for response in responses]
        found = {"reward": rewards.mean(), "reward_std": rewards.std(dim=1, correction=min(1, rewards.shape[1] - 1)).mean()}
        found["frac_reward_zero_std"] = (rewards == rewards[:, :1]).all(dim=1).double().mean()
        sampled_from_old = not self.objective.made.from_reference and self.temperature == self.objective.temperature
        if self.objective.needs_reference and sampled_from_old:
            by_token = "loss" in self.objective.made.kl[:1]
            k3 = k3_and_slope(x.old_logps, x.reference_logps)[0][x.rows.mask].mean()
            found["kl"] = k3 if by_token else (x.old_logps - x.reference_logps).sum(dim=1).mean()
        found |= {"completions/mean_length": lengths.double().mean()}
        shown = {name: float(value) for name, value in found.items()}
        shown["completions/clipped_ratio"] = 1 - sum(ended) / len(ended)
        return shown | ({"groups drawn again": float(again)} if self.objective.draws > 1 else {})


def scaled(groups: slice, size: int) -> slice:
    return slice(groups.start * size, groups.stop * size)
