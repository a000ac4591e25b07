"""The oracle is a second derivation: no statement of it stands in the specification, not even under other names.

Two derivations that share a line are one derivation. Statements are compared as syntax trees whose names are numbered in the
order of their appearance; those of one or two operations (`h = a - b - c` has 13 nodes) say too little to be compared.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = 14


def shapes(source: str) -> Iterator[tuple[str, str]]:
    """Every simple statement, as its shape and its text."""
    simple = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, simple) and not isinstance(getattr(node, "value", None), ast.Constant):
            if sum(1 for _ in ast.walk(node)) >= SMALLEST:
                yield shape(node), ast.unparse(node)


def shape(statement: ast.AST) -> str:
    numbers: dict[str, str] = {}
    renamed = ast.parse(ast.unparse(statement))
    for node in ast.walk(renamed):
        for field in ("id", "attr", "arg", "name"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                setattr(node, field, numbers.setdefault(name, str(len(numbers))))
    return ast.dump(renamed)


def package(*folders: str) -> dict[str, str]:
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {shape: f"{path.relative_to(ROOT)}: {text}" for path in files for shape, text in shapes(path.read_text("utf-8"))}


def test_no_statement_is_shared() -> None:
    oracle, specification = package("verify/oracle"), package("minipref")
    assert len(oracle) > 80 and len(specification) > 120
    shared = [f"{oracle[shape]}\n{specification[shape]}" for shape in oracle.keys() & specification.keys()]
    assert not shared, "\n\n".join(shared)


def test_a_renamed_line_would_be_noticed() -> None:
    ours = "losses = beta * (policy - reference) + log_sigmoid(margin) / (1 - 2 * rate)"
    theirs = "x = b * (p - q) + f(m) / (1 - 2 * e)"
    assert dict(shapes(ours)).keys() == dict(shapes(theirs)).keys()


def test_neither_imports_the_other() -> None:
    for folder, other in (("verify/oracle", "minipref"), ("minipref", "verify")):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not any(module.split(".")[0] == other for module in modules), path
