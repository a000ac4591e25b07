"""Starts implementations, measures claims on them, and sums up what was found."""

import fnmatch
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from verify import contract, vectors
from verify.claims import DEVIATES, FAILS, HOLDS, SKIPPED, Claim, Effort, Evidence, Outcome, Run
from verify.deviations import Deviation, accept
from verify.pipe import BrokenStart, Session
from verify.protocol import Declaration, Misbehaviour
from verify.subject import Subject, Undeclared

ROOT = Path(__file__).resolve().parent.parent
OWN = {"numpy": "verify.own.with_numpy", "torch": "verify.own.with_torch", "torch:cuda": "verify.own.with_torch"}
OTHERS = ("torchtune", "liger", "openrlhf", "verl", "torchrl", "llamafactory", "ludwig", "areal", "swift")
PEERS = {  # modules, and the environments that they need
    "trl": ("verify.peers.trl", ".venv-trl"),
    **{name: (f"verify.peers.{name}", ".venv-peers") for name in OTHERS},
    "jax": ("verify.ports.jax.testee", ".venv-jax"),
}


class Implementation(NamedTuple):
    """How one is started: the command, whether it is a Python module in our child, and what the child's environment adds."""

    command: list[str]
    python: bool
    environment: dict[str, str]


def find(name: str) -> Implementation:
    """What `--impl` names: numpy, torch, torch:cuda, a peer, cmd:"PROGRAM ARGS", the path of a .py, a dotted module.

    Raises BrokenStart where a program or an environment cannot be there."""
    child = [sys.executable, "-m", "verify.child"]
    if name.startswith("cmd:"):
        return Implementation(shlex.split(name.removeprefix("cmd:")), False, {})
    if name in PEERS:
        module, environment = PEERS[name]
        interpreter = ROOT / environment / "bin" / "python"
        if not interpreter.exists():
            raise BrokenStart(f"{name} needs an environment of its own, {environment}: make {environment}/ready")
        return Implementation([str(interpreter), "-m", "verify.child", module], True, {})
    if name.endswith(".py") and not Path(name).is_file():
        raise BrokenStart(f"{name}: no such file")
    device = {"MINIPREF_DEVICE": "cuda"} if name == "torch:cuda" else {}
    return Implementation([*child, OWN.get(name, name)], True, device)


def start(name: str, request_seconds: float, directory: str) -> tuple[Session, bool]:
    """A running session, and whether it is one of our children. The verifier is importable there wherever it is run from."""
    command, python, environment = find(name)
    if python:
        paths = [str(ROOT), os.getcwd(), os.environ.get("PYTHONPATH", "")]
        environment = {**environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, paths)))}
    settings = [f"{key}={value}" for key, value in environment.items()]
    wrapped = ["env", *settings, *command] if settings else command
    return Session(wrapped, request_seconds=request_seconds, python_child=python, directory=directory), python


def measure(claims: Iterable[Claim], run: Run) -> Iterator[Outcome]:
    """Every claim's outcome, in order. An operation that is not declared, or undeclares itself, is skipped."""
    failing: set[str] = set()
    for claim in claims:
        began = time.monotonic()
        reason, evidence = _excuse(claim, run.subject, failing), Evidence(0, 0.0)
        if not reason:
            try:
                evidence = claim.measure(run, claim.contract)
            except Undeclared as what:
                reason = f"{what} is not given"
        if not (reason or evidence.cases):
            reason = "no case was drawn that it is about"
        verdict = FAILS if evidence.failures else HOLDS if evidence.cases else SKIPPED
        failing |= {claim.contract.name} if verdict == FAILS else set()
        yield Outcome(claim, verdict, evidence, time.monotonic() - began, reason)


def _excuse(claim: Claim, subject: Subject, failing: set[str]) -> str:
    """Why a claim is not measured, if it is not."""
    for operation in (claim.contract.name, *claim.needs):
        if operation not in subject.declared:
            return "not declared" if operation == claim.contract.name else f"{operation} is not declared"
    if failing & set(claim.needs):
        return f"{', '.join(sorted(failing & set(claim.needs)))} fails"
    return "for Python modules only" if claim.python_only and not subject.python else ""


class Judgement(NamedTuple):
    """Everything found about one implementation in one dtype."""

    declaration: Declaration
    dtype: str
    seed: int
    outcomes: list[Outcome]
    missing: dict[str, set[str]]  # by operation, outputs of the contract that it does not give
    deviations: tuple[Deviation, ...]
    stale: tuple[Deviation, ...]  # listed deviations that did not occur
    ending: Misbehaviour | None  # how it took being told to stop, if badly
    stderr: str
    directory: str  # where the weights are that failing requests name; "" where none does

    def count(self, verdict: str) -> int:
        return sum(outcome.verdict == verdict for outcome in self.outcomes)

    @property
    def failed(self) -> bool:
        return bool(self.count(FAILS) or self.stale or self.ending)

    @property
    def ran(self) -> int:
        return len(self.outcomes) - self.count(SKIPPED)

    @property
    def operations(self) -> list[str]:
        """Those that were judged."""
        return list(dict.fromkeys(o.claim.contract.name for o in self.outcomes if o.verdict != SKIPPED))

    def verdict(self) -> str:
        """The sentence of the contract."""
        who = f"{self.declaration.name} {self.declaration.version}"
        if not self.ran:
            return f"{who}: nothing was judged."
        does = "does not conform" if self.failed else "conforms"
        hashes = f"contract {contract.HASH}, vectors {vectors.HASH}, seed {self.seed}"
        deviations = (
            f", deviations {{{', '.join(sorted({d.claim.partition('.')[0] for d in self.deviations}))}}}"
            if self.deviations
            else ""
        )
        levels = ", ".join(self._level(level) for level in (1, 2, 3, 4) if self._at(level))
        return f"{who} {does} to minipref {contract.VERSION}, {levels}, {self.dtype}{deviations}; {hashes}."

    def _at(self, level: int) -> list[str]:
        return [name for name in self.operations if contract.ALL[name].level == level]

    def _level(self, level: int) -> str:
        judged, whole = self._at(level), [c for c in contract.ALL.values() if c.level == level]
        lacking = sorted(f"{name}.{output}" for name in judged for output in self.missing.get(name, ()))
        sloped = any(output.gradient_of for c in whole for output in c.outputs.values())
        grade = f"L{level}-V (without {', '.join(lacking)})" if lacking else f"L{level}-VG" if sloped else f"L{level}-V"
        meaning = "values and gradients" if sloped and not lacking else "values only"
        every = 1 < len(judged) == len(whole)
        named = f"all {len(whole)} operations" if every else f"operations {{{', '.join(judged)}}}"
        return f"level {grade}, {meaning}, {named}"


class Plan(NamedTuple):
    """What a run is to do. `watch` passes outcomes on while it shows progress."""

    claims: list[Claim]
    dtype: str | None  # where None, float64 if the implementation has it
    seed: int
    effort: Effort
    deviations: tuple[Deviation, ...]
    request_seconds: float
    watch: Callable[[Iterable[Outcome]], Iterable[Outcome]]


def judge(name: str, plan: Plan) -> Judgement:
    """Start an implementation, measure every claim of the plan on it, stop it. Raises BrokenStart, and ValueError where it does
    not declare the dtype that was asked for."""
    directory = tempfile.mkdtemp(prefix="minipref-")
    keep = False
    try:
        judgement = _judged(name, plan, directory)
        keep = any(o.verdict == FAILS and o.claim.contract.name in contract.MODELS for o in judgement.outcomes)
        return judgement._replace(directory=directory if keep else "")
    finally:
        if not keep:
            shutil.rmtree(directory)


def _judged(name: str, plan: Plan, directory: str) -> Judgement:
    session, python = start(name, plan.request_seconds, directory)
    with session:
        declared = session.declaration.dtypes
        dtype = plan.dtype or ("float64" if "float64" in declared or not declared else declared[0])
        if dtype not in declared:
            raise ValueError(f"{session.declaration.name} declares {declared}, not --dtype {dtype}")
        subject = Subject(session, dtype, python=python, directory=directory)
        found = list(plan.watch(measure(plan.claims, Run(subject, plan.seed, plan.effort))))
        outcomes, stale = accept(found, plan.deviations)
        ending = session.stop()
        deviating = [outcome.claim.id for outcome in outcomes if outcome.verdict == DEVIATES]
        listed = tuple(d for d in plan.deviations if fnmatch.filter(deviating, d.claim))
        found_out = session.declaration, dtype, plan.seed, outcomes, subject.missing, listed, stale, ending
        return Judgement(*found_out, session.stderr_tail, directory)
