"""The demo: what it calls exact and what it draws are found another way, on laws that are tables; and it runs."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_tiny import demo, world
from gpt_tiny.demo import Truth
from gpt_tiny.model import GPT
from gpt_tiny.model_by_hand import Config
from gpt_tiny.tokenizer import Tokenizer
from minipref import kl_regularized_objective

BETA = 0.7
PROMPTS = world.PROMPTS["test"][::97]
P, K = len(PROMPTS), len(world.CHOICES)


def tables(garble: float, seed: int) -> np.ndarray:
    """A law near the data's [P, K+1], in which other texts have a share."""
    rng = np.random.default_rng(seed)
    laws = world.BASE * np.exp(rng.normal(size=(P, K + 1)))
    laws[:, -1] = garble / (1 - garble) * laws[:, :-1].sum(1)
    return np.log(laws / laws.sum(1, keepdims=True))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return demo.known([tables(0.1, 1), tables(0.02, 2)], PROMPTS, BETA)


def test_pi_star_is_where_the_objective_is_greatest(truth: Truth) -> None:
    found = demo.exact(truth, BETA)
    for name, logps in truth.laws.items():
        if name != "data":
            right = kl_regularized_objective(logps, truth.rewards, truth.laws["sft"], BETA).objective
            assert abs(found[name]["objective"] - right.mean()) <= 1e-12
    assert list(found) == list(demo.TITLES) and found["sft"]["kl"] == 0
    assert found["best"]["objective"] > max(found[name]["objective"] for name in ("data", "sft", "dpo")) + 0.1


def test_exact_sums(truth: Truth) -> None:
    found = demo.exact(truth, BETA)
    assert abs(found["data"]["right answer"] - 0.5) <= 1e-12 and found["data"]["other text"] == 0
    assert abs(found["sft"]["other text"] - 0.1) <= 1e-12 and abs(found["dpo"]["other text"] - 0.02) <= 1e-12
    assert abs(found["sft"]["wins"] - 0.5) <= 1e-12 and found["best"]["wins"] > 0.6
    right = [
        sum(math.exp(logp) for logp, choices in zip(row, world.CHOICES, strict=False) if choices.claim == 0)
        for row in truth.laws["dpo"]
    ]
    assert abs(found["dpo"]["right answer"] - np.mean(right)) <= 1e-12


def test_wins_by_hand() -> None:
    law, other, rewards = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.6, 0.3]), np.array([1.0, 2.0, 1.0])
    right = 0.5 * (0.5 * 0.4) + 0.3 * (0.1 + 0.6 / 2 + 0.3) + 0.2 * (0.5 * 0.4)
    assert abs(demo.wins(np.log(law), np.log(other), rewards) - right) <= 1e-12


def from_tables(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two models whose responses are drawn from tables and scored by them: a token is a response."""

    class Table:
        def __init__(self, logps: np.ndarray) -> None:
            self.logps = logps

    class Words:
        eos = K + 1

        def encode(self, text: str) -> list[int]:
            return [PROMPTS.index(text)]

        def decode(self, ids: Any) -> str:
            """The response's text, of the prompt that its token says beside."""
            place = next(iter(ids)) - 10_000
            return [*world.responses(PROMPTS[place // (K + 1)]), " garbled"][place % (K + 1)]

    def sample(model: Table, prompts: list[list[int]], eos: int, most: int, seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [[10_000 + p * (K + 1) + int(rng.choice(K + 1, p=np.exp(model.logps[p]))), eos] for (p,) in prompts]

    def scored(model: Table, groups: list[Any]) -> Any:
        import torch

        return torch.tensor([model.logps[p, (ids[0] - 10_000) % (K + 1)] for (p,), (ids,) in groups])

    monkeypatch.setattr(demo, "sample", sample)
    monkeypatch.setattr(demo, "scored", scored)
    return [(Table(truth.laws[name]), Words()) for name in ("sft", "dpo")]


def test_what_is_drawn_agrees_with_what_is_summed(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 4 standard errors, which must be small beside what they could miss."""
    found, texts = demo.drawn(from_tables(truth, monkeypatch), PROMPTS, 400, 0)
    exact = demo.exact(truth, BETA)
    due = {name: exact["dpo"][name] for name in ("reward", "kl", "wins")} | {"SFT's reward": exact["sft"]["reward"]}
    for name, value in due.items():
        mean, half = found[name]
        assert abs(mean - value) <= 4 / 1.96 * half and half <= 0.15, name
    divergences = world.divergence(truth.laws["dpo"], truth.laws["sft"])
    for (mean, half), value in zip(found["kl by prompt"].values(), divergences, strict=True):
        assert abs(mean - value) <= 4 / 1.96 * half
    assert list(texts) == list(found["kl by prompt"]) == PROMPTS
    assert all(text in [*world.responses(prompt), " garbled"] for prompt, pair in texts.items() for text in pair)


def test_two_policies_of_one_law_are_drawn_apart(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    same = truth._replace(laws=truth.laws | {"dpo": truth.laws["sft"]})
    found, _ = demo.drawn(from_tables(same, monkeypatch), PROMPTS, 50, 0)
    assert found["reward"] != found["SFT's reward"] and found["kl"] == (0, 0)


def test_what_no_response_has_of_the_law_is_other_texts(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    logps = truth.laws["sft"][0]
    monkeypatch.setattr(demo, "scored", lambda model, groups: torch.tensor(logps[:-1]))
    found = demo.law(GPT(Config(300, 8, 4, 1, 1)), Tokenizer.train([], 257), PROMPTS[:1])
    assert np.all(abs(found - logps) <= 1e-12)


def test_intervals_hold_what_they_should() -> None:
    """Of 2,000 sets of samples whose prompts differ in mean, 95 % of the intervals have the true mean in them."""
    rng, means = np.random.default_rng(5), np.array([[0.0], [10.0], [-3.0]])
    inside = []
    for _ in range(2000):
        mean, half = demo.interval(means + rng.normal(size=(3, 20)) * [[1.0], [0.1], [2.0]])
        inside.append(abs(mean - means.mean()) <= half)
    assert abs(np.mean(inside) - 0.95) <= 0.02


def test_accuracy_of_a_policy_that_is_the_optimum_is_the_limit(truth: Truth, tmp_path: Path) -> None:
    """Its implicit rewards are the rewards, up to a constant by prompt; and those of its opposite are always wrong."""
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"loss": 1}\n{"loss": 0.5, "eval_rewards/accuracies": 0.8}\n')
    at_best = truth._replace(laws=truth.laws | {"dpo": truth.laws["best"]})
    found = demo.accuracies(at_best, metrics, 100)
    assert found["held out"] == (0.8, pytest.approx(1.96 * 0.04))
    assert abs(found["all"] - found["all, at most"]) <= 1e-12 and 0.7 < found["all"] < found["held out, at most"]
    opposite = truth._replace(laws=truth.laws | {"dpo": 2 * truth.laws["sft"] - truth.laws["best"]})
    assert abs(demo.accuracies(opposite, metrics, 100)["all"] - (1 - found["all"])) <= 1e-12


def test_the_law_of_a_network_has_the_probability_of_each_response() -> None:
    """As the plain forward pass has it, one response at a time; what is left is other texts'."""
    import torch

    tokenizer = Tokenizer.train([*world.responses(PROMPTS[0])], 300)
    model = GPT(Config(300, 96, 8, 1, 1)).double().eval()
    with torch.no_grad():
        model.wte.weight *= 30
        found = demo.law(model, tokenizer, PROMPTS[:1])
        for place, text in list(enumerate(world.responses(PROMPTS[0])))[::50]:
            prompt, response = tokenizer.encode(PROMPTS[0]), [*tokenizer.encode(text), tokenizer.eos]
            tokens = torch.tensor([prompt + response])
            logps = torch.log_softmax(model(tokens, torch.ones_like(tokens, dtype=torch.bool)), dim=-1)[0]
            right = sum(logps[len(prompt) - 1 + i, token].item() for i, token in enumerate(response))
            assert abs(found[0, place] - right) <= 1e-10 * abs(right)
    assert found.shape == (1, K + 1) and abs(np.exp(found).sum() - 1) <= 1e-9


def test_the_demo_runs_and_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for more in ([], ["--resume"]):
        assert demo.main(["--quick", "--seed", "3", "--out", str(tmp_path / "demo"), *more]) == 0
        printed = capsys.readouterr().out
        assert printed.count("  SFT:") == printed.count("  DPO:") == 1 and "held-out pairs ranked as labelled" in printed
        found.append(json.loads((tmp_path / "demo/demo.json").read_text("utf-8"), parse_constant=pytest.fail))
    assert found[0] | {"seconds": 0} == found[1] | {"seconds": 0} and 0 < found[1]["seconds"] < found[0]["seconds"]
    assert found[0]["exact"].keys() == demo.TITLES.keys() and len(found[0]["texts"]) == demo.QUICK.prompts
    if (tmp_path / "demo/demo.png").exists():
        assert (tmp_path / "demo/demo.svg").read_text("utf-8").rstrip().endswith("</svg>")


REFUSED = [([], "resume"), (["--resume", "--seed", "4"], "seed was 3, is 4"), (["--beta", "0"], "dpo: beta")]


@pytest.mark.parametrize(("options", "said"), [*REFUSED, (["--seed", "-1"], "seed must")])
def test_a_demo_that_stands_is_not_written_over(options: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/run.json").write_text('{"effort": [200, 1, 200, 50, 3, 4], "beta": 1.0, "seed": 3}')
    with pytest.raises(ValueError, match=said):
        demo.main(["--quick", "--out", str(tmp_path / "demo"), *options])
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["run.json"]
