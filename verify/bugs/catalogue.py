"""The catalogue: every bug and every convention that a survey of public code found, and what catches it here.

`catalogue.txt` has the entries and says how to read them. BUGS are each caught by an exhibit of the museum or by a claim;
CONVENTIONS are differences that are right under another name: their exhibits have them under this one, where they are wrong.
"""

from pathlib import Path
from typing import NamedTuple

from verify.doctor import LAWS

IN_WORDS = ("none",)  # ways that say something in place of names


class Entry(NamedTuple):
    """A bug, or a convention, and what catches it: `how` are the kinds of `by`."""

    number: int
    id: str
    how: tuple[str, ...]
    by: tuple[str, ...]  # names; a sentence where `how` is one of IN_WORDS

    @property
    def tried(self) -> set[str]:
        """The exhibits and claims by which a selftest catches it."""
        return set(self.by) - LAWS.keys() if self.how[0] not in IN_WORDS else set()


def _read(shelf: str) -> list[Entry]:
    return [_entry(*line.split(" | ")) for line in shelf.splitlines() if line[:1].isdigit()]


def _entry(number: str, id_: str, how: str, by: str) -> Entry:
    return Entry(int(number), id_, tuple(how.split(", ")), (by,) if how in IN_WORDS else tuple(by.split()))


BUGS, CONVENTIONS = map(_read, Path(__file__).with_suffix(".txt").read_text("utf-8").split("\n# ")[1:])
