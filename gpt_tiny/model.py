"""GPT-2 in PyTorch: the model of `model_by_hand`, with gradients by autograd and attention by PyTorch's fused kernels.

The parameters have the names and the orientation of GPT2LMHeadModel's (`transformer.` left out, x W + b), so that its files
load without a transpose. Two ways lead through it, which agree to rounding:

    logits = model(tokens, attention_mask)          [B, T, V], of rows padded on either side: plain
    logps, lengths = model.response_logps(packed)   [N], of responses only: what `packed` leaves out is not computed
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipref.arrays import to_numpy
from minipref.autograd import ResponseLogps, token_logps

from .model_by_hand import Config, initial_weights
from .packed import Packed, mix

Head = Callable[[Tensor, Tensor, Tensor], Tensor]
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries [.., Q, D], keys and values [.., K, D] -> [.., Q, D]


class Linear(nn.Module):
    """x W + b with W [in, out]: the other way round than nn.Linear, as GPT-2's files have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)

    def columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Some of the outputs: x W[:, start:stop] + b[start:stop]."""
        return F.linear(x, self.weight[:, start:stop].T, self.bias[start:stop])


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_attn = Linear(config.width, 3 * config.width)
        self.c_proj = Linear(config.width, config.width)

    def forward(self, x: Tensor, mix: Mix) -> Tensor:
        return self.c_proj(mix(*self.c_attn(x).chunk(3, dim=-1)))

    def of_some(self, x: Tensor, kept: Tensor, mix: Mix) -> Tensor:
        """The same where only the rows [A] of x [M,D] that are kept ask: keys and values are everybody's."""
        width = x.shape[-1]
        keys_and_values = self.c_attn.columns(x, width, 3 * width).chunk(2, dim=-1)
        return self.c_proj(mix(self.c_attn.columns(x[kept], 0, width), *keys_and_values))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.width, 4 * config.width)
        self.c_proj = Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """The epsilon of nn.LayerNorm is GPT-2's, 1e-5."""

    def __init__(self, config: Config, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mix: Mix, kept: Tensor | None = None) -> Tensor:
        """x [..., D] plus its two residual branches. With `kept` [A] only those rows of x [M,D] are returned, while every row
        still gives keys and values."""
        if kept is None:
            x = x + self.drop(self.attn(self.ln_1(x), mix))
        else:
            x = x[kept] + self.drop(self.attn.of_some(self.ln_1(x), kept, mix))
        return x + self.drop(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    """A GPT-2 of any size, started at initial_weights(config, seed) in PyTorch's default dtype.

    Dropout, where asked for and in training mode, is GPT-2's: on the embeddings, the attention weights and each residual
    branch. ValueError for a dropout outside [0, 1).
    """

    def __init__(self, config: Config, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"GPT: dropout must lie in [0, 1), got {dropout!r}")
        self.config, self.dropout = config, dropout
        # Weights that are given leave PyTorch's random state alone: they come from the seed.
        self.wte, self.wpe = (
            nn.Embedding(size, config.width, _weight=torch.empty(size, config.width))
            for size in (config.vocab_size, config.context)
        )
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(config, dropout) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        self.load_weights(initial_weights(config, seed))

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B,T,V]: `hidden`, then `logits`."""
        return self.logits(self.hidden(tokens, attention_mask))

    def hidden(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B,T,D] of tokens [B,T], padded on either side; 0 where the boolean attention_mask [B,T] is false.

        ValueError as Config.check_inputs raises it.
        """
        self.config.check_inputs(tokens, attention_mask)
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        allowed = attends(attention_mask)
        x = self.embed(tokens.masked_fill(~attention_mask, 0).long(), positions)
        for block in self.h:
            x = block(x, lambda q, k, v: self.attend(q, k, v, allowed))
        return self.ln_f(x).masked_fill(~attention_mask[..., None], 0.0)

    def response_logps(self, packed: Packed, head: Head = token_logps) -> ResponseLogps:
        """Log-probability of each response [N], in nats, summed over its tokens, and its length in tokens.

        The last block needs queries and an MLP only where a token is predicted, and so does the head, which takes states [R,D],
        weight [V,D] and targets [R] to the log-probability of each token.
        """
        x = self.embed(packed.tokens, packed.positions)
        *blocks, last = self.h
        for block in blocks:
            x = block(x, lambda q, k, v: mix(self.attend, q, k, v, packed.calls))
        x = last(x, lambda q, k, v: mix(self.attend, q, k, v, packed.asking_calls), packed.asking)
        states = self.ln_f(x)[packed.predicting]
        return ResponseLogps(packed.by_response(head(states, self.wte.weight, packed.targets)), packed.lengths)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.drop(self.wte(tokens) + self.wpe(positions))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √(D/H)) v in each head, [..., Q, D] and [..., K, D] -> [..., Q, D].

        allowed [..., Q, K] is true where a query may look; None is for Q = K, each at itself and what is before.
        """
        q, k, v = (part.unflatten(-1, (self.config.heads, -1)).transpose(-3, -2) for part in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, allowed, dropout, is_causal=allowed is None)
        return mixed.transpose(-3, -2).flatten(-2)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V], by the embedding of the tokens: the head is tied."""
        return F.linear(hidden, self.wte.weight)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take copies of the arrays, in the model's dtype and on its device. ValueError as Config.check_weights raises it."""
        self.config.check_weights(weights)
        self.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the parameters as NumPy arrays by name."""
        return {name: to_numpy(parameter).copy() for name, parameter in self.state_dict().items()}


def attends(attention_mask: Tensor) -> Tensor:
    """[B,1,T,T]: a position looks at the tokens of its row up to itself; padding at itself, so that no softmax is empty."""
    size = attention_mask.shape[1]
    own = torch.eye(size, dtype=torch.bool, device=attention_mask.device)
    return attention_mask[:, None, None, :].expand(-1, 1, size, -1).tril() | own
