"""What is not legal is refused, argument by argument and rule by rule."""

from collections.abc import Iterator

from verify import cases
from verify.claims import Claim, Evidence, Run
from verify.contract import Contract
from verify.protocol import Misbehaviour, Refusal
from verify.subject import Failure, Result


def claims(contract: Contract) -> Iterator[Claim]:
    yield Claim(
        f"{contract.name}.refusals",
        contract,
        f"{contract.name} answers every invalid input with an error.",
        "Each argument against each rule of the contract: rank, shape, dtype, NaN, infinities, both ends of every range.",
        refuses,
    )


def refuses(run: Run, contract: Contract) -> Evidence:
    invalid = cases.invalid(contract.name, run.subject.dtype)
    due = [case for case in invalid if case.layout == "plain" or run.subject.python]
    return Evidence.of(_refused(run, contract, case) for case in due)


def _refused(run: Run, contract: Contract, case: cases.Invalid) -> Result:
    answer = run.subject.send(contract.name, run.subject.dtype, case.inputs, case.layout)
    if isinstance(answer, Refusal):
        if answer.undeclared:
            run.subject.undeclare(contract)
        return Result(0.0)
    if isinstance(answer, Misbehaviour):
        return Result(0.0, (Failure(answer.kind, contract.name, case.inputs, (answer.message,)),))
    message = f"accepted {case.argument}: {case.rule}"
    return Result(0.0, (Failure(message, contract.name, case.sent(), ("an error is due",)),))
