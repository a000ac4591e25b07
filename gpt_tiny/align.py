"""SFT, then DPO, then GRPO, on one file of pairs and one reward: each stage starts from the model of the one before.

    python -m gpt_tiny align --data pairs.jsonl --reward my_rewards:score --out out/aligned

The chosen responses are learned first, with a tokenizer of their own; then the pairs; then responses are drawn to the same
prompts, and their rewards are learned. What each stage came to is asked at the end: the mean reward of what it answers, to
prompts of a file that is held out or, where none is given, to those that it learned from.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from . import data, rewards
from .checkpoint import load_model, write_whole
from .methods import Objective
from .model import GPT
from .model_by_hand import Config
from .on_policy import ON_POLICY, OnPolicy, prompts
from .sampling import sample
from .train import Settings, enter
from .train import run as train
from .trainer import Optimization

STAGES: dict[str, tuple[float, str]] = {
    "vocab_size": (1024, "tokens of the tokenizer"),
    "context": (256, "most tokens of prompt and response"),
    "width": (128, "of the model"),
    "layers": (2, "of the model"),
    "heads": (4, "of the model"),
    "sft_epochs": (3, "over the chosen responses"),
    "sft_lr": (3e-3, "largest learning rate of SFT"),
    "dpo_epochs": (1, "over the pairs"),
    "dpo_lr": (3e-4, "of DPO"),
    "dpo_beta": (0.1, "β of DPO"),
    "grpo_epochs": (1, "over the prompts"),
    "grpo_lr": (1e-4, "of GRPO"),
    "grpo_beta": (0.04, "β of GRPO"),
    "group_size": (8, "responses to a prompt"),
    "max_tokens": (64, "of a response"),
    "asked": (200, "most prompts that are answered at the end"),
    "seed": (0, "of all"),
}


def run(
    file: str, reward: str, out: Path, numbers: Mapping[str, float], held_out: str | None = None, resume: bool = False
) -> str:
    """The folders sft, dpo and grpo, and stages.json with the table that is returned.

    ValueError for a reward that is no function, and numbers that do not fit each other, before anything is trained; else what
    `train.run` raises.
    """
    if Path(reward).is_dir():
        raise ValueError(f"reward must be a function, module:name: a model has a tokenizer of its own, got {reward}")
    rewards.imported(reward)
    if not numbers["asked"] >= 2:
        raise ValueError(f"asked must be >= 2, got {numbers['asked']:g}")
    if not numbers["context"] - numbers["max_tokens"] >= 2:
        raise ValueError(f"max_tokens must leave a prompt 2 of the context's tokens, got {numbers['max_tokens']:g}")
    planned, questions = stages(file, reward, out, numbers), data.load(held_out or file)
    enter(out, {"data": file, "reward": reward, "held out": held_out, **numbers}, resume)
    for name, settings in planned.items():
        train(settings, out / name, resume)
    found = {name: answered(questions, reward, out / name, numbers) for name in planned}
    write_whole(out / "stages.json", json.dumps(found, indent=1) + "\n")
    rows = (f"{name:6}{mean:9.3f} ± {half:.3f}" for name, (mean, half) in found.items())
    whose = "prompts held out" if held_out else "prompts learned from"
    return "\n".join([f"model   mean reward of answers to {whose}, ± half the 95 % interval", *rows])


def stages(file: str, reward: str, out: Path, numbers: Mapping[str, float]) -> dict[str, Settings]:
    """What is run, one after the other."""
    whole = {name: int(value) for name, value in numbers.items()}
    size = Config(*(whole[name] for name in ("vocab_size", "context", "width", "layers", "heads")))
    dpo = Objective("dpo", {"beta": numbers["dpo_beta"]})
    given = {name: number.value for name, number in ON_POLICY["grpo"].numbers.items()} | {"beta": numbers["grpo_beta"]}
    grpo = OnPolicy("grpo", reward, given, whole["group_size"], whole["max_tokens"])
    courses = {name: Optimization(numbers[f"{name}_lr"], schedule="cosine") for name in ("sft", "dpo", "grpo")}
    made = {
        "sft": Settings(file, Objective("sft", {}), courses["sft"], size=size),
        "dpo": Settings(file, dpo, courses["dpo"], str(out / "sft")),
        "grpo": Settings(file, grpo, courses["grpo"], str(out / "dpo"), reference="copy" if grpo.needs_reference else "cached"),
    }
    return {name: replace(settings, epochs=whole[f"{name}_epochs"], seed=whole["seed"]) for name, settings in made.items()}


def answered(questions: list[data.Row], reward: str, folder: Path, numbers: Mapping[str, float]) -> tuple[float, float]:
    """The mean reward of one answer to each of the first prompts, and 1.96 of its standard errors."""
    config, weights, tokenizer = load_model(folder)
    model = GPT(config).eval()
    model.load_weights(weights)
    rows = prompts(questions)[: int(numbers["asked"])]
    room = config.context - int(numbers["max_tokens"])
    asked = [row.prompt_ids for row in data.tokenize(rows, tokenizer.encode, tokenizer.eos, room).rows]
    ids = sample(model, asked, tokenizer.eos, int(numbers["max_tokens"]), seed=int(numbers["seed"]))
    answers = [(prompt, [response]) for prompt, response in zip(asked, ids, strict=True)]
    found = rewards.by_function(reward, tokenizer)(answers)
    return float(found.mean()), 1.96 * float(found.std()) / math.sqrt(len(found))
