"""The consuming side of a Link: one epoch after the other.

Runs on the loop of the Link, as the role of the consuming connection. Owns the epoch, a number that grows with every
new channel, because a delivery tag means nothing on another channel. It sends deliveries and `consuming_lost` to the
Sink; it receives acks, and drops (and counts) those of an old epoch or of a tag that is already settled. A channel that
ends (an acknowledgement timeout, a deleted queue) ends its epoch and is replaced, with growing delays.

When the queue was deleted and made again, it lacks the bindings that others had made, and AMQP tells nobody which those
were. So it remembers through which exchanges messages came: until one comes that way again, the binding is missing.
(Not so of the configured exchange: what others bound to it by other keys is not noticed.)
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from mqworker.brokers.base import Delivery, Sink
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.consumer_channel import ConsumerChannel
from mqworker.brokers.rabbitmq.queues import Found, queue_status
from mqworker.brokers.rabbitmq.reconnector import STABLE_AFTER, retry_delay


class Consuming:
    """Role of the consuming connection."""

    def __init__(
        self,
        queue: str,
        sink: Sink,
        prepare: Callable[[AmqpConnection], Awaitable[Found]],
        upkeep: Callable[[AmqpConnection], Awaitable[None]],
        report: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """`prepare` is awaited before each channel and returns what the queue is; `upkeep` is awaited with each ping.

        `report` is called with a sentence on what is missing now, "" for nothing; `changed` when our consumer may have
        appeared or gone.
        """
        self._queue = queue
        self._sink = sink
        self._prepare = prepare
        self._upkeep = upkeep
        self._report = report
        self._changed = changed
        self._current: ConsumerChannel | None = None
        self._ended = asyncio.Event()  # the current one
        self._wanted = (0, 0)  # the prefetch, and the one to keep where it must not change
        self.connection: AmqpConnection | None = None  # while there is one
        self.epoch = 0
        self.stale = 0  # acks that were dropped
        self.depth: int | None = None
        self.exchanges: set[str] = set()  # through which messages have come since the queue was made
        self.unbound: set[str] = set()  # through which messages came before it was deleted and made again

    @property
    def ready(self) -> bool:
        """Whether there is a channel, and everything that it needs exists."""
        return self._current is not None

    @property
    def consuming(self) -> bool:
        """Whether our consumer exists at the broker."""
        return self._current is not None and self._current.consuming

    @property
    def fixed_prefetch(self) -> int:
        """The prefetch in use, where it must not change; 0 elsewhere."""
        return 0 if self._current is None else self._current.fixed_prefetch

    # -- what the Link asks for

    def consume(self, prefetch: int, fixed: int) -> None:
        """Allow at most `prefetch` unsettled deliveries; see `Link.consume`."""
        self._wanted = prefetch, fixed
        if self._current is not None:
            self._current.want(prefetch, fixed)

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle at the broker."""
        current = self._current
        if current is None or epoch != self.epoch or not current.ack(tag, multiple=multiple):
            self.stale += 1

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Return deliveries to the queue."""
        if self._current is not None and epoch == self.epoch:
            self._current.release(tags)

    def made_again(self, bound: str) -> None:
        """Note that the queue was deleted and is new: only the exchange `bound` is bound to it again."""
        self.unbound |= self.exchanges - {bound}
        self.exchanges.clear()

    # -- what the connection calls

    async def serve(self, connection: AmqpConnection) -> None:
        """Consume on one channel after the other until the connection ends."""
        self.connection = connection
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                await self._consume_on(connection, await self._prepare(connection))
            except Lost as lost:
                if not connection.usable:
                    raise
                self._report(f"the topology is incomplete: {lost}")
            failures = 1 if loop.time() - began > STABLE_AFTER else failures + 1
            await asyncio.sleep(retry_delay(failures, refused=False))

    async def ping(self) -> None:
        """Ask for the queue's depth; an answer also shows that the broker is alive. Then do the upkeep."""
        connection = self.connection
        if connection is None:
            return
        with contextlib.suppress(Lost):
            status = await queue_status(connection, self._queue)
            if status is None:
                self._lose(self._current, Lost(f"queue {self._queue!r} is gone"))
                return
            self.depth = status.message_count
            await self._upkeep(connection)

    def check_deadlines(self, now: float) -> None:
        """Do nothing: this role has no deadlines of its own."""

    def lost(self, reason: str) -> None:
        """End the epoch: the connection has ended."""
        self.connection = None
        self.depth = None
        self._lose(self._current, Lost(reason))

    # -- inside

    async def _consume_on(self, connection: AmqpConnection, found: Found) -> None:
        self._ended.clear()
        channel = await Channel.open(connection)
        self.epoch += 1
        current = self._current = ConsumerChannel(channel, self.epoch, self._queue, self._deliver, found)
        current.want(*self._wanted)
        channel.on_lost = partial(self._lose, current)
        channel.raw.add_on_cancel_callback(
            lambda frame: self._lose(current, Lost(f"the broker cancelled the consumer ({frame.method.consumer_tag})"))
        )
        keeping = asyncio.create_task(self._keep_consumer(current))
        self._report("")
        try:
            await self._ended.wait()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            current.close()

    def _deliver(self, delivery: Delivery) -> None:
        exchange = delivery.exchange
        if exchange and exchange not in self.exchanges:
            self.exchanges.add(exchange)
            if exchange in self.unbound:
                self.unbound.discard(exchange)
                self._changed()
        self._sink.delivered(delivery)

    async def _keep_consumer(self, current: ConsumerChannel) -> None:
        try:
            await current.keep_consumer(self._changed)
        except Lost as lost:
            if current.channel.usable:
                self._lose(current, lost)

    def _lose(self, current: ConsumerChannel | None, lost: Lost) -> None:
        if current is None or current is not self._current:
            return
        self._current = None
        current.stop()
        self._ended.set()
        self._report(f"consuming stopped: {lost}")
        self._sink.consuming_lost(self.epoch, str(lost))
