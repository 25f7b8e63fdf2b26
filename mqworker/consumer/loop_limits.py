"""The time limits of the messages on one loop: the task of a message that exceeds one is cancelled.

Lives on the loop; a part of TaskSeats. Owns the deadlines, the timer that checks them, and the Hold that shows which
message has the loop. A long step counts only against its message, and time in which the process was stopped counts
against none: the limits of the others are moved, and so are their times in the in-hand register, by which the Producer
enforces its limits.
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
    """See the module head. `cancel` is called with the seat of a message when one of its limits has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, words: Seats, cancel: Callable[[int], None]) -> None:
        self.hold = Hold(words, self._held)
        self._loop = loop
        self._words = words
        self._cancel = cancel
        self._deadlines = Deadlines()
        self._seats: dict[int, int] = {}  # seq -> seat of the messages in hand
        self._timer: asyncio.TimerHandle | None = None
        self._looked = (0.0, 0.0)  # when the next check is due, and the seconds in steps when that was decided

    def begin(self, work: SeatedMessage, now: float) -> None:
        """Start the time of a message; the caller calls `watch` afterwards."""
        self._words.slots[work.seat].go_on(now)  # until now another message may have had the loop
        self._deadlines.begin(work.seat, now, work.setting.soft, work.setting.hard)
        self._seats[work.item.seq] = work.seat

    def watch(self, now: float) -> None:
        """Schedule the next check of the limits: when the next one passes, or after BEAT if that is sooner."""
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
        """Return the last limit that has passed for the message in a seat; "" for none."""
        return self._deadlines.passed(seat)

    def waits(self, seat: int) -> Callable[..., None]:
        """Return what a seat's companion calls when it begins to wait for a shared object, and when it goes on."""

        def note(*, waiting: bool) -> None:
            self._loop.call_soon_threadsafe(lambda: self._note_wait(seat, waiting=waiting))

        return note

    # --- inside

    @fatal
    def _note_wait(self, seat: int, *, waiting: bool) -> None:
        """Suspend the limits of a message while its call waits for a shared object that is down, or resume them."""
        now = time.monotonic()
        self._deadlines.wait(seat, now, waiting=waiting)
        if not waiting:  # there is no timer if every message was waiting
            self.watch(now)

    def _held(self, seq: int, seconds: float) -> None:
        """Count a long step only against its message."""
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
        if still > LONG:  # not in a step of a task: the process was stopped, or callbacks ran
            self._move(self._deadlines.held(None, still), still)
        for seat in self._deadlines.pass_now(now):
            self._cancel(seat)
        self.watch(now)
