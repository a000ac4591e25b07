"""What a claim is: a sentence somebody could doubt, its source, and a function that measures it.

A claim is measured on one subject and yields evidence: how many cases, the worst error over its bound, and every failure found.
Verdicts: HOLDS, FAILS, SKIPPED (with its reason, such as an operation that is not declared), DEVIATES (fails as a deviations
file says that it does, and why).
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from verify.contract import Contract
from verify.subject import Failure, Result, Subject

HOLDS, FAILS, SKIPPED, DEVIATES = "HOLDS", "FAILS", "SKIPPED", "DEVIATES"


class Effort(NamedTuple):
    """How much a profile does: fresh cases and searched examples an operation; whether the search uses the printed seed."""

    fresh: int
    examples: int
    random_search: bool


PROFILES = {"quick": Effort(8, 25, False), "full": Effort(20, 50, False), "deep": Effort(200, 2000, True)}


class Run(NamedTuple):
    """What a measurement may use."""

    subject: Subject
    seed: int
    effort: Effort


class Evidence(NamedTuple):
    """What a measurement found. `worst` is the largest error over its bound, 0 where only equality is asked; `ordinary` is that
    of ordinary cases alone, NaN where none is known to be one.
    """

    cases: int
    worst: float
    failures: tuple[Failure, ...] = ()
    ordinary: float = math.nan

    @classmethod
    def of(cls, results: Iterable[Result]) -> "Evidence":
        """Of many cases, keeping the first failure of each message, with all regimes: the rest would say the same."""
        cases, worst, failures, ordinary = 0, 0.0, dict[str, Failure](), math.nan
        for result in results:
            cases, worst = cases + 1, max(worst, result.worst)
            ordinary = np.fmax(ordinary, result.worst) if result.regime == "ordinary" else ordinary
            for failure in result.failures:
                first = failures.setdefault(failure.message, failure)
                failures[failure.message] = first._replace(regimes=tuple(dict.fromkeys(first.regimes + failure.regimes)))
        return cls(cases, worst, tuple(failures.values()), float(ordinary))


class Claim(NamedTuple):
    """A conformance claim: about one operation of one implementation."""

    id: str
    contract: Contract
    statement: str
    how: str
    measure: Callable[[Run, Contract], Evidence]
    python_only: bool = False
    needs: tuple[str, ...] = ()  # other operations that it asks; where one is not given or fails, there is nothing to learn

    @property
    def source(self) -> str:
        return self.contract.source


class Outcome(NamedTuple):
    """A claim's verdict and what it rests on."""

    claim: Claim
    verdict: str
    evidence: Evidence
    seconds: float
    reason: str = ""
