"""What an update of each method costs in models and passes, counted while it runs.

    python -m gpt_tiny.accounting

A pass runs the whole batch through one network, forward, or forward and backward. Sampling is counted by the tokens that it
draws. Batches are one prompt with two responses: a pair, or a group of two.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from minipref.defaults import DEFAULTS

from . import on_policy_trainer
from .data import Place, TokenizedPair, TokenizedPrompt
from .lora import add_adapters
from .methods import Objective, hyperparameters_of
from .model import GPT
from .model_by_hand import Config
from .on_policy import ON_POLICY, OnPolicy
from .on_policy_trainer import OnPolicyTrainer
from .packed import Group
from .reference import cached, computed, held
from .rollouts import quiet
from .sampling import sample
from .trainer import Optimization, Step, Trainer, World, asked
from .value_model import ValueModel

CONFIG = Config(vocab_size=11, context=12, width=8, layers=1, heads=1)
NEVER, LONGEST = -1, 4  # an EOS that is never drawn, so that all responses are as long
PAIR = TokenizedPair(Place("counted", 1), [1, 2], [3, 4, 5, 10], [6, 7, 8, 10])
ONE = [Step(1.0, [0])]


class Cost(NamedTuple):
    """Of one update."""

    models: int  # whose weights are asked
    forward: int  # passes without a gradient
    both: int  # passes forward and backward
    drawn: int  # tokens


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Counts passes by the look-ups of tokens in the embeddings of any GPT; those of sampling by what it returns."""
    found, models, sampling = Counter[str](), set[int](), [False]

    def looked_up(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Embedding) and module.num_embeddings == CONFIG.vocab_size:
            models.add(id(module))
            found["models"] = len(models)
            found["both" if torch.is_grad_enabled() else "forward"] += not sampling[0]

    def drawing(*args: Any, **kwargs: Any) -> list[list[int]]:
        sampling[0] = True
        try:
            drawn = sample(*args, **kwargs)
        finally:
            sampling[0] = False
        found["drawn"] += sum(map(len, drawn))
        return drawn

    hook = register_module_forward_hook(looked_up)
    try:
        with mock.patch.object(on_policy_trainer, "sample", drawing):
            yield found
    finally:
        hook.remove()


def of_pairs(method: str, reference: str | None = None) -> Cost:
    """An offline method, with its reference in one of the four ways."""
    objective = Objective(method, {name: DEFAULTS[method, name].value for name in hyperparameters_of(method)})
    model = GPT(CONFIG)
    if reference == "lora":
        add_adapters(model, 2, 4.0, 0)
    with TemporaryDirectory() as folder:
        wanted = asked(objective, [[PAIR]], 16, World(), CONFIG.context)
        answers = None
        if reference == "cached":
            answers = cached(model, wanted, Path(folder) / "reference.npz", "float32")
        elif reference:
            answers = computed(model, reference)
        trainer = Trainer(model, objective, [PAIR], ONE, Optimization(1e-3), answers)
        return _counted(trainer)


def of_samples(method: str) -> Cost:
    """A method that samples, rewarded by a model."""
    numbers = {name: number.value for name, number in ON_POLICY[method].numbers.items()}
    tries = 1 if method == "dapo" else None
    objective = OnPolicy(method, "counted", numbers, group_size=2, max_tokens=LONGEST, iterations=1, tries=tries)
    model, scorer = GPT(CONFIG), ValueModel(CONFIG)

    def reward(groups: Sequence[Group]) -> Tensor:
        with quiet(scorer):
            return scorer.rewards(groups).double()

    prompt = TokenizedPrompt(PAIR.place, PAIR.prompt_ids)
    critic = ValueModel(CONFIG) if objective.made.critic else None
    return _counted(
        OnPolicyTrainer(model, objective, [prompt], ONE, Optimization(1e-3), reward, held(model, "copy"), NEVER, critic=critic)
    )


def _counted(trainer: Trainer | OnPolicyTrainer) -> Cost:
    with counting() as found:
        trainer.step()
    return Cost(*(found[name] for name in Cost._fields))


def table() -> str:
    """A line for each method, as Markdown."""
    rows = {f"dpo, reference {way}": of_pairs("dpo", way) for way in ("copy", "offload", "cached", "lora")}
    rows |= {method: of_pairs(method) for method in ("simpo", "orpo")}
    rows |= {f"{method}, reward model": of_samples(method) for method in ON_POLICY}
    lines = [f"| {name} | {cost.models} | {cost.forward} | {cost.both} | {cost.drawn} |" for name, cost in rows.items()]
    head = "| method | models | passes forward | passes forward and backward | tokens drawn |"
    return "\n".join([head, "|---|---|---|---|---|", *lines])


if __name__ == "__main__":
    print(table())
