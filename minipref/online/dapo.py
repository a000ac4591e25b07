"""The length penalty of DAPO. Yu et al. 2025, arXiv:2503.14476v2, equation 13.

    penalty = 0                                             |y| <= L_max - L_cache
    penalty = ((L_max - L_cache) - |y|) / L_cache           up to L_max
    penalty = -1                                            beyond

The rest of DAPO's loss is `grpo` without its KL term, with clip_high above clip_low, averaged by `token_mean`; groups whose
responses are all right or all wrong are sampled again. Penalties are float64: lengths do not say which precision is meant.
"""

from typing import NamedTuple

from ..arrays import clip, float64
from ..contract import AtLeastOne, Floats, Lengths, N, Positive, Rule, operation


class Penalties(NamedTuple):
    penalties: Floats[N]


@operation(
    level=2,
    source="arXiv:2503.14476v2 eq. 13",
    rules=[Rule("cache_length", "must not exceed max_length", lambda cache_length, max_length: cache_length <= max_length)],
)
def overlong_penalty(lengths: Lengths[N], max_length: AtLeastOne, cache_length: Positive) -> Penalties:
    """What is added to the reward of a response of each length, in tokens. The paper: 20480 and 4096."""
    overrun = float64(lengths) - (max_length - cache_length)
    return Penalties(-clip(overrun / cache_length, 0.0, 1.0))
