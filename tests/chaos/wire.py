"""What the frames between mqworker and the broker prove, above all invariant 3: ack after confirm.

Pure: the proxy reports each frame that passes, in order, with the time. A delivery is one *copy* of a message (its id,
attempt and crashes); its ack is right only when something was published for that id after the copy was first delivered,
the broker's confirm of it has passed towards mqworker, and it was not returned. No exceptions; only what is delivered
again may be any of the copies that are alike.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos import amqp
from tests.chaos.amqp import Frame, Label

SLOT = 0.1  # seconds of one entry of `acked`


class Published(NamedTuple):
    """A publication that awaits its confirm."""

    step: int  # when, in the order of frames
    label: Label
    exchange: str
    key: str


class Step(NamedTuple):
    """One publication of a message: a result, a retry or a dead letter, and when it passed."""

    time: float
    exchange: str
    key: str
    label: Label


@dataclass
class _Channel:
    unsettled: dict[int, tuple[Label, int]] = field(default_factory=dict)  # tag -> copy, and the step of its delivery
    unconfirmed: dict[int, Published] = field(default_factory=dict)
    returned: set[int] = field(default_factory=set)
    confirms: bool = False
    sequence: int = 0
    content: dict[bool, bytes] = field(default_factory=dict)  # the method whose content header comes next


@dataclass
class Wire:
    """See the module head."""

    violations: list[str] = field(default_factory=list)
    steps: dict[str, list[Step]] = field(default_factory=dict)  # message id -> what was published for it
    acked: Counter[int] = field(default_factory=Counter)  # time slot -> deliveries acked
    consuming: dict[int, float] = field(default_factory=dict)  # connection -> its first delivery
    most_unsettled: int = 0
    frames: int = 0
    acks: int = 0
    refused: int = 0  # publications that the broker did not take
    _channels: dict[tuple[int, int], _Channel] = field(default_factory=dict)
    _copies: dict[Label, int] = field(default_factory=dict)  # step of the first delivery
    _confirmed: dict[str, int] = field(default_factory=dict)  # id -> step of its newest confirmed publication

    def closed(self, connection: int) -> None:
        """Record that this connection is over."""
        for key in [key for key in self._channels if key[0] == connection]:
            del self._channels[key]

    def saw(self, time: float, connection: int, frame: Frame, *, client: bool) -> None:
        """Take one frame; `client`: sent by mqworker to the broker."""
        self.frames += 1
        channel = self._channels.setdefault((connection, frame.channel), _Channel())
        if frame.kind == amqp.HEADER:
            method = channel.content.pop(client, None)
            if method is not None:
                self._content(time, connection, channel, method, amqp.label(frame.payload))
        elif frame.kind == amqp.METHOD:
            self._method(time, (connection, frame.channel), channel, frame.payload, client)

    def _method(self, time: float, where: tuple[int, int], channel: _Channel, payload: bytes, client: bool) -> None:
        match amqp.method(payload):
            case amqp.ACK if client:
                self._acked(time, where, channel, *amqp.settled(payload))
            case amqp.ACK:
                for number in _upto(channel.unconfirmed, *amqp.settled(payload)):
                    published = channel.unconfirmed.pop(number)
                    if number not in channel.returned:
                        self._confirmed[published.label.id] = published.step
            case amqp.NACK | amqp.REJECT if client:
                tag, multiple = amqp.settled(payload)
                for number in _upto(channel.unsettled, tag, multiple and amqp.method(payload) == amqp.NACK):
                    del channel.unsettled[number]
            case amqp.NACK:
                for number in _upto(channel.unconfirmed, *amqp.settled(payload)):
                    del channel.unconfirmed[number]
                    self.refused += 1
            case amqp.DELIVER | amqp.PUBLISH | amqp.RETURN:
                channel.content[client] = payload
            case amqp.SELECT if client:
                channel.confirms = True
            case amqp.CHANNEL_OPEN | amqp.CHANNEL_CLOSE:
                self._channels.pop(where, None)

    def _content(self, time: float, connection: int, channel: _Channel, method: bytes, label: Label) -> None:
        match amqp.method(method):
            case amqp.DELIVER:
                tag, redelivered = amqp.delivered(method)
                first = self._copies.setdefault(label, self.frames)
                # A delay queue moves a message at least once, so there may be two copies that are alike. Which one of
                # them is delivered again cannot be seen: it may be the older one.
                channel.unsettled[tag] = label, first if redelivered else self.frames
                self.most_unsettled = max(self.most_unsettled, len(channel.unsettled))
                self.consuming.setdefault(connection, time)
            case amqp.PUBLISH:
                exchange, key = amqp.target(method, 6)
                self.steps.setdefault(label.id, []).append(Step(time, exchange, key, label))
                if channel.confirms:
                    channel.sequence += 1
                    channel.unconfirmed[channel.sequence] = Published(self.frames, label, exchange, key)
            case amqp.RETURN:
                exchange, key = amqp.target(method, amqp.short(method, 6)[1])
                for number, published in channel.unconfirmed.items():
                    if number not in channel.returned and published[1:] == (label, exchange, key):
                        channel.returned.add(number)
                        break

    def _acked(self, time: float, where: tuple[int, int], channel: _Channel, tag: int, multiple: bool) -> None:
        numbers = _upto(channel.unsettled, tag, multiple)
        if not numbers:
            self.violations.append(f"{time:.3f}: ack of unknown tag {tag} on connection {where[0]}")
        for number in numbers:
            label, delivered = channel.unsettled.pop(number)
            self.acks += 1
            self.acked[int(time / SLOT)] += 1
            if self._confirmed.get(label.id, -1) <= delivered:
                self.violations.append(f"{time:.3f}: {label} was acked on connection {where[0]} before a confirm")


def _upto(known: dict[int, tuple[Label, int]] | dict[int, Published], tag: int, multiple: bool) -> list[int]:
    if not multiple:
        return [tag] if tag in known else []
    numbers = []
    for number in known:
        if tag and number > tag:
            break
        numbers.append(number)
    return numbers
