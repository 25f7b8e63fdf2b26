"""One-off questions to RabbitMQ, over a connection that is made on demand.

Runs on the loop of the broker admin process. Questions share one connection, and each has channels of its own; what it
left unacknowledged goes back to its queue when they close. Every question ends by its deadline. A queue that does not
answer (a quorum queue without a leader) blocks the channel that asked it, which then does not even close. So a
connection on which a question passed its deadline gets no further ones, and is closed when those that are on it have
ended: the slow question costs only its own answer, and nothing that it blocked piles up.

Looking at messages: AMQP has no way to look, so `peek` fetches and gives back. A classic queue puts such messages
back in their places and only marks them redelivered. A quorum queue counts each time, and drops or dead-letters a
message beyond its `x-delivery-limit`; our own queues have no limit, and a queue that has one is refused. (A limit
that a policy sets on RabbitMQ 3 cannot be seen over AMQP.) Those that were looked at are the first of a quorum queue
afterwards too, but in an order of its own when they are many.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pika.exceptions
import pika.spec

from mqworker.amqp.properties import decode_leniently
from mqworker.brokers.base import (
    DROP,
    STOP,
    BrokerRefused,
    BrokerUnavailable,
    Peeked,
    Publication,
    QueueInfo,
    Show,
    Wanted,
    decode_or_refuse,
)
from mqworker.brokers.rabbitmq.address import explain, parameters, refused
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost, RawProperties
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.reconnector import CONNECT_DEADLINE
from mqworker.brokers.rabbitmq.topology import attempt, delay_queue, differences, queue_arguments, queue_status
from mqworker.config.model import BrokerConfig

PERSISTENT = 2
RUNGS = 23  # delays are powers of two; 2^22 s is the longest


class RabbitAdmin:
    """`mqworker.brokers.base.Admin` on RabbitMQ."""

    def __init__(self, config: BrokerConfig) -> None:
        """Nothing is connected yet."""
        self._config = config
        self._wire: AmqpConnection | None = None  # takes new questions
        self._connections: dict[AmqpConnection, int] = {}  # and how many questions are on each
        self._connecting = asyncio.Lock()

    async def queue(self, name: str, deadline: float) -> QueueInfo | None:
        """See `Admin.queue`."""
        async with self._asking(deadline) as wire:
            status = await queue_status(wire, name)
        return status and QueueInfo(name, int(status.message_count), int(status.consumer_count))

    async def delayed(self, name: str, deadline: float) -> int:
        """See `Admin.delayed`; AMQP lists no queues, so all delays that there may be are asked for."""
        async with self._asking(deadline) as wire:
            found = [await queue_status(wire, delay_queue(name, 1 << power)) for power in range(RUNGS)]
        return sum(int(status.message_count) for status in found if status)

    async def purge(self, name: str, deadline: float) -> int:
        """See `Admin.purge`."""
        async with self._asking(deadline) as wire:
            return int((await attempt(wire, "queue_purge", queue=name)).message_count)

    async def delete(self, name: str, deadline: float) -> int:
        """See `Admin.delete`."""
        async with self._asking(deadline) as wire:
            if await queue_status(wire, name) is None:  # deleting what is not there is no error in RabbitMQ
                raise BrokerRefused(f"there is no queue {name!r}")
            return int((await attempt(wire, "queue_delete", queue=name)).message_count)

    async def send(self, queue: str, properties: bytes, body: bytes, deadline: float) -> None:
        """See `Admin.send`."""
        async with self._asking(deadline) as wire, self._placing(wire) as placer:
            await placer.place(Publication("", queue, _persistent(properties), body))

    async def call(self, queue: str, properties: bytes, body: bytes, deadline: float) -> tuple[bytes, bytes]:
        """See `Admin.call`; the reply queue is exclusive and ends with the question."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline - 0.01  # that nobody replies is no fault of the connection
        async with self._asking(deadline) as wire, _channel(wire) as channel, self._placing(wire) as placer:
            replies: asyncio.Future[tuple[bytes, bytes]] = loop.create_future()
            request = decode_or_refuse(properties)
            request.reply_to = (await channel.ask("queue_declare", queue="", exclusive=True, auto_delete=True)).queue
            request.correlation_id = uuid4().hex
            request.delivery_mode = PERSISTENT

            def replied(_channel: object, _method: Any, reply: RawProperties, reply_body: bytes) -> None:
                if not replies.done() and _correlation_id(reply.block) == request.correlation_id:
                    replies.set_result((reply.block, reply_body))

            await channel.ask("basic_consume", queue=request.reply_to, on_message_callback=replied, auto_ack=True)
            await placer.place(Publication("", queue, request.encode(), body))
            futures: list[asyncio.Future[Any]] = [replies, wire.closed]
            await asyncio.wait(futures, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if wire.closed.done():
                raise wire.closed.result()
            if not replies.done():
                raise BrokerUnavailable(f"nobody has replied within {deadline:g} s; the message was sent")
            return replies.result()

    async def peek(self, queue: str, limit: int, deadline: float, show: Show | None = None) -> list[Peeked]:
        """See `Admin.peek`; a queue with a delivery limit is refused."""
        async with self._asking(deadline) as wire:
            await _refuse_limited(wire, queue)
            found: list[Peeked] = []
            async with _channel(wire) as channel:
                for position in range(limit):
                    message = await channel.get(queue)
                    if message is None:
                        break
                    verdict = True if show is None else show(message[1], message[2])
                    if verdict == STOP:
                        break
                    if verdict:
                        found.append(Peeked(position, message[1], message[2]))
                await _give_back(channel)
            return found

    async def move(self, queue: str, limit: int, wanted: Wanted, deadline: float) -> int:
        """See `Admin.move`."""
        moved = 0
        async with self._asking(deadline) as wire, _channel(wire) as taking, self._placing(wire) as placer:
            for _ in range(limit):
                message = await taking.get(queue)
                if message is None:
                    break
                verdict = wanted(message[1], message[2])
                if verdict == STOP:
                    break
                if isinstance(verdict, Publication):
                    await placer.place(verdict)
                if verdict is not None:
                    assert isinstance(verdict, Publication) or verdict == DROP
                    taking.raw.basic_ack(message[0].delivery_tag)
                    moved += 1
            await _give_back(taking)
        return moved

    async def close(self) -> None:
        """See `Admin.close`."""
        self._wire = None
        await asyncio.gather(*(wire.shut(1.0) for wire in self._connections))

    # -- inside

    @asynccontextmanager
    async def _placing(self, wire: AmqpConnection) -> AsyncIterator["_Placer"]:
        async with _channel(wire) as channel:
            placer = _Placer(channel, self._config.max_message_size)
            await placer.start()
            yield placer

    @asynccontextmanager
    async def _asking(self, deadline: float) -> AsyncIterator[AmqpConnection]:
        """Give a connection; turns what can go wrong into the two errors of an Admin."""
        wire: AmqpConnection | None = None
        try:
            async with asyncio.timeout(deadline):
                wire = await self._connected()
                self._connections[wire] += 1
                yield wire
        except TimeoutError:
            if wire is self._wire:
                self._wire = None
            raise BrokerUnavailable(f"the broker did not answer within {deadline:g} s") from None
        except Lost as lost:
            if wire is not None and wire.usable:
                raise BrokerRefused(str(lost)) from None
            raise BrokerUnavailable(f"the connection to the broker was lost: {lost}") from None
        finally:
            if wire is not None:
                self._connections[wire] -= 1
                self._close_unused()

    def _close_unused(self) -> None:
        """End the connections that take no new questions and have none left."""
        for wire in [wire for wire, questions in self._connections.items() if not questions and wire is not self._wire]:
            del self._connections[wire]
            wire.abort("a question passed its deadline on it")

    async def _connected(self) -> AmqpConnection:
        async with self._connecting:
            if self._wire is not None and self._wire.usable:
                return self._wire
            self._wire = None
            self._close_unused()
            reason = "no broker.url"
            for url in self._config.urls:
                try:
                    wire = await AmqpConnection.open(parameters(url, self._config, "mqworker admin"), CONNECT_DEADLINE)
                except (Lost, OSError, ValueError) as error:
                    reason = explain(error, url)
                    if refused(error):
                        raise BrokerRefused(reason) from None
                else:
                    self._wire, self._connections[wire] = wire, 0
                    return wire
        raise BrokerUnavailable(reason)


class _Placer:
    """A channel on which messages are published and confirmed one by one."""

    def __init__(self, channel: Channel, largest: int) -> None:
        self._channel = channel
        self._largest = largest
        self._answers: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> None:
        """Ask for confirms."""
        self._channel.raw.add_on_return_callback(
            lambda _, method, *__: self._answers.put_nowait(f"returned: {method.reply_text}")
        )
        await self._channel.ask("confirm_delivery", ack_nack_callback=self._answered)

    def _answered(self, frame: Any) -> None:
        nacked = isinstance(frame.method, pika.spec.Basic.Nack)
        self._answers.put_nowait("nacked: queue full or unavailable" if nacked else "")

    async def place(self, publication: Publication) -> None:
        """Publish and wait for the confirm; BrokerRefused when it was returned, nacked or is too large."""
        if len(publication.body) > self._largest:
            raise BrokerRefused(f"{len(publication.body)} bytes are more than the broker takes")
        try:
            self._channel.raw.basic_publish(
                publication.exchange,
                publication.routing_key,
                publication.body,
                RawProperties(publication.properties),
                mandatory=publication.mandatory,
            )
        except (pika.exceptions.AMQPError, ValueError) as error:
            raise BrokerRefused(f"cannot be published: {error!r}") from None
        if answer := await self._channel.first(self._answers):
            raise BrokerRefused(f"{answer} (queue {publication.routing_key!r})")


@asynccontextmanager
async def _channel(wire: AmqpConnection) -> AsyncIterator[Channel]:
    channel = await Channel.open(wire)
    try:
        yield channel
    finally:
        channel.close()


async def _give_back(channel: Channel) -> None:
    """Have what is unacknowledged back in its place on return: the next question is to find it there.

    By closing the channel: what is nacked goes to the end of a quorum queue.
    """
    closed = channel.wire.asking()

    def over(*_: object) -> None:
        if not closed.done():
            closed.set_result(None)

    channel.raw.add_on_close_callback(over)
    channel.close()
    await closed


async def _refuse_limited(wire: AmqpConnection, queue: str) -> None:
    """Raise BrokerRefused when looking at a queue's messages would age them."""
    if await queue_status(wire, queue) is None:
        raise BrokerRefused(f"there is no queue {queue!r}")
    try:
        found = await differences(wire, queue, queue_arguments(wire, "quorum"))
    except Lost:  # we may not declare it
        return
    for argument, _, limit in found:
        if argument == "x-delivery-limit":
            raise BrokerRefused(
                f"queue {queue!r} has a delivery limit ({limit or 20}): looking would count as a delivery of each"
            )


def _persistent(properties: bytes) -> bytes:
    decoded = decode_or_refuse(properties)
    decoded.delivery_mode = PERSISTENT
    return decoded.encode()


def _correlation_id(block: bytes) -> str | None:
    return decode_leniently(block).correlation_id
