"""Which methods reach π*, which reach an optimum of their own, and which have none: one world, every expectation a sum.

3 prompts with 6 responses each, β = 0.5, labels that follow Bradley-Terry on the true reward. All start at the reference.

    to π*      policy gradient, natural gradient, DPO, reward model + policy gradient, online DPO, PPO with small steps
    elsewhere  RSO's loss with γ ≠ β   π_ref e^{R/γ} / Z                    arXiv:2309.06657v2 equation 8
               IPO                     π_ref e^{p(y beats μ)/β} / Z         arXiv:2310.12036v2 equation 9
               Dr. GRPO, k3 as loss    b π_ref / (λ - R)                    arXiv:2402.03300v3 equations 3 and 4, without std
               GRPO, k3 as loss        zero of a field, no objective        the same, with std
               KTO                     π ∝ c σ'(β (r - z_0)) where c > 0    arXiv:2402.01306v4 equation 8
               SimPO, ORPO             no closed form: Newton's method      arXiv:2405.14734v3 eq. 6, arXiv:2403.07691v2 eq. 6
               SPPO                    the best response alone              arXiv:2405.00675v4 equation 4.7

Total variation is that of the worst prompt. What each method does in a step stands in `roads`.
"""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minipref import (
    advantages_dr_grpo,
    advantages_grpo,
    advantages_rloo,
    bradley_terry,
    dpo,
    ipo,
    kl_estimates,
    orpo,
    rejection_acceptance,
    simpo,
    sppo,
)
from minipref.arrays import log_softmax, softmax

from . import roads
from .bandit import Array, PairLoss, Slopes, World, descend, different_pairs, kl, random_world, to_logits
from .bandit import total_variation as distance
from .experiment import Experiment, Measured, Reading, Statement, table
from .loss_shapes import of_lengths_one

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS, SOLVER_STARTS, SAMPLED_GROUPS = 30_000, 8, 40_000
GAMMA = 0.25  # of RSO's loss, half of β

LABELS = {
    "policy-gradient": "policy gradient",
    "natural-gradient-one-step": "natural gradient",
    "dpo": "DPO",
    "reward-model": "reward model + RL",
    "online-dpo": "online DPO",
    "ppo": "PPO, step 1",
    "ppo-clips-forever": "PPO, step 20",
    "rso-optimum": "RSO, γ = β/2",
    "ipo": "IPO",
    "dr-grpo-k3-optimum": "Dr. GRPO, k3 loss",
    "grpo-k3-not-a-gradient": "GRPO, k3 loss",
    "simpo": "SimPO",
    "orpo": "ORPO",
    "kto-descent": "KTO",
    "sppo": "SPPO",
}


class Numbers(NamedTuple):
    """By the last part of a statement's id."""

    ways: dict[str, roads.Road]
    optimum: Array  # [P, K], π*
    found: dict[str, Measured]

    def travel(self, world: World, name: str, advance: roads.Field, goal: Array, steps: int = STEPS) -> int:
        """Follow a road: how many steps it took. Measured is its last distance; that π* is its goal is the false variant."""
        road = roads.follow(advance, world.reference_logps, goal, steps)
        self.ways[name] = road
        self.found[name] = Measured(Reading(float(road.distances[-1])), Reading(distance(road.end, self.optimum)))
        return len(road.distances) - 1


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    world = random_world(rng, rarest=0.01)
    numbers = Numbers({}, world.optimum, {})
    _reach_the_optimum(world, numbers)
    _clip(world, numbers)
    _closed_forms(world, numbers)
    _solved(world, numbers, rng)
    _groups_elsewhere(world, numbers)
    _unpaired(world, numbers)
    _self_play(world, numbers)
    anywhere = rng.normal(size=world.rewards.shape)
    _fields(world, numbers, anywhere)
    _estimators(world, numbers, anywhere)
    _group_sizes(world, numbers, softmax(anywhere))
    numbers.found["sampled-rloo"] = _sampled(world, anywhere, rng)
    return numbers


def _reach_the_optimum(world: World, numbers: Numbers) -> None:
    """Each road beside a false variant that takes as many steps."""
    start, beta = world.reference_logps, world.beta

    def climb(step: float, **changes: Any) -> roads.Field:
        return roads.descent(roads.reward_field(world._replace(**changes)), step)

    def prefer(beta: float, step: float, weights: Any) -> roads.Field:
        return roads.descent(roads.pair_field(partial(dpo.formula, beta=beta), world, weights), step)

    def on_policy(labels: Array) -> roads.Field:
        return prefer(beta, 60, lambda policy: _product(policy) * labels)

    ways = {
        "policy-gradient": (climb(4), climb(4, beta=0.0)),
        "natural-gradient-one-step": (roads.natural_step(world, 1 / beta), roads.natural_step(world, 1.0)),
        "dpo": (prefer(beta, 50, different_pairs(world)), prefer(beta / 2, 50, different_pairs(world))),
        "reward-model": (climb(4, rewards=_fitted(world, 0.0)), climb(4, rewards=_fitted(world, 1.0))),
        "online-dpo": (on_policy(world.preferences), on_policy(_hard(world))),
    }
    ends = {}
    for name, (true, false) in ways.items():
        steps = numbers.travel(world, name, true, world.optimum)
        wrong = roads.follow(false, start, world.optimum, steps)
        ends[name] = wrong.end
        numbers.found[name] = numbers.found[name]._replace(false=Reading(float(wrong.distances[-1])))
    entropies = [(p * np.log(p)).sum(1) for p in (numbers.ways["dpo"].end, numbers.ways["policy-gradient"].end, ends["dpo"])]
    numbers.found["entropy-equal"] = _beside(Reading.worst(entropies[i] - entropies[1]) for i in (0, 2))
    accepted = [_accepted(world, strength) for strength in (beta, GAMMA)]
    numbers.found["rso-law"] = _beside(Reading(distance(law, world.optimum)) for law in accepted)


def _accepted(world: World, strength: float) -> Array:
    """The law [P, K] of what rejection sampling keeps of the reference's responses."""
    keep = rejection_acceptance.formula(world.rewards, strength, world.rewards.max()).acceptance_probabilities
    return world.reference * keep / (world.reference * keep).sum(1, keepdims=True)


def _beside(readings: Iterable[Reading]) -> Measured:
    true, false = readings
    return Measured(true, false)


def _product(law: Array) -> Array:
    """The chance [P, K, K] of each ordered pair of independent draws."""
    return law[:, :, None] * law[:, None, :]


def _hard(world: World) -> Array:
    """Labels [P, K, K] without noise: the better response always wins."""
    return (world.rewards[:, :, None] > world.rewards[:, None, :]).astype(float)


def _fitted(world: World, margin: float) -> Array:
    """Scores [P, K] of greatest likelihood, for exact labels on all pairs."""

    def loss(chosen: Array, rejected: Array, *_: Array) -> Slopes:
        return Slopes(*bradley_terry.formula(chosen, rejected, margin))

    field = roads.pair_field(loss, world, different_pairs(world))
    return descend(field, np.zeros_like(world.rewards), 10.0, 2000, 1e-14)


def _clip(world: World, numbers: Numbers) -> None:
    """PPO with two steps; a share is that of the last 300 rounds in which a ratio was clipped."""
    clips: list[list[int]] = [[], []]
    numbers.travel(world, "ppo", roads.ppo_step(world, 1, 4, clips[0]), world.optimum)
    numbers.travel(world, "ppo-clips-forever", roads.ppo_step(world, 20, 4, clips[1]), world.optimum, 600)
    small, large = (numbers.found[name].true for name in ("ppo", "ppo-clips-forever"))
    shares = [Reading(float(np.mean(np.array(counts[-300:]) > 0))) for counts in clips]
    numbers.found["ppo"] = Measured(small, large, {"rounds with clipping": int(np.count_nonzero(clips[0]))})
    numbers.found["ppo-clips-forever"] = Measured(shares[1], shares[0], {"total variation": large.value})


def _closed_forms(world: World, numbers: Numbers) -> None:
    kept = roads.pair_field(partial(dpo.formula, beta=GAMMA), world, _product(world.optimum) * world.preferences)
    numbers.travel(world, "rso-optimum", roads.descent(kept, 200), world._replace(beta=GAMMA).optimum)
    squares = roads.pair_field(partial(ipo.formula, beta=world.beta), world, _product(world.reference) * world.preferences)
    wins = (world.preferences * world.reference[:, None, :]).sum(2)
    numbers.travel(world, "ipo", roads.descent(squares, 0.5), world._replace(rewards=wins).optimum)


def _solved(world: World, numbers: Numbers, rng: np.random.Generator) -> None:
    """Descent from the reference beside Newton's method from other starts, all at once as copies of the world."""
    rewards, reference = np.tile([world.rewards, world.reference], (1, SOLVER_STARTS, 1))
    copies, starts = World(rewards, reference, world.beta), rng.normal(size=rewards.shape)
    simpo_loss = of_lengths_one(simpo.formula, beta=2.0, gamma=0.5)
    for name, loss in {"simpo": simpo_loss, "orpo": of_lengths_one(orpo.formula, odds_weight=0.5)}.items():
        solver = roads.pair_field(loss, copies, different_pairs(copies))
        solved = softmax(roads.newton(solver, starts)).reshape(SOLVER_STARTS, *world.rewards.shape)
        numbers.travel(world, name, roads.descent(roads.pair_field(loss, world, different_pairs(world)), 2), solved[0])
        apart = Reading(max(distance(numbers.ways[name].end, end) for end in solved))
        numbers.found[name] = numbers.found[name]._replace(true=apart)
    labels = _hard(world), world.preferences
    numbers.found["simpo-hard-labels"] = _beside(Reading(_growth(simpo_loss, world, known)) for known in labels)


def _growth(loss: PairLoss, world: World, labels: Array) -> float:
    """By how much β times the smallest gap between neighbours in reward grows each time that the steps grow e-fold."""
    field = roads.pair_field(loss, world, labels * (1 - np.eye(6)) / 30)
    early = descend(field, world.reference_logps, 4, 500)
    order, late = np.argsort(world.rewards, axis=1), descend(field, early, 4, 1500)
    gaps = [2.0 * np.min(np.diff(np.take_along_axis(logits, order, 1))) for logits in (early, late)]
    return float((gaps[1] - gaps[0]) / np.log(4))


def _groups_elsewhere(world: World, numbers: Numbers) -> None:
    beta, at_optimum = world.beta, np.log(world.optimum)
    plain = roads.group_field(world, advantages_dr_grpo, 3, in_loss=beta)
    standardized = roads.group_field(world, advantages_grpo, 2, in_loss=beta)
    numbers.travel(world, "dr-grpo-k3-optimum", roads.descent(plain, 2), roads.forward_kl_optimum(world, beta * 3 / 2))

    near = roads.follow(roads.descent(standardized, 0.3), world.reference_logps, world.optimum, 400).end
    zero = roads.newton(standardized, np.log(near))
    numbers.travel(world, "grpo-k3-not-a-gradient", roads.descent(standardized, 1), softmax(zero))
    slopes = [roads.jacobian(field, zero) for field in (standardized, plain)]
    asymmetries = [Reading.worst(j - j.transpose(0, 2, 1)).value / Reading.worst(j).value for j in slopes]
    extra = {"total variation to π*": distance(softmax(zero), world.optimum)}
    numbers.found["grpo-k3-not-a-gradient"] = Measured(Reading(asymmetries[0]), Reading(asymmetries[1]), extra)

    in_reward = [roads.group_field(world, advantages_grpo, size, in_reward=beta)(at_optimum) for size in (2, 3)]
    numbers.found["grpo-reward-kl-fixed-point"] = Measured(Reading.worst(*in_reward), Reading.worst(standardized(at_optimum)))


def _unpaired(world: World, numbers: Numbers) -> None:
    """KTO where all responses are shown alike, the best liked by 90 %, the second by 80 %, the others by 20 %."""
    ranks = np.argsort(np.argsort(-world.rewards, axis=1), axis=1)
    good = np.array([0.9, 0.8, 0.2, 0.2, 0.2, 0.2])[ranks] / 6
    bad = 1 / 6 - good
    fixed = roads.kto_optimum(world, good - bad)
    numbers.travel(world, "kto-descent", roads.descent(roads.kto_field(world, good, bad), 50), fixed, 1000)
    with np.errstate(divide="ignore"):
        at_fixed = np.log(fixed)
    favoured = [roads.kto_field(world, good, bad, good_weight=weight)(at_fixed) for weight in (1.0, 2.0)]
    thinned = [roads.kto_field(world, good, bad / 10, bad_weight=weight)(at_fixed) for weight in (10.0, 1.0)]
    numbers.found["kto-fixed-point"] = _beside(map(Reading.worst, favoured))
    numbers.found["kto-imbalance"] = _beside(map(Reading.worst, thinned))


def _self_play(world: World, numbers: Numbers) -> None:
    """SPPO by multiplicative weights; what its loss leaves at the third iterate, with the second or the reference as π_t."""

    def wins(logits: Array) -> Array:
        return (world.preferences * softmax(logits)[:, None, :]).sum(2)

    best = (world.rewards == world.rewards.max(1, keepdims=True)).astype(float)
    numbers.travel(world, "sppo", lambda logits: logits + 5 * wins(logits), best)
    iterates = [world.reference_logps]
    for _ in range(3):
        iterates.append(log_softmax(iterates[-1] + wins(iterates[-1])))
    left = [sppo.formula(iterates[3], iterates[t], wins(iterates[2]), 1.0).grad_policy_logps for t in (2, 0)]
    numbers.found["sppo-mwu"] = _beside(Reading.worst(np.ptp(slopes, axis=1)) for slopes in left)


def _fields(world: World, numbers: Numbers, logits: Array) -> None:
    """Expected gradients of groups, by enumeration, beside ∇J."""
    truth = roads.reward_field(world)(logits)

    def residual(advantages: Any, shares: tuple[float, float], **where: float) -> Reading:
        fields = [roads.group_field(world, advantages, size, **where)(logits) for size in (2, 3)]
        return Reading.worst(*(field - share * truth for field, share in zip(fields, shares, strict=True)))

    in_reward, in_loss, same, smaller = {"in_reward": world.beta}, {"in_loss": world.beta}, (1.0, 1.0), (1 / 2, 2 / 3)
    rloo = [residual(advantages_rloo, same, **where) for where in (in_reward, in_loss)]
    centred = [residual(advantages_dr_grpo, shares, **in_reward) for shares in (smaller, same)]
    numbers.found.update({"rloo-field": _beside(rloo), "dr-grpo-field": _beside(centred)})


def _estimators(world: World, numbers: Numbers, logits: Array) -> None:
    """The mean of k1 and k3, and the mean slope of each of the three as a loss."""
    logps, policy = log_softmax(logits), softmax(logits)
    found = kl_estimates.formula(logps, world.reference_logps)
    values = [(policy * k).sum(1) - kl(policy, world.reference) for k in (found.k1, found.k3)]
    k1, k2, k3 = (to_logits(policy * slopes, policy) for slopes in (found.grad_k1, found.grad_k2, found.grad_k3))
    reverse = policy * (found.k1 - kl(policy, world.reference)[:, None])
    forward = policy - world.reference
    numbers.found["kl-estimators"] = Measured(
        Reading.worst(*values, k1, k2 - reverse, k3 - forward), Reading.worst(k3 - reverse)
    )


def _group_sizes(world: World, numbers: Numbers, policy: Array) -> None:
    """The variance of RLOO's gradient, enumerated, beside Hoeffding's formula for a mean over pairs."""
    enumerated = np.array([_variance(world, policy, size) for size in (2, 3)])
    centred = world.rewards - (policy * world.rewards).sum(1, keepdims=True)
    scores = np.eye(policy.shape[1]) - policy[:, None, :]
    slope = ((policy * centred) ** 2).sum(1)
    one = (policy * centred**2 * (scores**2).sum(2)).sum(1) - slope
    two = 2 * ((policy * centred**2).sum(1) - slope)
    predicted = np.array([two / 2, (one + two) / 6])
    numbers.found["group-baseline-variance"] = _beside(
        Reading.worst(difference) for difference in (enumerated - predicted, enumerated[1] - enumerated[0] * 2 / 3)
    )


def _variance(world: World, policy: Array, size: int) -> Array:
    """Trace of the covariance [P] of RLOO's gradient from one group, over all groups."""
    groups = roads.all_groups(world, size)
    advantages = advantages_rloo.formula(world.rewards[:, groups].reshape(-1, size)).advantages.reshape(-1, *groups.shape)
    scores = np.eye(policy.shape[1])[groups] - policy[:, None, None, :]
    gradients = (advantages[..., None] * scores).mean(2)
    chances = policy[:, groups].prod(2)
    mean = (chances[..., None] * gradients).sum(1)
    return (chances * (gradients**2).sum(2)).sum(1) - (mean**2).sum(1)


def _sampled(world: World, logits: Array, rng: np.random.Generator) -> Measured:
    """Gradients of sampled groups of 4 along ∇J of the first prompt, in units of its length."""
    policy, slope = softmax(logits)[0], -roads.reward_field(world)(logits)[0]
    shaped = world.rewards[0] - world.beta * (log_softmax(logits) - world.reference_logps)[0]
    drawn = rng.choice(len(policy), size=(SAMPLED_GROUPS, 4), p=policy)
    along = (slope[drawn] - policy @ slope) / (slope @ slope)
    rules = advantages_rloo, advantages_dr_grpo
    return _beside(Reading.mean((rule(shaped[drawn]).advantages * along).mean(1)) for rule in rules)


def report(numbers: Numbers) -> str:
    rows = []
    for name, road in numbers.ways.items():
        to_truth, last = distance(road.end, numbers.optimum), float(road.distances[-1])
        rows.append((LABELS[name], len(road.distances) - 1, f"{last:.1e}", f"{to_truth:.1e}"))
    head = ("road", "steps", "total variation to its goal", "to π*")
    return f"{table(head, rows)}\n\nA goal counts as reached at {roads.ARRIVED:g}. PPO's step 20 and the first six aim at π*."


PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555")
TO_OPTIMUM = ("natural-gradient-one-step", "dpo", "online-dpo", "ppo", "ppo-clips-forever")
TO_OWN = ("simpo", "kto-descent", "grpo-k3-not-a-gradient", "ipo", "rso-optimum")


def draw(numbers: Numbers, figure: "Figure") -> None:
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.25))
    for column, (names, goal) in enumerate(((TO_OPTIMUM, "π*"), (TO_OWN, "the method's own optimum"))):
        axes = figure.add_subplot(grid[0, column])
        for name, colour in zip(names, PALETTE, strict=True):
            distances = numbers.ways[name].distances
            axes.plot(np.arange(1, len(distances) + 1), np.maximum(distances, 1e-10), color=colour, label=LABELS[name])
        axes.set(xscale="log", yscale="log", ylim=(1e-10, 1e4), xlabel="steps + 1", title=f"Distance to {goal}")
        axes.set_yticks([1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1])
        axes.set_ylabel("total variation" if column == 0 else "")
        axes.legend(fontsize=8, ncols=2, loc="upper left", handlelength=1.2, columnspacing=1)
    _draw_ends(numbers, figure.add_subplot(grid[1, :]))


def _draw_ends(numbers: Numbers, axes: Any) -> None:
    """Where each road ended: its distance from π* and from its own goal."""
    for row, road in enumerate(numbers.ways.values()):
        own, truth = float(road.distances[-1]), distance(road.end, numbers.optimum)
        axes.plot([own, truth], [row, row], color="#bbbbbb", lw=1, zorder=1)
        axes.plot(own, row, "o", color=PALETTE[0], label="from its own goal" if row == 0 else None)
        axes.plot(truth, row, "D", ms=5, mfc="none", mew=1.5, color=PALETTE[1], label="from π*" if row == 0 else None)
    axes.set(xscale="log", xlim=(1e-17, 3), ylim=(len(numbers.ways) - 0.5, -0.5), xlabel="total variation at the end")
    axes.set_yticks(range(len(numbers.ways)), [LABELS[name] for name in numbers.ways], fontsize=9)
    axes.set_title(f"Where each road ends (stopped once within {roads.ARRIVED:g} of its goal)")
    axes.legend(loc="lower left")


def _decided(
    name: str, statement: str, false: str, source: str, allowed: tuple[float, float] = (0, 1e-12), measured: str = ""
) -> Statement:
    measured = measured or "largest residual, in units of the field"
    return Statement(f"toy.all-roads.{name}", statement, source, false, allowed, measured, lambda numbers: numbers.found[name])


def _arrives(name: str, statement: str, false: str, source: str, within: float = 1e-8) -> Statement:
    return _decided(name, statement, false, source, (0, within), "total variation from what is claimed, worst prompt")


DPO, GRPO, RLOO = "arXiv:2305.18290v3", "arXiv:2402.03300v3", "arXiv:2402.14740v2"
STATEMENTS = (
    _arrives(
        "policy-gradient",
        "Exact gradient ascent of E[R] - β KL(π || π_ref) in the logits, at a step of 4, reaches π*.",
        "It reaches π* without the KL term too.",
        f"{DPO} eq. 3-4",
    ),
    _arrives(
        "natural-gradient-one-step",
        "One natural-gradient step of size 1/β goes from the reference to π* exactly.",
        "One natural-gradient step of size 1 does.",
        f"{DPO} eq. 3-4; Fisher's matrix by summation",
        1e-12,
    ),
    _arrives(
        "dpo",
        "DPO with Bradley-Terry labels on all pairs reaches the π* of its own β.",
        "DPO with half of that β reaches the same policy.",
        f"{DPO} eq. 4, 7",
    ),
    _arrives(
        "reward-model",
        "A reward model of greatest likelihood, then gradient ascent of J on its scores, reaches the π* of the true reward.",
        "It does so with a margin of 1 in the reward model's loss.",
        f"{DPO} eq. 2-3; margin: arXiv:2307.09288v2 eq. 2",
    ),
    _arrives(
        "online-dpo",
        "DPO on pairs sampled from the policy in training, the sampling held constant, reaches π* with Bradley-Terry labels.",
        "It reaches π* if the better response always wins.",
        "arXiv:2402.04792v2 section 3",
    ),
    _arrives(
        "rso-law",
        "What rejection sampling at β keeps of the reference's responses follows π*.",
        "Rejection sampling at β/2 keeps the same law.",
        "arXiv:2309.06657v2 eq. 14",
        1e-12,
    ),
    _arrives(
        "rso-optimum",
        "RSO's logistic loss with γ = β/2 on pairs kept at β reaches π_ref e^{R/γ} / Z: γ decides, not the law of the pairs.",
        "It reaches π*, the law of its pairs.",
        "arXiv:2309.06657v2 eq. 8",
    ),
    _arrives(
        "ipo",
        "IPO on pairs drawn from μ×μ reaches π_ref e^{p(y beats μ)/β} / Z, with μ = π_ref.",
        "It reaches π*.",
        "arXiv:2310.12036v2 eq. 9, 17",
    ),
    _arrives(
        "ppo",
        "PPO with the KL term in its reward, exact values, 4 epochs a round and a step of 1 reaches π*; clipping ends.",
        "It does so with a step of 20.",
        "arXiv:1707.06347v2 eq. 7",
    ),
    _decided(
        "ppo-clips-forever",
        "With a step of 20 the same PPO clips in every round and does not arrive.",
        "With a step of 1 it clips in every round.",
        "arXiv:1707.06347v2 eq. 7",
        (1, 1),
        "share of the last 300 rounds in which a ratio was clipped",
    ),
    _decided(
        "rloo-field",
        "RLOO's expected gradient, with k1 in the reward, is ∇J at any policy, for groups of 2 and of 3.",
        "With β k3 in the loss instead it is ∇J as well.",
        f"{RLOO} section 2.3",
    ),
    _decided(
        "dr-grpo-field",
        "Dr. GRPO's expected gradient, with k1 in the reward, is (G-1)/G times ∇J.",
        "It is ∇J.",
        "arXiv:2503.20783v2 section 3.2",
    ),
    _arrives(
        "dr-grpo-k3-optimum",
        "With β k3 in the loss, Dr. GRPO goes to b π_ref / (λ - R), b = β G/(G-1), which maximizes E[R] - b KL(π_ref || π).",
        "It goes to π*.",
        f"{GRPO} eq. 4; arXiv:2503.20783v2 section 3.2",
    ),
    _decided(
        "grpo-reward-kl-fixed-point",
        "With the KL term in the reward, GRPO's standardized field is zero at π*, where all penalized rewards are equal.",
        "With β k3 in the loss it is zero there.",
        f"{GRPO} section 4.1.2",
        (0, 1e-10),
        "largest residual; rounding of 1e-16 in the rewards, over the 1e-4 added to a standard deviation of 0",
    ),
    _decided(
        "grpo-k3-not-a-gradient",
        "GRPO's expected update with β k3 in the loss is the gradient of no function: its Jacobian is not symmetric.",
        "Without division by the standard deviation it is not symmetric either.",
        f"{GRPO} eq. 3-4",
        (0.01, 2),
        "at its zero, largest |J - Jᵀ| over largest |J|; differences of width 1e-5 leave 1e-9",
    ),
    _arrives(
        "simpo",
        "SimPO with Bradley-Terry labels has one minimizer, which descent and Newton's method from 8 starts agree on.",
        "That minimizer is π*.",
        "arXiv:2405.14734v3 eq. 6",
        1e-7,
    ),
    _decided(
        "simpo-hard-labels",
        "If the better response always wins, SimPO has no minimizer: its smallest β-gap grows like log steps.",
        "So it does if labels follow Bradley-Terry.",
        "arXiv:2405.14734v3 eq. 6; arXiv:1710.10345 theorem 3",
        (0.95, 1.05),
        "growth of the smallest β-gap for each e-fold of steps; 1 in the limit of many steps",
    ),
    _arrives(
        "orpo",
        "ORPO with Bradley-Terry labels has an interior optimum, which descent and Newton's method from 8 starts agree on.",
        "That optimum is π*.",
        "arXiv:2403.07691v2 eq. 6-7",
        1e-7,
    ),
    _decided(
        "kto-fixed-point",
        "KTO's field is zero where π ∝ c σ'(β (r - z_0)) on the responses with c > 0, c = λ_D P(y, good) - λ_U P(y, bad).",
        "That policy is also a zero for λ_D = 2.",
        "arXiv:2402.01306v4 eq. 8",
    ),
    _arrives(
        "kto-descent",
        "KTO abandons every response with c < 0 and comes within 0.002 of that policy in 1,000 steps of descent.",
        "It comes as near to π*.",
        "arXiv:2402.01306v4 eq. 8",
        2e-3,
    ),
    _decided(
        "kto-imbalance",
        "If only one in ten bad marks is kept, λ_U = 10 keeps KTO's fixed point.",
        "λ_U = 1 keeps it.",
        "arXiv:2402.01306v4 eq. 9",
    ),
    _decided(
        "sppo-mwu",
        "At π_{t+1} ∝ π_t e^{η P(y beats π_t)} SPPO's residuals are the same for all responses: nothing is left to learn.",
        "They are the same too if log-ratios are taken against π_ref.",
        "arXiv:2405.00675v4 eq. 4.7",
        measured="range of the slopes over responses, worst prompt",
    ),
    _decided(
        "entropy-equal",
        "DPO ends with the same entropy as policy gradient on the same objective.",
        "DPO with half of β does.",
        f"{DPO} eq. 3-7",
        (0, 1e-7),
        "difference in nats, worst prompt; both stop within 1e-9 of π*, where log π > log 0.01",
    ),
    _decided(
        "group-baseline-variance",
        "RLOO's gradient has variance [(G-2) V + 2 (Var R - |∇|²)] / (G (G-1)), V being that of (R - E R) ∇log π (traces).",
        "From groups of 2 to groups of 3 it falls as 1/G.",
        f"{RLOO} section 2.3; Hoeffding 1948 for the variance of a U-statistic",
    ),
    _decided(
        "kl-estimators",
        "k1 and k3 have mean KL(π || π_ref); as a loss k1 has mean slope 0, k2 that of KL(π || π_ref), k3 of KL(π_ref || π).",
        "As a loss k3 has the mean slope of KL(π || π_ref).",
        "Schulman 2020, Approximating KL divergence",
    ),
    _decided(
        "sampled-rloo",
        "Sampled RLOO gradients of groups of 4 are ∇J on average, along ∇J.",
        "Sampled Dr. GRPO gradients are.",
        f"{RLOO} section 2.3",
        (0.95, 1.05),
        f"mean over {SAMPLED_GROUPS:,} groups, in units of ∇J; 0.05 is a fifth of the bias of the false variant",
    ),
)
EXPERIMENT = Experiment("Which roads lead to π*, and where the others lead", run, report, draw, STATEMENTS, (8.0, 8.0))
