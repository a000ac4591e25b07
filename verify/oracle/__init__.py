"""The oracle: 50-digit answers to every operation, written from the papers.

    >>> answer("dpo", {"policy_chosen_logps": np.array([-1.0]), ..., "beta": 0.1})["losses"].value

It shares no line with any implementation and computes in decimals. With each answer comes the scale on
which an honest implementation may err: the judge's bound is 64 u * terms * scale + the smallest normal
number.
"""

import functools
import inspect
from typing import Any

import numpy as np

from verify.oracle import network, offline, online, sequences, steps
from verify.oracle.machine import BATCH, EXAMPLES, SEQUENCES, TOKENS, VALUE_DIGITS, Exact, Inputs, Operation
from verify.oracle.numbers import NearTie, NoLimit, digits

__all__ = ["MODELS", "OPERATIONS", "Exact", "NearTie", "NoLimit", "answer", "derivation", "remembered"]

PAIR = (
    "losses", "grad_policy_chosen_logps", "grad_policy_rejected_logps", "chosen_rewards", "rejected_rewards",
)  # fmt: skip
REWARD_PAIR = ("losses", "grad_chosen_rewards", "grad_rejected_rewards")
ERROR_PAIR = ("losses", "grad_policy_chosen_errors", "grad_policy_rejected_errors")
KL = ("k1", "k2", "k3", "grad_k1", "grad_k2", "grad_k3")

OPERATIONS: dict[str, Any] = {
    "bradley_terry": Operation(offline.bradley_terry, EXAMPLES, REWARD_PAIR),
    "plackett_luce": Operation(offline.plackett_luce, EXAMPLES, ("losses",), ("grad_rewards",)),
    "optimal_policy": Operation(offline.optimal_policy, EXAMPLES, ("log_partition",), ("logps",)),
    "kl_regularized_objective": Operation(offline.kl_regularized_objective, EXAMPLES, ("objective",), ("grad_policy_logits",)),
    "dpo": Operation(offline.dpo, EXAMPLES, PAIR),
    "cdpo": Operation(offline.cdpo, EXAMPLES, PAIR),
    "robust_dpo": Operation(offline.robust_dpo, EXAMPLES, PAIR),
    "plackett_luce_dpo": Operation(offline.plackett_luce_dpo, EXAMPLES, ("losses",), ("grad_policy_logps",)),
    "ipo": Operation(offline.ipo, EXAMPLES, PAIR),
    "ipo_length_normalized": Operation(offline.ipo_length_normalized, EXAMPLES, PAIR),
    "rso_hinge": Operation(offline.rso_hinge, EXAMPLES, PAIR),
    "kto": Operation(offline.kto, EXAMPLES, ("losses", "grad_policy_logps", "rewards")),
    "kto_reference_point": Operation(offline.kto_reference_point, BATCH, ("reference_point",)),
    "orpo": Operation(offline.orpo, EXAMPLES, (*PAIR[:3], "log_odds_ratio")),
    "simpo": Operation(offline.simpo, EXAMPLES, PAIR[:3]),
    "sppo": Operation(offline.sppo, EXAMPLES, ("losses", "grad_policy_logps")),
    "diffusion_dpo": Operation(offline.diffusion_dpo, EXAMPLES, ERROR_PAIR),
    "sequence_logps": sequences.sequence_logps,
    "linear_sequence_logps": sequences.linear_sequence_logps,
    "kl_estimates": Operation(online.kl_estimates, EXAMPLES, KL),
    "gae": Operation(online.gae, SEQUENCES, (), ("advantages", "returns")),
    "ppo_policy": Operation(online.ppo_policy, TOKENS, ("token_losses", "grad_logps", "clipped")),
    "ppo_value": Operation(online.ppo_value, TOKENS, ("token_losses", "grad_values")),
    "advantages_grpo": Operation(online.advantages_grpo, EXAMPLES, (), ("advantages",)),
    "advantages_dr_grpo": Operation(online.advantages_dr_grpo, EXAMPLES, (), ("advantages",)),
    "advantages_rloo": Operation(online.advantages_rloo, EXAMPLES, (), ("advantages",)),
    "grpo": Operation(online.grpo, TOKENS, ("token_losses", "grad_logps")),
    "sequence_mean": Operation(online.sequence_mean, BATCH, ("loss",), ("weights",)),
    "token_mean": Operation(online.token_mean, BATCH, ("loss",), ("weights",)),
    "constant_mean": Operation(online.constant_mean, BATCH, ("loss",), ("weights",)),
    "overlong_penalty": Operation(online.overlong_penalty, EXAMPLES, ("penalties",)),
    "rejection_acceptance": Operation(online.rejection_acceptance, EXAMPLES, ("acceptance_probabilities",)),
}

MODELS: dict[str, Any] = {"gpt_logits": steps.gpt_logits, "preference_step": steps.preference_step, "train": steps.train}


def answer(operation: str, inputs: Inputs) -> dict[str, Exact]:
    """Exact outputs of an operation by name, for inputs as in the contract (arrays, numbers; every argument).

    Raises NearTie if a comparison in the definition is too close to call, NoLimit where infinities leave no
    single limit, ValueError for an unknown operation, NaN, or an infinity that the contract does not allow.
    """
    if operation in MODELS:
        return steps.answer(MODELS[operation], {name: getattr(x, "arrays", x) for name, x in inputs.items()})
    if operation not in OPERATIONS:
        raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
    with digits(VALUE_DIGITS):
        return OPERATIONS[operation](**inputs)


class _Question:
    """A request that equals another of the same content, whatever it is made of."""

    def __init__(self, operation: str, inputs: Inputs) -> None:
        self.operation, self.inputs = operation, inputs
        self.key = operation, *((name, _frozen(value)) for name, value in inputs.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Question) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _frozen(value: Any) -> Any:
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)


def remembered(operation: str, inputs: Inputs) -> dict[str, Exact]:
    """The answer, kept: another implementation is asked the same. Raises what `answer` does."""
    return _answered(_Question(operation, inputs))


@functools.lru_cache(maxsize=100_000)
def _answered(question: _Question) -> dict[str, Exact]:
    return answer(question.operation, question.inputs)


def derivation(operation: str) -> str:
    """How the oracle computes an operation: the function that does, equation and source first."""
    told: dict[str, Any] = OPERATIONS | MODELS | {"gpt_logits": network.logits, "preference_step": steps.step}
    return inspect.getsource(getattr(told[operation], "row", told[operation]))
