"""Who holds a lease: a process of this machine, and whether it still lives.

Runs in every process that has the embedded broker open; owns nothing, reads `/proc`. A lease of a live owner never runs
out (a message may take hours, and a stopped process is still alive); that of a dead one is void at once. A pid may be
given to another process, so the start time is part of the identity, and after a reboot everything is. All processes
that share a broker file must share one pid namespace: from inside another container an owner cannot be seen.
"""

import os
from pathlib import Path
from typing import NamedTuple

from mqworker.ipc.boot import boot_id


class Process(NamedTuple):
    """One process for all time."""

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
    """Tell whether the process still runs; a zombie does not."""
    return process.boot == boot_id() and _started(process.pid) == process.started


def _started(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # after the name, which is in parentheses and may hold any byte: proc(5), fields 3 (state) and 22 (start time)
    fields = text[text.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])
