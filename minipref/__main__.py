"""`python -m minipref` prints the contract of every operation as JSON; `verify/contract-1.json` is its frozen copy."""

import json
from typing import Any

from . import REGISTRY
from .contract import describe


def contract_text() -> str:
    """The contract as JSON, an argument a line."""
    operations = ",\n".join(f"  {json.dumps(name)}: {{\n{_lines(op)}\n  }}" for name, op in describe(REGISTRY).items())
    return f'{{\n "format": "minipref-contract",\n "version": "1.0",\n "operations": {{\n{operations}\n }}\n}}\n'


def _lines(described: dict[str, Any]) -> str:
    def line(key: str, value: Any) -> str:
        if key not in ("inputs", "outputs"):
            return f"   {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        entries = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
        return f"   {json.dumps(key)}: {{\n{entries}\n   }}"

    return ",\n".join(line(key, value) for key, value in described.items())


if __name__ == "__main__":
    print(contract_text(), end="")
