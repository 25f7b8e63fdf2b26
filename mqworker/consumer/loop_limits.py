"""The time limits of the messages on one loop: the task of a message that exceeds one is cancelled.

Lives on the loop; a part of TaskSeats. Owns the deadlines, the timer that looks at them, and the hold that shows who
has the loop. A step that takes long counts against its message alone, and what stops the process counts against none:
the limits of the others are moved, and so are their times in the in-hand register, by which the Producer judges.
"""

import asyncio
import math
import time
from collections.abc import Callable

from mqworker.consumer.deadlines import Deadlines
from mqworker.consumer.fatal import fatal
from mqworker.consumer.register import Seats
from mqworker.consumer.seats import SeatedMessage
from mqworker.consumer.steps import LONG, Hold

BEAT = 0.25  # seconds between two checks of the limits


class LoopLimits:
    """See the module head. `cancel` is called with the seat of a message of which a limit has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, words: Seats, cancel: Callable[[int], None]) -> None:
        self.hold = Hold(words, self._held)
        self._loop = loop
        self._words = words
        self._cancel = cancel
        self._deadlines = Deadlines()
        self._seats: dict[int, int] = {}  # seq -> seat of the messages in hand
        self._timer: asyncio.TimerHandle | None = None
        self._looked = (0.0, 0.0)  # when the next look is due, and the seconds in steps when that was decided

    def begin(self, work: SeatedMessage, now: float) -> None:
        """Let the time of a message begin; `watch` follows."""
        self._words.slots[work.seat].go_on(now)  # until now somebody else may have had the loop
        self._deadlines.begin(work.seat, now, work.setting.soft, work.setting.hard)
        self._seats[work.item.seq] = work.seat

    def watch(self, now: float) -> None:
        """Look at the limits when the next one passes, and now and then before that."""
        due = self._deadlines.next()
        if due == math.inf:
            return
        at = min(due, now + BEAT)
        if self._timer is not None:
            if self._looked[0] <= at:
                return
            self._timer.cancel()
        self._looked = at, self.hold.spent
        self._timer = self._loop.call_later(max(0.0, at - now), self._look)

    def end(self, work: SeatedMessage) -> None:
        """Note that a message has ended."""
        self._deadlines.end(work.seat)
        self._seats.pop(work.item.seq, None)

    def passed(self, seat: int) -> str:
        """Return the last limit that has passed for the message in a seat, "" for none."""
        return self._deadlines.passed(seat)

    def waits(self, seat: int) -> Callable[..., None]:
        """Return what the companion of a seat calls when it begins to wait for a shared object, or goes on."""

        def note(*, waiting: bool) -> None:
            self._loop.call_soon_threadsafe(lambda: self._note_wait(seat, waiting=waiting))

        return note

    # --- inside

    @fatal
    def _note_wait(self, seat: int, *, waiting: bool) -> None:
        """Let the limits of a message stand still, while its call waits for a shared object that is down."""
        now = time.monotonic()
        self._deadlines.wait(seat, now, waiting=waiting)
        if not waiting:  # the timer has lapsed if every message waited
            self.watch(now)

    def _held(self, seq: int, seconds: float) -> None:
        """Count a long step against its message alone."""
        self._move(self._deadlines.held(self._seats.get(seq), seconds), seconds)

    def _move(self, seats: list[int], seconds: float) -> None:
        for seat in seats:
            slot = self._words.slots[seat]
            if started := slot.started:
                slot.go_on(started + seconds)

    @fatal
    def _look(self) -> None:
        self._timer = None
        now, (due, spent) = time.monotonic(), self._looked
        still = now - due - (self.hold.spent - spent)
        if still > LONG:  # in no step of a task: the process was stopped, or callbacks ran
            self._move(self._deadlines.held(None, still), still)
        for seat in self._deadlines.pass_now(now):
            self._cancel(seat)
        self.watch(now)
