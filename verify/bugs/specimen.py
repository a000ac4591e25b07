"""Copies of the specification in memory, each with one file changed, beside the real one and leaving no trace.

The sources are read as text and compiled once; a copy executes them again under another name. Only what the changed file
reaches is executed. `logprobs` takes three predicting positions at a time in a copy, so that small cases have several chunks.
Names of `arrays` and `contract` that a module does not import are bound in it all the same, so that a changed line may call
another elementary function without an import of its own. What runs whole models, in gpt_tiny, is copied in the same way, and
where a change is to reach it, with all of the specification.
"""

import ast
import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

HOUSE = Path(__file__).resolve().parents[2]
ROOT = HOUSE / "minipref"
NAME = "specimen"
SHARED = ("arrays", "contract")
CHUNK = "CHUNK = 1024", "CHUNK = 3"
ELSEWHERE = {"__init__.py", "__main__.py", "autograd.py", "defaults.py", "monitors.py"}  # what no operation runs

SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in sorted(ROOT.rglob("*.py"))
    if path.name not in ELSEWHERE
}
MODEL_SOURCES = {name: (HOUSE / name).read_text("utf-8") for name in ("gpt_tiny/model_by_hand.py", "gpt_tiny/steps_by_hand.py")}
JUDGED = "verify/own/with_numpy.py"  # what makes operations of them


def module_name(file: str) -> str:
    """offline/dpo.py -> specimen.offline.dpo."""
    return f"{NAME}.{file.removesuffix('.py').replace('/', '.')}"


def compiled(file: str, source: str) -> CodeType:
    return compile(source.replace(*CHUNK), f"minipref/{file}", "exec", dont_inherit=True)


@functools.cache
def codes() -> dict[str, CodeType]:
    """The specification as it is, compiled."""
    return {module_name(file): compiled(file, source) for file, source in SOURCES.items()}


def defined(file: str) -> list[str]:
    """The operations that a file defines: its functions that are decorated with `operation`."""
    functions = [node for node in ast.parse(SOURCES[file]).body if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if is_operation(node)]


def is_operation(node: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Call) and ast.unparse(d.func) == "operation" for d in node.decorator_list)


@functools.cache
def imports(file: str) -> set[str]:
    """The files that a file imports from, by their relative imports."""
    here = file.split("/")
    nodes = [n for n in ast.walk(ast.parse(SOURCES[file])) if isinstance(n, ast.ImportFrom) and n.level]
    return {"/".join([*here[: len(here) - n.level], *(n.module or "").split(".")]) + ".py" for n in nodes}


@functools.cache
def users(file: str) -> list[str]:
    """The file itself and all that import it, directly or through others."""
    found = {file}
    while grown := {user for user in SOURCES if imports(user) & found} - found:
        found |= grown
    return [user for user in SOURCES if user in found]


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of one copy: packages are empty, modules are code objects."""

    def __init__(self, codes: dict[str, CodeType]):
        self.codes = codes

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        is_package = any(name.startswith(f"{fullname}.") for name in self.codes)
        return spec_from_loader(fullname, self, is_package=is_package) if is_package or fullname in self.codes else None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in self.codes:
            exec(self.codes[module.__name__], vars(module))
            for name in SHARED:
                for key, value in vars(sys.modules.get(f"{NAME}.{name}", module)).items():
                    vars(module).setdefault(key, value)


def _model_codes(file: str, source: str) -> dict[str, CodeType]:
    """Of what runs whole models; where the change is in the specification they import that of the copy, from one package."""
    within = file in SOURCES
    texts = MODEL_SOURCES | {JUDGED: (HOUSE / JUDGED).read_text("utf-8")} | ({} if within else {file: source})
    moves = {"from gpt_tiny.": f"from {NAME}.gpt_tiny."} | ({"from minipref": f"from {NAME}"} if within else {})
    for old, new in moves.items():
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    found = {module_name(name): compile(text, name, "exec", dont_inherit=True) for name, text in texts.items()}
    if not within:
        return found
    package = "\n".join(f"from {module_name(name)} import *" for name in SOURCES)
    return codes() | {module_name(file): compiled(file, source), NAME: compile(package, NAME, "exec")} | found


@contextmanager
def specimen(file: str, source: str, *, models: bool = False) -> Iterator[dict[str, Any]]:
    """The operations, by name, that a change of this file can reach, in a copy where its text is `source`: those on arrays, or
    those on whole models, which are all that a file of gpt_tiny reaches.

    Raises whatever the changed text raises when it is compiled or imported.
    """
    whole = models or file in MODEL_SOURCES
    finder = _Finder(_model_codes(file, source) if whole else {**codes(), module_name(file): compiled(file, source)})
    sys.meta_path.insert(0, finder)
    try:
        for user in [JUDGED] if whole else users(file):
            importlib.import_module(module_name(user))
        yield vars(sys.modules[module_name(JUDGED)]) if whole else sys.modules[f"{NAME}.contract"].REGISTRY
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
            del sys.modules[name]
