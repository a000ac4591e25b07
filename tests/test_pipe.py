"""Every way a judged program can misbehave, each played by a small program, and each found by its own name."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from verify import pipe, protocol
from verify.pipe import BrokenStart, Misbehaviour, Outputs, Refusal, Session
from verify.protocol import decode_output, parse_answer

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 0.5

# A program that keeps the contract: the tests replace one line of it.
HONEST = """
import json, os, sys, time
def say(text): sys.stdout.write(text + "\\n"); sys.stdout.flush()
start = json.loads(sys.stdin.readline())
say(json.dumps({"name": "toy", "version": "1", "language": "py", "operations": ["f"], "dtypes": ["float64"]}))
while True:
    request = json.loads(sys.stdin.readline())
    if request["cmd"] == "stop": break
    ID = request["id"]
    say('{"id": %d, "outputs": {"losses": [1, 2.0]}}' % ID)
"""
START, ANSWER, STOP = (line for line in HONEST.splitlines() if line.lstrip().startswith(("say(json", "say('", "if")))

Spawn = Callable[..., Session]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Sessions of HONEST with a line replaced; afterwards no process of theirs may be left, not even a zombie."""
    sessions: list[Session] = []

    def start(old: str = "", new: str = "", **settings: float) -> Session:
        path = tmp_path / "program.py"
        indent = old[: len(old) - len(old.lstrip())]
        path.write_text(HONEST.replace(old, indent + new) if old else HONEST)
        command = [sys.executable, "-I", "-S", str(path)]
        sessions.append(Session(command, **{"request_seconds": SECONDS, "start_seconds": 5.0, **settings}))
        return sessions[-1]

    yield start
    for session in sessions:
        session.__exit__()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Session]]:
    """Sessions of Python modules behind verify.child, with a made-up contract of two operations."""
    monkeypatch.chdir(ROOT)
    inputs = {"x": {"kind": "float"}, "n": {"kind": "int"}, "m": {"kind": "bool"}, "beta": {"kind": "scalar"}}
    operation = {"inputs": inputs, "outputs": {"y": {"kind": "float"}, "note": {"kind": "float"}}}
    contract = tmp_path / "contract.json"
    contract.write_text(json.dumps({"operations": {"f": operation, "g": operation}}))
    sessions: list[Session] = []

    def start(text: str) -> Session:
        (tmp_path / "port.py").write_text("import os, sys\nimport numpy as np\n" + text)
        command = [sys.executable, "-m", "verify.child", str(tmp_path / "port.py"), str(contract)]
        sessions.append(Session(command, request_seconds=5.0, python_child=True))
        return sessions[-1]

    yield start
    for session in sessions:
        session.__exit__()


def ask(session: Session) -> Outputs | Refusal | Misbehaviour:
    return session.run("f", "float64", {"x": np.array([0.5])})


def gone(pid: int) -> bool:
    """No such process, or one that only waits for its (foreign) parent to reap it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def test_an_honest_program(spawn: Spawn) -> None:
    session = spawn()
    assert session.declaration == ("toy", "1", "py", ("f",), ("float64",))
    assert [ask(session) for _ in range(3)] == [Outputs({"losses": [1, 2.0]})] * 3
    assert session.stop() is None
    assert session.restarts == 0


def test_the_start_message_and_a_request(spawn: Spawn) -> None:
    session = spawn(ANSWER, "say(json.dumps({'id': ID, 'error': json.dumps([start, request])}))")
    reply = session.run("f", "float32", {"x": np.float32([0.1, -np.inf]), "e": np.zeros((0, 3)), "k": 3, "b": True})
    assert isinstance(reply, Refusal)
    start, request = json.loads(reply.message)
    assert start == {"cmd": "start", "protocol": 1, "request_seconds": SECONDS}
    assert 0 <= request.pop("id") < 2**53
    inputs = {"x": [0.10000000149011612, "-inf"], "e": [], "k": 3, "b": True}
    expected = {"cmd": "run", "operation": "f", "dtype": "float32", "inputs": inputs, "shapes": {"e": [0, 3]}}
    assert request == expected


BROKEN_ANSWERS = {
    "stalls": ("time.sleep(60)", "timeout", "no answer within 0.5 s; got nothing"),
    "drips": ("[(os.write(1, b'1'), time.sleep(.01)) for _ in range(999)]", "timeout", "got b'111"),
    "exits 0 halfway": ("os._exit(0)", "early-end", "exit code 0"),
    "exits halfway with output": ("os.write(1, b'{\"id\"'); os._exit(7)", "early-end", "exit code 7 before it"),
    "is killed": ("os.kill(os.getpid(), 11)", "early-end", "signal 11"),
    "closes its stdout": ("os.close(1); time.sleep(60)", "early-end", "closed its stdout"),
    "bare NaN": ("say('{\"id\": %d, \"outputs\": {\"a\": NaN}}' % ID)", "malformed", "bare NaN"),
    "bare -Infinity": ("say('{\"id\": %d, \"outputs\": {\"a\": -Infinity}}' % ID)", "malformed", "bare -Infinity"),
    "null": ("say('{\"id\": %d, \"outputs\": {\"a\": [null]}}' % ID)", "malformed", "null"),
    "overflow": ("say('{\"id\": %d, \"outputs\": {\"a\": 1e999}}' % ID)", "malformed", "overflows a double: '1e999'"),
    "long integer": ("say('{\"id\": %d, \"outputs\": {\"a\": 1%s}}' % (ID, '0' * 6000))", "malformed", "overflows"),
    "duplicate key": ("say('{\"id\": %d, \"outputs\": {}, \"id\": 1}' % ID)", "malformed", "duplicate key 'id'"),
    "nesting": ("say('{\"id\": 1, \"outputs\": {\"a\": ' + '[' * 7 + ']' * 7 + '}}')", "malformed", "deeper than 8"),
    "endless nesting": ("say('[' * 10**6)", "malformed", "deeper than 8"),
    "not UTF-8": ("os.write(1, b'{\"a\\xff\": 1}\\n')", "malformed", "not UTF-8"),
    "not JSON": ("say('done')", "malformed", "not JSON: Expecting value at character 0; got b'done'"),
    "not an object": ("say('[]')", "malformed", "not a JSON object"),
    "no id": ("say('{\"outputs\": {}}')", "malformed", "needs the id"),
    "both": ("say('{\"id\": %d, \"outputs\": {}, \"error\": \"\"}' % ID)", "malformed", "exactly one of"),
    "neither": ("say('{\"id\": %d}' % ID)", "malformed", "exactly one of outputs and error"),
    "error is no string": ("say('{\"id\": %d, \"error\": 3}' % ID)", "malformed", "error a string"),
    "wrong id": ("say('{\"id\": %d, \"outputs\": {}}' % (ID + 1))", "wrong-id", "expected id"),
}


@pytest.mark.parametrize("name", BROKEN_ANSWERS)
def test_a_broken_answer(spawn: Spawn, name: str) -> None:
    new, kind, message = BROKEN_ANSWERS[name]
    session = spawn(ANSWER, new)
    finding = ask(session)
    assert isinstance(finding, Misbehaviour)
    assert finding.kind == kind
    assert message in finding.message
    assert len(finding.message) < 500


@pytest.mark.parametrize("flood", ["b'1' * 2**20", "b'1\\n' * 2**20"])
def test_a_flood_ends_at_the_limit(spawn: Spawn, monkeypatch: pytest.MonkeyPatch, flood: str) -> None:
    monkeypatch.setattr(protocol, "LINE_LIMIT", 2**21)
    session = spawn(ANSWER, f"while True: os.write(1, {flood})", request_seconds=10.0)
    began = time.monotonic()
    finding = ask(session)
    assert isinstance(finding, Misbehaviour) and finding.kind == "malformed"
    assert time.monotonic() - began < 5


def test_a_writer_that_never_reads_is_caught_by_the_clock(spawn: Spawn) -> None:
    session = spawn("    request = json.loads(sys.stdin.readline())", "time.sleep(60)")
    finding = session.run("f", "float64", {"x": np.zeros(10**6)})
    assert isinstance(finding, Misbehaviour) and finding.kind == "timeout"


def test_a_large_request_and_a_noisy_stderr_do_not_block(spawn: Spawn) -> None:
    session = spawn(ANSWER, "os.write(2, b'z' * 2**20 + b'end'); " + ANSWER.strip(), request_seconds=10.0)
    assert isinstance(session.run("f", "float64", {"x": np.zeros(10**5)}), Outputs)
    assert session.stop() is None
    assert len(session.stderr_tail) == 2**16 and session.stderr_tail.endswith("zend")


@pytest.mark.parametrize("pause", ["", "time.sleep(0.1); "])
def test_a_second_answer(spawn: Spawn, pause: str) -> None:
    session = spawn(ANSWER, f"{ANSWER.strip()}; {pause}{ANSWER.strip()}")
    assert isinstance(ask(session), Outputs)
    time.sleep(0.02)
    finding = ask(session)
    assert isinstance(finding, Misbehaviour) and finding.kind == "repeated"


def test_output_that_nothing_asked_for(spawn: Spawn) -> None:
    session = spawn(ANSWER, "os.write(1, b'{\"id\": %d, \"outputs\": {}}\\nbye' % ID)")
    assert isinstance(ask(session), Outputs)
    finding = ask(session)
    assert isinstance(finding, Misbehaviour) and finding.kind == "extra-output" and "b'bye'" in finding.message
    assert isinstance(ask(session), Outputs)
    finding = session.stop()
    assert finding is not None and finding.kind == "extra-output"


BROKEN_STOPS = {
    "says goodbye": ("say('bye'); break", "extra-output", "stop has no answer; got b'bye"),
    "exits with 3": ("sys.exit(3)", "exit-code", "exit code 3, expected exit code 0"),
    "is killed": ("os.kill(os.getpid(), 9)", "exit-code", "signal 9"),
    "ignores it": ("continue", "timeout", "had not ended after 0.3 s"),
}


@pytest.mark.parametrize("name", BROKEN_STOPS)
def test_a_broken_stop(spawn: Spawn, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(pipe, "STOP_SECONDS", 0.3)
    new, kind, message = BROKEN_STOPS[name]
    finding = spawn(STOP, 'if request["cmd"] == "stop": ' + new).stop()
    assert finding is not None and finding.kind == kind and message in finding.message


def test_an_end_after_the_last_answer_is_early(spawn: Spawn) -> None:
    session = spawn(ANSWER, ANSWER.strip() + "; os._exit(0)")
    assert isinstance(ask(session), Outputs)
    time.sleep(0.1)
    finding = session.stop()
    assert finding is not None and finding.kind == "early-end" and "exit code 0" in finding.message


BROKEN_STARTS = {
    "silent": ("time.sleep(60)", "no answer within 0.5 s"),
    "garbage": ("say('hello')", "malformed declaration: not JSON"),
    "numbers": ("say(json.dumps({'name': 3}))", "name must be a string, got 3"),
    "dies": ("sys.exit('no GPU')", "exit code 1 before it answered; got nothing; its stderr ends 'no GPU"),
}


@pytest.mark.parametrize("name", BROKEN_STARTS)
def test_a_broken_start(spawn: Spawn, name: str) -> None:
    new, message = BROKEN_STARTS[name]
    with pytest.raises(BrokenStart) as caught:
        spawn(START, new, start_seconds=0.5 if name == "silent" else 5.0)
    assert message in str(caught.value)


def test_no_such_program() -> None:
    with pytest.raises(BrokenStart, match="cannot be run"):
        Session(["/no/such/program"])


def test_three_restarts_and_then_not_run(spawn: Spawn) -> None:
    session = spawn(ANSWER, "os._exit(0)")
    kinds = [finding.kind for finding in (ask(session) for _ in range(6)) if isinstance(finding, Misbehaviour)]
    assert kinds == ["early-end"] * 4 + ["not-run"] * 2
    assert session.restarts == 3
    assert session.stop() is None


def test_a_program_that_starts_only_once(spawn: Spawn, tmp_path: Path) -> None:
    once = f"os.mkdir({str(tmp_path / 'once')!r}); "
    session = spawn(START, once + START + "; sys.stdin.readline(); os._exit(0)")
    kinds = [finding.kind for finding in (ask(session) for _ in range(5)) if isinstance(finding, Misbehaviour)]
    assert kinds == ["early-end", "not-started", "not-started", "not-started", "not-run"]


FORK = "grandchild = os.fork()\n    if not grandchild: time.sleep(60)\n    "


@pytest.mark.parametrize("then", [ANSWER.strip().replace("[1, 2.0]", "%d") + "[:0]", "os._exit(0)"])
def test_grandchildren_die_with_the_program(spawn: Spawn, tmp_path: Path, then: str) -> None:
    note = tmp_path / "pid"
    session = spawn(ANSWER, f"{FORK}open({str(note)!r}, 'w').write(str(grandchild))\n    os._exit(0)")
    finding = ask(session)
    assert isinstance(finding, Misbehaviour) and finding.kind == "early-end"
    assert gone(int(note.read_text()))
