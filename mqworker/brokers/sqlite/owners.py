"""Which process of this machine holds a lease, and whether it is still alive.

Runs in every process that has the embedded broker open; owns nothing, reads `/proc`. A lease of a live owner never
expires (a message may take hours, and a stopped process is still alive); a lease of a dead owner is void at once. The
kernel may assign a pid again, so the start time and the boot are part of the identity. All processes that share a
broker file must share one pid namespace: from inside another container, an owner is not visible.
"""

import os
from typing import NamedTuple

from mqworker.ipc.proc import DEAD, boot_id, stat


class Process(NamedTuple):
    """The identity of one process; no other process ever has it."""

    boot: str  # the kernel's boot id
    pid: int
    started: int  # clock ticks after the boot


def current() -> Process:
    """Return the identity of this process."""
    pid = os.getpid()
    started = _started(pid)
    if started is None:
        raise OSError(f"/proc/{pid}/stat cannot be read; the embedded broker needs /proc")
    return Process(boot_id(), pid, started)


def is_alive(process: Process) -> bool:
    """Return whether the process still runs; a zombie does not."""
    return process.boot == boot_id() and _started(process.pid) == process.started


def _started(pid: int) -> int | None:
    found = stat(pid)
    return None if found is None or found.state in DEAD else found.started
