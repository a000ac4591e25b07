"""Claims about the mathematics: each holds, each can fail, and what is generated from them is current."""

import math
import re
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toy.experiment import FAILS, HOLDS, INCONCLUSIVE, Measured, Reading, Statement
from verify import conformance, statements
from verify.__main__ import main
from verify.statements import KINDS, Ruling, stated
from verify.theory import ledger, tables
from verify.theory.__main__ import FOLDER, documents

THEORY = [(module, s) for module, kind in KINDS.items() if kind not in ("experiment", "sampled") for s in stated(module)]
SAMPLED = stated("verify.experiments.sampled")  # which have seeds of their own
SEEDS = {False: [0], True: list(range(20))}  # by whether a sweep was asked for


@pytest.mark.parametrize("statement", [s for _, s in THEORY], ids=lambda s: s.id)
def test_holds_and_its_false_variant_does_not(statement: Statement, sweep: bool) -> None:
    for seed in SEEDS[sweep]:
        found = statement.read(np.random.default_rng(seed))
        assert found.true.verdict(statement.allowed) == HOLDS, (seed, found)
        assert found.false.refutes(statement.allowed), (seed, found)


@pytest.mark.sweep
@pytest.mark.parametrize("statement", SAMPLED, ids=lambda s: s.id)
def test_what_is_sampled_holds(statement: Statement) -> None:
    assert statement.read(np.random.default_rng(0)).verdict(statement.allowed) == HOLDS


def test_what_is_sampled_is_decided_by_name_alone() -> None:
    assert not {"sampled"} & {KINDS[module] for module in statements.select("*").statements}
    assert [s.id for s in statements.select("sampled.*").statements["verify.experiments.sampled"]] == [s.id for s in SAMPLED]


def test_ids_are_unique() -> None:
    ids = [s.id for module in KINDS for s in stated(module)]
    assert len(ids) == len(set(ids)) > 100


def test_generated_documents_are_current() -> None:
    for name, text in documents().items():
        assert (FOLDER / name).read_text("utf-8") == text, f"{name}: python -m verify.theory"


def test_every_claim_that_a_document_cites_exists() -> None:
    known = {claim.id for claim in conformance.claims()} | {s.id for module in KINDS for s in stated(module)}
    cited = {claim for *_, claims in ledger.true_statements() for claim in claims.split(", ")} - {"-"}
    assert cited | tables.cited() <= known, sorted((cited | tables.cited()) - known)


def test_every_number_of_a_counterexample_is_measured() -> None:
    for erratum in ledger.errata():
        named = {re.split(r"[.[]", field)[0] for _, field, *_ in string.Formatter().parse(erratum.statement.shown) if field}
        assert named, f"{erratum.statement.id}: a counterexample has numbers"
        assert named <= erratum.statement.read(np.random.default_rng(0)).numbers.keys()


def test_links_of_the_documents_lead_somewhere() -> None:
    for name, text in documents().items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (FOLDER / target).exists(), f"{name}: {target}"


@pytest.mark.parametrize(
    ("reading", "verdict", "refutes"),
    [
        (Reading(0.5), HOLDS, False),
        (Reading(1.0), HOLDS, False),
        (Reading(1.0 + 1e-9), FAILS, True),
        (Reading(0.5, 0.1), HOLDS, False),
        (Reading(0.9, 0.1), INCONCLUSIVE, False),
        (Reading(0.5, 10.0), INCONCLUSIVE, False),
        (Reading(1.5, 0.1), FAILS, False),  # outside, but a truth there is found with a chance below 99 %
        (Reading(1.6, 0.1), FAILS, True),
        (Reading(math.nan), FAILS, False),
        (Reading(0.5, math.nan), FAILS, False),
        (Reading(math.inf), FAILS, True),
    ],
)
def test_a_reading_is_decided_by_its_whole_interval(reading: Reading, verdict: str, refutes: bool) -> None:
    assert reading.verdict((0.0, 1.0)) == verdict
    assert reading.refutes((0.0, 1.0)) is refutes


def test_the_detectable_effect_is_found_with_the_power_it_states() -> None:
    """Of a truth just so far beyond the range, 99 % of 100,000 noisy readings lie outside it with their whole interval."""
    error = 0.1
    readings = 1.0 + Reading(0.0, error).detectable + error * np.random.default_rng(1).normal(size=100_000)
    found = np.mean([Reading(x, error).verdict((0.0, 1.0)) == FAILS for x in readings])
    assert abs(found - 0.99) <= 4 * math.sqrt(0.99 * 0.01 / 100_000)


def test_an_interval_of_few_samples_holds_the_truth_as_often_as_it_says() -> None:
    """Of 200,000 intervals of 99.9 %, each from four normal numbers: intervals of the normal law would miss in 4.6 %."""
    missed = np.mean([not low <= 0 <= high for low, high in map(of_four, np.random.default_rng(2).normal(size=(200_000, 4)))])
    assert abs(missed - 0.001) <= 4 * math.sqrt(0.001 / 200_000)


def of_four(samples: np.ndarray) -> tuple[float, float]:
    return Reading.mean(samples).interval


def test_worst_is_nan_if_any_is() -> None:
    assert Reading.worst(np.zeros(2), np.array([-3.0, 1.0])).value == 3.0
    assert math.isnan(Reading.worst(np.zeros(2), np.array([1.0, math.nan])).value)


def test_a_claim_whose_false_variant_passes_fails() -> None:
    assert Measured(Reading(0.0), Reading(2.0)).verdict((0.0, 1.0)) == HOLDS
    assert Measured(Reading(0.0), Reading(0.5)).verdict((0.0, 1.0)) == FAILS


@pytest.mark.parametrize(("value", "error", "verdict"), [(0.5, 0.0, HOLDS), (2.0, 0.0, FAILS), (1.0, 0.1, INCONCLUSIVE)])
def test_what_does_not_hold_fails_the_run(
    value: float, error: float, verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Measured(Reading(value, error), Reading(9.0))
    made = Statement("theory.made-up", "A sentence.", "nowhere", "Another.", (0.0, 1.0), "a number", lambda rng: measured)
    monkeypatch.setattr(statements, "select", lambda glob: statements.Chosen({"m": [made]}, {}))
    monkeypatch.setattr(statements, "decide", lambda chosen, seed: iter([Ruling("theory", made, measured)]))
    code, out = main(["--claims", "theory.made-up"]), capsys.readouterr().out
    assert code == (0 if verdict == HOLDS else 1)
    assert f"{verdict} theory.made-up" in out
    assert "theory: " in out


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "verify.theory.symbolic", raising=False)
    monkeypatch.setitem(sys.modules, "sympy", None)
    assert statements.select("*").absent == {"verify.theory.symbolic": "it needs sympy, which is not installed"}
    assert statements.select("toy.*").absent == {}
    for arguments in (["--claims", "theory.dpo.weight"], ["--explain", "theory.dpo.weight"]):
        assert main(arguments) in (2, 3) and "sympy" in capsys.readouterr().err


def test_report_and_page_show_every_statement(tmp_path: Path) -> None:
    files: list[Any] = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    assert main(["--claims", "theory.optimum.*", *files]) == 0
    for statement in (s for _, s in THEORY if s.id.startswith("theory.optimum.")):
        assert statement.id in (tmp_path / "r.json").read_text() and statement.id in (tmp_path / "r.html").read_text()


def test_explain_says_what_would_refute_it(capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (
        ("theory.optimum.gap", "False variant"),
        ("errata.ipo.target", "Often written"),
        ("toy.noise.cdpo-biased", "noise.py"),
    ):
        assert main(["--explain", name]) == 0
        assert words in capsys.readouterr().out
    assert main(["--explain", "theory.*"]) == 2
