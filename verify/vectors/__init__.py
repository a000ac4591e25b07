"""Frozen cases with their 50-digit answers, one JSON file an operation: what an implementation may be checked against for ever.

    >>> [vector.case.regime for vector in load("dpo")]

`python -m verify.vectors` writes the files, `python -m verify.vectors --check` compares them with what it would write.
Numbers are read as decimals, so that no digit is lost. Anchors, in the same files, are numbers that others have printed or
computed. What models are given as weights is in `models/`.
"""

import functools
import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from verify.cases import Case
from verify.contract import ALL, MODELS, Contract, Input
from verify.oracle import Exact
from verify.weights import Weights, read

FOLDER = Path(__file__).parent


class Vector(NamedTuple):
    """One case, the dtypes that hold it exactly, and what is expected of every output."""

    case: Case
    id: int
    dtypes: tuple[str, ...]
    expected: dict[str, Exact]


class Anchor(NamedTuple):
    """Outputs that are not ours: |got - output| <= tolerance (1 + |output|). The source says where they are from."""

    operation: str
    inputs: dict[str, Any]
    outputs: dict[str, np.ndarray]
    tolerance: float
    source: dict[str, str]


def path(operation: str) -> Path:
    return FOLDER / f"{operation}.json"


def load(operation: str) -> list[Vector]:
    """An operation's vectors, in the order of their ids. Every call gives new arrays."""
    return [_vector(ALL[operation], raw) for raw in _read(operation)["vectors"]]


def anchors(operation: str) -> list[Anchor]:
    """An operation's anchors; their outputs may be some of the contract's."""
    contract = ALL[operation]
    return [
        Anchor(
            operation,
            decoded(contract, raw["inputs"]),
            {name: np.array(value, object).astype(float) for name, value in raw["outputs"].items()},
            float(raw["tolerance"]),
            raw["source"],
        )
        for raw in _read(operation)["anchors"]
    ]


def decoded(contract: Contract, raw: dict[str, Any]) -> dict[str, Any]:
    """Inputs as arrays, float64, int64 or bool, and numbers; from JSON with decimals, infinities as strings."""
    return {name: _decoded(contract.inputs[name], value) for name, value in raw.items()}


def _decoded(argument: Input, value: Any) -> Any:
    kinds = {"float": np.float64, "int": np.int64, "bool": np.bool_}
    if argument.kind == "weights":
        return _weights(value)
    if argument.kind in kinds:
        return np.array(value, object).astype(kinds[argument.kind])
    if argument.kind == "scalar":
        return value if isinstance(value, int) else float(value)
    return _plain(value)


@functools.cache
def _weights(name: str) -> Weights:
    return Weights(name.removesuffix(".json"), read(FOLDER / name))


def _plain(value: Any) -> Any:
    """What models are asked beside arrays, with numbers as floats."""
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_plain(x) for x in value]
    return float(value) if isinstance(value, Decimal) else value


def _read(operation: str) -> dict[str, Any]:
    return json.loads(path(operation).read_text("utf-8"), parse_float=Decimal)


def _vector(contract: Contract, raw: dict[str, Any]) -> Vector:
    inputs = decoded(contract, raw["inputs"])
    case = Case(contract.name, raw["regime"], raw["comment"], inputs, tuple(raw["flags"]))
    if contract.name in MODELS:
        expected = {name: _exact("float", answer) for name, answer in raw["outputs"].items()}
    else:
        shapes, outputs = contract.shapes(inputs), contract.outputs
        expected = {name: _exact(outputs[name].kind, answer, shapes[name]) for name, answer in raw["outputs"].items()}
    return Vector(case, raw["id"], tuple(raw["dtypes"]), expected)


def _exact(kind: str, raw: dict[str, Any], shape: tuple[int, ...] | None = None) -> Exact:
    """An answer of a given shape, with its scale; or each in that of its list."""
    value, scale = (np.array(raw[part], object) for part in ("exact", "scale"))
    if shape is not None:
        value, scale = value.reshape(shape), scale.reshape(shape)
    value = _decimals(value) if kind == "float" else value.astype({"int": np.int64, "bool": np.bool_}[kind])
    return Exact(value, _decimals(scale), raw["terms"])


def _decimals(numbers: np.ndarray) -> np.ndarray:
    return np.array([Decimal(x) for x in numbers.flat], object).reshape(numbers.shape)


def _hash() -> str:
    files = [path(operation) for operation in sorted(ALL)] + sorted((FOLDER / "models").glob("*.json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()[:12]


HASH = _hash()
