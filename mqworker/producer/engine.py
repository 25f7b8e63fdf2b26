"""The engine of a stage: hears the broker and the lanes, asks the ledger, does what it says.

Lives in the Producer, on its loop, and never blocks it. Owns the ledger, the link to the broker and the fleet of
Consumers. Deliveries, outcomes and confirms only note what happened and ask for a turn; one turn then dispatches and
acks for all that came together. What depends on time is looked after by mqworker/producer/timers.py.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import decode_leniently
from mqworker.brokers import open_link
from mqworker.brokers.base import Delivery, LinkState, Placement, Topology
from mqworker.consumer.register import InHandRegister
from mqworker.ipc import logs
from mqworker.ipc.messages import Chunk, Desired, Failure, Item, LogEvent, Outcome, Outcomes, StageSpec
from mqworker.ipc.spawn import Death
from mqworker.producer import evidence
from mqworker.producer.entry import HELD, Entry, Isolation, Plan
from mqworker.producer.fleet import Fleet
from mqworker.producer.lane import Lane
from mqworker.producer.ledger import Ledger, Publish
from mqworker.producer.pacing import Histogram, ServiceTime, chunk_size, derive_prefetch
from mqworker.producer.policy import (
    Circumstances,
    isolation,
    plan_crash,
    plan_failure,
    plan_oversized,
    plan_renewal,
    plan_result,
    worn,
)
from mqworker.producer.suspects import SOLO_DEATHS, Suspects

NOBODY_GRACE = 5.0  # seconds without any Consumer until what is held goes back to the broker
TIME_LIMIT = "hard time limit"  # how the reason for killing a Consumer begins when it took too long
GAP_LOOK = 0.006  # seconds until acks beyond a gap are due

log = logging.getLogger("mqworker.engine")


class Engine:
    """See the module head. `changed` is called when the outside should hear of a new state soon."""

    def __init__(
        self, spec: StageSpec, desired: Desired, forward: Callable[[LogEvent], None], changed: Callable[[], None]
    ) -> None:
        config = spec.config
        self.spec = spec
        self.desired = desired
        self.ledger = Ledger(kept_max=config.prefetch or 1000, kept_bytes=config.max_held_bytes)
        self.service_time = ServiceTime()
        self.draining = False
        self.prefetch = 0
        self.problem = ""
        self.retry_until = 0.0  # by then every retry of ours has come back
        self.last_settled = 0.0
        self.wait_time = Histogram()
        self.processed = {"processed_result": 0, "processed_dropped": 0, "processed_failed": 0}
        self.exits: dict[str, int] = {}  # Consumer exits by reason
        self.abandoned = 0  # deliveries in hand when the drain ended
        self._link_told = LinkState()
        self._forward = forward
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._turn_asked = False
        self._gap_look: asyncio.TimerHandle | None = None
        self._nobody_since = time.monotonic()
        out = config.output
        output = Placement(out.queue, out.exchange, out.routing_key) if out is not None else None
        topology = Topology(config.input, output, config.dead, config.queue_type)
        self.slots = InHandRegister(Path(spec.state_dir) / f"{spec.stage}.slots")
        self._suspects = Suspects(Path(spec.state_dir) / f"{spec.stage}.suspects", self.slots.in_hand())
        self.slots.clear()
        self.fleet = Fleet(spec, self.slots, self)
        self.link = open_link(spec.broker, topology, self, name=f"{spec.service}.{spec.stage}")
        self._host = socket.gethostname()

    def start(self) -> None:
        """Begin to connect and to start Consumers."""
        self.link.start()
        self.want(self.desired)

    # --- orders

    def want(self, desired: Desired) -> None:
        """Converge to this from now on."""
        self.desired = desired
        logs.set_level(desired.log_level)
        self.fleet.want(desired, desired.consumers)
        self.reconcile(time.monotonic())
        self.ask_turn()

    def quiet(self) -> None:
        """Take nothing new, and give back what no Consumer has begun."""
        self.draining = True
        self._set_prefetch(0)
        for lane in self.fleet.lanes.values():
            if lane.state == "busy":
                self.ledger.revoke(lane.number, lane.stop_after_message() or lane.in_hand()[0])
        self.give_back_held()

    def applied(self) -> bool:
        """Whether all that is desired is so; without a broker there is nothing to listen to, and the link says so."""
        return self.fleet.settled() and (self._as_listening() or not self.link.state.connected)

    def _as_listening(self) -> bool:
        wanted = self.desired.listening and self.desired.consumers > 0
        as_wanted = (self.prefetch > 0) == wanted or bool(self.problem)
        return as_wanted and self.link.state.consuming == (self.prefetch > 0)

    # --- what the broker says (Sink)

    def delivered(self, delivery: Delivery) -> None:
        """Open it in the ledger."""
        beside = isolation(delivery.properties)
        suspected = False
        if delivery.redelivered and self._suspects:
            key = fingerprint(delivery.properties, delivery.body)
            if self._suspects.convicted(key):
                self._convict(delivery, key)
                return
            if suspected := self._suspects.suspected(key):
                beside = Isolation.STAGE
        self._do(self.ledger.delivered(delivery, time.monotonic(), beside))
        if delivery.redelivered and not suspected and worn(delivery.properties):
            self._renew(delivery)
        self.ask_turn()

    def confirmed(self, publish_ids: Sequence[int]) -> None:
        """Settle, and ack with the next turn."""
        self.ledger.confirmed(publish_ids, time.monotonic())
        self.ask_turn()

    def refused(self, publish_id: int, reason: str, *, too_large: bool = False) -> None:
        """Keep the publication for later, except a result that is too large: its message is dead."""
        first, now = not self.ledger.unplaced, time.monotonic()
        oversized = self.ledger.refused(publish_id, reason, now, too_large=too_large)
        if oversized is not None:
            about = self._about(self.desired.generation)
            failure, plan = plan_oversized(oversized, reason, self.spec.config, about)
            self._tell(oversized, failure, plan, 0.0)
            self._do(self.ledger.planned(oversized, plan, now))
        if first and self.ledger.unplaced:
            logs.report(
                log, logging.WARNING, "not_placed", f"a publication was not placed: {reason}; it is tried again"
            )

    def publishes_lost(self, reason: str) -> None:
        """Publish again what has no answer."""
        self.ledger.publishes_lost(time.monotonic())
        logs.report(log, logging.WARNING, "publishing_lost", f"the publish connection ended: {reason}")

    def consuming_lost(self, epoch: int, reason: str) -> None:
        """All that was delivered is void."""
        self.ledger.consuming_lost(time.monotonic())
        level = logging.DEBUG if self.draining else logging.WARNING
        logs.report(log, level, "consuming_lost", f"deliveries were voided: {reason}", epoch=epoch)

    def link_changed(self, state: LinkState) -> None:
        """Tell the outside; a new connection, or the return of what was missing, takes the publications that wait."""
        known, self._link_told = self._link_told, state
        for words in state.warnings:
            if words not in known.warnings:
                logs.report(log, logging.WARNING, "topology", words)
        if (state.connected, state.reason) != (known.connected, known.reason) and not self.draining:
            words = f"connected to the broker{': ' if state.reason else ''}{state.reason}"
            if not state.connected:
                words = f"not connected to the broker: {state.reason}"
            level = logging.WARNING if state.reason and known.connected else logging.INFO
            logs.report(log, level, "link", words, connected=state.connected, blocked=state.blocked)
        if state.connected and (not known.connected or state.repairs != known.repairs):
            self._do(self.ledger.repeat_now(time.monotonic()))
        self.ask_turn()
        self._changed()

    # --- what the lanes say (LaneOwner)

    def lane_ready(self, lane: Lane) -> None:
        """Put a new Consumer to work; one of the old code may leave for it."""
        self.reconcile(time.monotonic())
        self.fleet.idled(lane)
        self.ask_turn()
        self._changed()

    def lane_outcomes(self, lane: Lane, words: Outcomes) -> None:
        """Settle what is finished."""
        now = time.monotonic()
        if words.outcomes and lane.done == len(words.outcomes):
            self.fleet.prospered(lane)
        publishes: list[Publish] = []
        try:
            for outcome in words.outcomes:
                entry = self.ledger.entry(outcome.seq)
                if entry is not None:  # else it was seen before, on the board or from another lane
                    self.service_time.observe(outcome.duration)
                    self._acquit(entry)
                    publishes += self.ledger.finished(outcome.seq, self._plan(entry, outcome), now)
            if words.end:
                self.ledger.chunk_ended(lane.number)
                if lane.replace_reason:
                    self.reconcile(now)
                self.fleet.idled(lane)
                self.dispatch()  # before the results go out: the Consumer waits for nothing else
        finally:
            self._do(publishes)
        self.ask_turn()

    def lane_died(self, lane: Lane, death: Death) -> None:
        """Judge the message it was working on, dispatch its others again, replace it."""
        now = time.monotonic()
        seq, started = lane.in_hand()
        guilty = self.ledger.lane_died(lane.number, seq)
        known = guilty is not None and guilty.isolation is not Isolation.NONE
        self.fleet.died(lane, death, now, innocent=known)
        reason = _exit_reason(lane, death)
        self.exits[reason] = self.exits.get(reason, 0) + 1
        level = {"asked": logging.DEBUG, "max_messages": logging.INFO, "max_rss": logging.INFO}.get(
            reason, logging.WARNING
        )
        why = lane.kill_reason or (
            f"{lane.unfit.failure.type}: {lane.unfit.failure.message}" if lane.unfit else lane.replace_reason
        )
        words = f"Consumer {lane.slot} {death}" + (f" ({why})" if why else "")
        trace = lane.unfit.failure.traceback if lane.unfit else None
        logs.report(log, level, "consumer_ended", words, consumer_pid=lane.pid, traceback=trace)
        if guilty is not None and not self.draining:
            self._acquit(guilty)
            self._judge(guilty, lane, death, now - started)
        self.reconcile(now)
        self.ask_turn()
        self._changed()

    def lane_log(self, event: LogEvent) -> None:
        """Pass it on."""
        self._forward(event)

    # --- turns

    def ask_turn(self) -> None:
        """Have a turn after all events that are there now."""
        if not self._turn_asked:
            self._turn_asked = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_asked = False
        now = time.monotonic()
        self.dispatch()
        for epoch, tag, multiple in self.ledger.acks(now):
            self.last_settled = now
            self.link.ack(epoch, tag, multiple=multiple)
        if self.ledger.gaps and self._gap_look is None:
            self._gap_look = self._loop.call_later(GAP_LOOK, self._look_at_gaps)

    def _look_at_gaps(self) -> None:
        self._gap_look = None
        self.ask_turn()

    def dispatch(self) -> None:
        """Feed the idle lanes; while draining, give back what none has begun."""
        if self.draining:
            self.give_back_held()
            return
        ledger, desired = self.ledger, self.desired
        high = self.service_time.quantile() if ledger.held else None
        working = self.fleet.working()
        for lane in self.fleet.idle():
            entries: list[Entry] = []
            if ledger.held:
                entries = ledger.take(lane.number, chunk_size(high, ledger.held, working, self.spec.config.queue_size))
            if entries or lane.sent < desired.generation:
                self._feed(lane, entries)

    def _feed(self, lane: Lane, entries: list[Entry]) -> None:
        desired = self.desired
        lane.chunk += 1
        if entries and entries[0].isolation is Isolation.STAGE:
            self._suspects.began(fingerprint(entries[0].properties, entries[0].body))
        now = time.monotonic()
        for entry in entries:
            self.wait_time.observe(now - entry.received)
        items = [Item(e.seq, e.properties, e.body, e.redelivered, e.exchange, e.routing_key) for e in entries]
        params = desired.params if lane.sent < desired.generation else None
        lane.feed(Chunk(lane.chunk, desired.generation, params, desired.soft_limit, desired.log_level, items))

    def _do(self, publishes: list[Publish]) -> None:
        for publish_id, publication in publishes:
            if publication.delay:
                self.retry_until = max(self.retry_until, time.monotonic() + publication.delay + 1)
            self.link.publish(publish_id, publication)

    def republish(self, now: float) -> None:
        """Try again what was refused, when it is due."""
        self._do(self.ledger.tick(now))

    # --- settling

    def _plan(self, entry: Entry, outcome: Outcome) -> Plan:
        if outcome.failure is not None:
            self.processed["processed_failed"] += 1
            plan = plan_failure(entry, outcome.failure, self.spec.config, self._about(outcome.generation))
            self._tell(entry, outcome.failure, plan, outcome.duration)
            return plan
        plan = plan_result(outcome, self.spec.config)
        self.processed["processed_dropped" if outcome.body is None else "processed_result"] += 1
        if log.isEnabledFor(logging.DEBUG):
            logs.report(log, logging.DEBUG, plan.outcome, f"{plan.outcome}", seq=entry.seq, duration_s=outcome.duration)
        return plan

    def _judge(self, guilty: Entry, lane: Lane, death: Death, duration: float) -> None:
        reason = "timeout" if lane.kill_reason.startswith(TIME_LIMIT) else "crash"
        oom = evidence.oom_kills() > lane.oom_kills
        failure = evidence.describe(reason, death, lane.kill_reason, lane.output.tail, duration, oom=oom)
        plan = plan_crash(guilty, failure, self.spec.config, self._about(lane.sent))
        self._tell(guilty, failure, plan, duration)
        self._do(self.ledger.finished(guilty.seq, plan, time.monotonic()))

    def _convict(self, delivery: Delivery, key: bytes) -> None:
        """Put a message aside without computing it: it took the whole tree down, and was alone each time."""
        self._suspects.over(key)
        now = time.monotonic()
        self._do(self.ledger.delivered(delivery, now, Isolation.STAGE))
        words = f"the whole process tree died {SOLO_DEATHS} times while it computed this message alone"
        failure = Failure("crash", "TreeDied", words, final=True)
        entry = self.ledger.delivery(delivery.epoch, delivery.tag)
        if entry is not None:
            plan = plan_failure(entry, failure, self.spec.config, self._about(self.desired.generation))
            self._tell(entry, failure, plan, 0.0)
            self._do(self.ledger.finished(entry.seq, plan, now))
        self.ask_turn()

    def _renew(self, delivery: Delivery) -> None:
        """Put a message back as a new one, unless it is being computed here already."""
        entry = self.ledger.delivery(delivery.epoch, delivery.tag)
        if entry is None or entry.state is not HELD:
            return
        if plan := plan_renewal(entry, self.spec.config):
            words = "given out so often without an outcome that the broker may drop it soon: put back as a new message"
            message_id = decode_leniently(entry.properties).message_id
            logs.report(log, logging.WARNING, "renewed", words, message_id=message_id)
            self._do(self.ledger.finished(entry.seq, plan, time.monotonic()))

    def _acquit(self, entry: Entry) -> None:
        if entry.isolation is Isolation.STAGE:
            self._suspects.over(fingerprint(entry.properties, entry.body))

    def _tell(self, entry: Entry, failure: Failure, plan: Plan, duration: float) -> None:
        properties = decode_leniently(entry.properties)
        publication = plan.publication
        delay = publication.delay if publication is not None else 0
        ending = f"tried again in {delay} s" if plan.outcome == "retried" else f"moved to {self.spec.config.dead}"
        logs.report(
            log,
            logging.WARNING if plan.outcome == "retried" else logging.ERROR,
            plan.outcome,
            f"{failure.reason}: {failure.type}: {failure.message[:500]}; {ending}",
            message_id=properties.message_id,
            outcome=plan.outcome,
            reason=failure.reason,
            error_type=failure.type,
            duration_s=round(duration, 6),
            generation=self.desired.generation,
        )

    def _about(self, generation: int) -> Circumstances:
        chance = random.random()  # noqa: S311 - jitter, no secret
        return Circumstances(self.spec.stage, self._host, generation, logs.timestamp(time.time()), chance)

    # --- holding back

    def reconcile(self, now: float) -> None:
        """Bring fleet and prefetch to what is wanted."""
        if not self.draining:
            self.fleet.reconcile(now)
        if self.fleet.working():
            self._nobody_since = now
        self.problem = self._reason_to_hold_back()
        wanted = self.desired.listening and self.desired.consumers > 0 and not self.draining and not self.problem
        nobody = now - self._nobody_since >= NOBODY_GRACE or self.desired.consumers == 0
        if wanted and self.fleet.working():
            self._set_prefetch(self._wish(now))
        elif not wanted or (nobody and not self.fleet.working()):
            self._set_prefetch(0)
        if nobody and not self.fleet.working():
            self.give_back_held()

    def _wish(self, _now: float) -> int:
        config = self.spec.config
        high = self.service_time.quantile()
        return config.prefetch or derive_prefetch(high, self.desired.consumers, self.prefetch)

    def _reason_to_hold_back(self) -> str:
        ledger, config = self.ledger, self.spec.config
        limit = config.max_held_bytes
        if ledger.held_bytes > (limit // 2 if self.problem.startswith("holding") else limit):
            return f"holding {ledger.held_bytes:,} bytes, more than max_held_bytes allows: the input waits"
        if ledger.unplaced and ledger.unplaced * 2 >= (self.prefetch or 2):
            return f"{ledger.unplaced} publications cannot be placed ({ledger.refusal}): the input waits"
        return ""

    def _set_prefetch(self, value: int) -> None:
        if value != self.prefetch:
            self.prefetch = value
            self.link.consume(value)
            self._changed()

    def give_back_held(self) -> None:
        """Return to the broker what waits for a lane."""
        for epoch, tags in self.ledger.release_held().items():
            self.link.release(epoch, tags)


def _exit_reason(lane: Lane, death: Death) -> str:
    if lane.unfit is not None:
        return "setup"
    if lane.kill_reason:
        return "timeout" if lane.kill_reason.startswith(TIME_LIMIT) else "killed"
    if death.code < 0:
        return "signal"
    return lane.replace_reason or ("asked" if death.code == 0 and lane.left else "exit")
