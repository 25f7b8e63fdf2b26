"""One epoch of consuming for an ordered stage: a channel, and one consumer that stays as it is until the channel ends.

Runs on the loop of the Link; made by `consuming` for each epoch. A quorum queue puts whatever is nacked, or is on its
way to a cancelled consumer, after its backlog, and puts back what two consumers had in the order of their names. What a
channel had when it ended returns to its place (in both types of queue). So there is one tag with one prefetch, which is
never replaced. Nothing is nacked or cancelled, not even right before a channel or connection closes: after a cancel, a
queue with a single active consumer goes to the next one before the unsettled messages are back. There is no anchor
either, which would take a message, or as the active consumer all of them. Pausing is up to the caller: it begins
nothing more, and ends the epoch.
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
        self.active = False  # something was delivered, so no other consumer comes before ours

        def deliver_as_active(delivery: Delivery) -> None:
            self.active = True
            deliver(delivery)

        super().__init__(channel, epoch, queue, deliver_as_active, found)
        self._tag = TAG  # so that it is forgotten at the end even if the broker had not answered yet

    def want(self, prefetch: int, fixed: int) -> None:
        """Consume with this prefetch until the channel ends, unless it has begun with another one."""
        if prefetch and not self.fixed_prefetch and not self._stopped:
            self.fixed_prefetch = self._prefetch = fixed or prefetch
            self._changed.set()

    def release(self, tags: Sequence[int]) -> None:
        """Do nothing: they are returned when the channel ends."""

    async def _replace_consumer(self) -> None:
        if self._prefetch and not self._limit:
            await self.channel.ask("basic_qos", prefetch_count=self._prefetch)
            await self.channel.ask("basic_consume", queue=self._queue, on_message_callback=unexpected, consumer_tag=TAG)
            self.channel.forget_consumer(TAG)
            self._limit = self._prefetch
