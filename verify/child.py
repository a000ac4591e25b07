"""A Python module behind the protocol: python -m verify.child MODULE [CONTRACT ...]

MODULE is a dotted name or the path of a .py file: one function per operation, called with keyword arguments
(NumPy arrays of the case's dtype, Python numbers, booleans and strings, lists of lists of token ids; for weights
the whole path of an .npz in the case's dtype), returning a dict. It may state NAME, VERSION and DTYPES. CONTRACT
is a contract file; by default those beside this file.

The module is imported after all that is needed here is bound, with nothing on its stdin and stderr behind its
stdout: what it prints, reads or patches reaches neither requests nor answers.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from numpy import array, asarray, dtype, empty, float32, float64, int64, nan, ndarray

from verify.protocol import NON_FINITE, encode_line, spell

_CONTRACTS = [Path(__file__).with_name(name) for name in ("contract-1.json", "contract-models-1.json")]
_read_json, _write = json.JSONDecoder().decode, os.write
_FLOATS: dict[str, dtype[Any]] = {"float32": dtype(float32), "float64": dtype(float64)}


def seize_stdio() -> tuple[BinaryIO, int]:
    """The stream of requests and the descriptor for answers, moved away from 0 and 1."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, answers


def load(name: str) -> ModuleType:
    """Import by dotted name, or by path; a file's neighbours are importable, after everything installed."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    if path.with_name("__init__.py").is_file():
        return _load_of_package(path)
    sys.path.append(str(path.parent))
    # Under a name of its own: a file called like a library must not stand in that library's place.
    spec = importlib.util.spec_from_file_location(f"judged_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"MODULE must be a Python file, got {name}")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_of_package(path: Path) -> ModuleType:
    """Under its dotted name, so that its relative imports work. ImportError where something installed has that name."""
    root = next(folder for folder in path.parents if not (folder / "__init__.py").is_file())
    sys.path.append(str(root))
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    if Path(module.__file__ or "").resolve() != path:
        raise ImportError(f"{path} cannot be imported: {name} is {module.__file__}")
    return module


def declare(module: ModuleType, operations: Mapping[str, object]) -> dict[str, object]:
    """Its declaration: every operation of the contract that the module has a function for."""
    version = getattr(module, "VERSION", getattr(module, "__version__", "0"))
    return {
        "name": str(getattr(module, "NAME", module.__name__.removeprefix("judged_"))),
        "version": str(version),
        "language": "python",
        "operations": [name for name in operations if callable(getattr(module, name, None))],
        "dtypes": [str(name) for name in getattr(module, "DTYPES", _FLOATS)],
    }


def _read_only(values: ndarray) -> ndarray:
    values.flags.writeable = False
    return values


def _strided(values: ndarray) -> ndarray:
    """The same numbers in every other place of an array twice as wide, with what must not be read between."""
    if values.ndim == 0:
        return values
    wide = empty((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
    wide[..., 1::2] = nan if values.dtype.kind == "f" else 1
    wide[..., ::2] = values
    return wide[..., ::2]


_LAYOUTS: dict[str, Callable[[ndarray], ndarray]] = {
    "plain": lambda values: values,
    "readonly": _read_only,
    "strided": _strided,
    "integer": lambda values: values.astype(int64) if values.dtype.kind == "f" else values,
    "numeric-mask": lambda values: values.astype(float64) if values.dtype.kind == "b" else values,
}


def _array(raw: list[object], kind: str, precision: dtype) -> ndarray:
    found = array(raw) if kind == "int" else empty(0)
    # A length of 1.5 must reach the module as 1.5: to refuse it is the module's own duty.
    if kind == "int" and (found.dtype.kind == "i" or not found.size):
        return found.astype(int64)
    return array(raw, dtype=bool if kind == "bool" else precision)


def build_arguments(request: Mapping[str, Any], inputs: Mapping[str, Any], directory: str = "") -> dict[str, object]:
    """The request's arguments as the contract's `inputs` says: arrays, numbers, paths; anything else as it came."""
    arguments: dict[str, object] = {}
    precision, shapes = _FLOATS[request["dtype"]], request.get("shapes", {})
    arrange = _LAYOUTS[request.get("layout", "plain")]
    for name, raw in request["inputs"].items():
        kind = inputs.get(name, {}).get("kind")
        if kind == "weights":
            arguments[name] = os.path.join(directory, raw)
        elif kind == "object" and isinstance(raw, dict):
            arguments[name] = {key: NON_FINITE.get(x, x) if isinstance(x, str) else x for key, x in raw.items()}
        elif kind not in ("float", "int", "bool", "scalar", "count"):
            arguments[name] = raw
        elif isinstance(raw, list):
            values = _array(raw, kind, precision)
            arguments[name] = arrange(values.reshape(shapes.get(name, values.shape)))
        else:
            arguments[name] = NON_FINITE.get(raw, raw) if isinstance(raw, str) else raw
    return arguments


def _imprint(value: object) -> object:
    """Equal before and after only if not a bit has changed."""
    return (value.dtype, value.shape, value.tobytes()) if isinstance(value, ndarray) else repr(value)


def _output(name: str, value: object, kind: str, precision: dtype | None) -> object:
    """One output, ready to be spelled. Raises TypeError if it is no array, or not of the case's precision."""
    if type(value) in (float, int, bool, str):
        return value
    if isinstance(value, dict):
        return {str(key): _output(f"{name}[{key!r}]", item, kind, precision) for key, item in value.items()}
    values = asarray(value)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"returned {type(value).__name__} for {name}, expected an array")
    if kind in ("float", "scalar", "tensors") and precision is not None and values.dtype != precision:
        raise TypeError(f"returned {values.dtype} for {name}, expected {precision}")
    return values


def read_outputs(result: object, outputs: Mapping[str, Any], precision: dtype | None) -> dict[str, object]:
    """What the contract names among the values that a function returned. Raises TypeError."""
    values = result._asdict() if hasattr(result, "_asdict") else result
    if not isinstance(values, dict):
        raise TypeError(f"returned {type(result).__name__}, expected a dict")
    return {
        name: spell(_output(name, values[name], outputs[name].get("kind"), precision)) for name in outputs if name in values
    }


def answer(module: ModuleType, request: Mapping[str, Any], contract: Mapping[str, Any], directory: str = "") -> dict:
    """Call the module once: its outputs, or an error that says what it raised or what it did wrong."""
    operation = contract[request["operation"]]
    arguments = build_arguments(request, operation["inputs"], directory)
    before = {name: _imprint(value) for name, value in arguments.items()}
    # Where no input is floating-point, the module cannot know in which precision it is asked.
    tells = any(entry["kind"] in ("float", "weights") for entry in operation["inputs"].values())
    precision = _FLOATS[request["dtype"]] if tells else None
    try:
        result = getattr(module, request["operation"])(**arguments)
    except Exception as error:
        undeclared = {"undeclared": True} if isinstance(error, NotImplementedError) else {}
        return {"error": f"{type(error).__name__}: {error}", **undeclared}
    for name, value in arguments.items():
        if _imprint(value) != before[name]:
            return {"error": f"modified its input {name}"}
    try:
        return {"outputs": read_outputs(result, operation["outputs"], precision)}
    except Exception as error:
        return {"error": str(error)}


def main(name: str, *contract_paths: str) -> None:
    """Serve until told to stop, or until the requests end."""
    requests, answers = seize_stdio()
    contract: dict[str, Any] = {}
    for path in contract_paths or _CONTRACTS:
        contract |= _read_json(Path(path).read_text("utf-8"))["operations"]
    directory = _read_json(requests.readline().decode()).get("directory", "")
    module = load(name)
    _send(answers, declare(module, contract))
    for line in requests:
        request = _read_json(line.decode())
        if request["cmd"] == "stop":
            gc.freeze()  # to sweep a large library for garbage before the end takes a second, which nobody has asked for
            return
        _send(answers, {"id": request["id"], **answer(module, request, contract, directory)})


def _send(descriptor: int, message: Mapping[str, object]) -> None:
    unsent = memoryview(encode_line(message))
    while unsent:
        unsent = unsent[_write(descriptor, unsent) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
