"""Claims that call the judged implementation. Only they enter a verdict about somebody's code.

Every operation has the same general claims; `identities` adds those that one operation is known by.
"""

from verify.claims import Claim
from verify.conformance import answers, identities, laws, models, refusals, slopes
from verify.contract import CONTRACTS, MODELS


def claims() -> list[Claim]:
    """All conformance claims: general ones by operation, the most telling first; then identities, which compare operations;
    then those about whole models."""
    general = (answers.claims, slopes.claims, refusals.claims, laws.claims)
    found = [claim for contract in CONTRACTS.values() for maker in general for claim in maker(contract)]
    found += [claim for contract in CONTRACTS.values() for claim in identities.claims(contract)]
    return found + [claim for contract in MODELS.values() for claim in models.claims(contract)]
