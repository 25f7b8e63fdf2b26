"""One-off questions to RabbitMQ.

Runs on the loop of the broker admin process. Each question has channels of its own on a shared connection, and ends by
its deadline; the messages that it left unacknowledged go back to their queue when its channels close.

AMQP has no way to look at messages, so `peek` fetches and returns them. A classic queue puts them back in their places
and only marks them redelivered. A quorum queue counts each time, and drops or dead-letters a message beyond its
`x-delivery-limit`. The queues that we make have no limit, but one that others made may have, and on RabbitMQ 4 one that
was made on RabbitMQ 3 has: 20. So a message that is half way to its queue's limit is put back as a new one: a copy is
confirmed before the message is acknowledged. That is done however the question ends, so a question about such a queue
stops looking while there is time for it. A message whose copy is refused just goes back. (A limit that a policy sets
cannot be seen over AMQP.) In a quorum queue, the messages that were looked at are the first ones again afterwards, but
in another order if there are many.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pika.exceptions
import pika.spec

from mqworker.amqp.fingerprint import without_delivery_count
from mqworker.amqp.headers import HEADER_FRAME, redeliveries
from mqworker.amqp.properties import MalformedProperties, Properties, decode_leniently
from mqworker.brokers.base import (
    DROP,
    STOP,
    BrokerRefused,
    BrokerUnavailable,
    Peeked,
    Publication,
    QueueInfo,
    Replies,
    Show,
    Wanted,
    decode_or_refuse,
)
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost, RawProperties
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.queues import (
    attempt,
    delay_queue,
    differences,
    major_version,
    queue_arguments,
    queue_status,
)
from mqworker.brokers.rabbitmq.shared_connection import SharedConnection
from mqworker.config.model import BrokerConfig

PERSISTENT = 2
DEFAULT_LIMIT = 20  # deliveries of one message, in a quorum queue of RabbitMQ 4 for which nobody chose a number
LOOKING = 2 / 3  # of a question's deadline; the rest is for putting messages back
# How many copies are confirmed, and originals acknowledged, at once: of 1,000 acks just before its channel closes, a
# quorum queue missed 72 (on 3.10.8).
TOGETHER = 30
COPIED_TO = {"CC", "BCC"}  # headers that name further queues for a message
RUNGS = 23  # delays are powers of two; 2^22 s is the longest


class RabbitAdmin:
    """`mqworker.brokers.base.Admin` on RabbitMQ."""

    def __init__(self, config: BrokerConfig) -> None:
        """Nothing is connected yet."""
        self._largest = config.max_message_size
        self._shared = SharedConnection(config, "mqworker admin")

    async def queue(self, name: str, deadline: float) -> QueueInfo | None:
        """See `Admin.queue`."""
        async with self._shared.question(deadline) as connection:
            status = await queue_status(connection, name)
        return status and QueueInfo(name, int(status.message_count), int(status.consumer_count))

    async def delayed(self, name: str, deadline: float) -> int:
        """See `Admin.delayed`; AMQP lists no queues, so every possible delay is asked for."""
        async with self._shared.question(deadline) as connection:
            found = [await queue_status(connection, delay_queue(name, 1 << power)) for power in range(RUNGS)]
        return sum(int(status.message_count) for status in found if status)

    async def purge(self, name: str, deadline: float) -> int:
        """See `Admin.purge`."""
        async with self._shared.question(deadline) as connection:
            return int((await attempt(connection, "queue_purge", queue=name)).message_count)

    async def delete(self, name: str, deadline: float) -> int:
        """See `Admin.delete`."""
        async with self._shared.question(deadline) as connection:
            if await queue_status(connection, name) is None:  # for RabbitMQ, deleting a missing queue is no error
                raise BrokerRefused(f"there is no queue {name!r}")
            return int((await attempt(connection, "queue_delete", queue=name)).message_count)

    async def send(self, queue: str, properties: bytes, body: bytes, deadline: float) -> None:
        """See `Admin.send`."""
        async with self._shared.question(deadline) as connection, self._placing(connection) as placer:
            await placer.place(Publication("", queue, _persistent(properties), body))

    async def call(self, queue: str, properties: bytes, body: bytes, deadline: float) -> list[tuple[bytes, bytes]]:
        """See `Admin.call`; the reply queue is exclusive and ends with the question."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline - 0.01  # a missing reply is no fault of the connection
        async with (
            self._shared.question(deadline) as connection,
            _channel(connection) as channel,
            self._placing(connection) as placer,
        ):
            replies, complete = Replies(), loop.create_future()
            request = decode_or_refuse(properties)
            request.reply_to = (await channel.ask("queue_declare", queue="", exclusive=True, auto_delete=True)).queue
            request.correlation_id = uuid4().hex
            request.delivery_mode = PERSISTENT

            def replied(_channel: object, _method: Any, reply: RawProperties, reply_body: bytes) -> None:
                ours = _correlation_id(reply.block) == request.correlation_id
                if ours and replies.add(reply.block, reply_body) and not complete.done():
                    complete.set_result(None)

            await channel.ask("basic_consume", queue=request.reply_to, on_message_callback=replied, auto_ack=True)
            await placer.place(Publication("", queue, request.encode(), body))
            futures: list[asyncio.Future[Any]] = [complete, connection.closed]
            await asyncio.wait(futures, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if connection.closed.done():
                raise connection.closed.result()
            if not complete.done():
                raise BrokerUnavailable(f"{replies.came} within {deadline:g} s; the message was sent")
            return replies.all()

    async def peek(self, queue: str, limit: int, deadline: float, show: Show | None = None) -> list[Peeked]:
        """See `Admin.peek`."""
        found: list[Peeked] = []
        async with self._shared.question(deadline) as connection, self._taking(connection, queue, deadline) as taking:
            for position in range(limit):
                message = await taking.get()
                if message is None:
                    break
                verdict = True if show is None else show(message[1], message[2])
                if verdict == STOP:
                    break
                if verdict:
                    found.append(Peeked(position, message[1], message[2]))
        return found

    async def move(self, queue: str, limit: int, wanted: Wanted, deadline: float) -> int:
        """See `Admin.move`."""
        moved = 0
        async with self._shared.question(deadline) as connection, self._taking(connection, queue, deadline) as taking:
            for _ in range(limit):
                message = await taking.get()
                if message is None:
                    break
                verdict = wanted(message[1], message[2])
                if verdict == STOP:
                    break
                if verdict is not None:
                    assert isinstance(verdict, Publication) or verdict == DROP
                    await taking.remove(message, verdict if isinstance(verdict, Publication) else None)
                    moved += 1
        return moved

    async def close(self) -> None:
        """See `Admin.close`."""
        await self._shared.close()

    # -- inside

    @asynccontextmanager
    async def _placing(self, connection: AmqpConnection) -> AsyncIterator["_Placer"]:
        async with _channel(connection) as channel:
            placer = _Placer(channel, self._largest)
            await placer.start()
            yield placer

    @asynccontextmanager
    async def _taking(self, connection: AmqpConnection, queue: str, deadline: float) -> AsyncIterator["_Taker"]:
        until = asyncio.get_running_loop().time() + LOOKING * deadline
        limit = await _delivery_limit(connection, queue)
        async with self._placing(connection) as placer, _channel(connection) as channel:
            taker = _Taker(channel, placer, queue, limit)
            failure: Exception | None = None
            try:
                async with asyncio.timeout_at(None if limit is None else until):
                    yield taker
            except Exception as error:  # noqa: BLE001 - whatever it is, what was taken has to be put back first
                failure = error
            if taker.worn and connection.usable:
                async with self._placing(connection) as another:  # the first one may wait for what does not answer
                    await taker.renew(another)
            await channel.closed()  # the next question must find all in place: in a quorum queue, a nack moves them
            if failure is not None:
                raise failure


class _Placer:
    """A channel on which messages are published and confirmed."""

    def __init__(self, channel: Channel, largest: int) -> None:
        self._channel = channel
        self._largest = largest
        self._sent = 0
        self._waiting: set[int] = set()  # numbers of those that have no answer
        self._refused: dict[int, str] = {}  # number -> why
        self._returned = ""  # why the last one that had no route came back
        self._answered: asyncio.Queue[str] = asyncio.Queue()  # an item whenever all have their answers

    async def start(self) -> None:
        """Ask for confirms."""
        self._channel.raw.add_on_return_callback(self._on_return)
        await self._channel.ask("confirm_delivery", ack_nack_callback=self._on_answer)

    def _on_return(self, _channel: object, method: Any, *_: Any) -> None:
        self._returned = f"returned: {method.reply_text}"

    def _on_answer(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        numbers = {number for number in self._waiting if number <= tag} if frame.method.multiple else {tag}
        self._waiting -= numbers
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._refused |= dict.fromkeys(numbers, "nacked: queue full or unavailable")
        if not self._waiting:
            self._answered.put_nowait("")

    async def place(self, publication: Publication) -> None:
        """Publish and wait for the confirm; BrokerRefused when it was returned, nacked or is too large."""
        if reason := (await self.place_all([publication]))[0]:
            raise BrokerRefused(reason)

    async def place_all(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all, then wait for their confirms; returns why each was refused, "" if it is stored.

        It is not known which ones were returned, so that one counts as the reason of all.
        """
        told, numbers = [], {}
        self._returned = ""
        for publication in publications:
            told.append(self._publish(publication))
            if not told[-1]:
                numbers[len(told) - 1] = self._sent
        if numbers:
            await self._channel.first(self._answered)
        for at, number in numbers.items():
            if reason := self._refused.pop(number, "") or self._returned:
                told[at] = f"{reason} (queue {publications[at].routing_key!r})"
        return told

    def _publish(self, publication: Publication) -> str:
        if len(publication.body) > self._largest:
            return f"{len(publication.body)} bytes are more than the broker takes"
        size, most = len(publication.properties), self._channel.connection.params.frame_max - HEADER_FRAME
        if size > most:  # otherwise the broker would close the connection, with all questions on it
            return f"properties and headers have {size:,} bytes; {most:,} fit into the broker's frame_max"
        try:
            self._channel.raw.basic_publish(
                publication.exchange,
                publication.routing_key,
                publication.body,
                RawProperties(publication.properties),
                mandatory=publication.mandatory,
            )
        except (pika.exceptions.AMQPError, ValueError) as error:
            return f"cannot be published: {error!r}"
        self._sent += 1
        self._waiting.add(self._sent)
        return ""


Message = tuple[Any, bytes, bytes]  # method, properties, body


class _Taker:
    """A channel on which the messages of one queue are taken; what is not removed goes back."""

    def __init__(self, channel: Channel, placer: _Placer, queue: str, limit: int | None) -> None:
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

    async def renew(self, placer: _Placer) -> None:
        """Replace what could be dropped soon by copies; what cannot be replaced now stays as it is."""
        worn = list(self.worn.values())
        for start in range(0, len(worn), TOGETHER):
            some = worn[start : start + TOGETHER]
            copies = [Publication("", self._queue, _as_new(properties), body) for _, properties, body in some]
            for (method, *_), refused in zip(some, await placer.place_all(copies), strict=True):
                if not refused and self._channel.usable:
                    self._channel.raw.basic_ack(method.delivery_tag)


@asynccontextmanager
async def _channel(connection: AmqpConnection) -> AsyncIterator[Channel]:
    channel = await Channel.open(connection)
    try:
        yield channel
    finally:
        channel.close()


async def _delivery_limit(connection: AmqpConnection, queue: str) -> int | None:
    """Return how many deliveries of a message a queue allows; None for any number, or if we may not know."""
    if await queue_status(connection, queue) is None:
        raise BrokerRefused(f"there is no queue {queue!r}")
    try:
        found = await differences(connection, queue, queue_arguments(connection, "quorum"))
    except Lost:  # we are not allowed to declare it
        return DEFAULT_LIMIT if major_version(connection) >= 4 else None
    values = {argument: value for argument, _, value in found}
    if "x-delivery-limit" not in values:
        return None
    limit = DEFAULT_LIMIT if values["x-delivery-limit"] is None else int(values["x-delivery-limit"])
    return None if limit < 0 and major_version(connection) >= 4 else max(limit, 0)  # RabbitMQ 3 takes -1 for 0


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


def _persistent(properties: bytes) -> bytes:
    decoded = decode_or_refuse(properties)
    decoded.delivery_mode = PERSISTENT
    return decoded.encode()


def _correlation_id(block: bytes) -> str | None:
    return decode_leniently(block).correlation_id
