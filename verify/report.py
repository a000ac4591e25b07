"""What was found, for people at a terminal and for programs. The page is in `page`."""

import json
import re
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from verify import contract, oracle, statements, vectors
from verify.bugs import museum
from verify.claims import DEVIATES, FAILS, HOLDS, SKIPPED, Claim, Outcome
from verify.runner import Judgement
from verify.statements import Ruling
from verify.subject import Failure

SHOWN = 6  # failures of one operation that are shown in full


def rows(judgement: Judgement) -> list[tuple[str, str, str, str]]:
    """One row a method that was measured: operation, worst error over its bound, cases, verdict."""
    grouped = _by_operation(judgement.outcomes).items()
    measured = {name: [outcome for outcome in found if outcome.verdict != SKIPPED] for name, found in grouped}
    return [row(name, found) for name, found in measured.items() if found]


def _by_operation(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    grouped: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.claim.contract.name, []).append(outcome)
    return grouped


def row(name: str, outcomes: list[Outcome]) -> tuple[str, str, str, str]:
    """Of the outcomes of one operation."""
    worst = max(o.evidence.worst for o in outcomes)
    verdicts = [o.verdict for o in outcomes]
    verdict = next((v for v in (FAILS, DEVIATES) if v in verdicts), HOLDS)
    failing = [o.claim.id.split(".")[1] for o in outcomes if o.verdict in (FAILS, DEVIATES)]
    detail = f" ({', '.join(failing)})" if failing else ""
    shown = f"{worst:.3f}" if worst < 1000 else f"{worst:.3g}"
    return name, shown, str(sum(o.evidence.cases for o in outcomes)), verdict + detail


class Finding(NamedTuple):
    """What one operation does wrong: the smallest counterexample, all that is wrong with it, and every claim that says so."""

    claims: list[str]
    statement: str
    failures: list[Failure]  # of one request
    more: int = 0  # findings of this operation that are not shown

    def text(self) -> str:
        """What went wrong and the call that shows it."""
        said = [line for failure in self.failures for line in (failure.message, *failure.details)]
        rest = [f"... and {self.more} more requests of {self.failures[0].operation}"] if self.more else []
        return "\n".join([*said, call_text(self.failures[0]), *rest])


def findings(judgement: Judgement) -> list[Finding]:
    """Failures that count: the smallest of each message, those of one request together, at most six requests an operation."""
    groups: dict[tuple[str, str], list[tuple[Outcome, Failure]]] = {}
    for outcome in judgement.outcomes:
        for failure in outcome.evidence.failures if outcome.verdict == FAILS else ():
            groups.setdefault((failure.operation, failure.message), []).append((outcome, failure))
    found: dict[str, Finding] = {}
    for group in groups.values():
        outcome, smallest = min(group, key=lambda pair: len(call_text(pair[1])))
        finding = found.setdefault(call_text(smallest), Finding([], outcome.claim.statement, []))
        finding.failures.append(smallest)
        finding.claims.extend(o.claim.id for o, _ in group if o.claim.id not in finding.claims)
    return [finding for operation in _by_first(found.values()).values() for finding in _cut(operation)]


def _cut(findings: list[Finding]) -> list[Finding]:
    return [*findings[: SHOWN - 1], *(f._replace(more=len(findings) - SHOWN) for f in findings[SHOWN - 1 : SHOWN])]


def _by_first(found: Iterable[Finding]) -> dict[str, list[Finding]]:
    grouped: dict[str, list[Finding]] = {}
    for finding in found:
        grouped.setdefault(finding.failures[0].operation, []).append(finding)
    return grouped


def call_text(failure: Failure) -> str:
    """The failing request as Python that can be pasted."""
    arguments = [f"{name}={_literal(value)}" for name, value in failure.inputs.items()]
    return f"{failure.operation}(\n    " + ",\n    ".join(arguments) + ",\n)"


def _literal(value: Any) -> str:
    """A value as Python text, np being NumPy, that keeps its shape and dtype."""
    listed = value.tolist() if isinstance(value, np.ndarray) else value
    text = re.sub(r"\b(inf|nan)\b", r"np.\1", repr(listed))
    if not isinstance(value, np.ndarray):
        return text
    if not value.size:
        return f"np.zeros({value.shape}, {value.dtype.name!r})"
    return f"np.array({text})" if np.array(listed).dtype == value.dtype else f"np.array({text}, {value.dtype.name!r})"


def terminal(judgement: Judgement) -> str:
    """The table, the failures in full, and last the verdict and the counts."""
    table = [("method", "worst/bound", "cases", "verdict"), *rows(judgement)]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in table]
    absent = [name for name, found in _by_operation(judgement.outcomes).items() if all(o.verdict == SKIPPED for o in found)]
    lines += wrapped(f"not given: {', '.join(absent)}").splitlines() if absent else []
    for found in findings(judgement):
        lines += ["", *heading(found), *("  " + line for line in found.text().splitlines())]
    lines += deviation_lines(judgement)
    if not judgement.ran:
        lines += ["", "It declares no operation that was asked for. `python -m minipref` lists all with their arguments."]
    return "\n".join([*lines, *circumstances(judgement), "", judgement.verdict(), counts(judgement)])


def heading(found: Finding) -> list[str]:
    """The claims that fail, and what they say."""
    return [f"FAILS {', '.join(found.claims)}", *wrapped(f"not true: {found.statement}").splitlines()]


def circumstances(judgement: Judgement) -> list[str]:
    """Where the weights are that failing requests name; how it took being told to stop; what it wrote to stderr."""
    where = f"the weights that requests name are in {judgement.directory}, in float32 as NAME-float32.npz"
    lines = ["", where] if judgement.directory else []
    if judgement.ending:
        lines += ["", f"FAILS to stop: {judgement.ending.kind}: {judgement.ending.message}"]
    if judgement.failed and judgement.stderr.strip():
        lines += ["", "its stderr ends:", *judgement.stderr.strip().splitlines()[-10:]]
    return lines


def deviation_lines(judgement: Judgement) -> list[str]:
    accepted = [f"  {o.claim.id}: {o.reason}" for o in judgement.outcomes if o.verdict == DEVIATES]
    stale = [f"  {d.claim}: {d.message!r} was listed as a deviation and did not occur" for d in judgement.stale]
    return (["", "known deviations:", *accepted] if accepted else []) + (
        ["", "FAILS stale deviations:", *stale] if stale else []
    )


def counts(judgement: Judgement) -> str:
    """`N claims: N hold, ..., N fail`."""
    skipped, deviate = judgement.count(SKIPPED), judgement.count(DEVIATES)
    parts = [f"{judgement.count(HOLDS)} hold"]
    parts += [f"{deviate} deviate as listed"] if deviate else []
    reasons = sorted({o.reason for o in judgement.outcomes if o.verdict == SKIPPED and o.reason})
    parts += [f"{skipped} skipped ({', '.join(reasons)})"] if skipped else []
    return f"{len(judgement.outcomes)} claims: {', '.join(parts)}, {judgement.count(FAILS)} fail"


def explain(claim: Claim) -> str:
    """Statement, source, derivation, how it is measured, and which real bugs there have been."""
    bugs = [wrapped(f"{bug.id}: {bug.history} {bug.link}") for bug in museum.by_operation(claim.contract.name)]
    caught = ["Real bugs of this operation, in the museum:", *bugs] if bugs else ["No bug of the museum lives here."]
    parts = [claim.id, f"  {claim.statement}", f"Source: {claim.source}"]
    parts += [
        "Derivation, as the oracle computes it:",
        *("  " + line for line in oracle.derivation(claim.contract.name).splitlines()),
    ]
    return "\n".join([*parts, f"Measured: {claim.how}", *caught])


def wrapped(text: str) -> str:
    """Indented, in lines of 110 letters."""
    return textwrap.fill(
        text, 110, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def as_json(judgements: list[Judgement], rulings: list[Ruling]) -> str:
    """The report for programs, as `report.schema.json` says. Numbers that JSON lacks are the strings inf, -inf and nan."""
    document = {
        "format": "minipref-report",
        "version": "1.0",
        "contract": {"version": contract.VERSION, "hash": contract.HASH},
        "vectors": vectors.HASH,
        "judgements": [_judgement_entry(judgement) for judgement in judgements],
        "statements": [statements.entry(ruling) for ruling in rulings],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _judgement_entry(judgement: Judgement) -> dict[str, Any]:
    return {
        "implementation": judgement.declaration._asdict(),
        "dtype": judgement.dtype,
        "seed": judgement.seed,
        "conforms": bool(judgement.ran and not judgement.failed),
        "verdict": judgement.verdict(),
        "missing_outputs": {name: sorted(outputs) for name, outputs in judgement.missing.items() if outputs},
        "stale_deviations": [d._asdict() | {"regimes": [*(d.regimes or ())]} for d in judgement.stale],
        "ending": f"{judgement.ending.kind}: {judgement.ending.message}" if judgement.ending else "",
        "claims": [_outcome_entry(outcome) for outcome in judgement.outcomes],
    }


def _outcome_entry(outcome: Outcome) -> dict[str, Any]:
    evidence = outcome.evidence
    return {
        "id": outcome.claim.id,
        "operation": outcome.claim.contract.name,
        "level": outcome.claim.contract.level,
        "statement": outcome.claim.statement,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "cases": evidence.cases,
        "worst_error_over_bound": statements.number(evidence.worst),
        "of_ordinary_cases": statements.number(evidence.ordinary),
        "seconds": round(outcome.seconds, 3),
        "failures": [
            {"message": f.message, "details": [*f.details], "regimes": [*f.regimes], "call": call_text(f)}
            for f in evidence.failures
        ],
    }
