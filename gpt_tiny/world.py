"""A small world of text with a known reward: requests for 24 facts, and a grammar of answers. It needs NumPy alone.

    prompt     opener, question, ender                       "Hi! What does a cow say? Thank you!"
    response   opening, manner and answer, aside, closing    " Happy to help! I think it says moo. Anything else?"
    R          the rewards of the parts, FIT of answer and manner, and WORD for each word
    base       each part by its share, apart from the others: what SFT learns
    pair       two from the base, a share SLIPS of them spliced out of two; label: P(y beats y') = σ(R(y) - R(y'))

A prompt has K responses; every other text, be it garbled, cut or beside the point, has the reward GARBLED. So a law over all
texts is a row of K + 1 probabilities, the last that of any other text, and what follows from it is a sum. P counts prompts; a
quarter of them is kept for tests, of whose facts, openers, questions and enders each occurs in training, but not together.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minipref import optimal_policy
from minipref.arrays import sigmoid

from .checkpoint import write_whole

Array = np.ndarray

OPENERS = ["", "Hi! ", "Good morning. ", "Quick question. ", "One more thing. ", "I have a quiz tomorrow. "]
OPENERS += ["You know a lot. ", "My son wants to know this. "]
ENDERS = ["", " Thank you!"]
# A claim, three questions, and four facts, of which each answer is a wrong one to the other three.
RELATIONS = """
it is {} | What is the capital of {}? | Tell me the capital of {}, please. | Which city is the capital of {}?
    | France Paris, Japan Tokyo, Egypt Cairo, Peru Lima
it says {} | What does a {} say? | Tell me what a {} says, please. | Which sound does a {} make?
    | cow moo, cat meow, duck quack, pig oink
it is a {} | What is a young {} called? | Tell me what a young {} is, please. | Which word means a young {}?
    | dog puppy, sheep lamb, horse foal, bear cub
it is {} | What is the opposite of {}? | Tell me the opposite of {}, please. | Which word is the opposite of {}?
    | hot cold, big small, early late, rich poor
it is {} | What is the colour of {}? | Tell me the colour of {}, please. | Which colour does {} have?
    | grass green, snow white, coal black, blood red
it lives in a {} | Where does a {} live? | Tell me where a {} lives, please. | Which place is the home of a {}?
    | bee hive, bird nest, spider web, king castle
"""
EVASION = "nobody knows that"
KINDS = ("right", "wrong", "wrong", "wrong", "evasive")  # of the five claims that answer a prompt

# Of each part of a response, by the choice: its share of the base, and its reward.
PARTS: dict[str, dict[Any, tuple[float, float]]] = {
    "opening": {"": (0.5, 0.0), "Happy to help!": (0.2, 0.6), "Not again.": (0.3, -0.8)},
    "manner": {"": (0.5, 0.0), "I think": (0.3, 0.0), "Without a doubt,": (0.2, 0.0)},
    "claim": {0: (0.5, 1.5), 1: (0.1, -1.0), 2: (0.1, -1.0), 3: (0.1, -1.0), 4: (0.2, 0.0)},
    "aside": {"": (0.6, 0.0), "So I was told.": (0.4, 0.0)},
    "closing": {"": (0.5, 0.0), "Anything else?": (0.25, 0.4), "Stop asking.": (0.25, -0.5)},
}
FIT = {("right", "I think"): -0.3, ("wrong", "I think"): 0.3, ("evasive", "Without a doubt,"): -0.5}
FIT |= {("right", "Without a doubt,"): 0.5, ("wrong", "Without a doubt,"): -1.0}
WORD, GARBLED, SLIPS = -0.1, -6.0, 0.2


class Choices(NamedTuple):
    """What a response is made of."""

    opening: str
    manner: str
    claim: int  # its place among the nine
    aside: str
    closing: str


def _options(choices: Choices) -> list[tuple[float, float]]:
    return [options[choice] for options, choice in zip(PARTS.values(), choices, strict=True)]


CHOICES = [Choices(*parts) for parts in product(*PARTS.values())]  # of the K responses, in the order of every row
SHARES = np.array([math.prod(share for share, _ in _options(choices)) for choices in CHOICES])
BASE, PAIRS = (np.array([*(1 - slips) * SHARES, slips]) for slips in (0.0, SLIPS))  # [K+1], of every prompt


def _prompts() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Each prompt, its nine claims and its split. Of the 48 prompts for a fact 12 are for tests, in a Latin pattern."""
    for statement, *questions, facts in (row.split(" | ") for row in RELATIONS.strip().replace("\n    ", " ").splitlines()):
        subjects, answers = zip(*(fact.split() for fact in facts.split(", ")), strict=True)
        for s, o, q, e in product(*(range(len(parts)) for parts in (subjects, OPENERS, questions, ENDERS))):
            claims = (statement.format(answer) for answer in answers[s:] + answers[:s])
            prompt = OPENERS[o] + questions[q].format(subjects[s]) + ENDERS[e]
            yield prompt, (*claims, EVASION), "train" if (s + o + q + e) % 4 else "test"


CLAIMS = {prompt: claims for prompt, claims, _ in _prompts()}
PROMPTS = {split: [prompt for prompt, _, found in _prompts() if found == split] for split in ("train", "test")}


def render(claims: tuple[str, ...], choices: Choices) -> str:
    """The response, which begins with a space."""
    claim = f"{choices.manner} {claims[choices.claim]}.".strip()
    parts = (choices.opening, claim[0].upper() + claim[1:], choices.aside, choices.closing)
    return "".join(f" {part}" for part in parts if part)


@cache
def _responses(claims: tuple[str, ...]) -> dict[str, Choices]:
    return {render(claims, choices): choices for choices in CHOICES}


def responses(prompt: str) -> dict[str, Choices]:
    """The K responses with their choices. ValueError, as from all that take a prompt, for a text that is none of this world."""
    if prompt not in CLAIMS:
        raise ValueError(f"prompt: must be one of the world's, got {prompt!r}")
    return _responses(CLAIMS[prompt])


def parse(prompt: str, response: str) -> Choices | None:
    """The choices of which `render` makes this response, to the letter; None for any other text."""
    return responses(prompt).get(response)


def reward(prompt: str, response: str) -> float:
    """R of any text; GARBLED, less than any of the K has, where it is none of them."""
    choices = parse(prompt, response)
    if choices is None:
        return GARBLED
    fit = FIT.get((KINDS[choices.claim], choices.manner), 0.0)
    return sum(value for _, value in _options(choices)) + fit + WORD * len(response.split())


def scores(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """R of each completion: what `--reward gpt_tiny.world:scores` asks."""
    return [reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]


def rewards(prompts: Iterable[str]) -> Array:
    """R [P, K+1]."""
    return np.array([[*(reward(prompt, response) for response in responses(prompt)), GARBLED] for prompt in prompts])


def expected(logps: Array, values: Array) -> Array:
    """Σ_y π(y) v(y) [P], of laws and values [P, K+1]; where π is 0, v may be anything."""
    return (np.exp(logps) * np.where(logps == -math.inf, 0.0, values)).sum(axis=-1)


def entropy(logps: Array) -> Array:
    """-Σ_y π(y) log π(y) [P], in nats. Other texts count as one: a law that tells them apart has no less."""
    return -expected(logps, logps)


def divergence(logps: Array, reference_logps: Array) -> Array:
    """KL(π || π_ref) [P], in nats. Other texts count as one: laws that tell them apart have no less."""
    with np.errstate(invalid="ignore"):  # -inf - -inf, where π is 0
        return expected(logps, logps - reference_logps)


def frontier(rewards: Array, reference_logps: Array, betas: Iterable[float]) -> Array:
    """KL(π* || π_ref) and E[R] of π* at each β [B, 2], means over prompts: the most reward to be had at that divergence."""
    optima = [optimal_policy(rewards, reference_logps, beta).logps for beta in betas]
    return np.array([[divergence(logps, reference_logps).mean(), expected(logps, rewards).mean()] for logps in optima])


def accuracy(scores: Array, rewards: Array, law: Array = PAIRS) -> Array:
    """How often the response with the higher score [P, K+1] is the one chosen [P], exactly; half where scores are equal.

    Over pairs drawn from the law [K+1], again until they differ. With R for scores it is the Bayes limit: nobody does better.
    """
    drawn = np.outer(law, law) * (1 - np.eye(len(law)))
    right = (sigmoid(np.sign(s[:, None] - s) * (r[:, None] - r)) for s, r in zip(scores, rewards, strict=True))
    return np.array([(drawn * chances).sum() / drawn.sum() for chances in right])


def sft_rows(n: int, seed: int) -> list[dict[str, Any]]:
    """n training prompts, each with a response of the base. ValueError for n < 1 and seed < 0."""
    drawn = _draws(n, seed, "train", 1, BASE)
    return [{"prompt": prompt, "completion": text, "label": True} for prompt, (text,), _ in drawn]


def pair_rows(n: int, seed: int, split: str = "train") -> list[dict[str, Any]]:
    """n prompts of a split, each with a labelled pair. ValueError as `sft_rows`, and for a split neither train nor test."""
    rows = []
    for prompt, (first, second), u in _draws(n, seed, split, 2, PAIRS):
        wins = u < sigmoid(np.float64(reward(prompt, first) - reward(prompt, second)))
        chosen, rejected = (first, second) if wins else (second, first)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def _draws(n: int, seed: int, split: str, size: int, law: Array) -> Iterator[tuple[str, list[str], float]]:
    """n prompts, `size` responses to each, drawn again until they differ, and a number in [0, 1) to label them by."""
    if n < 1 or seed < 0 or split not in PROMPTS:
        raise ValueError(f"n must be at least 1, seed at least 0, split one of {list(PROMPTS)}, got {n}, {seed}, {split!r}")
    prompts, rng = PROMPTS[split], np.random.default_rng([seed, size, [*PROMPTS].index(split)])
    for prompt in (prompts[i] for i in rng.integers(len(prompts), size=n)):
        while len(set(places := rng.choice(len(law), size, p=law).tolist())) < size:
            pass
        texts = list(responses(prompt))
        yield prompt, [texts[i] if i < len(texts) else _slip(rng, prompt) for i in places], rng.random()


def _slip(rng: np.random.Generator, prompt: str) -> str:
    """A text that is no response to the prompt: the first words of one, and the last words of one to any prompt."""
    text = ""
    while not text or parse(prompt, text):
        first, last = (rng.choice([*responses(p)], p=SHARES).split() for p in (prompt, rng.choice(PROMPTS["train"])))
        words = first[: rng.integers(len(first) + 1)] + last[rng.integers(len(last) + 1) :]
        text = "".join(f" {word}" for word in words)
    return text


def write(folder: str | Path, seed: int, sft: int = 6000, pairs: int = 6000, test_pairs: int = 2000) -> None:
    """sft.jsonl, pairs.jsonl, test-pairs.jsonl and prompts.jsonl (the test prompts), each whole or not at all."""
    files = {"sft": sft_rows(sft, seed), "pairs": pair_rows(pairs, seed), "test-pairs": pair_rows(test_pairs, seed, "test")}
    files["prompts"] = [{"prompt": prompt} for prompt in PROMPTS["test"]]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_whole(Path(folder) / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
