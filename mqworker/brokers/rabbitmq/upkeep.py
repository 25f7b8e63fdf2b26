"""Keeps queues that only wait from expiring.

Runs on the loop of the Link, with each ping of the consuming connection. A policy of the broker can give every queue an
`expires`: one without a consumer is then deleted, with its messages, unless somebody uses it. Such a policy cannot be
seen over AMQP. So the delay queues, the dead-letter queue and the output are used every few seconds, and the input is
while it has no consumer. Owns the list of delay queues that exist.

To ask for a classic queue counts as use. For a quorum queue it does not, nor does declaring it again (rabbitmq-server
issue 5894); there, a consumer comes and goes that has asked for no message (a consumer argument of RabbitMQ 3 that is
not documented). RabbitMQ 4 does not know that argument: it would deliver a message each time, and count it.
"""

from collections.abc import Iterable
from typing import Any

from pika.compat import long

from mqworker.brokers.base import Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.topology import Found, delay_queue, major_version, queue_status

DELAYS = tuple(1 << power for power in range(23))  # seconds: all that a stage may ever have used
NO_CREDIT = {"x-credit": {"credit": long(0), "drain": False}}


class Upkeep:
    """See the module head."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._delays: set[int] = set(DELAYS)  # at first any of them may be left from an earlier run

    async def touch(self, connection: AmqpConnection, found: Found, used: Iterable[int]) -> None:
        """Use what waits without a consumer; `used`: delays of this Link. Raises Lost with the connection."""
        topology, waiting = self._topology, list[str]()
        for name in {topology.input, topology.dead, topology.output.queue if topology.output else topology.dead}:
            if await _waits(connection, name) and name in found.quorum:
                waiting.append(name)
        self._delays.update(used)
        for delay in sorted(self._delays):
            name = delay_queue(topology.input, delay)
            waits = await _waits(connection, name)
            if waits:
                waiting.append(name)
            elif waits is None:
                self._delays.discard(delay)
        if waiting and major_version(connection) == 3:
            await _use(connection, waiting)


async def _waits(connection: AmqpConnection, name: str) -> bool | None:
    """Return whether a queue has messages and no consumer; None when there is no such queue."""
    try:
        status = await queue_status(connection, name)
    except Lost:
        if not connection.usable:
            raise
        return False
    return None if status is None else bool(status.message_count) and not status.consumer_count


async def _use(connection: AmqpConnection, queues: list[str]) -> None:
    for queue in queues:
        channel = await Channel.open(connection)
        try:
            await channel.ask("basic_consume", queue=queue, on_message_callback=_unexpected, arguments=NO_CREDIT)
        except Lost:
            if not connection.usable:
                raise
        finally:
            channel.close()


def _unexpected(*_: Any) -> None:
    raise AssertionError("a consumer without credit received a message")
