"""What margins of pairs that were held out are worth, beside what length alone and words alone tell. It needs NumPy alone.

A margin is what the chosen response has over the rejected one: above 0 it is right, at 0 half right. The standard error of an
accuracy is a coin's, 0.5 / √N, the largest there is; z is how many of them it is above 0.5.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minipref.arrays import sigmoid, softplus

Array = np.ndarray
Texts = Sequence[tuple[str, str]]  # of pairs, what was chosen first


class Score(NamedTuple):
    """A pair that was held out: where it stands in the data, its margins in nats, and the lengths of its responses."""

    fold: int
    line: int
    margin: float  # between implicit rewards
    word_margin: float
    chosen_characters: int
    rejected_characters: int
    chosen_tokens: int  # as they are scored: cut, with EOS
    rejected_tokens: int


def report(scores: Sequence[Score]) -> dict[str, Any]:
    """Accuracies; the loss; and what the margin says where the lengths are known."""
    fold, _, margin, word_margin, *lengths = (np.array(column) for column in zip(*scores, strict=True))
    fewer_characters, fewer_tokens = lengths[1] - lengths[0], lengths[3] - lengths[2]
    told = {"implicit reward": margin} | {f"  of fold {k}": margin[fold == k] for k in sorted({*fold.tolist()})}
    told |= {"  longer chosen": margin[fewer_tokens < 0], "  shorter chosen": margin[fewer_tokens > 0]}
    told |= {"fewer characters": fewer_characters, "fewer tokens": fewer_tokens, "bag of words": word_margin}
    # Scaled about 0, not about their means: which side comes first means nothing.
    x = np.stack([margin, np.log(lengths[3] / lengths[2]), fewer_tokens], axis=1)
    x /= np.maximum(np.sqrt((x**2).mean(axis=0)), np.finfo(float).tiny)
    losses, weights, errors = softplus(-margin), *logistic(x[:, :2])
    return {
        "accuracies": {name: accuracy(margins) for name, margins in told.items() if len(margins)},
        "loss": {"mean": float(losses.mean()), "error": float(losses.std() / math.sqrt(len(losses)))},
        "correlation of margin and fewer tokens": float((x[:, 0] * x[:, 2]).mean()),
        "given both": {
            name: {"coefficient": float(w), "error": float(error), "z": float(w / error)}
            for name, w, error in zip(("margin", "log of lengths"), weights, errors, strict=True)
        },
    }


def accuracy(margins: Array) -> dict[str, float]:
    """Of margins [N]."""
    value, error = float(np.mean((margins > 0) + 0.5 * (margins == 0))), 0.5 / math.sqrt(len(margins))
    return {"pairs": len(margins), "accuracy": value, "error": error, "z": (value - 0.5) / error}


def holds(found: dict[str, Any]) -> bool:
    """Whether the implicit reward is right more often than a coin by three standard errors."""
    return bool(found["accuracies"]["implicit reward"]["z"] >= 3)


def table(found: dict[str, Any]) -> str:
    """A report for people."""
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found["held out"].items())
    lines = [f"held out: {counts}", f"{'right about':28}{'pairs':>6}   accuracy          z"]
    for name, row in found["accuracies"].items():
        lines.append(f"{name:28}{row['pairs']:6}   {row['accuracy']:.3f} ± {row['error']:.3f} {row['z']:6.1f}")
    loss, error = found["loss"].values()
    side = "below" if loss < math.log(2) else "above"
    lines.append(f"loss {loss:.4f} ± {error:.4f}, {abs(loss - math.log(2)):.4f} {side} log 2, the loss of margins of 0")
    lines.append(f"correlation of margin and fewer tokens {found['correlation of margin and fewer tokens']:.2f}")
    lines.append("log-odds for each root mean square, of each where the other is known")
    for name, row in found["given both"].items():
        lines.append(f"  {name:32}{row['coefficient']:8.3f} ± {row['error']:.3f} {row['z']:6.1f}")
    verdict = "HOLDS" if holds(found) else "FAILS"
    return "\n".join([*lines, f"{verdict} held out, the implicit reward is right more often than 0.5 by three standard errors"])


def bag_of_words(learned: Texts, held_out: Texts, most: int = 500, ridge: float = 30.0) -> Array:
    """Margins [N] of pairs held out, in nats: a logistic regression on the differences of the counts of the commonest words.

    Counted by the responses they occur in. 500 of them with a ridge of 30 did best of eight choices on other folds.
    """
    counts = [[Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in pair] for pair in (*learned, *held_out)]
    within = Counter(word for pair in counts[: len(learned)] for count in pair for word in count)
    words = [word for word, _ in within.most_common(most)]
    x = np.array([[chosen[word] - rejected[word] for word in words] for chosen, rejected in counts], float)
    return x[len(learned) :] @ logistic(x[: len(learned)], ridge)[0]


def logistic(x: Array, ridge: float = 1e-6) -> tuple[Array, Array]:
    """The weights w [D] of least Σ log(1 + e^{-x w}) + ridge/2 |w|², and their standard errors, from the Fisher information.

    A row of x [N,D] is what was chosen minus what was rejected, so there is no intercept. Newton's method, a step halved until
    it descends; ArithmeticError where it comes to no end. The ridge keeps finite what separates the sides, and columns of 0.
    """

    def loss(w: Array) -> float:
        return float(softplus(-(x @ w)).sum() + ridge / 2 * w @ w)

    w = np.zeros(x.shape[1])
    for _ in range(200):
        wrong = sigmoid(-(x @ w))
        slope = ridge * w - wrong @ x
        curvature = (x.T * (wrong * (1 - wrong))) @ x + ridge * np.eye(len(w))
        step = np.linalg.solve(curvature, slope)
        if slope @ step <= 1e-9:  # about twice what there is left to descend
            return w - step, np.sqrt(np.diag(np.linalg.inv(curvature)))
        while loss(w - step) > loss(w) - slope @ step / 4:
            step /= 2
        w -= step
    raise ArithmeticError(f"logistic: must converge in 200 steps, but the slope is {slope[:3]}")
