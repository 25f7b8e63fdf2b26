"""Runs programs for the chain of one Consumer: each to its end, or to its time limit.

Runs in a Consumer's main thread (or a user's test). Owns the keeper, which is the programs' parent (program_keeper),
and its end of the socket to it. A program reads the body from a file in memory, so it may read it late, in part or not
at all; its stdout and stderr are pipes, which are read here while it runs. A keeper that was stopped by a signal goes
on: while nothing happens, it is sent SIGCONT now and then. Raises KeeperLost if something has killed the keeper,
CannotStart, and OSError if the machine has no process or descriptor left; after an error during a run, the next run
gets a new keeper.

Longer than most modules, because a run is one sequence of steps, in which later steps close what earlier ones open.
"""

import contextlib
import errno
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from typing import Any

import msgspec

from mqworker.ipc.frames import unread
from mqworker.ipc.spawn import Death
from mqworker.jobs import program_keeper
from mqworker.jobs.program_keeper import MOST
from mqworker.jobs.program_lines import Lines

STARTING = 30.0  # seconds for the keeper to become ready
DEAF = 1.5  # seconds for the keeper to report a killed program: something may keep stopping the keeper
ENDING = 1.0  # seconds for the keeper to end
READ = 1 << 16  # bytes of one read
LOOK = 2.0  # longest wait in seconds; then the keeper is sent SIGCONT


class KeeperLost(Exception):  # noqa: N818 - a fact about the keeper, no error of ours
    """Something has killed the keeper, and with it the program."""


class CannotStart(Exception):  # noqa: N818 - a fact about the program
    """The program or the keeper could not be started; the text says why."""


class Command(msgspec.Struct, frozen=True):
    """What to run: a file, its arguments (the first is its own name), and the folder in which it runs."""

    file: str
    arguments: tuple[str, ...]
    folder: str


class ProgramEnd(msgspec.Struct, frozen=True):
    """How a run has ended."""

    code: int  # exit code, or minus the signal
    peak_rss: int  # bytes
    output: bytes
    errors: str  # the end of stderr
    stopped: str  # why a signal was sent: soft or hard (a time limit), output (too much); "" for none
    left: int  # processes that it left behind, which were killed
    stuck: int  # those of them that could not be killed


class Keeper:
    """See the module head."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None

    def start(self) -> None:
        """Start the process, and wait until it is ready; raises OSError and CannotStart."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own file
                    [sys.executable, "-I", "-S", program_keeper.__file__, str(os.getpid()), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # a signal to the service's whole group must not end it first
                )
            except BaseException:
                ours.close()
                raise
        self._link = ours
        try:
            self._begun(ours, self._process)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the keeper, and with it all processes that programs have left behind."""
        process, self._process = self._process, None
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if process is not None:
            try:
                process.wait(ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(
        self,
        command: Command,
        body: bytes,
        environment: Mapping[str, str],
        soft: float,
        hard: float,
        most: int,
        say: Callable[[str], None],
    ) -> ProgramEnd:
        """Run a program on a body; `say` is called with each line of its stderr.

        `soft` and `hard`: when to send SIGTERM and SIGKILL, on the clock of `time.monotonic` (inf: never). The program
        is also killed when it has written more than `most` bytes to stdout.
        """
        link = self._ready()
        over = False
        try:
            with contextlib.ExitStack() as stack:
                pipes = [_pipe(stack), _pipe(stack)]
                with _as_file(body) as stdin:
                    _ask(link, command, environment, [stdin, *(writing for _, writing in pipes)])
                for _, writing in pipes:
                    writing.close()
                (output, _), (errors, _) = pipes
                end = _Watch(link, output.fileno(), errors.fileno(), soft, hard, most, say, self._wake).watch()
            over = not end.stuck
        except CannotStart:
            over = True
            raise
        finally:
            if not over:  # the keeper kills whatever still runs; the Service, what the keeper cannot
                self.close()
        return end

    @staticmethod
    def _begun(link: socket.socket, process: subprocess.Popen[bytes]) -> None:
        poll = select.poll()
        poll.register(link, select.POLLIN)
        if not poll.poll(STARTING * 1000):
            raise CannotStart(f"the process that runs programs did not become ready within {STARTING:g} s")
        with contextlib.suppress(ConnectionError):
            if link.recv(MOST):
                return
        raise CannotStart(f"the process that runs programs {Death(process.wait(ENDING), 0)} as it began")

    def _ready(self) -> socket.socket:
        """Return the socket to a keeper that is alive."""
        if self._link is None or self._process is None or self._process.poll() is not None:
            self.close()
            self.start()
        assert self._link is not None
        return self._link

    def _wake(self) -> None:
        """Let the keeper go on, in case something has stopped it."""
        if self._process is not None:
            with contextlib.suppress(PermissionError):  # user code has changed our user
                self._process.send_signal(signal.SIGCONT)


def _ask(link: socket.socket, command: Command, environment: Mapping[str, str], files: list[FileIO]) -> None:
    asked = {"file": command.file, "command": command.arguments, "folder": command.folder, "environment": environment}
    try:
        socket.send_fds(link, [json.dumps(asked).encode()], [file.fileno() for file in files], socket.MSG_NOSIGNAL)
    except ConnectionError:
        raise KeeperLost from None


def _pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Return the ends of a pipe, to read from and to write to."""
    reading, writing = os.pipe()
    return stack.enter_context(FileIO(reading, "rb")), stack.enter_context(FileIO(writing, "wb"))


@contextlib.contextmanager
def _as_file(body: bytes) -> Iterator[FileIO]:
    """Yield a file in memory with this content, positioned at its beginning."""
    with FileIO(os.memfd_create("body"), "r+b") as file:
        rest = memoryview(body)
        while rest:
            rest = rest[file.write(rest) :]
        file.seek(0)
        yield file


class _Watch:
    """One run: reads what the program writes and enforces its time limits, until it has ended and the pipes are empty.

    `wake` lets a stopped keeper go on.
    """

    def __init__(
        self,
        link: socket.socket,
        output: int,
        errors: int,
        soft: float,
        hard: float,
        most: int,
        say: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._link = link
        self._output = output
        self._errors = errors
        self._soft, self._hard, self._lost = soft, hard, math.inf  # when to send a signal, or to give up waiting
        self._most = most
        self._wake = wake
        self._written = bytearray()
        self._lines = Lines(say)
        self._stopped = ""

    def watch(self) -> ProgramEnd:
        """Return how it ended; raises KeeperLost or CannotStart."""
        answer: dict[str, Any] | None = None
        poll = select.poll()
        for fd in (self._link.fileno(), self._output, self._errors):
            poll.register(fd, select.POLLIN)
        while answer is None:
            now = time.monotonic()
            if now >= self._lost:
                answer = {"code": -signal.SIGKILL, "peak_rss": 0, "left": 0, "stuck": 1}
                break
            self._stop_in_time(now)
            due = min(self._soft, self._hard, self._lost)
            ready = poll.poll(min(max(0.0, due - now), LOOK) * 1000 + 1)
            if not ready:
                self._wake()
            for fd, _ in ready:
                if fd == self._link.fileno():
                    answer = self._answer()
                elif not self._read(fd):
                    poll.unregister(fd)
        for fd in (self._output, self._errors):  # every process that could write to them is dead
            left = unread(fd)
            while left > 0:
                left -= self._read(fd)
        self._lines.end()
        return ProgramEnd(
            code=answer["code"],
            peak_rss=answer["peak_rss"],
            output=bytes(self._written),
            errors=self._lines.tail,
            stopped=self._stopped,
            left=answer["left"],
            stuck=answer["stuck"],
        )

    def _answer(self) -> dict[str, Any]:
        try:
            data = self._link.recv(MOST)
        except ConnectionError:
            data = b""
        if not data:
            raise KeeperLost
        answer: dict[str, Any] = json.loads(data)
        if "errno" in answer:
            raise CannotStart(_why(answer["step"], answer["errno"]))
        return answer

    def _stop_in_time(self, now: float) -> None:
        if now >= self._hard:
            self._kill("hard", now)
        elif now >= self._soft:
            self._soft, self._stopped = math.inf, "soft"
            self._send(signal.SIGTERM)

    def _kill(self, why: str, now: float) -> None:
        self._soft, self._hard, self._lost, self._stopped = math.inf, math.inf, now + DEAF, why
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        self._wake()
        try:
            self._link.send(json.dumps({"signal": number}).encode(), socket.MSG_NOSIGNAL)
        except ConnectionError:
            raise KeeperLost from None

    def _read(self, fd: int) -> int:
        """Read once; returns how many bytes, 0 at the end."""
        data = os.read(fd, READ)
        if fd == self._errors:
            self._lines.take(data)
        elif self._stopped != "output":
            self._written += data
            if len(self._written) > self._most:
                self._written.clear()
                self._kill("output", time.monotonic())
        return len(data)


def _why(step: str, number: int) -> str:
    """Return why a program could not be started."""
    what = {"chdir": "its folder cannot be entered", "exec": "it cannot be executed"}.get(step, "no process for it")
    hint = " (does the program that its first line names exist?)" if (step, number) == ("exec", errno.ENOENT) else ""
    return f"{what}: {os.strerror(number)}{hint}"
