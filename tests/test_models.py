"""Levels 3 and 4: the oracle against its own slopes, autograd and others' numbers; what is compared in norm; ports; museum."""

import json
import re
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_independence import package, shapes
from torch.nn import functional as F

from verify import cases, contract, oracle, vectors
from verify.__main__ import main
from verify.bugs import museum, selftest, specimen
from verify.bugs.selftest import exhibits, trials_of
from verify.cases.models import REGIMES, SIZES, Size, draw, pair
from verify.cases.models import shapes as weight_shapes
from verify.contract import METHODS, MODELS
from verify.judge import compare
from verify.oracle import Exact, steps
from verify.oracle.network import backward
from verify.oracle.numbers import ONE, ZERO, branches, digits
from verify.own import with_numpy
from verify.weights import Weights, read

ROOT = Path(__file__).resolve().parent.parent
Judge = Callable[..., tuple[int, str]]
every_operation = pytest.mark.parametrize("operation", MODELS)


# The oracle


def small(method: str, seed: int) -> dict[str, Any]:
    models = pair("small", Size(5, 10, 4, 1, 2), np.random.default_rng(seed), 256)
    return draw("preference_step", "ordinary", np.random.default_rng(seed), models, method).inputs


@pytest.mark.parametrize("method, seed", [("dpo", 0), ("ipo_length_normalized", 1), ("orpo", 2), ("kto", 1)])
def test_gradients_of_the_oracle_are_the_slopes_of_its_losses(method: str, seed: int) -> None:
    """All weights moved at once: two points leave h² of the slope. KTO's point, a constant, is here one: it is clamped."""
    inputs, rng, h = small(method, seed), np.random.default_rng(9), Decimal("1e-15")
    rest = {name: x for name, x in inputs.items() if not name.endswith("weights")}
    branches.take()  # others may have left theirs
    with digits(60):
        weights, reference = (steps.decimals(inputs[name].arrays) for name in ("weights", "reference_weights"))
        direction = {name: np.array(rng.integers(-3, 4, w.shape).tolist(), object) * ONE for name, w in weights.items()}

        def loss(distance: Decimal) -> Any:
            moved = {name: w + distance * direction[name] for name, w in weights.items()}
            return steps.step(moved, steps.nodes(reference), **rest)

        quotient = (loss(h)[0] - loss(-h)[0]) / (2 * h)
        slope = sum((loss(ZERO)[1][name] * v).sum() for name, v in direction.items())
        assert abs(slope) > Decimal("0.01") and abs(slope - quotient) <= Decimal("1e-24") * abs(slope)


def torch_logits(w: dict[str, torch.Tensor], heads: int, tokens: list[int]) -> torch.Tensor:
    """A GPT-2 on one row, in PyTorch's own words."""
    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    norm = partial(F.layer_norm, normalized_shape=x.shape[1:], eps=1e-5)
    for layer in range(sum(name.endswith("ln_1.weight") for name in w)):
        own = {name.removeprefix(f"h.{layer}."): p for name, p in w.items()}
        fused = norm(x, weight=own["ln_1.weight"], bias=own["ln_1.bias"]) @ own["attn.c_attn.weight"] + own["attn.c_attn.bias"]
        parts = (part.unflatten(1, (heads, -1)).transpose(0, 1)[None] for part in fused.chunk(3, dim=1))
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)[0].transpose(0, 1).flatten(1)
        x = x + mixed @ own["attn.c_proj.weight"] + own["attn.c_proj.bias"]
        wide = norm(x, weight=own["ln_2.weight"], bias=own["ln_2.bias"]) @ own["mlp.c_fc.weight"] + own["mlp.c_fc.bias"]
        x = x + F.gelu(wide, approximate="tanh") @ own["mlp.c_proj.weight"] + own["mlp.c_proj.bias"]
    return norm(x, weight=w["ln_f.weight"], bias=w["ln_f.bias"]) @ w["wte.weight"].T


def torch_logps(w: dict[str, torch.Tensor], inputs: dict[str, Any], prompts: Any, responses: Any) -> tuple[Any, Any]:
    cut = [response[: inputs["max_length"] - len(prompt)] for prompt, response in zip(prompts, responses, strict=True)]
    found = []
    for prompt, response in zip(prompts, cut, strict=True):
        scores = torch_logits(w, inputs["n_head"], [*prompt, *response])[len(prompt) - 1 : -1]
        found.append(-F.cross_entropy(scores, torch.tensor(response), reduction="sum"))
    return torch.stack(found), torch.tensor([float(len(response)) for response in cut], dtype=torch.float64)


def torch_losses(method: str, x: dict[str, Any], policy: Any, reference: Any) -> torch.Tensor:
    """From (prompts, responses) -> (log-probabilities, lengths) of two models, by the papers' formulas."""
    beta, prompts = x["hyperparameters"].get("beta"), x["prompt_ids"]
    if method == "kto":
        logps, others = (
            [m(p, x["completion_ids"])[0] for m in (policy, reference)] for p in (prompts, prompts[1:] + prompts[:1])
        )
        z0 = (others[0] - others[1]).mean().clamp(min=0).detach()
        good = torch.tensor(x["desirable"])
        weights = torch.where(good, *(x["hyperparameters"][f"{name}desirable_weight"] for name in ("", "un"))).double()
        return weights * (1 - torch.sigmoid(torch.where(good, beta, -beta) * (logps[0] - logps[1] - z0)))
    (w, n), (v, m) = policy(prompts, x["chosen_ids"]), policy(prompts, x["rejected_ids"])
    if method == "simpo":
        return -F.logsigmoid(beta * (w / n - v / m) - x["hyperparameters"]["gamma"])
    if method == "orpo":
        odds = [a - torch.log1p(-torch.exp(a)) for a in (w / n, v / m)]
        return -w / n - x["hyperparameters"]["odds_weight"] * F.logsigmoid(odds[0] - odds[1])
    (rw, _), (rv, _) = reference(prompts, x["chosen_ids"]), reference(prompts, x["rejected_ids"])
    h, e = w - rw - v + rv, x["hyperparameters"].get("label_smoothing", 0.0)
    return {
        "ipo": lambda: (h - 1 / (2 * beta)) ** 2,
        "ipo_length_normalized": lambda: ((w - rw) / n - (v - rv) / m - 1 / (2 * beta)) ** 2,
        "rso_hinge": lambda: torch.relu(1 - beta * h),
        "robust_dpo": lambda: (e * F.logsigmoid(-beta * h) - (1 - e) * F.logsigmoid(beta * h)) / (1 - 2 * e),
    }.get(method, lambda: -(1 - e) * F.logsigmoid(beta * h) - e * F.logsigmoid(-beta * h))()


@pytest.mark.parametrize("vector", vectors.load("preference_step"), ids=lambda v: f"{v.id}-{v.case.inputs['method']}")
def test_gradients_of_the_oracle_are_those_of_autograd(vector: vectors.Vector) -> None:
    x = vector.case.inputs
    models = [{name: torch.tensor(w) for name, w in x[which].arrays.items()} for which in ("weights", "reference_weights")]
    for parameter in models[0].values():
        parameter.requires_grad_()
    loss = torch_losses(x["method"], x, *(partial(torch_logps, w, x) for w in models)).mean()
    loss.backward()
    got = {"loss": loss.detach().numpy()}
    for name, parameter in models[0].items():
        assert parameter.grad is not None
        got |= steps.parts(name, parameter.grad.numpy())
    worst, misses = compare(vector.expected, got, "float64")
    assert not misses and 0 < worst <= 0.1, misses
    assert got.keys() == {name for name in vector.expected if not name.endswith("logps")}


@every_operation
def test_the_oracle_reproduces_the_numbers_of_gpt2lmheadmodel(operation: str) -> None:
    (anchor,) = vectors.anchors(operation)
    with digits(50):
        exact = oracle.MODELS[operation](**{name: getattr(x, "arrays", x) for name, x in anchor.inputs.items()})
    assert "GPT2LMHeadModel" in anchor.source["what"] and set(anchor.outputs) <= set(exact)
    for name, theirs in anchor.outputs.items():
        assert np.all(abs(exact[name].astype(float) - theirs) <= anchor.tolerance * (1 + abs(theirs))), name


def test_the_oracle_shares_no_statement_with_gpt_tiny() -> None:
    files = [ROOT / "verify" / "oracle" / name for name in ("network.py", "steps.py")]
    network = dict(found for file in files for found in shapes(file.read_text("utf-8")))
    ours = package("gpt_tiny")
    assert len(network) > 60 and len(ours) > 100
    assert not [f"{network[shape]}\n{ours[shape]}" for shape in network.keys() & ours.keys()]


def test_a_hinge_is_open_and_closed_and_a_point_is_clamped_and_not() -> None:
    by_method = {v.id: v for v in vectors.load("preference_step")}
    hinges, points = [], []
    for inputs in (v.case.inputs for v in by_method.values() if v.case.inputs["method"] in ("rso_hinge", "kto")):
        policy, reference = (
            partial(torch_logps, {n: torch.tensor(w) for n, w in inputs[which].arrays.items()}, inputs)
            for which in ("weights", "reference_weights")
        )
        if inputs["method"] == "kto":
            rows = [*inputs["prompt_ids"][1:], inputs["prompt_ids"][0]], inputs["completion_ids"]
            points.append(float((policy(*rows)[0] - reference(*rows)[0]).mean()))
        else:
            hinges += torch_losses("rso_hinge", inputs, policy, reference).tolist()
    assert min(hinges) == 0 < max(hinges) and min(points) < 0 < max(points)
    assert {v.case.inputs["method"] for v in by_method.values()} == set(METHODS)
    assert {v.case.regime for v in by_method.values()} == set(REGIMES["preference_step"])


# The bound


def test_a_part_is_compared_in_norm() -> None:
    exact = {"x": Exact(np.array([[3, 4], [0, 0]], object) * ONE, np.array([ONE * 5, ONE]), 1)}
    unit = 64 * 2.0**-53
    for wrong, times in (
        ([[3, 4 + 10 * unit], [0, 0]], 2),
        ([[3, 4], [0, 0.5 * unit]], 0.5),
        ([[3 + 3 * unit, 4 - 4 * unit], [0, 0]], 1),
    ):
        worst, misses = compare(exact, {"x": np.array(wrong)}, "float64")
        assert abs(worst - times) < 0.3 and bool(misses) == (times > 1)
    for number in (np.nan, np.inf):
        worst, misses = compare(exact, {"x": np.array([[3, number], [0, 0]])}, "float64")
        assert worst == np.inf and [miss.place for miss in misses] == [(0,)] and "off by" in str(misses[0])
    with pytest.raises(ValueError, match="expected shape"):
        compare(exact, {"x": np.zeros(2)}, "float64")


@every_operation
def test_scales_are_of_what_the_contract_compares_in_norm(operation: str) -> None:
    outputs = json.loads(contract.PATH_OF_MODELS.read_text("utf-8"))["operations"][operation]["outputs"]
    for vector in vectors.load(operation):
        for name, exact in vector.expected.items():
            norm = outputs[name].get("norm_over", []) if name in outputs else list(exact.value.shape)
            assert exact.scale.ndim == exact.value.ndim - len(norm) and exact.terms == 1
            values = exact.value.reshape(exact.scale.size, -1)
            assert all(scale > 0 or not value.any() for scale, value in zip(exact.scale.flat, values, strict=True))


def test_a_key_bias_has_a_scale_though_it_has_no_gradient() -> None:
    expected = vectors.load("preference_step")[0].expected
    key, value = (expected[f"grads[h.0.attn.c_attn.bias, {part}]"] for part in ("key", "value"))
    assert max(map(abs, key.value)) < Decimal("1e-40") and value.scale / 100 < key.scale < value.scale


def test_what_moves_is_everything() -> None:
    """A sum of two numbers that cancel is as uncertain as they are; without rounding nothing moves."""
    node = steps.Node(np.array([[ONE, -ONE]], object))
    assert (node.total().value == 0).all()
    with steps.rounding(0):
        moved = [abs(steps.Node(np.array([[ONE, -ONE]], object)).total().value.item()) for _ in range(9)]
    assert {round(x * 10**20) for x in moved} == {0, 2}
    backward([(node, ONE)])
    assert node.gradient.tolist() == [[1, 1]]


# Files, cases, requests that must be refused


@every_operation
def test_files_have_the_schema_of_all_vectors(operation: str) -> None:
    tree = json.loads(vectors.path(operation).read_text("utf-8"), parse_constant=pytest.fail)
    assert (tree["format"], tree["operation"], tree["source"]) == ("minipref-vectors", operation, MODELS[operation].source)
    for raw, vector in zip(tree["vectors"], vectors.load(operation), strict=True):
        assert set(raw) == {"id", "regime", "comment", "flags", "dtypes", "inputs", "outputs"}
        assert list(raw["inputs"]) == [name for name in MODELS[operation].inputs if name in raw["inputs"]]
        due = MODELS[operation].shapes(vector.case.inputs)
        assert {name.partition("[")[0] for name in raw["outputs"]} == due.keys()
    assert {dtype for raw in tree["vectors"] for dtype in raw["dtypes"]} == {"float64", "float32"}


def test_weights_are_away_from_special_values_and_the_second_model_from_float32() -> None:
    for name, size in SIZES.items():
        arrays = read(vectors.FOLDER / f"models/{name}.json")
        assert {key: x.shape for key, x in arrays.items()} == dict(weight_shapes(size))
        assert all(len(np.unique(x)) > 3 and (not key.startswith("ln_f.w") or 1 not in x) for key, x in arrays.items())
        exact = [np.array_equal(x, x.astype(np.float32)) for x in arrays.values()]
        assert all(exact) if name == "one" else not any(exact)
        assert size.heads != size.width // size.heads


@pytest.mark.parametrize("operation", ["gpt_logits", "preference_step"])
def test_fresh_cases_are_the_seeds(operation: str) -> None:
    once, again, other = (cases.fresh(operation, "float64", seed, 1)[0].inputs for seed in (1, 1, 2))
    same = [np.array_equal(once["weights"].arrays[name], x) for name, x in again["weights"].arrays.items()]
    assert all(same) and str(once) == str(again) and str(once) != str(other)


@every_operation
def test_every_rule_is_broken_by_some_request_and_ours_refuse_all(operation: str, tmp_path: Path) -> None:
    invalid = cases.invalid(operation, "float64")
    broken = {(case.argument, case.rule.partition(":")[0]) for case in invalid}
    assert set(MODELS[operation].rules) <= broken
    function = getattr(with_numpy, operation)
    for case in invalid:
        sent = {name: str(vectors.path(x.name)) if isinstance(x, Weights) else x for name, x in case.sent().items()}
        with pytest.raises(ValueError):
            function(**sent)
            pytest.fail(f"accepted {case.argument}: {case.rule}")


# Implementations


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """judge(text of a module, *options): the exit code, and what was printed, in the quick profile under one seed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(text: str, *options: str, name: str = "port.py") -> tuple[int, str]:
        (tmp_path / name).write_text(text)
        command = [f"cmd:{sys.executable} {tmp_path / name}"] if name != "port.py" else [str(tmp_path / name)]
        code = main(["--impl", *command, "--profile", "quick", "--seed", "1", "--request-seconds", "60", *options])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


ALL_THREE = "from verify.own.with_numpy import gpt_logits, preference_step, train\n"


def test_ours_conforms_at_levels_3_and_4_and_leaves_nothing_behind(judge: Judge, tmp_path: Path) -> None:
    code, printed = judge(ALL_THREE, "--operations", "model")
    assert code == 0, printed
    assert (
        "level L3-VG, values and gradients, all 2 operations, level L4-V, values only, operations {train}, float64" in printed
    )
    assert [path.name for path in tmp_path.iterdir()] == ["port.py"]


CHANGED = """
from itertools import count
import numpy as np
from verify.own import with_numpy
def changed(name, change):
    def call(**inputs):
        outputs = getattr(with_numpy, name)(**inputs)
        change(inputs, outputs)
        return outputs
    return call
calls = count()
"""
BROKEN = {  # by claim: what is done to the answers
    "gpt_logits.batching": "y['logits'] += len(x['tokens']) * 1e-9",
    "gpt_logits.padding": "y['logits'] += x['tokens'].shape[1] * 1e-9",
    "preference_step.slopes": "y['grads'] = {name: g * (1 + 1e-4) for name, g in y['grads'].items()}",
    "preference_step.batching": "y['loss'] = y['loss'] * len(x['prompt_ids'])",
    "preference_step.step-0": "y['loss'] = y['loss'] + 1e-9",
    "preference_step.key-bias": "y['grads'] = {name: g + 1e-9 for name, g in y['grads'].items()}",
    "preference_step.repeatable": "y['loss'] = y['loss'] + 1e-15 * next(calls)",
    "train.standstill": "y['losses'] = y['losses'] + 1e-9 * (x['lr'] == 0)",
    "train.fresh": "y['logits'] = y['logits'] * (1 + 1e-10)",
}


@pytest.mark.parametrize("claim", BROKEN)
def test_a_claim_fails_where_it_is_not_true(judge: Judge, claim: str) -> None:
    operation = claim.partition(".")[0]
    change = f"def change(x, y):\n    {BROKEN[claim]}\n{operation} = changed('{operation}', change)\n"
    other = "" if operation != "train" else "from verify.own.with_numpy import preference_step\n"
    code, printed = judge(CHANGED + change + other, "--claims", claim)
    assert code == 1 and re.search(rf"^{operation} .*FAILS", printed, re.M), printed
    directory = re.search(r"weights that requests name are in (\S+),", printed)
    assert directory and re.search(r"weights='([^']*)'", printed)
    for path in re.findall(r"weights='([^']*)'", printed):
        assert read(Path(directory.group(1), path))["wte.weight"].ndim == 2


GRADIENTS = {
    "y.pop('grads')": "L3-V (without preference_step.grads), values only, operations {preference_step}",
    "np.savez(x['weights'] + '-grads.npz', **y['grads']); y['grads'] = x['weights'] + '-grads.npz'": "L3-VG",
    "y['grads'].pop('ln_f.bias')": "grads malformed",
    "y['grads'] = {name: g.astype('f4') for name, g in y['grads'].items()}": "float32 for grads",
    "y.pop('chosen_logps', 0)": "L3-V (without preference_step.chosen_logps)",
    "y.pop('loss')": "nothing to judge",
}


@pytest.mark.parametrize("change", GRADIENTS)
def test_gradients_may_be_left_out_or_named_by_a_path(judge: Judge, change: str) -> None:
    text = CHANGED + f"def change(x, y):\n    {change}\npreference_step = changed('preference_step', change)\n"
    code, printed = judge(text, "--claims", "preference_step.vectors")
    assert GRADIENTS[change] in printed and code == (0 if "L3" in GRADIENTS[change] else 1), printed


PROGRAM = """
import json, os, sys
import numpy as np
from gpt_tiny.model_by_hand import forward
start = json.loads(sys.stdin.readline())
itself = {"name": "p", "version": "1", "language": "x", "operations": ["gpt_logits"], "dtypes": ["float64"]}
print(json.dumps(itself), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["cmd"] == "stop":
        break
    x, path = asked["inputs"], os.path.join(start["directory"], asked["inputs"]["weights"])
    try:
        weights = {n: np.array(w) for n, w in json.load(open(path.replace(".npz", ".json"))).items()}
        logits, _ = forward(weights, x["n_head"], np.array(x["tokens"]), np.array(x["attention_mask"]))
        print(json.dumps({"id": asked["id"], "outputs": {"logits": logits.tolist()}}), flush=True)
    except Exception as error:
        print(json.dumps({"id": asked["id"], "error": str(error)}), flush=True)
"""


def test_a_program_reads_weights_as_json(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code, printed = judge(PROGRAM, "--claims", "gpt_logits.[vr]*", name="program.py")
    assert code == 0 and "p 1 conforms to minipref 1.0, level L3-VG" in printed, printed


def test_levels_1_and_2_do_not_ask_for_models(judge: Judge) -> None:
    code, printed = judge("from minipref import ipo", "--operations", "model")
    assert code == 3 and "declares no operation" in printed


def test_weights_are_read_from_both_kinds_of_file_and_nothing_else(tmp_path: Path) -> None:
    weights = Weights("sub/w", {"wte.weight": np.array([[0.1, 2.0]])})
    for dtype, name in (("float64", "sub/w.npz"), ("float32", "sub/w-float32.npz")):
        assert weights.placed(str(tmp_path), dtype) == name
        for path in (tmp_path / name, (tmp_path / name).with_suffix(".json")):
            assert read(path)["wte.weight"].astype(dtype).tolist() == weights.arrays["wte.weight"].astype(dtype).tolist()
    assert read(tmp_path / "sub/w-float32.npz")["wte.weight"].dtype == np.float32
    (tmp_path / "bad.json").write_text("[1")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    for name in ("nowhere.npz", "bad.json", "pickled.npz"):
        with pytest.raises(ValueError, match=f"{name} must be weights as .npz or .json"):
            read(tmp_path / name)


# The museum


def test_every_bug_of_a_model_is_caught() -> None:
    with np.errstate(all="ignore"):
        assert [e.bug.id for e in exhibits(museum.BUGS_OF_MODELS, selftest.SEED) if e.catch is None] == []
    operations = {name for bug in museum.BUGS_OF_MODELS for name in bug.operations}
    assert operations == set(MODELS) and all(bug.apply() != specimen.MODEL_SOURCES[bug.file] for bug in museum.BUGS_OF_MODELS)


@every_operation
def test_ours_passes_its_own_trials(operation: str) -> None:
    assert selftest.sorted_out(operation, selftest.SEED)[1] == [] and len(trials_of(operation, selftest.SEED)) > 10


def test_explanations_show_the_network_and_its_bugs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", "gpt_logits.padding"]) == 0
    printed = capsys.readouterr().out
    assert "def logits(" in printed and "positions-count-padding" in printed and "Radford et al. 2019" in printed
