"""How many messages may be sent before a queue holds `max_backlog`, and when to ask the broker how many it holds.

Pure: takes the broker's answers, the time and a random number, returns decisions. Used by a Producer for its output
queue (throttle.py) and by a source for the input queue of its stage (sources/pump.py). The credit is the room below the
mark, minus everything that may still arrive: results that were published since the request or were unconfirmed when it
was asked, and one result for each message in a lane. So if each message has one result, this stage never exceeds the
mark; messages that yield several exceed it by what was in hand when it was reached. Messages from other publishers are
included in the next answer, which is at most a second away. In an ordered stage, results that wait for their turn
reserve no credit: they would use up the credit of the very message that they wait for (docs/architecture.md).

When the credit is used up, the broker is asked again. If the queue holds less than 80 % of the mark, there is new
credit; otherwise the queue is *full*, and nothing is dispatched until it holds less than 80 %. While it is full, each
pause between two requests is about as long as all previous ones together. That costs few requests; and when the
answer comes, the queue has lost at most about twice what it had to lose, so it does not run empty. The pauses vary at
random by half: of several stages that fill one queue, the first one to ask goes on, and with equal pauses that could
always be the same one.

Several sources that must not exceed the mark *together* (`shared`) may each send at most a tenth of their share of it
after an answer, and leave room for what all others may send after their answers, which may be older. So the mark is
kept whatever arrives late. Dividing the free room among them would not be enough, because nothing shows what a slow
source has not sent yet.
"""

import math
from typing import NamedTuple

LOW = 0.8  # share of the mark below which the queue counts as no longer full
SOON = 0.02  # seconds between two requests when the credit is used up ...
LONGEST = 0.5  # ... growing up to this while the queue is full
FRESH = 1.0  # seconds after which an answer is outdated, as others may publish, or an unanswered request is lost
STEADY = 5.0  # seconds without a full queue until the stage counts as no longer held back
SHARE = 10  # each of several may send only its part of the mark divided by this after one answer


class Sent(NamedTuple):
    """What this stage has sent and may send, at one moment."""

    published: int  # publications so far, including those to other queues and repeated ones
    unconfirmed: int  # those of them that the broker may store after this moment
    dispatched: int  # messages in lanes; of a source: those that it is about to send


class Credit:
    """See the module head. `depth`: the last answer, None before the first. `shared`: how many sources fill it."""

    def __init__(self, mark: int, shared: int = 1) -> None:
        self.depth: int | None = None
        self.full = False
        self._mark = mark
        self._most = mark if shared == 1 else max(1, mark // (SHARE * shared))  # after one answer
        self._others = (shared - 1) * self._most
        self._counted: Sent | None = None  # at the time of the request whose answer is `depth`
        self._asked: Sent | None = None  # at the time of the request that has no answer yet
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
        """Return for how many seconds a request has been without an answer; 0 if none is."""
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
        """Return the room below the mark, minus everything that may still arrive."""
        if self.depth is None or self._counted is None:
            return 0
        since = self._counted.unconfirmed + sent.published - self._counted.published
        return min(self._most, self._mark - self._others - self.depth) - since - sent.dispatched
