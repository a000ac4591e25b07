"""Autograd as referee of the gradients written by hand, and the bridge that plays them into PyTorch's tape."""

import shutil
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import minipref
from minipref import REGISTRY, linear_sequence_logps, sequence_logps
from minipref.autograd import differentiable
from minipref.contract import Constant, Floats, Operation
from minipref.logprobs import CHUNK, linear_token_grads, linear_token_logps

Inputs = Callable[..., dict[str, Any]]
WITH_GRADIENT = [op for op in REGISTRY.values() if op.gradients]
WITHOUT_GRADIENT = [op for op in REGISTRY.values() if not op.gradients]
COMPILED_BY_DEFAULT = ["dpo", "orpo", "kto", "grpo", "sequence_logps", "linear_sequence_logps"]


def by_name(op: Operation[Any]) -> str:
    return op.name


def tensors(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}


def in_the_tape(op: Operation[Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Tensors of the inputs; those with a gradient require it."""
    given = tensors(inputs)
    for gradient in op.gradients:
        given[gradient.wrt].requires_grad_()
    return given


def losses(op: Operation[Any], result: Any) -> list[Any]:
    """What the gradients of an operation are of, in the order of its outputs."""
    return [getattr(result, name) for name in op.outputs if name in {gradient.of for gradient in op.gradients}]


@pytest.mark.parametrize("op", WITH_GRADIENT, ids=by_name)
def test_gradients_by_hand_are_those_of_autograd(op: Operation[Any], ordinary: Inputs) -> None:
    inputs = ordinary(op)
    by_hand = op(**inputs)
    for gradient in op.gradients:
        given = in_the_tape(op, inputs)
        loss = getattr(op.formula(**given), gradient.of).sum()
        (right,) = torch.autograd.grad(loss, given[gradient.wrt])
        got = getattr(by_hand, gradient.output)
        assert got.shape == right.shape and np.any(got != 0)
        assert np.all(abs(got - right.numpy()) <= 1e-13 * (1 + abs(right.numpy()).max())), gradient


WITH_REFERENCE = [op for op in WITH_GRADIENT if {"policy_logps", "policy_chosen_logps"} & op.inputs.keys() and op.level == 1]
AT_STEP_0 = [op for op in WITH_REFERENCE if {"reference_logps", "reference_chosen_logps"} & op.inputs.keys()]


@pytest.mark.parametrize("op", AT_STEP_0, ids=by_name)
def test_a_formula_is_differentiated_rightly_at_step_0_too(op: Operation[Any], ordinary: Inputs) -> None:
    """Where the policy is its reference every margin is exactly 0, where a branch or a kink would have another slope."""
    inputs = {**ordinary(op), "reference_point": 0.0}
    inputs = {name: inputs[name] for name in op.inputs}
    inputs |= {name: inputs[name.replace("policy", "reference")] for name in inputs if name.startswith("policy_")}
    by_hand, given = op(**inputs), in_the_tape(op, inputs)
    for gradient in op.gradients:
        (right,) = torch.autograd.grad(op.formula(**given).losses.sum(), given[gradient.wrt], retain_graph=True)
        got = getattr(by_hand, gradient.output)
        assert np.any(got != 0) and np.all(abs(got - right.numpy()) <= 1e-13 * (1 + abs(right.numpy()).max())), gradient


@pytest.mark.parametrize("op", REGISTRY.values(), ids=by_name)
def test_inputs_have_a_gradient_unless_they_are_constants(op: Operation[Any]) -> None:
    differentiated = {gradient.wrt for gradient in op.gradients}
    for name, argument in op.inputs.items():
        assert (name in differentiated) == (argument.type is Floats)
        assert argument.kind != "float" or argument.type in (Floats, Constant)


@pytest.mark.parametrize("op", WITH_GRADIENT, ids=by_name)
def test_gradcheck_through_the_bridge(op: Operation[Any], ordinary: Inputs) -> None:
    given = in_the_tape(op, ordinary(op))
    names = [name for name in op.inputs if op.inputs[name].type is Floats]

    def forward(*floats: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(losses(op, differentiable(op)(**given | dict(zip(names, floats, strict=True)))))

    assert torch.autograd.gradcheck(forward, [given[name] for name in names])


@pytest.mark.parametrize("op", WITH_GRADIENT, ids=by_name)
def test_the_bridge_leaves_constants_and_other_outputs_out_of_the_tape(op: Operation[Any], ordinary: Inputs) -> None:
    given = in_the_tape(op, ordinary(op))
    constants = [given[name].requires_grad_() for name in op.inputs if op.inputs[name].type is Constant]
    result = differentiable(op)(**given)
    of = {gradient.of for gradient in op.gradients}
    assert all(value.requires_grad == (name in of) for name, value in result._asdict().items())
    sum(loss.sum() for loss in losses(op, result)).backward()
    assert all(constant.grad is None for constant in constants)


def test_cotangents_reach_the_gradients_row_by_row(ordinary: Inputs) -> None:
    inputs = ordinary(sequence_logps)
    given, cotangents = in_the_tape(sequence_logps, inputs), torch.tensor([2.0, 0.0, -3.0], dtype=torch.float64)
    (differentiable(sequence_logps)(**given).logps * cotangents).sum().backward()
    right = cotangents[:, None, None].numpy() * sequence_logps(**inputs).grad_logits
    np.testing.assert_allclose(given["logits"].grad, right, rtol=1e-13, atol=1e-15)


def test_an_unused_loss_does_not_spoil_the_gradient_of_another() -> None:
    policy, reference = torch.tensor([-200.0], requires_grad=True), torch.tensor([-1.0])
    differentiable(minipref.kl_estimates)(policy, reference).k2.sum().backward()
    assert policy.grad == -199  # that of k3 is beyond float32


@pytest.mark.parametrize("op", [minipref.dpo, linear_sequence_logps], ids=by_name)
def test_a_second_derivative_is_refused(op: Operation[Any], ordinary: Inputs) -> None:
    given = in_the_tape(op, ordinary(op))
    (loss,) = losses(op, differentiable(op)(**given))
    with pytest.raises(RuntimeError, match="no second derivative; drop create_graph=True"):
        torch.autograd.grad(loss.sum(), given[op.gradients[0].wrt], create_graph=True)


@pytest.mark.parametrize("op", WITHOUT_GRADIENT, ids=by_name)
def test_operations_without_gradient_are_refused(op: Operation[Any]) -> None:
    with pytest.raises(ValueError, match=f"operation must have a gradient, got {op.name}"):
        differentiable(op)


@pytest.mark.parametrize("backward_inside", [False, True])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("op", [sequence_logps, linear_sequence_logps], ids=by_name)
def test_under_autocast_half_precision_is_taken_to_float32(
    op: Operation[Any], half: torch.dtype, backward_inside: bool, ordinary: Inputs
) -> None:
    halves = {name: x.to(half) if name in ("logits", "hidden") else x for name, x in tensors(ordinary(op, np.float32)).items()}
    plain = in_the_tape(op, {name: x.float().numpy() if name in ("logits", "hidden") else x for name, x in halves.items()})
    given = {name: x.requires_grad_() if name in ("logits", "hidden", "weight") else x for name, x in halves.items()}
    right = differentiable(op)(**plain).logps
    right.sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps = differentiable(op)(**given).logps
        if backward_inside:
            logps.sum().backward()
    if not backward_inside:
        logps.sum().backward()
    assert logps.dtype == torch.float32 and torch.equal(logps, right)
    for name in [gradient.wrt for gradient in op.gradients]:
        assert torch.equal(given[name].grad, plain[name].grad.to(given[name].dtype))


def compiled_equals_eager(op: Operation[Any], inputs: dict[str, Any], backend: str) -> None:
    torch.compiler.reset()
    bridged, numbers = differentiable(op), {name: x for name, x in inputs.items() if not isinstance(x, np.ndarray)}

    def forward(arrays: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return losses(op, bridged(**arrays, **numbers))

    answers = []
    for run in (forward, torch.compile(forward, fullgraph=True, backend=backend)):
        given = in_the_tape(op, inputs)
        values = run({name: x for name, x in given.items() if isinstance(x, torch.Tensor)})
        sum(value.sum() for value in values).backward()
        answers.append([*values, *(given[gradient.wrt].grad for gradient in op.gradients)])
    for eager, compiled in zip(*answers, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)


EVERY = [pytest.param(op, marks=() if op.name in COMPILED_BY_DEFAULT else pytest.mark.sweep) for op in WITH_GRADIENT]


@pytest.mark.parametrize("op", EVERY, ids=by_name)
def test_compiled_whole_it_equals_eager(op: Operation[Any], ordinary: Inputs) -> None:
    compiled_equals_eager(op, ordinary(op), "aot_eager")


@pytest.mark.sweep
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("op", [REGISTRY[name] for name in COMPILED_BY_DEFAULT], ids=by_name)
def test_compiled_to_machine_code_it_equals_eager(op: Operation[Any], ordinary: Inputs) -> None:
    compiled_equals_eager(op, ordinary(op), "inductor")


def head(rows: int, positions: int, width: int, vocabulary: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    mask = rng.random((rows, positions)) < 0.7
    mask[:, 0], mask[:, 1] = False, True
    return {
        "hidden": rng.normal(size=(rows, positions, width)),
        "weight": rng.normal(size=(vocabulary, width)),
        "tokens": rng.integers(0, vocabulary, (rows, positions)),
        "response_mask": mask,
    }


@pytest.mark.parametrize("chunk", [1, 3, 10, 13])
def test_chunks_of_every_size_agree(chunk: int) -> None:
    rng = np.random.default_rng(8)
    states, weight, cotangents = (rng.normal(size=size) for size in ((10, 4), (6, 4), 10))
    given = states, weight, rng.integers(0, 6, 10)
    np.testing.assert_allclose(linear_token_logps(*given, chunk), linear_token_logps(*given), rtol=1e-13)
    for got, right in zip(linear_token_grads(*given, cotangents, chunk), linear_token_grads(*given, cotangents), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-12, atol=1e-14)


def test_the_bridge_takes_an_empty_batch() -> None:
    given = tensors({name: x[:0] if name != "weight" else x for name, x in head(2, 4, 3, 5).items()})
    assert differentiable(linear_sequence_logps)(**given).logps.shape == (0,)


def test_numpy_never_holds_tokens_by_vocabulary() -> None:
    chunks, vocabulary = 16, 500
    given = head(rows=4, positions=chunks * CHUNK // 4 + 1, width=2, vocabulary=vocabulary)
    tracemalloc.start()
    linear_sequence_logps.formula(**given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    small = 3 * sum(x.nbytes for x in given.values())  # copies that do not grow with the vocabulary, and the outputs
    assert peak <= 5 * 8 * CHUNK * vocabulary + small < 0.5 * 8 * chunks * CHUNK * vocabulary


class LargestTensor(TorchDispatchMode):
    """Counts the entries of the largest tensor that any operation of PyTorch returns, forward and backward."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return result


def test_torch_never_holds_tokens_by_vocabulary() -> None:
    vocabulary = 50
    given = in_the_tape(linear_sequence_logps, head(rows=4, positions=CHUNK + 1, width=2, vocabulary=vocabulary))
    with LargestTensor() as largest:
        differentiable(linear_sequence_logps)(**given).logps.sum().backward()
    assert largest.entries == CHUNK * vocabulary
    right = linear_sequence_logps(**{name: x.detach().numpy() for name, x in given.items()})
    for name in ("hidden", "weight"):
        np.testing.assert_allclose(given[name].grad, getattr(right, f"grad_{name}"), rtol=1e-10, atol=1e-12)
