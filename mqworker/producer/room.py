"""Whether the machine has the memory for a second set of Consumers.

Runs in the Producer, before a switch; reads what the kernel reports and changes nothing. What cannot be read is no
reason against it.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mqworker.config.control_groups import control_groups, read
from mqworker.control.wording import size as size_text


def room_for(count: int, pids: Sequence[int]) -> str:
    """Return why there is no room for `count` more processes as large as the largest of these; "" if there is."""
    size = max(map(_own_bytes, pids), default=0)
    need = count * size
    for free, where in _free():
        if need > free:
            return f"{count} more of {size_text(size)} do not fit into the {size_text(max(0, free))} that {where}"
    return ""


def _own_bytes(pid: int) -> int:
    """Return the resident bytes of a process without those of files, which processes share; 0 when it is gone."""
    try:
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _free() -> Iterator[tuple[int, str]]:
    """Yield the bytes that are free on this machine, and in each control group that we are in, and whose they are."""
    for line in read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) << 10, "are free"
    for group in control_groups("memory"):
        limit = _number(group, "memory.max", "memory.limit_in_bytes")
        used = _number(group, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            counts = dict(line.rsplit(" ", 1) for line in read(group / "memory.stat").splitlines())
            cached = int(counts.get("total_inactive_file") or counts.get("inactive_file") or 0)  # it gives way
            yield limit - used + cached, "its control group still allows"


def _number(group: Path, *names: str) -> int | None:
    """Return the number in the first of these files that there is; None for none, or for "max"."""
    for name in names:
        with contextlib.suppress(ValueError):
            return int(read(group / name))
    return None
