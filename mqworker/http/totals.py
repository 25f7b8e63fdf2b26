"""Counters that only grow, over the lives of many Producers: each one counts from 0.

Fed by the main thread with every snapshot, read by the thread that answers `/metrics`. Pure; takes no lock, because
what a reader sees is one tuple that is replaced whole. Each counter is a number under a name; the buckets of the
histogram are such numbers too. What a killed Producer counted after its last report is lost.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mqworker.control.control import Snapshot
from mqworker.ipc.messages import StageStatus

TIMES = {"process": "process_", "wait": "wait_", "confirm": "confirm_"}  # prefixes of a histogram's numbers
BUCKET = "bucket_"  # after the prefix; then its number
SUM = "sum"
RECONNECTS = "reconnects"

Values = Mapping[str, float]
_NONE: Values = MappingProxyType({})


class Totals:
    """Sums by stage."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[Values, int, Values]] = {}  # of ended Producers; the last one's pid and values
        self._seen: dict[str, StageStatus] = {}

    def feed(self, snapshot: Snapshot) -> None:
        """Take in what is new."""
        for stage in snapshot.stages.values():
            status = stage.actual
            if status is not None and status is not self._seen.get(stage.name):
                self._seen[stage.name] = status
                self.count(stage.name, status.pid, values(status))

    def count(self, stage: str, pid: int, now: Values) -> None:
        """Take in one Producer's counters; another pid, or a counter that went back, is another Producer."""
        ended, last_pid, last = self._stages.get(stage, (_NONE, pid, _NONE))
        if pid != last_pid or any(now.get(name, 0) < number for name, number in last.items()):
            ended = _sum(ended, last)
        self._stages[stage] = (ended, pid, now)

    def of(self, stage: str) -> Values:
        """All of a stage's counters since the service began."""
        ended, _pid, last = self._stages.get(stage, (_NONE, 0, _NONE))
        return _sum(ended, last)


def values(status: StageStatus) -> Values:
    """Every counter of a report, under one roof."""
    told: dict[str, float] = {**status.counters, RECONNECTS: status.link.reconnects}
    for name, times in status.times.items():
        prefix = TIMES[name]
        told |= {f"{prefix}{BUCKET}{number}": count for number, count in enumerate(times.counts)}
        told[prefix + SUM] = times.total
    return told


def _sum(one: Values, other: Values) -> Values:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}
