"""Length: what labellers who like long responses teach, and which losses remove it.

Twelve responses of quality q and length ℓ tokens, independent of each other under the reference. Labellers like length too:

    P(y_w beats y_l) = σ(R(y_w) - R(y_l)),    R = q + b ℓ            b nats of preference for each token
    wanted:   π_ref e^{q/β} / Z                                       as long on average as the reference

    DPO            σ(β (ρ_w - ρ_l))                   ρ = log(π/π_ref), summed over tokens: arXiv:2305.18290v3 equation 7
    normalized     σ(β (ρ_w/ℓ_w - ρ_l/ℓ_l))           the same on means over tokens
    SimPO          σ(β (a_w - a_l) - γ)               a = log π/ℓ: arXiv:2405.14734v3 equation 6
    R-DPO          σ(β (ρ_w - ρ_l) + α (ℓ_w - ℓ_l))   arXiv:2403.19159: the optimum of the reward R - α ℓ

On exact labels of all pairs the argument of σ ends at the labels' R(y_w) - R(y_l), where a policy allows it: DPO at
π_ref e^{(q + bℓ)/β} / Z, R-DPO at the same with b - α for b, normalized DPO at π_ref e^{ℓ (R + c)/β} with the c that makes it
sum to 1. SimPO's optimum has no closed form.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minipref import dpo, simpo
from minipref.arrays import softmax

from .bandit import Array, PairLoss, Slopes, descend, of_lengths_one, pair_gradient, preferences, total_variation
from .experiment import Experiment, Measured, Reading, stated, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS = np.tile([4.0, 8.0, 12.0, 16.0], 3)  # of poor, middling and good responses
REFERENCE = np.log(np.exp(-LENGTHS / 8) / np.exp(-LENGTHS / 8).sum())
PAIRS = (1 - np.eye(12))[None] / 132
CHOSEN, REJECTED = LENGTHS[np.nonzero(PAIRS)[1]], LENGTHS[np.nonzero(PAIRS)[2]]  # [132], in the order of `over_pairs`
BETA, TOKEN_BETA = 0.5, 5.0  # on sums, and on means over about ten tokens
BIASES = np.linspace(0, 0.1, 6)
EDGE = 0.1  # nats a token
DPO = partial(dpo.formula, beta=BETA)


def normalized(chosen: Array, rejected: Array, chosen_reference: Array, rejected_reference: Array) -> Slopes:
    """DPO on means over tokens, its slopes in the sums."""
    means = chosen / CHOSEN, rejected / REJECTED, chosen_reference / CHOSEN, rejected_reference / REJECTED
    pair = dpo.formula(*means, beta=TOKEN_BETA)
    return Slopes(pair.losses, pair.grad_policy_chosen_logps / CHOSEN, pair.grad_policy_rejected_logps / REJECTED)


def simple(chosen: Array, rejected: Array, *_: Array) -> Any:
    """SimPO."""
    return simpo.formula(chosen, rejected, CHOSEN, REJECTED, TOKEN_BETA, 0.5)


def r_dpo(chosen: Array, rejected: Array, *references: Array, alpha: float) -> Any:
    """DPO with a term in the length: as if the policy gave each token α/β nats more."""
    more = alpha / BETA
    return DPO(chosen + more * CHOSEN, rejected + more * REJECTED, *references)


LOSSES: dict[str, PairLoss] = {"DPO": DPO, "normalized DPO": normalized, "SimPO": simple}
SIMPO_ON_SUMS = of_lengths_one(simpo.formula, beta=TOKEN_BETA, gamma=0.5)


def solve(loss: PairLoss, rewards: Array) -> Array:
    """The policy [12] that minimizes the loss under exact labels, all pairs alike."""
    reference, weights = REFERENCE[None], preferences(rewards[None]) * PAIRS
    return softmax(descend(lambda z: pair_gradient(loss, z, reference, weights), reference, 25.0, 5000, enough=1e-13))[0]


def normalized_optimum(rewards: Array) -> Array:
    """π_ref e^{ℓ (R + c)/β} [12], c by bisection."""
    low, high = -rewards.max(), -rewards.min()
    for _ in range(100):
        c = (low + high) / 2
        policy = np.exp(REFERENCE + LENGTHS * (rewards + c) / TOKEN_BETA)
        low, high = (low, c) if policy.sum() > 1 else (c, high)
    return policy


def same_edge(loss: PairLoss) -> Array:
    """Losses [132] where each token has log-probability -1 under the reference, and under the policy -1 ± EDGE."""
    return np.array(loss((EDGE - 1) * CHOSEN, (-EDGE - 1) * REJECTED, -CHOSEN, -REJECTED).losses)


class Numbers(NamedTuple):
    qualities: Array  # [12]
    policies: dict[str, Array]  # [BIASES, 12]; R-DPO with all of the bias as its α, or with half of it
    losses: dict[str, Array]  # [132], by `same_edge`

    def tilted(self, bias: float) -> Array:
        """π_ref e^{(q + bℓ)/β} / Z [12]."""
        return softmax(REFERENCE + (self.qualities + bias * LENGTHS) / BETA)


def run(seed: int) -> Numbers:
    qualities = np.repeat([-0.6, 0.0, 0.6] + np.random.default_rng(seed).uniform(-0.1, 0.1, 3), 4)
    found = []
    for bias in BIASES:
        losses = LOSSES | {"R-DPO, α = b": partial(r_dpo, alpha=bias), "R-DPO, α = b/2": partial(r_dpo, alpha=bias / 2)}
        found.append([solve(loss, qualities + bias * LENGTHS) for loss in losses.values()])
    policies = dict(zip(losses, np.array(found).swapaxes(0, 1), strict=True))
    edges = {name: same_edge(loss) for name, loss in (LOSSES | {"SimPO on sums": SIMPO_ON_SUMS}).items()}
    return Numbers(qualities, policies, edges)


def lengths_by_quality(policy: Array) -> Array:
    """Expected length [3] of a response that is poor, middling, good: of probabilities [12]."""
    parts = policy.reshape(3, 4)
    return parts @ LENGTHS[:4] / parts.sum(1)


def spread(losses: Array) -> Reading:
    """Largest over smallest, less 1."""
    return Reading(float(losses.max() / losses.min() - 1))


def distance(policies: Array, *targets: Array) -> Reading:
    """Largest total variation between policies and targets [B, 12]."""
    return Reading(total_variation(policies, np.array(targets)))


def least_rise(policies: Array) -> Reading:
    """Smallest change of the expected length from one bias to the next."""
    return Reading(float(np.diff(policies @ LENGTHS).min()))


def report(numbers: Numbers) -> str:
    head = ("", f"b = {BIASES[-1]:g}", "b = 0", "poor", "middling", "good")
    rows = [(name, p[-1] @ LENGTHS, p[0] @ LENGTHS, *lengths_by_quality(p[0])) for name, p in numbers.policies.items()]
    return (
        "Expected length in tokens at the optimum of each method: of all responses if labellers like length and if not, and\n"
        f"then by quality. The reference has {np.exp(REFERENCE) @ LENGTHS:.3f}.\n\n{table(head, rows)}"
    )


def draw(numbers: Numbers, figure: "Figure") -> None:
    edges, qualities, lengths = figure.subplots(1, 3)
    for name in LOSSES:  # R-DPO with α = 0 is DPO
        edges.plot(CHOSEN + REJECTED, numbers.losses[name], "o")
        qualities.plot(["poor", "middling", "good"], lengths_by_quality(numbers.policies[name][0]), "o-")
    for name, policies in numbers.policies.items():
        lengths.plot(BIASES, policies @ LENGTHS, "o-", label=name)
    lengths.axhline(np.exp(REFERENCE) @ LENGTHS, color="black", ls=":", label="reference")
    edges.set(title="same edge in every token", xlabel="tokens of both responses", ylabel="loss (nats)", ylim=(0, 0.6))
    qualities.set(title="labellers ignore length, b = 0", xlabel="quality of the response", ylabel="expected length (tokens)")
    lengths.set(title="labellers like length", xlabel="b (nats a token)", ylabel="expected length (tokens)")
    lengths.set(xticks=[0, 0.05, 0.1])
    figure.legend(*lengths.get_legend_handles_labels(), loc="outside lower center", ncols=6)


TABLE = """
dpo-exploits | If labellers like each token by b nats, so does DPO's implicit reward, at every quality: its optimum is π_ref
    e^{(q + bℓ)/β} / Z. | It depends on quality alone: π_ref e^{q/β} / Z. | arXiv:2305.18290v3 eq. 4-7
    | 0, 1e-9: largest total variation to that policy, b from 0 to 0.1; descent to slopes of 1e-13
r-dpo-removes | R-DPO removes the labellers' bias exactly where its α is that bias b: its optimum is π_ref e^{q/β} / Z.
    | It does with half of it. | arXiv:2403.19159, length-regularized DPO
    | 0, 1e-9: largest total variation to that policy, b from 0 to 0.1; descent to slopes of 1e-13
normalized-removes | Means over tokens remove length from the loss: pairs of any two lengths with the same edge in every token
    have the same loss under length-normalized DPO. | Under DPO they have, too. | arXiv:2305.18290v3 eq. 7, on means over tokens
    | 0, 1e-12: largest loss over smallest, less 1, for pairs of 4 to 16 tokens; rounding
simpo-removes | Pairs of any two lengths with the same edge in every token have the same loss under SimPO: the mean does it.
    | It is the missing reference that does it: SimPO on sums. | arXiv:2405.14734v3 eq. 6
    | 0, 1e-12: largest loss over smallest, less 1, for pairs of 4 to 16 tokens; rounding
normalized-bends | Means over tokens do not remove length from the policy. Length-normalized DPO ends at π_ref e^{ℓ (R + c)/β}:
    even where labellers ignore length, it makes good responses longer and bad ones shorter.
    | Where labellers ignore length, it ends at π_ref e^{q/β} / Z. | the equations of this file, from arXiv:2305.18290v3 eq. 7
    | 0, 1e-9: total variation to that policy at b = 0; descent to slopes of 1e-13
simpo-follows | SimPO does not remove the labellers' bias either: the more they like length, the longer its responses.
    | So are R-DPO's, which is told the bias. | arXiv:2405.14734v3 eq. 6
    | 0.1, 16: smallest rise of the expected length, in tokens, for a rise of b by 0.02; margin: a tenth of a token
"""
MEASURES = {
    "dpo-exploits": lambda n: Measured(
        distance(n.policies["DPO"], *map(n.tilted, BIASES)), distance(n.policies["DPO"], n.tilted(0.0))
    ),
    "r-dpo-removes": lambda n: Measured(
        distance(n.policies["R-DPO, α = b"], n.tilted(0.0)), distance(n.policies["R-DPO, α = b/2"], n.tilted(0.0))
    ),
    "normalized-removes": lambda n: Measured(spread(n.losses["normalized DPO"]), spread(n.losses["DPO"])),
    "simpo-removes": lambda n: Measured(spread(n.losses["SimPO"]), spread(n.losses["SimPO on sums"])),
    "normalized-bends": lambda n: Measured(
        distance(n.policies["normalized DPO"][:1], normalized_optimum(n.qualities)),
        distance(n.policies["normalized DPO"][:1], n.tilted(0.0)),
        {"length of poor, middling, good responses": lengths_by_quality(n.policies["normalized DPO"][0])},
    ),
    "simpo-follows": lambda n: Measured(least_rise(n.policies["SimPO"]), least_rise(n.policies["R-DPO, α = b"])),
}
STATEMENTS = stated("toy.length", TABLE, MEASURES)
EXPERIMENT = Experiment("How length is learned from labellers, and what removes it", run, report, draw, STATEMENTS, (9.0, 4.0))
