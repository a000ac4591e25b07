"""The documents generated from the specification: LOSSES.md, CHOOSING.md and DEFAULTS.md.

`losses.txt` is the page with places for the tables that are measured. `situations.txt` has a paragraph for each situation: its
title, then what to use, why, and what to watch for, each with its evidence in brackets, claims or `opinion: source`.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from string import Template

import numpy as np

from minipref import REGISTRY, defaults
from minipref.contract import Floats
from verify.theory.ledger import anchor
from verify.theory.losses import FORMS, SETTINGS, SYMBOLS, check, checked, written
from verify.theory.worlds import INVARIANCES, METHODS, effect

EVIDENCE = r" \[([^][]*)\]$"
ENDS = "loss | x → −∞: value | slope | x → +∞: value | slope"
X = {
    "bradley_terry": "r_w − r_l",
    "plackett_luce_dpo": "log-ratio of the first of K, above the others'",
    "ipo_length_normalized": "gap of mean log-ratios",
    "kto, thumb up": "log-ratio − z_0",
    "kto, thumb down": "log-ratio − z_0",
    "sppo": "log-ratio, of a response that always wins",
    "simpo": "gap of mean log-probabilities",
    "orpo": "mean log-probability of w, above that of l",
    "diffusion_dpo": "gain in error of w, above that of l",
}
DATA = {  # by the name of an input
    "chosen_rewards": "pairs, scored",
    "policy_chosen_errors": "pairs of images",
    "chosen_lengths": "pairs and lengths",
    "policy_chosen_logps": "pairs",
    "desirable": "responses, each with a thumb up or down",
    "win_rates": "responses, each with its win rate",
    "policy_logps": "rankings of K",
}
ADVANTAGES = {
    "advantages_grpo": ("(1-1/G)/(1/sqrt(G) + 1e-4)", "-1/G/(1/sqrt(G) + 1e-4)"),
    "advantages_dr_grpo": ("1-1/G", "-1/G"),
    "advantages_rloo": ("1", "-1/(G-1)"),
}
WEIGHTS = {"sequence_mean": "1/(B*T)", "token_mean": "1/n", "constant_mean": "1/(B*L)"}


def documents() -> dict[str, str]:
    """The text of each document by file name. ValueError where a formula is not what is computed, or evidence is missing."""
    listed = f"# Defaults\n\n{inspect.getdoc(defaults)}\n\n{defaults.format_defaults()}\n"
    return {"LOSSES.md": losses(), "CHOOSING.md": choosing(), "DEFAULTS.md": listed}


def cited() -> set[str]:
    """The ids of all claims that LOSSES.md and CHOOSING.md name."""
    evidence = "; ".join(re.findall(EVIDENCE, _read("situations"), re.M)).split("; ")
    named = re.findall(r"`((?:errata|theory|toy)\..*?)`", losses())
    return {found for found in evidence if not found.startswith("opinion: ")} | set(named)


def losses() -> str:
    """LOSSES.md."""
    cells = {label: checked(label) for label in FORMS}
    sampled = {label: row for label, row in cells.items() if label.startswith(("ppo", "grpo", "k1", "k2", "k3"))}
    given = {label: row for label, row in cells.items() if label not in sampled}
    methods = list(dict.fromkeys(label.split(",")[0] for label in given))
    start, rest = "value | slope | curvature", "all labels agree | right with probability p"
    return Template(_read("losses")).substitute(
        equations="\n".join(_equations(methods)),
        needs=_table("method | data | models | passes | hyperparameters | source", map(_needs, methods)),
        starts=_table(f"loss | x | {start}", ([k, X.get(k, "log-ratio gap"), *row[:3]] for k, row in given.items())),
        ends=_table(ENDS, ([k, *row[3:7]] for k, row in given.items())),
        minima=_table(f"loss | {rest}", ([k, *map(_minimum, row[7:])] for k, row in given.items())),
        changes="\n".join(f"- *{kind}*: {found.change} (`theory.invariance.{kind}`)" for kind, found in INVARIANCES.items()),
        same=_table(
            " | ".join(["loss", *INVARIANCES]), ([k, *map(partial(_kept, k), INVARIANCES)] for k in methods if k in METHODS)
        ),
        advantages=_table("operation | the right one | each wrong one", map(_advantages, ADVANTAGES)),
        weights=_table("operation | weight", map(_weight, WEIGHTS)),
        token_starts=_table(f"loss | {start} | minimum", ([k, *row[:3], _minimum(row[7])] for k, row in sampled.items())),
        token_ends=_table(ENDS, ([k, *row[3:7]] for k, row in sampled.items())),
    )


def _needs(name: str) -> list[str]:
    """What an operation takes, read from its signature. KTO's reference point is an operation of its own."""
    inputs = {a.name: a for op in (name, f"{name}_reference_point") if op in REGISTRY for a in REGISTRY[op].inputs.values()}
    trained = [a for a in inputs.values() if a.type is Floats or a.name.startswith("policy_")]
    reference = [a for a in inputs.values() if a.name.startswith("reference_") and a.dims]
    passes = " + ".join("K" if group and "K" in group[0].dims else str(len(group)) for group in (trained, reference))
    numbers = ", ".join(f"{SYMBOLS[a]} `{a}`" for a in inputs if a in SYMBOLS)
    data = next(said for a, said in DATA.items() if a in inputs)
    path = REGISTRY[name].formula.__module__.replace(".", "/")
    return [f"[`{name}`](../../{path}.py)", data, "2" if reference else "1", passes, numbers, REGISTRY[name].source]


def _equations(methods: Iterable[str]) -> Iterator[str]:
    """What stands indented in the docstring of each file: the equations of its methods, loss and gradient."""
    for module in dict.fromkeys(REGISTRY[name].formula.__module__ for name in methods):
        names = ", ".join(f"`{name}`" for name, operation in REGISTRY.items() if operation.formula.__module__ == module)
        lines = (inspect.getdoc(sys.modules[module]) or "").splitlines()
        equations = "\n".join(line[4:] for line in lines if line.startswith("    "))
        yield f"{names}\n\n```text\n{equations}\n```\n"


def _minimum(cell: str) -> str:
    return "none" if cell in ("∞", "−∞") else re.sub(r"sign\((.*)\) ∞", r"none: x → ∞ if \1 > 0, else x → −∞", cell)


def _kept(name: str, kind: str) -> str:
    return "yes" if effect(name, INVARIANCES[kind], np.random.default_rng(0)) <= 1e-11 else "no"


def _advantages(name: str) -> list[str]:
    """Advantages in a group with one right response, at two levels of reward."""
    for s in SETTINGS:
        for base in (0.0, 0.7):
            found = REGISTRY[name](np.array([np.eye(1, int(s["G"]))[0] + base, np.full(int(s["G"]), base)])).advantages
            check(name, "0", np.abs(found[1]).max(), s)
            for form, measured in zip(ADVANTAGES[name], found[0], strict=False):
                check(name, form, measured, s)
    return [name, *map(written, ADVANTAGES[name])]


def _weight(name: str) -> list[str]:
    """Weights in a batch of ragged responses."""
    lengths, fixed = np.array([3, 5, 1]), {"max_length": 7} if name == "constant_mean" else {}
    found = REGISTRY[name](np.ones((3, 5)), np.arange(5) < lengths[:, None], **fixed).weights
    for length, row in zip(lengths, found, strict=True):
        check(name, WEIGHTS[name], row[0], {"B": 3, "n": 9, "L": 7, "T": length})
    return [name, written(WEIGHTS[name])]


def choosing() -> str:
    """CHOOSING.md."""
    situations = [situation.split("\n") for situation in _read("situations").strip().split("\n\n")]
    index = [[f"[{title}](#{anchor(title)})", _cell(use)[0]] for title, use, *_ in situations]
    return Template(_read("choosing")).substitute(
        index=_table("situation | use", index), sections="\n".join(_section(*lines) for lines in situations)
    )


def _section(title: str, *cells: str) -> str:
    rows = zip(("Use", "Why", "Watch for"), map(_cell, cells), strict=True)
    return "\n".join(
        [f"## {title}\n", *(f"- **{name}** {text}<br><sub>{evidence}</sub>" for name, (text, evidence) in rows), ""]
    )


def _cell(cell: str) -> tuple[str, str]:
    """A sentence and its evidence. ValueError where it has none."""
    found = re.search(EVIDENCE, cell)
    if not found:
        raise ValueError(f"situations.txt: each line must end with its evidence in brackets, got {cell}")
    shown = [f"*{e}*" if e.startswith("opinion: ") else f"`{e}`" for e in found[1].split("; ")]
    return cell[: found.start()], " · ".join(shown)


def _table(head: str, rows: Iterable[list[str]]) -> str:
    """Names of operations, first in their row, become code."""
    lines = [head, " | ".join(["---"] * len(head.split(" | "))), *(" | ".join([_code(row[0]), *row[1:]]) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _code(label: str) -> str:
    name, *rest = label.split(", ")
    return ", ".join([f"`{name}`", *rest]) if name in {*REGISTRY, "k1", "k2", "k3"} else label


def _read(name: str) -> str:
    return Path(__file__).with_name(f"{name}.txt").read_text("utf-8")
