"""What the metrics of a right implementation cannot do, and what they do although it looks wrong.

Each family below takes a run and yields trials of laws: the law, a verdict, lines, how far each line is beyond the law's bound
(or whether the law is broken at all), and a remark. What a law says, of which methods, and what usually breaks it is in
`doctor.txt`; a trial of a law that is none of the run's method is not counted, so that the families need not ask.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from verify.metrics import LOGPS, REWARDS, Lines

BROKEN, SUSPICIOUS, EXPECTED, HOLDS = "BROKEN", "SUSPICIOUS", "EXPECTED", "HOLDS"  # most serious first
MARGINS, ACCURACIES = "rewards/margins", "rewards/accuracies"
SHARES = r"rewards/(accuracies|ties)|mean_token_accuracy|frac_.*|.*clip(_?ratio|frac|ped_ratio).*"
SIGNED = rf"(?P<share>{SHARES})|(?P<negative>logps/.*)|grad_norm|learning_rate|nll_loss|reward_std|completions/.*"


@dataclass
class Run:
    """The lines of a run by stream, and what is known of it; label_smoothing is ε."""

    streams: dict[str, Lines]
    method: str | None = None
    beta: float | None = None
    label_smoothing: float = 0.0
    gamma: float = 0.0
    batch_size: int | None = None  # pairs that a line averages
    gradient_accumulation: int | None = None

    def lines(self, *columns: str, least: int = 1) -> Iterator[Lines]:
        """Those of each stream that have some columns."""
        return (x for stream in self.streams.values() if len(x := stream.having(*columns)) >= least)

    def train(self, *columns: str, least: int = 1) -> Iterator[Lines]:
        return (x for x in self.lines(*columns, least=least) if x.stream == "train")

    def held_out(self, *columns: str, least: int = 1) -> Iterator[Lines]:
        return (x for x in self.lines(*columns, least=least) if x.stream != "train")

    def start(self, *columns: str) -> Iterator[Lines]:
        """The line before the first update: a trainer that counts from 1 calls it step 1; of a held-out set it is step 0."""
        for timed in self.lines("step"):
            first = timed.where(np.arange(len(timed)) == 0)
            if len(x := first.where(first["step"] <= (timed.stream == "train")).having(*columns)):
                yield x

    def loss(self, h: Any) -> Any:
        """The loss of a pair whose implicit rewards are h apart; simpo's with γ = 0 unless it is given, the least it can be."""
        right, wrong, e = np.logaddexp(0.0, self.gamma - h), np.logaddexp(0.0, h), self.label_smoothing
        if self.method == "robust_dpo":
            return ((1 - e) * right - e * wrong) / (1 - 2 * e)
        return np.maximum(0.0, 1 - h) if self.method == "rso_hinge" else (1 - e) * right + e * wrong

    def first_loss(self) -> float | None:
        """The loss where the policy is its reference; None for ipo without its β."""
        if self.method == "ipo":
            return 1 / (4 * self.beta**2) if self.beta else None
        return 0.5 if self.method == "kto" else float(self.loss(0.0))


class Trial(NamedTuple):
    law: str
    verdict: str  # where the excess [lines], or the one excess of all, is positive or NaN
    lines: Lines
    excess: Any
    remark: str = ""


Trials = Iterator[Trial]
FAMILIES: list[Callable[[Run], Trials]] = []


def family(measure: Callable[[Run], Trials]) -> Callable[[Run], Trials]:
    FAMILIES.append(measure)
    return measure


@family
def numbers(run: Run) -> Trials:
    for x, name in [(lines, name) for lines in run.streams.values() for name in lines.columns]:
        there = x.writing(name)
        spared = name == "grad_norm" or (run.method == "kto" and name in (*REWARDS, *LOGPS, MARGINS))
        yield Trial("numbers.finite", SUSPICIOUS if spared else BROKEN, there, ~np.isfinite(there[name]))
        if (found := re.fullmatch(SIGNED, name)) and len(there := x.having(name)):
            outside = there[name] if found["negative"] else -there[name]
            outside = np.maximum(outside, there[name] - 1) if found["share"] else outside
            yield Trial("numbers.range", BROKEN, there, outside - there.unit(name) - 1e-6)


@family
def counters(run: Run) -> Trials:
    for name in ("step", "epoch", "num_tokens"):
        for x in run.lines(name):
            repeats = 0.5 if name == "step" and x.stream == "train" else 0.0
            yield Trial("counters", SUSPICIOUS, x, np.append(-1.0, repeats - np.diff(x[name])))
    for x in run.train("num_tokens", least=3):
        yield Trial("counters", SUSPICIOUS, x, np.ptp(x["num_tokens"]) == 0, "it never grows")


@family
def rates(run: Run) -> Trials:
    for x in run.train("learning_rate", least=3):
        change = np.diff(x["learning_rate"], prepend=x["learning_rate"][0])
        again = np.where(np.minimum.accumulate(change) < 0, change, 0.0)
        yield Trial("learning-rate", BROKEN, x, not x["learning_rate"].any(), "throughout")
        yield Trial("learning-rate", SUSPICIOUS, x, again, "it had fallen before")
    for x in run.train("grad_norm", least=3):
        rests = run.method in ("rso_hinge", "grpo", "ppo")
        yield Trial("grad-norm", SUSPICIOUS if rests else BROKEN, x, not x["grad_norm"].any(), "throughout")


@family
def pairs(run: Run) -> Trials:
    for x in run.lines(*REWARDS, MARGINS):
        off = abs(x[MARGINS] - (x[REWARDS[0]] - x[REWARDS[1]])) - x.slack(MARGINS, *REWARDS)
        yield Trial("pairs.margins", EXPECTED if run.method == "kto" else BROKEN, x, off)
    for x in run.lines(ACCURACIES, MARGINS):
        wrong = np.where(x[ACCURACIES] == 1, -x[MARGINS], np.where(x[ACCURACIES] == 0, x[MARGINS], -np.inf))
        yield Trial("pairs.accuracies", BROKEN, x, wrong - x.slack(MARGINS))
    for x in run.train(ACCURACIES):
        if halves := 2 * (run.batch_size or 0):  # a tie may count half
            off = abs(halves * x[ACCURACIES] - np.round(halves * x[ACCURACIES])) - halves * x.slack(ACCURACIES)
            most = np.where(np.mean(off > 0) > 0.5, off, -1.0)
            yield Trial("pairs.grid", SUSPICIOUS, x, most, f"--batch-size is {run.batch_size}")


@family
def losses(run: Run) -> Trials:
    e = run.label_smoothing
    entropy = -(1 - e) * math.log1p(-e) - (e * math.log(e) if e else 0.0)
    for x in run.train("loss", MARGINS):
        least = run.loss(x[MARGINS]) - x.slack(MARGINS) / (1 - 2 * e)  # no loss is steeper than 1/(1-2ε)
        yield from between_means("loss.convex", x, least - x["loss"] - x.slack("loss"))
    for x in run.train("loss", ACCURACIES):
        least = (1 - x[ACCURACIES]) * run.loss(0.0) + x[ACCURACIES] * entropy - x.slack(ACCURACIES)
        yield from between_means("loss.wrong-pairs", x, least - x["loss"] - x.slack("loss"))
    for x in run.lines("loss"):
        yield Trial("loss.sign", EXPECTED if run.method == "robust_dpo" else BROKEN, x, -x["loss"] - x.slack("loss"))
        yield Trial("loss.kto", SUSPICIOUS, x, x["loss"] - 1 - x.slack("loss"))
    for lines in run.train("loss", "nll_loss", "log_odds_ratio"):
        if not len(x := lines.where(lines["log_odds_ratio"] < 0)):
            continue  # a log σ is negative: this is something else under its name
        term, odds = x["loss"] - x["nll_loss"], -x["log_odds_ratio"]
        weight = float(np.median(term / odds))
        off = abs(term - (run.beta or weight) * odds) - x.slack("loss", "nll_loss") - abs(weight) * x.slack("log_odds_ratio")
        yield from between_means("loss.orpo", x, np.maximum(off, -weight), f"λ is {weight:.4g}")


def between_means(law: str, x: Lines, excess: np.ndarray, remark: str = "") -> Trials:
    """BROKEN on a line of one step. Over several steps the last batch of an epoch may weigh more in one mean than in the other:
    only most lines together are SUSPICIOUS."""
    steps = x["step"] if len(x.having("step")) == len(x) else np.full(len(x), np.nan)
    alone = np.diff(steps, prepend=min(steps[0], 1) - 1) == 1
    yield Trial(law, BROKEN, x, np.where(alone, excess, -1.0), remark)
    yield Trial(law, SUSPICIOUS, x, np.where(~alone & (np.mean(excess > 0) > 0.5), excess, -1.0), remark)


@family
def starts(run: Run) -> Trials:
    for x in run.start(*REWARDS):
        yield Trial("start.rewards", SUSPICIOUS, x, largest(x) - 0.001)  # sums in float32 differ by less
    for x in run.start(ACCURACIES, *REWARDS):
        yield Trial("start.ties", EXPECTED, x, (largest(x) <= 0.001) & np.isin(x[ACCURACIES], (0, 0.5)))
    for x in run.start("loss", *REWARDS):
        due = run.first_loss()
        if due and largest(x)[0] <= 0.001:
            times = multiple(float(x["loss"][0]) / due)
            off = due - x["loss"] if {"nll_loss", "aux_loss"} & x.columns.keys() else abs(x["loss"] - due)
            remark = f"{run.method} starts at {due:.5g}" + (f", of which this is {times} times" if times else "")
            if times.removeprefix("1/") == str(run.gradient_accumulation):
                remark += ", as many as batches are accumulated"
            certain = run.method != "kto" and (times or x["loss"][0] < due)  # weights of kto and added terms may be legitimate
            yield Trial("start.loss", BROKEN if certain else SUSPICIOUS, x, off - x.slack("loss"), remark)
            yield Trial("start.level", EXPECTED, x, off <= x.slack("loss"), remark)


def largest(x: Lines) -> np.ndarray:
    return np.maximum(abs(x[REWARDS[0]]), abs(x[REWARDS[1]]))


def multiple(ratio: float) -> str:
    """2, 3, ... or 1/2, 1/3, ... where the ratio is that, to half a percent; else nothing."""
    whole = round(max(ratio, 1 / ratio)) if 1e-6 < ratio < 1e6 else 0
    near = whole > 1 and abs(max(ratio, 1 / ratio) / whole - 1) <= 0.005
    return ("" if ratio > 1 else "1/") + str(whole) if near else ""


def slopes(x: Lines, origin: bool = False) -> tuple[float, float]:
    """The smallest and the largest β >= 0 for which rewards = β (logps - c) on all lines, with a constant c for each side, 0 at
    the origin: |r - β p| <= slack of r + β slack of p. The first exceeds the second where there is none."""
    low, high = [0.0], [math.inf]
    for reward, logp in zip(REWARDS, LOGPS, strict=True):
        r, p = (x[name] - (0 if origin else x[name][0]) for name in (reward, logp))
        r_slack, p_slack = (x.slack(name) + (0 if origin else x.slack(name)[0]) for name in (reward, logp))
        r, p = np.where(p < 0, -r, r), abs(p)
        low.extend((r - r_slack) / (p + p_slack))
        low.extend((-r - r_slack)[p < p_slack] / (p_slack - p)[p < p_slack])
        high.extend((r + r_slack)[p > p_slack] / (p - p_slack)[p > p_slack])
    return float(max(low)), float(min(high))


@family
def references(run: Run) -> Trials:
    for x in run.held_out(*REWARDS, *LOGPS, least=3):
        low, high = slopes(x)
        yield Trial("reference.fixed", BROKEN, x, low > high, "no constant reference fits, whatever β")
    for x in run.held_out(*REWARDS, *LOGPS, least=2):
        low, high = slopes(x)
        if run.beta and low <= high:
            told = f"rewards move by {low:.4g} to {high:.4g} a nat, β should be {run.beta:g}"
            yield Trial("reference.beta", BROKEN, x, not low <= run.beta <= high, told)
    for x in run.lines(*REWARDS, *LOGPS, least=4):
        low, high = slopes(x, origin=True)
        yield Trial("reference.present", BROKEN, x, 0 < low <= high, f"rewards are {low:.4g} to {high:.4g} times logps")
    for reward, logp in zip(REWARDS, LOGPS, strict=True):
        for x in run.lines(reward, logp) if run.beta else ():
            above = x[logp] - x.slack(logp) - (x[reward] + x.slack(reward)) / run.beta
            yield Trial("reference.logps", BROKEN, x, above, f"β should be {run.beta:g}")


@family
def epochs(run: Run) -> Trials:
    """The reference's mean over epochs, held together as if each were a fresh sample of the data."""
    seen = [slopes(x) for x in run.held_out(*REWARDS, *LOGPS, least=2)]
    beta = next(((low + high) / 2 for low, high in seen if 0 < low <= high <= 1.1 * low), run.beta)
    for reward, logp in zip(REWARDS, LOGPS, strict=True):
        for x in run.train("epoch", reward, logp) if beta else ():
            reference, epoch = x[logp] - x[reward] / beta, np.ceil(x["epoch"] - 1e-6)
            parts = [reference[epoch == number] for number in np.unique(epoch)]
            whole = [part for part in parts if len(part) == max(map(len, parts)) >= 4]
            for part in whole[1:]:
                error = math.sqrt((np.var(part, ddof=1) + np.var(whole[0], ddof=1)) / len(part))
                moved, slack = float(part.mean() - whole[0].mean()), float(np.max(x.slack(logp)))
                yield Trial("reference.epochs", SUSPICIOUS, x, abs(moved) - 4 * error - slack, f"by {moved:.4g} nats")


def trend(values: np.ndarray) -> tuple[float, float, float]:
    """Means of the first and of the last quarter, and how many standard errors the second is above the first."""
    quarter = max(2, len(values) // 4)
    first, last = values[:quarter], values[-quarter:]
    error = math.sqrt((np.var(first, ddof=1) + np.var(last, ddof=1)) / quarter) + 1e-12
    return float(first.mean()), float(last.mean()), float(last.mean() - first.mean()) / error


@family
def learning(run: Run) -> Trials:
    rate = any(x["learning_rate"].any() for x in run.train("learning_rate"))
    for x in (*run.train("loss", least=10), *run.held_out("loss", least=3)):
        whole = {name for name in ("loss", *REWARDS, *LOGPS) if len(x.having(name)) == len(x)}
        still = not any(np.ptp(x[name]) for name in whole.difference(LOGPS))
        exact = rate and any(np.max(x.unit(name)) < 1e-6 for name in whole.difference(REWARDS))
        yield Trial("learning.moves", BROKEN if exact else SUSPICIOUS, x, still, "on all lines")
    for x in run.train("loss", least=20):
        first, last, errors = trend(x["loss"])
        yield Trial("learning.falls", SUSPICIOUS, x, errors - 4, f"from {first:.4g} in the first quarter to {last:.4g}")


@family
def online(run: Run) -> Trials:
    for x in run.train("reward_std"):
        yield Trial("online.spread", SUSPICIOUS, x, not x["reward_std"].any(), "throughout")
    for x in run.train("loss"):
        yield Trial("online.loss", EXPECTED, x, x["loss"] <= x.slack("loss"))
    for x in run.lines("kl"):
        verdict = {"kto": BROKEN, "grpo": SUSPICIOUS}.get(run.method or "", EXPECTED)
        yield Trial("kl.sign", verdict, x, -x["kl"] - x.slack("kl"))


@family
def alarming(run: Run) -> Trials:
    for x in run.lines(*LOGPS, least=8):
        falls = [trend(x[name]) for name in LOGPS]
        told = ", ".join(f"{name} from {first:.4g} to {last:.4g}" for name, (first, last, _) in zip(LOGPS, falls, strict=True))
        yield Trial("both-fall", EXPECTED, x, max(errors for _, _, errors in falls) < -3, told)
    for x in run.lines(REWARDS[0], least=8):
        yield Trial("chosen-negative", EXPECTED, x, trend(x[REWARDS[0]])[1] < -np.max(x.slack(REWARDS[0])))
    for x in run.lines(MARGINS, least=8):
        first, last, errors = trend(x[MARGINS])
        yield Trial("margins-grow", EXPECTED, x, errors > 3 and last > 4, f"from {first:.4g} to {last:.4g}")
    for x in run.held_out("loss"):
        yield Trial("held-out", EXPECTED, x, x["loss"] - float(run.loss(0.0)) - 2 * x.slack("loss"))
