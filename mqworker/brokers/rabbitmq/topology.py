"""Ensures everything that a stage needs on RabbitMQ.

Runs on the loop of the Link, for each new channel and when something turns out to be missing. Owns nothing. Raises
`Lost`, which names what neither exists nor can be created, or says why the input cannot be consumed as a work queue.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from mqworker.brokers.base import Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.exchanges import bind, ensure_bindings, ensure_exchange
from mqworker.brokers.rabbitmq.queues import LOCKED, SINGLE_ACTIVE, YOUNG, Found, ensure_queue, queue_arguments


def input_arguments(connection: AmqpConnection, queue_type: str, *, ordered: bool) -> dict[str, Any]:
    """Return the arguments with which a stage's input queue is made, if it is missing."""
    return queue_arguments(connection, queue_type) | ({SINGLE_ACTIVE: True} if ordered else {})


async def ensure(connection: AmqpConnection, topology: Topology, on_made: Callable[[], None]) -> Found:
    """Ensure that a stage's whole topology exists; raises Lost, which names what cannot be created or used.

    `on_made` is called as soon as the input has been made, because a later step may fail.
    """
    arguments = queue_arguments(connection, topology.queue_type)
    try:
        single = input_arguments(connection, topology.queue_type, ordered=topology.ordered)
        found = await ensure_queue(connection, topology.input, single)
    except Lost as lost:
        if lost.code == LOCKED:
            raise Lost(f"queue {topology.input!r} is exclusive to another connection: choose another input") from None
        raise
    if found.made:
        on_made()
    if topology.ordered and found.auto_delete:
        pause = f"queue {topology.input!r} is auto-delete: a pause of its ordered stage keeps what it has taken"
        found = found._replace(warnings=(*found.warnings, pause))
    if found.queue_type == "stream":
        raise Lost(
            f"queue {topology.input!r} is a stream, and what is taken from a stream stays in it: it would be computed"
            " again at each start. Choose a classic or quorum queue as input"
        )
    made, warnings, quorum = found.made, found.warnings, found.quorum
    for name in topology.queues:
        if name != topology.input:
            other = await ensure_queue(connection, name, arguments)
            warnings, quorum = warnings + other.warnings, quorum | other.quorum
            made |= other.made
    if made and quorum:
        await asyncio.sleep(YOUNG)
    output = topology.output
    if output is not None and output.exchange:
        default = "direct" if output.queue else ""
        delaying, more = await ensure_exchange(connection, output.exchange, output.type, default=default)
        unbound = await bind(connection, output.queue, output.exchange, output.routing_key) if output.queue else ""
        found = found._replace(delaying=delaying, bound=not unbound)
        warnings += (*more, *filter(None, [unbound]))
    warnings += await ensure_bindings(connection, topology)
    return found._replace(repaired=made, quorum=quorum, warnings=warnings)
