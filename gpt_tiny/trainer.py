"""One optimizer step after another, and the state between two of them, from which a run goes on as if it had never stopped.

    loss = Σ losses of the rows of a step / their number          their tokens, for sft

The divisor counts the rows of the whole step, however many of them are computed at once (`size`) or here (`World`), and KTO's
reference point is that of all of them: neither way of splitting a step changes it, except for rounding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minipref.arrays import to_numpy

from .data import TokenizedCompletion, TokenizedRow
from .methods import Loss, Objective, mismatched, reference_point
from .model import GPT
from .packed import Group
from .reference import Reference, scored

SCHEDULES: dict[str, Callable[[float], float]] = {  # of what is done after warm-up, 0 to 1
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


@dataclass(frozen=True)
class Optimization:
    """AdamW's settings and the learning rate's course. ValueError for a number out of range."""

    lr: float
    warmup: float = 0.1  # share of all steps
    schedule: str = "linear"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient

    def __post_init__(self) -> None:
        rules = {
            "lr": (self.lr > 0, "> 0"),
            "warmup": (0 <= self.warmup <= 1, "in [0, 1]"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "in [0, 1)"),
            "eps": (self.eps >= 1e-8, ">= 1e-8"),
            "weight_decay": (self.weight_decay >= 0, ">= 0"),
            "clip": (self.clip > 0, "> 0"),
        }
        for name, (holds, rule) in rules.items():
            value = getattr(self, name)
            if not holds or isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be finite and {rule}, got {value!r}")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, from 0, of so many: up in a straight line, then as scheduled."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * SCHEDULES[self.schedule]((step - warmup) / max(1, steps - warmup))


class Step(NamedTuple):
    """What a step learns from: places among the rows."""

    epoch: float  # epochs completed once this step is taken
    rows: list[int]


class World:
    """The processes that share a step: here one. Each computes its share of the rows and holds its share of the weights."""

    rank, size = 0, 1

    def split(self, model: GPT) -> GPT:
        """The model, of which this process holds its share."""
        return model

    def sum(self, x: Tensor) -> Tensor:
        """Over all processes."""
        return x

    def whole(self, x: Tensor) -> Tensor:
        """A weight or its moment, all of it."""
        return x

    def shared(self, x: Tensor, like: Tensor) -> Tensor:
        """This process's share of a whole one."""
        return x


class Diverged(ArithmeticError):
    """A loss or gradient that is not finite: the step was not taken."""


class Learner:
    """A model whose weights learn, how far it is, and all that its next step depends on.

    `beside` is a second model that learns in the same steps, at `beside_rate` times the learning rate; its gradient is clipped
    apart.
    """

    def __init__(
        self,
        model: GPT,
        steps: Sequence[Step],
        optimization: Optimization,
        world: World | None = None,
        beside: nn.Module | None = None,
        beside_rate: float = 1.0,
    ) -> None:
        self.model, self.steps, self.optimization, self.world = model, steps, optimization, world or World()
        self.device = model.wte.weight.device
        self.learning = [(1.0, _learned(model))]
        if beside:
            self.learning.append((beside_rate, _learned(beside, "beside.")))
        self.learned = {name: p for _, part in self.learning for name, p in part.items()}
        self.optimizer = torch.optim.AdamW(
            [{"params": [*part.values()]} for _, part in self.learning],
            optimization.lr,
            optimization.betas,
            optimization.eps,
            optimization.weight_decay,
            fused=self.world.size == 1,
        )
        self.done = self.updates = self.tokens = 0  # steps, of which one may have several updates

    @property
    def rate(self) -> float:
        """The learning rate of the step that is next."""
        return self.optimization.rate(self.done, len(self.steps))

    def update(self, loss: float, rows: str) -> float:
        """Take the gradients that were left in the weights; the norm of the model's. Raises Diverged, the weights unchanged."""
        clip = self.optimization.clip
        norms = [float(self.world.whole(nn.utils.clip_grad_norm_(part.values(), clip))) for _, part in self.learning]
        if not all(map(math.isfinite, [loss, *norms])):
            self.optimizer.zero_grad()
            found = ", ".join(map(str, norms))
            raise Diverged(f"step {self.done + 1}: loss is {loss}, its gradient's norm {found}; the batch: {rows}")
        for group, (times, _) in zip(self.optimizer.param_groups, self.learning, strict=True):
            group["lr"] = times * self.rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        return norms[0]

    @contextmanager
    def undone(self, whole: bool) -> Iterator[None]:
        """Where a step diverges, what it did is undone: the draws of dropout; of several updates (`whole`) all of them too."""
        random, state = _random_state(self.device), self.state() if whole else None
        try:
            yield
        except Diverged:
            if state:
                self.load(state)
            _set_random_state(random, self.device)
            raise

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """All that the next step depends on and that is not given anew: weights, moments, random state, what is counted."""
        moments = {name: self.optimizer.state[p] for name, p in self.learned.items()} if self.updates else {}
        kept = {kind: {name: moment[kind] for name, moment in moments.items()} for kind in MOMENTS}
        arrays = {kind: {n: self._whole(x) for n, x in named.items()} for kind, named in kept.items()}
        weights = {name: self._whole(p) for name, p in self.learned.items()}
        return {"weights": weights, **arrays, "random": _random_state(self.device), "counts": self._counts()}

    def weights(self) -> dict[str, np.ndarray]:
        """What the model has learned, by name."""
        return {name: self._whole(p) for name, p in self.learning[0][1].items()}

    def _whole(self, x: Tensor) -> np.ndarray:
        return to_numpy(self.world.whole(x)).copy()

    def _counts(self) -> dict[str, np.ndarray]:
        return {name: np.array(getattr(self, name)) for name in COUNTS}

    def load(self, state: dict[str, dict[str, np.ndarray]]) -> None:
        """Go on from there. The model, rows and steps must be those that the state is of."""
        self.done, self.updates, self.tokens = (int(state["counts"][name]) for name in COUNTS)
        self.optimizer.state.clear()
        with torch.no_grad():
            for name, p in self.learned.items():
                p.copy_(self._share(state["weights"][name], p))
                if self.updates:
                    moments = {kind: self._share(state[kind][name], p) for kind in MOMENTS}
                    self.optimizer.state[p] = {"step": torch.tensor(float(self.updates), device=self._clock(p)), **moments}
        _set_random_state(state["random"], self.device)

    def _share(self, x: np.ndarray, like: Tensor) -> Tensor:
        return self.world.shared(torch.tensor(x, dtype=like.dtype, device=self.device), like)

    def _clock(self, p: Tensor) -> torch.device:
        """PyTorch counts steps on the device where the fused optimizer runs there, else on the host."""
        return p.device if self.world.size == 1 else torch.device("cpu")


def _learned(model: nn.Module, prefix: str = "") -> dict[str, nn.Parameter]:
    return {prefix + name: p for name, p in model.named_parameters() if p.requires_grad}


class Trainer(Learner):
    """A model that learns from rows.

    `size` is how many rows are computed at once, one part of a step after the other; `precision` says, by bfloat16, that the
    blocks compute in it, and is else that of the weights.
    """

    def __init__(
        self,
        model: GPT,
        objective: Objective,
        rows: Sequence[TokenizedRow],
        steps: Sequence[Step],
        optimization: Optimization,
        reference: Reference | None = None,
        size: int = 16,
        precision: torch.dtype = torch.float32,
        world: World | None = None,
    ) -> None:
        super().__init__(model, steps, optimization, world)
        self.objective, self.rows, self.reference, self.size, self.precision = objective, rows, reference, size, precision

    def step(self) -> dict[str, float]:
        """Take the next step; its metrics, measured before the update. Raises Diverged, weights and random state unchanged."""
        epoch, chosen, rate = self.steps[self.done].epoch, [self.rows[i] for i in self.steps[self.done].rows], self.rate
        with self.undone(whole=False):
            loss, monitors = self.measure(chosen, learn=True)
            norm = self.update(loss, ", ".join(str(row.place) for row in chosen))
        self.done += 1
        self.tokens += sum(len(prompt) + len(r) for prompt, responses in self.objective.groups(chosen) for r in responses)
        met = {"step": self.done, "epoch": epoch, "loss": loss, **monitors, "grad_norm": norm, "learning_rate": rate}
        return met | {"num_tokens": self.tokens}

    def measure(self, rows: Sequence[TokenizedRow], learn: bool = False) -> tuple[float, dict[str, float]]:
        """The mean loss of some rows and what people watch; to learn, its gradient is left in the weights."""
        groups, desirable, point, more = self.objective.groups(rows), None, 0.0, dict[str, float]()
        examples = self.objective.examples(groups)
        if self.objective.method == "kto":
            judged = [isinstance(row, TokenizedCompletion) and row.label is True for row in rows]
            desirable, point = torch.tensor(judged, device=self.device), self._reference_point(groups)
            more["kl"] = point
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        rewards, logps = (torch.zeros(len(rows), len(groups[0][1]), device=self.device, dtype=torch.float64) for _ in range(2))
        for part in shares(len(rows), self.size, self.world):
            mine = part or [0]
            with torch.set_grad_enabled(learn):
                loss = self._loss([groups[i] for i in mine], None if desirable is None else desirable[mine], point)
            if learn:
                (loss.total * (bool(part) / examples)).backward()
            if part:
                total += loss.total.detach()
                rewards[part], logps[part] = (x.reshape(len(part), -1).to(rewards) for x in (loss.rewards, loss.logps))
        total, rewards, logps = map(self.world.sum, (total, rewards, logps))
        return float(total) / examples, self.objective.monitors(rewards.flatten(), logps.flatten(), desirable) | more

    def _loss(self, groups: Sequence[Group], desirable: Tensor | None, point: float) -> Loss:
        with precisely(self.device, self.precision):
            reference_logps = self.reference(groups) if self.reference else None
            return self.objective.loss(self.model, groups, reference_logps, desirable, point)

    def _reference_point(self, groups: Sequence[Group]) -> float:
        """KTO's z₀ of a whole step, whoever computes which of its completions."""
        assert self.reference is not None
        others = mismatched(groups, self.model.config.context)
        policy, reference = (torch.zeros(len(groups), device=self.device, dtype=torch.float64) for _ in range(2))
        for part in shares(len(groups), self.size, self.world):
            those = [others[i] for i in part or [0]]
            with precisely(self.device, self.precision):
                found = scored(self.model, those), self.reference(those)
            if part:
                policy[part], reference[part] = (x.double() for x in found)
        return reference_point(self.world.sum(policy), self.world.sum(reference))


COUNTS = ("done", "updates", "tokens")
MOMENTS = ("exp_avg", "exp_avg_sq")


def precisely(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """For bfloat16, the blocks' matrix products in it, the head in float32; any other precision is that of the weights."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def shares(rows: int, size: int, world: World) -> list[list[int]]:
    """Which of a step's rows a process computes, `size` at once: as many parts everywhere, though some may be empty."""
    parts = math.ceil(rows / (size * world.size))
    return [list(range(world.rank + world.size * part, rows, world.size * parts)) for part in range(parts)]


def asked(
    objective: Objective, batches: Sequence[Sequence[TokenizedRow]], size: int, world: World, context: int
) -> Iterator[list[Group]]:
    """All that a reference will be asked by this process, in the order and the company in which it will be."""
    for batch in batches:
        groups = objective.groups(batch)
        for part in shares(len(groups), size, world):
            yield [groups[i] for i in part or [0]]
            if objective.method == "kto":
                others = mismatched(groups, context)
                yield [others[i] for i in part or [0]]


def _random_state(device: torch.device) -> dict[str, np.ndarray]:
    states = {"cpu": torch.get_rng_state().numpy()}
    return states | ({"cuda": torch.cuda.get_rng_state(device).numpy()} if device.type == "cuda" else {})


def _set_random_state(states: dict[str, np.ndarray], device: torch.device) -> None:
    torch.set_rng_state(torch.tensor(states["cpu"]))
    if device.type == "cuda":
        torch.cuda.set_rng_state(torch.tensor(states["cuda"]), device)
