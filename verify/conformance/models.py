"""Claims about whole models, levels 3 and 4: one step of preference optimization, and a run.

Answers are held against the oracle's like those of any operation; `verify.judge` says what is compared in norm. Beyond that,
measured on models and batches that nobody has seen: what an answer may not depend on, and what it is known by. Each function
below is a claim: its statement, and how it is measured.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial

import numpy as np

from verify.claims import Claim, Evidence, Run
from verify.conformance import answers, laws, refusals
from verify.conformance.slopes import STENCIL
from verify.contract import MODELS, Contract
from verify.judge import bound, compare
from verify.oracle import Exact
from verify.oracle.steps import parts
from verify.subject import Failure, Inputs, NoAnswer, Result, Undeclared, exact_answer
from verify.weights import Weights

GENERAL = ("vectors", "fresh", "refusals", "repeatable", "float32")  # of the claims that every operation has
STEPS = {"float64": 2.0**-12, "float32": 2.0**-9}  # of the differences, in every weight
SEVERAL = 4  # answers are combined: what one may be off, so many times

Expected = dict[str, Exact]
Measure = Callable[[Run, Contract, Inputs, Expected], Iterator[Result]]


def claims(contract: Contract) -> Iterator[Claim]:
    """The general claims; then an operation's own."""
    general = [*answers.claims(contract), *refusals.claims(contract), *laws.claims(contract)]
    layouts = ("layouts",) if contract.name == "gpt_logits" else ()
    yield from (claim for claim in general if claim.id.partition(".")[2] in GENERAL + layouts)
    for measure in OWN[contract.name]:
        statement, how = (" ".join(part.split()) for part in str(measure.__doc__).split("\n\n"))
        name = f"{contract.name}.{measure.__name__.partition('_of_')[0].replace('_', '-')}"
        needs = ("preference_step",) if contract.name == "train" else ()
        yield Claim(name, contract, statement, how, partial(_on_fresh_cases, measure), needs=needs)


def _on_fresh_cases(measure: Measure, run: Run, contract: Contract) -> Evidence:
    return Evidence.of(result for inputs in laws.some(run, contract) for result in _measured(measure, run, contract, inputs))


def _measured(measure: Measure, run: Run, contract: Contract, inputs: Inputs) -> Iterator[Result]:
    try:
        yield from measure(run, contract, inputs, exact_answer(contract.name, inputs))
    except NoAnswer as none:
        yield none.result


def _held(contract: Contract, inputs: Inputs, expected: Expected, answer: dict[str, np.ndarray], dtype: str) -> Result:
    """What was made of several answers, against what is expected of it."""
    worst, misses = compare(expected, answer, dtype)
    failure = Failure.of("not true", contract, inputs, map(str, misses[:4]))
    return Result(worst, (failure,) if misses else ())


def batching_of_logits(run: Run, contract: Contract, inputs: Inputs, expected: Expected) -> Iterator[Result]:
    """gpt_logits answers for each row alone: neither the order of a batch nor how it is split matters.

    Reversed batches, and one request a row, against the exact answers."""
    rows = _rows(inputs, expected)
    yield _judged(run, contract, inputs, rows[::-1], [0] * len(rows))
    yield from (_judged(run, contract, inputs, [row], [1]) for row in rows)


def padding_of_logits(run: Run, contract: Contract, inputs: Inputs, expected: Expected) -> Iterator[Result]:
    """gpt_logits does not see padding: neither its side, nor how much there is, nor which tokens are in it.

    Rows at the left and at the right end of a wider batch, with impossible tokens around them, against the exact answers."""
    rows = _rows(inputs, expected)
    longest = max(len(tokens) for tokens, _ in rows)
    for places in ([0] * len(rows), [longest - len(tokens) for tokens, _ in rows]):
        yield _judged(run, contract, inputs, rows, places)


def _rows(inputs: Inputs, expected: Expected) -> list[tuple[np.ndarray, Exact]]:
    """The tokens of each row, and their exact logits."""
    mask, exact = inputs["attention_mask"], expected["logits"]
    ends = np.cumsum(mask.sum(axis=1))
    places = [slice(end - count, end) for end, count in zip(ends, mask.sum(axis=1), strict=True)]
    tokens = [row[kept] for row, kept in zip(inputs["tokens"], mask, strict=True)]
    return [(row, Exact(exact.value[x], exact.scale[x], 1)) for row, x in zip(tokens, places, strict=True)]


def _judged(run: Run, contract: Contract, inputs: Inputs, rows: list[tuple[np.ndarray, Exact]], places: list[int]) -> Result:
    """Rows in a batch of their own, each from its place on, and two columns beyond the last."""
    width = max(place + len(tokens) for place, (tokens, _) in zip(places, rows, strict=True)) + 2
    batch, mask = np.full((len(rows), width), -100), np.zeros((len(rows), width), bool)
    for n, (place, (tokens, _)) in enumerate(zip(places, rows, strict=True)):
        batch[n, place : place + len(tokens)], mask[n, place : place + len(tokens)] = tokens, True
    value, scale = (np.concatenate([exact[part] for _, exact in rows]) for part in (0, 1))
    asked = inputs | {"tokens": batch, "attention_mask": mask}
    return run.subject.judge(contract, asked, {"logits": Exact(value, scale, 1)})


def slopes_of_losses(run: Run, contract: Contract, inputs: Inputs, expected: Expected) -> Iterator[Result]:
    """The gradients of preference_step are the slopes of the loss that it returns.

    Of pairs: fourth-order differences of its own losses, all weights moved at once in a random direction, at two distances,
    which say how far the formula can be trusted; within that, and rounding."""
    if inputs["method"] in ("kto", "rso_hinge"):  # a reference point that is no constant to its own losses; a kink
        return
    answer, dtype, step = run.subject.ask(contract, inputs), run.subject.dtype, STEPS[run.subject.dtype]
    rng = np.random.default_rng(run.seed)
    arrays = inputs["weights"].arrays
    direction = {name: rng.choice([-1.0, 1.0], w.shape) for name, w in arrays.items()}

    def loss(distance: float) -> float:
        moved = {name: w + distance * direction[name] for name, w in arrays.items()}
        weights = Weights(f"{inputs['weights'].name}-moved-{distance}", moved)
        return float(run.subject.ask(contract, inputs | {"weights": weights})["loss"])

    quotients = [sum(c * loss(k * h) for k, c in STENCIL.items()) / (12 * h) for h in (step, step / 2)]
    along = {part: v for name, x in direction.items() for part, v in parts(name, x).items()}
    slope = float(sum(np.sum(_given(answer, part) * v) for part, v in along.items()))
    allowed = 2 * abs(quotients[0] - quotients[1])
    allowed += 18 / (6 * step) * float(bound(expected["loss"].scale.item(), 1, dtype))
    allowed += sum(float(bound(expected[part].scale.item(), 1, dtype)) * v.size**0.5 for part, v in along.items())
    worst = abs(slope - quotients[1]) / allowed
    detail = f"along a direction its slope is {slope!r}, its losses say {quotients[1]!r} +- {allowed!r}"
    failure = Failure.of("grads are not the slopes of loss", contract, inputs, [detail])
    yield Result(worst, ()) if worst <= 1 else Result(np.inf, (failure,))


def _given(answer: dict[str, np.ndarray], part: str) -> np.ndarray:
    if part not in answer:
        raise Undeclared("the output grads")
    return answer[part].astype(np.float64)


def batching_of_steps(run: Run, contract: Contract, inputs: Inputs, expected: Expected) -> Iterator[Result]:
    """The loss and the gradient of a batch are the means of its examples', in any order.

    Pairs in reversed order against the exact answers; pairs asked one by one and averaged, within four times the bound."""
    lists = [name for name in ("prompt_ids", "chosen_ids", "rejected_ids") if name in inputs]
    if len(lists) < 3:  # the reference point of kto depends on all of the batch, and on its order
        return
    flipped = {n: Exact(x.value[::-1], x.scale[::-1], 1) if n.endswith("logps") else x for n, x in expected.items()}
    yield run.subject.judge(contract, inputs | {name: inputs[name][::-1] for name in lists}, flipped)
    size = len(inputs["prompt_ids"])
    alone = [run.subject.ask(contract, inputs | {name: [inputs[name][n]] for name in lists}) for n in range(size)]
    means = {name: np.mean([answer[name] for answer in alone], axis=0) for name in alone[0] if not name.endswith("logps")}
    wide = {name: Exact(expected[name].value, np.array(SEVERAL * expected[name].scale, object), 1) for name in means}
    yield _held(contract, inputs, wide, means, run.subject.dtype)


def step_0_of_dpo(run: Run, contract: Contract, inputs: Inputs, expected: Expected) -> Iterator[Result]:
    """Where the policy is its reference, the loss of DPO is log 2, whatever the data.

    Pairs of fresh models with the policy as its own reference, within what rounding makes of the four log-probabilities."""
    if "chosen_ids" in inputs:
        asked = inputs | {"method": "dpo", "hyperparameters": {"beta": 0.25}, "reference_weights": inputs["weights"]}
        noise = sum((expected[f"{side}_logps"].scale.max() for side in ("chosen", "rejected")), Decimal(1))
        log_2 = {"loss": Exact(np.array(Decimal(2).ln(), object), np.array(noise, object), 1)}
        yield _held(contract, asked, log_2, {"loss": run.subject.ask(contract, asked)["loss"]}, run.subject.dtype)


def key_bias_of_attention(run: Run, contract: Contract, inputs: Inputs, expected: Expected) -> Iterator[Result]:
    """The bias of the keys has no gradient: it adds the same to all scores of a query, which a softmax does not see.

    That part of the gradient of every fused projection, within what rounding makes of it."""
    answer = run.subject.ask(contract, inputs)
    zero = {name: Exact(0 * x.value, x.scale, 1) for name, x in expected.items() if name.endswith("c_attn.bias, key]")}
    yield _held(contract, inputs, zero, {name: _given(answer, name) for name in zero}, run.subject.dtype)


def standstill_of_runs(run: Run, contract: Contract, inputs: Inputs, expected: Expected) -> Iterator[Result]:
    """At a learning rate of 0 nothing moves: every loss is that of preference_step on its batch.

    Both asked of it, within four times the bound of the run's own losses."""
    losses, step = run.subject.ask(contract, inputs | {"lr": 0.0})["losses"], MODELS["preference_step"]
    shared = {name: inputs[name] for name in step.inputs if name in inputs}
    batches = [shared | {name: np.array(x) if name == "desirable" else x for name, x in b.items()} for b in inputs["batches"]]
    alone = [Decimal(float(run.subject.ask(step, batch)["loss"])) for batch in batches]
    due = np.array([alone[s % len(alone)] for s in range(inputs["steps"])], object)
    scale = np.full(due.shape, SEVERAL * expected["losses"].scale.max() + abs(due).max())
    yield _held(contract, inputs | {"lr": 0.0}, {"losses": Exact(due, scale, 1)}, {"losses": losses}, run.subject.dtype)


OWN: dict[str, tuple[Measure, ...]] = {
    "gpt_logits": (batching_of_logits, padding_of_logits),
    "preference_step": (slopes_of_losses, batching_of_steps, step_0_of_dpo, key_bias_of_attention),
    "train": (standstill_of_runs,),
}
