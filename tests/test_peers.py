"""The adapters of published libraries: what is written about them, and, where their environments stand, what they answer."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minipref
from verify import vectors
from verify.contract import ALL, CONTRACTS
from verify.deviations import Deviation, read
from verify.peers import absent, table
from verify.protocol import encode_inputs, encode_line
from verify.runner import PEERS as PLACES

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "verify" / "peers"
DOCUMENT = (HERE / "PEERS.md").read_text("utf-8")
FINDS = sorted((HERE / "findings").glob("*.py"))
NUMBERS_HOLD = ("holds", "numbers hold")
PEERS = [name for name, (module, _) in PLACES.items() if module.startswith("verify.peers.")]
PACKAGES = {"liger": "liger-kernel", "swift": "ms-swift"}  # where they are called otherwise


def deviations(peer: str, operation: str) -> list[Deviation]:
    return [d for d in read(HERE / f"{peer}.toml") if d.claim.startswith(f"{operation}.")]


def python(peer: str) -> Path:
    """Its interpreter; without one the test is skipped."""
    environment = PLACES[peer][1]
    if not (ROOT / environment / "bin" / "python").exists():
        pytest.skip(f"no {environment}: make {environment}/ready")
    return ROOT / environment / "bin" / "python"


def pinned(peer: str) -> str:
    """What is installed of it, as NAME==VERSION, alone or with what it asks for."""
    requirements = (HERE / f"requirements-{PLACES[peer][1].removeprefix('.venv-')}.txt").read_text("utf-8")
    (found,) = re.findall(rf"^(?:# alone: )?({PACKAGES.get(peer, peer)}==\S+)$", requirements, re.M)
    return found


# What is written


@pytest.mark.parametrize("peer", PEERS)
def test_the_table_says_what_the_deviations_say(peer: str) -> None:
    title = "## " + pinned(peer).replace("==", " ")
    (section,) = [part for part in re.split(r"^(?=## )", DOCUMENT, flags=re.M) if part.startswith(f"{title}\n")]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    sources = table.sources(peer)
    assert [row[0] for row in rows] == [name for name in ALL if name in sources]
    for operation, source, verdict, worst, ordinary, why in rows:
        listed = deviations(peer, operation)
        assert (source, verdict) == (sources[operation], table.verdict(listed)) and float(worst) >= float(ordinary or 0) >= 0
        assert why.replace("\\|", "|") == "<br>".join(dict.fromkeys(d.reason for d in listed))


@pytest.mark.parametrize("peer", PEERS)
def test_every_reason_has_its_kind_and_its_place(peer: str) -> None:
    for entry in read(HERE / f"{peer}.toml"):
        assert re.match(rf"({'|'.join(table.KINDS)}): \S", entry.reason), entry
        shown = re.findall(r"findings/(\w+)\.py", entry.reason)
        assert {*shown} <= {path.stem for path in FINDS} and (shown or not entry.reason.startswith("bug:")), entry


@pytest.mark.parametrize("peer", PEERS)
def test_sources_name_the_operations_that_an_adapter_gives(peer: str) -> None:
    names: set[str] = set()
    for node in ast.parse((HERE / f"{peer}.py").read_text("utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        names |= {name for target in targets if (name := getattr(target, "name", getattr(target, "id", None)))}
        names |= {e.id for t in targets if isinstance(t, ast.Tuple) for e in t.elts if isinstance(e, ast.Name)}
    assert names & ALL.keys() == table.sources(peer).keys()


def test_the_readme_shows_the_table_of_all() -> None:
    rows = [line for line in DOCUMENT.split("\n## ")[0].splitlines() if line.startswith("|")]
    readme, dates = (ROOT / "README.md").read_text("utf-8"), re.findall(r"^Written by `make peers` on (\S+),", DOCUMENT, re.M)
    assert len(rows) > len(PEERS) and "\n".join(rows) in readme and f"out on {dates[0]}, " in readme


@pytest.mark.parametrize("script", FINDS, ids=lambda path: path.stem)
def test_a_find_names_its_library_and_stands_in_the_table(script: Path) -> None:
    peer = script.stem.partition("_")[0]
    title = (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "").partition("\n")[0]
    assert title.startswith(f"{pinned(peer)}: ") and title.endswith(".")
    assert f"| [`{script.stem}`](findings/{script.name}) | {title} |" in DOCUMENT


def test_a_run_that_does_not_conform_is_not_tabled() -> None:
    report: dict[str, Any] = {"judgements": [{"conforms": False, "verdict": "x 1 does not conform"}]}
    with pytest.raises(ValueError, match="must conform"):
        table.rows("torchtune", report)


def test_a_run_of_fewer_operations_is_not_tabled() -> None:
    claim = {"operation": "dpo", "verdict": "HOLDS", "worst_error_over_bound": 0.5}
    with pytest.raises(ValueError, match="SOURCES of torchtune.py"):
        table.rows("torchtune", {"judgements": [{"conforms": True, "claims": [claim]}]})


def test_a_stand_in_is_what_it_says_and_nothing_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    absent.stand_in("nowhere", "halfway.here")
    __import__("nowhere.at.all")
    __import__("halfway.here.too")
    with pytest.raises(ModuleNotFoundError, match="halfway.there"):
        __import__("halfway.there")
    with pytest.raises(ModuleNotFoundError, match="nowhere_else"):
        __import__("nowhere_else")


def test_the_tape_plays_a_loss_as_its_hand_written_gradient_says() -> None:
    torch = pytest.importorskip("torch")
    from verify.peers import tape

    def dpo(*logps: Any) -> tuple[Any, ...]:
        chosen, rejected = 0.3 * (logps[0] - logps[2]), 0.3 * (logps[1] - logps[3])
        return -torch.nn.functional.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach()

    names = [f"{model}_{side}_logps" for model in ("policy", "reference") for side in ("chosen", "rejected")]
    pairs = dict(zip(names, -np.random.default_rng(0).exponential(5, (4, 3)), strict=True))
    found, due = tape.rewarded(dpo, pairs), minipref.dpo(**pairs, beta=0.3)._asdict()
    assert found.keys() == due.keys() and all(np.allclose(found[name], due[name], rtol=1e-12) for name in due)


def test_the_tape_plays_tokens_one_by_one() -> None:
    torch = pytest.importorskip("torch")
    from verify.peers import tape

    def token(logp: Any, old: Any, advantage: Any, counts: Any) -> tuple[Any, Any]:
        gains = (logp - old).exp() * advantage, (logp - old).exp().clamp(0.8, 1.2) * advantage
        return torch.where(counts > 0, -torch.min(*gains), 0), ((gains[1] < gains[0]) & (counts > 0)).float()

    random = np.random.default_rng(0)
    logps, old, advantages, mask = *random.normal(size=(3, 2, 4)), random.random((2, 4)) < 0.7
    found, due = (
        tape.surrogate(token, logps, old, advantages, mask),
        minipref.ppo_policy(logps, old, advantages, mask)._asdict(),
    )
    assert found.keys() == due.keys() and all(np.allclose(found[name], due[name], rtol=1e-12) for name in due)
    assert found["clipped"].any() and not mask.all()


# What they answer


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer != "trl"])
def test_answers_what_others_found(peer: str) -> None:
    """The anchors, others' numbers, of every operation whose numbers hold."""
    asked = [
        name for name in CONTRACTS if name in table.sources(peer) and table.verdict(deviations(peer, name)) in NUMBERS_HOLD
    ]
    anchors = [anchor for name in asked for anchor in vectors.anchors(name)]
    dtype = "float32" if peer in ("liger", "areal") else "float64"
    run = {"cmd": "run", "dtype": dtype}
    runs = [run | {"id": n, "operation": a.operation} | encode_inputs(a.inputs) for n, a in enumerate(anchors)]
    child = subprocess.run(
        [python(peer), "-m", "verify.child", f"verify.peers.{peer}"],
        input=b"".join(encode_line(line) for line in [{"cmd": "start", "protocol": 1}, *runs, {"cmd": "stop"}]),
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr.decode()
    declared, *replies = [json.loads(line) for line in child.stdout.splitlines()]
    assert set(declared["operations"]) == table.sources(peer).keys()
    assert f"{declared['name']}=={declared['version']}" == pinned(peer)
    assert len(replies) == len(anchors) > 0
    for answer, anchor in zip(replies, anchors, strict=True):
        assert "outputs" in answer, (anchor.operation, answer)
        for name in anchor.outputs.keys() & answer["outputs"].keys():
            ours, theirs = np.array(answer["outputs"][name], float), anchor.outputs[name]
            assert np.all(abs(ours - theirs) <= 1e-5 * np.maximum(1, abs(theirs))), (anchor.operation, name, ours)


@pytest.mark.parametrize("script", FINDS, ids=lambda path: path.stem)
def test_a_find_is_still_there(script: Path) -> None:
    """Run behind the adapter, which sees to it that the library can be imported."""
    peer = script.stem.partition("_")[0]
    code = f"import runpy, verify.peers.{peer}; runpy.run_path({str(script)!r}, run_name='__main__')"
    done = subprocess.run([python(peer), "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert "expected" in done.stdout and "got" in done.stdout
