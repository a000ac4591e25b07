"""Judging from Python, as a test of another library does: returns what was found, or raises with the report.

    import verify

    def test_conforms_to_minipref():
        verify.check("mylib.losses", level=1)

For pytest `verify.plugin` has the fixture `conforms_to_minipref`, which does the same.
"""

import os
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from types import ModuleType

from verify import conformance, deviations, report
from verify.claims import PROFILES, Claim
from verify.contract import ALL
from verify.runner import Judgement, Plan, judge


class DoesNotConform(AssertionError):
    """Something that was asked does not hold, or is not there. The message is the report; `judgement` is for programs."""

    def __init__(self, message: str, judgement: Judgement) -> None:
        super().__init__(message)
        self.judgement = judgement


def check(
    implementation: ModuleType | str | PathLike[str],
    *,
    level: int | None = None,
    operations: Collection[str] = (),
    values_only: bool = False,
    dtype: str | None = None,
    profile: str = "quick",
    seed: int = 0,
    deviations_file: str | PathLike[str] | None = None,
    request_seconds: float = 10.0,
) -> Judgement:
    """Judge an implementation in a process of its own: a module, its dotted name, the path of a .py, or cmd:"PROGRAM ARGS".

    level, operations: what is asked; all of it that the implementation has, but where operations are named each of them must be
    there. values_only: gradients, and outputs beyond the first, may be missing. dtype: float64 if it has that. profile: quick,
    full or deep. seed: of the fresh cases, the same at every call. deviations_file: known deviations, with reasons (TOML).

    Raises DoesNotConform; ValueError for a bad argument; BrokenStart where the implementation cannot even be started.
    """
    if profile not in PROFILES or not seed >= 0:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)} and seed >= 0, got {profile!r} and {seed!r}")
    listed = deviations.read(Path(deviations_file)) if deviations_file else ()
    plan = Plan(_asked(level, operations), dtype, seed, PROFILES[profile], listed, request_seconds, iter)
    judgement = judge(_named(implementation), plan)
    absent = [name for name in operations if name not in judgement.operations]
    lacking = [] if values_only else [f"{name}.{x}" for name, outputs in judgement.missing.items() for x in sorted(outputs)]
    complaints = [f"not there: {', '.join(absent)}"] if absent else []
    complaints += [f"not there, and values_only was not asked for: {', '.join(lacking)}"] if lacking else []
    if judgement.failed or not judgement.ran or complaints:
        raise DoesNotConform("\n".join([report.terminal(judgement), *complaints]), judgement)
    return judgement


def _asked(level: int | None, operations: Collection[str]) -> list[Claim]:
    """The claims of these operations, or of all; of this level. ValueError where there is no such operation."""
    names = [name for name, contract in ALL.items() if level in (None, contract.level)]
    if not names:
        raise ValueError(f"level must be one of 1, 2, 3 and 4, got {level!r}")
    if isinstance(operations, str) or not set(operations) <= set(names):
        at = f" of level {level}" if level else ""
        raise ValueError(f"operations must be a list of names{at} of the contract, got {operations!r}")
    return [claim for claim in conformance.claims() if claim.contract.name in (operations or names)]


def _named(implementation: ModuleType | str | PathLike[str]) -> str:
    """As `--impl` names it. ValueError for a module that no file holds: it is imported again, in another process."""
    if not isinstance(implementation, ModuleType):
        return os.fspath(implementation)
    path = getattr(implementation, "__file__", None) or ""
    if not path.endswith(".py"):
        raise ValueError(f"implementation must be a module in a .py file, got {implementation!r}")
    return path
