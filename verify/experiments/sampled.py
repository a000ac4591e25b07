"""What methods that sample come to in the world that is known exactly, by running them: minutes each, on two cores.

    python -m verify --claims 'sampled.*'

A run draws responses from a transformer and learns from them, as `python -m gpt_tiny train` does. What is still missing in the
end is known exactly: the gap J(π*) - J(π), over that of the reference. Chance lies in the seeds, over which goes an interval.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
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


class Plan(NamedTuple):
    """A method with what it is given; `groups` of responses are drawn to each prompt in a step."""

    objective: OnPolicy
    steps: int
    lr: float
    groups: int


def run(plan: Plan, seed: int) -> Tensor:
    """The law [P, K] that a run ends with."""
    torch.set_num_threads(1)
    course = Optimization(plan.lr, warmup=0.1, schedule="cosine", clip=10.0)
    single = torch.float32  # chance is larger than rounding
    trainer = sampling(world(), plan.objective, plan.steps, course, seed, single, plan.groups)
    for _ in range(plan.steps):
        trainer.step()
    return law(trainer.model.double())


def ends(rng: Rng, asked: OnPolicy, steps: int = 2000, groups: int = 1, seeds: int = 4) -> list[Tensor]:
    """Those of several seeds, two at a time."""
    plan = Plan(asked, steps, 1e-3, groups)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return list(pool.map(partial(run, plan), rng.integers(2**31, size=seeds).tolist()))


def made(method: str, **more: Any) -> OnPolicy:
    """A method in the world, all 64 responses to a prompt being one group."""
    return objective(method, world(), **{"group_size": 64, **more})


@cache
def resting(method: str) -> Tensor:
    """The law [P, K] at which a method with groups of two and the KL in its loss comes to rest."""
    return of_responses(rest(objective(method, world(), kl="loss"), world(), rate=12.0))


def gaps(laws: list[Tensor]) -> Reading:
    return Reading.mean([world().gap(logps) for logps in laws])


def distances(laws: list[Tensor], other: Tensor) -> Reading:
    return Reading.mean([total_variation(logps, other) for logps in laws])


@claim("rloo", (BELOW, 0.01), "gap in J(π), of that of the reference, mean over four seeds")
def rloo(rng: Rng) -> Measured:
    """RLOO, its KL in the reward, comes to π*: what is missing in J(π) is at most 1 % of what was.
    False: So does GRPO in groups of two, its KL in the loss: what is missing where its expected gradient is 0.
    Source: arXiv:2402.14740v2 section 2.3
    """
    return Measured(gaps(ends(rng, made("rloo"))), Reading(world().gap(resting("grpo"))))


@claim("dr-grpo", (BELOW, 0.01), "gap in J(π), of that of the reference, mean over four seeds")
def dr_grpo(rng: Rng) -> Measured:
    """So does Dr. GRPO, its KL in the reward.
    False: So does DAPO in groups of two, a KL in its loss: what is missing where its expected gradient is 0.
    Source: arXiv:2503.20783v2 section 3.2
    """
    return Measured(gaps(ends(rng, made("dr-grpo", kl="reward"))), Reading(world().gap(resting("dapo"))))


@claim("ppo", (BELOW, 0.05), "gap in J(π), of that of the reference, mean over four seeds")
def ppo(rng: Rng) -> Measured:
    """PPO with a critic that learns beside it comes within 5 % of π*.
    False: So it does without the KL in its reward.
    Source: arXiv:1707.06347v2 eq. 7
    """
    asked = made("ppo", iterations=2)
    greedy = replace(asked, hyperparameters={**asked.hyperparameters, "beta": 0.0})
    return Measured(gaps(ends(rng, asked, 1200)), gaps(ends(rng, greedy, 300)))


@claim("grpo", (BELOW, 0.1), "total variation to where the expected gradient is 0, of the worst prompt, mean over four seeds")
def grpo(rng: Rng) -> Measured:
    """GRPO in groups of two, its KL in the loss, comes to rest where its own expected gradient is 0.
    False: It comes to rest at π*.
    Source: arXiv:2402.03300v3 eq. 3-4
    """
    laws = ends(rng, objective("grpo", world(), kl="loss"), 2000, groups=32)
    return Measured(distances(laws, resting("grpo")), distances(laws, world().optimum))


@claim("dapo", (BELOW, 0.1), "total variation to where the expected gradient is 0, of the worst prompt, mean over four seeds")
def dapo(rng: Rng) -> Measured:
    """So does DAPO in groups of two, a KL in its loss, each drawn once: with one response twice its rewards are equal too.
    False: It comes to rest at π*.
    Source: arXiv:2503.14476v2 eq. 8
    """
    laws = ends(rng, objective("dapo", world(), kl="loss", tries=1), 2000, groups=32)
    return Measured(distances(laws, resting("dapo")), distances(laws, world().optimum))


@claim("online-dpo", (BELOW, 0.1), "gap in J(π), of that of the reference, mean over four seeds")
def online_dpo(rng: Rng) -> Measured:
    """Online DPO, its labels drawn with σ(R - R'), comes within 10 % of π*.
    False: So it does where the higher reward is always the chosen one.
    Source: arXiv:2402.04792v2 section 3
    """
    drawn, best = (gaps(ends(rng, made("online-dpo", labels=labels))) for labels in ("sampled", "best"))
    return Measured(drawn, best)


@claim("rso", (0.5, 10), "E[R] gained over the reference, of what π* gains, mean over eight seeds")
def rso(rng: Rng) -> Measured:
    """RSO, its pairs accepted among responses of the reference, gains at least half of the reward that π* gains.
    False: And at least half of J, which is that reward less β KL.
    Source: arXiv:2309.06657v2 eq. 10, 14
    """
    here, laws = world(), ends(rng, made("rso", group_size=16), 1000, groups=10, seeds=8)
    start, best, *reached = (
        float((of.exp() * here.rewards).sum(1).mean()) for of in (here.reference_logps, here.optimum, *laws)
    )
    gained = Reading.mean([(reward - start) / (best - start) for reward in reached])
    return Measured(gained, Reading.mean([1 - here.gap(of) for of in laws]))


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
