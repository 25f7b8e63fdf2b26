"""Counters that only grow, across the lives of many Producers, each of which counts from 0.

The main thread feeds in every snapshot, the thread that answers `/metrics` reads. Pure; takes no lock, because a reader
sees one tuple that is replaced as a whole. Each counter is a number under a name; so is each bucket of a histogram.
What a killed Producer counted after its last report is lost.
"""

from collections.abc import Mapping
from types import MappingProxyType

from mqworker.control.views import Snapshot
from mqworker.ipc.stage_status import StageStatus

TIMES = {
    "process": "process_",
    "wait": "wait_",
    "confirm": "confirm_",
}  # prefixes of the names of a histogram's numbers
BUCKET = "bucket_"  # a bucket is named by the prefix, this, and its number
SUM = "sum"
RECONNECTS = "reconnects"

Values = Mapping[str, float]
_NONE: Values = MappingProxyType({})


class Totals:
    """Sums for each stage."""

    def __init__(self) -> None:
        self._stages: dict[
            str, tuple[Values, int, Values]
        ] = {}  # sums of ended Producers; the last one's pid and values
        self._seen: dict[str, StageStatus] = {}

    def feed(self, snapshot: Snapshot) -> None:
        """Count every report that is new in the snapshot."""
        for stage in snapshot.stages.values():
            status = stage.actual
            if status is not None and status is not self._seen.get(stage.name):
                self._seen[stage.name] = status
                self.count(stage.name, status.pid, values(status))

    def count(self, stage: str, pid: int, now: Values) -> None:
        """Count one Producer's counters; another pid, or a counter that decreased, means another Producer."""
        ended, last_pid, last = self._stages.get(stage, (_NONE, pid, _NONE))
        if pid != last_pid or any(now.get(name, 0) < number for name, number in last.items()):
            ended = _sum(ended, last)
        self._stages[stage] = (ended, pid, now)

    def of(self, stage: str) -> Values:
        """Return all counters of a stage since the service started."""
        ended, _pid, last = self._stages.get(stage, (_NONE, 0, _NONE))
        return _sum(ended, last)


def values(status: StageStatus) -> Values:
    """Return every counter of a report by name."""
    numbers: dict[str, float] = {**status.counters, RECONNECTS: status.link.reconnects}
    for name, times in status.times.items():
        prefix = TIMES[name]
        numbers |= {f"{prefix}{BUCKET}{number}": count for number, count in enumerate(times.counts)}
        numbers[prefix + SUM] = times.total
    return numbers


def _sum(one: Values, other: Values) -> Values:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}
