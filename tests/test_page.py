"""The page that is made of the JavaScript port, used like a reader would in a real browser."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PROGRAM, Browser

import minipref
from minipref.arrays import log_softmax
from minipref.contract import REGISTRY
from toy import bandit
from verify.contract import CONTRACTS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "toy" / "page"
LEVEL_1 = [name for name, contract in CONTRACTS.items() if contract.level == 1]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_page_is_current() -> None:
    found = python("toy/page/build.py", "--check")
    assert found.returncode == 0, found.stderr


def test_a_page_that_is_not_current_is_found(tmp_path: Path) -> None:
    copy = shutil.copytree(PAGE, tmp_path / "page")
    losses = copy / "losses.mjs"
    losses.write_text(losses.read_text("utf-8").replace("-logSigmoid(h)", "logSigmoid(h)", 1), "utf-8")
    assert python(str(copy / "build.py"), "--check").returncode == 1
    assert python(str(copy / "build.py")).returncode == 0
    assert python(str(copy / "build.py"), "--check").returncode == 0


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not PROGRAM:
        pytest.skip("no Chromium")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Browser]]:
    """visit(address, width) opens the page; afterwards it must have had nothing to complain about."""

    def visit(address: str = "", width: int = 1280, scheme: str = "light") -> Browser:
        chromium.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        chromium.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        chromium.open(f"{(PAGE / 'index.html').as_uri()}#{address}")
        return chromium

    chromium.events.clear()
    yield visit
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert not [event for event in chromium.events if event["method"] in complaints]


def listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def close(found: Any, expected: Any) -> bool:
    return bool(np.all(np.abs(np.array(found, float) - expected) <= 1e-12 * np.maximum(1, np.abs(expected))))


@pytest.mark.parametrize("name", LEVEL_1)
def test_page_computes_what_python_does(name: str, visit: Callable[..., Browser], ordinary: Callable[..., Any]) -> None:
    inputs = ordinary(REGISTRY[name])
    sent = json.dumps({key: listed(value) for key, value in inputs.items()})
    found = visit().run(f"minipref.evaluate('{name}', {sent})")
    for output, expected in REGISTRY[name](**inputs)._asdict().items():
        assert close(found[output], expected), output


SETTINGS = {"beta": 0.4, "label_smoothing": 0.15, "gamma": 0.7, "odds_weight": 0.6, "noise": 0.1, "seed": 7, "step": 0.5}
CURVATURE = {"ipo": 4 / 3, "rso_hinge": 0.4, "orpo": 1, "sppo": 1, "kl_regularized_objective": 1}  # elsewhere β²/6


def tokens(logps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of responses of one token."""
    return np.ones(len(logps), int), np.ones(len(logps), int)


PAIRED: dict[str, bandit.PairLoss] = {
    "dpo": partial(minipref.dpo, beta=0.4),
    "cdpo": partial(minipref.cdpo, beta=0.4, label_smoothing=0.15),
    "robust_dpo": partial(minipref.robust_dpo, beta=0.4, label_smoothing=0.15),
    "ipo": partial(minipref.ipo, beta=0.4),
    "rso_hinge": partial(minipref.rso_hinge, beta=0.4),
    "simpo": lambda chosen, rejected, *_: minipref.simpo(chosen, rejected, *tokens(chosen), beta=0.4, gamma=0.7),
    "orpo": lambda chosen, rejected, *_: minipref.orpo(chosen, rejected, *tokens(chosen), odds_weight=0.6),
}


def labels(rewards: np.ndarray, pairs: int) -> np.ndarray:
    """Shares of preferences [4, 4], drawn here as the page says it draws them: x ← 48271 x mod (2³¹ - 1)."""
    wins = 0.9 * bandit.preferences(rewards[None])[0] + 0.1 * bandit.preferences(-rewards[None])[0]
    if not pairs:
        return wins * (1 - np.eye(4)) / 6
    xs = [SETTINGS["seed"] * pow(48271, n, 2**31 - 1) % (2**31 - 1) / (2**31 - 1) for n in range(9, 9 + 2 * pairs)]
    shares = np.zeros((4, 4))
    for which, label in zip(xs[::2], xs[1::2], strict=True):
        i, j = list(zip(*np.triu_indices(4, 1), strict=True))[int(6 * which)]
        shares[(i, j) if label < wins[i, j] else (j, i)] += 1 / pairs
    return shares


def slopes(method: str, logits: np.ndarray, world: bandit.World, shares: np.ndarray) -> np.ndarray:
    """∂L/∂z [1, 4] of the page's four kinds of training."""
    logps, reference, policy = log_softmax(logits), world.reference_logps, np.exp(log_softmax(logits))
    if method in PAIRED:
        return bandit.pair_gradient(PAIRED[method], logits, reference, shares[None])
    if method == "kl_regularized_objective":
        return -minipref.kl_regularized_objective(logits, world.rewards, reference, 0.4).grad_policy_logits
    if method == "sppo":
        rates = (shares + np.eye(4)) / (shares + shares.T + 2 * np.eye(4)) @ world.reference[0]
        found = minipref.sppo(logps[0], reference[0], rates, eta=1 / 0.4)
        return bandit.to_logits(world.reference * found.grad_policy_logps, policy)
    point = max(0.0, float(bandit.kl(policy, world.reference)[0]))
    good, bad = (minipref.kto(logps[0], reference[0], np.full(4, side), point, beta=0.4) for side in (True, False))
    pushes = shares.sum(1) * good.grad_policy_logps + shares.sum(0) * bad.grad_policy_logps
    return bandit.to_logits(pushes[None], policy)


@pytest.mark.parametrize("pairs", [0, 100])
@pytest.mark.parametrize("method", [*PAIRED, "kto", "sppo", "kl_regularized_objective"])
def test_page_trains_as_python_does(method: str, pairs: int, visit: Callable[..., Browser]) -> None:
    browser = visit()
    rewards, reference = (np.array([browser.run(f"minipref.{name}")]) for name in ("REWARDS", "REFERENCE"))
    world = bandit.World(rewards, reference, beta=0.4)
    shares, rate = labels(rewards[0], pairs), SETTINGS["step"] / CURVATURE.get(method, 0.4**2 / 6)
    expected = bandit.descend(lambda z: slopes(method, z, world, shares), world.reference_logps, rate, 50)
    sent = json.dumps(SETTINGS | {"method": method, "pairs": pairs})
    assert close(browser.run(f"minipref.train({sent}, 50)"), expected[0])


def test_slider_moves_its_number_and_the_curves(visit: Callable[..., Browser]) -> None:
    browser = visit("noise=0.05")
    before = browser.run("document.querySelector('#losses path').getAttribute('d')")
    browser.run("document.querySelector('[name=beta]').focus()")
    browser.press("ArrowRight", windowsVirtualKeyCode=39)
    assert browser.run("document.querySelector('[name=beta]').previousElementSibling.textContent") == "0.55"
    assert browser.run("document.querySelector('#losses path').getAttribute('d')") != before
    minima = f"Minimum: cDPO at {math.log(9) / 0.55:.3f}, IPO at {1 / 1.1:.3f}, hinge at {1 / 0.55:.3f}."
    assert browser.run("document.getElementById('minima').textContent") == minima
    browser.run("document.querySelector('[value=reward]').click()")
    assert f"cDPO at {math.log(9):.3f}, IPO at 0.500, hinge at 1.000" in browser.run(
        "document.getElementById('minima').textContent"
    )


def test_sppo_of_a_winner_is_ipo(visit: Callable[..., Browser]) -> None:
    browser = visit("beta=0.4&shown=sppo")
    assert browser.run("document.getElementById('minima').textContent") == f"Minimum: SPPO at {1 / (2 * 0.4):.3f}."


def test_sliders_are_shown_where_they_matter(visit: Callable[..., Browser]) -> None:
    browser = visit("method=simpo&gamma=1.3&label_smoothing=0.2&shown=cdpo")
    sliders = "[...document.querySelectorAll('input[type=range]')].filter(x => x.checkVisibility())"
    seen = browser.run(f"{sliders}.map(x => [x.form.id, x.name])")
    assert [name for form, name in seen if form == "settings"] == ["beta", "noise", "step", "gamma"]
    assert [name for form, name in seen if form == "shape"] == ["beta", "label_smoothing"]
    browser.run("document.querySelector('#shape [name=label_smoothing]').focus()")
    browser.press("ArrowRight", windowsVirtualKeyCode=39)
    settings = browser.run("minipref.settings()")
    assert settings["gamma"] == 1.3 and settings["label_smoothing"] == 0.25
    assert "gamma=1.3&" in browser.run("location.hash") and "label_smoothing=0.25&" in browser.run("location.hash")


@pytest.mark.parametrize("width", [1280, 390])
def test_dots_lie_inside_and_text_is_of_one_size(width: int, visit: Callable[..., Browser]) -> None:
    browser = visit("pairs=20&noise=0.2&steps=300", width)
    dots = browser.run("[...document.querySelectorAll('#gaps circle')].map(x => [x.cx.baseVal.value, x.cy.baseVal.value])")
    inside = browser.run("(x => [x.width.baseVal.value, x.height.baseVal.value])(document.querySelector('#gaps svg'))")
    assert len({x for x, _ in dots}) == 6
    assert all(5 <= at <= end - 5 for dot in dots for at, end in zip(dot, inside, strict=True))
    heights = browser.run("[...document.querySelectorAll('text:not(.label)')].map(x => x.getBoundingClientRect().height)")
    assert max(heights) <= 18 and min(heights) >= 12 and max(heights) - min(heights) <= 1


def test_zero_has_no_sign(visit: Callable[..., Browser]) -> None:
    assert "-0.000" not in visit("steps=0").run("document.getElementById('numbers').textContent")


STATE = "[minipref.settings(), minipref.policy(), document.getElementById('status').textContent]"


def test_space_runs_and_the_address_brings_it_back(visit: Callable[..., Browser]) -> None:
    browser = visit("method=ipo&pairs=20&seed=5&axis=reward&shown=orpo&shown=dpo")
    browser.press(" ", windowsVirtualKeyCode=32)
    browser.run("new Promise(done => setTimeout(done, 300))")
    assert browser.run("document.getElementById('run').textContent") == "Pause"
    browser.press(" ", windowsVirtualKeyCode=32)
    settings, policy, status = browser.run(STATE)
    assert int(status.split()[0]) > 3 and settings["pairs"] == 20
    address, ticked = browser.run("location.hash"), "[...document.querySelectorAll('[name=shown]:checked')].map(x => x.value)"
    again = visit(address.removeprefix("#")).run(STATE)
    assert again == [settings | {"steps": again[0]["steps"]}, policy, status]
    assert browser.run(ticked) == ["dpo", "orpo"]


def test_an_address_cannot_hold_what_a_field_cannot(visit: Callable[..., Browser]) -> None:
    browser = visit("method=%3Cb%3E&beta=NaN&noise=7&seed=-1&pairs=3&axis=up&steps=1e9&shown=x&toString=1")
    settings = browser.run("minipref.settings()")
    assert settings["method"] == "dpo" and settings["pairs"] == 0 and settings["seed"] == 1 and settings["axis"] == "ratio"
    assert 0.1 <= settings["beta"] <= 2 and settings["noise"] == 0.45


def test_too_large_a_learning_rate_is_said(visit: Callable[..., Browser]) -> None:
    status = visit("method=ipo&step=3&steps=20000").run("document.getElementById('status').textContent")
    assert "Stopped" in status and "NaN" not in status


def test_every_control_is_reached_with_the_tab_key(visit: Callable[..., Browser]) -> None:
    browser, reached = visit(), set()
    controls = "[...document.querySelectorAll('select, button, input')].filter(x => x.checkVisibility())"
    stops = browser.run(f"{controls}.length") - 1  # two radio buttons are one stop
    for _ in range(stops):
        browser.press("Tab", windowsVirtualKeyCode=9)
        reached.add(browser.run(f"{controls}.indexOf(document.activeElement)"))
    assert len(reached) == stops and -1 not in reached
    unnamed = "[...document.querySelectorAll('input:not([type=hidden]), select')].filter(x => !x.labels.length).length"
    assert browser.run(unnamed + " + document.querySelectorAll('svg[role=img]:not([aria-label])').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(scheme: str, visit: Callable[..., Browser]) -> None:
    browser = visit(scheme=scheme)
    colours = "['html', 'figcaption'].map(x => getComputedStyle(document.querySelector(x)).color)"
    ground = luminance(browser.run("getComputedStyle(document.documentElement).backgroundColor"))
    assert ground > 0.9 if scheme == "light" else ground < 0.1
    for colour in browser.run(colours):
        low, high = sorted((ground, luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`: WCAG 2.2."""
    values = np.array(re.findall(r"\d+", colour)[:3], float) / 255
    return float(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def test_telephone(visit: Callable[..., Browser]) -> None:
    browser = visit(width=390)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.run("document.getElementById('step').scrollIntoView()")
    x, y = browser.run(
        "(r => [r.x + r.width / 2, r.y + r.height / 2])(document.getElementById('step').getBoundingClientRect())"
    )
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run("document.getElementById('status').textContent").startswith("1 steps")
