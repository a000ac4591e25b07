"""Runs experiments on worlds that are exactly solvable: numbers, a figure, and the statements that they back.

  python -m toy                            list them
  python -m toy four_responses             run one: its numbers here, its figure into out/toy
  python -m toy all --out out/toy          run all eight, and an index page of their figures and tables

Exit code: 0 every statement holds, 1 one does not, 2 usage.
"""

import argparse
import importlib
import sys
import time
from html import escape
from pathlib import Path

from toy import NAMES
from toy.experiment import HOLDS, Experiment, save, verdicts

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>minipref: exactly solvable worlds</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100%; height: auto; background: #fff }}
pre {{ font: 13px/1.45 ui-monospace, monospace; overflow-x: auto }}
nav a {{ margin-right: 1rem }}
</style></head>
<body><h1>Exactly solvable worlds</h1>
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
    chosen = NAMES if options.name == "all" else (options.name,)
    reports = {name: run(name, options.out, options.seed) for name in chosen}
    if options.name == "all":
        index = options.out / "index.html"
        index.write_text(page(reports), "utf-8")
        print(f"{index}: all of it as one page")
    return 0 if all(ok for _, ok in reports.values()) else 1


def run(name: str, out: Path, seed: int) -> tuple[str, bool]:
    """Runs one and prints it. What was printed, and whether every statement holds."""
    experiment, began = load(name), time.monotonic()
    numbers = experiment.run(seed)
    ok = all(statement.read(numbers).verdict(statement.allowed) == HOLDS for statement in experiment.statements)
    text = f"{experiment.report(numbers)}\n\n{verdicts(experiment, numbers)}"
    print(f"{name}: {experiment.title} (seed {seed}, {time.monotonic() - began:.1f} s)\n\n{text}\n", flush=True)
    figure = out / f"{name}.svg"
    try:
        save(experiment, numbers, figure)
        print(f"{figure}: its figure\n", flush=True)
    except ImportError:
        print("no figure: matplotlib is not installed (the extra `plots`)\n", file=sys.stderr)
    return text, ok


def page(reports: dict[str, tuple[str, bool]]) -> str:
    """All figures and tables, in one page beside them."""
    titles = {name: escape(load(name).title) for name in reports}
    links = "".join(f'<a href="#{name}">{name}</a>' for name in reports)
    sections = [
        f'<h2 id="{name}">{title}</h2>\n<img src="{name}.svg" alt="Figure: {title}">\n<pre>{escape(reports[name][0])}</pre>'
        for name, title in titles.items()
    ]
    return PAGE.format(links=links, sections="\n".join(sections))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
