"""Proves that the suite can fail: every bug of the museum and every small change of the specification must be caught.

  python -m verify selftest                         all of it, two to four minutes
  python -m verify selftest --only 'offline/dpo.py'    the mutants of one file
  python -m verify selftest --only 'orpo-*'         some bugs of the museum
  python -m verify selftest --vectors               also: every frozen vector kills a mutant all by itself

Each change is a copy of the specification in memory, judged in this process on the cases of the operations that it reaches,
until one of them is missed. Exit code: 0 all caught and all controls acquitted, 1 not so, 2 usage.
"""

import argparse
import contextlib
import fnmatch
import functools
import json
import time
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from verify.bugs.museum import BUGS, CONTROLS, Bug
from verify.bugs.mutants import Mutant, mutants
from verify.bugs.specimen import SOURCES, defined, specimen, users
from verify.bugs.trials import Trial, finding, trials

EQUIVALENT = Path(__file__).with_name("equivalent.toml")
KILLED_AT_LEAST = 0.98
LISTED_AT_MOST = 0.025
SEED = 20

Item = TypeVar("Item")


class Catch(NamedTuple):
    """The trial that caught a change, or None if the change could not even be imported, and what was wrong."""

    trial: Trial | None
    message: str


class Exhibit(NamedTuple):
    """A bug of the museum, or a control, on the cases of one operation."""

    bug: Bug
    operation: str
    catch: Catch | None


class Survivor(NamedTuple):
    """A mutant that no trial catches, and the reason if it is listed."""

    mutant: Mutant
    reason: str | None


class Killed(NamedTuple):
    """The general mutants: how many, those that survive, and listed ones that are dead or gone."""

    total: int
    survivors: list[Survivor]
    stale: list[str]

    @property
    def killed(self) -> int:
        return self.total - len(self.survivors)


def catches(file: str, source: str, tried: Iterable[Trial]) -> Iterator[Catch]:
    """Every trial that a file's changed text does not pass."""
    try:
        with specimen(file, source) as operations:
            for trial in tried:
                if message := finding(operations, trial):
                    yield Catch(trial, message)
    except Exception as error:
        yield Catch(None, f"{type(error).__name__}: {error}")


def caught(file: str, source: str, tried: Iterable[Trial]) -> Catch | None:
    """The first catch; None if the changed text passes all trials."""
    with contextlib.closing(catches(file, source, tried)) as found:
        return next(found, None)


@functools.cache
def trials_of(operation: str, seed: int) -> list[Trial]:
    return trials(operation, seed)


def reached(file: str, seed: int) -> list[Trial]:
    """The trials of all operations that a change of a file can reach: the first of each, the second of each, and so on."""
    operations = [name for user in users(file) for name in defined(user)]
    ranked = [(rank, trial) for name in operations for rank, trial in enumerate(trials_of(name, seed))]
    return [trial for _, trial in sorted(ranked, key=lambda pair: pair[0])]


def exhibit(bugs: Iterable[Bug], seed: int) -> Iterator[Exhibit]:
    """Every bug, or control, on the cases of every operation that it names."""
    for bug in bugs:
        for operation in bug.operations:
            yield Exhibit(bug, operation, caught(bug.file, bug.apply(), trials_of(operation, seed)))


def survivors(files: Iterable[str], seed: int) -> Iterator[Mutant | None]:
    """For every mutant of the files itself if it survives, else None. What killed last is tried first."""
    for file in files:
        tried = reached(file, seed)
        for mutant in mutants(file, SOURCES[file]):
            catch = caught(file, mutant.apply(SOURCES[file]), tried)
            if catch and catch.trial:
                tried.insert(0, tried.pop(next(i for i, trial in enumerate(tried) if trial is catch.trial)))
            yield None if catch else mutant


def reasons() -> dict[tuple[str, ...], str]:
    """(file, function, line before, line after) -> why no case can tell them apart."""
    listed = tomllib.loads(EQUIVALENT.read_text("utf-8")).get("equivalent", [])
    return {(e["file"], e["where"], e["old"], new): e["reason"] for e in listed for new in e["new"]}


def signature(mutant: Mutant) -> tuple[str, ...]:
    return (mutant.file, mutant.where, *mutant.lines(SOURCES[mutant.file]))


def kill(files: Sequence[str], seed: int) -> Killed:
    """The general mutants of the files, all tried."""
    total = sum(len(mutants(file, SOURCES[file])) for file in files)
    alive = [mutant for mutant in progress(survivors(files, seed), total, "mutants") if mutant]
    listed = {key: reason for key, reason in reasons().items() if key[0] in files}
    found = [Survivor(mutant, listed.get(signature(mutant))) for mutant in alive]
    stale = [" | ".join(key) for key in listed.keys() - {signature(mutant) for mutant in alive}]
    return Killed(total, found, sorted(stale))


def idle_vectors(files: Iterable[str], seed: int) -> list[str]:
    """Frozen vectors that catch, each alone, neither a bug nor a mutant of the file of their operation."""
    idle = []
    for file in files:
        changes = [bug.apply() for bug in BUGS if bug.file == file]
        changes += [mutant.apply(SOURCES[file]) for mutant in mutants(file, SOURCES[file])]
        frozen = [t for name in defined(file) for t in trials_of(name, seed) if t.name.startswith("vector ")]
        left = {(trial.operation, trial.name.partition(",")[0]) for trial in frozen}
        for change in changes if left else []:
            tried = [t for t in frozen if (t.operation, t.name.partition(",")[0]) in left]
            left -= {(c.trial.operation, c.trial.name.partition(",")[0]) for c in catches(file, change, tried) if c.trial}
        idle += sorted(": ".join(key) for key in left)
    return idle


def progress(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """A bar if tqdm is installed, else a dot for every 20."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _dotted(items)
    return tqdm(items, total=total, desc=what, unit="", leave=False)


def _dotted(items: Iterable[Item]) -> Iterator[Item]:
    for count, item in enumerate(items):
        if count % 20 == 0:
            print(".", end="", flush=True)
        yield item
    print()


def museum_lines(exhibits: Iterable[Exhibit]) -> Iterator[str]:
    """The table of bugs: what caught each, and how it said so."""
    for bug, operation, catch in exhibits:
        by = catch.trial.name if catch and catch.trial else "import" if catch else "NOT CAUGHT"
        yield f"  {bug.id:<40} {operation:<24} {by}"
        yield f"      {catch.message[:150]}" if catch else f"      {bug.history}"


def control_lines(exhibits: Iterable[Exhibit]) -> Iterator[str]:
    for bug, operation, catch in exhibits:
        yield f"  {bug.id:<40} {operation:<24} {f'ACCUSED: {catch.message}' if catch else 'acquitted'}"


def survivor_lines(found: Iterable[Survivor]) -> Iterator[str]:
    for mutant, reason in found:
        before, after = mutant.lines(SOURCES[mutant.file])
        yield f"  {mutant.file}:{mutant.line} in {mutant.where or 'the module'}"
        yield f"    - {before}"
        yield f"    + {after}"
        yield f"    {'equivalent: ' + reason if reason else 'UNLISTED: a case is missing, or the line is needless'}"


class Bar(NamedTuple):
    """One thing that must hold, and whether it does."""

    text: str
    holds: bool


def bars(bugs: list[Exhibit], controls: list[Exhibit], general: Killed, idle: list[str], *, whole: bool) -> list[Bar]:
    """What the run is held to; shares only where everything was tried."""
    seen, free = sum(e.catch is not None for e in bugs), sum(e.catch is None for e in controls)
    listed = sum(s.reason is not None for s in general.survivors)
    unlisted, total = len(general.survivors) - listed, max(general.total, 1)
    share, excused = general.killed / total, listed / total
    found = [
        Bar(f"museum: caught {seen} of {len(bugs)}", seen == len(bugs)),
        Bar(f"controls: acquitted {free} of {len(controls)}", free == len(controls)),
        Bar(
            f"general mutants: killed {general.killed} of {general.total} ({share:.2%}), at least {KILLED_AT_LEAST:.0%}",
            share >= KILLED_AT_LEAST or not whole,
        ),
        Bar(f"survivors listed as equivalent: {listed} ({excused:.2%}), at most {LISTED_AT_MOST:.1%}", excused <= LISTED_AT_MOST or not whole),
        Bar(f"survivors not listed: {unlisted}", unlisted == 0),
        Bar(f"listed, but killed or gone: {len(general.stale)}", not general.stale),
    ]
    return [*found, Bar(f"vectors that kill nothing alone: {len(idle)}", not idle)]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m verify selftest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--only", default="*", metavar="GLOB", help="files of the specification, or bugs of the museum")
    made.add_argument("--vectors", action="store_true", help="also try every frozen vector alone")
    made.add_argument("--seed", type=int, default=SEED, help=f"of the fresh cases (default {SEED})")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the findings for programs")
    return made


def report(bugs: list[Exhibit], controls: list[Exhibit], general: Killed, idle: list[str], held: list[Bar]) -> dict[str, Any]:
    """The findings as plain data."""

    def of(exhibits: list[Exhibit]) -> list[dict[str, Any]]:
        return [
            {"id": e.bug.id, "operation": e.operation, "by": e.catch and e.catch.trial and e.catch.trial.name,
             "message": e.catch and e.catch.message}
            for e in exhibits
        ]  # fmt: skip

    survivors = [
        {"file": m.file, "line": m.line, "before": m.lines(SOURCES[m.file])[0], "after": m.lines(SOURCES[m.file])[1], "reason": reason}
        for m, reason in general.survivors
    ]
    mutants = {"total": general.total, "killed": general.killed, "survivors": survivors, "stale": general.stale}
    return {"bugs": of(bugs), "controls": of(controls), "mutants": mutants, "idle_vectors": idle, "bars": [bar._asdict() for bar in held]}


def main(arguments: list[str]) -> int:
    options, start = parser().parse_args(arguments), time.monotonic()
    files = fnmatch.filter(SOURCES, options.only)
    chosen = [[b for b in shelf if fnmatch.fnmatch(b.id, options.only) or b.file in files] for shelf in (BUGS, CONTROLS)]
    if not files and not any(chosen):
        parser().error(f"--only must match a file of the specification or a bug, got {options.only!r}")

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        bugs, controls = (list(progress(exhibit(shelf, options.seed), len(shelf), "museum")) for shelf in chosen)
        general = kill(files, options.seed)
        idle = idle_vectors(files, options.seed) if options.vectors else []

    held = bars(bugs, controls, general, idle, whole=options.only == "*")
    print("The museum", *museum_lines(bugs), "", "Controls", *control_lines(controls), sep="\n")
    print("", "Survivors", *survivor_lines(general.survivors), *(f"  stale: {line}" for line in general.stale), sep="\n")
    print("", *(f"  vector that kills nothing alone: {name}" for name in idle), sep="\n")
    print(*(f"{'holds' if bar.holds else 'FAILS'}  {bar.text}" for bar in held), sep="\n")
    print(f"seed {options.seed}, {time.monotonic() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(report(bugs, controls, general, idle, held), indent=1) + "\n")
    return 0 if all(bar.holds for bar in held) else 1
