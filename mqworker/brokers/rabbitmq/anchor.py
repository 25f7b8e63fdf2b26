"""A consumer that keeps an auto-delete queue alive while its real consumer is away.

Runs on the loop of the Link; made by `consumer_channel`. The broker deletes such a queue, with all its messages, when
its last consumer leaves. The anchor has a channel of its own and holds at most one message, which returns to its place
when the anchor is released. The anchor also returns it once a minute, because the broker closes a channel that keeps a
message unacknowledged for too long. Its channel ends with the connection; then the queue is gone in any case.
"""

import asyncio
from typing import Any

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.fast_frames import Deliveries

TAG = "mqworker-anchor"
RETURN_EVERY = 60.0  # seconds that a message is held; RabbitMQ allows 30 minutes by default


class Anchor:
    """See the module head."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._timer: asyncio.TimerHandle | None = None
        channel.connection.deliveries[channel.number] = Deliveries(self._hold)

    @classmethod
    async def drop(cls, connection: AmqpConnection, queue: str) -> "Anchor":
        """Begin to keep a queue alive; raises Lost."""
        channel = await Channel.open(connection)
        self = cls(channel)
        try:
            await channel.ask("basic_qos", prefetch_count=1)
            await channel.ask("basic_consume", queue=queue, on_message_callback=unexpected, consumer_tag=TAG)
        except BaseException:
            self.release()
            raise
        return self

    def release(self) -> None:
        """Stop; the held message goes back to its place."""
        if self._timer is not None:
            self._timer.cancel()
        self._channel.connection.deliveries.pop(self._channel.number, None)
        self._channel.close()

    def _hold(self, tag: int, *_: object) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(RETURN_EVERY, self._give_back, tag)

    def _give_back(self, tag: int) -> None:
        if self._channel.usable:
            self._channel.raw.basic_nack(tag, requeue=True)


def unexpected(*_: Any) -> None:
    """Placeholder for pika's callback, which is never called: our own reader of frames takes the deliveries."""
    raise AssertionError("deliveries are taken before pika sees them")
