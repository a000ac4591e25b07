"""What implementations are asked: cases by regime, searched inputs, invalid ones, and requests that must agree.

    >>> draw("dpo", "step 0", np.random.default_rng(1), "float64").inputs
    >>> fresh("dpo", "float64", seed=1, count=20)
    >>> strategy("dpo", "float64")                           # for hypothesis
    >>> invalid("dpo", "float64")

Float arrays are float64 and hold numbers that are exact in the case's dtype; so are scalars. No case comes with an answer:
that is for `verify.oracle`.
"""

import math

from verify.cases import illegal, illegal_models, models, sampling
from verify.cases.illegal import Invalid
from verify.cases.laws import allows_removal, ignores_masked, keeps_rows, parts, permuted, polluted, removed
from verify.cases.sampling import Case, draw
from verify.cases.search import strategy
from verify.contract import MODELS

__all__ = [
    "Case",
    "Invalid",
    "affordable",
    "allows_removal",
    "draw",
    "fresh",
    "ignores_masked",
    "invalid",
    "keeps_rows",
    "parts",
    "permuted",
    "polluted",
    "regimes",
    "removed",
    "strategy",
]


def fresh(operation: str, dtype: str, seed: int, count: int) -> list[Case]:
    """Cases regime after regime, from a generator of the seed and the operation's name alone."""
    return (models if operation in MODELS else sampling).fresh(operation, dtype, seed, count)


def regimes(operation: str) -> tuple[str, ...]:
    """The names of its regimes."""
    return tuple((models.REGIMES if operation in MODELS else sampling.REGIMES)[operation])


def invalid(operation: str, dtype: str) -> list[Invalid]:
    """Everything that an implementation of the operation must refuse. The same list at every call."""
    return (illegal_models if operation in MODELS else illegal).invalid(operation, dtype)


def affordable(operation: str, count: int) -> int:
    """So many fresh cases, or a share of them where the oracle runs a whole model for each."""
    return math.ceil(count * models.SHARES.get(operation, 1.0))
