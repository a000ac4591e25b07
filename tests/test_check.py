"""Judging from Python and from pytest, as other libraries do; and the report for programs, held against its schema."""

import copy
import itertools
import json
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import verify
from verify import report, statements
from verify.pipe import BrokenStart
from verify.protocol import Misbehaviour

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
PORT = ROOT / "tests" / "port" / "textbook.py"
SCHEMA = json.loads((ROOT / "verify" / "report.schema.json").read_text("utf-8"))

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(text): the path of a module of this text, in which `textbook` is the honest port."""

    def module(text: str) -> str:
        (tmp_path / "textbook.py").write_text(PORT.read_text())
        (tmp_path / "port.py").write_text(text)
        return str(tmp_path / "port.py")

    return module


# From Python


def test_what_conforms_is_returned_with_its_verdict() -> None:
    judgement = verify.check(PORT, operations=["bradley_terry", "constant_mean"])
    sentence = "textbook 0 conforms to minipref 1.0, level L1-VG, values and gradients, operations {bradley_terry}, level L2-VG"
    assert judgement.verdict().startswith(sentence) and judgement.verdict().endswith("seed 0.")


def test_a_level_is_all_that_is_there_of_it(write: Write) -> None:
    assert verify.check(write("from textbook import constant_mean, dpo, ipo"), level=2).operations == ["constant_mean"]


def test_what_does_not_hold_is_raised_with_the_report(write: Write) -> None:
    flipped = write("import textbook\ndef ipo(**x): return {name: -y for name, y in textbook.ipo(**x).items()}")
    with pytest.raises(verify.DoesNotConform, match=r"(?s)FAILS ipo\.vectors.*losses\[0\] is .*port 0 does not conform"):
        verify.check(flipped)


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("", {}, "nothing was judged"),
        ("from textbook import gae", {"level": 1}, "nothing was judged"),
        ("from textbook import ipo", {"operations": ["ipo", "dpo"]}, "not there: dpo$"),
        (
            "import textbook\ndef sppo(**x): return {'losses': textbook.sppo(**x)['losses']}",
            {},
            "was not asked for: sppo.grad_policy_logps$",
        ),
    ],
)
def test_what_is_not_there_is_not_passed_over(write: Write, text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(verify.DoesNotConform, match=message):
        verify.check(write(text), **options)


def test_values_alone_conform_where_that_is_asked(write: Write) -> None:
    values = write("import textbook\ndef sppo(**x): return {'losses': textbook.sppo(**x)['losses']}")
    assert "level L1-V (without sppo.grad_policy_logps)" in verify.check(values, values_only=True).verdict()


def test_deviations_dtype_and_seed_are_passed_on(write: Write, tmp_path: Path) -> None:
    (tmp_path / "listed.toml").write_text('[[deviation]]\nclaim = "sppo.refusals"\nmessage = "accepted"\nreason = "callers"\n')
    unchecked = write(PORT.read_text().replace("    sizes = {}\n", "    return\n"))
    with pytest.raises(verify.DoesNotConform, match="accepted policy_logps"):
        verify.check(unchecked, operations=["sppo"])
    listed = {"deviations_file": tmp_path / "listed.toml", "dtype": "float32", "seed": 7}
    verdict = verify.check(unchecked, operations=["sppo"], **listed).verdict()
    assert "operations {sppo}, float32, deviations {sppo}; " in verdict and verdict.endswith("seed 7.")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"level": 5}, "level must be one of 1, 2, 3 and 4, got 5"),
        ({"operations": ["dpo", "ppo"]}, r"operations must be a list of names of the contract, got \['dpo', 'ppo'\]"),
        ({"operations": "dpo"}, "operations must be a list of names of the contract, got 'dpo'"),
        ({"operations": ["gae"], "level": 1}, r"operations must be a list of names of level 1 of the contract, got \['gae'\]"),
        ({"profile": "huge"}, "profile must be one of quick, full, deep and seed >= 0, got 'huge' and 0"),
        ({"seed": -1}, "got 'quick' and -1"),
        ({"request_seconds": 0.0, "level": 1}, "seconds must be > 0"),
        ({"dtype": "float16", "level": 1}, "float16"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify.check(PORT, **options)


def test_a_module_is_judged_by_its_file(write: Write) -> None:
    port = types.ModuleType("port")
    with pytest.raises(ValueError, match=r"implementation must be a module in a \.py file, got <module 'port'>"):
        verify.check(port)
    port.__file__ = write("from textbook import rso_hinge")
    assert verify.check(port).operations == ["rso_hinge"]


def test_what_cannot_be_started_says_so(write: Write) -> None:
    with pytest.raises(BrokenStart, match="ZeroDivisionError"):
        verify.check(write("1 / 0"))


def test_a_package_keeps_its_relative_imports_and_is_not_taken_for_another(tmp_path: Path) -> None:
    for name in ("mylib", "numpy"):
        (tmp_path / name / "losses").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "pieces.py").write_text(PORT.read_text())
        (tmp_path / name / "losses" / "__init__.py").write_text("from ..pieces import sppo")
    assert verify.check(tmp_path / "mylib" / "losses" / "__init__.py").declaration.name == "mylib.losses"
    with pytest.raises(BrokenStart, match="numpy"):
        verify.check(tmp_path / "numpy" / "__init__.py")


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = "import sys, verify, verify.plugin; print(sorted({'numpy', 'hypothesis', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="module 'verify' has no attribute 'chek'"):
        verify.chek  # noqa: B018


# From pytest

TESTS = """
import pytest

@pytest.mark.parametrize("operation", ["bradley_terry", "sppo"])
def test_conforms_to_minipref(conforms_to_minipref, operation):
    conforms_to_minipref("mylib/losses.py", operations=[operation])
"""


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A library with tests, where pytest finds minipref's entry points as those of something installed."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    lines = [line for group, named in points.items() for line in (f"[{group}]", *(f"{x} = {y}" for x, y in named.items()))]
    site = pytester.mkdir("site")
    folder = site / "minipref-0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("\n".join(lines))
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: minipref\nVersion: 0\n")
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    pytester.mkpydir("mylib").joinpath("losses.py").write_text(PORT.read_text())
    pytester.makepyfile(TESTS)
    return pytester


def test_the_fixture_is_there_once_minipref_is_installed(installed: pytest.Pytester) -> None:
    installed.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_a_failure_is_the_report_and_nothing_else(installed: pytest.Pytester) -> None:
    losses = installed.path / "mylib" / "losses.py"
    losses.write_text(losses.read_text().replace("eta * (win_rates - 0.5)", "eta * win_rates"))
    ran = installed.runpytest_subprocess("-p", "no:cacheprovider")
    ran.assert_outcomes(passed=1, failed=1)
    ran.stdout.fnmatch_lines(
        ["FAILS sppo.vectors, *", "mylib.losses 0 does not conform to minipref 1.0, level L1-VG, *seed 0."]
    )
    ran.stdout.no_fnmatch_line("*Traceback*")
    ran.stdout.no_fnmatch_line("*checking.py*")


def test_the_command_line_sets_profile_and_seed(installed: pytest.Pytester) -> None:
    installed.makepyfile("""
def test_it(conforms_to_minipref):
    asked = conforms_to_minipref("mylib/losses.py", operations=["sppo"])
    named = conforms_to_minipref("mylib/losses.py", operations=["sppo"], profile="quick", seed=3)
    assert (asked.seed, named.seed) == (5, 3)
    assert sum(o.evidence.cases for o in asked.outcomes) > 1.2 * sum(o.evidence.cases for o in named.outcomes)
""")
    options = ("-p", "no:cacheprovider", "--minipref-profile", "full", "--minipref-seed", "5")
    installed.runpytest_subprocess(*options).assert_outcomes(passed=1)


# The report for programs


def faults(value: Any, schema: dict[str, Any], where: str = "report") -> Iterator[str]:
    """Where a document breaks its schema, or has what that does not name, which readers pass by and writers do not write.

    Of JSON Schema this knows what report.schema.json uses, and no more.
    """
    schema = {key: x for key, x in schema.items() if key not in ("$schema", "title", "description", "$defs")}
    unknown = schema.keys() - {
        "$ref",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "const",
        "enum",
        "pattern",
    }
    assert not unknown, unknown
    if "$ref" in schema:
        yield from faults(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], where)
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    names = schema.get("type", [])
    due = [types[name] for name in ([names] if isinstance(names, str) else names)]
    if due and not any(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for kind in due):
        yield f"{where}: {value!r} is no {names}"
        return
    if value not in schema.get("enum", [schema.get("const", value)]):
        yield f"{where}: {value!r} is none of those"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{where}: {value!r} is not {schema['pattern']}"
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from faults(item, schema.get("items", {}), f"{where}[{number}]")
    if isinstance(value, dict):
        yield from (f"{where}.{name} is missing" for name in schema.get("required", []) if name not in value)
        for name, item in value.items():
            others = schema.get("additionalProperties", False if "properties" in schema else {})
            own = schema.get("properties", {}).get(name, others)
            yield from faults(item, own, f"{where}.{name}") if own is not False else [f"{where}.{name} is not in the schema"]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report with something in every list that it has."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "textbook.py").write_text(PORT.read_text())
    (folder / "port.py").write_text("import textbook\ndef ipo(**x): return {'losses': 2 * textbook.ipo(**x)['losses']}")
    (folder / "listed.toml").write_text('[[deviation]]\nclaim = "ipo.refusals"\nmessage = "accepted"\nreason = "callers"\n')
    with pytest.raises(verify.DoesNotConform) as raised:
        verify.check(folder / "port.py", operations=["ipo"], deviations_file=folder / "listed.toml")
    judgement = raised.value.judgement._replace(ending=Misbehaviour("exit-code", "it ended with exit code 3"))
    [(module, [statement])] = statements.select("errata.ipo.target").statements.items()
    [measured] = statements.measure(module, [statement.id], 0)
    return json.loads(
        report.as_json([judgement], [statements.Ruling("errata", statement, measured)]), parse_constant=pytest.fail
    )


def test_the_report_is_as_its_schema_says(document: dict[str, Any]) -> None:
    assert list(faults(document, SCHEMA)) == []
    [judgement] = document["judgements"]
    assert judgement["stale_deviations"] and judgement["missing_outputs"] and judgement["ending"] and document["statements"]
    assert {claim["verdict"] for claim in judgement["claims"]} >= {"HOLDS", "FAILS"}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)


def test_a_field_more_or_less_anywhere_breaks_the_schema(document: dict[str, Any]) -> None:
    for number, node in enumerate(nodes(document)):
        for name in ["more", *node]:
            spoiled = copy.deepcopy(document)
            there = next(itertools.islice(nodes(spoiled), number, None))
            there.pop(name) if name in there else there.update({name: 1})
            free = node is document["judgements"][0]["missing_outputs"] or node is document["statements"][0]["apart"]
            assert list(faults(spoiled, SCHEMA)) or free, (node, name)


def test_every_field_is_required() -> None:
    for name, schema in SCHEMA["$defs"].items():
        if "properties" in schema:
            assert schema["required"] == [*schema["properties"]] and "additionalProperties" not in schema, name
