"""Weights of a model as a request names them: by the path of a file in the directory of the start message.

Each set stands there twice, NAME.npz and NAME.json beside it, in the dtype of the case; the request names the first. A gradient
may come back as a path too.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Weights(NamedTuple):
    """A GPT-2's arrays by name, float64; `name` is that of the file without its ending, unlike every other's."""

    name: str
    arrays: dict[str, np.ndarray]

    def __repr__(self) -> str:
        return repr(f"{self.name}.npz")

    def placed(self, directory: str, dtype: str) -> str:
        """The path of the file relative to the directory, written if it is not there."""
        name = self.name if dtype == "float64" else f"{self.name}-{dtype}"
        path = Path(directory, f"{name}.npz")
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            arrays = {key: x.astype(dtype) for key, x in self.arrays.items()}
            np.savez(path, **arrays)  # type: ignore[arg-type]
            path.with_suffix(".json").write_text(json.dumps({key: x.tolist() for key, x in arrays.items()}), "utf-8")
        return f"{name}.npz"


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, or of a .json as float64. ValueError, naming the file, where it is neither or not there."""
    try:
        if Path(path).suffix == ".json":
            return {name: np.array(x, float) for name, x in json.loads(Path(path).read_text("utf-8")).items()}
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:
        raise ValueError(f"{path} must be weights as .npz or .json: {error}") from None
