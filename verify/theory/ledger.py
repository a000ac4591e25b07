"""ERRATA.md: what is often written about these methods, decided. Generated, so that every number in it has been measured.

What is commonly written and true stands in `true.txt`, a line each: sentence | source | the claim that decides it.
"""

import re
from pathlib import Path

import numpy as np

from toy.experiment import Measured, Reading, said, span
from verify.statements import KINDS, stated
from verify.theory.claim import ERRATA, WRONG, Documentary, Erratum

SEED = 0
HEAD = """# Errata of preference optimization

Sentences that are often written about DPO and its relatives, each decided by a measurement. Of the {total} beliefs below,
{wrong} are wrong and {conditional} are true only under conditions that usually go unsaid. Each is REFUTED by a counterexample
in numbers, and its correction HOLDS by the same measurement. To repeat one, or all, with the numbers in a report:

```
python -m verify --claims {example} --seed {seed} --json report.json
python -m verify --claims 'errata.*' --seed {seed} --json report.json
```

Cite an entry by its id. Its last lines say what was measured, here at seed {seed}; in which range the number must lie for the
correction to hold; and what it is if the belief is put in the correction's place, which must lie outside. Numbers below 1e-9,
which differ by rounding from one machine to the next, are printed as 0.

R is the true reward, π_ref the reference, β its strength, and π* = π_ref e^(R/β)/Z the optimum of E[R] - β KL(π || π_ref),
where Z normalizes. y_w is the chosen response and y_l the rejected one; h is the gap between their log-ratios log π/π_ref,
r̂ = β log π/π_ref the implicit reward, σ the logistic function. Logarithms are natural, in nats. In a *table* each response has
one free logit; a *shared weight* moves the logits of several at once.

| belief | verdict | claim |
|---|---|---|
{index}
"""
ENTRY = """### `{id}`

**Often written.** {belief}

**{verdict}.** {counterexample}

**What is true.** {correction} *Source:* {source}.

*Measured:* {measured}. Correction: {true}, allowed {allowed}. Belief: {false}.
"""
HISTORY = """## History and bibliography

No computation decides these; they stand apart, each with its source.

| often written | in fact | source |
|---|---|---|
{rows}
"""
TRUE = """## Commonly written, and true

{total} statements that hold. What decides each is a claim, which `python -m verify --explain ID` explains, or the record.

| statement | source | claim |
|---|---|---|
{rows}
"""


def errata() -> list[Erratum]:
    """All of them, in the order of their files."""
    for module in (module for module, kind in KINDS.items() if kind == "errata"):
        stated(module)
    return ERRATA


def documentary() -> list[Documentary]:
    """Beliefs about history, which no computation decides."""
    from verify.theory import errata_dpo, errata_family

    return [*errata_dpo.DOCUMENTARY, *errata_family.DOCUMENTARY]


def true_statements() -> list[tuple[str, str, str]]:
    """Sentence, source and claim id of what is commonly written and true; the id is `-` where it is a matter of record."""
    lines = Path(__file__).with_name("true.txt").read_text("utf-8").splitlines()
    return [(sentence, source, claim) for sentence, source, claim in (line.split(" | ") for line in lines if line)]


def document() -> str:
    """The text of ERRATA.md."""
    listed = errata()
    wrong = sum(erratum.verdict == WRONG for erratum in listed)
    index = [f"| {_cell(e.statement.false)} | {e.verdict} | [`{e.statement.id}`](#{anchor(e.statement.id)}) |" for e in listed]
    parts = [
        HEAD.format(
            total=len(listed),
            wrong=wrong,
            conditional=len(listed) - wrong,
            example=listed[0].statement.id,
            seed=SEED,
            index="\n".join(index),
        ),
        "## The entries\n",
        *(_entry(erratum, erratum.statement.read(np.random.default_rng(SEED))) for erratum in listed),
        HISTORY.format(rows="\n".join(f"| {' | '.join(map(_cell, row))} |" for row in documentary())),
        TRUE.format(
            total=len(true_statements()),
            rows="\n".join(f"| {_cell(s)} | {_cell(source)} | {_claims(claim)} |" for s, source, claim in true_statements()),
        ),
    ]
    return "\n".join(parts)


def _entry(erratum: Erratum, measured: Measured) -> str:
    statement = erratum.statement
    return ENTRY.format(
        id=statement.id,
        belief=statement.false,
        verdict="REFUTED" if erratum.verdict == WRONG else "REFUTED as it stands: true only under conditions",
        counterexample=statement.shown.format(**measured.numbers),
        correction=statement.statement,
        source=statement.source,
        measured=statement.measured,
        true=_printed(measured.true),
        allowed=span(statement.allowed),
        false=_printed(measured.false),
    )


def _printed(reading: Reading) -> str:
    """A number as every machine prints it: rounding errors differ from one to the next."""
    return "0" if abs(reading.value) < 1e-9 else said(reading)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _claims(claim: str) -> str:
    return "a matter of record" if claim == "-" else ", ".join(f"`{name}`" for name in claim.split(", "))


def anchor(heading: str) -> str:
    """The fragment that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
