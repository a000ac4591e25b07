"""ms-swift==4.6.0: with scale_rewards gdpo, equal rewards such as sixteen of 0.2 may get advantages near 1 or -1.

Where a reward function gives all responses to a prompt the same there is nothing to learn from it, and its term is 0. But
the mean of sixteen float32 rewards of 0.2 may be its neighbour. `compute_advantages` (swift/rl_core/advantage.py) divides
the difference by the standard deviation + 1e-8, which is of the same size, and the result is near 1 or -1 whatever the
reward; nor does the second normalization, over the batch, take it away. The responses to that prompt are then all
reinforced, or all discouraged, as strongly as if they had won or lost, and those to the other prompts are shifted the other
way. It is enough that one of several reward functions is constant, such as a format that all responses keep. Of which
sizes and rewards this is so depends on the order in which a machine sums: this script looks for them among rewards that
float32 has only rounded; 0 and 1 are safe. It would do to put 0 where all rewards of a group are equal, or to add an epsilon
above the rounding, such as the 1e-4 of scale_rewards group in the same function and of GDPO's authors (NVlabs/GDPO).

No report of it was found; the same in verl, with 1e-6, was reported as verl-project/verl#4598.
"""

import sys

import torch
from swift.rl_core.advantage import compute_advantages


def advantages(*prompts):
    """Of one reward function's rewards of the responses to each prompt."""
    rewards = torch.tensor([reward for prompt in prompts for reward in prompt])[:, None]
    found, _ = compute_advantages(rewards, torch.ones(1), len(prompts[0]), "grpo", "gdpo")
    return found.view(len(prompts), -1)


worst = 0.0
for reward, count in ((reward, count) for reward in (0.9, 0.3, 0.2) for count in (4, 6, 7, 8, 16)):
    equal, mixed = [reward] * count, [0.0, 1.0] * (count // 2) + [0.5] * (count % 2)
    came, beside = advantages(equal)[0, 0].item(), advantages(mixed, equal)[1, 0].item()
    worst = max(worst, abs(came), abs(beside))
    print(f"{count} rewards of {reward}: expected advantages of 0, got {came:.3f} each;", end=" ")
    print(f"beside a prompt whose rewards differ: expected 0, got {beside:.3f}")
sys.exit(worst > 1e-3)
