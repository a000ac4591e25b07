"""The doctor accuses no healthy run, and names what was broken in one.

Runs are real: minipref's losses and gradients, descended on a policy over a few responses to a few prompts, logged as trainers
log. A fault is put into the trainer, never into the log.
"""

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minipref
from verify import doctor
from verify.doctor import LAWS
from verify.invariants import BROKEN, EXPECTED, HOLDS, SUSPICIOUS
from verify.metrics import REWARDS

PROMPTS, RESPONSES, PAIRS, HELD_OUT = 12, 6, 45, 30
SETTINGS: dict[str, dict[str, float]] = {  # of each method, and how fast it learns
    "dpo": {"beta": 0.3, "rate": 20.0},
    "cdpo": {"beta": 0.3, "label_smoothing": 0.2, "rate": 20.0},
    "robust_dpo": {"beta": 0.3, "label_smoothing": 0.2, "rate": 10.0},
    "rso_hinge": {"beta": 0.3, "rate": 8.0},
    "ipo": {"beta": 0.3, "rate": 0.4},
    "ipo_length_normalized": {"beta": 0.3, "rate": 2.0},
    "kto": {"beta": 0.3, "rate": 40.0},
    "orpo": {"odds_weight": 0.4, "rate": 4.0},
    "simpo": {"beta": 2.0, "gamma": 0.5, "rate": 6.0},
}
Log = list[dict[str, float]]


class Rows(NamedTuple):
    """What a batch of pairs knows [N]; logps sum over tokens."""

    policy_chosen_logps: np.ndarray
    policy_rejected_logps: np.ndarray
    reference_chosen_logps: np.ndarray
    reference_rejected_logps: np.ndarray
    chosen_lengths: np.ndarray
    rejected_lengths: np.ndarray


class Faults:
    """A trainer's parts, each as it should be. A faulty trainer overrides one."""

    method_trained: str | None = None  # where it is another than the one that was asked for
    reference_step = 0.0  # how far the reference follows the policy, each step
    learning_rate_factor = 1.0
    gradient_factor = 1.0
    logged_beta_factor = 1.0

    def hyperparameters(self, asked: dict[str, float]) -> dict[str, float]:
        return asked

    def rows(self, rows: Rows, rng: np.random.Generator) -> Rows:
        return rows

    def loss(self, loss: np.ndarray) -> np.ndarray:
        return loss

    def gradients(self, chosen: np.ndarray, rejected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return chosen, rejected

    def metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        return metrics

    def held_out_policy(self, policy: np.ndarray, start: np.ndarray) -> np.ndarray:
        return policy

    def line(self, line: dict[str, float]) -> dict[str, float]:
        return line


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16's eight bits, half up."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64) + 0x8000
    return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(float)


ROUNDINGS: dict[str, Callable[[float], float]] = {
    "all digits": float,
    "four decimals": lambda x: round(x, 4),
    "four digits": lambda x: float(f"{x:.4g}"),
    "bfloat16": lambda x: float(bfloat16(np.array(x))),
}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class World:
    """Prompts with responses of several lengths, a reference, and labelled pairs [n, 3]: prompt, chosen, rejected."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = rng.integers(2, 9, (PROMPTS, RESPONSES))
        self.reference = rng.normal(size=(PROMPTS, RESPONSES))
        rewards = rng.normal(size=(PROMPTS, RESPONSES))
        drawn = [(p, *rng.choice(RESPONSES, 2, replace=False)) for p in rng.integers(0, PROMPTS, PAIRS + HELD_OUT)]
        right = [rng.random() < 1 / (1 + math.exp(2 * (rewards[p, b] - rewards[p, a]))) for p, a, b in drawn]
        labelled = np.array([(p, a, b) if keep else (p, b, a) for (p, a, b), keep in zip(drawn, right, strict=True)])
        self.pairs, self.held_out = labelled[:PAIRS], labelled[PAIRS:]

    def rows(self, policy: np.ndarray, reference: np.ndarray, pairs: np.ndarray, rounded: bool) -> Rows:
        """Log-probabilities as of ten nats a response more than these few have: sequences are unlikely."""
        logps = [log_softmax(logits)[pairs[:, 0], pairs[:, side]] - 10 for logits in (policy, reference) for side in (1, 2)]
        lengths = [self.lengths[pairs[:, 0], pairs[:, side]] for side in (1, 2)]
        return Rows(*(map(bfloat16, logps) if rounded else logps), *lengths)


def measured(
    method: str, rows: Rows, settings: dict[str, float]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], dict[str, float]]:
    """Losses, their gradients for chosen and rejected, and the metrics of a batch."""
    given = rows._asdict() | settings
    policy = rows.policy_chosen_logps, rows.policy_rejected_logps
    ratios = policy[0] - rows.reference_chosen_logps, policy[1] - rows.reference_rejected_logps
    means = policy[0] / rows.chosen_lengths, policy[1] / rows.rejected_lengths
    if method == "kto":
        return measured_kto(rows, settings)
    operation = getattr(minipref, method)
    found = operation(**{name: given[name] for name in operation.inputs})
    gradients = found.grad_policy_chosen_logps, found.grad_policy_rejected_logps
    if method not in ("orpo", "simpo"):
        return found.losses, gradients, minipref.pair_monitors(*(settings["beta"] * ratio for ratio in ratios), *policy)
    scale = settings.get("odds_weight") or settings["beta"]
    monitors = minipref.pair_monitors(*(scale * mean for mean in means), *means)
    if method == "orpo":
        odds = float(-np.logaddexp(0, -found.log_odds_ratio).mean())
        monitors |= {"nll_loss": float(-means[0].mean()), "log_odds_ratio": odds}
    return found.losses, gradients, monitors


def measured_kto(rows: Rows, settings: dict[str, float]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], dict[str, float]]:
    """Each pair as a response that is desirable and one that is not."""
    policy, reference = np.concatenate(rows[:2]), np.concatenate(rows[2:4])
    point = max(0.0, float(np.roll(policy - reference, 1).mean()))
    desirable = np.arange(len(policy)) < len(policy) // 2
    found = minipref.kto(policy, reference, desirable, point, settings["beta"])
    chosen, rejected = np.split(found.rewards, 2)
    monitors = minipref.pair_monitors(chosen, rejected, *np.split(policy, 2))
    unpaired = {name: value for name, value in monitors.items() if name not in ("rewards/accuracies", "rewards/ties")}
    return found.losses, tuple(np.split(found.grad_policy_logps / 2, 2)), unpaired | {"kl": point}  # type: ignore[return-value]


def train(
    method: str, seed: int, faults: Faults | None = None, rounding: str = "all digits", window: int = 1, accumulated: int = 2
) -> Log:
    """The log of four epochs. The last batch of an epoch is a smaller one; a line averages `window` steps."""
    faults, world, rng = faults or Faults(), World(seed), np.random.default_rng(seed + 1)
    asked = {name: value for name, value in SETTINGS[method].items() if name != "rate"}
    settings, rate = faults.hyperparameters(asked), SETTINGS[method]["rate"] * faults.learning_rate_factor
    policy, reference, coarse = world.reference.copy(), world.reference.copy(), rounding == "bfloat16"
    log, waiting, step, tokens = Log(), list[dict[str, float]](), 0, 0
    steps_an_epoch = math.ceil(PAIRS / (4 * accumulated))
    for epoch in range(4):
        batches = np.array_split(rng.permutation(world.pairs), range(4, PAIRS, 4))
        for begin in range(0, len(batches), accumulated):
            parts, slope = batches[begin : begin + accumulated], np.zeros_like(policy)
            met = []
            for pairs in parts:
                rows = faults.rows(world.rows(policy, reference, pairs, coarse), rng)
                trained = faults.method_trained or method
                losses, gradients, metrics = measured(trained, rows, settings)
                for side, gradient in zip((1, 2), faults.gradients(*gradients), strict=True):
                    np.add.at(slope, (pairs[:, 0], pairs[:, side]), gradient / len(pairs) / len(parts))
                met.append(faults.metrics({"loss": float(faults.loss(losses).mean()), **metrics}))
                tokens += int(world.lengths[pairs[:, :1], pairs[:, 1:]].sum())
            slope = faults.gradient_factor * (slope - np.exp(log_softmax(policy)) * slope.sum(axis=1, keepdims=True))
            now = rate * (1 - step / (5 * steps_an_epoch))
            policy -= now * slope
            reference += faults.reference_step * (policy - reference)
            step += 1
            waiting.append({name: float(np.mean([m[name] for m in met])) for name in met[0]})
            if step % window == 0:
                means = {name: float(np.mean([m[name] for m in waiting])) for name in waiting[0]}
                clock = {"step": step, "epoch": epoch + (begin / accumulated + 1) / steps_an_epoch, "num_tokens": tokens}
                norm = float(np.linalg.norm(slope))
                log.append(faults.line({**clock, "learning_rate": now, "grad_norm": norm, **means}))
                waiting = []
        shown = faults.held_out_policy(policy, world.reference)
        rows = world.rows(shown, reference, world.held_out, coarse)
        losses, _, metrics = measured(trained, rows, settings)
        held_out = faults.metrics({"loss": float(faults.loss(losses).mean()), **metrics})
        log.append({"step": step, "epoch": epoch + 1.0} | {f"eval_{name}": value for name, value in held_out.items()})
    exact = {"step", "epoch", "num_tokens"}
    return [{name: x if name in exact else ROUNDINGS[rounding](x) for name, x in line.items()} for line in log]


def examined(folder: Path, log: Log | str, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report for programs."""
    file = folder / "metrics.jsonl"
    file.write_text(log if isinstance(log, str) else "".join(json.dumps(line) + "\n" for line in log), "utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = doctor.main([str(file), "--json", *options])
    return code, json.loads(out.getvalue())


def options_for(method: str) -> list[str]:
    """How the run of SETTINGS is described to the doctor."""
    asked = SETTINGS[method]
    options = ["--method", method, "--beta", str(asked.get("odds_weight") or asked["beta"])]
    options += ["--gamma", str(asked["gamma"])] if "gamma" in asked else []
    return options + (["--label-smoothing", str(asked["label_smoothing"])] if "label_smoothing" in asked else [])


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    return {law["law"]: law["verdict"] for law in report["laws"]}


def accused(report: dict[str, Any]) -> list[str]:
    return [
        f"{law['law']}: {finding['verdict']} {finding['text']}"
        for law in report["laws"]
        for finding in law["findings"]
        if finding["verdict"] in (BROKEN, SUSPICIOUS)
    ]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("method", SETTINGS)
def test_a_healthy_run_is_not_accused(method: str, rounding: str, sweep: bool, tmp_path: Path) -> None:
    for seed in range(40 if sweep else 2):
        window, accumulated = 1 + 2 * (seed % 2), 1 + seed % 3
        log = train(method, seed, rounding=rounding, window=window, accumulated=accumulated)
        code, report = examined(tmp_path, log, *options_for(method), "--batch-size", str(4 * accumulated * window))
        assert code == 0 and not accused(report), f"seed {seed}: {accused(report)}"
        code, report = examined(tmp_path, log)  # the method is a guess, if that
        assert code == 0, f"seed {seed}, guessed: {accused(report)}"


def faulty(**parts: Any) -> Faults:
    """A trainer with some parts broken."""
    broken = {name: staticmethod(part) if callable(part) else part for name, part in parts.items()}
    return type("Faulty", (Faults,), broken)()


def exchanged(numbers: Any) -> Any:
    """Chosen and rejected in each other's place, in rows, gradients or metrics."""
    if isinstance(numbers, Rows):
        return Rows(*(numbers[i] for i in (1, 0, 3, 2, 5, 4)))
    if isinstance(numbers, dict):
        other = {"rewards/chosen": "rewards/rejected", "logps/chosen": "logps/rejected"}
        other |= {b: a for a, b in other.items()}
        return {name: numbers[other.get(name, name)] for name in numbers}
    return numbers[::-1]


def only(name: str, change: Callable[[float], float]) -> Faults:
    """A trainer that logs one column wrong."""
    return faulty(metrics=lambda metrics: metrics | {name: change(metrics[name])})


def of_pairs_exchanged(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of the true pairs, from those of pairs that were exchanged."""
    right = 1 - metrics["rewards/accuracies"] - metrics["rewards/ties"]
    return exchanged(metrics) | {"rewards/margins": -metrics["rewards/margins"], "rewards/accuracies": right}


def with_noise(rows: Rows, rng: np.random.Generator) -> Rows:
    return rows._replace(policy_chosen_logps=rows.policy_chosen_logps + rng.normal(size=len(rows.chosen_lengths)))


def without_beta(metrics: dict[str, float], factor: float = 1 / 0.3) -> dict[str, float]:
    return {name: value * factor if name in (*REWARDS, "rewards/margins") else value for name, value in metrics.items()}


def own_reference(rows: Rows, rng: np.random.Generator) -> Rows:
    return rows._replace(reference_chosen_logps=rows[0], reference_rejected_logps=rows[1])


def no_reference(rows: Rows, rng: np.random.Generator) -> Rows:
    return rows._replace(reference_chosen_logps=0 * rows[0], reference_rejected_logps=0 * rows[1])


def falling(line: dict[str, float]) -> dict[str, float]:
    """Both log-probabilities sink by 0.3 nats a step, which no loss of their difference sees."""
    sunk = 0.3 * (line["step"] - 1)
    fall = {f"{part}logps/{side}": sunk for part in ("", "eval_") for side in ("chosen", "rejected")}
    fall |= {f"{part}rewards/{side}": 0.3 * sunk for part in ("", "eval_") for side in ("chosen", "rejected")}
    return {name: value - fall.get(name, 0.0) for name, value in line.items()}


def changed(name: str, change: Callable[[dict[str, float]], float]) -> Faults:
    """A trainer whose training lines have one column wrong."""
    return faulty(line=lambda line: line | ({name: change(line)} if name in line else {}))


class Case(NamedTuple):
    """What a trainer does, the law that shows it, what is said, and of which method."""

    deed: str
    law: str
    verdict: str
    method: str
    faults: Faults
    options: str = ""


FLIPPED = faulty(loss=lambda x: -x, gradients=lambda c, r: (-c, -r))
EXCHANGED = faulty(rows=lambda rows, rng: exchanged(rows), gradients=lambda c, r: (r, c), metrics=of_pairs_exchanged)
DOUBLED, HALVED = faulty(loss=lambda x: 2 * x, gradient_factor=2.0), faulty(loss=lambda x: x / 2, gradient_factor=0.5)
CASES = [
    Case("a flipped sign", "loss.sign", BROKEN, "dpo", FLIPPED),
    Case("a flipped sign", "loss.convex", BROKEN, "dpo", FLIPPED),
    Case("a flipped sign", "start.loss", BROKEN, "rso_hinge", FLIPPED),
    Case("a flipped sign of the gradient alone", "learning.falls", SUSPICIOUS, "dpo", faulty(gradient_factor=-1.0)),
    Case("losses summed over batches", "start.loss", BROKEN, "dpo", DOUBLED, "--gradient-accumulation 2"),
    Case("losses summed over batches", "start.loss", BROKEN, "ipo", DOUBLED),
    Case("losses summed over batches", "start.loss", SUSPICIOUS, "kto", DOUBLED),
    Case("losses summed over four batches", "loss.kto", SUSPICIOUS, "kto", faulty(loss=lambda x: 4 * x)),
    Case("losses divided twice", "start.loss", BROKEN, "cdpo", HALVED),
    Case("losses divided twice", "loss.convex", BROKEN, "simpo", HALVED),
    Case("a likelihood term added", "start.loss", SUSPICIOUS, "dpo", faulty(loss=lambda x: x + 0.4)),
    Case("pairs exchanged in the loss", "loss.convex", BROKEN, "dpo", EXCHANGED),
    Case("pairs exchanged in the loss", "loss.wrong-pairs", BROKEN, "dpo", EXCHANGED),
    Case("metrics exchanged", "pairs.margins", BROKEN, "dpo", faulty(metrics=exchanged)),
    Case("margins times β twice", "pairs.margins", BROKEN, "ipo", only("rewards/margins", lambda x: 0.3 * x)),
    Case("a class that some batches lack", "pairs.margins", EXPECTED, "kto", only("rewards/margins", lambda x: x + 0.1)),
    Case("accuracies turned round", "pairs.accuracies", BROKEN, "rso_hinge", only("rewards/accuracies", lambda x: 1 - x)),
    Case("accuracies turned round", "loss.wrong-pairs", BROKEN, "dpo", only("rewards/accuracies", lambda x: 1 - x)),
    Case(
        "accuracies of tokens",
        "pairs.grid",
        SUSPICIOUS,
        "dpo",
        only("rewards/accuracies", lambda x: 0.93 * x),
        "--batch-size 8",
    ),
    Case("smoothing ignored", "loss.wrong-pairs", BROKEN, "cdpo", faulty(method_trained="dpo", learning_rate_factor=5.0)),
    Case("another method's loss", "start.loss", BROKEN, "ipo", faulty(method_trained="dpo")),
    Case("another method's loss", "loss.convex", BROKEN, "rso_hinge", faulty(method_trained="dpo")),
    Case("another γ", "loss.convex", BROKEN, "simpo", Faults(), "--gamma 5"),
    Case("λ ignored", "loss.orpo", BROKEN, "orpo", faulty(hyperparameters=lambda asked: {"odds_weight": 1.0})),
    Case(
        "the odds term subtracted",
        "loss.orpo",
        BROKEN,
        "orpo",
        faulty(metrics=lambda m: m | {"loss": 2 * m["nll_loss"] - m["loss"]} if "nll_loss" in m else m),
    ),
    Case("another β", "reference.beta", BROKEN, "dpo", faulty(hyperparameters=lambda asked: {"beta": 0.5})),
    Case("rewards without β", "reference.beta", BROKEN, "kto", faulty(metrics=without_beta)),
    Case("rewards without β", "reference.logps", BROKEN, "dpo", faulty(metrics=without_beta, learning_rate_factor=5.0)),
    Case("rewards with a flipped sign", "reference.fixed", BROKEN, "dpo", faulty(metrics=lambda m: without_beta(m, -1.0))),
    Case("a reference that follows", "reference.fixed", BROKEN, "dpo", faulty(reference_step=0.2)),
    Case(
        "a reference that follows", "reference.epochs", SUSPICIOUS, "dpo", faulty(reference_step=1.0, learning_rate_factor=5.0)
    ),
    Case("the policy its own reference", "learning.moves", BROKEN, "dpo", faulty(rows=own_reference)),
    Case("no reference", "reference.present", BROKEN, "dpo", faulty(rows=no_reference)),
    Case("no reference", "start.rewards", SUSPICIOUS, "rso_hinge", faulty(rows=no_reference)),
    Case("dropout", "start.rewards", SUSPICIOUS, "dpo", faulty(rows=with_noise)),
    Case("an evaluation of the start", "learning.moves", BROKEN, "dpo", faulty(held_out_policy=lambda policy, start: start)),
    Case("a gradient that is cut", "grad-norm", BROKEN, "ipo", faulty(gradient_factor=0.0)),
    Case("a gradient that is cut", "grad-norm", SUSPICIOUS, "rso_hinge", faulty(gradient_factor=0.0)),
    Case("a gradient that is cut", "learning.moves", BROKEN, "dpo", faulty(gradient_factor=0.0)),
    Case("no learning rate", "learning-rate", BROKEN, "dpo", faulty(learning_rate_factor=0.0)),
    Case("no learning rate", "learning.moves", SUSPICIOUS, "dpo", faulty(learning_rate_factor=0.0)),
    Case(
        "a rate that rises again",
        "learning-rate",
        SUSPICIOUS,
        "dpo",
        changed("learning_rate", lambda line: 2 + math.cos(line["step"])),
    ),
    Case("steps that repeat", "counters", SUSPICIOUS, "dpo", changed("step", lambda line: line["step"] // 2)),
    Case("tokens counted anew", "counters", SUSPICIOUS, "simpo", changed("num_tokens", lambda line: line["num_tokens"] % 700)),
    Case("tokens not counted", "counters", SUSPICIOUS, "orpo", changed("num_tokens", lambda line: 640)),
    Case("NaN", "numbers.finite", BROKEN, "dpo", changed("loss", lambda line: math.nan if line["step"] > 9 else line["loss"])),
    Case("an overflow of float16", "numbers.finite", SUSPICIOUS, "dpo", changed("grad_norm", lambda line: math.inf)),
    Case("logits for logps", "numbers.range", BROKEN, "dpo", only("logps/chosen", lambda x: -x)),
    Case("a sum for a share", "numbers.range", BROKEN, "dpo", only("rewards/accuracies", lambda x: 4 * x)),
    Case("a divergence not clamped", "kl.sign", BROKEN, "kto", only("kl", lambda x: x - 0.5)),
    Case("nothing wrong", "start.ties", EXPECTED, "dpo", Faults()),
    Case("nothing wrong", "start.level", EXPECTED, "ipo", Faults()),
    Case("nothing wrong", "start.level", EXPECTED, "kto", Faults()),
    Case("nothing wrong", "loss.sign", EXPECTED, "robust_dpo", faulty(learning_rate_factor=15.0)),
    Case("what pairs share falls", "both-fall", EXPECTED, "dpo", faulty(line=falling)),
    Case("what pairs share falls", "chosen-negative", EXPECTED, "dpo", faulty(line=falling)),
    Case("a few pairs learned by heart", "margins-grow", EXPECTED, "dpo", faulty(learning_rate_factor=45.0)),
    Case("a few pairs learned by heart", "held-out", EXPECTED, "dpo", faulty(learning_rate_factor=45.0)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}, {case.deed}: {case.law}")
def test_what_was_broken_is_named(case: Case, tmp_path: Path) -> None:
    for seed in range(2):
        log = train(case.method, seed, case.faults)
        code, report = examined(tmp_path, log, *options_for(case.method), *case.options.split())
        assert verdicts(report)[case.law] == case.verdict, (verdicts(report), accused(report))
        assert code == (BROKEN in verdicts(report).values())
        if case.verdict == EXPECTED:
            assert not accused(report)


def test_over_several_steps_a_mean_proves_less(tmp_path: Path) -> None:
    """The last batch of an epoch may weigh more in the mean of the loss than in that of the margins."""
    for window, verdict in ((1, BROKEN), (3, SUSPICIOUS)):
        _, report = examined(tmp_path, train("dpo", 0, FLIPPED, window=window), "--method", "dpo")
        assert verdicts(report)["loss.convex"] == verdict


def test_what_follows_from_a_guess_is_no_proof(tmp_path: Path) -> None:
    """robust_dpo starts as dpo does, and then its loss is too small for it. A wrong margin is wrong for both."""
    log = train("robust_dpo", 0, faulty(learning_rate_factor=15.0))
    code, report = examined(tmp_path, log)
    assert (code, report["method"], report["guessed"]) == (0, "dpo", True) and verdicts(report)["loss.sign"] == SUSPICIOUS
    assert "the method is a guess" in accused(report)[0]
    assert examined(tmp_path, [line | {"rewards/margins": 3.0} for line in log])[0] == 1


def test_the_sign_of_the_odds_needs_no_weight(tmp_path: Path) -> None:
    log = [line | {"loss": 2 * line["nll_loss"] - line["loss"]} if "loss" in line else line for line in train("orpo", 0)]
    assert verdicts(examined(tmp_path, log)[1])["loss.orpo"] == BROKEN


def train_online(seed: int, reward: Callable[[np.ndarray], np.ndarray], estimate: str = "k3") -> Log:
    """grpo on responses of one token, groups of four, one step a group of prompts; the divergence as some estimate."""
    rng, log = np.random.default_rng(seed), Log()
    reference = rng.normal(size=(PROMPTS, RESPONSES))
    policy, rows = reference.copy(), np.arange(PROMPTS)[:, None]
    for step in range(1, 13):
        law = np.exp(log_softmax(policy))
        answers = np.array([rng.choice(RESPONSES, 4, p=p) for p in law])
        rewards = reward(answers).astype(float)
        advantages = minipref.advantages_grpo(rewards).advantages.reshape(-1)
        logps, old = (log_softmax(logits)[rows, answers].reshape(-1, 1) for logits in (policy, reference))
        found = minipref.grpo(logps, logps, old, advantages, np.ones(logps.shape, bool))
        slope = np.zeros_like(policy)
        np.add.at(slope, (np.broadcast_to(rows, answers.shape), answers), found.grad_logps.reshape(answers.shape))
        slope -= law * slope.sum(axis=1, keepdims=True)
        policy -= 0.05 * slope
        divergence = minipref.kl_estimates(logps[:, 0], old[:, 0])._asdict()[estimate]
        spread = {"reward": float(rewards.mean()), "reward_std": float(rewards.std()), "kl": float(divergence.mean())}
        clock = {"step": step, "learning_rate": 0.05, "grad_norm": float(np.linalg.norm(slope)), "clip_ratio/high_mean": 0.0}
        log.append({**clock, "loss": float(found.token_losses.mean()), **spread})
    return log


def even(answers: np.ndarray) -> np.ndarray:
    return answers % 2 == 0


def constant(answers: np.ndarray) -> np.ndarray:
    return 0 * answers


ONLINE = [
    ("online.loss", EXPECTED, "grpo", train_online(0, even)),
    ("online.spread", SUSPICIOUS, "grpo", train_online(0, constant)),
    ("grad-norm", SUSPICIOUS, "grpo", [line | {"grad_norm": 0.0} for line in train_online(0, constant)]),
    ("kl.sign", EXPECTED, "ppo", train_online(3, even, estimate="k1")),
    ("kl.sign", SUSPICIOUS, "grpo", train_online(3, even, estimate="k1")),
    ("numbers.range", BROKEN, "grpo", [line | {"clip_ratio/high_mean": 37.0} for line in train_online(0, even)]),
]


@pytest.mark.parametrize("law, verdict, method, log", ONLINE, ids=lambda x: x if isinstance(x, str) else "")
def test_policy_gradients_are_judged_by_their_own_laws(law: str, verdict: str, method: str, log: Log, tmp_path: Path) -> None:
    _, report = examined(tmp_path, log, "--method", method)
    assert verdicts(report)[law] == verdict, verdicts(report)
    assert [name.split(":")[0] for name in accused(report)] == [law] * (verdict != EXPECTED) or law in (
        "online.spread",
        "grad-norm",
    )


def test_healthy_policy_gradients_are_not_accused(tmp_path: Path) -> None:
    for seed in range(5):
        code, report = examined(tmp_path, train_online(seed, even))
        assert code == 0 and not accused(report) and report["method"] == "grpo"
        assert verdicts(report).keys() == {name for name, law in LAWS.items() if "grpo" in law.methods}


def test_every_law_is_seen_broken() -> None:
    assert {case.law for case in CASES} | {law for law, *_ in ONLINE} == LAWS.keys()
    assert all(law.law and law.cause and law.needs for law in LAWS.values())


# Some entries of what TRL 1.16.0 wrote in a run of its DPOTrainer, to ten digits.
TRL = """
loss grad_norm learning_rate rewards/chosen rewards/rejected rewards/accuracies rewards/margins logps/chosen logps/rejected step
0.6931471825 1.295684338 0.001 0.0 0.0 0.0 0.0 -26.19901848 -21.00784683 1
0.6645307541 0.9110454321 0.000966 0.02766840439 -0.03053456545 1.0 0.05820297264 -27.288867 -22.17742538 2
0.644018352 0.7967758179 0.000933 0.04706863128 -0.05391073413 1.0 0.1009793654 -25.27191734 -22.25193405 3

eval_loss eval_rewards/chosen eval_rewards/rejected eval_rewards/margins eval_logps/chosen eval_logps/rejected eval_runtime step
0.6422538161 0.0469349126 -0.05107882611 0.09801374003 -22.95592117 -23.50513903 0.0611 5
0.6245888472 0.0634550266 -0.06916232491 0.1326173507 -22.79071871 -23.68597476 0.0603 15
0.6026070714 0.09079521025 -0.08857353156 0.1793687517 -22.51731809 -23.8800869 0.0541 30

train_loss train_runtime total_flos step
0.601202786 1.7325 850357248.0 30
"""


def trainer_state(**changes: float) -> str:
    """As transformers writes it; changes go into the first entry."""
    history = []
    for table in TRL.strip().split("\n\n"):
        names, *rows = (line.split() for line in table.splitlines())
        history += [{name: json.loads(number) for name, number in zip(names, row, strict=True)} for row in rows]
    history[0] |= changes
    return json.dumps({"best_metric": None, "log_history": history, "stateful_callbacks": {"a": {"b": [1]}}}, indent=2) + "\n"


@pytest.mark.parametrize("options", ["", "--method sigmoid --beta 0.1 --batch-size 8"])
def test_a_state_of_trl_is_read(options: str, tmp_path: Path) -> None:
    code, report = examined(tmp_path, trainer_state(), *options.split())
    assert code == 0 and not accused(report) and (report["method"], report["guessed"]) == ("dpo", not options)
    assert {"reference.fixed", "loss.convex", "start.loss", "pairs.margins"} <= verdicts(report).keys()


def test_what_is_wrong_in_a_state_is_named_by_its_line(tmp_path: Path) -> None:
    code, report = examined(tmp_path, trainer_state(loss=5.545177444479562), "--method", "dpo", "--gradient-accumulation", "8")
    [finding] = next(law["findings"] for law in report["laws"] if law["law"] == "start.loss")
    assert code == 1 and finding["place"].endswith("metrics.jsonl:4")
    assert "dpo starts at 0.69315, of which this is 8 times, as many as batches are accumulated" in finding["text"]
    code, report = examined(tmp_path, trainer_state(), "--beta", "0.2")
    assert code == 1 and "rewards move by 0.0" in next(x for x in accused(report) if x.startswith("reference.beta"))


@pytest.mark.parametrize(
    "text",
    [
        '{"train/loss": 0.6931, "train/rewards/chosen": 0.0, "train/rewards/rejected": 0.0, "train/global_step": 1, "lr": 0.1}',
        '{"loss/train": 0.6931, "rewards_train/chosen": 0.0, "rewards_train/rejected": 0.0, "step": 0}',
        '{"loss": 0.6931, "chosen_reward": 0.0, "reject_reward": 0.0, "current_steps": 1, "acc": null, "note": "x"}',
        '{"eval_loss": 0.6931, "eval_rewards/chosen": 0.0, "eval_rewards/rejected": 0.0, "step": 0, "epoch": 0}',
        '{"eval_a_loss": 0.6931, "eval_a_runtime": 1, "eval_rewards/chosen": 0, "eval_rewards/rejected": 0.0, "step": 0}',
    ],
)
def test_other_spellings_are_understood(text: str, tmp_path: Path) -> None:
    code, report = examined(tmp_path, "\n" + text + "\n")
    assert code == 0 and report["method"] == "dpo" and verdicts(report)["start.loss"] == HOLDS


def refused(folder: Path, content: str | bytes, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    file = folder / "m.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code = doctor.main([str(file), *options])
    return code, capsys.readouterr().err.replace(f"{folder}/", "").splitlines()


GOOD = '{"loss": 0.5, "step": 1}\n'
BAD = [
    ("{", "not JSON: Expecting property name enclosed in double quotes"),
    ("[1]", "the line must be a JSON object, but is [1.0]"),
    ('{"loss": "0.5"}', "loss must be a number, but is '0.5'"),
    ('{"train/loss": true}', "train/loss must be a number, but is True"),
    ('{"loss": 1, "loss": 2}', "each field must stand once in an object, but they are loss, loss"),
    ('{"loss": 1e99999999999999999999}', "not JSON that can be read: a number too large, or too many brackets"),
    ('{"a": ' * 100_000, "not JSON that can be read: a number too large, or too many brackets"),
    (b'{"l\xff": 1}', "'utf-8' codec can't decode byte 0xff in position 3: invalid start byte"),
]


@pytest.mark.parametrize("line, reason", BAD, ids=[reason for _, reason in BAD])
def test_a_bad_line_is_named(line: str | bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = GOOD.encode() + (line if isinstance(line, bytes) else line.encode()) + b"\n" + GOOD.encode()
    assert refused(tmp_path, content, capsys) == (2, [f"python -m verify doctor: m.jsonl:2: {reason}"])


def test_all_bad_lines_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = refused(tmp_path, GOOD + "?\n" * 30, capsys)
    assert code == 2 and len(lines) == 21 and lines[19].startswith("m.jsonl:21: ") and lines[20] == "and 10 more"


def test_a_state_that_is_cut_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = trainer_state()
    for end in (whole.index("0.66453") + 3, whole.index("},") + 2, whole.index("]")):
        code, [said] = refused(tmp_path, whole[:end], capsys)
        place = 1 + whole[:end].count("\n")
        assert code == 2 and said.startswith(f"python -m verify doctor: m.jsonl:{place}: not JSON: "), said


@pytest.mark.parametrize(
    "options, reason",
    [
        ("--beta 0", "--beta must lie in [1e-9, 1e9], got 0.0"),
        ("--beta nan", "--beta must lie in [1e-9, 1e9], got nan"),
        ("--batch-size 0", "--batch-size must be >= 1, got 0"),
        ("--gradient-accumulation -1", "--gradient-accumulation must be >= 1, got -1"),
        ("--gamma 1", "--gamma must be simpo's, got 1.0"),
        ("--method dpo --label-smoothing 0.1", "--label-smoothing must be one of --method cdpo or robust_dpo, got 0.1"),
        ("--method cdpo", "--label-smoothing of cdpo must lie in [0, 0.5), got None"),
        ("--method robust --label-smoothing 0.5", "--label-smoothing of robust_dpo must lie in [0, 0.5), got 0.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(tmp_path, GOOD, capsys, *options.split()) == (2, [f"python -m verify doctor: {reason}"])


def test_nothing_to_check_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("", "\n\n", '{"step": 1, "speed": 3}\n', '{"train_runtime": 1, "train_loss": 0.5}'):
        code, [said] = refused(tmp_path, content, capsys)
        assert code == 3 and said == "python -m verify doctor: m.jsonl: no column has a usual name, nothing to check"
    assert doctor.main([str(tmp_path / "none.jsonl")]) == 2 and "none.jsonl" in capsys.readouterr().err


numbers = st.floats() | st.integers() | st.sampled_from([0.0, 0.5, 1.0, math.log(2), -1e308, 5e-324])
names = st.sampled_from(["loss", "step", "epoch", *REWARDS, "rewards/margins", "rewards/accuracies", "logps/chosen"])
names |= st.sampled_from(["logps/rejected", "learning_rate", "nll_loss", "log_odds_ratio", "kl", "reward_std", "eval_loss"])
lines = st.dictionaries(names | names.map("eval_{}".format) | st.text(max_size=5), numbers | st.none(), max_size=9)


@settings(max_examples=60, deadline=None)
@given(
    log=st.lists(lines, min_size=1, max_size=25), method=st.sampled_from(["", *SETTINGS, "grpo"]), tail=st.binary(max_size=9)
)
def test_any_file_ends_in_a_verdict(tmp_path_factory: pytest.TempPathFactory, log: Log, method: str, tail: bytes) -> None:
    file = tmp_path_factory.mktemp("any") / "m.jsonl"
    file.write_bytes("".join(json.dumps(line) + "\n" for line in log).encode() + tail)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert doctor.main(
            [str(file), *(options_for(method) if method in SETTINGS else ["--method", method] if method else [])]
        ) in (0, 1, 2, 3)


def test_the_command_shows_a_report_for_people(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in train("dpo", 0, only("rewards/margins", lambda x: 0.3 * x))))
    run = [sys.executable, "-m", "verify", "doctor"]
    # A short name, since what is told must fit its width wherever this test runs.
    here = {**os.environ, "PYTHONPATH": str(Path(doctor.__file__).resolve().parents[1])}
    asked: dict[str, Any] = {"cwd": tmp_path, "env": here, "capture_output": True, "text": True}
    ended = subprocess.run([*run, file.name, "--method", "dpo", "--beta", "0.3"], **asked)
    told = ended.stdout.splitlines()
    assert ended.returncode == 1 and not ended.stderr and max(map(len, told)) <= 120
    assert told[0] == "metrics.jsonl: 24 train lines, 4 eval lines; method dpo" and told[2] == "BROKEN      pairs.margins"
    assert "margin-times-beta-twice" in ended.stdout and "not checked for lack of --batch-size" in ended.stdout
    assert re.fullmatch(r"\d+ checks: \d+ hold, \d+ expected, 0 suspicious, \d broken", told[-1])
    shown = subprocess.run([*run, "--help"], capture_output=True, text=True).stdout
    assert "python -m verify doctor metrics.jsonl --method dpo --beta 0.1" in shown
