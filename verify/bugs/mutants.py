"""General mutants: every small way in which a line of the specification could be wrong.

A mutant replaces one span of a file's text. What is changed: operators and their operands, comparisons, signs, numbers and
strings, one argument for another of its kind, the order of arguments, branches, slices, functions for their siblings,
statements, rules, and the legal ranges of arguments.

What is not, because no operation could tell or no judge asks:

- text: docstrings, the `source` and `level` of an operation, the values shown in a message;
- what an array is asked for its shape or dtype only;
- types that say what a reader or the contract file needs: of results, of helpers, of constants against variables;
- gradients, which are read by the contract file alone, and the `strict=` of a zip, which asserts;
- the library that an array belongs to, and what arrives from another than NumPy (tests of exactness run on both);
- functions that no operation runs, and CHUNK, on which no answer depends: UNREACHED;
- what is the same in NumPy or by arithmetic: reshape(-2) for reshape(-1), min(b, a) for min(a, b), sets in another order.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from verify.bugs.specimen import SOURCES, is_operation

UNREACHED = {
    "arrays.py": {"is_torch", "namespace", "to_numpy", "cumulative_sum"},
    "logprobs.py": {"CHUNK"},
    "contract.py": {"__str__", "_refuse", "_on_host"},
    "online/kl.py": {"kl_shaped_rewards"},
    "online/sampling.py": {"rejection_sample", "online_pairs"},
    "optimum.py": {"implicit_rewards", "rewards_of_optimum"},
}
UNREAD_KEYWORDS = {"source", "level", "gradients", "strict"}


def both_ways(*pairs: tuple[Any, Any]) -> dict[Any, tuple[Any, ...]]:
    """Each of a pair for the other."""
    return {one: (other,) for pair in pairs for one, other in (pair, pair[::-1])}


OPERATORS = both_ways((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitAnd, ast.BitOr), (ast.And, ast.Or))
OPERATORS |= both_ways((ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot)) | {ast.Pow: (ast.Mult,)}
OPERATORS |= {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt)}
SIBLINGS = both_ways(("exp", "expm1"), ("log", "log1p"), ("softmax", "log_softmax"), ("sum_over", "mean_over"))
SIBLINGS |= both_ways(("sum", "mean"), ("max", "min"), ("any", "all"))
SIBLINGS |= {
    "softplus": ("log_sigmoid", "positive_part"),
    "log_sigmoid": ("softplus", "sigmoid"),
    "sigmoid": ("log_sigmoid", "softplus"),
    "log1mexp": ("log_sigmoid",),
    "positive_part": ("softplus", "abs"),
    "logsumexp": ("mean_over",),
    "isneginf": ("isposinf",),
    "isnan": ("isinf",),
    "isfinite": ("isnan",),
    "reversed": ("list",),
}
RANGES = {
    "Positive": ("NonNegative", "Finite", "AtLeastOne"),
    "NonNegative": ("Positive", "Finite"),
    "Finite": ("Positive",),
    "UnitInterval": ("NonNegative", "FlipRate"),
    "FlipRate": ("UnitInterval", "ClipLow"),
    "ClipLow": ("Positive", "UnitInterval"),
    "AtLeastOne": ("Positive",),
    "Lengths": ("Tokens",),
    "Tokens": ("Integers", "Lengths"),
    "Mask": ("Booleans",),
    "ResponseMask": ("Mask", "Booleans"),
}

Place = ast.stmt | ast.expr | tuple[ast.expr, ast.expr]  # a node, or the first and the last of several


class Mutant(NamedTuple):
    """One replaced span, in bytes of the file's UTF-8 text, which is how syntax trees count."""

    file: str
    where: str  # the function or class that holds the span, dotted; empty at the top of the file
    line: int
    start: int
    end: int
    new: str

    def apply(self, source: str) -> str:
        raw = source.encode()
        return (raw[: self.start] + self.new.encode() + raw[self.end :]).decode()

    def lines(self, source: str) -> tuple[str, str]:
        """The lines of the span before and after, indentation and line breaks made single spaces."""
        raw = source.encode()
        left, right = raw.rfind(b"\n", 0, self.start) + 1, (raw + b"\n").index(b"\n", self.end)
        after = raw[left : self.start] + self.new.encode() + raw[self.end : right]
        return " ".join(raw[left:right].decode().split()), " ".join(after.decode().split())


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of one file, in the order of its text, each text once."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = {}
    tree = ast.parse(source)
    twins = {f.name: _twins(f) for f in tree.body if isinstance(f, ast.FunctionDef) and is_operation(f)}
    for node, where in _in_scope(tree, "", UNREACHED.get(file, set())):
        for place, new in (*_variants(node), *_twin(node, twins.get(where, {}))):
            first, last = place if isinstance(place, tuple) else (place, place)
            start = starts[first.lineno - 1] + first.col_offset
            end = starts[(last.end_lineno or first.lineno) - 1] + (last.end_col_offset or 0)
            found[start, end, new] = Mutant(file, where, first.lineno, start, end, new)
    return [found[key] for key in sorted(found)]


def all_mutants() -> Iterator[Mutant]:
    for file, source in SOURCES.items():
        yield from mutants(file, source)


def _in_scope(node: ast.AST, where: str, unreached: set[str]) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Every statement and expression that counts, with the dotted name of what holds it."""
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in unreached:
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        if node.name in unreached:
            return
        where = f"{where}.{node.name}".removeprefix(".")
    if isinstance(node, ast.stmt | ast.expr):
        yield node, where
    for child in _parts(node):
        yield from _in_scope(child, where, unreached)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """The children of a node that are not text, types or what no judge asks."""
    match node:
        case ast.FunctionDef():
            yield from node.decorator_list
            yield from filter(None, map(_range, node.args.args)) if is_operation(node) else ()
            yield from (*node.args.defaults, *node.body)
        case ast.ClassDef():
            yield from node.body
        case ast.AnnAssign() | ast.Assign():
            yield from [node.value] if node.value else []
        case ast.Call(func=ast.Name(id="NewType" | "TypeVar" | "TypeVarTuple" | "Gradient" | "zeros_like")):
            return
        case ast.Call(func=ast.Name(id="floats_like")):
            yield node.args[0]
        case ast.Call(func=ast.Name(id="constant_like")):
            yield node.args[1]
        case ast.Call(func=ast.Attribute(attr="_refuse")):
            yield node.args[0]
        case ast.Call(func=ast.Attribute(attr="reshape")):
            yield node.func
        case ast.Compare(ops=[ast.In() | ast.NotIn()]):
            yield node.left
        case ast.Call():
            yield from (node.func, *node.args)
            yield from (k.value for k in node.keywords if k.arg not in UNREAD_KEYWORDS)
        case ast.If() | ast.IfExp() if _asks_for_library(node.test):
            yield from [node.orelse] if isinstance(node, ast.IfExp) else node.body
        case ast.JoinedStr() | ast.Attribute(attr="shape" | "dtype") | ast.Expr(value=ast.Constant()):
            return
        case _:
            yield from ast.iter_child_nodes(node)


def _range(argument: ast.arg) -> ast.expr | None:
    """Of an input's annotation what says which numbers are legal; its dimensions have the cases of their shapes."""
    match argument.annotation:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[_, interval])):
            return interval
        case ast.Subscript(value=kind):
            return kind
        case annotation:
            return annotation


def _variants(node: ast.stmt | ast.expr) -> Iterator[tuple[Place, str]]:
    """Spans to replace, and what by."""
    match node:
        case ast.BinOp():
            yield from ((node, _text(ast.BinOp(node.left, op, node.right))) for op in _others(node.op))
            yield from ((node, _text(part)) for part in (node.left, node.right) if _others(node.op))
        case ast.Compare(ops=[op]):
            yield from ((node, _text(ast.Compare(node.left, [new], node.comparators))) for new in _others(op))
        case ast.BoolOp():
            yield from ((node, _text(ast.BoolOp(op, node.values))) for op in _others(node.op))
            yield from ((node, _text(value)) for value in node.values)
        case ast.UnaryOp():
            yield node, _text(node.operand)
        case ast.Constant(value=str()):
            yield node, '""'
        case ast.Constant(value=bool() | int() | float() as number):
            yield from ((node, repr(new)) for new in _other_numbers(number))
        case ast.Name(ctx=ast.Load()):
            yield from ((node, new) for new in RANGES.get(node.id, ()))
        case ast.Call():
            yield from _other_calls(node)
        case ast.Tuple(ctx=ast.Load()):
            yield from _swaps(node.elts)
        case ast.List():
            yield from ((element, "*()") for element in node.elts if "RULE" in ast.unparse(element).upper())
        case ast.Slice():
            yield from _other_slices(node)
        case ast.Assign(value=value) | ast.Return(value=value) if value and _is_arithmetic(value):
            yield value, f"-{_text(value)}"
        case ast.If() | ast.IfExp() if not _asks_for_library(node.test):
            yield from ((node.test, forced) for forced in ("True", "False"))
        case ast.ListComp() | ast.GeneratorExp():
            yield from ((test, "True") for part in node.generators for test in part.ifs)
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Continue():
            yield node, "pass"


def _twins(function: ast.FunctionDef) -> dict[str, str]:
    """For each argument of an operation the next one with the same annotation, and after the last the first."""
    kinds: dict[str, list[str]] = {}
    for argument in function.args.args:
        kinds.setdefault(ast.dump(argument.annotation or argument), []).append(argument.arg)
    return {name: names[(i + 1) % len(names)] for names in kinds.values() for i, name in enumerate(names) if len(names) > 1}


def _twin(node: ast.stmt | ast.expr, twins: dict[str, str]) -> Iterator[tuple[Place, str]]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in twins:
        yield node, twins[node.id]


def _text(node: ast.AST) -> str:
    """The source of an expression, in parentheses unless it is a name, a number or a call."""
    text = ast.unparse(node)
    return text if isinstance(node, ast.Name | ast.Constant | ast.Call | ast.Attribute) else f"({text})"


def _others(operator: ast.AST) -> list[Any]:
    return [other() for other in OPERATORS.get(type(operator), ())]


def _other_numbers(x: bool | int | float) -> list[bool | int | float]:
    if isinstance(x, bool):
        return [not x]
    if x in (0, 1):
        return [type(x)(other) for other in ((0, 2) if x else (1,))]
    return [x + 1, 2 * x] if x < 1 else [x + 1]


def _other_calls(node: ast.Call) -> Iterator[tuple[Place, str]]:
    """The function for a sibling, and neighbouring arguments swapped."""
    match node.func:
        case ast.Name(id=name):
            yield from ((node.func, new) for new in SIBLINGS.get(name, ()))
        case ast.Attribute(value=value, attr=name):
            yield from ((node.func, f"{_text(value)}.{new}") for new in SIBLINGS.get(name, ()))
    if not re.search(r"\b(_refuse|min|max|reshape|getattr)$", ast.unparse(node.func)):
        yield from _swaps(node.args)


def _swaps(items: list[ast.expr]) -> Iterator[tuple[Place, str]]:
    """Each item next to its neighbour, put in the other order: a span that begins with one and ends with the other."""
    for left, right in itertools.pairwise(items):
        movable = not any(isinstance(x, ast.Slice | ast.Starred) or _is_text(x) for x in (left, right))
        if movable and ast.dump(left) != ast.dump(right):
            yield (left, right), f"{_text(right)}, {_text(left)}"


def _other_slices(node: ast.Slice) -> Iterator[tuple[Place, str]]:
    """[1:] for [:-1] and back; [k:] for [k + 1 :]."""
    match ast.unparse(node):
        case "1:":
            yield node, ":-1"
        case ":-1":
            yield node, "1:"
        case text if text.endswith(":") and node.lower:
            yield node.lower, f"{_text(node.lower)} + 1"


def _is_arithmetic(value: ast.expr) -> bool:
    match value:
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in SIBLINGS or name in ("where", "clip", "clipped_to")
    return False


def _asks_for_library(test: ast.expr) -> bool:
    return "is_torch" in ast.unparse(test) or "xp is np" in ast.unparse(test)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
