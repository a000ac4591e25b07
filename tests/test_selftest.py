"""The suite can fail: bugs are caught, rewrites acquitted, mutators do what they say, and copies leave nothing behind."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from verify.bugs import findings, museum, selftest, specimen
from verify.bugs.mutants import mutants
from verify.bugs.selftest import caught, exhibits, find, main, reasons, signature, trials_of
from verify.contract import CONTRACTS, MODELS
from verify.vectors.notes import NOTES

DPO = "offline/dpo.py"


@pytest.mark.parametrize("shelf", [museum.BUGS, museum.CONTROLS], ids=["bugs", "controls"])
def test_every_patch_applies_and_is_well_labelled(shelf: list[museum.Bug]) -> None:
    assert len({bug.id for bug in shelf}) == len(shelf)
    for bug in shelf:
        assert bug.apply() != (specimen.SOURCES | specimen.MODEL_SOURCES)[bug.file]
        reached = [name for user in specimen.users(bug.file) for name in specimen.defined(user)]
        assert set(bug.operations) <= {*reached, *MODELS}
        assert bug.history and bug.link


def test_a_patch_that_no_longer_applies_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"gone: old text must occur once in offline/dpo\.py, got 0 times"):
        museum.Bug("gone", ("dpo",), DPO, "no such line", "", "", "").apply()


def test_every_bug_is_caught() -> None:
    assert [e.bug.id for e in exhibits(museum.BUGS, selftest.SEED) if e.catch is None] == []


def test_every_control_is_acquitted() -> None:
    with np.errstate(all="ignore"):
        assert [(e.bug.id, e.catch) for e in exhibits(museum.CONTROLS, selftest.SEED) if e.catch] == []


def test_the_specification_passes_its_own_trials() -> None:
    assert [catch for name in CONTRACTS for catch in selftest.sorted_out(name, selftest.SEED)[1]] == []


def test_vectors_name_bugs_that_are_in_the_museum() -> None:
    assert {note.bug for note in NOTES if note.bug} <= {bug.id for bug in museum.BUGS}


def test_bugs_are_found_by_operation() -> None:
    assert "orpo-log-one-minus-exp" in [bug.id for bug in museum.by_operation("orpo")]
    assert all("gae" in bug.operations for bug in museum.by_operation("gae"))


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("return a + b", {"return (a - b)", "return a", "return b", "return -(a + b)"}),
        ("return a < b", {"return (a <= b)", "return (a >= b)"}),
        ("return a and b", {"return (a or b)", "return a", "return b"}),
        ("return -a", {"return a"}),
        ("return not a", {"return a"}),
        ("return a[:, 1:]", {"return a[:, :-1]", "return a[:, 0:]", "return a[:, 2:]"}),
        ("return 0.5", {"return 1.5", "return 1.0"}),
        ("return exp(a)", {"return expm1(a)", "return -exp(a)"}),
        (
            "return where(a, b, 3)",
            {"return where(b, a, 3)", "return where(a, 3, b)", "return where(a, b, 4)", "return -where(a, b, 3)"},
        ),
        ("return b if a else 3", {"return b if True else 3", "return b if False else 3", "return b if a else 4"}),
        ("rules = [Rule(a)]", {"rules = [*()]"}),
        ("raise a", {"pass"}),
        ("self._refuse(a, 'text', 3)", {"pass"}),
        ("return min(a, b)", {"return max(a, b)", "return -min(a, b)"}),
        ("return x.reshape(-1), f'{a + b}'", set()),
    ],
)
def test_a_line_is_changed_in_every_small_way(line: str, changed: set[str]) -> None:
    source = f'def f(a, b):\n    """A + b, text."""\n    {line}\n'
    assert {mutant.lines(source)[1] for mutant in mutants("f.py", source)} == changed
    for mutant in mutants("f.py", source):
        compile(mutant.apply(source), "f.py", "exec")
        assert (mutant.line, mutant.where) == (3, "f")


def test_ranges_defaults_and_arguments_of_operations_are_changed_but_not_their_source() -> None:
    source = '@operation(level=1, source="eq. 7")\ndef f(a: Floats[N], b: Floats[N], c: Positive = 3):\n    return b\n'
    changed = {mutant.apply(source) for mutant in mutants("f.py", source)}
    told = {source.replace("Positive", other) for other in ("NonNegative", "Finite", "AtLeastOne")}
    assert changed == told | {source.replace("3", "4"), source.replace("return b", "return a")}


def test_letters_of_many_bytes_do_not_move_a_mutant() -> None:
    source = 'x = "λλλ", 1\n'
    assert 'x = "λλλ", 2' in {mutant.lines(source)[1] for mutant in mutants("f.py", source)}


def test_a_copy_is_judged_beside_the_real_one_and_leaves_nothing_behind() -> None:
    before = set(sys.modules), list(sys.meta_path)
    with specimen.specimen(DPO, specimen.SOURCES[DPO].replace("losses = -log", "losses = log")) as operations:
        x = np.array([-1.0])
        assert operations["dpo"](x, x, x, x, beta=0.1).losses == -np.log(2)
    with pytest.raises(SyntaxError), specimen.specimen(DPO, "def"):
        pass
    assert (set(sys.modules), list(sys.meta_path)) == before


def test_what_hangs_changes_its_inputs_or_misnames_an_argument_is_caught() -> None:
    source = specimen.SOURCES[DPO]
    legal = [trial for trial in trials_of("dpo", selftest.SEED) if trial.expected][:1]
    illegal = [trial for trial in trials_of("dpo", selftest.SEED) if not trial.expected][:1]
    body = "    h = chosen_rewards"
    for trouble, message in [
        ("    while True:\n        pass\n", "takes more than 1 s"),
        ("    policy_chosen_logps += 1\n", "read-only"),
        ("    chosen_rewards = chosen_rewards[None]\n", "is float64[1, 3], expected float[3]"),
        ('    chosen_rewards = chosen_rewards.astype("f4")\n', "is float32, expected float64"),
    ]:
        catch = caught(DPO, source.replace(body, trouble + body), legal)
        assert catch and message in catch.message
    contract = specimen.SOURCES["contract.py"].replace('f"{self.name}: {argument} {rule}', 'f"{self.name}: something {rule}')
    catch = caught("contract.py", contract, illegal)
    assert catch and "due is a ValueError" in catch.message


def test_listed_equivalents_exist_with_a_reason() -> None:
    every = {signature(mutant) for file, source in specimen.SOURCES.items() for mutant in mutants(file, source)}
    assert [key for key in reasons() if key not in every] == []
    assert all(reasons().values())


def test_a_survivor_that_is_not_listed_fails_and_one_that_is_caught_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "trials_of", lambda operation, seed: [])
    found = find("offline/rso.py", selftest.SEED, alone=False)
    assert found.survivors and not all(bar.holds for bar in findings.bars(found, whole=False))
    monkeypatch.undo()
    monkeypatch.setattr(selftest, "reasons", lambda: {("offline/rso.py", "rso_hinge", "a", "b"): "gone"})
    assert find("offline/rso.py", selftest.SEED, alone=False).stale == ["offline/rso.py | rso_hinge | a | b"]


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--only", DPO, "--vectors", "--json", str(tmp_path / "found.json")]) == 0
    assert "museum: caught 6 of 6" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["survivors"] == []
    for nothing in ("nothing", "toy.*"):
        with pytest.raises(SystemExit) as stop:
            main(["--only", nothing])
        assert stop.value.code == 2
