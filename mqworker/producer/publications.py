"""The publications for deliveries, until the broker has confirmed them.

Pure; part of the ledger. A delivery may have several publications; it is settled once all are confirmed. What was
refused is published again later, after growing waits; what has lost its answer is published again at once, with the
same message id. If the connection of a delivery was lost meanwhile, nothing more is published for it: its plan is kept
for the redelivery (mqworker/producer/redelivery_cache.py). Where there is an order (mqworker/producer/ordering.py), a
plan waits here for the turn of its delivery.

It has a method for each answer of the broker and each way on from there, so it has many; all of them work on the same
few numbers, and each part of them would need most of those.
"""

import heapq
import operator
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from mqworker.brokers.base import Publication
from mqworker.ipc.histogram import Histogram
from mqworker.producer.acks import Acks
from mqworker.producer.entry import COMPUTED, KEPT, PLACED, PLACING, Counters, Entry, HeldBytes, Plan, State
from mqworker.producer.journal import SettledJournal
from mqworker.producer.ordering import Ordering
from mqworker.producer.redelivery_cache import RedeliveryCache

REPUBLISH_FIRST = 0.5  # seconds until a refused publication is published again, then doubled ...
REPUBLISH_MAX = 15.0  # ... up to this


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Publish this; the broker's answer comes back as confirmed(publish_id) or refused(publish_id)."""

    publish_id: int
    publication: Publication


class PublishTogether(msgspec.Struct, frozen=True, gc=False):
    """Publish all of these, which belong to one delivery; each is answered like the one of a Publish."""

    publish_ids: tuple[int, ...]
    publications: tuple[Publication, ...]


AnyPublish = Publish | PublishTogether


class Publications:
    """Every publication without a confirm; settles its delivery when the last confirm comes."""

    def __init__(
        self,
        counters: Counters,
        held_bytes: HeldBytes,
        acks: Acks,
        cache: RedeliveryCache,
        ordering: Ordering | None,
        journal: SettledJournal,
    ) -> None:
        self.turned: list[Entry] = [] if ordering is None else ordering.turned  # for take_turns
        self.computed = 0  # entries that have their plans, and wait for their turn
        self.confirm_time = Histogram()
        self.refusal = ""  # why the last refused publication was not placed
        self.settled_keys = bytearray()  # of messages to report to shared objects, in the order of settling
        self._counters = counters
        self._held_bytes = held_bytes
        self._acks = acks
        self._cache = cache
        self._ordering = ordering
        self._journal = journal
        self.last_id = 0  # of a publication; they are numbered without gaps
        self._waiting: dict[int, tuple[Entry, int]] = {}  # publish_id -> entry, and which of its publications
        self._open = 0  # entries that have something on its way
        self._again: list[tuple[float, int, Entry]] = []  # heap of entries to publish again, by time
        self._refused: dict[int, Entry] = {}  # seq -> entry refused at least once and not placed since

    def __len__(self) -> int:
        """Return how many deliveries wait until the broker has confirmed their publications."""
        return self._open + len(self._again)

    @property
    def entries(self) -> set[Entry]:
        """The deliveries whose publications are on their way, or are published again later."""
        return {entry for entry, _ in self._waiting.values()} | {entry for _, _, entry in self._again}

    @property
    def unplaced(self) -> int:
        """How many publications were refused and are not placed yet, with those that are now on their way again."""
        return len(self._refused)

    @property
    def unanswered(self) -> int:
        """How many publications are on their way."""
        return len(self._waiting)

    @property
    def too_large(self) -> int:
        """How many of those were refused for their size."""
        return sum(entry.too_large for entry in self._refused.values())

    @property
    def unconfirmed(self) -> int:
        """How many publications are on their way, and how many results wait to be published again."""
        again = dict.fromkeys((*self._refused.values(), *(entry for _, _, entry in self._again)))
        results = (entry for entry in again if entry.plan is not None and entry.plan.outcome == "result")
        return len(self._waiting) + sum(len(entry.left) - entry.asked for entry in results)

    def place(self, entry: Entry, plan: Plan, now: float) -> list[AnyPublish]:
        """Carry out a plan; the plan of a void delivery is kept for its redelivery."""
        if entry.asked:  # for another plan: those answers no longer matter
            self._waiting = {number: place for number, place in self._waiting.items() if place[0] is not entry}
            entry.asked = 0
            self._open -= 1
        entry.plan = plan
        publications = plan.publications
        entry.left = {0: publications[0]} if len(publications) == 1 else dict(enumerate(publications))
        if self._refused:
            self._refused.pop(entry.seq, None)
        if entry.void:
            self.keep(entry, KEPT, now)
            return []
        return self._publish(entry, now)

    def take_turns(self, now: float) -> list[AnyPublish]:
        """Carry out the plans whose turn has come; of those that settle at once, also the ones behind."""
        actions: list[AnyPublish] = []
        while self.turned:
            actions += self._publish(self.turned.pop(), now)
        return actions

    def adopt(self, entry: Entry, now: float) -> list[AnyPublish]:
        """Continue with a kept delivery that is valid again."""
        entry.tries = 0
        if entry.state is KEPT:
            return self._publish(entry, now)
        if entry.state is PLACED:
            self._settle(entry, now)
        return []

    def confirmed(self, publish_ids: Iterable[int], now: float) -> None:
        """Settle the deliveries for which this was the last confirm: the broker has stored these publications."""
        for publish_id in publish_ids:
            found = self._waiting.pop(publish_id, None)
            if found is None:
                continue  # a reply
            entry, part = found
            self._counters.confirmed += 1
            self.confirm_time.observe(now - entry.since)
            del entry.left[part]
            entry.asked -= 1
            if not entry.asked:
                self._open -= 1
                self._answered(entry, now)

    def refused(self, publish_id: int, reason: str, now: float, *, room: int | None = None) -> Entry | None:
        """Publish this one again later: the broker has not stored it.

        `room` is given if it is too large: how many bytes its properties may have. A result, and what has larger
        properties, would be refused every time: the entry is returned, and the caller gives it another plan by place().
        For a retry or a dead letter with a body that is too large, which is the input's, there is no other plan.
        """
        found = self._waiting.pop(publish_id, None)
        if found is None:
            return None
        entry, part = found
        self._counters.refused += 1
        self.refusal = reason
        entry.asked -= 1
        self._open -= not entry.asked
        assert entry.plan is not None
        if room is not None and (entry.plan.outcome == "result" or len(entry.left[part].properties) > room):
            return entry
        entry.too_large = room is not None
        self._refused[entry.seq] = entry
        if not entry.asked:
            self._answered(entry, now)
        return None

    def lost(self, now: float) -> None:
        """Publish everything without an answer again, with the same message id: the broker may not have stored it."""
        entries = dict.fromkeys(entry for entry, _ in self._waiting.values())
        self._counters.ambiguous += len(self._waiting)
        self._waiting.clear()
        self._open = 0
        for entry in entries:
            entry.asked = 0
            self._repeat(entry, now, now)

    def void(self, now: float) -> None:
        """Keep the plans that wait to be published again: their deliveries are void from now on."""
        again, self._again = self._again, []
        for _, _, entry in again:
            self.keep(entry, KEPT, now)

    def keep(self, entry: Entry, state: State, now: float) -> None:
        """Keep the plan of a void delivery."""
        self._refused.pop(entry.seq, None)
        self.computed -= entry.state is COMPUTED
        self._held_bytes.weigh(entry, 0)
        entry.state = state
        self._cache.keep(entry, now)

    def due(self, now: float) -> list[AnyPublish]:
        """Return the publications that are due again."""
        due: list[AnyPublish] = []
        while self._again and self._again[0][0] <= now:
            due += self._publish(heapq.heappop(self._again)[2], now)
        return due

    def repeat_now(self, now: float) -> list[AnyPublish]:
        """Return everything that waits to be published again: the reason for the refusals is gone."""
        self._again = [(now, seq, entry) for _, seq, entry in sorted(self._again, key=operator.itemgetter(1))]
        return self.due(now)

    def _publish(self, entry: Entry, now: float) -> list[AnyPublish]:
        assert entry.plan is not None
        if entry.unit is not None and not self._has_turn(entry):
            return []
        replies = entry.plan.replies
        actions: list[AnyPublish] = []
        if replies:
            entry.plan = replace(entry.plan, replies=())  # a reply is tried once
            for reply in replies:
                self.last_id += 1
                actions.append(Publish(self.last_id, reply))
        left = entry.left
        if not left:
            self._settle(entry, now)
            return actions
        entry.state = PLACING
        entry.since = now
        self._held_bytes.weigh(entry, entry.size)
        entry.asked = len(left)
        self._open += 1
        settles, publish_id = (entry.epoch, entry.tag), self.last_id
        each = []
        for part, publication in left.items():
            publish_id += 1
            self._waiting[publish_id] = entry, part
            if publication.settles != settles:
                publication = replace(publication, settles=settles)  # noqa: PLW2901 - not a result, or redelivered
            each.append(publication)
        first, self.last_id = self.last_id + 1, publish_id
        if len(each) == 1:
            actions.append(Publish(first, each[0]))
        else:
            actions.append(PublishTogether(tuple(range(first, publish_id + 1)), tuple(each)))
        return actions

    def _has_turn(self, entry: Entry) -> bool:
        """Whether a plan is carried out now; otherwise it waits for that."""
        assert self._ordering is not None
        waited = entry.state is COMPUTED
        if self._ordering.proceeds(entry):
            self.computed -= waited
            return True
        self.computed += not waited
        entry.state = COMPUTED
        self._held_bytes.weigh(entry, entry.size)
        return False

    def _answered(self, entry: Entry, now: float) -> None:
        """Settle a delivery, or publish again what was refused: nothing of it is on its way any more."""
        if entry.left:
            wait = min(REPUBLISH_MAX, REPUBLISH_FIRST * 2 ** min(entry.tries, 10))
            entry.tries += 1
            self._repeat(entry, now + wait, now)
            return
        if self._refused:
            self._refused.pop(entry.seq, None)
        if entry.void:
            self.keep(entry, PLACED, now)
        else:
            self._settle(entry, now)

    def _repeat(self, entry: Entry, due: float, now: float) -> None:
        if entry.void:
            self.keep(entry, KEPT, now)
        else:
            heapq.heappush(self._again, (due, entry.seq, entry))

    def _settle(self, entry: Entry, now: float) -> None:
        assert entry.plan is not None
        entry.state = PLACED
        entry.since = now
        self._held_bytes.weigh(entry, 0)
        self._acks.settled(entry)
        if entry.unit is not None and self._ordering is not None:
            self._ordering.leave(entry)
        self._counters.settle(entry.plan.outcome)
        self._journal.note(entry, entry.plan.outcome, now)
        if entry.shared_key and entry.plan.outcome in ("result", "dropped"):
            self.settled_keys += entry.shared_key
