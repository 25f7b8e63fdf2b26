"""One epoch of consuming: a channel, at most one consumer on it, and the unsettled deliveries.

Runs on the loop of the Link; made by `consuming` for each epoch. It receives acks and the wanted prefetch, and passes
deliveries to the Sink until it is stopped.

The prefetch belongs to a consumer tag and cannot be changed while the tag exists, so a change needs a new tag. The
limit of a tag is the wanted prefetch minus the unsettled deliveries (there is no consumer while that is 0), so the sum
never exceeds the larger of the old and the new value; a tag is replaced by one with a larger limit once enough has
settled to make that worthwhile. There is never more than one tag, because two on one quorum queue would mix its order.

When a tag is cancelled, a quorum queue takes back the messages that are on their way to it, and delivers them again
after the backlog. So on a quorum queue the prefetch with which the channel begins to consume stays until the channel
ends; only holding back (0) cancels the tag. The same holds for an auto-delete queue, which also has an anchor while our
tag is gone, because the broker would delete it with all its messages.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

from mqworker.brokers.base import Delivery
from mqworker.brokers.rabbitmq.anchor import Anchor, unexpected
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.fast_frames import Deliveries
from mqworker.brokers.rabbitmq.queues import Found

SILENCE = 0.2  # seconds without an ack before an epoch is ended
WORTHWHILE = 1.25  # a tag is replaced when the new limit is at least this many times larger


class ConsumerChannel:
    """See the module head."""

    def __init__(
        self, channel: Channel, epoch: int, queue: str, deliver: Callable[[Delivery], None], found: Found
    ) -> None:
        """`deliver` receives each delivery; `found` describes the queue."""
        self.channel = channel
        self.fixed_prefetch = 0  # the prefetch in use, where it must not change
        self._queue = queue
        self.auto_delete = found.auto_delete
        self._keeps_prefetch = found.queue_type == "quorum" or self.auto_delete
        self._anchor: Anchor | None = None
        self._prefetch = 0  # wanted
        self._unsettled: set[int] = set()  # delivery tags; they are consecutive
        self._first = 1  # no unsettled tag is below this one
        self._tag = ""  # our consumer's name
        self._tags = 0  # how many consumers there were
        self._limit = 0  # its prefetch; 0 while there is no consumer
        self._changed = asyncio.Event()
        self._stopped = False
        unsettled = self._unsettled

        def arrived(
            tag: int, redelivered: bool, exchange: str, routing_key: str, properties: bytes, body: bytes
        ) -> None:
            if not self._stopped:
                unsettled.add(tag)
                deliver(Delivery(epoch, tag, properties, body, redelivered, exchange, routing_key))

        channel.connection.deliveries[channel.number] = Deliveries(arrived)

    @property
    def consuming(self) -> bool:
        """Whether our consumer exists at the broker."""
        return self._limit > 0

    def want(self, prefetch: int, fixed: int) -> None:
        """Use this prefetch from now on; where it must not change, use and keep the first `fixed` that is given."""
        if self._stopped:
            return
        if self._keeps_prefetch and prefetch and fixed:
            self.fixed_prefetch = self.fixed_prefetch or fixed
        if prefetch and self.fixed_prefetch:
            prefetch = self.fixed_prefetch
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            self._changed.set()

    def ack(self, tag: int, *, multiple: bool) -> bool:
        """Ack at the broker. For a settled tag, return False without acking: the broker would close the channel."""
        unsettled = self._unsettled
        if not self.channel.usable or not (multiple or tag in unsettled):
            return False
        if multiple:
            settled: Collection[int] = range(self._first, tag + 1)
            if len(settled) > 2 * len(unsettled):  # after a gap, most of them have been acked singly
                settled = [each for each in unsettled if each <= tag]
            unsettled.difference_update(settled)
            self._first = max(self._first, tag + 1)
        else:
            unsettled.remove(tag)
        self.channel.raw.basic_ack(tag, multiple)
        self._settled()
        return True

    def release(self, tags: Sequence[int]) -> None:
        """Return deliveries to the queue."""
        if not self.channel.usable:
            return
        for tag in tags:
            if tag in self._unsettled:
                self._unsettled.remove(tag)
                self.channel.raw.basic_nack(tag, requeue=True)
        self._settled()

    async def keep_consumer(self, changed: Callable[[], None]) -> None:
        """Adjust the consumer as wanted; calls `changed` after each adjustment, raises Lost when the channel ends."""
        while True:
            self._changed.clear()
            await self._replace_consumer()
            changed()
            await self._changed.wait()

    def stop(self) -> None:
        """Stop delivering."""
        self._stopped = True
        self._prefetch = self._limit = 0

    async def end(self) -> None:
        """Close the channel without cancelling the consumer, once the queue has taken all acks; raises Lost.

        A channel passes on 33 acks to a quorum queue until the first is on disk, and loses the others if it is closed
        before that. An answer shows that the channel has read all acks; nothing shows when the queue has them, so they
        get SILENCE.
        """
        left = -1
        while left != (left := len(self._unsettled)):  # an ack was sent in the meantime
            await self.channel.ask("basic_qos", prefetch_count=1)
            await asyncio.sleep(SILENCE)
        self.channel.forget_consumer(self._tag)
        await self.channel.closed()

    def close(self) -> None:
        """Close the channel; unsettled deliveries go back to the queue."""
        self.channel.connection.deliveries.pop(self.channel.number, None)
        self.channel.close()
        self._release_anchor()

    # -- inside

    async def _replace_consumer(self) -> None:
        if self._limit and (self._limit > self._prefetch or self._worthwhile()):
            if self.auto_delete and self._anchor is None:
                self._anchor = await Anchor.drop(self.channel.connection, self._queue)
            await self.channel.cancel(self._tag)
            self._limit = 0
        room = self._prefetch - len(self._unsettled)
        if not self._limit and room > 0:
            self._tags += 1
            self._tag = f"mqworker-{self._tags}"
            await self.channel.ask("basic_qos", prefetch_count=room)
            await self.channel.ask(
                "basic_consume", queue=self._queue, on_message_callback=unexpected, consumer_tag=self._tag
            )
            self._limit = room
            self._release_anchor()

    def _release_anchor(self) -> None:
        if self._anchor is not None:
            self._anchor.release()
            self._anchor = None

    def _worthwhile(self) -> bool:
        """Whether a new consumer's limit would be large enough to replace the present consumer."""
        possible = self._prefetch - len(self._unsettled)
        return self._limit < self._prefetch and possible >= min(self._prefetch, WORTHWHILE * self._limit)

    def _settled(self) -> None:
        """Check whether a consumer, or one with a larger limit, is possible; cheap, because it runs for every ack."""
        if self._limit == self._prefetch:
            return
        if self._worthwhile() if self._limit else len(self._unsettled) < self._prefetch:
            self._changed.set()
