"""The JAX port as a module that can be judged: python -m verify --impl jax"""

import os
from typing import Any

from . import losses, models, sequences
from .checks import NOT_NEGATIVE, SCALARS, operation

NAME, VERSION = "minipref-jax", "1.0"

# Requests are small and of many shapes: what they cost is compiling, and a program that is not optimized compiles ten times as
# fast. Read when JAX compiles for the first time; what stands there already stays, so that XLA_FLAGS= judges XLA as it comes.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

PAIR = "policy_chosen_logps policy_rejected_logps"
FOUR = f"{PAIR} reference_chosen_logps reference_rejected_logps"
LENGTHS = "chosen_lengths rejected_lengths"
SAMPLED = "logps old_logps mask"


def below_0(name: str) -> tuple[str, str, Any]:
    return name, "must lie below 0: a probability of 1 has no odds", lambda x: x[name] < 0


A_ROW = "mask", "must have at least one row", lambda x: len(x["mask"]) > 0
A_TOKEN_A_ROW = "mask", "must be true somewhere in every row", lambda x: x["mask"].any(axis=1)
RESPONSE = (
    ("response_mask", "must be false at position 0, which nothing predicts", lambda x: ~x["response_mask"][:, :1]),
    ("response_mask", "must be true somewhere in every row", lambda x: x["response_mask"].any(axis=1)),
)

bradley_terry = operation(losses.bradley_terry, N="chosen_rewards rejected_rewards", grads="chosen_rewards rejected_rewards")
plackett_luce = operation(losses.plackett_luce, NR="rewards", grads="rewards")
optimal_policy = operation(losses.optimal_policy, NK="rewards reference_logps")
kl_regularized_objective = operation(
    losses.kl_regularized_objective, NK="policy_logits rewards reference_logps", grads="policy_logits"
)
dpo = operation(losses.dpo, N=FOUR, grads=PAIR)
cdpo = operation(losses.cdpo, N=FOUR, grads=PAIR)
robust_dpo = operation(losses.robust_dpo, N=FOUR, grads=PAIR)
plackett_luce_dpo = operation(losses.plackett_luce_dpo, NR="policy_logps reference_logps", grads="policy_logps")
ipo = operation(losses.ipo, N=FOUR, grads=PAIR)
ipo_length_normalized = operation(losses.ipo_length_normalized, N=f"{FOUR} {LENGTHS}", grads=PAIR)
rso_hinge = operation(losses.rso_hinge, N=FOUR, grads=PAIR)
kto = operation(losses.kto, N="policy_logps reference_logps desirable", grads="policy_logps")
kto_reference_point = operation(
    losses.kto_reference_point,
    N="policy_mismatched_logps reference_mismatched_logps",
    counted_over="N",
    rules=(("policy_mismatched_logps", "must not be empty", lambda x: len(x["policy_mismatched_logps"]) > 0),),
)
orpo = operation(losses.orpo, N=f"{PAIR} {LENGTHS}", grads=PAIR, rules=tuple(map(below_0, PAIR.split())))
simpo = operation(losses.simpo, N=f"{PAIR} {LENGTHS}", grads=PAIR)
sppo = operation(losses.sppo, N="policy_logps reference_logps win_rates", grads="policy_logps")
diffusion_dpo = operation(
    losses.diffusion_dpo, N=FOUR.replace("logps", "errors"), grads="policy_chosen_errors policy_rejected_errors"
)

sequence_logps = operation(sequences.sequence_logps, BTV="logits", BT="tokens response_mask", grads="logits", rules=RESPONSE)
linear_sequence_logps = operation(
    sequences.linear_sequence_logps, BTD="hidden", VD="weight", BT="tokens response_mask", grads="hidden weight", rules=RESPONSE
)
kl_estimates = operation(sequences.kl_estimates, N="policy_logps reference_logps")
gae = operation(sequences.gae, BT="rewards values mask")
ppo_policy = operation(sequences.ppo_policy, BT=f"{SAMPLED} advantages", grads="logps")
ppo_value = operation(sequences.ppo_value, BT="values old_values returns mask", grads="values")
grpo = operation(
    sequences.grpo,
    BT=f"{SAMPLED} reference_logps",
    B="advantages",
    grads="logps",
    scalars=SCALARS | {"beta": NOT_NEGATIVE},
)
advantages_grpo = operation(sequences.advantages_grpo, NG="rewards")
advantages_dr_grpo = operation(sequences.advantages_dr_grpo, NG="rewards")
advantages_rloo = operation(sequences.advantages_rloo, NG="rewards")
sequence_mean = operation(sequences.sequence_mean, BT="token_losses mask", counted_over="B", rules=(A_ROW, A_TOKEN_A_ROW))
token_mean = operation(
    sequences.token_mean, BT="token_losses mask", rules=(("mask", "must be true somewhere", lambda x: x["mask"].any()),)
)
constant_mean = operation(sequences.constant_mean, BT="token_losses mask", counted_over="B", rules=(A_ROW,))
overlong_penalty = operation(
    sequences.overlong_penalty,
    N="lengths",
    rules=(("cache_length", "must not exceed max_length", lambda x: x["cache_length"] <= x["max_length"]),),
)
rejection_acceptance = operation(
    sequences.rejection_acceptance,
    N="rewards",
    rules=(("reward_max", "must be at least every reward", lambda x: x["rewards"] <= x["reward_max"]),),
)

gpt_logits, preference_step, train = models.gpt_logits, models.preference_step, models.train
