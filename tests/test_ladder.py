"""The ladder: the first thing that is wrong, the request that shows it, and who else gives such numbers."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verify import ladder, vectors
from verify.__main__ import main
from verify.bugs import museum
from verify.bugs.specimen import specimen
from verify.contract import ALL, MODELS, Contract
from verify.diagnosis import diagnose
from verify.judge import compare
from verify.subject import Failure, NoAnswer

PORT = Path(__file__).with_name("port")

Climb = Callable[..., tuple[int, str]]
Program = Callable[[str, str, str], str]


@pytest.fixture
def climb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Climb:
    """climb(text, *options): the exit code and all that is printed, of a module of this text beside the textbook."""

    def run(text: str, *options: object) -> tuple[int, str]:
        shutil.copy(PORT / "textbook.py", tmp_path)
        (tmp_path / "port.py").write_text(text)
        implementation = [] if "--impl" in options else ["--impl", str(tmp_path / "port.py")]
        try:
            code = main(["ladder", *implementation, *map(str, options)])
        except SystemExit as usage:
            code = int(usage.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def changed(operation: str, old: str, new: str) -> str:
    """A module with one operation of the textbook port, in which one text is another."""
    text = (PORT / "textbook.py").read_text()
    assert text.count(old) == 1
    return f"textbook = {{}}\nexec({text.replace(old, new)!r}, textbook)\n{operation} = textbook[{operation!r}]\n"


def test_an_empty_file_is_told_what_to_begin_with(climb: Climb) -> None:
    code, printed = climb("")
    assert code == 3 and printed.count("  nothing yet") == 4
    assert "\nnext: dpo\n" in printed and "  asked     beta: scalar in (0, inf)\n" in printed
    assert "  asked     policy_chosen_logps: float [N], or -inf\n  " in printed and "  answered  losses: float [N]\n" in printed


def test_what_is_there_holds_and_the_next_rung_is_named(climb: Climb) -> None:
    code, printed = climb("from textbook import dpo")
    assert code == 0 and re.search(r"  dpo +\d+ cases, worst error 0\.\d+ of its bound: HOLDS\n  not there: ", printed), printed
    assert "\nnext: sequence_logps\n" in printed and "conforms to minipref 1.0, level L1-VG" in printed
    assert "  refused   unless so: response_mask must be true somewhere in every row\n" in printed


def test_of_a_rung_alone_the_first_that_is_not_there_is_next(climb: Climb) -> None:
    code, printed = climb("from textbook import dpo, ipo", "--rung", 1)
    assert code == 0 and "rung 2" not in printed and "\nnext: bradley_terry\n" in printed


def test_where_nothing_is_left_the_judge_is(climb: Climb) -> None:
    code, printed = climb("", "--impl", "numpy", "--rung", 4)
    assert code == 0 and "nothing is left" in printed and "next:" not in printed, printed


def test_it_stops_at_the_first_that_fails(climb: Climb, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    code, printed = climb(f"""
import textbook
def heard(name):
    def operation(**inputs):
        print(name, file=open({str(asked)!r}, "a"))
        return {{name: -x for name, x in getattr(textbook, name)(**inputs).items()}}
    return operation
ipo, kto, gae = map(heard, ("ipo", "kto", "gae"))
""")
    assert code == 1 and re.search(r"^  ipo .*: FAILS \(vectors, fresh, search\)$", printed, re.M) and "rung 2" not in printed
    assert set(asked.read_text().split()) == {"ipo"}


SAID = [  # a mistake of the textbook port, and what is said of it
    ("dpo", "logits = beta * (pi_logratios - ref_logratios)", "logits = beta * pi_logratios", "reference-free: reference_free"),
    (
        "orpo",
        "np.where(a > -0.693, np.log(-np.expm1(a)), np.log1p(-np.exp(a)))",
        "np.log(1 - np.exp(a))",
        "catch:\n  log(1 - e^a) loses all digits for a near 0",
    ),
    ("advantages_grpo", "ddof=1", "ddof=0", "population-deviation: numpy.std divides by G"),
    ("simpo", "size_l) - gamma", "size_l) + gamma", "    + h = (beta * (policy_chosen_logps / chosen_tokens"),
    (
        "bradley_terry",
        "losses=np.logaddexp(0, -lead)",
        "losses=-np.log(sigmoid(lead))",
        "are there to catch:\n  log(1 + e^-h) as",
    ),
    ("advantages_dr_grpo", "require(rewards.shape[1] >= 2", "require(rewards.shape[1] >= 1", "by\n  single-sample-group: "),
]


@pytest.mark.parametrize("operation, old, new, said", SAID, ids=[mistake[0] for mistake in SAID])
def test_who_else_gives_these_numbers(climb: Climb, operation: str, old: str, new: str, said: str) -> None:
    code, printed = climb(changed(operation, old, new))
    assert code == 1 and said in printed, printed


GELU = """
import math
import gpt_tiny.model_by_hand as model
import numpy as np
from verify.own.with_numpy import gpt_logits
right = model.gelu
model.gelu = lambda x: (x * (0.5 + 0.5 * np.vectorize(math.erf)(x / 2**0.5)), right(x)[1])
"""


def test_of_a_model_too(climb: Climb) -> None:
    code, printed = climb(GELU)
    assert code == 1 and "\n  exact-gelu: Megatron-Bridge" in printed and "the weights that requests name are in " in printed, (
        printed
    )


SHIFTED = """
import gpt_tiny.steps_by_hand as steps
import numpy as np
from verify.own.with_numpy import gpt_logits, preference_step
right = steps.sequence_logps.formula
def late(logits, tokens, mask):
    shifted = np.pad(mask[:, :-1], ((0, 0), (1, 0)))
    return right(logits, tokens, shifted)._replace(lengths=mask.sum(axis=1))
steps.sequence_logps = late
"""


def test_of_a_step_the_mistakes_in_scoring_sequences_too(climb: Climb) -> None:
    code, printed = climb(SHIFTED)
    assert code == 1 and "FAILS preference_step" in printed and "\n  mask-not-shifted: mlx-lm-lora" in printed, printed


def test_what_nobody_gives_is_said_to_be_new(climb: Climb) -> None:
    code, printed = climb("import textbook\ndef ipo(**x): return {n: 0.7 * y - 3 for n, y in textbook.ipo(**x).items()}")
    assert code == 1 and "No bug of the museum gives these numbers" in printed
    assert "  in the museum, of ipo: ipo-target-from-wrong-loss-type, " in printed


SINGLE = """
import numpy as np, textbook
def dpo(beta, **logps):
    given = textbook.dpo(beta=np.float32(beta), **{name: x.astype("float32") for name, x in logps.items()})
    return {name: np.asarray(x, float) for name, x in given.items()}
"""


def test_single_precision_on_the_way_is_told_apart_from_mistakes(climb: Climb) -> None:
    code, printed = climb(SINGLE)
    assert code == 1 and "losses off: " in printed and "right in single precision" in printed
    assert "are there to catch" not in printed and "No bug" not in printed


def test_what_is_right_beside_it_and_what_else_is_off_are_named(climb: Climb) -> None:
    code, printed = climb(
        "import textbook\ndef dpo(**x): return {n: y if 'rewards' in n else 2 * y for n, y in textbook.dpo(**x).items()}"
    )
    assert "\n  right: chosen_rewards, rejected_rewards\n" in printed
    assert [line.split(":")[0] for line in printed.splitlines() if " off: " in line] == [
        "  losses off",
        "  grad_policy_chosen_logps off",
        "  grad_policy_rejected_logps off",
    ]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """program(file, old, new): the command that runs the textbook port as a program, with one text of it changed."""

    def command(file: str, old: str, new: str) -> str:
        folder = tmp_path / "program"
        shutil.copytree(PORT, folder)
        text = (folder / file).read_text()
        assert text.count(old) == 1
        (folder / file).write_text(text.replace(old, new))
        return f"cmd:{sys.executable} {folder / 'program.py'}"

    return command


def test_a_request_can_be_pasted_into_a_shell(climb: Climb, program: Program) -> None:
    mistake = "logits = beta * (pi_logratios - ref_logratios)", "logits = beta * pi_logratios"
    _, printed = climb("", "--rung", 1, "--impl", program("textbook.py", *mistake))
    line = next(line for line in printed.splitlines() if line.startswith("  printf "))
    _, answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.splitlines()
    shown = re.search(r"losses\[0\] is (\S+), exact (\S+)", printed)
    assert shown and json.loads(answer)["outputs"]["losses"][0] == float(shown[1]) != float(shown[2])


def test_a_crash_is_told_by_what_came_before_it(climb: Climb, program: Program) -> None:
    crash = "    outputs = getattr", "    assert inputs['beta'] < 1\n        outputs = getattr"
    code, printed = climb("", "--rung", 1, "--impl", program("program.py", *crash))
    assert code == 1 and "early-end: ended with exit code 1" in printed and "AssertionError" in printed
    assert "not-run:" not in printed


def test_a_crash_on_bad_input_is_told_as_one(climb: Climb) -> None:
    code, printed = climb("import textbook\ndef ipo(**x): return textbook.ipo(**x) if x['beta'] == x['beta'] else exit(5)")
    assert code == 1 and "FAILS ipo.refusals" in printed and "early-end: ended with exit code 5" in printed, printed


def test_a_listed_deviation_does_not_stop_it(climb: Climb, tmp_path: Path) -> None:
    listed = tmp_path / "listed.toml"
    listed.write_text('[[deviation]]\nclaim = "dpo.refusals"\nmessage = "accepted"\nreason = "its callers check"\n')
    unchecked = changed("dpo", "    sizes = {}\n", "    return\n")
    code, printed = climb(unchecked)
    assert code == 1 and "FAILS (refusals)" in printed and "  accepted " in printed, printed
    code, printed = climb(unchecked, "--deviations", listed)
    assert code == 0 and "DEVIATES (refusals)" in printed and "  dpo.refusals: its callers check" in printed, printed


@pytest.mark.parametrize(
    "options", ["--rung 5", "--seed -1", "--dtype float16", "--impl no_such_file.py", "--deviations no_such_file.toml"]
)
def test_bad_usage(climb: Climb, options: str) -> None:
    code, printed = climb("from textbook import dpo", *options.split())
    assert code == 2 and options.split()[-1] in printed, printed


def test_operations_come_after_those_that_they_are_compared_with() -> None:
    order = list(dict.fromkeys(claim.contract.name for claim in ladder.claims()))
    levels = [ALL[name].level for name in order]
    assert order[0] == "dpo" and sorted(order) == sorted(ALL) and levels == sorted(levels)
    for claim in ladder.claims():
        assert all(order.index(name) < order.index(claim.contract.name) for name in claim.needs), claim.id


class Copy:
    """Answers vectors as a bug of the museum does, without a process of its own."""

    dtype, directory = "float64", ""

    def __init__(self, bug: museum.Bug, operation: str):
        cases = [vector.case for vector in vectors.load(operation)]
        with specimen(bug.file, bug.apply()) as operations, np.errstate(all="ignore"):
            self.answers = {repr(case.inputs): self.called(operations[operation], case.inputs) for case in cases}

    @staticmethod
    def called(operation: Any, inputs: dict[str, Any]) -> dict[str, np.ndarray] | None:
        try:
            given = {name: np.asarray(value) for name, value in operation(**inputs)._asdict().items()}
        except Exception:
            return None
        return given if {n: x.shape for n, x in given.items()} == ALL[operation.name].shapes(inputs) else None

    def ask(self, contract: Contract, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        answer = self.answers[repr(inputs)]
        if answer is None:
            raise NoAnswer(Failure("refused a legal case", contract.name, inputs))
        return answer


def every_tenth(bugs: list[museum.Bug]) -> list[Any]:
    marks = [() if number % 10 == 0 else pytest.mark.sweep for number in range(len(bugs))]
    return [pytest.param(bug, marks=mark, id=bug.id) for bug, mark in zip(bugs, marks, strict=True)]


@pytest.mark.parametrize("bug", every_tenth(museum.BUGS))
def test_every_bug_of_the_museum_is_known_by_its_numbers(bug: museum.Bug) -> None:
    for operation in {*bug.operations} - {*MODELS}:
        copy: Any = Copy(bug, operation)
        given = [(v, copy.answers[repr(v.case.inputs)]) for v in vectors.load(operation)]
        wrong = [v.case.inputs for v, answer in given if answer and compare(v.expected, answer, "float64")[1]]
        if wrong:
            found = diagnose(copy, Failure("losses off", operation, wrong[0]), legal=True)
            assert bug.id in [change.told.split(":")[0] for change in found.changes]
            assert found.explained == found.off == len(wrong)
