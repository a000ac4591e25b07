"""Reads the metrics of a training run, of any trainer that uses the usual names, and says of its curves: expected, or a bug?

  python -m verify doctor metrics.jsonl --method dpo --beta 0.1
  python -m verify doctor checkpoint-500/trainer_state.json

BROKEN cannot happen in a right implementation: an identity is violated beyond rounding. SUSPICIOUS is unlikely, and the text
says when it is legitimate. EXPECTED looks alarming and is normal.

Exit code: 0 nothing is broken, 1 something is, 2 usage or a file that cannot be read, 3 nothing to check.
"""

import argparse
import itertools
import json
import math
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from verify.bugs import museum
from verify.invariants import ACCURACIES, BROKEN, EXPECTED, FAMILIES, HOLDS, SUSPICIOUS, Run, Trial, largest, multiple, slopes
from verify.metrics import LOGPS, REWARDS, Lines, read

VERDICTS = {BROKEN: "broken", SUSPICIOUS: "suspicious", EXPECTED: "expected", HOLDS: "hold"}  # most serious first
ALIASES = {"sigmoid": "dpo", "hinge": "rso_hinge", "robust": "robust_dpo", "ipo_length_normalized": "ipo"}
REFERENCED = ["dpo", "cdpo", "robust_dpo", "rso_hinge", "ipo", "kto", "sppo", "plackett_luce_dpo"]
GROUPS = {"reference": REFERENCED, "offline": [*REFERENCED, "orpo", "simpo", "cpo"], "online": ["grpo", "ppo"], "?": [""]}
GROUPS["any"] = GROUPS["offline"] + GROUPS["online"]
WIDTH, SHOWN = 120, 4  # columns of the report; findings of a law that it spells out
BETRAYED = {  # methods by columns that are there, and others that are not
    "orpo": ({"log_odds_ratio"}, set[str]()),
    "ppo": ({"policy/clipfrac_avg"}, set[str]()),
    "grpo": ({"reward_std"}, set[str]()),
    "kto": ({"kl", REWARDS[0]}, {ACCURACIES}),
}


class Law(NamedTuple):
    methods: list[str]  # of which it is one; "" where the method is not known
    of_loss: bool  # whether it rests on the loss, which may be another than was guessed
    needs: str
    bugs: list[museum.Bug]
    law: str
    cause: str


def _law(entry: str) -> tuple[str, Law]:
    head, text = entry.split("\n", 1)
    law, cause, *bugs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    name, methods, needs = head.split(" | ")
    groups = [GROUPS.get(word, [word]) for word in methods.split()]
    exhibits = {bug.id: bug for bug in museum.BUGS}
    seen = [exhibits[word] for word in " ".join(bugs).split()]
    return name, Law(sum(groups, []), not GROUPS.keys() & set(methods.split()), needs, seen, law, cause)


LAWS = dict(map(_law, Path(__file__).with_suffix(".txt").read_text("utf-8").split("\n## ")[1:]))


class Finding(NamedTuple):
    verdict: str
    place: str  # file:line
    text: str


class Diagnosis(NamedTuple):
    """Findings by law that could be checked, and what the others would need."""

    findings: dict[str, list[Finding]]
    lacking: dict[str, str]

    def verdict(self, law: str) -> str:
        return min((finding.verdict for finding in self.findings[law]), key=list(VERDICTS).index, default=HOLDS)


def diagnose(run: Run, sure: bool = True) -> Diagnosis:
    """All laws of the run's method, tried. What follows from a method that is guessed is at most SUSPICIOUS."""
    method, found = run.method or "", dict[str, list[Finding]]()
    for trial in itertools.chain.from_iterable(family(run) for family in FAMILIES):
        if method in LAWS[trial.law].methods:
            found.setdefault(trial.law, []).extend(_judged(trial, sure or not LAWS[trial.law].of_loss))
    lacking = {name: law.needs if method in law.methods else "--method" for name, law in LAWS.items() if name not in found}
    return Diagnosis(found, {name: needs for name, needs in lacking.items() if not method or method in LAWS[name].methods})


def _judged(trial: Trial, sure: bool) -> list[Finding]:
    """Nothing, or the worst line with its numbers, and how many there are."""
    x, alike = trial.lines, np.ndim(trial.excess) == 0
    beyond = np.broadcast_to(np.asarray(trial.excess, float), len(x))
    bad = ~(beyond <= 0)
    if not bad.any():
        return []
    worst = -1 if alike else int(np.argmax(np.where(bad, beyond, -np.inf)))
    numbers = ", ".join(f"{name} {x[name][worst]:.5g}" for name in x.shown)
    many = f"over {len(x)} {x.stream} lines" if alike else f"{bad.sum()} of {len(x)} {x.stream} lines"
    guessed = "" if sure or trial.verdict != BROKEN else "the method is a guess: --method makes this certain"
    said = "; ".join(filter(None, (numbers, trial.remark, many, guessed)))
    return [Finding(SUSPICIOUS if guessed else trial.verdict, x.place(worst), said)]


def recognise(streams: dict[str, Lines], options: argparse.Namespace) -> tuple[Run, bool]:
    """The run, and whether its method is certain: named, or betrayed by a column. ValueError for options that do not fit."""
    names = set[str]().union(*(lines.columns for lines in streams.values()))
    betrayed = [method for method, (there, absent) in BETRAYED.items() if there <= names and not absent & names]
    method = ALIASES.get(options.method, options.method) or next(iter(betrayed), None)
    beta, smoothing, gamma = options.beta, options.label_smoothing, options.gamma
    _need(beta is None or 1e-9 <= beta <= 1e9, "--beta must lie in [1e-9, 1e9]", beta)
    _need(gamma is None or (method == "simpo" and math.isfinite(gamma)), "--gamma must be simpo's", gamma)
    if method in ("cdpo", "robust_dpo"):
        _need(smoothing is not None and 0 <= smoothing < 0.5, f"--label-smoothing of {method} must lie in [0, 0.5)", smoothing)
    else:
        _need(smoothing is None, "--label-smoothing must be one of --method cdpo or robust_dpo", smoothing)
    for name in ("batch_size", "gradient_accumulation"):
        value = vars(options)[name]
        _need(value is None or value >= 1, f"--{name.replace('_', '-')} must be >= 1", value)
    run = Run(streams, method, beta, smoothing or 0.0, gamma or 0.0, options.batch_size, options.gradient_accumulation)
    return (run, True) if method else (guess(run), False)


def _need(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{rule}, got {value}")


def guess(run: Run) -> Run:
    """The run with the method, and ipo's β, with whose loss it starts; dpo too where that is a multiple of log 2."""
    if any(0 < low <= high for low, high in (slopes(x, origin=True) for x in run.train(*REWARDS, *LOGPS, least=4))):
        return replace(run, method="cpo")  # without a reference
    for x in run.start("loss", *REWARDS):
        loss, margin = float(x["loss"][0]), float((x[REWARDS[0]] - x[REWARDS[1]])[0])
        starts = {"dpo": np.logaddexp(0.0, -margin), "rso_hinge": 1 - margin, "kto": 0.5}
        near = [method for method, start in starts.items() if abs(loss - start) <= 0.02 and largest(x)[0] < 0.5]
        beta = run.beta or float(f"{0.5 / math.sqrt(max(loss, 1e-9)):.2g}")  # two digits, as people choose it
        if not near and abs(4 * beta**2 * loss - 1) <= 5e-4:
            return replace(run, method="ipo", beta=beta)
        near += ["dpo"] * bool(largest(x)[0] <= 0.001 and multiple(loss / math.log(2)))
        return replace(run, method=near[0] if near else None)
    return run


def text(found: Diagnosis, run: Run, sure: bool, path: Path) -> str:
    """What was found, the most serious first; what could not be checked; the counts."""
    streams = ", ".join(f"{len(x)} {stream} lines" for stream, x in run.streams.items())
    method = f"method {run.method or 'unknown'}" + ("" if sure or not run.method else ", which is a guess")
    lines = [f"{path}: {streams}; {method}", ""]
    for name in sorted(found.findings, key=lambda name: list(VERDICTS).index(found.verdict(name))):
        if found.findings[name]:
            lines += [f"{found.verdict(name):<11} {name}", *map(indented, told(name, found.findings[name])), ""]
    needs = {needs: [name for name in found.lacking if found.lacking[name] == needs] for needs in found.lacking.values()}
    lacking = "; ".join(f"{need}: {', '.join(names)}" for need, names in needs.items())
    lines += [textwrap.fill(f"not checked for lack of {lacking}", WIDTH, subsequent_indent="  ")] * bool(lacking)
    return "\n".join([*lines, counts(found)])


def told(name: str, findings: list[Finding]) -> list[str]:
    """The evidence, the law, whether its breach is a bug, and where that happened before."""
    shown = [f"{finding.place}: {finding.text}" for finding in findings[:SHOWN]]
    more = [f"and {len(findings) - SHOWN} more"] * (len(findings) > SHOWN)
    seen = ", ".join(f"{bug.id} ({bug.where})" for bug in LAWS[name].bugs)
    return [*shown, *more, LAWS[name].law, LAWS[name].cause, *[f"Bugs that did this: {seen}."] * bool(seen)]


def indented(paragraph: str) -> str:
    return textwrap.fill(
        paragraph, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def counts(found: Diagnosis) -> str:
    """`N checks: N hold, N expected, N suspicious, N broken`."""
    verdicts = [found.verdict(name) for name in found.findings]
    return f"{len(verdicts)} checks: " + ", ".join(f"{verdicts.count(v)} {word}" for v, word in reversed(VERDICTS.items()))


def as_json(found: Diagnosis, run: Run, sure: bool) -> str:
    """The same for programs."""
    laws = [
        {"law": name, "verdict": found.verdict(name), "says": LAWS[name].law, "cause": LAWS[name].cause}
        | {"bugs": [bug.id for bug in LAWS[name].bugs], "findings": [finding._asdict() for finding in findings]}
        for name, findings in found.findings.items()
    ]
    document = {
        "format": "minipref-doctor",
        "method": run.method,
        "guessed": not sure,
        "laws": laws,
        "not_checked": found.lacking,
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m verify doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, methods = made.add_argument, [*GROUPS["any"], *ALIASES]
    add("file", type=Path, help="metrics as JSON lines, or a trainer_state.json")
    add("--method", choices=methods, metavar="M", help=f"{', '.join(methods)}; else a guess from columns and the first loss")
    add("--beta", type=float, metavar="B", help="as it was configured; for orpo its λ")
    add("--label-smoothing", type=float, metavar="E", help="of cdpo and robust_dpo")
    add("--gamma", type=float, metavar="G", help="of simpo; what is checked without it holds for every γ >= 0")
    add("--batch-size", type=int, metavar="N", help="pairs that a line of training averages")
    add("--gradient-accumulation", type=int, metavar="N", help="batches that are accumulated")
    add("--json", action="store_true", help="print the report for programs")
    return made


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    try:
        with np.errstate(all="ignore"):  # numbers of any size stand in a file
            run, sure = recognise(read(options.file), options)
            found = diagnose(run, sure)
    except (OSError, ValueError) as error:
        print(f"python -m verify doctor: {error}", file=sys.stderr)
        return 2
    if not run.streams:
        print(f"python -m verify doctor: {options.file}: no column has a usual name, nothing to check", file=sys.stderr)
        return 3
    print(as_json(found, run, sure) if options.json else text(found, run, sure, options.file))
    return int(any(found.verdict(name) == BROKEN for name in found.findings))
