"""When the next epoch of consuming may begin: once it is wanted and, for an ordered stage, there is no other consumer.

Runs on the loop of the Link; part of `consuming`, which asks before each epoch and reports how each one ends. An epoch
is wanted from the first prefetch until one is ended at rest; if no order is kept, also before the first prefetch, so
that everything is ready for it. `idle` means that there is no epoch although nothing that it needs is missing. Owns the
right to consume alone (`sole_consumer`); raises Lost as that does.
"""

import asyncio
from collections.abc import Callable

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection
from mqworker.brokers.rabbitmq.queues import Found
from mqworker.brokers.rabbitmq.sole_consumer import POLL, SoleConsumer


class Standby:
    """See the module head."""

    def __init__(self, queue: str, report: Callable[[], None], *, ordered: bool) -> None:
        """`report` is called when this begins to wait."""
        self.idle = False  # there is no epoch, although nothing that it needs is missing
        self._report = report
        self._sole = SoleConsumer(queue) if ordered else None
        self._wanted = asyncio.Event()
        if not ordered:
            self._wanted.set()

    @property
    def wanted(self) -> bool:
        """Whether there should be an epoch."""
        return self._wanted.is_set()

    @property
    def resting(self) -> bool:
        """Whether there is no epoch because none is wanted."""
        return self.idle and not self.wanted

    @property
    def waits(self) -> str:
        """For which other consumer an ordered stage waits; "" for none."""
        return "" if self._sole is None else self._sole.waits

    def want(self, prefetch: int) -> None:
        """Set the wanted prefetch; 0 lets an epoch go on, but an ordered stage begins no other one."""
        if prefetch:
            self._wanted.set()
        elif self._sole is not None:
            self.rest()

    def rest(self) -> None:
        """Begin no epoch until one is wanted again."""
        self._wanted.clear()

    async def may_begin(self, connection: AmqpConnection, found: Found) -> bool:
        """Wait until an epoch may begin; returns False if the queue has to be looked up again before that."""
        if not self.wanted:
            self._wait()
            await self._wanted.wait()
            return False
        while self._sole is not None and not await self._sole.may_consume(connection, found):
            self._wait()
            await asyncio.sleep(POLL)
            if not self._wanted.is_set():
                await self._sole.release()
                return False
        return True

    def begun(self) -> None:
        """Note that an epoch has begun."""
        self.idle = False

    async def release(self) -> None:
        """Let another stage consume, because an epoch has ended in order; raises Lost."""
        if self._sole is not None:
            await self._sole.release()

    def ended(self) -> None:
        """Note that an epoch has ended in order."""
        self.idle = True

    def failed(self) -> None:
        """Note that something that an epoch needs is missing."""
        self.idle = False

    def lost(self) -> None:
        """Note that the connection has ended; the next one is asked again for other consumers."""
        self.idle = False
        self.alone()

    def alone(self) -> None:
        """Note that there is no other consumer now."""
        if self._sole is not None:
            self._sole.alone()

    def _wait(self) -> None:
        self.idle = True
        self._report()
