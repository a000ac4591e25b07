"""Processes share a run: PyTorch's FSDP2 splits weights, gradients and moments, and each process takes a share of the rows.

  torchrun --nproc-per-node 2 -m gpt_tiny.sharded train --method dpo --model out/sft --data pairs.jsonl --out out/dpo

The options are those of `python -m gpt_tiny`. The result is that of one process, except for rounding: what a loss is divided by
counts the rows of all, and KTO's reference point is taken over all before the loss.
`torchrun --virtual-local-rank` gives each its own GPU.
"""

import os
import sys
import time

import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from .__main__ import main
from .model import GPT
from .trainer import World


class Sharded(World):
    """The processes that torchrun started."""

    def __init__(self) -> None:
        dist.init_process_group()  # gloo for the CPU, nccl for GPUs
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def split(self, model: GPT) -> GPT:
        mesh = dist.init_device_mesh(model.wte.weight.device.type, (self.size,))
        for part in (*model.h, model):
            # Gradients are summed: each loss is already divided by what is counted over all processes.
            fully_shard(part, mesh=mesh).set_gradient_divide_factor(1.0)
        register_fsdp_forward_method(model, "rewards" if hasattr(model, "rewards") else "response_logps")
        return model

    def sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def whole(self, x: Tensor) -> Tensor:
        return x.full_tensor() if isinstance(x, DTensor) else x

    def shared(self, x: Tensor, like: Tensor) -> Tensor:
        return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) else x


def leave(world: Sharded, code: int) -> None:
    """With an error nobody waits for the others; the first goes before them, which torchrun then ends: it may be writing."""
    if code == 0:
        dist.barrier()  # who leaves while gloo's threads still work is aborted at random
    time.sleep(60 if code and world.rank else 0.5)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(world := Sharded(), main(sys.argv[1:], world))
