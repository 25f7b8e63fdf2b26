"""One stage in its Producer: makes the parts, connects them, and runs the turn.

Lives in the Producer, on its loop, and never blocks it. Owns the ledger, the link to the broker, the in-hand register,
and the three parts that work on them: intake (deliveries in), dispatch (to the Consumers and back), settlement (results
out, then acks). The link calls intake and settlement directly, lanes call dispatch. A bounded output also has a
throttle, which limits dispatch. What may give an idle lane something to do asks for a turn; one turn then feeds the
lanes, for all events since the last turn.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from mqworker.brokers import open_link
from mqworker.brokers.base import CONNECTING, Bindings, Link, LinkState, Placement, Topology
from mqworker.config.model import StageConfig
from mqworker.consumer.register import InHandRegister
from mqworker.ipc import logs
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.records import LogEvent
from mqworker.ipc.stage_spec import StageSpec
from mqworker.ipc.turn_end import TurnEnd
from mqworker.producer.dispatch import Dispatch
from mqworker.producer.intake import Intake
from mqworker.producer.ledger import Ledger
from mqworker.producer.ordering import Ordering
from mqworker.producer.pacing import ServiceTime
from mqworker.producer.settlement import Settlement
from mqworker.producer.suspects import Suspects
from mqworker.producer.throttle import Throttle

log = logging.getLogger("mqworker.stage")


def topology(config: StageConfig) -> Topology:
    """Return what a stage needs on its broker."""
    source, out = config.input, config.output
    output = Placement(out.queue, out.exchange, out.routing_key, out.type or "") if out is not None else None
    bindings = Bindings(source.exchange, source.bindings, source.type or "") if source.bindings else None
    return Topology(
        source.queue, output, config.dead, config.queue_type, bindings, ordered=config.ordered_by is not None
    )


class Stage:
    """See the module head. `changed` is called when a new state should soon be reported.

    `link_factory` is called with the arguments of `open_link`.
    """

    def __init__(
        self,
        spec: StageSpec,
        desired: Desired,
        forward: Callable[[LogEvent], None],
        changed: Callable[[], None],
        link_factory: Callable[..., Link] = open_link,
    ) -> None:
        config, folder = spec.config, Path(spec.state_dir)
        self.spec = spec
        self.desired = desired
        self.applied_revision = 0  # the newest that was wholly applied
        self.draining = False
        self.began = time.monotonic()
        self.dead_backlog: int | None = None  # dead letters; None: unknown
        self.service_time = ServiceTime()
        self.ordering: Ordering | None = None
        if config.ordered_by is not None:
            self.ordering = Ordering(config.ordered_by, config.input.queue, hold=config.holds)
        self.ledger = Ledger(config.prefetch or 1000, config.max_held_bytes, self.ordering)
        self.register = InHandRegister(folder / f"{spec.stage}.slots", config.concurrency)
        suspects = Suspects(folder / f"{spec.stage}.suspects", self.register.last_life())
        self.register.begin_life(time.monotonic())
        name = f"{spec.service}.{spec.stage}"
        self.link = link = link_factory(spec.broker, topology(config), self, name=name)
        self.settlement = Settlement(spec, self.ledger, link)
        self.throttle = throttle = self._make_throttle(changed)
        self.intake = Intake(
            spec, self.ledger, link, self.settlement, suspects, self.service_time, throttle, self.ask_turn, changed
        )
        self.dispatch = Dispatch(
            spec,
            desired,
            self.ledger,
            self.settlement,
            suspects,
            self.register,
            self.service_time,
            throttle,
            self.ask_turn,
            self.reconcile,
            changed,
            forward,
        )
        # The link's Sink: each event goes straight to the part that it concerns.
        self.delivered = self.intake.delivered
        self.consuming_lost = self.intake.consuming_lost
        self.confirmed = self.settlement.confirmed
        self.refused = self.settlement.refused
        self.publishes_lost = self.settlement.publishes_lost
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._turn_end = TurnEnd.of(self._loop)
        self._turn_asked = False
        self._due: asyncio.TimerHandle | None = None  # when the next delayed message may begin
        self._link_state = LinkState()  # the state that was last reported

    def start(self) -> None:
        """Begin to connect, and begin to start Consumers."""
        self.link.start()
        self.want(self.desired)

    # --- orders

    def want(self, desired: Desired) -> None:
        """Converge to this from now on."""
        if self.draining:
            return
        self.desired = desired
        logs.set_level(desired.log_level)
        self.settlement.generation = desired.generation.number
        self.settlement.notices.use(use.name for use in desired.generation.shared)
        self.dispatch.want(desired)
        self.reconcile(time.monotonic())
        self.ask_turn()

    def quiet(self) -> None:
        """Stop taking messages for good, and give back those that no Consumer has begun."""
        self.draining = True
        self.dispatch.quiet()
        self.intake.quiet()

    def reconcile(self, now: float) -> None:
        """Bring fleet and prefetch to the desired state, and note the revision once it is applied."""
        self.dispatch.fleet.reconcile(now)
        self.intake.reconcile(self.desired, self.dispatch.fleet.roster.working(), now)
        self.dispatch.freeze(self.intake.frozen)
        if self.applied_revision != self.desired.revision and self.as_wanted():
            self.applied_revision = self.desired.revision
            self._changed()

    def as_wanted(self) -> bool:
        """Whether the actual state is the desired one."""
        return self.dispatch.fleet.as_wanted() and self.intake.as_wanted(self.desired)

    def _make_throttle(self, changed: Callable[[], None]) -> Throttle | None:
        output = self.spec.config.output
        if output is None or output.max_backlog is None:
            return None
        return Throttle(output.queue, output.max_backlog, self.ledger, self.link, self.ask_turn, changed)

    # --- the link's state and answers (Sink)

    def output_depth(self, messages: int) -> None:
        """Pass it to whoever asked."""
        if self.throttle is not None:
            self.throttle.output_depth(messages)

    def dead_depth(self, messages: int) -> None:
        """Note how many dead letters there are."""
        self.dead_backlog = messages

    def link_changed(self, state: LinkState) -> None:
        """Report it; after a new connection or a repair, publish at once what was refused."""
        before, self._link_state = self._link_state, state
        if not state.connected:
            self.dead_backlog = None
        for warning in state.warnings:
            if warning not in before.warnings:
                logs.report(log, logging.WARNING, "topology", warning)
        news = (state.connected, state.reason) != (before.connected, before.reason)
        if news and state.reason != CONNECTING and not self.draining:
            self._report_link(before, state)
        if state.connected and (not before.connected or state.repairs != before.repairs):
            self.settlement.repeat_now()
        self.ask_turn()
        self._changed()

    def _report_link(self, before: LinkState, state: LinkState) -> None:
        message = f"connected to the broker{': ' if state.reason else ''}{state.reason}"
        if not state.connected:
            message = f"not connected to the broker: {state.reason}"
        level = logging.WARNING if state.reason and before.connected else logging.INFO
        logs.report(log, level, "link", message, connected=state.connected, blocked=state.blocked)

    # --- turns

    def ask_turn(self) -> None:
        """Schedule a turn after all present events."""
        if not self._turn_asked:
            self._turn_asked = True
            self._turn_end.soon(self._turn)

    def _turn(self) -> None:
        self._turn_asked = False
        if self.draining:
            self.intake.give_back_held()
            return
        if self.ordering is not None:
            self._wake()
        self.dispatch.feed()

    def _wake(self) -> None:
        """Let delayed messages begin that are due, and come again when the next one is."""
        if self._due is not None:
            self._due.cancel()
        due = self.ledger.wake(time.monotonic())
        self._due = None if due is None else self._loop.call_at(due, self.ask_turn)
