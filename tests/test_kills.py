"""A run that is killed at any instant, or that the disk fails, and then resumed, ends in the bits of one that never stopped."""

import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

from gpt_tiny import train
from gpt_tiny.__main__ import main
from gpt_tiny.checkpoint import load_model, save_model
from gpt_tiny.methods import Objective
from gpt_tiny.model_by_hand import Config
from gpt_tiny.train import Settings, run
from gpt_tiny.trainer import Optimization

# A process that has all of it loaded, of which every run is a fork: otherwise most kills would meet an import.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "gpt_tiny.__main__", "gpt_tiny.train", "torch._dynamo", "torch.distributed.tensor"])

WORDS = "the cat dog sat on mat red blue big small ran far away home".split()
Tree = dict[str, bytes]


def no_figure(metrics: Path, figure: Path) -> bool:
    """To draw takes longer than to train here."""
    return False


def at_sync(n: int, fail: Callable[[], None]) -> Callable[[int], None]:
    """In place of os.fsync: the n-th fails. No other waits for the disk, whose content a kill leaves to the system."""
    numbers = count(1)

    def sync(handle: int) -> None:
        if next(numbers) == n:
            fail()

    return sync


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_up() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def train_in_a_process(settings: Settings, folder: Path, killed_at_sync: int) -> None:
    """Resumes where there is something; kills itself before its n-th fsync, where n > 0."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a kill leaks
    train.draw, os.fsync = no_figure, at_sync(killed_at_sync, die)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    run(settings, folder, resume=True)


def start(settings: Settings, folder: Path, killed_at_sync: int = 0) -> Any:
    process = SERVER.Process(target=train_in_a_process, args=(settings, folder, killed_at_sync), daemon=True)
    process.start()
    return process


def finished(settings: Settings, folder: Path) -> float:
    """Let a process train to the end; how long it took, in seconds."""
    began, process = time.monotonic(), start(settings, folder)
    process.join(300)
    assert process.exitcode == 0
    return time.monotonic() - began


def tree(folder: Path) -> Tree:
    """Every file of a run, but what a kill leaves, at which no reader looks: unfinished ones, and checkpoints before the last
    two. A step that is saved again is that step."""
    older = {path.name for path in checkpoints(folder)[2:]}
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    kept = [name for name in files if ".part" not in str(name) and not older & {*name.parts}]
    return {re.sub(r"(step-\d+)\.1", r"\1", str(name)): (folder / name).read_bytes() for name in kept}


def checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted((folder / "checkpoints").glob("step-*[0-9]"), reverse=True)


def same(folder: Path, right: Tree) -> None:
    """Weights, tokenizer, metrics, what was dropped, both checkpoints with moments and random state: every byte."""
    found = tree(folder)
    assert found.keys() == right.keys()
    assert [name for name in right if found[name] != right[name]] == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, judged completions and a model to start from."""
    folder, rng = tmp_path_factory.mktemp("kills"), np.random.default_rng(0)

    def text() -> str:
        return " " + " ".join(rng.choice(WORDS, rng.integers(1, 6)))

    pairs = [{"prompt": text(), "chosen": text(), "rejected": text() + "."} for _ in range(30)]
    judged = [{"prompt": text(), "completion": text(), "label": n % 3 > 0} for n in range(30)]
    for name, rows in (("pairs", pairs), ("judged", judged), ("held-out", pairs[:7])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finished(of(folder, "sft"), folder / "model")
    return folder


def of(place: Path, kind: str) -> Settings:
    """About 25 steps with dropout: a new tokenizer, an evaluation, a cached reference, parts of a step, adapters."""
    given: dict[str, Any] = {"data": str(place / "pairs.jsonl"), "optimization": Optimization(1e-2), "dropout": 0.1, "seed": 3}
    given |= {"batch_size": 4, "epochs": 3, "save_every": 2}
    if kind == "sft":
        return Settings(objective=Objective("sft", {}), size=Config(262, 24, 16, 2, 2), **given)
    given |= {"model": str(place / "model"), "objective": Objective("dpo", {"beta": 0.3})}
    evaluated = {"evaluation": str(place / "held-out.jsonl"), "save_every": 1}
    judged = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.9}
    more: dict[str, dict[str, Any]] = {
        "dpo": evaluated,
        "short": evaluated | {"epochs": 1},
        "kto": {"data": str(place / "judged.jsonl"), "objective": Objective("kto", judged), "batch_size": 2, "accumulation": 2},
        "lora": {"lora_rank": 2, "reference": "lora", "quantize_base": "nf4", "save_every": 3},
    }
    return Settings(**given | more[kind])


KINDS = ("sft", "dpo", "kto", "lora")


@pytest.fixture(scope="module")
def ending(place: Path) -> Callable[[str], tuple[Tree, float]]:
    """How a run of a kind ends that is left alone, and how long it takes."""
    known: dict[str, tuple[Tree, float]] = {}

    def left_alone(kind: str) -> tuple[Tree, float]:
        if kind not in known:
            took = finished(of(place, kind), place / f"{kind}-alone")
            known[kind] = tree(place / f"{kind}-alone"), took
        return known[kind]

    return left_alone


# --- Killed ------------------------------------------------------------------------------------------------------------------


def killed(settings: Settings, folder: Path, delay: float) -> bool:
    """Whether the process was still at work."""
    process = start(settings, folder)
    time.sleep(delay)
    process.kill()
    process.join()
    return bool(process.exitcode)


def steps_done(folder: Path) -> int:
    log = folder / "metrics.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def test_killed_at_random_instants_and_resumed_it_ends_in_the_same_bits(
    sweep: bool, place: Path, ending: Callable[[str], tuple[Tree, float]], tmp_path: Path
) -> None:
    """A folder is killed once, or again and again, each time somewhere within the length of a whole run."""
    rng, steps, endings = random.Random(0), list[int](), 50 if sweep else 4
    for n in range(endings):
        kind, folder = KINDS[n % len(KINDS)], tmp_path / str(n)
        right, length = ending(kind)
        while not killed(of(place, kind), folder, rng.uniform(0, length)):
            shutil.rmtree(folder)  # it had ended before
        steps.append(steps_done(folder))
        for _ in range(n % 3):
            if killed(of(place, kind), folder, rng.uniform(0, length)):
                steps.append(steps_done(folder))
        finished(of(place, kind), folder)
        same(folder, right)
        shutil.rmtree(folder)
    print(f"{len(steps)} kills, after steps {sorted(steps)}: {endings} identical endings")


def test_killed_at_any_write_and_resumed_it_ends_in_the_same_bits(
    sweep: bool, place: Path, ending: Callable[[str], tuple[Tree, float]], tmp_path: Path
) -> None:
    """Before the n-th file is on the disk: run.json is the first, and a folder that has not even that is still the run's."""
    right, _ = ending("short")
    folder, settings = tmp_path / "run", of(place, "short")
    for n in range(1, 10**6) if sweep else (1, 2, 5, 14, 23):
        process = start(settings, folder, n)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        finished(settings, folder)
        same(folder, right)
        shutil.rmtree(folder)
    print(f"killed before each of {n} writes" if sweep else f"killed before write {n}")
    assert n == 23 or n > 60


# --- Damaged, full, changed ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(
    place: Path, ending: Callable[[str], tuple[Tree, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Tree]]:
    """A copy of a run that ended, to go on with in this process, on one thread: bits depend on their number."""
    right, _ = ending("short")
    shutil.copytree(place / "short-alone", tmp_path / "run")
    monkeypatch.setattr(train, "draw", no_figure)
    monkeypatch.setattr(os, "fsync", at_sync(0, die))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "run", right
    torch.set_num_threads(threads)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.npz", "exp_avg_sq.npz", "random.npz", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_end(
    name: str, place: Path, ended: tuple[Path, Tree], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, right = ended
    newest = checkpoints(folder)[0]
    damage(newest / name)
    run(of(place, "short"), folder, resume=True)
    said = capsys.readouterr().err
    assert "passed over:\n" in said and str(newest / name) in said
    same(folder, right)


def test_where_all_checkpoints_are_damaged_nothing_is_overwritten(place: Path, ended: tuple[Path, Tree]) -> None:
    folder, _ = ended
    for path in checkpoints(folder):
        damage(path / "weights.npz")
    before = tree(folder)
    with pytest.raises(ValueError) as error:
        run(of(place, "short"), folder, resume=True)
    assert all(str(path / "weights.npz") in str(error.value) for path in checkpoints(folder))
    same(folder, before)


def test_metrics_that_are_shorter_than_the_checkpoint_says_are_refused(place: Path, ended: tuple[Path, Tree]) -> None:
    folder, _ = ended
    os.truncate(folder / "metrics.jsonl", 100)
    before = tree(folder)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: must hold the \d+ bytes that the checkpoint counts, got 100$"):
        run(of(place, "short"), folder, resume=True)
    same(folder, before)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_a_full_disk_names_the_file_and_the_run_goes_on_from_there(
    n: int, place: Path, ended: tuple[Path, Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th file cannot be written: run.json, the list of what was dropped, the reference, metrics, checkpoints."""
    folder, settings = tmp_path / "other", of(place, "short")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", at_sync(n, fill_up))
        with pytest.raises(OSError) as error:
            run(settings, folder)
    assert error.value.errno == errno.ENOSPC and str(error.value.filename).startswith(str(folder))
    run(settings, folder, resume=True)
    same(folder, ended[1])


def test_metrics_that_find_the_disk_full_are_named(
    place: Path, ended: tuple[Path, Tree], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line is written, to a device that is always full, in the step after the last checkpoint but one."""
    folder, right = ended
    shutil.rmtree(checkpoints(folder)[0])
    log = folder / "metrics.jsonl"
    log.rename(folder / "kept")
    log.symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        run(of(place, "short"), folder, resume=True)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(log))
    log.unlink()
    (folder / "kept").rename(log)
    run(of(place, "short"), folder, resume=True)
    same(folder, right)


CHANGES: dict[str, Callable[[Settings], Settings]] = {
    "settings.optimization.lr was 0.01, is 0.02": lambda s: replace(s, optimization=Optimization(2e-2)),
    "settings.objective.hyperparameters.beta was 0.3, is 0.4": lambda s: replace(s, objective=Objective("dpo", {"beta": 0.4})),
    "settings.batch_size was 4, is 5": lambda s: replace(s, batch_size=5),
    "settings.lora_rank was 0, is 2": lambda s: replace(s, lora_rank=2),
    "settings.dtype was float32, is float64": lambda s: replace(s, dtype="float64"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_another_setting_is_refused_and_nothing_is_touched(message: str, place: Path, ended: tuple[Path, Tree]) -> None:
    folder, right = ended
    with pytest.raises(ValueError) as error:
        run(CHANGES[message](of(place, "short")), folder, resume=True)
    assert str(error.value).endswith(f"a run is resumed with what it began with, but {message}")
    same(folder, right)


@pytest.mark.parametrize("changed", ["data", "evaluation", "weights", "tokenizer", "new run"])
def test_other_files_are_refused_and_nothing_is_touched(
    changed: str, place: Path, ended: tuple[Path, Tree], tmp_path: Path
) -> None:
    """In place of those with which the run began."""
    folder, right = ended
    files = shutil.copytree(place, tmp_path / "files", ignore=lambda _, names: [x for x in names if x.endswith("-alone")])
    mine = replace(
        of(place, "short"),
        data=str(files / "pairs.jsonl"),
        evaluation=str(files / "held-out.jsonl"),
        model=str(files / "model"),
    )
    shutil.rmtree(folder)
    run(mine, folder)
    right = tree(folder)
    said = {name: f"{name} sha256 was " for name in ("data", "evaluation")}
    said |= {"weights": "start was ", "tokenizer": "tokenizer was "}
    if changed in ("data", "evaluation"):
        path = Path(mine.data if changed == "data" else str(mine.evaluation))
        path.write_text(path.read_text().replace("cat", "dog", 1))
    if changed in ("weights", "tokenizer"):
        config, weights, tokenizer = load_model(files / "model")
        weights["ln_f.bias"][0] += 1e-6 if changed == "weights" else 0
        others = replace(tokenizer, tokens=(*tokenizer.tokens[:-1], b"<|end|>")) if changed == "tokenizer" else tokenizer
        save_model(files / "model", config, weights, others)
    with pytest.raises(ValueError) as error:
        run(mine, folder, resume=changed != "new run")
    assert said.get(changed, "out must be new, or be resumed with --resume: ") in str(error.value)
    same(folder, right)


def test_a_run_that_ended_may_be_resumed_and_is_the_same(
    place: Path, ended: tuple[Path, Tree], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, right = ended
    arguments = f"train --method dpo --model {place / 'model'} --data {place / 'pairs.jsonl'} --out {folder} --resume"
    options = "--beta 0.3 --lr 0.01 --dropout 0.1 --seed 3 --batch-size 4 --save-every 1 --evaluation"
    assert main([*arguments.split(), *options.split(), str(place / "held-out.jsonl")]) == 0
    same(folder, right)
    assert str(folder) in capsys.readouterr().out
