"""Copies the modules into the page, which then needs neither network nor server: a browser opens it from the disk.

    python toy/page/build.py            writes index.html
    python toy/page/build.py --check    ends with 1 if it is not current

What is not between the markers is written by hand, in index.html itself.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "index.html"


def inlined(page: str) -> str:
    """The page with the text of NAME.mjs between `// NAME.mjs: begin` and `// NAME.mjs: end`."""
    parts = re.split(r"(?<=: begin\n).*?(?=// (\w+\.mjs): end\n)", page, flags=re.S)
    return "".join(script(part) if n % 2 else part for n, part in enumerate(parts))


def script(name: str) -> str:
    """A module as part of a larger one: without imports and exports, and without what is there for readers of the module."""
    text = (HERE / name).read_text(encoding="utf-8")
    return re.sub(r"^import .*\n|^ *//.*\n|^\n|^export ", "", text, flags=re.M)


def main() -> int:
    """Exit code 0, or 1 with a reason."""
    page = PAGE.read_text(encoding="utf-8")
    if sys.argv[1:] == ["--check"] and page != inlined(page):
        print("toy/page/index.html is not current: run python toy/page/build.py", file=sys.stderr)
        return 1
    if not sys.argv[1:]:
        PAGE.write_text(inlined(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
