"""trl==1.16.0: ORPO's gradient is NaN where a mean log-prob is above -3e-8, although the loss is finite.

`log1mexp` chooses by torch.where between log(-expm1(x)), right near 0, and log1p(-exp(x)), right elsewhere. Autograd goes
through both: the one not chosen is log1p(-1) where exp(x) rounds to 1, its slope is infinite, and 0 times infinity is NaN.
One confident answer, such as a single token of probability 1 - 1e-8, makes every weight NaN. The argument must be replaced
too where a branch is not taken: torch.log1p(-torch.where(near, -1.0, x).exp()). The forward pass was mended after
huggingface/trl#2564; this is what is left of it.
"""

import sys
from types import SimpleNamespace

import torch
from trl.experimental.orpo import ORPOTrainer

trainer = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))
chosen = torch.tensor([-1e-8], requires_grad=True)
losses, *_ = ORPOTrainer.odds_ratio_loss(trainer, chosen, torch.tensor([-0.7]))
losses.sum().backward()

# -beta * log sigmoid(log-odds): its slope in a is -beta * sigmoid(-log-odds) / (1 - exp(a)), of which the odds are 1e8.
print("loss expected about 1e-9, got", abs(losses.item()))
print("slope expected about -0.1, got", chosen.grad.item())
sys.exit(not torch.isfinite(chosen.grad).all())
