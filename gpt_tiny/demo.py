"""From nothing to a policy that is held against the truth: a world of text whose reward is known, and every law over it exact.

    python -m gpt_tiny demo --out out/demo

Writes the world's data, learns a tokenizer, a model of its responses (SFT), then its preferences (DPO), and asks the networks
for the probability of every response of the grammar to held-out prompts: expected rewards, divergences and win rates are sums,
not samples. π* is the best there is at that β, beside which DPO is put: π_sft e^{R/β} / Z, arXiv:2305.18290v3 equation 4.
"""

import argparse
import json
from collections.abc import Sequence
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
from .train import Settings, run
from .trainer import Optimization

SIZE = Config(vocab_size=400, context=64, width=96, layers=3, heads=4)
BETAS = np.geomspace(0.05, 20, 40)  # of the frontier
Laws = dict[str, np.ndarray]  # log-probabilities [P, K+1] by name: sft, dpo, best


class Effort(NamedTuple):
    """How much is learned and asked."""

    rows: int  # of SFT, and as many pairs
    epochs: int  # of each
    prompts: int  # held-out ones, all of whose responses are asked for


FULL, QUICK = Effort(6000, 3, 48), Effort(300, 1, 3)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m gpt_tiny demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="a new folder (default out/demo)")
    made.add_argument("--resume", action="store_true", help="go on with a demo that was stopped")
    made.add_argument("--beta", type=float, default=0.5, metavar="X", help="DPO's β (default 0.5)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="(default 0)")
    made.add_argument("--quick", action="store_true", help="seconds, in which little is learned")
    return made


def main(arguments: Sequence[str]) -> int:
    """Exit code 0. Raises what `run` does."""
    options = parser().parse_args(arguments)
    out, effort = options.out, QUICK if options.quick else FULL
    objective = Objective("dpo", {"beta": options.beta})
    world.write(out / "data", options.seed, effort.rows, effort.rows, max(100, effort.rows // 6))
    given: dict[str, Any] = {"epochs": effort.epochs, "batch_size": 32, "seed": options.seed}
    steady = Optimization(3e-3, schedule="cosine")
    run(Settings(str(out / "data/sft.jsonl"), Objective("sft", {}), steady, size=SIZE, **given), out / "sft", options.resume)
    preferences = Settings(
        str(out / "data/pairs.jsonl"),
        objective,
        Optimization(1e-3, schedule="cosine"),
        model=str(out / "sft"),
        evaluation=str(out / "data/test-pairs.jsonl"),
        **given,
    )
    run(preferences, out / "dpo", options.resume)

    prompts = [world.PROMPTS["test"][i] for i in np.random.default_rng(options.seed).permutation(len(world.PROMPTS["test"]))]
    prompts = prompts[: effort.prompts]
    models = {name: opened(out / name) for name in ("sft", "dpo")}
    laws = {name: law(*found, prompts) for name, found in models.items()}
    rewards = world.rewards(prompts)
    laws["best"] = optimal_policy(rewards, laws["sft"], options.beta).logps
    found = numbers(laws, rewards) | accuracies(out / "dpo/metrics.jsonl", rewards) | {"beta": options.beta}
    found["samples"] = {name: drawn(*models[name], prompts[:4], options.seed) for name in models}
    write_whole(out / "demo.json", json.dumps(found, indent=1) + "\n")
    print(report(found, prompts))
    print(f"\n{out / 'demo.json'}: all of it")
    if draw(out, laws, rewards, found):
        print(f"{out / 'demo.png'}: its figure")
    return 0


def opened(folder: Path) -> tuple[GPT, Tokenizer]:
    config, weights, tokenizer = load_model(folder)
    model = GPT(config).eval()
    model.load_weights(weights)
    return model, tokenizer


def law(model: GPT, tokenizer: Tokenizer, prompts: Sequence[str]) -> np.ndarray:
    """Log-probability of every response of the grammar, and at last of all other texts together [P, K+1]."""
    rows = []
    for prompt in prompts:
        responses = [[*tokenizer.encode(text), tokenizer.eos] for text in world.responses(prompt)]
        logps = scored(model, [(tokenizer.encode(prompt), responses)]).double().numpy()
        rows.append([*logps, np.log(max(1e-12, 1 - np.exp(logps).sum()))])
    return np.array(rows)


def numbers(laws: Laws, rewards: np.ndarray) -> dict[str, Any]:
    """Means over prompts, of each law: E[R], KL to SFT (nats), entropy (nats), how often it beats SFT, and says something else."""
    return {
        name: {
            "reward": float(world.expected(logps, rewards).mean()),
            "kl": float(world.divergence(logps, laws["sft"]).mean()),
            "entropy": float(world.entropy(logps).mean()),
            "wins": float(np.mean([win_rate(*row) for row in zip(logps, laws["sft"], rewards, strict=True)])),
            "outside the grammar": float(np.exp(logps[:, -1]).mean()),
        }
        for name, logps in laws.items()
    }


def win_rate(logps: np.ndarray, others: np.ndarray, rewards: np.ndarray) -> float:
    """How often a response of one law has more reward than one of another; half of the ties count. [K+1] each."""
    wins = (rewards[:, None] > rewards).astype(float) + 0.5 * (rewards[:, None] == rewards)
    return float(np.exp(logps) @ wins @ np.exp(others))


def accuracies(metrics: Path, rewards: np.ndarray) -> dict[str, float]:
    """Of the implicit rewards on held-out pairs, and the most that anyone can have who does not know the labels."""
    last = json.loads(metrics.read_text("utf-8").splitlines()[-1])
    limit = world.bayes_accuracy(rewards, np.tile(world.BASE_LOGPS, (len(rewards), 1))).mean()
    return {"accuracy": last["eval_rewards/accuracies"], "bayes accuracy": float(limit), "held-out loss": last["eval_loss"]}


def drawn(model: GPT, tokenizer: Tokenizer, prompts: Sequence[str], seed: int) -> list[str]:
    ids = sample(model, [tokenizer.encode(prompt) for prompt in prompts], tokenizer.eos, 40, seed=seed)
    return [tokenizer.decode(row[:-1] if row[-1] == tokenizer.eos else row) for row in ids]


def report(found: dict[str, Any], prompts: Sequence[str]) -> str:
    """The numbers as a table, and what was said before and after."""
    titles = {"sft": "SFT", "dpo": "DPO", "best": f"π* at β = {found['beta']:g}"}
    lines = ["law                 E[R]  KL(·‖SFT)  entropy  beats SFT  other texts"]
    for name, title in titles.items():
        row = found[name]
        lines.append(
            f"{title:<16}{row['reward']:8.3f}{row['kl']:11.3f}{row['entropy']:9.3f}{row['wins']:11.1%}{row['outside the grammar']:13.2%}"
        )
    share = (found["dpo"]["reward"] - found["sft"]["reward"]) / (found["best"]["reward"] - found["sft"]["reward"])
    lines += [
        "",
        f"DPO gains {share:.0%} of what π* gains in reward, at {found['dpo']['kl'] / found['best']['kl']:.0%} of its divergence.",
    ]
    lines += [f"Held-out pairs ranked rightly: {found['accuracy']:.1%}; who knows the reward: {found['bayes accuracy']:.1%}."]
    for i, prompt in enumerate(prompts[:4]):
        lines += ["", prompt, *(f"  {titles[name]}:{texts[i]}" for name, texts in found["samples"].items())]
    return "\n".join(lines)


def draw(out: Path, laws: Laws, rewards: np.ndarray, found: dict[str, Any]) -> bool:
    """Training, reward against divergence beside the exact frontier, accuracy, and rewards before and after; False without
    matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    sheet = Figure(figsize=(10, 7), layout="constrained")
    training, frontier, accuracy, spread = sheet.subplots(2, 2).flat
    for name in ("sft", "dpo"):
        lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text("utf-8").splitlines()]
        training.plot([line["epoch"] for line in lines], [line["loss"] for line in lines], lw=1, label=name.upper())
        held_out = [(line["epoch"], line["eval_rewards/accuracies"]) for line in lines if "eval_loss" in line]
        accuracy.plot(*zip(*held_out, strict=True), "o-", color="C1", label="DPO, held-out pairs") if held_out else None
    training.set(title="training loss", xlabel="epoch", ylabel="nats (SFT: a token; DPO: a pair)")
    exact = world.frontier(rewards, laws["sft"], BETAS)
    frontier.plot(*exact.T, color="0.6", label="the most there is")
    for name, mark in (("sft", "s"), ("dpo", "o"), ("best", "*")):
        frontier.plot(found[name]["kl"], found[name]["reward"], mark, ms=9, label={"best": "π* at β"}.get(name, name.upper()))
    frontier.set(title="reward against divergence, exact", xlabel="KL(·‖SFT), nats", ylabel="E[R]")
    accuracy.axhline(found["bayes accuracy"], color="0.6", ls="--", label="who knows the reward")
    accuracy.axhline(0.5, color="0.8", ls=":")
    accuracy.set(title="pairs ranked rightly", xlabel="epoch", ylim=(0.45, 1.0))
    bins = np.linspace(rewards.min(), rewards.max(), 40)
    for name, title in (("sft", "SFT"), ("dpo", "DPO"), ("best", "π* at β")):
        spread.hist(
            rewards.ravel(), bins, weights=np.exp(laws[name]).ravel() / len(rewards), histtype="step", lw=1.6, label=title
        )
    spread.set(title="rewards of what is said", xlabel="R", ylabel="probability")
    for ax in (training, frontier, accuracy, spread):
        ax.legend(frameon=False, fontsize=8)
        ax.grid(alpha=0.25)
    image = BytesIO()
    sheet.savefig(image, dpi=120)
    write_whole(out / "demo.png", image.getvalue())
    return True
