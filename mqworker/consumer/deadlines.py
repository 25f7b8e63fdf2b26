"""When the time limits pass of the messages on a loop, where one message's time must not count against another.

Pure; used on the loop. A message does not run while another one holds the loop for long, while it waits for a shared
object that is down, or while nothing runs at all: its limits are moved by that time.
"""

import math
from typing import Final

SOFT: Final = "soft"
HARD: Final = "hard"


class _Due:
    __slots__ = ("hard", "passed", "since", "soft", "stands")

    def __init__(self, soft: float, hard: float) -> None:
        self.soft = soft
        self.hard = hard
        self.passed = ""  # the last limit that has passed
        self.stands = 0  # how many of its calls wait
        self.since = 0.0


class Deadlines:
    """See the module head; seats are named by their numbers."""

    def __init__(self) -> None:
        self._due: dict[int, _Due] = {}

    def begin(self, seat: int, now: float, soft: float, hard: float) -> None:
        """Begin a message with these limits in seconds; 0 for none."""
        self._due[seat] = _Due(now + soft if soft else math.inf, now + hard if hard else math.inf)

    def end(self, seat: int) -> None:
        """Note that a message has ended."""
        self._due.pop(seat, None)

    def held(self, holder: int | None, seconds: float) -> list[int]:
        """Move the limits of all messages but the holder, which had the loop for so long; returns which were moved."""
        moved = [seat for seat, due in self._due.items() if seat != holder and not due.stands]
        for seat in moved:
            self._due[seat].soft += seconds
            self._due[seat].hard += seconds
        return moved

    def wait(self, seat: int, now: float, *, waiting: bool) -> None:
        """Suspend the limits of a message, or resume them."""
        due = self._due.get(seat)
        if due is None:
            return
        if waiting:
            due.stands += 1
            if due.stands == 1:
                due.since = now
        elif due.stands:
            due.stands -= 1
            if not due.stands:
                due.soft += now - due.since
                due.hard += now - due.since

    def passed(self, seat: int) -> str:
        """Return the last limit of a message that has passed; "" for none."""
        due = self._due.get(seat)
        return due.passed if due is not None else ""

    def pass_now(self, now: float) -> list[int]:
        """Return the messages of which a limit has passed since the last call."""
        found = []
        for seat, due in self._due.items():
            if due.stands or due.passed == HARD:
                continue
            passed = HARD if now >= due.hard else SOFT if now >= due.soft else ""
            if passed and passed != due.passed:
                due.passed = passed
                found.append(seat)
        return found

    def next(self) -> float:
        """Return when the next limit passes; inf if none will."""
        return min((self._next(due) for due in self._due.values() if not due.stands), default=math.inf)

    @staticmethod
    def _next(due: _Due) -> float:
        if due.passed == HARD:
            return math.inf
        return due.hard if due.passed == SOFT else min(due.soft, due.hard)
