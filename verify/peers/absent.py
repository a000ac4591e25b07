"""Empty modules in the place of packages that a library imports and the functions that are judged never call."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock


class _Nothing(MagicMock):
    """Takes any attribute, call and decorated function; a class that inherits from it inherits nothing."""

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[()]:
        return ()


class _Absent(MetaPathFinder, Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        inside = any(f"{fullname}.".startswith(f"{name}.") for name in self.names)
        above = any(name.startswith(f"{fullname}.") for name in self.names)
        return ModuleSpec(fullname, self, is_package=True) if inside or above else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Nothing(name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def stand_in(*names: str) -> None:
    """Importing these modules, and what is in them, now succeeds where they are not installed; nothing in them is real."""
    sys.meta_path.append(_Absent(names))
