"""Methods that sample, in a world where every response of a transformer is asked for: what they follow is known exactly.

All in float64. A gradient is over the weights of the network, an expectation over all groups of two responses that it may draw.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt_tiny import enumerable
from gpt_tiny.enumerable import World, expected_loss, fit_preferences, law, laws, total_variation, world
from gpt_tiny.model import GPT
from gpt_tiny.on_policy import ON_POLICY, OnPolicy
from toy.experiment import Measured, Reading
from verify.theory.claim import exact

claim = partial(exact, kind="model")
Rng = np.random.Generator
GROUP = 2


def objective(method: str, here: World, **more: Any) -> OnPolicy:
    """With the world's β, and all else as the method has it."""
    numbers = {name: number.value for name, number in ON_POLICY[method].numbers.items()} | {"beta": here.beta}
    return OnPolicy(method, "the world's", numbers, **{"group_size": GROUP, "max_tokens": enumerable.LONGEST, **more})


def away(here: World, rng: Rng) -> GPT:
    """A policy that has left the reference."""
    model = here.policy()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.tensor(0.05 * rng.standard_normal(p.shape)))
    return model


def of_weights(model: GPT, scalar: Tensor) -> Tensor:
    """Its gradient, all tensors in one."""
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(scalar, list(model.parameters()))])


def followed(method: str, here: World, model: GPT, temperature: float = 1.0, **more: Any) -> Tensor:
    """What the method follows on average, uphill."""
    logps = enumerable.tokens(model, temperature)
    return -of_weights(model, expected_loss(objective(method, here, **more), here, logps))


def apart(got: Tensor, right: Tensor) -> Reading:
    return Reading(float((got - right).norm() / right.norm()))


@claim("rloo-follows-the-objective", (0, 1e-10), "norm of the difference to ∇J over the norm of ∇J")
def rloo_follows(rng: Rng) -> Measured:
    """RLOO's expected gradient, with the KL in the reward, is that of J(π) = E[R] - β KL(π || π_ref), at any policy.
    False: So is GRPO's, but for its length.
    Source: arXiv:2402.14740v2 section 2.3; arXiv:2305.18290v3 eq. 3
    """
    here = world(int(rng.integers(1000)))
    model = away(here, rng)
    right = of_weights(model, here.objective(laws(model)))
    grpo = followed("grpo", here, model, kl="reward")
    return Measured(apart(followed("rloo", here, model), right), apart(grpo / grpo.norm() * right.norm(), right))


@claim("dr-grpo-follows-the-objective", (0, 1e-10), "norm of the difference to ∇J over the norm of ∇J")
def dr_grpo_follows(rng: Rng) -> Measured:
    """Dr. GRPO's expected gradient, with the KL in the reward, is ∇J times (G - 1)/G over the constant length.
    False: With k3 in the loss it is too: where the KL stands makes no difference.
    Source: arXiv:2503.20783v2 section 3.2; Schulman 2020, Approximating KL divergence
    """
    here = world(int(rng.integers(1000)))
    model = away(here, rng)
    right = of_weights(model, here.objective(laws(model))) * (GROUP - 1) / GROUP / enumerable.LONGEST
    in_reward, in_loss = (apart(followed("dr-grpo", here, model, kl=kl), right) for kl in ("reward", "loss"))
    return Measured(in_reward, in_loss)


@claim("grpo-follows-another-field", (0.005, 2), "1 - the largest cosine with ∇J")
def grpo_does_not(rng: Rng) -> Measured:
    """Neither GRPO, by its standard deviation and its 1/|o|, nor DAPO, by its mean over all tokens, follows ∇J on average, even
    with the KL in the reward.
    False: Nor does RLOO.
    Source: arXiv:2503.20783v2 section 3.1
    """
    here = world(int(rng.integers(1000)))
    model = away(here, rng)
    right = of_weights(model, here.objective(laws(model)))
    fields = {method: followed(method, here, model, kl="reward") for method in ("grpo", "dapo", "rloo")}
    cosines = {method: float(field @ right / field.norm() / right.norm()) for method, field in fields.items()}
    biases = {
        method: float((field * (field @ right) / (field @ field) - right).norm() / right.norm())
        for method, field in fields.items()
    }
    shown = {"cosines": cosines, "biases": biases}
    return Measured(Reading(1 - max(cosines["grpo"], cosines["dapo"])), Reading(1 - cosines["rloo"]), shown)


@claim("temperature", (0, 1e-10), "norm of the difference to ∇J over the norm of ∇J")
def temperature_counts(rng: Rng) -> Measured:
    """Responses that are drawn at a temperature T move J of the policy that drew them, softmax(logits / T), if the log-
    probabilities that learn are of that policy.
    False: If they are of softmax(logits).
    Source: huggingface/trl pull request 3029
    """
    here, temperature = world(int(rng.integers(1000))), 0.7
    model = away(here, rng)
    drawn = enumerable.tokens(model, temperature)
    right = of_weights(model, here.objective(drawn.sum(dim=1).reshape(here.rewards.shape)))
    asked = objective("rloo", here)
    plain = expected_loss(asked, here, enumerable.tokens(model), drawn.detach())
    return Measured(apart(followed("rloo", here, model, temperature), right), apart(-of_weights(model, plain), right))


@claim("dpo-reaches-the-optimum", (0, 1e-6), "total variation to the law, of the worst prompt")
def dpo_reaches(rng: Rng) -> Measured:
    """A transformer that learns exact preferences of all pairs by DPO becomes π_ref e^{R/β} / Z.
    False: It becomes e^{R/β} / Z, whatever the reference was.
    Source: arXiv:2305.18290v3 eq. 4, 7
    """
    here = world()
    model = here.policy()
    fit_preferences(here, model, 1200)
    reached = law(model)
    return Measured(
        Reading(total_variation(reached, here.optimum)),
        Reading(total_variation(reached, torch.log_softmax(here.rewards / here.beta, dim=1))),
    )
