"""For pytest, loaded wherever minipref is installed: three lines hold a library's losses against the contract.

    def test_conforms_to_minipref(conforms_to_minipref):
        conforms_to_minipref("mylib.losses", level=1)

It takes what `verify.check` takes. `pytest --minipref-profile full --minipref-seed 7` tries more, and other cases, without a
change of the tests. Nothing of the verifier is loaded before the fixture is used.
"""

from collections.abc import Callable
from typing import Any

import pytest

import verify


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("minipref", "conformance to minipref")
    group.addoption("--minipref-profile", default="quick", metavar="NAME", help="how much is tried: quick, full or deep")
    group.addoption("--minipref-seed", default=0, type=int, metavar="N", help="of the fresh cases (default 0)")


@pytest.fixture(scope="session")
def conforms_to_minipref(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """conforms_to_minipref(implementation, level=1, ...): what `verify.check` finds; the test fails with its report."""
    asked = {name: request.config.getoption(f"minipref_{name}") for name in ("profile", "seed")}

    def check(implementation: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        try:
            return verify.check(implementation, **{**asked, **options})
        except verify.DoesNotConform as found:
            pytest.fail(str(found), pytrace=False)

    return check
