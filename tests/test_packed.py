"""Prompts and responses packed in one row: what they are, that each is as if alone, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gpt_tiny.model import GPT
from gpt_tiny.model_by_hand import Config, initial_weights
from gpt_tiny.packed import Group, pack

CONFIG = Config(vocab_size=11, context=14, width=8, layers=2, heads=2)


def model() -> GPT:
    rng = np.random.default_rng(1)
    made = GPT(CONFIG).double()
    start = initial_weights(CONFIG, 1, np.float64)
    made.load_weights({name: 5 * weight + 0.2 * rng.standard_normal(weight.shape) for name, weight in start.items()})
    return made


MODEL = model()


def alone(prompt: list[int], response: list[int]) -> float:
    """Its log-probability from one unpadded row and all of its logits."""
    tokens = torch.tensor([prompt + response])
    logps = F.log_softmax(MODEL(tokens, torch.ones_like(tokens, dtype=torch.bool)).detach(), dim=-1)
    return sum(float(logps[0, len(prompt) + t - 1, token]) for t, token in enumerate(response))


tokens = st.integers(0, CONFIG.vocab_size - 1)
prompts = st.lists(tokens, min_size=1, max_size=6) | st.sampled_from([[1], [1, 2, 3]])
responses = st.lists(st.lists(tokens, min_size=1, max_size=8), max_size=3)
batches = st.lists(st.tuples(prompts, responses), min_size=1, max_size=4).filter(lambda groups: any(some for _, some in groups))


@settings(max_examples=30, deadline=None)
@given(batches)
def test_each_response_is_as_if_it_stood_alone(groups: list[Group]) -> None:
    got = MODEL.response_logps(pack(groups, CONFIG))
    right = [alone(prompt, response) for prompt, some in groups for response in some]
    assert got.lengths.tolist() == [len(response) for _, some in groups for response in some]
    assert np.all(abs(got.logps.detach().numpy() - right) <= 1e-12 * (1 + np.abs(right)))


def test_what_is_computed() -> None:
    """Two prompts, one of them twice: it stands once, and no response's last token stands anywhere."""
    packed = pack([([1, 2], [[3, 4, 5], [6]]), ([7], [[8, 9]]), ([1, 2], [[10, 0]])], CONFIG)
    assert packed.tokens.tolist() == [1, 2, 3, 4, 10, 7, 8]
    assert packed.positions.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert packed.asking.tolist() == [1, 2, 3, 4, 5, 6]
    assert packed.targets.tolist() == [3, 4, 5, 6, 10, 0, 8, 9]
    assert packed.predicting.tolist() == [0, 1, 2, 0, 0, 3, 4, 5]
    assert packed.lengths.tolist() == [3, 1, 2, 2]
    assert packed.by_response(torch.arange(8.0)).tolist() == [0 + 1 + 2, 3, 6 + 7, 4 + 5]
    assert sum(call.queries for call in packed.calls) == 7 and sum(call.queries for call in packed.asking_calls) == 6


def test_a_response_has_no_part_in_another() -> None:
    """Nothing of one response reaches the other's log-probability: its tokens can change, and no gradient leaves for them."""
    before = MODEL.response_logps(pack([([1, 2, 3], [[4, 5, 6], [7, 8]])], CONFIG)).logps
    after = MODEL.response_logps(pack([([1, 2, 3], [[9, 9, 9, 9], [7, 8]])], CONFIG)).logps
    assert abs(float(before[1] - after[1])) <= 1e-13 and abs(float(before[0] - after[0])) > 1e-3


REFUSED: list[tuple[list[Any], str]] = [
    ([], "groups: must hold a response, got none"),
    ([([1], [])], "groups: must hold a response, got none"),
    ([([], [[1]])], r"groups\[0\]: prompt and responses must have a token, got lengths \[0, 1\]"),
    ([([1], [[1]]), ([1], [[2], []])], r"groups\[1\]: prompt and responses must have a token, got lengths \[1, 1, 0\]"),
    ([([1] * 10, [[1] * 5])], r"groups\[0\]: prompt and response must have at most 14 tokens, got 15"),
    ([([1], [[11]])], r"groups\[0\]: tokens must lie in the vocabulary \[0, 11\), got 11"),
    ([([-1], [[1]])], r"groups\[0\]: tokens must lie in the vocabulary \[0, 11\), got -1"),
]


@pytest.mark.parametrize(("groups", "message"), REFUSED)
def test_what_cannot_be_packed_is_refused_by_name(groups: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(groups, CONFIG)


def test_the_longest_row_fits_the_context() -> None:
    got = MODEL.response_logps(pack([([1] * 10, [[2] * 4])], CONFIG)).logps
    assert abs(float(got[0]) - alone([1] * 10, [2] * 4)) <= 1e-12


def test_half_precision_scores_in_single() -> None:
    plain = GPT(CONFIG)
    plain.load_weights({name: weight.astype(np.float32) for name, weight in MODEL.weights().items()})
    packed = pack([([1, 2, 3], [[4, 5, 6], [7, 8]])], CONFIG)
    right = plain.response_logps(packed).logps
    with torch.autocast("cpu", torch.bfloat16):
        got = plain.response_logps(packed).logps
    assert got.dtype == right.dtype == torch.float32
    assert 0 < float(abs(got - right).max()) <= 0.05 * float(abs(right).max())
