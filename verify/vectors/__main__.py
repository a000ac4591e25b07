"""Writes the frozen vectors, or checks that they are what would be written.

  python -m verify.vectors            write verify/vectors/OPERATION.json for every operation, models/NAME.json for weights
  python -m verify.vectors --check    compare instead: exit 1, naming the first file that differs

Nothing in the files depends on the machine: cases come from seeded generators, on grids; answers from the oracle, in decimals.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from decimal import ROUND_UP, Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from verify.cases import Case, draw, models, regimes
from verify.contract import ALL, MODELS, VERSION
from verify.oracle import Exact, answer, steps
from verify.oracle.machine import VALUE_DIGITS
from verify.vectors import FOLDER, path
from verify.vectors.notes import notes
from verify.weights import Weights

SEED = 1
DIGITS, DIGITS_OF_MODELS = Context(prec=50), Context(prec=30)
ROUNDED_UP = Context(prec=4, rounding=ROUND_UP)
WIDE = ("ordinary", "saturated", "tiny", "equal rewards")  # also with numbers that float32 does not hold
BLOCKS = 4  # levels of the file that are spread over lines


def file_text(operation: str) -> str:
    """The whole file of one operation."""
    contract, vectors = ALL[operation], list(vectors_of(operation))
    arithmetic = steps.VALUE_DIGITS if operation in MODELS else VALUE_DIGITS
    used = {flag for vector in vectors for flag in vector["flags"]}
    tree = {
        "format": "minipref-vectors",
        "version": "1.0",
        "contract": VERSION,
        "operation": operation,
        "source": contract.source,
        "notes": {n.flag: {"bug": n.bug, "effect": n.effect} for n in notes(operation) if n.flag in used},
        "provenance": {
            "generator": "python -m verify.vectors",
            "seed": SEED,
            "arithmetic": f"decimal, {arithmetic} digits",
        },
        "anchors": anchors_of(operation),
        "vectors": vectors,
    }
    return spread(tree, BLOCKS) + "\n"


def anchors_of(operation: str) -> list[dict[str, Any]]:
    """The operation's entries of anchors.json, digit by digit."""
    found = json.loads((FOLDER / "anchors.json").read_text("utf-8"), parse_float=Decimal)["anchors"]
    mine = [anchor for anchor in found if anchor["operation"] == operation]
    return [{key: value for key, value in anchor.items() if key != "operation"} for anchor in mine]


def vectors_of(operation: str) -> Iterator[dict[str, Any]]:
    if operation in MODELS:
        yield from (vector(place, case) for place, case in enumerate(models.frozen(operation), start=1))
        return
    plan = [(regime, dtype) for regime in regimes(operation) for dtype in ("float32", "float64")]
    plan = [(regime, dtype) for regime, dtype in plan if dtype == "float32" or regime in WIDE]
    for place, (regime, dtype) in enumerate(plan, start=1):
        rng = np.random.default_rng([SEED, *f"{operation} {regime} {dtype}".encode()])
        yield vector(place, draw(operation, regime, rng, dtype))


def vector(place: int, case: Case) -> dict[str, Any]:
    """One case with its exact answers: 50 digits, of a model's 30; scales of 4, rounded up."""
    printed = DIGITS_OF_MODELS if case.operation in MODELS else DIGITS
    return {
        "id": place,
        "regime": case.regime,
        "comment": case.comment,
        "flags": [note.flag for note in notes(case.operation) if case.regime in note.regimes],
        "dtypes": ["float64", "float32"] if all(map(fits_float32, case.inputs.values())) else ["float64"],
        "inputs": case.inputs,
        "outputs": {name: expected(exact, printed) for name, exact in answer(case.operation, case.inputs).items()},
    }


def fits_float32(value: Any) -> bool:
    """Whether float32 holds all numbers. Whatever else models are asked, it does."""
    if isinstance(value, Weights):
        return all(map(fits_float32, value.arrays.values()))
    if isinstance(value, (str, dict, list)):
        return True
    numbers = np.asarray(value, float)
    with np.errstate(over="ignore"):
        return np.array_equal(numbers.astype(np.float32).astype(float), numbers)


def expected(exact: Exact, digits: Context) -> dict[str, Any]:
    decimals = exact.value.dtype == object
    value = mapped(digits.normalize, exact.value) if decimals else exact.value
    return {"exact": value, "scale": mapped(ROUNDED_UP.normalize, exact.scale), "terms": exact.terms}


def mapped(function: Any, numbers: np.ndarray) -> np.ndarray:
    return np.array([function(x) for x in numbers.flat], object).reshape(numbers.shape)


def spread(x: Any, levels: int, indent: str = "") -> str:
    """JSON with objects, and lists of objects, spread over lines down to a level; the rest is compact."""
    of_objects = isinstance(x, list) and x and isinstance(x[0], dict)
    if not levels or not (isinstance(x, dict) and x or of_objects):
        return compact(x)
    inner = indent + " "
    if isinstance(x, dict):
        lines = [f"{inner}{quoted(key)}: {spread(value, levels - 1, inner)}" for key, value in x.items()]
    else:
        lines = [inner + spread(value, levels - 1, inner) for value in x]
    left, right = "{}" if isinstance(x, dict) else "[]"
    return "\n".join([left, ",\n".join(lines), indent + right])


def compact(x: Any) -> str:
    if isinstance(x, Weights):
        return quoted(f"{x.name}.json")
    if isinstance(x, dict):
        return "{" + ", ".join(f"{quoted(key)}: {compact(value)}" for key, value in x.items()) + "}"
    if isinstance(x, np.ndarray):
        return compact(x.tolist())
    if isinstance(x, (list, tuple)):
        return "[" + ", ".join(map(compact, x)) + "]"
    if isinstance(x, (float, Decimal)):
        return number(x)
    return quoted(x)


def quoted(x: str | int | bool) -> str:
    return json.dumps(x, ensure_ascii=False)


def number(x: float | Decimal) -> str:
    """A JSON number, every digit of it, without an exponent where that is not long; an infinity as the string "inf" or
    "-inf". ValueError for NaN."""
    if x != x:
        raise ValueError("a vector must not hold NaN")
    if abs(x) == float("inf"):
        return '"inf"' if x > 0 else '"-inf"'
    if isinstance(x, float) or not -6 <= x.adjusted() <= 20:
        return str(x)
    return f"{x:f}"


def main(arguments: list[str]) -> int:
    """Exit code: 0; 1 if --check finds a file that differs."""
    parser = argparse.ArgumentParser(
        "python -m verify.vectors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with the files that are there, write nothing")
    checking = parser.parse_args(arguments).check
    for file, content in files():
        if not checking:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        elif not file.exists() or file.read_bytes() != content:
            print(f"{file.name} is not what `python -m verify.vectors` writes", file=sys.stderr)
            return 1
    return 0


def files() -> Iterator[tuple[Path, bytes]]:
    """Every file and what is in it: weights first."""
    for weights in models.frozen_weights():
        arrays = {name: compact(x) for name, x in weights.arrays.items()}
        lines = ",\n".join(f" {quoted(name)}: {text}" for name, text in arrays.items())
        yield path(weights.name), f"{{\n{lines}\n}}\n".encode()
    for operation in ALL:
        yield path(operation), file_text(operation).encode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
