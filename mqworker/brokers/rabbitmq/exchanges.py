"""Exchanges and bindings on RabbitMQ: looks them up, and makes missing ones if the configuration says how.

Runs on the loop of the Link; `queues` makes the requests. `InputBindings` owns the state of the bindings since the
connection was made. Raises `Lost` when something that is needed neither exists nor can be made.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from mqworker.brokers.base import Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.queues import MISMATCH, NOT_FOUND, REFUSED, Difference, attempt, difference

DELAYING = "x-delayed-message"  # the type of exchange of RabbitMQ's plugin for delayed messages
CREATES_NOTHING = {
    "alternate-exchange": 0
}  # is compared with what exists, but no exchange can be made with it, because it must not be a number
PATIENCE = 2.0  # seconds for all bindings of an input each time they are made again


async def ensure_exchange(
    connection: AmqpConnection, exchange: str, configured: str, *, default: str = "", source: bool = False
) -> tuple[bool, tuple[str, ...]]:
    """Ensure that an exchange exists; returns whether it delays messages, and warnings.

    An existing one of any type is used as it is. A missing one is made only if a type is configured or there is a
    default, because others may be about to declare theirs, and would be refused. `source`: messages come from it.
    """
    kind = configured or default
    arguments: dict[str, Any] = {} if kind else CREATES_NOTHING
    try:
        await attempt(
            connection,
            "exchange_declare",
            exchange=exchange,
            exchange_type=kind or "direct",
            durable=True,
            arguments=arguments,
        )
    except Lost as lost:
        differs = difference(lost)
        if differs is not None:
            return differs.found == DELAYING, tuple(_about_exchange(exchange, configured, differs, source=source))
        if lost.code not in (REFUSED, MISMATCH):  # with a long name, the broker cuts off the difference
            raise
        await _look(connection, exchange, configured)
    return False, ()


async def _look(connection: AmqpConnection, exchange: str, configured: str) -> None:
    try:
        await attempt(connection, "exchange_declare", exchange=exchange, passive=True)
    except Lost as lost:
        if lost.code != NOT_FOUND or configured:
            raise
        raise Lost(
            f"exchange {exchange!r} does not exist: let the service that it belongs to declare it, or give its"
            " `type` in the configuration, so that it is made here",
            code=NOT_FOUND,
        ) from None


def _about_exchange(exchange: str, configured: str, differs: Difference, *, source: bool) -> Iterator[str]:
    """Yield warnings about the properties of an exchange that others declared; raises Lost if it cannot be used."""
    if differs.found == DELAYING and not source:
        yield (
            f"exchange {exchange!r} delays messages and returns them at once: results are published without"
            " `mandatory`, so one that has no route is lost"
        )
    elif differs.argument == "durable":
        yield f"exchange {exchange!r} is not durable: it is gone when the broker restarts"
    elif differs.argument == "internal" and not source:
        raise Lost(f"exchange {exchange!r} is internal, so nobody can publish to it: choose another output")
    elif differs.argument == "type" and configured:
        yield f"exchange {exchange!r} is of type {differs.found}, configured is {configured}: it is used as found"


async def bind(connection: AmqpConnection, queue: str, exchange: str, key: str) -> str:
    """Bind a queue to an exchange; returns a warning if it must be bound by hand, otherwise ""."""
    try:
        await attempt(connection, "queue_bind", queue=queue, exchange=exchange, routing_key=key)
    except Lost as lost:
        if lost.code not in (REFUSED, MISMATCH):
            raise
        return _by_hand(queue, exchange, key, lost)
    return ""


def _by_hand(queue: str, exchange: str, key: str, lost: Lost) -> str:
    return f"queue {queue!r} cannot be bound to exchange {exchange!r} by {key!r} ({lost}): bind it by hand"


async def ensure_bindings(connection: AmqpConnection, topology: Topology) -> tuple[str, ...]:
    """Ensure that the input is bound as configured; returns warnings, raises Lost when the exchange is missing."""
    bindings = topology.bindings
    if bindings is None:
        return ()
    _, warnings = await ensure_exchange(connection, bindings.exchange, bindings.type, source=True)
    problems = [await bind(connection, topology.input, bindings.exchange, key) for key in bindings.keys]
    return (*warnings, *filter(None, problems))


class InputBindings:
    """Makes the bindings of an input again: nothing reports that its exchange was deleted and made without them.

    That takes one channel. It is not watched: a slow answer to this must not end the connection.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._refused: dict[str, str] = {}  # key -> why we may not bind it, so that it is not tried again
        self._channel: Channel | None = None  # the channel used last; it may be closed
        self.problem = ""  # why the input is not bound as configured
        self.warnings: tuple[str, ...] = ()  # what has to be bound by hand

    async def make_again(self, connection: AmqpConnection) -> None:
        """Bind by each key; raises Lost when the connection is lost."""
        bindings = self._topology.bindings
        if bindings is None or (self._channel is not None and not self._channel.raw.is_closed):
            return  # or the last request still has no answer
        try:
            async with asyncio.timeout(PATIENCE):
                channel = self._channel = await Channel.open(connection, watched=False)
                try:
                    await self._bind(channel, bindings.exchange, bindings.keys)
                finally:
                    channel.close()
            self.problem = ""
        except TimeoutError:
            pass
        except Lost as lost:
            if not connection.usable:
                raise
            if lost.code == NOT_FOUND:
                await self._make_exchange(connection)

    async def _bind(self, channel: Channel, exchange: str, keys: tuple[str, ...]) -> None:
        for key in keys:
            if key in self._refused:
                continue
            try:
                await channel.ask("queue_bind", queue=self._topology.input, exchange=exchange, routing_key=key)
            except Lost as lost:
                if lost.code in (REFUSED, MISMATCH):
                    self._refused[key] = _by_hand(self._topology.input, exchange, key, lost)
                    self.warnings = tuple(self._refused.values())
                raise

    async def _make_exchange(self, connection: AmqpConnection) -> None:
        try:
            await ensure_bindings(connection, self._topology)
        except Lost as lost:
            if not connection.usable:
                raise
            self.problem = f"the input is not bound: {lost}"
        else:
            self.problem = ""
