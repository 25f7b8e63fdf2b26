"""How many sends may be with the broker at the same time, and which are refused while it confirms nothing.

Runs in the server's threads, which call `SendPlaces.sending`; each listener has one for requests that send one message,
and one for those that send many. Sends without a place wait for one, most of them in the queue of their own threads
(serving.py), before the app. One that is not answered keeps its thread until its deadline; so that it keeps nobody else
waiting for that long, `SendRule` (pure) decides who begins:

- A stage is silent when one of its sends has had no answer in time, nor any other meanwhile: within PATIENCE, and a
  little more for one that is large, or at its deadline. An answer, also a refusal, ends that.
- Sends to silent stages occupy no place, so those to others go on, until so many are without an answer that no thread
  is left: twice as many as there are places.
- At most one send at a time tries a silent stage; the others are refused at once, and nothing of them is sent.
"""

import enum
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mqworker.control.errors import ControlError
from mqworker.http.problems import retry_later

TCP_SENDS, UNIX_SENDS = 8, 4  # requests at the same time that send one message
LINES_SENDS = 2  # those that send many, on each listener; they share the broker, so with more each takes longer
PATIENCE = 3.0  # seconds without an answer after which a stage is silent
MEBIBYTE, LINE = 1.0, 0.001  # seconds more for each in a request
UNANSWERED = ("deadline", "unavailable")  # kinds of errors of a send to which the broker has said nothing
SOON = 2  # seconds after which a caller may try again


def patience_for(size: int, messages: int = 1) -> float:
    """Return how many seconds a send with a body of this size may have no answer before its stage is silent."""
    return PATIENCE + MEBIBYTE * size / (1 << 20) + LINE * messages


class Turn(enum.Enum):
    """What a send does."""

    BEGIN = enum.auto()
    WAIT = enum.auto()
    REFUSED = enum.auto()


@dataclass
class _Sends:
    """The sends to one stage."""

    under_way: list[tuple[float, float]] = field(default_factory=list)  # when each began, and its patience
    answered: float = -math.inf  # when one was last answered
    unanswered: bool = False  # one has ended without an answer, and none has had one since it began

    @property
    def silent_from(self) -> float:
        """When the stage is silent, if nothing is answered until then."""
        if self.unanswered:
            return -math.inf
        if not self.under_way:
            return math.inf
        # The same patience for all: they share a connection to the broker, on which a small one waits for a large one.
        since = max(min(began for began, _ in self.under_way), self.answered)
        return since + max(patience for _, patience in self.under_way)


class SendRule:
    """Who may send now; `most`: to stages that are not silent. Times are those of CLOCK_MONOTONIC."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._stages: dict[str, _Sends] = {}  # those with sends under way, or silent

    @property
    def total(self) -> int:
        """How many may be under way, with those to silent stages."""
        return 2 * self.most

    def turn(self, stage: str, now: float) -> Turn:
        """Return what a send to this stage does now."""
        counts = [0, 0]  # under way to stages that are not silent, and to those that are
        for sends in self._stages.values():
            counts[sends.silent_from <= now] += len(sends.under_way)
        live, total = counts[0], sum(counts)
        own = self._stages.get(stage)
        if own is not None and own.silent_from <= now:
            many = total - live >= self.most or total >= self.total  # beyond that, no threads would be left for others
            return Turn.REFUSED if own.under_way or many else Turn.BEGIN
        if live < self.most and total < self.total:
            return Turn.BEGIN
        return Turn.WAIT if live else Turn.REFUSED

    def changes(self, now: float) -> float:
        """Return when the next stage is silent, if nothing is answered until then."""
        return min((at for sends in self._stages.values() if (at := sends.silent_from) > now), default=math.inf)

    def begin(self, stage: str, now: float, patience: float) -> None:
        """Count a send as under way."""
        self._stages.setdefault(stage, _Sends()).under_way.append((now, patience))

    def end(self, stage: str, began: float, patience: float, now: float, *, answered: bool) -> None:
        """Count it as ended."""
        sends = self._stages[stage]
        sends.under_way.remove((began, patience))
        if answered:
            sends.answered = now
        sends.unanswered = not answered and (sends.unanswered or sends.answered < began)
        if not sends.under_way and not sends.unanswered:
            del self._stages[stage]


class SendPlaces:
    """See the module head."""

    def __init__(self, most: int) -> None:
        self._rule = SendRule(most)
        self._changed = threading.Condition()
        self._waiting: list[object] = []  # one object for each send that waits, in the order in which they came

    @property
    def threads(self) -> int:
        """How many threads may be occupied, one of them by a send that waits for a place, or is refused."""
        return self._rule.total + 1

    @contextmanager
    def sending(self, stage: str, patience: float) -> Iterator[None]:
        """Send inside, once there is a place; raises a 503 Problem if the broker confirms nothing."""
        with self._changed:
            began = self._begin(stage, patience)
        answered = True
        try:
            yield
        except ControlError as error:
            answered = error.kind not in UNANSWERED
            raise
        finally:
            with self._changed:
                self._rule.end(stage, began, patience, time.monotonic(), answered=answered)
                self._changed.notify_all()

    def _begin(self, stage: str, patience: float) -> float:
        """Wait for a place, first come, first served; returns when the send began."""
        mine = object()
        self._waiting.append(mine)
        try:
            while (turn := self._turn(stage, mine, now := time.monotonic())) is Turn.WAIT:
                self._changed.wait(min(self._rule.changes(now) - now, threading.TIMEOUT_MAX))
            if turn is Turn.REFUSED:
                raise retry_later("the broker confirms nothing of what others are sending", SOON)
            self._rule.begin(stage, now, patience)
        finally:
            self._waiting.remove(mine)
            self._changed.notify_all()  # the next one may begin, or one that is less patient may have begun
        return now

    def _turn(self, stage: str, mine: object, now: float) -> Turn:
        turn = self._rule.turn(stage, now)
        return Turn.WAIT if turn is Turn.BEGIN and self._waiting[0] is not mine else turn
