"""areal==1.0.4: the overlong penalty has no floor: a response of several turns is punished by many times the factor.

DAPO's soft punishment (arXiv 2503.14476, equation 13), as which it is documented, falls from 0 to -1 over the last
overlong_tokens before the maximum, and is -1 beyond. `reward_overlong_penalty` in areal/utils/functional/functional.py is
min(-exceed / overlong_tokens * factor, 0), which goes on falling. One generation ends at max_new_tokens; but the length is
the sum of loss_mask, and MultiTurnWorkflow adds up its turns, each of which may have max_new_tokens. Nor need
PPOActorConfig.max_new_tokens, 1024 unless set, be what was generated with. It would do to count at most overlong_tokens.

No report of it was found; OpenRLHF/OpenRLHF#1091 was given the bound when it was reviewed.
"""

import sys

import torch
from areal.utils.functional import reward_overlong_penalty

wrong = False
for turns in ([600], [900], [1024], [1024, 200], [1024, 1024, 1024]):
    mask = torch.ones(1, sum(turns), dtype=torch.long)
    data = {"rewards": torch.zeros(1), "input_ids": mask.clone(), "loss_mask": mask}
    setting = {"overlong_tokens": 256, "overlong_penalty_factor": 1.0, "max_response_length": 1024}
    came = reward_overlong_penalty(data, **setting)["rewards"].item()
    due = max(min(768 - sum(turns), 0) / 256, -1)
    wrong |= abs(came - due) > 1e-6
    print(f"turns of {turns} tokens, the last 256 of 1024 punished: expected {due:.3f}, got {came:.3f}")
sys.exit(wrong)
