"""The frozen contract, `contract-1.json`, as judging reads it: never the code that it was generated from."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PATH = Path(__file__).with_name("contract-1.json")


class Input(NamedTuple):
    """One argument. A scalar has no dims; low and high bound every entry that counts."""

    name: str
    kind: str  # "float", "int", "bool" or "scalar"
    dims: tuple[str, ...]
    minus_infinity: bool
    low: float
    high: float
    low_open: bool
    high_open: bool


class Output(NamedTuple):
    """One answer. A gradient says of which output, and in which input."""

    name: str
    kind: str
    dims: tuple[str, ...]
    gradient_of: str | None
    with_respect_to: str | None


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
        return {
            dim: size
            for argument in self.inputs.values()
            for dim, size in zip(argument.dims, np.shape(inputs[argument.name]), strict=bool(argument.dims))
        }

    def shapes(self, inputs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shape that every output must have for these inputs."""
        sizes = self.sizes(inputs)
        return {output.name: tuple(sizes[dim] for dim in output.dims) for output in self.outputs.values()}


def _input(name: str, entry: dict[str, Any]) -> Input:
    ends = entry.get("low", -math.inf), entry.get("high", math.inf), "low_open" in entry, "high_open" in entry
    return Input(name, entry["kind"], tuple(entry.get("dims", ())), "minus_infinity" in entry, *ends)


def _output(name: str, entry: dict[str, Any]) -> Output:
    return Output(name, entry["kind"], tuple(entry["dims"]), entry.get("gradient_of"), entry.get("with_respect_to"))


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


_text = PATH.read_bytes()
VERSION: str = json.loads(_text)["version"]
HASH = hashlib.sha256(_text).hexdigest()[:12]
CONTRACTS = {name: _contract(name, entry) for name, entry in json.loads(_text)["operations"].items()}
