"""What methods that sample come to in the world that is known exactly, by running them: minutes each, on two cores.

    python -m verify --claims 'sampled.*'

A run draws responses from a transformer and learns from them, as `python -m gpt_tiny train` does. What is still missing is exact:
the gap J(π*) - J(π), over that of the reference. Its chance lies in the seeds, over which an interval is taken.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpt_tiny import enumerable
from gpt_tiny.enumerable import fit_preferences, law, of_responses, rest, sampling, total_variation, world
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
    optimization = Optimization(plan.lr, warmup=0.02, schedule="cosine", clip=10.0)
    trainer = sampling(world(), plan.objective, plan.steps, optimization, seed)
    for _ in range(plan.steps):
        trainer.step()
    return law(trainer.model)


@cache
def ends(method: str, steps: int, lr: float, group_size: int = 32, **more: Any) -> list[Tensor]:
    """Those of several seeds, two at a time."""
    plan = Plan(objective(method, world(), group_size=group_size, **dict(more)), steps, lr)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return list(pool.map(partial(run, plan), range(SEEDS)))
