"""A channel of the Admin on which messages of one queue are taken: some are removed, some are put back as new ones.

Runs on the loop of the broker admin process; made for one request. What is not removed goes back when it closes.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from mqworker.amqp.fingerprint import without_delivery_count
from mqworker.amqp.headers import redeliveries
from mqworker.amqp.properties import MalformedProperties, Properties, decode_leniently
from mqworker.brokers.base import BrokerRefused, Publication, no_queue
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.consumer_channel import SILENCE
from mqworker.brokers.rabbitmq.placer import Placer
from mqworker.brokers.rabbitmq.queues import (
    DEFAULT_LIMIT,
    SINGLE_ACTIVE,
    TYPE,
    delivery_limit,
    differences,
    major_version,
    queue_arguments,
    queue_status,
)

# How many copies are confirmed, and originals acknowledged, at once: a quorum queue (3.10.8) did not get all of 1,000
# acks that were sent just before the channel closed.
TOGETHER = 30
KINDS = {"quorum", "classic"}  # streams are left out: what is taken from one does not go back
COPIED_TO = {"CC", "BCC"}  # headers that name further queues for a message


class Unacked(NamedTuple):
    """A message that was taken and is not acknowledged."""

    tag: int
    properties: bytes
    body: bytes


class Removal(NamedTuple):
    """A message to be removed, once the publication in its place, if there is one, is confirmed."""

    tag: int
    instead: Publication | None


class Taker:
    """A channel on which the messages of one queue are taken; what is not removed goes back."""

    def __init__(self, channel: Channel, placer: Placer, queue: str, limit: int | None) -> None:
        self.channel = channel
        self.queue = queue
        self.removed = 0
        self.copied = 0  # messages that were replaced by a copy at the end of the queue
        self.worn: dict[int, Unacked] = {}  # by tag; messages that may soon reach the delivery limit
        self._placer = placer
        self._limit = limit  # deliveries
        self._acks = 0  # how many acks we have sent
        self._all_to = 0  # all tags up to this one are settled

    async def get(self) -> Unacked | None:
        """Take the next message; None when the queue is empty."""
        got = await self.channel.get(self.queue)
        return None if got is None else self.took(Unacked(got[0].delivery_tag, got[1], got[2]))

    def took(self, message: Unacked) -> Unacked:
        """Note a message that was delivered."""
        if self._limit is not None and 2 * redeliveries(decode_leniently(message.properties)) >= self._limit:
            self.worn[message.tag] = message
        return message

    async def remove(self, removals: Sequence[Removal]) -> None:
        """Remove messages, in the order of their tags; raises BrokerRefused when a replacement was not stored.

        Returns when the channel has read the acks. It lags behind with single acks: without this wait, a kill after
        thousands of them left up to 437 messages in both queues.
        """
        replaced = [removal for removal in removals if removal.instead is not None]
        refusals = await self._placer.place_all(
            [removal.instead for removal in replaced if removal.instead is not None]
        )
        kept = {removal.tag for removal, why in zip(replaced, refusals, strict=True) if why}
        gone = [removal.tag for removal in removals if removal.tag not in kept]
        self._ack(gone)
        if gone:
            await self.channel.ping()
        self.removed += len(gone)
        for tag in gone:
            self.worn.pop(tag, None)
        if kept:
            refusal = BrokerRefused(next(filter(None, refusals)))
            refusal.count = len(kept)
            raise refusal

    async def renew(self, placer: Placer) -> None:
        """Replace messages that may soon be dropped by copies; those that cannot be replaced now stay as they are."""
        worn = list(self.worn.values())
        self.worn.clear()
        for start in range(0, len(worn), TOGETHER):
            some = worn[start : start + TOGETHER]
            copies = [Publication("", self.queue, _as_new(each.properties), each.body) for each in some]
            refusals = await placer.place_all(copies)
            stored = [each.tag for each, refused in zip(some, refusals, strict=True) if not refused]
            self.copied += len(stored)
            self._ack(stored)

    async def acked(self) -> None:
        """Wait until the queue has all acks, as far as we can know; raises Lost.

        A channel passes on 33 acks to a quorum queue until the first is on disk, and loses the others if it is closed
        before that. An answer shows that the channel has read all acks; nothing shows when the queue has them, so they
        get SILENCE.
        """
        if self._acks > TOGETHER:
            await self.channel.ask("basic_qos", prefetch_count=1)
            await asyncio.sleep(SILENCE)

    def _ack(self, tags: Sequence[int]) -> None:
        """Acknowledge; with one ack if the tags follow each other from the first unsettled one on."""
        if not self.channel.usable:
            return
        first = self._all_to + 1
        if tags and list(tags) == list(range(first, first + len(tags))):
            self._all_to = tags[-1]
            self.channel.raw.basic_ack(self._all_to, multiple=True)
            self._acks += 1
            return
        for tag in tags:
            self.channel.raw.basic_ack(tag)
        self._acks += len(tags)


class Sight(NamedTuple):
    """What a look at a queue has to know about it."""

    ready: int
    limit: int | None  # deliveries of one message; None for any number, or if unknown
    consumable: bool  # a consumer of ours would neither take others' messages nor delete the queue
    reorders: bool  # returned messages are put behind those returned before


async def sight(connection: AmqpConnection, queue: str) -> Sight:
    """Return what is known about a queue; raises BrokerRefused if there is none.

    An auto-delete queue would be deleted with our consumer. In a queue with a single active consumer, we would keep a
    stage waiting that begins in the meantime. If the queue has consumers, they would share the messages with us.
    """
    status = await queue_status(connection, queue)
    if status is None:
        raise BrokerRefused(no_queue(queue))
    version, declared = major_version(connection), queue_arguments(connection, "quorum")
    try:
        found = {argument: value for argument, _, value in await differences(connection, queue, declared)}
    except Lost:  # we are not allowed to declare it
        return Sight(status.message_count, DEFAULT_LIMIT if version >= 4 else None, consumable=False, reorders=True)
    queue_type = found.get(TYPE, "quorum") or "classic"
    limit = delivery_limit(version, queue_type, declared, found)
    consumable = queue_type in KINDS and not (
        status.consumer_count or found.get("auto_delete") or found.get(SINGLE_ACTIVE)
    )
    return Sight(status.message_count, None if limit < 0 else limit, consumable, queue_type == "quorum")


def _as_new(properties: bytes) -> bytes:
    """Return a message's properties for its copy, which must go to its own queue only, and must not be refused."""
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
