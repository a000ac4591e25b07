"""Commands that sample and reward, from files to files: every method, the reward model, and SFT, DPO and GRPO in one."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from gpt_tiny import train, world
from gpt_tiny.__main__ import main
from gpt_tiny.checkpoint import load_model, load_reward_model
from gpt_tiny.on_policy import ON_POLICY

REWARD = f"{__name__}:vowels"  # of what a model this small says, all is garbled to the world
SIZE = "--vocab-size 400 --context 96 --width 16 --layers 1 --heads 2"


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than any run here."""
    monkeypatch.setattr(train, "draw", lambda metrics, figure: False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the built-in world, and a model that has read some of it."""
    folder = tmp_path_factory.mktemp("sampling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw", lambda metrics, figure: False)
        world.write(folder, 0, sft=40, pairs=40, test_pairs=8)
        asked(f"sft --data {folder}/sft.jsonl --out {folder}/sft {SIZE} --lr 0.01")
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()[:6]]
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def vowels(prompts: list[str], completions: list[str]) -> list[int]:
    return [sum(letter in "aeiou" for letter in text) for text in completions]


def asked(command: str) -> None:
    assert main(shlex.split(command)) == 0


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("weights.npz", "metrics.jsonl", "config.json")}


@pytest.mark.parametrize("method", ON_POLICY)
def test_a_run_of_every_method_is_stopped_and_goes_on_in_the_same_bits(
    method: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "--group-size 4 --max-tokens 10 --batch-size 2 --epochs 2 --save-every 1 --minibatches 2"
    run = f"train --method {method} --model {place}/sft --data {place}/few.jsonl --reward {REWARD} {more}"
    asked(f"{run} --out {tmp_path}/whole")
    step, steps = train.OnPolicyTrainer.step, 0

    def stopped(self: Any) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(train.OnPolicyTrainer, "step", stopped)
    assert main(shlex.split(f"{run} --out {tmp_path}/stopped")) == 130
    monkeypatch.setattr(train.OnPolicyTrainer, "step", step)
    asked(f"{run} --out {tmp_path}/stopped --resume")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    lines = metrics(tmp_path / "whole")
    assert len(lines) == 6 and all({"loss", "reward", "completions/mean_length"} <= line.keys() for line in lines)
    assert len({line["reward"] for line in lines}) > 1
    assert load_model(tmp_path / "whole")[0] == load_model(place / "sft")[0]


def test_a_reward_model_learns_pairs_and_rewards_a_policy(place: Path, tmp_path: Path) -> None:
    pairs = f"--data {place}/pairs.jsonl --model {place}/sft"
    asked(f"reward-model {pairs} --out {tmp_path}/reward --epochs 8 --lr 0.01 --evaluation {place}/test-pairs.jsonl")
    lines = metrics(tmp_path / "reward")
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-6) and lines[0]["rewards/ties"] == 1
    assert lines[-1]["loss"] < 0.6 and lines[-1]["rewards/margins"] > 0.3 and "eval_rewards/accuracies" in lines[-1]
    assert not any(name.startswith("logps") for name in lines[0])
    assert (load_reward_model(tmp_path / "reward")[1]["score.weight"] != 0).any()
    for method in ("ppo", "grpo"):
        rewarded = f"train --method {method} --model {place}/sft --data {place}/few.jsonl --reward {tmp_path}/reward"
        asked(f"{rewarded} --group-size 4 --max-tokens 10 --batch-size 6 --out {tmp_path}/{method}")
        assert abs(metrics(tmp_path / method)[0]["reward"]) > 1e-3


def test_adapters_and_an_offloaded_reference_are_held_against_the_same_start(place: Path, tmp_path: Path) -> None:
    run = f"train --method rloo --model {place}/sft --data {place}/few.jsonl --reward {REWARD} --lora-rank 2"
    for way in ("copy", "offload", "lora"):
        asked(f"{run} --group-size 4 --max-tokens 10 --batch-size 3 --lr 0.01 --reference {way} --out {tmp_path}/{way}")
    found = [metrics(tmp_path / way) for way in ("copy", "offload", "lora")]
    assert found[0] == found[1] == found[2] and found[0][0]["kl"] == 0 != found[0][1]["kl"]


def test_a_reward_that_changed_is_another_run(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        asked(f"reward-model --model {place}/sft --data {place}/pairs.jsonl --seed {seed} --out {tmp_path}/reward-{seed}")
    run = f"train --method grpo --model {place}/sft --data {place}/few.jsonl --reward {tmp_path}/reward-0 --max-tokens 10"
    asked(f"{run} --out {tmp_path}/run")
    (tmp_path / "reward-0").rename(tmp_path / "old")
    (tmp_path / "reward-1").rename(tmp_path / "reward-0")
    assert main(shlex.split(f"{run} --out {tmp_path}/run --resume")) == 2
    assert re.search(r"a run is resumed with what it began with, but reward sha256 was \w+, is \w+", capsys.readouterr().err)


def test_sft_dpo_and_grpo_are_one_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = f"{SIZE} --sft-epochs 1 --group-size 4 --max-tokens 10 --asked 5"
    run = f"align --data {place}/pairs.jsonl --reward {REWARD} --out {tmp_path}/aligned {sizes}"
    asked(run)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-4] == "model   mean reward of answers to prompts learned from, ± half the 95 % interval"
    assert re.findall(r"^(\w+) +-?\d+\.\d{3} ± \d+\.\d{3}$", printed, re.M) == ["sft", "dpo", "grpo"]
    starts = [
        json.loads((tmp_path / "aligned" / name / "run.json").read_text())["settings"]["model"] for name in ("dpo", "grpo")
    ]
    assert starts == [f"{tmp_path}/aligned/sft", f"{tmp_path}/aligned/dpo"]
    asked(f"{run} --resume")
    assert capsys.readouterr().out == printed
