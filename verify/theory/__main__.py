"""Writes the documents that are generated from the claims: errata, table of losses, which method for what, defaults.

python -m verify.theory              write them beside this file
python -m verify.theory --check      compare instead; exit 1 where one is not current
"""

import argparse
import sys
from pathlib import Path

from verify.theory import ledger, tables

FOLDER = Path(__file__).parent


def documents() -> dict[str, str]:
    """The text of every generated document, by file name."""
    return {"ERRATA.md": ledger.document(), **tables.documents()}


def stale() -> list[str]:
    """The documents that are not what the code generates today."""
    return [name for name, text in documents().items() if not _is(FOLDER / name, text)]


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text("utf-8") == text


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(
        "python -m verify.theory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--check", action="store_true", help="write nothing")
    if made.parse_args(arguments).check:
        old = stale()
        print("\n".join(f"{name} is not current" for name in old) or "all are current")
        return int(bool(old))
    for name, text in documents().items():
        (FOLDER / name).write_text(text, "utf-8")
        print(f"verify/theory/{name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
