"""AMQP 0-9-1 as bytes, read without a client library: frames, the methods that settle messages, a few properties.

Pure; the proxy feeds in whatever passes. It shares no line with mqworker, so that its view is a second opinion. Layout:
AMQP 0-9-1, sections 4.2.3 to 4.2.6.
"""

from typing import NamedTuple

METHOD, HEADER, BODY = 1, 2, 3
CHANNEL_OPEN, CHANNEL_CLOSE = (20, 10), (20, 40)
CONSUME, PUBLISH, RETURN, DELIVER = (60, 20), (60, 40), (60, 50), (60, 60)
ACK, REJECT, NACK, SELECT = (60, 80), (60, 90), (60, 120), (85, 10)
_ATTEMPT, _CRASHES = b"x-mqworker-attempt", b"x-mqworker-crashes"


class Frame(NamedTuple):
    """One complete frame that is not a body; `end` is where it ends in the bytes that were fed last."""

    kind: int
    channel: int
    payload: bytes
    end: int


class Splitter:
    """Finds the frames in one direction of one connection."""

    def __init__(self, *, client: bool) -> None:
        """`client`: this direction begins with the eight bytes of a protocol header."""
        self._skip = 8 if client else 0
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames, without bodies, that these bytes complete."""
        frames: list[Frame] = []
        if self._skip >= len(data):
            self._skip -= len(data)
            return frames
        before = len(self._rest) - self._skip  # offset of `data` in the buffer
        buffer = self._rest + data[self._skip :] if self._rest or self._skip else data
        self._skip, self._rest = 0, b""
        at, size = 0, len(buffer)
        while at < size:
            if size - at < 7:
                self._rest = buffer[at:]
                break
            end = at + 8 + int.from_bytes(buffer[at + 3 : at + 7])
            if buffer[at] == BODY:
                self._skip = max(0, end - size)
            elif end > size:
                self._rest = buffer[at:]
                break
            else:
                channel = int.from_bytes(buffer[at + 1 : at + 3])
                frames.append(Frame(buffer[at], channel, buffer[at + 7 : end - 1], end - before))
            at = end
        return frames


def method(payload: bytes) -> tuple[int, int]:
    """Return class and method number of a method frame."""
    return int.from_bytes(payload[:2]), int.from_bytes(payload[2:4])


def short(payload: bytes, at: int) -> tuple[str, int]:
    """Return a short string, and where it ends."""
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode(errors="replace"), end


def settled(payload: bytes) -> tuple[int, bool]:
    """Return delivery tag and `multiple` of an ack or a nack."""
    return int.from_bytes(payload[4:12]), bool(payload[12] & 1)


def delivered(payload: bytes) -> tuple[int, bool]:
    """Return delivery tag and `redelivered` of a deliver."""
    _, at = short(payload, 4)
    return int.from_bytes(payload[at : at + 8]), bool(payload[at + 8] & 1)


def target(payload: bytes, at: int) -> tuple[str, str]:
    """Return exchange and routing key: in a publish they start at 6, in a return after its text."""
    exchange, at = short(payload, at)
    return exchange, short(payload, at)[0]


class Label(NamedTuple):
    """Which copy of a message this is: a retry and a crash each make a new one."""

    id: str
    attempt: int
    crashes: int


def label(payload: bytes) -> Label:
    """Parse a content header frame."""
    flags, at = int.from_bytes(payload[12:14]), 14
    headers = b""
    for bit in (15, 14):  # content type and encoding
        if flags >> bit & 1:
            at += 1 + payload[at]
    if flags >> 13 & 1:
        end = at + 4 + int.from_bytes(payload[at : at + 4])
        headers, at = payload[at:end], end
    at += (flags >> 12 & 1) + (flags >> 11 & 1)  # delivery mode, priority
    for bit in (10, 9, 8):  # correlation id, reply to, expiration
        if flags >> bit & 1:
            at += 1 + payload[at]
    name = short(payload, at)[0] if flags >> 7 & 1 else ""
    return Label(name, _count(headers, _ATTEMPT, 1), _count(headers, _CRASHES, 0))


def _count(headers: bytes, name: bytes, default: int) -> int:
    at = headers.find(bytes((len(name),)) + name)
    at += 1 + len(name)
    return int.from_bytes(headers[at + 1 : at + 5]) if at > len(name) and headers[at : at + 1] == b"I" else default
