"""Requests of levels 3 and 4 that must be refused: one thing wrong in each, every rule of the contract broken by some.

What the contract leaves open is left out: names among the hyperparameters that the method does not have, a reference of another
size, and kto with a batch of one, whose next prompt is its own.
"""

from collections.abc import Iterator

import numpy as np

from verify.cases.illegal import Broken, Inputs, Invalid, illegal_numbers
from verify.cases.models import SIZES, draw, frozen_pair
from verify.contract import MODELS

VOCABULARY, CONTEXT = SIZES["one"][:2]

BAD_NUMBERS = {  # by method: hyperparameters that it must refuse
    "dpo": ({"beta": 0.0}, {"beta": -0.25}, {"beta": np.nan}, {"beta": np.inf}),
    "robust_dpo": ({"label_smoothing": 0.5}, {"label_smoothing": -0.125}),
    "orpo": ({"odds_weight": -0.5},),
    "simpo": ({"gamma": np.nan},),
    "kto": ({"desirable_weight": -1.0}, {"undesirable_weight": -1.0}),
}


def invalid(operation: str, dtype: str) -> list[Invalid]:
    """Everything that an implementation of the operation must refuse. The same list at every call."""
    base = _base(operation, "dpo")
    broken = [*_everywhere(operation, base, dtype), *OF[operation](base)]
    found = [Invalid(operation, argument, rule, base | changed) for argument, rule, changed in broken]
    found += [Invalid(operation, *bad) for bad in _of_other_methods(operation)]
    masked = {"gpt_logits": [("attention_mask", base)], "preference_step": [("desirable", _base(operation, "kto"))]}
    return found + [Invalid(operation, name, "not boolean", x, "numeric-mask") for name, x in masked.get(operation, [])]


def _base(operation: str, method: str) -> Inputs:
    rng = np.random.default_rng([0, *operation.encode()])
    regime = {"gpt_logits": "right padding"}.get(operation, "ordinary")
    return draw(operation, regime, rng, frozen_pair("one"), method).inputs


def _everywhere(operation: str, base: Inputs, dtype: str) -> Iterator[Broken]:
    for name, argument in MODELS[operation].inputs.items():
        if argument.kind == "weights":
            yield name, "no such file", {name: "nowhere.npz"}
        if argument.kind in ("scalar", "count"):
            yield from ((name, rule, {name: number}) for rule, number in illegal_numbers(argument, dtype))
        if argument.kind == "count":
            yield name, "not whole", {name: base[name] + 0.5}
        if argument.kind == "int":
            yield name, "rank, one fewer", {name: base[name][0]}
            yield name, "must lie in the vocabulary of weights", {name: _with_first(base[name], VOCABULARY)}
            yield name, "negative", {name: _with_first(base[name], -1)}
    yield "n_head", "must divide the width of weights", {"n_head": 4}


def _with_first(tokens: np.ndarray, token: int) -> np.ndarray:
    changed = tokens.copy()
    changed[0, 0] = token
    return changed


def _logits(base: Inputs) -> Iterator[Broken]:
    tokens, mask = base["tokens"], base["attention_mask"]
    empty = mask.copy()
    empty[1] = False
    long = {"tokens": np.zeros((1, CONTEXT + 1), np.int64), "attention_mask": np.ones((1, CONTEXT + 1), bool)}
    yield "attention_mask", "must be true somewhere in every row", {"attention_mask": empty}
    yield "attention_mask", "must not be true more often in a row than weights have positions", long
    yield "attention_mask", "B one too many", {"attention_mask": np.concatenate([mask, mask[:1]])}
    yield "attention_mask", "T of 1, broadcast", {"attention_mask": mask[:, :1]}
    yield "tokens", "B of 1, broadcast", {"tokens": tokens[:1]}


def _step(base: Inputs) -> Iterator[Broken]:
    """What is wrong with a batch of pairs, or of kto's completions, and with the lengths that are left of it."""
    lists = [name for name in ("prompt_ids", "chosen_ids", "rejected_ids", "completion_ids") if name in base]
    for name in lists:
        first, *rest = base[name]
        yield name, "N one too few", {name: rest}
        yield name, "must lie in the vocabulary of weights", {name: [[*first[:-1], VOCABULARY], *rest]}
        yield name, "negative", {name: [[*first[:-1], -1], *rest]}
        yield name, "not whole", {name: [[*first[:-1], 0.5], *rest]}
        rule = "must hold a token in every example"
        yield name, rule if name == "prompt_ids" else "an empty response", {name: [[], *rest]}
    none = {name: base[name][:0] for name in [*lists, "desirable"] if name in base}
    yield "prompt_ids", "must hold at least one example", none
    cut = max(map(len, base["prompt_ids"]))
    yield "max_length", "must leave a token of every response", {"max_length": cut}
    long = {lists[1]: [[1] * CONTEXT, *base[lists[1]][1:]], "max_length": 100}
    yield "max_length", "must not leave more tokens than weights have positions", long
    yield "method", "must be one of those listed", {"method": "dpo2"}
    yield "method", "must be one of those listed", {"method": "sppo", "hyperparameters": {"eta": 2.0}}


def _train(base: Inputs) -> Iterator[Broken]:
    rule = "must be legal for preference_step"
    yield "batches", "must hold at least one batch", {"batches": []}
    step = {name: base[name] for name in ("method", "hyperparameters", "max_length")}
    for _, what, changed in _step(step | base["batches"][1]):
        batch = {name: changed.get(name, x) for name, x in base["batches"][1].items()}
        rest = {name: x for name, x in changed.items() if name in step}
        yield "batches", f"{rule}: {what}", {"batches": [base["batches"][0], batch], **rest}
    for betas in ([1.0, 0.5], [0.5, 1.0], [-0.125, 0.5], [0.5]):
        yield "betas", "must be two numbers in [0, 1)", {"betas": betas}
    yield "probe_tokens", "more than weights have positions", {"probe_tokens": np.zeros((1, CONTEXT + 1), np.int64)}


OF = {"gpt_logits": _logits, "preference_step": _step, "train": _train}


def _of_other_methods(operation: str) -> Iterator[tuple[str, str, Inputs]]:
    """Hyperparameters of every method, and kto's batch."""
    if operation == "gpt_logits":
        return
    for method, numbers in BAD_NUMBERS.items():
        base = _base(operation, method)
        for bad in numbers:
            changed = base | {"hyperparameters": base["hyperparameters"] | bad}
            yield "hyperparameters", "must be legal for the method", changed
    if operation == "preference_step":
        yield from ((name, rule, base | changed) for name, rule, changed in _step(base))
        yield "desirable", "N one too few", base | {"desirable": base["desirable"][1:]}
