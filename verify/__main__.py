"""Judges implementations of preference optimization against the frozen contract.

  python -m verify                                      judge minipref itself, on NumPy, and decide the theory
  python -m verify --impl my_losses.py                  judge a Python file: one function an operation
  python -m verify --impl cmd:"./my-port --json"        judge any program that speaks the protocol
  python -m verify --explain dpo.gradient-weight        what a claim says, where it is from, how it is measured
  python -m verify --claims 'errata.*'                  only these: beliefs often written, refuted
  python -m verify ladder --impl my_losses.py           what is wrong first, and what usually causes it (PORTING.md)
  python -m verify selftest                             prove that the suite can fail
  python -m verify doctor metrics.jsonl                 of a training run's curves: expected, or a bug?

Claims about the mathematics (theory, errata) and those that train something (toy) say nothing about an implementation: they are
decided where none is named and the profile is not quick, or with --theory.

Exit code: 0 nothing failed, 1 something did, 2 usage or a broken start, 3 nothing ran.
"""

import argparse
import contextlib
import fnmatch
import itertools
import os
import secrets
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from verify import conformance, deviations, page, report, statements
from verify.claims import HOLDS, PROFILES, Claim
from verify.contract import ALL
from verify.pipe import BrokenStart
from verify.runner import Judgement, Plan, judge

Item = TypeVar("Item")

NEEDS = {  # sets of operations by what somebody wants to train with
    "paired": lambda c: c.level == 1 and "policy_chosen_logps" in c.inputs,
    "unpaired": lambda c: c.level == 1 and {"policy_logps", "policy_mismatched_logps"} & c.inputs.keys(),
    "on-policy": lambda c: c.level == 2,
    "model": lambda c: c.level > 2,
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add(
        "--impl",
        action="append",
        metavar="IMPL",
        help="numpy, torch, torch:cuda, a peer (trl, ...) or port (jax), a module, a .py, cmd:'PROGRAM ARGS'; repeatable",
    )
    add("--claims", default="*", metavar="GLOB", help="claims by id, such as 'dpo.*'")
    add("--operations", default="*", metavar="GLOB", help=f"operations by name, or a need: {', '.join(NEEDS)}")
    add(
        "--dtype",
        choices=("float32", "float64"),
        help="default: float64 if the implementation has it",
    )
    add("--profile", choices=PROFILES, default="full", help="how much is tried (default full)")
    add("--seed", type=int, help="of whatever is drawn; printed; anew by default for fresh cases, else 0")
    add("--fresh", type=int, metavar="K", help="fresh cases an operation, instead of the profile's")
    add("--request-seconds", type=float, default=10.0, metavar="S", help="time an answer may take (default 10)")
    add("--theory", action="store_true", help="also decide theory, errata and experiments beside the --impl named")
    add("--list", action="store_true", help="list the claims and stop")
    add("--explain", metavar="ID", help="explain one claim and stop")
    add("--json", type=Path, metavar="FILE", help="write the report for programs")
    add("--html", type=Path, metavar="FILE", help="write the report as one page")
    add("--deviations", type=Path, metavar="FILE", help="known deviations of the implementation, with their reasons (TOML)")
    return made


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["selftest"]:
        from verify.bugs import selftest

        return selftest.main(arguments[1:])
    if arguments[:1] == ["ladder"]:
        from verify import ladder

        return ladder.main(arguments[1:])
    if arguments[:1] == ["doctor"]:
        from verify import doctor

        return doctor.main(arguments[1:])
    options = parser().parse_args(arguments)
    if options.explain:
        return explain(options.explain)
    claims, chosen = select(options.claims, options.operations), mathematics(options)
    if options.list:
        listed = [(claim.id, claim.statement) for claim in claims]
        listed += [
            (s.id, f"Refuted: {s.false}" if s.shown else s.statement) for s in itertools.chain(*chosen.statements.values())
        ]
        print("\n".join(f"{name:<44} {sentence}" for name, sentence in listed))
        return 0
    if not claims and not chosen.statements:
        missing = f"python -m verify: no claim matches --claims {options.claims} --operations {options.operations}"
        print(missing, *lacking(chosen), sep="\n", file=sys.stderr)
        return 3
    try:
        return run(options, claims, chosen)
    except (BrokenStart, ValueError, OSError) as error:
        print(f"python -m verify: {error}", file=sys.stderr)
        return 2


def select(claim_glob: str, operation_glob: str) -> list[Claim]:
    """Claims whose id and operation match."""
    if operation_glob in NEEDS:
        names = {c.name for c in ALL.values() if NEEDS[operation_glob](c)}
    else:
        names = set(fnmatch.filter(ALL, operation_glob))
    return [c for c in conformance.claims() if c.contract.name in names and fnmatch.fnmatchcase(c.id, claim_glob)]


def mathematics(options: argparse.Namespace) -> statements.Chosen:
    """The statements about no implementation that are asked for."""
    asked = options.theory or (options.profile != "quick" and not options.impl and options.operations == "*")
    return statements.select(options.claims) if asked else statements.Chosen({}, {})


def explain(identifier: str) -> int:
    for claim in conformance.claims():
        if claim.id == identifier:
            print(report.explain(claim))
            return 0
    chosen = statements.select(identifier)
    for statement in itertools.chain(*chosen.statements.values()):
        if statement.id == identifier:
            print(statements.explain(statement))
            return 0
    print(
        f"python -m verify: --explain must be a claim of --list, got {identifier}", *lacking(chosen), sep="\n", file=sys.stderr
    )
    return 2


def lacking(chosen: statements.Chosen) -> list[str]:
    """What could not be loaded, and why."""
    return [f"{module} cannot be decided: {reason}" for module, reason in chosen.absent.items()]


def run(options: argparse.Namespace, claims: list[Claim], chosen: statements.Chosen) -> int:
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    if seed < 0 or (options.fresh is not None and options.fresh < 1):
        raise ValueError(f"--seed must be >= 0 and --fresh >= 1, got {seed} and {options.fresh}")
    for path in filter(None, (options.json, options.html)):
        if not path.parent.is_dir() or path.name == "-":
            raise ValueError(f"--json and --html must name a file in a folder that exists, got {path}")
    effort = PROFILES[options.profile]
    effort = effort._replace(fresh=options.fresh) if options.fresh else effort
    listed = deviations.read(options.deviations) if options.deviations else ()
    plan = Plan(
        claims, options.dtype, seed, effort, listed, options.request_seconds, lambda found: progress(found, len(claims))
    )
    judgements = []
    for name in (options.impl or ["numpy"]) if claims else []:
        judgements.append(judge(name, plan))
        print(report.terminal(judgements[-1]) + "\n", flush=True)
    rulings = decide(chosen, seed if effort.random_search or options.seed is not None else 0)
    for path, text in ((options.json, report.as_json), (options.html, page.as_html)):
        if path:
            write_whole(path, text(judgements, rulings))
    return exit_code(judgements, rulings)


def decide(chosen: statements.Chosen, seed: int) -> list[statements.Ruling]:
    """Rulings on statements about no implementation, printed; with what could not be loaded, and why."""
    total = sum(map(len, chosen.statements.values()))
    rulings = list(progress(statements.decide(chosen.statements, seed), total)) if total else []
    found = [statements.text(rulings), f"theory, errata and experiments at seed {seed}"] if rulings else []
    for line in [*found, *lacking(chosen)]:
        print(line)
    return rulings


def exit_code(judgements: list[Judgement], rulings: list[statements.Ruling]) -> int:
    if any(judgement.failed for judgement in judgements) or any(ruling.verdict != HOLDS for ruling in rulings):
        return 1
    return 0 if all(judgement.ran for judgement in judgements) else 3


def progress(outcomes: Iterable[Item], total: int) -> Iterator[Item]:
    """A bar on a terminal's stderr, where tqdm is installed."""
    with contextlib.suppress(ImportError):
        from tqdm import tqdm

        outcomes = tqdm(outcomes, total=total, unit="claim", leave=False, disable=None)
    yield from outcomes


def write_whole(path: Path, text: str) -> None:
    """All of the file or none of it, whatever happens meanwhile."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever was reading has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
