"""minipref: the executable specification of preference optimization.

Every method is a pure function from arrays to per-example losses and their gradients, written by hand:

    >>> import numpy as np
    >>> from minipref import dpo
    >>> x = np.array([-1.0])
    >>> dpo(x, x - 2, x, x).losses.round(6)
    array([0.598139])
"""

from .bradley_terry import bradley_terry, plackett_luce
from .contract import REGISTRY
from .logprobs import linear_sequence_logps, sequence_logps
from .monitors import pair_monitors
from .offline.cdpo import cdpo
from .offline.diffusion_dpo import diffusion_dpo
from .offline.dpo import dpo
from .offline.ipo import ipo, ipo_length_normalized
from .offline.kto import kto, kto_reference_point
from .offline.orpo import orpo
from .offline.plackett_luce_dpo import plackett_luce_dpo
from .offline.robust_dpo import robust_dpo
from .offline.rso import rso_hinge
from .offline.simpo import simpo
from .offline.sppo import sppo
from .online.advantages import advantages_dr_grpo, advantages_grpo, advantages_rloo
from .online.aggregation import constant_mean, sequence_mean, token_mean
from .online.dapo import overlong_penalty
from .online.gae import gae
from .online.grpo import grpo
from .online.kl import kl_estimates, kl_shaped_rewards
from .online.ppo import ppo_policy, ppo_value
from .online.sampling import online_pairs, rejection_acceptance, rejection_sample
from .optimum import implicit_rewards, kl_regularized_objective, optimal_policy, rewards_of_optimum

__version__ = "1.0.0"
__all__ = [
    *REGISTRY,
    "implicit_rewards",
    "kl_shaped_rewards",
    "online_pairs",
    "pair_monitors",
    "rejection_sample",
    "rewards_of_optimum",
]
