"""The catalogue: every entry names what catches it, that exists, and measures that bug."""

import numpy as np
import pytest

from toy.experiment import Reading, Statement
from verify.bugs import museum
from verify.bugs.catalogue import BUGS, CONVENTIONS, IN_WORDS, Entry
from verify.bugs.findings import catalogued
from verify.doctor import LAWS
from verify.statements import KINDS, stated

SHELVES = {"bugs": BUGS, "conventions": CONVENTIONS}
NAMES = {bug.id: "museum" for bug in museum.BUGS + museum.BUGS_OF_MODELS} | dict.fromkeys(LAWS, "doctor")
NAMES |= {statement.id: "claim" for module in KINDS for statement in stated(module)}
PIPELINE = stated("verify.experiments.pipeline")


@pytest.mark.parametrize("shelf", SHELVES.values(), ids=SHELVES)
def test_numbers_rise_and_ids_are_unique(shelf: list[Entry]) -> None:
    numbers = [entry.number for entry in shelf]
    assert numbers == sorted({*numbers}) and len({entry.id for entry in shelf}) == len(shelf)


@pytest.mark.parametrize("entry", BUGS + CONVENTIONS, ids=lambda entry: entry.id)
def test_what_catches_an_entry_exists_and_is_of_the_kind_it_says(entry: Entry) -> None:
    if entry.how[0] in IN_WORDS:
        assert entry.how == ("none",) and entry in CONVENTIONS
    else:
        assert entry.how == tuple(way for way in ("museum", "claim", "doctor") if way in {NAMES[name] for name in entry.by})


def test_every_bug_is_caught_by_something_that_a_selftest_runs() -> None:
    assert len(BUGS) == 59 and all(entry.tried for entry in BUGS)


@pytest.mark.parametrize("statement", PIPELINE, ids=lambda statement: statement.id)
def test_a_claim_about_the_pipeline_measures_each_bug_that_it_is_to_catch(statement: Statement) -> None:
    measured = statement.read(np.random.default_rng(1)).numbers
    assert all(Reading(value).refutes(statement.allowed) for value in measured.values()), measured
    assert measured.keys() == {entry.id for entry in BUGS if statement.id in entry.by}


def test_a_bug_that_is_missed_or_not_tried_fails_the_catalogue() -> None:
    caught = dict.fromkeys(NAMES, True)
    assert catalogued(caught, whole=True).holds
    for name in ("mask-not-shifted", "pipeline.tokens", "kto-reference-point-of-true-pairs"):
        assert not catalogued({**caught, name: False}, whole=False).holds
        del caught[name]
        assert not catalogued(caught, whole=True).holds and catalogued(caught, whole=False).holds
        caught[name] = True
    assert "caught 1 of 1 bugs, 1 as exhibits, 0 by claims" in catalogued({"mask-not-shifted": True}, whole=False).text
