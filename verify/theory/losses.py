"""What the table of losses says, measured: values, slopes, curvatures, limits and minima of minipref's operations.

A loss is looked at along one coordinate x, 0 where training starts. What is known about it stands below as formulas; each is
evaluated at three settings of its symbols and compared with what the operation computes there. One that differs by more than
1e-6 raises ValueError, so that no document can be written with it.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from minipref import REGISTRY
from minipref.arrays import sigmoid

Array = np.ndarray
Setting = dict[str, float]  # the value of each symbol
Curve = Callable[[Array, Setting], tuple[Array, Array]]  # x [N] -> losses [N] and their slopes in x [N]

FAR, REACH, STEP, TOLERANCE = 1e4, 30.0, 1e-4, 1e-6  # in x: limits, minima, differences; what a formula may be off

SYMBOLS = {"beta": "β", "label_smoothing": "ε", "odds_weight": "λ", "gamma": "γ", "eta": "η", "margin": "m"}
SYMBOLS |= {"desirable_weight": "λ_D", "undesirable_weight": "λ_U", "clip_low": "ε_low", "clip_high": "ε_high"}

_SETTINGS = """β 0.2 0.5 1.1; ε 0.05 0.1 0.15; λ 0.1 0.5 1; γ 0.3 0.5 1.6; η 0.5 1 3; m 0.2 1 -0.5; λ_D 1 1.3 2; λ_U 1.6 1 0.7;
    ε_low 0.1 0.2 0.3; ε_high 0.28 0.2 0.1; A 0.5 1 2; K 2 3 4; G 2 4 8; p 0.6 0.7 0.8; q 0.3 0.6 0.1"""
SETTINGS = [{symbol: float(x[i]) for symbol, *x in map(str.split, _SETTINGS.split(";"))} for i in range(3)]

# loss | value | slope | curvature at 0 | value | slope at -∞ | value | slope at +∞ | minimum | where labels are right at rate p
_FORMS = """
bradley_terry | log(1 + exp(m)) | -σ(m) | σ(m)*σ(-m) | inf | -1 | 0 | 0 | inf | log(u(exp(m), p/(1-p)))
dpo | log(2) | -β/2 | β**2/4 | inf | -β | 0 | 0 | inf | logit(p)/β
cdpo | log(2) | -β*(1-2*ε)/2 | β**2/4 | inf | -β*(1-ε) | inf | β*ε | logit(1-ε)/β | logit(p + ε - 2*p*ε)/β
robust_dpo | log(2) | -β/(2-4*ε) | β**2/4 | inf | -β*(1-ε)/(1-2*ε) | -inf | -β*ε/(1-2*ε) | inf | logit((p-ε)/(1-2*ε))/β
plackett_luce_dpo | log(fac(K)) | -β*(K-1)/K | β**2*(K-1)/K**2 | inf | -β | log(fac(K-1)) | 0 | inf | (logit(p) + log(K-1))/β
rso_hinge | 1 | -β | 0 | inf | -β | 0 | 0 | 1/β | 1/β
ipo | 1/(4*β**2) | -1/β | 2 | inf | -inf | inf | inf | 1/(2*β) | (2*p-1)/(2*β)
ipo_length_normalized | 1/(4*β**2) | -1/β | 2 | inf | -inf | inf | inf | 1/(2*β) | (2*p-1)/(2*β)
kto, thumb up | λ_D/2 | -λ_D*β/4 | 0 | λ_D | 0 | 0 | 0 | inf | sign(p*λ_D - (1-p)*λ_U)*inf
kto, thumb down | λ_U/2 | λ_U*β/4 | 0 | 0 | 0 | λ_U | 0 | -inf | sign((1-p)*λ_D - p*λ_U)*inf
sppo | η**2/4 | -η | 2 | inf | -inf | inf | inf | η/2 | η*(p - 1/2)
simpo | log(1 + exp(γ)) | -β*σ(γ) | β**2*σ(γ)*σ(-γ) | inf | -β | 0 | 0 | inf | log(u(exp(γ), p/(1-p)))/β
orpo | λ*log(2) - log(q) | -1 - λ/(2-2*q) | λ*(1-2*q)/(4*(1-q)**2) | inf | -1 - λ | 0 | -1 - λ*q/(1-q) | inf | v(λ, p, q)
diffusion_dpo | log(2) | -β/4 | β**2/16 | inf | -β/2 | 0 | 0 | inf | 2*logit(p)/β
ppo_policy, advantage A | -A | -A | -A | 0 | 0 | -A*(1+ε_high) | 0 | log(1+ε_high)
ppo_policy, advantage −A | A | A | A | A*(1-ε_low) | 0 | inf | inf | log(1-ε_low)
grpo, advantage A | -A | -A | β - A | inf | -inf | inf | β | log(1+ε_high)
grpo, advantage −A | A | A | β + A | inf | -inf | inf | inf | log(1-ε_low)
k1 | 0 | 1 | 0 | -inf | 1 | inf | 1 | -inf
k2 | 0 | 0 | 1 | inf | -inf | inf | inf | 0
k3 | 0 | 0 | 1 | inf | -inf | inf | 1 | 0
"""
FORMS = {label: forms for label, *forms in (line.split(" | ") for line in _FORMS.strip().splitlines())}


def _odds(g: float, k: float) -> float:
    """e^x where labels are right at odds k and the loss asks for a margin of log g."""
    return (g * (k - 1) + np.sqrt(g**2 * (k - 1) ** 2 + 4 * k)) / 2


def _orpo_minimum(λ: float, p: float, q: float) -> float:
    """From the quadratic in the odds o of the moved response that its slope is."""
    w = q / (1 - q)
    o = np.roots([(1 - p) * λ, (1 - p) * λ - p - p * λ * w, -p * (1 + λ) * w]).max()
    return float(np.log(o / (1 + o) / q))


FUNCTIONS: dict[str, Any] = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt, "sign": np.sign, "inf": math.inf}
FUNCTIONS |= {"fac": lambda k: math.factorial(int(k)), "logit": lambda p: np.log(p / (1 - p)), "u": _odds, "v": _orpo_minimum}
FUNCTIONS |= {"σ": lambda x: sigmoid(np.float64(x))}


def _along(name: str, moved: str, scale: float = 1.0, **fixed: Any) -> Curve:
    """The curve of an operation on [N] as one input moves by scale · x, the others where policy and reference agree."""

    def curve(x: Array, s: Setting) -> tuple[Array, Array]:
        operation = REGISTRY[name]
        start = {argument: _start(argument, s) for argument in operation.inputs} | fixed
        inputs = {a: np.full(len(x), value) if operation.inputs[a].dims else value for a, value in start.items()}
        found = operation(**inputs | {moved: inputs[moved] + scale * x})
        return found[0], scale * getattr(found, f"grad_{moved}")

    return curve


def _start(argument: str, s: Setting) -> Any:
    """Four tokens chosen, three rejected, each of probability q; equal rewards; every comparison won; a thumb up."""
    tokens = 4 if "chosen" in argument else 3
    known = {"chosen_rewards": 0.7, "rejected_rewards": 0.7, "win_rates": 1.0, "desirable": True, "reference_point": 0.0}
    if argument in SYMBOLS:
        return s[SYMBOLS[argument]]
    return tokens if argument.endswith("lengths") else known.get(argument, tokens * np.log(s["q"]))


def _ranked(x: Array, s: Setting, place: int = 0) -> tuple[Array, Array]:
    """Rankings of K: the response at `place` has the log-ratio x, the others 0."""
    reference = np.full((len(x), int(s["K"])), np.log(s["q"]))
    policy = reference.copy()
    policy[:, place] += x
    found = REGISTRY["plackett_luce_dpo"](policy, reference, s["β"])
    return found.losses, found.grad_policy_logps[:, place]


def _ranked_lower(x: Array, s: Setting) -> Array:
    """The slope averaged over the other places, as Plackett-Luce draws them for a response that is first at rate p."""
    others = np.arange(s["K"])[::-1]
    next_chance = 1 / (1 + others * (1 - s["p"]) / (s["p"] * (s["K"] - 1)))
    chances = next_chance * np.cumprod([1, *(1 - next_chance[:-1])]) / (1 - s["p"])
    return np.sum([chances[k] * _ranked(x, s, k)[1] for k in range(1, len(others))], axis=0)


def _token(name: str, sign: float) -> Curve:
    """One token, x above its log-probability under the old policy, which is the reference."""

    def curve(x: Array, s: Setting) -> tuple[Array, Array]:
        inputs, old = REGISTRY[name].inputs, np.zeros((len(x), 1))
        known = {"logps": x[:, None], "old_logps": old, "reference_logps": old, "mask": old == 0}
        known["advantages"] = np.full(old.shape[: len(inputs["advantages"].dims)], sign * s["A"])
        found = REGISTRY[name](**{a: s[SYMBOLS[a]] if a in SYMBOLS else known[a] for a in inputs})
        return found.token_losses[:, 0], found.grad_logps[:, 0]

    return curve


def _estimate(name: str) -> Curve:
    """k1, k2 or k3 of one sample, x = log π - log π_ref, and its slope as a loss."""

    def curve(x: Array, s: Setting) -> tuple[Array, Array]:
        found = REGISTRY["kl_estimates"](x, np.zeros_like(x))
        return getattr(found, name), getattr(found, f"grad_{name}")

    return curve


PAIRS = ("dpo", "cdpo", "robust_dpo", "ipo", "rso_hinge")
CURVES = {name: _along(name, "policy_chosen_logps") for name in PAIRS}
CURVES |= {name: _along(name, "policy_chosen_logps", 4.0) for name in ("ipo_length_normalized", "orpo", "simpo")}
CURVES |= {f"kto, thumb {t}": _along("kto", "policy_logps", desirable=t == "up") for t in ("up", "down")}
CURVES |= {f"{name}, advantage {t}A": _token(name, z) for name in ("ppo_policy", "grpo") for t, z in (("", 1), ("−", -1))}
CURVES |= {k: _estimate(k) for k in ("k1", "k2", "k3")}
CURVES |= {
    "bradley_terry": _along("bradley_terry", "chosen_rewards"),
    "diffusion_dpo": _along("diffusion_dpo", "policy_chosen_errors", -1.0),
    "plackett_luce_dpo": _ranked,
    "sppo": _along("sppo", "policy_logps"),
}

# Slopes in x of the opposite label. Losses that see only a gap need none: theirs is the mirror image.
OPPOSITE: dict[str, Callable[[Array, Setting], Array]] = {
    "kto, thumb up": lambda x, s: CURVES["kto, thumb down"](x, s)[1],
    "kto, thumb down": lambda x, s: CURVES["kto, thumb up"](x, s)[1],
    "orpo": lambda x, s: _along("orpo", "policy_rejected_logps", 3.0)(x, s)[1],
    "plackett_luce_dpo": _ranked_lower,
}


def measure(label: str, s: Setting) -> list[float]:
    """What the columns of FORMS say of a loss, from calls of the operation alone."""
    certain = -np.log(s["q"]) - 1e-10  # ORPO's right end
    high, further = (certain, certain) if label == "orpo" else (FAR, 2 * FAR)
    curve = CURVES[label]
    opposite = OPPOSITE.get(label, lambda x, s: -curve(-x, s)[1])
    near_values, near_slopes = curve(np.array([-STEP, 0, STEP]), s)
    ends = curve(np.array([-FAR, -2 * FAR, high, further]), s)
    limits = [_limit(*end[i : i + 2]) for i in (0, 2) for end in ends]
    unanimous = _minimum(lambda x: curve(x, s)[1], min(high, REACH))
    mixed = _minimum(lambda x: s["p"] * curve(x, s)[1] + (1 - s["p"]) * opposite(x, s), min(high, REACH))
    return [near_values[1], near_slopes[1], (near_slopes[2] - near_slopes[0]) / (2 * STEP), *limits, unanimous, mixed]


def _limit(at: float, further: float) -> float:
    """What a number tends to that was read at some distance and at twice that: infinity if it still grows."""
    return further if abs(further) <= 1.5 * abs(at) else math.copysign(math.inf, further)


def _minimum(slope: Callable[[Array], Array], high: float) -> float:
    """Where the slope stops falling, or starts to rise if what precedes is flat; an infinity where it does so nowhere."""
    low = -REACH
    for _ in range(5):
        x = np.linspace(low, high, 401)
        found = slope(x)
        past = found > 0 if np.any(found > 0) else found >= 0
        if past[0] or not np.any(past):
            return -math.inf if past[0] else math.inf
        low, high = x[np.argmax(past) - 1], x[np.argmax(past)]
    return float(high)


def check(where: str, form: str, measured: float, s: Setting) -> None:
    """Raises ValueError unless the formula gives what was measured, to 1e-6."""
    stated = float(eval(form, FUNCTIONS | s))
    if not (stated == measured or abs(stated - measured) <= TOLERANCE):
        raise ValueError(f"{where}: {form} is {stated}, but {measured} was measured at {s}")


def written(form: str) -> str:
    """A formula as people write it."""
    spelled = (
        (r"(?<!\*)(\d)\*(?=[^\W\d]\b)", r"\1"), (r"\b(\d?[^\W\d])\*(?=[^\W\d]\b)", r"\1"), (r"\*(?=\()", ""), (r"\*\*2", "²"),
        (r"fac\((\w)\)", r"\1!"), (r"fac(\(.*?\))", r"\1!"), (r"log\((\w!?)\)", r"log \1"), (r"exp\((\w)\)", r"e^\1"),
        (r"sqrt\((\w)\)", r"√\1"), (r"\*", " "), ("inf", "∞"), ("1e-4", "10⁻⁴"), ("-", "−"),
    )  # fmt: skip
    for pattern, replacement in spelled:
        form = re.sub(pattern, replacement, form)
    return form


def checked(label: str) -> list[str]:
    """The cells of a loss, each compared with what is measured."""
    for s in SETTINGS:
        for form, measured in zip(FORMS[label], measure(label, s), strict=False):
            check(label, form, measured, s)
    return [written(form) for form in FORMS[label]]
