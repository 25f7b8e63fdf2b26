"""The consuming side of a Link: one epoch after another.

Runs on the loop of the Link, as the role of the consuming connection. Owns the epoch, a number that grows with every
new channel, because a delivery tag means nothing on another channel. It sends deliveries and `consuming_lost` to the
Sink; it receives acks, and drops (and counts) those of an old epoch or of a tag that is already settled. A channel that
ends (an acknowledgement timeout, a deleted queue) ends its epoch and is replaced, with growing delays.

An epoch that `end_epoch` ends does not count as lost: its channel is closed, and the next one is opened when it is
wanted, without a delay. Until then this role rests, and counts as ready. `standby` decides when an epoch may begin;
`epoch` has what happens from its beginning to its end.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from mqworker.brokers.base import Delivery, Sink
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.arrivals import Arrivals
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.consumer_channel import ConsumerChannel
from mqworker.brokers.rabbitmq.epoch import Epoch
from mqworker.brokers.rabbitmq.ordered_channel import OrderedChannel
from mqworker.brokers.rabbitmq.queues import Found, queue_status
from mqworker.brokers.rabbitmq.reconnector import STABLE_AFTER, retry_delay
from mqworker.brokers.rabbitmq.standby import Standby


class ConsumingState(NamedTuple):
    """This side's part of the LinkState."""

    ready: bool  # there is a channel, or none is wanted, and everything that it needs exists
    consuming: bool  # our consumer exists at the broker
    resting: bool  # there is no epoch because none is wanted
    waits: str  # for which other consumer an ordered stage waits; "" for none
    fixed_prefetch: int  # the prefetch in use, where it must not change; 0 elsewhere


class Consuming:
    """Role of the consuming connection."""

    def __init__(
        self,
        queue: str,
        sink: Sink,
        prepare: Callable[[AmqpConnection], Awaitable[Found]],
        upkeep: Callable[[AmqpConnection], Awaitable[None]],
        arrivals: Arrivals,
        report: Callable[[str], None],
        changed: Callable[[], None],
        *,
        ordered: bool = False,
    ) -> None:
        """`prepare` is awaited before each channel and describes the queue; `upkeep` is awaited with each ping.

        `arrivals` receives each exchange; `report` is called with a sentence on what is missing now, "" for nothing;
        `changed` is called when our consumer may have appeared or disappeared.
        """
        self._queue = queue
        self._sink = sink
        self._prepare = prepare
        self._upkeep = upkeep
        self._arrivals = arrivals
        self._report = report
        self._changed = changed
        self._kind = OrderedChannel if ordered else ConsumerChannel
        self._current: Epoch | None = None
        self._wanted = (0, 0)  # the prefetch, and the one to keep where it must not change
        self._standby = Standby(queue, lambda: report(""), ordered=ordered)
        self.connection: AmqpConnection | None = None  # while there is one
        self.epoch = 0
        self.stale = 0  # acks that were dropped
        self.depth: int | None = None
        self.others: int | None = None  # other consumers of the queue; None: not known

    @property
    def state(self) -> ConsumingState:
        """The present state."""
        standby, consumer = self._standby, None if self._current is None else self._current.consumer
        active = isinstance(consumer, OrderedChannel) and consumer.active
        return ConsumingState(
            ready=consumer is not None or standby.idle,
            consuming=consumer is not None and consumer.consuming,
            resting=standby.resting,
            waits="" if active else standby.waits,
            fixed_prefetch=0 if consumer is None else consumer.fixed_prefetch,
        )

    # -- what the Link asks for

    def consume(self, prefetch: int, fixed: int) -> None:
        """Allow at most `prefetch` unsettled deliveries; see `Link.consume`."""
        self._wanted = prefetch, fixed
        self._standby.want(prefetch)
        if self._current is not None:
            self._current.consumer.want(prefetch, fixed)

    def end_epoch(self) -> None:
        """End the epoch of a stage at rest; see `Link.end_epoch`."""
        current = self._current
        if current is not None and current.consumer.auto_delete:
            return
        self._wanted = 0, 0
        self._standby.rest()
        if current is not None:
            current.end()

    async def finish(self, deadline: float) -> None:
        """End the epoch, in order, before the connection is closed; for at most `deadline` seconds."""
        self.end_epoch()
        if self._current is not None and not self._current.consumer.auto_delete:
            await self._current.wait(deadline)

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle at the broker."""
        current = self._current
        if current is None or epoch != self.epoch or not current.consumer.ack(tag, multiple=multiple):
            self.stale += 1

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Return deliveries to the queue."""
        if self._current is not None and epoch == self.epoch:
            self._current.consumer.release(tags)

    # -- what the connection calls

    async def serve(self, connection: AmqpConnection) -> None:
        """Consume on one channel after another until the connection ends."""
        self.connection = connection
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                found = await self._prepare(connection)
                if not await self._standby.may_begin(connection, found):
                    continue
                await self._consume_on(connection, found)
                if self._standby.idle:
                    continue
            except Lost as lost:
                if not connection.usable:
                    raise
                self._standby.failed()
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
                self._lose(f"queue {self._queue!r} is gone")
                return
            self.depth = status.message_count
            ours = int(self.state.consuming)
            self.others = max(0, status.consumer_count - ours)
            if ours and not self.others:
                self._standby.alone()
            await self._upkeep(connection)

    def check_deadlines(self, now: float) -> None:
        """Do nothing: this role has no deadlines of its own."""

    def lost(self, reason: str) -> None:
        """End the epoch, because the connection has ended."""
        self.connection = None
        self.depth = self.others = None
        self._standby.lost()
        self._lose(f"connection lost: {reason}")

    # -- inside

    async def _consume_on(self, connection: AmqpConnection, found: Found) -> None:
        channel = await Channel.open(connection)
        self.epoch += 1
        consumer = self._kind(channel, self.epoch, self._queue, self._deliver, found)
        current = self._current = Epoch(consumer, self._over)
        self._standby.begun()
        if not self._standby.wanted:  # not any more, since the channel was requested
            current.end()
        consumer.want(*self._wanted)
        self._report("")
        await current.run(self._changed, self._standby.release)

    def _deliver(self, delivery: Delivery) -> None:
        if delivery.exchange and self._arrivals.came(delivery.exchange):
            self._changed()
        self._sink.delivered(delivery)

    def _lose(self, reason: str) -> None:
        if self._current is not None:
            self._current.lose(Lost(reason))

    def _over(self, lost: Lost | None) -> None:
        """Handle the end of the epoch; it ended in order if `lost` is None."""
        self._current = None
        if lost is not None:
            self._report(f"consuming stopped: {lost}")
            self._sink.consuming_lost(self.epoch, str(lost))
            return
        self._standby.ended()
        self._sink.consuming_lost(self.epoch, "")
        self._changed()
