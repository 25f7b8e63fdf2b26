"""A channel of the Admin on which the messages of one queue are taken, and which of them must be put back as new ones.

Runs on the loop of the broker admin process; made for one question. What is not removed goes back when it closes.
"""

from typing import Any

from mqworker.amqp.fingerprint import without_delivery_count
from mqworker.amqp.headers import redeliveries
from mqworker.amqp.properties import MalformedProperties, Properties, decode_leniently
from mqworker.brokers.base import BrokerRefused, Publication
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.placer import Placer
from mqworker.brokers.rabbitmq.queues import (
    DEFAULT_LIMIT,
    delivery_limit,
    differences,
    major_version,
    queue_arguments,
    queue_status,
)

# How many copies are confirmed, and originals acknowledged, at once: of 1,000 acks just before its channel closed, a
# quorum queue (3.10.8) had not taken all.
TOGETHER = 30
COPIED_TO = {"CC", "BCC"}  # headers that name further queues for a message
Message = tuple[Any, bytes, bytes]  # method, properties, body


class Taker:
    """A channel on which the messages of one queue are taken; what is not removed goes back."""

    def __init__(self, channel: Channel, placer: Placer, queue: str, limit: int | None) -> None:
        self._channel = channel
        self._placer = placer
        self._queue = queue
        self._limit = limit  # deliveries
        self.worn: dict[int, Message] = {}  # by tag; what could be dropped if it went back often

    async def get(self) -> Message | None:
        """Take the next message; None when the queue is empty."""
        message = await self._channel.get(self._queue)
        if message is None or self._limit is None:
            return message
        if 2 * redeliveries(decode_leniently(message[1])) >= self._limit:
            self.worn[message[0].delivery_tag] = message
        return message

    async def remove(self, message: Message, instead: Publication | None) -> None:
        """Remove a message from the queue, after the publication in its place was confirmed."""
        if instead is not None:
            await self._placer.place(instead)
        self._channel.raw.basic_ack(message[0].delivery_tag)
        self.worn.pop(message[0].delivery_tag, None)

    async def renew(self, placer: Placer) -> None:
        """Replace what could be dropped soon by copies; what cannot be replaced now stays as it is."""
        worn = list(self.worn.values())
        for start in range(0, len(worn), TOGETHER):
            some = worn[start : start + TOGETHER]
            copies = [Publication("", self._queue, _as_new(properties), body) for _, properties, body in some]
            for (method, *_), refused in zip(some, await placer.place_all(copies), strict=True):
                if not refused and self._channel.usable:
                    self._channel.raw.basic_ack(method.delivery_tag)


async def limit_of(connection: AmqpConnection, queue: str) -> int | None:
    """Return how many deliveries of a message a queue allows; None for any number, or if we may not know."""
    if await queue_status(connection, queue) is None:
        raise BrokerRefused(f"there is no queue {queue!r}")
    version, declared = major_version(connection), queue_arguments(connection, "quorum")
    try:
        found = await differences(connection, queue, declared)
    except Lost:  # we are not allowed to declare it
        return DEFAULT_LIMIT if version >= 4 else None
    limit = delivery_limit(version, "quorum", declared, {argument: value for argument, _, value in found})
    return None if limit < 0 else limit


def _as_new(properties: bytes) -> bytes:
    """Return the properties of a message for its copy, which must get to its own queue alone, and not be refused."""
    properties = without_delivery_count(properties)
    try:
        decoded = Properties.decode(properties)
    except MalformedProperties:
        return properties
    if decoded.user_id is None and not decoded.headers.keys() & COPIED_TO:
        return properties
    decoded.user_id = None  # the broker refuses a name that is not ours
    for name in COPIED_TO:
        decoded.headers.pop(name, None)
    return decoded.encode()
