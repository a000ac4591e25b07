"""Values and gradients are right: on frozen vectors, on fresh cases, and wherever a search can look."""

import time
from collections.abc import Iterator
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase

from verify import cases, vectors
from verify.claims import Claim, Evidence, Run
from verify.contract import Contract
from verify.oracle import NearTie, NoLimit
from verify.subject import Failure, Inputs, Result, exact_answer

SHRINK_SECONDS = 2.0  # for one claim


def claims(contract: Contract) -> Iterator[Claim]:
    yield Claim(
        f"{contract.name}.vectors",
        contract,
        f"{contract.name} gives the exact values and gradients of every frozen vector.",
        "Each output of each vector against 50 digits, within the bound of its condition number.",
        by_vectors,
    )
    yield Claim(
        f"{contract.name}.fresh",
        contract,
        f"{contract.name} gives the exact values and gradients of cases it has never seen.",
        "Cases drawn under the printed seed in every regime, answered by the oracle on the spot.",
        by_fresh_cases,
    )
    yield Claim(
        f"{contract.name}.search",
        contract,
        f"{contract.name} is right over its whole legal domain.",
        "hypothesis searches for an input whose answer is off and shrinks what it finds.",
        by_search,
    )


def by_vectors(run: Run, contract: Contract) -> Evidence:
    due = [vector for vector in vectors.load(contract.name) if run.subject.dtype in vector.dtypes]
    return Evidence.of(run.subject.judge(contract, v.case.inputs, v.expected).at(v.case.regime) for v in due)


def by_fresh_cases(run: Run, contract: Contract) -> Evidence:
    count = cases.affordable(contract.name, run.effort.fresh)
    drawn = cases.fresh(contract.name, run.subject.dtype, run.seed, count)
    return Evidence.of(run.subject.judge(contract, case.inputs).at(case.regime) for case in drawn)


def by_search(run: Run, contract: Contract) -> Evidence:
    """One failure at most, the smallest found; shrinking stops after two seconds, or when the run has spent its share."""
    search = _Search(run, contract)
    settings = hypothesis.settings(
        max_examples=run.effort.examples,
        derandomize=not run.effort.random_search,
        phases=(Phase.generate, Phase.shrink),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    test = settings(hypothesis.given(cases.strategy(contract.name, run.subject.dtype))(search.try_inputs))
    try:
        (hypothesis.seed(run.seed)(test) if run.effort.random_search else test)()
    except _Found as found:
        run.subject.shrink_seconds -= time.monotonic() - search.found_at
        return Evidence(search.cases, float("inf"), found.failures)
    return Evidence(search.cases, search.worst)


class _Found(Exception):
    def __init__(self, failures: tuple[Failure, ...]):
        super().__init__(failures[0].message)
        self.failures = failures


class _Search:
    """What one search has seen. Verdicts are remembered, so that after the time for shrinking is over, when everything new
    passes unseen, what failed before still fails."""

    def __init__(self, run: Run, contract: Contract):
        self.run, self.contract = run, contract
        self.cases, self.worst, self.found_at, self.found_as = 0, 0.0, 0.0, ""
        self.patience = min(SHRINK_SECONDS, run.subject.shrink_seconds)
        self.seen: dict[str, tuple[Failure, ...]] = {}

    def try_inputs(self, inputs: Inputs) -> None:
        key = repr(inputs)
        if key not in self.seen:
            if self.found_at and time.monotonic() - self.found_at > self.patience:
                return
            self.seen[key] = self._judge(inputs).failures
        failures = self.seen[key]
        if failures and not (self.found_as and failures[0].message == "not-run" != self.found_as):  # no smaller than a crash
            self.found_at, self.found_as = self.found_at or time.monotonic(), self.found_as or failures[0].message
            raise _Found(failures)

    def _judge(self, inputs: dict[str, Any]) -> Result:
        try:
            exact = exact_answer(self.contract.name, inputs)
        except (NearTie, NoLimit):
            hypothesis.reject()
        result = self.run.subject.judge(self.contract, inputs, exact)
        self.cases, self.worst = self.cases + 1, max(self.worst, result.worst)
        return result
