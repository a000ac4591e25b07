"""DPO on rankings. Rafailov et al. 2023, arXiv:2305.18290v3, appendix A.3, equation 20.

    r̂_k = β (log π(y_k|x) - log π_ref(y_k|x))
    L   = Σ_{k<K} [log Σ_{j>=k} e^{r̂_j} - r̂_k]

    ∂L/∂log π(y_m|x) = β [Σ_{k<K, k<=m} softmax(r̂_k .. r̂_K)_m - 1[m < K]]

y_1 is the best response, y_K the worst.
"""

from typing import NamedTuple

from ..bradley_terry import plackett_luce
from ..contract import Constant, Floats, K, N, Positive, Rule, operation


class RankingPolicyLoss(NamedTuple):
    losses: Floats[N]
    grad_policy_logps: Floats[N, K]


@operation(
    level=1,
    source="arXiv:2305.18290v3 eq. 20",
    rules=[Rule("policy_logps", "must rank at least 2 responses", lambda policy_logps: policy_logps.shape[1] >= 2)],
)
def plackett_luce_dpo(policy_logps: Floats[N, K], reference_logps: Constant[N, K], beta: Positive = 0.1) -> RankingPolicyLoss:
    """Plackett-Luce likelihood of each ranking under the implicit rewards. K = 2 is DPO."""
    rewards = beta * (policy_logps - reference_logps)

    losses, grad_rewards = plackett_luce.formula(rewards)

    return RankingPolicyLoss(losses, beta * grad_rewards)
