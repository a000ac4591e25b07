"""ludwig==0.17.10: ORPO takes the odds of whole responses, of sums of log-probs, where the paper has the mean over tokens.

In the paper (2403.07691, equation 3) P(y|x) is the mean log-prob's exponential, and the odds are of that. A whole response of
ordinary length has a probability near 0: 1 - P is 1, the log-odds are its log-prob, and what is left is a sigmoid of a sum that
grows with the length. Of equally long responses that differ slightly a token, nothing is left to learn; of two lengths the
shorter one has the better odds, whatever its tokens are worth. The likelihood beside it is a mean over tokens, so that beta
weighs one against the other differently at each length. (modules/preference_losses.py, orpo_loss: chosen_lp, rejected_lp) The
trainer of type orpo does not come to it: it gives loss_type "orpo" to dpo_loss, which knows no such type.

No report of it was found.
"""

import math
import sys

import torch
from ludwig.modules.preference_losses import orpo_loss


def response(probability, length):
    """Logits and labels of tokens of this probability, after a prompt of one; the vocabulary is of two."""
    logits = torch.tensor([math.log(probability), math.log1p(-probability)]).repeat(1, length + 1, 1)
    return logits, torch.tensor([[-100] + [0] * length])


def odds_term(chosen, rejected):
    """The loss less the loss at a weight of 0, the likelihood: -log sigmoid of the log odds ratio."""
    (chosen, chosen_labels), (rejected, rejected_labels) = chosen, rejected
    batch = chosen, rejected, chosen_labels, rejected_labels
    return (orpo_loss(*batch, beta=1.0)[0] - orpo_loss(*batch, beta=0.0)[0]).item()


due = -math.log(0.6 / (0.6 + 0.4))  # the odds of 0.6 are 1.5 to 1, those of 0.5 are even
wrong = False
for lengths in ((1, 1), (50, 50), (100, 50)):
    got = odds_term(response(0.6, lengths[0]), response(0.5, lengths[1]))
    wrong |= abs(got - due) > 1e-3
    print(f"tokens of 0.6 chosen, of 0.5 rejected, lengths {lengths}: odds term expected {due:.4f}, got {got:.4f}")
sys.exit(wrong)
