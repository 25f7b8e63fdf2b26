"""A source's Outlet to RabbitMQ.

Runs on the loop of the source's process, as the role of its one connection, which serves the lock, the items and the
records: a source that has lost the connection has lost the lock, and nothing that it sent can arrive after what its
successor sends. Until it is open, it tries for ever, also while another connection has the lock. From then on, any loss
of the connection or channel, refused message or returned message means that the Outlet is lost; the process ends, and
its successor goes on from the stored record.

The record is the only message of its queue. It is read by fetching, without acknowledging, everything in the queue,
because a killed broker can leave two records. What a predecessor has fetched is back some milliseconds after its lock
is free; so a queue that looks empty is read again for a while. A quorum queue may have a delivery limit, for example by
a policy of the broker, and drop messages that exceed it. So each time the record was fetched, it is stored again: the
new one counts from zero, and replaces the old one.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Publication
from mqworker.brokers.outlet import RUNS_ELSEWHERE, Inlet, OutletSink
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, AnswerOverdue, Lost
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.confirmed_prefix import ConfirmedPrefix
from mqworker.brokers.rabbitmq.destinations import Pending, SilentDestinations, destination
from mqworker.brokers.rabbitmq.exclusive_lock import take_lock
from mqworker.brokers.rabbitmq.link import ALARM
from mqworker.brokers.rabbitmq.queue_depth import QueueDepth
from mqworker.brokers.rabbitmq.queues import YOUNG, ensure_queue, queue_arguments
from mqworker.brokers.rabbitmq.reconnector import Reconnector
from mqworker.brokers.rabbitmq.sender import Sender
from mqworker.brokers.rabbitmq.topology import input_arguments
from mqworker.brokers.rabbitmq.upkeep import PATIENCE, TAKE_EVERY, touch
from mqworker.brokers.records import PositionRecord, newest
from mqworker.config.model import BrokerConfig

STANDBY = (3.0, 5.0)  # seconds between two attempts to get the lock; each adds a line to the broker's log
HEARTBEAT = 10  # seconds at most: after two or three, the broker drops a host that has vanished, and frees the lock
BACK = 2.0  # seconds until what a predecessor has fetched is back in the queue
READ_AGAIN = 0.1  # seconds between two reads until then

RECORD = 0  # the id of a record in the sender; items have their numbers
_RECORD = Properties(content_type="application/json", delivery_mode=2).encode()


class RabbitOutlet:
    """Implements `mqworker.brokers.outlet.Outlet`; see the module head."""

    def __init__(self, config: BrokerConfig, inlet: Inlet, sink: OutletSink, *, name: str) -> None:
        """`name` is the name that the broker shows for our connection."""
        config = replace(config, heartbeat=min(HEARTBEAT, config.heartbeat))
        self._reconnector = Reconnector(config, name, self, lambda reason: sink.waits(reason, standby=False))
        self._deadline = config.confirm_deadline
        self._inlet, self._sink = inlet, sink
        self._loop = asyncio.get_running_loop()
        self._prefix = ConfirmedPrefix()
        self._queue_depth = QueueDepth(inlet.queue, sink.depth)
        self._connection: AmqpConnection | None = None
        self._sender: Sender | None = None
        self._quorum = inlet.queue_type == "quorum"  # the queue of the record
        self._next_take = 0.0  # when the queue is next used as a consumer would use it
        self._over = False  # lost or closed

    def start(self) -> None:
        """See `Outlet.start`."""
        self._reconnector.start()

    def send(self, publication: Publication, record: bytes | None) -> None:
        """See `Outlet.send`."""
        self._send(Pending(self._prefix.send(record), publication, self._loop.time()))

    def store(self, record: bytes) -> None:
        """See `Outlet.store`."""
        self._prefix.mark(record)
        self._store()

    def ask_depth(self) -> None:
        """See `Outlet.ask_depth`."""
        self._queue_depth.ask(self._connection)

    async def close(self, deadline: float) -> None:
        """See `Outlet.close`."""
        self._over = True
        await self._queue_depth.close()
        await self._reconnector.close(deadline)

    # -- PublishAnswers: what the sender calls

    def confirmed(self, publish_ids: Sequence[int]) -> None:
        """Note confirms of items, and of the record."""
        before = self._prefix.confirmed
        for number in publish_ids:
            if number != RECORD:
                self._prefix.confirm(number)
            elif stored := self._prefix.stored(self._loop.time()):
                self._sink.stored(stored)
        if self._prefix.confirmed != before:
            self._sink.confirmed(self._prefix.confirmed)
        self._store()

    def refused(self, publish_id: int, reason: str, *, too_large: bool = False) -> None:  # noqa: ARG002 - as for a Link
        """Give up the Outlet: nothing that was sent later may count."""
        self._end(f"{'its position' if publish_id == RECORD else 'a message'} was refused: {reason}")

    def publishes_lost(self, reason: str) -> None:
        """Give up the Outlet."""
        self._end(reason)

    # -- what the connection calls (Role)

    async def serve(self, connection: AmqpConnection) -> None:
        """Take the lock, read the record, and open."""
        self._connection = connection
        connection.on_blocked = lambda: self._sink.blocked(ALARM if connection.blocked else "")
        if connection.blocked:
            connection.on_blocked()
        while not await take_lock(connection, self._inlet.lock):
            self._sink.waits(RUNS_ELSEWHERE, standby=True)
            await asyncio.sleep(random.uniform(*STANDBY))  # noqa: S311 - jitter, no secret
        queue_type = self._inlet.queue_type
        arguments = input_arguments(connection, queue_type, ordered=self._inlet.ordered)
        found = await ensure_queue(connection, self._inlet.queue, arguments)
        arguments = queue_arguments(connection, queue_type) | {"x-max-length": 1}
        position = await ensure_queue(connection, self._inlet.position, arguments)
        self._quorum = bool(position.quorum)
        if (found.made and found.quorum) or (position.made and position.quorum):
            await asyncio.sleep(YOUNG)
        record = await self._read(connection, 0.0 if position.made else BACK)
        channel = await Channel.open(connection)
        silent = SilentDestinations()
        sender = Sender(channel, self, silent, partial(destination, self._inlet.queue), lambda _: None)
        await sender.start()
        channel.on_lost = lambda lost: self._end(f"the broker closed the channel: {lost}")
        self._sender = sender
        if record is not None:
            self._prefix.found(msgspec.json.encode(record))
            self._store_again()
        self._sink.opened(record)
        if not connection.blocked:
            await self.ping()
        await connection.closed

    async def ping(self) -> None:
        """Make a request that shows whether the broker is alive; use the record's queue, so that it does not expire."""
        connection, sender = self._connection, self._sender
        if connection is None or sender is None:
            return
        now = self._loop.time()
        if take := now >= self._next_take:
            self._next_take = now + TAKE_EVERY
        with contextlib.suppress(Lost, TimeoutError):
            await sender.channel.ping()
            async with asyncio.timeout(PATIENCE):
                channel = await Channel.open(connection, watched=False)
                await touch(channel, self._inlet.position, quorum=self._quorum, take=take)
            if take:
                self._store_again()

    def check_deadlines(self, now: float) -> None:
        """Store what has become due; abort the connection when a confirm is overdue."""
        connection, sender = self._connection, self._sender
        if connection is None or sender is None:
            return
        self._store()
        if connection.waited(min(sender.oldest, default=now), now) > self._deadline:
            connection.abort(AnswerOverdue(f"no confirm within {self._deadline:g} s"))

    def lost(self, reason: str) -> None:
        """Give up the Outlet, if it was open."""
        self._connection = None
        if self._sender is not None:
            self._end(f"the connection to the broker was lost: {reason}")

    # -- inside

    def _send(self, pending: Pending) -> None:
        if self._sender is not None and self._sender.channel.usable:
            self._sender.send(pending)  # otherwise it is lost, or about to be

    def _store(self) -> None:
        self._send_record(self._prefix.due(self._loop.time()))

    def _store_again(self) -> None:
        """Store the record again, so that the broker counts its deliveries from zero."""
        if self._quorum:
            self._send_record(self._prefix.again())

    def _send_record(self, record: bytes | None) -> None:
        if record is not None:
            publication = Publication("", self._inlet.position, _RECORD, record)
            self._send(Pending(RECORD, publication, self._loop.time()))

    def _end(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._reconnector.give_up()
            self._sink.lost(reason)
            if self._connection is not None:
                self._connection.abort(reason)

    async def _read(self, connection: AmqpConnection, patience: float) -> PositionRecord | None:
        """Read the record; an empty queue is read again for `patience` seconds."""
        end, bodies = self._loop.time() + patience, list[bytes]()
        while True:
            channel = await Channel.open(connection)
            while (message := await channel.get(self._inlet.position)) is not None:
                bodies.append(message[2])
            await channel.closed()  # before anything is published, so that what was fetched is back
            if bodies or self._loop.time() >= end:
                return newest(bodies)
            await asyncio.sleep(READ_AGAIN)
