"""The metrics of a training run as any trainer wrote them: JSON lines, or the state that transformers and TRL write.

Columns get one name each: the prefixes train and eval choose a stream, other spellings are listed in SAME. Numbers are kept as
they were written, so that it is seen how they were rounded.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LISTED = 20  # bad lines that an error spells out
REWARDS, LOGPS = ("rewards/chosen", "rewards/rejected"), ("logps/chosen", "logps/rejected")
SAME = {
    "lr": "learning_rate",
    "global_step": "step",
    "current_steps": "step",
    "acc": "rewards/accuracies",
    "objective/kl": "kl",
}
SAME |= {"chosen_reward": REWARDS[0], "reject_reward": REWARDS[1], "log_probs/chosen": LOGPS[0], "log_probs/rejected": LOGPS[1]}
TOLD = {*REWARDS, *LOGPS, "rewards/margins", "rewards/accuracies", "rewards/ties", "loss", "kl", "grad_norm", "learning_rate"}
TOLD |= {"reward", "reward_std", "nll_loss", "log_odds_ratio", "num_tokens"}  # what can be checked
CLOCK = {"step", "epoch"}


class Column(NamedTuple):
    """What a stream's rows [rows] have under one name, and how it is written at most."""

    values: np.ndarray  # NaN also where there is none
    there: np.ndarray
    decimals: int
    digits: int

    @classmethod
    def of(cls, written: list[Decimal | None]) -> "Column":
        values = np.array([math.nan if number is None else float(number) for number in written])
        finite = [x for x, value in zip(written, values, strict=True) if x is not None and math.isfinite(value)]
        exponents = [int(x.as_tuple().exponent) for x in finite]
        digits = [x.adjusted() - exponent + 1 for x, exponent in zip(finite, exponents, strict=True)]
        there = np.array([number is not None for number in written])
        return cls(values, there, max((-exponent for exponent in exponents), default=0), max(digits, default=0))


@dataclass(frozen=True)
class Lines:
    """Some rows of a stream, as arrays [lines]."""

    stream: str
    places: list[str]  # file:line of each row of the stream
    columns: dict[str, Column]
    coarse: bool
    kept: np.ndarray  # the rows
    shown: tuple[str, ...] = ()  # the columns that matter where something is wrong

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name].values[self.kept]

    def place(self, line: int) -> str:
        return self.places[self.kept[line]]

    def where(self, wanted: np.ndarray) -> "Lines":
        """The lines for which `wanted` [lines] is true."""
        return replace(self, kept=self.kept[wanted])

    def writing(self, name: str) -> "Lines":
        """The lines that have a column, finite or not."""
        return replace(self.where(self.columns[name].there[self.kept]), shown=(name,))

    def having(self, *names: str) -> "Lines":
        """The lines in which these columns are finite numbers."""
        known = all(name in self.columns for name in names)
        finite = [np.isfinite(self[name]) for name in names] if known else [np.zeros(len(self), bool)]
        return replace(self.where(np.logical_and.reduce(finite)), shown=names)

    def unit(self, name: str) -> np.ndarray:
        """A unit in the last place that is written: libraries keep a number of decimals, or of digits, or all."""
        sizes = np.floor(np.log10(np.maximum(abs(self[name]), 1e-300)))
        column = self.columns[name]
        return np.maximum(10.0**-column.decimals, 10.0 ** (sizes + 1 - column.digits))

    def slack(self, *names: str) -> np.ndarray:
        """How far the sum of some columns may be off: half a unit each, and 2^-8 of each where it may be bfloat16, which keeps
        eight bits, or else 1e-4, to which passes through a model repeat."""
        part = 2**-8 if self.coarse else 1e-4
        return np.sum([self.unit(name) / 2 + abs(self[name]) * part for name in names], axis=0)


def _lines(stream: str, rows: list[tuple[str, dict[str, Decimal]]]) -> Lines:
    names = {name: None for _, values in rows for name in values}
    columns = {name: Column.of([values.get(name) for _, values in rows]) for name in names}
    logps = [columns[name] for name in LOGPS if name in columns]
    coarse = not logps or any(_coarse(column) for column in logps)
    return Lines(stream, [place for place, _ in rows], columns, coarse, np.arange(len(rows)))


def _coarse(column: Column) -> bool:
    """Whether numbers may be means of up to 1024 bfloat16 numbers, some 20 bits long; too few digits do not tell."""
    sums = np.outer(np.arange(1, 1025), column.values[np.isfinite(column.values)][:50])
    bits = np.frexp(sums)[0] * 2**20
    return column.digits < 9 or bool(np.any(np.all(abs(bits - np.round(bits)) < 1e-6, axis=1)))


def read(path: Path) -> dict[str, Lines]:
    """Lines by stream: train, and one for each held-out set. ValueError names file, line and rule of all that is bad."""
    rows, bad = dict[str, list[tuple[str, dict[str, Decimal]]]](), list[str]()
    for number, entry in _entries(path.read_bytes()):
        try:
            for stream, values in _split(DECODER.decode(entry.decode())).items():
                rows.setdefault(stream, []).append((f"{path}:{number}", values))
        except json.JSONDecodeError as error:
            bad.append(f"{path}:{number + error.lineno - 1}: not JSON: {error.msg}")
        except ValueError as error:
            bad.append(f"{path}:{number}: {error}")
        except (ArithmeticError, RecursionError):
            bad.append(f"{path}:{number}: not JSON that can be read: a number too large, or too many brackets")
    if bad:
        raise ValueError("\n".join(bad[:LISTED] + [f"and {len(bad) - LISTED} more"] * (len(bad) > LISTED)))
    return {stream: _lines(stream, found) for stream, found in rows.items()}


def _entries(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Line number and text of each line that is not blank, or of each entry in the log_history of a state."""
    history = re.search(rb'"log_history"\s*:\s*\[', data)
    if not history:
        yield from ((number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())
        return
    text, number, at = data[history.end() :].decode(errors="surrogateescape"), data.count(b"\n", 0, history.end()) + 1, 0
    while not text.startswith("]", start := GAP.match(text, at).end()):  # type: ignore[union-attr]
        number += text.count("\n", at, start)
        try:
            _, end = DECODER.raw_decode(text, start)
        except (ValueError, ArithmeticError, RecursionError):
            end = len(text)  # whoever parses it will say what is wrong
        yield number, text[start:end].encode(errors="surrogateescape")
        number += text.count("\n", start, end)
        if end == len(text):
            return
        at = end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"each field must stand once in an object, but they are {', '.join(name for name, _ in pairs)}")
    return fields


GAP = re.compile(r"[\s,]*")
DECODER = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal, parse_constant=Decimal, object_pairs_hook=_unique)


def _split(fields: Any) -> dict[str, dict[str, Decimal]]:
    """A line's numbers by stream and column."""
    if not isinstance(fields, dict):
        raise ValueError(f"the line must be a JSON object, but is {json.dumps(fields, default=float):.80}")
    if "train_runtime" in fields:  # means over the whole run, which transformers writes at its end
        return {}
    streams = dict[str, dict[str, Decimal]]()
    held_out = next((m[1] for name in fields if (m := re.fullmatch("(eval_.+)_runtime", name))), "eval")
    for written, value in fields.items():
        stream, name = _named(written, held_out)
        if isinstance(value, Decimal):
            streams.setdefault(stream, {})[name] = value
        elif name in TOLD | CLOCK and value is not None:
            raise ValueError(f"{written} must be a number, but is {value!r:.80}")
    clock = {name: value for name, value in streams.get("train", {}).items() if name in CLOCK}
    return {stream: clock | values for stream, values in streams.items() if values.keys() & TOLD}


@cache
def _named(written: str, held_out: str) -> tuple[str, str]:
    """Stream and column. transformers names the held-out set where there are several, and TRL then says eval alone."""
    prefixed = re.sub(r"^(loss|rewards|logps)[_/](train|eval)\b", r"\2/\1", written)  # the first DPO code's names
    found = re.fullmatch(rf"({re.escape(held_out)}|eval|valid|validation|test|train)[_/](.+)", prefixed)
    stream, name = found.groups() if found else ("train", prefixed)
    return held_out if stream == "eval" else stream, SAME.get(name, name)
