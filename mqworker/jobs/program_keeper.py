"""The keeper: the parent of every program that a Consumer's chain runs, and of all processes that these leave.

A process of its own, started as a script by its Consumer (`program_run`), which imports nothing of mqworker and nothing
of the user's. It has one thread, so that it may fork. It is a child subreaper, so that every process that a program
started and left behind becomes its child, whatever its session or group. So all its children belong to the message in
hand, and when the program has ended they are killed before the end is reported.

Receives runs, one at a time, and signals for the program, on its socket. Reports when it is ready, and for each run how
it ended, or why it could not begin. When its Consumer dies (which the pidfd shows, because a process forked by user
code may keep the socket open) or closes the socket, it kills all its children and ends. When the keeper itself is
killed, the kernel kills the program.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

MOST = 1 << 17  # bytes of a request or an answer
KILLING = 1.0  # seconds for killed processes to be gone
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)  # these may have been sent to a whole group
CHILDREN = "/proc/thread-self/children"

_libc = ctypes.CDLL(None, use_errno=True)


class Keeping:
    """The program that is running, if any, and the answer when it has ended."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._pid = 0  # of the program; it is reaped last, so that its pid is not used again before
        self._ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]

    def send_ready(self) -> None:
        """Report that the keeper is ready."""
        self._say({"ready": True})

    def receive(self) -> bool:
        """Receive a request of the Consumer and carry it out; returns False if it has closed the socket."""
        try:
            data, fds, _flags, _address = socket.recv_fds(self._link, MOST, 3)
        except OSError:
            return False
        if not data:
            return False
        asked = json.loads(data)
        if "signal" in asked:
            self._signal(asked["signal"])
        else:
            self._run(asked, fds)
        return True

    def look(self) -> None:
        """Reap the children that have died; if the program is among them, end its run."""
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if dead.si_pid == self._pid:
                    self._end()
                else:
                    os.waitpid(dead.si_pid, 0)

    def _run(self, asked: dict[str, Any], fds: Sequence[int]) -> None:
        for fd in fds:
            os.set_inheritable(fd, False)
        environment = {**os.environ, **asked["environment"]}
        try:
            self._pid = start(asked["file"], asked["command"], environment, asked["folder"], fds, self._ignored)
        except OSError as error:
            self._say({"errno": error.errno, "step": error.filename or "fork"})
        finally:
            for fd in fds:
                os.close(fd)

    def _signal(self, number: int) -> None:
        """Send a signal to the program's group; SIGKILL also to the program itself, which may have left the group."""
        if not self._pid:
            return  # it has just ended
        with contextlib.suppress(OSError):
            os.killpg(self._pid, number)
        if number == signal.SIGKILL:
            with contextlib.suppress(OSError):
                os.kill(self._pid, number)

    def _end(self) -> None:
        """Kill what the program has left behind, then report how it ended."""
        pid, self._pid = self._pid, 0
        left = sum(child != pid and is_alive(child) for child in children())
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)  # the program is not reaped, so no other group has this number
        _, status, usage = os.wait4(pid, 0)
        stuck = kill_children(KILLING)
        code = os.waitstatus_to_exitcode(status)
        self._say({"code": code, "peak_rss": usage.ru_maxrss * 1024, "left": left, "stuck": len(stuck)})

    def _say(self, answer: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the Consumer is gone, and this process will end
            self._link.send(json.dumps(answer).encode())


def start(
    file: str,
    command: list[str],
    environment: Mapping[str, str],
    folder: str,
    fds: Sequence[int],
    ignored: Sequence[signal.Signals],
) -> int:
    """Start a program and return its pid; raises OSError, whose `filename` is the step that failed.

    `ignored`: the signals that this process ignores but that the program must not ignore.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        parent, pid = os.getpid(), os.fork()
        if not pid:
            _become(parent, file, command, environment, folder, fds, ignored, writing)
        os.close(writing)
        writing = -1
        failed = os.read(reading, 100)  # empty once the program runs
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if failed:
        os.waitpid(pid, 0)
        step, number = failed.split()
        raise OSError(int(number), os.strerror(int(number)), step.decode())
    return pid


def _become(
    parent: int,
    file: str,
    command: list[str],
    environment: Mapping[str, str],
    folder: str,
    fds: Sequence[int],
    ignored: Sequence[signal.Signals],
    report: int,
) -> NoReturn:
    """Become the program, in a session of its own and with default signal handling; it dies with the keeper.

    Does as little as possible, because each page of memory that it writes to is copied.
    """
    step = "prepare"
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in ignored:  # signals with a handler get the default at exec
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for place, fd in enumerate(fds):
            os.dup2(fd, place)
        step = "chdir"
        os.chdir(folder)
        step = "exec"
        os.execve(file, command, environment)  # noqa: S606 - deliberately without a shell
    except OSError as error:
        os.write(report, f"{step} {error.errno}".encode())
    finally:
        os._exit(127)


def children() -> list[int]:
    """Return the children of this process, including dead ones that are not reaped."""
    with contextlib.suppress(OSError), open(CHILDREN, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib starts slowly
        return [int(pid) for pid in file.readall().split()]
    return []


def is_alive(pid: int) -> bool:
    """Return whether a child still runs."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - as above
        return file.read().rpartition(b") ")[2][:1] not in b"ZX"
    return False


def kill_children(seconds: float) -> list[int]:
    """Kill all children, and those that become our children by that; returns those left after `seconds`."""
    end = time.monotonic() + seconds
    while found := children():
        for pid in found:
            with contextlib.suppress(OSError):  # another user's process; reported as stuck
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > end:
            return children()
        if children():
            time.sleep(0.001)
    return []


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process with prctl; raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def main(consumer: int, fd: int) -> None:
    """Run programs until the Consumer with this pid ends; `fd`: our end of the socket."""
    os.set_inheritable(fd, False)
    link = socket.socket(fileno=fd)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _libc.prctl(PR_SET_NAME, ctypes.c_char_p(b"mqw-keeper"), 0, 0, 0)
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    parent = os.pidfd_open(consumer)
    if os.getppid() != consumer:
        return
    keeping, poll = Keeping(link), select.poll()
    for each in (parent, reading, fd):
        poll.register(each, select.POLLIN)
    keeping.send_ready()
    try:
        while True:
            ready = {each for each, _ in poll.poll()}
            if parent in ready:
                return
            if reading in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(reading, 4096)
                keeping.look()
            if fd in ready and not keeping.receive():
                return
    finally:
        kill_children(KILLING)


if __name__ == "__main__":
    with contextlib.suppress(ProcessLookupError):  # the Consumer is gone already
        main(int(sys.argv[1]), int(sys.argv[2]))
