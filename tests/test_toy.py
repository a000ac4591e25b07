"""The experiments: their statements hold, their figures draw, their command line says what is wrong."""

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toy import NAMES, bandit
from toy.__main__ import load, main
from toy.experiment import HOLDS, Experiment, Measured, Reading, save, stated, table

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", params=NAMES)
def ran(request: pytest.FixtureRequest) -> tuple[Experiment, Any]:
    """An experiment and its numbers at seed 0."""
    experiment = load(request.param)
    return experiment, experiment.run(0)


def test_every_statement_holds_and_its_false_variant_does_not(ran: tuple[Experiment, Any]) -> None:
    experiment, numbers = ran
    assert experiment.statements
    for statement in experiment.statements:
        found = statement.read(numbers)
        assert found.verdict(statement.allowed) == HOLDS, (statement.id, found)


def test_figure_and_report(ran: tuple[Experiment, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib, the extra `plots`")
    experiment, numbers = ran
    assert len(experiment.report(numbers).splitlines()) >= 3
    save(experiment, numbers, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text("utf-8").rstrip().endswith("</svg>")


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_statements_hold_at_other_seeds(name: str) -> None:
    experiment = load(name)
    for seed in range(1, 10):
        numbers = experiment.run(seed)
        failing = [s.id for s in experiment.statements if s.read(numbers).verdict(s.allowed) != HOLDS]
        assert not failing, (seed, failing)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(NAMES)
    assert main(["loss_shapes", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert HOLDS in capsys.readouterr().out and (tmp_path / "new" / "folder" / "loss_shapes.svg").exists()


@pytest.mark.parametrize("arguments", [["bandit"], ["noise", "--seed", "-1"], ["noise", "--seed", "x"]])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and arguments[-1] in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SystemExit) as error:
        main(["loss_shapes", "--out", str(tmp_path / "file" / below)])
    printed = capsys.readouterr()
    assert error.value.code == 2 and "--out" in printed.err and not printed.out


def test_without_matplotlib_the_numbers_still_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("toy.__main__.find_spec", lambda name: None)
    monkeypatch.setattr("toy.__main__.NAMES", ("loss_shapes",))
    assert main(["all", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert HOLDS in printed.out and "matplotlib" in printed.err
    assert "<img" not in (tmp_path / "index.html").read_text("utf-8")


def test_the_worlds_need_numpy_alone() -> None:
    """Whatever is imported at the top of a file here is the standard library, NumPy, minipref or another file here."""
    for path in (ROOT / "toy").glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots = {module.split(".")[0] for module in modules}
            assert roots <= {"numpy", "minipref", "toy"} | sys.stdlib_module_names, path


def test_slopes_over_pairs_are_those_of_the_loss() -> None:
    """Against central differences in the logits."""
    rng = np.random.default_rng(3)
    world = bandit.random_world(rng)
    logits, step = rng.normal(size=(3, 6)), 1e-6

    def loss(*arguments: np.ndarray) -> Any:
        from minipref import dpo

        return dpo(*arguments, beta=world.beta)

    def value(z: np.ndarray) -> float:
        return bandit.over_pairs(loss, bandit.log_softmax(z), world.reference_logps, world.preferences)[0]

    found = bandit.pair_gradient(loss, logits, world.reference_logps, world.preferences)
    for index in np.ndindex(logits.shape):
        shift = np.zeros_like(logits)
        shift[index] = step
        assert abs((value(logits + shift) - value(logits - shift)) / (2 * step) - found[index]) <= 1e-8


def test_table_lines_up() -> None:
    assert table(("a", "value"), [("long name", 1.0), ("b", 123456.0)]).splitlines() == [
        "a              value",
        "long name          1",
        "b          1.235e+05",
    ]


def test_statements_from_a_table() -> None:
    """Bars of mathematics are no separators, a line goes on after four spaces, and colons belong to what is measured."""
    found = Measured(Reading(0.5), Reading(2.0))
    text = "\nfar | KL(π || μ) > |x|. | It\n    is 0. | eq. 1 | -inf, 1e-3: |x|: its size\n"
    (statement,) = stated("toy.here", text, {"far": lambda numbers: found})
    assert statement[:3] == ("toy.here.far", "KL(π || μ) > |x|.", "eq. 1")
    assert statement[3:6] == ("It is 0.", (-np.inf, 1e-3), "|x|: its size")
    assert statement.read(None) is found


@pytest.mark.parametrize(
    ("text", "names", "wrong"),
    [
        ("a | b | c | d | 0, 1: e\nshort | b | c | 0, 1: e", "a short", "five fields, short has 4"),
        ("a | b | c | d | 0, 1: e\nlong | b | c | d | e | 0, 1: f", "a long", "five fields, long has 6"),
        ("a | b | c | d | 0, 1: e\nunread | b | c | d | 0, 1: e", "a", "here.unread stands alone"),
        ("a | b | c | d | 0, 1: e", "a unstated", "here.unstated stands alone"),
    ],
)
def test_a_wrong_table_of_statements_is_refused(text: str, names: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        stated("toy.here", text, dict.fromkeys(names.split(), lambda numbers: Measured(Reading(0.0), Reading(2.0))))
