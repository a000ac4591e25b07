"""From token losses to one number: three weights that papers give a token.

    sequence_mean  1 / (B · tokens of the row)      GRPO, arXiv:2402.03300v3 equation 3: long rows weigh less a token
    token_mean     1 / tokens of the batch          DAPO, arXiv:2503.14476v2 equation 8; PPO, SFT
    constant_mean  1 / (B · max_length)             Dr. GRPO, arXiv:2503.20783v2 section 3.2

    loss = Σ weights · token_losses, and ∂loss/∂token_losses = weights

These are the only operations that average losses.
"""

from typing import NamedTuple

from ..arrays import Array, floats_like, sum_over, where
from ..contract import AtLeastOne, B, Floats, Gradient, Mask, Rule, T, operation


class Aggregate(NamedTuple):
    loss: Floats
    weights: Floats[B, T]


GRADIENTS = [Gradient("weights", "loss", "token_losses")]
HAS_ROWS = Rule("mask", "must have at least one row", lambda mask: len(mask) > 0)


def _weighted(token_losses: Array, mask: Array, normalizers: Array | float) -> Aggregate:
    weights = where(mask, floats_like(mask, token_losses) / normalizers, 0.0)
    return Aggregate(sum_over(where(mask, token_losses, 0.0) * weights), weights)


@operation(
    level=2,
    source="arXiv:2402.03300v3 eq. 3",
    gradients=GRADIENTS,
    rules=[HAS_ROWS, Rule("mask", "must be true somewhere in every row", lambda mask: mask.any(axis=1))],
)
def sequence_mean(token_losses: Floats[B, T], mask: Mask[B, T]) -> Aggregate:
    """Mean over rows of the mean over a row's tokens."""
    row_tokens = sum_over(floats_like(mask, token_losses), axis=1, keepdims=True)
    return _weighted(token_losses, mask, mask.shape[0] * row_tokens)


@operation(
    level=2,
    source="arXiv:2503.14476v2 eq. 8",
    gradients=GRADIENTS,
    rules=[Rule("mask", "must be true somewhere", lambda mask: mask.any())],
)
def token_mean(token_losses: Floats[B, T], mask: Mask[B, T]) -> Aggregate:
    """Mean over all tokens of the batch."""
    return _weighted(token_losses, mask, sum_over(floats_like(mask, token_losses)))


@operation(level=2, source="arXiv:2503.20783v2 section 3.2", gradients=GRADIENTS, rules=[HAS_ROWS])
def constant_mean(token_losses: Floats[B, T], mask: Mask[B, T], max_length: AtLeastOne) -> Aggregate:
    """Sum over tokens by a length that no response changes, mean over rows; max_length is in tokens."""
    return _weighted(token_losses, mask, mask.shape[0] * max_length)
