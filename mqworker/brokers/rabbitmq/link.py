"""A stage's Link to RabbitMQ: one connection to consume, one to publish, one state.

Runs on the Producer's loop. Owns both connections, and the `topology_recovery`, which makes what is missing on the
broker; reports every event to the Sink. There are two connections because, during an alarm, a broker reads nothing, not
even acks, from a connection that has published. Never raises; every fault is reported as a `LinkState` with a reason,
and the Link tries again.
"""

import asyncio
from collections.abc import Sequence

from mqworker.brokers.base import CONNECTING, LinkState, Publication, Sink, Topology
from mqworker.brokers.rabbitmq.arrivals import Arrivals
from mqworker.brokers.rabbitmq.consuming import Consuming
from mqworker.brokers.rabbitmq.parts import PartsInTurn
from mqworker.brokers.rabbitmq.publishing import Publishing
from mqworker.brokers.rabbitmq.queue_depth import QueueDepth
from mqworker.brokers.rabbitmq.reconnector import Reconnector
from mqworker.brokers.rabbitmq.result_route import ResultRoute
from mqworker.brokers.rabbitmq.topology_recovery import TopologyRecovery
from mqworker.config.model import BrokerConfig

PART, RATE = 0.001, 1 << 20  # of publications that go together: extra seconds for each, and bytes per extra second
ALARM = "the broker has an alarm and accepts no messages: free memory or disk there"


class RabbitLink:
    """`mqworker.brokers.base.Link` on RabbitMQ; made on the running loop."""

    def __init__(self, config: BrokerConfig, topology: Topology, sink: Sink, *, name: str) -> None:
        """`name` is the name that the broker shows for our connections."""
        self.state = LinkState()
        self._topology = topology
        self._sink = sink
        self._reasons = {"consuming": "not started", "publishing": "not started"}  # why each is down; "" when it is not
        self._arrivals = Arrivals()
        route = ResultRoute(topology.output)
        self._recovery = TopologyRecovery(
            topology, self._arrivals, route, lambda: self._publishing.delays, self._changed
        )
        self._consuming = Consuming(
            topology.input,
            sink,
            self._recovery.prepare,
            self._recovery.upkeep,
            self._arrivals,
            self._report_consuming,
            self._changed,
            ordered=topology.ordered,
        )
        self._parts = PartsInTurn(sink) if topology.ordered else None
        self._publishing = Publishing(
            config, topology, self._parts or sink, route, self._report_publishing, self._recovery.repair, self._changed
        )
        self._reconnectors = (
            Reconnector(config, f"{name} (consume)", self._consuming, self._report_consuming),
            Reconnector(config, f"{name} (publish)", self._publishing, self._report_publishing),
        )
        output = topology.output
        self._output_depth = QueueDepth("" if output is None else output.queue, sink.output_depth)
        self._dead_depth = QueueDepth(topology.dead, sink.dead_depth)
        # The methods that are called for each message are those of the roles.
        self.ack = self._consuming.ack
        self.publish = self._publishing.publish
        if self._parts is not None:
            self._parts.publish = self.publish
        one, other = self._reconnectors
        one.on_open, other.on_open = other.retry_now, one.retry_now  # the Link works once both are open

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

    def others(self) -> int | None:
        """See `Link.others`."""
        return self._consuming.others

    def ask_output_depth(self) -> None:
        """See `Link.ask_output_depth`."""
        self._output_depth.ask(self._consuming.connection)

    def ask_dead_depth(self) -> None:
        """See `Link.ask_dead_depth`."""
        self._dead_depth.ask(self._consuming.connection)

    async def close(self, deadline: float) -> None:
        """See `Link.close`."""
        await self._output_depth.close()
        await self._dead_depth.close()
        await self._recovery.close()
        if self._topology.ordered:
            deadline /= 2
            await self._consuming.finish(deadline)
        await asyncio.gather(*(reconnector.close(deadline) for reconnector in self._reconnectors))
        self._reasons = {"consuming": "closed", "publishing": "closed"}
        self._changed()

    # -- what the roles call

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
        consuming, recovery = self._consuming.state, self._recovery
        reasons = [reason for reason in (*self._reasons.values(), recovery.incomplete, recovery.unbound) if reason]
        state = LinkState(
            connected=consuming.ready and self._publishing.ready,
            consuming=consuming.consuming,
            resting=consuming.resting,
            waits=consuming.waits,
            delivery_limit=recovery.found.delivery_limit,
            fixed_prefetch=consuming.fixed_prefetch,
            blocked=blocked,
            header_room=self._publishing.header_room,
            reason=reasons[0] if reasons else ALARM if blocked else "",
            auto_delete=recovery.found.auto_delete,
            unbound=tuple(sorted(self._arrivals.unbound)),
            input_problem=recovery.unbound,
            warnings=recovery.warnings,
            reconnects=sum(max(reconnector.opened - 1, 0) for reconnector in self._reconnectors),
            repairs=recovery.repairs,
        )
        if state != self.state:
            self.state = state
            self._sink.link_changed(state)
