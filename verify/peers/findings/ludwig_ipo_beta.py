"""ludwig==0.17.10: IPO multiplies the log-ratio gap by beta before it regresses it on 1/(2 beta): its target is 1/(2 beta²).

The loss of the paper (2310.12036, equation 17) is (h - 1/(2 beta))², h being the gap between the log-ratios of the chosen and
of the rejected response. Here h is beta * h, which is right for the sigmoid loss above it: at the default beta of 0.1 a pair is
driven to a gap of 50 where 5 is due. The two agree at a beta of 1 alone. (modules/dpo_loss.py, dpo_loss: logits_diff) It is
what the trainer of type dpo minimizes with dpo_loss_type ipo.

No report of it was found.
"""

import sys

import torch
from ludwig.modules.dpo_loss import compute_token_log_probs, dpo_loss

BETA = 0.1


def loss_and_slope(gap):
    """Of a pair of one token each, whose reference has it at this gap, and the slope in the gap."""
    logits, labels = torch.zeros(1, 2, 2), torch.tensor([[-100, 0]])
    policy = compute_token_log_probs(logits, labels)
    gap = torch.tensor(gap, requires_grad=True)
    loss = dpo_loss(logits, logits, labels, labels, policy - gap, policy, beta=BETA, loss_type="ipo")[0]
    loss.backward()
    return loss.item(), gap.grad.item()


wrong = False
for gap in (0.0, 5.0, 50.0):
    due = (gap - 1 / (2 * BETA)) ** 2, 2 * (gap - 1 / (2 * BETA))
    came = loss_and_slope(gap)
    wrong |= abs(came[0] - due[0]) > 1e-3
    print(f"gap {gap}: loss and slope expected {due[0]:.2f} and {due[1]:.2f}, got {came[0]:.2f} and {came[1]:.2f}")
sys.exit(wrong)
