"""What each stage did in the last 15 minutes, second by second, and in the last 6 hours, in steps of 15 s.

In the Service's memory, and gone with it. The main thread feeds in the reports of Producers, threads read; a lock keeps
what they see whole. The size is fixed: about 300 kB a stage (16 series of 900 and 1,440 numbers).

Producers report at their own times, about once a second, so a second is known when a report from after its end has
come: its counts are those of the line between the two reports around each of its ends. So the seconds between two
reports have together exactly what was counted between them, whenever those came. Where nothing was reported for LATE
seconds, because there is no Producer or it does not answer, there is nan: a gap. Seconds are counted from the start of
the Service (`second`), so that a number means the same to everybody who reads, also where the clock is set.
"""

import math
import threading
from array import array
from collections.abc import Callable, Iterable, Mapping

from mqworker.ipc.histogram import BUCKETS
from mqworker.ipc.stage_status import StageStatus

COUNTED = {"in": "received", "result": "result", "dropped": "dropped", "retried": "retried", "dead": "dead"}
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}  # seconds in the handlers; nan: no message has finished
MEASURED = ("backlog", "unfinished", "dead_backlog", "busy", "consumers", "rss", "cpu", "held")
SERIES = (*COUNTED, *QUANTILES, *MEASURED)
FINE, FINE_SIZE = 1, 900  # seconds of a step, and how many steps are kept
COARSE, COARSE_SIZE = 15, 1440
LATE = 5  # seconds without a report after which there is a gap
BUCKET = "process_bucket_"  # the names of the histogram's counts, before their numbers

Values = Mapping[str, float]  # the counters of a stage since the Service began, whatever Producers it had
Steps = tuple[int, dict[str, list[float]]]  # the number of the first step, and each series from there
_NAN = math.nan


class Ring:
    """The newest `size` steps of each series; steps are numbered from 0, and nan where nothing is known."""

    def __init__(self, every: int, size: int) -> None:
        self.every = every
        self.size = size
        self.end = 0  # the number of the next step
        self._values = {name: array("d", [_NAN]) * size for name in SERIES}

    def push(self, values: Values) -> None:
        """Add a step; a series that is not among the values has none."""
        at = self.end % self.size
        for name, ring in self._values.items():
            ring[at] = values.get(name, _NAN)
        self.end += 1

    def skip(self, to: int) -> None:
        """Go on at step number `to`; nothing is known of those before."""
        self.end = max(self.end, to - self.size)
        while self.end < to:
            self.push({})

    def read(self, names: Iterable[str], first: int) -> Steps:
        """Return the steps from this number on, or from the oldest that is kept, and the number of the first."""
        first = min(max(first, self.end - self.size, 0), self.end)
        at = range(first, self.end)
        return first, {name: [_rounded(self._values[name][n % self.size]) for n in at] for name in names}


def _rounded(value: float) -> float:
    """Return four digits, and all those before the point."""
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")


class _Sample:
    """A report, as the next one is compared with it."""

    def __init__(self, at: float, status: StageStatus, values: Values) -> None:
        self.at = at  # seconds since the start of the Service
        self.counts = {name: values.get(counter, 0.0) for name, counter in COUNTED.items()}
        self.buckets = [values.get(f"{BUCKET}{number}", 0.0) for number in range(len(BUCKETS) + 1)]
        self.cpu = {each.pid: each.cpu for each in status.consumers}


class StageHistory:
    """The two rings of one stage."""

    def __init__(self) -> None:
        self.fine = Ring(FINE, FINE_SIZE)
        self.coarse = Ring(COARSE, COARSE_SIZE)
        self._last: _Sample | None = None
        self._level: dict[str, float] = {}  # the counts at the end of the last second that is known
        self._step: dict[str, float] = {}  # what the present step of the coarse ring is made of
        self._buckets = [0.0] * (len(BUCKETS) + 1)  # of that step

    def due(self, at: float) -> bool:
        """Return whether a report made at this time ends a second; others need not be looked at."""
        return self._last is None or at >= self.fine.end + 1

    def report(self, at: float, status: StageStatus, values: Values) -> None:
        """Add the seconds that end with this report."""
        last, new = self._last, _Sample(at, status, values)
        if last is None or at - last.at > LATE:
            self.skip(int(at))
            self._last, self._level = new, new.counts
            return
        self._last = new
        passed = max(at - last.at, 1e-9)
        buckets = [max(0.0, now - then) for now, then in zip(new.buckets, last.buckets, strict=True)]
        self._buckets = [one + more for one, more in zip(self._buckets, buckets, strict=True)]
        others = _measured(status) | _quantiles(buckets) | {"cpu": _cpu(last.cpu, new.cpu) / passed}
        while self.fine.end + 1 <= at:
            share = (self.fine.end + 1 - last.at) / passed
            level = {name: last.counts[name] + (now - last.counts[name]) * share for name, now in new.counts.items()}
            self._push({name: max(0.0, now - self._level[name]) for name, now in level.items()} | others)
            self._level = level

    def skip(self, to: int) -> None:
        """Leave a gap up to this second."""
        if to <= self.fine.end:
            return
        self._last = None  # the next report starts from zero
        step = to // COARSE
        if step > self.coarse.end and self._step:
            self._end_step()
        self.fine.skip(to)
        self.coarse.skip(step)

    def _push(self, values: dict[str, float]) -> None:
        self.fine.push(values)
        for name, value in values.items():
            if name in COUNTED:
                self._step[name] = self._step.get(name, 0.0) + value
            elif not math.isnan(value):
                self._step[name] = value
        if self.fine.end % COARSE == 0:
            self._end_step()

    def _end_step(self) -> None:
        """Add a step of 15 s: the mean of what is counted, and of what is measured the last."""
        counted = {name: self._step[name] / COARSE for name in COUNTED if name in self._step}
        self.coarse.push(self._step | counted | _quantiles(self._buckets))
        self._step, self._buckets = {}, [0.0] * len(self._buckets)


class History:
    """See the module head; `began`: CLOCK_MONOTONIC."""

    def __init__(self, began: float, boot: str) -> None:
        self.boot = boot  # a name for this life of the Service: its numbers of seconds mean nothing in another one
        self._began = began
        self._stages: dict[str, StageHistory] = {}
        self._lock = threading.Lock()

    def second(self, now: float) -> float:
        """Return a time (CLOCK_MONOTONIC) in seconds since the start."""
        return now - self._began

    def feed(self, reports: Mapping[str, StageStatus | None], totals: Callable[[str], Values], now: float) -> None:
        """Add the newest report of each stage; `totals` returns the counters of a stage."""
        late = int(self.second(now)) - LATE
        for name, status in reports.items():
            stage = self._stages.get(name)
            if stage is None:
                stage = self._stages[name] = StageHistory()
            at = self.second(status.at) if status is not None and status.at else -1.0
            with self._lock:
                if status is not None and at >= 0 and stage.due(at):
                    stage.report(at, status, totals(name))
                stage.skip(late)

    def read(
        self, stage: str, names: Iterable[str], first: int, every: int = FINE
    ) -> tuple[int, dict[str, list[float]]]:
        """Return the steps of a stage from this number on, and the number of the first."""
        with self._lock:
            known = self._stages.get(stage)
            if known is None:
                return 0, {name: [] for name in names}
            return (known.fine if every == FINE else known.coarse).read(names, first)

    def end(self, stage: str, every: int = FINE) -> int:
        """Return the number of the step after the newest one."""
        known = self._stages.get(stage)
        return 0 if known is None else (known.fine if every == FINE else known.coarse).end


def _measured(status: StageStatus) -> dict[str, float]:
    """Return what is measured, as it is now."""
    taken = status.held + status.dispatched + status.computed + status.settling
    dead = status.dead_backlog
    return {
        "backlog": _NAN if status.backlog is None else status.backlog,
        "unfinished": _NAN if status.backlog is None else status.backlog + taken,
        "dead_backlog": _NAN if dead is None else dead,
        "busy": _NAN if status.utilisation is None else status.utilisation,
        "consumers": sum(each.state in ("idle", "busy") for each in status.consumers),
        "rss": sum(each.rss for each in status.consumers),
        "held": status.held,
    }


def _cpu(before: Mapping[int, float], now: Mapping[int, float]) -> float:
    """Return the seconds of CPU that Consumers used between two reports; one that is new began at 0."""
    return sum(used - before.get(pid, 0.0) for pid, used in now.items()) if now else 0.0


def _quantiles(buckets: list[float]) -> dict[str, float]:
    """Return the quantiles of a histogram, as if durations were spread evenly in each bucket; nan: it is empty."""
    total = sum(buckets)
    found = dict.fromkeys(QUANTILES, _NAN)
    if total < 0.5:  # less than a message: what is left of rounding
        return found
    for name, quantile in QUANTILES.items():
        wanted, passed = quantile * total, 0.0
        for number, count in enumerate(buckets):
            if count and passed + count >= wanted:
                low = BUCKETS[number - 1] if number else 0.0
                high = BUCKETS[number] if number < len(BUCKETS) else low
                found[name] = low + (high - low) * (wanted - passed) / count
                break
            passed += count
    return found
