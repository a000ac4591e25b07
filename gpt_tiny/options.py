"""The options of `python -m gpt_tiny`, and what they ask for. Flags and help come from the tables of methods and defaults."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from minipref.defaults import DEFAULTS

from .data import ON_LONG

SIZE = {"vocab_size": 2048, "context": 512, "width": 192, "layers": 4, "heads": 6}
SAMPLING: dict[str, tuple[type, str]] = {
    "group_size": (int, "responses to each prompt (default 8)"),
    "max_tokens": (int, "tokens of a response (default 64)"),
    "temperature": (float, "of sampling, and of the log-probabilities of policy gradients (default 1)"),
    "kl": (str, "where the KL stands: reward or loss (default: as the method has it)"),
    "labels": (str, "of pairs: best, or sampled by the difference of the rewards (default best)"),
    "iterations": (int, "passes over the responses of a step (default 1; sppo 4)"),
    "minibatches": (int, "updates in a pass (default 1)"),
    "tries": (int, "draws of a group until its rewards differ (dapo 10)"),
    "critic_lr": (float, "ppo's learning rate of the critic (default: the policy's)"),
}
PAIRS = "JSONL or JSONL.gz: prompt, chosen, rejected; transcripts; messages; prompt, completion, label; text"


def parser(description: str = "") -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m gpt_tiny", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, purpose: str, example: str) -> Callable[..., Any]:
        sub = commands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.\n\n  python -m gpt_tiny {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return sub.add_argument

    sft = command(
        "sft", "learn chosen responses or texts, with a new model or one that is there", "--data pairs.jsonl --out out/sft"
    )
    _common(sft, lr=1e-3)
    sft("--model", metavar="DIR", help="go on from this model instead of a new one")
    for name, value in SIZE.items():
        sft(_flag(name), type=int, metavar="N", help=f"of a new model (default {value})")

    train = command("train", "learn preferences", "--method dpo --model out/sft --data pairs.jsonl --out out/dpo")
    known = f"one of {', '.join(_methods())}; with --reward one that samples, of {', '.join(_sampling())}"
    train("--method", required=True, metavar="METHOD", help=known)
    _common(train, lr=3e-4)
    train("--model", required=True, metavar="DIR", help="where the policy starts, and what it is held against")
    for name, said in _hyperparameters().items():
        train(_flag(name), type=float, metavar="X", help=said)
    train("--reference", metavar="WAY", help="cached, copy, offload or lora (default cached; copy where responses are sampled)")
    train("--lora-rank", type=int, default=0, metavar="R", help="learn adapters of this rank over frozen weights")
    train("--lora-alpha", type=float, default=16.0, metavar="X", help="their scale times the rank (default 16)")
    train("--quantize-base", choices=("nf4",), help="hold the frozen weights in 4 bits")

    train("--reward", metavar="NAME", help="with a method that samples: module:name, or the folder of a reward model")
    for name, (kind, said) in SAMPLING.items():
        train(_flag(name), type=kind, metavar={int: "N", float: "X", str: "WORD"}[kind], help=f"of sampling: {said}")

    judged = command("reward-model", "learn what responses are worth", "--model out/sft --data pairs.jsonl --out out/reward")
    _common(judged, lr=3e-4)
    judged("--model", required=True, metavar="DIR", help="where it starts, with a score of 0")
    judged("--margin", type=float, metavar="X", help="by how much the chosen reward is to be the higher one (default 0)")

    aligned = command("align", "SFT, then DPO, then GRPO", "--data pairs.jsonl --reward my_rewards:score --out out/aligned")
    _folder(aligned)
    aligned("--reward", required=True, metavar="NAME", help="module:name")
    aligned("--held-out", metavar="FILE", help="prompts that are answered at the end (default: those of --data)")
    for name, (number, said) in _stages().items():
        aligned(_flag(name), type=type(number), default=number, metavar="X", help=f"{said} (default {number:g})")

    drawn = command("sample", "draw responses", '--model out/dpo --prompt "How are you?" --temperature 0.7')
    drawn("--model", required=True, metavar="DIR")
    drawn("--prompt", action="append", default=[], metavar="TEXT", help="repeatable")
    drawn("--data", metavar="FILE", help="prompts of this file")
    drawn("--max-tokens", type=int, default=128, metavar="N", help="of a response (default 128)")
    drawn("--temperature", type=float, default=1.0, metavar="X", help="0 takes the likeliest token (default 1)")
    drawn("--top-k", type=int, default=0, metavar="K", help="of the K likeliest tokens only; 0: of all (default 0)")
    drawn("--seed", type=int, default=0)

    measured = command("eval", "measure a model on data", "--model out/dpo --reference out/sft --data held-out.jsonl")
    measured("--method", default="dpo", metavar="METHOD", help="whose loss and rewards (default dpo)")
    measured("--model", required=True, metavar="DIR")
    measured("--reference", metavar="DIR", help="the model that it started from")
    measured("--data", required=True, metavar="FILE", help=PAIRS)
    measured("--batch-size", type=int, default=16, metavar="N")
    for name, said in _hyperparameters().items():
        measured(_flag(name), type=float, metavar="X", help=said)

    folded = command("folds", "hold every pair out once: SFT and DPO on the others", "--data pairs.jsonl --out out/folds")
    _folder(folded)
    for name, default in plan_options().items():
        shown = "N" if isinstance(default, int) else "X"
        folded(_flag(name), type=type(default), default=default, metavar=shown, help=f"(default {default:g})")

    commands.add_parser("demo", help="a generated world with a known reward, from nothing to a figure")
    commands.add_parser("bench", help="measure the work, the speed and the memory of a step")
    for name, purpose, example in (
        ("import-hf", "read a GPT2LMHeadModel's folder (needs safetensors)", "their-folder out/model"),
        ("export-hf", "write a folder that GPT2LMHeadModel opens (needs safetensors)", "out/model their-folder"),
    ):
        moved = command(name, purpose, example)
        moved("source", metavar="FROM")
        moved("target", metavar="TO")
    return made


def _folder(add: Callable[..., Any]) -> None:
    add("--data", required=True, metavar="FILE", help=PAIRS)
    add("--out", required=True, type=Path, metavar="DIR", help="a new folder, or with --resume that of the run")
    add("--resume", action="store_true", help="go on from its last checkpoint, to the same bits")


def _common(add: Callable[..., Any], lr: float) -> None:
    _folder(add)
    add("--evaluation", metavar="FILE", help="data that is measured after every epoch")
    add("--epochs", type=int, default=1, metavar="N", help="(default 1)")
    add("--batch-size", type=int, default=16, metavar="N", help="rows, or groups of responses, computed at once (default 16)")
    add("--accumulation", type=int, default=1, metavar="N", help="such batches in a step (default 1)")
    add("--lr", type=float, default=lr, metavar="X", help=f"largest learning rate (default {lr:g})")
    add("--warmup", type=float, default=0.1, metavar="X", help="share of the steps in which it rises (default 0.1)")
    add("--schedule", default="linear", metavar="WORD", help="how it falls: constant, linear, cosine (default linear)")
    add("--weight-decay", type=float, default=0.0, metavar="X", help="decoupled, on every tensor (default 0)")
    add("--clip", type=float, default=1.0, metavar="X", help="largest norm of a gradient (default 1)")
    add("--dropout", type=float, default=0.0, metavar="X", help="(default 0)")
    add("--max-length", type=int, metavar="N", help="tokens of prompt and response (default: the context)")
    add(
        "--on-long",
        choices=ON_LONG,
        default="error",
        help="a response too long for that (default error); prompts are cut at their left",
    )
    add("--skip-bad", action="store_true", help="leave bad lines out, and list them in dropped.jsonl")
    add("--seed", type=int, default=0, metavar="N", help="of weights, order and dropout (default 0)")
    add("--dtype", default="float32", metavar="TYPE", help="float32, bfloat16 (of the blocks) or float64 (default float32)")
    add("--device", default="cpu", metavar="NAME", help="cpu or cuda (default cpu)")
    add("--compile", action="store_true", help="torch.compile the MLPs")
    add("--autograd", action="store_true", help="let PyTorch differentiate, in place of the hand-written gradients")
    add("--save-every", type=int, default=100, metavar="N", help="steps between checkpoints (default 100)")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def plan_options() -> dict[str, Any]:
    """What `folds` can be told, and its defaults."""
    from .folds import Plan

    return {field.name: field.default for field in fields(Plan) if field.name != "data"}


def _methods() -> list[str]:
    from .methods import METHODS

    return list(METHODS)


def _sampling() -> dict[str, Any]:
    from .on_policy import ON_POLICY

    return ON_POLICY


def _stages() -> dict[str, tuple[float, str]]:
    from .align import STAGES

    return STAGES


def _hyperparameters() -> dict[str, str]:
    """Every one that some method has, with its values: default, what is in use, by whom, source."""
    said: dict[str, list[str]] = {}
    for row in DEFAULTS.values():
        if row.operation in _methods():
            text = f"{row.operation} {row.value:g} (in use {row.low:g} to {row.high:g}; {row.used_by}; {row.source})"
            said.setdefault(row.argument, []).append(text.replace("%", "%%"))
    for method, made in _sampling().items():
        for name, number in made.numbers.items():
            said.setdefault(name, []).append(f"{method} {number.value:g}")
    return {name: "; ".join(texts) for name, texts in said.items()}


def samples(options: argparse.Namespace) -> bool:
    """Whether a method is asked for that samples; `sppo` does where it is given a reward."""
    method = getattr(options, "method", "sft")
    return method in _sampling() and (method not in _methods() or options.reward is not None)


def objective(options: argparse.Namespace) -> Any:
    """The method with what was given, and defaults for the rest. ValueError for what it has not."""
    from .methods import Objective
    from .on_policy import OnPolicy

    method = {"sft": "sft", "reward-model": "bradley_terry"}.get(options.command, getattr(options, "method", ""))
    said = {name: value for name, value in vars(options).items() if value is not None}
    given = {name: said[name] for name in ("margin", *_hyperparameters()) if name in said}
    told = {name: said[name] for name in ("reward", *SAMPLING) if name in said}
    if samples(options):
        if options.autograd:
            raise ValueError(f"--autograd must be left out with {method}, whose gradients are always the hand-written ones")
        numbers = {name: number.value for name, number in _sampling()[method].numbers.items()}
        return OnPolicy(method, told.pop("reward", ""), numbers | given, **told)
    if told:
        raise ValueError(f"--{next(iter(told)).replace('_', '-')} is for methods that sample, and {method} does not")
    default = {row.argument: row.value for row in DEFAULTS.values() if row.operation == method}
    return Objective(method, default | given, getattr(options, "autograd", False))


def settings(options: argparse.Namespace) -> Any:
    """What `sft` or `train` was asked for."""
    from .model_by_hand import Config
    from .train import Settings
    from .trainer import Optimization

    given = vars(options)
    names = Settings.__dataclass_fields__.keys() & given.keys()
    course = {name: given[name] for name in ("lr", "warmup", "schedule", "weight_decay", "clip")}
    sizes = {name: given[name] for name in SIZE if given.get(name) is not None}
    if options.model is not None and sizes:
        raise ValueError(f"--{next(iter(sizes))} is of a new model, and --model {options.model} is not")
    new = Config(**SIZE | sizes) if options.model is None else None
    chosen = {name: given[name] for name in names if given[name] is not None}
    asked = objective(options)
    if "reference" not in chosen and samples(options) and asked.needs_reference:
        chosen["reference"] = "copy"
    return Settings(**chosen, objective=asked, optimization=Optimization(**course), size=new)
