"""Claims that call the judged implementation. Only they enter a verdict about somebody's code.

Every operation has the same general claims; `identities` adds those that one operation is known by.
"""

from verify.claims import Claim
from verify.conformance import answers, identities, laws, refusals, slopes
from verify.contract import CONTRACTS


def claims() -> list[Claim]:
    """All conformance claims, by operation, the most telling first."""
    makers = (answers.claims, slopes.claims, refusals.claims, laws.claims, identities.claims)
    return [claim for contract in CONTRACTS.values() for maker in makers for claim in maker(contract)]
