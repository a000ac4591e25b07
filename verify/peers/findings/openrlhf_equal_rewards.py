"""openrlhf==0.11.2: equal rewards, such as eight of 0.9, may get advantages near 1 or -1 with group_norm: divided rounding.

Where all responses to a prompt are equally good there is nothing to learn, and the advantage is 0. The mean of eight
float32 rewards of 0.9 may be its neighbour; the difference is divided by the standard deviation + 1e-9, which is of the
same size, and the result is near 1 or -1 whatever the reward. All eight responses are then reinforced, or all discouraged,
as strongly as if one had won. Of which sizes and rewards this is so depends on the order in which a machine sums: this
script looks for them among rewards that float32 has only rounded; 0 and 1 are safe. It would do to put 0 where all rewards
of a group are equal, or to add an epsilon above the rounding, such as 1e-4.

Here no report was found; the same in verl, with 1e-6, was reported as verl-project/verl#4598.
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
for reward, count in ((reward, count) for reward in (0.9, 0.35, 0.1) for count in (3, 4, 5, 6, 7, 8, 12, 16)):
    came = advantages([reward] * count)[0]
    worst = max(worst, abs(came))
    print(f"{count} rewards of {reward}: expected advantages of 0, got {came:.3f} each")
sys.exit(worst > 1e-3)
