"""Advantages relative to a group: G responses to one prompt, one scalar reward R each.

    GRPO      (R - mean) / (std + 1e-4)        std with G - 1: arXiv:2402.03300v3 section 4.1.2, and the libraries' constant
    Dr. GRPO  R - mean                         arXiv:2503.20783v2 section 3.2: no std, which favours prompts of little spread
    RLOO      R - mean of the others           arXiv:2402.14740v2 section 2.3; G/(G-1) times Dr. GRPO's

Advantages are constants in every loss. A group without differences teaches nothing: exactly 0, however a mean is rounded.
"""

from typing import NamedTuple

from ..arrays import Array, max_over, mean_over, sum_over, where
from ..contract import Constant, Floats, G, N, Rule, operation


class GroupAdvantages(NamedTuple):
    advantages: Floats[N, G]


GROUP_RULES = [Rule("rewards", "must hold at least 2 responses a group", lambda rewards: rewards.shape[1] >= 2)]


def _centred(rewards: Array) -> Array:
    all_equal = max_over(rewards, axis=1, keepdims=True) == -max_over(-rewards, axis=1, keepdims=True)
    return where(all_equal, 0.0, rewards - mean_over(rewards, axis=1, keepdims=True))


@operation(level=2, source="arXiv:2402.03300v3 section 4.1.2", rules=GROUP_RULES)
def advantages_grpo(rewards: Constant[N, G]) -> GroupAdvantages:
    """Rewards standardized within their group."""
    centred = _centred(rewards)
    largest = max_over(abs(centred), axis=1, keepdims=True)
    shares = centred / where(largest == 0, 1.0, largest)  # at most 1, so that no square overflows
    std = largest * (sum_over(shares * shares, axis=1, keepdims=True) / (rewards.shape[1] - 1)) ** 0.5
    return GroupAdvantages(centred / (std + 1e-4))


@operation(level=2, source="arXiv:2503.20783v2 section 3.2", rules=GROUP_RULES)
def advantages_dr_grpo(rewards: Constant[N, G]) -> GroupAdvantages:
    """Rewards centred within their group."""
    return GroupAdvantages(_centred(rewards))


@operation(level=2, source="arXiv:2402.14740v2 section 2.3", rules=GROUP_RULES)
def advantages_rloo(rewards: Constant[N, G]) -> GroupAdvantages:
    """Each reward against the mean of the others."""
    responses = rewards.shape[1]
    return GroupAdvantages(_centred(rewards) * (responses / (responses - 1)))
