"""What all losses on a pair with a reference share.

    r̂(y) = β [log π(y|x) - log π_ref(y|x)]        the implicit reward: arXiv:2305.18290v3 section 4
    h    = r̂(y_w) - r̂(y_l)                        β times the gap Δ of the log-ratios

The losses see nothing but h, so the two gradients are each other's negatives: raising both log-probabilities of a pair by the
same amount changes nothing, and nothing controls their common level. (Only `ipo_length_normalized` scales each side by its
length.) Log-probabilities are in nats, summed over a response's tokens, EOS included. References are constants.
"""

from typing import NamedTuple

from ..contract import Floats, N


class PairLoss(NamedTuple):
    """Of each pair the loss, the slopes of the losses' sum in the policy's two log-probabilities, both implicit rewards r̂."""

    losses: Floats[N]
    grad_policy_chosen_logps: Floats[N]
    grad_policy_rejected_logps: Floats[N]
    chosen_rewards: Floats[N]
    rejected_rewards: Floats[N]
