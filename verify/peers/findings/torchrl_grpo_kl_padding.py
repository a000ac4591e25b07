"""torchrl==0.14.1: GRPOLoss averages its KL penalty over padding too, so that the penalty shrinks as a batch is padded.

With aggregation "token_mean" or "prompt_mean" the policy loss is a mean over the tokens that the mask leaves. `_kl_to_ref`
puts both log-probs to 0 where the mask is false and then takes `.mean()` over all positions: masked ones count in the
denominator. The same response beside one that is longer, or prompts counted among the positions, divide kl_to_ref_coeff by
any factor. A masked mean, as for the policy loss, is due; `loss_kl_to_inference` goes the same way.

No report of it was found.
"""

import math
import sys

import torch
from tensordict import TensorDict
from torchrl.objectives.llm import GRPOLoss


class Actor:
    """A policy of given log-probs."""

    in_keys = ()

    def __init__(self, log_probs, mask):
        self.log_probs, self.mask = log_probs, mask

    def get_dist(self, *args, **kwargs):
        return self

    def log_prob(self, tokens):
        return self.log_probs


def kl(padding):
    """The penalty of one response of two tokens, padded."""
    mask = torch.tensor([[True, True] + [False] * padding])
    loss = GRPOLoss(entropy_bonus=False, masking_strategy="generic", kl_to_ref_coeff=1.0)
    vars(loss)["actor_network"] = Actor(torch.where(mask, -1.0, 0.0), mask)
    log_probs = {
        "log_probs": {"full": torch.where(mask, -1.0, 0.0)},
        "next": {"ref_log_probs": {"full": torch.where(mask, -2.0, 0.0)}},
    }
    batch = log_probs | {"tokens": {"full": torch.zeros(mask.shape)}, "advantage": torch.zeros(*mask.shape, 1)}
    return loss(TensorDict(batch, batch_size=[1])).loss_kl_to_ref.item()


due = math.exp(-1)  # k3 of a log-ratio of -1
for padding in (0, 2, 6):
    print(f"{padding} positions of padding: expected {due:.4f}, got {kl(padding):.4f}")
sys.exit(abs(kl(6) - due) > 1e-4)
