"""How many processors this process may keep busy: its affinity, and the quota of its control groups.

Called when a configuration is loaded, for each stage that does not say how many Consumers it has. Owns nothing. What
cannot be read counts as no limit.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
OURS = Path("/proc/self/cgroup")


def usable(mounted: Path = MOUNTED, ours: Path = OURS) -> int:
    """Return the number of processors, at least 1.

    A container that may use one CPU of a machine with 64 sees all 64 in its affinity; only the quota of its control
    group knows. A part of a processor counts as a whole one.
    """
    quotas = [quota for folder in _folders(mounted, ours) if (quota := _quota(folder)) > 0]
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, quotas)]))


def _folders(mounted: Path, ours: Path) -> Iterator[Path]:
    """Yield the folders of our control groups and of those around them, of both versions.

    A container may see its own group as the top, under a path of the host that does not exist inside.
    """
    for line in _read(ours).split("\n"):
        controllers, _, path = line.partition(":")[2].partition(":")
        if not path or (controllers and "cpu" not in controllers.split(",")):
            continue
        tops = (mounted / controllers, mounted / "cpu") if controllers else (mounted, mounted / "unified")
        for top in tops:
            group = top / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _quota(folder: Path) -> float:
    """Return the processors that a group may use; 0: no limit."""
    both = _read(folder / "cpu.max").split() or [
        *_read(folder / "cpu.cfs_quota_us").split(),
        *_read(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        quota, period = map(int, both)
        return quota / period
    except (ValueError, ZeroDivisionError):  # "max", or nothing there
        return 0.0


def _read(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
