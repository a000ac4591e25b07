"""Frozen cases with their 50-digit answers, one JSON file an operation: what an implementation may be checked against for ever.

    >>> [vector.case.regime for vector in load("dpo")]

`python -m verify.vectors` writes the files, `python -m verify.vectors --check` compares them with what it would write.
Numbers are read as decimals, so that no digit is lost. Anchors, in the same files, are numbers that others have printed or
computed.
"""

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from verify.cases import Case
from verify.contract import CONTRACTS, Contract
from verify.oracle import Exact

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
    return [_vector(CONTRACTS[operation], raw) for raw in _read(operation)["vectors"]]


def anchors(operation: str) -> list[Anchor]:
    """An operation's anchors; their outputs may be some of the contract's."""
    contract = CONTRACTS[operation]
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
    kinds = {"float": np.float64, "int": np.int64, "bool": np.bool_}
    return {
        name: np.array(value, object).astype(kinds[contract.inputs[name].kind])
        if contract.inputs[name].dims
        else value
        if isinstance(value, int)
        else float(value)
        for name, value in raw.items()
    }


def _read(operation: str) -> dict[str, Any]:
    return json.loads(path(operation).read_text("utf-8"), parse_float=Decimal)


def _vector(contract: Contract, raw: dict[str, Any]) -> Vector:
    inputs = decoded(contract, raw["inputs"])
    shapes = contract.shapes(inputs)
    case = Case(contract.name, raw["regime"], raw["comment"], inputs, tuple(raw["flags"]))
    expected = {name: _exact(contract.outputs[name].kind, answer, shapes[name]) for name, answer in raw["outputs"].items()}
    return Vector(case, raw["id"], tuple(raw["dtypes"]), expected)


def _exact(kind: str, raw: dict[str, Any], shape: tuple[int, ...]) -> Exact:
    value, scale = (np.array(raw[part], object).reshape(shape) for part in ("exact", "scale"))
    if kind == "float":
        value = _decimals(value)
    else:
        value = value.astype({"int": np.int64, "bool": np.bool_}[kind])
    return Exact(value, _decimals(scale), raw["terms"])


def _decimals(numbers: np.ndarray) -> np.ndarray:
    return np.array([Decimal(x) for x in numbers.flat], object).reshape(numbers.shape)


def _hash() -> str:
    files = (path(operation) for operation in sorted(CONTRACTS))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()[:12]


HASH = _hash()
