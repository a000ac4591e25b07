"""What a response is worth: a function of yours, or a reward model that was trained on pairs.

    module:name     name(prompts=[...], completions=[...]) -> a number for each, of texts without EOS; imported as Python does
    a folder        that `python -m gpt_tiny reward-model` wrote, with the policy's tokenizer

Rewards are constants: nothing is differentiated through them.
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import load_reward_model
from .packed import Group, Ids
from .rollouts import quiet
from .tokenizer import Tokenizer
from .value_model import ValueModel

Reward = Callable[[Sequence[Group]], Tensor]  # float64 [N], by response


def find(name: str, tokenizer: Tokenizer, device: str, context: int) -> Reward:
    """The reward of that name. ValueError where there is none, or a model that cannot read the policy's responses."""
    is_folder = name and Path(name).is_dir()
    return by_model(Path(name), tokenizer, device, context) if is_folder else by_function(name, tokenizer)


def by_function(name: str, tokenizer: Tokenizer) -> Reward:
    """A function of texts, asked once for all responses of a step. What it raises passes through.

    ValueError for a name that is none; when asked, for an answer that is not one finite number for each response.
    """
    ask = imported(name)

    def answer(groups: Sequence[Group]) -> Tensor:
        prompts = [tokenizer.decode(prompt) for prompt, responses in groups for _ in responses]
        completions = [_text(ids, tokenizer) for _, responses in groups for ids in responses]
        found = list(ask(prompts=prompts, completions=completions))
        if len(found) != len(prompts) or not all(isinstance(x, Real) and math.isfinite(x) for x in found):
            raise ValueError(f"{name}: must give a finite number for each of {len(prompts)} responses, got {found!r:.200}")
        return torch.tensor([float(x) for x in found], dtype=torch.float64)

    return answer


def imported(name: str) -> Callable[..., Any]:
    """The function module:name. ValueError where there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"reward must be a folder or a function, module:name, got {name!r}: {error}") from None
    if not callable(found):
        raise ValueError(f"reward must be a function, got {name!r}, which is {found!r:.100}")
    return found


def _text(ids: Ids, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(ids[:-1] if ids[-1] == tokenizer.eos else ids)


def by_model(folder: Path, tokenizer: Tokenizer, device: str, context: int) -> Reward:
    """A reward model, read at a response's last token: its EOS, or where it was cut.

    ValueError for one of another tokenizer, or of fewer than `context` tokens.
    """
    config, weights, theirs = load_reward_model(folder)
    if theirs != tokenizer:
        raise ValueError(f"reward must be a model with the tokenizer of the policy, got {folder}")
    if config.context < context:
        raise ValueError(
            f"reward must be a model of at least the policy's context, {context}, got {folder} of {config.context}"
        )
    model = ValueModel(config).to(device)
    model.load_weights(weights)

    def answer(groups: Sequence[Group]) -> Tensor:
        with quiet(model):
            return model.rewards(groups).double().cpu()

    return answer
