"""Asks how many messages are ready in a queue.

Runs on the loop of a Link or an Outlet, on the connection that the caller passes. Asks on a channel of its own, because
the broker closes the channel when the queue is missing, and because a queue that does not answer (a quorum queue
without a leader) keeps a channel silent. A Link asks on its consuming connection, because during an alarm the broker
reads nothing from the other one. There is one request at a time; it ends without an answer only when its connection
ends, whose own deadlines show whether the broker is alive.

If a quorum queue has not answered within 250 ms, the broker reports that it has neither messages nor consumers. So that
answer counts only if it came sooner, not counting the time to the broker and back.
"""

import asyncio
import contextlib
from collections.abc import Callable

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.queues import NOT_FOUND

DOUBTFUL = 0.2  # seconds after which "no messages and no consumers" may mean that a quorum queue has not answered


class QueueDepth:
    """See the module head; answers go to `on_depth`. "" stands for no queue."""

    def __init__(self, queue: str, on_depth: Callable[[int], None]) -> None:
        self._queue = queue
        self._on_depth = on_depth
        self._channel: Channel | None = None  # kept for the next request
        self._request: asyncio.Task[None] | None = None

    def ask(self, connection: AmqpConnection | None) -> None:
        """Ask on this connection, unless a request is still unanswered; does nothing without a connection."""
        if connection is not None and self._queue and (self._request is None or self._request.done()):
            self._request = asyncio.create_task(self._ask(connection))

    async def close(self) -> None:
        """Give up the request."""
        if self._request is not None:
            self._request.cancel()
            await asyncio.gather(self._request, return_exceptions=True)

    async def _ask(self, connection: AmqpConnection) -> None:
        try:
            channel = self._channel
            if channel is None or not channel.usable:
                channel = self._channel = await Channel.open(connection, watched=False)
            began = asyncio.get_running_loop().time()
            status = await channel.ask("queue_declare", queue=self._queue, passive=True)
        except Lost as lost:
            if lost.code != NOT_FOUND:
                return
            self._on_depth(0)  # a publication to it will be refused, and make the Link create it again
        else:
            took = asyncio.get_running_loop().time() - began
            if status.message_count or status.consumer_count or took - await _way(channel, took) < DOUBTFUL:
                self._on_depth(status.message_count)


async def _way(channel: Channel, took: float) -> float:
    """Return the time of a round trip to the broker, where that matters."""
    if took < DOUBTFUL:
        return 0.0
    began = asyncio.get_running_loop().time()
    with contextlib.suppress(Lost):
        await channel.ping()
    return asyncio.get_running_loop().time() - began
