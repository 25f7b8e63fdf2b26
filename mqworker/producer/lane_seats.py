"""What a lane knows of a Consumer that works on several messages at once: its seats, and who sits where since when.

A part of the Lane, on the Producer's loop; made when the Consumer says that it has seats. A *seat* is one of the
positions for messages. It is taken from when a message is put until its outcome is read, or the message is back; so
what is out is what has to be done again if the Consumer dies now. Reads the Consumer's words in the in-hand register.
"""

from collections.abc import Iterable, Sequence

from mqworker.consumer.register import Seats
from mqworker.ipc.consumer_messages import Item, Outcomes


class LaneSeats:
    """See the module head. `kind` is threads or tasks."""

    def __init__(self, kind: str, count: int, words: Seats) -> None:
        self.kind = kind
        self.count = count
        self.words = words
        self.out: set[int] = set()  # put, and neither finished nor given back
        self.alone = 0  # the message beside which nothing begins here at present; 0: there is none
        self.closed_at = 0.0  # when it was decided that this Consumer gets nothing more; 0: it is open
        self.overdue: frozenset[int] = frozenset()  # the messages for which it was killed
        self.still = False  # it was killed because nothing in it got on
        self.stacks: dict[int, str] = {}  # where messages are that have exceeded the hard limit, as their Consumer said
        self.ids: dict[int, str] = {}  # of messages that have run for a while, kept for the status
        self._busy = 0.0  # seconds that all seats were taken, or twice as many that half of them were, until `_since`
        self._since = 0.0

    @property
    def room(self) -> int:
        """How many more messages it may be given."""
        return 0 if self.closed_at else self.count - len(self.out)

    def put(self, items: Iterable[Item], now: float) -> None:
        """Note that these are put into the lane."""
        self._count(now)
        self.out.update(item.seq for item in items)

    def settle(self, outcomes: Outcomes, now: float) -> None:
        """Note what has finished, and what was given back."""
        if outcomes.outcomes or outcomes.back:
            self._count(now)
            self.out.difference_update(outcome.seq for outcome in outcomes.outcomes)
            self.out.difference_update(outcomes.back)

    def busy_seconds(self, now: float) -> float:
        """Return for how long it has had messages, each weighted with its share of the seats."""
        return self._busy + (now - self._since) * len(self.out) / self.count

    def working(self) -> dict[int, float]:
        """Return the messages in hand without an outcome, and when each began; 0: it waits for a shared object."""
        out = self.out
        return {seq: began for seq, began in self.words.working().items() if seq in out} if out else {}

    def begun(self, waiting: float = 0.0) -> Sequence[float]:
        """Return when each message in the lane began; 0: it has not. `waiting`: as if those that wait began then."""
        working = self.working()
        return [began or waiting for began in working.values()] + [0.0] * (len(self.out) - len(working))

    @property
    def only(self) -> int:
        """The message in the lane if there is only one; else 0."""
        return next(iter(self.out)) if len(self.out) == 1 else 0

    def _count(self, now: float) -> None:
        self._busy = self.busy_seconds(now)
        self._since = now
