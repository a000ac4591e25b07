"""The flag --sweep, and ordinary inputs for any operation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minipref.contract import Argument, Operation, ResponseMask

SIZES = {"N": 5, "K": 4, "G": 4, "B": 3, "T": 6, "V": 7, "D": 4}

# No default among them, and no two alike where an operation has both: an argument that is ignored or swapped shows.
NUMBERS = {"beta": 0.3, "margin": 0.2, "label_smoothing": 0.15, "reference_point": 0.4, "odds_weight": 0.6, "gamma": 0.7}
NUMBERS |= {"eta": 3.0, "desirable_weight": 1.3, "undesirable_weight": 0.8, "clip_low": 0.15, "clip_high": 0.3, "clip": 0.25}
NUMBERS |= {"discount": 0.9, "trace_decay": 0.8, "max_length": 8, "cache_length": 4, "reward_max": 9.0}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sweep", action="store_true", help="also run what takes minutes: dense samples, every compiled operation"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sweep: runs with --sweep only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("sweep") and not config.getoption("--sweep"):
            item.add_marker(pytest.mark.skip(reason="takes long: runs with --sweep"))


@pytest.fixture(scope="session")
def sweep(request: pytest.FixtureRequest) -> bool:
    """Whether the long run was asked for."""
    return bool(request.config.getoption("--sweep"))


@pytest.fixture(scope="session")
def ordinary() -> Callable[..., dict[str, Any]]:
    """ordinary(operation, dtype) gives legal NumPy inputs by name: masks with holes, lengths that differ, nothing extreme."""

    def inputs(operation: Operation[Any], dtype: Any = np.float64) -> dict[str, Any]:
        rng = np.random.default_rng(len(operation.name))
        return {name: _ordinary(argument, rng, dtype) for name, argument in operation.inputs.items()}

    return inputs


@pytest.fixture(params=["numpy", "torch"])
def library(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """library(x): the numbers of a NumPy array or of nested lists as an array of NumPy, then of PyTorch."""
    return np.asarray if request.param == "numpy" else pytest.importorskip("torch").tensor


def _ordinary(argument: Argument, rng: np.random.Generator, dtype: Any) -> Any:
    if argument.type is None:
        return NUMBERS[argument.name]
    shape = tuple(SIZES[dim] for dim in argument.dims)
    if argument.kind == "bool":
        return _with_holes(shape, first=argument.type is not ResponseMask)
    if argument.kind == "int":
        return rng.integers(1, SIZES["V"], shape)
    if argument.name.endswith("logps"):
        return -rng.uniform(0.2, 3, shape).astype(dtype)
    return (rng.uniform(0, 1, shape) if argument.name == "win_rates" else rng.normal(size=shape)).astype(dtype)


def _with_holes(shape: tuple[int, ...], first: bool) -> np.ndarray:
    """Every third is false; in a response mask the first position of each row too."""
    mask = np.arange(np.prod(shape)).reshape(shape) % 3 != 1
    if not first:
        mask[:, 0] = False
    return mask
