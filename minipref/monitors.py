"""What people watch while they train on pairs, under their usual names.

    rewards/chosen, rewards/rejected    mean implicit rewards, in nats times β
    rewards/margins                     their mean difference
    rewards/accuracies                  share of pairs whose chosen reward is strictly higher
    rewards/ties                        share of pairs with equal rewards
    logps/chosen, logps/rejected        mean log-probabilities of the policy, in nats, summed over each response's tokens

At step 0 every pair is a tie, and accuracy says 0.
"""

from .arrays import Array, to_numpy


def pair_monitors(
    chosen_rewards: Array, rejected_rewards: Array, policy_chosen_logps: Array, policy_rejected_logps: Array
) -> dict[str, float]:
    """Means over the N pairs of a batch, as plain numbers. No gradient flows. ValueError for an empty batch."""
    chosen, rejected = to_numpy(chosen_rewards), to_numpy(rejected_rewards)
    if chosen.size == 0:
        raise ValueError("pair_monitors: chosen_rewards must hold at least one pair, got an empty batch")
    return {
        "rewards/chosen": float(chosen.mean()),
        "rewards/rejected": float(rejected.mean()),
        "rewards/margins": float((chosen - rejected).mean()),
        "rewards/accuracies": float((chosen > rejected).mean()),
        "rewards/ties": float((chosen == rejected).mean()),
        "logps/chosen": float(to_numpy(policy_chosen_logps).mean()),
        "logps/rejected": float(to_numpy(policy_rejected_logps).mean()),
    }
