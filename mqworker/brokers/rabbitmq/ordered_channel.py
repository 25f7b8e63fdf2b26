"""One epoch of consuming for an ordered stage: a channel, and one consumer that stays as it is until the channel ends.

Runs on the loop of the Link; made by `consuming` for each epoch. A quorum queue puts whatever is nacked, or is on its
way to a cancelled consumer, behind its backlog, and what two consumers had back in the order of their names. What a
channel had when it ended returns to its place (both types of queue). So there is one tag, which is never replaced, with
one prefetch; nothing is nacked or cancelled, not even right before a channel or connection closes, because a cancel
hands a queue with a single active consumer over before what is unsettled is back; and there is no anchor, which would
take a message, or the whole queue. Pausing is for the caller: it begins nothing, and ends the epoch.
"""

from collections.abc import Callable, Sequence

from mqworker.brokers.base import Delivery
from mqworker.brokers.rabbitmq.anchor import unexpected
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.consumer_channel import ConsumerChannel
from mqworker.brokers.rabbitmq.queues import Found

TAG = "mqworker"


class OrderedChannel(ConsumerChannel):
    """See the module head."""

    def __init__(
        self, channel: Channel, epoch: int, queue: str, deliver: Callable[[Delivery], None], found: Found
    ) -> None:
        """See `ConsumerChannel`."""
        self.active = False  # something was delivered: no other consumer is before ours

        def deliver_as_active(delivery: Delivery) -> None:
            self.active = True
            deliver(delivery)

        super().__init__(channel, epoch, queue, deliver_as_active, found)
        self._tag = TAG  # forgotten at the end also if the broker had not answered yet

    def want(self, prefetch: int, fixed: int) -> None:
        """Consume with this prefetch until the channel ends, unless it has begun with another one."""
        if prefetch and not self.fixed_prefetch and not self._stopped:
            self.fixed_prefetch = self._prefetch = fixed or prefetch
            self._changed.set()

    def release(self, tags: Sequence[int]) -> None:
        """Do nothing: they return with the end of the channel."""

    async def _replace_consumer(self) -> None:
        if self._prefetch and not self._limit:
            await self.channel.ask("basic_qos", prefetch_count=self._prefetch)
            await self.channel.ask("basic_consume", queue=self._queue, on_message_callback=unexpected, consumer_tag=TAG)
            self.channel.forget_consumer(TAG)
            self._limit = self._prefetch
