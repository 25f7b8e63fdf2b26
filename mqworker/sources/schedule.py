"""When a scheduled function is called: which tick runs now, which ticks are missed, how long to wait.

Pure: the wall clock is an argument. Times are whole milliseconds since the epoch. A tick that cannot begin on time
begins late, but by no more than GRACE or half its period; after that it is missed. Ticks never overlap, because the
next decision is made only when one is over.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import NamedTuple, Protocol

from cronsim import CronSim

from mqworker.config import durations
from mqworker.config.model import SourceConfig
from mqworker.config.zone import zone

GRACE = 300_000  # how late a tick may begin at most
CORRECTION = 3 * 3_600_000  # if the clock is set back by more, it was wrong before
COUNTED = 1000  # missed ticks are counted up to this number
_HOUR = 3_600_000
_BACK = (_HOUR, 24 * _HOUR, 32 * 24 * _HOUR, 366 * 24 * _HOUR, 8 * 366 * 24 * _HOUR)


class Ticks(Protocol):
    """The times at which there are ticks."""

    zone: tzinfo

    def ticks(self, after: int) -> Iterator[int]:
        """Yield all ticks later than this, in order."""

    def newest(self, at: int) -> int | None:
        """Return the last tick that is not later than this; None if there is none for years."""


class Every:
    """Whole multiples of a period since the epoch."""

    zone: tzinfo = UTC

    def __init__(self, period: int) -> None:
        self._period = period

    def ticks(self, after: int) -> Iterator[int]:
        """See Ticks."""
        tick = after // self._period * self._period
        while True:
            tick += self._period
            yield tick

    def newest(self, at: int) -> int | None:
        """See Ticks."""
        return at // self._period * self._period


class Cron:
    """Five fields in a time zone; when summer time begins or ends, like Debian's cron (cronsim)."""

    def __init__(self, expression: str, where: tzinfo) -> None:
        self.zone = where
        self._expression = expression

    def ticks(self, after: int) -> Iterator[int]:
        """See Ticks."""
        last = after
        for found in CronSim(self._expression, datetime.fromtimestamp(after / 1000, self.zone)):
            tick = round(found.timestamp()) * 1000
            if tick > last:  # in an hour that occurs twice, CronSim also yields the first one, which is past
                last = tick
                yield tick

    def newest(self, at: int) -> int | None:
        """See Ticks; looks back in growing steps, so as not to go through every minute of a year."""
        for back in _BACK:
            last = None
            for tick in self.ticks(at - back):
                if tick > at:
                    break
                last = tick
            if last is not None:
                return last
        return None


def make_schedule(config: SourceConfig) -> Ticks:
    """Return the schedule of a source; raises ValueError if this machine does not know its time zone."""
    if config.every is not None:
        period = durations.milliseconds(config.every)
        assert period is not None, "the configuration was checked"
        return Every(period)
    assert config.cron is not None
    return Cron(config.cron, zone(config.timezone))


class Wait(NamedTuple):
    """Decision: there is nothing to do before this time."""

    until: int


class RunTick(NamedTuple):
    """Decision: call the function for this tick; `missed` ticks before it were not run."""

    due: int
    missed: int


class Missed(NamedTuple):
    """Decision: run no tick; the last `ticks` ticks, up to `newest`, are missed."""

    ticks: int
    newest: int


def decide(schedule: Ticks, now: int, done: int, *, catch_up: bool) -> Wait | RunTick | Missed:
    """Return what to do now; `done`: the last tick that was run or missed, or when the schedule began."""
    due = next(schedule.ticks(done))
    if due > now:
        return Wait(due)
    newest = schedule.newest(now) or due
    following = next(schedule.ticks(newest))
    before = _count(schedule, done, newest)
    if catch_up or now - newest <= min(GRACE, (following - newest) // 2):
        return RunTick(newest, before)
    return Missed(before + 1, newest)


def _count(schedule: Ticks, after: int, before: int) -> int:
    """Count the ticks between two times, up to COUNTED."""
    count = 0
    for tick in islice(schedule.ticks(after), COUNTED):
        if tick >= before:
            break
        count += 1
    return count
