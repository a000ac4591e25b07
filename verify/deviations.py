"""Known and accepted deviations of an implementation: a TOML file that it brings.

    [[deviation]]
    claim = "cdpo.*"                 # a claim id, or a glob
    message = "losses"               # how the failure's message begins; * stands for anything
    reason = "label_smoothing is ignored by loss type sigmoid"
    regimes = ["minus infinity"]     # left out: wherever it occurs; else in no frozen or fresh case of another regime

A claim whose every failure is listed DEVIATES instead of FAILS. An entry that no longer occurs, among claims that were
measured, fails the run: a list never goes stale silently.
"""

import fnmatch
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from verify.cases import regimes
from verify.claims import DEVIATES, FAILS, SKIPPED, Outcome
from verify.contract import ALL
from verify.subject import Failure


class Deviation(NamedTuple):
    """One entry of the file."""

    claim: str
    message: str
    reason: str
    regimes: tuple[str, ...] | None = None

    def covers(self, failure: Failure) -> bool:
        """Whether a failure of its claims is the one that it lists."""
        known = self.regimes is None or set(failure.regimes) <= set(self.regimes)
        return known and bool(re.match(".*".join(map(re.escape, self.message.split("*"))), failure.message))


def read(path: Path) -> tuple[Deviation, ...]:
    """The file's entries. ValueError names the file, the entry and what is wrong with it."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    entries = document.pop("deviation", [])
    if document or not isinstance(entries, list):
        raise ValueError(f"{path}: must hold [[deviation]] tables and nothing else, got {document or entries}")
    for number, entry in enumerate(entries, 1):
        _check(entry, f"{path}: deviation {number}")
    return tuple(Deviation(**entry | ({"regimes": (*entry["regimes"],)} if "regimes" in entry else {})) for entry in entries)


def _check(entry: Any, where: str) -> None:
    texts = {name: entry[name] for name in entry if name != "regimes"} if isinstance(entry, dict) else {}
    if set(texts) != {"claim", "message", "reason"} or not all(isinstance(x, str) and x.strip() for x in texts.values()):
        raise ValueError(f"{where} must have exactly claim, message and reason, none empty, and perhaps regimes; got {entry}")
    if (operation := entry["claim"].partition(".")[0]) not in ALL:
        raise ValueError(f"{where}: claim must begin with an operation of the contract, got {entry['claim']}")
    listed = entry.get("regimes", [])
    if not isinstance(listed, list) or not all(name in regimes(operation) for name in listed):
        raise ValueError(f"{where}: regimes must be some of {', '.join(regimes(operation))}, got {listed!r}")


def accept(outcomes: Iterable[Outcome], listed: tuple[Deviation, ...]) -> tuple[list[Outcome], tuple[Deviation, ...]]:
    """The outcomes with listed failures accepted, and the entries that did not occur although their claims were measured."""
    used: set[Deviation] = set()
    judged = [_accepted(outcome, listed, used) for outcome in outcomes]
    measured = [outcome.claim.id for outcome in judged if outcome.verdict != SKIPPED]
    stale = (d for d in listed if d not in used and fnmatch.filter(measured, d.claim))
    return judged, tuple(stale)


def _accepted(outcome: Outcome, listed: tuple[Deviation, ...], used: set[Deviation]) -> Outcome:
    if outcome.verdict != FAILS:
        return outcome
    here = [d for d in listed if fnmatch.fnmatchcase(outcome.claim.id, d.claim)]
    found = [[d for d in here if d.covers(failure)] for failure in outcome.evidence.failures]
    used.update(d for matches in found for d in matches)
    if not all(found):
        return outcome
    reasons = dict.fromkeys(matches[0].reason for matches in found)
    return outcome._replace(verdict=DEVIATES, reason="; ".join(reasons))
