"""Processes that share a run end where one process does: the losses, the metrics and the weights, to rounding."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt_tiny import train
from gpt_tiny.__main__ import main
from gpt_tiny.checkpoint import load_model, read_arrays, save_model
from gpt_tiny.model_by_hand import Config, initial_weights
from gpt_tiny.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
WORDS = "the cat dog sat on mat red blue big small ran far away home".split()
USUAL, OTHERS = ("sft", "dpo", "kto"), ("orpo", "sppo", "ipo_length_normalized")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen pairs and as many judged completions, and a model that is not at its start."""
    folder, rng = tmp_path_factory.mktemp("sharded"), np.random.default_rng(0)

    def text() -> str:
        return " " + " ".join(rng.choice(WORDS, rng.integers(1, 6)))

    pairs = [{"prompt": text(), "chosen": text(), "rejected": text() + "."} for _ in range(13)]
    judged = [{"prompt": text(), "completion": text(), "label": n % 3 > 0} for n in range(13)]
    for name, rows in (("pairs", pairs), ("judged", judged)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config(270, 32, 16, 2, 2)
    weights = {name: 4 * weight for name, weight in initial_weights(config, 1, np.float64).items()}
    save_model(folder / "model", config, weights, Tokenizer.train([WORDS[0]], 257))
    return folder


def command(method: str, place: Path, out: Path, more: str = "") -> str:
    """Steps of six rows, three at once, and a last one of a single row; two epochs, evaluated."""
    asked = "sft" if method == "sft" else f"train --method {method}"
    data = place / ("judged.jsonl" if method == "kto" else "pairs.jsonl")
    sizes = "--batch-size 3 --accumulation 2 --epochs 2 --lr 0.01 --clip 0.5 --weight-decay 0.1 --dtype float64 --save-every 2"
    return f"{asked} --model {place / 'model'} --data {data} --evaluation {data} --out {out / method} {sizes} {more}"


def torchrun(processes: int, *what: str, seconds: int = 600) -> tuple[int, str]:
    """Exit code, and what was printed."""
    arguments = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *what]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        arguments, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT, timeout=seconds, check=False
    )
    return ended.returncode, ended.stdout


def together(processes: int, commands: list[str], place: Path) -> None:
    script = place / f"commands-{processes}"
    script.write_text("".join(f"{line}\n" for line in commands))
    code, printed = torchrun(processes, "tests/sharded_runs.py", str(script))
    assert code == 0, printed


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def known(name: str, x: np.ndarray) -> np.ndarray:
    """Without the biases of keys, which no logit depends on: their gradient is rounding, which AdamW divides by its like."""
    return np.delete(x, np.arange(len(x) // 3, 2 * len(x) // 3)) if name.endswith("c_attn.bias") else x


def agree(got: Path, right: Path) -> None:
    """Every metric, and in norm every weight and moment: to 1e-12."""
    assert len(metrics(right)) == 6
    for left, line in zip(metrics(got), metrics(right), strict=True):
        assert left == pytest.approx(line, rel=1e-12, abs=1e-12)
    for file in ("weights.npz", "checkpoints/step-00000006/exp_avg.npz", "checkpoints/step-00000006/exp_avg_sq.npz"):
        arrays, others = read_arrays(right / file), read_arrays(got / file)
        assert arrays.keys() == others.keys()
        for name in arrays:
            x, y = known(name, arrays[name]), known(name, others[name])
            assert np.linalg.norm(x - y) <= 1e-12 * np.linalg.norm(x), name


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    """The same runs by one plain process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw", lambda metrics, figure: False)
        for method in USUAL + OTHERS:
            assert main(shlex.split(command(method, place, place / "one"))) == 0
    return place / "one"


@pytest.mark.parametrize("processes, methods", [
    pytest.param(1, USUAL, marks=pytest.mark.sweep),
    (2, USUAL),
    pytest.param(4, USUAL, marks=pytest.mark.sweep),
    pytest.param(2, OTHERS, marks=pytest.mark.sweep),
])  # fmt: skip
def test_processes_end_where_one_does(processes: int, methods: tuple[str, ...], place: Path, one: Path) -> None:
    """The last step of an epoch has fewer rows than there are processes, and some compute nothing."""
    out = place / str(processes)
    together(processes, [command(method, place, out) for method in methods], place)
    for method in methods:
        agree(out / method, one / method)
        assert load_model(out / method)[2] == load_model(one / method)[2]


@pytest.mark.sweep
def test_what_two_began_four_end(place: Path, one: Path) -> None:
    """A checkpoint is whole, whoever writes it: a run goes on with another number of processes."""
    out = place / "resumed"
    together(2, [command("dpo", place, out)], place)
    shutil.rmtree(out / "dpo" / "checkpoints" / "step-00000006")
    together(4, [command("dpo", place, out, "--resume")], place)
    agree(out / "dpo", one / "dpo")


@pytest.mark.sweep
def test_an_error_of_the_first_process_ends_all_at_once(place: Path, one: Path) -> None:
    """Only the first looks at the folder: the others would wait for it."""
    code, printed = torchrun(2, "-m", "gpt_tiny.sharded", *shlex.split(command("dpo", place, one)), seconds=200)
    assert code == 1 and "out must be new, or be resumed with --resume" in printed


@pytest.mark.sweep
def test_a_loss_that_is_not_finite_ends_all_with_the_state_before_it(place: Path) -> None:
    out = place / "wild"
    code, printed = torchrun(2, "-m", "gpt_tiny.sharded", *shlex.split(command("dpo", place, out, "--lr 1e200 --warmup 0")))
    assert code == 1 and "step 2: loss is nan" in printed
    assert (out / "dpo" / "checkpoints" / "step-00000001" / "manifest.json").exists()


@pytest.mark.sweep
def test_no_process_is_aborted_when_it_leaves(place: Path, one: Path) -> None:
    """It was at random, in every third run or so, before processes waited for each other."""
    for n in range(10):
        out = place / f"left-{n}"
        code, printed = torchrun(2, "-m", "gpt_tiny.sharded", *shlex.split(command("dpo", place, out)))
        assert code == 0, printed
        agree(out / "dpo", one / "dpo")
