"""The consuming side of a Link: one channel at a time, its consumers, and what was delivered and not yet settled.

Runs on the loop of the Link, as the role of a kept connection. It owns the epoch: a number that goes up with every
new channel, because delivery tags mean nothing beyond theirs. It says deliveries and `consuming_lost` to the Sink;
it hears acks, and drops (and counts) those of an old epoch or of a tag that is already settled, which would cost
the channel. A channel that ends (an acknowledgement timeout, a deleted queue) ends its epoch and is replaced with
growing waits.

Prefetch is per consumer tag and cannot be changed on one that runs. So there may be several tags: the sum of their
limits, plus what is unsettled under cancelled ones, never exceeds the larger of the old and the new value. More is
wanted: a tag is added for the difference. Less: all are cancelled and a new one gets what the unsettled leave free;
the rest follows when those have settled.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from mqworker.brokers.base import Delivery, Sink
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.connection import SETTLED, wait_before
from mqworker.brokers.rabbitmq.topology import queue_status
from mqworker.brokers.rabbitmq.wire import Lost, RawProperties, Wire

MOST_TAGS = 4  # then they are replaced by fewer


class _Tag:
    """A consumer at the broker: how many unsettled it may have, and has."""

    __slots__ = ("cancelled", "held", "limit", "name")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.held = 0
        self.cancelled = False


class Consuming:
    """Role of the consuming connection."""

    def __init__(
        self,
        queue: str,
        sink: Sink,
        prepare: Callable[[Wire], Any],
        tell: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """`prepare` is awaited before each channel; `tell` hears what is missing now, "" for nothing."""
        self._queue = queue
        self._sink = sink
        self._prepare = prepare
        self._tell = tell
        self._changed = changed
        self._wire: Wire | None = None
        self._channel: Channel | None = None
        self._ended = asyncio.Event()
        self._tuned = asyncio.Event()
        self._tags: list[_Tag] = []
        self._unsettled: dict[int, _Tag] = {}  # delivery tags in order
        self._names = 0
        self.want = 0
        self.epoch = 0
        self.stale = 0  # acks that were dropped
        self.depth: int | None = None

    @property
    def ready(self) -> bool:
        """Whether there is a channel and what it needs."""
        return self._channel is not None

    @property
    def wire(self) -> Wire | None:
        """The connection, while there is one."""
        return self._wire

    @property
    def consuming(self) -> bool:
        """Whether the broker has a consumer of ours."""
        return any(not tag.cancelled for tag in self._tags)

    # -- what the Link says

    def consume(self, prefetch: int) -> None:
        """Want so many unsettled deliveries at most."""
        if prefetch != self.want:
            self.want = prefetch
            self._tuned.set()

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle at the broker."""
        channel, unsettled = self._channel, self._unsettled
        if epoch != self.epoch or channel is None or not channel.usable or not (multiple or tag in unsettled):
            self.stale += 1
            return
        if multiple:
            while unsettled and (first := next(iter(unsettled))) <= tag:
                unsettled.pop(first).held -= 1
        else:
            unsettled.pop(tag).held -= 1
        channel.raw.basic_ack(tag, multiple)
        self._settled()

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Give back to the queue."""
        channel = self._channel
        if epoch != self.epoch or channel is None or not channel.usable:
            return
        for tag in tags:
            if tag in self._unsettled:
                self._unsettled.pop(tag).held -= 1
                channel.raw.basic_nack(tag, requeue=True)
        self._settled()

    # -- what the connection says

    async def serve(self, wire: Wire) -> None:
        """Consume on one channel after the other until the connection ends."""
        self._wire = wire
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                await self._prepare(wire)
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

    async def _consume_on(self, wire: Wire) -> None:
        self._ended.clear()
        channel = await Channel.open(wire, on_lost=self._lose)
        channel.raw.add_on_cancel_callback(
            lambda frame: self._lose(Lost(f"the broker cancelled the consumer ({frame.method.consumer_tag})"))
        )
        self._channel = channel
        self.epoch += 1
        self._tags, self._unsettled = [], {}
        tuning = asyncio.create_task(self._tune(channel))
        self._tell("")
        try:
            await self._ended.wait()
        finally:
            tuning.cancel()
            await asyncio.gather(tuning, return_exceptions=True)
            channel.close()

    def _lose(self, lost: Lost) -> None:
        if self._channel is None:
            return
        self._channel = None
        self._tags, self._unsettled = [], {}
        self._ended.set()
        self._tell(f"consuming stopped: {lost}")
        self._sink.consuming_lost(self.epoch, str(lost))

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
        active = [tag for tag in self._tags if not tag.cancelled]
        limits = sum(tag.limit for tag in active)
        idle = len(active) > 1 and not self._unsettled
        if limits > self.want or (limits < self.want and len(active) >= MOST_TAGS) or (idle and limits == self.want):
            for tag in active:
                await channel.cancel(tag.name)
                tag.cancelled = True
            active, limits = [], 0
        old = sum(tag.held for tag in self._tags if tag.cancelled)
        self._tags = [tag for tag in self._tags if tag.held or not tag.cancelled]
        room = self.want - limits - old
        if room >= 1 and not (active and old):
            await self._add(channel, room)

    async def _add(self, channel: Channel, limit: int) -> None:
        self._names += 1
        tag = _Tag(f"mqworker-{self._names}", limit)
        self._tags.append(tag)
        epoch, unsettled, delivered = self.epoch, self._unsettled, self._sink.delivered

        def deliver(_channel: object, method: Any, properties: RawProperties, body: bytes) -> None:
            if epoch == self.epoch and self._channel is not None:
                number = method.delivery_tag
                unsettled[number] = tag
                tag.held += 1
                delivered(
                    Delivery(
                        epoch, number, properties.block, body, method.redelivered, method.exchange, method.routing_key
                    )
                )

        await channel.ask("basic_qos", prefetch_count=limit)
        await channel.ask("basic_consume", queue=self._queue, on_message_callback=deliver, consumer_tag=tag.name)

    def _settled(self) -> None:
        """Look whether the tags can be made fewer or larger now; cheap, because it runs for every ack."""
        if len(self._tags) == 1 and not self._tags[0].cancelled:
            return
        active = any(not tag.cancelled for tag in self._tags)
        old = any(tag.cancelled and tag.held for tag in self._tags)
        if not self._unsettled or not active or (not old and any(tag.cancelled for tag in self._tags)):
            self._tuned.set()
