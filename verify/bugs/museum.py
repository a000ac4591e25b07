"""The museum: real bugs of public code, each as a patch of the specification's text, with its history.

Every one of them let training run on. Whoever changes the suite must still catch them all. A bug lives in the file where this
specification does what the library did, or gpt_tiny where it takes a whole model; what only a data pipeline can get wrong
(tokenizers, adapters, metrics) breaks a claim in its place, as `catalogue.txt` lists. Under "Conventions" stand readings that
are right under another name: a convention is an operation of its own, never a tolerance, so one must not pass for the other.

CONTROLS are the opposite: rewrites that are right, which the suite must not accuse.

The exhibits are in `museum.txt`, an entry each:

    ## id | operations | file | where it is documented
    What happened: library, dates, symptom.
    -old text, which occurs once in the file
    +new text, which may call any function of `arrays` without importing it
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from verify.bugs.specimen import MODEL_SOURCES, SOURCES

PATH = Path(__file__).with_name("museum.txt")


class Bug(NamedTuple):
    """A patch: the cases of each of `operations` must catch `new` in the place of `old`."""

    id: str
    operations: tuple[str, ...]
    file: str
    old: str
    new: str
    history: str
    where: str  # owner/repository#thread, an address, or a document

    @property
    def link(self) -> str:
        repository, hash_, thread = self.where.partition("#")
        return f"https://github.com/{repository}/issues/{thread}" if hash_ else self.where

    def apply(self) -> str:
        """The file's text with the patch. ValueError unless the old text is there exactly once."""
        source = (SOURCES | MODEL_SOURCES)[self.file]
        if source.count(self.old) != 1:
            raise ValueError(f"{self.id}: old text must occur once in {self.file}, got {source.count(self.old)} times")
        return source.replace(self.old, self.new)


def by_operation(name: str) -> Iterator[Bug]:
    """The bugs that the cases of one operation must catch."""
    return (bug for bug in BUGS + BUGS_OF_MODELS if name in bug.operations)


def _read(shelf: str) -> list[Bug]:
    return [_bug(entry) for entry in shelf.split("\n## ")[1:]]


def _bug(entry: str) -> Bug:
    head, *lines = entry.split("\n# ")[0].rstrip("\n").split("\n")
    id_, operations, file, where = head.split(" | ")
    history = " ".join(line for line in lines if line[:1] not in ("-", "+"))
    old, new = ("\n".join(line[1:] for line in lines if line[:1] == sign) for sign in "-+")
    return Bug(id_, tuple(operations.split()), file, old, new, history, where)


_bugs, _controls = PATH.read_text("utf-8").split("\n# Controls\n")
_of_arrays, _of_models = _bugs.split("\n# Models\n")
BUGS, BUGS_OF_MODELS, CONTROLS = _read(_of_arrays), _read(_of_models), _read(_controls)
