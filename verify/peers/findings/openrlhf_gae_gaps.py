"""openrlhf==0.11.2: GAE of a multi-turn response bootstraps from 0 where the environment speaks between two actions.

In agent runs action_mask is false on the tokens of the environment. `get_advantages_and_returns` puts values and rewards to
0 there and then runs over them as if they were steps: the last token of a turn gets 0 as the value of what follows, and
gamma * lambd decays once a token of the environment. Where gamma * lambd < 1 an advantage so depends on how much the
environment says, and the value of the next turn is lost on it; at the defaults, gamma = lambd = 1, the errors cancel out.
The steps of the policy are the tokens it chose: the gap must be skipped (as verl does since its #2337).

No report of it was found.
"""

import sys

import torch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker


def advantages(values, rewards, mask):
    tensors = torch.tensor([values]), torch.tensor([rewards]), torch.tensor([mask])
    found, _ = RemoteExperienceMaker.get_advantages_and_returns(None, *tensors, gamma=1.0, lambd=0.5)
    return found[tensors[2]].tolist()


due = advantages([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [True, True, True, True])
came = advantages([1.0, 1.0, 9.0, 9.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0], [True, True, False, False, True, True])
print("four tokens, all values and the final reward 1: expected", due)
print("the same, the environment between second and third: got", came)
sys.exit(due != came)
