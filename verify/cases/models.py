"""Cases for levels 3 and 4: small models with nothing at a special value, ragged batches, a few steps.

Gains are not 1 and biases not 0, heads are of another size than their number, attention is far from uniform. Numbers of weights
stand on a grid: of 2^-20, which float32 holds, or finer, so that a detour through float32 shows. The same seed gives the same
case on every machine.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from verify.cases.sampling import Case
from verify.contract import METHODS, MODELS
from verify.oracle import NearTie, remembered
from verify.weights import Weights

Inputs = dict[str, Any]


class Size(NamedTuple):
    """Of a GPT-2."""

    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int


SIZES = {"one": Size(11, 12, 6, 1, 2), "two": Size(13, 10, 6, 2, 3)}
SPREADS = {"wte": 1.0, "wpe": 0.5, "c_attn": 1.0, "c_proj": 0.5, "c_fc": 0.6}  # entries of matrices: uniform, up to this
# Exact in float32, as all numbers of a case are; no two alike.
HYPERPARAMETERS = {"beta": 0.3125, "label_smoothing": 0.15625, "gamma": 0.6875, "odds_weight": 0.59375}
HYPERPARAMETERS |= {"desirable_weight": 1.28125, "undesirable_weight": 0.8125}
ADAMW: Inputs = {"lr": 2.0**-7, "betas": [0.875, 0.96875], "eps": 2.0**-26, "weight_decay": 0.125}


def shapes(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every weight of a GPT-2 by name, in the order of the model."""
    d = size.width
    block = {"ln_1": (d,), "attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "ln_2": (d,), "mlp.c_fc": (d, 4 * d)}
    block |= {"mlp.c_proj": (4 * d, d)}
    yield from (("wte.weight", (size.vocabulary, d)), ("wpe.weight", (size.context, d)))
    layers = [(f"h.{layer}.{name}", shape) for layer in range(size.layers) for name, shape in block.items()]
    for name, shape in [*layers, ("ln_f", (d,))]:
        yield from ((f"{name}.weight", shape), (f"{name}.bias", shape[-1:]))


def weights(name: str, size: Size, rng: np.random.Generator, grid: int) -> Weights:
    """On multiples of 1/grid."""
    arrays = {}
    for key, shape in shapes(size):
        spread = next((x for part, x in SPREADS.items() if part in key), 0.3) if len(shape) == 2 else 0.3
        whole = rng.integers(-int(spread * grid), int(spread * grid), shape, endpoint=True)
        arrays[key] = (whole + grid * (len(shape) == 1 and key.endswith("weight"))) / grid
    return Weights(name, arrays)


class Pair(NamedTuple):
    """A policy and its reference, of one size."""

    size: Size
    policy: Weights
    reference: Weights


def pair(name: str, size: Size, rng: np.random.Generator, grid: int) -> Pair:
    return Pair(size, *(weights(name + end, size, rng, grid) for end in ("", "-reference")))


REGIMES = {
    "gpt_logits": {
        "left padding": "Rows of different lengths that end together.",
        "right padding": "Rows of different lengths that begin together.",
        "padding on both sides": "Rows that stand anywhere, impossible tokens around them.",
        "full context": "A row as long as the model has positions, and one of a single token.",
    },
    "preference_step": {
        "ordinary": "Prompts and responses of different lengths.",
        "cut": "Prompt and response together are longer than max_length: the end of the response is lost.",
        "shared prompt": "Two examples of one prompt.",
        "single token": "Responses of nothing but their end.",
        "one example": "A batch of one.",
        "full context": "A row as long as the model has positions.",
        "step 0": "The policy is its reference.",
    },
    "train": {
        "ordinary": "Steps over and over the same batches.",
        "large epsilon": "An epsilon that is felt, and no decay.",
        "one batch": "The same batch in every step; a large decay.",
    },
}


def draw(operation: str, regime: str, rng: np.random.Generator, models: Pair, method: str) -> Case:
    """A legal case, tied in nothing or far from a tie: whether it is far enough is for the oracle to say."""
    makers = {"gpt_logits": _rows, "preference_step": _step, "train": _run}
    inputs = {"weights": models.policy, "reference_weights": models.reference, "n_head": models.size.heads}
    inputs |= makers[operation](regime, rng, models.size, method)
    if regime == "step 0":
        inputs["reference_weights"] = models.policy
    ordered = {name: inputs[name] for name in MODELS[operation].inputs if name in inputs}
    return Case(operation, regime, REGIMES[operation][regime], ordered)


def _rows(regime: str, rng: np.random.Generator, size: Size, method: str) -> Inputs:
    lengths = rng.integers(2, size.context - 1, 3)
    if regime == "full context":
        lengths[:2] = size.context, 1
    width = int(lengths.max()) + 2
    room = width - lengths
    starts = {"left padding": room, "right padding": 0 * room}.get(regime, rng.integers(0, room, endpoint=True))
    mask = (starts[:, None] <= np.arange(width)) & (np.arange(width) < (starts + lengths)[:, None])
    tokens = rng.integers(0, size.vocabulary, mask.shape)
    return {"tokens": np.where(mask, tokens, rng.choice([-100, 10**6], mask.shape)), "attention_mask": mask}


def _step(regime: str, rng: np.random.Generator, size: Size, method: str) -> Inputs:
    numbers = {name: HYPERPARAMETERS[name] for name in METHODS[method]}
    max_length = 5 if regime == "cut" else size.context
    return {"method": method, "hyperparameters": numbers, "max_length": max_length, **_batch(regime, rng, size, method)}


def _batch(regime: str, rng: np.random.Generator, size: Size, method: str) -> Inputs:
    """Two examples, or one; kto's are three, good and bad by turns."""
    count = 1 if regime == "one example" else 3 if method == "kto" else 2
    prompts, chosen, rejected = rng.integers(1, 5, count), *rng.integers(2, 6, (2, count))
    if regime == "single token":
        chosen, rejected = 0 * chosen + 1, 0 * rejected + 1
    if regime in ("cut", "full context"):
        prompts[0], chosen[0], rejected[-1] = 3, size.context - 3, 5
    prompt_ids, chosen_ids, rejected_ids = (_ids(size, rng, lengths) for lengths in (prompts, chosen, rejected))
    if regime == "shared prompt":
        prompt_ids[1] = prompt_ids[0]
    if method == "kto":
        desirable = np.arange(count) % 2 == rng.integers(0, 2)
        return {"prompt_ids": prompt_ids, "completion_ids": chosen_ids, "desirable": desirable}
    return {"prompt_ids": prompt_ids, "chosen_ids": chosen_ids, "rejected_ids": rejected_ids}


def _ids(size: Size, rng: np.random.Generator, lengths: Any) -> list[list[int]]:
    return [rng.integers(0, size.vocabulary, length).tolist() for length in lengths]


def _run(regime: str, rng: np.random.Generator, size: Size, method: str) -> Inputs:
    step = _step("ordinary", rng, size, method)
    batches = [_batch("ordinary", rng, size, method) for _ in range(1 if regime == "one batch" else 2)]
    changed = {"large epsilon": {"eps": 2.0**-10, "weight_decay": 0.0}, "one batch": {"weight_decay": 2.0}}.get(regime, {})
    settings = {name: step[name] for name in ("method", "hyperparameters", "max_length")} | ADAMW | changed
    return {**settings, "batches": batches, "steps": 3, "probe_tokens": rng.integers(0, size.vocabulary, (2, 5))}


FINE = {"one": 256, "two": 10**7}  # float32 holds the first, and not the second


def frozen_pair(name: str) -> Pair:
    return pair(f"models/{name}", SIZES[name], np.random.default_rng([1, *name.encode()]), FINE[name])


def frozen_weights() -> list[Weights]:
    """All that the vectors are about."""
    return [weights for name in SIZES for weights in frozen_pair(name)[1:]]


FROZEN = {  # regime, model, method
    "gpt_logits": [(regime, "one", "") for regime in REGIMES["gpt_logits"]] + [("left padding", "two", "")],
    "preference_step": [
        *(("cut" if method == "rso_hinge" else "ordinary", "one", method) for method in METHODS),  # a hinge open and closed
        *((regime, "one", "dpo") for regime in ("cut", "shared prompt", "one example", "full context", "step 0")),
        ("cut", "one", "ipo_length_normalized"),
        ("cut", "one", "kto"),
        ("single token", "one", "kto"),  # whose estimate of a divergence is negative
        ("ordinary", "two", "dpo"),
        ("shared prompt", "two", "simpo"),
    ],
    "train": [("ordinary", "two", "dpo"), ("large epsilon", "one", "kto"), ("one batch", "one", "orpo")],
}


def frozen(operation: str) -> Iterator[Case]:
    """The cases of the vectors."""
    for regime, name, method in FROZEN[operation]:
        rng = np.random.default_rng([1, *f"{operation} {regime} {name} {method}".encode()])
        yield draw(operation, regime, rng, frozen_pair(name), method)


FRESH_SIZES = Size(11, 10, 6, 1, 3), Size(9, 11, 4, 2, 2), Size(8, 9, 4, 1, 2)
SHARES = {"gpt_logits": 0.3, "preference_step": 0.2, "train": 0.1}  # of the fresh cases that others have


def fresh(operation: str, dtype: str, seed: int, count: int) -> list[Case]:
    """Cases on weights that nobody has seen, from the seed and the operation alone; regimes and methods by turns."""
    drawn = (_fresh(operation, dtype, seed, number) for number in itertools.count())
    return list(itertools.islice((case for case in drawn if not _nearly_tied(case)), count))


def _fresh(operation: str, dtype: str, seed: int, number: int) -> Case:
    rng, turn = np.random.default_rng([seed, number, *operation.encode()]), seed + number
    regime, method = (str([*names][turn % len(names)]) for names in (REGIMES[operation], METHODS))
    name = f"drawn-{operation}-{seed}-{number}-{dtype}"
    size = FRESH_SIZES[-1 if operation == "train" else turn % 3]
    models = pair(name, size, rng, 2 ** (20 if dtype == "float32" else 40))
    return draw(operation, regime, rng, models, "dpo" if regime == "one example" else method)


def _nearly_tied(case: Case) -> bool:
    try:
        remembered(case.operation, case.inputs)
    except NearTie:
        return True
    return False
