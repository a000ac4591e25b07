"""Preferences from scores. A score difference of r nats means odds of e^r.

Bradley & Terry 1952; with a margin m: Touvron et al. 2023, arXiv:2307.09288v2, equation 2.

    h = r(y_w) - r(y_l) - m
    L = -log σ(h)
    ∂L/∂r(y_w) = -σ(-h)
    ∂L/∂r(y_l) = +σ(-h)

Plackett 1975, Luce 1959; as in Rafailov et al. 2023, arXiv:2305.18290v3, appendix A.3, equation 18. A ranking is a row of
choices, each of the best of what is left:

    L = Σ_{k<K} [log Σ_{j>=k} e^{r_j} - r_k]
    ∂L/∂r_m = Σ_{k<K, k<=m} softmax(r_k .. r_K)_m - 1[m < K]        the last is chosen from nothing
"""

from typing import NamedTuple

from .arrays import concat, log_sigmoid, logsumexp, sigmoid, softmax, zeros_like
from .contract import Finite, Floats, K, N, Rule, operation


class BradleyTerryLoss(NamedTuple):
    losses: Floats[N]
    grad_chosen_rewards: Floats[N]
    grad_rejected_rewards: Floats[N]


class RankingLoss(NamedTuple):
    losses: Floats[N]
    grad_rewards: Floats[N, K]


@operation(level=1, source="Bradley & Terry 1952; margin: arXiv:2307.09288v2 eq. 2")
def bradley_terry(chosen_rewards: Floats[N], rejected_rewards: Floats[N], margin: Finite = 0.0) -> BradleyTerryLoss:
    """Negative log-likelihood, in nats, of the chosen response winning each pair by the margin. Nothing is averaged."""
    h = chosen_rewards - rejected_rewards - margin
    losses = -log_sigmoid(h)

    weight = sigmoid(-h)
    return BradleyTerryLoss(losses, -weight, weight)


@operation(
    level=1,
    source="arXiv:2305.18290v3 eq. 18",
    rules=[Rule("rewards", "must rank at least 2 responses", lambda rewards: rewards.shape[1] >= 2)],
)
def plackett_luce(rewards: Floats[N, K]) -> RankingLoss:
    """Negative log-likelihood, in nats, of each row's order, best response first. K = 2 is Bradley-Terry."""
    choices = [rewards[:, k:] for k in range(rewards.shape[1] - 1)]
    losses = sum(logsumexp(left) - left[:, 0] for left in choices)

    chances = [softmax(left) for left in choices]
    slopes = [concat([zeros_like(rewards[:, :k]), p[:, :1] - 1, p[:, 1:]], axis=1) for k, p in enumerate(chances)]
    return RankingLoss(losses, sum(slopes))
