"""The ledger: every unsettled delivery of a stage, and what happens to it next.

Pure: no clock, no I/O, no process. The Producer tells it what happened and passes the time (monotonic seconds); it
returns what is to be done. So each rule here is tested by tables and by a model (tests/producer).

    held ──take──> out ──finished──> placing ──confirmed──> placed (settled; acked with the next acks())
      ^             │                   └─refused, lost─> published again, later
      └─ revoked, lane died ─┘

A delivery whose connection was lost is *void*: it cannot be acked any more. One that is out or placing goes on, and
what becomes of it is kept until the broker delivers the message again: that delivery *adopts* the kept state
(decisions 17, `mqworker.producer.redelivery_cache`).

What holds at every moment:
- a delivery is acked only after everything that its plan has to place was confirmed, once, under its own epoch;
- a void delivery is never acked and a kept outcome is published only when a redelivery claims it;
- received = settled + voided + released + in flight.
"""

import heapq
import operator
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

from mqworker.brokers.base import Delivery, Publication
from mqworker.producer.entry import HELD, KEPT, OUT, PLACED, PLACING, Counters, Entry, Isolation, Plan, State
from mqworker.producer.pacing import Histogram
from mqworker.producer.redelivery_cache import RedeliveryCache

__all__ = ["Ack", "Counters", "Entry", "Isolation", "Ledger", "Plan", "Publish", "State"]

GAP_WAIT = 0.005  # seconds a settled delivery waits for the ones before it, to be acked together
REPUBLISH_FIRST = 0.5  # seconds until a refused publication is tried again, then doubled ...
REPUBLISH_MAX = 15.0  # ... up to this


class Publish(NamedTuple):
    """Publish this; its answer comes back as confirmed(publish_id) or refused(publish_id)."""

    publish_id: int
    publication: Publication


class Ack(NamedTuple):
    """Tell the broker that these are settled."""

    epoch: int
    tag: int
    multiple: bool


class Ledger:
    """See the module head. `kept_max` and `kept_bytes` bound the outcomes kept for lost deliveries."""

    def __init__(self, kept_max: int = 1000, kept_bytes: int = 256 << 20) -> None:
        self.counters = Counters()
        self.held_bytes = 0  # of what is held, out or placing
        self.confirm_time = Histogram()
        self.refusal = ""  # why the last refused publication was not placed
        self._seq = 0
        self._publish_id = 0
        self._entries: dict[int, Entry] = {}  # seq -> what is held or out
        self._held: deque[Entry] = deque()
        self._apart: deque[Entry] = deque()  # held, and not to share a chunk
        self._lanes: dict[int, dict[int, Entry]] = {}  # lane with a chunk -> seq -> what is out on it
        self._order: OrderedDict[int, Entry] = OrderedDict()  # tag -> what the broker waits for, in this epoch
        self._settled: deque[Entry] = deque()  # perhaps beyond a gap: not all of them are acked
        self._answers: dict[int, Entry] = {}  # publish_id -> who waits for it
        self._again: list[tuple[float, int, Entry]] = []  # heap of publications to repeat
        self._voided = RedeliveryCache(kept_max, kept_bytes)

    # --- numbers

    def __len__(self) -> int:
        """Deliveries that are valid and unsettled."""
        return self.counters.received - self.counters.settled - self.counters.voided - self.counters.released

    @property
    def held(self) -> int:
        """How many wait for a lane."""
        return len(self._held) + len(self._apart)

    @property
    def out(self) -> int:
        """How many are in lanes."""
        return sum(map(len, self._lanes.values()))

    @property
    def placing(self) -> int:
        """How many wait for the broker to take their result."""
        return len(self._answers) + len(self._again)

    @property
    def unplaced(self) -> int:
        """How many publications were refused and wait to be tried again."""
        return len(self._again)

    @property
    def too_large(self) -> int:
        """How many of those were refused for their size."""
        return sum(entry.too_large for _, _, entry in self._again)

    @property
    def kept(self) -> int:
        """Outcomes kept for a redelivery."""
        return self._voided.kept

    def in_lane(self, lane: int) -> list[Entry]:
        """What is out on a lane, in its order."""
        return list(self._lanes.get(lane, {}).values())

    def entry(self, seq: int) -> Entry | None:
        """What is held or out under this number; None once it has an outcome."""
        return self._entries.get(seq)

    def delivery(self, epoch: int, tag: int) -> Entry | None:
        """What became of a delivery that is not acked yet; an adopted one may be past being computed."""
        entry = self._order.get(tag)
        return entry if entry is not None and entry.epoch == epoch else None

    # --- events: deliveries and lanes

    def delivered(self, delivery: Delivery, now: float, isolation: Isolation = Isolation.NONE) -> list[Publish]:
        """Open an entry, or let the delivery adopt the state of a voided one."""
        self.counters.received += 1
        if delivery.redelivered:
            adopted = self._voided.claim(delivery)
            if adopted is not None:
                return self._adopt(adopted, delivery, now)
        self._seq += 1
        entry = Entry(self._seq, delivery, isolation, now)
        self._entries[entry.seq] = entry
        self._order[entry.tag] = entry
        self._weigh(entry, entry.size)
        self._queue(entry).append(entry)
        return []

    def take(self, lane: int, most: int) -> list[Entry]:
        """Move up to `most` held deliveries to an idle lane, oldest first; what must be apart goes first and alone."""
        if most < 1 or any(
            entry.isolation is Isolation.STAGE for out in self._lanes.values() for entry in out.values()
        ):
            return []
        if self._apart:
            if self._apart[0].isolation is Isolation.STAGE and self._lanes:
                return []  # the lanes run dry first
            chunk = [self._apart.popleft()]
        else:
            held = self._held
            chunk = [held.popleft() for _ in range(min(most, len(held)))]
        if chunk:
            mine = self._lanes.setdefault(lane, {})
            for entry in chunk:
                entry.state = OUT
                entry.lane = lane
                mine[entry.seq] = entry
        return chunk

    def revoke(self, lane: int, after: int) -> int:
        """Take back what a lane has not begun: all behind the delivery `after`. Returns how many to dispatch again."""
        mine = self._lanes.get(lane, {})
        if after not in mine:
            return 0
        seqs = list(mine)
        return self._back([mine.pop(seq) for seq in seqs[seqs.index(after) + 1 :]])

    def finished(self, seq: int, plan: Plan, now: float) -> list[Publish]:
        """Settle by this plan; the first one for a delivery wins."""
        entry = self._entries.pop(seq, None)
        if entry is None:
            self.counters.late += 1
            return []
        if entry.state is HELD:  # revoked, and computed all the same
            self._queue(entry).remove(entry)
        elif entry.lane is not None:
            del self._lanes[entry.lane][seq]
            entry.lane = None
        return self.planned(entry, plan, now)

    def planned(self, entry: Entry, plan: Plan, now: float) -> list[Publish]:
        """Settle by this plan an entry that was returned for it by refused()."""
        entry.plan = plan
        if entry.void:
            self._keep(entry, KEPT, now)
            return []
        return self._place(entry, now)

    def chunk_ended(self, lane: int) -> int:
        """The lane is idle; what had no outcome is dispatched again. Returns how many."""
        return self._back(list(self._lanes.pop(lane, {}).values()))

    def lane_died(self, lane: int, seq: int) -> Entry | None:
        """Take everything back from a dead lane but the delivery it was working on, which is returned to be judged.

        The judgement comes as finished(). A void one is not judged: its redelivery is a new start.
        """
        mine = self._lanes.pop(lane, {})
        guilty = mine.pop(seq, None)
        self._back(list(mine.values()))
        if guilty is None:
            return None
        guilty.lane = None
        if guilty.void:
            self._forget(guilty)
            return None
        return guilty

    # --- events: publications

    def confirmed(self, publish_ids: Iterable[int], now: float) -> None:
        """The broker has these."""
        for publish_id in publish_ids:
            entry = self._answers.pop(publish_id, None)
            if entry is None:
                continue  # a reply
            self.counters.confirmed += 1
            self.confirm_time.observe(now - entry.since)
            if entry.void:
                self._keep(entry, PLACED, now)
            else:
                self._settle(entry, now)

    def refused(self, publish_id: int, reason: str, now: float, *, too_large: bool = False) -> Entry | None:
        """The broker does not have this one: publish it again later, or keep it if its delivery is void.

        A result that is too large would be refused for ever: its entry is returned, to be given another plan by
        planned(). A retry or a dead letter, whose body is the input's, has no other plan.
        """
        entry = self._answers.pop(publish_id, None)
        if entry is None:
            return None
        self.counters.refused += 1
        self.refusal = reason
        if too_large and entry.plan is not None and entry.plan.outcome == "result":
            return entry
        entry.too_large = too_large
        wait = min(REPUBLISH_MAX, REPUBLISH_FIRST * 2 ** min(entry.tries, 10))
        entry.tries += 1
        self._repeat(entry, now + wait, now)
        return None

    def publishes_lost(self, now: float) -> None:
        """Nobody knows whether the broker has those without an answer: publish them again, with the same message id."""
        lost = list(self._answers.values())
        self._answers.clear()
        self.counters.ambiguous += len(lost)
        for entry in lost:
            self._repeat(entry, now, now)

    # --- events: connections and time

    def consuming_lost(self, now: float) -> None:
        """All deliveries so far are void: the held ones are forgotten, the others go on for their redelivery."""
        for entry in self._order.values():
            if entry.state is PLACED:  # counted as settled already, though the broker was not told
                self._voided.add(entry)
                self._keep(entry, PLACED, now)
                continue
            self.counters.voided += 1
            if entry.state is HELD:
                self._forget(entry)
            else:
                self._voided.add(entry)
        for _, _, entry in self._again:
            self._keep(entry, KEPT, now)
        for gone in (self._held, self._apart, self._order, self._settled, self._again):
            gone.clear()

    def release_held(self) -> dict[int, list[int]]:
        """Give up all that waits for a lane: the tags, by epoch, that go back to the broker."""
        back: dict[int, list[int]] = {}
        for entry in (*self._apart, *self._held):
            back.setdefault(entry.epoch, []).append(entry.tag)
            del self._order[entry.tag]
            self._forget(entry)
            self.counters.released += 1
        self._held.clear()
        self._apart.clear()
        return back

    def tick(self, now: float) -> list[Publish]:
        """What is due again; kept outcomes that are too old go."""
        self._voided.expire(now)
        due: list[Publish] = []
        while self._again and self._again[0][0] <= now:
            due += self._place(heapq.heappop(self._again)[2], now)
        return due

    def repeat_now(self, now: float) -> list[Publish]:
        """Publish everything again that was refused: the reason has gone, a connection is back."""
        self._again = [(now, seq, entry) for _, seq, entry in sorted(self._again, key=operator.itemgetter(1))]
        return self.tick(now)

    def next_due(self) -> float | None:
        """When tick() has something to publish again."""
        return self._again[0][0] if self._again else None

    def acks(self, now: float) -> list[Ack]:
        """Acks for what is settled: one for the whole prefix, single ones for what has waited beyond a gap."""
        order, settled = self._order, self._settled
        acks: list[Ack] = []
        last: Entry | None = None
        while order:
            tag, entry = order.popitem(last=False)
            if entry.state is not PLACED:
                order[tag] = entry
                order.move_to_end(tag, last=False)
                break
            last = entry
        if last is not None:
            acks.append(Ack(last.epoch, last.tag, multiple=True))
        while settled and (settled[0].tag not in order or now - settled[0].since >= GAP_WAIT):
            entry = settled.popleft()
            if order.pop(entry.tag, None) is not None:
                acks.append(Ack(entry.epoch, entry.tag, multiple=False))
        return acks

    @property
    def gaps(self) -> bool:
        """Whether acks() must be asked again soon."""
        return bool(self._settled)

    # --- inside

    def _queue(self, entry: Entry) -> deque[Entry]:
        return self._held if entry.isolation is Isolation.NONE else self._apart

    def _back(self, entries: list[Entry]) -> int:
        back = 0
        for entry in reversed(entries):
            entry.lane = None
            if entry.void:
                self._forget(entry)
            else:
                entry.state = HELD
                self._queue(entry).appendleft(entry)
                back += 1
        self.counters.redispatched += back
        return back

    def _place(self, entry: Entry, now: float) -> list[Publish]:
        assert entry.plan is not None
        outcome, publication, reply = entry.plan
        actions: list[Publish] = []
        if reply is not None:
            entry.plan = Plan(outcome, publication)  # a reply is tried once
            self._publish_id += 1
            actions.append(Publish(self._publish_id, reply))
        if publication is None:
            self._settle(entry, now)
            return actions
        entry.state = PLACING
        entry.since = now
        self._weigh(entry, entry.size)
        self._publish_id += 1
        self._answers[self._publish_id] = entry
        if publication.settles is not None:
            publication = publication._replace(settles=(entry.epoch, entry.tag))
        actions.append(Publish(self._publish_id, publication))
        return actions

    def _repeat(self, entry: Entry, due: float, now: float) -> None:
        if entry.void:
            self._keep(entry, KEPT, now)
        else:
            heapq.heappush(self._again, (due, entry.seq, entry))

    def _settle(self, entry: Entry, now: float) -> None:
        assert entry.plan is not None
        entry.state = PLACED
        entry.since = now
        self._weigh(entry, 0)
        self._settled.append(entry)
        self.counters.settle(entry.plan.outcome)

    def _weigh(self, entry: Entry, weight: int) -> None:
        self.held_bytes += weight - entry.weight
        entry.weight = weight

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.seq]
        self._weigh(entry, 0)
        if entry.void:
            self._voided.remove(entry)

    # --- inside: void deliveries

    def _keep(self, entry: Entry, state: State, now: float) -> None:
        self._weigh(entry, 0)
        entry.state = state
        self._voided.keep(entry, now)

    def _adopt(self, entry: Entry, delivery: Delivery, now: float) -> list[Publish]:
        self.counters.adopted += 1
        entry.epoch, entry.tag = delivery.epoch, delivery.tag
        entry.properties, entry.body = delivery.properties, delivery.body  # another plan may have to be made
        entry.tries = 0
        self._order[entry.tag] = entry
        if entry.state is KEPT:
            return self._place(entry, now)
        if entry.state is PLACED:
            self._settle(entry, now)
        return []
