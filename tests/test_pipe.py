"""Every way a judged program can misbehave, each played by a small program and found under its own name."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from verify import pipe, protocol
from verify.pipe import BrokenStart, Misbehaviour, Outputs, Refusal, Session
from verify.protocol import decode_output, parse_answer

ROOT = Path(__file__).resolve().parents[1]

# A program that keeps the contract; a test replaces one of the words in capitals by other code.
PROGRAM = """
import json, os, sys, time
def say(text): os.write(1, text.encode() + b"\\n")
start = json.loads(sys.stdin.readline())
START
while True:
    READ
    if request["cmd"] == "stop": STOP
    ANSWER
"""
HONEST = {
    "START": 'say(\'{"name": "toy", "version": "1", "language": "py", "operations": ["f"], "dtypes": []}\')',
    "READ": "request = json.loads(sys.stdin.readline())",
    "STOP": "break",
    "ANSWER": 'say(\'{"id": %d, "outputs": {"y": [1, 2.0]}}\' % request[\'id\'])',
}

Spawn = Callable[..., Session]


@pytest.fixture
def session() -> Iterator[Spawn]:
    """session(...) is a Session; afterwards no process of theirs may be left, not even a zombie."""
    before = children()
    with ExitStack() as sessions:
        yield lambda *command, **settings: sessions.enter_context(Session([sys.executable, *map(str, command)], **settings))
    assert children() <= before


def children() -> set[str]:
    """Ids of this process's own, zombies too; other tests keep a server of forks."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture
def spawn(session: Spawn, tmp_path: Path) -> Spawn:
    """Sessions of PROGRAM."""

    def start(seconds: float = 5.0, start_seconds: float = 10.0, **parts: str) -> Session:
        text = PROGRAM
        for word, code in (HONEST | parts).items():
            text = text.replace(word, code)
        (tmp_path / "program.py").write_text(text)
        return session("-I", "-S", tmp_path / "program.py", request_seconds=seconds, start_seconds=start_seconds)

    return start


def ask(session: Session) -> Outputs | Refusal | Misbehaviour:
    return session.run("f", "float64", {"x": np.array([0.5])})


def expect(finding: object, kind: str, message: str) -> None:
    assert isinstance(finding, Misbehaviour), finding
    assert finding.kind == kind, finding
    assert message in finding.message
    assert len(finding.message) < 500


def is_gone(pid: int) -> bool:
    """No such process, or one that only waits for a foreign parent to reap it."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
            time.sleep(0.01)
        except (FileNotFoundError, ProcessLookupError):
            return True
    return False


def test_an_honest_program(spawn: Spawn) -> None:
    session = spawn()
    assert session.declaration == ("toy", "1", "py", ("f",), ())
    assert [ask(session) for _ in range(3)] == [Outputs({"y": [1, 2.0]})] * 3
    assert session.stop() is None
    assert session.restarts == 0


def test_the_start_message_and_a_request(spawn: Spawn) -> None:
    session = spawn(ANSWER="say(json.dumps({'id': request['id'], 'error': json.dumps([start, request])}))")
    x = np.array([0.1, -np.inf], dtype=np.float32)
    reply = session.run("f", "float32", {"x": x, "e": np.zeros((0, 3)), "k": 3, "b": True})
    assert isinstance(reply, Refusal) and not reply.undeclared
    start, request = json.loads(reply.message)
    assert start == {"cmd": "start", "protocol": 1, "request_seconds": 5.0}
    assert 0 <= request.pop("id") < 2**53
    inputs = {"x": [0.10000000149011612, "-inf"], "e": [], "k": 3, "b": True}
    assert request.pop("inputs") == inputs and request.pop("shapes") == {"e": [0, 3]}
    assert request == {"cmd": "run", "operation": "f", "dtype": "float32"}


BROKEN_LINES = {
    '{"id": 7, "outputs": {"y": NaN}}': "bare NaN",
    '{"id": 7, "outputs": {"y": [-Infinity]}}': "bare -Infinity",
    '{"id": 7, "outputs": {"y": [null]}}': "null",
    '{"id": 7, "outputs": {}, "error": null}': "null",
    '{"id": 7, "outputs": {"y": 1e999}}': "overflows a double: '1e999'",
    '{"id": 7, "outputs": {"y": 1' + 5000 * "0" + "}}": "overflows a double",
    '{"id": 7, "outputs": {}, "id": 7}': "duplicate key 'id'",
    '{"id": 7, "outputs": {"y": ' + 7 * "[" + 7 * "]" + "}}": "deeper than 8",
    100_000 * "[": "deeper than 8",
    '{"id": 7, "outputs": {"\xff": 1}}': "not UTF-8",
    "done": "not JSON: Expecting value at character 0; got b'done'",
    "[]": "not a JSON object",
    '{"outputs": {}}': "needs the id",
    '{"id": true, "outputs": {}}': "needs the id",
    '{"id": 7, "outputs": {}, "error": ""}': "exactly one of outputs and error",
    '{"id": 7}': "exactly one of outputs and error",
    '{"id": 7, "outputs": []}': "outputs must be an object",
    '{"id": 7, "error": 3}': "error a string",
}


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: line[:40])
def test_a_malformed_answer(line: str) -> None:
    expect(parse_answer(line.encode("latin-1"), 7), "malformed", BROKEN_LINES[line])


SILENCES = [
    ("say('done')", "malformed", "not JSON: Expecting value at character 0; got b'done'"),
    ("time.sleep(60)", "timeout", "no answer within 0.5 s (is every line flushed?); got nothing"),
    ("[(os.write(1, b'1'), time.sleep(.01)) for _ in range(999)]", "timeout", "got b'111"),
    ("os._exit(0)", "early-end", "exit code 0 before it answered"),
    ("os.write(1, b'{\"id\"'); os._exit(7)", "early-end", "code 7 before"),
    ("os.kill(os.getpid(), 11)", "early-end", "was ended by signal 11"),
    ("os.close(1); time.sleep(60)", "early-end", "closed its stdout"),
    ("say('{\"id\": %d, \"outputs\": {}}' % (request['id'] + 1))", "wrong-id", "expected id"),
]


@pytest.mark.parametrize("answer, kind, message", SILENCES)
def test_no_answer_to_this_request(spawn: Spawn, answer: str, kind: str, message: str) -> None:
    expect(ask(spawn(0.5 if kind == "timeout" else 5.0, ANSWER=answer)), kind, message)


@pytest.mark.parametrize("chunk", ["b'1' * 2**20", "b'1\\n' * 2**20"])
def test_a_flood_ends_at_the_limit(spawn: Spawn, monkeypatch: pytest.MonkeyPatch, chunk: str) -> None:
    monkeypatch.setattr(protocol, "LINE_LIMIT", 2**21)
    session = spawn(ANSWER=f"while True: os.write(1, {chunk})")
    began = time.monotonic()
    expect(ask(session), "malformed", "got b'1")
    assert time.monotonic() - began < 5


def test_a_program_that_never_reads_is_caught_by_the_clock(spawn: Spawn) -> None:
    session = spawn(0.5, READ="time.sleep(60)")
    expect(session.run("f", "float64", {"x": np.zeros(10**5)}), "timeout", "got nothing")


def test_a_large_request_and_a_noisy_stderr_do_not_block(spawn: Spawn) -> None:
    session = spawn(ANSWER="os.write(2, b'z' * 2**20 + b'end'); " + HONEST["ANSWER"])
    assert isinstance(session.run("f", "float64", {"x": np.zeros(10**5)}), Outputs)
    assert session.stop() is None
    assert len(session.stderr_tail) == 2**16 and session.stderr_tail.endswith("zend")


UNASKED = [
    ("; ".join([HONEST["ANSWER"], HONEST["ANSWER"]]), "repeated", ""),
    ("; ".join([HONEST["ANSWER"], "time.sleep(0.1)", HONEST["ANSWER"]]), "repeated", ""),
    ('os.write(1, b\'{"id": %d, "outputs": {}}\\nbye\' % request["id"])', "extra-output", "got b'bye'"),
]


@pytest.mark.parametrize("answer, kind, message", UNASKED)
def test_output_that_nothing_asked_for(spawn: Spawn, answer: str, kind: str, message: str) -> None:
    session = spawn(ANSWER=answer)
    assert isinstance(ask(session), Outputs)
    time.sleep(0.02)
    expect(ask(session), kind, message)
    assert isinstance(ask(session), Outputs)
    time.sleep(0.2)
    expect(session.stop(), kind, message)


BROKEN_STOPS = {
    "say('bye'); break": ("extra-output", "stop has no answer; got b'bye"),
    "sys.exit(3)": ("exit-code", "exit code 3, expected exit code 0"),
    "os.kill(os.getpid(), 9)": ("exit-code", "signal 9"),
    "continue": ("timeout", "had not ended after 0.5 s"),
}


@pytest.mark.parametrize("code", BROKEN_STOPS)
def test_a_broken_stop(spawn: Spawn, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(pipe, "STOP_SECONDS", 0.5)
    expect(spawn(STOP=code).stop(), *BROKEN_STOPS[code])


def test_an_end_after_the_last_answer_is_early(spawn: Spawn) -> None:
    session = spawn(ANSWER=HONEST["ANSWER"] + "; os._exit(0)")
    assert isinstance(ask(session), Outputs)
    time.sleep(0.1)
    expect(session.stop(), "early-end", "exit code 0 before it was told to stop")


BROKEN_STARTS = {
    "time.sleep(60)": "no answer within 0.5 s",
    "say('hello')": "malformed declaration, its first line: not JSON",
    "say('{\"name\": 3}')": "name must be a string in its declaration, the first line; got 3",
    "sys.exit('no GPU')": "exit code 1 before it answered; got nothing; its stderr ends 'no GPU",
}


@pytest.mark.parametrize("code", BROKEN_STARTS)
def test_a_broken_start(spawn: Spawn, code: str) -> None:
    with pytest.raises(BrokenStart) as caught:
        spawn(start_seconds=0.5 if "sleep" in code else 10.0, START=code)
    assert BROKEN_STARTS[code] in str(caught.value)


def test_three_restarts_and_then_not_run(spawn: Spawn) -> None:
    session = spawn(ANSWER="os._exit(0)")
    kinds = [finding.kind for finding in (ask(session) for _ in range(6)) if isinstance(finding, Misbehaviour)]
    assert kinds == ["early-end"] * 4 + ["not-run"] * 2
    assert session.restarts == 3
    assert session.stop() is None


def test_a_program_that_starts_only_once(spawn: Spawn, tmp_path: Path) -> None:
    session = spawn(START=f"os.mkdir({str(tmp_path / 'once')!r}); " + HONEST["START"], ANSWER="os._exit(0)")
    expect(ask(session), "early-end", "exit code 0")
    expect(ask(session), "not-started", "FileExistsError")


@pytest.mark.parametrize("then", ["os._exit(0)", HONEST["ANSWER"]])
def test_grandchildren_die_with_the_program(spawn: Spawn, tmp_path: Path, then: str) -> None:
    fork = f"""pid = os.fork()
    if not pid: time.sleep(60)
    open({str(tmp_path / "pid")!r}, 'w').write(str(pid)); {then}"""
    session = spawn(ANSWER=fork)
    reply = ask(session)
    assert isinstance(reply, Outputs) or reply.kind == "early-end"  # type: ignore[union-attr]
    assert session.stop() is None
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_bad_arguments_of_a_session(spawn: Spawn) -> None:
    with pytest.raises(ValueError, match="command must be"):
        Session("python port.py")
    with pytest.raises(ValueError, match="seconds must be > 0"):
        Session(["true"], request_seconds=float("nan"))
    with pytest.raises(ValueError, match="layout must be"):
        spawn().run("f", "float64", {}, layout="strided")


# A raw answer, the shape and kind that are due; then its numbers, or a part of the message.
DECODED = [
    ([1, 2.5, "inf", "-inf", -0.0], (5,), "float", [1.0, 2.5, np.inf, -np.inf, 0.0]),
    ([[], []], (2, 0), "float", [[], []]),
    ([], (2, 0, 3), "float", [[], []]),
    (3, (), "float", 3.0),
    ([2.0, 3], (2,), "int", [2, 3]),
    ([[True], [False]], (2, 1), "bool", [[True], [False]]),
]
UNDECODED = [
    ([1.0], (2,), "float", "expected shape [2], got a list of 1 where 2 are due"),
    ([[1, 2], [3]], (2, 2), "float", "expected shape [2, 2], got a list of 1 where 2 are due"),
    (1.0, (1,), "float", "expected shape [1], got 1.0 where a list of 1 is due"),
    ([[1]], (1,), "float", "expected a number, got [1]"),
    ([True], (1,), "float", "expected a number, got True"),
    (["Infinity"], (1,), "float", "expected a number, got 'Infinity'"),
    (["nan"], (1,), "int", "expected an integer of 64 bits, got 'nan'"),
    ([1.5], (1,), "int", "expected an integer of 64 bits, got 1.5"),
    ([2**63], (1,), "int", "expected an integer of 64 bits"),
    ([1], (1,), "bool", "expected true or false, got 1"),
]


@pytest.mark.parametrize("raw, shape, kind, numbers", DECODED)
def test_decoded_outputs(raw: object, shape: tuple[int, ...], kind: str, numbers: object) -> None:
    decoded = decode_output(raw, shape, kind, "float32")
    assert decoded.shape == shape
    assert decoded.dtype == {"float": np.float32, "int": np.int64, "bool": bool}[kind]
    assert np.array_equal(decoded, np.array(numbers).reshape(shape))


@pytest.mark.parametrize("raw, shape, kind, message", UNDECODED)
def test_outputs_of_wrong_shape_or_type(raw: object, shape: tuple[int, ...], kind: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode_output(raw, shape, kind, "float64")
    assert message in str(caught.value)


def test_float32_survives_the_line_and_beyond_its_range_is_infinite() -> None:
    sent = np.array([0.1, 1e-45, 3.4028235e38, -0.0, np.nan], dtype=np.float32)
    line = protocol.encode_line(protocol.encode_inputs({"x": sent}))
    back = decode_output(json.loads(line)["inputs"]["x"], (5,), "float", "float32")
    assert back.tobytes() == sent.tobytes()
    assert decode_output(1e39, (), "float", "float32") == np.inf


@pytest.fixture
def child(session: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spawn:
    """Sessions of Python modules behind verify.child, with a made-up contract of two operations."""
    monkeypatch.chdir(ROOT)
    kinds = {"x": "float", "n": "int", "m": "bool", "beta": "scalar"}
    outputs = {"y": {"kind": "float"}, "found": {"kind": "int"}}
    operation = {"inputs": {name: {"kind": kind} for name, kind in kinds.items()}, "outputs": outputs}
    contract = tmp_path / "contract.json"
    contract.write_text(json.dumps({"operations": {"f": operation, "g": operation}}))

    def start(text: str) -> Session:
        (tmp_path / "port.py").write_text("import os, sys\nimport numpy as np\n" + text)
        return session("-m", "verify.child", tmp_path / "port.py", contract, request_seconds=5.0, python_child=True)

    return start


def call(session: Session, layout: str = "plain", dtype: str = "float32") -> Outputs | Refusal | Misbehaviour:
    inputs = {"x": np.array([[1.0, 2.0]], dtype), "n": np.array([3]), "m": np.array([True]), "beta": 0.5}
    return session.run("f", dtype, inputs, layout=layout)


SIGNATURE = "def f(x, n, m, beta):\n    "


def test_a_module_declares_itself(child: Spawn) -> None:
    session = child("NAME, VERSION = 'mine', 2\n" + SIGNATURE + "return {'y': x}\nnot_in_contract = f")
    assert session.declaration == ("mine", "2", "python", ("f",), ("float32", "float64"))


SEEN = """return {'found': np.array([x.dtype.itemsize, x.dtype.kind == 'f', x.flags.writeable,
    x.flags.c_contiguous, n.dtype == np.int64, m.dtype == bool, type(beta) is float, int(x.sum())])}"""


@pytest.mark.parametrize(
    "layout, seen",
    [
        ("plain", [4, 1, 1, 1, 1, 1, 1, 3]),
        ("readonly", [4, 1, 0, 1, 1, 1, 1, 3]),
        ("strided", [4, 1, 1, 0, 1, 1, 1, 3]),
        ("integer", [8, 0, 1, 1, 1, 1, 1, 3]),
        ("numeric-mask", [4, 1, 1, 1, 1, 0, 1, 3]),
    ],
)
def test_what_a_module_sees(child: Spawn, layout: str, seen: list[int]) -> None:
    assert call(child(SIGNATURE + SEEN), layout) == Outputs({"found": seen})


@pytest.mark.parametrize("n, whole", [(np.array([1.5]), 0), (np.zeros(0, int), 1)])
def test_lengths_that_are_not_whole_infinities_and_empty_arrays_arrive(child: Spawn, n: np.ndarray, whole: int) -> None:
    text = """def f(x, n, beta):
    return {'y': n.tolist(), 'found': [*x.shape, type(beta) is float and beta == np.inf, n.dtype == np.int64]}"""
    reply = child(text).run("f", "float64", {"x": np.zeros((0, 3)), "n": n, "beta": np.inf})
    assert reply == Outputs({"y": n.tolist(), "found": [0, 3, 1, whole]})


REFUSALS = {
    "x[0] = 0; return {'y': x}": "modified its input x",
    "x.flags.writeable = True; x[0] = 0; return {'y': x * 2}": "modified its input x",
    "n.dtype = np.uint64; return {'y': x}": "modified its input n",
    "return {'y': x.astype(np.float64)}": "returned float64 for y, expected float32",
    "return {'y': 1 + n}": "returned int64 for y, expected float32",
    "return x": "returned ndarray, expected a dict",
    "return {'y': None}": "returned NoneType for y, expected an array",
    "raise ValueError('beta must be > 0')": "ValueError: beta must be > 0",
    "return {'y': gone}": "NameError: name 'gone' is not defined",
}


@pytest.mark.parametrize("body", REFUSALS)
def test_a_module_that_errs(child: Spawn, body: str) -> None:
    layout = "readonly" if "writeable" in body else "plain"
    assert call(child(SIGNATURE + body), layout) == Refusal(REFUSALS[body], False)


def test_not_implemented_undeclares_on_the_first_call_only(child: Spawn) -> None:
    session = child(SIGNATURE + "raise NotImplementedError")
    assert [call(session).undeclared for _ in range(2)] == [True, False]  # type: ignore[union-attr]


def test_only_our_child_may_undeclare(spawn: Spawn) -> None:
    answer = 'say(\'{"id": %d, "error": "no", "undeclared": true}\' % request[\'id\'])'
    assert ask(spawn(ANSWER=answer)) == Refusal("no", False)


@pytest.mark.parametrize("body, message", [("os._exit(0)", "exit code 0"), ("sys.exit(5)", "exit code 5")])
def test_a_module_that_ends_the_process(child: Spawn, body: str, message: str) -> None:
    expect(call(child(SIGNATURE + body)), "early-end", message)


def test_prints_reads_and_patches_harm_nobody(child: Spawn) -> None:
    vandal = """import json
json.dumps = json.loads = np.asarray = np.array = np.isfinite = os.write = sys.stdin.readline = None
json.JSONEncoder.default = np.float64 = np.dtype = None
print('import chatter', repr(os.read(0, 9)))
"""
    session = child(vandal + SIGNATURE + "print('chatter'); os.system('echo more'); return {'y': x * 2}")
    assert [call(session), call(session)] == [Outputs({"y": [[2.0, 4.0]]})] * 2
    assert session.stop() is None
    assert "import chatter b''" in session.stderr_tail and "more" in session.stderr_tail
