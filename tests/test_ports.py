"""The ports, judged: JavaScript where there is node, JAX where its environment stands; and a bug in either is found."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from verify import contract, runner, vectors
from verify.cases import invalid
from verify.pipe import BrokenStart, Refusal, Session
from verify.subject import Result, Subject

ROOT = Path(__file__).resolve().parents[1]
PORTS = ROOT / "verify" / "ports"
NODE = shutil.which("node")
JAX = ROOT / ".venv-jax" / "bin" / "python"
needs_node = pytest.mark.skipif(not NODE, reason="no node")
needs_jax = pytest.mark.skipif(not JAX.exists(), reason="no .venv-jax: `make .venv-jax/ready` installs JAX there")
ARRAYS = [*contract.CONTRACTS]

Start = Callable[..., Subject]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """start(port, folder): the port under judgement, its files being those of a folder like the checkout."""
    with ExitStack() as sessions:

        def started(port: str, folder: Path = ROOT) -> Subject:
            javascript = [str(NODE), str(folder / "verify/ports/js/testee.mjs")]
            # -P: not what is in the folder that the tests run in.
            python = ["env", f"PYTHONPATH={folder}", str(JAX), "-P", "-m", "verify.child", "verify.ports.jax.testee"]
            settings = {"request_seconds": 60, "python_child": port == "jax"}
            directory = str(tmp_path_factory.mktemp("weights"))
            session = Session(python if port == "jax" else javascript, directory=directory, **settings)
            return Subject(sessions.enter_context(session), "float64", python=port == "jax", directory=directory)

        yield started


@pytest.fixture(scope="module")
def javascript(start: Start) -> Subject:
    return start("js")


@pytest.fixture(scope="module")
def jax(start: Start) -> Subject:
    return start("jax")


def answers(subject: Subject, operation: str, count: int | None = None) -> Iterator[Result]:
    """Its answers to frozen vectors, judged."""
    for vector in vectors.load(operation)[:count]:
        yield subject.judge(contract.ALL[operation], vector.case.inputs, vector.expected)


def check_all_right(subject: Subject, operation: str, count: int | None = None) -> None:
    found = list(answers(subject, operation, count))
    assert found and not [failure for result in found for failure in result.failures]


@needs_node
@pytest.mark.parametrize("operation", ARRAYS)
def test_javascript_answers_every_vector(operation: str, javascript: Subject) -> None:
    check_all_right(javascript, operation)


@needs_node
def test_javascript_has_all_operations_on_arrays(javascript: Subject) -> None:
    assert javascript.declared == {*ARRAYS}


@needs_node
@pytest.mark.parametrize("operation", ARRAYS)
def test_javascript_names_what_it_refuses(operation: str, javascript: Subject) -> None:
    for case in (case for case in invalid(operation, "float64") if case.layout == "plain"):
        reply = javascript.session.run(operation, "float64", case.inputs)
        assert isinstance(reply, Refusal), (case, reply)
        # Of sizes that differ either argument may be named.
        several = re.match("[A-Z] (one|of)|infinities", case.rule)
        named = contract.ALL[operation].inputs if several else [case.argument]
        assert any(f"{operation}: {name} must" in reply.message for name in named), (case, reply)


def judged(port: str, sweep: bool) -> str:
    """What the judge prints of an operation, or of all that there are."""
    chosen = ["--operations", "*" if sweep else "gae", "--profile", "quick", "--seed", "1", "--request-seconds", "60"]
    found = subprocess.run([sys.executable, "-m", "verify", "--impl", port, *chosen], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@needs_node
def test_javascript_conforms(sweep: bool) -> None:
    level_2 = "level L2-VG, values and gradients, " + ("all 15 operations" if sweep else "operations {gae}")
    assert level_2 in judged(f"cmd:{NODE} verify/ports/js/testee.mjs", sweep)


@needs_jax
def test_jax_conforms(sweep: bool) -> None:
    level_2 = "level L2-VG, values and gradients, " + ("all 15 operations" if sweep else "operations {gae}")
    found = judged("jax", sweep)
    assert level_2 in found and (not sweep or "level L4-V, values only, operations {train}, float64" in found)


MISTAKES = [  # file, operation, old text, new text
    ("js/sequences.mjs", "sequence_logps", "place: t - 1,", "place: t,"),
    ("js/sequences.mjs", "sequence_logps", "-Math.expm1(logp) : -Math.exp(logp)", "Math.expm1(logp) : Math.exp(logp)"),
    ("js/sequences.mjs", "linear_sequence_logps", "slope * value", "slope / value"),
    ("js/sequences.mjs", "kl_estimates", "-Math.expm1(d)]", "Math.expm1(d)]"),
    ("js/sequences.mjs", "gae", "if (!row[t]) continue;", ""),
    ("js/sequences.mjs", "ppo_policy", "held < free ?", "held <= free ?"),
    ("js/sequences.mjs", "advantages_grpo", "(away.length - 1)", "away.length"),
    ("js/sequences.mjs", "token_mean", "counts === false", "counts === null"),
    ("jax/losses.py", "dpo", "-nn.log_sigmoid(h), beta", "-nn.log_sigmoid(-h), beta"),
    ("jax/losses.py", "rso_hinge", "nn.relu(1 - h)", "jnp.maximum(0, 1 - h)"),
    ("jax/losses.py", "kto", "jnp.where(desirable, 1, -1)", "jnp.where(desirable, -1, 1)"),
    ("jax/sequences.py", "sequence_logps", "logits[:-1], 0.0", "logits[1:], 0.0"),
    ("jax/sequences.py", "sequence_logps", "jnp.where(predicts[:, None], logits[:-1], 0.0)", "logits[:-1]"),
    ("jax/sequences.py", "ppo_policy", "jnp.where(moves | jnp.isnan(log_ratio), log_ratio, 0.0)", "log_ratio"),
    ("jax/sequences.py", "ppo_value", "held**2 > errors**2", "held**2 >= errors**2"),
    ("jax/gpt.py", "gpt_logits", "approximate=True", "approximate=False"),
    ("jax/gpt.py", "preference_step", "(starts <= place)", "(starts < place)"),
    ("jax/gpt.py", "train", "(1 - b2**step)", "(1 - b2)"),
]


@pytest.mark.parametrize(("file", "operation", "old", "new"), MISTAKES, ids=lambda x: None if "/" in x else x)
def test_a_mistake_is_found(file: str, operation: str, old: str, new: str, start: Start, tmp_path: Path) -> None:
    port = file.partition("/")[0]
    if not (NODE if port == "js" else JAX.exists()):
        pytest.skip("no node" if port == "js" else "no .venv-jax")
    for folder in ("verify", "toy/page"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "verify" / "ports" / file
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in {file}"
    path.write_text(text.replace(old, new), "utf-8")
    assert any(result.failures for result in answers(start(port, tmp_path), operation))


@needs_jax
@pytest.mark.parametrize("operation", [*contract.ALL])
def test_jax_answers_vectors(operation: str, jax: Subject, sweep: bool) -> None:
    check_all_right(jax, operation, None if sweep else 6)


@needs_jax
def test_jax_has_all_operations(jax: Subject) -> None:
    assert jax.declared == {*contract.ALL}


def test_jax_without_its_environment_says_what_makes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    with pytest.raises(BrokenStart, match=r"jax needs an environment of its own, \.venv-jax: make \.venv-jax/ready"):
        runner.find("jax")


def test_ports_stand_alone() -> None:
    """Of this project they import nothing but each other."""
    modules = set()
    for path in (PORTS / "jax").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module or "")
    assert not {name.partition(".")[0] for name in modules} - {"jax", "numpy", *sys.stdlib_module_names}
