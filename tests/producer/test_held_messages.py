"""Held messages: which are listed, and what becomes of one that is let go, by tables of events."""

import pytest

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Delivery, Publication
from mqworker.config.model import InputConfig, StageConfig
from mqworker.ipc.consumer_messages import Failure
from mqworker.producer.entry import DELAYED, OUT, Entry, Isolation, Plan
from mqworker.producer.failure_messages import Circumstances
from mqworker.producer.held_messages import delayed, described, find, let_go
from mqworker.producer.ledger import Ledger
from mqworker.producer.ordering import Ordering
from mqworker.producer.policy import plan_dead, plan_failure

QUEUE = "in"
STAGE = StageConfig(input=InputConfig(queue=QUEUE), jobs=("m:f",))
ABOUT = Circumstances("s", "host", 1, "2026-01-01T00:00:00.000Z", 0.5, hold=True)
RESULT = Plan("result", (Publication("", "out", b"", b"result"),))
BY_KEY, BY_INPUT = "header:camera", "input"


def delivery(tag: int, *, named: bool = True, epoch: int = 1) -> Delivery:
    """Return a delivery of one camera; message n has tag n."""
    block = Properties(message_id=str(tag) if named else None, headers=Headers({"camera": "a"})).encode()
    return Delivery(epoch, tag, block, b"message %d" % tag, epoch > 1, "", QUEUE)


def failed(ordered_by: str = BY_KEY, *, named: bool = True) -> tuple[Ledger, Entry]:
    """Return a ledger with three deliveries, the first of which has failed at 0.0."""
    ledger = Ledger(ordering=Ordering(ordered_by, QUEUE, hold=True))
    for tag in (1, 2, 3):
        ledger.delivered(delivery(tag, named=named), 0.0)
    (first,) = ledger.assignments.take(1, 1, 1)
    again = plan_failure(first, Failure("error", "ValueError", "no such frame"), STAGE, ABOUT)
    ledger.delay(first, again, Isolation.NONE, 0.0)
    return ledger, first


def test_what_is_told_of_a_held_message():
    """Its id, key, next attempt, how long until then, how many wait behind it, and why it failed."""
    ledger, first = failed()
    assert delayed(ledger) == [first]
    told = described(first, QUEUE, 0.0)
    assert (told.message_id, told.key, told.attempt, told.behind) == ("1", "a", 2, 2)
    assert (told.error_type, told.error) == ("ValueError", "no such frame")
    assert told.seconds == round(first.due, 3) > 0


def test_a_message_without_an_id_is_found_by_the_one_that_is_told():
    """The id is derived from its content as it was delivered, and stays the same through its attempts."""
    ledger, first = failed(named=False)
    name = described(first, QUEUE, 0.0).message_id
    assert len(name) == 32
    assert find(ledger, QUEUE, name) is first


@pytest.mark.parametrize("ordered_by", [BY_KEY, BY_INPUT])
def test_a_message_that_is_let_go_is_dead_before_the_next_goes_out(ordered_by):
    """The next one may begin at once, but its result waits until the dead letter is confirmed."""
    ledger, first = failed(ordered_by)
    (dead,) = ledger.finished(first.seq, plan_dead(first, let_go(first), STAGE, ABOUT), 1.0)
    table = Properties.decode(dead.publication.properties).headers
    assert (dead.publication.routing_key, table[headers.REASON], table[headers.ATTEMPT]) == ("in.dlq", "skipped", 2)
    assert (table[headers.ERROR_TYPE], table[headers.MESSAGE]) == (
        "ValueError",
        "skipped by an operator, after: no such frame",
    )
    assert (ledger.wake(1.0), delayed(ledger), find(ledger, QUEUE, "1")) == (None, [], None)
    (second,) = ledger.assignments.take(1, 2, 1)
    assert second.tag == 2
    assert ledger.finished(second.seq, RESULT, 1.0) == []
    ledger.confirmed([dead.publish_id], 1.0)
    (after,) = ledger.publications.take_turns(1.0)
    assert after.publication.settles == (1, 2)
    assert ledger.counters.dead == 1


def test_a_message_behind_a_held_one_is_let_go_in_its_turn():
    """Where the whole input is in order, others may fail and be let go meanwhile: the first one is not passed."""
    ledger, first = failed(BY_INPUT)
    (second,) = ledger.assignments.take(1, 2, 1)
    again = plan_failure(second, Failure("error", "ValueError", "neither"), STAGE, ABOUT)
    ledger.delay(second, again, Isolation.NONE, 0.0)
    assert delayed(ledger) == [first, second]
    assert [described(entry, QUEUE, 0.0).behind for entry in (first, second)] == [2, 1]
    assert ledger.finished(second.seq, plan_dead(second, let_go(second), STAGE, ABOUT), 0.0) == []
    (dead,) = ledger.finished(first.seq, plan_dead(first, let_go(first), STAGE, ABOUT), 0.0)
    ledger.confirmed([dead.publish_id], 0.0)
    (after,) = ledger.publications.take_turns(0.0)
    assert (after.publication.routing_key, after.publication.settles) == ("in.dlq", (1, 2))


def test_only_one_that_waits_can_be_found_for_that():
    """One that runs is found as such; one with an outcome or a lost connection is not found, nor is any other id."""
    ledger, first = failed()
    assert (first.state, find(ledger, QUEUE, "4")) == (DELAYED, None)
    ledger.wake(first.due)
    assert (find(ledger, QUEUE, "1"), first.state is DELAYED) == (first, False)
    (running,) = ledger.assignments.take(1, 2, 1)
    assert (find(ledger, QUEUE, "1"), running.state, delayed(ledger)) == (first, OUT, [])
    ledger.finished(first.seq, RESULT, 2.0)
    assert find(ledger, QUEUE, "1") is None

    ledger, first = failed()
    ledger.consuming_lost(1.0)
    assert (find(ledger, QUEUE, "1"), delayed(ledger)) == (None, [])
    ledger.delivered(delivery(1, epoch=2), 2.0)
    assert (find(ledger, QUEUE, "1"), delayed(ledger)) == (first, [first])
