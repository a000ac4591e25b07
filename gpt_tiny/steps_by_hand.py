"""One step of preference optimization on a GPT-2, and a whole run, in NumPy without autograd.

    tokens → logits → log π(y|x) → loss:  `forward`, then minipref's `sequence_logps`, then its method, each with its gradient

    ∂L/∂w = 1/N Σ_n Σ_y ∂L_n/∂log π(y|x_n) · ∂log π(y|x_n)/∂logits · ∂logits/∂w        the last by `backward`

All is computed in the dtype of the weights. Prompts and responses are lists of token ids, tokenized apart; a response ends with
its EOS already. Log-probabilities are in nats, summed over the response's tokens. `python -m verify --operations model` judges
what is here as levels 3 and 4 of the contract.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minipref import REGISTRY, kto_reference_point, sequence_logps
from minipref.logprobs import SequenceLogps

from .model_by_hand import AdamW, Cache, Grads, Weights, backward, forward

PAIRED = ("dpo", "cdpo", "robust_dpo", "ipo", "ipo_length_normalized", "rso_hinge", "orpo", "simpo")

Ids = Sequence[Sequence[int]]  # ragged: the token ids of each example
Batch = Mapping[str, Any]


class Step(NamedTuple):
    """The mean loss over the examples of a batch; its gradient by weight name; log-probabilities [N] by response."""

    loss: np.floating
    grads: Grads
    logps: dict[str, np.ndarray]  # chosen_logps and rejected_logps, or completion_logps


class Scorer(NamedTuple):
    """A model that scores responses; of prompt and response together, max_length tokens are kept."""

    weights: Weights
    n_head: int
    max_length: int

    def __call__(self, prompts: Ids, responses: Ids) -> tuple[SequenceLogps, Cache]:
        """Log-probability, length and slopes in the logits of each response after its prompt; and what backward needs."""
        tokens, mask, response_mask = padded(prompts, responses, self.max_length)
        logits, cache = forward(self.weights, self.n_head, tokens, mask)
        return sequence_logps(logits, tokens, response_mask), cache


def preference_step(policy: Scorer, reference: Scorer, method: str, hyperparameters: Mapping[str, float], batch: Batch) -> Step:
    """Loss and gradients of one of PAIRED or kto on a batch, before any update.

    hyperparameters: all numbers of the method by name, but for kto's reference point, and no other. batch: prompt_ids,
    chosen_ids and rejected_ids; for kto prompt_ids, completion_ids and desirable, [N] booleans. ValueError for anything else,
    for a response of which max_length leaves nothing, and as the model and the method raise it.
    """
    check_method(method, hyperparameters, policy.max_length)
    check_batch(batch, method)
    return (kto_step if method == "kto" else paired_step)(policy, reference, method, hyperparameters, batch)


def paired_step(policy: Scorer, reference: Scorer, method: str, hyperparameters: Mapping[str, float], batch: Batch) -> Step:
    """Chosen and rejected responses in one pass, the chosen first."""
    size, asked = len(batch["prompt_ids"]), REGISTRY[method].inputs
    rows = [*batch["prompt_ids"]] * 2, [*batch["chosen_ids"], *batch["rejected_ids"]]
    scored, cache = policy(*rows)
    known = halves("policy_{}_logps", scored.logps) | halves("{}_lengths", scored.lengths)
    if "reference_chosen_logps" in asked:
        known |= halves("reference_{}_logps", reference(*rows)[0].logps)
    result = REGISTRY[method](**{name: known[name] for name in asked if name in known}, **hyperparameters)
    slopes = np.concatenate([result.grad_policy_chosen_logps, result.grad_policy_rejected_logps]) / size
    grads = backward(cache, slopes[:, None, None] * scored.grad_logits)
    return Step(result.losses.mean(), grads, halves("{}_logps", scored.logps))


def kto_step(policy: Scorer, reference: Scorer, method: str, hyperparameters: Mapping[str, float], batch: Batch) -> Step:
    """The reference point is estimated on each completion after the next prompt of the batch, cyclically, and is a constant."""
    prompts, completions = [*batch["prompt_ids"]], batch["completion_ids"]
    mismatched = [model([*prompts[1:], prompts[0]], completions)[0].logps for model in (policy, reference)]
    numbers = {**hyperparameters, "reference_point": kto_reference_point(*mismatched).reference_point}
    (scored, cache), (references, _) = policy(prompts, completions), reference(prompts, completions)
    result = REGISTRY[method](scored.logps, references.logps, np.asarray(batch["desirable"]), **numbers)
    slopes = result.grad_policy_logps / len(prompts)
    grads = backward(cache, slopes[:, None, None] * scored.grad_logits)
    return Step(result.losses.mean(), grads, {"completion_logps": np.asarray(scored.logps)})


def train(
    weights: Weights, step: Callable[[Weights, Batch], Step], batches: Sequence[Batch], optimizer: AdamW, steps: int
) -> tuple[np.ndarray, Weights]:
    """The loss [steps] of each step before its update, and the weights after the last. Step s takes batch s mod their number.
    ValueError for no batches and for steps that are not a whole number >= 1."""
    if not is_whole(steps, 1) or not batches:
        raise ValueError(f"steps must be a whole number >= 1 and batches at least one, got {steps!r} and {len(batches)}")
    losses, moments = [], optimizer.start(weights)
    for s in range(steps):
        taken = step(weights, batches[s % len(batches)])
        losses.append(taken.loss)
        weights, moments = optimizer.step(weights, taken.grads, moments)
    return np.array(losses), weights


def padded(prompts: Ids, responses: Ids, max_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[B,T] tokens, which of them there are, and which are of the response: prompts and responses, cut at their end, padded
    on the right."""
    rows = [[*prompt, *response][:max_length] for prompt, response in zip(prompts, responses, strict=True)]
    lengths, starts = (np.array([[len(row)] for row in lists]) for lists in (rows, prompts))
    if np.any(lengths <= starts):
        raise ValueError(f"max_length must leave a token of every response, got {max_length} for a prompt of {starts.max()}")
    width = int(lengths.max())
    mask = np.arange(width) < lengths
    return np.array([row + [0] * (width - len(row)) for row in rows]), mask, mask & (np.arange(width) >= starts)


def halves(name: str, values: Any) -> dict[str, np.ndarray]:
    """[2N] -> the first N under the name of the chosen, the others under that of the rejected."""
    return dict(zip((name.format("chosen"), name.format("rejected")), np.split(values, 2), strict=True))


def learned_from(method: str) -> tuple[str, str]:
    """What a batch holds beside prompts."""
    return ("completion_ids", "desirable") if method == "kto" else ("chosen_ids", "rejected_ids")


def is_whole(number: object, low: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= low


def check_method(method: str, hyperparameters: Mapping[str, float], max_length: int) -> None:
    """ValueError for a method that is not here, hyperparameters that are not its own, and a max_length that is no number of
    tokens. Their values are for the method to check."""
    if method not in (*PAIRED, "kto"):
        raise ValueError(f"method must be one of {', '.join(PAIRED)}, kto, got {method!r}")
    if not is_whole(max_length, 1):
        raise ValueError(f"max_length must be a whole number >= 1, got {max_length!r}")
    due = {name for name, argument in REGISTRY[method].inputs.items() if argument.type is None} - {"reference_point"}
    if hyperparameters.keys() != due:
        raise ValueError(f"hyperparameters must be {', '.join(sorted(due))}, got {', '.join(hyperparameters)}")


def check_batch(batch: Batch, method: str) -> None:
    """ValueError unless there is one of everything and nothing else for each of one or more examples, and tokens in all."""
    due, sizes = ("prompt_ids", *learned_from(method)), {name: len(values) for name, values in batch.items()}
    if sizes.keys() != {*due} or len({*sizes.values()}) > 1 or 0 in sizes.values():
        raise ValueError(f"batch must hold {', '.join(due)}, as many of each and at least one, got {sizes}")
    for name in (name for name in batch if name.endswith("_ids")):
        for n, ids in enumerate(batch[name]):
            if not len(ids) or not all(is_whole(token, 0) for token in ids):
                raise ValueError(f"{name} must hold one or more token ids in each example, got {ids!r} in example {n}")
