"""A step is what the formulas say, from plain logits to the weights after it, and however it is computed, but for rounding."""

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn import functional as F

from gpt_tiny import reference as references
from gpt_tiny import train
from gpt_tiny.checkpoint import last_checkpoint, load_model
from gpt_tiny.data import Place, TokenizedCompletion, TokenizedPair, TokenizedRow
from gpt_tiny.methods import METHODS, Objective
from gpt_tiny.model import GPT
from gpt_tiny.model_by_hand import AdamW, Config, Grads, initial_weights
from gpt_tiny.reference import cached, copied, scored
from gpt_tiny.sampling import sample
from gpt_tiny.train import Settings, run
from gpt_tiny.trainer import Diverged, Optimization, Step, Trainer

CONFIG = Config(vocab_size=29, context=18, width=16, layers=2, heads=2)
EOS = 28

# No default among them: what is ignored shows.
HYPERPARAMETERS: dict[str, dict[str, float]] = {
    "sft": {},
    "dpo": {"beta": 0.3},
    "cdpo": {"beta": 0.3, "label_smoothing": 0.15},
    "robust_dpo": {"beta": 0.3, "label_smoothing": 0.15},
    "ipo": {"beta": 0.4},
    "ipo_length_normalized": {"beta": 0.4},
    "rso_hinge": {"beta": 0.3},
    "plackett_luce_dpo": {"beta": 0.3},
    "orpo": {"odds_weight": 0.6},
    "simpo": {"beta": 2.5, "gamma": 0.7},
    "sppo": {"eta": 3.0},
    "kto": {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.8},
}
EVERY = pytest.mark.parametrize("method", HYPERPARAMETERS)
REFERENCED = [method for method in HYPERPARAMETERS if method not in ("sft", "orpo", "simpo")]


def objective(method: str, autograd: bool = False) -> Objective:
    return Objective(method, HYPERPARAMETERS[method], autograd)


def model(seed: int = 8, dropout: float = 0.0) -> GPT:
    """In float64, with no gain of 1, no bias of 0 and attention far from uniform."""
    rng, start = np.random.default_rng(seed), initial_weights(CONFIG, seed, np.float64)
    gpt = GPT(CONFIG, dropout).double()
    gpt.load_weights({name: 5 * weight + 0.1 * rng.standard_normal(weight.shape) for name, weight in start.items()})
    return gpt


def rows_for(method: str, count: int = 7) -> list[TokenizedRow]:
    """Of all lengths; two share a prompt, and the next row's prompt does not fit before every completion."""
    rng = np.random.default_rng(3)

    def ids(length: int) -> list[int]:
        return rng.integers(0, EOS, length).tolist()

    prompts = [ids(1 + 5 * n % 12) for n in range(count)]
    prompts[4:5] = prompts[1:2]
    texts = [[[*ids((3 + 4 * n + more) % 8), EOS] for more in (0, 3)] for n in range(count)]
    places = [Place("rows.jsonl", n) for n in range(1, count + 1)]
    if method == "kto":
        return [
            TokenizedCompletion(*row, n % 3 != 1)
            for n, row in enumerate(zip(places, prompts, (t[0] for t in texts), strict=True))
        ]
    return [TokenizedPair(place, prompt, *pair) for place, prompt, pair in zip(places, prompts, texts, strict=True)]


def trainer(method: str, policy: GPT, reference: GPT | None = None, steps: Sequence[Step] = (), **more: Any) -> Trainer:
    """The reference is another model, where none is given."""
    asked = objective(method, more.pop("autograd", False))
    answers = copied(reference or model(3)) if asked.needs_reference else None
    course = more.pop("optimization", Optimization(1e-3))
    return Trainer(policy, asked, rows_for(method), steps, course, answers, **more)


# --- What a step is, from plain logits ---------------------------------------------------------------------------------------


def logps(gpt: GPT, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> Tensor:
    """[N], summed over tokens of each response, from rows padded at their right."""
    lengths = torch.tensor([[len(prompt), len(prompt) + len(ids)] for prompt, ids in zip(prompts, responses, strict=True)])
    at = torch.arange(int(lengths.max()))
    rows = [[*prompt, *ids, *[0] * len(at)][: len(at)] for prompt, ids in zip(prompts, responses, strict=True)]
    tokens, starts, ends = torch.tensor(rows), lengths[:, :1], lengths[:, 1:]
    every = F.log_softmax(gpt(tokens, at < ends)[:, :-1], dim=-1).gather(2, tokens[:, 1:, None])[..., 0]
    return (every * ((at >= starts) & (at < ends))[:, 1:]).sum(dim=1)


def both(gpt: GPT, rows: Sequence[Any]) -> Tensor:
    """[N, 2], of chosen and rejected."""
    responses = [ids for row in rows for ids in (row.chosen_ids, row.rejected_ids)]
    return logps(gpt, [row.prompt_ids for row in rows for _ in range(2)], responses).reshape(-1, 2)


def judged(gpt: GPT, rows: Sequence[Any]) -> Tensor:
    return logps(gpt, [row.prompt_ids for row in rows], [row.completion_ids for row in rows])


def lengths_of(rows: Sequence[Any]) -> Tensor:
    return torch.tensor([[len(row.chosen_ids), len(row.rejected_ids)] for row in rows])


log_sigmoid = F.logsigmoid


def plackett_luce(a: Tensor, b: Tensor) -> Tensor:
    return -torch.log(torch.exp(0.3 * a) / (torch.exp(0.3 * a) + torch.exp(0.3 * b)))


def odds_ratio(w: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    return -w - 0.6 * log_sigmoid(torch.log(w.exp() / (1 - w.exp())) - torch.log(l.exp() / (1 - l.exp())))


# From log-ratios a and b of the chosen and the rejected, from means over tokens of those, or from means of log-probabilities.
OF_RATIOS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dpo": lambda a, b: -log_sigmoid(0.3 * (a - b)),
    "cdpo": lambda a, b: -0.85 * log_sigmoid(0.3 * (a - b)) - 0.15 * log_sigmoid(0.3 * (b - a)),
    "robust_dpo": lambda a, b: (-0.85 * log_sigmoid(0.3 * (a - b)) + 0.15 * log_sigmoid(0.3 * (b - a))) / 0.7,
    "ipo": lambda a, b: (a - b - 1.25) ** 2,
    "rso_hinge": lambda a, b: (1 - 0.3 * (a - b)).clamp(min=0),
    "plackett_luce_dpo": plackett_luce,
    "sppo": lambda a, b: ((a - 1.5) ** 2 + (b + 1.5) ** 2) / 2,
}
OF_MEAN_RATIOS = {"ipo_length_normalized": OF_RATIOS["ipo"]}
OF_MEANS = {"orpo": odds_ratio, "simpo": lambda w, l: -log_sigmoid(2.5 * (w - l) - 0.7)}  # noqa: E741


def divergence(policy: GPT, reference: GPT, rows: Sequence[Any]) -> float:
    """KTO's z₀: each completion behind the next row's prompt, of which the end is kept that fits."""
    completions = [row.completion_ids for row in rows]
    others = zip([*rows[1:], rows[0]], completions, strict=True)
    prompts = [other.prompt_ids[-(policy.config.context - len(ids)) :] for other, ids in others]
    return max(0.0, (logps(policy, prompts, completions) - logps(reference, prompts, completions)).mean().item())


def judged_losses(policy: GPT, reference: GPT, rows: Sequence[Any]) -> Tensor:
    ratios, point = judged(policy, rows) - judged(reference, rows).detach(), divergence(policy, reference, rows)
    signs, weights = torch.tensor([[1.0, 1.3] if row.label else [-1.0, 0.8] for row in rows], dtype=torch.float64).T
    return weights * (1 - torch.sigmoid(0.3 * (ratios - point) * signs))


def pair_losses(method: str, policy: GPT, reference: GPT, rows: Sequence[Any]) -> Tensor:
    numbers = both(policy, rows)
    if method in OF_MEANS:
        return OF_MEANS[method](*(numbers / lengths_of(rows)).T)
    ratios = numbers - both(reference, rows).detach()
    return OF_RATIOS[method](*ratios.T) if method in OF_RATIOS else OF_MEAN_RATIOS[method](*(ratios / lengths_of(rows)).T)


def loss_by_textbook(method: str, policy: GPT, reference: GPT, rows: Sequence[Any]) -> Tensor:
    if method == "sft":
        return -both(policy, rows)[:, 0].sum() / lengths_of(rows)[:, 0].sum()
    return (judged_losses(policy, reference, rows) if method == "kto" else pair_losses(method, policy, reference, rows)).mean()


def gradient(gpt: GPT) -> Grads:
    return {name: p.grad.numpy().copy() for name, p in gpt.named_parameters() if p.grad is not None}


def norm(grads: Grads) -> float:
    return math.sqrt(sum(float((grad**2).sum()) for grad in grads.values()))


def textbook(method: str, policy: GPT, rows: Sequence[Any]) -> tuple[float, Grads]:
    """The loss of some rows and its gradient, by automatic differentiation of the formula on plain logits."""
    policy.zero_grad()
    loss = loss_by_textbook(method, policy, model(3), rows)
    loss.backward()
    grads = gradient(policy)
    policy.zero_grad()
    return loss.item(), grads


def apart(left: Grads, right: Grads) -> float:
    """The norm of their difference, as a share of the right one's."""
    assert left.keys() == right.keys()
    return norm({name: left[name] - right[name] for name in left}) / norm(right)


@EVERY
def test_loss_and_gradient_are_the_textbooks_however_many_rows_are_computed_at_once(method: str) -> None:
    """Seven rows at once, or three parts and a ragged one: KTO's reference point and sft's tokens are those of all."""
    loss, grads = textbook(method, model(), rows_for(method))
    for size in (7, 3):
        made = trainer(method, model(), size=size)
        got, _ = made.measure(made.rows, learn=True)
        assert abs(got - loss) <= 1e-12 * abs(loss)
        assert apart(gradient(made.model), grads) <= 1e-12


@EVERY
def test_gradients_of_pytorch_are_the_hand_written_ones(method: str) -> None:
    made = [trainer(method, model(), autograd=autograd) for autograd in (False, True)]
    (loss, _), (right, _) = (one.measure(one.rows, learn=True) for one in made)
    by_hand, by_autograd = (gradient(one.model) for one in made)
    assert abs(loss - right) <= 1e-13 * abs(right)
    assert apart(by_hand, by_autograd) <= 1e-12


LOG_2, LOG_V = math.log(2), math.log(CONFIG.vocab_size)
FIRST = {"dpo": LOG_2, "cdpo": LOG_2, "robust_dpo": LOG_2, "plackett_luce_dpo": LOG_2, "rso_hinge": 1.0}  # h is 0
FIRST |= {"ipo": 1.25**2, "ipo_length_normalized": 1.25**2, "sppo": 1.5**2}  # (1/2β)², (η/2)²
FIRST |= {"kto": (5 * 1.3 + 2 * 0.8) / 2 / 7}  # half a weight, of five desirable and two others
FIRST |= {"sft": LOG_V, "orpo": LOG_V + 0.6 * LOG_2, "simpo": math.log1p(math.exp(0.7))}  # of a uniform model


@EVERY
def test_the_first_loss_is_the_number_that_everybody_knows(method: str) -> None:
    start = model()
    if method not in REFERENCED:
        torch.nn.init.zeros_(start.wte.weight)
    made = trainer(method, start, start, [Step(1.0, [*range(7)])])
    assert abs(made.step()["loss"] - FIRST[method]) <= 1e-12


STEPS = [Step(0.5, [0, 3, 5, 6]), Step(1.0, [1, 2, 4]), Step(1.5, [6, 5]), Step(2.0, [0, 1, 2, 3, 4])]
COURSE = Optimization(4e-3, warmup=0.5, schedule="cosine", betas=(0.8, 0.95), weight_decay=0.1, clip=0.7)
RATES = [2e-3, 4e-3, 4e-3, 2e-3]  # half, all; then cosine from 1 down to 0, which no step reaches


@EVERY
def test_steps_are_those_of_adamw_on_the_textbooks_gradients(method: str) -> None:
    """Warm-up, schedule, clipping, decay; losses, norms, rates, and the weights at the end."""
    made, twin, rows = trainer(method, model(), steps=STEPS, optimization=COURSE, size=2), model(), rows_for(method)
    weights = twin.weights()
    moments = AdamW(1.0).start(weights)
    tokens = 0
    for step, rate in zip(STEPS, RATES, strict=True):
        chosen = [rows[i] for i in step.rows]
        loss, grads = textbook(method, twin, chosen)
        met = made.step()
        tokens += sum(len(prompt) + len(ids) for prompt, responses in made.objective.groups(chosen) for ids in responses)
        right = {"loss": loss, "grad_norm": norm(grads), "learning_rate": rate, "num_tokens": tokens, "epoch": step.epoch}
        assert {name: met[name] for name in right} == pytest.approx(right, rel=1e-9)

        clipped = {name: grad * min(1.0, 0.7 / (norm(grads) + 1e-6)) for name, grad in grads.items()}
        weights, moments = AdamW(rate, (0.8, 0.95), weight_decay=0.1).step(weights, clipped, moments)
        twin.load_weights(weights)
    got = made.model.weights()
    assert all(np.all(abs(got[name] - weights[name]) <= 1e-9) for name in weights)


@EVERY
def test_a_run_with_pytorchs_gradients_is_the_run_with_ours(method: str) -> None:
    made = [trainer(method, model(), steps=STEPS, autograd=autograd) for autograd in (False, True)]
    for _ in STEPS:
        left, right = (one.step() for one in made)
        assert left == pytest.approx(right, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(
    "schedule, shares", [("constant", [1, 1, 1]), ("linear", [1, 0.5, 0.125]), ("cosine", [1, 0.5, 0.0380602])]
)
def test_the_rate_rises_in_a_line_and_falls_as_scheduled(schedule: str, shares: list[float]) -> None:
    course = Optimization(0.1, warmup=0.2, schedule=schedule)
    assert [course.rate(step, 10) for step in (0, 1)] == pytest.approx([0.05, 0.1])
    assert [course.rate(step, 10) for step in (2, 6, 9)] == pytest.approx([0.1 * share for share in shares], rel=1e-5)
    assert Optimization(0.1, warmup=1.0, schedule=schedule).rate(9, 10) == pytest.approx(0.1)
    assert Optimization(0.1, warmup=0.0, schedule=schedule).rate(0, 10) == pytest.approx(0.1)


# --- Metrics -----------------------------------------------------------------------------------------------------------------

SCALES = {"ipo": 0.4, "ipo_length_normalized": 0.4, "orpo": 0.6, "simpo": 2.5, "sppo": 1 / 3}  # of rewards; else β = 0.3


@pytest.mark.parametrize("method", [method for method in HYPERPARAMETERS if method not in ("sft", "kto")])
def test_metrics_of_pairs_have_trls_names_and_are_means(method: str) -> None:
    policy, reference, rows = model(), model(3), rows_for(method)
    _, met = trainer(method, model(), size=3).measure(rows)

    numbers, others = (both(gpt, rows).detach().numpy() for gpt in (policy, reference))
    by_token = numbers / lengths_of(rows).numpy()
    rewards = SCALES.get(method, 0.3) * (numbers - others if method in REFERENCED else by_token)
    right = dict(zip(["rewards/chosen", "rewards/rejected"], rewards.mean(axis=0), strict=True))
    right |= dict(zip(["logps/chosen", "logps/rejected"], numbers.mean(axis=0), strict=True))
    right |= {"rewards/margins": (rewards[:, 0] - rewards[:, 1]).mean(), "rewards/ties": 0.0}
    right |= {"rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).mean()}
    assert 0 < right["rewards/accuracies"] < 1
    assert met == pytest.approx(right, rel=1e-11)


def test_metrics_of_judged_completions() -> None:
    policy, reference, rows = model(), model(3), rows_for("kto")
    _, met = trainer("kto", model(), size=3).measure(rows)
    numbers, others = (judged(gpt, rows).detach().numpy() for gpt in (policy, reference))
    good = np.array([row.label for row in rows])
    right = {"logps/chosen": numbers[good].mean(), "logps/rejected": numbers[~good].mean()}
    rewards = 0.3 * (numbers - others)
    right |= {"rewards/chosen": rewards[good].mean(), "rewards/rejected": rewards[~good].mean()}
    right |= {"rewards/margins": right["rewards/chosen"] - right["rewards/rejected"], "kl": divergence(policy, reference, rows)}
    assert right["kl"] > 0 and len(rows[2].prompt_ids) + len(rows[1].completion_ids) > CONFIG.context
    assert met == pytest.approx(right, rel=1e-11)
    only_good = trainer("kto", model()).measure([row for row in rows if row.label])[1]
    assert set(only_good) == {"logps/chosen", "rewards/chosen", "kl"}


# --- A run, from files to files ----------------------------------------------------------------------------------------------

WORDS = "the cat dog sat on mat red blue big small ran far away home".split()


def written(path: Path, count: int, method: str, seed: int = 0) -> Path:
    """Pairs, or judged completions, of which the first five are desirable."""
    rng = np.random.default_rng(seed)
    prompts, texts, others = ([" " + " ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(count)] for _ in range(3))
    if method == "kto":
        rows: list[dict[str, Any]] = [
            {"prompt": a, "completion": b, "label": n < 5 or n % 2 == 0}
            for n, (a, b) in enumerate(zip(prompts, texts, strict=True))
        ]
    else:
        rows = [{"prompt": a, "chosen": b, "rejected": c + "."} for a, b, c in zip(prompts, texts, others, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of both kinds, to learn and to measure, and the model that sft makes of it."""
    folder = tmp_path_factory.mktemp("train")
    for method in ("dpo", "kto"):
        written(folder / f"{method}.jsonl", 10, method)
        written(folder / f"{method}-held-out.jsonl", 11, method, seed=1)
    size = Config(vocab_size=270, context=32, width=16, layers=2, heads=2)
    run(settings(folder, "sft", size=size, model=None, epochs=3, optimization=Optimization(1e-2)), folder / "sft")
    return folder


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than any run here; that of `place` is drawn."""
    monkeypatch.setattr(train, "draw", lambda metrics, figure: False)


def settings(place: Path, method: str = "dpo", **changes: Any) -> Settings:
    data = place / f"{'kto' if method == 'kto' else 'dpo'}.jsonl"
    given = {"model": str(place / "sft"), "batch_size": 4, "dtype": "float64", "dropout": 0.1, **changes}
    return Settings(**({"data": str(data), "objective": objective(method), "optimization": Optimization(3e-3)} | given))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def same_ending(left: Path, right: Path) -> bool:
    """Weights, moments and random state, to the bit."""
    (one, _), (other, _) = (last_checkpoint(folder / "checkpoints") for folder in (left, right))
    assert one is not None and other is not None and one.arrays.keys() == other.arrays.keys()
    for group, arrays in one.arrays.items():
        assert arrays.keys() == other.arrays[group].keys()
        assert all(np.array_equal(x, other.arrays[group][name]) for name, x in arrays.items())
    return (left / "weights.npz").read_bytes() == (right / "weights.npz").read_bytes()


def test_a_run_leaves_a_line_a_step_and_a_model(place: Path) -> None:
    lines = metrics(place / "sft")
    assert [line["step"] for line in lines] == [*range(1, 10)]
    assert [line["epoch"] for line in lines] == pytest.approx([n / 3 for n in range(1, 10)])
    assert list(lines[0]) == ["step", "epoch", "loss", "grad_norm", "learning_rate", "num_tokens"]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    config, weights, tokenizer = load_model(place / "sft")
    assert (config.context, config.width, config.vocab_size) == (32, 16, tokenizer.vocab_size)
    assert weights["wte.weight"].dtype == np.float64 and (place / "sft" / "dropped.jsonl").read_text() == ""
    assert (place / "sft" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method, rank", [("dpo", 0), ("kto", 0), ("dpo", 3), ("kto", 3)])
def test_however_a_reference_is_asked_the_run_is_the_same(method: str, rank: int, place: Path, tmp_path: Path) -> None:
    """In the epoch in which a cached number was computed in the company in which it is asked for: to the bit."""
    ways = ["cached", "copy", "offload", *["lora"] * bool(rank)]
    for way in ways:
        run(settings(place, method, reference=way, lora_rank=rank), tmp_path / way)
    for way in ways[1:]:
        assert same_ending(tmp_path / "cached", tmp_path / way), way
        assert metrics(tmp_path / "cached") == metrics(tmp_path / way)


def test_in_later_epochs_a_cached_reference_differs_by_rounding(place: Path, tmp_path: Path) -> None:
    for way in ("cached", "copy"):
        run(settings(place, "kto", reference=way, epochs=3), tmp_path / way)
    for left, right in zip(metrics(tmp_path / "cached"), metrics(tmp_path / "copy"), strict=True):
        assert left == pytest.approx(right, rel=1e-11, abs=1e-12)


def test_a_cache_is_read_only_where_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(references, "scored", lambda model, groups: asked.append(len(groups)) or scored(model, groups))
    one, other = objective("dpo").groups(rows_for("dpo"))[:2]
    start, path = model(), tmp_path / "reference.npz"
    right = scored(start, [one])

    def computed(gpt: GPT, batches: Any, precision: str = "float64") -> int:
        """How many batches a cache of this model asks it for."""
        asked.clear()
        answers = cached(gpt, batches, path, precision)
        assert torch.equal(answers([one]), scored(gpt, [one]))
        return len(asked)

    assert computed(start, [[one], [one], [other]]) == 2  # of what was asked before, nothing again
    assert computed(start, [[one], [one], [other]]) == 0
    assert computed(start, [[one]]) == 1 and computed(start, [[one]], "bfloat16") == 1
    changed = model()
    with torch.no_grad():
        changed.ln_f.bias[0] += 1e-9
    assert computed(changed, [[one]], "bfloat16") == 1
    assert computed(changed, [[one]], "bfloat16") == 0
    assert torch.equal(scored(start, [one]), right)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_evaluation_is_of_all_held_out_rows_and_changes_nothing(method: str, place: Path, tmp_path: Path) -> None:
    """Not a mean over batches: some have no undesirable completion, and tokens and KTO's reference point are those of all."""
    held_out = place / f"{'kto' if method == 'kto' else 'dpo'}-held-out.jsonl"
    for name, evaluation in (("without", None), ("with", str(held_out))):
        run(settings(place, method, evaluation=evaluation, epochs=2), tmp_path / name)
    assert same_ending(tmp_path / "without", tmp_path / "with")
    plain, evaluated = metrics(tmp_path / "without"), metrics(tmp_path / "with")
    assert plain == [{name: x for name, x in line.items() if not name.startswith("eval_")} for line in evaluated]
    assert [line["step"] for line in evaluated if "eval_loss" in line] == [3, 6]

    config, weights, tokenizer = load_model(tmp_path / "with")
    gpts = [GPT(config).double() for _ in range(2)]
    for gpt, found in zip(gpts, (weights, load_model(place / "sft")[1]), strict=True):
        gpt.load_weights(found)
    rows = train.data.tokenize(train.data.load(held_out), tokenizer.encode, tokenizer.eos, config.context).rows
    right = {"eval_loss": loss_by_textbook(method, *gpts, rows).item()}
    if method == "kto":
        good = judged(gpts[0], [row for row in rows if getattr(row, "label", False)]).mean().item()
        right |= {"eval_kl": divergence(*gpts, rows), "eval_logps/chosen": good}
    if method == "dpo":
        right |= {"eval_logps/chosen": both(gpts[0], rows)[:, 0].mean().item()}
    assert {name: evaluated[-1][name] for name in right} == pytest.approx(right, rel=1e-10)


def test_half_precision_stays_near_and_is_used(place: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        run(settings(place, dtype=dtype, dropout=0.0, epochs=3), tmp_path / dtype)
    single, half = (metrics(tmp_path / dtype) for dtype in ("float32", "bfloat16"))
    assert half[0]["loss"] == pytest.approx(LOG_2, abs=1e-6)
    assert [line["loss"] for line in half] == pytest.approx([line["loss"] for line in single], rel=0.02)
    assert [line["logps/chosen"] for line in half] == pytest.approx([line["logps/chosen"] for line in single], rel=0.01)
    assert half[0]["logps/chosen"] != single[0]["logps/chosen"]
    assert load_model(tmp_path / "bfloat16")[1]["wte.weight"].dtype == np.float32


@pytest.mark.sweep
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_it_is_the_same(place: Path, tmp_path: Path) -> None:
    for compiled in (False, True):
        run(settings(place, compile=compiled, dropout=0.0, dtype="float32", epochs=2), tmp_path / str(compiled))
    for left, right in zip(metrics(tmp_path / "True"), metrics(tmp_path / "False"), strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-5)
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)


# --- What is not finite ------------------------------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    made = trainer("dpo", model(dropout=0.1), steps=STEPS)
    made.step()
    before = made.state()
    with torch.no_grad():
        made.model.h[1].mlp.c_fc.weight[2, 3] = math.nan
    with pytest.raises(Diverged, match=r"^step 2: loss is nan, .*; the batch: rows.jsonl:2, rows.jsonl:3, rows.jsonl:5$"):
        made.step()
    after = made.state()
    after["weights"]["h.1.mlp.c_fc.weight"][2, 3] = before["weights"]["h.1.mlp.c_fc.weight"][2, 3]
    assert all(np.array_equal(x, after[group][name]) for group, arrays in before.items() for name, x in arrays.items())
    assert not any(p.grad is not None and p.grad.any() for p in made.model.parameters())


def test_a_finite_loss_with_a_gradient_that_is_not_stops_too() -> None:
    made = trainer("dpo", model(), steps=STEPS)
    made.model.wpe.weight.register_hook(lambda grad: grad / 0)
    with pytest.raises(Diverged, match=r"^step 1: loss is \d+\.\d+, its gradient's norm (nan|inf); the batch: rows.jsonl:1, "):
        made.step()
    assert made.done == 0


def test_a_run_that_is_not_finite_keeps_the_state_before_and_meets_it_again(place: Path, tmp_path: Path) -> None:
    wild = settings(place, dtype="float32", optimization=Optimization(1e30, warmup=0.0), epochs=2)
    messages = []
    for resume in (False, True):
        with pytest.raises(Diverged) as stopped:
            run(wild, tmp_path, resume)
        messages.append(str(stopped.value))
    assert messages[0] == messages[1]
    assert re.fullmatch(r"step 2: loss is (nan|inf), .*; the batch: (\S*dpo\.jsonl:\d+(, )?)+", messages[0])
    saved, damaged = last_checkpoint(tmp_path / "checkpoints")
    assert saved is not None and saved.step == 1 and not damaged and len(metrics(tmp_path)) == 1
    assert not (tmp_path / "weights.npz").exists()

    tame = settings(place, dtype="float32", optimization=Optimization(1e30, warmup=0.0), epochs=2, save_every=1)
    with pytest.raises(Diverged):
        run(tame, tmp_path / "saved")
    other, _ = last_checkpoint(tmp_path / "saved" / "checkpoints")
    assert other is not None
    for group, arrays in saved.arrays.items():
        assert all(np.isfinite(x).all() and np.array_equal(x, other.arrays[group][name]) for name, x in arrays.items())


# --- Sampling ----------------------------------------------------------------------------------------------------------------

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]


def greedy(gpt: GPT, prompt: list[int], most: int) -> list[int]:
    """Token by token from the plain model, each prompt alone."""
    ids = list(prompt)
    while len(ids) < len(prompt) + most and ids[len(prompt) :][-1:] != [EOS]:
        tokens = torch.tensor([ids])
        ids.append(int(gpt(tokens, torch.ones_like(tokens, dtype=torch.bool))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("seed", range(4))
def test_temperature_0_takes_the_likeliest_and_eos_ends(seed: int) -> None:
    gpt = model(seed)
    if seed == 3:
        with torch.no_grad():  # so that EOS comes early
            gpt.wte.weight[EOS] = 0.6 * gpt.ln_f(gpt.hidden(*ones(PROMPTS[1])))[0, -1]
    right = [greedy(gpt, prompt, 12) for prompt in PROMPTS]
    assert sample(gpt, PROMPTS, EOS, 12, temperature=0) == right
    if seed == 3:
        assert any(ids[-1] == EOS and len(ids) < 12 for ids in right) and EOS not in right[0][:-1]
    assert [len(ids) for ids in sample(gpt, [[1] * 15], 99, 12, temperature=0)] == [3]  # to the end of the context


def ones(prompt: list[int]) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([prompt])
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.5, 0), (2.0, 0), (1.0, 5), (0.7, 3), (1.0, 99)])
def test_tokens_are_drawn_as_often_as_the_model_says(temperature: float, top_k: int) -> None:
    gpt, count = model(), 4000
    drawn = [ids[0] for ids in sample(gpt, [PROMPTS[0]] * count, EOS, 1, temperature, top_k, seed=5)]
    logits = gpt(*ones(PROMPTS[0]))[0, -1].detach().numpy() / temperature
    if 0 < top_k < len(logits):
        logits[np.argsort(logits)[:-top_k]] = -np.inf
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum() * count
    found = np.bincount(drawn, minlength=CONFIG.vocab_size)
    assert not found[expected == 0].any()
    often = expected >= 5
    rare = (found[~often].sum(), expected[~often].sum())
    groups = np.array([*zip(found[often], expected[often], strict=True), *([rare] if rare[1] > 0.5 else [])])
    groups[:, 1] *= groups[:, 0].sum() / groups[:, 1].sum()
    assert len(groups) >= 3 and chisquare(groups[:, 0], groups[:, 1]).pvalue > 1e-3


def test_samples_are_the_seeds_alone() -> None:
    gpt = model(dropout=0.3)
    gpt.train()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sample(gpt, PROMPTS, EOS, 12, seed=7)
    assert torch.equal(state, torch.get_rng_state()) and gpt.training
    torch.manual_seed(2)
    assert sample(gpt, PROMPTS, EOS, 12, seed=7) == first != sample(gpt, PROMPTS, EOS, 12, seed=8)


# --- What is refused ---------------------------------------------------------------------------------------------------------


def sized(**changes: Any) -> Settings:
    given = {"data": "d", "objective": objective("dpo"), "optimization": Optimization(1e-3), "model": "m", **changes}
    return Settings(**given)


REFUSED: dict[str, Callable[[], object]] = {
    "method must be one of sft, dpo, cdpo, robust_dpo, ": lambda: Objective("ppo", {}),
    "dpo: hyperparameters must be ['beta'], got a difference in ['gamma']": lambda: Objective(
        "dpo", {"beta": 0.1, "gamma": 1.0}
    ),
    "simpo: hyperparameters must be ['beta', 'gamma'], got a difference in ['gamma']": lambda: Objective(
        "simpo", {"beta": 2.0}
    ),
    "dpo: beta must lie in (0, inf), got 0.0": lambda: Objective("dpo", {"beta": 0.0}),
    "dpo: beta must lie in (0, inf), got nan": lambda: Objective("dpo", {"beta": math.nan}),
    "cdpo: label_smoothing must lie in [0, 0.5), got 0.5": lambda: Objective("cdpo", {"beta": 0.1, "label_smoothing": 0.5}),
    "lr must be finite and > 0, got 0.0": lambda: Optimization(0.0),
    "lr must be finite and > 0, got nan": lambda: Optimization(math.nan),
    "lr must be finite and > 0, got inf": lambda: Optimization(math.inf),
    "warmup must be finite and in [0, 1], got 2.0": lambda: Optimization(1.0, warmup=2.0),
    "schedule must be finite and one of constant, linear, cosine, got 'step'": lambda: Optimization(1.0, schedule="step"),
    "betas must be finite and in [0, 1), got (0.9, 1.0)": lambda: Optimization(1.0, betas=(0.9, 1.0)),
    "eps must be finite and >= 1e-8, got 0.0": lambda: Optimization(1.0, eps=0.0),
    "weight_decay must be finite and >= 0, got -0.1": lambda: Optimization(1.0, weight_decay=-0.1),
    "clip must be finite and > 0, got 0.0": lambda: Optimization(1.0, clip=0.0),
    "epochs must be >= 1, got 0": lambda: sized(epochs=0),
    "batch_size must be >= 1, got 0": lambda: sized(batch_size=0),
    "accumulation must be >= 1, got 0": lambda: sized(accumulation=0),
    "save_every must be >= 1, got 0": lambda: sized(save_every=0),
    "seed must be in [0, 2**63), got -1": lambda: sized(seed=-1),
    "dropout must be in [0, 1), got 1.0": lambda: sized(dropout=1.0),
    "dropout must be in [0, 1), got nan": lambda: sized(dropout=math.nan),
    "lora_rank must be >= 0, got -1": lambda: sized(lora_rank=-1),
    "device must be one of those there are: cpu": lambda: sized(device="tpu"),
    "dtype must be one of float32, bfloat16, float64, got 'float16'": lambda: sized(dtype="float16"),
    "reference must be one of cached, copy, offload, lora, got 'frozen'": lambda: sized(reference="frozen"),
    "reference must be another way than lora without lora_rank, got 'lora'": lambda: sized(reference="lora"),
    "reference must be left out with simpo, which has none, got 'copy'": lambda: sized(
        objective=objective("simpo"), reference="copy"
    ),
    "quantize_base must be left out without lora_rank, got 'nf4'": lambda: sized(quantize_base="nf4"),
    "lora_alpha must be left out without lora_rank, got 8.0": lambda: sized(lora_alpha=8.0),
    "model must be a folder where no size is given, and not beside one, got 'm'": lambda: sized(size=CONFIG),
    "model must be a folder where no size is given, and not beside one, got None": lambda: sized(model=None),
    "max_tokens must be in [1, 2**63), got 0": lambda: sample(model(), PROMPTS, EOS, 0),
    "temperature must be in [0, 2**63), got -1.0": lambda: sample(model(), PROMPTS, EOS, 3, -1.0),
    "temperature must be in [0, 2**63), got nan": lambda: sample(model(), PROMPTS, EOS, 3, math.nan),
    "top_k must be in [0, 2**63), got -1": lambda: sample(model(), PROMPTS, EOS, 3, 1.0, -1),
    "prompts: must hold 1 to 17 tokens each, got [1, 20]": lambda: sample(model(), [[1], [1] * 20], EOS, 3),
    "prompts: must hold 1 to 17 tokens each, got [0]": lambda: sample(model(), [[]], EOS, 3),
    "prompts: must hold 1 to 17 tokens each, got []": lambda: sample(model(), [], EOS, 3),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_out_of_range_is_refused_by_name(message: str) -> None:
    with pytest.raises(ValueError) as error:
        REFUSED[message]()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("method, rows, message", [
    ("dpo", rows_for("kto"), "rows.jsonl:1: dpo needs pairs, got TokenizedCompletion True"),
    ("kto", rows_for("dpo"), "rows.jsonl:1: kto needs judged completions, got TokenizedPair"),
    ("sft", rows_for("kto")[1:], "rows.jsonl:2: sft needs something to learn, got TokenizedCompletion False"),
])  # fmt: skip
def test_rows_of_which_a_method_can_make_nothing_are_refused(method: str, rows: list[TokenizedRow], message: str) -> None:
    with pytest.raises(ValueError) as error:
        objective(method).groups(rows)
    assert str(error.value) == message


def test_every_method_is_here() -> None:
    assert set(HYPERPARAMETERS) == {"sft", *METHODS}
    assert REFERENCED == [method for method in HYPERPARAMETERS if objective(method).needs_reference]
    assert replace(sized(), seed=3).seed == 3
