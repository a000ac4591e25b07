"""ms-swift==4.6.0: the reward soft_overlong goes on below -1 where a completion is longer than soft_max_length.

Its documentation (docs/source_en/Instruction/GRPO/AdvancedResearch/DAPO.md) and equation 13 of DAPO (arXiv 2503.14476) end
the penalty there: 0 up to L_max - L_cache, then down in a line to -1 at L_max, and -1 from there on. `SoftOverlong.__call__`
(swift/rewards/orm.py) has the line and its upper end alone. Lengths above soft_max_length come of a soft_max_length below
max_completion_length, and of rollouts of several turns: the reward sums the tokens of all turns, while by default
(completion_length_limit_scope per_round) max_completion_length, which soft_max_length is taken from, bounds each of them. One
long rollout then outweighs the others of its group, and every other reward function: after four turns of 2048 tokens, with
a cache of 512, the penalty is -13. Due is max(-1, ...) around it.

No report of it was found.
"""

import sys
from types import SimpleNamespace

from swift.rewards.orm import SoftOverlong

LONGEST, CACHE = 2048, 512
reward = SoftOverlong(SimpleNamespace(soft_max_length=LONGEST, soft_cache_length=CACHE))

turns = {"half": [1024], "inside the cache": [1792], "longest": [2048], "longer": [2304], "four turns": [2048] * 4}
wrong = False
for name, lengths in turns.items():
    (got,) = reward([""], response_token_ids=[[[0] * length for length in lengths]])
    expected = max(-1.0, min((LONGEST - CACHE - sum(lengths)) / CACHE, 0.0))
    wrong |= abs(got - expected) > 1e-9
    print(f"{name}, {sum(lengths)} tokens: expected {expected:g}, got {got:g}")
sys.exit(wrong)
