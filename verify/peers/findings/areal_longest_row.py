"""areal==1.0.4: the longest response of a batch counts as cut off although it has ended, and bootstraps from a value.

`PPOActor._compute_advantages` in areal/trainer/ppo/actor.py takes a row for cut off where it is as long as the padded
batch. A batch is padded to its longest row: in every batch one row is so long, whether or not it ends in EOS, and a row that
was cut off earlier is not. With a critic the value of the longest row's last token is added to all of its returns, as if
more were to come; with mask_no_eos_with_zero its reward is dropped. What is due depends on what else is in the batch.

Upstream it was found in areal-project/AReaL#1637, which hands over why a trajectory ended; that came after 1.0.4.
"""

import sys
from types import SimpleNamespace

import torch
from areal.trainer.ppo.actor import PPOActor
from areal.utils.data import KLEstimator


def returns(width):
    """Of a prompt of 1 token and a response of 2, the last of them EOS; reward 1, values 0.5; padded to `width`."""
    there = torch.arange(width)[None] < 3
    data = {"input_ids": there.long(), "attention_mask": there.long(), "loss_mask": there.long(), "rewards": torch.ones(1)}
    data["loss_mask"][:, 0] = 0
    data |= {"logprobs": torch.zeros(1, width), "values": torch.where(there, 0.5, 0.0)}
    config = SimpleNamespace(overlong_reward_penalty=False, use_decoupled_loss=True)
    rewards = {"reward_bias": 0.0, "reward_scaling": 1.0, "reward_clip": 20.0, "reward_norm": None, "kl_ctl": 0.0}
    others = {"adv_norm": None, "mask_no_eos_with_zero": False, "kl_estimator": KLEstimator("k1")}
    actor = SimpleNamespace(config=config, discount=1.0, gae_lambda=1.0, **rewards, **others)
    return PPOActor._compute_advantages(actor, data)["returns"][0, :2].tolist()


due, came = returns(4), returns(3)
print("returns of a finished response where another row of the batch is longer: expected", due)
print("the same response where it is the longest of the batch: got", came)
sys.exit(due != came)
