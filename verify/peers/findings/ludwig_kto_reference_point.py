"""ludwig==0.17.10: KTO's reference point is the mean absolute log-ratio, which is no KL divergence, and is differentiated.

The paper's (2402.01306) is an estimate of KL(policy || reference), max(0, mean log-ratio), and no gradient goes through it: it
is there to say where the loss saturates. The mean of absolute values is large wherever the policy differs at all, however
little the divergence; where the policy has lost likelihood, the estimate is 0, and here it is what was lost. And as it is not
detached, it is trained: of a pair that is well told apart the gradient raises the rejected response, since that lowers the
point that the chosen one is measured from. (modules/preference_losses.py, kto_loss: kl) The trainer of type kto does not come
to it: it gives loss_type "kto" to dpo_loss, which knows no such type.

No report of it was found.
"""

import sys

import torch
from ludwig.modules.dpo_loss import compute_token_log_probs
from ludwig.modules.preference_losses import kto_loss

BETA = 0.1


def loss_and_slope(chosen, rejected):
    """Of one pair with these log-ratios, and the slope in the logit of the rejected response's only token, one of two."""
    labels = torch.tensor([[-100, 0]])
    logits = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, requires_grad=True)
    policy = compute_token_log_probs(logits[0], labels)
    loss = kto_loss(*logits, labels, labels, policy - chosen, policy - rejected, beta=BETA)[0]
    loss.backward()
    return loss.item(), logits[1].grad[0, 0, 0].item()


def due(chosen, rejected):
    """What is due: the point is the mean log-ratio, or 0, and fixed. A logit's slope is half of the log-prob's."""
    ratio = torch.tensor([chosen, rejected], requires_grad=True)
    point = ratio.detach().mean().clamp(min=0)
    loss = (1 - torch.sigmoid(BETA * torch.stack([ratio[0] - point, point - ratio[1]]))).mean()
    loss.backward()
    return loss.item(), ratio.grad[1].item() / 2


wrong = False
for pair in ((-10.0, -20.0), (30.0, -30.0)):
    expected, got = due(*pair), loss_and_slope(*pair)
    wrong |= abs(got[0] - expected[0]) > 1e-3 or got[1] < 0
    print(f"log-ratios {pair}: loss expected {expected[0]:.4f}, got {got[0]:.4f}; slope in the rejected", end=" ")
    print(f"expected {expected[1]:.5f}, got {got[1]:.5f}", "(it is made likelier)" if got[1] < 0 else "")
sys.exit(wrong)
