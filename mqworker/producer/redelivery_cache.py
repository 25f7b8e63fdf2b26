"""The redelivery cache: void deliveries, whose connection was lost while work on them went on.

Pure; part of the ledger. A redelivery finds the void delivery of its message by fingerprint, exchange and routing key,
and removes it from the cache. The outcome of a void delivery is *kept*, within three bounds (number, bytes, age); if it
is evicted, the redelivery is computed again, and its result is published again if it had been placed.

Equal content under another exchange or routing key is another message: handlers may look at both.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain

from msgspec.structs import replace

from mqworker.amqp.fingerprint import fingerprint
from mqworker.brokers.base import Delivery
from mqworker.producer.entry import PLACED, Entry

KEEP = 3600.0  # seconds that an outcome without a valid delivery is kept

Identity = tuple[bytes, str, str]  # fingerprint, exchange, routing key


class RedeliveryCache:
    """Void entries by identity, and the kept ones in the order in which they were kept."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._by_identity: dict[Identity, deque[Entry]] = {}
        self._kept: OrderedDict[int, Entry] = OrderedDict()  # seq -> entry, the oldest first
        self._bytes = 0  # of the kept ones

    @property
    def kept(self) -> int:
        """How many outcomes are kept."""
        return len(self._kept)

    @property
    def entries(self) -> Iterator[Entry]:
        """All void deliveries, whether or not they have an outcome."""
        return chain.from_iterable(self._by_identity.values())

    def add(self, entry: Entry) -> None:
        """Mark a delivery as void and remember it."""
        entry.void = True
        entry.key = entry.key or fingerprint(entry.properties, entry.body)
        self._by_identity.setdefault(_identity(entry), deque()).append(entry)

    def keep(self, entry: Entry, since: float) -> None:
        """Keep the outcome of finished work without the message that led to it, or the attempts of an ordered message.

        It may be evicted KEEP seconds after `since`. Attempts are kept until they are due and as long again: an outcome
        behind such an entry stays longer, which costs only room that the other bounds allow.
        """
        if entry.plan is not None and entry.state is PLACED:
            entry.plan = replace(entry.plan, publications=())
        entry.body = b""
        if entry.original is None:
            entry.properties = b""
        else:
            entry.original = b""  # the properties say how often it has failed
        entry.since = since
        self._kept[entry.seq] = entry
        self._bytes += entry.size
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._evict()

    def expire(self, now: float) -> None:
        """Evict what was kept too long."""
        while self._kept and now - next(iter(self._kept.values())).since > KEEP:
            self._evict()

    def claim(self, delivery: Delivery) -> Entry | None:
        """Remove and return the entry that matches this redelivery, valid again; None if there is none."""
        if not self._by_identity:
            return None
        key = fingerprint(delivery.properties, delivery.body)
        same = self._by_identity.get((key, delivery.exchange, delivery.routing_key))
        if same is None:
            return None
        entry = same[0]
        self.remove(entry)
        entry.void = False
        return entry

    def remove(self, entry: Entry) -> None:
        """Forget an entry."""
        identity = _identity(entry)
        same = self._by_identity[identity]
        same.remove(entry)
        if not same:
            del self._by_identity[identity]
        if self._kept.pop(entry.seq, None) is not None:
            self._bytes -= entry.size

    def _evict(self) -> None:
        self.remove(next(iter(self._kept.values())))


def _identity(entry: Entry) -> Identity:
    return entry.key, entry.exchange, entry.routing_key
