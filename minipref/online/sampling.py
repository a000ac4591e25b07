"""Which samples become training data: RSO's rejection sampling and the pairs of online DPO.

Liu et al. 2023, arXiv:2309.06657v2, equation 14 and section 3.2. Candidates come from a proposal μ; kept with probability

    P(keep y) = e^{(R(y) - R_max)/β}        R_max at least every reward that μ can give

they follow μ e^{R/β} / Z exactly; a larger R_max only keeps fewer. The largest reward among the candidates at hand is an
estimate of it. β → ∞ keeps all, β → 0 keeps the best only.
"""

from typing import NamedTuple

import numpy as np

from ..arrays import Array, exp, to_numpy
from ..contract import Constant, Finite, Floats, N, Positive, Rule, operation


class Acceptance(NamedTuple):
    acceptance_probabilities: Floats[N]


class OnlinePairs(NamedTuple):
    chosen: np.ndarray  # [N] index of the response with the higher reward
    rejected: np.ndarray  # [N] index of the other
    tied: np.ndarray  # [N] true where the rewards are equal: such a pair says nothing and should not be trained on


@operation(
    level=2,
    source="arXiv:2309.06657v2 eq. 14",
    rules=[Rule("reward_max", "must be at least every reward", lambda rewards, reward_max: rewards <= reward_max)],
)
def rejection_acceptance(rewards: Constant[N], beta: Positive, reward_max: Finite) -> Acceptance:
    """Probability with which each candidate is kept."""
    return Acceptance(exp((rewards - reward_max) / beta))


def rejection_sample(rewards: np.ndarray, beta: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Steps 1 to 4 of RSO's section 3.2: indices [samples] of candidates, in the order of their acceptance.

    rewards [M] belong to distinct candidates, M >= samples. Each round draws one of those left and measures it against the best
    of those left, so later draws depend on earlier ones. (The paper's algorithm 1 sweeps the candidates in order instead.)
    ValueError where there are fewer candidates than samples asked for.
    """
    if not 0 <= samples <= len(rewards):
        raise ValueError(f"rejection_sample: samples must lie in [0, {len(rewards)}], the number of candidates, got {samples}")
    left, accepted = np.arange(len(rewards)), list[int]()
    while len(accepted) < samples:
        drawn = rng.integers(len(left))
        keep = rejection_acceptance(rewards[left], beta, float(rewards[left].max())).acceptance_probabilities
        if rng.random() < keep[drawn]:
            accepted.append(left[drawn])
            left = np.delete(left, drawn)
    return np.array(accepted, dtype=np.int64)


def online_pairs(rewards: Array) -> OnlinePairs:
    """Pairs for online DPO, arXiv:2402.04792v2 section 3: of two responses sampled for each prompt, rewards [N, 2], which is
    chosen. Nothing is differentiated through sampling or labels. ValueError where rewards are not [N, 2] and finite."""
    host = to_numpy(rewards)
    if host.ndim != 2 or host.shape[1] != 2 or not np.all(np.isfinite(host)):
        raise ValueError(f"online_pairs: rewards must be finite and of shape [N, 2], got {host}")
    chosen = np.argmax(host, axis=1)
    return OnlinePairs(chosen, 1 - chosen, host[:, 0] == host[:, 1])
