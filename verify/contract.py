"""The frozen contract as judging reads it: never the code that it was generated from.

`contract-1.json` has the operations on arrays (levels 1 and 2), `contract-models-1.json` those on a whole model (3 and 4). An
argument may there also be weights, given by a path; ragged, a list of token ids an example; a text; an object; batches, a list
of objects. What a method does not take is not sent.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PATH, PATH_OF_MODELS = (Path(__file__).with_name(f"contract-{name}1.json") for name in ("", "models-"))


class Input(NamedTuple):
    """One argument. A scalar has no dims; low and high bound every entry that counts."""

    name: str
    kind: str  # "float", "int", "bool", "scalar"; of models "weights", "ragged", "count", "text", "object", "batches"
    dims: tuple[str, ...]
    minus_infinity: bool
    low: float
    high: float
    low_open: bool
    high_open: bool


class Output(NamedTuple):
    """One answer. A gradient says of which output, and in which input."""

    name: str
    kind: str  # "float", "int", "bool", or "tensors", one for every weight
    dims: tuple[str, ...]
    gradient_of: str | None
    with_respect_to: str | None
    sent_with: str | None  # the argument without which it is not due
    only_where: str | None  # the mask outside of which it is not compared


class Contract(NamedTuple):
    """One operation."""

    name: str
    level: int
    source: str
    inputs: dict[str, Input]
    outputs: dict[str, Output]
    mask: str | None  # the argument that says what counts
    mask_is_shifted: bool  # the mask is on tokens, and position t - 1 predicts token t
    rules: tuple[tuple[str, str], ...]  # (argument, text): conditions on several arguments

    def sizes(self, inputs: dict[str, Any]) -> dict[str, int]:
        """The size of every named dimension in one set of inputs."""
        sent = [argument for argument in self.inputs.values() if argument.name in inputs]
        return {
            dim: size
            for argument in sent
            for dim, size in zip(argument.dims, _shape(argument, inputs[argument.name]), strict=bool(argument.dims))
        }

    def shapes(self, inputs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shape that every output must have that is due for these inputs. Tensors have those of the weights."""
        sizes = self.sizes(inputs)
        due = [output for output in self.outputs.values() if output.sent_with in (None, *inputs)]
        return {output.name: tuple(sizes[dim] for dim in output.dims) for output in due}


def _shape(argument: Input, value: Any) -> tuple[int, ...]:
    if argument.kind == "weights":
        return value.arrays["wte.weight"].shape
    return {"ragged": lambda: (len(value),), "count": lambda: (value,)}.get(argument.kind, lambda: np.shape(value))()


def _input(name: str, entry: dict[str, Any]) -> Input:
    ends = entry.get("low", -math.inf), entry.get("high", math.inf), "low_open" in entry, "high_open" in entry
    return Input(name, entry["kind"], tuple(entry.get("dims", ())), "minus_infinity" in entry, *ends)


def _output(name: str, entry: dict[str, Any]) -> Output:
    asides = (entry.get(key) for key in Output._fields[3:])
    return Output(name, entry["kind"], tuple(entry["dims"]), *asides)


def _contract(name: str, entry: dict[str, Any]) -> Contract:
    mask = entry.get("mask", {"argument": None, "shifted": False})
    return Contract(
        name,
        entry["level"],
        entry["source"],
        {key: _input(key, value) for key, value in entry["inputs"].items()},
        {key: _output(key, value) for key, value in entry["outputs"].items()},
        mask["argument"],
        mask["shifted"],
        tuple((rule["argument"], rule["text"]) for rule in entry["rules"]),
    )


_texts = PATH.read_bytes(), PATH_OF_MODELS.read_bytes()
_arrays, _models = map(json.loads, _texts)
VERSION: str = _arrays["version"]
HASH = hashlib.sha256(b"".join(_texts)).hexdigest()[:12]
CONTRACTS, MODELS = ({n: _contract(n, entry) for n, entry in tree["operations"].items()} for tree in (_arrays, _models))
METHODS: dict[str, list[str]] = _models["methods"]  # of preference_step and train, with their hyperparameters
ALL = CONTRACTS | MODELS
