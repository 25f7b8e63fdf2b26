"""The ledger: every unsettled delivery of a stage, and what happens to it next.

Pure: no clock, no I/O, no process. The Producer tells it what happened and passes the time (monotonic seconds); it
returns what is to be done. So each rule here is tested by tables and by property tests.

    held ──take──> out ──finished──> placing ──confirmed──> settled (acked with the next acks())
      ^             │                   └─refused, lost─> published again, later
      └─ revoked, lane died ─┘

A delivery whose connection was lost is *void*: it cannot be acked any more. One that is out or placing goes on, and
what becomes of it is kept until the broker delivers the message again: that delivery *adopts* the kept state
(decisions 17).

What holds at every moment:
- a delivery is acked only after everything that its plan has to place was confirmed, once, under its own epoch;
- a void delivery is never acked and a kept outcome is published only when a redelivery claims it;
- received = settled + voided + released + in flight.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from mqworker.brokers.base import Delivery, Publication
from mqworker.fingerprint import fingerprint

GAP_WAIT = 0.005  # seconds a settled delivery waits for the ones before it, to be acked together
REPUBLISH_FIRST = 0.5  # seconds until a refused publication is tried again, then doubled ...
REPUBLISH_MAX = 15.0  # ... up to this
KEEP = 3600.0  # seconds an outcome without a valid delivery is kept


class State(IntEnum):
    """Where a delivery is on its way."""

    HELD = 0  # waits for a lane
    OUT = 1  # in a lane
    PLACING = 2  # its publication is on the way
    PLACED = 3  # all that had to be placed is confirmed
    KEPT = 4  # void, with a plan that waits for its redelivery


class Company(IntEnum):
    """What may be computed beside a delivery."""

    ANY = 0
    NO_CHUNK = 1  # alone in its chunk: it killed a Consumer before
    NOBODY = 2  # nothing else in the whole tree: it may have killed the tree


class Plan(NamedTuple):
    """How a delivery is settled: `outcome` names it in the counters; None of the publications may be needed."""

    outcome: str  # result | dropped | retried | dead
    publication: Publication | None  # gates the ack
    reply: Publication | None = None  # best effort


class Entry:
    """One delivery in the ledger."""

    __slots__ = (
        "acked",
        "body",
        "company",
        "epoch",
        "exchange",
        "kept_at",
        "lane",
        "pid",
        "plan",
        "properties",
        "received",
        "redelivered",
        "routing_key",
        "seq",
        "state",
        "tag",
        "tries",
        "void",
        "weight",
    )

    def __init__(self, seq: int, delivery: Delivery, company: Company, now: float) -> None:
        self.seq = seq
        self.epoch, self.tag, self.properties, self.body, self.redelivered, self.exchange, self.routing_key = delivery
        self.company = company
        self.received = now
        self.state = State.HELD
        self.lane = 0
        self.void = False
        self.acked = False
        self.plan: Plan | None = None
        self.pid = 0  # of the publication without an answer
        self.tries = 0  # times its publication was refused
        self.kept_at = 0.0
        self.weight = 0  # bytes it is accounted with

    @property
    def size(self) -> int:
        """Bytes that its messages take: the input, and what is to be published for it."""
        publication = self.plan.publication if self.plan is not None else None
        return len(self.body) + len(self.properties) + (len(publication.body) if publication is not None else 0)


class Publish(NamedTuple):
    """Publish this; its answer comes back as confirmed(pid) or refused(pid)."""

    pid: int
    publication: Publication


class Ack(NamedTuple):
    """Tell the broker that these are settled."""

    epoch: int
    tag: int
    multiple: bool


@dataclass
class Counters:
    """Since the ledger began. See the invariant in the module head."""

    received: int = 0
    settled: int = 0
    voided: int = 0
    released: int = 0
    adopted: int = 0
    redispatched: int = 0
    refused: int = 0
    ambiguous: int = 0  # publications whose answer was lost: the only source of duplicates
    late: int = 0  # outcomes nobody waited for: the first one won
    result: int = 0
    dropped: int = 0
    retried: int = 0
    dead: int = 0


class Ledger:
    """See the module head. `kept_max` and `kept_bytes` bound the outcomes kept for lost deliveries."""

    def __init__(self, kept_max: int = 1000, kept_bytes: int = 256 << 20) -> None:
        self.counters = Counters()
        self.held_bytes = 0
        self.refusal = ""  # why the last refused publication was not placed
        self._kept_max = kept_max
        self._kept_bytes = kept_bytes
        self._seq = 0
        self._pid = 0
        self._entries: dict[int, Entry] = {}
        self._held: deque[Entry] = deque()
        self._apart: deque[Entry] = deque()  # held, and not to share a chunk
        self._held_count = 0
        self._lanes: dict[int, dict[int, Entry]] = {}  # lane -> seq -> what is out on it
        self._order: deque[Entry] = deque()  # the valid deliveries of the present epoch, by tag
        self._gaps: deque[tuple[float, Entry]] = deque()
        self._answers: dict[int, Entry] = {}  # pid -> who waits for it
        self._again: list[tuple[float, int, Entry]] = []  # heap of refused publications
        self._voided: dict[bytes, deque[Entry]] = {}
        self._kept: deque[Entry] = deque()  # in the order in which they became KEPT or PLACED
        self._kept_size = 0

    # --- numbers

    def __len__(self) -> int:
        """Deliveries that are valid and unsettled."""
        return self.counters.received - self.counters.settled - self.counters.voided - self.counters.released

    @property
    def held(self) -> int:
        """How many wait for a lane."""
        return self._held_count

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
    def kept(self) -> int:
        """Outcomes kept for a redelivery."""
        return len(self._kept)

    def in_lane(self, lane: int) -> list[Entry]:
        """What is out on a lane, in its order."""
        return list(self._lanes.get(lane, {}).values())

    # --- events: deliveries and lanes

    def delivered(self, delivery: Delivery, now: float, company: Company = Company.ANY) -> list[Publish]:
        """Open an entry, or let the delivery adopt the state of a voided one."""
        self.counters.received += 1
        if delivery.redelivered and self._voided:
            entry = self._claim(delivery)
            if entry is not None:
                return self._adopt(entry, delivery, now)
        self._seq += 1
        entry = Entry(self._seq, delivery, company, now)
        self._entries[entry.seq] = entry
        self._order.append(entry)
        self._weigh(entry, entry.size)
        self._hold(entry)
        return []

    def take(self, lane: int, most: int) -> list[Entry]:
        """Move up to `most` held deliveries to an idle lane, oldest first; what must be apart goes alone."""
        chunk: list[Entry] = []
        lanes = self._lanes
        if any(
            entry.company is Company.NOBODY for out in lanes.values() if out for entry in (next(iter(out.values())),)
        ):
            return chunk
        apart, held = self._apart, self._held
        while apart and apart[0].state is not State.HELD:
            apart.popleft()
        if apart:
            if apart[0].company is Company.NOBODY and self.out:
                return chunk  # the lanes run dry first
            chunk.append(apart.popleft())
        else:
            while held and len(chunk) < most:
                entry = held.popleft()
                if entry.state is State.HELD:
                    chunk.append(entry)
        mine = lanes.setdefault(lane, {})
        for entry in chunk:
            entry.state = State.OUT
            entry.lane = lane
            mine[entry.seq] = entry
        self._held_count -= len(chunk)
        return chunk

    def revoke(self, lane: int, after: int) -> int:
        """Take back what a lane has not begun: all behind the delivery `after`. Returns how many."""
        entries = self.in_lane(lane)
        at = next((place for place, entry in enumerate(entries) if entry.seq == after), len(entries))
        return self._back(lane, entries[at + 1 :])

    def finished(self, seq: int, plan: Plan, now: float) -> list[Publish]:
        """Settle by this plan; the first one for a delivery wins."""
        entry = self._entries.get(seq)
        if entry is None or entry.state > State.OUT:
            self.counters.late += 1
            return []
        self._leave_lane(entry)
        entry.plan = plan
        self._weigh(entry, entry.size)
        if entry.void:
            self._keep(entry, State.KEPT, now)
            return []
        return self._place(entry, now)

    def chunk_ended(self, lane: int) -> int:
        """Nothing is left in the lane; what had no outcome is dispatched again. Returns how many."""
        return self._back(lane, list(self._lanes.get(lane, {}).values()))

    def lane_died(self, lane: int, seq: int) -> Entry | None:
        """Take everything back from a dead lane but the delivery it was working on, which is returned to be judged."""
        mine = self._lanes.get(lane, {})
        guilty = mine.pop(seq, None)
        self._back(lane, list(mine.values()))
        self._lanes.pop(lane, None)
        if guilty is None:
            return None
        guilty.lane = 0
        if guilty.void:
            self._forget(guilty)
            return None
        return guilty

    # --- events: publications

    def confirmed(self, pids: Iterable[int], now: float) -> None:
        """The broker has these."""
        for pid in pids:
            entry = self._answers.pop(pid, None)
            if entry is None:
                continue
            entry.pid = 0
            if entry.void:
                self._keep(entry, State.PLACED, now)
            else:
                self._settle(entry, now)

    def refused(self, pid: int, reason: str, now: float) -> None:
        """The broker does not have this one: publish it again later, or keep it if its delivery is void."""
        entry = self._answers.pop(pid, None)
        if entry is None:
            return
        entry.pid = 0
        self.counters.refused += 1
        self.refusal = reason
        if entry.void:
            self._keep(entry, State.KEPT, now)
            return
        wait = min(REPUBLISH_MAX, REPUBLISH_FIRST * 2 ** min(entry.tries, 10))
        entry.tries += 1
        heapq.heappush(self._again, (now + wait, entry.seq, entry))

    def publishes_lost(self, now: float) -> None:
        """Nobody knows whether the broker has those without an answer: publish them again, with the same message id."""
        lost = list(self._answers.values())
        self._answers.clear()
        self.counters.ambiguous += len(lost)
        for entry in lost:
            entry.pid = 0
            if entry.void:
                self._keep(entry, State.KEPT, now)
            else:
                heapq.heappush(self._again, (now, entry.seq, entry))

    # --- events: connections and time

    def consuming_lost(self, now: float) -> None:
        """All deliveries so far are void: the held ones are forgotten, the others go on for their redelivery."""
        for entry in self._order:
            if entry.acked:
                continue  # settled, and the broker was told
            if entry.state is State.PLACED:  # settled, and the broker was not told yet: counted already
                self._remember(entry)
                self._keep(entry, State.PLACED, now)
                continue
            self.counters.voided += 1
            entry.void = True
            if entry.state is State.HELD:
                self._forget(entry)
            else:
                self._remember(entry)
        waiting = [item[2] for item in self._again]
        self._again.clear()
        for entry in waiting:
            self._keep(entry, State.KEPT, now)
        self._order.clear()
        self._gaps.clear()

    def release_held(self) -> dict[int, list[int]]:
        """Give up all that waits for a lane: the tags, by epoch, that go back to the broker."""
        back: dict[int, list[int]] = {}
        for entry in [*self._apart, *self._held]:
            if entry.state is State.HELD and not entry.acked:
                back.setdefault(entry.epoch, []).append(entry.tag)
                entry.acked = True
                self.counters.released += 1
                self._forget(entry)
        self._held.clear()
        self._apart.clear()
        return back

    def tick(self, now: float) -> list[Publish]:
        """What is due again; kept outcomes that are too old go."""
        while self._kept and now - self._kept[0].kept_at > KEEP:
            self._drop_kept()
        due: list[Publish] = []
        while self._again and self._again[0][0] <= now:
            entry = heapq.heappop(self._again)[2]
            due += self._place(entry, now)
        return due

    def next_due(self) -> float | None:
        """When tick() has something to publish again."""
        return self._again[0][0] if self._again else None

    def acks(self, now: float) -> list[Ack]:
        """Acks for what is settled: one for the whole prefix, single ones for what has waited beyond a gap."""
        order = self._order
        acks: list[Ack] = []
        last: Entry | None = None
        while order and (order[0].state is State.PLACED or order[0].acked):
            entry = order.popleft()
            if not entry.acked:
                entry.acked = True
                last = entry
        if last is not None:
            acks.append(Ack(last.epoch, last.tag, multiple=True))
        gaps = self._gaps
        while gaps and (gaps[0][1].acked or now - gaps[0][0] >= GAP_WAIT):
            entry = gaps.popleft()[1]
            if not entry.acked:
                entry.acked = True
                acks.append(Ack(entry.epoch, entry.tag, multiple=False))
        return acks

    @property
    def gaps(self) -> bool:
        """Whether acks() must be asked again soon."""
        return bool(self._gaps)

    # --- inside

    def _hold(self, entry: Entry, *, front: bool = False) -> None:
        entry.state = State.HELD
        entry.lane = 0
        self._held_count += 1
        queue = self._held if entry.company is Company.ANY else self._apart
        if front:
            queue.appendleft(entry)
        else:
            queue.append(entry)

    def _back(self, lane: int, entries: Sequence[Entry]) -> int:
        mine = self._lanes.get(lane, {})
        for entry in reversed(entries):
            mine.pop(entry.seq, None)
            if entry.void:
                self._forget(entry)
            else:
                self._hold(entry, front=True)
        self.counters.redispatched += len(entries)
        return len(entries)

    def _leave_lane(self, entry: Entry) -> None:
        if entry.state is State.HELD:
            self._held_count -= 1
            entry.state = State.OUT  # its place in the queue is skipped
        elif entry.lane:
            self._lanes[entry.lane].pop(entry.seq, None)
        entry.lane = 0

    def _place(self, entry: Entry, now: float) -> list[Publish]:
        plan = entry.plan
        assert plan is not None
        actions: list[Publish] = []
        publication = plan.publication
        if plan.reply is not None and not entry.tries:
            self._pid += 1
            actions.append(Publish(self._pid, plan.reply))
        if publication is None:
            self._settle(entry, now)
            return actions
        entry.state = State.PLACING
        self._pid += 1
        entry.pid = self._pid
        self._answers[entry.pid] = entry
        if publication.settles is not None:
            publication = publication._replace(settles=(entry.epoch, entry.tag))
        actions.append(Publish(entry.pid, publication))
        return actions

    def _settle(self, entry: Entry, now: float) -> None:
        entry.state = State.PLACED
        plan = entry.plan
        assert plan is not None
        counters = self.counters
        counters.settled += 1
        setattr(counters, plan.outcome, getattr(counters, plan.outcome) + 1)
        self._entries.pop(entry.seq, None)
        self._weigh(entry, 0)
        if not (self._order and self._order[0] is entry):
            self._gaps.append((now, entry))

    def _weigh(self, entry: Entry, weight: int) -> None:
        self.held_bytes += weight - entry.weight
        entry.weight = weight

    def _forget(self, entry: Entry) -> None:
        self._entries.pop(entry.seq, None)
        if entry.state is State.HELD:
            self._held_count -= 1
            entry.state = State.KEPT  # its place in the queue is skipped
        self._weigh(entry, 0)
        self._unremember(entry)

    # --- inside: void deliveries

    def _remember(self, entry: Entry) -> None:
        self._voided.setdefault(fingerprint(entry.properties, entry.body), deque()).append(entry)

    def _unremember(self, entry: Entry) -> None:
        if not self._voided:
            return
        key = fingerprint(entry.properties, entry.body)
        same = self._voided.get(key)
        if same is not None and entry in same:
            same.remove(entry)
            if not same:
                del self._voided[key]

    def _keep(self, entry: Entry, state: State, now: float) -> None:
        entry.void = True
        entry.state = state
        entry.kept_at = now
        self._entries.pop(entry.seq, None)
        self._weigh(entry, 0)
        self._kept.append(entry)
        self._kept_size += entry.size
        while len(self._kept) > self._kept_max or self._kept_size > self._kept_bytes:
            self._drop_kept()

    def _drop_kept(self) -> None:
        entry = self._kept.popleft()
        self._kept_size -= entry.size
        self._unremember(entry)

    def _claim(self, delivery: Delivery) -> Entry | None:
        key = fingerprint(delivery.properties, delivery.body)
        same = self._voided.get(key)
        if not same:
            return None
        entry = same.popleft()
        if not same:
            del self._voided[key]
        return entry

    def _adopt(self, entry: Entry, delivery: Delivery, now: float) -> list[Publish]:
        self.counters.adopted += 1
        entry.epoch, entry.tag = delivery.epoch, delivery.tag
        entry.void = False
        entry.acked = False
        entry.tries = 0
        self._order.append(entry)
        if entry.state in (State.KEPT, State.PLACED):
            self._kept.remove(entry)
            self._kept_size -= entry.size
        if entry.state is State.KEPT:
            self._entries[entry.seq] = entry
            self._weigh(entry, entry.size)
            return self._place(entry, now)
        if entry.state is State.PLACED:
            self._settle(entry, now)
        return []
