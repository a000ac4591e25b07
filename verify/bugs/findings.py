"""What a selftest finds, and what it is held to."""

from collections import Counter
from typing import Any, NamedTuple

from toy.experiment import said, span
from verify.bugs import catalogue
from verify.bugs.museum import Bug
from verify.bugs.mutants import Mutant
from verify.bugs.specimen import SOURCES
from verify.bugs.trials import Trial
from verify.statements import Ruling
from verify.vectors.notes import NOTES

KILLED_AT_LEAST = 0.98
LISTED_AT_MOST = 0.025


class Catch(NamedTuple):
    """The trial that caught a change, or None if it was seen without one, at import or in the contract, and what was wrong."""

    trial: Trial | None
    message: str

    def __str__(self) -> str:
        return self.trial.name if self.trial else "before any trial"


class Exhibit(NamedTuple):
    """A bug of the museum, or a control, on the cases of one operation."""

    bug: Bug
    operation: str
    catch: Catch | None


class Survivor(NamedTuple):
    """A mutant that no trial catches, and the reason if it is listed as equivalent."""

    mutant: Mutant
    reason: str | None


class Findings(NamedTuple):
    """Of one run."""

    missed: list[Catch]  # trials that the specification itself does not pass
    bugs: list[Exhibit]
    controls: list[Exhibit]
    mutants: int  # general mutants tried
    survivors: list[Survivor]
    stale: list[str]  # listed as equivalent, but caught or gone
    idle: list[str] | None  # vectors that catch nothing alone; None where that was not asked
    variants: list[Ruling]  # claims about no implementation, whose false variants must be refuted

    @property
    def indistinct(self) -> list[Ruling]:
        """Claims that their false variant passes too."""
        return [ruling for ruling in self.variants if not _is_distinct(ruling)]

    @property
    def caught(self) -> dict[str, bool]:
        """By exhibit and by claim, whether it was caught: an exhibit by every operation that it names."""
        escaped = {exhibit.bug.id for exhibit in self.bugs if exhibit.catch is None}
        exhibits = {exhibit.bug.id: exhibit.bug.id not in escaped for exhibit in self.bugs}
        return exhibits | {ruling.statement.id: _is_distinct(ruling) for ruling in self.variants}

    @property
    def listed(self) -> int:
        return sum(survivor.reason is not None for survivor in self.survivors)


def _is_distinct(ruling: Ruling) -> bool:
    return ruling.measured.false.refutes(ruling.statement.allowed)


class Bar(NamedTuple):
    """One thing that must hold, and whether it does."""

    text: str
    holds: bool

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}  {self.text}"


def bars(found: Findings, *, whole: bool) -> list[Bar]:
    """What a run is held to; to shares of mutants only where all of them were tried."""
    seen, free = sum(e.catch is not None for e in found.bugs), sum(e.catch is None for e in found.controls)
    killed, total = found.mutants - len(found.survivors), max(found.mutants, 1)
    unlisted = len(found.survivors) - found.listed
    shares = [
        Bar(f"killed {killed / total:.2%}, at least {KILLED_AT_LEAST:.0%}", killed / total >= KILLED_AT_LEAST),
        Bar(f"listed {found.listed / total:.2%}, at most {LISTED_AT_MOST:.1%}", found.listed / total <= LISTED_AT_MOST),
    ]
    refuted = len(found.variants) - len(found.indistinct)
    variants = Bar(f"claims: false variants refuted {refuted} of {len(found.variants)}", not found.indistinct)
    return [
        Bar(f"the specification itself misses {len(found.missed)} of its own trials", not found.missed),
        Bar(f"museum: caught {seen} of {len(found.bugs)}", seen == len(found.bugs)),
        Bar(f"controls: acquitted {free} of {len(found.controls)}", free == len(found.controls)),
        catalogued(found.caught, whole=whole),
        Bar(f"general mutants: killed {killed} of {found.mutants}, {unlisted} survive unexplained", unlisted == 0),
        *(shares if whole else []),
        Bar(f"listed as equivalent: {found.listed}, and {len(found.stale)} that are caught or gone", not found.stale),
        *([variants] if found.variants else []),
        *([] if found.idle is None else [Bar(f"vectors that catch nothing alone: {len(found.idle)}", not found.idle)]),
    ]


def catalogued(caught: dict[str, bool], *, whole: bool) -> Bar:
    """Whether all that is to catch a bug of the catalogue does, of every bug, or of those that a part of the suite reaches."""
    due = [entry for entry in catalogue.BUGS if whole or entry.tried <= caught.keys()]
    seen = [entry for entry in due if all(caught.get(name) for name in entry.tried)]
    ways = Counter(way for entry in seen for way in entry.how)
    told = f"catalogue: caught {len(seen)} of {len(due)} bugs, {ways['museum']} as exhibits, {ways['claim']} by claims"
    return Bar(told, len(seen) == len(due))


def text(found: Findings) -> str:
    """The findings for people."""
    sections = {
        "Missed by the specification itself": [f"  {c.trial.operation}, {c}: {c.message}" for c in found.missed if c.trial],
        "The museum": [line for exhibit in found.bugs for line in _bug_lines(exhibit)],
        "Controls": [_control_line(exhibit) for exhibit in found.controls],
        "Survivors": [line for survivor in found.survivors for line in _survivor_lines(survivor)],
        "Listed as equivalent, but caught or gone": [f"  {line}" for line in found.stale],
        "Vectors that catch nothing alone": [f"  {line}" for line in found.idle or []],
        "False variants of claims": [line for ruling in found.variants for line in _variant_lines(ruling)],
    }
    return "\n".join(f"{title}\n" + "\n".join(lines) + "\n" for title, lines in sections.items() if lines)


def _bug_lines(exhibit: Exhibit) -> list[str]:
    bug, operation, catch = exhibit
    flags = [note.flag for note in NOTES if note.bug == bug.id and catch and catch.trial and note.flag in catch.trial.flags]
    head = f"  {bug.id:<40} {operation:<24} {' '.join([str(catch or 'NOT CAUGHT'), *flags])}"
    return [head, f"      {catch.message[:120] if catch else bug.history}"]


def _control_line(exhibit: Exhibit) -> str:
    verdict = f"ACCUSED by {exhibit.catch}: {exhibit.catch.message}" if exhibit.catch else "acquitted"
    return f"  {exhibit.bug.id:<40} {exhibit.operation:<24} {verdict}"


def _variant_lines(ruling: Ruling) -> list[str]:
    statement, (_, false, numbers) = ruling.statement, ruling.measured
    verdict = "refuted" if false.refutes(statement.allowed) else "NOT REFUTED: this claim cannot fail"
    head = f"  {statement.id:<48} {verdict}: {said(false)}, where the truth allows {span(statement.allowed)}"
    return [head, *(f"      {bug} {value:.3g}" for bug, value in numbers.items() if ruling.kind == "pipeline")]


def _survivor_lines(survivor: Survivor) -> list[str]:
    mutant, reason = survivor
    before, after = mutant.lines(SOURCES[mutant.file])
    verdict = f"equivalent: {reason}" if reason else "UNEXPLAINED: a case is missing, or the line is needless"
    place = f"  {mutant.file}:{mutant.line}, {mutant.where or 'top'}"
    return [place, f"    - {before}", f"    + {after}", f"    {verdict}"]


def as_data(found: Findings, held: list[Bar]) -> dict[str, Any]:
    """The findings for programs."""
    return {
        "bars": [bar._asdict() for bar in held],
        "missed": [f"{catch.trial.operation}, {catch}: {catch.message}" for catch in found.missed if catch.trial],
        "bugs": [_exhibit_data(exhibit) for exhibit in found.bugs],
        "controls": [_exhibit_data(exhibit) for exhibit in found.controls],
        "mutants": found.mutants,
        "survivors": [_survivor_data(survivor) for survivor in found.survivors],
        "stale": found.stale,
        "idle_vectors": found.idle,
        "false_variants": {ruling.statement.id: said(ruling.measured.false) for ruling in found.variants},
    }


def _exhibit_data(exhibit: Exhibit) -> dict[str, Any]:
    caught = {"by": str(exhibit.catch), "message": exhibit.catch.message} if exhibit.catch else {}
    return {"id": exhibit.bug.id, "operation": exhibit.operation, **caught}


def _survivor_data(survivor: Survivor) -> dict[str, Any]:
    mutant, reason = survivor
    before, after = mutant.lines(SOURCES[mutant.file])
    return {"file": mutant.file, "line": mutant.line, "before": before, "after": after, "reason": reason}
