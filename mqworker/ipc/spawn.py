"""The child's side of its life: what each process of the tree does first, and how its parent learns how it ended.

Runs in every process. Children are started with `spawn` only, from main threads only (a parent-death signal belongs to
the *thread* that started the child). A Spawned process owns the far ends of its three pipes: it receives frames on
`down`, sends frames on `up`, and its stdout and stderr go to `output`. It dies with its parent, which reaps it with
`wait4` on that one pid: that never blocks and reports the peak memory (decisions 3). The parent's side is `child`.
"""

import contextlib
import ctypes
import faulthandler
import multiprocessing
import multiprocessing.spawn
import os
import secrets
import signal
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, ClassVar, NamedTuple

from mqworker.ipc import imports

SPAWN = multiprocessing.get_context("spawn")

QUIET = (  # what the parent did not finish to send cannot be read
    "import sys; sys.excepthook = lambda kind, *rest:"
    " kind.__name__ in ('EOFError', 'UnpicklingError') or sys.__excepthook__(kind, *rest)"
)
_command_line = multiprocessing.spawn.get_command_line
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

SAFE_PATH, OURS = "PYTHONSAFEPATH", "mqworker"  # for our own children, not for the programs that user code starts

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process; raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def set_name(name: str) -> None:
    """Name this process for `ps -o comm` and `top` (15 bytes)."""
    _libc.prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def forget_main() -> None:
    """Keep `spawn` from importing the main program again in every child (and all that it imports)."""
    sys.modules["__main__"] = types.ModuleType("__main__")


def keep_path_safe() -> None:
    """Keep the working folder off the path of the children that are started from now on.

    Otherwise a user's `signal.py` or `struct.py` there would be imported instead of Python's, before any code of ours.
    """
    os.environ.setdefault(SAFE_PATH, OURS)


def command_line(**handles: int) -> list[str]:
    """Return the command that starts a child, as multiprocessing's, but silent if its parent dies before it has begun.

    The child still has the Service's stderr then: a traceback would break the log, in which each line is an event. And
    it imports with the garbage collector at rest, until `Spawned.run` has loaded everything.
    """
    *command, program, mark = _command_line(**handles)
    return [*command, f"{imports.REST}; {QUIET}; {program}", mark]


def be_plain() -> None:
    """Undo what a process of ours has and an ordinary Python process has not; called before user code is imported.

    The start method of multiprocessing is not chosen yet, and what user code forks has default signal handlers, an
    ordinary name. (What it logs goes to stderr: `ForwardingHandler`.)
    """
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]
    sys.excepthook = sys.__excepthook__
    multiprocessing.set_start_method(None, force=True)  # unset, as in a new interpreter
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked)


_FORKED_HEAR = (signal.SIGTERM, signal.SIGTSTP, signal.SIGHUP, signal.SIGALRM, signal.SIGINT)
_before = threading.local()  # `mask`: the signals that this thread blocked before it forked


def _before_fork() -> None:
    """Hold signals: one that the child gets before it has default handlers would be lost, as would its end."""
    _before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORKED_HEAR)


def _after_fork() -> None:
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, _before.mask)
    except BaseException:  # noqa: BLE001 - a time limit has rung meanwhile: Python drops what a hook of fork raises
        signal.setitimer(signal.ITIMER_REAL, 0.001)


def _forked() -> None:
    with contextlib.suppress(ValueError):  # not in the main thread: then there are no handlers to reset either
        for number in _FORKED_HEAR:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _after_fork()
    faulthandler.unregister(signal.SIGUSR2)
    set_name(os.path.basename(sys.executable))  # noqa: PTH119 - runs in every fork: as little as possible


def _do_nothing(_signal: int, _frame: object) -> None:
    """Handle a signal by doing nothing; unlike SIG_IGN this is not inherited by programs that user code starts."""


def enter_child(name: str, parent: int, deaf_to: Iterable[signal.Signals]) -> None:
    """Tie the life of this process to its parent's; ends at once when the parent is already gone."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    set_name(name)
    for number in deaf_to:
        signal.signal(number, _do_nothing)


def redirect_output(output: Connection) -> None:
    """Send stdout and stderr to the parent's pipe, and also the stacks of native crashes and of SIGUSR2."""
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)


class Spawned(multiprocessing.Process):
    """One of our processes; a subclass names it, and does its work in `main`.

    It is pickled once, at its start, and a pickle above 64 KiB would block its parent: large data is sent down as a
    frame.
    """

    title: ClassVar[str]  # in `ps -o comm`
    deaf_to: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGHUP)

    def __init__(self, name: str, stage: str = "") -> None:
        super().__init__(name=name)
        self.stage = stage
        self.token = secrets.token_hex(8)  # in the marks between what it prints: no body can contain it
        self._parent = os.getpid()

    def attach(self, down: Connection, up: Connection, output: Connection) -> None:
        """Give it the far ends of its pipes, before the start."""
        self.down, self.up, self.output = down, up, output

    def run(self) -> None:
        """Set up the process, then call `main`."""
        enter_child(self.title, self._parent, self.deaf_to)
        redirect_output(self.output)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.held_signals())
        self.load()
        imports.settle()
        self.main()

    def load(self) -> None:
        """Import what only this process needs, not its parent, which has imported the class alone."""

    def main(self) -> None:
        """Do what this process is for."""
        raise NotImplementedError

    @classmethod
    def held_signals(cls) -> set[signal.Signals]:
        """Return the signals that would end a process whose handlers are not yet installed."""
        return {*cls.deaf_to, signal.SIGUSR2}

    @contextmanager
    def signals_held(self) -> Iterator[None]:
        """Block these signals during the start: the child inherits the mask until `run` has installed its handlers."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self.held_signals())
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - the name that multiprocessing calls
        ordinary = multiprocessing.spawn.get_command_line
        multiprocessing.spawn.get_command_line = command_line
        try:
            return SpawnProcess._Popen(process)
        finally:
            multiprocessing.spawn.get_command_line = ordinary


class Death(NamedTuple):
    """How a child ended."""

    code: int  # exit code, or minus the signal
    peak_rss: int  # bytes; at least the peak of its parent at the start, because Linux passes that on to a child

    def __str__(self) -> str:
        """Return one phrase for logs and dead letters."""
        if self.code < 0:
            try:
                how = f"killed by {signal.Signals(-self.code).name}"
            except ValueError:
                how = f"killed by signal {-self.code}"
        else:
            how = f"exited with code {self.code}"
        return f"{how}, peak memory {self.peak_rss / (1 << 20):.0f} MiB" if self.peak_rss else how


def reap(process: multiprocessing.Process) -> Death | None:
    """Return how this child ended, or None while it lives; never blocks."""
    popen = process._popen  # type: ignore[attr-defined]  # internal
    if popen is None:
        return None
    if popen.returncode is None:
        try:
            pid, status, usage = os.wait4(popen.pid, os.WNOHANG)
        except ChildProcessError:
            popen.returncode = 255
            return Death(255, 0)
        if pid == 0:
            return None
        popen.returncode = os.waitstatus_to_exitcode(status)
        return Death(popen.returncode, usage.ru_maxrss * 1024)
    return Death(popen.returncode, 0)
