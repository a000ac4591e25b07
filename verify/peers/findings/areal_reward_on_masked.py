"""areal==1.0.4: the reward of a trajectory that ends in a tool's output is lost: all of its advantages are 0.

`PPOActor._compute_advantages` in areal/trainer/ppo/actor.py puts the reward on the last attended token. Its recursion skips
tokens whose loss_mask is 0, and what rewards are on them, as it should; but where the last token is such a one, the outcome
is skipped with it. That is so of a trajectory which is over after a tool's answer: examples/tir/tir_workflow.py ends there
when max_turns are used up, or cuts there at max_length. Such a trajectory is neither reinforced nor discouraged. The reward
is due on the last token that the policy chose.

No report of it was found.
"""

import sys
from types import SimpleNamespace

import torch
from areal.trainer.ppo.actor import PPOActor
from areal.utils.data import KLEstimator


def advantages(chosen):
    """Of the tokens that the policy chose, the first token being the prompt; reward -1, no critic; the batch is longer."""
    width = len(chosen) + 1
    there = torch.arange(width)[None] < len(chosen)
    data = {"input_ids": there.long(), "attention_mask": there.long(), "rewards": -torch.ones(1)}
    data |= {"loss_mask": torch.tensor([[*chosen, 0]]), "logprobs": torch.zeros(1, width)}
    mask = data["loss_mask"].roll(-1).bool()
    config = SimpleNamespace(overlong_reward_penalty=False, use_decoupled_loss=True)
    rewards = {"reward_bias": 0.0, "reward_scaling": 1.0, "reward_clip": 20.0, "reward_norm": None, "kl_ctl": 0.0}
    others = {"adv_norm": None, "mask_no_eos_with_zero": False, "kl_estimator": KLEstimator("k1")}
    actor = SimpleNamespace(config=config, discount=1.0, gae_lambda=1.0, **rewards, **others)
    return PPOActor._compute_advantages(actor, data)["advantages"][mask].tolist()


due, came = advantages([0, 1, 1, 1]), advantages([0, 1, 1, 1, 0, 0])
print("three tokens of the policy: expected", due)
print("the same, then two of a tool: got", came)
sys.exit(due != came)
