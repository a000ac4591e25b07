"""ludwig==0.17.10: GRPO's KL penalty is the mean log-ratio, whose gradient is 0 on average: it holds the policy to nothing.

The log-ratio estimates KL(policy || reference), but as a loss its slope in a log-prob is 1 wherever the reference is: of
responses sampled from the policy that averages to the gradient of the sum of all probabilities, 0. The paper (2402.03300,
equation 4) has exp(d) - d - 1, d being reference minus policy, whose slope draws to the reference. With the log-ratio every
response that was sampled becomes less likely, and the noise of that is all that beta scales.
(modules/preference_losses.py, grpo_loss: kl_penalty) Here the policy has 3/4 and 1/4 for two tokens, the group has them in
just these shares and is rewarded alike, and the reference has 1/2.

No report of it was found.
"""

import math
import sys

import torch
from ludwig.modules.dpo_loss import compute_token_log_probs
from ludwig.modules.preference_losses import grpo_loss

BETA = 0.04

parameters = torch.tensor([math.log(3), 0.0], requires_grad=True)
logits, labels = parameters.expand(4, 2, 2), torch.tensor([[-100, token] for token in (0, 0, 0, 1)])
reference = compute_token_log_probs(torch.zeros(4, 2, 2), labels)
policy = compute_token_log_probs(logits, labels)
loss, _ = grpo_loss(logits, labels, torch.zeros(4), policy.detach(), reference, beta=BETA)
(got,) = torch.autograd.grad(loss, parameters, retain_graph=True)

away = reference - policy
(due,) = torch.autograd.grad(BETA * (away.exp() - away - 1).mean(), parameters)
print("slope in the policy's logits expected", [round(x, 5) for x in due.tolist()], "got", [round(x, 5) for x in got.tolist()])
sys.exit(not torch.allclose(got, due, atol=1e-4))
