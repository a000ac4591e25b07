"""trl==1.16.0: ORPO's gradient is NaN where a mean log-prob is above -3e-8, although the loss is finite.

`log1mexp` chooses by torch.where between log(-expm1(x)), right near 0, and log1p(-exp(x)), right elsewhere. Autograd goes
through both: the one not chosen is log1p(-1) where exp(x) rounds to 1, its slope is infinite, and 0 times infinity is NaN.
One confident answer makes every weight NaN: sixteen tokens of which fifteen are certain in float32 and one has probability
1 - 1.2e-7 are enough. The argument must be replaced too where a branch is not taken. The forward pass was mended after
huggingface/trl#2564; this is what was left of it.

Mended on the main branch since 1.16.0, where the argument of that branch is clamped.
"""

import sys
from types import SimpleNamespace

import torch
from trl.experimental.orpo import ORPOTrainer

trainer = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))
tokens = torch.zeros(1, 16)
tokens[0, 3] = -1.2e-7
chosen = tokens.mean(dim=1).requires_grad_()
losses, *_ = ORPOTrainer.odds_ratio_loss(trainer, chosen, torch.tensor([-0.7]))
losses.sum().backward()

# -beta * log sigmoid(log-odds): its slope in a is -beta * sigmoid(-log-odds) / (1 - exp(a)), of which the odds are 1.3e8.
print("mean log-prob", chosen.item())
print("loss expected about 1e-9, got", abs(losses.item()))
print("slope expected about -0.1, got", chosen.grad.item())
sys.exit(not torch.isfinite(chosen.grad).all())
