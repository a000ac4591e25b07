"""The cases and the frozen vectors: well formed, reproducible, and what is invalid refused; anchors met by the oracle."""

import json
import re
import time
from collections.abc import Callable

import hypothesis
import numpy as np
import pytest

import minipref
from verify import cases, vectors
from verify.cases.laws import counts, taken
from verify.cases.regimes import ALL
from verify.contract import CONTRACTS, VERSION
from verify.oracle import NearTie, NoLimit, answer
from verify.vectors import __main__ as generator
from verify.vectors.notes import NOTES

OPERATIONS = sorted(CONTRACTS)
BOTH = ("float64", "float32")
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


def same(a: object, b: object) -> bool:
    return type(a) is type(b) and np.array_equal(a, b, equal_nan=True)


# The files


def test_check_finds_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main(["--check"]) == 0, capsys.readouterr().err


def test_check_names_the_file_that_differs(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator, "path", lambda operation: tmp_path / f"{operation}.json")
    monkeypatch.setattr(generator, "ALL", {name: CONTRACTS[name] for name in ("dpo", "ipo")})
    assert generator.main([]) == 0
    (tmp_path / "ipo.json").write_bytes((tmp_path / "ipo.json").read_bytes().replace(b"ordinary", b"ordinarx", 1))
    assert generator.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("ipo.json ")


@every_operation
def test_file_has_its_schema_unique_ids_and_declared_flags(operation: str) -> None:
    tree = json.loads(vectors.path(operation).read_text("utf-8"), parse_constant=pytest.fail)  # at bare NaN and Infinity
    contract = CONTRACTS[operation]
    assert (tree["format"], tree["version"], tree["contract"]) == ("minipref-vectors", "1.0", VERSION)
    assert (tree["operation"], tree["source"]) == (operation, contract.source)
    assert tree["provenance"]["generator"] == "python -m verify.vectors"
    for vector in tree["vectors"]:
        assert set(vector) == {"id", "regime", "comment", "flags", "dtypes", "inputs", "outputs"}
        assert list(vector["inputs"]) == list(contract.inputs)
        assert set(vector["outputs"]) == set(contract.outputs)
        assert vector["dtypes"] in (["float64", "float32"], ["float64"])
        assert vector["comment"]
    ids = [vector["id"] for vector in tree["vectors"]]
    assert len(set(ids)) == len(ids) >= 5
    assert {flag for vector in tree["vectors"] for flag in vector["flags"]} == set(tree["notes"])
    assert {dtype for vector in tree["vectors"] for dtype in vector["dtypes"]} == set(BOTH)
    assert {vector["regime"] for vector in tree["vectors"]} == set(cases.regimes(operation))


def test_notes_name_what_exists() -> None:
    names = {name for note in NOTES for name in note.operations}
    assert names <= set(OPERATIONS)
    assert {regime for note in NOTES for regime in note.regimes} <= set(ALL)
    assert len({note.flag for note in NOTES}) == len(NOTES)
    for note in NOTES:
        assert any(set(note.regimes) & set(cases.regimes(name)) for name in note.operations), note.flag


@every_operation
def test_vectors_load_without_losing_a_digit(operation: str) -> None:
    for vector in vectors.load(operation):
        inputs = vector.case.inputs
        for name, exact in answer(operation, inputs).items():
            read = vector.expected[name]
            assert read.value.shape == read.scale.shape == CONTRACTS[operation].shapes(inputs)[name]
            assert read.value.dtype == exact.value.dtype and read.terms == exact.terms
            for got, due in zip(read.value.flat, exact.value.flat, strict=True):
                assert got == due or abs(got - due) <= abs(due) * generator.DIGITS.power(10, -49)
            assert all(due <= got for got, due in zip(read.scale.flat, exact.scale.flat, strict=True))


def test_vectors_load_fast_and_stay_small() -> None:
    start = time.process_time()
    for operation in OPERATIONS:
        vectors.load(operation)
    assert time.process_time() - start < 0.5
    assert sum(vectors.path(operation).stat().st_size for operation in OPERATIONS) < 2_000_000
    assert re.fullmatch("[0-9a-f]{12}", vectors.HASH)


# The cases


@every_operation
@pytest.mark.parametrize("dtype", BOTH)
def test_cases_are_exact_in_their_dtype_and_reproducible(operation: str, dtype: str) -> None:
    count = len(cases.regimes(operation))
    once, again = (cases.fresh(operation, dtype, 7, count) for _ in range(2))
    assert [case.regime for case in once] == list(cases.regimes(operation))
    for case, twin in zip(once, again, strict=True):
        assert all(same(case.inputs[name], twin.inputs[name]) for name in CONTRACTS[operation].inputs)
        for name, argument in CONTRACTS[operation].inputs.items():
            if argument.kind in ("float", "scalar"):
                value = np.asarray(case.inputs[name], float)
                kept = counts(CONTRACTS[operation], argument, case.inputs)
                assert np.array_equal(value.astype(dtype).astype(float)[kept], value[kept])


def test_unlike_seeds_give_unlike_cases() -> None:
    first, second = (cases.fresh("dpo", "float64", seed, 1)[0].inputs for seed in (1, 2))
    assert not same(first["policy_chosen_logps"], second["policy_chosen_logps"])


def test_unknown_regime_is_refused() -> None:
    with pytest.raises(ValueError, match="regime must be one of ordinary.*got 'odd'"):
        cases.draw("dpo", "odd", np.random.default_rng(0), "float64")


@every_operation
def test_strategy_gives_what_the_oracle_can_answer(operation: str) -> None:
    answered = []

    @hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @hypothesis.given(cases.strategy(operation, "float32"))
    def search(inputs: dict) -> None:
        assert list(inputs) == list(CONTRACTS[operation].inputs)
        try:
            exact = answer(operation, inputs)
        except (NearTie, NoLimit):
            hypothesis.reject()
        answered.append({name: output.value.shape for name, output in exact.items()})
        assert answered[-1] == CONTRACTS[operation].shapes(inputs)

    search()
    assert len(answered) >= 10


# Invalid requests


@every_operation
def test_every_rule_of_the_contract_is_broken_by_some_invalid_case(operation: str) -> None:
    contract = CONTRACTS[operation]
    broken = {(case.argument, case.rule) for case in cases.invalid(operation, "float64")}
    assert set(contract.rules) <= broken
    for argument in contract.inputs.values():
        rules = {rule for name, rule in broken if name == argument.name}
        assert rules >= ({"rank", "NaN", "inf", "-inf"} if argument.kind == "scalar" else {"rank, one more", "rank, one fewer"})
        assert argument.kind != "float" or {"NaN", "inf"} <= rules


@pytest.mark.parametrize("dtype", BOTH)
@every_operation
def test_every_invalid_case_is_refused_by_its_argument_and_rule(operation: str, dtype: str, library: Callable) -> None:
    for case in cases.invalid(operation, dtype):
        sent, arrays = case.sent(), {name: x for name, x in case.sent().items() if isinstance(x, np.ndarray)}
        sent |= {name: library(x.astype(dtype) if x.dtype.kind == "f" else x) for name, x in arrays.items()}
        rule = case.rule if (case.argument, case.rule) in CONTRACTS[operation].rules else "must "
        # Of two arguments whose sizes differ either may be named first.
        with pytest.raises(ValueError, match=f"^{operation}: ({case.argument} {rule}.*|.* like {case.argument}), got "):
            minipref.REGISTRY[operation](**sent)
            pytest.fail(f"accepted {case.argument}: {case.rule}, {case.inputs}")


# The oracle against others' numbers


@every_operation
def test_oracle_reproduces_every_anchor(operation: str) -> None:
    found = vectors.anchors(operation)
    assert found, f"{operation} has no anchor"
    for anchor in found:
        exact = answer(operation, anchor.inputs)
        assert set(anchor.outputs) <= set(exact) and anchor.outputs
        for name, theirs in anchor.outputs.items():
            ours = exact[name].value.astype(float)
            error = np.abs(ours - theirs)
            assert np.all((error <= anchor.tolerance * (1 + np.abs(theirs))) | (ours == theirs)), (anchor.source, name)


# Laws


@every_operation
def test_laws_move_answers_as_they_say(operation: str) -> None:
    contract, rng = CONTRACTS[operation], np.random.default_rng(3)
    inputs = cases.draw(operation, "ordinary", rng, "float64").inputs
    whole = answer(operation, inputs)
    if cases.keeps_rows(contract):
        other, order = cases.permuted(contract, inputs, rng)
        split = [answer(operation, part) for part in cases.parts(contract, inputs)]
        for name, exact in whole.items():
            assert np.array_equal(answer(operation, other)[name].value, exact.value[order])
            assert np.array_equal(np.concatenate([part[name].value for part in split]), exact.value)
    if cases.ignores_masked(contract):
        dirty = answer(operation, cases.polluted(contract, inputs, rng))
        assert all(np.array_equal(dirty[name].value, exact.value) for name, exact in whole.items())
    if cases.allows_removal(contract):
        for n, rest in cases.removed(contract, inputs):
            kept = inputs[contract.mask][n]
            assert all(np.array_equal(x.value[0], whole[name].value[n][kept]) for name, x in answer(operation, rest).items())


def test_laws_apply_where_rows_stay_apart() -> None:
    assert not cases.keeps_rows(CONTRACTS["kto_reference_point"])
    assert not cases.keeps_rows(CONTRACTS["linear_sequence_logps"])
    assert cases.keeps_rows(CONTRACTS["sequence_logps"]) and not cases.allows_removal(CONTRACTS["sequence_logps"])
    assert cases.allows_removal(CONTRACTS["gae"]) and not cases.allows_removal(CONTRACTS["token_mean"])
    assert not cases.ignores_masked(CONTRACTS["dpo"])


def test_pollution_touches_what_does_not_count_and_nothing_else() -> None:
    contract = CONTRACTS["sequence_logps"]
    inputs = cases.draw("sequence_logps", "ordinary", np.random.default_rng(5), "float64").inputs
    dirty = cases.polluted(contract, inputs, np.random.default_rng(6))
    predicts = np.roll(inputs["response_mask"], -1, axis=1)
    assert np.array_equal(dirty["response_mask"], inputs["response_mask"])
    assert np.array_equal((dirty["logits"] == inputs["logits"]).all(axis=2), predicts)
    assert np.array_equal(dirty["tokens"] == inputs["tokens"], inputs["response_mask"])
    assert same(taken(contract, inputs, slice(0, 1))["logits"], inputs["logits"][:1])
