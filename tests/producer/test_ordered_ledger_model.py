"""The ledger of a stage that keeps an order, in the model of `test_ledger_model`: first results are always in order.

The broker gives back in their places what was unsettled, as both queue types do while prefetch and tag stay the same. A
connection is closed only at rest, in the place of returning single messages. What is revoked counts as back only if its
Consumer has not begun it, and a Consumer ends its chunk after a failure: others see to that.
"""

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Publication
from mqworker.producer.entry import HELD, OUT, Again, Entry, Isolation
from mqworker.producer.held_attempts import HeldAttempts
from mqworker.producer.ledger import Ledger
from mqworker.producer.ordered_backlog import OrderedBacklog
from mqworker.producer.ordering import Ordering
from mqworker.producer.quarantine import May
from tests.producer.test_ledger_model import DEAD, Broker, LedgerMachine, Message, content_of

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered

FORWARD = ["send", "deliver", "take", "work", "work", "end_chunks", "confirm", "confirm", "ack", "ack_arrives"]
FORWARD += ["time_passes", "outcome_again"]
HARMLESS = ["refuse", "refuse_for_size", "end_epoch", "skip", "revoke", "die", "outlive", "narrow", "let_go"]
HARMFUL = ["lose_publisher", "lose_consumer", "another_instance", "hours_pass"]
KEYS = ["", "1", "2"]
ATTEMPT = "attempt"
MOST_ATTEMPTS = 3
DIFFERENT = 1680  # added to contents to make them different: what they mean depends on remainders


class OrderedMessage(Message):
    """A message that stands in line; its key is its routing key."""

    def __init__(self, content: int, key: str, fails: int) -> None:
        super().__init__(content)
        self.routing_key = key
        self.fails = fails  # in so many attempts

    def again(self, attempt: int, after: float) -> Again:
        """Return what follows from this attempt, which has failed."""
        properties = Properties(headers=Headers({ATTEMPT: attempt + 1})).encode()
        return Again(properties, after)


def attempt_of(entry: Entry) -> int:
    if entry.original is None:
        return 1
    attempt = Properties.decode(entry.properties).headers[ATTEMPT]
    assert isinstance(attempt, int)
    return attempt


class OrderedBroker(Broker):
    """Sees whether what is published is in order."""

    def __init__(self, ordered_by: str, *, hold: bool) -> None:
        super().__init__()
        self.ordered_by = ordered_by
        self.hold = hold
        self.lines: dict[str, list[Message]] = {}  # what is in one order, as it was sent
        self.line_of: dict[int, list[Message]] = {}  # by content
        self.passed: set[int] = set()  # have failed, and are out of order for that

    def send(self, message: Message) -> None:
        self.queue.append(message)
        line = self.lines.setdefault(message.routing_key if self.ordered_by == "routing_key" else "", [])
        line.append(message)
        self.line_of[message.content] = line

    def before(self, content: int) -> list[Message]:
        """Return those before a message in its order."""
        line = self.line_of[content]
        return line[: [message.content for message in line].index(content)]

    def is_done(self, message: Message) -> bool:
        stored = self.settled(message.content, self.stored)
        return not message.published or message.content in self.passed or stored > 0

    def accept(self, publish_id: int, publication: Publication) -> None:
        super().accept(publish_id, publication)
        self.look(publication)

    def look(self, publication: Publication) -> None:
        content = content_of(publication)
        if publication.routing_key == DEAD and not self.hold:
            self.passed.add(content)
        if content not in self.passed:
            assert all(map(self.is_done, self.before(content))), "published out of turn"

    def settle_elsewhere(self) -> None:
        assert all(map(self.is_done, self.before(self.queue[0].content)))
        super().settle_elsewhere()


class OrderedLedgerMachine(LedgerMachine):
    """Any sequence of events keeps the order, settles every delivery exactly once and leaves nothing behind."""

    most_chunks = 1
    begun = 0
    may_wait = True
    broker: OrderedBroker

    @initialize(
        ordered_by=st.sampled_from(["input", "routing_key"]),
        hold=st.booleans(),
        seats=st.booleans(),
        calm=st.booleans(),
        kept_max=st.sampled_from([2, 1000, 1000]),
        kept_bytes=st.sampled_from([12, 1 << 20, 1 << 20]),
    )
    def start(self, ordered_by: str, hold: bool, seats: bool, calm: bool, kept_max: int, kept_bytes: int) -> None:
        self.seats = seats
        self.ordering = Ordering(ordered_by, "input", hold=hold)
        self.begin(OrderedBroker(ordered_by, hold=hold), Ledger(ordering=self.ordering), calm, kept_max, kept_bytes)
        self.attempts._cache = self.voided
        self.is_narrow = False
        self.number = 0
        self.known: set[int] = set()  # contents that have had an outcome
        self.begun_before: set[int] = set()
        self.old: list[int] = []  # numbers that have had an outcome
        self.delays = [0.0, 0.01, 1.0, 5.0]

    @rule(
        steps=st.lists(st.sampled_from(FORWARD), max_size=14),
        trouble=st.none() | st.sampled_from(HARMLESS + HARMFUL),
        data=st.data(),
    )
    def go_on(self, steps: list[str], trouble: str | None, data: st.DataObject) -> None:
        self.carry_out(steps, trouble, data)

    @property
    def backlog(self) -> OrderedBacklog:
        assert isinstance(self.ledger.backlog, OrderedBacklog)
        return self.ledger.backlog

    @property
    def attempts(self) -> HeldAttempts:
        assert self.ledger.attempts is not None
        return self.ledger.attempts

    def unit_of(self, entry: Entry) -> str:
        return entry.routing_key if self.ordering.serial else ""

    # --- all goes well

    def send(self, data: st.DataObject) -> None:
        for content in data.draw(st.lists(st.integers(0, 21), min_size=1, max_size=4)):
            key, fails = data.draw(st.sampled_from(KEYS)), data.draw(st.sampled_from([0, 0, 0, 0, 1, 2, 99]))
            message = OrderedMessage(content + DIFFERENT * self.number, key, fails)
            self.number += 1
            self.broker.send(message)
            self.sent[message.content] += 1

    def take_chunk(self, lane: int, most: int, may: May) -> None:
        super().take_chunk(lane, most, may)
        if self.ordering.serial:
            lanes: dict[str, set[int]] = {}
            for number, seqs in self.ledger.assignments._lanes.items():
                for entry in seqs.values():
                    lanes.setdefault(entry.routing_key, set()).add(number)
            assert all(len(each) == 1 for each in lanes.values()), "a key is on two lanes"
            begun = [entry.routing_key for seqs in self.ledger.assignments._lanes.values() for entry in seqs.values()]
            assert not self.seats or len(set(begun)) == len(begun), "two of a key begin together"

    def work(self, data: st.DataObject) -> None:
        lane = self.pick(data, (lane for lane, seqs in self.lanes.items() if seqs))
        if lane is not None:
            self.shuffle(lane, data)
            for _ in range(data.draw(st.integers(1, len(self.lanes[lane])))):
                if self.lanes[lane]:
                    self.compute(lane)

    def compute(self, lane: int) -> None:
        seq = self.lanes[lane].popleft()
        message = self.messages[seq]
        if self.ordering.serial and message.content not in self.begun_before:
            self.begun_before.add(message.content)
            for before in self.broker.before(message.content):
                settled_elsewhere = self.broker.acked[before.content]
                assert before.content in self.known or settled_elsewhere, "begun before its predecessor had an outcome"
        entry = self.ledger.entry(seq)
        failed = entry is not None and attempt_of(entry) <= message.fails
        self.finish(seq, "dead" if failed else "result")
        if failed and self.ordering.hold and self.ordering.serial and not self.seats:
            self.lanes[lane].clear()  # the Consumer ends its chunk

    def finish(self, seq: int, outcome: str = "result") -> None:
        message = self.messages[seq]
        assert isinstance(message, OrderedMessage)
        entry = self.ledger.entry(seq)
        attempt = attempt_of(entry) if entry is not None else MOST_ATTEMPTS
        assert attempt <= MOST_ATTEMPTS
        self.old.append(seq)
        for chunk in self.all_chunks():
            chunk.out.discard(seq)
        if outcome != "result" and self.ordering.hold and entry is not None and attempt < MOST_ATTEMPTS:
            again = message.again(attempt, self.delays[seq % len(self.delays)])
            self.ledger.delay(entry, again, Isolation(seq % 3 == 0), self.now)
            assert entry.seq != seq
            self.messages[entry.seq] = message
            return
        self.known.add(message.content)
        if outcome == "result":
            super().finish(seq)
            return
        if not self.ordering.hold:
            self.broker.passed.add(message.content)  # its reply leaves out of turn too
        self.give_up(seq, message)

    def give_up(self, seq: int, message: OrderedMessage) -> None:
        plan = replace(message.dead_for_size(), replies=message.plan("dead").replies)
        self.publish(self.ledger.finished(seq, plan, self.now))

    def outcome_again(self, data: st.DataObject) -> None:
        """Read an outcome from the outbox that has come through the pipe, or the other way round."""
        seq = self.pick(data, self.old[-5:])
        if seq is not None:
            late = self.ledger.counters.late
            assert self.ledger.entry(seq) is None
            assert self.ledger.finished(seq, self.messages[seq].plan("result"), self.now) == []
            assert self.ledger.counters.late == late + 1

    def let_pass(self, seconds: float) -> None:
        super().let_pass(seconds)
        due = self.ledger.wake(self.now)
        assert due is None or due > self.now

    # --- something goes wrong

    def end_epoch(self, data: st.DataObject) -> None:
        """Close the connection at rest: nothing is out or on its way, and all acks have arrived."""
        if self.broker.outstanding or self.all_chunks():
            return
        self.let_pass(0.005)
        if self.broker.outstanding:
            return
        self.ack(data)
        while self.broker.acks:
            self.broker.process_ack()
        self.broker.lose_consumer(0)
        self.ledger.consuming_lost(self.now)

    def skip(self, data: st.DataObject) -> None:
        if self.seats:
            super().skip(data)
            return
        lane = self.pick(data, (lane for lane, seqs in self.lanes.items() if seqs))
        if lane is not None:
            self.lanes[lane].clear()

    def let_go(self, data: st.DataObject) -> None:
        """Have an operator skip a message that waits for its next attempt."""
        seq = self.pick(data, (entry.seq for _, _, entry in self.attempts._due))
        if seq is not None:
            message = self.messages[seq]
            assert isinstance(message, OrderedMessage)
            self.old.append(seq)
            self.known.add(message.content)
            self.give_up(seq, message)

    def narrow(self, data: st.DataObject) -> None:
        self.is_narrow = not self.is_narrow
        self.backlog.narrow(self.is_narrow)

    def another_instance(self, data: st.DataObject) -> None:
        if not self.broker.unacked:  # there is one active consumer
            super().another_instance(data)

    # --- what holds

    def waiting(self) -> list[Entry]:
        backlog = self.backlog
        heads = [entry for _, entry in backlog._heads._heap + backlog._heads._alone]
        heads += backlog._heads._suspects + list(backlog._heads._aside)
        behind = [each for unit in self.ordering.units for each in unit.waiting if each is not unit.offered]
        delayed = [entry for _, _, entry in self.attempts._due]
        return heads + delayed + [entry for entry in behind if entry.state is HELD]

    @invariant()
    def units_are_right(self) -> None:
        standing = [entry for unit in self.ordering.units for entry in unit.order]
        valid = list(self.ledger.acks._order.values())
        assert all(not entry.void and entry.unit is not None for entry in standing)
        assert {id(entry) for entry in standing} == {id(entry) for entry in valid if entry.unit is not None}
        assert not self.ordering.turned
        for unit in self.ordering.units:
            assert [entry.tag for entry in unit.order] == sorted(entry.tag for entry in unit.order)
            assert all(entry.state is OUT for entry in unit.out)
            assert unit.order or unit.out

    def nothing_is_left(self) -> None:
        super().nothing_is_left()
        assert len(self.ordering) == 0
        assert (self.backlog.ready, len(self.attempts)) == (0, 0)


class TestOrderedLedgerModel(OrderedLedgerMachine.TestCase):
    """See the machine."""

    settings = settings(max_examples=200, stateful_step_count=25, deadline=None)


@pytest.mark.release
class TestOrderedLedgerModelAtLength(OrderedLedgerMachine.TestCase):
    """The same with many more sequences."""

    settings = settings(max_examples=2000, stateful_step_count=25, deadline=None)


class OutOfTurn(OrderedLedgerMachine):
    """The rule that keeps the order is switched off."""

    def begin(self, *args: object) -> None:
        super().begin(*args)
        self.ordering.is_turn = lambda entry: True


def test_without_the_rule_the_model_fails():
    """The model sees what is published out of turn."""
    quick = settings(
        max_examples=300,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError, match="out of turn"):
        run_state_machine_as_test(OutOfTurn, settings=quick)
