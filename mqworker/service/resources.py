"""Whether this machine gives the stages the CPUs and the niceness that the configuration asks for.

Runs in the Service before its first process, and in `mqworker check`, on the main thread. Owns nothing; a niceness is
set as a test, and reset at once.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from mqworker.config.errors import dotted
from mqworker.config.model import StageConfig

HIGHEST = -20  # the niceness with the highest priority


class Unmet(NamedTuple):
    """What the machine does not give."""

    key: str  # dotted
    message: str
    fix: str


def unmet(stages: Mapping[str, StageConfig]) -> Iterator[Unmet]:
    """Yield what stages request but cannot have."""
    offered = os.sched_getaffinity(0)
    for name, stage in stages.items():
        if missing := set(stage.cpus) - offered:
            what = f"this service may not run on {listed(missing)}"
            yield Unmet(dotted(("stages", name, "cpus")), what, f"it may run on {listed(offered)}")
        if stage.nice < 0 and (why := _refused(stage.nice)):
            what = f"{stage.nice} is refused ({why})"
            fix = "run the service with CAP_SYS_NICE or LimitNICE=, or set nice to 0 or more"
            yield Unmet(dotted(("stages", name, "nice")), what, fix)


def listed(cpus: Iterable[int]) -> str:
    """Return numbers as the kernel lists them: "0-3,8"."""
    parts = []
    for _, run in groupby(enumerate(sorted(cpus)), lambda pair: pair[1] - pair[0]):
        numbers = [cpu for _, cpu in run]
        parts.append(f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}")
    return ",".join(parts)


def _refused(nice: int) -> str:
    """Return why this thread may not lower its niceness by so much; "" if it may."""
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, max(HIGHEST, ours + nice))
    except OSError as error:
        return error.strerror or str(error)
    os.setpriority(os.PRIO_PROCESS, 0, ours)
    return ""
