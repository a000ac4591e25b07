"""Length: who learns that labellers like long responses, and which losses remove it.

Twelve responses of quality q and length ℓ tokens, independent of each other under the reference. Labellers like length too:

    P(y_w beats y_l) = σ(R(y_w) - R(y_l)),    R = q + b ℓ            b nats of preference for each token
    wanted:   π_ref e^{q/β} / Z                                       as long on average as the reference

    DPO            σ(β (ρ_w - ρ_l))                   ρ = log(π/π_ref), summed over tokens: arXiv:2305.18290v3 equation 7
    normalized     σ(β (ρ_w/ℓ_w - ρ_l/ℓ_l))           the same on means over tokens
    SimPO          σ(β (a_w - a_l) - γ)               a = log π/ℓ: arXiv:2405.14734v3 equation 6
    R-DPO          σ(β (ρ_w - ρ_l) + α (ℓ_w - ℓ_l))   arXiv:2403.19159: the optimum of the reward R - α ℓ

On exact labels the argument of σ ends at logit P, where it can: DPO at π_ref e^{(q + bℓ)/β} / Z, R-DPO at the same with b - α
for b, normalized DPO at π_ref e^{ℓ (R + c)/β} with the c that makes it sum to 1. SimPO's optimum has no closed form.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minipref import bradley_terry, dpo, simpo
from minipref.arrays import softmax

from .bandit import Array, PairLoss, Slopes, descend, pair_gradient, preferences, total_variation
from .experiment import Experiment, Measured, Reading, Statement, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555"
LENGTHS = np.tile([4.0, 8.0, 12.0, 16.0], 3)
REFERENCE = np.log(np.exp(-LENGTHS / 8) / np.exp(-LENGTHS / 8).sum())[None]
PAIRS = (1 - np.eye(12))[None] / 132
CHOSEN, REJECTED = LENGTHS[np.nonzero(PAIRS)[1]], LENGTHS[np.nonzero(PAIRS)[2]]  # in the order of `over_pairs`
BETA, TOKEN_BETA = 0.5, 5.0  # on sums, and on means over about ten tokens
BIASES = np.linspace(0, 0.1, 6)
EDGE = 0.1  # nats a token


DPO = partial(dpo.formula, beta=BETA)


def normalized(up: Array, down: Array, reference_up: Array, reference_down: Array, long: Array, other: Array) -> Slopes:
    """DPO on mean log-ratios of pairs with `long` and `other` tokens; slopes in the sums."""
    pair = dpo.formula(up / long, down / other, reference_up / long, reference_down / other, TOKEN_BETA)
    return Slopes(pair.losses, pair.grad_policy_chosen_logps / long, pair.grad_policy_rejected_logps / other)


def simple(up: Array, down: Array, _: Array, __: Array, long: Array, other: Array) -> Slopes:
    """SimPO on the same pairs."""
    return Slopes(*simpo.formula(up, down, long, other, TOKEN_BETA, 0.5))


def r_dpo(up: Array, down: Array, reference_up: Array, reference_down: Array, alpha: float) -> Slopes:
    """DPO with a term in the length, on all pairs."""
    scores = BETA * (up - reference_up) + alpha * CHOSEN, BETA * (down - reference_down) + alpha * REJECTED
    losses, slope_up, slope_down = bradley_terry.formula(*scores, 0.0)
    return Slopes(losses, BETA * slope_up, BETA * slope_down)


def methods(bias: float) -> dict[str, PairLoss]:
    """R-DPO knows the bias."""
    tokens = {"long": CHOSEN, "other": REJECTED}
    return {
        "DPO": DPO,
        "normalized DPO": partial(normalized, **tokens),
        "SimPO": partial(simple, **tokens),
        "R-DPO, α = b": partial(r_dpo, alpha=bias),
    }


def solve(loss: PairLoss, rewards: Array) -> Array:
    """The policy [12] that minimizes the loss under exact labels, all pairs alike."""
    weights = preferences(rewards[None]) * PAIRS
    return softmax(descend(lambda z: pair_gradient(loss, z, REFERENCE, weights), REFERENCE, 25.0, 5000, enough=1e-13))[0]


def normalized_optimum(rewards: Array) -> Array:
    """π_ref e^{ℓ (R + c)/β} [12], c by bisection."""
    low, high = -rewards.max(), -rewards.min()
    for _ in range(100):
        c = (low + high) / 2
        policy = np.exp(REFERENCE[0] + LENGTHS * (rewards + c) / TOKEN_BETA)
        low, high = (low, c) if policy.sum() > 1 else (c, high)
    return policy


class Numbers(NamedTuple):
    qualities: Array  # [12]
    policies: dict[str, Array]  # [BIASES, 12]
    half: Array  # [12], R-DPO with half the bias as α, at the largest bias
    edges: dict[str, Array]  # loss of pairs of 4, 8, 12, 16 tokens [4] when each token has the same edge

    def rewards(self, bias: float) -> Array:
        return self.qualities + bias * LENGTHS

    def ideal(self, bias: float = 0.0) -> Array:
        """π_ref e^{R/β} / Z [12]."""
        return softmax(REFERENCE[0] + self.rewards(bias) / BETA)


def run(seed: int) -> Numbers:
    qualities = np.repeat([-0.6, 0.0, 0.6] + np.random.default_rng(seed).uniform(-0.1, 0.1, 3), 4)
    found = [{name: solve(loss, qualities + b * LENGTHS) for name, loss in methods(b).items()} for b in BIASES]
    policies = {name: np.array([policy[name] for policy in found]) for name in found[0]}
    half = solve(partial(r_dpo, alpha=BIASES[-1] / 2), qualities + BIASES[-1] * LENGTHS)
    return Numbers(qualities, policies, half, equal_edges())


def equal_edges() -> dict[str, Array]:
    """Both responses have ℓ tokens of log-probability -1 under the reference, -1 ± EDGE under the policy."""
    tokens = LENGTHS[:4]
    pair = (EDGE - 1) * tokens, (-EDGE - 1) * tokens, -tokens, -tokens
    one = np.ones(4)
    return {
        "DPO": DPO(*pair).losses,
        "normalized DPO": normalized(*pair, tokens, tokens).losses,
        "SimPO": simple(*pair, tokens, tokens).losses,
        "SimPO on sums": simple(*pair, one, one).losses,
    }


def price(policy: Array) -> Array:
    """What a token adds to β log(π/π_ref), from 4 to 16 tokens, at each quality: [12] -> [3]."""
    rewards = BETA * (np.log(policy) - REFERENCE[0]).reshape(3, 4)
    return (rewards[:, -1] - rewards[:, 0]) / 12


def spread(losses: Array) -> Reading:
    """Largest over smallest, less 1."""
    return Reading(float(losses.max() / losses.min() - 1))


def distance(policy: Array, target: Array) -> Reading:
    return Reading(total_variation(policy[None], target[None]))


def report(numbers: Numbers) -> str:
    rows = []
    for name, policies in numbers.policies.items():
        ends = policies[[0, -1]]
        rows.append(
            (
                name,
                *map(float, ends @ LENGTHS),
                *map(float, ends @ numbers.qualities),
                *map(float, price(ends[1]).round(9) + 0.0),
            )
        )
    wanted = numbers.ideal()
    rows.append(("wanted", *[float(wanted @ LENGTHS)] * 2, *[float(wanted @ numbers.qualities)] * 2, 0.0, 0.0, 0.0))
    head = (
        "",
        "length, b = 0",
        f"b = {BIASES[-1]:g}",
        "quality, b = 0",
        f"b = {BIASES[-1]:g}",
        "price, poor",
        "middling",
        "good",
    )
    losses = [(name, *map(float, numbers.edges[name])) for name in numbers.edges]
    return (
        "Optimum of each method: expected length in tokens, expected quality, and the price of a token: what it adds to\n"
        f"β log(π/π_ref) at b = {BIASES[-1]:g}, by quality. The reference has {np.exp(REFERENCE[0]) @ LENGTHS:.3g} tokens.\n\n"
        f"{table(head, rows)}\n\nLoss of a pair where every token has an edge of {EDGE} nats, by its tokens.\n\n"
        f"{table(('', '4', '8', '12', '16'), losses)}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    edges, prices, lengths = figure.subplots(1, 3)
    for name, colour in zip(("DPO", "normalized DPO", "SimPO"), COLOURS, strict=False):
        edges.plot(LENGTHS[:4], numbers.edges[name], "o-", color=colour)
    draw_prices(numbers, prices)
    for (name, policies), colour in zip(numbers.policies.items(), COLOURS, strict=False):
        lengths.plot(BIASES, policies @ LENGTHS, "o-", color=colour, label=name)
    lengths.axhline(np.exp(REFERENCE[0]) @ LENGTHS, color=COLOURS[4], ls=":", label="reference")
    edges.set(
        title="same edge in every token",
        xlabel="tokens of both responses",
        ylabel="loss (nats)",
        ylim=(0, 0.6),
        xticks=LENGTHS[:4],
    )
    lengths.set(
        title="labellers who like length", xlabel="b (nats a token)", ylabel="expected length (tokens)", xticks=[0, 0.05, 0.1]
    )
    figure.legend(*lengths.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def draw_prices(numbers: Numbers, axes: "Axes") -> None:
    for k, (policies, colour) in enumerate(zip(numbers.policies.values(), COLOURS, strict=False)):
        axes.plot(["poor", "middling", "good"], price(policies[-1]), "o-", color=colour, zorder=4 - k)
    axes.set(title=f"learned price of a token, b = {BIASES[-1]:g}", xlabel="quality of the response", ylabel="nats a token")


EXPERIMENT = Experiment(
    "length: learned from labellers, and what removes it",
    run,
    report,
    draw,
    (
        Statement(
            "toy.length.dpo-exploits",
            "If labellers like each token by b nats, DPO's implicit reward does too, at every quality: its optimum is "
            "π_ref e^{(q + bℓ)/β} / Z.",
            "arXiv:2305.18290v3 eq. 4-7",
            "It depends on quality alone.",
            (0.0, 1e-9),
            "largest distance of the learned price of a token from b, over qualities and b from 0 to 0.1; descent to slopes of "
            "1e-13",
            lambda n: Measured(
                Reading.worst(*(price(policy) - b for policy, b in zip(n.policies["DPO"], BIASES, strict=True))),
                Reading.worst(*(price(policy) for policy in n.policies["DPO"])),
                {"expected lengths": n.policies["DPO"] @ LENGTHS},
            ),
        ),
        Statement(
            "toy.length.r-dpo-removes",
            "R-DPO removes the labellers' bias exactly if α is that bias: its optimum is π_ref e^{q/β} / Z.",
            "arXiv:2403.19159, length-regularized DPO",
            "It does with half of it.",
            (0.0, 1e-9),
            "total variation to that policy at b = 0.1; descent to slopes of 1e-13",
            lambda n: Measured(distance(n.policies["R-DPO, α = b"][-1], n.ideal()), distance(n.half, n.ideal())),
        ),
        Statement(
            "toy.length.normalized-removes",
            "Means over tokens remove length from the loss: pairs of any length with the same edge in every token have "
            "the same loss under length-normalized DPO.",
            "arXiv:2305.18290v3 eq. 7, on means over tokens",
            "Under DPO they have, too.",
            (0.0, 1e-12),
            "largest loss over smallest, less 1, for pairs of 4 to 16 tokens; rounding",
            lambda n: Measured(spread(n.edges["normalized DPO"]), spread(n.edges["DPO"])),
        ),
        Statement(
            "toy.length.simpo-removes",
            "So they have under SimPO: it is the mean that does it.",
            "arXiv:2405.14734v3 eq. 6",
            "It is the missing reference that does it: SimPO on sums.",
            (0.0, 1e-12),
            "largest loss over smallest, less 1, for pairs of 4 to 16 tokens; rounding",
            lambda n: Measured(spread(n.edges["SimPO"]), spread(n.edges["SimPO on sums"])),
        ),
        Statement(
            "toy.length.normalized-bends",
            "Means over tokens do not remove length from the policy. Length-normalized DPO ends at π_ref e^{ℓ (R + c)/β}: even "
            "where labellers ignore length, it makes good responses longer and bad ones shorter.",
            "the equations of this file, from arXiv:2305.18290v3 eq. 7",
            "Where labellers ignore length, it ends at π_ref e^{q/β} / Z.",
            (0.0, 1e-9),
            "total variation to that policy at b = 0; descent to slopes of 1e-13",
            lambda n: Measured(
                distance(n.policies["normalized DPO"][0], normalized_optimum(n.rewards(0.0))),
                distance(n.policies["normalized DPO"][0], n.ideal()),
            ),
        ),
        Statement(
            "toy.length.simpo-follows",
            "SimPO does not remove the labellers' bias either: the more they like length, the longer its responses.",
            "arXiv:2405.14734v3 eq. 6",
            "R-DPO, which knows the bias.",
            (0.1, 16.0),
            "smallest rise of the expected length, in tokens, for a rise of b by 0.02; margin: a tenth of a token",
            lambda n: Measured(
                Reading(float(np.diff(n.policies["SimPO"] @ LENGTHS).min())),
                Reading(float(np.diff(n.policies["R-DPO, α = b"] @ LENGTHS).min())),
            ),
        ),
    ),
    size=(9.0, 4.0),
)
