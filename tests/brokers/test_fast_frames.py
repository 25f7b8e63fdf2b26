"""The hot paths send and accept the same bytes as pika."""

import pika
import pika.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp.properties import Properties
from mqworker.brokers.rabbitmq.fast_frames import Arrival, Deliveries, encode_in_pieces, encode_publish

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
    said: list[Arrival] = []
    deliveries = Deliveries(said.append)
    for tag, body in enumerate(bodies, 1):
        method = pika.spec.Basic.Deliver("consumer", tag, redelivered, exchange, routing_key)
        data = by_pika(3, method, block("text/plain", None), body)
        assert all(deliveries.takes(kind, data, start, end) for kind, start, end in frames(data))
    expected = [
        Arrival(tag, redelivered, exchange, routing_key, block("text/plain", None), body)
        for tag, body in enumerate(bodies, 1)
    ]
    assert said == expected


def test_other_methods_are_left_to_pika():
    """Only deliveries are handled here."""
    deliveries = Deliveries(lambda arrival: pytest.fail(f"{arrival}"))
    data = pika.frame.Method(3, pika.spec.Basic.CancelOk("consumer")).marshal()
    assert [deliveries.takes(kind, data, start, end) for kind, start, end in frames(data)] == [False]


def test_a_method_in_the_middle_of_a_delivery_ends_the_connection():
    """A peer that violates the order of frames is disconnected."""
    deliveries = Deliveries(lambda arrival: pytest.fail(f"{arrival}"))
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
