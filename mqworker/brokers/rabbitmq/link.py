"""A stage's Link to RabbitMQ: one connection to consume, one to publish, one state.

Runs on the Producer's loop. Owns both connections and knows what is missing; reports every event to the Sink. There are
two connections because, during an alarm, a broker reads nothing, not even acks, from a connection that has published.
Never raises; every fault is reported as a `LinkState` with a reason, and the Link tries again.
"""

import asyncio
from collections.abc import Sequence

from mqworker.brokers.base import CONNECTING, LinkState, Publication, Sink, Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.consuming import Consuming
from mqworker.brokers.rabbitmq.exchanges import InputBindings
from mqworker.brokers.rabbitmq.parts import PartsInTurn
from mqworker.brokers.rabbitmq.publishing import Publishing
from mqworker.brokers.rabbitmq.queue_depth import QueueDepth
from mqworker.brokers.rabbitmq.queues import Found
from mqworker.brokers.rabbitmq.reconnector import Reconnector
from mqworker.brokers.rabbitmq.topology import ensure
from mqworker.brokers.rabbitmq.upkeep import Upkeep
from mqworker.config.model import BrokerConfig

REPAIR_EVERY = 5.0  # the least time, in seconds, between two repairs of the topology after a returned message
PART, RATE = 0.001, 1 << 20  # of publications that go together, each has so many seconds more, and a second for 1 MiB
ALARM = "the broker has an alarm and accepts no messages: free memory or disk there"


class RabbitLink:
    """`mqworker.brokers.base.Link` on RabbitMQ; made on the running loop."""

    def __init__(self, config: BrokerConfig, topology: Topology, sink: Sink, *, name: str) -> None:
        """`name` is the name that the broker shows for our connections."""
        self.state = LinkState()
        self._topology = topology
        self._sink = sink
        self._found: Found | None = None  # as last seen
        self._reasons = {"consuming": "not started", "publishing": "not started"}  # why each is down; "" when it is not
        self._repairing: asyncio.Task[None] | None = None
        self._ensured = 0.0  # when the topology was last ensured
        self._repairs = 0
        self._incomplete = ""  # why the last repair failed; it is repeated until one succeeds
        self._bindings = InputBindings(topology)
        self._upkeep = Upkeep(topology)
        self._consuming = Consuming(
            topology.input,
            sink,
            self._prepare,
            self._touch,
            self._report_consuming,
            self._changed,
            ordered=topology.ordered,
        )
        self._parts = PartsInTurn(sink) if topology.ordered else None
        self._publishing = Publishing(
            config, topology, self._parts or sink, self._report_publishing, self._repair, self._changed
        )
        self._reconnectors = (
            Reconnector(config, f"{name} (consume)", self._consuming, self._report_consuming),
            Reconnector(config, f"{name} (publish)", self._publishing, self._report_publishing),
        )
        output = topology.output
        self._output_depth = QueueDepth("" if output is None else output.queue, sink.output_depth)
        # What is called for each message goes straight to its role.
        self.ack = self._consuming.ack
        self.publish = self._publishing.publish
        if self._parts is not None:
            self._parts.publish = self.publish
        one, other = self._reconnectors
        one.on_open, other.on_open = other.retry_now, one.retry_now  # the link works once both are open

    @property
    def stale_acks(self) -> int:
        """The number of acks that were dropped because their epoch was over."""
        return self._consuming.stale

    def start(self) -> None:
        """Begin to connect."""
        self._reasons = {"consuming": CONNECTING, "publishing": CONNECTING}
        self._changed()
        for reconnector in self._reconnectors:
            reconnector.start()

    def consume(self, prefetch: int, fixed: int = 0) -> None:
        """See `Link.consume`."""
        self._consuming.consume(prefetch, fixed)

    def end_epoch(self) -> None:
        """See `Link.end_epoch`."""
        self._consuming.end_epoch()

    def publish_together(self, publish_ids: Sequence[int], publications: Sequence[Publication]) -> None:
        """See `Link.publish_together`."""
        if self._parts is not None:
            self._parts.begin(publish_ids, publications)
            return
        later = 0.0
        for publish_id, publication in zip(publish_ids, publications, strict=True):
            self.publish(publish_id, publication, later)
            later += PART + len(publication.body) / RATE

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """See `Link.release`."""
        self._consuming.release(epoch, tags)

    def depth(self) -> int | None:
        """See `Link.depth`."""
        return self._consuming.depth

    def ask_output_depth(self) -> None:
        """See `Link.ask_output_depth`."""
        self._output_depth.ask(self._consuming.connection)

    async def close(self, deadline: float) -> None:
        """See `Link.close`."""
        await self._output_depth.close()
        if self._repairing is not None:
            self._repairing.cancel()
            await asyncio.gather(self._repairing, return_exceptions=True)
        if self._topology.ordered:
            deadline /= 2
            await self._consuming.finish(deadline)
        await asyncio.gather(*(reconnector.close(deadline) for reconnector in self._reconnectors))
        self._reasons = {"consuming": "closed", "publishing": "closed"}
        self._changed()

    # -- what the roles call

    async def _ensure(self, connection: AmqpConnection) -> Found:
        """Ensure that everything exists; returns what the input queue is."""
        self._ensured = asyncio.get_running_loop().time()
        found = await ensure(connection, self._topology, self._input_made)
        self._found = found
        self._incomplete, self._bindings = "", InputBindings(self._topology)
        self._publishing.route.found(found)
        return found

    def _input_made(self) -> None:
        if self._found is not None:
            bindings = self._topology.bindings
            self._consuming.arrivals.made_again("" if bindings is None else bindings.exchange)

    async def _prepare(self, connection: AmqpConnection) -> Found:
        """Ensure that everything exists, for a new channel; what was learned about the exchange is tried anew."""
        self._publishing.route.begin_anew()
        return await self._ensure(connection)

    async def _touch(self, connection: AmqpConnection) -> None:
        quorum = frozenset[str]() if self._found is None else self._found.quorum
        await self._upkeep.touch(connection, quorum, self._publishing.delays)
        if self._found is None:
            return
        await self._bindings.make_again(connection)
        if self._incomplete:
            self._repair()
        self._changed()

    def _repair(self) -> None:
        """Create the topology again, because something that a publication needs is gone."""
        connection = self._consuming.connection
        due = asyncio.get_running_loop().time() - self._ensured > REPAIR_EVERY
        if connection is not None and due and (self._repairing is None or self._repairing.done()):
            self._repairing = asyncio.create_task(self._create_again(connection))

    async def _create_again(self, connection: AmqpConnection) -> None:
        since = asyncio.get_running_loop().time() - self._ensured
        try:
            found = await self._ensure(connection)
        except Lost as lost:
            if connection.usable:  # else the next connection begins with a new one
                self._incomplete = f"the topology is incomplete: {lost}"
        else:
            self._publishing.route.repaired(found, since)
            self._repairs += 1
        self._changed()

    def _report_consuming(self, reason: str) -> None:
        self._reasons["consuming"] = reason
        if reason and self._consuming.connection is None and self._publishing.blocked:
            self._publishing.give_up("the other connection to this broker was lost during its alarm")
        self._changed()

    def _report_publishing(self, reason: str) -> None:
        self._reasons["publishing"] = reason
        self._changed()

    def _changed(self) -> None:
        blocked = self._publishing.blocked
        found, unbound = self._found or Found(self._topology.queue_type), self._bindings.problem
        reasons = [reason for reason in (*self._reasons.values(), self._incomplete, unbound) if reason]
        state = LinkState(
            connected=self._consuming.ready and self._publishing.ready,
            consuming=self._consuming.consuming,
            resting=self._consuming.resting,
            waits=self._consuming.waits,
            delivery_limit=found.delivery_limit,
            fixed_prefetch=self._consuming.fixed_prefetch,
            blocked=blocked,
            header_room=self._publishing.header_room,
            reason=reasons[0] if reasons else ALARM if blocked else "",
            auto_delete=found.auto_delete,
            unbound=tuple(sorted(self._consuming.arrivals.unbound)),
            input_problem=unbound,
            warnings=tuple(dict.fromkeys(found.warnings + self._bindings.warnings + self._publishing.route.warnings)),
            reconnects=sum(max(reconnector.opened - 1, 0) for reconnector in self._reconnectors),
            repairs=self._repairs,
        )
        if state != self.state:
            self.state = state
            self._sink.link_changed(state)
