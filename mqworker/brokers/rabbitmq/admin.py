"""One-off requests to RabbitMQ.

Runs on the loop of the broker admin process. Each request has channels of its own on a shared connection, and ends by
its deadline; messages that it has not acknowledged go back to their queue when its channels close.

AMQP has no way to look at messages, so `peek` takes and returns them: with a consumer, or one by one where a consumer
would do harm (`taker.sight`) or where no message after the last one may be touched. `look` explains how this is done,
and what happens to the order. A classic queue puts the messages back in their places and only marks them redelivered. A
quorum queue counts each delivery, and drops or dead-letters a message beyond its `x-delivery-limit`. The queues that we
make have no limit, but a queue that others made may have one, and on RabbitMQ 4 a queue that was made on RabbitMQ 3 has
a limit of 20. So a message that is half way to its queue's limit is put back as a new one: a copy is confirmed before
the message is acknowledged. This is done after each portion of a look, however it ends, so a request about such a
queue stops looking while there is time for it. A message whose copy is refused simply goes back. (A limit that is set
by a policy is not visible over AMQP.)
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from mqworker.amqp.properties import decode_leniently
from mqworker.brokers.base import (
    STOP,
    BrokerRefused,
    BrokerUnavailable,
    Fetched,
    Moving,
    Peeked,
    Publication,
    QueueInfo,
    Show,
    Wanted,
    decode_or_refuse,
    no_queue,
)
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, RawProperties
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.look import Removing, look_at
from mqworker.brokers.rabbitmq.placer import Placer
from mqworker.brokers.rabbitmq.queues import (
    attempt,
    delay_queue,
    queue_status,
)
from mqworker.brokers.rabbitmq.shared_connection import SharedConnection
from mqworker.brokers.rabbitmq.taker import Taker, sight
from mqworker.brokers.replies import Replies
from mqworker.config.model import BrokerConfig

PERSISTENT = 2
LOOKING = 2 / 3  # of a request's deadline; the rest is for putting messages back
RUNGS = 23  # delays are powers of two; 2^22 s is the longest


class RabbitAdmin:
    """`mqworker.brokers.base.Admin` on RabbitMQ."""

    def __init__(self, config: BrokerConfig) -> None:
        """Does not connect yet."""
        self._largest = config.max_message_size
        self._limited: set[str] = set()  # queues that a look has found to limit deliveries
        self._shared = SharedConnection(config, "mqworker admin")

    async def queue(self, name: str, deadline: float) -> QueueInfo | None:
        """See `Admin.queue`."""
        async with self._shared.request(deadline) as connection:
            status = await queue_status(connection, name)
        if status is None:
            return None
        return QueueInfo(name, int(status.message_count), int(status.consumer_count), name in self._limited)

    async def delayed(self, name: str, deadline: float) -> int:
        """See `Admin.delayed`; AMQP cannot list queues, so this asks for every possible delay."""
        async with self._shared.request(deadline) as connection:
            found = [await queue_status(connection, delay_queue(name, 1 << power)) for power in range(RUNGS)]
        return sum(int(status.message_count) for status in found if status)

    async def purge(self, name: str, deadline: float) -> int:
        """See `Admin.purge`."""
        async with self._shared.request(deadline) as connection:
            await _must_exist(connection, name)
            return int((await attempt(connection, "queue_purge", queue=name)).message_count)

    async def delete(self, name: str, deadline: float) -> int:
        """See `Admin.delete`."""
        async with self._shared.request(deadline) as connection:
            await _must_exist(connection, name)  # RabbitMQ does not refuse to delete a missing queue
            return int((await attempt(connection, "queue_delete", queue=name)).message_count)

    async def send(self, queue: str, properties: bytes, body: bytes, deadline: float) -> None:
        """See `Admin.send`."""
        async with self._shared.request(deadline) as connection, self._placing(connection) as placer:
            await placer.place(Publication("", queue, _persistent(properties), body))

    async def send_many(self, queue: str, messages: Sequence[tuple[bytes, bytes]], deadline: float) -> list[str]:
        """See `Admin.send_many`."""
        publications = [Publication("", queue, properties, body) for properties, body in messages]
        async with self._shared.request(deadline) as connection, self._placing(connection) as placer:
            return await placer.place_all(publications)

    async def call(self, queue: str, properties: bytes, body: bytes, deadline: float) -> list[tuple[bytes, bytes]]:
        """See `Admin.call`; the reply queue is exclusive and ends with the request."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline - 0.01  # so that a missing reply does not count as a fault of the connection
        async with (
            self._shared.request(deadline) as connection,
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

    async def peek(
        self,
        queue: str,
        limit: int,
        deadline: float,
        show: Show | None = None,
        *,
        singly: bool = False,
        fetched: Fetched | None = None,
    ) -> list[Peeked]:
        """See `Admin.peek`."""
        found: list[Peeked] = []
        positions = itertools.count()

        def wanted(properties: bytes, body: bytes) -> str | None:
            position = next(positions)
            verdict = True if show is None else show(properties, body)
            if verdict == STOP:
                return STOP
            if verdict:
                found.append(Peeked(position, properties, body))
            return None

        await self.move(queue, limit, wanted, deadline, singly=singly, fetched=fetched)
        return found

    async def move(
        self,
        queue: str,
        limit: int,
        wanted: Wanted,
        deadline: float,
        *,
        most: int | None = None,
        singly: bool = False,
        together: int = 1,
        moving: Moving | None = None,
        fetched: Fetched | None = None,
    ) -> int:
        """See `Admin.move`; `fetched` as for `peek`."""
        until = asyncio.get_running_loop().time() + LOOKING * deadline
        async with self._shared.request(deadline) as connection:
            seen = await sight(connection, queue)
            (self._limited.discard if seen.limit is None else self._limited.add)(queue)
            async with self._placing(connection) as placer, _channel(connection) as channel:
                taker = Taker(channel, placer, queue, seen.limit)
                removing = Removing(limit if most is None else most, together, moving)
                look = look_at(taker, wanted, seen, limit, removing, singly=singly, fetched=fetched)
                failure: Exception | None = None
                while failure is None and not look.over:
                    try:
                        async with asyncio.timeout_at(None if seen.limit is None else until):
                            await look.portion()
                    except Exception as error:  # noqa: BLE001 - after any error, what was taken must be put back first
                        failure = error
                    if failure is not None and channel.usable:
                        await look.finish()
                    if taker.worn and connection.usable:
                        async with self._placing(connection) as another:  # the first may be waiting for a silent queue
                            await taker.renew(another)
                if channel.usable:
                    await taker.acked()
                await channel.closed()  # all must be back in place for the next request; a nack would move them
                await look.gone()
                if failure is not None:
                    raise failure
        return taker.removed

    async def close(self) -> None:
        """See `Admin.close`."""
        await self._shared.close()

    # -- inside

    @asynccontextmanager
    async def _placing(self, connection: AmqpConnection) -> AsyncIterator[Placer]:
        async with _channel(connection) as channel:
            placer = Placer(channel, self._largest)
            await placer.start()
            yield placer


async def _must_exist(connection: AmqpConnection, name: str) -> None:
    if await queue_status(connection, name) is None:
        raise BrokerRefused(no_queue(name))


@asynccontextmanager
async def _channel(connection: AmqpConnection) -> AsyncIterator[Channel]:
    channel = await Channel.open(connection)
    try:
        yield channel
    finally:
        channel.close()


def _persistent(properties: bytes) -> bytes:
    decoded = decode_or_refuse(properties)
    decoded.delivery_mode = PERSISTENT
    return decoded.encode()


def _correlation_id(block: bytes) -> str | None:
    return decode_leniently(block).correlation_id
