"""What implementations are asked: cases by regime, searched inputs, invalid ones, and requests that must agree.

    >>> draw("dpo", "step 0", np.random.default_rng(1), "float64").inputs
    >>> fresh("dpo", "float64", seed=1, count=20)
    >>> strategy("dpo", "float64")                           # for hypothesis
    >>> invalid("dpo", "float64")

Float arrays are float64 and hold numbers that are exact in the case's dtype; so are scalars. No case comes with an answer:
that is for `verify.oracle`.
"""

from verify.cases.illegal import Invalid, invalid
from verify.cases.laws import allows_removal, ignores_masked, keeps_rows, parts, permuted, polluted, removed
from verify.cases.sampling import Case, draw, fresh, regimes
from verify.cases.search import strategy

__all__ = [
    "Case",
    "Invalid",
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
