"""ludwig==0.17.10: equal rewards, such as eight of 0.9, may get advantages near 1 or -1 from GRPO: divided rounding.

Where all responses to a prompt are equally good there is nothing to learn, and the advantage is 0. The mean of eight
float32 rewards of 0.9 may be its neighbour; the difference is divided by the standard deviation + 1e-8, which is of the
same size, and the result is near 1 or -1 whatever the reward. All eight responses are then reinforced, or all discouraged,
as strongly as if one had won. Of which sizes and rewards this is so depends on the order in which a machine sums: this
script looks for them among rewards that float32 has only rounded; 0 and 1 are safe. It would do to put 0 where all rewards
of a group are equal, or to add an epsilon above the rounding, such as 1e-4. (modules/preference_losses.py, grpo_loss)

Here no report was found; the same in verl, with 1e-6, was reported as verl-project/verl#4598.
"""

import sys

import torch
from ludwig.modules.preference_losses import grpo_loss

worst = 0.0
for reward, count in ((reward, count) for reward in (0.9, 0.35, 0.1) for count in (3, 4, 5, 6, 7, 8, 12, 16)):
    _, mean_advantage = grpo_loss(torch.zeros(count, 2, 2), torch.tensor([[-100, 0]] * count), torch.full((count,), reward))
    worst = max(worst, abs(mean_advantage.item()))
    print(f"{count} rewards of {reward}: expected a mean advantage of 0, got {mean_advantage.item():.3f}")
sys.exit(worst > 1e-3)
