"""The ledger against a model of a broker and of Consumers: whatever happens, every delivery is settled exactly once.

The model broker is as strict as RabbitMQ: an ack of a tag that it does not expect ends the test (406 there). Faults:
connections lost with acks and confirms in transit, refused publications, dead and revoked Consumers, work that another
instance took over, eviction of kept outcomes.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Delivery, Publication
from mqworker.producer.acks import Ack
from mqworker.producer.backlog import Backlog
from mqworker.producer.entry import COMPUTED, DELAYED, HELD, OUT, PLACED, PLACING, Entry, Isolation, Plan
from mqworker.producer.ledger import Ledger
from mqworker.producer.publications import Publish, PublishTogether
from mqworker.producer.quarantine import May
from mqworker.producer.redelivery_cache import KEEP, RedeliveryCache

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered

PREFETCH = 12
MOST_PARTS = 3
SLOTS = 3
FORWARD = ["send", "deliver", "take", "work", "end_chunks", "confirm", "ack", "ack_arrives", "time_passes"]
HARMLESS = [
    "refuse",
    "refuse_for_size",
    "release",
    "skip",
    "revoke",
    "die",
    "outlive",
]  # each result is published exactly once
HARMFUL = ["lose_publisher", "lose_consumer", "another_instance", "hours_pass"]
CONTENTS = st.lists(st.integers(0, 21) | st.integers(0, 10**6), min_size=1, max_size=4)


class Message:
    """One message of the input queue; the ledger cannot distinguish messages with equal content."""

    routing_key = "input"

    def __init__(self, content: int) -> None:
        self.content = content
        self.count = 0  # deliveries before

    @property
    def published(self) -> bool:
        """Return whether its plan has a publication that gates the ack."""
        return self.content % 7 != 3

    @property
    def parts(self) -> int:
        """Return how many results it has, if any."""
        return 1 + self.content % MOST_PARTS

    @property
    def replied(self) -> bool:
        return self.content % 4 == 1

    @property
    def isolation(self) -> Isolation:
        return {4: Isolation.CHUNK, 6: Isolation.STAGE}.get(self.content % 8, Isolation.NONE)

    @property
    def properties(self) -> bytes:
        properties = Properties(message_id=str(self.content))
        if self.content % 2:  # as from a quorum queue
            properties.headers["x-delivery-count"] = self.count
        return properties.encode()

    @property
    def body(self) -> bytes:
        return b"%d" % self.content + b"." * (self.content % 5)

    def plan(self, outcome: str) -> Plan:
        body = b"%d" % self.content
        replies = (Publication("", "replies", b"", body, mandatory=False),) if self.replied else ()
        if not self.published:
            return Plan("dropped", (), replies)
        results = tuple(Publication("", f"result {part}", b"", body + b"!" * part) for part in range(self.parts))
        return Plan(outcome, results, replies)

    def dead_for_size(self) -> Plan:
        """Return the plan that replaces results of which one is too large."""
        return Plan("dead", (Publication("", DEAD, b"", b"%d" % self.content),))


DEAD = "dead letters"


def content_of(publication: Publication) -> int:
    return int(publication.body.rstrip(b"!"))


class Broker:
    """Assigns tags, tracks what is unacked, and stores publications."""

    def __init__(self) -> None:
        self.queue: deque[Message] = deque()
        self.epoch = 1
        self.tag = 0
        self.unacked: dict[int, Message] = {}
        self.acks: deque[Ack] = deque()  # on the way to the broker
        self.acked: Counter[int] = Counter()
        self.acked_elsewhere = 0
        self.outstanding: dict[int, Publication] = {}
        self.last_pid = 0
        self.stored: Counter[tuple[int, str]] = Counter()  # by content and routing key
        self.confirmed: Counter[tuple[int, str]] = Counter()
        self.abandoned = 0  # results that were stored for a message that is dead because another one is too large
        self.replies: Counter[int] = Counter()
        self.lost_acks = 0

    def deliver(self) -> tuple[Message, Delivery]:
        message = self.queue.popleft()
        self.tag += 1
        self.unacked[self.tag] = message
        redelivered = message.count > 0
        delivery = Delivery(
            self.epoch, self.tag, message.properties, message.body, redelivered, "", message.routing_key
        )
        message.count += 1
        return message, delivery

    def publish(self, action: Publish | PublishTogether) -> None:
        if isinstance(action, Publish):
            self.accept(action.publish_id, action.publication)
            return
        assert len(action.publications) > 1
        for publish_id, publication in zip(action.publish_ids, action.publications, strict=True):
            self.accept(publish_id, publication)

    def accept(self, publish_id: int, publication: Publication) -> None:
        assert publish_id > self.last_pid
        self.last_pid = publish_id
        if publication.routing_key == "replies":
            self.replies[content_of(publication)] += 1
            return
        assert publication.settles is not None
        epoch, tag = publication.settles
        assert epoch == self.epoch
        assert self.unacked[tag].content == content_of(publication)
        self.outstanding[publish_id] = publication

    def confirm(self, publish_id: int) -> None:
        publication = self.outstanding.pop(publish_id)
        self.store(publication)
        self.confirmed[content_of(publication), publication.routing_key] += 1

    def store(self, publication: Publication) -> None:
        self.stored[content_of(publication), publication.routing_key] += 1

    def settled(self, content: int, counts: Counter[tuple[int, str]]) -> int:
        """Return how many messages with this content have all their results in `counts`, or a dead letter."""
        results = min(counts[content, f"result {part}"] for part in range(Message(content).parts))
        return results + counts[content, DEAD]

    def send_ack(self, ack: Ack) -> None:
        assert ack.epoch == self.epoch, "an ack of an old epoch"
        self.acks.append(ack)

    def process_ack(self) -> None:
        ack = self.acks.popleft()
        assert ack.tag in self.unacked, f"406: unknown delivery tag {ack.tag}"
        for tag in [tag for tag in self.unacked if tag == ack.tag or (ack.multiple and tag < ack.tag)]:
            message = self.unacked.pop(tag)
            self.acked[message.content] += 1
            if message.published:
                done = self.settled(message.content, self.confirmed)
                assert done >= self.acked[message.content], "acked before all was confirmed"

    def settle_elsewhere(self) -> None:
        message = self.queue.popleft()
        for publication in message.plan("result").publications:
            self.store(publication)
            self.confirmed[message.content, publication.routing_key] += 1
        self.acked[message.content] += 1
        self.acked_elsewhere += message.parts

    def sent_acks(self) -> set[int]:
        """Tags that acks in transit cover."""
        return {tag for tag in self.unacked for ack in self.acks if tag == ack.tag or (ack.multiple and tag < ack.tag)}

    def lose_consumer(self, acks_through: int) -> None:
        for _ in range(min(acks_through, len(self.acks))):
            self.process_ack()
        self.lost_acks += sum(self.unacked[tag].parts for tag in self.sent_acks())
        self.acks.clear()
        self.queue.extendleft(reversed(self.unacked.values()))
        self.unacked.clear()
        self.epoch += 1
        self.tag = 0

    def release(self, epoch: int, tags: list[int]) -> None:
        while self.acks:
            self.process_ack()
        assert epoch == self.epoch
        self.queue.extendleft([self.unacked.pop(tag) for tag in sorted(tags, reverse=True)])


class Chunk(NamedTuple):
    """A chunk in a lane: its deliveries, and those of them that the ledger counts as out."""

    number: int
    all: set[int]
    out: set[int]


class RecordingVoided(RedeliveryCache):
    """Counts what is forgotten, and of that what was placed: the only event that causes a duplicate."""

    evicted = evicted_placed = 0

    def _evict(self) -> None:
        self.evicted += 1
        entry = next(iter(self._kept.values()))
        placed = len(entry.plan.publications) - len(entry.left) if entry.plan else 0
        self.evicted_placed += MOST_PARTS if entry.state is PLACED else placed
        super()._evict()


class LedgerMachine(RuleBasedStateMachine):
    """Steps of the Producer, the broker and the Consumers, in any order."""

    most_chunks = 2  # in a lane
    begun = 1  # how many a Consumer may begin that are already revoked
    may_wait = False  # what was refused may have to wait for its turn

    seats = False  # each Consumer works on several messages at once, and ends them in any order

    @initialize(
        seats=st.booleans(),
        calm=st.booleans(),
        kept_max=st.sampled_from([2, 1000, 1000]),
        kept_bytes=st.sampled_from([12, 1 << 20, 1 << 20]),
    )
    def start(self, seats: bool, calm: bool, kept_max: int, kept_bytes: int) -> None:
        self.seats = seats
        self.begin(Broker(), Ledger(), calm, kept_max, kept_bytes)

    def begin(self, broker: Broker, ledger: Ledger, calm: bool, kept_max: int, kept_bytes: int) -> None:
        self.calm = calm
        self.now = 100.0
        self.broker = broker
        self.ledger = ledger
        self.voided = self.ledger.cache = RecordingVoided(kept_max, kept_bytes)
        self.ledger.publications._cache = self.voided
        self.sent: Counter[int] = Counter()
        self.messages: dict[int, Message] = {}  # seq -> message
        self.lanes: dict[int, deque[int]] = {lane: deque() for lane in range(SLOTS)}  # what each will work on
        self.chunks: dict[int, list[Chunk]] = {lane: [] for lane in range(SLOTS)}  # those that have not ended
        self.next_lane = SLOTS
        self.last_chunk = 0
        self.faultless = True

    def publish(self, actions: list[Publish | PublishTogether]) -> None:
        for action in actions:
            self.broker.publish(action)

    def confirm_all(self, publish_ids: list[int]) -> None:
        for publish_id in publish_ids:
            self.broker.confirm(publish_id)
        self.ledger.publications.confirmed([*publish_ids, 10**9], self.now)
        self.publish(self.ledger.publications.take_turns(self.now))

    def finish(self, seq: int, outcome: str = "result") -> None:
        for chunk in self.all_chunks():
            chunk.out.discard(seq)
        self.publish(self.ledger.finished(seq, self.messages[seq].plan(outcome), self.now))

    def all_chunks(self) -> list[Chunk]:
        return [chunk for chunks in self.chunks.values() for chunk in chunks]

    def pick(self, data: st.DataObject, choice: Iterable[int]) -> int | None:
        found = sorted(choice)
        return data.draw(st.sampled_from(found)) if found else None

    @rule(
        steps=st.lists(st.sampled_from(FORWARD), max_size=12),
        trouble=st.none() | st.sampled_from(HARMLESS + HARMFUL),
        data=st.data(),
    )
    def go_on(self, steps: list[str], trouble: str | None, data: st.DataObject) -> None:
        self.carry_out(steps, trouble, data)

    def carry_out(self, steps: list[str], trouble: str | None, data: st.DataObject) -> None:
        for step in steps:
            getattr(self, step)(data)
        if trouble is not None and not (self.calm and trouble in HARMFUL):
            getattr(self, trouble)(data)

    # --- all goes well

    def send(self, data: st.DataObject) -> None:
        for content in data.draw(CONTENTS):
            self.broker.queue.append(Message(content))
            self.sent[content] += 1

    def deliver(self, data: st.DataObject) -> None:
        self.deliver_some(data.draw(st.integers(1, 6)))

    def deliver_some(self, most: int) -> None:
        for _ in range(min(most, len(self.broker.queue), PREFETCH - len(self.broker.unacked))):
            before = self.ledger.counters.adopted
            message, delivery = self.broker.deliver()
            self.publish(self.ledger.delivered(delivery, self.now, message.isolation))
            assert delivery.redelivered or self.ledger.counters.adopted == before
            if self.ledger.counters.adopted == before:
                entry = self.ledger.acks.find(delivery.epoch, delivery.tag)
                assert entry is not None
                self.messages[entry.seq] = message

    def take(self, data: st.DataObject) -> None:
        lane = self.pick(data, (lane for lane, chunks in self.chunks.items() if len(chunks) < self.most_chunks))
        if lane is not None:
            may = May.OTHERS if self.chunks[lane] else data.draw(st.sampled_from(May))
            self.take_chunk(lane, data.draw(st.integers(0, 5)), may)

    def take_chunk(self, lane: int, most: int, may: May) -> None:
        isolated = self.ledger.assignments.isolated
        assert isolated is None or any(isolated.seq in chunk.out for chunk in self.all_chunks())
        self.last_chunk += 1
        if not self.seats or may is not May.OTHERS:
            chunk = self.ledger.assignments.take(lane, self.last_chunk, most, may)
        elif most % 2 and (alone := self.ledger.backlog.alone):
            chunk = self.ledger.assignments.take_alone(lane, self.last_chunk, alone[most // 2 % len(alone)])
        else:
            beside = self.ledger.backlog.beside
            chunk = self.ledger.assignments.take_beside(lane, self.last_chunk, most)
            assert len(chunk) == min(most, beside) or isolated is not None
            assert all(entry.isolation is Isolation.NONE for entry in chunk)
        assert len(chunk) <= most
        assert all(entry.state is OUT and not entry.void for entry in chunk)
        for isolation in {entry.isolation for entry in chunk} - {Isolation.NONE}:
            assert len(chunk) == 1, "not alone in its chunk"
            assert (isolation is Isolation.STAGE) == (may is May.SUSPECT)
        assert not chunk or (may is not May.NOBODY and isolated is None), "began beside an isolated one"
        if chunk:
            seqs = [entry.seq for entry in chunk]
            self.chunks[lane].append(Chunk(self.last_chunk, set(seqs), set(seqs)))
            self.lanes[lane].extend(seqs)
        out = [entry.seq for entry in self.ledger.assignments.on(lane)]
        assert out[len(out) - len(chunk) :] == [entry.seq for entry in chunk]

    def work(self, data: st.DataObject) -> None:
        lane = self.pick(data, (lane for lane, seqs in self.lanes.items() if seqs))
        if lane is not None:
            self.shuffle(lane, data)
            for _ in range(data.draw(st.integers(1, len(self.lanes[lane])))):
                self.finish(self.lanes[lane].popleft())

    def shuffle(self, lane: int, data: st.DataObject) -> None:
        """Choose which message ends next, where any may."""
        if self.seats:
            self.lanes[lane].rotate(data.draw(st.integers(0, len(self.lanes[lane]))))

    def end_chunks(self, data: st.DataObject) -> None:
        for lane, chunks in self.chunks.items():
            while chunks and not chunks[0].all.intersection(self.lanes[lane]):
                chunk, held = chunks.pop(0), len(self.ledger.backlog)
                if self.seats:
                    continue  # no end of it is told
                back = self.ledger.assignments.chunk_ended(lane, chunk.number)
                assert len(self.ledger.backlog) - held == back <= len(chunk.out)

    def confirm(self, data: st.DataObject) -> None:
        publish_ids = sorted(self.broker.outstanding)
        publish_ids = data.draw(st.lists(st.sampled_from(publish_ids), unique=True)) if publish_ids else []
        self.confirm_all(publish_ids)

    def ack(self, data: st.DataObject) -> None:
        acks = self.ledger.acks.due(self.now)
        assert sum(ack.multiple for ack in acks) <= 1
        for ack in acks:
            self.broker.send_ack(ack)

    def ack_arrives(self, data: st.DataObject) -> None:
        if self.broker.acks:
            self.broker.process_ack()

    def time_passes(self, data: st.DataObject) -> None:
        self.let_pass(data.draw(st.sampled_from([0.001, 0.005, 0.5, 16.0])))

    def let_pass(self, seconds: float) -> None:
        self.now += seconds
        again = self.ledger.publications._again
        due = again[0][0] if again else None
        actions = self.ledger.tick(self.now)
        assert not actions or (due is not None and due <= self.now)
        assert actions or due is None or due > self.now or self.may_wait
        self.publish(actions)
        assert all(after > self.now for after, _, _ in self.ledger.publications._again)

    # --- something goes wrong

    def refuse(self, data: st.DataObject) -> None:
        publish_id = self.pick(data, self.broker.outstanding)
        if publish_id is not None:
            del self.broker.outstanding[publish_id]
            self.ledger.publications.refused(publish_id, "no route", self.now)
            self.ledger.publications.refused(10**9, "a reply", self.now)
            assert self.ledger.publications.refusal == "no route"

    def refuse_for_size(self, data: st.DataObject) -> None:
        publish_id = self.pick(data, self.broker.outstanding)
        if publish_id is not None:
            content = content_of(self.broker.outstanding.pop(publish_id))
            waiting = self.ledger.publications._waiting
            place = waiting[publish_id][0]
            beside = [other for other, (entry, _) in waiting.items() if entry is place and other != publish_id]
            entry = self.ledger.publications.refused(publish_id, "too large", self.now, room=120_000)
            if entry is not None:
                assert entry.plan is not None
                assert entry.plan.outcome == "result"
                assert entry.body == Message(content).body
                self.broker.abandoned += len(entry.plan.publications) - len(entry.left)
                for other in beside:  # their answers no longer matter
                    publication = self.broker.outstanding.pop(other)
                    if data.draw(st.booleans()):
                        self.broker.store(publication)
                        self.broker.abandoned += 1
                self.publish(self.ledger.publications.place(entry, Message(content).dead_for_size(), self.now))
                self.publish(self.ledger.publications.take_turns(self.now))

    def lose_publisher(self, data: st.DataObject) -> None:
        stored = data.draw(st.integers(0, 2 ** (PREFETCH * MOST_PARTS) - 1))
        for place, publication in enumerate(self.broker.outstanding.values()):
            if stored >> place & 1:
                self.broker.store(publication)
        self.broker.outstanding.clear()
        self.faultless = False
        self.ledger.publications.lost(self.now)

    def lose_consumer(self, data: st.DataObject) -> None:
        self.faultless = False
        self.broker.lose_consumer(data.draw(st.integers(0, 5)))
        self.ledger.consuming_lost(self.now)
        for message in list(self.broker.queue)[: data.draw(st.integers(0, 2))]:  # delivered, and lost on the way
            message.count += 1

    def another_instance(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, PREFETCH))):
            if self.broker.queue and self.broker.queue[0].count:
                self.faultless = False
                self.broker.settle_elsewhere()

    def release(self, data: st.DataObject) -> None:
        for epoch, tags in self.ledger.release_held().items():
            self.broker.release(epoch, tags)
        assert len(self.ledger.backlog) == 0

    def skip(self, data: st.DataObject) -> None:
        lane = self.pick(data, (lane for lane, seqs in self.lanes.items() if seqs))
        if lane is None:
            return
        if not self.seats:
            self.lanes[lane].popleft()  # no outcome: the end of the chunk reports that
            return
        self.shuffle(lane, data)
        back = [self.lanes[lane].popleft() for _ in range(data.draw(st.integers(1, len(self.lanes[lane]))))]
        known = {entry.seq for entry in self.ledger.assignments.on(lane) if not entry.void}
        assert self.ledger.assignments.give_back(lane, back) == len(known.intersection(back))
        for chunk in self.chunks[lane]:
            chunk.out.difference_update(back)

    def revoke(self, data: st.DataObject) -> None:
        lane = self.pick(data, (lane for lane, seqs in self.lanes.items() if len(seqs) > 1))
        if lane is None or self.seats:
            return
        seqs = self.lanes[lane]
        known = any(seqs[0] in chunk.out for chunk in self.chunks[lane])
        held = len(self.ledger.backlog)
        back = self.ledger.assignments.revoke(lane, seqs[0])
        assert len(self.ledger.backlog) == held + back
        if not known:
            assert back == 0
            return
        assert self.ledger.assignments.on(lane)[-1].seq == seqs[0]
        for chunk in self.chunks[lane]:
            chunk.out.difference_update(list(seqs)[1:])
        begun = data.draw(st.integers(0, self.begun))
        while len(seqs) > 1 + begun:  # the Consumer may have begun one more
            seqs.pop()

    def die(self, data: st.DataObject) -> None:
        busy = [lane for lane, seqs in self.lanes.items() if seqs]
        lane = self.pick(data, busy or self.lanes.keys())
        assert lane is not None
        seqs = self.lanes.pop(lane)
        self.lanes[self.next_lane], self.chunks[self.next_lane] = deque(), []
        self.next_lane += 1
        out = {seq for chunk in self.chunks.pop(lane) for seq in chunk.out}
        most = len(seqs) if self.seats else 1
        blamed = list(seqs)[: data.draw(st.integers(0, most))] if seqs else []
        entries = (self.ledger.entry(seq) for seq in blamed)
        charged = [entry.seq for entry in entries if entry is not None and entry.seq in out and not entry.void]
        guilty = [entry.seq for entry in self.ledger.assignments.lane_died(lane, blamed)]
        assert sorted(guilty) == sorted(charged)
        if guilty and not self.calm and data.draw(st.booleans()):
            self.lose_consumer(data)
        for seq in guilty:
            self.finish(seq, "dead")

    def outlive(self, data: st.DataObject) -> None:
        self.ledger.assignments.end_isolation()
        assert self.ledger.assignments.isolated is None

    def hours_pass(self, data: st.DataObject) -> None:
        self.let_pass(KEEP + 1)

    # --- what holds after each step

    def waiting(self) -> list[Entry]:
        backlog = self.ledger.backlog
        assert isinstance(backlog, Backlog)
        return [*backlog._waiting, *backlog._alone, *backlog._suspects]

    @invariant()
    def counters_add_up(self) -> None:
        counters = self.ledger.counters
        in_flight = sum(entry.state is not PLACED for entry in self.ledger.acks._order.values())
        assert counters.received == counters.settled + counters.voided + counters.released + in_flight
        assert len(self.ledger) == in_flight
        assert counters.settled == counters.result + counters.dropped + counters.retried + counters.dead

    @invariant()
    def numbers_are_right(self) -> None:
        ledger = self.ledger
        entries = list(ledger._entries.values())
        asked = {id(entry): entry for entry, _ in ledger.publications._waiting.values()}
        placing = [*asked.values(), *(entry for _, _, entry in ledger.publications._again)]
        waiting = [entry for entry in entries if entry.state in (HELD, DELAYED)]
        assert len(ledger.backlog) == len(waiting) == len(self.waiting())
        assert {id(entry) for entry in waiting} == {id(entry) for entry in self.waiting()}
        assert len(ledger.assignments) == sum(entry.state is OUT for entry in entries)
        assert {seq for chunk in self.all_chunks() for seq in chunk.out} >= {
            entry.seq for entry in entries if entry.state is OUT
        }
        assert len(ledger.publications) == len(placing)
        assert len({id(entry) for entry in placing}) == len(placing)
        assert all(entry.state is PLACING for entry in placing)
        assert set(ledger.publications._waiting) == set(self.broker.outstanding)
        for entry in placing:
            assert entry.asked == sum(each is entry for each, _ in ledger.publications._waiting.values())
            assert entry.left
        computed = [entry for entry in ledger.acks._order.values() if entry.state is COMPUTED]
        assert ledger.publications.computed == len(computed)
        told = [*waiting, *(entry for entry in entries if entry.state is OUT), *computed, *placing]
        assert len(ledger) == sum(not entry.void for entry in told), "unfinished, and told nowhere"
        assert ledger.held_bytes.total == sum(entry.size for entry in [*entries, *placing, *computed])

    @invariant()
    def broker_and_ledger_agree(self) -> None:
        assert list(self.ledger.acks._order) == sorted(self.broker.unacked.keys() - self.broker.sent_acks())
        assert all(entry.epoch == self.broker.epoch and not entry.void for entry in self.ledger.acks._order.values())

    @invariant()
    def void_ones_are_remembered_once(self) -> None:
        voided, kept = self.voided, list(self.voided._kept.values())
        remembered = [entry for same in voided._by_identity.values() for entry in same]
        going_on = [*self.ledger._entries.values(), *(entry for entry, _ in self.ledger.publications._waiting.values())]
        assert {id(entry) for entry in remembered} == {id(entry) for entry in [*going_on, *kept] if entry.void}
        assert len({id(entry) for entry in remembered}) == len(remembered)
        assert all(voided._by_identity.values())
        assert self.ledger.cache.kept == len(kept) <= voided._most
        assert voided._bytes == sum(entry.size for entry in kept) <= voided._most_bytes

    # --- the end

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for _ in range(100 + 10 * self.sent.total()):
            if not self.drain_step():
                break
        self.settled_exactly_once()
        self.nothing_is_left()

    def drain_step(self) -> bool:
        self.deliver_some(PREFETCH)
        for lane in self.lanes:
            if not self.chunks[lane]:
                suspects = self.ledger.backlog.shortest_window is not None
                self.take_chunk(lane, 5, May.SUSPECT if suspects else May.OTHERS)
            while self.lanes[lane]:
                self.finish(self.lanes[lane].popleft())
        self.end_chunks(None)
        self.let_pass(20.0)
        self.confirm_all(list(self.broker.outstanding))
        self.let_pass(0.005)
        self.ack(None)
        while self.broker.acks:
            self.broker.process_ack()
        for check in (self.counters_add_up, self.numbers_are_right, self.void_ones_are_remembered_once):
            check()
        return bool(self.broker.queue or self.broker.unacked or self.all_chunks())

    def settled_exactly_once(self) -> None:
        broker = self.broker
        assert not broker.queue, "a message was never settled"
        assert not broker.unacked
        assert broker.acked == self.sent
        wanted = {content: count for content, count in self.sent.items() if Message(content).published}
        assert all(broker.settled(content, broker.stored) >= count for content, count in wanted.items()), (
            "one is missing"
        )
        extra = -broker.abandoned
        for content, count in wanted.items():
            results = [broker.stored[content, f"result {part}"] for part in range(Message(content).parts)]
            dead = max(0, count - min(results))  # at least so many have a dead letter instead
            extra += sum(results) + broker.stored[content, DEAD] - dead - (count - dead) * len(results)
        causes = self.ledger.counters.ambiguous + broker.lost_acks + self.voided.evicted_placed + broker.acked_elsewhere
        assert extra <= causes
        if self.faultless and not self.voided.evicted:  # an ordered epoch may end while some results are refused
            assert extra == 0
            assert broker.replies == {content: n for content, n in self.sent.items() if Message(content).replied}

    def nothing_is_left(self) -> None:
        ledger = self.ledger
        publications, acks = ledger.publications, ledger.acks
        left = [ledger._entries, self.waiting(), len(ledger.assignments), acks._order, acks._settled]
        left += [publications._waiting, publications._again, publications._refused]
        left += [not self.seats and ledger.assignments._lanes]  # chunks of those have an end
        assert not any(left), left
        assert ledger.assignments.isolated is None
        assert not ledger.acks.waiting
        assert (
            len(ledger),
            len(ledger.backlog),
            len(ledger.assignments),
            len(ledger.publications),
            ledger.publications.unplaced,
            ledger.held_bytes.total,
        ) == (0,) * 6
        ledger.tick(self.now + KEEP + 100)  # attempts are kept from when they are due
        assert (ledger.cache.kept, self.voided._bytes, self.voided._by_identity) == (0, 0, {})


class TestLedgerModel(LedgerMachine.TestCase):
    """Any sequence of events settles every delivery exactly once and leaves nothing behind."""

    settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.mark.release
class TestLedgerModelAtLength(LedgerMachine.TestCase):
    """The same with many more sequences."""

    settings = settings(max_examples=1500, stateful_step_count=30, deadline=None)
