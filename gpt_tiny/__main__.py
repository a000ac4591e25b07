"""A GPT-2 of our own, trained on preference data by the losses of minipref.

  python -m gpt_tiny demo                                   a generated world with a known reward, from nothing to a figure
  python -m gpt_tiny sft --data pairs.jsonl --out out/sft   tokenizer and model from the chosen responses
  python -m gpt_tiny train --method dpo --model out/sft --data pairs.jsonl --out out/dpo
  python -m gpt_tiny eval --model out/dpo --reference out/sft --data held-out.jsonl
  python -m gpt_tiny sample --model out/dpo --prompt $'\\n\\nHuman: Why is the sky blue?\\n\\nAssistant:'
  python -m gpt_tiny folds --data pairs.jsonl --out out/folds     all of that, and every pair held out once
  python -m gpt_tiny bench                                  what a step costs: plain, fast, and TRL's
  python -m gpt_tiny COMMAND --help                         its options, with an example

Exit code: 0 done, 1 a loss that is not finite, files that cannot be read or written, or a claim that fails, 2 usage or data,
130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from minipref.defaults import DEFAULTS

from .data import ON_LONG

SIZE = {"vocab_size": 2048, "context": 512, "width": 192, "layers": 4, "heads": 6}
PAIRS = "JSONL or JSONL.gz: prompt, chosen, rejected; transcripts; messages; prompt, completion, label; text"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m gpt_tiny", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    train("--method", required=True, metavar="METHOD", help=f"one of {', '.join(_methods())}")
    _common(train, lr=3e-4)
    train("--model", required=True, metavar="DIR", help="where the policy starts, and what it is held against")
    for name, said in _hyperparameters().items():
        train(_flag(name), type=float, metavar="X", help=said)
    train("--reference", default="cached", metavar="WAY", help="cached, copy, offload or lora (default cached)")
    train("--lora-rank", type=int, default=0, metavar="R", help="learn adapters of this rank over frozen weights")
    train("--lora-alpha", type=float, default=16.0, metavar="X", help="their scale times the rank (default 16)")
    train("--quantize-base", choices=("nf4",), help="hold the frozen weights in 4 bits")

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
    for name, default in _plan().items():
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
    add("--batch-size", type=int, default=16, metavar="N", help="rows that are computed at once (default 16)")
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


def _plan() -> dict[str, Any]:
    """What `folds` can be told, and its defaults."""
    from .folds import Plan

    return {field.name: field.default for field in fields(Plan) if field.name != "data"}


def _methods() -> list[str]:
    from .methods import METHODS

    return list(METHODS)


def _hyperparameters() -> dict[str, str]:
    """Every one that some method has, with its values: default, what is in use, by whom, source."""
    said: dict[str, list[str]] = {}
    for row in DEFAULTS.values():
        if row.operation in _methods():
            text = f"{row.operation} {row.value:g} (in use {row.low:g} to {row.high:g}; {row.used_by}; {row.source})"
            said.setdefault(row.argument, []).append(text.replace("%", "%%"))
    return {name: "; ".join(texts) for name, texts in said.items()}


def objective(options: argparse.Namespace) -> Any:
    """The method with the hyperparameters given, and the defaults of the others. ValueError for one that it has not."""
    from .methods import Objective

    method = getattr(options, "method", "sft")
    given = {name: getattr(options, name) for name in _hyperparameters() if getattr(options, name, None) is not None}
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
    chosen = {name: given[name] for name in names}
    return Settings(**chosen, objective=objective(options), optimization=Optimization(**course), size=new)


def main(arguments: list[str], world: Any = None) -> int:
    """Exit code of a command; `world` has the processes that share it, where there are several."""
    options = parser().parse_args(arguments[:1] if arguments[:1] in (["bench"], ["demo"]) else arguments)
    options.rest = arguments[1:]
    from .trainer import Diverged

    try:
        return learn(options, world) if options.command in ("sft", "train") else COMMANDS[options.command](options)
    except Diverged as error:
        return _failed(f"{error}\nThe state before that step is saved: --resume meets it again, so change what caused it.", 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except (ValueError, ModuleNotFoundError) as error:
        return _failed(str(error), 2)


def _failed(message: str, code: int) -> int:
    print(f"python -m gpt_tiny: {message}", file=sys.stderr)
    return code


def learn(options: argparse.Namespace, world: Any) -> int:
    from .train import run

    run(settings(options), options.out, options.resume, world)
    if world is None or world.rank == 0:
        print(f"{options.out}: the model, metrics.jsonl and curves.png of the run")
    return 0


def draw(options: argparse.Namespace) -> int:
    from . import data
    from .checkpoint import load_model
    from .sampling import sample

    config, weights, tokenizer = load_model(options.model)
    rows = data.load(options.data) if options.data else []
    prompts = options.prompt + [row.prompt for row in rows if not isinstance(row, data.Text)]
    if not prompts:
        raise ValueError("--prompt or --data must give a prompt, got none")
    drawn = sample(
        _model(config, weights),
        [tokenizer.encode(prompt) for prompt in prompts],
        tokenizer.eos,
        options.max_tokens,
        options.temperature,
        options.top_k,
        options.seed,
    )
    for prompt, ids in zip(prompts, drawn, strict=True):
        response = tokenizer.decode(ids[:-1] if ids[-1:] == [tokenizer.eos] else ids)
        print(json.dumps({"prompt": prompt, "completion": response}, ensure_ascii=False))
    return 0


def measure(options: argparse.Namespace) -> int:
    from . import data
    from .checkpoint import load_model
    from .reference import copied
    from .train import evaluate
    from .trainer import Optimization, Trainer

    asked = objective(options)
    if asked.needs_reference != bool(options.reference):
        rule = "given for" if asked.needs_reference else "left out with"
        raise ValueError(f"--reference must be {rule} {asked.method}, got {options.reference}")
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be >= 1, got {options.batch_size}")
    config, weights, tokenizer = load_model(options.model)
    rows = data.tokenize(data.load(options.data), tokenizer.encode, tokenizer.eos, config.context).rows
    reference = None
    if options.reference:
        other, held_against, theirs = load_model(options.reference)
        if theirs != tokenizer or other.context < config.context:
            raise ValueError(f"--reference must have the tokenizer and the context of --model, got {options.reference}")
        reference = copied(_model(other, held_against))
    made = Trainer(_model(config, weights), asked, rows, [], Optimization(1.0), reference, options.batch_size)
    print(json.dumps({"rows": len(rows), **evaluate(made, rows)}, indent=1))
    return 0


def _model(config: Any, weights: Any) -> Any:
    from .model import GPT

    made = GPT(config)
    made.load_weights(weights)
    return made.eval()


def move(options: argparse.Namespace) -> int:
    from . import hf

    (hf.import_hf if options.command == "import-hf" else hf.export_hf)(options.source, options.target)
    print(f"{options.target}: written")
    return 0


def hold_out(options: argparse.Namespace) -> int:
    from .folds import Plan, train_and_score
    from .margins import holds, table

    plan = Plan(options.data, **{name: getattr(options, name) for name in _plan()})
    found = train_and_score(plan, options.out, options.resume)
    print(table(found))
    return 0 if holds(found) else 1


def show(options: argparse.Namespace) -> int:
    from .demo import main as demo

    return demo(options.rest)


def time(options: argparse.Namespace) -> int:
    from .bench import main as bench

    return bench(options.rest)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": show,
    "bench": time,
    "sample": draw,
    "eval": measure,
    "import-hf": move,
    "export-hf": move,
    "folds": hold_out,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
