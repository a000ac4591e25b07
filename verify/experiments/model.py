"""The two GPT-2s are one model, and what makes training fast or small changes nothing that is computed.

Unless a claim says otherwise in float64, on a model of two layers away from every special value, so that only rounding may part
what should be equal.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_tiny import lora, packed
from gpt_tiny.data import Place, TokenizedCompletion, TokenizedPair, TokenizedRow
from gpt_tiny.methods import METHODS, Objective, hyperparameters_of
from gpt_tiny.model import GPT
from gpt_tiny.model_by_hand import AdamW, Config, Grads, backward, forward, initial_weights
from gpt_tiny.packed import Group, pack
from gpt_tiny.reference import cached, computed, copied, scored
from gpt_tiny.trainer import Optimization, Step, Trainer, World, asked
from minipref import constant_mean, dpo, kto_reference_point, sequence_logps, sequence_mean, token_mean
from minipref.autograd import differentiable
from minipref.defaults import DEFAULTS
from minipref.logprobs import linear_token_grads
from toy.experiment import Measured, Reading
from verify.theory.claim import exact

CONFIG = Config(vocab_size=23, context=24, width=16, layers=2, heads=4)
claim = partial(exact, kind="model")
Rng = np.random.Generator


def weights(rng: Rng, dtype: type = np.float64) -> Grads:
    """No gain is 1, no bias 0, attention is far from uniform."""
    start = initial_weights(CONFIG, int(rng.integers(1000)), np.float64)
    return {name: (5 * w + 0.2 * rng.standard_normal(w.shape)).astype(dtype) for name, w in start.items()}


def model(start: Grads) -> GPT:
    made = GPT(CONFIG).double()
    made.load_weights(start)
    return made


def ids(rng: Rng, low: int, high: int) -> list[int]:
    return [int(token) for token in rng.integers(0, CONFIG.vocab_size, rng.integers(low, high))]


def pairs(rng: Rng, count: int = 6) -> list[TokenizedRow]:
    """Ragged pairs; the last has the prompt of the first, and one response is a single token."""
    rows = [TokenizedPair(Place("drawn", n), ids(rng, 1, 7), ids(rng, 1, 12), ids(rng, 1, 12)) for n in range(count)]
    rows[0] = rows[0]._replace(chosen_ids=ids(rng, 1, 2))
    rows[-1] = rows[-1]._replace(prompt_ids=rows[0].prompt_ids)
    return [*rows]


def judged(rng: Rng, count: int = 6) -> list[TokenizedRow]:
    """Of both kinds."""
    return [TokenizedCompletion(Place("drawn", n), ids(rng, 1, 7), ids(rng, 1, 12), n % 3 > 0) for n in range(count)]


def objective(method: str, autograd: bool = False) -> Objective:
    return Objective(method, {name: DEFAULTS[method, name].value for name in hyperparameters_of(method)}, autograd)


def gradients(made: GPT) -> Grads:
    """Those that were left in the weights, which are then without."""
    found = {name: p.grad.numpy().copy() for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    return found


def parts(grads: Grads) -> Grads:
    """Tensor by tensor, query, key and value of the fused projection apart, without the key bias: its gradient is 0."""
    found = {name: g for name, g in grads.items() if "c_attn" not in name}
    for name, g in grads.items():
        if "c_attn" in name:
            found |= {f"{name} {part}": x for part, x in zip("qkv", np.split(g, 3, axis=-1), strict=True)}
    return {name: g for name, g in found.items() if not name.endswith("bias k")}


def apart(grads: Grads, right: Grads) -> float:
    """The worst tensor: norm of the difference over the norm."""
    grads, right = parts(grads), parts(right)
    return float(np.max([np.linalg.norm(grads[name] - g) / np.linalg.norm(g) for name, g in right.items()]))


def padded(groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, what counts, and what is of the response: a row for each prompt and response, as anybody would lay them out."""
    rows = [(prompt, response) for prompt, responses in groups for response in responses]
    width = max(len(prompt) + len(response) for prompt, response in rows)
    tokens = torch.tensor([[*p, *r] + [0] * (width - len(p) - len(r)) for p, r in rows])
    places = torch.arange(width)
    mask = torch.stack([places < len(p) + len(r) for p, r in rows])
    return tokens, mask, mask & torch.stack([places >= len(p) for p, _ in rows])


def rows_and_slopes(rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four rows padded on either side or not at all, and a random direction in their logits."""
    tokens, mask = rng.integers(0, CONFIG.vocab_size, (4, 10)), np.ones((4, 10), bool)
    mask[0, :3] = mask[1, 7:] = mask[2, :2] = mask[2, 8:] = False
    return tokens, mask, rng.standard_normal((4, 10, CONFIG.vocab_size))


@claim("logits", (0, 1e-12), "largest difference of two logits over 1 + |logit|")
def logits_agree(rng: Rng) -> Measured:
    """The GPT-2 written out in NumPy and the one of PyTorch's modules compute the same logits.
    False: GPT-2's activation x Φ(x) may be computed by the error function as well as by the tanh of the paper.
    Source: arXiv:1606.08415v5 section 2
    """
    start, (tokens, mask, _) = weights(rng), rows_and_slopes(rng)
    right = forward(start, CONFIG.heads, tokens, mask)[0]

    def gap() -> Reading:
        got = model(start)(torch.tensor(tokens), torch.tensor(mask)).detach().numpy()
        return Reading.worst((got - right) / (1 + abs(right)))

    true = gap()
    exact_gelu = partial(F.gelu)
    with mock.patch.object(F, "gelu", lambda x, approximate: exact_gelu(x)):
        return Measured(true, gap())


@claim("gradients", (0, 1e-11), "worst tensor, query, key and value apart: norm of the difference over the norm")
def gradients_agree(rng: Rng) -> Measured:
    """The backward pass written out by hand gives the gradients of automatic differentiation, tensor by tensor.
    False: The gradient of a tied embedding is that of its use as the head.
    Source: Radford et al. 2019, section 2.3
    """
    start, (tokens, mask, slopes) = weights(rng), rows_and_slopes(rng)
    by_hand = backward(forward(start, CONFIG.heads, tokens, mask)[1], slopes)
    made = model(start)

    def by_autograd() -> Grads:
        made(torch.tensor(tokens), torch.tensor(mask)).backward(torch.tensor(slopes))
        return gradients(made)

    true = apart(by_hand, by_autograd())
    with mock.patch.object(made.wte, "forward", lambda tokens: F.embedding(tokens, made.wte.weight.detach())):
        return Measured(Reading(true), Reading(apart(by_hand, by_autograd())))


@claim("key-bias", (0, 1e-13), "norm of the gradient of the bias, over that of the values' bias; the worst layer")
def key_bias(rng: Rng) -> Measured:
    """The bias of the keys has no gradient: it adds the same to all scores of a query, and a softmax does not see that.
    False: Neither has the bias of the queries.
    Source: arXiv:1706.03762v7 eq. 1
    """
    tokens, mask, slopes = rows_and_slopes(rng)
    grads = backward(forward(weights(rng), CONFIG.heads, tokens, mask)[1], slopes)
    biases = [np.split(grads[f"h.{layer}.attn.c_attn.bias"], 3) for layer in range(CONFIG.layers)]
    query, key, value = (np.array([np.linalg.norm(part) for part in kind]) for kind in zip(*biases, strict=True))
    return Measured(Reading.worst(key / value), Reading.worst(query / value))


@claim("run-by-hand", (0, 1), "losses of 50 steps over 1e-9, logits after them over 1e-8: the worst")
def run_by_hand(rng: Rng) -> Measured:
    """A DPO run of 50 AdamW steps is the same without autograd, in NumPy, and with it, in PyTorch.
    False: The same with weight decay added to the gradient, as in Adam, in place of decoupled.
    Source: arXiv:1711.05101v3 algorithm 2; arXiv:2305.18290v3 eq. 7
    """
    groups, start = objective("dpo").groups(pairs(rng, 4)), initial_weights(CONFIG, 3, np.float64)
    tokens, mask, response = (x.numpy() for x in padded(groups))
    settings: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    reference = sequence_logps(forward(start, CONFIG.heads, tokens, mask)[0], tokens, response).logps
    now, losses, moments = start, [], AdamW(**settings).start(start)
    for _ in range(50):
        logits, cache = forward(now, CONFIG.heads, tokens, mask)
        scores = sequence_logps(logits, tokens, response)
        found = dpo(scores.logps[::2], scores.logps[1::2], reference[::2], reference[1::2])
        arriving = np.stack([found.grad_policy_chosen_logps, found.grad_policy_rejected_logps], 1).reshape(-1) / len(groups)
        grads = backward(cache, arriving[:, None, None] * scores.grad_logits)
        now, moments = AdamW(**settings).step(now, grads, moments)
        losses.append(found.losses.mean())
    last = forward(now, CONFIG.heads, tokens, mask)[0]

    def gap(optimizer: Callable[..., torch.optim.Optimizer]) -> Reading:
        made = model(start)
        steps, taken = optimizer(made.parameters(), **settings), []
        constant = torch.tensor(reference)
        for _ in range(50):
            steps.zero_grad()
            logps = made.response_logps(pack(groups, CONFIG)).logps
            loss = differentiable(dpo)(logps[::2], logps[1::2], constant[::2], constant[1::2]).losses.mean()
            loss.backward()
            steps.step()
            taken.append(loss.item())
        logits = made(torch.tensor(tokens), torch.tensor(mask)).detach().numpy()
        return Reading.worst((np.array(taken) - losses) / 1e-9, (logits - last) / 1e-8)

    return Measured(gap(torch.optim.AdamW), gap(torch.optim.Adam))


@claim("shared-prompt", (0, 1e-10), "loss and worst tensor of the gradient, relative, from four passes on padded rows")
def shared_prompt(rng: Rng) -> Measured:
    """One pass over [prompt | chosen | rejected], without padding, the last block and the head only where a response token is
    predicted, gives DPO's loss and gradient: what is left out is not missed.
    False: The same where each token attends to all that stands before it in that row.
    Source: arXiv:2305.18290v3 eq. 7
    """

    def mixed(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, calls: Sequence[packed.Call]) -> Tensor:
        ends = [call.own for call in calls]
        first = [end - own for end, own in zip(np.cumsum(ends), ends, strict=True)]
        places = torch.cat([torch.arange(c.own - c.queries, c.own) + int(f) for c, f in zip(calls, first, strict=True)])
        return attend(q[None], k[None], v[None], torch.arange(len(k)) <= places[:, None])[0]

    return _packing(rng, mock.patch("gpt_tiny.model.mix", mixed))


@claim("restarted-positions", (0, 1e-10), "loss and worst tensor of the gradient, relative, from four passes on padded rows")
def restarted_positions(rng: Rng) -> Measured:
    """The positions of each response go on from its prompt's, whatever stands between.
    False: They go on from what stands before in the row.
    Source: Radford et al. 2019, section 2.3
    """

    def packed_on(groups: Sequence[Group], config: Config, device: torch.device) -> packed.Packed:
        return pack(groups, config, device)._replace(
            positions=torch.cat([torch.arange(n) for n in _widths(groups)]) % CONFIG.context
        )

    return _packing(rng, mock.patch("gpt_tiny.methods.pack", packed_on))


def _widths(groups: Sequence[Group]) -> list[int]:
    return [len(prompt) + sum(len(response) - 1 for response in responses) for prompt, responses in groups]


def _packing(rng: Rng, wrong: AbstractContextManager[object]) -> Measured:
    """The packed pass against two padded ones of the policy and two of the reference; then with something wrong."""
    asked_for, policy, reference = objective("dpo"), model(weights(rng)), model(weights(rng))
    groups = asked_for.groups(pairs(rng)[1:])  # no prompt twice: the wrong variants know nothing of merged rows
    rows = padded(groups)

    def plain(made: GPT, side: int) -> Tensor:
        tokens, mask, response = (x[side::2] for x in rows)
        return differentiable(sequence_logps)(made(tokens, mask), tokens, response).logps

    with torch.no_grad():
        constants = [plain(reference, side) for side in (0, 1)]
    right = differentiable(dpo)(plain(policy, 0), plain(policy, 1), *constants).losses.sum()
    right.backward()
    right_grads = gradients(policy)

    def gap() -> Reading:
        loss = asked_for.loss(policy, groups, scored(reference, groups)).total
        loss.backward()
        return Reading.worst(loss.item() / right.item() - 1, apart(gradients(policy), right_grads))

    true = gap()
    with wrong:
        return Measured(true, gap())


@claim("chunked-head", (0, 1e-12), "gradients in states and weight, relative to the largest entry")
def chunked_head(rng: Rng) -> Measured:
    """A head that computes its logits in chunks and drops them gives the gradients of one that holds them all.
    False: The gradient in the head's weight is that of one chunk.
    Source: arXiv:2305.18290v3 section 4
    """
    states, head, arriving = (rng.standard_normal(shape) for shape in ((20, 8), (31, 8), (20,)))
    targets = rng.integers(0, 31, 20)

    def gap(chunked: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Reading:
        tensors = [torch.tensor(x, requires_grad=True) for x in (states, head)]
        logps = F.log_softmax(tensors[0] @ tensors[1].T, dim=-1).gather(1, torch.tensor(targets)[:, None])[:, 0]
        right = torch.autograd.grad(logps, tensors, torch.tensor(arriving))
        return Reading.worst(*((got - x.numpy()) / abs(x.numpy()).max() for got, x in zip(chunked(), right, strict=True)))

    last = slice(18, 20)
    whole = partial(linear_token_grads, states, head, targets, arriving, chunk=3)
    one = linear_token_grads(states[last], head, targets[last], arriving[last], chunk=3)[1]
    return Measured(gap(whole), gap(lambda: (whole()[0], one)))


@claim(
    "bridge", (0, 1e-10), "the worst method and tensor, at the reference and away from it: norm of the difference over the norm"
)
def bridge(rng: Rng) -> Measured:
    """The hand-written gradients that train, of every method, are those of automatic differentiation, ties at step 0 included.
    False: So are those of a sigmoid written with a branch, e^-|x| or 1 over 1 + e^-|x|, differentiated automatically.
    Source: arXiv:2402.01306v4 eq. 8
    """
    policy, reference, rows = model(weights(rng)), model(weights(rng)), {"kto": judged(rng)}

    def gap(method: str, other: GPT) -> float:
        found = []
        for autograd in (False, True):
            asked_for = objective(method, autograd)
            given = rows.get(method, usual)
            groups = asked_for.groups(given)
            desirable = torch.tensor([isinstance(row, TokenizedCompletion) and row.label is True for row in given])
            asked_for.loss(policy, groups, scored(other, groups), desirable).total.backward()
            found.append(gradients(policy))
        return apart(*found)

    def branching(x: Tensor) -> Tensor:
        decay = torch.exp(-abs(x))
        return torch.where(x < 0, decay, 1.0) / (1 + decay)

    usual = pairs(rng)
    true = [gap(method, other) for method in METHODS for other in (policy, reference)]
    with mock.patch("minipref.offline.kto.sigmoid", branching):
        return Measured(Reading.worst(true), Reading(gap("kto", policy)))


@claim("references", (0, 1e-12), "largest difference of two losses, in nats, over 6 steps")
def references(rng: Rng) -> Measured:
    """A run is the same whether its reference is cached, copied, offloaded, or the network with its adapters off.
    False: Or is the network itself, as it is when the step asks.
    Source: arXiv:2305.18290v3 eq. 7
    """
    start, rows, asked_for = weights(rng), pairs(rng), objective("dpo")
    steps = [Step(1.0, [n % 3, 3 + n % 3]) for n in range(6)]

    def losses(reference: Callable[[GPT], Callable[[Sequence[Group]], Tensor]]) -> np.ndarray:
        made = model(start)
        lora.add_adapters(made, rank=2, alpha=8, seed=1)
        trainer = Trainer(made, asked_for, rows, steps, Optimization(1e-2), reference(made))
        return np.array([trainer.step()["loss"] for _ in steps])

    def from_cache(made: GPT) -> Callable[[Sequence[Group]], Tensor]:
        wanted = asked(asked_for, [[rows[i] for i in step.rows] for step in steps], 16, World(), CONFIG.context)
        return cached(made, wanted, Path(folder) / "reference.npz", "float64")

    right = losses(copied)
    with TemporaryDirectory() as folder:
        others = [losses(way) - right for way in (from_cache, partial(computed, way="offload"), partial(computed, way="lora"))]
    return Measured(Reading.worst(*others), Reading.worst(losses(lambda made: partial(scored, made)) - right))


@claim("lora-reference", (0, 0), "entries of the logits that differ in any bit")
def lora_reference(rng: Rng) -> Measured:
    """With its adapters off, a model that has been trained is its frozen base, bit for bit, in full precision and in four bits.
    False: With its adapters on it still is.
    Source: arXiv:2106.09685v2 eq. 3
    """
    tokens, mask, _ = rows_and_slopes(rng)
    inputs, off, on = (torch.tensor(tokens), torch.tensor(mask)), [], []
    for base in (None, "nf4"):
        made = model(weights(rng))
        lora.add_adapters(made, rank=2, alpha=8, seed=1, quantize_base=base)
        frozen = model(lora.merged_weights(made))  # B is 0 still
        trainer = Trainer(made, objective("sft"), pairs(rng), [Step(1.0, [0, 1, 2])] * 3, Optimization(1e-2))
        for _ in range(3):
            trainer.step()
        with torch.no_grad():
            right = frozen(*inputs)
            on.append(float((made(*inputs) != right).sum()))
            with lora.adapters_off(made):
                off.append(float((made(*inputs) != right).sum()))
    return Measured(Reading.worst(off), Reading(min(on)))


@claim("lora-merge", (0, 1e-12), "largest difference of two logits over 1 + |logit|")
def lora_merge(rng: Rng) -> Measured:
    """The plain model of the weights W + (α/r) A B computes what the adapted one does.
    False: So does that of W + A B: the scale belongs to training.
    Source: arXiv:2106.09685v2 section 4.1
    """
    made, (tokens, mask, _) = model(weights(rng)), rows_and_slopes(rng)
    inputs = torch.tensor(tokens), torch.tensor(mask)
    lora.add_adapters(made, rank=2, alpha=8, seed=1)
    drawn = {name: 0.3 * rng.standard_normal(x.shape) for name, x in lora.adapter_weights(made).items()}
    lora.load_adapters(made, drawn)
    right = made(*inputs).detach()

    def gap() -> Reading:
        got = model(lora.merged_weights(made))(*inputs).detach()
        return Reading.worst(((got - right) / (1 + abs(right))).numpy())

    true = gap()
    for part in lora.adapters(made).values():
        part.scale = 1.0
    return Measured(true, gap())


@claim("nf4-error", (0, 1), "largest error over the bound of its block")
def nf4_error(rng: Rng) -> Measured:
    """No weight in four bits is farther off than half the largest gap between levels, times the largest weight of its block.
    False: Half the mean gap is enough.
    Source: arXiv:2305.14314v1 section 3
    """
    w = torch.tensor(rng.standard_t(4, 64 * 500), dtype=torch.float32)
    error = abs(lora.dequantize(lora.quantize_nf4(w), torch.float64) - w.double()).view(-1, lora.BLOCK)
    gaps = np.diff(lora.LEVELS)
    unit = np.finfo(np.float32).eps
    share = float((error.amax(dim=1) / w.view(-1, lora.BLOCK).abs().amax(dim=1)).max())
    return Measured(Reading(share / (gaps.max() / 2 + unit)), Reading(share / (gaps.mean() / 2 + unit)))


@claim("accumulation", (0, 1e-12), "loss and worst tensor of the gradient, relative, over all methods and splits")
def accumulation(rng: Rng) -> Measured:
    """A step in parts, whatever their sizes, has the loss and gradient of the step at once: ragged batches, token means and
    KTO's point included.
    False: The mean of the parts' means has.
    Source: arXiv:2503.14476v2 eq. 8; arXiv:2402.01306v4 section 4.1
    """
    policy, reference = model(weights(rng)), model(weights(rng))
    rows = {method: judged(rng, 7) if method == "kto" else pairs(rng, 7) for method in ("sft", *METHODS)}

    def measured(method: str, size: int, some: slice = slice(None)) -> tuple[float, Grads]:
        asked_for = objective(method)
        constant = partial(scored, reference) if asked_for.needs_reference else None
        trainer = Trainer(policy, asked_for, rows[method], [], Optimization(1.0), constant, size)
        loss, _ = trainer.measure(rows[method][some], learn=True)
        return loss, gradients(policy)

    def gap(got: tuple[float, Grads], right: tuple[float, Grads]) -> float:
        return max(abs(got[0] / right[0] - 1), apart(got[1], right[1]))

    true = [gap(measured(method, size), measured(method, 7)) for method in rows for size in (1, 3)]
    halves = [measured("sft", 7, some) for some in (slice(5), slice(5, None))]
    mean = (halves[0][0] + halves[1][0]) / 2, {name: (g + halves[1][1][name]) / 2 for name, g in halves[0][1].items()}
    return Measured(Reading.worst(true), Reading(gap(mean, measured("sft", 7))))


@claim("aggregation-splits", (0, 1e-12), "largest difference of loss and weights, over the three means and KTO's point")
def aggregation_splits(rng: Rng) -> Measured:
    """The means over a batch are those of its parts, each weighed with its share: of tokens for the token mean, of rows for the
    sequence and the constant mean; KTO's point is the mean over all mismatched pairs, and only then not below 0.
    False: Each part may weigh the same, and KTO's point be the mean of the parts' points.
    Source: arXiv:2503.14476v2 eq. 8; arXiv:2402.03300v3 eq. 3; arXiv:2402.01306v4 section 4.1
    """
    losses, mask = rng.standard_normal((7, 9)), np.arange(9) < rng.integers(1, 10, (7, 1))
    mask[:2] = np.arange(9) < 2  # few tokens in the first part
    parts, ratios = (slice(2), slice(2, 7)), np.concatenate([np.full(2, -1.0), np.full(5, 1.5)])
    means: dict[Any, np.ndarray] = {token_mean: mask.sum(axis=1), sequence_mean: np.ones(7)}
    means[partial(constant_mean, max_length=9.0)] = np.ones(7)

    def gap(weigh: bool) -> Reading:
        found = []
        for mean, counts in means.items():
            right, shares = mean(losses, mask), [counts[part].sum() / counts.sum() if weigh else 0.5 for part in parts]
            got = [mean(losses[part], mask[part]) for part in parts]
            found.append(sum(share * x.loss for share, x in zip(shares, got, strict=True)) - right.loss)
            found.append(np.concatenate([share * x.weights for share, x in zip(shares, got, strict=True)]) - right.weights)
        return Reading.worst(*found)

    point = kto_reference_point(ratios, np.zeros(7)).reference_point
    summed = max(0.0, sum(float(ratios[part].sum()) for part in parts) / 7)
    pointwise = np.mean([kto_reference_point(ratios[part], np.zeros(len(ratios[part]))).reference_point for part in parts])
    true, false = gap(weigh=True), gap(weigh=False)
    return Measured(Reading.worst(true.value, point - summed), Reading(min(false.value, abs(float(point - pointwise)))))
