"""JSON lines, strictly: how requests are spelled, and what an answer must be before its numbers are read.

A float is the shortest decimal of its exact float64, or one of the strings "inf", "-inf", "nan", which are
numbers only where a number is due. An answer is one line of UTF-8 JSON; a broken rule is a finding with its
own message, never an exception that could be taken for a fault of the judge.

    -> {"cmd": "start", "protocol": 1, "request_seconds": 10, "directory": "/tmp/minipref-x1"}
    <- {"name": "my-port", "version": "0.1", "language": "rust", "operations": ["dpo"], "dtypes": ["float64"]}
    -> {"cmd": "run", "id": 7, "operation": "dpo", "dtype": "float64", "inputs": {..., "beta": 0.1}}
    <- {"id": 7, "outputs": {"losses": [0.69], ...}}        or  {"id": 7, "error": "beta must be > 0, got -1"}
    -> {"cmd": "stop"}

An array with a zero dimension comes with "shapes": {"rewards": [0, 3]} beside its nested list. One request at a time, answers
in order, nothing else on standard output; `stop` has no answer, and the program ends with 0. The declaration's dtypes say what
`--dtype` may ask for.

Weights of a model are the path of an .npz, relative to `directory`; the same numbers stand beside it as .json, an object of
nested lists by name. A gradient by weight name is such an object, or the path of an .npz or .json of its own, relative to
`directory` or absolute, that is there before the answer is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple, NoReturn

from numpy import asarray, empty, errstate, float64, generic, int64, isfinite, ndarray

LINE_LIMIT = 64 * 2**20  # bytes of one answer, its newline excluded
NESTING_LIMIT = 8  # lists and objects inside one another, the answer itself the first
LAYOUTS = ("plain", "readonly", "strided", "integer", "numeric-mask")
NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class Declaration(NamedTuple):
    """What a program says of itself when it starts."""

    name: str
    version: str
    language: str
    operations: tuple[str, ...]
    dtypes: tuple[str, ...]


class Outputs(NamedTuple):
    """An answer that kept every rule of the line; its values are raw JSON, not yet numbers."""

    values: dict[str, object]


class Refusal(NamedTuple):
    """The implementation's own `error`; undeclared: NotImplementedError at its first call."""

    message: str
    undeclared: bool


class Misbehaviour(NamedTuple):
    """A broken rule. The message says what was due and quotes what came.

    kind: timeout, malformed, wrong-id, repeated, early-end, exit-code, extra-output, not-started or not-run.
    """

    kind: str
    message: str


def quote(what: object) -> str:
    """The ASCII spelling of a value, cut to 200 characters."""
    text = ascii(bytes(what[:200]) if isinstance(what, (bytes, bytearray)) else what)
    return text if len(text) <= 200 else text[:197] + "..."


def spell(value: object) -> object:
    """A value as JSON can say it: arrays as nested lists of exact float64s, infinities and NaN as strings."""
    if isinstance(value, (ndarray, generic)):
        exact = value.astype(float64) if value.dtype.kind == "f" else value
        return exact.tolist() if isfinite(exact).all() else spell(exact.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, (list, tuple)):
        return [spell(item) for item in value]
    if isinstance(value, Mapping):
        return {name: spell(item) for name, item in value.items()}
    return value


def encode_inputs(inputs: Mapping[str, object]) -> dict[str, object]:
    """{"inputs": ...}, and the "shapes" that nested lists cannot show: of arrays with a zero dimension."""
    encoded: dict[str, object] = {"inputs": spell(inputs)}
    empties = {name: list(v.shape) for name, v in inputs.items() if isinstance(v, ndarray) and v.size == 0}
    return {**encoded, "shapes": empties} if empties else encoded


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode_line(message: Mapping[str, object]) -> bytes:
    """One line of ASCII JSON. Raises ValueError on NaN or an infinity, TypeError on what JSON cannot say."""
    return _encode(message).encode("ascii") + b"\n"


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {quote(next(key for key in keys if keys.count(key) > 1))}")
    return found


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"a number that overflows a double: {quote(literal)}")
    return number


def _whole(literal: str) -> int:
    _finite(literal)
    return int(literal)


def _bare_constant(literal: str) -> NoReturn:
    raise ValueError(f'bare {literal}, which is not JSON: it is spelled as the string "inf", "-inf" or "nan"')


_decode = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_float=_finite, parse_int=_whole, parse_constant=_bare_constant
).decode


def _check_tree(value: object, room: int) -> None:
    """Raises ValueError at a null, or at a list or object when there is no room for one more level."""
    if value is None:
        raise ValueError("null, which no answer may contain")
    if isinstance(value, (list, dict)):
        if room == 0:
            raise ValueError(f"nesting deeper than {NESTING_LIMIT}")
        for item in value.values() if isinstance(value, dict) else value:
            if item is None or isinstance(item, (list, dict)):
                _check_tree(item, room - 1)


def parse_strictly(line: bytes) -> dict[str, object]:
    """The object on a line of strict UTF-8 JSON. Raises ValueError naming the rule that the line breaks."""
    if len(line) > LINE_LIMIT:
        raise ValueError(f"a line of {len(line)} bytes, more than {LINE_LIMIT}")
    try:
        tree = _decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError(f"nesting deeper than {NESTING_LIMIT}") from None
    _check_tree(tree, NESTING_LIMIT)
    if not isinstance(tree, dict):
        raise ValueError("not a JSON object")
    return tree


def parse_declaration(line: bytes) -> Declaration:
    """The first line of a program. Raises ValueError naming the broken rule, or the key and what was due."""
    try:
        tree = parse_strictly(line)
    except ValueError as error:
        raise ValueError(f"malformed declaration, its first line: {error}; got {quote(line)}") from None
    for key in ("name", "version", "language"):
        if not isinstance(tree.get(key), str):
            raise ValueError(f"{key} must be a string in its declaration, the first line; got {quote(tree.get(key))}")
    for key in ("operations", "dtypes"):
        names = tree.get(key)
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"{key} must be a list of strings, got {quote(names)}")
        tree[key] = tuple(names)
    return Declaration(**{key: tree[key] for key in Declaration._fields})  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parse_answer(line: bytes, request_id: int, answered: Collection[object] = ()) -> Outputs | Refusal | Misbehaviour:
    """Judge a line, without its newline, as the answer to `request_id`; `answered` holds earlier ids."""
    try:
        return _read_answer(parse_strictly(line), request_id, answered)
    except ValueError as error:
        return Misbehaviour("malformed", f"{error}; got {quote(line)}")


def _read_answer(tree: dict[str, object], request_id: int, answered: Collection[object]) -> Outputs | Refusal | Misbehaviour:
    came, outputs, error = tree.get("id"), tree.get("outputs"), tree.get("error")
    if not _is_number(came):
        raise ValueError("an answer needs the id of its request, a number")
    if came != request_id:
        kind, what = ("repeated", "again the id") if came in answered else ("wrong-id", "the id")
        return Misbehaviour(kind, f"expected id {request_id}, got {what} {quote(came)}")
    if ("outputs" in tree) == ("error" in tree):
        raise ValueError("an answer has exactly one of outputs and error")
    if isinstance(outputs, dict):
        return Outputs(outputs)
    if not isinstance(error, str):
        raise ValueError("outputs must be an object, error a string")
    printable = error.encode("utf-8", "backslashreplace").decode()  # JSON can escape half a surrogate pair
    return Refusal(printable, tree.get("undeclared") is True)


_DUE = {"float": "a number", "int": "an integer of 64 bits", "bool": "true or false"}
_DTYPES = {"float": float64, "int": int64, "bool": bool}


def _leaf(value: object, kind: str) -> float | int | bool:
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "float" and isinstance(value, str) and value in NON_FINITE:
        return NON_FINITE[value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind == "float":
            return float(value)
        if kind == "int" and value == value // 1 and abs(value) < 2**63:
            return int(value)
    raise ValueError(f"expected {_DUE[kind]}, got {quote(value)}")


def _leaves(raw: object, shape: tuple[int, ...], whole: tuple[int, ...]) -> list[object]:
    if not shape:
        return [raw]
    if not isinstance(raw, list):
        raise ValueError(f"expected shape {list(whole)}, got {quote(raw)} where a list of {shape[0]} is due")
    if len(raw) != shape[0]:
        raise ValueError(f"expected shape {list(whole)}, got a list of {len(raw)} where {shape[0]} are due")
    return raw if len(shape) == 1 else [leaf for item in raw for leaf in _leaves(item, shape[1:], whole)]


def decode_output(raw: object, shape: tuple[int, ...], kind: str, dtype: str) -> ndarray:
    """The array that an answer's raw JSON stands for.

    shape: what is due, () for a scalar; kind: "float" (rounded once from double to `dtype`), "int" (int64;
    2.0 spells 2) or "bool". An array with a zero dimension is [] or nested as far as its shape demands.
    Raises ValueError saying what was expected and what came.
    """
    target = dtype if kind == "float" else _DTYPES[kind]
    if 0 in shape and raw == []:
        return empty(shape, target)
    leaves = [_leaf(value, kind) for value in _leaves(raw, shape, shape)]
    with errstate(over="ignore"):  # beyond float32 lies its infinity, which is judged by equality
        return asarray(leaves, _DTYPES[kind]).astype(target).reshape(shape)
