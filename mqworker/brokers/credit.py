"""How many messages may be sent before a queue holds `max_backlog`, and when to ask how many it holds.

Pure: answers of the broker, time and a random number in, decisions out. Used by a Producer for its output queue
(throttle.py) and by a source for the input queue of its stage (sources/pump.py). The credit is what is free below the
mark after everything that may still arrive: results that were published since the request or not confirmed when it was
asked, and one result for each message in a lane. So with one result a message nothing of this stage goes above the
mark; messages that yield several exceed it by what was in hand when it was reached. Whoever else publishes into the
queue is seen with the next answer, which is at most a second away. In an ordered stage, results that wait for their
turn reserve none: they would use up the credit of the very message that they wait for (docs/architecture.md).

When the credit is used up, the broker is asked again. If the queue holds less than 80 % of the mark, there is new
credit; otherwise the queue is *full*, and nothing is dispatched until it holds less than 80 %. While it is full, each
pause between two requests is about as long as all before it together: that costs few requests, and by the answer the
queue has lost about twice what it had to lose at most, so it does not run empty. Pauses are random by half, because of
several stages that fill one queue the first to ask goes on, and with equal pauses that can always be the same one.

Several sources that must not exceed the mark *together* (`shared`) may each send at most a tenth of their part of it
after an answer, and leave room for what all others may send after theirs, whose answers may be old. So the mark holds
whatever comes late; to divide what is free among them would not do, because nothing shows what a slow one still has.
"""

import math
from typing import NamedTuple

LOW = 0.8  # share of the mark below which the queue counts as no longer full
SOON = 0.02  # seconds between two requests when the credit is used up ...
LONGEST = 0.5  # ... growing up to this while the queue is full
FRESH = 1.0  # seconds after which an answer is outdated, because others may publish; or a request without one is lost
STEADY = 5.0  # seconds without a full queue until the stage counts as no longer held back
SHARE = 10  # of several, each may send this much less than its part of the mark after one answer


class Sent(NamedTuple):
    """What this stage has sent and may send, at one moment."""

    published: int  # publications so far, those to other queues and repeated ones too
    unconfirmed: int  # of them, those that the broker may store after this moment
    dispatched: int  # messages in lanes; of a source: those that it is about to send


class Credit:
    """See the module head. `depth` is the last answer, None before the first; `shared`: how many fill the queue."""

    def __init__(self, mark: int, shared: int = 1) -> None:
        self.depth: int | None = None
        self.full = False
        self._mark = mark
        self._most = mark if shared == 1 else max(1, mark // (SHARE * shared))  # after one answer
        self._others = (shared - 1) * self._most
        self._counted: Sent | None = None  # when the request was made whose answer is `depth`
        self._asked: Sent | None = None  # when the request was made that has no answer yet
        self._asked_first = self._asked_last = -math.inf  # when
        self._pause = self._wait = SOON  # as it grows, and with its random part
        self._last_full = -math.inf

    def room(self, sent: Sent) -> int:
        """Return how many messages may be dispatched now."""
        return 0 if self.full else max(0, self._free(sent))

    def held_back(self, now: float) -> bool:
        """Whether to report that the stage is held back; a queue that is full again and again counts as full."""
        return self.full or now - self._last_full < STEADY

    def unanswered(self, now: float) -> float:
        """Return for how many seconds a request has had no answer; 0 when all have."""
        return 0.0 if self._asked is None else now - self._asked_first

    def due(self, sent: Sent) -> float:
        """Return when to ask next."""
        return self._asked_last + (FRESH if self._asked is not None or self.room(sent) else self._wait)

    def must_ask(self, sent: Sent, now: float) -> bool:
        """Return whether to ask now; counts as asked if so."""
        if now < self.due(sent):
            return False
        self._asked_last = now
        if self._asked is None:  # else the next answer may be to the earlier request: assume so
            self._asked, self._asked_first = sent, now
        return True

    def answered(self, depth: int, sent: Sent, now: float, chance: float = 0.5) -> None:
        """Take the number of messages in the queue, counted after the last request without an answer.

        `chance`: a random number from 0 to 1.
        """
        if self._asked is None:
            return
        used_up = self._counted is not None and self._free(sent) <= 0
        self.depth, self._counted, self._asked = depth, self._asked, None
        before, self.full = self.full, depth >= LOW * self._mark and (self.full or used_up or self._free(sent) <= 0)
        if self.full or before:
            self._last_full = now
        self._pause = min(2 * self._pause, LONGEST) if self.full else SOON
        self._wait = self._pause * (0.5 + chance) if self.full else SOON

    def _free(self, sent: Sent) -> int:
        """Return what is free below the mark after all that may still arrive."""
        if self.depth is None or self._counted is None:
            return 0
        since = self._counted.unconfirmed + sent.published - self._counted.published
        return min(self._most, self._mark - self._others - self.depth) - since - sent.dispatched
