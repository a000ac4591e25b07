"""What methods that sample come to in the world that is known exactly, by running them: minutes each, on two cores.

    python -m verify --claims 'sampled.*'

A run draws responses from a transformer and learns from them, as `python -m gpt_tiny train` does. What is still missing in the
end is known exactly: the gap J(π*) - J(π), over that of the reference. Chance lies in the seeds, over which goes an interval.
"""

import time
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt_tiny.enumerable import as_drawn, fit_preferences, law, of_responses, rest, sampling, total_variation, world
from gpt_tiny.on_policy import OnPolicy
from gpt_tiny.trainer import Optimization
from toy.experiment import Measured, Reading
from verify.experiments.on_policy import objective
from verify.theory.claim import exact

claim = partial(exact, kind="sampled")
Rng = np.random.Generator
BELOW = -1.0  # no gap or distance is below 0, but the interval of a few seeds may reach there


class Ends(NamedTuple):
    """What runs that differ in their seeds alone end with: J's gap on average, or the least of them."""

    laws: list[Tensor]  # [P, K] each
    numbers: dict[str, float]  # how long they took

    @property
    def gap(self) -> Reading:
        return Reading.mean([world().gap(logps) for logps in self.laws])

    @property
    def least(self) -> Reading:
        return Reading(min(map(world().gap, self.laws)))

    def distance(self, other: Tensor) -> Reading:
        return Reading.mean([total_variation(logps, other) for logps in self.laws])


def ends(rng: Rng, asked: OnPolicy, steps: int = 1500, groups: int = 1, seeds: int = 4) -> Ends:
    """The ends of several seeds, with so many groups to each prompt in a step, each on one core.

    At a quarter of this rate one run of six leaves a branch of some prompt in its first steps and does not win it back.
    """
    torch.set_num_threads(1)
    course, began = Optimization(4e-3, warmup=0.1, schedule="cosine", clip=10.0), time.process_time()
    single, laws = torch.float32, []  # chance is larger than rounding
    for seed in rng.integers(2**31, size=seeds).tolist():
        trainer = sampling(world(), asked, steps, course, seed, single, groups)
        for _ in range(steps):
            trainer.step()
        laws.append(law(trainer.model.double()))
    return Ends(laws, {"seconds of one core, each": (time.process_time() - began) / seeds})


def made(method: str, **more: Any) -> OnPolicy:
    """A method in the world, all 128 responses to a prompt being one group."""
    return objective(method, world(), **{"group_size": 128, **more})


@cache
def resting(method: str) -> Tensor:
    """The law [P, K] at which a method with groups of two and the KL in its loss comes to rest."""
    return of_responses(rest(objective(method, world(), kl="loss"), world(), rate=12.0))


@claim("rloo", (BELOW, 0.01), "gap in J(π), of that of the reference, mean over four seeds")
def rloo(rng: Rng) -> Measured:
    """RLOO, its KL in the reward, comes to π*: what is missing in J(π) is at most 1 % of what was.
    False: So does GRPO in groups of two, its KL in the loss: what is missing where its expected gradient is 0.
    Source: arXiv:2402.14740v2 section 2.3
    """
    found = ends(rng, made("rloo"))
    return Measured(found.gap, Reading(world().gap(resting("grpo"))), found.numbers)


@claim("dr-grpo", (BELOW, 0.01), "gap in J(π), of that of the reference, mean over four seeds")
def dr_grpo(rng: Rng) -> Measured:
    """So does Dr. GRPO, its KL in the reward.
    False: So does DAPO in groups of two, a KL in its loss: what is missing where its expected gradient is 0.
    Source: arXiv:2503.20783v2 section 3.2
    """
    found = ends(rng, made("dr-grpo", kl="reward"))
    return Measured(found.gap, Reading(world().gap(resting("dapo"))), found.numbers)


@claim("ppo", (BELOW, 0.05), "gap in J(π), of that of the reference, mean over four seeds")
def ppo(rng: Rng) -> Measured:
    """PPO with a critic that learns beside it comes within 5 % of π*.
    False: So it does without the KL in its reward: the least gap of four seeds.
    Source: arXiv:1707.06347v2 eq. 7
    """
    asked = made("ppo", group_size=64, iterations=2)
    greedy = replace(asked, hyperparameters={**asked.hyperparameters, "beta": 0.0})
    found = ends(rng, asked, 1200)
    return Measured(found.gap, ends(rng, greedy, 300).least, found.numbers)


@claim("grpo", (BELOW, 0.1), "total variation to where the expected gradient is 0, of the worst prompt, mean over four seeds")
def grpo(rng: Rng) -> Measured:
    """GRPO in groups of two, its KL in the loss, comes to rest where its own expected gradient is 0.
    False: It comes to rest at π*.
    Source: arXiv:2402.03300v3 eq. 3-4
    """
    found = ends(rng, objective("grpo", world(), kl="loss"), groups=64)
    return Measured(found.distance(resting("grpo")), found.distance(world().optimum), found.numbers)


@claim("dapo", (BELOW, 0.1), "total variation to where the expected gradient is 0, of the worst prompt, mean over four seeds")
def dapo(rng: Rng) -> Measured:
    """So does DAPO in groups of two, a KL in its loss, each drawn once: with one response twice its rewards are equal too.
    False: It comes to rest at π*.
    Source: arXiv:2503.14476v2 eq. 8
    """
    found = ends(rng, objective("dapo", world(), kl="loss", tries=1), groups=64)
    return Measured(found.distance(resting("dapo")), found.distance(world().optimum), found.numbers)


@claim("online-dpo", (BELOW, 0.1), "gap in J(π), of that of the reference, mean over six seeds")
def online_dpo(rng: Rng) -> Measured:
    """Online DPO, its labels drawn with σ(R - R'), comes within 10 % of π*.
    False: So it does where the higher reward is always the chosen one: the least gap of four seeds.
    Source: arXiv:2402.04792v2 section 3
    """
    drawn = ends(rng, made("online-dpo", labels="sampled"), seeds=6)
    best = ends(rng, made("online-dpo", labels="best"), 500)
    return Measured(drawn.gap, best.least, drawn.numbers)


@claim("rso", (0.5, 10), "E[R] gained over the reference, of what π* gains, mean over eight seeds")
def rso(rng: Rng) -> Measured:
    """RSO, its pairs accepted among responses of the reference, gains at least half of the reward that π* gains.
    False: And at least half of J, which is that reward less β KL.
    Source: arXiv:2309.06657v2 eq. 10, 14
    """
    here, found = world(), ends(rng, made("rso", group_size=16), 1000, groups=10, seeds=8)
    start, best, *reached = (
        float((of.exp() * here.rewards).sum(1).mean()) for of in (here.reference_logps, here.optimum, *found.laws)
    )
    gained = Reading.mean([(reward - start) / (best - start) for reward in reached])
    return Measured(gained, Reading.mean([1 - here.gap(of) for of in found.laws]), found.numbers)


@claim("online-dpo-exact", (0, 0.01), "total variation to π*, of the worst prompt")
def online_dpo_exact(rng: Rng) -> Measured:
    """With exact labels, and pairs as often as the policy draws them, in expectation, DPO comes to π*.
    False: It comes to e^{R/β} / Z, whatever the reference was.
    Source: arXiv:2402.04792v2 section 3
    """
    here = world()
    model = here.policy()
    fit_preferences(here, model, 2500, lr=2e-3, often=as_drawn)
    others = here.optimum, torch.log_softmax(here.rewards / here.beta, dim=1)
    true, false = (Reading(total_variation(law(model), other)) for other in others)
    return Measured(true, false)
