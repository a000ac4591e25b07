"""A run and its folder: data and model in, checkpoints and metrics on the way, a model out; killed at any instant, it goes on.

run.json        every setting, and hashes of data, start and tokenizer: what a run may be resumed with
dropped.jsonl   rows that were not used, each with its reason
reference.npz   the reference's log-probabilities, where they are cached
metrics.jsonl   a line a step, under TRL's names
checkpoints/    the last two states
config.json, weights.npz, vocab.json, merges.txt, curves.png    what it ends with
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from tqdm import tqdm

from . import data, rewards
from .checkpoint import (
    digest,
    file_digest,
    last_checkpoint,
    load_model,
    load_reward_model,
    read_json,
    save_checkpoint,
    save_model,
    write_whole,
)
from .curves import draw
from .lora import add_adapters, merged_weights
from .methods import Objective
from .model import GPT, Block
from .model_by_hand import Config, Grads, initial_weights
from .on_policy import OnPolicy, prompts
from .on_policy_trainer import OnPolicyTrainer
from .packed import Group
from .reference import WAYS, Reference, cached, computed, held
from .tokenizer import Tokenizer
from .trainer import Diverged, Optimization, Step, Trainer, World, asked, precisely
from .value_model import ValueModel

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
AnyTrainer = Trainer | OnPolicyTrainer
DEVICES = ("cpu", *["cuda"] * torch.cuda.is_available())


@dataclass(frozen=True)
class Settings:
    """What a run is resumed with, unchanged. Lengths are in tokens, sizes in rows."""

    data: str
    objective: Objective | OnPolicy
    optimization: Optimization
    model: str | None = None  # folder of the model to start from,
    size: Config | None = None  # or the size of a new one, whose vocabulary is learned from the data
    evaluation: str | None = None  # data that is only measured, after every epoch
    epochs: int = 1
    batch_size: int = 16
    accumulation: int = 1
    max_length: int | None = None  # None: the context
    on_long: str = "error"
    skip_bad: bool = False
    dropout: float = 0.0
    seed: int = 0
    reference: str = "cached"
    lora_rank: int = 0  # 0: all weights learn
    lora_alpha: float = 16.0
    quantize_base: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    compile: bool = False
    save_every: int = 100  # steps

    def __post_init__(self) -> None:
        rules: dict[str, tuple[object, str]] = {
            "epochs": (self.epochs >= 1, ">= 1"),
            "batch_size": (self.batch_size >= 1, ">= 1"),
            "accumulation": (self.accumulation >= 1, ">= 1"),
            "save_every": (self.save_every >= 1, ">= 1"),
            "seed": (0 <= self.seed < 2**63, "in [0, 2**63)"),
            "dropout": (0 <= self.dropout < 1, "in [0, 1)"),
            "lora_rank": (self.lora_rank >= 0, ">= 0"),
            "device": (self.device in DEVICES, f"one of those there are: {', '.join(DEVICES)}"),
            "dtype": (self.dtype in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            "reference": (self.reference in WAYS, f"one of {', '.join(WAYS)}"),
            "model": ((self.model is None) != (self.size is None), "a folder where no size is given, and not beside one"),
            "quantize_base": (self.lora_rank or not self.quantize_base, "left out without lora_rank"),
            "lora_alpha": (self.lora_rank or self.lora_alpha == 16.0, "left out without lora_rank"),
        }
        if self.reference == "lora":
            rules["reference"] = (self.lora_rank, "another way than lora without lora_rank")
        if not self.objective.needs_reference:
            rules["reference"] = (self.reference == "cached", f"left out with {self.objective.method}, which has none")
        if isinstance(self.objective, OnPolicy):
            rules |= self._rules_of_sampling(self.objective)
        if self.objective.method == "bradley_terry":
            rules["lora_rank"] = (not self.lora_rank, "0 for a reward model, whose score learns with all weights")
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    def _rules_of_sampling(self, objective: OnPolicy) -> dict[str, tuple[object, str]]:
        unread = {"evaluation": None, "max_length": None, "on_long": "error", "compile": False}
        rules: dict[str, tuple[object, str]] = {
            name: (getattr(self, name) == value, f"left out with {objective.method}, which reads prompts alone")
            for name, value in unread.items()
        }
        rules["dropout"] = (not self.dropout, f"0 with {objective.method}, which learns from what was drawn without it")
        if objective.needs_reference and self.reference == "cached":
            rules["reference"] = (False, "copy, offload or lora where responses are not known before")
        return rules


class Start(NamedTuple):
    """What a run begins with, before anything is written."""

    config: Config
    weights: Grads
    tokenizer: Tokenizer
    rows: data.Tokenized
    held_out: list[data.TokenizedRow]
    reward: rewards.Reward | None  # of a method that samples
    record: dict[str, Any]


def begin(settings: Settings) -> Start:
    """Read model and data. ValueError for settings that do not fit them, DataError for rows, OSError for files."""
    read = data.scan(settings.data) if settings.skip_bad else data.Read(data.load(settings.data), [])
    if not read.rows:
        raise data.DataError(read.dropped)
    if settings.size:
        tokenizer = Tokenizer.train(texts(read.rows), settings.size.vocab_size)
        config = replace(settings.size, vocab_size=tokenizer.vocab_size)
        weights = initial_weights(config, settings.seed)
    else:
        config, weights, tokenizer = load_model(str(settings.model))
    longest = config.context if settings.max_length is None else settings.max_length
    if longest > config.context:
        raise ValueError(f"max_length must be at most the model's context, {config.context}, got {longest}")
    if isinstance(settings.objective, OnPolicy):
        read, longest = read._replace(rows=prompts(read.rows)), config.context - settings.objective.max_tokens
        if longest < 2:
            raise ValueError(f"max_tokens must leave a prompt 2 of the context's {config.context} tokens, got {longest}")
    rows = data.tokenize(read.rows, tokenizer.encode, tokenizer.eos, longest, settings.on_long)
    held_out: list[data.TokenizedRow] = []
    if settings.evaluation:
        held_out = data.tokenize(data.load(settings.evaluation), tokenizer.encode, tokenizer.eos, longest).rows
    settings.objective.groups([*rows.rows, *held_out])
    asked = settings.objective
    reward = rewards.find(asked.reward, tokenizer, settings.device, config.context) if isinstance(asked, OnPolicy) else None
    files = {"data": settings.data} | ({"evaluation": settings.evaluation} if settings.evaluation else {})
    if isinstance(settings.objective, OnPolicy) and Path(settings.objective.reward).is_dir():
        files["reward"] = f"{settings.objective.reward}/config.json"  # which seals the model
    record = {"settings": asdict(settings), "start": digest(weights), "tokenizer": digest([*map(list, tokenizer.tokens)])}
    record |= {f"{name} sha256": file_digest(path) for name, path in files.items()}
    rows = rows._replace(dropped=[*read.dropped, *rows.dropped])
    return Start(config, weights, tokenizer, rows, held_out, reward, json.loads(json.dumps(record)))


def texts(rows: Sequence[data.Row]) -> Iterator[str]:
    """All that stands in them."""
    return (value for row in rows for value in row[1:] if isinstance(value, str))


def plan(settings: Settings, groups: Sequence[Group]) -> list[Step]:
    """Epoch after epoch every row once, in batches of similar length; the same for the same seed."""
    lengths = [len(prompt) + sum(map(len, responses)) for prompt, responses in groups]
    steps = []
    for epoch in range(settings.epochs):
        found = data.batches(lengths, settings.batch_size * settings.accumulation, settings.seed, epoch)
        steps += [Step(epoch + n / len(found), batch) for n, batch in enumerate(found, 1)]
    return steps


def network(settings: Settings, start: Start) -> GPT:
    """The model at step 0, with adapters where they are asked for: ValueError for a rank or scale that does not fit."""
    kind = ValueModel if settings.objective.method == "bradley_terry" else GPT
    model = kind(start.config, settings.dropout, settings.seed)
    model = model.to(settings.device, torch.float64 if settings.dtype == "float64" else torch.float32)
    model.load_weights(start.weights)
    if settings.lora_rank:
        add_adapters(model, settings.lora_rank, settings.lora_alpha, settings.seed, settings.quantize_base)
    return model


def trainer(settings: Settings, start: Start, model: GPT, folder: Path, world: World) -> AnyTrainer:
    """A trainer at step 0. Reference log-probabilities that are cached are computed here, or read."""
    torch.manual_seed(settings.seed)  # of dropout
    steps = plan(settings, settings.objective.groups(start.rows.rows))
    if isinstance(settings.objective, OnPolicy):
        return sampling_trainer(settings, settings.objective, start, model, steps)
    answers = reference(settings, model, start, steps, folder, world) if settings.objective.needs_reference else None
    if settings.compile:
        for block in model.h:
            assert isinstance(block, Block)
            block.mlp.compile(dynamic=True)
    return Trainer(
        world.split(model),
        settings.objective,
        start.rows.rows,
        steps,
        settings.optimization,
        answers,
        settings.batch_size,
        PRECISIONS[settings.dtype],
        world,
    )


def sampling_trainer(
    settings: Settings, objective: OnPolicy, start: Start, model: GPT, steps: Sequence[Step]
) -> OnPolicyTrainer:
    """The same for a method that samples. A critic starts as a reward model of its size, or as the policy with values of 0."""
    assert start.reward
    critic = None
    if objective.made.critic:
        critic = ValueModel(start.config, settings.dropout).to(model.wte.weight)
        critic.load_weights(start.weights)
        if Path(objective.reward).is_dir() and (judge := load_reward_model(objective.reward))[0] == start.config:
            critic.load_weights(judge[1])
    return OnPolicyTrainer(
        model,
        objective,
        start.rows.rows,
        steps,
        settings.optimization,
        start.reward,
        held(model, settings.reference) if objective.needs_reference else None,
        start.tokenizer.eos,
        settings.seed,
        settings.batch_size,
        PRECISIONS[settings.dtype],
        critic,
    )


def reference(settings: Settings, model: GPT, start: Start, steps: Sequence[Step], folder: Path, world: World) -> Reference:
    """The reference is the model that the run starts from. Each process asks for its own share of the rows."""
    if settings.reference != "cached":
        return computed(model, settings.reference)
    batches = [[start.rows.rows[i] for i in step.rows] for step in steps] + [start.held_out]
    assert isinstance(settings.objective, Objective)
    wanted = asked(settings.objective, batches, settings.batch_size, world, start.config.context)
    name = "reference.npz" if world.size == 1 else f"reference-{world.rank}-of-{world.size}.npz"
    with precisely(model.wte.weight.device, PRECISIONS[settings.dtype]):
        return cached(model, wanted, folder / name, settings.dtype)


def run(settings: Settings, folder: Path, resume: bool = False, world: World | None = None) -> None:
    """Train. Of several processes the first writes.

    ValueError where the folder holds anything and is not resumed, or another run; DataError and OSError as files are; Diverged
    where a loss is not finite: the state before that step is saved.
    """
    world = world or World()
    if isinstance(settings.objective, OnPolicy) and world.size > 1:
        raise ValueError(f"method must not sample where processes share a model, got {settings.objective.method}")
    for name in ("lora_rank", "dropout"):  # of adapters no share is held; a mask would depend on who draws it
        if getattr(settings, name) and world.size > 1:
            raise ValueError(f"{name} must be 0 where processes share a model, got {getattr(settings, name)}")
    start = begin(settings)
    model = network(settings, start)
    if world.rank == 0:
        enter(folder, start.record, resume)
        data.write_dropped(folder / "dropped.jsonl", start.rows.dropped)
        cut = f"{len(start.rows.cut_prompts)} prompts and {len(start.rows.cut_responses)} responses cut"
        say(f"{len(start.rows.rows)} rows, {len(start.rows.dropped)} dropped, {cut}")
    world.sum(torch.zeros(1))  # nobody goes on before the folder is there
    made = trainer(settings, start, model, folder, world)
    saved, damaged = last_checkpoint(folder / "checkpoints")
    if saved:
        made.load(saved.arrays)
    if world.rank == 0 and damaged:
        say("\n".join(["passed over:", *damaged]))
    log = folder / "metrics.jsonl"
    with log_from(log if world.rank == 0 else Path(os.devnull), saved.state["bytes of metrics"] if saved else 0) as file:
        advance(settings, made, start.held_out, folder, file)
    weights = merged_weights(made.model) if settings.lora_rank else made.weights()
    if world.rank == 0:
        save_model(folder, start.config, weights, start.tokenizer)
        draw(log, folder / "curves.png")


def enter(folder: Path, record: dict[str, Any], resume: bool) -> None:
    """Make the folder this run's, or find that it is."""
    found = folder / "run.json"
    if not found.exists():
        if folder.exists() and any(path.suffix != ".part" for path in folder.iterdir()):  # which a kill leaves
            raise ValueError(f"out must be a folder that is new or empty, or that of a run to resume, got {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(found, json.dumps(record, indent=1) + "\n")
        return
    if not resume:
        raise ValueError(f"out must be new, or be resumed with --resume: {folder} holds a run")
    before, now = (dict(_leaves(x)) for x in (read_json(found), record))
    if changed := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        said = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed)
        raise ValueError(f"{found}: a run is resumed with what it began with, but {said}")


@contextmanager
def log_from(path: Path, size: int) -> Iterator[IO[bytes]]:
    """The file, cut to its first bytes, to be written on. ValueError where it has fewer; an OSError names it."""
    try:
        with open(path, "ab") as file:
            if path.is_file():
                if file.tell() < size:
                    raise ValueError(f"{path}: must hold the {size} bytes that the checkpoint counts, got {file.tell()}")
                file.seek(file.truncate(size))
            yield file
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]


def advance(settings: Settings, made: AnyTrainer, held_out: Sequence[data.TokenizedRow], folder: Path, log: IO[bytes]) -> None:
    """Step after step to the end, each with its line; a checkpoint now and then, and before a step that cannot be taken."""

    def save() -> None:
        state = made.state()
        if made.world.rank == 0:
            os.fsync(log.fileno())
            save_checkpoint(folder / "checkpoints", made.done, state, {"bytes of metrics": log.tell()})

    began, before = time.monotonic(), made.tokens
    with tqdm(total=len(made.steps), initial=made.done, unit="step", disable=None if made.world.rank == 0 else True) as bar:
        while made.done < len(made.steps):
            try:
                met = made.step()
            except Diverged:
                save()
                raise
            if held_out and isinstance(made, Trainer) and met["epoch"] == int(met["epoch"]):
                met |= evaluate(made, held_out)
            log.write(json.dumps(met).encode() + b"\n")
            log.flush()
            if made.done % settings.save_every == 0 or made.done == len(made.steps):
                save()
            bar.set_postfix(shown(met, (made.tokens - before) / (time.monotonic() - began)))
            bar.update()


def shown(met: dict[str, float], rate: float) -> dict[str, str]:
    """What a progress bar has room for."""
    names = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy", "reward": "reward", "kl": "KL"}
    return {short: f"{met[name]:.3f}" for name, short in names.items() if name in met} | {"tokens/s": f"{rate:.0f}"}


def evaluate(made: Trainer, rows: Sequence[data.TokenizedRow]) -> dict[str, float]:
    """As `eval_` metrics what rows have that are not learned from; the model as it answers, without dropout."""
    made.model.eval()
    loss, monitors = made.measure(rows)
    made.model.train()
    return {f"eval_{name}": value for name, value in {"loss": loss, **monitors}.items()}


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
