"""Numbers for the oracle: decimals without overflow, elementary functions, comparisons.

Every function takes and returns `Decimal`, works at the precision of the current context (see `digits`), and
is *relatively* accurate there, however small its answer. Infinities are limits; where there is none the
answer is NaN, which `limit` turns into NoLimit.
"""

import decimal
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from decimal import Decimal

ZERO, ONE, TWO, HALF = Decimal(0), Decimal(1), Decimal(2), Decimal("0.5")
NEAR = Decimal("1e-6")  # nearer to a tie than this, relatively, honest arithmetics may part


class NearTie(ValueError):
    """Two sides of a comparison in a definition are unequal but too close for every arithmetic to agree."""


class NoLimit(ValueError):
    """An output has no single limit: infinities meet, or a reference is zero where the policy is positive."""


def digits(precision: int) -> AbstractContextManager[decimal.Context]:
    """A context of so many significant digits and practically no bounds on the exponent; nothing traps."""
    context = decimal.Context(prec=precision, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])
    return decimal.localcontext(context)


def limit(x: Decimal) -> Decimal:
    """x itself; NoLimit where it is NaN, that is, where infinities met."""
    if x.is_nan():
        raise NoLimit("infinities meet: the output has no single limit")
    return x


def log_ratio(policy: Decimal, reference: Decimal) -> Decimal:
    """log(policy/reference) of two log-probabilities; NoLimit where the reference is -inf."""
    if reference.is_infinite():
        raise NoLimit("a reference log-probability of -inf: the log-ratio has no limit")
    return policy - reference


def times(coefficient: Decimal, x: Decimal) -> Decimal:
    """coefficient * x, where a coefficient of exactly 0 removes even an infinity."""
    return coefficient * x if coefficient else ZERO


def largest(values: Iterable[Decimal]) -> Decimal:
    """The largest finite magnitude, 0 if there is none."""
    return max((abs(x) for x in values if x.is_finite()), default=ZERO)


def exp_tail(x: Decimal, order: int) -> Decimal:
    """e^x less the first `order` terms of its series: expm1 for order 1, e^x - 1 - x for order 2."""
    head = [ONE, x][:order]
    if not abs(x) < HALF:
        power = x.exp()
        return power if power.is_infinite() else power - sum(head)
    term = x**order / order
    total, n = term, order
    while term and total + term * x / (n + 1) != total:
        n += 1
        term = term * x / n
        total += term
    return total


def log1p(x: Decimal) -> Decimal:
    """log(1 + x) for x > -1, by 2 artanh(x / (2 + x)) near 0."""
    if not abs(x) < Decimal("0.05"):
        return (ONE + x).ln()
    root = x / (TWO + x)
    square, power, total, n = root * root, root, root, 1
    while power:
        n += 2
        power *= square
        if total + power / n == total:
            break
        total += power / n
    return TWO * total


def log1mexp(a: Decimal) -> Decimal:
    """log(1 - e^a) for a < 0."""
    return log1p(-a.exp()) if a < -1 else (-exp_tail(a, 1)).ln()


def logistic(z: Decimal) -> tuple[Decimal, Decimal]:
    """(log(1 + e^z), its slope 1 / (1 + e^-z)), both with all digits in both tails."""
    small = (-abs(z)).exp()
    return log1p(small) + max(z, ZERO), (ONE if z > 0 else small) / (ONE + small)


def log_softmax(scores: list[Decimal]) -> tuple[list[Decimal], Decimal]:
    """([log of each score's share e^s / Z], log Z); NaN where no score is finite."""
    top = max(scores)
    place = scores.index(top)
    spread = log1p(sum(((s - top).exp() for i, s in enumerate(scores) if i != place), ZERO))
    return [s - top - spread for s in scores], top + spread


class Branches:
    """Outcomes of a row's comparisons, in order: taken once, then kept while derivatives are measured."""

    def __init__(self) -> None:
        self.signs: list[int] = []
        self.kept: Iterator[int] | None = None
        self.near = NEAR

    def take(self) -> None:
        """From here on comparisons are made, and remembered."""
        self.signs, self.kept = [], None

    def keep(self) -> None:
        """From here on the remembered outcomes come again, from the first."""
        self.kept = iter(self.signs)


branches = Branches()


@contextmanager
def apart(distance: Decimal) -> Iterator[None]:
    """Comparisons are made meanwhile, and are NearTie where nearer to a tie than this, relatively."""
    branches.take()
    branches.near = distance
    try:
        yield
    finally:
        branches.near = NEAR


def compare(a: Decimal, b: Decimal, *operands: Decimal) -> int:
    """-1, 0 or 1 as a < b, a = b or a > b.

    NearTie if they are unequal by at most 1e-6 (see `apart`) of the largest among a, b and the operands (those that cancel
    on the way to a or b); NoLimit if one is NaN.
    """
    if branches.kept is not None:
        return next(branches.kept)
    gap = limit(a - b if a != b else ZERO)
    if gap.is_finite() and 0 < abs(gap) <= branches.near * largest((a, b, *operands)):
        raise NearTie(f"{a:.9g} and {b:.9g} are unequal, but within {branches.near:.0e} of the numbers they are made of")
    branches.signs.append((gap > 0) - (gap < 0))
    return branches.signs[-1]
