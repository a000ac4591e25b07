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

J is E[R] - β KL(π || π_ref), r is log π/π_ref, z_0 is KL(π || π_ref); b, λ and c stand in `roads`, with what each method does
in a step. Methods that sample are followed by their expected updates, SPPO by multiplicative weights. Total variation is that
of the worst prompt.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import minipref
from minipref.arrays import log_softmax, softmax

from . import roads
from .bandit import Array, World, descend, different_pairs, kl, of_lengths_one, random_world, to_logits
from .bandit import total_variation as distance
from .experiment import Experiment, Measured, Reading, rows, stated, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS, SOLVER_STARTS, SAMPLED_GROUPS = 3000, 8, 40_000
GAMMA = 0.25  # of RSO's loss, half of β
SIMPO = of_lengths_one(minipref.simpo.formula, beta=2.0, gamma=0.5)
ORPO = of_lengths_one(minipref.orpo.formula, odds_weight=0.5)


class Numbers(NamedTuple):
    """The roads, by method, and what was found, by the last part of a statement's id."""

    optimum: Array  # [P, K], π*
    taken: dict[str, roads.Road]
    found: dict[str, Measured]

    def travel(self, world: World, method: str, name: str, advance: roads.Field, goal: Array) -> None:
        """Follow a road to a goal of its own; the false variant is that it leads to π*."""
        self.taken[method] = road = roads.follow(advance, world.reference_logps, goal, STEPS)
        self.found[name] = _worst(road.distances[-1], distance(road.end, self.optimum))


def run(seed: int) -> Numbers:
    rng = np.random.default_rng(seed)
    world = random_world(rng, rarest=0.01)
    anywhere = rng.normal(size=world.rewards.shape)
    numbers = Numbers(world.optimum, {}, {})
    _to_the_optimum(world, numbers)
    _closed_forms(world, numbers)
    _solved(world, numbers, rng)
    _k3_in_loss(world, numbers)
    _thumbs(world, numbers)
    _self_play(world, numbers)
    numbers.found.update(_expected_gradients(world, anywhere))
    numbers.found["kl-estimators"] = _estimators(world, anywhere)
    numbers.found["group-baseline-variance"] = _variances(world, softmax(anywhere))
    numbers.found["sampled-rloo"] = _sampled(world, anywhere, rng)
    return numbers


def _worst(true: Any, false: Any) -> Measured:
    return Measured(Reading.worst(true), Reading.worst(false))


def _to_the_optimum(world: World, numbers: Numbers) -> None:
    """Each road to π* beside a false variant that takes as many steps."""
    beta, pairs = world.beta, different_pairs(world)
    clips: list[list[int]] = [[], []]

    def climb(**changes: Any) -> roads.Field:
        return roads.descent(roads.reward_field(world._replace(**changes)), 4)

    def scored(margin: float) -> roads.Field:
        return climb(rewards=roads.reward_model(pairs, margin))

    def prefer(beta: float, step: float, weights: Any) -> roads.Field:
        return roads.descent(roads.pair_field(partial(minipref.dpo.formula, beta=beta), world, weights), step)

    def on_policy(labels: Array) -> roads.Field:
        return prefer(beta, 60, lambda policy: _product(policy) * labels)

    ways: dict[str, tuple[str, roads.Field, roads.Field]] = {
        "policy gradient": ("policy-gradient", climb(), climb(beta=0.0)),
        "natural gradient": ("natural-gradient-one-step", roads.natural_step(world, 1 / beta), roads.natural_step(world, 1)),
        "DPO": ("dpo", prefer(beta, 50, pairs), prefer(beta / 2, 50, pairs)),
        "reward model + RL": ("reward-model", scored(0), scored(1)),
        "online DPO": ("online-dpo", on_policy(world.preferences), on_policy(_hard(world))),
        "PPO, step 1": ("ppo", roads.ppo_step(world, 1, 4, clips[0]), roads.ppo_step(world, 20, 4, clips[1])),
    }
    wrong = {}
    for method, (name, true, false) in ways.items():
        road = roads.follow(true, world.reference_logps, world.optimum, STEPS)
        wrong[method] = roads.follow(false, world.reference_logps, world.optimum, len(road.distances) - 1)
        numbers.taken[method] = road
        numbers.found[name] = _worst(road.distances[-1], wrong[method].distances[-1])

    numbers.taken["PPO, step 20"] = wrong["PPO, step 1"]
    small, large = (np.mean(np.array(counts[-100:]) > 0) for counts in clips)
    near, far, _ = numbers.found["ppo"]
    numbers.found["ppo"] = _worst([near.value, small], [far.value, large])
    numbers.found["ppo-clips-forever"] = _worst(large, small)
    ends = numbers.taken["policy gradient"].end, numbers.taken["DPO"].end, wrong["DPO"].end
    entropy, same, other = ((policy * np.log(policy)).sum(1) for policy in ends)
    numbers.found["entropy-equal"] = _worst(same - entropy, other - entropy)


def _product(law: Array) -> Array:
    """The chance [P, K, K] of each ordered pair of independent draws."""
    return law[:, :, None] * law[:, None, :]


def _hard(world: World) -> Array:
    """Labels [P, K, K] without noise: the better response always wins."""
    return (world.rewards[:, :, None] > world.rewards[:, None, :]).astype(float)


def _closed_forms(world: World, numbers: Numbers) -> None:
    """RSO's law and its loss, and IPO."""
    kept = roads.pair_field(partial(minipref.dpo.formula, beta=GAMMA), world, _product(world.optimum) * world.preferences)
    numbers.travel(world, "RSO, γ = β/2", "rso-optimum", roads.descent(kept, 200), world._replace(beta=GAMMA).optimum)
    numbers.found["rso-law"] = _worst(*(_accepted(world, strength) - world.optimum for strength in (world.beta, GAMMA)))
    drawn = _product(world.reference) * world.preferences
    squares = roads.pair_field(partial(minipref.ipo.formula, beta=world.beta), world, drawn)
    liked = world._replace(rewards=_wins(world, world.reference))
    numbers.travel(world, "IPO", "ipo", roads.descent(squares, 0.5), liked.optimum)


def _accepted(world: World, strength: float) -> Array:
    """The law [P, K] of what rejection sampling keeps of the reference's responses."""
    keep = minipref.rejection_acceptance.formula(world.rewards, strength, world.rewards.max()).acceptance_probabilities
    return world.reference * keep / (world.reference * keep).sum(1, keepdims=True)


def _wins(world: World, policy: Array) -> Array:
    """P(y beats the policy) [P, K]."""
    return (world.preferences * policy[:, None, :]).sum(2)


def _solved(world: World, numbers: Numbers, rng: np.random.Generator) -> None:
    """Descent to what Newton's method finds from several starts, all at once as copies of the world."""
    starts = rng.normal(size=(SOLVER_STARTS, *world.rewards.shape))
    for method, loss in {"SimPO": SIMPO, "ORPO": ORPO}.items():
        worlds = world, roads.copies(world, SOLVER_STARTS)
        field, of_copies = (roads.pair_field(loss, which, different_pairs(which)) for which in worlds)
        solved = softmax(roads.newton(of_copies, np.concatenate(starts))).reshape(starts.shape)
        numbers.travel(world, method, method.lower(), roads.descent(field, 2), solved)
    numbers.found["simpo-hard-labels"] = Measured(_growth(world, _hard(world)), _growth(world, world.preferences))


def _growth(world: World, labels: Array) -> Reading:
    """By how much β times SimPO's smallest gap between neighbours in reward grows each time that the steps grow e-fold."""
    field = roads.pair_field(SIMPO, world, labels * (1 - np.eye(6)) / 30)
    early = descend(field, world.reference_logps, 4, 500)
    order, late = np.argsort(world.rewards, axis=1), descend(field, early, 4, 1500)
    gaps = [2.0 * np.min(np.diff(np.take_along_axis(logits, order, 1))) for logits in (early, late)]
    return Reading(float((gaps[1] - gaps[0]) / np.log(4)))


def _k3_in_loss(world: World, numbers: Numbers) -> None:
    """Where the expected updates of groups of 3 lead, without and with division by the standard deviation.

    With it there are several zeros, so Newton's method starts where descent has come near to one.
    """
    rules = minipref.advantages_dr_grpo, minipref.advantages_grpo
    plain, standardized = (roads.group_field(world, rule, 3, in_loss=world.beta) for rule in rules)
    goal = roads.forward_kl_optimum(world, world.beta * 3 / 2)
    numbers.travel(world, "Dr. GRPO, k3 loss", "dr-grpo-k3-optimum", roads.descent(plain, 2), goal)
    near = roads.follow(roads.descent(standardized, 0.3), world.reference_logps, world.optimum, 400).end
    zero = roads.newton(standardized, np.log(near))
    numbers.travel(world, "GRPO, k3 loss", "grpo-k3", roads.descent(standardized, 1), softmax(zero))
    slopes = [roads.jacobian(field, zero) for field in (standardized, plain)]
    asymmetries = [np.max(np.abs(slope - slope.transpose(0, 2, 1))) / np.max(np.abs(slope)) for slope in slopes]
    numbers.found["grpo-k3-not-a-gradient"] = _worst(*asymmetries)


def _expected_gradients(world: World, logits: Array) -> dict[str, Measured]:
    """Of groups of 2 and of 3, with the KL in the reward or in the loss; beside ∇J."""

    def fields(rule: Any, where: Array, **strength: float) -> Array:
        return np.array([roads.group_field(world, rule, size, **strength)(where) for size in (2, 3)])

    beta, truth, at_optimum = world.beta, roads.reward_field(world)(logits), np.log(world.optimum)
    centred, shares = fields(minipref.advantages_dr_grpo, logits, in_reward=beta), np.array([1 / 2, 2 / 3])[:, None, None]
    rloo = (fields(minipref.advantages_rloo, logits, **{place: beta}) for place in ("in_reward", "in_loss"))
    grpo = (fields(minipref.advantages_grpo, at_optimum, **{place: beta}) for place in ("in_reward", "in_loss"))
    return {
        "rloo-field": _worst(*(field - truth for field in rloo)),
        "dr-grpo-field": _worst(centred - shares * truth, centred - truth),
        "grpo-reward-kl-fixed-point": _worst(*grpo),
    }


def _thumbs(world: World, numbers: Numbers) -> None:
    """KTO where all responses are shown alike, the best liked by 90 %, the second by 80 %, the others by 20 %."""
    ranks = np.argsort(np.argsort(-world.rewards, axis=1), axis=1)
    good = np.array([0.9, 0.8, 0.2, 0.2, 0.2, 0.2])[ranks] / 6
    bad = 1 / 6 - good
    fixed = roads.kto_optimum(world, good - bad)
    numbers.travel(world, "KTO", "kto-descent", roads.descent(roads.kto_field(world, good, bad), 50), fixed)
    fields = {
        "kto-fixed-point": [roads.kto_field(world, good, bad, good_weight=weight) for weight in (1, 2)],
        "kto-imbalance": [roads.kto_field(world, good, bad / 10, bad_weight=weight) for weight in (10, 1)],
    }
    with np.errstate(divide="ignore"):
        at_fixed = np.log(fixed)
    for name, (true, false) in fields.items():
        numbers.found[name] = _worst(true(at_fixed), false(at_fixed))


def _self_play(world: World, numbers: Numbers) -> None:
    """SPPO by multiplicative weights; what its loss leaves at the second iterate, with the first or the reference as π_t."""
    best = (world.rewards == world.rewards.max(1, keepdims=True)).astype(float)
    numbers.travel(world, "SPPO", "sppo", lambda logits: logits + 5 * _wins(world, softmax(logits)), best)

    def improved(logps: Array) -> Array:
        return log_softmax(logps + _wins(world, softmax(logps)))

    first = improved(world.reference_logps)
    second, wins = improved(first), _wins(world, softmax(first))
    left = [minipref.sppo.formula(second, base, wins, 1.0).grad_policy_logps for base in (first, world.reference_logps)]
    numbers.found["sppo-mwu"] = _worst(*(np.ptp(slopes, axis=1) for slopes in left))


def _estimators(world: World, logits: Array) -> Measured:
    """The mean of k1 and k3, and the mean slope of each of the three as a loss."""
    logps, policy = log_softmax(logits), softmax(logits)
    found, divergence = minipref.kl_estimates.formula(logps, world.reference_logps), kl(policy, world.reference)[:, None]
    values = [(policy * (k - divergence)).sum(1) for k in (found.k1, found.k3)]
    k1, k2, k3 = (to_logits(policy * slopes, policy) for slopes in (found.grad_k1, found.grad_k2, found.grad_k3))
    reverse, forward = policy * (logps - world.reference_logps - divergence), policy - world.reference
    return Measured(Reading.worst(*values, k1, k2 - reverse, k3 - forward), Reading.worst(k3 - reverse))


def _variances(world: World, policy: Array) -> Measured:
    """The variance of RLOO's gradient, enumerated, beside Hoeffding's formula for a mean over pairs."""
    enumerated = np.array([_variance(world, policy, size) for size in (2, 3)])
    centred = world.rewards - (policy * world.rewards).sum(1, keepdims=True)
    scores = np.eye(policy.shape[1]) - policy[:, None, :]
    slope = ((policy * centred) ** 2).sum(1)
    one = (policy * centred**2 * (scores**2).sum(2)).sum(1) - slope
    two = 2 * ((policy * centred**2).sum(1) - slope)
    return _worst(enumerated - [two / 2, (one + two) / 6], enumerated[1] - enumerated[0] * 2 / 3)


def _variance(world: World, policy: Array, size: int) -> Array:
    """Trace of the covariance [P] of RLOO's gradient from one group, over all groups."""
    groups = roads.all_groups(world, size)
    advantages = minipref.advantages_rloo.formula(world.rewards[:, groups].reshape(-1, size)).advantages.reshape(
        -1, *groups.shape
    )
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
    rules = minipref.advantages_rloo, minipref.advantages_dr_grpo
    true, false = (Reading.mean((rule(shaped[drawn]).advantages * along).mean(1)) for rule in rules)
    return Measured(true, false)


def report(numbers: Numbers) -> str:
    rows = [
        (method, len(road.distances) - 1, f"{road.distances[-1]:.1e}", f"{distance(road.end, numbers.optimum):.1e}")
        for method, road in numbers.taken.items()
    ]
    head = ("road", "steps", "total variation to its goal", "to π*")
    return f"{table(head, rows)}\n\nA goal counts as reached at {roads.ARRIVED:g}. The first six and PPO's step 20 aim at π*."


TO_OPTIMUM = ("natural gradient", "DPO", "online DPO", "PPO, step 1", "PPO, step 20")
TO_OWN = ("SimPO", "KTO", "GRPO, k3 loss", "IPO", "RSO, γ = β/2")


def draw(numbers: Numbers, figure: "Figure") -> None:
    for axes, methods, goal in zip(figure.subplots(1, 2), (TO_OPTIMUM, TO_OWN), ("π*", "its own goal"), strict=True):
        for method in methods:
            road = numbers.taken[method]
            away = f" ({distance(road.end, numbers.optimum):.2f} from π*)" if methods is TO_OWN else ""
            axes.plot(np.arange(1, len(road.distances) + 1), np.maximum(road.distances, 1e-10), label=method + away)
        axes.set(xscale="log", yscale="log", ylim=(1e-10, 2), xlabel="steps + 1", ylabel=f"total variation to {goal}")
        axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _found(name: str, numbers: Numbers) -> Measured:
    return numbers.found[name]


TABLE = """
policy-gradient | Exact gradient ascent of J = E[R] - β KL(π || π_ref) in the logits, at a step of 4, reaches π*.
    | It reaches π* without the KL term too. | arXiv:2305.18290v3 eq. 3-4 | 0, 1e-8: total variation to π*
natural-gradient-one-step | One natural-gradient step of size 1/β goes from the reference to π* exactly.
    | One natural-gradient step of size 1 does. | arXiv:2305.18290v3 eq. 3-4; Fisher's matrix by summation
    | 0, 1e-12: total variation to π*
dpo | DPO with Bradley-Terry labels on all pairs reaches the π* of its own β.
    | DPO with half of that β reaches the same policy. | arXiv:2305.18290v3 eq. 4, 7 | 0, 1e-8: total variation to π*
reward-model | A reward model of greatest likelihood, then gradient ascent of J on its scores, reaches the true reward's π*.
    | It does so with a margin of 1 in the reward model's loss.
    | arXiv:2305.18290v3 eq. 2-3; margin: arXiv:2307.09288v2 eq. 2 | 0, 1e-8: total variation to π*
online-dpo | DPO on pairs sampled from the policy in training, their law held constant in each step, reaches π* with
    Bradley-Terry labels. | It reaches π* if the better response always wins. | arXiv:2402.04792v2 section 3
    | 0, 1e-8: total variation to π*
ppo | PPO with the KL term in its reward, exact values, 4 epochs a round and a step of 1 reaches π*, and clipping ends.
    | It does so with a step of 20. | arXiv:1707.06347v2 eq. 7
    | 0, 1e-8: total variation to π* or share of the last 100 rounds in which a ratio was clipped, the larger
ppo-clips-forever | With a step of 20 the same PPO still clips in every round.
    | With a step of 1 it still does, too. | arXiv:1707.06347v2 eq. 7
    | 1, 1: share of the last 100 rounds, of as many as a step of 1 needs, in which a ratio was clipped
entropy-equal | DPO ends with the same entropy as policy gradient on the same objective.
    | DPO with half of β does. | arXiv:2305.18290v3 eq. 3-7
    | 0, 1e-7: difference in nats, worst prompt; both stop within 1e-9 of π*, where log π > log 0.01
rso-law | What rejection sampling at β keeps of the reference's responses follows π*.
    | Rejection sampling at β/2 keeps the same law. | arXiv:2309.06657v2 eq. 14 | 0, 1e-12: largest difference from π*
rso-optimum | RSO's logistic loss with γ = β/2 and Bradley-Terry labels on pairs kept at β reaches π_ref e^{R/γ} / Z: γ decides,
    not the law of the pairs. | It reaches π*, the law of its pairs. | arXiv:2309.06657v2 eq. 8
    | 0, 1e-8: total variation to what is claimed
ipo | IPO on pairs drawn from μ×μ reaches π_ref e^{p(y beats μ)/β} / Z, with μ = π_ref.
    | It reaches π*. | arXiv:2310.12036v2 eq. 9, 17 | 0, 1e-8: total variation to what is claimed
simpo | SimPO with Bradley-Terry labels on one-token responses has one minimizer: descent and Newton's method from 8 starts
    agree. | That minimizer is π*. | arXiv:2405.14734v3 eq. 6 | 0, 1e-8: largest total variation from descent's end
simpo-hard-labels | If the better response always wins, SimPO has no minimizer: gaps of logits grow like log steps.
    | So it does if labels follow Bradley-Terry. | arXiv:2405.14734v3 eq. 6; arXiv:1710.10345 theorem 3
    | 0.95, 1.05: growth of β times the least gap between neighbours in reward, for each e-fold of steps; 1 in the limit
orpo | ORPO with Bradley-Terry labels on one-token responses has an interior optimum: descent and Newton's method from 8 starts
    agree. | That optimum is π*. | arXiv:2403.07691v2 eq. 6-7 | 0, 1e-8: largest total variation from descent's end
rloo-field | RLOO's expected gradient, with k1 in the reward, is ∇J at any policy, for groups of 2 and of 3.
    | With β k3 in the loss instead it is ∇J as well. | arXiv:2402.14740v2 section 2.3
    | 0, 1e-12: largest residual, in units of the field
dr-grpo-field | Dr. GRPO's expected gradient, with k1 in the reward, is (G-1)/G times ∇J, for groups of 2 and of 3.
    | It is ∇J. | arXiv:2503.20783v2 section 3.2 | 0, 1e-12: largest residual, in units of the field
dr-grpo-k3-optimum | With β k3 in the loss, Dr. GRPO goes to b π_ref / (λ - R), b = β G/(G-1), the maximum of
    E[R] - b KL(π_ref || π), for groups of 3. | It goes to π*.
    | arXiv:2402.03300v3 eq. 4; arXiv:2503.20783v2 section 3.2 | 0, 1e-8: total variation to what is claimed
grpo-reward-kl-fixed-point | With the KL term in the reward, GRPO's standardized field is zero at π*, where all penalized
    rewards are equal. | With β k3 in the loss it is zero there. | arXiv:2402.03300v3 section 4.1.2
    | 0, 1e-10: largest residual; rounding of 1e-16 in the rewards, over the 1e-4 added to a standard deviation of 0
grpo-k3-not-a-gradient | GRPO's expected update with β k3 in the loss is the gradient of no function: its Jacobian is not
    symmetric. | Without division by the standard deviation it is not symmetric either. | arXiv:2402.03300v3 eq. 3-4
    | 0.01, 2: at its zero, largest |J - Jᵀ| over largest |J|, groups of 3; differences of width 1e-5 leave 1e-9
kto-fixed-point | KTO's field is zero where π ∝ c σ'(β (log π/π_ref - KL(π || π_ref))) on the responses with c > 0,
    c = λ_D P(y, good) - λ_U P(y, bad). | That policy is also a zero for λ_D = 2. | arXiv:2402.01306v4 eq. 8
    | 0, 1e-12: largest residual, in units of the field
kto-descent | KTO's descent gives up responses with λ_D P(y, good) < λ_U P(y, bad) and comes within 0.002 of its fixed point
    in 3,000 steps. | It comes as near to π*. | arXiv:2402.01306v4 eq. 8 | 0, 2e-3: total variation to what is claimed
kto-imbalance | If only one in ten bad marks is kept, λ_U = 10 keeps KTO's fixed point.
    | λ_U = 1 keeps it. | arXiv:2402.01306v4 eq. 9 | 0, 1e-12: largest residual, in units of the field
sppo-mwu | At π_{t+1} ∝ π_t e^{P(y beats π_t)}, SPPO with η = 1 has the same residual for all responses, that of log Z.
    | So it has if log-ratios are taken against π_ref. | arXiv:2405.00675v4 eq. 4.7
    | 0, 1e-12: range of the slopes over responses, worst prompt
group-baseline-variance | RLOO's gradient has variance [(G-2) V + 2 (Var R - |∇|²)] / (G (G-1)), V being that of (R - E R)
    ∇log π (traces, in the logits), for groups of 2 and of 3. | From groups of 2 to groups of 3 it falls as 1/G.
    | arXiv:2402.14740v2 section 2.3; Hoeffding 1948 for the variance of a U-statistic
    | 0, 1e-12: largest residual, worst prompt
kl-estimators | k1 and k3 have mean KL(π || π_ref); as a loss k1 has mean slope 0, k2 that of KL(π || π_ref), k3 that of
    KL(π_ref || π). | As a loss k3 has the mean slope of KL(π || π_ref). | Schulman 2020, Approximating KL divergence
    | 0, 1e-12: largest residual
sampled-rloo | Sampled RLOO gradients of groups of 4, with k1 in the reward, are ∇J on average, along ∇J.
    | Sampled Dr. GRPO gradients are. | arXiv:2402.14740v2 section 2.3
    | 0.95, 1.05: mean over 40,000 groups, in units of ∇J; 0.05 is a fifth of the bias of the false variant
"""
MEASURES = {name: partial(_found, name) for name, *_ in rows(TABLE)}
STATEMENTS = stated("toy.all-roads", TABLE, MEASURES)
EXPERIMENT = Experiment("Which roads lead to π*, and where the others lead", run, report, draw, STATEMENTS, (9.0, 4.0))
