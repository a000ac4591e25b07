"""Runs experiments on worlds that are exactly solvable: numbers, a figure, and the statements that they back.

  python -m toy                            list them
  python -m toy four_responses             run one: its numbers here, its figure into out/toy
  python -m toy all --out out/toy          run all eight, and an index page of their figures and tables

Exit code: 0 every statement holds, 1 one does not, 2 usage.
"""

import argparse
import importlib
import os
import sys
import time
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from toy import NAMES
from toy.experiment import HOLDS, Experiment, described, save

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>minipref: exactly solvable worlds</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100%; height: auto; background: #fff; border-radius: 4px }}
pre {{ font: 13px/1.45 ui-monospace, monospace; overflow-x: auto }}
pre.wrapped {{ white-space: pre-wrap }}
nav {{ display: flex; flex-wrap: wrap; gap: 0 1rem }}
</style></head>
<body><h1>minipref: exactly solvable worlds</h1>
<p>Small worlds in which the optimum is known, and every method is held against the one that it claims to reach. Below each
figure stand its numbers and the statements that they decide: what was measured, what is allowed if the statement is true, and
what the same measurement gives for a variant of it that is false. Sampled numbers have their 99.9 % interval. Seed {seed}.</p>
<nav>{links}</nav>
{sections}
</body></html>
"""


def load(name: str) -> Experiment:
    """The experiment of a file of this folder."""
    found: Experiment = importlib.import_module(f"toy.{name}").EXPERIMENT
    return found


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m toy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("name", nargs="?", choices=(*NAMES, "all"), metavar="NAME", help="an experiment, or all; none: list them")
    made.add_argument("--out", type=Path, default=Path("out/toy"), metavar="DIR", help="folder for figures (default out/toy)")
    made.add_argument("--seed", type=int, default=0, help="of whatever is sampled (default 0)")
    return made


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    if options.seed < 0:
        parser().error(f"--seed must be >= 0, got {options.seed}")
    if options.name is None:
        print("\n".join(f"{name:<16}{load(name).title}" for name in NAMES))
        return 0
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        ran = [run(name, options.out, options.seed) for name in (NAMES if options.name == "all" else [options.name])]
        if options.name == "all":
            index = options.out / "index.html"
            index.write_text(PAGE.format(seed=options.seed, links=links(), sections="\n".join(map(section, ran))), "utf-8")
            print(f"{index}: all of it as one page")
    except OSError as error:
        parser().error(f"--out must be a folder that can be written to, got {options.out}: {error.strerror}")
    return 0 if all(ruling == HOLDS for experiment in ran for ruling in experiment.verdicts) else 1


class Ran(NamedTuple):
    """An experiment that has run: what the page shows of it."""

    name: str
    report: str
    verdicts: list[str]
    decided: str
    drawn: bool


def run(name: str, out: Path, seed: int) -> Ran:
    """Runs one, prints it and draws its figure."""
    experiment, began = load(name), time.monotonic()
    numbers = experiment.run(seed)
    found = [(statement, statement.read(numbers)) for statement in experiment.statements]
    report, decided = experiment.report(numbers), "\n".join(described(*pair) for pair in found)
    took = f"seed {seed}, {time.monotonic() - began:.1f} s"
    print(f"{name}: {experiment.title} ({took})\n\n{report}\n\n{decided}\n", flush=True)
    drawn = find_spec("matplotlib") is not None
    if drawn:
        save(experiment, numbers, out / f"{name}.svg")
    figure = f"{out / name}.svg: its figure" if drawn else "no figure: matplotlib is not installed (the extra `plots`)"
    print(f"{figure}\n", file=sys.stdout if drawn else sys.stderr, flush=True)
    return Ran(name, report, [measured.verdict(statement.allowed) for statement, measured in found], decided, drawn)


def links() -> str:
    return "".join(f'<a href="#{name}">{name}</a>' for name in NAMES)


def section(ran: Ran) -> str:
    """A figure, where there is one, with the numbers and the statements that it backs."""
    title = escape(load(ran.name).title)
    figure = (
        f'<img src="{ran.name}.svg" alt="Figure: {title}">' if ran.drawn else "<p>No figure: matplotlib is not installed.</p>"
    )
    texts = f"<pre>{escape(ran.report)}</pre>\n<pre class='wrapped'>{escape(ran.decided)}</pre>"
    return f'<h2 id="{ran.name}">{title}</h2>\n{figure}\n{texts}'


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except BrokenPipeError:  # whoever was reading has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
