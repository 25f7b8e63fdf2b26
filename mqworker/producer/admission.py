"""How many deliveries the broker may send us, and when it may send none (holding back).

Pure: facts and time in, a decision out; used by intake. Holding back has hysteresis, so that the consumer does not come
and go around a limit: the input stops above `max_held_bytes` and resumes at half of that; it stops when
results that cannot be placed reach half the prefetch, and resumes below a quarter. While the output queue is full,
throttle.py holds dispatch back, and what was delivered waits here; it goes back to the broker, and nothing more is
taken, before the broker takes it back because nobody has acknowledged it.
"""

import math
from enum import Enum
from typing import NamedTuple

NOBODY_GRACE = 5.0  # seconds without any Consumer until held deliveries go back to the broker


class HoldBack(Enum):
    """Why nothing is taken although messages are wanted."""

    NO = 0
    BYTES = 1
    UNPLACED = 2
    OUTPUT = 3


class Facts(NamedTuple):
    """What a decision rests on."""

    wanted: bool  # listening is switched on, Consumers are wanted, no drain
    consumers: int  # how many are wanted
    working: int  # how many are set up
    prefetch: int  # the prefetch that would suit the work, whether or not anything is taken now
    held_bytes: int
    unplaced: int  # publications that were refused and are not placed yet
    output_full: bool = False  # dispatch is held back because of the output queue
    waited: float = 0.0  # seconds for which the oldest delivery has waited for a lane


class Decision(NamedTuple):
    """What to do now."""

    prefetch: int  # 0: take nothing
    give_back: bool  # deliveries that wait for a lane go back to the broker
    hold_back: HoldBack
    frozen: bool = False  # nothing begins, and the epoch ends once nothing is in hand; only in ordered stages, as next:
    narrow: bool = False  # only what frees memory soon may begin


class Admission:
    """Remembers why it holds back, what it decided last, and when the last Consumer was there."""

    def __init__(self, max_held_bytes: int, now: float, wait_max: float = math.inf, *, ordered: bool = False) -> None:
        """`wait_max`: seconds for which a delivery may wait because the output queue is full.

        An `ordered` stage keeps its deliveries and its prefetch for as long as it takes any: to give some back, or to
        take fewer, would bring them out of order. Too many bytes only narrow what may begin.
        """
        self._ordered = ordered
        self._max_held_bytes = max_held_bytes
        self._wait_max = wait_max
        self._hold_back = HoldBack.NO
        self._prefetch = 0
        self._nobody_since = now

    def decide(self, facts: Facts, now: float) -> Decision:
        """Decide from these facts; may be called at any time."""
        if facts.working:
            self._nobody_since = now
        self._hold_back = self._reason(facts)
        nobody = not facts.working and (now - self._nobody_since >= NOBODY_GRACE or facts.consumers == 0)
        if self._ordered:
            return self._in_order(facts, taking=facts.wanted and not nobody)
        if not facts.wanted or self._hold_back is not HoldBack.NO or nobody:
            self._prefetch = 0
        elif facts.working:
            self._prefetch = facts.prefetch
        return Decision(self._prefetch, nobody or self._hold_back is HoldBack.OUTPUT, self._hold_back)

    def _in_order(self, facts: Facts, *, taking: bool) -> Decision:
        if not taking:
            self._prefetch = 0
        elif facts.working:
            self._prefetch = facts.prefetch
        narrow = self._hold_back is HoldBack.BYTES
        return Decision(self._prefetch, False, self._hold_back, frozen=not taking, narrow=narrow)

    def _reason(self, facts: Facts) -> HoldBack:
        limit, before = self._max_held_bytes, self._hold_back
        if facts.output_full and (before is HoldBack.OUTPUT or facts.waited > self._wait_max):
            return HoldBack.OUTPUT
        if facts.held_bytes > (limit // 2 if before is HoldBack.BYTES else limit):
            return HoldBack.BYTES
        share = 4 if before is HoldBack.UNPLACED else 2
        if facts.unplaced and facts.unplaced * share >= facts.prefetch:
            return HoldBack.UNPLACED
        return HoldBack.NO
