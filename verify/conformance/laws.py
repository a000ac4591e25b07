"""Laws that hold whatever the numbers: what an answer may not depend on."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from verify import cases, vectors
from verify.claims import Claim, Evidence, Run
from verify.contract import MODELS, Contract
from verify.subject import Failure, Inputs, NoAnswer, Result, exact_answer


def claims(contract: Contract) -> Iterator[Claim]:
    def law(name: str, statement: str, how: str, measure: Callable, python_only: bool = False) -> Claim:
        return Claim(f"{contract.name}.{name}", contract, statement.format(contract.name), how, measure, python_only)

    yield law(
        "repeatable",
        "{} gives the same answer to the same request, whatever was asked in between.",
        "A request, others, and the first again: equal to the last bit.",
        repeatable,
    )
    if cases.keeps_rows(contract):
        yield law(
            "batching",
            "{} answers for each row alone: neither the order of a batch nor how it is split matters.",
            "Permuted batches, and one request a row, against the exact answers.",
            batching,
        )
    if cases.ignores_masked(contract):
        yield law(
            "masking",
            "{} looks only at what the mask leaves.",
            "NaN, infinities and impossible tokens where the mask is false; masked positions taken out altogether.",
            masking,
        )
    yield law(
        "layouts",
        "{} leaves its inputs untouched and takes read-only and strided arrays.",
        "Each layout against the exact answers; inputs compared bit by bit after the call.",
        layouts,
        python_only=True,
    )
    yield law(
        "float32",
        "{} answers float32 in float32, within that precision's bound.",
        "The dtype of every output, and the frozen vectors that float32 can hold.",
        float32,
        python_only=True,
    )


def some(run: Run, contract: Contract, salt: int = 0) -> list[Inputs]:
    """A few fresh cases, others for each law and of every regime in turn; of whole models the same for all."""
    if contract.name in MODELS:
        count, salt = cases.affordable(contract.name, run.effort.fresh), 0
    else:
        count = len(cases.regimes(contract.name)) if run.effort.fresh < 20 else run.effort.fresh
    return [case.inputs for case in cases.fresh(contract.name, run.subject.dtype, run.seed + salt, count)]


def repeatable(run: Run, contract: Contract) -> Evidence:
    first, *others = some(run, contract, 1)
    try:
        before, *_, after = [run.subject.ask(contract, inputs) for inputs in (first, *others, first)]
    except NoAnswer as none:
        return Evidence.of([none.result])
    differ = [name for name in before if not np.array_equal(before[name], after[name])]
    failure = Failure(f"{', '.join(differ)} changed", contract.name, first, (f"first {before}, later {after}",))
    return Evidence.of([Result(np.inf, (failure,)) if differ else Result(0.0)])


def batching(run: Run, contract: Contract) -> Evidence:
    rng = np.random.default_rng(run.seed)
    drawn = some(run, contract, 2)
    permuted = [cases.permuted(contract, inputs, rng)[0] for inputs in drawn]
    split = [part for inputs in drawn[:4] for part in cases.parts(contract, inputs)]
    return Evidence.of(run.subject.judge(contract, inputs) for inputs in permuted + split)


def masking(run: Run, contract: Contract) -> Evidence:
    rng = np.random.default_rng(run.seed)
    drawn = some(run, contract, 3)
    asked = [(cases.polluted(contract, inputs, rng), exact_answer(contract.name, inputs)) for inputs in drawn]
    if cases.allows_removal(contract):
        asked += [(rest, exact_answer(contract.name, rest)) for inputs in drawn for _, rest in cases.removed(contract, inputs)]
    return Evidence.of(run.subject.judge(contract, inputs, expected) for inputs, expected in asked)


def layouts(run: Run, contract: Contract) -> Evidence:
    drawn = some(run, contract, 4)[:4]
    arrangements = ("plain", "readonly", "strided")
    return Evidence.of(run.subject.judge(contract, inputs, layout=kind) for inputs in drawn for kind in arrangements)


def float32(run: Run, contract: Contract) -> Evidence:
    due = [vector for vector in vectors.load(contract.name) if "float32" in vector.dtypes]
    asked = ((run.subject.judge(contract, v.case.inputs, v.expected, dtype="float32"), v.case.regime) for v in due)
    return Evidence.of(in_single(result).at(regime) for result, regime in asked)


def in_single(result: Result) -> Result:
    """Its failures with the arrays that were sent, so that who repeats one sends them too."""
    single = {np.dtype("float64"): np.float32}

    def sent(x: Any) -> Any:
        return x.astype(single.get(x.dtype, x.dtype)) if isinstance(x, np.ndarray) else x

    failures = (f._replace(inputs={name: sent(x) for name, x in f.inputs.items()}) for f in result.failures)
    return result._replace(failures=tuple(failures))
