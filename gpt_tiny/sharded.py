"""Processes share a run: PyTorch's FSDP2 splits weights, gradients and moments, and each process takes a share of the rows.

  torchrun --nproc-per-node 2 -m gpt_tiny.sharded train --method dpo --model out/sft --data pairs.jsonl --out out/dpo

The options are those of `python -m gpt_tiny`. The result is that of one process, except for rounding: what a loss is divided by
counts the rows of all, and KTO's reference point is summed over all before the loss. The first process writes the run's files.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from .__main__ import main
from .model import GPT
from .trainer import World


class Sharded(World):
    """The processes that torchrun started."""

    def __init__(self) -> None:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def split(self, model: GPT) -> GPT:
        for part in (*model.h, model):
            fully_shard(part)
            # Gradients are summed: each loss is already divided by what is counted over all processes.
            assert isinstance(part, FSDPModule)
            part.set_gradient_divide_factor(1.0)
        register_fsdp_forward_method(model, "response_logps")
        return model

    def sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    def whole(self, x: Tensor) -> Tensor:
        return x.full_tensor() if isinstance(x, DTensor) else x

    def shared(self, x: Tensor, like: Tensor) -> Tensor:
        return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) else x


if __name__ == "__main__":
    world = Sharded()
    code = main(sys.argv[1:], world)
    # A process that leaves while gloo's threads still work is aborted at random.
    dist.barrier()
    time.sleep(0.5)
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(code)
