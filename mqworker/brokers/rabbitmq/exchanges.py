"""Exchanges and bindings on RabbitMQ: looks them up, and makes what is missing if the configuration says how.

Runs on the loop of the Link; `queues` makes the requests. Raises `Lost` when something that is needed neither exists
nor can be made.
"""

from collections.abc import Iterator

from mqworker.brokers.base import Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.queues import MISMATCH, NOT_FOUND, REFUSED, Difference, attempt, difference

DELAYING = "x-delayed-message"  # the type of exchange of RabbitMQ's plugin for delayed messages


async def ensure_exchange(connection: AmqpConnection, exchange: str, kind: str) -> tuple[bool, tuple[str, ...]]:
    """Ensure that an exchange exists; returns whether it is a delaying one, and warnings.

    An existing one of any type is used as it is. A missing one is made only if `kind` says of which type: others may
    be about to declare theirs, and would be refused.
    """
    if not kind:
        try:
            await attempt(connection, "exchange_declare", exchange=exchange, passive=True)
        except Lost as lost:
            if lost.code != NOT_FOUND:
                raise
            raise Lost(
                f"exchange {exchange!r} does not exist: let the service that it belongs to declare it, or give its"
                " `type` in the configuration, so that it is made here",
                code=NOT_FOUND,
            ) from None
    try:
        await attempt(connection, "exchange_declare", exchange=exchange, exchange_type=kind or "direct", durable=True)
    except Lost as lost:
        differs = difference(lost)
        if differs is not None:
            return differs.found == DELAYING, tuple(_about_exchange(exchange, kind, differs))
        if lost.code != REFUSED:
            raise
        await attempt(connection, "exchange_declare", exchange=exchange, passive=True)
    return False, ()


def _about_exchange(exchange: str, kind: str, differs: Difference) -> Iterator[str]:
    """Yield what follows from the properties of an exchange that others declared; raises Lost if it is of no use."""
    if differs.found == DELAYING:
        yield (
            f"exchange {exchange!r} delays messages and returns them at once: results are published without"
            " `mandatory`, so one that has no route is lost"
        )
    elif differs.argument == "durable":
        yield f"exchange {exchange!r} is not durable: it is gone when the broker restarts"
    elif differs.argument == "internal":
        raise Lost(f"exchange {exchange!r} is internal, so nobody can publish to it: choose another output")
    elif differs.argument == "type" and kind and kind != "direct":
        yield f"exchange {exchange!r} is of type {differs.found}, configured is {kind}: it is used as found"


async def bind(connection: AmqpConnection, queue: str, exchange: str, key: str) -> str:
    """Bind a queue to an exchange; returns a warning, "" for none, if it must be bound by hand."""
    try:
        await attempt(connection, "queue_bind", queue=queue, exchange=exchange, routing_key=key)
    except Lost as lost:
        if lost.code not in (REFUSED, MISMATCH):
            raise
        return f"queue {queue!r} cannot be bound to exchange {exchange!r} by {key!r} ({lost}): bind it by hand"
    return ""


async def ensure_bindings(connection: AmqpConnection, topology: Topology) -> tuple[str, ...]:
    """Ensure that the input is bound as configured; returns warnings, raises Lost when the exchange is missing."""
    bindings = topology.bindings
    if bindings is None:
        return ()
    _, warnings = await ensure_exchange(connection, bindings.exchange, bindings.type)
    told = [await bind(connection, topology.input, bindings.exchange, key) for key in bindings.keys]
    return (*warnings, *filter(None, told))
