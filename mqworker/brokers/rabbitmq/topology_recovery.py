"""Ensures that what a stage needs on its broker exists: for each channel, and again when something is gone.

Runs on the loop of the Link, which owns it, on the consuming connection. Owns what was last found there, and the repair
in progress: there is one at a time, at the earliest REPAIR_EVERY seconds after the topology was last ensured. One that
fails reports so in `incomplete`, and is repeated with each upkeep until it succeeds. Informs the result route of each
repair's findings, and the arrivals when the input is a new queue. A fault raises Lost in `prepare` and `upkeep`, which
the connection awaits, and nowhere else.
"""

import asyncio
from collections.abc import Callable, Iterable

from mqworker.brokers.base import Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.arrivals import Arrivals
from mqworker.brokers.rabbitmq.exchanges import InputBindings
from mqworker.brokers.rabbitmq.queues import Found
from mqworker.brokers.rabbitmq.result_route import ResultRoute
from mqworker.brokers.rabbitmq.topology import ensure
from mqworker.brokers.rabbitmq.upkeep import Upkeep

REPAIR_EVERY = 5.0  # the least time, in seconds, between two repairs of the topology after a returned message


class TopologyRecovery:
    """See the module head."""

    def __init__(
        self,
        topology: Topology,
        arrivals: Arrivals,
        route: ResultRoute,
        delays: Callable[[], Iterable[int]],
        changed: Callable[[], None],
    ) -> None:
        """`delays` returns those whose queues are in use; `changed` is called when something new may be reported."""
        self.repairs = 0
        self.incomplete = ""  # why the last repair failed
        self._topology = topology
        self._arrivals = arrivals
        self._route = route
        self._delays = delays
        self._changed = changed
        self._bindings = InputBindings(topology)
        self._upkeep = Upkeep(topology)
        self._found: Found | None = None  # as last seen
        self._ensured = 0.0  # loop time at which the topology was last ensured
        self._connection: AmqpConnection | None = None  # the one that was last prepared
        self._repairing: asyncio.Task[None] | None = None

    @property
    def found(self) -> Found:
        """What the input queue is, as last seen; before that, as it would be made."""
        return self._found or Found(self._topology.queue_type)

    @property
    def unbound(self) -> str:
        """Why the input is not bound as configured; "" if it is."""
        return self._bindings.problem

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator must know about the queues and exchanges that were found."""
        return tuple(dict.fromkeys(self.found.warnings + self._bindings.warnings + self._route.warnings))

    async def prepare(self, connection: AmqpConnection) -> Found:
        """Ensure that everything exists, for a new channel; forgets what was learned about the exchange."""
        self._connection = connection
        self._route.begin_anew()
        return await self._ensure(connection)

    async def upkeep(self, connection: AmqpConnection) -> None:
        """Keep queues from expiring, bind the input again, and repeat a failed repair; to be called often."""
        quorum = frozenset[str]() if self._found is None else self._found.quorum
        await self._upkeep.touch(connection, quorum, self._delays())
        if self._found is None:
            return
        await self._bindings.make_again(connection)
        if self.incomplete:
            self.repair()
        self._changed()

    def repair(self) -> None:
        """Create the topology again, because something that a publication needs is gone."""
        connection = self._connection
        due = asyncio.get_running_loop().time() - self._ensured > REPAIR_EVERY
        idle = self._repairing is None or self._repairing.done()
        if connection is not None and connection.usable and due and idle:
            self._repairing = asyncio.create_task(self._repair(connection))

    async def close(self) -> None:
        """End the repair in progress."""
        if self._repairing is not None:
            self._repairing.cancel()
            await asyncio.gather(self._repairing, return_exceptions=True)

    async def _repair(self, connection: AmqpConnection) -> None:
        since = asyncio.get_running_loop().time() - self._ensured
        try:
            found = await self._ensure(connection)
        except Lost as lost:
            if connection.usable:  # otherwise the next connection ensures everything anew
                self.incomplete = f"the topology is incomplete: {lost}"
        else:
            self._route.repaired(found, since)
            self.repairs += 1
        self._changed()

    async def _ensure(self, connection: AmqpConnection) -> Found:
        """Ensure that everything exists; returns what the input queue is."""
        self._ensured = asyncio.get_running_loop().time()
        found = self._found = await ensure(connection, self._topology, self._input_made)
        self.incomplete, self._bindings = "", InputBindings(self._topology)
        self._route.found(found)
        return found

    def _input_made(self) -> None:
        if self._found is not None:
            bindings = self._topology.bindings
            self._arrivals.made_again("" if bindings is None else bindings.exchange)
