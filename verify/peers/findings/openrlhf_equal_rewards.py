"""openrlhf==0.11.2: eight equal rewards of 0.9 get advantages of -0.92 with group_norm: rounding divided by its own size.

Where all responses to a prompt are equally good there is nothing to learn, and the advantage is 0. The mean of eight
float32 rewards of 0.9 is its neighbour; the difference is divided by the standard deviation + 1e-9, which is of the same
size, and the result is near 1 or -1 whatever the reward. All eight responses are then reinforced, or all discouraged, as
strongly as if one had won. Of group sizes up to 32 about two in three do this to most rewards that are no multiple of a
power of two; 0 and 1 are safe. It would do to put 0 where all rewards of a group are equal, or to add an epsilon above the
rounding, such as 1e-4. The same in verl, with 1e-6 and so 0.06 here, was reported as verl-project/verl#4597.
"""

import sys
from types import SimpleNamespace

import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker


def advantages(rewards):
    """Of the responses to one prompt, each of one token."""
    algorithm = SimpleNamespace(advantage=SimpleNamespace(estimator="group_norm", gamma=1.0))
    rollout = SimpleNamespace(n_samples_per_prompt=len(rewards))
    args = SimpleNamespace(algo=algorithm, reward=SimpleNamespace(clip_range=None), rollout=rollout)
    maker = object.__new__(RemoteExperienceMaker)
    maker.strategy, maker.advantage_estimator = SimpleNamespace(args=args), "group_norm"
    maker.kl_ctl = SimpleNamespace(value=0.0)
    mask = torch.ones(len(rewards), 1, dtype=torch.bool)
    batch = Experience(
        rewards=torch.tensor(rewards), kl=torch.zeros(mask.shape), action_mask=mask, index=[*range(len(rewards))]
    )
    return maker.compute_advantages_and_returns([batch])[0].advantages.flatten().tolist()


worst = 0.0
for reward, count in ((0.9, 8), (0.35, 8), (0.1, 16)):
    came = advantages([reward] * count)
    worst = max([worst, *map(abs, came)])
    print(f"{count} rewards of {reward}: expected advantages of 0, got {came[0]:.3f} each")
sys.exit(worst > 1e-3)
