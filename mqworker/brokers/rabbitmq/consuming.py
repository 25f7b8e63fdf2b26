"""The consuming side of a Link: one epoch after the other.

Runs on the loop of the Link, as the role of the consuming connection. Owns the epoch, a number that grows with every
new channel, because a delivery tag means nothing on another channel. It sends deliveries and `consuming_lost` to the
Sink; it receives acks, and drops (and counts) those of an old epoch or of a tag that is already settled. A channel that
ends (an acknowledgement timeout, a deleted queue) ends its epoch and is replaced, with growing delays.

An epoch that `end_epoch` ends is no loss: its channel is closed, and the next one is opened when it is wanted, without
a delay. Until then this role rests, and counts as ready. For an ordered stage an epoch begins only when it is wanted
and nobody else consumes the queue (`sole_consumer`).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from mqworker.brokers.base import Delivery, Sink
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.arrivals import Arrivals
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.consumer_channel import ConsumerChannel
from mqworker.brokers.rabbitmq.ordered_channel import OrderedChannel
from mqworker.brokers.rabbitmq.queues import Found, queue_status
from mqworker.brokers.rabbitmq.reconnector import STABLE_AFTER, retry_delay
from mqworker.brokers.rabbitmq.sole_consumer import POLL, SoleConsumer


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
        *,
        ordered: bool = False,
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
        self._ended = asyncio.Event()  # the current one, or it has to
        self._over = asyncio.Event()  # there is no current one
        self._wanted = (0, 0)  # the prefetch, and the one to keep where it must not change
        self.connection: AmqpConnection | None = None  # while there is one
        self.epoch = 0
        self.stale = 0  # acks that were dropped
        self.depth: int | None = None
        self.arrivals = Arrivals()
        self._idle = False  # there is no epoch, and nothing is missing for one
        self._rest = ordered  # no further epoch is wanted
        self._sole = SoleConsumer(queue) if ordered else None
        self._woken = asyncio.Event()  # one is wanted

    @property
    def ready(self) -> bool:
        """Whether there is a channel, or there need not be one, and everything that it needs exists."""
        return self._current is not None or self._idle

    @property
    def resting(self) -> bool:
        """Whether there is no epoch because none is wanted."""
        return self._idle and self._rest

    @property
    def waits(self) -> str:
        """For which other consumer an ordered stage waits; "" for none."""
        active = isinstance(self._current, OrderedChannel) and self._current.active
        return "" if self._sole is None or active else self._sole.waits

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
        if prefetch:
            self._rest = False
            self._woken.set()
        elif self._sole is not None:
            self._rest = True
            self._woken.clear()
        if self._current is not None:
            self._current.want(prefetch, fixed)

    def end_epoch(self) -> None:
        """End the epoch, at rest; see `Link.end_epoch`."""
        if self._current is not None and self._current.auto_delete:
            return
        self._wanted = 0, 0
        self._rest = True
        self._woken.clear()
        if self._current is not None:
            self._current.stop()
            self._ended.set()

    async def finish(self, deadline: float) -> None:
        """End the epoch, in order, before the connection is closed; for at most `deadline` seconds."""
        self.end_epoch()
        if self._current is not None and not self._current.auto_delete:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline):
                    await self._over.wait()

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle at the broker."""
        current = self._current
        if current is None or epoch != self.epoch or not current.ack(tag, multiple=multiple):
            self.stale += 1

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Return deliveries to the queue."""
        if self._current is not None and epoch == self.epoch:
            self._current.release(tags)

    # -- what the connection calls

    async def serve(self, connection: AmqpConnection) -> None:
        """Consume on one channel after the other until the connection ends."""
        self.connection = connection
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                found = await self._prepare(connection)
                if self._rest:
                    await self._wait_until_wanted()
                    continue  # what the queue is may have changed meanwhile
                if self._sole is not None and not await self._is_alone(self._sole, connection, found):
                    continue
                await self._consume_on(connection, found)
                if self._idle:
                    continue
            except Lost as lost:
                if not connection.usable:
                    raise
                self._idle = False
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
            if self._sole is not None and self.consuming and status.consumer_count == 1:
                self._sole.alone()
            await self._upkeep(connection)

    def check_deadlines(self, now: float) -> None:
        """Do nothing: this role has no deadlines of its own."""

    def lost(self, reason: str) -> None:
        """End the epoch: the connection has ended."""
        self.connection = None
        self.depth = None
        self._idle = False
        if self._sole is not None:
            self._sole.alone()
        self._lose(self._current, Lost(reason))

    # -- inside

    async def _consume_on(self, connection: AmqpConnection, found: Found) -> None:
        channel = await Channel.open(connection)
        self._ended.clear()
        self._over.clear()
        self.epoch += 1
        kind = OrderedChannel if self._sole is not None else ConsumerChannel
        current = self._current = kind(channel, self.epoch, self._queue, self._deliver, found)
        self._idle = False
        if self._rest:  # since the channel was asked for
            self._ended.set()
        current.want(*self._wanted)
        channel.on_lost = partial(self._lose, current)
        channel.raw.add_on_cancel_callback(
            lambda frame: self._lose(current, Lost(f"the broker cancelled the consumer ({frame.method.consumer_tag})"))
        )
        keeping = asyncio.create_task(self._keep_consumer(current))
        self._report("")
        try:
            await self._ended.wait()
            if current is self._current:
                await self._end(current, keeping)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            current.close()

    async def _is_alone(self, sole: SoleConsumer, connection: AmqpConnection, found: Found) -> bool:
        """Wait until nobody else consumes; returns False if no epoch is wanted any more."""
        while not self._rest:
            if await sole.may_consume(connection, found):
                return True
            self._idle = True
            self._report("")
            await asyncio.sleep(POLL)
        await sole.release()
        return False

    async def _wait_until_wanted(self) -> None:
        self._idle = True
        self._report("")
        await self._woken.wait()

    async def _end(self, current: ConsumerChannel, keeping: asyncio.Task[None]) -> None:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        current.channel.on_lost = lambda _: None
        with contextlib.suppress(Lost):
            await current.end()
            if self._sole is not None:
                await self._sole.release()
        if current is self._current:  # else the connection was lost meanwhile, and the Sink knows
            self._current = None
            self._over.set()
            self._idle = True
            self._sink.consuming_lost(self.epoch, "")
            self._changed()

    def _deliver(self, delivery: Delivery) -> None:
        if delivery.exchange and self.arrivals.came(delivery.exchange):
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
        self._over.set()
        self._report(f"consuming stopped: {lost}")
        self._sink.consuming_lost(self.epoch, str(lost))
