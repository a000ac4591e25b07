"""From an empty file to a verified port, rung by rung: names the first thing that is wrong, and what usually causes it.

  python -m verify ladder --impl my_losses.py                  climb as far as it goes
  python -m verify ladder --impl cmd:"./my-port" --rung 2      this rung alone

Rung 1 is losses on log-probabilities, 2 sequences and on-policy pieces, 3 one step of a GPT-2, 4 a whole run. Operations that
are not there yet are passed by; the first claim that fails ends the climb. verify/PORTING.md tells how to begin.

Exit code: 0 all that is there holds, 1 something does not, 2 usage or a broken start, 3 nothing is there.
"""

import argparse
import itertools
import math
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from verify import conformance, deviations, report
from verify.bugs import museum
from verify.claims import FAILS, PROFILES, SKIPPED, Claim, Outcome
from verify.contract import ALL, METHODS, MODELS, Contract, Input
from verify.deviations import Deviation, accept
from verify.diagnosis import Diagnosis, diagnose
from verify.pipe import BrokenStart
from verify.protocol import encode_inputs, encode_line
from verify.runner import Judgement, Plan, judge, start
from verify.subject import Failure, Subject
from verify.weights import Weights

RUNGS = {
    1: "losses on log-probabilities",
    2: "sequences, on-policy pieces, averages",
    3: "one step of a GPT-2",
    4: "a whole run",
}
FIRST = ("dpo", "sequence_logps")  # of their rungs: they ask least, and show whether requests and answers are understood
COLUMNS = ("of kto: prompt_ids, completion_ids, desirable", "of all others: prompt_ids, chosen_ids, rejected_ids")
SHOWN = 4  # outputs that are off and shown in numbers
NUMBERS = ("vectors", "fresh", "search")  # claims of one kind: where one fails the others are measured for a smaller example


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m verify ladder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--impl", required=True, metavar="IMPL", help="a module, a .py, cmd:'PROGRAM ARGS', or one of ours, as without ladder")
    add("--rung", type=int, choices=RUNGS, help="this one alone")
    add("--dtype", choices=("float32", "float64"), help="default: float64 if the implementation has it")
    add("--profile", choices=PROFILES, default="quick", help="how much is tried (default quick)")
    add("--seed", type=int, default=0, help="of the fresh cases (default 0: the same at every climb)")
    add("--request-seconds", type=float, default=10.0, metavar="S", help="time an answer may take (default 10)")
    add("--deviations", type=Path, metavar="FILE", help="what is known to differ, with reasons (TOML)")
    return made


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    if options.seed < 0:
        parser().error(f"--seed must be >= 0, got {options.seed}")
    try:
        return climb(options)
    except (BrokenStart, ValueError, OSError) as error:
        print(f"python -m verify ladder: {error}", file=sys.stderr)
        return 2


def climb(options: argparse.Namespace) -> int:
    listed = deviations.read(options.deviations) if options.deviations else ()
    steps = [claim for claim in claims() if options.rung in (None, claim.contract.level)]
    effort, seconds = PROFILES[options.profile], options.request_seconds
    plan = Plan(steps, options.dtype, options.seed, effort, listed, seconds, lambda found: watched(found, listed))
    judgement = judge(options.impl, plan)
    if judgement.count(FAILS):
        print("", *fault(options.impl, seconds, judgement), sep="\n")
    else:
        print(*what_is_next(steps, judgement, options.rung), *report.deviation_lines(judgement), sep="\n")
    print(*report.circumstances(judgement), "", judgement.verdict(), sep="\n")
    return 1 if judgement.failed else 0 if judgement.ran else 3


def claims() -> list[Claim]:
    """Of one operation after the other, rung by rung; an operation that is compared with others after these."""
    found = conformance.claims()
    comparing = {claim.contract.name for claim in found if claim.needs}
    rank = {name: (c.level, name in comparing, name not in FIRST, place) for place, (name, c) in enumerate(ALL.items())}
    return sorted(found, key=lambda claim: rank[claim.contract.name])


def watched(found: Iterable[Outcome], listed: tuple[Deviation, ...]) -> Iterator[Outcome]:
    """The outcomes up to the first failure; each operation is told of as soon as it is measured."""
    for level, rung in itertools.groupby(found, lambda outcome: outcome.claim.contract.level):
        print(f"rung {level}: {RUNGS[level]}", flush=True)
        absent = []
        for name, group in itertools.groupby(rung, lambda outcome: outcome.claim.contract.name):
            outcomes = list(until_failing(group, listed))
            yield from outcomes
            _, worst, cases, verdict = report.row(name, accept(outcomes, listed)[0])
            if all(outcome.verdict == SKIPPED for outcome in outcomes):
                absent.append(name)
            else:
                print(f"  {name:<26}{cases:>4} cases, worst error {worst} of its bound: {verdict}", flush=True)
            if verdict.startswith(FAILS):
                return
        there = len(absent) < sum(contract.level == level for contract in ALL.values())
        print(*listed_as("not there", absent) if there else ["  nothing yet"], sep="\n")


def until_failing(outcomes: Iterable[Outcome], listed: tuple[Deviation, ...]) -> Iterator[Outcome]:
    """Up to the first that fails, and is not listed; where one of NUMBERS fails, to the last of them."""
    failed = False
    for outcome in outcomes:
        yield outcome
        failed |= accept([outcome], listed)[0][0].verdict == FAILS
        operation, _, name = outcome.claim.id.partition(".")
        if failed and (operation in MODELS or name not in NUMBERS[:-1]):
            return


def fault(implementation: str, seconds: float, judgement: Judgement) -> list[str]:
    """The smallest request that went wrong, what was wrong with it, and what usually causes that."""
    finding = min(report.findings(judgement), key=lambda found: (not_run(found), len(report.call_text(found.failures[0]))))
    failure, others = finding.failures[0], finding.failures[SHOWN:]
    session, python = start(implementation, seconds, judgement.directory)
    with session:
        in_single = all(claim.endswith(".float32") for claim in finding.claims)
        dtype = "float32" if in_single else judgement.dtype
        subject = Subject(session, dtype, python=python, directory=judgement.directory)
        found = diagnose(subject, failure, legal=not all(claim.endswith(".refusals") for claim in finding.claims))
        again = report.call_text(failure) if python else pipeline(implementation, failure, subject, seconds)
    lines = ["  " + ": ".join((shown.message, *shown.details[:1])) for shown in finding.failures[:SHOWN]]
    lines += listed_as("and also off", [other.message.partition(" off")[0] for other in others])
    lines += listed_as("right", found.right)
    return [*report.heading(finding), *lines, *("  " + line for line in again.splitlines()), *cause(found, failure)]


def not_run(finding: report.Finding) -> bool:
    """Whether it was not even asked, after misbehaving too often: what it did before says more."""
    return finding.failures[0].message == "not-run"


def listed_as(what: str, names: list[str]) -> list[str]:
    return [report.wrapped(f"{what}: {', '.join(names)}")] if names else []


def pipeline(implementation: str, failure: Failure, subject: Subject, seconds: float) -> str:
    """The request, to be pasted into a shell."""
    inputs = {n: x.placed(subject.directory, subject.dtype) if isinstance(x, Weights) else x for n, x in failure.inputs.items()}
    request = {"cmd": "run", "id": 1, "operation": failure.operation, "dtype": subject.dtype, **encode_inputs(inputs)}
    begin = {"cmd": "start", "protocol": 1, "request_seconds": seconds, "directory": subject.directory}
    messages = begin, request, {"cmd": "stop"}
    lines = " ".join(shlex.quote(encode_line(message).decode().strip()) for message in messages)
    return f"printf '%s\\n' {lines} | {implementation.removeprefix('cmd:')}"


def cause(found: Diagnosis, failure: Failure) -> list[str]:
    """Who else gives the same numbers; where that does not explain all, what the cases that fail are there to catch."""
    if found.single:
        return ["", "All these numbers are right in single precision: somewhere along the way it is used."]
    lines: list[str] = []
    parts = [part for change in found.changes for part in change.told.splitlines()]
    if found.changes and not found.off:
        return ["", "Accepted too by", *map(report.wrapped, parts)]
    if found.changes:
        same = f"The same wrong numbers are given, in {found.explained} of {found.off} requests that fail, by"
        lines = ["", same, *map(report.wrapped, parts)]
    if found.suspected and not (found.changes and found.explained == found.off):
        lines += ["", "What the frozen cases that fail are there to catch:", *map(report.wrapped, found.suspected)]
    if found.off and not lines:
        known = ", ".join(bug.id for bug in museum.by_operation(failure.operation)) or "none"
        tried = "" if failure.operation in MODELS else ", and no line of minipref changed a little"
        lines = [
            "",
            f"No bug of the museum gives these numbers{tried}.",
            *listed_as(f"in the museum, of {failure.operation}", [known]),
        ]
    return lines


def what_is_next(steps: list[Claim], judgement: Judgement, rung: int | None) -> list[str]:
    """The operations that are not there, and of the lowest rung that has none the first, with its arguments."""
    left = [name for name in dict.fromkeys(claim.contract.name for claim in steps) if name not in judgement.operations]
    climbed = {ALL[name].level for name in judgement.operations}
    if not left:
        whole = "`python -m verify --impl` judges the whole, on more cases and on others at every run"
        return [f"nothing is left{f' of rung {rung}' if rung else ''}: {whole}"]
    name = next((name for name in left if ALL[name].level not in climbed), left[0])
    return ["", f"next: {name}", *signature(ALL[name])]


def signature(contract: Contract) -> list[str]:
    """What an operation is asked, what it answers, what it refuses, and where more is said of it."""
    lines = [f"  asked     {x.name}: {shaped(x.kind, x.dims)}{legal(x)}" for x in contract.inputs.values()]
    lines += [f"  answered  {x.name}: {shaped(x.kind, x.dims)}" for x in contract.outputs.values()]
    lines += [f"  refused   unless so: {argument} {text}" for argument, text in contract.rules]
    if "method" in contract.inputs:
        lines += [f"  method    {name}: hyperparameters {', '.join(METHODS[name]) or 'none'}" for name in METHODS]
        lines += [f"  {'batch' if 'batches' in contract.inputs else 'asked':<9} {line}" for line in COLUMNS]
    more = f"frozen cases: verify/vectors/{contract.name}.json; formula: python -m verify --explain {contract.name}.vectors"
    return [*lines, f"  {more}"]


def shaped(kind: str, dims: tuple[str, ...]) -> str:
    return f"{kind} [{', '.join(dims)}]" if dims else kind


def legal(argument: Input) -> str:
    """The range of its numbers, where it has one, and whether -inf is one of them."""
    left = "(" if argument.low_open or math.isinf(argument.low) else "["
    right = ")" if argument.high_open or math.isinf(argument.high) else "]"
    bounded = math.isfinite(argument.low) or math.isfinite(argument.high)
    interval = f" in {left}{argument.low:g}, {argument.high:g}{right}" if bounded else ""
    return interval + (", or -inf" if argument.minus_infinity else "")
