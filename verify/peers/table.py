"""Writes PEERS.md, how published libraries stand to the contract: python -m verify.peers.table out/peers/*.json

A report is the judge's, under the name of the peer's adapter. What deviates, and why, is in the peer's .toml, where a reason
begins with its kind: in a run that conforms each entry has occurred, and nothing else.
"""

import ast
import datetime
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from verify.claims import SKIPPED
from verify.contract import ALL
from verify.deviations import Deviation, read

HERE = Path(__file__).parent
KINDS = {"bug": "**bug**", "edge": "edge", "convention": "deviates"}  # of a reason, gravest first, and the verdict
HEADER = ("operation", "function", "verdict", "worst error / bound", "of ordinary cases", "why")


class Row(NamedTuple):
    """One operation of one peer."""

    operation: str
    source: str
    verdict: str
    worst: str
    ordinary: str
    why: str


def sources(peer: str) -> dict[str, str]:
    """The SOURCES of an adapter, which can only be imported in an environment of its own: by operation, what it drives."""
    for node in ast.parse((HERE / f"{peer}.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SOURCES":
            return dict(ast.literal_eval(node.value))
    raise ValueError(f"{peer}.py must have SOURCES, a dict of strings")


def verdict(deviations: list[Deviation]) -> str:
    """What the listed deviations of one operation say of it."""
    numbers = [d for d in deviations if not d.claim.endswith(".refusals")]
    kinds = {d.reason.partition(":")[0] for d in numbers}
    worst = next((mark for kind, mark in KINDS.items() if kind in kinds), "")
    return worst or ("numbers hold" if deviations else "holds")


def rows(peer: str, report: dict[str, Any]) -> list[Row]:
    """One for each operation that was judged. ValueError where the run did not conform, or judged what SOURCES lacks."""
    (judgement,) = report["judgements"]
    if not judgement["conforms"]:
        raise ValueError(f"{peer} must conform, its deviations aside, before it is tabled: {judgement['verdict']}")
    measured = [claim for claim in judgement["claims"] if claim["verdict"] != SKIPPED]
    listed, drives = read(HERE / f"{peer}.toml"), sources(peer)
    operations = [name for name in ALL if any(claim["operation"] == name for claim in measured)]
    if set(operations) != set(drives):
        raise ValueError(f"SOURCES of {peer}.py must name what was judged, {operations}, got {[*drives]}")
    return [_row(name, drives[name], [c for c in measured if c["operation"] == name], listed) for name in operations]


def _row(operation: str, source: str, claims: list[dict[str, Any]], listed: tuple[Deviation, ...]) -> Row:
    here = [d for d in listed if d.claim.partition(".")[0] == operation]
    worst = max(float(claim["worst_error_over_bound"]) for claim in claims)
    ordinary = [x for claim in claims if not math.isnan(x := float(claim["of_ordinary_cases"]))]
    why = "<br>".join(dict.fromkeys(d.reason for d in here))
    return Row(operation, source, verdict(here), f"{worst:.2g}", f"{max(ordinary):.2g}" if ordinary else "", why)


def document(reports: dict[str, dict[str, Any]], date: datetime.date) -> str:
    """PEERS.md."""
    tables = {peer: rows(peer, report) for peer, report in reports.items()}
    marks = {peer: {row.operation: row.verdict for row in table} for peer, table in tables.items()}
    given = [name for name in ALL if any(name in found for found in marks.values())]
    overview = [(name, *(found.get(name, "") for found in marks.values())) for name in given]
    judged = [report["judgements"][0]["implementation"] for report in reports.values()]
    names = [f"{made['name']} {made['version']}" for made in judged]
    parts = [INTRODUCTION.format(date=date), _table(("operation", *names), overview)]
    for peer, table in tables.items():
        (judgement,) = reports[peer]["judgements"]
        made, seed = judgement["implementation"], judgement["seed"]
        parts += [f"## {made['name']} {made['version']}", f"{judgement['dtype']}, seed {seed}.", _table(HEADER, table)]
    parts += ["## Finds", FINDS, _table(("script", "what it shows"), finds()), "## Not judged", NOT_JUDGED]
    return "\n\n".join(parts) + "\n"


def finds() -> list[tuple[str, str]]:
    """Each reproduction, and the first line of its docstring."""
    paths = sorted((HERE / "findings").glob("*.py"))
    return [(f"[`{path.stem}`](findings/{path.name})", _title(path)) for path in paths]


def _title(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


def _table(header: tuple[str, ...], body: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


INTRODUCTION = """# Published libraries before the judge

Written by `make peers` on {date}, from runs of `python -m verify --impl PEER --deviations verify/peers/PEER.toml`. Every
number comes out of the library's own code, values and gradients by its own autograd or backward; the adapters beside this
file hold no formula. What a library does in the same call and was not asked for, such as scoring tokens, whitening or
averaging, an adapter makes the identity, and says so.

*holds*: every claim, the refusal of bad input among them. *numbers hold*: every value and gradient of legal input is right,
but invalid input is not refused. *deviates*: another convention, such as float32 for any input. *edge*: wrong at an
extreme, such as a log-probability of -inf, or by the rounding of rewards that are all equal; it may deviate too. **bug**:
wrong where it is used. The tables below say what deviates, and why; a failure of a kind that is not listed, or where a
listed one is known from extreme cases alone, in an ordinary case, would have failed the run. Errors are in units of the bound
that the contract sets, over all cases and over ordinary ones; inf is also an answer of NaN, or none. An empty cell: the library
has no such function."""

FINDS = """Bugs that were met on the way, and what is known of each upstream: a script that needs the library as pip installs
it, prints what is due and what comes, and exits with 1 while the bug is there."""

NOT_JUDGED = """What else is on the package index in November 2026 and has such losses:

- *could be, and is not yet*: google-tunix 0.1.7 (JAX), SkyRL 0.4.0 and Trinity-RFT 0.6.0 (much of both adapted from verl),
  oxrl 1.7.2
- *calls TRL's*: axolotl 0.21.0, but for an ORPO inside the loss of a whole model
- *cannot be imported without the whole of transformers, or of pydantic and more; not tried with them*: unsloth 2026.10.9,
  agilerl 2.58.0, openpipe-art 0.5.23, cosmos-rl 0.4.7, xtuner 0.2.0
- *other hardware or frameworks, not tried*: mlx-lm-lora 5.10.2, easydel 0.3.0, maxtext 0.2.5, nemo-aligner 0.7.0
- *not to be installed from there*: trlx, prime-rl, nemo-rl (a placeholder)"""


def main(paths: list[str]) -> None:
    reports = {Path(path).stem: json.loads(Path(path).read_text("utf-8")) for path in paths}
    (HERE / "PEERS.md").write_text(document(reports, datetime.date.today()), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
