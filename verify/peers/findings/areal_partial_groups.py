"""areal==1.0.4: where a group lacks a response, rewards are compared across prompts, and the batch's last divided by 1e-5.

`GroupedRolloutWorkflow` goes on with the responses that are left where some came back as None. `Normalization` in
areal/utils/data.py takes every group_size rows for a group all the same: after a smaller group, groups are mixtures of two
prompts, and the rows left over at the end of the batch have mean 0 and standard deviation 0: rewards are divided by eps.

Reported as areal-project/AReaL#1419. #1454, after 1.0.4, hands the sizes of the groups over; where none are, #1673 is open.
"""

import sys

import torch
from areal.api.cli_args import NormConfig
from areal.utils.data import Normalization

norm = Normalization(NormConfig(mean_level="group", std_level="group", group_size=4))
groups = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]  # the first of three is a response short
due = [Normalization(NormConfig("group", std_level="group", group_size=len(x)))(torch.tensor(x)).tolist() for x in groups]
came = norm(torch.tensor(sum(groups, [])))
for group, expected, got in zip(groups, due, came.split([3, 4, 4]), strict=True):
    shown = ([f"{x:.3g}" for x in y] for y in (expected, got.tolist()))
    print("rewards {}: expected {}, got {}".format(group, *shown))
sys.exit(not torch.allclose(came, torch.tensor(sum(due, [])), atol=1e-3))
