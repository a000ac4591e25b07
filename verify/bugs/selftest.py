"""Proves that the suite can fail: every bug of the museum and every small change of the specification must be caught, and
every claim about the mathematics and the tiny GPT must fail on the false variant that it declares.

  python -m verify selftest                            all of it, about ten minutes
  python -m verify selftest --only offline/dpo.py      the bugs and mutants of one file
  python -m verify selftest --only 'orpo-*'            some bugs of the museum
  python -m verify selftest --only 'theory.*'          the false variants of the theory
  python -m verify selftest --only 'pipeline.*'        bugs on the way from text to a step, which no operation has
  python -m verify selftest --vectors                  also: every frozen vector catches something all by itself

Each change is a copy of the specification in memory, judged in this process on the cases of the operations that it reaches,
until one of them is missed. Exit code: 0 all caught and all controls acquitted, 1 not so, 2 usage.
"""

import argparse
import contextlib
import fnmatch
import functools
import json
import re
import time
import tomllib
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from verify import statements
from verify.bugs.findings import Catch, Exhibit, Findings, Survivor, as_data, bars, text
from verify.bugs.museum import BUGS, BUGS_OF_MODELS, CONTROLS, Bug
from verify.bugs.mutants import Mutant, mutants
from verify.bugs.specimen import MODEL_SOURCES, SOURCES, defined, specimen, users
from verify.bugs.trials import Trial, finding, misdescribed, trials, unlike_numpy, with_accepted
from verify.contract import MODELS

EQUIVALENT = Path(__file__).with_name("equivalent.toml")
FROZEN = re.compile(r"vector \d+, float\d\d")  # the name of a vector's own trial
SEED = 20
DECIDED = ("theory", "errata", "model", "pipeline")  # kinds of claims whose false variants are tried
WHOLE = {"contract.py": misdescribed, "arrays.py": unlike_numpy}  # what is asked of a file beyond its operations

Item = TypeVar("Item")


def catches(file: str, source: str, tried: Iterable[Trial], *, models: bool = False) -> Generator[Catch, None, None]:
    """Every trial that a file's changed text does not pass; they are all of whole models, or none is."""
    try:
        with specimen(file, source, models=models) as operations:
            for trial in tried:
                if message := finding(operations, trial):
                    yield Catch(trial, message)
            if file in WHOLE and not models and (message := WHOLE[file](operations)):
                yield Catch(None, message)
    except Exception as error:
        yield Catch(None, f"{type(error).__name__}: {error}")


def caught(file: str, source: str, tried: Iterable[Trial], *, models: bool = False) -> Catch | None:
    """The first catch; None if the changed text passes all trials."""
    with contextlib.closing(catches(file, source, tried, models=models)) as found:
        return next(found, None)


@functools.cache
def sorted_out(operation: str, seed: int) -> tuple[list[Trial], list[Catch]]:
    """The trials of an operation that the specification passes as it is, and those that it misses: they prove nothing."""
    file = next((file for file in SOURCES if operation in defined(file)), next(iter(MODEL_SOURCES)))
    sound: list[Trial] = []
    missed: list[Catch] = []
    with specimen(file, (SOURCES | MODEL_SOURCES)[file]) as operations:
        for trial in trials(operation, seed):
            message = finding(operations, trial)
            if message:
                missed.append(Catch(trial, message))
            else:
                sound.append(with_accepted(operations, trial))
    return sound, missed


def trials_of(operation: str, seed: int) -> list[Trial]:
    return sorted_out(operation, seed)[0]


def reached(file: str, seed: int) -> list[Trial]:
    """The trials of all operations that a change of a file can reach: the first of each, the second of each, and so on."""
    operations = [name for user in users(file) for name in defined(user)]
    ranked = [(rank, trial) for name in operations for rank, trial in enumerate(trials_of(name, seed))]
    return [trial for _, trial in sorted(ranked, key=lambda pair: pair[0])]


def exhibits(bugs: Iterable[Bug], seed: int) -> Iterator[Exhibit]:
    """Every bug, or control, on the cases of every operation that it names."""
    for bug in bugs:
        for operation in bug.operations:
            tried, models = trials_of(operation, seed), operation in MODELS
            yield Exhibit(bug, operation, caught(bug.file, bug.apply(), tried, models=models))


def outlived(file: str, seed: int) -> Iterator[Mutant | None]:
    """For every mutant of a file itself if no trial catches it, else None. What caught last is tried first."""
    tried = reached(file, seed)
    for mutant in mutants(file, SOURCES[file]):
        catch = caught(file, mutant.apply(SOURCES[file]), tried)
        if catch and catch.trial:
            tried.insert(0, tried.pop(next(i for i, trial in enumerate(tried) if trial is catch.trial)))
        yield None if catch else mutant


def reasons() -> dict[tuple[str, ...], str]:
    """(file, function, line before, line after) of every listed equivalent, and why no case can tell it apart."""
    listed = tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"]
    return {(e["file"], e["where"], e["old"], new): e["reason"] for e in listed for new in e["new"]}


def signature(mutant: Mutant) -> tuple[str, ...]:
    return (mutant.file, mutant.where, *mutant.lines(SOURCES[mutant.file]))


def survivors(files: Sequence[str], seed: int, total: int) -> tuple[list[Survivor], list[str]]:
    """The mutants of some files that no trial catches, and what is listed as equivalent but caught, or gone."""
    tried = progress((found for file in files for found in outlived(file, seed)), total, "mutants")
    alive = [mutant for mutant in tried if mutant]
    listed = {key: reason for key, reason in reasons().items() if key[0] in files}
    stale = listed.keys() - {signature(mutant) for mutant in alive}
    return [Survivor(mutant, listed.get(signature(mutant))) for mutant in alive], sorted(map(" | ".join, stale))


def idle_vectors(files: Iterable[str], seed: int) -> Iterator[str]:
    """Frozen vectors that catch, each alone, neither a bug nor a mutant of the file that defines their operation."""

    def name(trial: Trial) -> str:
        return f"{trial.operation}: {trial.name.rpartition(', ')[0]}"

    for file in files:
        frozen = [t for operation in defined(file) for t in trials_of(operation, seed) if FROZEN.fullmatch(t.name)]
        left = {name(trial) for trial in frozen}
        changes = [bug.apply() for bug in BUGS if bug.file == file]
        changes += [mutant.apply(SOURCES[file]) for mutant in mutants(file, SOURCES[file])]
        for change in changes if left else []:
            found = catches(file, change, [trial for trial in frozen if name(trial) in left])
            left -= {name(catch.trial) for catch in found if catch.trial}
        yield from sorted(left)


def progress(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """A bar if tqdm is installed, else a dot for every 20."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _dotted(items)
    return tqdm(items, total=total, desc=what, unit="", leave=False, disable=None)


def _dotted(items: Iterable[Item]) -> Iterator[Item]:
    for count, item in enumerate(items):
        if count % 20 == 0:
            print(".", end="", flush=True)
        yield item
    print()


def find(only: str, seed: int, *, alone: bool) -> Findings:
    """Everything that there is to find about the files and bugs whose names match; `alone`: about single vectors too."""
    files = fnmatch.filter(SOURCES, only)
    shelves = BUGS + BUGS_OF_MODELS, CONTROLS
    bugs, controls = ([b for b in shelf if b.file in files or fnmatch.fnmatch(b.id, only)] for shelf in shelves)
    operations = {name for file in files for name in defined(file)} | {name for b in bugs for name in b.operations}
    total = sum(len(mutants(file, SOURCES[file])) for file in files)
    caught_bugs, accused = list(exhibits(bugs, seed)), list(exhibits(controls, seed))
    alive, stale = survivors(files, seed, total)
    missed = [catch for name in sorted(operations) for catch in sorted_out(name, seed)[1]]
    idle = list(idle_vectors(files, seed)) if alone else None
    return Findings(missed, caught_bugs, accused, total, alive, stale, idle, rulings(only))


def rulings(only: str) -> list[statements.Ruling]:
    """Of the claims whose id matches, but the toy worlds'. Raises ModuleNotFoundError where some cannot be loaded."""
    chosen = statements.select(only, DECIDED)
    for module, reason in chosen.absent.items():
        raise ModuleNotFoundError(f"{module} cannot be decided: {reason}")
    total = sum(map(len, chosen.statements.values()))
    return list(progress(statements.decide(chosen.statements, 0), total, "false variants")) if total else []


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m verify selftest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--only", default="*", metavar="GLOB", help="files, bugs of the museum, claims")
    made.add_argument("--vectors", action="store_true", help="also try every frozen vector alone")
    made.add_argument("--seed", type=int, default=SEED, help=f"of the fresh cases (default {SEED})")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the findings for programs")
    return made


def main(arguments: list[str]) -> int:
    options, start = parser().parse_args(arguments), time.monotonic()
    named = [*SOURCES, *(bug.id for bug in BUGS + BUGS_OF_MODELS + CONTROLS)]
    if not fnmatch.filter(named, options.only) and not statements.select(options.only, DECIDED).statements:
        parser().error(f"--only must match a file of the specification, a bug or a claim, got {options.only!r}")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = find(options.only, options.seed, alone=options.vectors)
    held = bars(found, whole=options.only == "*")
    print(text(found), *held, f"seed {options.seed}, {time.monotonic() - start:.0f} s", sep="\n")
    if options.json:
        options.json.write_text(json.dumps(as_data(found, held), indent=1) + "\n")
    return 0 if all(bar.holds for bar in held) else 1
