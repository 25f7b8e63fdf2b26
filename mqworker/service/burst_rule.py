"""When `run --burst` is done. Pure: takes the stages' reports, the broker's answers and the time.

In each stage that takes part, no message may be in hand, ready in its input, or waiting for its next attempt. The
stages report at different times, and in between a message may move from one to the next. So the broker is asked while
all stages are at rest, and the run is over if every stage reports again afterwards, at rest and with the same counters:
then nothing was received, settled or published anywhere between the first reports and the second, so the broker's count
between them included all messages. A message that was on its way to a Producer has arrived by the second report.

A stage that is stopped, paused or without Consumers does not delay the end once it has nothing in hand. Neither does a
stage in a crash loop, if nothing else happens for a while. A service that is paused as a whole waits to be resumed.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from mqworker.control.views import StageView
from mqworker.ipc.stage_status import StageStatus

ON_ITS_WAY = 0.5  # seconds in which a Producer receives what the broker has delivered
AGAIN = 1.0  # seconds until the broker is asked again, if messages were left
STUCK = 10.0  # seconds without any change after which a crash loop no longer delays the end


class Left(NamedTuple):
    """The messages of a stage at the broker."""

    retries: int  # messages that wait for their next attempt
    ready: int  # messages in the input
    dead: int


class Ask(NamedTuple):
    """Ask the broker what is left; the answer goes to `answered`, with this number."""

    number: int


class End(NamedTuple):
    """The run is done."""

    stuck: tuple[str, ...]  # stages in a crash loop
    left: dict[str, Left]


class BurstRule:
    """See the module head."""

    def __init__(self) -> None:
        self._marks: object = None  # the counters of all stages when they came to rest
        self._since = 0.0  # when they came to rest
        self._number = 0  # the number of the last request to the broker
        self._part: tuple[str, ...] = ()  # the stages in which nothing may be left
        self._ask_at = 0.0
        self._answered: float | None = None  # when the broker answered that nothing is left
        self._left: dict[str, Left] = {}

    def look(self, stages: Collection[StageView], now: float, *, paused: bool = False) -> Ask | End | None:
        """Decide on the newest reports; None: wait."""
        busy = [stage for stage in stages if _is_busy(stage)]
        stuck = tuple(stage.name for stage in busy if stage.actual is not None and stage.actual.crash_loop)
        at_rest = not paused and len(stuck) == len(busy)
        marks = [_mark(stage) for stage in stages] if at_rest else None
        if marks is None or marks != self._marks:
            self._marks, self._since, self._answered = marks, now, None
            self._number += 1
        if marks is None:
            return None
        if self._answered is None:
            self._part = tuple(stage.name for stage in stages if _takes_part(stage) and stage.name not in stuck)
            return Ask(self._number) if now >= self._ask_at else None
        arrived = self._answered + ON_ITS_WAY
        seen = all(stage.actual is None or stage.actual.at > arrived for stage in stages)
        waited = not stuck or now - self._since >= STUCK
        return End(stuck, self._left) if seen and waited else None

    def answered(self, number: int, left: Mapping[str, Left], now: float) -> None:
        """Note the broker's answer; it counts if nothing has changed since the request."""
        if number != self._number or self._marks is None:
            return
        self._left = dict(left)
        if any(left[name].retries or left[name].ready for name in self._part):
            self._marks, self._ask_at = None, now + AGAIN
        else:
            self._answered = now


def _works(stage: StageView) -> bool:
    desired = stage.desired
    return desired.running and desired.working and (desired.auto or desired.consumers > 0)


def _takes_part(stage: StageView) -> bool:
    return _works(stage) and stage.desired.listening


def _is_busy(stage: StageView) -> bool:
    """Return whether a stage has something in hand, or may get something."""
    status = stage.actual
    if status is None:
        return stage.desired.running
    if _takes_part(stage):
        return not status.idle
    if not stage.desired.running:
        return True  # it is draining
    return bool(status.dispatched + status.settling + (status.held if _works(stage) else 0))


def _mark(stage: StageView) -> object:
    """Return a value that changes whenever a message comes to this stage or leaves it."""
    return _takes_part(stage), None if stage.actual is None else _counted(stage.actual)


def _counted(status: StageStatus) -> tuple[int, ...]:
    counters = status.counters
    return (status.pid, *(counters.get(name, 0) for name in ("received", "settled", "voided", "released", "confirmed")))
