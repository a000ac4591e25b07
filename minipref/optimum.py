"""The KL-regularized objective and its optimum. Rafailov et al. 2023, arXiv:2305.18290v3, equations 3 to 5.

    J(π)    = E_{y~π}[R(y)] - β KL(π || π_ref)
    Z       = Σ_y π_ref(y) e^{R(y)/β}
    π*(y)   = π_ref(y) e^{R(y)/β} / Z                    J(π*) = β log Z, and J(π*) - J(π) = β KL(π || π*) for every π
    R(y)    = β log [π*(y)/π_ref(y)] + β log Z           only at π*; without the last term it is the implicit reward
    ∂J/∂z_k = π_k (P_k - Σ_j π_j P_j)                    P = R - β log (π/π_ref), the penalized reward; π = softmax(z)

One row is one prompt with its K possible responses. Log-probabilities are in nats, rewards in units of β nats.
"""

import math
from typing import NamedTuple

from .arrays import Array, exp, log_softmax, logsumexp, sum_over, where
from .contract import Constant, Floats, K, N, Positive, operation


class OptimalPolicy(NamedTuple):
    logps: Floats[N, K]
    log_partition: Floats[N]


class Objective(NamedTuple):
    objective: Floats[N]
    grad_policy_logits: Floats[N, K]


@operation(level=1, source="arXiv:2305.18290v3 eq. 4")
def optimal_policy(rewards: Constant[N, K], reference_logps: Constant[N, K], beta: Positive) -> OptimalPolicy:
    """log π* and log Z of each prompt. A response that the reference cannot give, the optimum cannot give either."""
    tilted = reference_logps + rewards / beta
    log_partition = logsumexp(tilted)
    return OptimalPolicy(tilted - log_partition[:, None], log_partition)


@operation(level=1, source="arXiv:2305.18290v3 eq. 3")
def kl_regularized_objective(
    policy_logits: Floats[N, K], rewards: Constant[N, K], reference_logps: Constant[N, K], beta: Positive
) -> Objective:
    """J of each prompt, to be maximized, and its gradient in the logits. 0 log 0 is 0."""
    logps = log_softmax(policy_logits)
    penalized = where(logps == -math.inf, 0.0, rewards - beta * (logps - reference_logps))
    objective = sum_over(exp(logps) * penalized, axis=1)

    grad_policy_logits = exp(logps) * (penalized - objective[:, None])
    return Objective(objective, grad_policy_logits)


def implicit_rewards(policy_logps: Array, reference_logps: Array, beta: float) -> Array:
    """β log(π/π_ref), in any shape, unchecked: equation 5 without β log Z, which no difference of two responses can see."""
    return beta * (policy_logps - reference_logps)


def rewards_of_optimum(logps: Array, reference_logps: Array, log_partition: Array, beta: float) -> Array:
    """The inversion, equation 5: the reward [N, K] of which (logps [N, K], log_partition [N]) is the optimum."""
    return implicit_rewards(logps, reference_logps, beta) + beta * log_partition[:, None]
