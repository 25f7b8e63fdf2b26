"""The hot paths send and accept the same bytes as pika."""

import pika
import pika.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp.properties import Properties
from mqworker.brokers.rabbitmq.fast_frames import Deliveries, encode_in_pieces, encode_publish

names = st.text(max_size=60)
FRAME_MAX = 4096


def frames(data: bytes):
    """Split bytes into frames: kind, start and end of the payload."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 3 : at + 7])
        yield data[at], at + 7, at + 7 + size
        at += size + 8


def by_pika(channel: int, method, block: bytes, body: bytes) -> bytes:
    """Return the frames of a method with content as pika makes them."""
    properties = Properties.decode(block)
    mine = pika.BasicProperties(content_type=properties.content_type, message_id=properties.message_id)
    room = FRAME_MAX - 8
    parts = [body[start : start + room] for start in range(0, len(body), room)]
    made = [pika.frame.Method(channel, method), pika.frame.Header(channel, len(body), mine)]
    made += [pika.frame.Body(channel, part) for part in parts]
    return b"".join(frame.marshal() for frame in made)


def block(content_type, message_id) -> bytes:
    properties = Properties()
    properties.content_type, properties.message_id = content_type, message_id
    return properties.encode()


@given(names, names, st.binary(max_size=3 * FRAME_MAX), st.booleans(), st.sampled_from([None, "application/json"]))
def test_a_publish_is_the_same_bytes_as_pika_sends(exchange, routing_key, body, mandatory, content_type):
    """The broker receives the same bytes whoever made the frames."""
    properties = block(content_type, "1")
    method = pika.spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    ours = encode_publish(7, exchange, routing_key, properties, body, mandatory=mandatory, frame_max=FRAME_MAX)
    assert ours == by_pika(7, method, properties, body)
    pieces = encode_in_pieces(7, exchange, routing_key, properties, body, mandatory=mandatory, frame_max=FRAME_MAX)
    assert b"".join(pieces) == ours


@given(names, names, st.lists(st.binary(max_size=2 * FRAME_MAX), max_size=4), st.booleans())
def test_a_delivery_is_put_together_whatever_its_frames(exchange, routing_key, bodies, redelivered):
    """Each delivery is returned once, whole, in order, however it is split into frames."""
    told: list[tuple[object, ...]] = []
    deliveries = Deliveries(lambda *delivery: told.append(delivery))
    for tag, body in enumerate(bodies, 1):
        method = pika.spec.Basic.Deliver("consumer", tag, redelivered, exchange, routing_key)
        data = by_pika(3, method, block("text/plain", None), body)
        assert all(deliveries.takes(kind, data, start, end) for kind, start, end in frames(data))
    expected = [
        (tag, redelivered, exchange, routing_key, block("text/plain", None), body) for tag, body in enumerate(bodies, 1)
    ]
    assert told == expected


@given(names, names, st.binary(min_size=1, max_size=200), st.booleans(), st.binary(max_size=20))
def test_a_delivery_in_the_buffer_is_taken_whole_as_frame_by_frame(exchange, routing_key, body, redelivered, behind):
    """A delivery whose frames are all there is the same as one frame by frame; one that is cut off is not touched."""
    whole: list[tuple[object, ...]] = []
    singly: list[tuple[object, ...]] = []
    at_once = Deliveries(lambda *delivery: whole.append(delivery))
    by_frame = Deliveries(lambda *delivery: singly.append(delivery))
    method = pika.spec.Basic.Deliver("consumer", 7, redelivered, exchange, routing_key)
    data = by_pika(3, method, block("text/plain", "1"), body)
    first = next(frames(data))[2] + 1  # the end of the first frame
    for cut in range(first, len(data)):
        assert not at_once.take_whole(data[:cut], 0, first)
    assert at_once.take_whole(b"before" + data + behind, 6, 6 + first) == 6 + len(data)
    for kind, start, end in frames(data):
        by_frame.takes(kind, data, start, end)
    assert whole == singly


def test_what_is_no_whole_delivery_is_left_to_be_taken_frame_by_frame():
    """Other methods, an empty body and a body in several frames are not taken whole; nor is anything in the middle."""
    deliveries = Deliveries(lambda *delivery: pytest.fail(f"{delivery}"))
    method = pika.spec.Basic.Deliver("c", 1, False, "", "q")
    for data in (
        pika.frame.Method(3, pika.spec.Basic.CancelOk("consumer")).marshal() * 3,
        by_pika(3, method, block(None, None), b""),
        by_pika(3, method, block(None, None), b"") + by_pika(3, method, block(None, None), b"next"),
        by_pika(3, method, block(None, None), bytes(FRAME_MAX)),
    ):
        assert not deliveries.take_whole(data, 0, next(frames(data))[2] + 1)
    begun = pika.frame.Method(3, method).marshal()
    assert deliveries.takes(1, begun, 7, len(begun) - 1)
    data = by_pika(3, method, block(None, None), b"body")
    assert not deliveries.take_whole(data, 0, next(frames(data))[2] + 1)


def test_the_content_of_another_channel_in_between_is_nobody_elses():
    """A broker may send whole frames of one channel between those of another; each delivery keeps its own content."""
    told: list[tuple[object, ...]] = []
    deliveries = Deliveries(lambda *delivery: told.append(delivery))
    method = pika.spec.Basic.Deliver("consumer", 1, False, "", "q")
    ours, theirs = (
        by_pika(3, method, block("text/plain", None), b"ours"),
        by_pika(4, method, block(None, None), b"theirs"),
    )
    first, other = next(frames(ours))[2] + 1, next(frames(theirs))[2] + 1
    assert not deliveries.take_whole(ours[:first] + theirs[other:] + ours[first:], 0, first)
    assert not told


def test_other_methods_are_left_to_pika():
    """Only deliveries are handled here."""
    deliveries = Deliveries(lambda *delivery: pytest.fail(f"{delivery}"))
    data = pika.frame.Method(3, pika.spec.Basic.CancelOk("consumer")).marshal()
    assert [deliveries.takes(kind, data, start, end) for kind, start, end in frames(data)] == [False]


def test_a_method_in_the_middle_of_a_delivery_ends_the_connection():
    """A peer that violates the order of frames is disconnected."""
    deliveries = Deliveries(lambda *delivery: pytest.fail(f"{delivery}"))
    method = pika.frame.Method(3, pika.spec.Basic.Deliver("c", 1, False, "", "q")).marshal()
    kinds = [deliveries.takes(kind, method, start, end) for kind, start, end in frames(method)]
    assert kinds == [True]
    with pytest.raises(ValueError):
        deliveries.takes(1, method, 7, len(method) - 1)


def test_a_name_that_is_too_long_is_refused():
    """AMQP's short strings hold at most 255 bytes."""
    for encode in (encode_publish, encode_in_pieces):
        with pytest.raises(ValueError):
            encode(1, "", "x" * 256, b"", b"", mandatory=True, frame_max=FRAME_MAX)
