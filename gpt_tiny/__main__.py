"""A GPT-2 of our own, trained on preference data by the losses of minipref.

  python -m gpt_tiny demo                                   a generated world with a known reward, from nothing to a figure
  python -m gpt_tiny sft --data pairs.jsonl --out out/sft   tokenizer and model from the chosen responses
  python -m gpt_tiny train --method dpo --model out/sft --data pairs.jsonl --out out/dpo
  python -m gpt_tiny reward-model --model out/sft --data pairs.jsonl --out out/reward
  python -m gpt_tiny train --method grpo --model out/dpo --data prompts.jsonl --reward out/reward --out out/grpo
  python -m gpt_tiny align --data pairs.jsonl --reward my_rewards:score --out out/aligned      SFT, DPO and GRPO
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
from typing import Any

from .options import objective, parser, plan_options, settings


def main(arguments: list[str], world: Any = None) -> int:
    """Exit code of a command; `world` has the processes that share it, where there are several."""
    options = parser(str(__doc__)).parse_args(arguments[:1] if arguments[:1] in (["bench"], ["demo"]) else arguments)
    options.rest = arguments[1:]
    from .trainer import Diverged

    try:
        return learn(options, world) if options.command in LEARNING else COMMANDS[options.command](options)
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

    plan = Plan(options.data, **{name: getattr(options, name) for name in plan_options()})
    found = train_and_score(plan, options.out, options.resume)
    print(table(found))
    return 0 if holds(found) else 1


def align(options: argparse.Namespace) -> int:
    from .align import STAGES, run

    numbers = {name: getattr(options, name) for name in STAGES}
    print(run(options.data, options.reward, options.out, numbers, options.held_out, options.resume))
    return 0


def show(options: argparse.Namespace) -> int:
    from .demo import main as demo

    return demo(options.rest)


def time(options: argparse.Namespace) -> int:
    from .bench import main as bench

    return bench(options.rest)


LEARNING = ("sft", "train", "reward-model")
COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": show,
    "bench": time,
    "sample": draw,
    "eval": measure,
    "import-hf": move,
    "export-hf": move,
    "folds": hold_out,
    "align": align,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
