"""ludwig==0.17.10: GRPO without old log-probs, the default, has no policy gradient: its ratio is a constant 1.

On policy the old log-probs are the policy's own, detached: the ratio is 1, its slope is the log-prob's, and that times the
advantage is the policy gradient. `torch.ones_like(policy_lp)` has the value and no slope, so that rewards change nothing;
without a reference either, there is nothing to differentiate at all. It should be `torch.exp(policy_lp - policy_lp.detach())`.
(modules/preference_losses.py, grpo_loss: ratio) The trainer of type grpo does not come to it: it gives loss_type "grpo" to
dpo_loss, which knows no such type.

No report of it was found.
"""

import sys

import torch
from ludwig.modules.dpo_loss import compute_token_log_probs
from ludwig.modules.preference_losses import grpo_loss


def slopes(**old):
    """In the logit of the one token that each of four responses consists of."""
    loss, _ = grpo_loss(logits, labels, torch.tensor([1.0, 0.0, 0.0, 1.0]), **old)
    return torch.autograd.grad(loss, logits)[0][:, 0, 0] if loss.requires_grad else torch.zeros(4)


logits, labels = torch.zeros(4, 2, 2, requires_grad=True), torch.tensor([[-100, 0]] * 4)
due, got = slopes(old_log_probs=compute_token_log_probs(logits, labels).detach()), slopes()
print("rewards 1, 0, 0, 1: slopes expected", [round(x, 4) for x in due.tolist()], "got", [round(x, 4) for x in got.tolist()])
sys.exit(not torch.allclose(due, got))
