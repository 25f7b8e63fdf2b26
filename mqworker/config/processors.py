"""How many processors this process may keep busy, by its affinity and the quota of its control groups.

Called when a configuration is loaded, for each stage that does not set its number of Consumers, and by each Consumer
that starts. Owns nothing. What cannot be read counts as no limit.
"""

import math
import os
from collections.abc import Collection
from pathlib import Path

from mqworker.config.control_groups import MOUNTED, OURS, control_groups, read


def usable(mounted: Path = MOUNTED, ours: Path = OURS, *, cpus: Collection[int] = ()) -> int:
    """Return the number of processors, at least 1; where there are `cpus`, only those count.

    A container that may use one CPU of a machine with 64 has all 64 in its affinity; only the quota of its control
    group shows the limit. A fraction of a processor counts as a whole one.
    """
    quotas = [quota for folder in control_groups("cpu", mounted, ours) if (quota := _quota(folder)) > 0]
    allowed = os.sched_getaffinity(0)
    return max(1, min([len(allowed.intersection(cpus) if cpus else allowed), *map(math.ceil, quotas)]))


def _quota(folder: Path) -> float:
    """Return the processors that a group may use; 0: no limit."""
    both = read(folder / "cpu.max").split() or [
        *read(folder / "cpu.cfs_quota_us").split(),
        *read(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        quota, period = map(int, both)
        return quota / period
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return 0.0
