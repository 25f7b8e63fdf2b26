"""The consuming side of a Link: one channel at a time, its consumers, and what was delivered and not yet settled.

Runs on the loop of the Link, as the role of a kept connection. It owns the epoch: a number that goes up with every
new channel, because delivery tags mean nothing beyond theirs. It says deliveries and `consuming_lost` to the Sink;
it hears acks, and drops (and counts) those of an old epoch or of a tag that is already settled, which would cost
the channel. A channel that ends (an acknowledgement timeout, a deleted queue) ends its epoch and is replaced with
growing waits.

Prefetch belongs to a consumer tag and cannot be changed on one that runs, so a change means a new tag. It gets what
the unsettled leave of the wanted value (none while they leave nothing), so that the sum never exceeds the larger of
the old and the new value; and it is replaced by a larger one when what has settled meanwhile makes that worth while.
There is never more than one tag, because two on one quorum queue would mix its order. A quorum queue also takes back
what is on its way to a tag that is cancelled, and delivers it again behind the backlog. So there the prefetch wanted
when a channel begins to consume stays for as long as that channel lives; only holding back cancels the tag.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mqworker.brokers.base import Delivery, Sink
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.fast_frames import Arrival, Deliveries
from mqworker.brokers.rabbitmq.reconnector import SETTLED, wait_before
from mqworker.brokers.rabbitmq.topology import queue_status

WORTH = 1.25  # a tag is replaced by one with so many times its limit


class Consuming:
    """Role of the consuming connection."""

    def __init__(
        self,
        queue: str,
        sink: Sink,
        prepare: Callable[[AmqpConnection], Awaitable[str]],
        tell: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """`prepare` is awaited before each channel and returns the queue's type.

        `tell` hears what is missing now, "" for nothing.
        """
        self._queue = queue
        self._sink = sink
        self._prepare = prepare
        self._tell = tell
        self._changed = changed
        self._wire: AmqpConnection | None = None
        self._channel: Channel | None = None
        self._ended = asyncio.Event()
        self._tuned = asyncio.Event()
        self._unsettled: dict[int, None] = {}  # delivery tags in order
        self._tag = ""  # our consumer's name
        self._names = 0
        self._limit = 0  # its prefetch; 0 while there is no consumer
        self._wanted = (0, 0)  # the prefetch, and the one to use where it must not change
        self._queue_type = "classic"
        self.fixed = 0  # the prefetch of this channel, where it must not change
        self.want = 0  # the prefetch that all this comes to
        self.epoch = 0
        self.stale = 0  # acks that were dropped
        self.depth: int | None = None

    @property
    def ready(self) -> bool:
        """Whether there is a channel and what it needs."""
        return self._channel is not None

    @property
    def wire(self) -> AmqpConnection | None:
        """The connection, while there is one."""
        return self._wire

    @property
    def consuming(self) -> bool:
        """Whether the broker has a consumer of ours."""
        return self._limit > 0

    # -- what the Link says

    def consume(self, prefetch: int, fixed: int) -> None:
        """Want so many unsettled deliveries at most; see `Link.consume`."""
        self._wanted = prefetch, fixed
        self._choose()

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle at the broker."""
        channel, unsettled = self._channel, self._unsettled
        if epoch != self.epoch or channel is None or not channel.usable or not (multiple or tag in unsettled):
            self.stale += 1
            return
        if multiple:
            while unsettled and (first := next(iter(unsettled))) <= tag:
                del unsettled[first]
        else:
            del unsettled[tag]
        channel.raw.basic_ack(tag, multiple)
        self._settled()

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Give back to the queue."""
        channel = self._channel
        if epoch != self.epoch or channel is None or not channel.usable:
            return
        for tag in tags:
            if tag in self._unsettled:
                del self._unsettled[tag]
                channel.raw.basic_nack(tag, requeue=True)
        self._settled()

    # -- what the connection says

    async def serve(self, wire: AmqpConnection) -> None:
        """Consume on one channel after the other until the connection ends."""
        self._wire = wire
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                self._queue_type = await self._prepare(wire)
                await self._consume_on(wire)
            except Lost as lost:
                if not wire.usable:
                    raise
                self._tell(f"the topology is incomplete: {lost}")
            failures = 1 if loop.time() - began > SETTLED else failures + 1
            await asyncio.sleep(wait_before(failures, refused=False))

    async def ping(self) -> None:
        """Ask for the queue's depth, which also shows that the broker lives."""
        wire = self._wire
        if wire is None:
            return
        try:
            status = await queue_status(wire, self._queue)
        except Lost:
            return
        if status is None:
            self._lose(Lost(f"queue {self._queue!r} is gone"))
        else:
            self.depth = status.message_count

    def sweep(self, now: float) -> None:
        """Nothing here has a deadline of its own."""

    def lost(self, reason: str) -> None:
        """The connection is over."""
        self._wire = None
        self.depth = None
        self._lose(Lost(reason))

    # -- the channel

    async def _consume_on(self, wire: AmqpConnection) -> None:
        self._ended.clear()
        channel = await Channel.open(wire, on_lost=self._lose)
        channel.raw.add_on_cancel_callback(
            lambda frame: self._lose(Lost(f"the broker cancelled the consumer ({frame.method.consumer_tag})"))
        )
        self._channel = channel
        self.epoch += 1
        self._limit, self._unsettled, self.fixed = 0, {}, 0
        self._choose()
        self._listen(wire, channel)
        tuning = asyncio.create_task(self._tune(channel))
        self._tell("")
        try:
            await self._ended.wait()
        finally:
            tuning.cancel()
            await asyncio.gather(tuning, return_exceptions=True)
            wire.deliveries.pop(channel.number, None)
            channel.close()

    def _listen(self, wire: AmqpConnection, channel: Channel) -> None:
        epoch, unsettled, say = self.epoch, self._unsettled, self._sink.delivered

        def arrived(arrival: Arrival) -> None:
            if self._channel is channel:
                tag, redelivered, exchange, routing_key, properties, body = arrival
                unsettled[tag] = None
                say(Delivery(epoch, tag, properties, body, redelivered, exchange, routing_key))

        wire.deliveries[channel.number] = Deliveries(arrived)

    def _lose(self, lost: Lost) -> None:
        if self._channel is None:
            return
        self._channel = None
        self._limit, self._unsettled = 0, {}
        self._ended.set()
        self._tell(f"consuming stopped: {lost}")
        self._sink.consuming_lost(self.epoch, str(lost))

    def _choose(self) -> None:
        """Choose the prefetch; on a quorum queue the first one of this channel stays."""
        prefetch, fixed = self._wanted
        if self._channel is not None and self._queue_type == "quorum" and prefetch and fixed:
            self.fixed = self.fixed or fixed
        if prefetch and self.fixed:
            prefetch = self.fixed
        if prefetch != self.want:
            self.want = prefetch
            self._tuned.set()

    async def _tune(self, channel: Channel) -> None:
        """Keep the consumers of a channel such that their limits fit what is wanted."""
        while True:
            self._tuned.clear()
            try:
                await self._fit(channel)
            except Lost as lost:
                if channel.usable:
                    self._lose(lost)
                return
            self._changed()
            await self._tuned.wait()

    async def _fit(self, channel: Channel) -> None:
        if self._limit and (self._limit > self.want or self._worth()):
            await channel.cancel(self._tag)
            self._limit = 0
        room = self.want - len(self._unsettled)
        if not self._limit and room > 0:
            await self._add(channel, room)

    def _worth(self) -> bool:
        """Whether a new consumer could have a limit that is larger by enough."""
        possible = self.want - len(self._unsettled)
        return self._limit < self.want and possible >= min(self.want, WORTH * self._limit)

    async def _add(self, channel: Channel, limit: int) -> None:
        self._names += 1
        self._tag = f"mqworker-{self._names}"
        await channel.ask("basic_qos", prefetch_count=limit)
        await channel.ask("basic_consume", queue=self._queue, on_message_callback=_unexpected, consumer_tag=self._tag)
        self._limit = limit

    def _settled(self) -> None:
        """Look whether there can be a consumer, or a larger one; cheap, because it runs for every ack."""
        if self._limit == self.want:
            return
        if self._worth() if self._limit else len(self._unsettled) < self.want:
            self._tuned.set()


def _unexpected(*_: object) -> None:
    raise AssertionError("deliveries are taken before pika sees them")
