"""Keeps queues that only wait from expiring.

Runs on the loop of the Link, with each ping of the consuming connection, the first as soon as that is open. A policy of
the broker can give every queue an `expires`: one without a consumer is then deleted, with its messages, unless somebody
uses it. Such a policy cannot be seen over AMQP. So the delay queues, the dead-letter queue and the output are used
every few seconds, and the input is while it has no consumer; also while they are empty, because a message may arrive
just before the queue expires: a publication does not count as use. Owns the list of delay queues that exist.

To ask for a classic queue counts as use. For a quorum queue it does not, nor does declaring it again (rabbitmq-server
issue 5894); there, a consumer comes and goes that has asked for no message (a consumer argument of RabbitMQ 3 that is
not documented). That costs an entry in the log of the queue, which is written to disk, for each queue at each ping;
also for an empty one, because a policy may let it expire before anything rarer.

RabbitMQ 4 does not know that argument. There, a quorum queue that holds messages is used only by taking one, which
counts as a delivery, and a policy can limit the deliveries. A delay queue survives that: a message beyond the limit is
moved to the input before its time, and the count does not come with it. So one message of each delay queue is taken and
given back from time to time, or, while it is empty, a consumer comes and goes. From other queues such a message would
be lost, so they are left alone.
"""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

from pika.compat import long

from mqworker.brokers.base import Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.queues import NOT_FOUND, delay_queue, major_version

DELAYS = tuple(1 << power for power in range(23))  # seconds: all that a stage may ever have used
NO_CREDIT = {"x-credit": {"credit": long(0), "drain": False}}
PATIENCE = 2.0  # seconds for a queue's answers
ROUND = 6.0  # seconds for all requests of one round: the next ping waits for them
TAKE_EVERY = 20.0  # seconds between two messages that are taken from a delay queue of RabbitMQ 4


class Upkeep:
    """See the module head."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._delays: set[int] = set(DELAYS)  # at first any of them may be left from an earlier run
        self._stuck: dict[str, Channel] = {}  # name -> the channel whose request the queue has not answered yet
        self._taken = -TAKE_EVERY  # loop time of the round in which messages were last taken

    async def touch(self, connection: AmqpConnection, quorum: Collection[str], used: Iterable[int]) -> None:
        """Use what waits without a consumer; `used`: delays of this Link. Raises Lost with the connection.

        `quorum`: those of the other queues that are known to be quorum queues. The delay queues come first: connecting
        uses the others too, if they are classic. A queue that does not answer (one without a leader) costs its own
        patience, and one channel until it does.
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

    `take`: on RabbitMQ 4 a message may be taken for that; it goes back with the end of the channel.
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
