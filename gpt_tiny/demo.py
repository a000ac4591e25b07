"""From nothing to a policy that is held against the truth: a world of text whose reward is known, and every law over it exact.

    python -m gpt_tiny demo --out out/demo

Writes the world's data, learns a tokenizer, a model of its responses (SFT), then its preferences (DPO), and asks the networks
for the probability of every response to held-out prompts: rewards, divergences, win rates are sums. Beside them stands what is
drawn from the networks, ± half the 95 % interval. π* is the best there is, π_sft e^{R/β} / Z: arXiv:2305.18290v3 equation 4.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minipref import optimal_policy

from . import world
from .checkpoint import load_model, write_whole
from .methods import Objective
from .model import GPT
from .model_by_hand import Config
from .reference import scored
from .sampling import sample
from .tokenizer import Tokenizer
from .train import Settings, enter, run
from .trainer import Optimization

Array = np.ndarray
Model = tuple[GPT, Tokenizer]

SIZE = Config(vocab_size=640, context=64, width=128, layers=2, heads=4)
TITLES = {"data": "data", "sft": "SFT", "dpo": "DPO", "best": "π*"}
RIGHT = np.array([*(choices.claim == 0 for choices in world.CHOICES), False])


class Effort(NamedTuple):
    """How much is learned, and asked of how many held-out prompts."""

    sft: int  # rows,
    epochs: int  # so often
    pairs: int
    test_pairs: int
    prompts: int
    samples: int  # to each of them


FULL, QUICK = Effort(6000, 3, 6000, 1000, 24, 10), Effort(200, 1, 200, 50, 3, 4)


class Truth(NamedTuple):
    """What is known of P held-out prompts."""

    prompts: list[str]
    rewards: Array  # [P, K+1]
    laws: dict[str, Array]  # log-probabilities [P, K+1], by the keys of TITLES


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m gpt_tiny demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="a new folder (default out/demo)")
    made.add_argument("--resume", action="store_true", help="go on with a demo that was stopped")
    made.add_argument("--beta", type=float, default=1.0, metavar="X", help="DPO's β (default 1)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="(default 0)")
    made.add_argument("--quick", action="store_true", help="seconds, in which little is learned")
    return made


def main(arguments: Sequence[str]) -> int:
    """Exit code 0. Raises what `run` does."""
    options = parser().parse_args(arguments)
    out, effort, began = options.out, QUICK if options.quick else FULL, time.monotonic()
    learn(out, effort, options.beta, options.seed, options.resume)
    models = [opened(out / name) for name in ("sft", "dpo")]
    prompts = [world.PROMPTS["test"][12 * fact + fact % 12] for fact in range(effort.prompts)]  # of each fact one
    truth = known([law(*model, prompts) for model in models], prompts, options.beta)
    found = {"beta": options.beta, "exact": exact(truth, options.beta)}
    found["pairs"] = accuracies(truth, out / "dpo/metrics.jsonl", effort.test_pairs)
    found["drawn"], found["texts"] = drawn(models, prompts, effort.samples, options.seed)
    found["seconds"] = time.monotonic() - began
    write_whole(out / "demo.json", json.dumps(found, indent=1) + "\n")
    print(f"{report(found)}\n\n{out / 'demo.json'}: all numbers")
    if draw(out, truth, found):
        print(f"{out / 'demo.svg'}, demo.png: the figure")
    return 0


def learn(out: Path, effort: Effort, beta: float, seed: int, resume: bool) -> None:
    """The folders data, sft and dpo. Nothing is written where `out` holds another demo, or this one and is not resumed."""
    data, start = out / "data", out / "sft"
    sft, dpo = (Optimization(lr, schedule="cosine", betas=(0.9, 0.98)) for lr in (5e-3, 5e-4))
    new = Settings(str(data / "sft.jsonl"), Objective("sft", {}), sft, size=SIZE, seed=seed)
    new = replace(new, epochs=effort.epochs, batch_size=32)
    preferred = Settings(str(data / "pairs.jsonl"), Objective("dpo", {"beta": beta}), dpo, str(start), seed=seed)
    preferred = replace(preferred, evaluation=str(data / "test-pairs.jsonl"))
    enter(out, {"effort": [*effort], "beta": beta, "seed": seed}, resume)
    world.write(data, seed, effort.sft, effort.pairs, effort.test_pairs)
    run(new, start, resume)
    run(preferred, out / "dpo", resume)


def opened(folder: Path) -> Model:
    config, weights, tokenizer = load_model(folder)
    model = GPT(config).eval()
    model.load_weights(weights)
    return model, tokenizer


def law(model: GPT, tokenizer: Tokenizer, prompts: Sequence[str]) -> Array:
    """Log-probability of every response, and last of all other texts together [P, K+1]. A response in other tokens than those
    that `encode` makes of it counts there."""
    rows = []
    for prompt in prompts:
        responses = [[*tokenizer.encode(text), tokenizer.eos] for text in world.responses(prompt)]
        logps = scored(model, [(tokenizer.encode(prompt), responses)]).double().numpy()
        rows.append([*logps, math.log(max(1e-12, 1 - np.exp(logps).sum()))])
    return np.array(rows)


def known(laws: Sequence[Array], prompts: list[str], beta: float) -> Truth:
    """Beside the laws of SFT and DPO that of the data, and π* of SFT."""
    rewards = world.rewards(prompts)
    with np.errstate(divide="ignore"):
        data = np.log(np.tile(world.BASE, (len(prompts), 1)))
    best = optimal_policy(rewards, laws[0], beta).logps
    return Truth(prompts, rewards, dict(zip(TITLES, (data, *laws, best), strict=True)))


def exact(truth: Truth, beta: float) -> dict[str, dict[str, float]]:
    """Means over prompts, by law: E[R], KL to SFT and entropy in nats, E[R] - β KL, how often it beats SFT, what it says."""
    found = {}
    for name, logps in truth.laws.items():
        means = {"reward": world.expected(logps, truth.rewards), "kl": world.divergence(logps, truth.laws["sft"])}
        means |= {"objective": means["reward"] - beta * means["kl"], "entropy": world.entropy(logps)}
        means["wins"] = np.array([wins(*row) for row in zip(logps, truth.laws["sft"], truth.rewards, strict=True)])
        means |= {"right answer": np.exp(logps) @ RIGHT, "other text": np.exp(logps[:, -1])}
        found[name] = {mean: float(values.mean()) for mean, values in means.items()}
    return found


def wins(logps: Array, others: Array, rewards: Array) -> float:
    """How often a response of one law has more reward than one of another [K+1]; half of the ties count."""
    return float(np.exp(logps) @ (1 + np.sign(rewards[:, None] - rewards)) @ np.exp(others) / 2)


def drawn(models: Sequence[Model], prompts: list[str], size: int, seed: int) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """`estimates` from so many responses of SFT and DPO to each prompt, cut at 40 tokens, and of both the first."""
    tokenizer, spoken = models[0][1], [prompt for prompt in prompts for _ in range(size)]
    asked = [tokenizer.encode(prompt) for prompt in spoken]
    ids = [sample(model, asked, tokenizer.eos, 40, seed=2 * seed + n) for n, (model, _) in enumerate(models)]
    texts = [[tokenizer.decode(i for i in row if i != tokenizer.eos) for row in rows] for rows in ids]
    sft, dpo = (np.reshape([*map(world.reward, spoken, said)], (-1, size)) for said in texts)
    groups = [(prompt, [row]) for prompt, row in zip(asked, ids[1], strict=True)]
    of_sft, of_dpo = (scored(model, groups).double().numpy().reshape(-1, size) for model, _ in models)
    firsts = zip(*(said[::size] for said in texts), strict=True)
    return estimates(sft, dpo, of_dpo - of_sft, prompts), dict(zip(prompts, map(list, firsts), strict=True))


def estimates(sft: Array, dpo: Array, log_ratios: Array, prompts: Sequence[str]) -> dict[str, Any]:
    """What `exact` sums, from rewards and log π_dpo/π_sft [P, S] of S responses to each prompt."""
    samples = {"SFT's reward": sft, "reward": dpo, "kl": log_ratios, "wins": (1 + np.sign(dpo - sft)) / 2}
    by_prompt = {prompt: interval(row[None]) for prompt, row in zip(prompts, log_ratios, strict=True)}
    return {name: interval(values) for name, values in samples.items()} | {"kl by prompt": by_prompt}


def interval(samples: Array) -> tuple[float, float]:
    """The mean of [P, S], and 1.96 of its standard errors: prompts are given, what is said to each is drawn."""
    return float(samples.mean()), 1.96 * math.sqrt(samples.var(axis=1, ddof=1).mean() / samples.size)


def accuracies(truth: Truth, metrics: Path, pairs: int) -> dict[str, Any]:
    """How often the implicit reward ranks pairs as labelled, beside the most that anyone can: those held out; all, exactly."""
    right = json.loads(metrics.read_text("utf-8").splitlines()[-1])["eval_rewards/accuracies"]
    implicit, rewards = truth.laws["dpo"] - truth.laws["sft"], truth.rewards
    return {
        "held out": (right, 1.96 * math.sqrt(right * (1 - right) / pairs)),
        "held out, at most": float(world.accuracy(rewards, rewards).mean()),
        "all": float(world.accuracy(implicit, rewards, world.BASE).mean()),
        "all, at most": float(world.accuracy(rewards, rewards, world.BASE).mean()),
    }


def report(found: dict[str, Any]) -> str:
    """The numbers as a table, and what was said before and after."""
    rows, said, pairs = found["exact"], found["drawn"], found["pairs"]
    lines = ["law         E[R]  KL(·‖SFT)  entropy  beats SFT  right answer  other text"]
    for name, row in rows.items():
        head = f"{TITLES[name]:8}{row['reward']:8.3f}{row['kl']:11.3f}{row['entropy']:9.3f}"
        lines.append(f"{head}{row['wins']:11.1%}{row['right answer']:14.1%}{row['other text']:12.2%}")
    reward, divergence, often = ("{:.3f} ± {:.3f}".format(*said[name]) for name in ("reward", "kl", "wins"))
    start, got, best = ([rows[name][of] for of in ("objective", "reward")] for name in ("sft", "dpo", "best"))
    shares = [(b - a) / (c - a) for a, b, c in zip(start, got, best, strict=True)]
    held_out = "{:.3f} ± {:.3f}".format(*pairs["held out"])
    lines += [
        f"drawn from DPO: E[R] {reward}, KL {divergence}, beats SFT {often}",
        f"π* at β = {found['beta']:g}: DPO gains {shares[0]:.0%} of what it gains in E[R] - β KL, {shares[1]:.0%} in E[R]",
        f"held-out pairs ranked as labelled: {held_out}, at most {pairs['held out, at most']:.3f}",
        f"all pairs of responses, exactly: {pairs['all']:.3f}, at most {pairs['all, at most']:.3f}",
    ]
    for prompt, texts in [*found["texts"].items()][::5]:
        lines += ["", prompt, *(f"  {name}:{text}" for name, text in zip(("SFT", "DPO"), texts, strict=True))]
    return "\n".join(lines)


def draw(out: Path, truth: Truth, found: dict[str, Any]) -> bool:
    """demo.svg and demo.png; False, and no file, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    sheet = Figure(figsize=(10, 7), layout="constrained")
    (losses, accuracy), (frontier, spread) = panels = sheet.subplots(2, 2)
    metrics = [json.loads(line) for line in (out / "dpo/metrics.jsonl").read_text("utf-8").splitlines()]
    for axes, name in ((losses, "loss"), (accuracy, "rewards/accuracies")):
        means = [np.mean([line[name] for line in metrics[max(0, i - 25) : i + 1]]) for i in range(len(metrics))]
        axes.plot(means, label="training, mean of 25 steps")
        axes.plot(len(means) - 1, metrics[-1][f"eval_{name}"], "o", label="held-out pairs")
    losses.set(title="DPO's loss", xlabel="step", ylabel="nats")
    accuracy.axhline(found["pairs"]["held out, at most"], color="0.5", ls="--", label="who knows the reward")
    accuracy.set(title="Pairs ranked as labelled", xlabel="step", ylim=(0.45, 0.95))
    most = world.frontier(truth.rewards, truth.laws["sft"], np.geomspace(0.1, 50, 60))
    frontier.plot(*most.T, color="0.6", label="the most there is")
    for name, mark in (("sft", "s"), ("dpo", "o"), ("best", "*")):
        frontier.plot(found["exact"][name]["kl"], found["exact"][name]["reward"], mark, ms=9, label=TITLES[name])
        weights = np.exp(truth.laws[name]).ravel() / len(truth.prompts)
        spread.hist(truth.rewards.ravel(), 36, weights=weights, histtype="step", lw=1.6, label=TITLES[name])
    frontier.set(title="Reward against divergence, exact", xlabel="KL(·‖SFT) (nats)", ylabel="E[R]")
    spread.set(title="Rewards of what is said, exact", xlabel="R", ylabel="probability")
    for axes in panels.flat:
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
    for kind in ("svg", "png"):
        image = BytesIO()
        sheet.savefig(image, format=kind, dpi=120)
        write_whole(out / f"demo.{kind}", image.getvalue())
    return True
