"""An outside party at the command line: an honest port, parts of it, a hundred mistakes in it, and programs that misbehave."""

import json
import re
import runpy
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verify import deviations
from verify.__main__ import main
from verify.contract import CONTRACTS
from verify.subject import Failure

PORT = Path(__file__).with_name("port")
TEXTBOOK, PROGRAM = ((PORT / name).read_text() for name in ("textbook.py", "program.py"))
MISTAKES = runpy.run_path(str(PORT / "mistakes.py"))["MISTAKES"]

Judge = Callable[..., tuple[int, str]]
Write = Callable[..., str]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Judge:
    """verify(*arguments): the exit code, and all that was printed."""

    def run(*arguments: object) -> tuple[int, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as usage:
            code = int(usage.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def judge(verify: Judge) -> Judge:
    """judge(implementation, *options): the same, in the quick profile, under one seed."""
    return lambda implementation, *options: verify("--impl", implementation, "--profile", "quick", "--seed", 1, *options)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(text): the path of a module of this text, beside the textbook."""

    def module(text: str, name: str = "port.py") -> str:
        shutil.copy(PORT / "textbook.py", tmp_path)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return module


def edited(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} must occur once, occurs {text.count(old)} times"
    return text.replace(old, new)


def row(operation: str, printed: str) -> str:
    """The line of the table that is about one operation."""
    return next(line for line in printed.splitlines() if line.split()[:1] == [operation])


# The honest port


def test_the_port_conforms(judge: Judge) -> None:
    code, printed = judge(PORT / "textbook.py")
    assert code == 0, printed
    sentence = re.escape("textbook 0 conforms to minipref 1.0, level L1-VG, values and gradients, all 17 operations, ")
    assert re.search(sentence + "level L2-VG, values and gradients, all 15 operations, float64; .*seed 1", printed)
    assert all(row(name, printed).endswith("HOLDS") for name in CONTRACTS)


@pytest.mark.parametrize("operations", ["orpo", "plackett*", pytest.param("*", marks=pytest.mark.sweep)])
def test_the_port_conforms_in_float32(judge: Judge, operations: str) -> None:
    code, printed = judge(PORT / "textbook.py", "--dtype", "float32", "--operations", operations)
    assert code == 0 and ", float32;" in printed, printed


@pytest.mark.parametrize("operations", ["linear*", "overlong_penalty", pytest.param("*", marks=pytest.mark.sweep)])
def test_the_port_conforms_behind_the_pipe(judge: Judge, operations: str) -> None:
    code, printed = judge(f"cmd:{sys.executable} {PORT / 'program.py'}", "--operations", operations)
    assert code == 0 and "textbook 1 conforms" in printed, printed


def test_a_part_of_it_conforms_and_says_which(judge: Judge, write: Write) -> None:
    code, printed = judge(write("from textbook import dpo, gae, kto"))
    assert code == 0, printed
    assert "level L1-VG, values and gradients, operations {dpo, kto}, level L2-VG" in printed
    assert row("gae", printed).endswith("HOLDS") and "not given: bradley_terry, cdpo, diffusion_dpo, ipo," in printed


CHANGED = """
import numpy as np, textbook
def flushed(value):
    tiny = isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.abs(value) < np.finfo(value.dtype).smallest_normal
    return np.where(tiny, value.dtype.type(0), value) if np.any(tiny) else value
def changed(operation):
    return lambda **inputs: CHANGE
bradley_terry, rejection_acceptance = map(changed, (textbook.bradley_terry, textbook.rejection_acceptance))
"""
FLUSHED = "{n: flushed(y) for n, y in operation(**{n: flushed(x) for n, x in inputs.items()}).items()}"
VALUES = "{n: y for n, y in operation(**inputs).items() if not n.startswith('grad_')}"


def test_flushing_subnormals_is_legal(judge: Judge, write: Write) -> None:
    code, printed = judge(write(CHANGED.replace("CHANGE", FLUSHED)))
    assert code == 0 and "operations {bradley_terry}" in printed, printed


def test_values_without_gradients_conform_as_such(judge: Judge, write: Write) -> None:
    code, printed = judge(write(CHANGED.replace("CHANGE", VALUES)))
    assert code == 0, printed
    without = "L1-V (without bradley_terry.grad_chosen_rewards, bradley_terry.grad_rejected_rewards), values only"
    assert f"level {without}, operations {{bradley_terry}}, level L2-VG" in printed


def test_what_is_not_implemented_is_skipped(judge: Judge, write: Write) -> None:
    code, printed = judge(write("from textbook import ipo\ndef simpo(**inputs): raise NotImplementedError"))
    assert code == 0 and "operations {ipo}" in printed, printed
    assert "simpo" in printed[printed.index("not given:") : printed.index("conforms")]


# Mistakes


def test_a_hundred_mistakes_two_to_five_an_operation() -> None:
    assert len(set(MISTAKES)) == 100
    operations = [operation for operation, _, _ in MISTAKES]
    assert all(2 <= operations.count(name) <= 5 for name in CONTRACTS)


def every_fourth() -> list[Any]:
    marks = [() if number % 4 == 0 else pytest.mark.sweep for number in range(len(MISTAKES))]
    return [pytest.param(*m, marks=mark, id=f"{m[0]}-{n}") for n, (m, mark) in enumerate(zip(MISTAKES, marks, strict=True))]


@pytest.mark.parametrize("operation, old, new", every_fourth())
def test_a_mistake_is_found(judge: Judge, write: Write, operation: str, old: str, new: str) -> None:
    code, printed = judge(write(edited(TEXTBOOK, old, new)), "--operations", operation)
    assert code == 1 and "FAILS" in row(operation, printed) and "does not conform" in printed, printed


def outcome(function: Callable[..., dict[str, Any]], call: str) -> dict[str, list[Any]] | str:
    """What a pasted call gives: outputs as lists, or a refusal."""
    try:
        with np.errstate(all="ignore"):
            found = eval(call, {"np": np, function.__name__: function})
    except ValueError as refusal:
        return str(refusal)
    return {name: np.asarray(value).tolist() for name, value in found.items()}


@pytest.mark.parametrize(
    "operation, part, dtype",
    [
        ("dpo", "sigmoid(-logits)", "float64"),
        ("orpo", "if odds_weight > 0", "float64"),
        ("gae", "delta +", "float32"),
        ("overlong_penalty", "cache_length, -1, 0)", "float64"),
    ],
)
def test_a_counterexample_can_be_pasted(judge: Judge, write: Write, operation: str, part: str, dtype: str) -> None:
    mistake = next(m for m in MISTAKES if m[0] == operation and part in m[1])
    wrong = write(edited(TEXTBOOK, *mistake[1:]))
    _, printed = judge(wrong, "--claims", f"{operation}.[vf]*", "--dtype", dtype)
    calls = re.findall(rf"^  {operation}\(\n.*?^  \)$", printed, re.DOTALL | re.MULTILINE)
    assert calls
    for call in map(textwrap.dedent, calls):
        answers = [outcome(runpy.run_path(path)[operation], call) for path in (wrong, str(PORT / "textbook.py"))]
        assert answers[0] != answers[1], call


# Misbehaviour: of a program, as edits of the honest one, and of a module

SAY = "say(answer(request))"
MISBEHAVIOUR = {
    "exits 0 halfway": ("for line in sys.stdin:", "for line in (sys.stdin.readline() for _ in range(9)):", "with exit code 0"),
    "floods": (SAY, "[sys.stdout.write('1' * 2**20) for _ in range(99)]", "more than 67108864 bytes"),
    "stalls": (SAY, "import time; time.sleep(60)", "no answer within 0.5 s"),
    "answers twice": (SAY, f"{SAY}; {SAY}", "\n  repeated\n"),  # noticed before the next request or after it
    "chatters": (SAY, f"print('thinking', flush=True); {SAY}", "not JSON"),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_a_program_that_misbehaves_is_told_how(judge: Judge, write: Write, name: str) -> None:
    old, new, reason = MISBEHAVIOUR[name]
    program = write(edited(PROGRAM, old, new), "program.py")
    seconds = 0.5 if name == "stalls" else 10
    code, printed = judge(f"cmd:{sys.executable} {program}", "--operations", "ipo", "--request-seconds", seconds)
    assert code == 1 and reason in printed and "FAILS" in row("ipo", printed), printed


MODULES = {
    "return {n: y * np.nan for n, y in textbook.ipo(**x).items()}": "is nan",
    "x['policy_chosen_logps'] -= 1; return textbook.ipo(**x)": "modified its input policy_chosen_logps",
    "np.isnan = np.isfinite = np.abs = np.finfo = lambda *_: True; return {'losses': x['policy_chosen_logps']}": "losses",
    "raise SystemExit": "exit code 0 before it answered",
    "return {'losses': textbook.ipo(**x)['losses'].sum()}": "expected shape",
    "raise NotImplementedError if x['beta'] > 1 else ValueError": "refused a legal case",
}


@pytest.mark.parametrize("body", MODULES)
def test_a_module_that_misbehaves_is_told_how(judge: Judge, write: Write, body: str) -> None:
    code, printed = judge(write(f"import numpy as np, textbook\ndef ipo(**x):\n    {body}"))
    assert code == 1 and MODULES[body] in printed and "FAILS" in row("ipo", printed), printed


@pytest.mark.parametrize(
    "implementation, message",
    [
        ("cmd:/no/such/program", "cannot be run"),
        ("no_such_file.py", "no such file"),
        ("no_such_module", "No module named"),
        (f"cmd:{sys.executable} -c pass", "exit code 0"),
        (f"cmd:{sys.executable} -c print(1)", "malformed declaration"),
        (f"cmd:{sys.executable} -c 1/0", "ZeroDivisionError"),
    ],
)
def test_what_never_starts(judge: Judge, implementation: str, message: str) -> None:
    code, printed = judge(implementation)
    assert code == 2 and message in printed, printed


# Usage and reports


@pytest.mark.parametrize("options", [("--operations", "nothing*"), ("--claims", "nothing.*")])
def test_nothing_ran(judge: Judge, options: tuple[str, ...]) -> None:
    assert judge(PORT / "textbook.py", *options)[0] == 3


USAGE = ["--no-such-flag", "--profile huge", "--dtype float16", "--seed -1", "--seed x", "--fresh 0", "--request-seconds 0"]
USAGE += ["--request-seconds nan", "--explain dpo.nothing", "--deviations no_such_file.toml", "--json no/such/folder/x.json"]


@pytest.mark.parametrize("options", USAGE)
def test_bad_usage(judge: Judge, options: str) -> None:
    code, printed = judge(PORT / "textbook.py", "--claims", "dpo.refusals", *options.split())
    assert code == 2 and options.split()[-1] in printed, printed


def test_a_dtype_that_is_not_declared(judge: Judge, write: Write) -> None:
    code, printed = judge(write("from textbook import ipo\nDTYPES = ['float64']"), "--dtype", "float32")
    assert code == 2 and "float32" in printed, printed


DEVIATION = '[[deviation]]\nclaim = "{}"\nmessage = "{}"\nreason = "rewards are logged without beta"\n'
LOGGED = next((old, new) for operation, old, new in MISTAKES if operation == "cdpo" and new.endswith("w, l_)"))


def test_a_listed_deviation_is_accepted(judge: Judge, write: Write) -> None:
    path = write(edited(TEXTBOOK, *LOGGED))
    entries = [DEVIATION.format("cdpo.*", output) for output in ("chosen_rewards", "rejected_rewards")]
    listed = write("".join(entries), "listed.toml")
    code, printed = judge(path, "--operations", "cdpo", "--deviations", listed)
    assert code == 0 and "DEVIATES" in row("cdpo", printed), printed
    assert "cdpo.vectors: rewards are logged without beta" in printed and "deviations {cdpo}" in printed


def test_what_a_list_does_not_name_still_fails(judge: Judge, write: Write) -> None:
    path = write(edited(TEXTBOOK, *LOGGED))
    listed = write(DEVIATION.format("cdpo.*", "losses"), "listed.toml")
    assert judge(path, "--claims", "cdpo.vectors", "--deviations", listed)[0] == 1


WHERE_IMPOSSIBLE = """
import numpy as np, textbook
def dpo(**x):
    found = textbook.dpo(**x)
    return {n: y * np.nan for n, y in found.items()} if any(np.isneginf(y).any() for y in x.values()) else found
"""


def test_a_deviation_of_one_regime_excuses_no_other(judge: Judge, write: Write) -> None:
    listed = write(DEVIATION.format("dpo.vectors", "*") + 'regimes = ["minus infinity"]\n', "listed.toml")
    asked = "--claims", "dpo.vectors", "--deviations", listed
    code, printed = judge(write(WHERE_IMPOSSIBLE), *asked)
    assert code == 0 and "deviations {dpo}" in printed, printed
    assert judge(write(WHERE_IMPOSSIBLE.replace("any(np.isneginf", "any(np.isfinite")), *asked)[0] == 1


def test_a_star_in_a_message_stands_for_anything_and_a_bracket_for_itself() -> None:
    listed = deviations.Deviation("preference_step.*", "*: grads[h.0", "")
    found = [
        Failure(message, "preference_step", {}) for message in ("orpo: grads[h.0.x] off", "orpo: loss off", "grads[h.0] off")
    ]
    assert [listed.covers(failure) for failure in found] == [True, False, False]


def test_what_went_wrong_says_in_which_regimes(judge: Judge, write: Write, tmp_path: Path) -> None:
    judge(write(WHERE_IMPOSSIBLE), "--claims", "dpo.vectors", "--json", tmp_path / "report.json")
    [claim] = json.loads((tmp_path / "report.json").read_text())["judgements"][0]["claims"]
    assert {tuple(failure["regimes"]) for failure in claim["failures"]} == {("minus infinity",)}
    assert claim["worst_error_over_bound"] == "inf" and 0 <= claim["of_ordinary_cases"] < 1


def test_a_deviation_that_no_longer_occurs_fails(judge: Judge, write: Write) -> None:
    listed = write(DEVIATION.format("cdpo.*", "chosen_rewards"), "listed.toml")
    code, printed = judge(PORT / "textbook.py", "--operations", "cdpo", "--deviations", listed)
    assert code == 1 and "'chosen_rewards' was listed as a deviation and did not occur" in printed, printed
    assert "deviations {" not in printed


@pytest.mark.parametrize(
    "text, message",
    [
        ("deviation = [", "listed.toml"),
        ("deviation = 3", "got 3"),
        ("deviation = [1]", "deviation 1 must have exactly claim, message and reason"),
        ("[[deviations]]", "must hold [[deviation]] tables and nothing else"),
        (DEVIATION.format("dpo.*", "x") + DEVIATION.format("ipo.*", ""), "deviation 2 must have exactly"),
        (DEVIATION.format("dpo.*", "x") + "more = 1", "deviation 1 must have exactly"),
        (DEVIATION.format("dpo.*", "x") + 'regimes = ["ties"]', "deviation 1: regimes must be some of ordinary, step 0, "),
        (DEVIATION.format("dpo.*", "x") + 'regimes = "ordinary"', "deviation 1: regimes must be some of ordinary, step 0, "),
        (DEVIATION.format("*", "losses"), "claim must begin with an operation of the contract, got *"),
    ],
)
def test_a_malformed_list_of_deviations(judge: Judge, write: Write, text: str, message: str) -> None:
    listed = write(text, "listed.toml")
    code, printed = judge(PORT / "textbook.py", "--operations", "dpo", "--deviations", listed)
    assert code == 2 and listed in printed and message in printed, printed


def test_reports_for_programs_and_as_one_page(judge: Judge, write: Write, tmp_path: Path) -> None:
    paths = [tmp_path / "report.json", tmp_path / "report.html"]
    old, new = next(m[1:] for m in MISTAKES if m[0] == "rso_hinge")
    port = write(edited(TEXTBOOK, old, new))
    code, printed = judge(port, "--operations", "rso_hinge", "--json", paths[0], "--html", paths[1])
    [judgement] = json.loads(paths[0].read_text(), parse_constant=pytest.fail)["judgements"]
    failing = [claim for claim in judgement["claims"] if claim["verdict"] == "FAILS"]
    assert code == 1 and not judgement["conforms"] and judgement["verdict"] in printed
    assert failing and all(claim["failures"] for claim in failing)
    assert any(textwrap.indent(failure["call"], "  ") in printed for claim in failing for failure in claim["failures"])
    page = paths[1].read_text()
    assert "does not conform" in page and page.rstrip().endswith("</html>")
    assert not re.search(r"""<(link|script|img|iframe)|\bsrc=|\burl\(|@import""", page)


def test_lists_and_explanations(verify: Judge) -> None:
    code, printed = verify("--list", "--operations", "dpo")
    claims = [line.split()[0] for line in printed.splitlines()]
    assert code == 0 and "dpo.gradient-weight" in claims and all(claim.startswith("dpo.") for claim in claims)
    for claim in claims:
        code, printed = verify("--explain", claim)
        assert code == 0 and printed.startswith(claim) and "arXiv:2305.18290" in printed and "Measured:" in printed
