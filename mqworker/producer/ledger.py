"""The ledger: every unsettled delivery of a stage, and what happens to it next.

Pure: no clock, no I/O, no process. The Producer reports what happened and passes the time (monotonic seconds); the
ledger returns what must be done. Therefore tables and a model can test each rule (tests/producer). It has a method for
each event that concerns several of its parts; what concerns only one is reported to that part, as what goes to lanes
and comes back from them is to the assignments.

    held ──take──> out ──finished──> placing ──confirmed──> placed (settled; acked with the next due acks)
      ^             │                   └─refused, lost─> published again, later
      └─ revoked, lane died ─┘

    backlog        assignments          publications            acks

In a stage that keeps an order, a delivery is *computed* between out and placing, until it has the turn to publish, and
one that fails may be *delayed* until its next attempt (mqworker/producer/held_attempts.py). The ordering knows whose
turn it is, and an ordered backlog decides who begins.

A delivery whose connection was lost is *void*: it can no longer be acked. If it is out or placing, its work goes on,
and its outcome is kept until the broker delivers the message again: the new delivery *adopts* the kept state (decisions
17, mqworker/producer/redelivery_cache.py).

What holds at every moment:
- a delivery is acked only after everything that its plan must place has been confirmed; it is acked once, under its own
  epoch;
- a void delivery is never acked, and a kept outcome is published only when a redelivery claims it;
- received = settled + voided + released + in flight.
"""

from collections.abc import Iterable
from itertools import count

from mqworker.brokers.base import Delivery
from mqworker.producer.acks import Ack, Acks
from mqworker.producer.assignments import Assignments
from mqworker.producer.backlog import Backlog
from mqworker.producer.entry import (
    COMPUTED,
    DELAYED,
    HELD,
    KEPT,
    OUT,
    PLACED,
    Again,
    Counters,
    Entry,
    HeldBytes,
    Isolation,
    Plan,
)
from mqworker.producer.held_attempts import HeldAttempts
from mqworker.producer.journal import SettledJournal
from mqworker.producer.ordered_backlog import OrderedBacklog
from mqworker.producer.ordering import Ordering
from mqworker.producer.publications import AnyPublish, Publications
from mqworker.producer.redelivery_cache import RedeliveryCache


class Ledger:
    """See the module head. `kept_max` and `kept_bytes` bound the outcomes kept for lost deliveries."""

    def __init__(self, kept_max: int = 1000, kept_bytes: int = 256 << 20, ordering: Ordering | None = None) -> None:
        self.counters = Counters()
        self.held_bytes = HeldBytes()  # of the deliveries that are held, out or placing
        self._ordering = ordering
        self._ordered = None if ordering is None else OrderedBacklog(ordering)
        self.backlog = Backlog() if self._ordered is None else self._ordered
        self.assignments = Assignments(self.backlog, self.counters, self._come_back_void)
        self.acks = Acks()
        self.cache = RedeliveryCache(kept_max, kept_bytes)
        self.journal = SettledJournal()
        self.publications = Publications(self.counters, self.held_bytes, self.acks, self.cache, ordering, self.journal)
        self._numbers = count(1)
        self._entries: dict[int, Entry] = {}  # seq -> delivery that is held, delayed or out
        self.attempts: HeldAttempts | None = None
        if self._ordered is not None:
            self.attempts = HeldAttempts(
                self._ordered, self._entries, self._numbers, self.counters, self.held_bytes, self.cache
            )

    def __len__(self) -> int:
        """Deliveries that are valid and unsettled."""
        return self.counters.received - self.counters.settled - self.counters.voided - self.counters.released

    def entry(self, seq: int) -> Entry | None:
        """Return the delivery with this number if it is held or out; None once it has an outcome."""
        return self._entries.get(seq)

    @property
    def unfinished(self) -> Iterable[Entry]:
        """All deliveries that are held, delayed or out; those that are out may be void."""
        return self._entries.values()

    @property
    def in_hand(self) -> set[Entry]:
        """All deliveries that are not settled, and those whose outcomes or attempts are kept."""
        computed: set[Entry] = set() if self._ordering is None else {e for u in self._ordering.units for e in u.order}
        return computed.union(self._entries.values(), self.publications.entries, self.cache.entries)

    def delivered(self, delivery: Delivery, now: float, isolation: Isolation = Isolation.NONE) -> list[AnyPublish]:
        """Open an entry for a delivery, or let it adopt the state of a void one."""
        self.counters.received += 1
        if delivery.redelivered:
            adopted = self.cache.claim(delivery)
            if adopted is not None:
                return self._adopt(adopted, delivery, now)
        entry = Entry(next(self._numbers), delivery, isolation, now)
        self._entries[entry.seq] = entry
        self.acks.opened(entry)
        self.held_bytes.weigh(entry, len(entry.body) + len(entry.properties))
        if self._ordering is not None:
            self._ordering.stand(entry, delivery)
        self.backlog.add(entry)
        return []

    def finished(self, seq: int, plan: Plan, now: float) -> list[AnyPublish]:
        """Settle a delivery by this plan; only the first plan for a delivery counts."""
        entry = self._entries.pop(seq, None)
        if entry is None:
            self.counters.late += 1
            return []
        self._take_out(entry)
        if entry.unit is None or self._ordered is None:
            return self.publications.place(entry, plan, now)
        self._ordered.ended(entry)
        return self.publications.place(entry, plan, now) + self.publications.take_turns(now)

    def holds(self, entry: Entry) -> bool:
        """Whether a delivery keeps its place when it fails, and those behind it wait."""
        return entry.unit is not None and self._ordering is not None and self._ordering.hold

    def delay(self, entry: Entry, again: Again, isolation: Isolation, now: float) -> None:
        """Let a delivery that has failed wait in its place for its next attempt, under a new number."""
        assert self.attempts is not None
        self._take_out(entry)
        self.attempts.delay(entry, again, isolation, now)

    def wake(self, now: float) -> float | None:
        """Let the delayed deliveries begin that are due; returns when the next one will be, None: none is delayed."""
        return None if self.attempts is None else self.attempts.wake(now)

    def confirmed(self, publish_ids: Iterable[int], now: float) -> list[Ack]:
        """Settle the deliveries of these publications, which the broker has stored; returns the acks that are due.

        Others may have their turn by that: publications.take_turns.
        """
        self.publications.confirmed(publish_ids, now)
        return self.acks.due(now)

    def consuming_lost(self, now: float) -> None:
        """Mark all deliveries as void: forget the held ones; work on the others goes on, for their redelivery."""
        for entry in self.acks.void():
            if entry.state is PLACED:  # already counted as settled, though not acked yet
                self.cache.add(entry)
                self.cache.keep(entry, now)
                continue
            self.counters.voided += 1
            if entry.state is HELD and entry.original is None:
                self._forget(entry)
                continue
            self.cache.add(entry)
            if entry.state is COMPUTED:
                self.publications.keep(entry, KEPT, now)
            elif entry.state is HELD or entry.state is DELAYED:
                self._forget(entry)
        self.publications.void(now)
        self.backlog.clear()
        if self._ordering is not None and self.attempts is not None:
            self.attempts.void()
            self._ordering.void()

    def release_held(self) -> dict[int, list[int]]:
        """Give up all deliveries that wait for a lane; returns their tags by epoch, which go back to the broker.

        Where there is an order none, because the broker may not put them in their places.
        """
        released: dict[int, list[int]] = {}
        backlog = self.backlog
        if isinstance(backlog, OrderedBacklog):
            return released
        for entry in backlog.clear():
            released.setdefault(entry.epoch, []).append(entry.tag)
            self.acks.forget(entry)
            self._forget(entry)
            self.counters.released += 1
        return released

    def tick(self, now: float) -> list[AnyPublish]:
        """Return the publications that are due again, and forget kept outcomes that are too old."""
        self.cache.expire(now)
        return self.publications.due(now) + self.publications.take_turns(now)

    def _take_out(self, entry: Entry) -> None:
        """Remove a delivery that has an outcome from its lane, or from those that wait."""
        if entry.state is OUT:
            if entry.lane is not None:
                self.assignments.remove(entry)
            return
        self.backlog.remove(entry)  # revoked, and computed all the same; or let go while it was delayed
        if entry.state is DELAYED and self.attempts is not None:
            self.attempts.remove(entry)

    def _come_back_void(self, entry: Entry) -> None:
        """Forget a void delivery that has come back from its lane: its redelivery starts over."""
        if entry.unit is not None and self._ordered is not None:
            self._ordered.ended(entry)
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        """Forget a delivery without an outcome; if it is void and has failed before, its attempts are kept."""
        if entry.original is not None and self.attempts is not None:
            self.attempts.keep(entry)
            return
        del self._entries[entry.seq]
        self.held_bytes.weigh(entry, 0)
        if entry.void:
            self.cache.remove(entry)

    def _adopt(self, entry: Entry, delivery: Delivery, now: float) -> list[AnyPublish]:
        self.counters.adopted += 1
        entry.epoch, entry.tag = delivery.epoch, delivery.tag
        entry.body = delivery.body
        if entry.original is None:
            entry.properties = delivery.properties  # another plan may be needed
        else:
            entry.original = delivery.properties
        self.acks.opened(entry)
        if self._ordering is not None and self._ordering.stands(entry):
            self._ordering.stand(entry, delivery)
        if entry.state is KEPT and entry.plan is None:
            assert self.attempts is not None
            self.attempts.adopt(entry)
            return []
        return self.publications.adopt(entry, now)
