"""The faults of each stage: its failures by reason, error type and place in the code, counted across Producer lives.

Pure; the main thread feeds in every report, HTTP threads read. Takes no lock: what is read is a tuple that is replaced
as a whole. Each Producer counts from 0; what a killed one counted after its last report is lost. Texts do not split a
fault, so ids and numbers in them do no harm; one function that raises for several reasons is one fault.
"""

from collections import deque

import msgspec

from mqworker.ipc.admin_messages import fault_key
from mqworker.ipc.inspection import FaultCount, FaultReport

MOST = 200  # faults of a stage; of more, those that have not occurred for longest are only counted
MINUTES = 60  # of the trend


class Fault(msgspec.Struct, frozen=True):
    """One kind of failure of a stage."""

    key: str
    reason: str
    error_type: str
    place: str  # "file:line in function"; "": unknown
    retried: int
    dead: int
    first: float  # wall clock
    last: float
    minutes: tuple[tuple[int, int], ...]  # (minute since the epoch, failures in it), of the last ones that had any
    text: str  # of the newest one
    examples: tuple[str, ...]  # ids of the newest messages, the newest first

    def trend(self, now: float) -> list[int]:
        """Return the failures in each of the last minutes; the last number is that of the present one."""
        counts, present = dict(self.minutes), int(now // 60)
        return [counts.get(minute, 0) for minute in range(present - MINUTES + 1, present + 1)]


class StageFaults(msgspec.Struct, frozen=True):
    """All faults of a stage, the one that occurred last first."""

    faults: tuple[Fault, ...] = ()
    other: int = 0  # failures of further kinds


class _Known:
    """One fault: what the present Producer has counted, and besides (below zero: what counts elsewhere)."""

    def __init__(self, count: FaultCount, besides: tuple[int, int]) -> None:
        self.besides = besides  # retried, dead
        self.count = count
        self.first = count.first
        self.minutes: deque[tuple[int, int]] = deque(maxlen=MINUTES)

    @property
    def total(self) -> tuple[int, int]:
        return self.besides[0] + self.count.retried, self.besides[1] + self.count.dead

    def took(self, failures: int, minute: int) -> None:
        before = 0
        if self.minutes and self.minutes[-1][0] >= minute:  # the clock may be set back
            minute, before = self.minutes.pop()
        self.minutes.append((minute, before + failures))

    def fault(self, key: str) -> Fault:
        count = self.count
        return Fault(
            *(key, count.reason, count.error_type, count.place, *self.total, self.first, count.last),
            *(tuple(self.minutes), count.text, count.examples),
        )


class _OfStage:
    def __init__(self) -> None:
        self.pid = 0
        self.other = (0, 0)  # of ended Producers and of forgotten faults, of the present Producer
        self.known: dict[str, _Known] = {}  # the one that occurred last is the last
        self.forgotten: dict[str, tuple[int, int]] = {}  # what the present Producer had counted then

    def take(self, report: FaultReport, minute: int) -> None:
        if report.pid != self.pid:
            self._another_producer(report.pid)
        self.other = self.other[0], report.other
        for count in sorted(report.changed, key=lambda each: each.last):
            key = fault_key(count.reason, count.error_type, count.place)
            known = self.known.pop(key, None)
            before = 0 if known is None else sum(known.total)
            if known is None:  # what was counted before it was forgotten stays where it went
                retried, dead = self.forgotten.pop(key, (0, 0))
                known = _Known(count, (-retried, -dead))
            known.count = count
            known.took(sum(known.total) - before, minute)
            self.known[key] = known
        while len(self.known) > MOST:
            self._forget(next(iter(self.known)))

    def _another_producer(self, pid: int) -> None:
        self.pid = pid
        self.other = sum(self.other), 0
        self.forgotten.clear()
        for known in self.known.values():
            known.besides = known.total
            known.count = msgspec.structs.replace(known.count, retried=0, dead=0)

    def _forget(self, key: str) -> None:
        known = self.known.pop(key)
        self.other = self.other[0] + sum(known.total), self.other[1]
        self.forgotten[key] = known.count.retried, known.count.dead


class Faults:
    """See the module head."""

    def __init__(self) -> None:
        self._stages: dict[str, _OfStage] = {}
        self._reported: dict[str, StageFaults] = {}

    def take(self, stage: str, report: FaultReport, now: float) -> None:
        """Count a Producer's report in; `now` is the wall clock."""
        of = self._stages.setdefault(stage, _OfStage())
        of.take(report, int(now // 60))
        faults = tuple(known.fault(key) for key, known in reversed(of.known.items()))
        self._reported = self._reported | {stage: StageFaults(faults, sum(of.other))}

    def of(self, stage: str) -> StageFaults:
        """Return the faults of a stage."""
        return self._reported.get(stage, StageFaults())
