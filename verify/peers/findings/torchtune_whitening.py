"""torchtune==0.6.1: PPO's advantages are scaled but not centred: whiten adds the mean back where it should leave it out.

`rlhf.whiten(x, mask, shift_mean=True)` is said to be from TRL, where the mean is added back `if not shift_mean`; here it is
`if shift_mean`, which is the default. `estimate_advantages` calls it with the default, "to reduce variance", so that
advantages come out with a deviation of 1 and the mean they had: all are biased by it, and where it is large enough all that
was sampled is reinforced. Due is `shift_mean=False` in that call, or TRL's condition.

No report of it was found.
"""

import sys

import torch
from torchtune.rlhf import estimate_advantages, whiten

x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
print("mean of whiten(x):", whiten(x).mean().item())
print("mean of whiten(x, shift_mean=False):", whiten(x, shift_mean=False).mean().item())

rewards = torch.tensor([[0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 4.0]])
advantages, _ = estimate_advantages(torch.zeros(2, 4), rewards, gamma=1.0, lmbda=1.0, masks=torch.ones(2, 4, dtype=torch.bool))
print("mean advantage of two responses: expected 0, got", advantages.mean().item())
sys.exit(abs(advantages.mean().item()) > 1e-3)
