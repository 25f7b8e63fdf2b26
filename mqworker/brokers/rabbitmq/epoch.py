"""One epoch of consuming, from the opening of its channel to its end, which is reported once.

Runs on the loop of the Link; made by `consuming`. Owns the task that adjusts the consumer. An epoch is *lost* at once
when its channel or connection ends or the broker cancels the consumer; or it ends *in order* on request: it delivers
nothing more, sends its acks, and closes the channel. Whichever happens first counts, and `over` is called for it, so
that the end of each epoch is reported to the Sink once.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from mqworker.brokers.rabbitmq.amqp_connection import Lost
from mqworker.brokers.rabbitmq.consumer_channel import ConsumerChannel


class Epoch:
    """See the module head."""

    def __init__(self, consumer: ConsumerChannel, over: Callable[[Lost | None], None]) -> None:
        """`over` receives why the epoch was lost, or None if it has ended in order."""
        self.consumer = consumer
        self._on_over = over
        self._ending = asyncio.Event()  # it is over, or has to end
        self._over = asyncio.Event()
        consumer.channel.on_lost = self.lose
        consumer.channel.raw.add_on_cancel_callback(
            lambda frame: self.lose(Lost(f"the broker cancelled the consumer ({frame.method.consumer_tag})"))
        )

    async def run(self, changed: Callable[[], None], release: Callable[[], Awaitable[None]]) -> None:
        """Consume until the epoch is over.

        `changed` is called after each adjustment of the consumer; `release` is awaited when the epoch ends in order,
        and may raise Lost.
        """
        keeping = asyncio.create_task(self._keep_consumer(changed))
        try:
            await self._ending.wait()
            if not self._over.is_set():
                await _cancel(keeping)
                await self._end(release)
        finally:
            await _cancel(keeping)
            self.consumer.close()

    def end(self) -> None:
        """Begin to end in order."""
        self.consumer.stop()
        self._ending.set()

    def lose(self, lost: Lost) -> None:
        """End at once, unless it has ended already."""
        if not self._over.is_set():
            self.consumer.stop()
            self._ending.set()
            self._be_over(lost)

    async def wait(self, deadline: float) -> None:
        """Wait until the epoch is over, for at most `deadline` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._over.wait()

    async def _end(self, release: Callable[[], Awaitable[None]]) -> None:
        self.consumer.channel.on_lost = lambda _: None
        with contextlib.suppress(Lost):
            await self.consumer.end()
            await release()
        if not self._over.is_set():  # otherwise the connection was lost in the meantime
            self._be_over(None)

    def _be_over(self, lost: Lost | None) -> None:
        self._over.set()
        self._on_over(lost)

    async def _keep_consumer(self, changed: Callable[[], None]) -> None:
        try:
            await self.consumer.keep_consumer(changed)
        except Lost as lost:
            if self.consumer.channel.usable:
                self.lose(lost)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
