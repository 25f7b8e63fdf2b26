"""Messages that failed and keep their place: an ordered message waits in the ledger for its next attempt.

Pure; part of the ledger, used only where there is an order. A further attempt is what a retry would be if it came back
at once, in its place: the same message with the properties of the retry, which count the attempts. `original` keeps
those that were delivered, by which a redelivery and the in-hand register know the message. Here is when each one is
due; its place among those that wait is the ordered backlog's matter.

Each attempt has a number of its own, so that a second copy of an earlier outcome is late, and not charged to it. If the
connection is lost, the attempts are kept like an outcome, and the redelivery goes on with them and its time.
"""

import heapq
from collections.abc import Iterator

from mqworker.amqp.fingerprint import fingerprint
from mqworker.producer.entry import DELAYED, HELD, KEPT, Again, Counters, Entry, HeldBytes, Isolation
from mqworker.producer.ordered_backlog import OrderedBacklog
from mqworker.producer.redelivery_cache import RedeliveryCache


class HeldAttempts:
    """See the module head. `entries` are the ledger's deliveries without an outcome, `numbers` gives their numbers."""

    def __init__(
        self,
        backlog: OrderedBacklog,
        entries: dict[int, Entry],
        numbers: Iterator[int],
        counters: Counters,
        held_bytes: HeldBytes,
        cache: RedeliveryCache,
    ) -> None:
        self._due: list[tuple[float, int, Entry]] = []  # heap of the delayed deliveries, by time
        self._backlog = backlog
        self._entries = entries
        self._numbers = numbers
        self._counters = counters
        self._held_bytes = held_bytes
        self._cache = cache

    def __len__(self) -> int:
        """Return how many deliveries wait for their next attempt."""
        return len(self._due)

    def delay(self, entry: Entry, again: Again, isolation: Isolation, now: float) -> None:
        """Let a delivery that is in no lane any more, and out of the backlog, wait for its next attempt."""
        del self._entries[entry.seq]
        entry.seq = next(self._numbers)
        self._entries[entry.seq] = entry
        entry.key = entry.key or fingerprint(entry.properties, entry.body)
        if entry.original is None:
            entry.original = entry.properties
        entry.properties = again.properties
        entry.isolation = max(entry.isolation, isolation)  # a suspect stays one: no attempt has cleared it
        entry.due = now + again.after
        self._counters.delayed += 1
        if entry.void:
            self._backlog.ended(entry)
            self.keep(entry)
        else:
            self._wait(entry)

    def wake(self, now: float) -> float | None:
        """Let those begin that are due; returns when the next one will be, None: none is delayed."""
        while self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)[2]
            entry.state = HELD
            self._backlog.wake(entry)
        return self._due[0][0] if self._due else None

    def remove(self, entry: Entry) -> None:
        """Forget the time of a delayed delivery that has an outcome now."""
        self._due.remove((entry.due, entry.seq, entry))
        heapq.heapify(self._due)

    def void(self) -> None:
        """Forget all times: the connection was lost, and the attempts are kept."""
        self._due.clear()

    def keep(self, entry: Entry) -> None:
        """Keep the attempts of a void delivery for its redelivery."""
        del self._entries[entry.seq]
        self._held_bytes.weigh(entry, 0)
        entry.state = KEPT
        self._cache.keep(entry, entry.due)

    def adopt(self, entry: Entry) -> None:
        """Go on with kept attempts: their delivery is valid again."""
        self._entries[entry.seq] = entry
        self._wait(entry)

    def _wait(self, entry: Entry) -> None:
        entry.state = DELAYED
        self._held_bytes.weigh(entry, entry.size)
        heapq.heappush(self._due, (entry.due, entry.seq, entry))
        self._backlog.put_back([entry])
