"""Attempts of a message that keeps its place: by tables of events."""

from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Delivery, Publication
from mqworker.consumer.register import LastLife
from mqworker.producer.entry import Again, Entry, Isolation, Plan
from mqworker.producer.ledger import Ledger
from mqworker.producer.ordering import Ordering
from mqworker.producer.quarantine import May
from mqworker.producer.redelivery_cache import KEEP
from mqworker.producer.suspects import Suspects

RESULT = Plan("result", (Publication("", "out", b"", b"result"),))
SECOND = Properties(headers=Headers({"attempt": 2})).encode()
NONE = Isolation.NONE


def delivery(tag: int, first_tag: int = 0) -> Delivery:
    """Return a delivery; with `first_tag` it is the redelivery of that one after a lost connection."""
    return Delivery(1 + bool(first_tag), tag, b"", b"message %d" % (first_tag or tag), bool(first_tag), "", "in")


def failed(count: int = 1) -> tuple[Ledger, Entry, int]:
    """Return a ledger with so many deliveries, the first of which has failed at 0.0; it is due at 5.0."""
    ledger = Ledger(ordering=Ordering("input", "in", hold=True))
    for tag in range(1, count + 1):
        ledger.delivered(delivery(tag), 0.0)
    first, *_ = ledger.assignments.take(1, 1, count)
    seq = first.seq
    ledger.delay(first, Again(SECOND, 5.0), NONE, 0.0)
    return ledger, first, seq


def test_a_failed_message_keeps_its_place():
    """What was computed behind it is published after it; its attempt begins when it is due, with the new properties."""
    ledger, first, _ = failed(2)
    assert ledger.finished(2, RESULT, 0.0) == []
    assert (ledger.wake(4.9), ledger.assignments.take(1, 2, 9)) == (5.0, [])
    assert ledger.wake(5.0) is None
    assert ledger.assignments.take(1, 2, 9) == [first]
    assert (first.properties, first.original, ledger.counters.delayed) == (SECOND, b"", 1)
    (action,) = ledger.finished(first.seq, RESULT, 5.0)
    ledger.confirmed([action.publish_id], 5.0)
    (after,) = ledger.publications.take_turns(5.0)
    assert after.publication.settles == (1, 2)
    assert ledger.held_bytes.total > 0
    ledger.confirmed([after.publish_id], 5.0)
    assert ledger.held_bytes.total == 0


def test_a_second_copy_of_an_outcome_is_late():
    """An outcome may come from the outbox and again from the pipe: the next attempt must not pay for the first one."""
    ledger, first, seq = failed()
    assert ledger.entry(seq) is None
    assert ledger.finished(seq, RESULT, 0.0) == []
    assert (ledger.counters.late, ledger.entry(first.seq)) == (1, first)


def test_attempts_outlive_the_connection():
    """A redelivery goes on with the attempts of its message and the time of the next one, and brings its body back."""
    ledger, first, _ = failed()
    ledger.consuming_lost(1.0)
    assert (ledger.wake(9.0), ledger.held_bytes.total, ledger.cache.kept) == (None, 0, 1)
    assert ledger.delivered(delivery(1, first_tag=1), 2.0) == []
    assert ledger.wake(2.0) == 5.0
    ledger.wake(5.0)
    assert ledger.assignments.take(1, 2, 9) == [first]
    assert (first.properties, first.body, first.epoch, ledger.cache.kept) == (SECOND, b"message 1", 2, 0)


def test_attempts_outlive_a_connection_that_is_lost_while_they_run():
    """What a lane gives back of them is kept too, and so is a failure that comes then."""
    for how in ("given back", "died", "failed again"):
        ledger, first, _ = failed()
        ledger.wake(5.0)
        ledger.assignments.take(1, 2, 9)
        ledger.consuming_lost(6.0)
        if how == "given back":
            assert ledger.assignments.chunk_ended(1, 2) == 0
        elif how == "died":
            assert ledger.assignments.lane_died(1, [first.seq]) == []
        else:
            ledger.delay(first, Again(SECOND + b"", 5.0), NONE, 6.0)
        ledger.delivered(delivery(1, first_tag=1), 7.0)
        assert ledger.wake(7.0) == (11.0 if how == "failed again" else None)
        ledger.wake(11.0)
        assert (ledger.assignments.take(1, 3, 9), first.properties) == ([first], SECOND)


def test_attempts_are_kept_until_they_are_due_and_an_hour_longer():
    """Else a message that asks for its next attempt in two hours would never reach it."""
    ledger, first, _ = failed()
    ledger.wake(5.0)
    ledger.assignments.take(1, 2, 9)
    ledger.delay(first, Again(SECOND, 7200.0), NONE, 10.0)
    ledger.consuming_lost(11.0)
    ledger.tick(7210.0 + KEEP)
    assert ledger.cache.kept == 1
    ledger.tick(7211.0 + KEEP)
    assert ledger.cache.kept == 0


def test_a_message_that_kills_the_tree_at_its_second_attempt_is_convicted(tmp_path):
    """It is known as it was delivered, though its attempt has other properties, and no failed attempt clears it."""
    path, arrived = tmp_path / "s.suspects", delivery(1)
    known = fingerprint(arrived.properties, arrived.body)
    isolated = b""
    for life in range(1, 5):
        ledger = Ledger(ordering=Ordering("input", "in", hold=True))
        suspects = Suspects(path, LastLife(0, True, False, 0.0, b"", {}))
        suspect = suspects.find(known)
        beside = Isolation.STAGE if suspect is not None and suspect.suspected else NONE
        ledger.delivered(arrived, 0.0, beside)
        may = May.SUSPECT if beside else May.OTHERS
        (entry,) = ledger.assignments.take(1, 1, 9, may)
        ledger.delay(entry, Again(SECOND, 0.0), NONE, 0.0)
        ledger.wake(0.0)
        assert ledger.assignments.take(1, 2, 9, may) == [entry]
        assert entry.properties == SECOND
        isolated = entry.key if beside else b""  # as the register has it when the tree dies
        suspects = Suspects(path, LastLife(life, True, False, 100.0, isolated, {entry.key: 99.0}))
    evidence = suspects.find(known)
    assert evidence is not None
    assert evidence.convicted
