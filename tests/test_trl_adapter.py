"""The adapter of TRL, where its environment stands, asked what is known by hand."""

import json
import math
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-trl" / "bin" / "python"
LOG_2 = math.log(2)
EVEN = {name: [-3.0] for name in ("policy_chosen_logps", "policy_rejected_logps")}
FOUR = EVEN | {name: [-3.0] for name in ("reference_chosen_logps", "reference_rejected_logps")}
LENGTHS = {"chosen_lengths": [2], "rejected_lengths": [3]}
PAIR = ("losses", "grad_policy_chosen_logps", "grad_policy_rejected_logps")
MASK = [[True, True], [True, False]]
UNIFORM = {"tokens": [[0, 1, 2]], "response_mask": [[False, True, False]]}

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-trl: TRL is not installed")

# Inputs at which each answer is a short number: log-ratios of zero, even odds, uniform logits.
KNOWN = [
    ("dpo", FOUR | {"beta": 0.5}, dict(zip(PAIR, ([LOG_2], [-0.25], [0.25]), strict=True))),
    ("robust_dpo", FOUR | {"beta": 0.5, "label_smoothing": 0.25}, {"losses": [LOG_2]}),
    ("rso_hinge", FOUR | {"beta": 0.5}, dict(zip(PAIR, ([1.0], [-0.5], [0.5]), strict=True))),
    (
        "ipo_length_normalized",
        FOUR | LENGTHS | {"beta": 0.25},
        dict(zip(PAIR, ([4.0], [-2.0], [4 / 3]), strict=True)),
    ),
    (
        "kto",
        {"policy_logps": [-1.0, -1.0], "reference_logps": [-2.0, -2.0], "desirable": [True, False]}
        | {"reference_point": 1.0, "beta": 0.4, "desirable_weight": 2.0, "undesirable_weight": 1.0},
        {"losses": [1.0, 0.5], "grad_policy_logps": [-0.2, 0.1], "rewards": [0.4, 0.4]},
    ),
    (
        "kto_reference_point",
        {"policy_mismatched_logps": [-1.0, -4.0], "reference_mismatched_logps": [-5.0, -2.0]},
        {"reference_point": 1.0},
    ),
    (
        "orpo",
        {"policy_chosen_logps": [-2 * LOG_2], "policy_rejected_logps": [-3 * LOG_2]} | LENGTHS | {"odds_weight": 0.5},
        dict(zip(PAIR, ([1.5 * LOG_2], [-0.75], [1 / 6]), strict=True)) | {"log_odds_ratio": [0.0]},
    ),
    (
        "simpo",
        {"policy_chosen_logps": [-2.0], "policy_rejected_logps": [-6.0]} | LENGTHS | {"beta": 2.0, "gamma": 2.0},
        dict(zip(PAIR, ([LOG_2], [-0.5], [1 / 3]), strict=True)),
    ),
    (
        "bradley_terry",
        {"chosen_rewards": [3.0], "rejected_rewards": [1.0], "margin": 2.0},
        {"losses": [LOG_2]},
    ),
    (
        "sequence_logps",
        {"logits": [[[0.0] * 4] * 3]} | UNIFORM,
        {
            "logps": [-2 * LOG_2],
            "lengths": [1],
            "grad_logits": [[[-0.25, 0.75, -0.25, -0.25], [0] * 4, [0] * 4]],
        },
    ),
    (
        "linear_sequence_logps",
        {"hidden": [[[1.0], [5.0], [7.0]]], "weight": [[0.0]] * 4} | UNIFORM,
        {"logps": [-2 * LOG_2], "lengths": [1], "grad_weight": [[-0.25], [0.75], [-0.25], [-0.25]]},
    ),
    (
        "ppo_policy",
        {"logps": [[LOG_2, LOG_2]], "old_logps": [[0.0, 0.0]], "advantages": [[1.0, -1.0]]}
        | {"mask": [[True, True]], "clip_low": 0.2, "clip_high": 0.5},
        {"token_losses": [[-1.5, 2.0]], "grad_logps": [[0.0, 2.0]], "clipped": [[True, False]]},
    ),
    (
        "grpo",
        {
            "logps": [[0.0, 9.0]],
            "old_logps": [[0.0, 0.0]],
            "reference_logps": [[LOG_2, 0.0]],
            "advantages": [3.0],
        }
        | {"mask": [[True, False]], "clip_low": 0.2, "clip_high": 0.2, "beta": 0.5},
        {"token_losses": [[-2.5 - LOG_2 / 2, 0.0]], "grad_logps": [[-3.5, 0.0]]},
    ),
    (
        "sequence_mean",
        {"token_losses": [[4.0, 8.0], [2.0, 9.0]], "mask": MASK},
        {"loss": 4.0, "weights": [[0.25, 0.25], [0.5, 0.0]]},
    ),
    (
        "token_mean",
        {"token_losses": [[4.0, 3.0], [2.0, 9.0]], "mask": MASK},
        {"loss": 3.0, "weights": [[1 / 3, 1 / 3], [1 / 3, 0.0]]},
    ),
    (
        "constant_mean",
        {"token_losses": [[4.0, 3.0], [1.0, 9.0]], "mask": MASK, "max_length": 4},
        {"loss": 1.0, "weights": [[0.125, 0.125], [0.125, 0.0]]},
    ),
    ("advantages_grpo", {"rewards": [[1.0, 2.0, 3.0]]}, {"advantages": [[-1 / 1.0001, 0.0, 1 / 1.0001]]}),
    ("advantages_dr_grpo", {"rewards": [[1.0, 2.0, 6.0]]}, {"advantages": [[-2.0, -1.0, 3.0]]}),
    ("advantages_rloo", {"rewards": [[1.0, 2.0, 6.0]]}, {"advantages": [[-3.0, -1.5, 4.5]]}),
    (
        "overlong_penalty",
        {"lengths": [80, 90, 101], "max_length": 100, "cache_length": 20},
        {"penalties": [0.0, -0.5, -1.0]},
    ),
]


@pytest.fixture(scope="module")
def replies() -> list[dict]:
    """The declaration, then an answer to each question: one process, as its start takes seconds."""
    runs = [
        {"cmd": "run", "id": number, "operation": operation, "dtype": "float64", "inputs": inputs}
        for number, (operation, inputs, _) in enumerate(KNOWN)
    ]
    script = [{"cmd": "start", "protocol": 1}, *runs, {"cmd": "stop"}]
    child = subprocess.run(
        [PYTHON, "-m", "verify.child", "verify.peers.trl"],
        input="".join(json.dumps(line) + "\n" for line in script),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    return [json.loads(line) for line in child.stdout.splitlines()]


def _numbers(value: object) -> list:
    return [number for item in value for number in _numbers(item)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("index", range(len(KNOWN)), ids=[operation for operation, _, _ in KNOWN])
def test_answers_what_is_known_by_hand(replies: list[dict], index: int) -> None:
    answer = replies[1 + index]
    assert "outputs" in answer, answer
    for name, expected in KNOWN[index][2].items():
        found = _numbers(answer["outputs"][name])
        assert len(found) == len(_numbers(expected)), name
        # Float32 to spare: TRL computes ORPO's odds, its fused head and all advantages in it.
        for number, right in zip(found, _numbers(expected), strict=True):
            assert abs(number - right) <= 1e-6 * max(1.0, abs(right)), (name, found)


def test_declares_every_operation_of_its_table(replies: list[dict]) -> None:
    asked = {operation for operation, _, _ in KNOWN}
    assert set(replies[0]["operations"]) == asked | {"cdpo"}
    assert replies[0]["version"] == "1.16.0"
