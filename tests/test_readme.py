"""Everything the README shows is run: its Python, its commands and their output; its tables are held against the contract.

Output is compared with numbers and hashes masked; a line `...` stands for any lines.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from verify.contract import CONTRACTS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = [
    (info, "\n".join(line.removeprefix(indent) for line in body.splitlines()))
    for indent, info, body in re.findall(r"^( *)```(\w[^\n]*)\n(.*?)^\1```$", TEXT, re.M | re.S)
]
PYTHON = [(info, body) for info, body in BLOCKS if info.split()[0] == "python"]
CONSOLE = [(info, body) for info, body in BLOCKS if info.split()[0] == "console"]
# What takes minutes prints the same lines where less is done.
SHORTER = {
    "make verify": "python -m verify --profile quick --seed 1 --theory",
    "make demo": "python -m gpt_tiny demo --quick",
}


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(SHORTER.get(command, command))
    assert words[0] == "python", f"README commands start with python or are known to be slow, got {command}"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True)


def pattern(shown: str) -> str:
    """A regular expression for output: digits and hashes masked, runs of spaces equal, `...` any lines."""
    lines = []
    for line in shown.splitlines():
        masked = re.sub(r"\s+", " ", re.sub(r"-?\b(inf|[0-9a-f]{12}|[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?)\b", "#", line)).strip()
        lines.append(r"(?:.*\n)*?" if masked == "..." else re.escape(masked) + r"\n")
    return "".join(lines)


def masked(output: str) -> str:
    lines = (re.sub(r"-?\b(inf|[0-9a-f]{12}|[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?)\b", "#", line) for line in output.splitlines())
    return "".join(re.sub(r"\s+", " ", line).strip() + "\n" for line in lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands: files that the README names, and the vectors beside them."""
    here = tmp_path_factory.mktemp("reader")
    (here / "verify").symlink_to(ROOT / "verify")
    for info, body in BLOCKS:
        for name in re.findall(r"file=(\S+)", info):
            (here / name).write_text(body, "utf-8")
    return here


@pytest.mark.parametrize("block", range(len(PYTHON)), ids=lambda k: PYTHON[k][1].strip().splitlines()[0])
def test_python(block: int, folder: Path) -> None:
    (folder / "block.py").write_text(PYTHON[block][1], "utf-8")
    assert run("python block.py", folder).returncode == 0, run("python block.py", folder).stderr


@pytest.mark.parametrize("block", range(len(CONSOLE)), ids=lambda k: CONSOLE[k][1].splitlines()[0])
def test_commands_print_what_is_shown(block: int, folder: Path) -> None:
    info, body = CONSOLE[block]
    command, _, shown = body.partition("\n")
    done = run(command.removeprefix("$ "), folder)
    due = int(next(iter(re.findall(r"exit=(\d)", info)), "0"))
    assert done.returncode == due, done.stdout + done.stderr
    assert re.fullmatch(pattern(shown) + r"(?:\s*\n)*", masked(done.stdout)), done.stdout


def test_every_operation_and_its_source_are_in_the_table() -> None:
    for name, contract in CONTRACTS.items():
        assert re.search(rf"^\| \[`{name}`\]\(\S+\) \|.*\| {re.escape(contract.source)} \|$", TEXT, re.M), name


def test_every_argument_is_in_the_naming_table() -> None:
    table = TEXT[TEXT.index("## Names") : TEXT.index("## The house")]
    named = set(re.findall(r"`(\w+)`", table))
    assert {argument for contract in CONTRACTS.values() for argument in contract.inputs} <= named


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_dpo_is_the_file_it_says_it_is() -> None:
    """The lines that the README shows of DPO are lines of dpo.py."""
    source = (ROOT / "minipref" / "offline" / "dpo.py").read_text("utf-8")
    shown = PYTHON[0][1]
    for line in shown[shown.index("    chosen_rewards") : shown.index("    return")].splitlines():
        assert line in source
