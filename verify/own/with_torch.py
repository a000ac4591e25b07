"""minipref on PyTorch tensors, on the device that the environment names in MINIPREF_DEVICE, or on the CPU."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import minipref
from minipref.arrays import to_numpy
from minipref.contract import Operation

DEVICE = torch.device(os.environ.get("MINIPREF_DEVICE", "cpu"))
NAME, VERSION = f"minipref (PyTorch, {DEVICE})", minipref.__version__
warnings.filterwarnings("ignore", "The given NumPy array is not writable")


def on_tensors(operation: Operation[Any]) -> Callable[..., dict[str, np.ndarray]]:
    """The operation as a function of NumPy arrays that computes on tensors sharing their memory where the device allows."""

    def call(**arguments: Any) -> dict[str, np.ndarray]:
        tensors = {n: torch.from_numpy(x).to(DEVICE) if isinstance(x, np.ndarray) else x for n, x in arguments.items()}
        return {name: to_numpy(value) for name, value in operation(**tensors)._asdict().items()}

    return call


torch.zeros(1, device=DEVICE)  # a device that is not there is a broken start, not a failure of every operation
globals().update({name: on_tensors(operation) for name, operation in minipref.REGISTRY.items()})
