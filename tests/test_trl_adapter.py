"""The adapter of TRL, where its environment stands, asked what others' numbers answer."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from verify import vectors
from verify.contract import CONTRACTS
from verify.protocol import encode_inputs, encode_line

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-trl" / "bin" / "python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-trl: TRL is not installed")

# What TRL has no code for; its cdpo ignores label_smoothing.
LEFT_OUT = {"plackett_luce", "plackett_luce_dpo", "optimal_policy", "kl_regularized_objective", "ipo", "sppo", "diffusion_dpo"}
LEFT_OUT |= {"kl_estimates", "gae", "ppo_value", "rejection_acceptance"}
ANCHORS = [anchor for name in sorted(CONTRACTS.keys() - LEFT_OUT - {"cdpo"}) for anchor in vectors.anchors(name)]


@pytest.fixture(scope="module")
def replies() -> list[dict]:
    """The declaration, then an answer to each anchor: one process, as its start takes seconds."""
    run = {"cmd": "run", "dtype": "float64"}
    runs = [run | {"id": n, "operation": x.operation} | encode_inputs(x.inputs) for n, x in enumerate(ANCHORS)]
    script = [{"cmd": "start", "protocol": 1}, *runs, {"cmd": "stop"}]
    child = subprocess.run(
        [PYTHON, "-m", "verify.child", "verify.peers.trl"],
        input=b"".join(encode_line(line) for line in script),
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr.decode()
    return [json.loads(line) for line in child.stdout.splitlines()]


@pytest.mark.parametrize("index", range(len(ANCHORS)), ids=lambda n: f"{ANCHORS[n].operation}-{n}")
def test_answers_what_others_found(replies: list[dict], index: int) -> None:
    answer, anchor = replies[1 + index], ANCHORS[index]
    assert "outputs" in answer, answer
    for name, theirs in anchor.outputs.items():
        # Float32 to spare: TRL computes ORPO's odds, its fused head and all advantages in it.
        ours = np.array(answer["outputs"][name], float)
        assert ours.shape == theirs.shape and np.all(abs(ours - theirs) <= 1e-6 * np.maximum(1, abs(theirs))), (name, ours)


def test_declares_every_operation_that_trl_computes(replies: list[dict]) -> None:
    assert set(replies[0]["operations"]) == CONTRACTS.keys() - LEFT_OUT
    assert replies[0]["version"] == "1.16.0"
