"""The two hot paths of AMQP 0-9-1 without pika's objects: publishing a message, and taking a delivery.

Runs on the loop of an AmqpConnection. Everything else (handshake, channels, requests, heartbeats) is left to pika; with
pika, these two paths would be half of what a message costs. A name that is not UTF-8 is delivered with escapes, because
it is passed between processes as text. A large body is never copied as a whole: its frames are made as they are
written, and it is assembled as they arrive. Layout: AMQP 0-9-1, sections 4.2.2 to 4.2.6, and the class basic.
"""

import functools
import itertools
import struct
from collections.abc import Callable, Iterator
from io import BytesIO

METHOD, HEADER, BODY = 1, 2, 3
FRAME_END = b"\xce"
_DELIVER = b"\x00\x3c\x00\x3c"
FRAME = struct.Struct(">BHI")  # kind, channel, size of the payload
_CONTENT = struct.Struct(">BHIHHQ")  # a header frame up to the properties: class, weight, size of the body
_TAG = struct.Struct(">QB")
_BASIC = 60
_AROUND = FRAME.size + len(FRAME_END)
_FIXED = _CONTENT.size - FRAME.size  # bytes of a header frame's payload besides the properties
PIECE = 1 << 20  # bytes of a large body that are written at once
Buffer = bytes | memoryview


@functools.lru_cache(1024)
def _publish_method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    payload = b"\x00\x3c\x00\x28\x00\x00"  # basic.publish, and a reserved short
    for text in (exchange, routing_key):
        encoded = text.encode("utf-8", "surrogateescape")
        if len(encoded) > 255:
            raise ValueError("an exchange or a routing key is longer than 255 bytes")
        payload += bytes((len(encoded),)) + encoded
    payload += b"\x01" if mandatory else b"\x00"
    return FRAME.pack(METHOD, channel, len(payload)) + payload + FRAME_END


def encode_publish(
    channel: int, exchange: str, routing_key: str, properties: bytes, body: bytes, *, mandatory: bool, frame_max: int
) -> bytes:
    """Return all frames of one basic.publish; raises ValueError when a name is too long."""
    frames = _head(channel, exchange, routing_key, properties, len(body), mandatory)
    if 0 < len(body) <= frame_max - _AROUND:
        return b"".join((*frames, FRAME.pack(BODY, channel, len(body)), body, FRAME_END))
    return b"".join((*frames, _body(channel, body, frame_max)))


def encode_in_pieces(
    channel: int, exchange: str, routing_key: str, properties: bytes, body: bytes, *, mandatory: bool, frame_max: int
) -> Iterator[bytes]:
    """Return the same frames as an iterator, which makes those of the body some at a time."""
    head = b"".join(_head(channel, exchange, routing_key, properties, len(body), mandatory))
    step = max(1, PIECE // (frame_max - _AROUND)) * (frame_max - _AROUND)
    view = memoryview(body)
    parts = (view[start : start + step] for start in range(0, len(body), step))
    return itertools.chain((head,), (_body(channel, part, frame_max) for part in parts))


def _head(
    channel: int, exchange: str, routing_key: str, properties: bytes, size: int, mandatory: bool
) -> tuple[bytes, bytes, bytes, bytes]:
    properties = properties or b"\x00\x00"
    header = _CONTENT.pack(HEADER, channel, _FIXED + len(properties), _BASIC, 0, size)
    return _publish_method(channel, exchange, routing_key, mandatory), header, properties, FRAME_END


def _body(channel: int, body: Buffer, frame_max: int) -> bytes:
    frames: list[Buffer] = []
    room = frame_max - _AROUND
    view = memoryview(body)  # its slices are not copies
    for start in range(0, len(body), room):
        part = view[start : start + room]
        frames += (FRAME.pack(BODY, channel, len(part)), part, FRAME_END)
    return b"".join(frames)


class Deliveries:
    """Assembles the deliveries of one channel from its frames; leaves all other frames alone.

    `deliver` is called for each: tag, whether it is a redelivery, exchange, routing key, properties, body.
    """

    def __init__(self, deliver: Callable[[int, bool, str, str, bytes, bytes], None]) -> None:
        self._deliver = deliver
        self._method: tuple[int, bool, str, str] | None = None
        self._properties = b""
        self._missing = 0  # bytes of the body that have not arrived
        self._body = b""
        self._parts: BytesIO | None = None  # of a body in several frames

    def take_whole(self, buffer: bytes, at: int, header: int) -> int:
        """Take a delivery whose frames are all in the buffer, with the body in one frame, as is nearly always the case.

        Its first frame begins at `at`, the next one at `header`. Returns where the last one ends, or 0 if there is no
        such delivery.
        """
        size = len(buffer)
        if self._method is not None or buffer[at + 7 : at + 11] != _DELIVER or header + _CONTENT.size > size:
            return 0
        fields: tuple[int, ...] = _CONTENT.unpack_from(buffer, header)
        kind, channel, length, _, _, missing = fields
        body = header + _AROUND + length
        if kind != HEADER or body + FRAME.size > size or FRAME.unpack_from(buffer, body) != (BODY, channel, missing):
            return 0
        if buffer[at + 1 : at + 3] != buffer[header + 1 : header + 3]:  # frames of another channel may come in between
            return 0
        end = body + _AROUND + missing
        if end > size:
            return 0
        first = body + FRAME.size
        properties = buffer[header + _CONTENT.size : body - 1]
        self._deliver(*_delivered(buffer, at + 7), properties, buffer[first : first + missing])
        return end

    def takes(self, kind: int, buffer: bytes, start: int, end: int) -> bool:
        """Take one frame's payload, buffer[start:end], if it belongs to a delivery; returns whether it does."""
        if self._method is None:
            if kind != METHOD or buffer[start : start + 4] != _DELIVER:
                return False
            self._method = _delivered(buffer, start)
            return True
        if kind == HEADER:
            self._missing = int.from_bytes(buffer[start + 4 : start + 12])
            self._properties = buffer[start + 12 : end]
        elif kind == BODY:
            if self._parts is None and end - start >= self._missing:
                self._body = buffer[start:end]
            else:
                if self._parts is None:
                    self._parts = BytesIO(bytes(self._missing))  # it never grows, so it is never copied
                self._parts.write(memoryview(buffer)[start:end])
            self._missing -= end - start
        else:
            raise ValueError("a method came in the middle of a delivery")
        if self._missing <= 0:
            method, self._method = self._method, None
            body, self._body = self._body, b""
            if self._parts is not None:
                body, self._parts = self._parts.getvalue(), None  # shared with the BytesIO, not copied
            self._deliver(*method, self._properties, body)
        return True


def _delivered(buffer: bytes, start: int) -> tuple[int, bool, str, str]:
    """Return tag, whether it is a redelivery, exchange and routing key of the method at `start`."""
    at = start + 5 + buffer[start + 4]  # after the consumer tag
    tag, redelivered = _TAG.unpack_from(buffer, at)
    middle = at + 10 + buffer[at + 9]
    exchange, key = buffer[at + 10 : middle], buffer[middle + 1 : middle + 1 + buffer[middle]]
    return tag, bool(redelivered & 1), _name(exchange), _name(key)


@functools.lru_cache(1024)
def _name(raw: bytes) -> str:
    """Return the name of an exchange or a routing key as text; cached, because there are usually only a few."""
    return raw.decode("utf-8", "backslashreplace")
