"""The specification as a text and as an interface: one shape in every file, one contract, errors that say what is wrong."""

import ast
import copy
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import minipref
from minipref import REGISTRY
from minipref.contract import Operation

Inputs = Callable[..., dict[str, Any]]
Library = Callable[[Any], Any]
ROOT = Path(minipref.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
OPERATIONS = list(REGISTRY.values())
MODULES = {op.formula.__module__: sys.modules[op.formula.__module__] for op in OPERATIONS}
METHODS = [module for name, module in MODULES.items() if name.split(".")[1] in ("offline", "online")]
HAS_FLOAT_ARRAYS = [op for op in OPERATIONS if any(a.kind == "float" for a in op.inputs.values())]

# An arXiv number with its version, or author, year and title.
SOURCE = re.compile(r'arXiv:\d{4}\.\d{5}v\d|[A-Z]\w+ (19|20)\d\d, "?[A-Z]|[A-Z]\w+ & [A-Z]\w+ (19|20)\d\d|openai/baselines')


def by_name(x: Any) -> str:
    return x.name if isinstance(x, Operation) else x.__name__ if isinstance(x, ModuleType) else str(x.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def assigned(function: ast.FunctionDef) -> Iterator[tuple[str, int]]:
    """Every name that the function assigns, with its line."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


@pytest.mark.parametrize("module", METHODS, ids=by_name)
def test_a_method_opens_with_source_then_equation_then_gradient(module: ModuleType) -> None:
    text, operations = inspect.getdoc(module) or "", [op for op in OPERATIONS if op.formula.__module__ == module.__name__]
    equations = re.search(r"(?m)(^    .*\n?)+", text)
    assert text.split("\n")[0].endswith((".", '"', ",", ":")) or ". " in text.split("\n")[0], "opens with a sentence"
    assert equations and " " in equations.group() and SOURCE.search(text[: equations.end()]), "source, then equation"
    indented = [line.strip() for line in text.split("\n") if line.startswith("    ")]
    if any(output in ("losses", "token_losses") for op in operations for output in op.outputs):
        assert any(re.match(r"L +=", line) for line in indented)
    if any(op.gradients for op in operations):
        slopes, equalities = ([i for i, line in enumerate(indented) if sign in line] for sign in ("∂", " = "))
        assert slopes and equalities and equalities[0] <= slopes[0], "the gradient stands below what it is of"


@pytest.mark.parametrize("op", OPERATIONS, ids=by_name)
def test_an_operation_names_its_source_and_units(op: Operation[Any]) -> None:
    module = MODULES[op.formula.__module__]
    package = sys.modules[module.__name__.rpartition(".")[0]]
    said = " ".join(inspect.getdoc(x) or "" for x in (package, module, op.formula))
    names = [*op.inputs, *op.outputs]
    assert SOURCE.search(op.source) and inspect.getdoc(op.formula)
    assert "nats" in said or not any(name.endswith(("logps", "logits")) for name in names)
    assert "token" in said or not any(name.endswith(("lengths", "tokens", "mask", "max_length")) for name in names)


@pytest.mark.parametrize("op", OPERATIONS, ids=by_name)
def test_names_are_the_fields_and_have_no_synonyms(op: Operation[Any]) -> None:
    for name, argument in (op.inputs | op.outputs).items():
        assert not re.search(r"log_?probs?|(^|_)refs?(_|$)|winner|loser|accepted", name)
        assert not name.endswith(("logps", "logits")) or (argument.kind == "float" and argument.interval.low == -np.inf)
        assert ("mask" in name) == (op.mask is not None and name == op.mask.name)


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op.gradients], ids=by_name)
def test_code_follows_the_order_loss_then_gradient(op: Operation[Any]) -> None:
    (function,) = functions(ast.parse(inspect.getsource(op.formula)))
    lines = list(assigned(function))
    losses = [line for name, line in lines if name == op.gradients[0].of]
    slopes = [line for name, line in lines if name == "weight" or name.startswith(("grad", "slope")) or name.endswith("_push")]
    assert not losses or max(losses) <= min(slopes, default=max(losses))


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_functions_are_short_and_public_ones_documented(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    for function in functions(tree):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        code = source.split("\n")[body[0].lineno - 1 : function.end_lineno]
        assert sum(bool(re.match(r"\s*[^\s#]", line)) for line in code) <= 20, function.name
        public = function in tree.body and not function.name.startswith("_")
        assert not public or ast.get_docstring(function), function.name
    for identifier in re.findall(r"arXiv:[\d.]+\w*", source):
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}v\d+", identifier), "a paper is cited with its version"


def imports(path: Path) -> Iterator[str]:
    """What a file imports: absolute module names, or names within minipref with a leading dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * bool(node.level) + (node.module or "")


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_imports_run_down(path: Path) -> None:
    found = set(imports(path))
    outside = {name.split(".")[0] for name in found if not name.startswith(".")} - sys.stdlib_module_names
    assert outside <= ({"numpy", "torch"} if path.name == "autograd.py" else {"numpy"})
    inside = {name for name in found if name.startswith(".")}
    below = {"arrays.py": set(), "contract.py": {".arrays"}}
    assert inside <= below.get(path.name, inside)
    assert ".autograd" not in inside


def test_minipref_loads_without_torch() -> None:
    code = "import sys, minipref; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=False).returncode == 0


def test_the_frozen_contract_is_the_one_printed() -> None:
    printed = subprocess.run([sys.executable, "-X", "utf8", "-m", "minipref"], cwd=ROOT.parent, capture_output=True, check=True)
    assert printed.stdout == (ROOT.parent / "verify" / "contract-1.json").read_bytes()


def given_as(library: Library, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with their arrays in the library; what it cannot hold stays as it is."""
    is_plain = {name: isinstance(x, np.ndarray) and x.dtype != object for name, x in inputs.items()}
    return {name: library(x) if is_plain[name] else x for name, x in inputs.items()}


LOGPS = -np.array([1.0, 2, 3, 4, 5])
NAN, INF = np.nan, np.inf
BAD = [  # one of each form; that every rule of the contract is held is for tests of the invalid cases
    ("dpo", "beta", 0.0, "must lie in (0, inf), got 0.0"),
    ("dpo", "beta", NAN, "must lie in (0, inf), got nan"),
    ("dpo", "beta", INF, "must lie in (0, inf), got inf"),
    ("dpo", "beta", True, "must be a real number, got True"),
    ("dpo", "beta", "0.1", "must be a real number, got '0.1'"),
    ("dpo", "beta", LOGPS, "must be a real number, got [-1. -2. -3. -4. -5.]"),
    ("cdpo", "label_smoothing", 0.5, "must lie in [0, 0.5), got 0.5"),
    ("simpo", "gamma", -INF, "must be finite, got -inf"),
    ("gae", "discount", 1.5, "must lie in [0, 1], got 1.5"),
    ("ppo_policy", "clip_low", 1.0, "must lie in (0, 1), got 1.0"),
    ("dpo", "policy_chosen_logps", LOGPS[:, None], "must have the shape [N], got (5, 1)"),
    ("dpo", "policy_chosen_logps", -1.5, "must be an array, got -1.5"),
    ("dpo", "policy_chosen_logps", np.array(-1.5), "must be an array, got -1.5"),
    ("dpo", "policy_chosen_logps", [-1.0] * 5, "must be an array, got [-1.0, -1.0, -1.0, -1.0, -1.0]"),
    ("dpo", "policy_rejected_logps", LOGPS[:4], "must have N = 5 like policy_chosen_logps, got (4,)"),
    ("dpo", "policy_chosen_logps", np.arange(5), "must be an array of float, got 'int64'"),
    ("dpo", "policy_chosen_logps", LOGPS.astype(object), "must be an array of float, got 'object'"),
    ("dpo", "policy_chosen_logps", LOGPS + 0j, "must be an array of float, got 'complex128'"),
    ("dpo", "reference_chosen_logps", LOGPS * [1, NAN, 1, 1, 1], "must be finite or be -inf, got [nan]"),
    ("dpo", "policy_chosen_logps", -LOGPS * [INF, 1, 1, 1, 1], "must be finite or be -inf, got [inf]"),
    ("bradley_terry", "chosen_rewards", LOGPS * [INF, 1, 1, 1, 1], "must be finite, got [-inf]"),
    ("dpo", "reference_chosen_logps", LOGPS * [INF, 1, 1, 1, 1], "must be finite where policy_chosen_logps is, got [-inf"),
    ("kto", "desirable", np.array([1, 0, 1, 0, 1]), "must be an array of bool, got 'int64'"),
    ("simpo", "chosen_lengths", np.array([1, 2, 0, 4, 5]), "must lie in [1, inf), got [0]"),
    ("simpo", "chosen_lengths", -LOGPS, "must be an array of int, got 'float64'"),
    ("orpo", "policy_rejected_logps", LOGPS * [0, 1, 1, 1, 1], "must lie in (-inf, 0) or be -inf, got [-0.]"),
    ("plackett_luce", "rewards", LOGPS[:, None][:, :0], "must have K >= 1, got (5, 0)"),
    ("sequence_logps", "response_mask", np.ones((3, 6), bool), "must be false at position 0, which nothing predicts, got [["),
    ("linear_sequence_logps", "tokens", np.full((3, 6), -1), "must lie in [0, inf), got [-1 -1"),
]


@pytest.mark.parametrize(("name", "argument", "value", "message"), BAD)
def test_an_error_names_operation_argument_rule_and_value(
    name: str, argument: str, value: Any, message: str, library: Library, ordinary: Inputs
) -> None:
    inputs = given_as(library, ordinary(REGISTRY[name]) | {argument: value})
    with pytest.raises(ValueError, match="^" + re.escape(f"{name}: {argument} {message}")):
        REGISTRY[name](**inputs)


def test_where_infinities_meet_it_is_an_error(library: Library, ordinary: Inputs) -> None:
    impossible = {f"{model}_chosen_logps": LOGPS * [INF, 1, 1, 1, 1] for model in ("policy", "reference")}
    with pytest.raises(ValueError, match="dpo: policy_chosen_logps must leave losses a limit"):
        minipref.dpo(**given_as(library, ordinary(minipref.dpo) | impossible))


def test_infinities_and_overflows_that_have_a_limit_are_answered(library: Library) -> None:
    x, far = library(np.float32([-1])), library(np.float32([-200]))
    never = library(np.float32([-INF]))
    for loss in (minipref.dpo, minipref.rso_hinge):
        answer = loss(never, x, x, x, beta=0.5)
        assert answer.losses[0] == INF and answer.grad_policy_chosen_logps[0] == -0.5
    for policy in (far, never):
        answer = minipref.kl_estimates(policy, x)
        assert answer.k3[0] == INF and answer.grad_k3[0] == -INF
        assert answer.k1[0] == policy[0] - x[0] and answer.grad_k1[0] == 1


def floats_of(op: Operation[Any], result: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name, argument in op.outputs.items() if argument.kind == "float"}


def same(got: Any, right: Any, tolerance: float = 1e-14) -> None:
    """Every output equal to rounding."""
    for name, due in right._asdict().items():
        np.testing.assert_allclose(getattr(got, name), due, tolerance, tolerance, err_msg=name)


TOLERANCES = {np.dtype("float16"): 0.05, np.dtype("float32"): 1e-4, np.dtype("float64"): 1e-6}
TOLERANCES |= {torch.float16: 0.05, torch.bfloat16: 0.3, torch.float32: 1e-4, torch.float64: 1e-6}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("op", HAS_FLOAT_ARRAYS, ids=by_name)
def test_the_dtype_of_the_inputs_is_that_of_the_outputs(op: Operation[Any], dtype: Any, ordinary: Inputs) -> None:
    inputs, right = ordinary(op, np.float32), op(**ordinary(op))
    inputs = given_as(torch.tensor, inputs) if isinstance(dtype, torch.dtype) else inputs
    cast = "to" if isinstance(dtype, torch.dtype) else "astype"
    inputs |= {name: getattr(inputs[name], cast)(dtype) for name in op.inputs if op.inputs[name].kind == "float"}
    for name, value in floats_of(op, op(**inputs)).items():
        assert value.dtype == dtype, name
        got, due = torch.as_tensor(value).double().numpy(), getattr(right, name)
        assert np.all(abs(got - due) <= TOLERANCES[dtype] * (1 + abs(due).max())), name


@pytest.mark.parametrize("op", [op for op in HAS_FLOAT_ARRAYS if None in (a.type for a in op.inputs.values())], ids=by_name)
def test_numbers_may_be_scalars_of_any_library(op: Operation[Any], library: Library, ordinary: Inputs) -> None:
    inputs = given_as(library, ordinary(op, np.float32))
    right = op(**inputs)
    for scalar in (np.float64, np.float32, np.array, torch.tensor):
        got = op(**{name: scalar(x) if isinstance(x, float) else x for name, x in inputs.items()})
        same(got, right, 1e-5)
        assert all(value.dtype == getattr(right, name).dtype for name, value in floats_of(op, got).items())


def strided(x: Any) -> Any:
    return x.repeat_interleave(2, -1)[..., ::2] if isinstance(x, torch.Tensor) else np.repeat(x, 2, -1)[..., ::2]


def by_columns(x: Any) -> Any:
    swapped = x.swapaxes(0, -1)
    return (swapped.contiguous() if isinstance(x, torch.Tensor) else np.ascontiguousarray(swapped)).swapaxes(0, -1)


@pytest.mark.parametrize("layout", [copy.deepcopy, strided, by_columns])
@pytest.mark.parametrize("op", OPERATIONS, ids=by_name)
def test_arrays_of_any_layout_are_read_only(op: Operation[Any], library: Library, layout: Any, ordinary: Inputs) -> None:
    inputs = given_as(library, ordinary(op))
    arrays = [name for name in op.inputs if op.inputs[name].type]
    given = inputs | {name: layout(inputs[name]) for name in arrays}
    before = copy.deepcopy(given)
    for name in arrays:
        if isinstance(given[name], np.ndarray):
            given[name].setflags(write=False)
    same(op(**given), op(**inputs))
    assert all(np.array_equal(given[name], before[name]) for name in arrays)


def test_jax_reads_the_same_text(ordinary: Inputs) -> None:
    jax_numpy = pytest.importorskip("jax.numpy", reason="JAX is optional, and not installed here")
    for op in [op for op in HAS_FLOAT_ARRAYS if op.level == 1]:
        result = op(**given_as(jax_numpy.asarray, ordinary(op, np.float32)))
        assert all(isinstance(value, jax_numpy.ndarray) for value in floats_of(op, result).values())
        same(result, op(**ordinary(op)), 1e-4)
