"""The verifier: judges any implementation of preference optimization against a frozen contract. `python -m verify --help`.

    >>> verify.check("my_losses.py", level=1)

judges from Python. Nothing is loaded before it is asked for: judged modules run beside this package too.
"""

from typing import Any

__all__ = ["DoesNotConform", "check"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'verify' has no attribute {name!r}")
    from verify import checking

    return getattr(checking, name)
