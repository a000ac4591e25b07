"""liger-kernel==0.8.5: ORPO's log-odds lose digits where a response is likely; above -3e-8 they are infinite, slopes NaN.

The loss takes log(1 - p) of the mean log-prob a as `torch.log1p(-torch.exp(a))`. exp rounds first, so that near a = 0 few
digits or none are left of 1 - exp(a): the log-odds are off by 3e-4 at a = -7e-5 and by 0.01 at -1e-6, and where a is above
-3e-8 exp(a) is 1, log1p(-1) is -inf with an infinite slope, and the gradient of every weight is NaN. A response of five
tokens of which four are certain in float32 and the fifth has probability 1 - 1e-7 is enough. `torch.log(-torch.expm1(a))`
is accurate there. TRL, from which this came, has changed it for that: huggingface/trl#2564 and #1473.

For Liger no report was found.
"""

import math
import sys

import torch
from liger_kernel.chunked_loss import LigerFusedLinearORPOLoss


def odds(logits):
    """Chosen: tokens at these logits above the only other one. Rejected: tokens of probability 1/2, of which the odds are 1."""
    states = torch.tensor([logits, [0.0] * len(logits)])[..., None].requires_grad_()
    weight = torch.tensor([[1.0], [0.0]], requires_grad=True)
    loss, logged = LigerFusedLinearORPOLoss(compiled=False)(weight, states, torch.zeros(2, len(logits), dtype=torch.long))
    loss.backward()
    return logged[0].item(), logged[-1].item(), weight.grad.flatten().tolist()


wrong = False
for logits in ([5.0] * 5, [20.0, 20.0, 20.0, 20.0, 8.0], [20.0, 20.0, 20.0, 20.0, 12.0], [20.0, 20.0, 20.0, 20.0, 16.0]):
    mean, log_odds, slope = odds(logits)
    due = mean - math.log(-math.expm1(mean))
    wrong |= not math.isfinite(sum(slope)) or abs(log_odds - due) > 1e-2
    print(f"mean log-prob {mean:.3g}: log-odds expected {due:.5f}, got {log_odds:.5f}; slope in the head's weights got {slope}")
sys.exit(wrong)
