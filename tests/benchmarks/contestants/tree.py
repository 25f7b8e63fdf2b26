"""The processes of one contestant: a command in a session of its own and all that descend from it.

Runs in the benchmark's process, which is their parent. The command works in a temporary folder that has its files and
its output; both, and every process of the session, are gone when the block is left, whatever ends it.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_for

TAIL = 4_000  # characters of the output that an error shows
DEADLINE = 30.0  # seconds in which processes stop, or end by SIGKILL
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of mqworker's virtual environment, not of theirs


class ContestantError(AssertionError):
    """A contestant does not start, has ended, or goes no further; the message has its output."""


class Tree:
    """See the module head."""

    def __init__(self, command: list[str], files: dict[str, str], env: dict[str, str]) -> None:
        self._command = command
        self._files = files
        self._env = {name: value for name, value in os.environ.items() if name not in OURS} | env
        self._leader: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="mqw-bench-", ignore_cleanup_errors=True)
        try:
            self.folder = Path(self._temporary.name)
            for name, text in self._files.items():
                (self.folder / name).write_text(text)
            with (self.folder / "output").open("wb") as output:
                self._leader = subprocess.Popen(
                    self._command,
                    cwd=self.folder,
                    env=self._env | dict.fromkeys(("HOME", "TMPDIR"), str(self.folder)),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches the benchmark alone, which ends them
                )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        """Kill all, and wait until they are gone: the command is reaped here, its orphans by init."""
        try:
            if self._leader is not None:
                wait_for(self._killed, DEADLINE, "the end of a contestant's processes")
                self._leader.wait()
        finally:
            self._temporary.cleanup()

    def _killed(self) -> bool:
        """Kill whoever lives; returns whether nobody did."""
        pids = self.pids()
        self._signal(pids, signal.SIGKILL)
        return not pids

    def pids(self) -> list[int]:
        """Return all living processes, the command first."""
        assert self._leader is not None
        found = [pid for pid, (session, state) in _processes().items() if session == self._leader.pid and state != "Z"]
        return sorted(found, key=lambda pid: (pid != self._leader.pid, pid))

    def hold(self) -> None:
        """Stop them all where they are; what the broker sends meanwhile waits in their sockets."""
        self._signal(self.pids(), signal.SIGSTOP)
        wait_for(
            lambda: all(_processes().get(pid, (0, "T"))[1] == "T" for pid in self.pids()), DEADLINE, "stopped processes"
        )

    def release(self) -> None:
        """Let them go on."""
        self._signal(self.pids(), signal.SIGCONT)

    def cpu(self) -> float:
        """Return the CPU seconds that the living have used so far."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3) of another process: nanoseconds
        return total

    def memory(self) -> list[int]:
        """Return the proportional set size of each in bytes, the command's first."""
        rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids())
        return [int(rollup.partition("\nPss:")[2].split()[0]) * 1024 for rollup in rollups]

    def ended(self) -> bool:
        """Return whether the command has ended, which none may by itself."""
        return self._leader is None or self._leader.poll() is not None

    def error(self, what: str) -> ContestantError:
        """Return an error that says what is wrong and shows the last output."""
        output = (self.folder / "output").read_text(errors="replace")
        code = self._leader.poll() if self._leader else None
        ended = "" if code is None else f"; it ended with {code}"
        return ContestantError(f"{what}{ended}. Its output:\n{output[-TAIL:] or '(none)'}")

    @staticmethod
    def _signal(pids: list[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _processes() -> dict[int, tuple[int, str]]:
    """Return the session and the state of every process of this machine."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            found[int(path.parent.name)] = int(session), state
    return found
