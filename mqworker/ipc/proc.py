"""What the kernel reports about this machine and its processes in `/proc` (proc(5)).

Runs in every process; owns nothing. Used by whoever watches a process: a Consumer its own memory, the Service orphans,
the embedded broker the owners of its leases. A process that is gone is reported as an answer, not as an error.
"""

import functools
import os
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
DEAD = frozenset("ZX")  # states of a process that no longer runs


class Stat(NamedTuple):
    """The fields of `/proc/PID/stat` that are used here."""

    name: str
    state: str  # one letter
    started: int  # clock ticks after the boot; together with the pid, it identifies one process until the next boot
    cpu: int  # clock ticks of CPU time used, in user and in kernel mode


@functools.cache
def boot_id() -> str:
    """Return the id of this boot (a UUID): process ids and CLOCK_MONOTONIC are comparable only within one boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def stat(pid: int) -> Stat | None:
    """Return what the kernel reports about a process, None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    head, _, rest = text.rpartition(")")  # the name stands in parentheses and may hold any byte
    fields = rest.split()
    return Stat(head.partition("(")[2], fields[0], int(fields[19]), int(fields[11]) + int(fields[12]))


def cpu(pid: int) -> int:
    """Return the CPU time that a process has used, in clock ticks; 0 when it is gone."""
    found = stat(pid)
    return 0 if found is None else found.cpu


def rss(pid: int) -> int:
    """Return the resident bytes of a process, 0 when it is gone.

    A Consumer asks after every chunk, before it sends what it has computed: with `open` it would be eleven system calls
    instead of three.
    """
    try:
        statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY)
    except OSError:
        return 0
    try:
        return int(os.read(statm, 256).split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        os.close(statm)
