"""What the status tells of an order: by tables of events, and on a real ledger."""

import pytest

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Delivery, Publication
from mqworker.ipc.stage_status import OrderStatus
from mqworker.producer.entry import Again, Entry, Isolation, Plan
from mqworker.producer.ledger import Ledger
from mqworker.producer.order_status import LONG, order_status
from mqworker.producer.ordering import Ordering
from mqworker.producer.quarantine import May

RESULT = Plan("result", (Publication("", "out", b"", b"result"),))
BEFORE, LATER = LONG - 0.1, LONG + 7  # seconds, before a message counts as blocking, and after


class Stage:
    """A ledger that keeps an order, and whose first deliveries are in lanes."""

    def __init__(self, keys: str, ordered_by: str = "correlation_id", isolation: Isolation = Isolation.NONE) -> None:
        self.ordering = Ordering(ordered_by, "in", hold=True)
        self.ledger = Ledger(ordering=self.ordering)
        self.begun: dict[int, float] = {}
        self.entries: list[Entry] = []
        for key in keys:
            self.deliver(key, isolation)

    def deliver(self, key: str, isolation: Isolation = Isolation.NONE) -> None:
        tag = len(self.entries) + 1
        properties = Properties(correlation_id=key, message_id=f"{key}{tag}").encode()
        self.ledger.delivered(Delivery(1, tag, properties, b"%d" % tag, False, "", "in"), 0.0, isolation)
        entry = self.ledger.acks.find(1, tag)
        assert entry is not None
        self.entries.append(entry)

    def take(self, most: int = 1, lane: int = 1, may: May = May.OTHERS) -> list[Entry]:
        """Have a Consumer begin the first of a chunk, at 0."""
        chunk = self.ledger.assignments.take(lane, 1, most, may)
        self.begun[chunk[0].seq] = 0.0
        return chunk

    def finish(self, entry: Entry) -> list[int]:
        """Give a message its outcome, at 0; returns the numbers of its publications."""
        self.begun.pop(entry.seq, None)
        return [action.publish_id for action in self.ledger.finished(entry.seq, RESULT, 0.0)]

    def told(self, now: float = LATER, prefetch: int = 100) -> OrderStatus:
        return order_status(self.ledger, self.ordering, "in", prefetch, self.begun, now)

    def blocked(self, now: float = LATER) -> tuple[str, str, int, str] | None:
        """Return what is told of the one that blocks."""
        found = self.told(now).blocked
        return None if found is None else (found.message_id, found.key, found.behind, found.reason)


# --- who blocks


def delayed() -> Stage:
    stage = Stage("aab")
    (first,) = stage.take()
    stage.ledger.delay(first, Again(first.properties, LATER + 3600), Isolation.NONE, 0.0)
    return stage


def refused() -> Stage:
    stage = Stage("aab")
    (first,) = stage.take()
    (publish_id,) = stage.finish(first)
    stage.ledger.publications.refused(publish_id, "no route", 0.0)
    return stage


def suspected() -> Stage:
    return Stage("aab", isolation=Isolation.STAGE)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (delayed, "its next attempt begins in 1 h 0 min"),
        (refused, "it cannot be placed: no route"),
        (suspected, "it may have killed the whole process tree, and waits until it can run isolated"),
    ],
)
def test_a_first_one_that_does_not_get_on_blocks_those_behind_it(make, reason):
    """One that has failed, whose result is refused, or which has to wait until it can run isolated: at once."""
    assert make().blocked() == ("a1", "a", 1, reason)


def in_hand() -> Stage:
    stage = Stage("aab")
    stage.take()
    return stage


def unanswered() -> Stage:
    stage = Stage("aab")
    (first,) = stage.take()
    stage.finish(first)
    return stage


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (in_hand, "it has been in hand for 12 s"),
        (unanswered, "the broker has not answered its publication for 12 s"),
    ],
)
def test_a_first_one_blocks_if_it_takes_long(make, reason):
    """Every message is in hand for a while, and so is every publication: they block only after some seconds."""
    stage = make()
    assert stage.blocked(BEFORE) is None
    assert stage.blocked() == ("a1", "a", 1, reason)


def test_work_on_a_lost_connection_blocks_its_key():
    """What was delivered again waits for it, if it is not the message that is being computed."""
    stage = Stage("a")
    stage.take()
    stage.ledger.consuming_lost(0.0)
    for tag in (1, 2):
        properties = Properties(correlation_id="a", message_id=f"new {tag}").encode()
        stage.ledger.delivered(Delivery(2, tag, properties, b"", False, "", "in"), 0.0)
    assert stage.blocked(BEFORE) is None
    reason = "work of its key, begun on a connection that was lost, has been in hand for 12 s"
    assert stage.blocked() == ("new 1", "a", 1, reason)


def test_who_waits_for_a_consumer_blocks_nobody():
    """However long, and whether it is at its turn in a lane or in none."""
    stage = Stage("aabb")
    stage.take(most=4)
    del stage.begun[stage.entries[0].seq]
    assert stage.blocked(1e6) is None
    assert Stage("aabb").blocked(1e6) is None


def test_one_with_nothing_behind_it_blocks_nobody_and_the_one_with_most_is_told():
    """A key with more that wait is worse; where the whole input is in order, nobody has a key."""
    stage = Stage("abbccc")
    for _ in range(3):
        stage.take()
    assert stage.blocked() == ("c4", "c", 2, "it has been in hand for 12 s")
    alone = Stage("a")
    alone.take()
    assert alone.blocked() is None
    whole = Stage("abc", "input")
    whole.take()
    assert whole.blocked() == ("a1", "", 2, "it has been in hand for 12 s")


def test_since_when_it_is_here_is_told():
    """That is from its delivery on, not from its last attempt."""
    found = delayed().told().blocked
    assert found is not None
    assert found.since == 0.0


# --- the hottest key


def test_the_key_with_most_messages_is_the_hottest():
    """Without any there is none."""
    told = Stage("abb").told()
    assert (told.hottest, told.hottest_messages) == ("b", 2)
    nothing = Stage("").told()
    assert (nothing.hottest, nothing.hottest_messages) == (None, 0)


# --- what cannot begin


def test_by_key_those_behind_one_that_is_computed_are_locked():
    """And nothing more comes once all of the prefetch is taken: then another Consumer would have nothing to do."""
    stage = Stage("aaaaaaaaab")
    stage.take(most=1)
    assert (stage.told(prefetch=10).locked, stage.told(prefetch=10).stuck) == (8, False)  # b can begin
    stage.take(most=1, lane=2)
    assert (stage.told(prefetch=10).locked, stage.told(prefetch=10).stuck) == (8, True)
    assert not stage.told(prefetch=20).stuck  # more may come, of other keys


def test_by_input_those_that_are_computed_wait_for_the_first_one():
    """They are no work for a Consumer any more, and take up the prefetch."""
    stage = Stage("a" * 10, "input")
    first, *others = stage.take(most=10)
    stage.ledger.delay(first, Again(first.properties, 60.0), Isolation.NONE, 0.0)
    for entry in others:
        assert stage.finish(entry) == []
    told = stage.told(prefetch=10)
    assert (told.delayed, told.locked, told.stuck, stage.ledger.publications.computed) == (1, 1, True, 9)
    stage.ledger.wake(60.0)
    told = stage.told(prefetch=10)
    assert (told.delayed, told.locked, told.stuck) == (0, 0, False)


def test_a_stage_that_takes_nothing_is_not_stuck():
    """Whoever is paused, or has no Consumers, has all messages at the broker."""
    assert not Stage("").told(prefetch=0).stuck
