"""The campaign's reader of AMQP frames, and what it recognises as an ack before its confirm."""

import pika
import pika.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.spec import Basic, Channel, Confirm

from tests.chaos.amqp import BODY, HEADER, METHOD, Frame, Label, Splitter, label
from tests.chaos.wire import Wire

CONSUME, PUBLISH = 1, 2  # connections
RESULT, RETRY = ("direct", "out"), ("", "in.retry.1s")


def header(name: str, **counts: int) -> bytes:
    """Return a content header frame as pika writes it."""
    headers = {"x-foreign": "f", **{f"x-mqworker-{word}": count for word, count in counts.items()}}
    properties = pika.BasicProperties("application/json", headers=headers, message_id=name, correlation_id="c")
    return pika.frame.Header(1, 3, properties).marshal()


def method(what) -> bytes:
    """Return a method frame as pika writes it."""
    return pika.frame.Method(1, what).marshal()


class Talk:
    """Frames as they pass, one after another."""

    def __init__(self) -> None:
        self.wire = Wire()
        self._splitters: dict[tuple[int, bool], Splitter] = {}
        self._time = 0.0
        self.pass_(PUBLISH, True, b"AMQP\0\0\x09\x01", method(Channel.Open()), method(Confirm.Select()))
        self.pass_(CONSUME, True, b"AMQP\0\0\x09\x01", method(Channel.Open()))

    def pass_(self, connection: int, client: bool, *frames: bytes) -> None:
        splitter = self._splitters.setdefault((connection, client), Splitter(client=client))
        for frame in splitter.feed(b"".join(frames)):
            self._time += 0.01
            self.wire.saw(self._time, connection, frame, client=client)

    def deliver(self, tag: int, name: str, redelivered: bool = False, **counts: int) -> None:
        deliver = Basic.Deliver("tag", tag, redelivered, "", "in")
        self.pass_(CONSUME, False, method(deliver), header(name, **counts), pika.frame.Body(1, b"abc").marshal())

    def publish(self, name: str, target: tuple[str, str] = RESULT, **counts: int) -> None:
        publish = Basic.Publish(0, *target, mandatory=True)
        self.pass_(PUBLISH, True, method(publish), header(name, **counts), pika.frame.Body(1, b"abc").marshal())

    def confirm(self, number: int, multiple: bool = False) -> None:
        self.pass_(PUBLISH, False, method(Basic.Ack(number, multiple)))

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.pass_(CONSUME, True, method(Basic.Ack(tag, multiple)))


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_an_ack_after_its_confirm_is_right(talk):
    """Deliver, publish, confirm, ack: nothing is wrong, even for many at once."""
    for tag in (1, 2, 3):
        talk.deliver(tag, f"m{tag}")
        talk.publish(f"m{tag}")
    talk.confirm(3, multiple=True)
    talk.ack(3, multiple=True)
    assert talk.wire.violations == []
    assert (talk.wire.acks, talk.wire.most_unsettled) == (3, 3)


def test_an_ack_before_its_confirm_is_seen(talk):
    """One of three results is not confirmed yet: exactly its ack is wrong."""
    for tag in (1, 2, 3):
        talk.deliver(tag, f"m{tag}")
        talk.publish(f"m{tag}")
    talk.confirm(2, multiple=True)
    talk.ack(3, multiple=True)
    assert [words for words in talk.wire.violations if "m3" in words] == talk.wire.violations != []


def test_an_ack_without_any_publication_is_seen(talk):
    """An ack without any publication is wrong."""
    talk.deliver(1, "m1")
    talk.ack(1)
    assert len(talk.wire.violations) == 1


def test_a_returned_or_refused_publication_is_no_outcome(talk):
    """A confirm after a return, and a nack, do not allow an ack; a second, confirmed publication does."""
    talk.deliver(1, "m1")
    talk.publish("m1")
    returned = Basic.Return(312, "NO_ROUTE", *RESULT)
    talk.pass_(PUBLISH, False, method(returned), header("m1"), pika.frame.Body(1, b"abc").marshal())
    talk.confirm(1)
    talk.publish("m1")
    talk.pass_(PUBLISH, False, method(Basic.Nack(2)))
    talk.ack(1)
    assert len(talk.wire.violations) == 1
    talk.deliver(2, "m1", redelivered=True)
    talk.publish("m1")
    talk.confirm(3)
    talk.ack(2)
    assert len(talk.wire.violations) == 1


def test_each_attempt_needs_an_outcome_of_its_own(talk):
    """The confirmed retry settles the first attempt, but not the second."""
    talk.deliver(1, "m1")
    talk.publish("m1", RETRY, attempt=2)
    talk.confirm(1)
    talk.ack(1)
    talk.deliver(2, "m1", attempt=2)
    talk.ack(2)
    assert [words for words in talk.wire.violations if "attempt=2" in words] == talk.wire.violations != []


def test_a_redelivery_may_be_acked_for_what_was_confirmed_before(talk):
    """The ack was lost with its connection: the outcome is there, the redelivery needs no second one."""
    talk.deliver(1, "m1")
    talk.publish("m1")
    talk.confirm(1)
    talk.wire.closed(CONSUME)
    talk.deliver(1, "m1", redelivered=True)
    talk.ack(1)
    assert talk.wire.violations == []


def test_of_two_copies_that_are_alike_the_older_one_may_come_back(talk):
    """A delay queue has moved a message twice: the redelivery of the first needs no second outcome, the second does."""
    talk.deliver(1, "m1", crashes=1)
    talk.publish("m1")
    talk.confirm(1)
    talk.wire.closed(CONSUME)
    talk.deliver(1, "m1", crashes=1)  # the second copy
    talk.deliver(2, "m1", redelivered=True, crashes=1)  # the first
    talk.ack(2)
    assert talk.wire.violations == []
    talk.ack(1)
    assert len(talk.wire.violations) == 1


def test_an_ack_of_what_was_never_delivered_is_seen(talk):
    """A tag of an earlier connection must not be acked."""
    talk.ack(7)
    assert "unknown tag 7" in talk.wire.violations[0]


FRAMES = (
    method(Basic.Deliver("tag", 1, False, "", "in")),
    header("m1", attempt=2, crashes=1),
    pika.frame.Body(1, b"\xce" * 50).marshal(),
    pika.frame.Heartbeat().marshal(),
    method(Basic.Ack(5, True)),
)


@given(st.lists(st.integers(1, 40)))
def test_frames_are_found_however_the_bytes_arrive(sizes):
    """However the stream is cut, the same frames are found, and where in the last bytes each ends."""
    stream = b"AMQP\0\0\x09\x01" + b"".join(FRAMES)
    splitter, found, at = Splitter(client=True), [], 0
    for size in [*sizes, len(stream)]:
        data = stream[at : at + size]
        for frame in splitter.feed(data):
            assert stream[at + frame.end - 1] == 0xCE
            found.append(frame)
        at += len(data)
    assert [frame.kind for frame in found] == [METHOD, HEADER, 8, METHOD]
    assert BODY not in {frame.kind for frame in found}
    assert label(found[1].payload) == Label("m1", 2, 1)
    assert isinstance(found[0], Frame)
