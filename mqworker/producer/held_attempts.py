"""Messages that failed and keep their place: an ordered message waits in the ledger for its next attempt.

Pure; part of the ledger, used only where there is an order. A further attempt is what a retry would be if it came back
at once, in its place: the same message with the properties of the retry, which count the attempts. `original` keeps
those that were delivered, by which a redelivery and the in-hand register know the message.

Each attempt has a number of its own, so that a second copy of an earlier outcome is late, and not charged to it. If the
connection is lost, the attempts are kept like an outcome, and the redelivery goes on with them and its time.
"""

from collections.abc import Iterator

from mqworker.amqp.fingerprint import fingerprint
from mqworker.producer.entry import DELAYED, KEPT, Again, Counters, Entry, HeldBytes, Isolation
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
        self._backlog = backlog
        self._entries = entries
        self._numbers = numbers
        self._counters = counters
        self._held_bytes = held_bytes
        self._cache = cache

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
        self._backlog.delay(entry)
