"""What a DPO step costs: counted in multiply-adds and elements alive, measured in tokens a second and memory.

  python -m gpt_tiny bench                          all workloads: half an hour on two cores
  python -m gpt_tiny bench --quick                  a short look: one workload, two rounds
  python -m gpt_tiny bench --workload 8:1 --malloc stock

Ways to make the same step from the same weights and pairs (forward, loss, backward, clipping, AdamW, all in float32):

  plain             the textbook's: four passes over padded rows, all logits, log_softmax, gradients by autograd
  fast              gpt_tiny's: prompts shared, no padding, logits of response tokens in chunks, reference cached
  trl               TRL's DPOTrainer as it comes, but in float32 and without gradient checkpointing
  trl-precomputed   the same with precompute_ref_log_probs

Each lives in a process of its own; they must agree in the loss and the gradient norm of the first step, and then take turns of
a few steps, so that whatever else the machine does falls on all. A ratio is of the times of one round: its median over rounds,
and the smallest and largest. Tokens are those of both rows of every pair, padding left out, whatever is computed. The rate that
a step is held against is that of the best large product of matrices, in a process of the same environment that takes turns too.
Memory is the peak of the process above what it had after its imports, as Linux tells it; peak elements are those of all tensors
alive at once, whether written to or not (TRL's buffer of logits has 32768 columns whatever the vocabulary). All have the same
threads and the same malloc: `tuned` keeps freed memory in the process; glibc's own settings give large tensors back and page
them in again, which costs TRL most. The workload tiny, which is not among all, only shows that everything runs.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from .bench_steps import WORKLOADS, AfterStep, Workload, descend, fast, plain, products
from .checkpoint import write_whole
from .counting import Counter

ROOT = Path(__file__).resolve().parents[1]
TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"
OURS, TRL = ("plain", "fast"), ("trl", "trl-precomputed")
TOLERANCE = 1e-4  # of losses and gradient norms in float32, relative

# What the fast step aims at: so many times TRL's tokens a second, and at most this part of its memory.
FASTER = {("base", "trl"): 2.4, ("base", "trl-precomputed"): 1.8, ("8:1", "trl-precomputed"): 2.0}
FASTER |= {("50257", "trl-precomputed"): 2.9}
SMALLER = {("base", "trl-precomputed"): 0.5, ("50257", "trl-precomputed"): 0.333}

TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**26)}
QUIET = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}

Found = dict[str, Any]  # numbers by name, as they go into the file


def run_worker(variant: str, name: str) -> int:
    """The process of one variant: requests on stdin, answers where stdout was. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    given = WORKLOADS[name]()
    run, turns = steps_of(variant, given), serve(given, sys.stdin, answers)
    next(turns)
    with contextlib.suppress(StopIteration):
        run(turns.send)
    return 0


def steps_of(variant: str, given: Workload) -> Callable[[AfterStep], None]:
    """What makes its steps without end, with everything imported that it needs."""
    if variant in TRL:
        from .bench_trl import run

        return partial(run, given, variant == "trl-precomputed")
    if variant == "products":
        return products
    return lambda after_step: descend(*(plain if variant == "plain" else fast)(given), after_step)


def serve(given: Workload, requests: IO[str], answers: IO[str]) -> Generator[None, tuple[float, float], None]:
    """What a worker does between its steps, until there are no more requests.

    It answers unasked with the first step's loss and gradient norm, and with what a step counts: the mean over the batches of
    multiply-adds, the most of elements. To each number of steps it answers with the seconds they took and its memory, in bytes.
    """
    before = memory("VmRSS")
    loss, norm = yield
    works = []
    for _ in given.batches:
        with Counter() as counter:
            yield
        works.append(counter.work)
    multiply_adds, peaks, largest = zip(*works, strict=True)
    work = {"multiply_adds": statistics.mean(multiply_adds), "peak_elements": max(peaks), "largest": max(largest)}
    print(json.dumps({"loss": loss, "grad_norm": norm, **work}), file=answers, flush=True)
    for request in requests:
        began = time.perf_counter()
        for _ in range(int(request)):
            yield
        took = time.perf_counter() - began
        print(json.dumps({"seconds": took, "memory": memory("VmHWM") - before}), file=answers, flush=True)


def memory(field: str) -> int:
    """Bytes of this process that are in memory now (VmRSS) or were at most (VmHWM)."""
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(field))


class Worker:
    """A variant in its process, until the context ends. RuntimeError where it died, with the end of what it wrote."""

    def __init__(self, variant: str, name: str, settings: Mapping[str, str]) -> None:
        python = str(TRL_PYTHON) if variant in TRL else sys.executable
        self.variant, self.log = variant, tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python, "-m", "gpt_tiny.bench", "--worker", variant, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=settings,
            cwd=ROOT,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: Any) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=20)  # it sees the end of the requests, and removes its files
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def answer(self, steps: int = 0) -> Found:
        """Its next answer, after a request where steps are asked for."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{steps}\n" if steps else "")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            raise RuntimeError(f"{self.variant} ended with code {code}:\n{self.log.read()[-2000:]}")
        found: Found = json.loads(line)
        return found


def environment(malloc: str, threads: int) -> dict[str, str]:
    """The environment of every process."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    return inherited | QUIET | {"OMP_NUM_THREADS": str(threads)} | (TUNED if malloc == "tuned" else {})


def measure(name: str, variants: Sequence[str], rounds: int, settings: Mapping[str, str]) -> Found:
    """All numbers of a workload, its variants by name. RuntimeError where they do not agree or one dies."""
    given = WORKLOADS[name]()
    steps = max(2, len(given.batches))
    answers = take_turns(name, [*variants, "products"], rounds, steps, settings)
    seconds = {variant: [turn["seconds"] / steps for turn in turns] for variant, (_, *turns) in answers.items()}
    rate = answers["products"][0]["multiply_adds"] / min(seconds["products"])
    found = {}
    for variant in variants:
        (first, *_, last), median = answers[variant], statistics.median(seconds[variant])
        ratios = [its / ours for its, ours in zip(seconds[variant], seconds["fast"], strict=True)]
        faster = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        found[variant] = {**first, "seconds": seconds[variant], "memory": last["memory"], "fast_is_faster": faster}
        found[variant]["tokens_per_second"] = given.tokens / median
        found[variant]["share_of_rate"] = first["multiply_adds"] / median / rate
    sizes = {"model": vars(given.config), "pairs": len(given.batches[0]), "tokens": given.tokens}
    return {**sizes, "rate": rate, "variants": found}


def take_turns(
    name: str, variants: Sequence[str], rounds: int, steps: int, settings: Mapping[str, str]
) -> dict[str, list[Found]]:
    """The answers of each variant: what it says at its start, and then of each round's steps."""
    workers, answers = dict[str, Worker](), {variant: list[Found]() for variant in variants}
    turns = [(turn, variant) for turn in range(1 + rounds) for variant in variants]
    with contextlib.ExitStack() as stack:
        for turn, variant in with_bar(turns, name):
            if turn == 0:
                workers[variant] = stack.enter_context(Worker(variant, name, settings))
            answers[variant].append(workers[variant].answer(steps if turn else 0))
            if turn == 0 and variant != "products":
                check_agreement(variant, answers[variant][0], answers["plain"][0])
    return answers


def with_bar(turns: list[tuple[int, str]], name: str) -> Iterable[tuple[int, str]]:
    """The same with a bar on a terminal's stderr, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return turns
    bar: Iterable[tuple[int, str]] = tqdm(turns, desc=name, unit="turn", leave=False, disable=None)
    return bar


def check_agreement(variant: str, found: Found, right: Found) -> None:
    """RuntimeError unless it found the right first loss and gradient norm, up to TOLERANCE of them."""
    for quantity in ("loss", "grad_norm"):
        if not abs(found[quantity] - right[quantity]) <= TOLERANCE * abs(right[quantity]):
            values = f"{right[quantity]!r} as plain's, got {found[quantity]!r}"
            raise RuntimeError(f"{variant}: {quantity} of the first step must be {values}")


def table(name: str, result: Found) -> str:
    """A workload's numbers as text."""
    ours = result["variants"]["fast"]["memory"]
    rows = [["", "tokens/s", "s/step", "fast is x faster", "aim", "multiply-adds", "of rate", "peak elements", "largest"]]
    rows[0] += ["memory", "fast has", "aim"]
    for variant, x in result["variants"].items():
        faster, aims = x["fast_is_faster"], [aims.get((name, variant), "") for aims in (FASTER, SMALLER)]
        row = [variant, f"{x['tokens_per_second']:.0f}", f"{statistics.median(x['seconds']):.3f}"]
        row += [f"{faster['median']:.2f} [{faster['min']:.2f}, {faster['max']:.2f}]", f"{aims[0]}"]
        row += [f"{x['multiply_adds'] / 1e9:.1f} G", f"{x['share_of_rate']:.0%}", f"{x['peak_elements'] / 1e6:.1f} M"]
        row += [f"{x['largest'] / 1e6:.1f} M", f"{x['memory'] / 1e6:.0f} MB", f"{ours / x['memory']:.2f}", f"{aims[1]}"]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sizes = ", ".join(f"{key} {value}" for key, value in result["model"].items())
    head = f"{name}: {result['pairs']} pairs, {result['tokens']:.0f} tokens a step; {sizes}"
    head += f"; rate {result['rate'] / 1e9:.1f} G multiply-adds/s"
    return "\n".join([head, *("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m gpt_tiny bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--workload", action="append", choices=WORKLOADS, help="may be repeated; default all but tiny")
    rounds = made.add_mutually_exclusive_group()
    rounds.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each variant (default 7)")
    rounds.add_argument("--quick", action="store_true", help="two rounds, of the workload base where none is named")
    made.add_argument("--malloc", choices=("tuned", "stock"), default="tuned", help="of all processes (default tuned)")
    made.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="of each step (default all cores)")
    made.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="for bench.json (default out/bench)")
    made.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, 1 where steps disagree or a process dies, 2 for usage."""
    options = parser().parse_args(arguments)
    if options.worker:
        return run_worker(*options.worker)
    for name in ("rounds", "threads"):
        if getattr(options, name) < 1:
            parser().error(f"--{name} must be >= 1, got {getattr(options, name)}")
    has_trl = TRL_PYTHON.exists()
    if not has_trl:
        print(f"TRL is left out: there is no {TRL_PYTHON.relative_to(ROOT)}, which `make .venv-trl/ready` makes")
    settings, rounds = environment(options.malloc, options.threads), 2 if options.quick else options.rounds
    report: Found = {"malloc": options.malloc, "threads": options.threads, "torch": torch.__version__}
    report |= {"processors": processors(), "workloads": {}}
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.workload or (["base"] if options.quick else [name for name in WORKLOADS if name != "tiny"]):
            result = measure(name, OURS + TRL * has_trl, rounds, settings)
            report["workloads"][name] = result
            print(f"{table(name, result)}\n", flush=True)
            write_whole(options.out / "bench.json", json.dumps(report, indent=1))
    except OSError as error:
        parser().error(f"--out must be a folder that can be written to, got {options.out}: {error.strerror}")
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def processors() -> str:
    """How many of which kind."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else f"{os.cpu_count()} x {platform.machine()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
