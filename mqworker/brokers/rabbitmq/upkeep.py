"""Keeps queues without consumers from expiring.

Runs on the loop of the Link, with each ping of the consuming connection, the first as soon as the connection is open. A
policy of the broker can give every queue an `expires`: a queue without a consumer is then deleted, with its messages,
unless somebody uses it. Such a policy is not visible over AMQP. So the delay queues, the dead-letter queue and the
output are used every few seconds, and the input while it has no consumer. This is done even while they are empty,
because a message may arrive just before the queue expires, and a publication does not count as use. Owns the list of
delay queues that exist.

A passive declare counts as use of a classic queue. For a quorum queue it does not, and neither does declaring it again
(rabbitmq-server issue 5894); there, a consumer is registered and removed again that asks for no messages (an
undocumented consumer argument of RabbitMQ 3). For each queue at each ping, that costs an entry in the queue's log,
which is written to disk. Empty queues are not spared, because with anything rarer, a policy might let them expire.

RabbitMQ 4 does not know that argument. There, the only use of a quorum queue that holds messages is to take one, which
counts as a delivery, and a policy can limit the deliveries. For a delay queue this is harmless: a message beyond the
limit is moved to the input early, and its count starts again. So from time to time, one message of each delay queue is
taken and given back, or, if the queue is empty, a consumer is registered and removed. In other queues, a message beyond
the limit would be lost, so they are left alone.
"""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

from pika.compat import long

from mqworker.brokers.base import Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.queues import NOT_FOUND, delay_queue, major_version

DELAYS = tuple(1 << power for power in range(23))  # seconds: all delays that a stage may ever have used
NO_CREDIT = {"x-credit": {"credit": long(0), "drain": False}}
PATIENCE = 2.0  # seconds for a queue's answers
ROUND = 6.0  # seconds for all requests of one round, because the next ping waits for them
TAKE_EVERY = 20.0  # seconds between two messages that are taken from a delay queue of RabbitMQ 4


class Upkeep:
    """See the module head."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._delays: set[int] = set(DELAYS)  # at first all, because any of them may be left from an earlier run
        self._stuck: dict[str, Channel] = {}  # name -> the channel whose request the queue has not answered yet
        self._taken = -TAKE_EVERY  # loop time of the round in which messages were last taken

    async def touch(self, connection: AmqpConnection, quorum: Collection[str], used: Iterable[int]) -> None:
        """Use the queues without a consumer; `used`: delays of this Link. Raises Lost when the connection is lost.

        `quorum`: those of the other queues that are known to be quorum queues. The delay queues come first, because
        connecting uses the others too, if they are classic. A queue that does not answer (one without a leader) takes
        up PATIENCE, and one channel until it answers.
        """
        self._delays.update(used)
        delays = {delay_queue(self._topology.input, delay): delay for delay in sorted(self._delays)}
        loop = asyncio.get_running_loop()
        began = loop.time()
        take = began - self._taken >= TAKE_EVERY
        if take:
            self._taken = began
        for name in (*delays, *self._topology.queues):
            if loop.time() - began > ROUND:
                return
            if name in self._stuck:
                if not self._stuck[name].raw.is_closed:
                    continue
                del self._stuck[name]
            channel = None
            try:
                async with asyncio.timeout(PATIENCE):
                    channel = await Channel.open(connection, watched=False)
                    consumed = name in delays or name in quorum
                    if not await touch(channel, name, quorum=consumed, take=take and name in delays):
                        self._delays.discard(delays.get(name, 0))
            except TimeoutError:
                if channel is not None:
                    self._stuck[name] = channel


async def touch(channel: Channel, name: str, *, quorum: bool, take: bool) -> bool:
    """Use a queue that has no consumer; returns whether it exists. Closes the channel.

    `take`: on RabbitMQ 4 a message may be taken for this; it goes back when the channel closes.
    """
    connection = channel.connection
    try:
        status = await channel.ask("queue_declare", queue=name, passive=True)  # enough for a classic queue
        if quorum and not status.consumer_count:
            if major_version(connection) == 3:
                await channel.ask("basic_consume", queue=name, on_message_callback=_unexpected, arguments=NO_CREDIT)
            elif take and major_version(connection) >= 4 and status.message_count:
                await channel.get(name)
            elif take and major_version(connection) >= 4:
                await channel.ask("basic_qos", prefetch_count=1)
                await channel.ask("basic_consume", queue=name, on_message_callback=_ignored)
    except Lost as lost:
        if not connection.usable:
            raise
        return lost.code != NOT_FOUND
    finally:
        channel.close()
    return True


def _ignored(*_: Any) -> None:
    """Leave a message that has just arrived: it goes back when the channel closes."""


def _unexpected(*_: Any) -> None:
    raise AssertionError("a consumer without credit received a message")
