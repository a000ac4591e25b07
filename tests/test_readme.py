"""Everything the README and PORTING.md show is run: Python, commands and their output; tables are held against the contract.

Output is compared with numbers and hashes masked; a line `...` stands for any lines.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from verify.contract import CONTRACTS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = {"README.md": TEXT, "verify/PORTING.md": (ROOT / "verify" / "PORTING.md").read_text("utf-8")}


class Block(NamedTuple):
    """What stands between two fences."""

    document: str
    info: str
    body: str

    @property
    def name(self) -> str:
        return self.body.strip().splitlines()[0]


BLOCKS = [
    Block(document, info, "\n".join(line.removeprefix(indent) for line in body.splitlines()))
    for document, text in DOCUMENTS.items()
    for indent, info, body in re.findall(r"^( *)```(\w[^\n]*)\n(.*?)^\1```$", text, re.M | re.S)
]
PYTHON, CONSOLE = ([block for block in BLOCKS if block.info.split()[0] == kind] for kind in ("python", "console"))
# What takes minutes prints the same lines where less is done.
SHORTER = {
    "make verify": "python -m verify --profile quick --seed 1 --theory",
    "make demo": "python -m gpt_tiny demo --quick",
}


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(SHORTER.get(command, command))
    assert words[0] == "python", f"README commands start with python or are known to be slow, got {command}"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
    environment |= {"PYTEST_PLUGINS": "verify.plugin"}  # as if installed
    return subprocess.run([sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True)


NUMBER = re.compile(r"-?\b(inf|[0-9a-f]{12}|[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?)(?=s?\b)")  # a hash and seconds too


def pattern(shown: str) -> str:
    """A regular expression for output: digits and hashes masked, runs of spaces equal, `...` any lines."""
    lines = []
    for line in shown.splitlines():
        masked = re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip()
        lines.append(r"(?:.*\n)*?" if masked == "..." else re.escape(masked) + r"\n")
    return "".join(lines)


def masked(output: str) -> str:
    lines = (NUMBER.sub("#", line) for line in output.splitlines())
    return "".join(re.sub(r"\s+", " ", line).strip() + "\n" for line in lines)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where a reader of each document stands: files that it names, and the vectors beside them."""
    found = {document: tmp_path_factory.mktemp("reader") for document in DOCUMENTS}
    for here in found.values():
        (here / "verify").symlink_to(ROOT / "verify")
    for document, info, body in BLOCKS:
        for name in re.findall(r"file=(\S+)", info):
            (found[document] / name).write_text(body, "utf-8")
    return found


def needs(block: Block) -> None:
    if "perl" in block.body and not shutil.which("perl", path="/usr/bin:/bin"):
        pytest.skip("needs perl")


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python(block: Block, folders: dict[str, Path]) -> None:
    needs(block)
    folder = folders[block.document]
    (folder / "block.py").write_text(block.body, "utf-8")
    done = run("python block.py", folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: block.name)
def test_commands_print_what_is_shown(block: Block, folders: dict[str, Path]) -> None:
    needs(block)
    command, _, shown = block.body.partition("\n")
    done = run(command.removeprefix("$ "), folders[block.document])
    due = int(next(iter(re.findall(r"exit=(\d)", block.info)), "0"))
    assert done.returncode == due, done.stdout + done.stderr
    assert re.fullmatch(pattern(shown) + r"(?:\s*\n)*", masked(done.stdout)), done.stdout


def test_every_operation_and_its_source_are_in_the_table() -> None:
    for name, contract in CONTRACTS.items():
        source = re.escape(contract.source.replace("|", "\\|"))
        assert re.search(rf"^\| \[`{name}`\]\(\S+\) \|.*\| {source} \|$", TEXT, re.M), name


def test_every_argument_is_in_the_naming_table() -> None:
    table = TEXT[TEXT.index("## Names") : TEXT.index("## The house")]
    named = set(re.findall(r"`(\w+)`", table))
    assert {argument for contract in CONTRACTS.values() for argument in contract.inputs} <= named


def test_links_lead_somewhere() -> None:
    for document, text in DOCUMENTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
            assert (ROOT / document).parent.joinpath(target).exists(), target


def test_dpo_is_the_file_it_says_it_is() -> None:
    """The lines that the README shows of DPO are lines of dpo.py."""
    source = (ROOT / "minipref" / "offline" / "dpo.py").read_text("utf-8")
    shown = PYTHON[0].body
    for line in shown[shown.index("    chosen_rewards") : shown.index("    return")].splitlines():
        assert line in source
