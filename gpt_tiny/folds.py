"""Every pair of real data is held out once, from a tokenizer, SFT and DPO that see the other folds alone.

fold-1/, ...    train.jsonl, held-out.jsonl, the runs sft and dpo, and dropped.jsonl: pairs held out that are the same once cut
scores.jsonl    a line a pair, from which all that follows
folds.json      the report on them; folds.png its figure
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import data
from .checkpoint import file_digest, load_model, write_whole
from .margins import Score, bag_of_words, report
from .methods import Objective
from .model import GPT
from .model_by_hand import Config
from .packed import Group
from .reference import scored
from .tokenizer import Tokenizer
from .train import Settings, enter, run, say
from .trainer import Optimization

ON_LONG = "truncate-response"


@dataclass(frozen=True)
class Plan:
    """All that decides the scores. The defaults were set before any fold of seed 0 was scored, but for sft_epochs, then 3:
    with 2 all is done in a quarter of an hour on two cores."""

    data: str
    folds: int = 3
    sft_epochs: int = 2
    dpo_epochs: int = 2
    sft_lr: float = 1e-3
    dpo_lr: float = 3e-4
    beta: float = 0.1
    batch_size: int = 16
    vocab_size: int = 2048
    context: int = 320
    width: int = 176
    layers: int = 4
    heads: int = 4
    seed: int = 0

    def stages(self, folder: Path) -> dict[str, Settings]:
        """What is trained in a fold's folder, one after the other. ValueError for a number out of range."""
        size = Config(self.vocab_size, self.context, self.width, self.layers, self.heads)
        rows, cosine = str(folder / "train.jsonl"), Optimization(self.sft_lr, schedule="cosine")
        stage = partial(Settings, rows, batch_size=self.batch_size, on_long=ON_LONG, seed=self.seed)
        dpo = Objective("dpo", {"beta": self.beta}), Optimization(self.dpo_lr)
        return {
            "sft": stage(Objective("sft", {}), cosine, size=size, epochs=self.sft_epochs),
            "dpo": stage(*dpo, model=str(folder / "sft"), epochs=self.dpo_epochs),
        }


def train_and_score(plan: Plan, out: Path, resume: bool = False) -> dict[str, Any]:
    """What folds.json has. ValueError for data that are not pairs, and all that `data.split` and `train.run` raise."""
    split = data.split(data.load(plan.data), plan.folds, plan.seed)
    folds = [[row for row in fold if isinstance(row, data.Pair)] for fold in split]
    if not all(folds):
        raise ValueError(f"data must be pairs, but {plan.data} has rows of {type(split[0][0]).__name__}")
    plan.stages(out)
    enter(out, {"settings": asdict(plan), "data sha256": file_digest(plan.data)}, resume)
    scores, counts = list[Score](), Counter[str]()
    for k, held_out in enumerate(folds, 1):
        others = [row for fold in folds if fold is not held_out for row in fold]
        train(plan, out / f"fold-{k}", others, held_out, resume)
        scores += score(plan, k, out / f"fold-{k}", others, held_out, counts)
    found = {"held out": counts, **report(scores)}
    write_whole(out / "scores.jsonl", _lines(one._asdict() for one in scores))
    write_whole(out / "folds.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
    draw(scores, found, out / "folds.png")
    return found


def train(plan: Plan, folder: Path, others: Sequence[data.Pair], held_out: Sequence[data.Pair], resume: bool) -> None:
    """Both runs of a fold, or what is left of them."""
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", others), ("held-out", held_out)):
        fields = ({"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected} for row in rows)
        write_whole(folder / f"{name}.jsonl", _lines(fields))
    for name, settings in plan.stages(folder).items():
        say(f"{folder / name}")
        run(settings, folder / name, resume)


def score(
    plan: Plan, fold: int, folder: Path, others: Sequence[data.Pair], held_out: Sequence[data.Pair], counts: Counter[str]
) -> list[Score]:
    """Of a fold's own pairs, whose numbers, and those of what was dropped or cut, are added to the counts."""
    (policy, tokenizer), (reference, _) = (_model(folder / name) for name in ("dpo", "sft"))
    tokenized = data.tokenize(held_out, tokenizer.encode, tokenizer.eos, plan.context, ON_LONG)
    data.write_dropped(folder / "dropped.jsonl", tokenized.dropped)
    counts.update({name: len(listed) for name, listed in tokenized._asdict().items()})
    groups = plan.stages(folder)["dpo"].objective.groups(tokenized.rows)
    texts = {row.place: (row.chosen, row.rejected) for row in held_out}
    word_margins = bag_of_words([(row.chosen, row.rejected) for row in others], [texts[row.place] for row in tokenized.rows])
    margins = _margins(plan, policy, reference, groups)
    scores = []
    for row, group, *both in zip(tokenized.rows, groups, margins, word_margins.tolist(), strict=True):
        lengths = [len(text) for text in (*texts[row.place], *group[1])]
        scores.append(Score(fold, row.place.line, *both, *lengths))
    return scores


def _margins(plan: Plan, policy: GPT, reference: GPT, groups: Sequence[Group]) -> list[float]:
    parts = [groups[i : i + plan.batch_size] for i in range(0, len(groups), plan.batch_size)]
    bar = tqdm(parts, "held out", unit="batch", leave=False, disable=None)
    log_ratios = torch.cat([scored(policy, part) - scored(reference, part) for part in bar])
    return (plan.beta * (log_ratios[::2] - log_ratios[1::2])).tolist()


def _model(folder: Path) -> tuple[GPT, Tokenizer]:
    config, weights, tokenizer = load_model(folder)
    model = GPT(config)
    model.load_weights(weights)
    return model, tokenizer


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def draw(scores: Sequence[Score], found: dict[str, Any], figure: Path) -> None:
    """The accuracies, and each pair's margin over its lengths; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    sheet = Figure(figsize=(10, 4), layout="constrained")
    told, pairs = sheet.subplots(1, 2)
    rows = found["accuracies"]
    values, errors = ([row[name] for row in rows.values()] for name in ("accuracy", "error"))
    told.errorbar(values, list(rows), xerr=errors, fmt="o", capsize=2)
    told.axvline(0.5, color="grey", linewidth=0.8)
    told.invert_yaxis()
    told.set(xlabel="right about pairs held out (± standard error)")
    fewer = [score.rejected_tokens - score.chosen_tokens for score in scores]
    pairs.scatter(fewer, [score.margin for score in scores], s=4, alpha=0.4, linewidths=0)
    pairs.axhline(0, color="grey", linewidth=0.8)
    pairs.set(xlabel="tokens of the rejected response - of the chosen one", ylabel="margin (nats)")
    part = figure.with_suffix(".part.png")
    sheet.savefig(part, dpi=110)
    part.replace(figure)
