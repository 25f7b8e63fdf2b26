"""A stage's hold on RabbitMQ: one connection to consume, one to publish, one state.

Runs on the Producer's loop. It owns both kept connections and the picture of what is missing; it says everything
that happens to the Sink. Two connections, because under an alarm a broker stops reading from one that has
published, acks included. It fails never: whatever happens is a `LinkState` with a reason, and is tried again.
"""

import asyncio
from collections.abc import Sequence

from mqworker.brokers.base import LinkState, Publication, Sink, Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.consuming import Consuming
from mqworker.brokers.rabbitmq.publishing import Publishing
from mqworker.brokers.rabbitmq.reconnector import Reconnector
from mqworker.brokers.rabbitmq.topology import ensure
from mqworker.config.model import BrokerConfig

REPAIR_EVERY = 5.0  # seconds at least between two looks at the topology because of a returned message
ALARM = "the broker has an alarm and takes no messages: free memory or disk there"


class RabbitLink:
    """`mqworker.brokers.base.Link` on RabbitMQ; made on the running loop."""

    def __init__(self, config: BrokerConfig, topology: Topology, sink: Sink, *, name: str) -> None:
        """`name` is what the broker shows for our connections."""
        self.state = LinkState()
        self._topology = topology
        self._sink = sink
        self._warnings: tuple[str, ...] = ()
        self._missing = {"consuming": "not started", "publishing": "not started"}
        self._repair: asyncio.Task[None] | None = None
        self._repaired = 0.0
        self._repairs = 0
        self._consuming = Consuming(topology.input, sink, self._ensure, self._consuming_said, self._changed)
        self._publishing = Publishing(config, topology, sink, self._publishing_said, self._look_again, self._changed)
        self._connections = (
            Reconnector(config, f"{name} (consume)", self._consuming, self._consuming_said),
            Reconnector(config, f"{name} (publish)", self._publishing, self._publishing_said),
        )
        one, other = self._connections
        one.on_open, other.on_open = other.hurry, one.hurry  # the link is back with the later of the two

    @property
    def stale_acks(self) -> int:
        """How many acks were dropped because their epoch was over."""
        return self._consuming.stale

    def start(self) -> None:
        """Begin to connect."""
        self._missing = {"consuming": "connecting", "publishing": "connecting"}
        self._changed()
        for connection in self._connections:
            connection.start()

    def consume(self, prefetch: int, fixed: int = 0) -> None:
        """See `Link.consume`."""
        self._consuming.consume(prefetch, fixed)

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """See `Link.ack`."""
        self._consuming.ack(epoch, tag, multiple=multiple)

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """See `Link.release`."""
        self._consuming.release(epoch, tags)

    def publish(self, publish_id: int, publication: Publication) -> None:
        """See `Link.publish`."""
        self._publishing.publish(publish_id, publication)

    def depth(self) -> int | None:
        """See `Link.depth`."""
        return self._consuming.depth

    async def close(self, deadline: float) -> None:
        """See `Link.close`."""
        if self._repair is not None:
            self._repair.cancel()
            await asyncio.gather(self._repair, return_exceptions=True)
        await asyncio.gather(*(connection.close(deadline) for connection in self._connections))
        self._missing = {"consuming": "closed", "publishing": "closed"}
        self._changed()

    # -- what the connections say

    async def _ensure(self, wire: AmqpConnection) -> str:
        """Make sure that everything exists; returns the type of the input queue."""
        self._repaired = asyncio.get_running_loop().time()
        queue_type, warnings = await ensure(wire, self._topology)
        self._warnings = tuple(warnings)
        return queue_type

    def _look_again(self) -> None:
        """Something that a publication needs is gone: make what is ours again."""
        wire = self._consuming.wire
        due = asyncio.get_running_loop().time() - self._repaired > REPAIR_EVERY
        if wire is not None and due and (self._repair is None or self._repair.done()):
            self._repair = asyncio.create_task(self._make_again(wire))

    async def _make_again(self, wire: AmqpConnection) -> None:
        try:
            await self._ensure(wire)
        except Lost as lost:
            self._consuming_said(f"the topology is incomplete: {lost}")
        else:
            self._repairs += 1
            self._consuming_said("")

    def _consuming_said(self, reason: str) -> None:
        self._missing["consuming"] = reason
        if reason and self._consuming.wire is None and self._publishing.blocked:
            self._publishing.give_up("the other connection to this broker was lost during its alarm")
        self._changed()

    def _publishing_said(self, reason: str) -> None:
        self._missing["publishing"] = reason
        self._changed()

    def _changed(self) -> None:
        blocked = self._publishing.blocked
        missing = [reason for reason in self._missing.values() if reason]
        state = LinkState(
            connected=self._consuming.ready and self._publishing.ready,
            consuming=self._consuming.consuming,
            fixed_prefetch=self._consuming.fixed,
            blocked=blocked,
            reason=missing[0] if missing else ALARM if blocked else "",
            warnings=self._warnings,
            reconnects=sum(max(connection.opened - 1, 0) for connection in self._connections),
            repairs=self._repairs,
        )
        if state != self.state:
            self.state = state
            self._sink.link_changed(state)
