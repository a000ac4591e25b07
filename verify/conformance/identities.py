"""What an operation is known by: statements about one method, measured on the implementation's own answers.

Each function below takes `ask(operation, **inputs) -> outputs` and an ordinary case x, and yields pairs that should agree, with
the size of what was added up to get them. They agree when |left - right| <= 256 u · size: four times the factor of a single
operation, since several are combined. The docstring is the statement; `needs` names other operations that it compares with.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from verify import cases
from verify.claims import Claim, Evidence, Run
from verify.contract import CONTRACTS, Contract
from verify.subject import Failure, Inputs, NoAnswer, Result, Undeclared

FACTOR = 256
CASES = 4

Ask = Callable[..., Mapping[str, np.ndarray]]
Pairs = Iterable[tuple[Any, Any, Any]]
Measure = Callable[[Ask, Inputs], Pairs]


class Identity(NamedTuple):
    name: str
    measure: Measure
    needs: tuple[str, ...]


IDENTITIES: dict[str, list[Identity]] = {}


def identity(name: str, *needs: str) -> Callable[[Measure], Measure]:
    """Register a statement as `operation.word`."""

    def register(measure: Measure) -> Measure:
        IDENTITIES.setdefault(name.split(".")[0], []).append(Identity(name, measure, needs))
        return measure

    return register


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def size(x: Inputs) -> np.ndarray:
    """1 + β Σ |log-probabilities|, example by example: what every margin is a sum of."""
    return 1 + x.get("beta", 1.0) * sum(np.abs(v) for name, v in x.items() if name.endswith("logps"))


def at_reference(x: Inputs) -> Inputs:
    """The same case with the policy equal to its reference: step 0 of every training."""
    return {name: x.get(name.replace("policy", "reference"), value) for name, value in x.items()}


def swapped(x: Inputs) -> Inputs:
    """The same pairs with the labels flipped."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    return {"_".join(other.get(word, word) for word in name.split("_")): value for name, value in x.items()}


def without(x: Inputs, *names: str) -> Inputs:
    return {name: value for name, value in x.items() if name not in names}


@identity("bradley_terry.probabilities")
def bradley_terry_probabilities(ask: Ask, x: Inputs) -> Pairs:
    """The two outcomes of a pair have probabilities that sum to 1."""
    win, loss = ask("bradley_terry", **x)["losses"], ask("bradley_terry", **{**swapped(x), "margin": -x["margin"]})["losses"]
    yield np.exp(-win) + np.exp(-loss), 1.0, 1 + np.abs(x["chosen_rewards"]) + np.abs(x["rejected_rewards"]) + abs(x["margin"])


@identity("plackett_luce.shift")
def plackett_luce_shift(ask: Ask, x: Inputs) -> Pairs:
    """A reward that depends on the prompt alone changes no ranking: gradients sum to 0."""
    spread = 1 + np.max(np.abs(x["rewards"]))
    yield ask("plackett_luce", **x)["grad_rewards"].sum(axis=1), 0.0, spread * x["rewards"].shape[1]


@identity("plackett_luce.pairs", "bradley_terry")
def plackett_luce_pairs(ask: Ask, x: Inputs) -> Pairs:
    """Rankings of two are Bradley-Terry pairs."""
    pair = x["rewards"][:, :2]
    alone = ask("bradley_terry", chosen_rewards=pair[:, 0], rejected_rewards=pair[:, 1], margin=0.0)["losses"]
    yield ask("plackett_luce", rewards=pair)["losses"], alone, 1 + np.abs(pair).sum(axis=1)


@identity("optimal_policy.normalized")
def optimal_policy_normalized(ask: Ask, x: Inputs) -> Pairs:
    """The optimum is a distribution: its probabilities sum to 1."""
    tilts = np.max(np.abs(x["reference_logps"]) + np.abs(x["rewards"] / x["beta"]), axis=1)
    yield np.exp(ask("optimal_policy", **x)["logps"]).sum(axis=1), 1.0, 1 + tilts


@identity("kl_regularized_objective.optimum", "optimal_policy")
def kl_regularized_objective_optimum(ask: Ask, x: Inputs) -> Pairs:
    """At the closed-form optimum the objective is β log Z and its gradient 0."""
    x = {**x, "reference_logps": x["reference_logps"] - np.log(np.exp(x["reference_logps"]).sum(axis=1, keepdims=True))}
    best = ask("optimal_policy", **without(x, "policy_logits"))
    at_best = ask("kl_regularized_objective", **{**x, "policy_logits": best["logps"].astype(np.float64)})
    surprise = 1 + np.max(np.abs(x["reference_logps"] + best["logps"]), axis=1)
    scale = np.max(np.abs(x["rewards"]), axis=1) + x["beta"] * surprise
    yield at_best["objective"], x["beta"] * best["log_partition"], 2 * scale
    yield at_best["grad_policy_logits"], 0.0, 2 * scale[:, None]


@identity("dpo.step-zero")
def dpo_step_zero(ask: Ask, x: Inputs) -> Pairs:
    """At policy = reference the loss is log 2 and the slope β/2, whatever the reference prefers."""
    start = ask("dpo", **at_reference(x))
    yield start["losses"], np.log(2), 1.0
    yield start["grad_policy_rejected_logps"], x["beta"] / 2, x["beta"]


@identity("dpo.gradient-weight")
def dpo_gradient_weight(ask: Ask, x: Inputs) -> Pairs:
    """The gradient is β times σ(r̂_l - r̂_w): large where the implicit rewards rank the pair wrongly."""
    got = ask("dpo", **x)
    weight = x["beta"] * sigmoid(got["rejected_rewards"] - got["chosen_rewards"])
    yield -got["grad_policy_chosen_logps"], weight, x["beta"] * size(x)
    yield got["grad_policy_rejected_logps"], weight, x["beta"] * size(x)


@identity("dpo.level")
def dpo_level(ask: Ask, x: Inputs) -> Pairs:
    """Lowering both log-probabilities of a pair alike changes nothing: DPO does not control their level."""
    lowered = {name: value - 2.0 if name.startswith("policy") else value for name, value in x.items()}
    yield ask("dpo", **lowered)["losses"], ask("dpo", **x)["losses"], size(lowered) + size(x)


@identity("cdpo.tilt", "dpo")
def cdpo_tilt(ask: Ask, x: Inputs) -> Pairs:
    """Conservative DPO is DPO plus ε times the margin."""
    plain = ask("dpo", **without(x, "label_smoothing"))
    tilt = x["label_smoothing"] * (plain["chosen_rewards"] - plain["rejected_rewards"])
    yield ask("cdpo", **x)["losses"], plain["losses"] + tilt, size(x)


@identity("robust_dpo.unbiased", "dpo")
def robust_dpo_unbiased(ask: Ask, x: Inputs) -> Pairs:
    """Averaged over labels flipped at its rate, robust DPO is DPO on clean labels."""
    rate = x["label_smoothing"]
    mixed = (1 - rate) * ask("robust_dpo", **x)["losses"] + rate * ask("robust_dpo", **swapped(x))["losses"]
    yield mixed, ask("dpo", **without(x, "label_smoothing"))["losses"], size(x) / (1 - 2 * rate)


@identity("plackett_luce_dpo.pairs", "dpo")
def plackett_luce_dpo_pairs(ask: Ask, x: Inputs) -> Pairs:
    """Rankings of two are DPO's pairs."""
    two = {name: value[:, :2] if np.ndim(value) else value for name, value in x.items()}
    sides = enumerate(("chosen", "rejected"))
    pair = {f"{model}_{side}_logps": two[f"{model}_logps"][:, k] for k, side in sides for model in ("policy", "reference")}
    pair["beta"] = x["beta"]
    yield ask("plackett_luce_dpo", **two)["losses"], ask("dpo", **pair)["losses"], size(pair)


@identity("ipo.target")
def ipo_target(ask: Ask, x: Inputs) -> Pairs:
    """The slope vanishes where the gap of the log-ratios is 1/(2β)."""
    rejected_ratios = x["policy_rejected_logps"] - x["reference_rejected_logps"]
    at_target = {**x, "policy_chosen_logps": x["reference_chosen_logps"] + rejected_ratios + 1 / (2 * x["beta"])}
    yield ask("ipo", **at_target)["grad_policy_chosen_logps"], 0.0, 2 * (size({**at_target, "beta": 1.0}) + 1 / x["beta"])


@identity("ipo_length_normalized.one-token", "ipo")
def ipo_length_normalized_one_token(ask: Ask, x: Inputs) -> Pairs:
    """With responses of one token, means are sums."""
    ones = np.ones_like(x["chosen_lengths"])
    means = ask("ipo_length_normalized", **{**x, "chosen_lengths": ones, "rejected_lengths": ones})
    sums = ask("ipo", **without(x, "chosen_lengths", "rejected_lengths"))
    scale = (size({**x, "beta": 1.0}) + 1 / x["beta"]) ** 2
    yield means["losses"], sums["losses"], scale


@identity("rso_hinge.step-zero")
def rso_hinge_step_zero(ask: Ask, x: Inputs) -> Pairs:
    """At policy = reference the loss is 1 and the slope all of β."""
    start = ask("rso_hinge", **at_reference(x))
    yield start["losses"], 1.0, 1.0
    yield start["grad_policy_rejected_logps"], x["beta"], x["beta"]


@identity("kto.step-zero")
def kto_step_zero(ask: Ask, x: Inputs) -> Pairs:
    """At policy = reference, and so a reference point of 0, each response loses half its weight."""
    weights = np.asarray(np.where(x["desirable"], x["desirable_weight"], x["undesirable_weight"]))
    yield ask("kto", **{**at_reference(x), "reference_point": 0.0})["losses"], 0.5 * weights, weights


@identity("kto.mirror")
def kto_mirror(ask: Ask, x: Inputs) -> Pairs:
    """With equal weights a thumb down at z_0 - t loses what a thumb up loses at z_0 + t: no loss aversion built in."""
    up = {**x, "desirable": np.ones_like(x["desirable"]), "undesirable_weight": x["desirable_weight"]}
    reflected = 2 * (x["reference_logps"] + x["reference_point"]) - x["policy_logps"]
    down = {**up, "desirable": np.zeros_like(x["desirable"]), "policy_logps": reflected}
    scale = x["desirable_weight"] * (size(up) + size(down) + x["beta"] * x["reference_point"])
    yield ask("kto", **up)["losses"], ask("kto", **down)["losses"], scale


@identity("kto_reference_point.floor")
def kto_reference_point_floor(ask: Ask, x: Inputs) -> Pairs:
    """max(0, m) - max(0, -m) is the mean log-ratio m, and one of the two is 0."""
    policy, reference = x["policy_mismatched_logps"], x["reference_mismatched_logps"]
    there = ask("kto_reference_point", **x)["reference_point"]
    back = ask("kto_reference_point", policy_mismatched_logps=reference, reference_mismatched_logps=policy)["reference_point"]
    scale = np.mean(np.abs(policy) + np.abs(reference)) * len(policy)
    yield there - back, np.mean(policy - reference), scale
    yield there * back, 0.0, scale


@identity("orpo.sum")
def orpo_sum(ask: Ask, x: Inputs) -> Pairs:
    """The loss is the chosen response's mean negative log-likelihood minus λ log σ of the reported log odds ratio."""
    got, mean = ask("orpo", **x), x["policy_chosen_logps"] / x["chosen_lengths"]
    odds_term = np.logaddexp(0.0, -got["log_odds_ratio"].astype(np.float64))
    yield got["losses"], -mean + x["odds_weight"] * odds_term, (1 + x["odds_weight"]) * (1 + np.abs(mean) + odds_term)


@identity("simpo.equal-means")
def simpo_equal_means(ask: Ask, x: Inputs) -> Pairs:
    """Between responses of equal mean the loss is log(1 + e^γ): the margin is not yet met."""
    level = {f"policy_{side}_logps": -1.0 * x[f"{side}_lengths"] for side in ("chosen", "rejected")}
    yield ask("simpo", **{**x, **level})["losses"], np.logaddexp(0.0, x["gamma"]), 1 + abs(x["gamma"]) + 2 * x["beta"]


@identity("sppo.target")
def sppo_target(ask: Ask, x: Inputs) -> Pairs:
    """The slope vanishes where the log-ratio is η (P - 1/2)."""
    target = x["reference_logps"] + x["eta"] * (x["win_rates"] - 0.5)
    scale = 4 * (np.abs(x["reference_logps"]) + x["eta"])
    yield ask("sppo", **{**x, "policy_logps": target})["grad_policy_logps"], 0.0, scale


@identity("diffusion_dpo.step-zero")
def diffusion_dpo_step_zero(ask: Ask, x: Inputs) -> Pairs:
    """At policy = reference the loss is log 2 and the slope β/4."""
    start = ask("diffusion_dpo", **at_reference(x))
    yield start["losses"], np.log(2), 1.0
    yield start["grad_policy_chosen_errors"], x["beta"] / 4, x["beta"]


@identity("sequence_logps.level")
def sequence_logps_level(ask: Ask, x: Inputs) -> Pairs:
    """Raising all logits of a position alike changes no probability: gradients sum to 0 over the vocabulary."""
    slopes = ask("sequence_logps", **x)["grad_logits"].sum(axis=2)
    yield slopes, 0.0, x["logits"].shape[2] * (1 + np.max(np.abs(np.nan_to_num(x["logits"])), axis=2))


@identity("linear_sequence_logps.head", "sequence_logps")
def linear_sequence_logps_head(ask: Ask, x: Inputs) -> Pairs:
    """A linear head changes nothing but where the logits come from."""
    exact_head = {**without(x, "hidden", "weight"), "logits": x["hidden"] @ x["weight"].T}
    magnitude = x["weight"].shape[0] * (1 + np.max(np.abs(x["hidden"]) @ np.abs(x["weight"]).T))
    scale = magnitude * x["hidden"].shape[1] * x["hidden"].shape[2]
    yield ask("linear_sequence_logps", **x)["logps"], ask("sequence_logps", **exact_head)["logps"], scale


@identity("kl_estimates.definitions")
def kl_estimates_definitions(ask: Ask, x: Inputs) -> Pairs:
    """k2 is half the square of k1; k3 - k1 is the ratio minus 1, whose mean under the policy is 0."""
    got = {name: value.astype(np.float64) for name, value in ask("kl_estimates", **x).items()}
    d = np.abs(x["policy_logps"]) + np.abs(x["reference_logps"])
    yield got["k2"], got["k1"] ** 2 / 2, d * (1 + np.abs(got["k1"]))
    yield got["k3"] - got["k1"], np.expm1(-got["k1"]), (1 + d) * (1 + np.exp(-got["k1"]))


@identity("gae.reward-to-go")
def gae_reward_to_go(ask: Ask, x: Inputs) -> Pairs:
    """Without discount and with λ = 1 the return is the sum of the rewards still to come."""
    rewards = np.where(x["mask"], x["rewards"], 0.0)
    to_go = np.where(x["mask"], np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1], 0.0)
    scale = np.sum(np.abs(rewards) + 2 * np.abs(np.where(x["mask"], x["values"], 0.0)), axis=1, keepdims=True)
    yield ask("gae", **{**x, "discount": 1.0, "trace_decay": 1.0})["returns"], to_go, 1 + scale


@identity("ppo_policy.on-policy")
def ppo_policy_on_policy(ask: Ask, x: Inputs) -> Pairs:
    """Before the first update the ratio is 1: loss and slope are both -A, and nothing is clipped."""
    got, advantages = ask("ppo_policy", **{**x, "old_logps": x["logps"]}), np.where(x["mask"], x["advantages"], 0.0)
    yield got["token_losses"], -advantages, np.abs(advantages)
    yield got["grad_logps"], -advantages, np.abs(advantages)
    yield got["clipped"].astype(float), 0.0, 0.0


@identity("ppo_value.first-step")
def ppo_value_first_step(ask: Ask, x: Inputs) -> Pairs:
    """Where the value has not moved, the clip does nothing: half the squared error."""
    start, error = {**x, "values": x["old_values"]}, np.where(x["mask"], x["old_values"] - x["returns"], 0.0)
    yield ask("ppo_value", **start)["token_losses"], error**2 / 2, 1 + x["old_values"] ** 2 + x["returns"] ** 2


@identity("advantages_grpo.centred")
def advantages_grpo_centred(ask: Ask, x: Inputs) -> Pairs:
    """A group's advantages sum to 0."""
    spread = np.max(np.abs(x["rewards"]), axis=1) / (np.std(x["rewards"], axis=1, ddof=1) + 1e-4)
    yield ask("advantages_grpo", **x)["advantages"].sum(axis=1), 0.0, (1 + spread) * x["rewards"].shape[1] ** 2


@identity("advantages_dr_grpo.centred")
def advantages_dr_grpo_centred(ask: Ask, x: Inputs) -> Pairs:
    """A group's advantages sum to 0."""
    scale = np.sum(np.abs(x["rewards"]), axis=1) * x["rewards"].shape[1]
    yield ask("advantages_dr_grpo", **x)["advantages"].sum(axis=1), 0.0, scale


@identity("advantages_rloo.scale", "advantages_dr_grpo")
def advantages_rloo_scale(ask: Ask, x: Inputs) -> Pairs:
    """Leaving one out is G/(G-1) times subtracting the mean."""
    members = x["rewards"].shape[1]
    centred = ask("advantages_dr_grpo", **x)["advantages"]
    scale = members * np.sum(np.abs(x["rewards"]), axis=1, keepdims=True)
    yield ask("advantages_rloo", **x)["advantages"], centred * members / (members - 1), scale


@identity("grpo.without-reference", "ppo_policy")
def grpo_without_reference(ask: Ask, x: Inputs) -> Pairs:
    """At β = 0 it is PPO's loss with one advantage a response."""
    alone = ask("grpo", **{**x, "beta": 0.0})
    spread = np.where(x["mask"], x["advantages"][:, None], 0.0)
    ppo = ask("ppo_policy", **{**without(x, "reference_logps", "beta"), "advantages": spread})
    ratio = np.exp(np.clip(x["logps"] - x["old_logps"], -50, 50))
    scale = 1 + ratio * (1 + np.abs(x["logps"]) + np.abs(x["old_logps"]))
    yield alone["token_losses"], ppo["token_losses"], np.abs(spread) * scale


@identity("sequence_mean.weights")
def sequence_mean_weights(ask: Ask, x: Inputs) -> Pairs:
    """Every row weighs the same: 1/B in all."""
    weights = ask("sequence_mean", **x)["weights"].sum(axis=1)
    yield weights, 1 / len(weights), np.ones(len(weights)) * x["mask"].shape[1]


@identity("token_mean.weights")
def token_mean_weights(ask: Ask, x: Inputs) -> Pairs:
    """Every token weighs the same, and all of them 1."""
    weights = ask("token_mean", **x)["weights"]
    yield weights.sum(), 1.0, float(weights.size)
    yield weights, x["mask"] / x["mask"].sum(), x["mask"] * 1.0


@identity("constant_mean.weights")
def constant_mean_weights(ask: Ask, x: Inputs) -> Pairs:
    """Every token weighs 1/(B · max_length), however many there are."""
    yield ask("constant_mean", **x)["weights"], x["mask"] / (len(x["mask"]) * x["max_length"]), x["mask"] * 1.0


@identity("overlong_penalty.ends")
def overlong_penalty_ends(ask: Ask, x: Inputs) -> Pairs:
    """No penalty up to one cache length before the limit, all of it at the limit and beyond."""
    limits = {"max_length": 16, "cache_length": 4}
    got = ask("overlong_penalty", lengths=np.array([1, 12, 14, 16, 99]), **limits)["penalties"]
    yield got, np.array([0.0, 0.0, -0.5, -1.0, -1.0]), 1.0


@identity("rejection_acceptance.best")
def rejection_acceptance_best(ask: Ask, x: Inputs) -> Pairs:
    """The best possible reward is always accepted, one β below it with probability 1/e."""
    best = x["reward_max"]
    got = ask("rejection_acceptance", **{**x, "rewards": np.array([best, best - x["beta"]])})["acceptance_probabilities"]
    yield got, np.array([1.0, np.exp(-1.0)]), 1 + 2 * abs(best) / x["beta"]


def claims(contract: Contract) -> Iterator[Claim]:
    for found in IDENTITIES.get(contract.name, []):
        also = f", with {' and '.join(found.needs)}" if found.needs else ""
        how = f"On {CASES} ordinary cases of its own answers{also}: |left - right| <= {FACTOR} u times what was added up."
        yield Claim(found.name, contract, str(found.measure.__doc__), how, partial(_measured, found), needs=found.needs)


def _measured(found: Identity, run: Run, contract: Contract) -> Evidence:
    rng = np.random.default_rng(run.seed)
    drawn = (cases.draw(contract.name, "ordinary", rng, run.subject.dtype).inputs for _ in range(CASES))
    return Evidence.of(_agree(run, found, contract, inputs) for inputs in drawn)


class _Outputs(dict[str, np.ndarray]):
    """Outputs of which one may be missing; then the statement cannot be measured."""

    def __missing__(self, name: str) -> np.ndarray:
        raise Undeclared(f"the output {name}")


def _agree(run: Run, found: Identity, contract: Contract, inputs: Inputs) -> Result:
    def ask(operation: str, **asked: Any) -> Mapping[str, np.ndarray]:
        rounded = {n: x.astype(run.subject.dtype).astype(np.float64) if _is_float(x) else x for n, x in asked.items()}
        return _Outputs(run.subject.ask(CONTRACTS[operation], rounded))

    try:
        with np.errstate(all="ignore"):
            worst = max(_ratio(*pair, run.subject.dtype) for pair in found.measure(ask, inputs))
    except NoAnswer as none:
        return none.result
    failure = Failure("not true", contract.name, inputs, (f"off by {worst:.3g} times the bound",))
    return Result(worst, () if worst <= 1 else (failure,))


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _ratio(left: Any, right: Any, scale: Any, dtype: str) -> float:
    """Largest difference over its bound; infinite for NaN."""
    limits = np.finfo(dtype)
    bound = FACTOR * float(limits.eps) / 2 * np.asarray(scale, dtype=float) + float(limits.smallest_normal)
    ratios = np.abs(np.asarray(left, dtype=float) - right) / bound
    return float(np.max(ratios, initial=0.0)) if np.all(np.isfinite(ratios)) else float("inf")
