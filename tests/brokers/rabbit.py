"""The harness of RabbitMQ, on the session's own node."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from mqworker.brokers.rabbitmq.address import parameters
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, RawProperties
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.config.model import BrokerConfig
from tests.brokers.harness import Common
from tests.support.rabbitmq import RabbitNode
from tests.support.waiting import AMPLE


class RabbitHarness(Common):
    """RabbitMQ with one type of queue."""

    def __init__(self, node: RabbitNode, queue_type: str = "classic") -> None:
        super().__init__(queue_type)
        self.node = node
        self.url = node.url()
        self._connection: AmqpConnection | None = None
        self._publisher: Channel | None = None

    async def connection(self) -> AmqpConnection:
        """A connection of our own."""
        if self._connection is None or not self._connection.usable:
            self._connection = await self.another_connection()
        return self._connection

    async def another_connection(self) -> AmqpConnection:
        """A connection that the test ends itself."""
        return await AmqpConnection.open(parameters(self.url, BrokerConfig(url=self.url), "harness"), AMPLE)

    async def channel(self) -> Channel:
        return await Channel.open(await self.connection())

    async def publish(self, queue: str, properties: bytes, *bodies: bytes) -> None:
        """Also several messages."""
        channel = self._publisher
        if channel is None or not channel.usable:
            channel = self._publisher = await self.channel()
            await channel.ask("confirm_delivery", ack_nack_callback=lambda _: None)
        for body in bodies:
            channel.raw.basic_publish("", queue, body, RawProperties(properties), mandatory=True)
        await channel.ping()

    async def take(self, queue: str) -> tuple[bytes, bytes] | None:
        channel = await self.channel()
        message = await channel.get(queue)
        if message is not None:
            channel.raw.basic_ack(message[0].delivery_tag)
        channel.close()
        return message and message[1:]

    async def close(self) -> None:
        """Also delete what was made."""
        await super().close()
        channel = await self.channel()
        assert self.topology.output is not None
        for queue in (self.topology.input, self.topology.dead, self.topology.output.queue):
            await channel.ask("queue_delete", queue=queue)
        for delay in (1, 2, 1 << 17):
            await channel.ask("queue_delete", queue=f"{self.topology.input}.retry.{delay}s")
        await channel.ask("exchange_delete", exchange=self.topology.output.exchange)
        await (await self.connection()).shutdown(2)


@contextlib.asynccontextmanager
async def both_kinds(node: RabbitNode) -> AsyncIterator[dict[str, RabbitHarness]]:
    """A harness with classic queues and one with quorum queues, which are closed at the end."""
    harnesses = {kind: RabbitHarness(node, kind) for kind in ("classic", "quorum")}
    try:
        yield harnesses
    finally:
        async with asyncio.timeout(AMPLE):
            for harness in harnesses.values():
                await harness.close()


async def on_both_kinds(node: RabbitNode, scene: Callable[[RabbitHarness], Awaitable[None]]) -> None:
    """Play a scene that mostly waits, on classic and on quorum queues side by side."""
    async with both_kinds(node) as harnesses, asyncio.TaskGroup() as group:
        for kind, harness in harnesses.items():
            group.create_task(scene(harness), name=kind)
