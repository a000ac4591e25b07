"""Cases drawn from the regimes."""

from typing import Any, NamedTuple

import numpy as np

from verify.cases.regimes import ALL, REGIMES, inputs
from verify.oracle import NearTie, answer

# Operations whose definition compares: a draw may come too near to a tie for every arithmetic to agree.
COMPARING = {"rso_hinge", "kto_reference_point", "ppo_policy", "ppo_value", "grpo", "overlong_penalty"}
COMPARING |= {"advantages_grpo", "advantages_dr_grpo", "advantages_rloo"}
ATTEMPTS = 100


class Case(NamedTuple):
    """One request, and why it is made. Flags name the bugs that it is known to catch."""

    operation: str
    regime: str
    comment: str
    inputs: dict[str, Any]
    flags: tuple[str, ...] = ()


def draw(operation: str, regime: str, rng: np.random.Generator, dtype: str) -> Case:
    """A legal case whose answer exists and hangs on no near tie. The same generator state gives the same case.

    Raises ValueError for a regime that the operation does not have.
    """
    if regime not in REGIMES[operation]:
        raise ValueError(f"regime must be one of {', '.join(REGIMES[operation])} for {operation}, got {regime!r}")
    for _ in range(ATTEMPTS):
        drawn = inputs(operation, regime, rng, dtype)
        if operation not in COMPARING or not _nearly_tied(operation, drawn):
            return Case(operation, regime, ALL[regime].comment, drawn)
    raise RuntimeError(f"{operation}, {regime}: every one of {ATTEMPTS} draws was nearly tied")


def _nearly_tied(operation: str, drawn: dict[str, Any]) -> bool:
    try:
        answer(operation, drawn)
    except NearTie:
        return True
    return False


def fresh(operation: str, dtype: str, seed: int, count: int) -> list[Case]:
    """Cases regime after regime, from a generator of the seed and the operation's name alone."""
    rng = np.random.default_rng([seed, *operation.encode()])
    cycle = [REGIMES[operation][i % len(REGIMES[operation])] for i in range(count)]
    return [draw(operation, regime, rng, dtype) for regime in cycle]
