"""A judged program in a process of its own: one request, one answer line, one clock. POSIX.

Whatever the program does (exits, hangs, floods, answers twice, leaves children behind) comes back as a value
that names it, and the judge is never blocked: its three pipes are non-blocking and served by one selector.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from time import monotonic

from verify import protocol
from verify.protocol import Declaration, Misbehaviour, Outputs, Refusal, encode_line, parse_answer, quote

RESTARTS = 3
STOP_SECONDS = 5.0
STDERR_KEPT = 64 * 2**10  # bytes
CHUNK = 64 * 2**10  # bytes: what a pipe holds
PATIENCE = 0.05  # seconds of silence after which the process is asked whether it still lives


class BrokenStart(Exception):
    """The program never starts: no such file, or no well-formed declaration in time."""


class _Fault(Exception):
    """The stream can no longer be trusted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.misbehaviour = Misbehaviour(kind, message)


class _Process:
    """A process group and its three pipes: lines in and out before a deadline, not what they mean."""

    def __init__(self, command: Sequence[str], stderr: bytearray) -> None:
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True)
        self._files = [file for file in (self._popen.stdin, self._popen.stdout, self._popen.stderr) if file]
        self._stdin, self._stdout, self._stderr = (file.fileno() for file in self._files)
        self._unsent, self._received, self._errors = memoryview(b""), bytearray(), stderr
        self._newline = -1  # where the first line of _received ends
        self._closed = False  # nothing more will come on stdout
        self._selector = selectors.DefaultSelector()
        for file in self._files:
            os.set_blocking(file.fileno(), False)
        self._selector.register(self._stdout, selectors.EVENT_READ, self._receive)
        self._selector.register(self._stderr, selectors.EVENT_READ, self._drain)

    def ask(self, line: bytes, seconds: float) -> bytes:
        """Write a line and return the next that comes, without its newline, within `seconds` from now."""
        deadline = monotonic() + seconds
        self._unsent, self._newline = memoryview(line), -1
        while self._unsent or self._newline < 0:
            left = deadline - monotonic()
            if not left > 0:
                raise _Fault("timeout", f"no answer within {seconds:g} s (is every line flushed?); {self._so_far()}")
            if self._closed:
                raise _Fault("early-end", f"{self._ending()} before it answered; {self._so_far()}")
            self._pump(left)
        answer = bytes(self._received[: self._newline])
        del self._received[: self._newline + 1]
        return answer

    def leftover(self) -> bytes:
        """What stands on stdout though nothing was asked."""
        with contextlib.suppress(BlockingIOError):
            self._received += os.read(self._stdout, CHUNK)
        return bytes(self._received)

    def finish(self, line: bytes, seconds: float) -> None:
        """Write the last line; raise _Fault unless the process then ends in time, in silence and with 0."""
        deadline = monotonic() + seconds
        if self._has_ended():
            raise _Fault("early-end", f"{self._ending()} before it was told to stop")
        self._unsent = memoryview(line)
        while not self._has_ended() and not self._received:
            left = deadline - monotonic()
            if not left > 0:
                raise _Fault("timeout", f"told to stop, it had not ended after {seconds:g} s")
            self._pump(min(left, 0.002) if self._closed else left)
        if self.leftover():
            raise _Fault("extra-output", f"stop has no answer; {self._so_far()}")
        if self._popen.wait() != 0:
            raise _Fault("exit-code", f"told to stop, it {self._ending()}, expected exit code 0")

    def kill(self) -> None:
        """End the whole group, reap the process, keep its last words, close the pipes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        for _ in range(16):  # no more than a pipe holds: what fled the group may write for ever
            with contextlib.suppress(BlockingIOError):
                self._keep_errors(os.read(self._stderr, CHUNK))
        self._selector.close()
        for file in self._files:
            file.close()

    def _has_ended(self) -> bool:
        return self._popen.poll() is not None

    def _pump(self, seconds: float) -> None:
        """Move whatever bytes can move, waiting a moment if none can."""
        if self._unsent:
            self._send()
        ready = self._selector.select(min(seconds, PATIENCE))
        for key, _ in ready:
            key.data()
        # A grandchild can hold the pipes open after the program itself has gone.
        if not ready and self._has_ended():
            self._closed = True

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # what became of the program will show on stdout
            self._unsent = memoryview(b"")
        watched = self._stdin in self._selector.get_map()
        if self._unsent and not watched:
            self._selector.register(self._stdin, selectors.EVENT_WRITE, self._send)
        elif watched and not self._unsent:
            self._selector.unregister(self._stdin)

    def _receive(self) -> None:
        chunk = os.read(self._stdout, CHUNK)
        if not chunk:
            self._closed = True
            self._selector.unregister(self._stdout)
        found = chunk.find(b"\n")
        if self._newline < 0 <= found:
            self._newline = len(self._received) + found
        self._received += chunk
        if len(self._received) > protocol.LINE_LIMIT + CHUNK:
            raise _Fault("malformed", f"more than {protocol.LINE_LIMIT} bytes; {self._so_far()}")

    def _drain(self) -> None:
        chunk = os.read(self._stderr, CHUNK)
        if not chunk:
            self._selector.unregister(self._stderr)
        self._keep_errors(chunk)

    def _keep_errors(self, chunk: bytes) -> None:
        self._errors += chunk
        del self._errors[:-STDERR_KEPT]

    def _so_far(self) -> str:
        return f"got {quote(self._received)}" if self._received else "got nothing"

    def _ending(self) -> str:
        try:
            code = self._popen.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "closed its stdout"
        return f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"


def _last_words(stderr: str) -> str:
    """The last line, and the last place that a traceback names."""
    places = re.findall(r'File "([^"]+)", line (\d+)', stderr)
    where = f" at {places[-1][0]}:{places[-1][1]}" if places else ""
    return quote(stderr.strip().rpartition("\n")[2]) + where


class Session:
    """One judged program, started with the session and afresh after a misbehaviour, three times at most.

    command: program and arguments; request_seconds, start_seconds: from before a line is written until its
    whole answer is read; python_child: the program is our own wrapper: it alone knows layouts, may undeclare;
    directory: where weights are, for the start message.
    Raises BrokenStart, and ValueError for a bad argument. Leaving the context always kills and reaps.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        request_seconds: float = 10.0,
        start_seconds: float = 60.0,
        python_child: bool = False,
        directory: str = "",
    ) -> None:
        if isinstance(command, str) or not command:
            raise ValueError(f"command must be a sequence of program and arguments, got {command!r}")
        if not (request_seconds > 0 and start_seconds > 0):
            raise ValueError(f"seconds must be > 0, got {request_seconds!r} and {start_seconds!r}")
        self._command, self._python_child = list(command), python_child
        self._request_seconds, self._start_seconds, self._directory = request_seconds, start_seconds, directory
        self._answered: set[int] = set()
        self._called: set[str] = set()
        self._errors = bytearray()
        self.restarts = 0
        self._process: _Process | None
        self._process, self.declaration = self._launch()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    @property
    def stderr_tail(self) -> str:
        """The last 64 KiB that the program wrote to stderr, restarts included."""
        return self._errors.decode("utf-8", "replace")

    def run(
        self, operation: str, dtype: str, inputs: Mapping[str, object], *, layout: str = "plain"
    ) -> Outputs | Refusal | Misbehaviour:
        """Ask for one operation; a Misbehaviour has cost the program its process. ValueError: bad layout."""
        if layout not in (protocol.LAYOUTS if self._python_child else ("plain",)):
            raise ValueError(f"layout must be one this program is sent, got {layout!r}")
        request_id = secrets.randbelow(2**53)
        request = {"cmd": "run", "id": request_id, "operation": operation, "dtype": dtype}
        request |= protocol.encode_inputs(inputs)
        line = encode_line(request if layout == "plain" else {**request, "layout": layout})
        try:
            reply = self._ready_process().ask(line, self._request_seconds)
            answer = parse_answer(reply, request_id, self._answered)
        except _Fault as fault:
            answer = fault.misbehaviour
        self._answered.add(request_id)
        if isinstance(answer, Misbehaviour):
            self._kill()
        if isinstance(answer, Refusal):
            first = operation not in self._called
            answer = answer._replace(undeclared=answer.undeclared and first and self._python_child)
        self._called.add(operation)
        return answer

    def stop(self) -> Misbehaviour | None:
        """Tell the program to stop: None if it ends with 0 within 5 s, in silence. It is gone afterwards."""
        if self._process is None:
            return None
        try:
            self._refuse_extra(self._process)
            self._process.finish(encode_line({"cmd": "stop"}), STOP_SECONDS)
        except _Fault as fault:
            return fault.misbehaviour
        finally:
            self._kill()
        return None

    def _launch(self) -> tuple[_Process, Declaration]:
        start = {"cmd": "start", "protocol": 1, "request_seconds": self._request_seconds}
        start |= {"directory": self._directory} if self._directory else {}
        try:
            process = _Process(self._command, self._errors)
        except (OSError, ValueError) as error:
            raise BrokenStart(f"{shlex.join(self._command)} cannot be run: {error}") from None
        try:
            return process, protocol.parse_declaration(process.ask(encode_line(start), self._start_seconds))
        except (_Fault, ValueError) as error:
            process.kill()
            said = f"; its stderr ends {_last_words(self.stderr_tail)}" if self._errors else ""
            raise BrokenStart(f"{shlex.join(self._command)} did not start: {error}{said}") from None
        except BaseException:
            process.kill()
            raise

    def _ready_process(self) -> _Process:
        """The running process, started afresh if the last one is gone. Raises _Fault."""
        if self._process is None:
            if self.restarts == RESTARTS:
                raise _Fault("not-run", f"not run: it misbehaved after {RESTARTS} restarts")
            self.restarts += 1
            try:
                self._process, declaration = self._launch()
            except BrokenStart as error:
                raise _Fault("not-started", str(error)) from None
            if declaration != self.declaration:
                raise _Fault("not-started", f"restarted, it declares {quote(declaration)}")
        self._refuse_extra(self._process)
        return self._process

    def _refuse_extra(self, process: _Process) -> None:
        """Raise _Fault if anything stands on stdout although nothing was asked."""
        extra = process.leftover()
        if extra:
            found = parse_answer(extra.partition(b"\n")[0], -1, self._answered)
            repeated = isinstance(found, Misbehaviour) and found.kind == "repeated"
            kind, what = ("repeated", "a second answer") if repeated else ("extra-output", "output")
            raise _Fault(kind, f"{what} that nothing had asked for; got {quote(extra)}")

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._process = None
