"""The journal and where a message is, from the ledger's events alone."""

import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Delivery, Publication
from mqworker.config.model import InputConfig, StageConfig
from mqworker.ipc.consumer_messages import Failure
from mqworker.producer import inspect_message
from mqworker.producer.entry import Entry, Isolation, Plan
from mqworker.producer.failure_messages import Circumstances
from mqworker.producer.inspect_message import WantedMessage, find
from mqworker.producer.journal import SettledJournal, failed
from mqworker.producer.ledger import Ledger
from mqworker.producer.ordering import Ordering
from mqworker.producer.policy import plan_dead, plan_failure

QUEUE = "in"
STAGE = StageConfig(input=InputConfig(queue=QUEUE), jobs=("m:f",))
ABOUT = Circumstances("s", "host", 1, "2026-01-01T00:00:00.000Z", 0.5)
ERROR = Failure("error", "ValueError", "no such frame 17", place="jobs.py:4 in handle")
DROPPED = Plan("dropped")
RESULT = Plan("result", (Publication("", "out", Properties(message_id="a").encode(), b"r"),))


def delivery(name: str | None = "a", tag: int = 1, epoch: int = 1, table: dict | None = None) -> Delivery:
    block = Properties(message_id=name, headers=Headers(table or {})).encode()
    return Delivery(epoch, tag, block, b"body", epoch > 1, "", QUEUE)


def begun(ledger: Ledger, *deliveries: Delivery) -> list[Entry]:
    """Deliver these, and give them to a lane."""
    for each in deliveries:
        ledger.delivered(each, 1.0)
    return ledger.assignments.take(0, 1, len(deliveries))


def computed(ledger: Ledger, entry: Entry, plan: Plan, now: float = 5.0) -> list:
    entry.work = now, 2.0, 3, 7, ""
    return ledger.finished(entry.seq, plan, now)


def fail(ledger: Ledger, entry: Entry, outcome: str, plan: Plan, name: str, now: float = 5.0) -> list:
    """Note a failure as settlement does, and settle it."""
    entry.work = now, 2.0, 3, 7, name
    ledger.journal.failed(name, failed(entry, ERROR, outcome, 1, now + 4 if outcome == "retried" else 0.0))
    return ledger.finished(entry.seq, plan, now)


def states(ledger: Ledger, name: str = "a") -> list[str]:
    return [trace.state for trace in find(ledger, {}, WantedMessage(name, QUEUE))]


def ordered() -> Ledger:
    return Ledger(ordering=Ordering("input", QUEUE, hold=True))


def test_a_message_is_found_in_every_state_of_its_life():
    """Held, out, on its way, settled: one trace, whose times are those of what happened."""
    ledger = Ledger()
    ledger.delivered(delivery(), 1.0)
    assert states(ledger) == ["held"]
    (entry,) = ledger.assignments.take(0, 1, 1)
    assert states(ledger) == ["out"]
    (publish,) = computed(ledger, entry, RESULT)
    assert states(ledger) == ["placing"]
    ledger.publications.refused(publish.publish_id, "no such queue", 5.5)
    (trace,) = find(ledger, {}, WantedMessage("a", QUEUE))
    assert (trace.state, trace.error) == ("placing", "no such queue")
    (publish,) = ledger.publications.due(99.0)
    ledger.publications.confirmed([publish.publish_id], 99.5)
    (trace,) = find(ledger, {}, WantedMessage("a", QUEUE))
    assert (trace.state, trace.received, trace.begun, trace.finished, trace.settled) == ("result", 1.0, 3.0, 5.0, 99.5)
    assert (trace.duration, trace.slot, trace.generation, trace.size, trace.attempt) == (2.0, 7, 3, 4, 1)
    assert states(ledger, "b") == states(ledger, "") == []


@pytest.mark.parametrize(("outcome", "plan"), [("retried", plan_failure), ("dead", plan_dead)])
def test_a_failure_is_told_with_its_reason_and_place(outcome, plan):
    """While its retry or letter is on its way, after that, and when its place in the journal is taken."""
    ledger = Ledger()
    ledger.journal = ledger.publications._journal = SettledJournal(settled=1)
    (entry,) = begun(ledger, delivery())
    (publish,) = fail(ledger, entry, outcome, plan(entry, ERROR, STAGE, ABOUT), "a")
    (trace,) = find(ledger, {}, WantedMessage("a", QUEUE))
    assert (trace.state, trace.reason, trace.place) == ("placing", "error", "jobs.py:4 in handle")
    ledger.publications.confirmed([publish.publish_id], 6.0)
    (trace,) = find(ledger, {}, WantedMessage("a", QUEUE))
    assert (trace.state, trace.error, trace.settled) == (outcome, "no such frame 17", 6.0)
    assert trace.due == (9.0 if outcome == "retried" else 0.0)
    (other,) = begun(ledger, delivery("b", 2))
    computed(ledger, other, DROPPED)
    assert states(ledger, "b") == ["dropped"]
    assert states(ledger) == [outcome], "failures are remembered longer"


def test_attempts_of_a_message_are_told_in_their_order():
    """The retry is another delivery of the same message; the newest trace is the last."""
    ledger = Ledger()
    (entry,) = begun(ledger, delivery())
    (publish,) = fail(ledger, entry, "retried", plan_failure(entry, ERROR, STAGE, ABOUT), "a")
    ledger.publications.confirmed([publish.publish_id], 6.0)
    again = Delivery(1, 2, publish.publication.properties, b"body", False, "", QUEUE)
    ledger.delivered(again, 10.0)
    traces = find(ledger, {}, WantedMessage("a", QUEUE))
    assert [(trace.state, trace.attempt) for trace in traces] == [("retried", 1), ("held", 2)]
    (entry,) = ledger.assignments.take(0, 2, 1)
    computed(ledger, entry, DROPPED, 12.0)
    traces = find(ledger, {}, WantedMessage("a", QUEUE))
    assert [(trace.state, trace.attempt) for trace in traces] == [("retried", 1), ("dropped", 2)]


def test_in_an_order_a_message_waits_for_its_turn_and_for_its_next_attempt():
    """One that failed keeps its place; one behind it is computed, and waits."""
    ledger = ordered()
    first, second = begun(ledger, delivery(), delivery("b", 2))
    first.work = 5.0, 2.0, 3, 7, "a"
    ledger.journal.failed("a", failed(first, ERROR, "retried", 1, 9.0))
    again = plan_failure(first, ERROR, STAGE, ABOUT._replace(hold=True))
    ledger.delay(first, again, Isolation.NONE, time.monotonic())
    computed(ledger, second, RESULT)
    traces = find(ledger, {}, WantedMessage("a", QUEUE))
    assert [(trace.state, trace.attempt) for trace in traces] == [("retried", 1), ("delayed", 2)]
    assert traces[1].due > 0
    assert states(ledger, "b") == ["computed"]


def test_the_outcome_of_a_lost_connection_is_kept_and_found():
    """Until its redelivery adopts it."""
    ledger = Ledger()
    (entry,) = begun(ledger, delivery())
    ledger.consuming_lost(2.0)
    assert states(ledger) == ["out"]
    computed(ledger, entry, RESULT)
    assert states(ledger) == ["kept"]
    (publish,) = ledger.delivered(delivery(epoch=2), 6.0)
    ledger.publications.confirmed([publish.publish_id], 7.0)
    assert states(ledger) == ["result"]


def test_a_message_without_an_id_is_found_by_the_one_that_is_derived():
    """In hand its body is there, after that its result tells the id; without either it is not found."""
    name = fingerprint(delivery(None).properties, b"body").hex()[:32]
    ledger = Ledger()
    (entry,) = begun(ledger, delivery(None))
    assert states(ledger, name) == ["out"]
    (publish,) = computed(ledger, entry, Plan("result", (Publication("", "out", result_of(name), b""),)))
    ledger.publications.confirmed([publish.publish_id], 6.0)
    assert states(ledger, name) == ["result"]
    for outcome in ("retried", "dead"):
        ledger = Ledger()
        (entry,) = begun(ledger, delivery(None))
        (publish,) = fail(ledger, entry, outcome, plan_dead(entry, ERROR, STAGE, ABOUT), name)
        ledger.publications.confirmed([publish.publish_id], 6.0)
        assert states(ledger, name) == [outcome]
    ledger = Ledger()
    (entry,) = begun(ledger, delivery(None))
    computed(ledger, entry, DROPPED)
    assert states(ledger, name) == []


def result_of(name: str, part: int = 0) -> bytes:
    """Return the properties of a result whose input had no id."""
    table = {"x-mqworker-derived-id": True} | ({"x-mqworker-part": part} if part else {})
    return Properties(message_id=f"{name}.{part}" if part else name, headers=Headers(table)).encode()


def test_of_several_results_the_id_is_that_of_their_input():
    """Theirs end with their numbers."""
    name = fingerprint(delivery(None).properties, b"body").hex()[:32]
    ledger = Ledger()
    (entry,) = begun(ledger, delivery(None))
    parts = tuple(Publication("", "out", result_of(name, part), b"") for part in (1, 2))
    (together,) = computed(ledger, entry, Plan("result", parts))
    ledger.publications.confirmed(together.publish_ids, 6.0)
    assert states(ledger, name) == ["result"]
    assert states(ledger, f"{name}.1") == []


@pytest.mark.parametrize("shown", ["\\xff", "\udcff".encode("utf-8", "backslashreplace").decode()])
def test_an_id_that_is_no_text_is_found_as_it_is_shown(shown):
    """Logs and lists write such bytes as escapes."""
    ledger = Ledger()
    begun(ledger, delivery("\udcff-1"))
    assert states(ledger, f"{shown}-1") == ["out"]


def test_an_id_within_other_properties_is_no_id():
    """Headers may have it, and other ids may contain it."""
    ledger = Ledger()
    begun(ledger, delivery("aa", table={"parent": "a"}))
    assert states(ledger) == []


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 20))
def test_exactly_the_last_messages_are_remembered(numbers, most):
    """Whatever was settled before is forgotten, and the journal says how far it reaches back."""
    journal, expected = SettledJournal(settled=most), deque(maxlen=most)
    for at, number in enumerate(numbers):
        entry = Entry(at, delivery(str(number), at), Isolation.NONE, 0.0)
        journal.note(entry, "dropped", float(at))
        expected.append((str(number), float(at)))
    assert [(Properties.decode(note.block).message_id, note.settled) for note in journal.settled()] == [*expected]
    assert len(journal) == len(expected)
    assert journal.since == (expected[0][1] if len(expected) == most else None)


def test_a_note_costs_next_to_nothing():
    """100,000 settled messages take less than a third of a second, on a slow machine too."""
    journal, entry = SettledJournal(), Entry(1, delivery(), Isolation.NONE, 0.0)
    began = time.process_time()
    for _ in range(100_000):
        journal.note(entry, "result", 1.0)
    assert time.process_time() - began < 0.33


@pytest.mark.parametrize("name", ["a", "1", "", "x-mqworker-derived-id"])
def test_a_short_id_is_looked_for_without_decoding_what_is_remembered(monkeypatch, name):
    """It occurs in the properties of nearly every message, but as no id; the Producer's loop waits meanwhile."""
    ledger, table = Ledger(), {"a": "a", "n": "1", "parent": "aa1", "x-mqworker-derived-id": "b" * 32}
    for tag, each in enumerate(("data-1", None), 1):
        (entry,) = begun(ledger, delivery(each, tag, table=table))
        computed(ledger, entry, DROPPED)
        ledger.delivered(delivery(each, tag + 2, table=table), 6.0)
    decoded = []
    monkeypatch.setattr(inspect_message, "decode_leniently", decoded.append)
    assert states(ledger, name) == []
    assert not decoded


def test_a_retry_of_a_message_without_an_id_is_found_by_the_id_it_carries():
    """Also where a header of its own is the same text."""
    ledger = Ledger()
    begun(ledger, delivery(None, table={"a": "b" * 32, "x-mqworker-derived-id": "b" * 32}))
    begun(ledger, delivery("c", 2, table={"x-mqworker-derived-id": "d" * 32}))
    assert (states(ledger, "b" * 32), states(ledger, "c"), states(ledger, "d" * 32)) == (["out"], ["out"], [])
