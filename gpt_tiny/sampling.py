"""Responses drawn from a model, token by token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .model import GPT
from .packed import Ids


def sample(
    model: GPT, prompts: Sequence[Ids], eos: int, max_tokens: int, temperature: float = 1.0, top_k: int = 0, seed: int = 0
) -> list[Ids]:
    """A response to each prompt, which ends with EOS unless it was cut at max_tokens or at the end of the context.

    From softmax(logits / temperature), of the top_k likeliest tokens where top_k > 0; temperature 0 takes the likeliest. The
    generator is of this call alone. ValueError for a prompt that leaves no room, max_tokens < 1, others < 0.
    """
    given = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
    for name, value in given.items():
        low = int(name == "max_tokens")
        if not low <= value < 2**63:
            raise ValueError(f"{name} must be in [{low}, 2**63), got {value!r}")
    longest = max(map(len, prompts), default=0)
    if not prompts or not all(prompts) or longest >= model.config.context:
        raise ValueError(f"prompts: must hold 1 to {model.config.context - 1} tokens each, got {[*map(len, prompts)][:8]}")
    device = model.wte.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    width = min(max_tokens, model.config.context - longest)
    tokens = torch.tensor([[eos] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts], device=device)
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)
    training = model.training
    model.eval()
    with torch.no_grad():
        for _ in range(width):
            drawn = _drawn(model.logits(model.hidden(tokens, mask)[:, -1]), temperature, top_k, generator)
            tokens, mask = torch.cat([tokens, drawn[:, None]], 1), torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            going &= drawn != eos
            if not going.any():
                break
    model.train(training)
    return [_until(row, eos) for row in tokens[:, longest:].tolist()]


def _drawn(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k:
        lowest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    below = logits.double() - logits.amax(dim=-1, keepdim=True)  # however low the temperature, the likeliest stays finite
    return torch.multinomial(torch.softmax(below / temperature, dim=-1), 1, generator=generator)[:, 0]


def _until(ids: Ids, eos: int) -> Ids:
    return ids[: ids.index(eos) + 1] if eos in ids else ids
