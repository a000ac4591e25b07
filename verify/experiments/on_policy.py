"""Methods that sample, in a world where every response of a transformer is asked for: what they follow is known exactly.

All in float64. A gradient is over the weights of the network, an expectation over all groups of two responses that it may draw.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from gpt_tiny import enumerable
from gpt_tiny.data import Place, TokenizedPrompt
from gpt_tiny.enumerable import World, expected_loss, fit_preferences, law, laws, total_variation, world
from gpt_tiny.lora import adapters_off, add_adapters, merged_weights
from gpt_tiny.model import GPT
from gpt_tiny.model_by_hand import Config, initial_weights
from gpt_tiny.on_policy import ON_POLICY, Experience, OnPolicy
from gpt_tiny.on_policy_trainer import OnPolicyTrainer
from gpt_tiny.packed import Group, Ids
from gpt_tiny.reference import held
from gpt_tiny.rewards import Reward, by_function
from gpt_tiny.rollouts import logps_by_token, quiet, scored_by_token
from gpt_tiny.sampling import _drawn as draw
from gpt_tiny.sampling import sample
from gpt_tiny.tokenizer import Tokenizer
from gpt_tiny.trainer import Optimization, Step
from toy.experiment import Measured, Reading
from verify.theory.claim import exact

claim = partial(exact, kind="model")
Rng = np.random.Generator
GROUP = 2


def objective(method: str, here: World, **more: Any) -> OnPolicy:
    """With the world's β, no price on length, which the world has not, and all else as the method has it."""
    numbers = {name: number.value for name, number in ON_POLICY[method].numbers.items()}
    numbers |= {name: value for name, value in {"beta": here.beta, "overlong_share": 0.0}.items() if name in numbers}
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
    """Neither GRPO, which divides by the standard deviation of two rewards and by |o|, nor DAPO, which divides by that and by
    all tokens, follows ∇J on average, even with the KL in the reward.
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
    shown = {f"cosine of {method}": cosine for method, cosine in cosines.items()}
    shown |= {f"relative bias of {method}": bias for method, bias in biases.items()}
    return Measured(Reading(1 - max(cosines["grpo"], cosines["dapo"])), Reading(1 - cosines["rloo"]), shown)


@claim("temperature", (0, 1e-10), "norm of the difference to ∇J over the norm of ∇J")
def temperature_counts(rng: Rng) -> Measured:
    """Responses that are drawn at a temperature T move J of the policy that drew them, softmax(logits / T), held against the
    reference at T, if all log-probabilities of an update are at T.
    False: If all are at temperature 1.
    Source: huggingface/trl pull request 3029
    """
    plain, temperature = world(int(rng.integers(1000))), 0.7
    here = plain._replace(reference_tokens=enumerable.tokens(plain.reference, temperature).detach())
    model = away(here, rng)
    drawn = enumerable.of_responses(enumerable.tokens(model, temperature))
    right = of_weights(model, here.objective(drawn))
    at_1 = expected_loss(objective("rloo", plain), plain, enumerable.tokens(model), drawn)
    return Measured(apart(followed("rloo", here, model, temperature), right), apart(-of_weights(model, at_1), right))


@claim("dpo-reaches-the-optimum", (0, 1e-6), "total variation to the law, of the worst prompt")
def dpo_reaches(rng: Rng) -> Measured:
    """A transformer that learns exact preferences of all pairs by DPO becomes π_ref e^{R/β} / Z.
    False: It becomes e^{R/β} / Z, whatever the reference was.
    Source: arXiv:2305.18290v3 eq. 4, 7
    """
    here = world()
    model = here.policy()
    fit_preferences(here, model, 2500)
    reached = law(model)
    return Measured(
        Reading(total_variation(reached, here.optimum)),
        Reading(total_variation(reached, torch.log_softmax(here.rewards / here.beta, dim=1))),
    )


# --- What a rollout is learned from ------------------------------------------------------------------------------------------


def text_trainer(method: str, rng: Rng, reward: Reward, **more: Any) -> tuple[OnPolicyTrainer, Tokenizer]:
    """A policy over the tokens of some text, far from uniform; its adapters are what learns."""
    tokenizer = Tokenizer.train(["The cat sat on the mat. The dog sat on the log."] * 4, 280)
    config = Config(tokenizer.vocab_size, 24, 16, 2, 4)
    start = initial_weights(config, int(rng.integers(1000)), np.float64)
    model = GPT(config).double()
    model.load_weights({name: 5 * w + 0.2 * rng.standard_normal(w.shape) for name, w in start.items()})
    add_adapters(model, rank=2, alpha=8, seed=1)
    prompts = [TokenizedPrompt(Place("drawn", n), tokenizer.encode(text)) for n, text in enumerate(("The cat", "A dog", "On"))]
    numbers = {name: number.value for name, number in ON_POLICY[method].numbers.items()}
    asked = OnPolicy(method, "drawn", numbers, **{"group_size": 4, "max_tokens": 8, **more})
    course, eos = [Step(1.0, [0, 1, 2])] * 3, tokenizer.eos
    return OnPolicyTrainer(model, asked, prompts, course, Optimization(1e-2), reward, held(model, "lora"), eos), tokenizer


def by_sum(groups: Sequence[Group]) -> Tensor:
    return torch.tensor([float(sum(ids) % 7) for _, responses in groups for ids in responses], dtype=torch.float64)


@claim("rollout-ids", (0, 0), "share of the responses whose tokens differ")
def rollout_ids(rng: Rng) -> Measured:
    """An update learns from the tokens that were drawn, bit for bit.
    False: Or from those of their text, tokenized again.
    Source: huggingface/trl issue 2881; verify/bugs/catalogue.txt
    """
    trainer, tokenizer = text_trainer("grpo", rng, by_sum)
    drawn: list[Ids] = []

    def recorded(*args: Any, **kwargs: Any) -> list[Ids]:
        drawn.extend(sample(*args, **kwargs))
        return drawn

    with mock.patch("gpt_tiny.on_policy_trainer.sample", recorded):
        groups, scores, _ = trainer.sampled(trainer.rows, rng)
    rows = trainer.experience(groups, scores, rng).rows
    learned = [row[kept].tolist() for row, kept in zip(rows.targets, rows.mask, strict=True)]
    again = [tokenizer.encode(tokenizer.decode(ids)) for ids in drawn]
    true, false = (np.mean([a != b for a, b in zip(drawn, other, strict=True)]) for other in (learned, again))
    return Measured(Reading(float(true)), Reading(float(false)))


@claim("sampler-ratio", (0, 1e-10), "largest |log of the ratio|, in nats, over all tokens of a rollout")
def sampler_ratio(rng: Rng) -> Measured:
    """In the first update after a rollout the ratio of the policy to what sampled is 1 at every token, at any temperature, and
    so is that of what stands for the sampler in the ratio.
    False: It is with log-probabilities of softmax(logits).
    Source: huggingface/trl pull request 3029
    """
    trainer, _ = text_trainer("grpo", rng, by_sum, temperature=0.7)
    columns: list[Tensor] = []

    def recorded(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        drawn = draw(logits, temperature, top_k, generator)
        columns.append(torch.log_softmax(logits / temperature, dim=1).gather(1, drawn[:, None]))
        return drawn

    with mock.patch("gpt_tiny.sampling._drawn", recorded):
        groups, scores, _ = trainer.sampled(trainer.rows, rng)
    x = trainer.experience(groups, scores, rng)
    sampled = torch.cat(columns, dim=1)[:, : x.rows.mask.shape[1]].where(x.rows.mask, 0.0)
    plain, learning = scored_by_token(trainer.model, x.rows), []

    def kept(*args: Any) -> Tensor:
        learning.append(logps_by_token(*args))
        return learning[-1]

    with mock.patch("gpt_tiny.on_policy_trainer.logps_by_token", kept):
        trainer.learn(x, slice(0, len(scores)))
    (updating,) = learning
    true = Reading.worst(*((logps - sampled).detach().numpy() for logps in (x.old_logps, updating)))
    return Measured(true, Reading.worst((plain - sampled).numpy()))


@claim("update-divisor", (0, 1e-12), "largest |Σ weights - 1| of an update")
def update_divisor(rng: Rng) -> Measured:
    """An update divides by the tokens of the completions that it learns from.
    False: By those of the batch that was generated for several updates.
    Source: huggingface/trl issue 3938; arXiv:2503.14476v2 eq. 8
    """
    trainer, _ = text_trainer("dapo", rng, by_sum, minibatches=2, tries=1)
    trainer.size, totals, weighed = 1, trainer.totals, []

    def kept(x: Experience, weights: Tensor) -> dict[str, Tensor]:
        weighed.append(weights.sum())
        return totals(x, weights)

    groups, scores, _ = trainer.sampled(trainer.rows, rng)
    x, sums, whole = trainer.experience(groups, scores, rng), [], []
    with mock.patch.object(trainer, "totals", kept):
        for part in trainer.parts(len(scores)):
            weighed.clear()
            trainer.learn(x, part)
            sums.append(float(sum(weighed)))
            whole.append(float(x.of(part).rows.mask.sum() / x.rows.mask.sum()))
    return Measured(Reading.worst(np.array(sums) - 1), Reading(1 - max(whole)))


@claim("missing-rewards", (0, 0), "rewards that are missing, and are taken for a number")
def missing_rewards(rng: Rng) -> Measured:
    """A reward that is missing is an error, neither 0 nor left out of its group's mean; a reward of 0 is one.
    False: So it is where missing rewards are made 0 before they are looked at.
    Source: OpenRLHF pull request 1219; huggingface/trl issue 5902
    """
    tokenizer = Tokenizer.train(["a b"] * 2, 258)

    def taken(answers: Sequence[float | None]) -> bool:
        with mock.patch("gpt_tiny.world.scores", lambda prompts, completions: answers):
            try:
                return len(by_function("gpt_tiny.world:scores", tokenizer)([([1], [[2], [3]])])) == 2
            except ValueError:
                return False

    def filled(answers: Sequence[float | None]) -> list[float]:
        return [0.0 if x is None or x != x else x for x in answers]

    missing: list[list[float | None]] = [[None, 1.0], [1.0, None], [float("nan"), 1.0], [1.0]]
    wrong = sum(map(taken, missing)) + (not taken([0.0, 1.0]))
    return Measured(Reading(float(wrong)), Reading(float(sum(taken(filled(answers)) for answers in missing))))


@claim("group-of-one", (0, 0), "methods without a critic that take a group of one response")
def group_of_one(rng: Rng) -> Measured:
    """A group of one response, which without a critic there is nothing to hold against, is refused before anything is sampled.
    False: With a critic it is too.
    Source: OpenRLHF issue 1250; huggingface/trl issue 4662
    """

    def taken(method: str) -> bool:
        numbers = {name: number.value for name, number in ON_POLICY[method].numbers.items()}
        try:
            OnPolicy(method, "drawn", numbers, group_size=1)
        except ValueError:
            return False
        return True

    with_critic, without = ([name for name, made in ON_POLICY.items() if made.critic == is_so] for is_so in (True, False))
    return Measured(Reading(float(sum(map(taken, without)))), Reading(float(sum(map(taken, with_critic)))))


@claim("fresh-rollouts", (0, 1e-12), "largest difference of two logits over 1 + |logit|")
def fresh_rollouts(rng: Rng) -> Measured:
    """Every rollout is drawn from the weights that the update before it left, adapters included.
    False: From the base under the adapters.
    Source: huggingface/trl issue 2873
    """
    trainer, _ = text_trainer("grpo", rng, by_sum)
    tokens, sampled, merged, bases = torch.tensor([[5, 6, 7]]), [], [], []

    def logits(model: GPT) -> Tensor:
        with quiet(model):
            return model(tokens, torch.ones_like(tokens, dtype=torch.bool))

    def recorded(model: GPT, *args: Any, **kwargs: Any) -> list[Ids]:
        sampled.append(logits(model))
        plain = GPT(model.config).double()
        plain.load_weights(merged_weights(trainer.model))
        merged.append(logits(plain))
        with adapters_off(model):
            bases.append(logits(model))
        return sample(model, *args, **kwargs)

    with mock.patch("gpt_tiny.on_policy_trainer.sample", recorded):
        for _ in range(3):
            trainer.step()
    right = torch.stack(merged[1:])
    gaps = (((torch.stack(found[1:]) - right) / (1 + right.abs())).numpy() for found in (sampled, bases))
    true, false = map(Reading.worst, gaps)
    return Measured(true, false)
