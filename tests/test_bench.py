"""What `bench` reports: the counters on steps whose cost is known, the work of the fast step against TRL's, and a short run."""

import json
import math
import os
import statistics
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from gpt_tiny import bench
from gpt_tiny.bench_steps import WORKLOADS, Workload, descend, fast, padded_work, plain, workload
from gpt_tiny.counting import count


def attention(queries: int, keys: int, backward: bool) -> Callable[[], Any]:
    """Two rows of three heads of width 8, masked."""
    q, k, v = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (queries, keys, keys))
    mask = torch.ones(queries, keys, dtype=torch.bool).tril()

    def step() -> None:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if backward:
            mixed.sum().backward()

    return step


def linear(backward: bool) -> Callable[[], Any]:
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((2, 5, 7), (11, 7), (11,)))
    return lambda: F.linear(x, weight, bias).sum().backward() if backward else F.linear(x, weight, bias)


def chain() -> None:
    torch.randn(2, 3) @ torch.randn(3, 5) @ torch.randn(5, 7)


def added_in_place() -> None:
    torch.zeros(2, 5).addmm_(torch.randn(2, 3), torch.randn(3, 5))


@pytest.mark.parametrize(
    "step, multiply_adds",
    [
        (chain, 2 * 3 * 5 + 2 * 5 * 7),
        (added_in_place, 2 * 3 * 5),
        (linear(backward=False), 10 * 7 * 11),
        (linear(backward=True), 3 * 10 * 7 * 11),
        (attention(16, 16, backward=False), 2 * 6 * 16 * 16 * 8),
        (attention(16, 16, backward=True), 7 * 6 * 16 * 16 * 8),
        (attention(4, 16, backward=True), 7 * 6 * 4 * 16 * 8),
        (lambda: torch.randn(9).exp().sum(), 0),
    ],
    ids=[
        "chain",
        "added in place",
        "linear",
        "linear and back",
        "attention",
        "attention and back",
        "fewer queries",
        "elementwise",
    ],
)
def test_multiply_adds_are_those_of_the_products(step: Callable[[], Any], multiply_adds: int) -> None:
    assert count(step).multiply_adds == multiply_adds


class Before:
    """What a step may find: weights, and a gradient that it drops."""

    def __init__(self) -> None:
        self.weight = torch.randn(40, requires_grad=True)
        self.weight.grad = torch.randn(40)

    def in_place(self) -> None:
        with torch.no_grad():
            self.weight.mul_(2).view(4, 10).add_(1)

    def gradient_anew(self) -> None:
        """The product is gone when its gradient comes; its sum and the gradient of that are one each."""
        self.weight.grad = None
        (self.weight * 3).sum().backward()


def one_after_another() -> None:
    for size in (10, 30, 20):
        torch.ones(size)


def kept_for_backward() -> None:
    """x, the sum that its square's gradient needs, and the square: 50 each."""
    x = torch.ones(50, requires_grad=True)
    y = (x + x) ** 2
    assert y.requires_grad


@pytest.mark.parametrize(
    "step, peak, largest",
    [
        (one_after_another, 30, 30),
        (lambda: [torch.ones(10), torch.ones(30), torch.ones(20)], 60, 30),
        (lambda: torch.ones(6, 5).view(30)[::2].expand(4, 15).T, 30, 30),
        (lambda: [torch.ones(10), torch.arange(1000), torch.ones(10, dtype=torch.bfloat16)], 20, 10),
        (kept_for_backward, 150, 50),
        (Before().in_place, 0, 0),
        (Before().gradient_anew, 42, 40),
    ],
    ids=["one after another", "together", "views", "floats only", "kept for backward", "in place", "gradient anew"],
)
def test_elements_are_those_alive_at_once(step: Callable[[], Any], peak: int, largest: int) -> None:
    assert count(step)[1:] == (peak, largest)


@pytest.mark.parametrize(
    "given, part",
    [
        (workload(128, (32, 96), vocab=512, pairs=8), 0.58),
        (workload(455, (57, 57), vocab=512, pairs=1), 0.56),  # pairs of one length: both sides grow with their number
        (workload(128, (32, 96), vocab=50257, pairs=4), 0.40),
    ],
    ids=["base", "8:1", "50257"],
)
def test_the_fast_step_does_a_part_of_the_work_of_trl(given: Workload, part: float) -> None:
    """Of TRL's with precomputed reference, on 11M parameters beside the vocabulary's. Where logits would be the largest tensor,
    the largest is the gradient of the head."""
    policy, losses = fast(given)
    work = count(lambda: descend(policy, islice(losses, 1), lambda _: None))
    (pairs,) = given.batches
    assert 0 < work.multiply_adds <= part * padded_work(given.config, pairs)
    response_tokens = sum(len(chosen) + len(rejected) for _, chosen, rejected in pairs)
    head = given.config.vocab_size * given.config.width
    if given.config.vocab_size > 1000:
        assert head < response_tokens * given.config.vocab_size and work.largest <= head


def test_workloads_are_of_the_lengths_and_the_size_they_say() -> None:
    pairs = {name: [pair for batch in make().batches for pair in batch] for name, make in WORKLOADS.items()}
    lengths = {name: [tuple(map(len, pair)) for pair in several] for name, several in pairs.items()}
    for name, prompt, response in (("1:1", 256, 256), ("4:1", 408, 102), ("8:1", 455, 57)):
        assert lengths[name] == [(prompt, response, response)] * 8
    for name, number in (("base", 32), ("50257", 16)):
        prompts, *responses = zip(*lengths[name], strict=True)
        assert prompts == (128,) * number and 32 <= min(map(min, responses)) < 45 and 83 < max(map(max, responses)) <= 96
    given = WORKLOADS["base"]()
    assert given.tokens == sum(map(sum, lengths["base"])) / 4 + 128 * 8
    assert given == WORKLOADS["base"]() != workload(128, (32, 96), vocab=512, pairs=8, seed=1, batches=4)


def test_a_run_reports_what_it_measured(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TRL_PYTHON", bench.ROOT / ".venv-missing" / "bin" / "python")
    assert bench.main(["--workload", "tiny", "--rounds", "3", "--threads", "1", "--out", str(tmp_path)]) == 0
    assert "TRL is left out: there is no .venv-missing" in (printed := capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["malloc"] == "tuned" and report["threads"] == 1
    result, given = report["workloads"]["tiny"], WORKLOADS["tiny"]()
    assert result["variants"].keys() == {"plain", "fast"} and result["rate"] > 1e8
    for variant, x in result["variants"].items():
        assert variant in printed and len(x["seconds"]) == 3 and min(x["seconds"]) > 0
        assert math.isclose(x["tokens_per_second"] * statistics.median(x["seconds"]), given.tokens)
        assert 0 < x["fast_is_faster"]["min"] <= x["fast_is_faster"]["median"] <= x["fast_is_faster"]["max"]
        assert 0 < x["share_of_rate"] and 4 * x["peak_elements"] < x["memory"] < 2**30
    fast_is_faster = [a / b for a, b in zip(*(result["variants"][v]["seconds"] for v in ("plain", "fast")), strict=True)]
    assert result["variants"]["plain"]["fast_is_faster"]["median"] == sorted(fast_is_faster)[1]
    assert result["variants"]["fast"]["fast_is_faster"] == {"median": 1, "min": 1, "max": 1}

    policy, losses = fast(given)
    work = count(lambda: descend(policy, islice(losses, 2), lambda _: None))
    assert result["variants"]["fast"]["multiply_adds"] == work.multiply_adds / 2


@pytest.mark.skipif(not bench.TRL_PYTHON.exists(), reason="no .venv-trl: TRL is not installed")
@pytest.mark.parametrize("variant", ["trl-precomputed", pytest.param("trl", marks=pytest.mark.sweep)])
def test_trl_makes_the_step_of_plain_and_does_the_padded_work(variant: str) -> None:
    given, found = WORKLOADS["tiny"](), list[tuple[float, float]]()
    policy, losses = plain(given)
    descend(policy, islice(losses, 1), found.append)
    with bench.Worker(variant, "tiny", os.environ | bench.QUIET | {"OMP_NUM_THREADS": "1"}) as worker:
        answer = worker.answer()
    bench.check_agreement(variant, answer, dict(zip(("loss", "grad_norm"), found[0], strict=True)))
    assert abs(answer["loss"] - math.log(2)) > 10 * bench.TOLERANCE
    padded = statistics.mean(padded_work(given.config, pairs) for pairs in given.batches)
    if variant == "trl-precomputed":
        assert answer["multiply_adds"] == padded
    else:  # and the reference's forward pass, which is a third but for the head (a quarter) and attention (two sevenths)
        assert 1.31 * padded < answer["multiply_adds"] < 4 / 3 * padded


def test_steps_that_differ_are_refused() -> None:
    plain = {"loss": 0.7, "grad_norm": 2.0}
    bench.check_agreement("fast", {"loss": 0.70006, "grad_norm": 1.9999}, plain)
    for key, value in (("loss", 0.7001), ("grad_norm", 1.9997), ("loss", math.nan)):
        with pytest.raises(RuntimeError, match=f"^fast: {key} of the first step must be"):
            bench.check_agreement("fast", plain | {key: value}, plain)


def test_a_process_that_dies_is_an_error_that_says_why() -> None:
    why = r"(?s)^fast ended with code 1:.*KeyError: 'missing'"
    with bench.Worker("fast", "missing", os.environ) as worker, pytest.raises(RuntimeError, match=why):
        worker.answer()


def test_all_processes_have_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    stock, tuned = bench.environment("stock", 3), bench.environment("tuned", 3)
    assert not [key for key in stock if key.startswith("MALLOC_")] and tuned == stock | bench.TUNED
    assert stock["OMP_NUM_THREADS"] == "3" and stock["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("arguments", ["--rounds 0", "--threads 0", "--quick --rounds 3", "--workload x"])
def test_usage_errors_end_with_2(arguments: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments.split())
    assert stopped.value.code == 2 and arguments.split()[0] in capsys.readouterr().err
