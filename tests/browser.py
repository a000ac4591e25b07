"""A headless Chromium, driven through its debugging pipe: JSON messages that end with a zero byte. Standard library only."""

import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-dev-shm-usage",
)
PATIENCE = 30.0  # seconds for one answer


class Browser:
    """One tab. Whatever its page reports, errors and console messages among it, is kept in `events`."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM, "no Chromium"
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        # The browser reads from descriptor 3 and writes to 4: a shell puts them there.
        shell = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        line = ["bash", "-c", shell, PROGRAM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(line, pass_fds=(commands, answers), stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self._received, self._count, self._session, self.events = b"", 0, "", list[dict[str, Any]]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol, return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | (
            {"sessionId": self._session} if self._session else {}
        )
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        deadline = monotonic() + PATIENCE
        while b"\0" not in self._received:
            if not select.select([self._in], [], [], max(0, deadline - monotonic()))[0]:
                raise TimeoutError(f"the browser was silent for {PATIENCE:g} s")
            part = os.read(self._in, 65536)
            if not part:
                raise EOFError("the browser ended")
            self._received += part
        line, _, self._received = self._received.partition(b"\0")
        return json.loads(line)

    def run(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise. An exception of the page is raised."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        """Load a page afresh and wait until its script has run."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))")

    def press(self, key: str, **more: Any) -> None:
        """One key down and up, as from a keyboard."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **more)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(10)
        os.close(self._out)
        os.close(self._in)
