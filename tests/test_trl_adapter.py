"""The adapter of TRL, where its environment stands, asked what others' numbers answer."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from verify import vectors
from verify.contract import CONTRACTS
from verify.oracle.network import response_logp
from verify.oracle.steps import decimals, nodes, parts
from verify.protocol import encode_inputs, encode_line
from verify.vectors import Vector
from verify.weights import Weights

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-trl" / "bin" / "python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-trl: TRL is not installed")

# What TRL has no code for; its cdpo ignores label_smoothing.
LEFT_OUT = {"plackett_luce", "plackett_luce_dpo", "optimal_policy", "kl_regularized_objective", "ipo", "sppo", "diffusion_dpo"}
LEFT_OUT |= {"kl_estimates", "gae", "ppo_value", "rejection_acceptance"}
ANCHORS = [anchor for name in sorted(CONTRACTS.keys() - LEFT_OUT - {"cdpo"}) for anchor in vectors.anchors(name)]
STEPS = vectors.load("preference_step")
NOT_OFFERED = {"cdpo": "ignores label_smoothing", "ipo": "divides by lengths"}


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The declaration, then an answer to each anchor and to each step: one process, as its start takes seconds."""
    folder = str(tmp_path_factory.mktemp("weights"))
    asked = [(anchor.operation, anchor.inputs) for anchor in ANCHORS]
    asked += [("preference_step", placed(step, folder)) for step in STEPS]
    run = {"cmd": "run", "dtype": "float64"}
    runs = [run | {"id": n, "operation": name} | encode_inputs(inputs) for n, (name, inputs) in enumerate(asked)]
    script = [{"cmd": "start", "protocol": 1, "directory": folder}, *runs, {"cmd": "stop"}]
    child = subprocess.run(
        [PYTHON, "-m", "verify.child", "verify.peers.trl"],
        input=b"".join(encode_line(line) for line in script),
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr.decode()
    return [json.loads(line) for line in child.stdout.splitlines()]


def placed(step: Vector, folder: str) -> dict:
    """Its inputs, the weights in files of the folder."""
    return {name: x.placed(folder, "float64") if isinstance(x, Weights) else x for name, x in step.case.inputs.items()}


@pytest.mark.parametrize("index", range(len(ANCHORS)), ids=lambda n: f"{ANCHORS[n].operation}-{n}")
def test_answers_what_others_found(replies: list[dict], index: int) -> None:
    answer, anchor = replies[1 + index], ANCHORS[index]
    assert "outputs" in answer, answer
    for name, theirs in anchor.outputs.items():
        # Float32 to spare: TRL computes ORPO's odds, its fused head and all advantages in it.
        ours = np.array(answer["outputs"][name], float)
        assert ours.shape == theirs.shape and np.all(abs(ours - theirs) <= 1e-6 * np.maximum(1, abs(theirs))), (name, ours)


def test_declares_every_operation_that_trl_computes(replies: list[dict]) -> None:
    assert set(replies[0]["operations"]) == (CONTRACTS.keys() - LEFT_OUT) | {"gpt_logits", "preference_step"}
    assert replies[0]["version"] == "1.16.0"


@pytest.mark.parametrize("index", range(len(STEPS)), ids=lambda n: f"{STEPS[n].case.inputs['method']}-{STEPS[n].id}")
def test_takes_the_step_of_every_method_that_trl_offers(replies: list[dict], index: int) -> None:
    answer, step = replies[1 + len(ANCHORS) + index], STEPS[index]
    method = step.case.inputs["method"]
    if method in NOT_OFFERED:
        assert NOT_OFFERED[method] in answer["error"]
        return
    grads = answer["outputs"].pop("grads")
    given = answer["outputs"] | {part: x for name, grad in grads.items() for part, x in parts(name, np.array(grad)).items()}
    # Of orpo the likelihood term is another, see peers/trl.toml: its log-probabilities are judged, its loss is not.
    judged = [name for name in step.expected if method != "orpo" or name.endswith("logps")]
    for name in judged:
        exact = step.expected[name].value.astype(float)
        # Float32 to spare: DPOTrainer and KTOTrainer compute log-probabilities in it.
        assert np.linalg.norm(np.array(given[name]) - exact) <= 1e-6 * max(1, np.linalg.norm(exact)), name


def test_orpo_averages_the_likelihood_over_all_tokens_of_the_batch(replies: list[dict]) -> None:
    """Its loss is the contract's, the mean of means in it replaced by one mean, over prompts too but their first tokens."""
    index, step = next((n, step) for n, step in enumerate(STEPS) if step.case.inputs["method"] == "orpo")
    inputs = step.case.inputs
    weights, pairs = nodes(decimals(inputs["weights"].arrays)), [*zip(inputs["prompt_ids"], inputs["chosen_ids"], strict=True)]
    rows = [response_logp(weights, inputs["n_head"], x[:1], x[1:] + y).value.item() for x, y in pairs]
    theirs = sum(rows) / sum(len(x[1:] + y) for x, y in pairs)
    ours = np.mean(step.expected["chosen_logps"].value / [len(y) for _, y in pairs])
    got = replies[1 + len(ANCHORS) + index]["outputs"]["loss"]
    assert abs(got - float(step.expected["loss"].value.item() + ours - theirs)) <= 1e-6
