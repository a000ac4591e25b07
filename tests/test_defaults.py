"""The defaults table covers every hyperparameter, agrees with the signatures, and renders as one table."""

import doctest
import inspect
import re
from types import ModuleType

import pytest

import minipref
from minipref import REGISTRY, defaults
from minipref.defaults import DEFAULTS, Default, format_defaults

OF_THE_DATA = {("kto", "reference_point"), ("rejection_acceptance", "reward_max")}
SCALARS = {
    (operation.name, argument.name): argument
    for operation in REGISTRY.values()
    for argument in operation.inputs.values()
    if argument.kind == "scalar"
}

each_row = pytest.mark.parametrize("row", DEFAULTS.values(), ids=lambda row: f"{row.operation}-{row.argument}")


def test_every_number_that_an_operation_takes_is_listed_once() -> None:
    assert set(DEFAULTS) == set(SCALARS) - OF_THE_DATA
    assert len(defaults._TABLE.strip().splitlines()) == len(DEFAULTS)


@each_row
def test_value_is_the_default_of_the_signature(row: Default) -> None:
    default = inspect.signature(REGISTRY[row.operation].formula).parameters[row.argument].default
    assert default is inspect.Parameter.empty or row.value == default


@each_row
def test_value_lies_in_the_range_in_use_and_all_three_are_legal(row: Default) -> None:
    assert row.low <= row.value <= row.high
    interval = SCALARS[row.operation, row.argument].interval
    assert all(interval.holds(x) for x in (row.low, row.value, row.high)), interval


@each_row
def test_source_names_a_version_or_a_repository(row: Default) -> None:
    assert row.used_by
    assert re.match(r"arXiv:\d{4}\.\d{5}v\d+\b|[\w-]+/[\w-]+\b", row.source), row.source


def test_table_is_rectangular_and_spells_numbers_as_people_do() -> None:
    lines = format_defaults().splitlines()
    assert len(lines) == len(DEFAULTS) + 2
    assert {line.count("|") for line in lines} == {7}
    row = next(line for line in lines if line.startswith("| `overlong_penalty` | `max_length`"))
    assert "| 20480 | 1024 to 20480 |" in row
    assert "| 0.1 | 0.1 |" in next(line for line in lines if line.startswith("| `kto` | `beta`"))


@pytest.mark.parametrize("module", [minipref, defaults], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
