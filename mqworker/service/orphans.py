"""Processes that the Service has inherited because their parent in the tree is gone: programs that user code started.

Lives in the Service's main thread; the Service is a child subreaper, so an orphan below it becomes its child. A dead
orphan is reaped by its pid, because `waitpid(-1)` would also take the exits of our own children. A living orphan
belongs to a message that is no longer being computed: it has GRACE seconds to end on its own; then it is killed by
SIGKILL. Programs of a Service that was itself killed are out of reach.
"""

import asyncio
import contextlib
import logging
import math
import os
import signal
import time
from multiprocessing import resource_tracker
from pathlib import Path

from mqworker.ipc import logs
from mqworker.ipc.child import living
from mqworker.ipc.proc import DEAD, stat

GRACE = 2.0  # seconds: a program that waited for its parent ends on its own, and so may a semaphore tracker

log = logging.getLogger("mqworker.service.orphans")


class Orphans:
    """The known orphans, and when each was first seen."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def look(self, grace: float = GRACE) -> bool:
        """Reap dead orphans, and kill those whose time is over; returns whether any is left."""
        now, left = time.monotonic(), {}
        for pid in _orphans():
            found = stat(pid)
            if found is None:
                continue
            if found.state in DEAD:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            else:
                left[pid] = self._since.get(pid, now)
                if now - left[pid] >= grace:
                    self._kill(pid, found.name)
                    left[pid] = math.inf  # once is enough
        self._since = left
        return bool(left)

    async def end(self, deadline: float) -> None:
        """Kill all orphans, and those that this creates, for at most `deadline` seconds."""
        end = time.monotonic() + deadline
        while self.look(0.0) and time.monotonic() < end:  # noqa: ASYNC110 - runs once, at the end
            await asyncio.sleep(0.01)

    def _kill(self, pid: int, name: str) -> None:
        what = f"{name} (pid {pid}), whose parent in the process tree has ended"
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError:  # the process belongs to another user now
            logs.report(log, logging.ERROR, "orphan_not_killed", f"this user may not kill {what}", orphan_pid=pid)
        else:
            logs.report(log, logging.WARNING, "orphan_killed", f"killed {what}", orphan_pid=pid)


def _orphans() -> list[int]:
    """Return the pids of our children that we did not start."""
    ours = living | {resource_tracker._resource_tracker._pid}  # type: ignore[attr-defined]  # internal
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += (pid for pid in map(int, path.read_text().split()) if pid not in ours)
    return found
