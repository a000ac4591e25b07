"""What methods that sample come to in the world that is known exactly, by running them: minutes each, on two cores.

    python -m verify --claims 'sampled.*'

A run draws responses from a transformer and learns from them, as `python -m gpt_tiny train` does. What is still missing in the
end is known exactly: the gap J(π*) - J(π), over that of the reference. Chance lies in the seeds, over which goes an interval.
"""

from concurrent.futures import ProcessPoolExecutor
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
SEEDS = 4


class Plan(NamedTuple):
    """A method with what it is given."""

    objective: OnPolicy
    steps: int
    lr: float


def run(plan: Plan, seed: int) -> Tensor:
    """The law [P, K] that a run ends with."""
    torch.set_num_threads(1)
    optimization = Optimization(plan.lr, warmup=0.1, schedule="cosine", clip=10.0)
    trainer = sampling(world(), plan.objective, plan.steps, optimization, seed, torch.float32)  # chance is larger than rounding
    for _ in range(plan.steps):
        trainer.step()
    return law(trainer.model.double())


@cache
def ends(method: str, steps: int, lr: float, group_size: int = 64, **more: Any) -> list[Tensor]:
    """Those of several seeds, two at a time."""
    plan = Plan(objective(method, world(), group_size=group_size, **dict(more)), steps, lr)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return list(pool.map(partial(run, plan), range(SEEDS)))


@cache
def resting(method: str) -> Tensor:
    """The law [P, K] at which a method with the KL in its loss, as it has it, comes to rest."""
    return of_responses(rest(objective(method, world(), kl="loss"), world(), rate=12.0))


def gaps(laws: list[Tensor]) -> Reading:
    return Reading.mean([world().gap(logps) for logps in laws])


def distances(laws: list[Tensor], other: Tensor) -> Reading:
    return Reading.mean([total_variation(logps, other) for logps in laws])


def greedy() -> Tensor:
    """Nearly all on the response of the highest reward."""
    return torch.log_softmax(1e3 * world().rewards, dim=1)


@claim("rloo", (0, 0.01), "gap in J(π), of that of the reference, mean over four seeds")
def rloo(rng: Rng) -> Measured:
    """RLOO, its KL in the reward, comes to π*: what is missing in J(π) is at most 1 % of what was.
    False: So does GRPO, its KL in the loss: what is missing where its expected gradient is 0.
    Source: arXiv:2402.14740v2 section 2.3
    """
    return Measured(gaps(ends("rloo", 2000, 1e-3)), Reading(world().gap(resting("grpo"))))


@claim("dr-grpo", (0, 0.01), "gap in J(π), of that of the reference, mean over four seeds")
def dr_grpo(rng: Rng) -> Measured:
    """So does Dr. GRPO, its KL in the reward.
    False: So does DAPO, a KL in its loss: what is missing where its expected gradient is 0.
    Source: arXiv:2503.20783v2 section 3.2
    """
    return Measured(gaps(ends("dr-grpo", 2000, 1e-3, kl="reward")), Reading(world().gap(resting("dapo"))))


@claim("ppo", (0, 0.05), "gap in J(π), of that of the reference, mean over four seeds")
def ppo(rng: Rng) -> Measured:
    """PPO with a critic that learns beside it comes within 5 % of π*.
    False: It comes to the responses of the highest reward.
    Source: arXiv:1707.06347v2 eq. 7
    """
    return Measured(gaps(ends("ppo", 1200, 1e-3, iterations=2)), Reading(world().gap(greedy())))


@claim("grpo", (0, 0.1), "total variation to where the expected gradient is 0, of the worst prompt, mean over four seeds")
def grpo(rng: Rng) -> Measured:
    """GRPO, its KL in the loss, comes to rest where its own expected gradient is 0.
    False: It comes to rest at π*.
    Source: arXiv:2402.03300v3 eq. 3-4
    """
    laws = ends("grpo", 2000, 1e-3, kl="loss")
    return Measured(distances(laws, resting("grpo")), distances(laws, world().optimum))


@claim("dapo", (0, 0.1), "total variation to where the expected gradient is 0, of the worst prompt, mean over four seeds")
def dapo(rng: Rng) -> Measured:
    """So does DAPO, a KL in its loss.
    False: It comes to rest at π*.
    Source: arXiv:2503.14476v2 eq. 8
    """
    laws = ends("dapo", 2000, 1e-3, kl="loss")
    return Measured(distances(laws, resting("dapo")), distances(laws, world().optimum))


@claim("online-dpo", (0, 0.1), "gap in J(π), of that of the reference, mean over four seeds")
def online_dpo(rng: Rng) -> Measured:
    """Online DPO, its labels drawn with σ(R - R'), comes within 10 % of π*.
    False: It stays at the reference.
    Source: arXiv:2402.04792v2 section 3
    """
    laws = ends("online-dpo", 2000, 1e-3, labels="sampled")
    return Measured(gaps(laws), Reading(world().gap(world().reference_logps)))


@claim("online-dpo-exact", (0, 0.01), "total variation to π*, of the worst prompt")
def online_dpo_exact(rng: Rng) -> Measured:
    """With exact labels, and pairs as often as the policy draws them, in expectation, online DPO comes to π*.
    False: It comes to e^{R/β} / Z, whatever the reference was.
    Source: arXiv:2402.04792v2 section 3
    """
    here = world()
    model = here.policy()
    fit_preferences(here, model, 2500, lr=2e-3, often=as_drawn)
    others = here.optimum, torch.log_softmax(here.rewards / here.beta, dim=1)
    true, false = (Reading(total_variation(law(model), other)) for other in others)
    return Measured(true, false)
