"""Who gets messages among Consumers that work on several at once, and what may begin beside a message that may kill.

Pure: facts and time in, a decision out; used by feeding. A Consumer gets as many messages as it has free seats, at most
its share of what is ready. A message that has killed a Consumer, or may have, must be *alone*: it begins in a Consumer
in which every other message has run for the length of its *window*, and nothing else begins there until it has run that
long itself. (To wait for an empty Consumer could take hours.) So whatever dies within the window dies of it. The
Consumer that can take it first is *reserved*: it gets nothing else meanwhile. That is decided again at each turn, from
what waits then, and the time of the one that is chosen can only come nearer, because nothing begins in it: a message
that must be alone begins at most one window after a Consumer has had a free seat for it. At most half of the Consumers
serve such messages at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

WINDOW = 15.0  # seconds for which a message that has killed a Consumer has one to itself
GROWTH = 4.0  # factor by which the window of a doubted message may be longer with each further death
MARGIN = 1.0  # seconds that a doubted message must run beyond the longest time after which its Consumer died
KEPT = 3.0  # seconds for which a Consumer may be kept empty for a message that has just killed another one
WORTH = 1.5  # seconds that must be left of these to keep one: the message is back after a little more than one


class Seating(NamedTuple):
    """One Consumer with seats."""

    lane: int
    room: int  # free seats; 0 if it must get nothing any more
    open: bool  # a chunk may be put now
    began: Sequence[float]  # when each message in its lane began; 0: it has not begun. Asked for only where needed
    alone: bool = False  # a message runs alone in it, within its window
    kept: bool = False  # it is kept empty for one


class Alone(NamedTuple):
    """A message that must be alone for this many seconds; a `killer` has been charged, and is not only doubted."""

    window: float
    killer: bool = True


class Give(NamedTuple):
    """Give this lane that many messages now; `alone`: which one of those that must be alone, and nothing else."""

    lane: int
    most: int
    alone: int | None = None


def window(longest: float, deaths: int) -> float:
    """Return the window, in seconds, of a doubted message that was in hand at `deaths` deaths for at most `longest`."""
    return min(longest + MARGIN, WINDOW * GROWTH ** min(max(0, deaths - 2), 20))


def seat(lanes: Sequence[Seating], ready: int, alone: Sequence[Alone], now: float, most: int) -> list[Give]:
    """Return who gets what: `ready` messages may begin anywhere, and these must be `alone`, the first ones first.

    `most`: how many messages may be given in all. A Consumer that is kept for a killer is for no other one.
    """
    gives: list[Give] = []
    usable = [lane for lane in lanes if not lane.alone]
    serving = len(lanes) - len(usable)
    reserved: set[int] = set()
    for number, (seconds, killer) in enumerate(alone):
        if serving + len(reserved) >= max(1, len(lanes) // 2):
            break
        free = [lane for lane in usable if lane.room and lane.lane not in reserved and (killer or not lane.kept)]
        if not free:
            continue
        # One that is not open has not taken its last chunk yet; if it is frozen, it never does.
        first = min(
            free, key=lambda lane: (not lane.open, _free_at(lane, seconds, now), not lane.kept, len(lane.began))
        )
        reserved.add(first.lane)
        if first.open and _free_at(first, seconds, now) <= now and len(gives) < most:
            gives.append(Give(first.lane, 1, number))
    others = [lane for lane in usable if lane.room and lane.open and not lane.kept and lane.lane not in reserved]
    left = min(ready, most - len(gives))
    for rank, lane in enumerate(sorted(others, key=lambda lane: -lane.room)):
        if left < 1:
            break
        share = min(lane.room, -(-left // (len(others) - rank)))
        gives.append(Give(lane.lane, share))
        left -= share
    return gives


def roomiest(lanes: Sequence[Seating]) -> int | None:
    """Return the lane for a message beside which the whole stage begins nothing; None: there is none now."""
    free = [lane for lane in lanes if lane.room and lane.open]
    return max(free, key=lambda lane: lane.room).lane if free else None


def _free_at(lane: Seating, seconds: float, now: float) -> float:
    """Return when every message in a lane will have run for so long, or has; those that have not begun begin now."""
    return max(now, *((began or now) + seconds for began in lane.began)) if lane.began else now


class KeptSuccessor:
    """Which Consumer is kept empty for a message that has killed, so that it need not wait for its window.

    It comes back after about a second, when the successor of its Consumer is ready and its neighbours would fill that.
    So whatever comes, Consumers are kept for at most KEPT seconds in a row, and for at most half of the time.
    """

    def __init__(self) -> None:
        self.lane = 0  # the one that is kept; 0: none
        self._expected = 0.0  # until when a message that has killed is expected back
        self._left = KEPT
        self._at = 0.0

    def killed(self, now: float) -> None:
        """Note that a message was charged with the death of a Consumer, and comes back."""
        self._pass(now)
        self._expected = now + KEPT

    def ready(self, lane: int, now: float) -> None:
        """Note that a Consumer is set up, and empty."""
        self._pass(now)
        expected, self._expected = self._expected, 0.0
        if now < expected and not self.lane and self._left >= WORTH:
            self.lane = lane

    def ended(self, lane: int, now: float) -> None:
        """Note that a message that must be alone begins in a Consumer, or that it gets nothing any more."""
        self._pass(now)
        if lane == self.lane:
            self.lane = 0

    def kept(self, now: float) -> int:
        """Return the lane that is kept empty now; 0: none is."""
        self._pass(now)
        return self.lane

    def _pass(self, now: float) -> None:
        passed, self._at = now - self._at, now
        self._left = min(KEPT, self._left + (-passed if self.lane else passed))
        if self._left <= 0.0:
            self._left, self.lane = 0.0, 0
