"""The bridge: plays a hand-written gradient into PyTorch's tape. The only file that imports torch.

    losses = differentiable(dpo)(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1).losses
    losses.mean().backward()

Nothing is recorded while the operation runs. Backward multiplies each gradient that the operation returned by what arrives at
its loss, row by row. It works under autocast, where half precision is taken to float32 first, and under torch.compile with
fullgraph=True. The gradients are numbers, not expressions, so a second derivative is refused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .arrays import sum_over, where
from .contract import Operation
from .logprobs import CHUNK, linear_sequence_logps, linear_token_grads, linear_token_logps, predicting_positions

LOGITS = 2**23  # that `token_logps` holds at once: more gain nothing, and whole they would be most of the memory


class ResponseLogps(NamedTuple):
    logps: torch.Tensor  # [B], nats, in the tape
    lengths: torch.Tensor  # [B], tokens


def differentiable(operation: Operation[Any]) -> Callable[..., Any]:
    """The operation's formula on tensors, its losses carrying their hand-written gradients; other outputs are constants.

    `linear_sequence_logps` returns its logps and lengths alone: the gradient in its weight exists in backward only. Unchecked,
    as `.formula` is: call the operation itself where inputs are not yet trusted. ValueError for an operation without gradient;
    RuntimeError when a second derivative is asked for.
    """
    if not operation.gradients:
        raise ValueError(f"differentiable: operation must have a gradient, got {operation.name}")
    if operation is linear_sequence_logps:
        return _linear_sequence_logps

    def bridged(*args: Any, **kwargs: Any) -> Any:
        bound = operation.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = [_at_least_float32(x) for x in bound.arguments.values()]
        return operation.signature.return_annotation(*_Bridge.apply(operation, *arguments))

    return bridged


def _at_least_float32(x: Any) -> Any:
    is_half = isinstance(x, torch.Tensor) and x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if is_half else x


def _refuse_second_derivative() -> None:
    # Backward only runs with gradients enabled when somebody means to differentiate it again.
    if torch.is_grad_enabled():
        raise RuntimeError("minipref: hand-written gradients are numbers and have no second derivative; drop create_graph=True")


class _Bridge(torch.autograd.Function):
    """Forward computes loss and gradient at once; backward is a product."""

    @staticmethod
    def forward(ctx: Any, operation: Operation[Any], *arguments: Any) -> tuple[Any, ...]:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            result = operation.formula(*arguments)
        fields = dict(zip(operation.outputs, result, strict=True))
        ctx.operation = operation
        ctx.set_materialize_grads(False)  # of several losses some may be unused, and 0 times an infinite slope is NaN
        ctx.save_for_backward(*(fields[gradient.output] for gradient in operation.gradients))
        losses = {gradient.of for gradient in operation.gradients}
        ctx.mark_non_differentiable(*(value for name, value in fields.items() if name not in losses))
        return tuple(result)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        _refuse_second_derivative()
        arriving = dict(zip(ctx.operation.outputs, cotangents, strict=True))
        totals: dict[str, Any] = {}
        for gradient, slope in zip(ctx.operation.gradients, ctx.saved_tensors, strict=True):
            arrived = arriving[gradient.of]
            if arrived is None:
                continue
            arrived = arrived.reshape(arrived.shape + (1,) * (slope.ndim - arrived.ndim))
            totals[gradient.wrt] = totals.get(gradient.wrt, 0) + arrived * slope
        return None, *(totals.get(name) for name in ctx.operation.inputs)


class _TokenBridge(torch.autograd.Function):
    """The gradient in the head's weight sums over tokens, so it waits for what arrives; logits are computed again, not kept."""

    @staticmethod
    def forward(ctx: Any, states: Any, weight: Any, targets: Any, chunk: int) -> Any:
        ctx.save_for_backward(states, weight, targets)
        ctx.chunk = chunk
        return linear_token_logps(states, weight, targets, chunk)

    @staticmethod
    def backward(ctx: Any, cotangents: Any) -> tuple[Any, ...]:
        _refuse_second_derivative()
        states, weight, targets = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return *linear_token_grads(states, weight, targets, cotangents, ctx.chunk), None, None


def _linear_sequence_logps(hidden: Any, weight: Any, tokens: Any, response_mask: Any) -> ResponseLogps:
    hidden, weight = _at_least_float32(hidden), _at_least_float32(weight)
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        states, targets, counts = predicting_positions(hidden, tokens, response_mask)
        logps = where(counts, _TokenBridge.apply(states, weight, targets, CHUNK), 0.0).reshape(response_mask[:, 1:].shape)
        return ResponseLogps(sum_over(logps, axis=1), sum_over(response_mask, axis=1))


def token_logps(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability [M], in nats, of target tokens [M] under a linear head weight [V,D] on states [M,D], in the tape.

    At most LOGITS of the logits exist at once, forward or backward. Unchecked; half precision becomes float32.
    """
    states, weight = _at_least_float32(states), _at_least_float32(weight)
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        return _TokenBridge.apply(states, weight, targets, max(1, LOGITS // weight.shape[0]))
