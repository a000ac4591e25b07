"""A world so small that every response of a real transformer is asked for: Z, π*, KL and J are sums, gradients expectations.

    vocabulary   four tokens and EOS
    prompts      the four tokens
    responses    up to three tokens; EOS ends one, and the third is the last anyway: 1 + 4 + 16 + 64 = K = 85
    R            drawn once, N(0, 1), for each prompt and response
    reference    a transformer of two layers whose matrices are wide enough for laws that are far from uniform

J(π) = E_π[R] - β KL(π || π_ref) and π* are minipref's `kl_regularized_objective` and `optimal_policy`: arXiv:2305.18290v3,
equations 3 and 4. What a method does on average over all groups of two responses is `expected_loss`, by the method's own code.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minipref import dpo, optimal_policy
from minipref.arrays import sigmoid
from minipref.autograd import differentiable
from minipref.optimum import kl_regularized_objective

from .data import Place, TokenizedPrompt
from .model import GPT
from .model_by_hand import Config, initial_weights
from .on_policy import OVER_TOKENS, Experience, OnPolicy
from .on_policy_trainer import OnPolicyTrainer
from .packed import Group, Ids
from .reference import held
from .rollouts import Rows, by_token, layout, quiet
from .trainer import Optimization, Step
from .value_model import ValueModel

TOKENS, EOS, LONGEST = 4, 4, 3
PROMPTS: list[Ids] = [[token] for token in range(TOKENS)]
RESPONSES: list[Ids] = [
    [*ids, EOS] if length < LONGEST else [*ids]
    for length in range(LONGEST + 1)
    for ids in product(range(TOKENS), repeat=length)
]
PREFIXES = [ids for length in range(LONGEST) for ids in product(range(TOKENS), repeat=length)]
GROUPS: list[Group] = [(prompt, RESPONSES) for prompt in PROMPTS]
SIZE = Config(vocab_size=TOKENS + 1, context=4, width=32, layers=2, heads=4)


class World(NamedTuple):
    """Rewards and the reference, P prompts and K responses."""

    rewards: Tensor  # [P, K]
    reference: GPT
    reference_tokens: Tensor  # [P K, T], log-probabilities
    beta: float

    @property
    def reference_logps(self) -> Tensor:
        """log π_ref [P, K]."""
        return of_responses(self.reference_tokens)

    def objective(self, logps: Tensor) -> Tensor:
        """J of a law [P, K], the mean over prompts, in the tape: its gradient is the hand-written one."""
        return differentiable(kl_regularized_objective)(logps, self.rewards, self.reference_logps, self.beta).objective.mean()

    @property
    def optimum(self) -> Tensor:
        """log π* [P, K]."""
        return optimal_policy.formula(self.rewards, self.reference_logps, self.beta).logps

    def gap(self, logps: Tensor) -> float:
        """J(π*) - J(π) over J(π*) - J(π_ref) of a law: what is still missing, 1 at the start."""
        best, start, now = (float(self.objective(law)) for law in (self.optimum, self.reference_logps, logps))
        return (best - now) / (best - start)

    def reward(self, groups: Sequence[Group]) -> Tensor:
        """R [N] of responses that were drawn."""
        return torch.stack([self.rewards[prompt[0], _place(tuple(ids))] for prompt, responses in groups for ids in responses])

    def policy(self) -> GPT:
        """A network that begins as the reference."""
        model = GPT(SIZE).double()
        model.load_weights(self.reference.weights())
        return model


def world(seed: int = 0, beta: float = 0.5) -> World:
    """The world of a seed, in float64."""
    rng = np.random.default_rng(seed)
    weights = initial_weights(SIZE, seed, np.float64)
    reference = GPT(SIZE).double()
    reference.load_weights({name: w if w.ndim == 1 else 10 * w for name, w in weights.items()})
    rewards = torch.tensor(rng.standard_normal((len(PROMPTS), len(RESPONSES))))
    return World(rewards, reference.requires_grad_(False), tokens(reference).detach(), beta)


@cache
def _place(ids: tuple[int, ...]) -> int:
    return RESPONSES.index([*ids])


@cache
def rows() -> Rows:
    """Every response to every prompt, N = P K in a row."""
    return layout(GROUPS)


@cache
def _prefixes() -> tuple[Tensor, Tensor]:
    """What may stand before a token, behind every prompt: tokens [P F, LONGEST], padded, and what of them counts."""
    rows = [[*prompt, *prefix] for prompt in PROMPTS for prefix in PREFIXES]
    lengths = torch.tensor([[len(row)] for row in rows])
    return torch.tensor([row + [0] * (LONGEST - len(row)) for row in rows]), torch.arange(LONGEST) < lengths


@cache
def _places() -> tuple[Tensor, Tensor]:
    """Of each token of rows() the place of what stands before it, and the token; [M], row after row."""
    found = [
        (p * len(PREFIXES) + PREFIXES.index(tuple(response[:t])), token)
        for p in range(len(PROMPTS))
        for response in RESPONSES
        for t, token in enumerate(response)
    ]
    place, token = torch.tensor(found).T
    return place, token


def table_of(model: GPT) -> Tensor:
    """Its logits [P, F, V] after each of the F prefixes of each prompt, in the tape: all that its law is made of."""
    ids, mask = _prefixes()
    hidden = model.hidden(ids, mask)
    return model.logits(hidden[torch.arange(len(ids)), mask.sum(dim=1) - 1]).reshape(len(PROMPTS), len(PREFIXES), -1)


def of_table(logits: Tensor) -> Tensor:
    """Log-probabilities [P K, T] of all tokens of all responses, from logits [P, F, V], in the tape."""
    place, token = _places()
    return by_token(torch.log_softmax(logits.flatten(0, 1), dim=1)[place, token], rows().mask)


def tokens(model: GPT, temperature: float = 1.0) -> Tensor:
    """The same of a network, in the tape."""
    return of_table(table_of(model) / temperature)


def of_responses(logps: Tensor) -> Tensor:
    """[P K, T] -> [P, K]: log π of the responses, whose probabilities add up to 1 in every row."""
    return logps.sum(dim=1).reshape(len(PROMPTS), -1)


def laws(model: GPT) -> Tensor:
    """log π [P, K], in the tape."""
    return of_responses(tokens(model))


def law(model: GPT) -> Tensor:
    """The same without a tape."""
    with quiet(model):
        return laws(model)


def total_variation(logps: Tensor, others: Tensor) -> float:
    """Half of Σ |π - π'|, of the worst prompt."""
    return float((logps.exp() - others.exp()).abs().sum(dim=1).max()) / 2


def evenly(logps: Tensor) -> Tensor:
    """How often a pair occurs [P, K, K], in a data set that has all alike."""
    return torch.ones_like(logps[:, :, None] * logps[:, None, :])


def as_drawn(logps: Tensor) -> Tensor:
    """The same where the policy draws both responses, as in online DPO."""
    chances = (logps[:, :, None] + logps[:, None, :]).exp()
    return chances / chances.mean()


def fit_preferences(here: World, model: GPT, steps: int, lr: float = 1e-2, often: Callable[[Tensor], Tensor] = evenly) -> None:
    """DPO on every pair of responses to every prompt, labelled with its exact probabilities: arXiv:2305.18290v3 equation 7.

    AdamW with a cosine schedule: only as the steps shrink does the policy come as near as float64 lets it. `often` says of
    log π [P, K], as it is, how often a pair occurs.
    """
    preferred = sigmoid(here.rewards[:, :, None] - here.rewards[:, None, :])

    def sides(logps: Tensor) -> tuple[Tensor, Tensor]:
        return logps[:, :, None].expand_as(preferred).flatten(), logps[:, None, :].expand_as(preferred).flatten()

    course = Optimization(lr, schedule="cosine")
    optimizer = torch.optim.AdamW(model.parameters(), lr, eps=1e-16, weight_decay=0.0)  # gradients become that small
    for step in range(steps):
        logps = laws(model)
        losses = differentiable(dpo)(*sides(logps), *sides(here.reference_logps), here.beta).losses.reshape(preferred.shape)
        optimizer.zero_grad()
        (often(logps.detach()) * preferred * losses).mean().backward()
        optimizer.param_groups[0]["lr"] = course.rate(step, steps)
        optimizer.step()


def sampling(
    here: World,
    objective: OnPolicy,
    steps: int,
    optimization: Optimization,
    seed: int,
    dtype: torch.dtype = torch.float64,
    groups: int = 1,
) -> OnPolicyTrainer:
    """A trainer whose steps draw so many groups of responses to each prompt; its model begins as the reference."""
    critic = ValueModel(SIZE).to(dtype) if objective.made.critic else None
    if critic:
        critic.load_weights(here.reference.weights())
    rows = [TokenizedPrompt(Place("enumerable", n), prompt) for n, prompt in enumerate(PROMPTS)]
    course = [Step(1.0, [*range(len(rows))] * groups)] * steps
    model = here.policy().to(dtype)
    given = objective, rows, course, optimization, here.reward, held(model, "copy"), EOS, seed
    return OnPolicyTrainer(model, *given, size=len(course[0].rows), critic=critic)


def expected_loss(objective: OnPolicy, here: World, logps: Tensor, drawn: Tensor | None = None) -> Tensor:
    """A method's loss on average over all groups of two that may be drawn, in the tape, from log-probabilities [P K, T].

    They are drawn from the policy itself, or from another law [P, K]. The gradient is what the method follows on average, in
    updates of many groups: the probabilities of the groups, and all that it holds constant, are so.
    ValueError for a method whose loss is not one of responses relative to their group, or that has groups of another size.
    """
    if objective.group_size != 2 or objective.made.critic or not objective.made.kl:
        raise ValueError(
            f"objective must be grpo, dapo, dr-grpo or rloo in groups of 2, got {objective.method} in groups of"
            f" {objective.group_size}"
        )
    chances = (of_responses(logps) if drawn is None else drawn).detach().exp()
    tokens = 2 * float((chances * rows().mask.sum(dim=1).reshape(chances.shape)).sum(dim=1).mean())  # of a group, expected
    each = zip(range(len(PROMPTS)), logps.split(len(RESPONSES)), chances, strict=True)
    return torch.stack([_of_prompt(objective, here, tokens, *one) for one in each]).mean()


def _of_prompt(objective: OnPolicy, here: World, tokens: float, prompt: int, logps: Tensor, chances: Tensor) -> Tensor:
    """The same for one prompt, of log-probabilities [K, T], responses being drawn with chances [K]."""
    size = len(RESPONSES)
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    drawn, mine = pairs.flatten(), slice(prompt * size, (prompt + 1) * size)
    members = rows().of(mine)
    x = Experience(
        Rows(*(part[drawn] for part in members)),
        objective.shaped(here.rewards[prompt][pairs], members.mask.sum(dim=1)[drawn]),
        logps.detach()[drawn],
        here.reference_tokens[mine][drawn],
        torch.zeros_like(logps.detach()[drawn]),
        torch.zeros((len(pairs), 0, 2), dtype=torch.int64),
        torch.zeros((len(pairs), 0), dtype=torch.bool),
    )
    weighed = _weights_of_groups(objective, x, tokens) * objective.made.losses(objective, x, logps[drawn])
    return chances[pairs].prod(dim=1) @ weighed.reshape(len(pairs), -1).sum(dim=1)


def _weights_of_groups(objective: OnPolicy, x: Experience, tokens: float) -> Tensor:
    """The weights of each group as if it were alone: they depend on the lengths of its two responses only.

    A mean over the tokens of an update divides by what a group has on average, and not by what this one has.
    """
    lengths = x.rows.mask.sum(dim=1).reshape(-1, 2)
    found = torch.zeros_like(x.old_logps).reshape(len(lengths), 2, -1)
    for kind in lengths.unique(dim=0):
        where = (lengths == kind).all(dim=1)
        first = int(where.nonzero()[0, 0])
        found[where] = objective.made.weights(objective, x.of(slice(first, first + 1)))
    if objective.made.weights is OVER_TOKENS:
        found *= lengths.sum(dim=1).to(found)[:, None, None] / tokens
    return found.reshape(x.old_logps.shape)


def rest(objective: OnPolicy, here: World, steps: int = 400, rate: float = 1.0) -> Tensor:
    """Where a method comes to rest: log-probabilities [P K, T] of a law at which its expected gradient is 0.

    From the reference on by the natural gradient in a table: that of the logits after a prefix over the probability of coming
    there and of the token. A step that is longer than the one before halves the rate. ArithmeticError where the gradient is not
    0 in the end.
    """
    logits, before = table_of(here.reference).detach(), torch.inf
    for _ in range(steps):
        logits.requires_grad_()
        logps = of_table(logits)
        (slope,) = torch.autograd.grad(expected_loss(objective, here, logps), logits)
        step = slope / _chances(logits.detach())
        if (size := float(step.abs().max())) > before:
            rate /= 2
        logits, before = logits.detach() - rate * step.clamp(-1, 1), size
    if not slope.abs().max() < 1e-10:
        raise ArithmeticError(f"rest: the gradient must be 0 after {steps} steps, got {float(slope.abs().max())}")
    return logps.detach()


def _chances(logits: Tensor) -> Tensor:
    """Of coming to a prefix and drawing a token after it [P, F, V]."""
    laws, reached = torch.softmax(logits, dim=2), torch.ones(logits.shape[:2], dtype=logits.dtype)
    for place, prefix in enumerate(PREFIXES):
        if prefix:
            before = PREFIXES.index(prefix[:-1])
            reached[:, place] = reached[:, before] * laws[:, before, prefix[-1]]
    return reached[:, :, None] * laws
