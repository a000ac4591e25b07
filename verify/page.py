"""What was found, as one self-contained page for a screen of either colour or for paper."""

from html import escape

from toy.experiment import HOLDS, described
from verify import contract, statements
from verify.claims import Outcome
from verify.report import Finding, counts, deviation_lines, findings, rows
from verify.runner import Judgement
from verify.statements import Ruling

STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #2a7d4f; --bad: #c0392b; --known: #a67c00 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { overflow-x: auto; border-left: 3px solid var(--bad); padding-left: .8rem }
pre.known { border-color: var(--good); white-space: pre-wrap }
.verdict { font-size: 1.15rem }
.HOLDS { color: var(--good) } .FAILS { color: var(--bad); font-weight: 600 } .DEVIATES { color: var(--known) }
.SKIPPED { opacity: .6 }
meter { width: 6rem; margin-right: .5rem }
@media print { body { margin: 0; font-size: 9pt } tr, pre { break-inside: avoid } pre { white-space: pre-wrap } }
"""
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>minipref: verdict</title>
<style>{style}</style></head>
<body><h1>minipref {version}</h1>
{body}
</body>
</html>
"""


def as_html(judgements: list[Judgement], rulings: list[Ruling]) -> str:
    """One page for all of a run's judgements and of what was decided beside them; it needs nothing else."""
    sections = [*map(_section, judgements), *([_statements(rulings)] if rulings else [])]
    return PAGE.format(style=STYLE, version=contract.VERSION, body="\n".join(sections))


def _statements(rulings: list[Ruling]) -> str:
    counted = "<br>".join(map(escape, statements.counts(rulings)))
    return f"<h2>Theory, errata, experiments</h2><p>{counted}</p>" + "\n".join(map(_ruling, rulings))


def _ruling(ruling: Ruling) -> str:
    kind = "known" if ruling.verdict == HOLDS else "failing"
    return f'<pre class="{kind}">{escape(described(ruling.statement, ruling.measured))}</pre>'


def _section(judgement: Judgement) -> str:
    methods = [_method_row(*row) for row in rows(judgement)]
    claims = [_claim_row(outcome) for outcome in judgement.outcomes]
    notes = [f"<li>{escape(line.strip())}</li>" for line in deviation_lines(judgement) if line.startswith("  ")]
    parts = [
        f"<h2>{escape(judgement.declaration.name)}</h2>",
        f'<p class="verdict">{escape(judgement.verdict())}</p><p>{escape(counts(judgement))}</p>',
        _table(("method", "worst error over its bound", "cases", "verdict"), methods),
        *map(_finding, findings(judgement)),
        f"<h3>Deviations</h3><ul>{''.join(notes)}</ul>" if notes else "",
        "<h3>Every claim</h3>" + _table(("claim", "statement", "worst", "verdict"), claims),
    ]
    return "\n".join(parts)


def _table(head: tuple[str, ...], body: list[str]) -> str:
    return "<table><tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>\n" + "\n".join(body) + "</table>"


def _method_row(name: str, worst: str, cases: str, verdict: str) -> str:
    meter = f'<meter value="{min(1.0, float(worst))}" low="0.5" high="0.999" optimum="0"></meter>{worst}' if worst else ""
    cells = f'<td><code>{name}</code></td><td>{meter}</td><td class="number">{cases}</td>'
    return f'<tr>{cells}<td class="{verdict.split()[0]}">{escape(verdict)}</td></tr>'


def _claim_row(outcome: Outcome) -> str:
    statement, worst = escape(outcome.claim.statement), f"{outcome.evidence.worst:.3g}" if outcome.evidence.cases else ""
    cells = f'<td><code>{outcome.claim.id}</code></td><td>{statement}</td><td class="number">{worst}</td>'
    return f'<tr>{cells}<td class="{outcome.verdict}">{outcome.verdict}</td></tr>'


def _finding(found: Finding) -> str:
    claims = ", ".join(found.claims)
    return f"<h3>{claims}</h3><p>Not true: {escape(found.statement)}</p><pre>{escape(found.text())}</pre>"
