"""Whether short messages waited behind long ones while a Consumer was idle, by what the handlers noted. Pure."""

from collections import defaultdict
from typing import Any, NamedTuple

from tests.benchmarks.bodies import LONG

IDLE = 0.05  # seconds without a message after which a Consumer counts as idle: ten times what a dispatch takes


class Gap(NamedTuple):
    """A Consumer had nothing to do."""

    pid: int
    begin: float
    end: float
    then: float  # the number of the message that it got afterwards; above all numbers if there was none

    def during(self, message: dict[str, Any]) -> bool:
        """Return whether it was idle for long enough while the message was computed."""
        return min(self.end, message["ended"]) - max(self.begin, message["began"]) > IDLE


def waited(results: list[dict[str, Any]]) -> int:
    """Return how many did: another one, idle meanwhile, then got a message that stood behind it in the queue, or none.

    `results` have "id" (the place in the queue), "seconds", and "pid", "began" and "ended" as the handlers noted them.
    All of them wait from the beginning.
    """
    by_pid: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in sorted(results, key=lambda one: one["began"]):
        by_pid[result["pid"]].append(result)
    first = min(result["began"] for result in results)
    last = max(result["ended"] for result in results)
    gaps = [gap for pid, messages in by_pid.items() for gap in _gaps(pid, messages, first, last)]
    count = 0
    for pid, messages in by_pid.items():
        idle: list[Gap] = []  # during the long message before
        for one in messages:
            if one["seconds"] >= LONG:
                idle = [gap for gap in gaps if gap.pid != pid and gap.during(one)]
            else:
                count += any(gap.then > one["id"] for gap in idle)
    return count


def _gaps(pid: int, messages: list[dict[str, Any]], first: float, last: float) -> list[Gap]:
    ends = [first, *(one["ended"] for one in messages)]
    begins = [*((one["began"], one["id"]) for one in messages), (last, float("inf"))]
    return [Gap(pid, end, begin, then) for end, (begin, then) in zip(ends, begins, strict=True) if begin - end > IDLE]
