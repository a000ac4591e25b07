"""llamafactory==0.9.5: ORPO's gradient is NaN where a mean log-prob is above -3e-8; below that its log-odds lose digits.

`odds_ratio_loss` (train/dpo/trainer.py) takes log(1 - p) of a mean log-prob a as `torch.log1p(-torch.exp(a))`. exp rounds
first: near a = 0 few digits of 1 - exp(a) are left in float32, which the logits are cast to, and the loss is off by 1% and
more; where a is above -3e-8 exp(a) is 1 and log1p(-1) is -inf with an infinite slope. If that response is the chosen one, its
gradient is infinity times 0, NaN, and with it that of every weight; if it is the rejected one, the loss is infinite. Sixteen
tokens of which fifteen are certain in float32 and one has probability 1 - 1.2e-7 are enough. `torch.log(-torch.expm1(a))`
is accurate there.

No report of it was found. TRL, from which this came, has changed it for that: huggingface/trl#2564, #1473 and #4763.
"""

import math
import sys
from types import SimpleNamespace

import torch
from llamafactory.train.dpo.trainer import CustomDPOTrainer

BETA, OTHER = 0.1, -0.7


def loss_and_slope(chosen, rejected):
    """The loss of a pair of mean log-probs in float32, and its slope in the chosen one."""
    leaf = torch.tensor([chosen], requires_grad=True)
    loss = CustomDPOTrainer.odds_ratio_loss(SimpleNamespace(beta=BETA), leaf, torch.tensor([rejected]))
    loss.sum().backward()
    return loss.item(), leaf.grad.item()


def due(chosen, rejected):
    """-a + beta * -log sigmoid(log-odds ratio), and its slope, in doubles."""
    log_odds = chosen - rejected - math.log(-math.expm1(chosen)) + math.log(-math.expm1(rejected))
    loss = math.log1p(math.exp(-abs(log_odds))) + max(-log_odds, 0.0)
    return -chosen + BETA * loss, -1 - BETA / (1 + math.exp(log_odds)) / -math.expm1(chosen)


wrong = False
for chosen, rejected in ((OTHER, -1.0), (-1e-6, OTHER), (-1e-7, OTHER), (-1.2e-7 / 16, OTHER), (OTHER, -1.2e-7 / 16)):
    expected, got = due(chosen, rejected), loss_and_slope(chosen, rejected)
    wrong |= any(not abs(a - b) <= 1e-3 * abs(b) for a, b in zip(got, expected, strict=True))
    print(f"mean log-probs {chosen:.3g} and {rejected:.3g}:", end=" ")
    print("loss expected {:.5g}, slope expected {:.5g};".format(*expected), "got {:.5g} and {:.5g}".format(*got))
sys.exit(wrong)
