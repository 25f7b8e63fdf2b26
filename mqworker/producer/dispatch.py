"""Dispatch: moves messages from the backlog to idle lanes, and back again when a lane cannot go on.

Lives in the Producer, on its loop; owns the fleet. Receives what lanes report: ready, outcomes, death. Sends chunks
down the lanes, and passes outcomes on to settlement. Messages that wait behind long work are revoked and dispatched to
another lane; a message that may have killed the whole tree runs isolated (quarantine.py decides when). With a throttle,
not more is dispatched than it allows, because the output queue is bounded.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from mqworker.amqp.labels import labels
from mqworker.config.model import INPUT
from mqworker.consumer.register import InHandRegister
from mqworker.ipc import logs
from mqworker.ipc.histogram import Histogram
from mqworker.ipc.messages import LARGE, Chunk, Desired, Item, LogEvent, Outcomes, StageSpec
from mqworker.ipc.spawn import Death
from mqworker.producer import evidence
from mqworker.producer.entry import Entry, Isolation
from mqworker.producer.fleet import NOT_WANTED, Fleet
from mqworker.producer.lane import Lane
from mqworker.producer.ledger import Ledger
from mqworker.producer.limits import TIME_LIMIT
from mqworker.producer.pacing import AHEAD_BYTES, ServiceTime, chunk_size, may_wait
from mqworker.producer.publications import AnyPublish
from mqworker.producer.quarantine import May, may_begin, outlived
from mqworker.producer.revoking import Revoking
from mqworker.producer.settlement import Settlement
from mqworker.producer.suspects import Suspects
from mqworker.producer.throttle import Throttle

REVOKE_AFTER = 0.02  # seconds that a chunk may take while some of it waits and another Consumer is idle
REVOKE_ANYHOW = 1.0  # seconds that a message may take while others wait behind it, also if no Consumer is idle
_EXIT_LEVELS = {"asked": logging.DEBUG, "max_messages": logging.INFO, "max_rss": logging.INFO}

log = logging.getLogger("mqworker.dispatch")


class Dispatch:
    """See the module head.

    `ask_turn` schedules a call of feed() after all present events, `changed` is called when there is something new to
    report, `forward` receives the Consumers' log events.
    """

    def __init__(
        self,
        spec: StageSpec,
        desired: Desired,
        ledger: Ledger,
        settlement: Settlement,
        suspects: Suspects,
        register: InHandRegister,
        service_time: ServiceTime,
        throttle: Throttle | None,
        ask_turn: Callable[[], None],
        changed: Callable[[], None],
        forward: Callable[[LogEvent], None],
    ) -> None:
        self.fleet = Fleet(spec, desired, register, self)
        self.wait_time = Histogram()  # from a delivery's arrival to a lane
        self.exits: dict[str, int] = {}  # ends of Consumers, by reason
        self.lane_log = forward
        self._spec = spec
        self._desired = desired
        self._draining = False
        self._frozen = False
        self._revoking = Revoking()
        config = spec.config
        self._stop_at_failure = config.holds and config.ordered_by != INPUT
        self._ledger = ledger
        self._settlement = settlement
        self._suspects = suspects
        self._register = register
        self._service_time = service_time
        self._throttle = throttle
        self._ask_turn = ask_turn
        self._changed = changed

    # --- orders

    def want(self, desired: Desired) -> None:
        """Use these Consumers and parameters from now on; what others have not begun is taken back from them."""
        self._desired = desired
        self.fleet.want(desired, time.monotonic())
        for lane in self.fleet.busy():
            if not self.fleet.at_work(lane):
                self._take_back(lane)

    def quiet(self) -> None:
        """Stop dispatching, take back what no Consumer has begun, and let each Consumer leave when it is done."""
        self._draining = True
        for lane in self.fleet.busy():
            self._take_back(lane)
        self.fleet.retire_all()

    def freeze(self, frozen: bool) -> None:
        """Let nothing begin, and take back what no Consumer has begun; or end that."""
        if frozen and not self._frozen:
            for lane in self.fleet.busy():
                self._take_back(lane)
        self._frozen = frozen

    # --- what the lanes report (LaneOwner)

    def lane_ready(self, lane: Lane) -> None:
        """Put a new Consumer to work; one with the old code may leave in return."""
        self.fleet.reconcile(time.monotonic())
        self.fleet.idled(lane)
        self._ask_turn()
        self._changed()

    def lane_outcomes(self, lane: Lane, outcomes: Outcomes) -> None:
        """Settle what is finished, and feed the lane again when its chunk has ended."""
        now = time.monotonic()
        if outcomes.outcomes:
            self.fleet.prospered(lane)
        publishes: list[AnyPublish] = []
        try:
            for outcome in outcomes.outcomes:
                entry = self._ledger.entry(outcome.seq)
                if entry is not None:  # otherwise it came before, from the outbox or another lane
                    self._service_time.observe(outcome.duration)
                    if entry.key:
                        held = outcome.failure is not None and self._ledger.holds(entry)
                        self._clear(entry, suspected=held)  # a further attempt may still kill the tree
                    publishes += self._settlement.finished(entry, outcome, now)
            if outcomes.ended:
                self._ledger.chunk_ended(lane.number, outcomes.ended)
                if lane.state != "busy":
                    self._revoking.forget(lane.number)
                if lane.replace_reason:
                    self.fleet.reconcile(now)
                self.fleet.idled(lane)
                self.feed()  # before the results are published, because the Consumer is waiting
        finally:
            self._settlement.send(publishes)
        self._ask_turn()

    def lane_died(self, lane: Lane, death: Death) -> None:
        """Charge the message that its Consumer was working on, dispatch its other messages again, replace it."""
        now = time.monotonic()
        seq, began = lane.in_hand()
        entry = self._ledger.entry(seq)
        known_killer = entry is not None and entry.isolation is not Isolation.NONE
        if not began:  # it waited for a shared object, or there is none: nobody is to blame
            seq = 0
        elif seq and not known_killer and not self._draining and self.fleet.fails(lane, death, now):
            seq = 0  # the stage goes back to the code of before, which computes this message
        charged = self._ledger.lane_died(lane.number, seq)
        self._revoking.forget(lane.number)
        self.fleet.died(lane, death, now, attributed=charged is not None and known_killer)
        self._report_end(lane, death)
        if charged is not None:
            if charged.key:
                self._clear(charged)
            if not self._draining:
                self._charge(charged, lane, death, now - began)
        self.fleet.reconcile(now)
        self._ask_turn()
        self._changed()

    def lane_labels(self, seq: int) -> dict[str, Any]:
        """Return the labels of a message in hand."""
        entry = self._ledger.entry(seq)
        return {} if entry is None else labels(entry.properties, entry.body, self._spec.config.input.queue)

    # --- turns and time

    def feed(self) -> None:
        """Give the idle lanes the messages that may begin now."""
        ledger = self._ledger
        if self._draining:
            return
        may = May.NOBODY if self._frozen else May.OTHERS
        if not self._frozen and (ledger.assignments.isolated is not None or ledger.backlog.shortest_window is not None):
            may = self._observe_quarantine(time.monotonic())
        high = self._service_time.quantile() if ledger.backlog.ready else None
        working = self.fleet.working()
        room = sys.maxsize if self._throttle is None else self._throttle.room()
        for lane in self.fleet.idle():
            entries: list[Entry] = []
            if ready := ledger.backlog.ready:
                most = chunk_size(high, ready, working, self._spec.config.queue_size)
                entries = ledger.take(lane.number, lane.chunk + 1, min(most, room), may)
                room -= len(entries)
                if entries and may is May.SUSPECT:
                    self._register.isolate(entries[0].key)
                    may = May.NOBODY
            if entries or self._behind(lane):
                self._send(lane, entries)
        if ledger.backlog.ahead is not None and may is May.OTHERS and may_wait(high):
            self._feed_ahead(high, working, room)
        if self._throttle is not None:
            self._throttle.look(time.monotonic())

    def _feed_ahead(self, high: float | None, working: int, room: int) -> None:
        """Put the next chunk behind the one that a Consumer works on, so that it need not wait for it."""
        ledger, now = self._ledger, time.monotonic()
        for lane in self.fleet.open():
            first, bound = ledger.backlog.ahead, self._spec.config.queue_size
            if first is None or first.weight > AHEAD_BYTES or first.isolation is not Isolation.NONE:
                return
            most = min(chunk_size(high, ledger.backlog.ready, working, bound), room)
            if most < chunk_size(high, bound, 1, bound):
                return
            seq, began = lane.in_hand()
            if lane.number in self._revoking or self._behind(lane):
                continue
            before = ledger.assignments.on(lane.number)
            if len(before) == 1 and (before[0].isolation is not Isolation.NONE or before[0].weight > LARGE):
                continue  # it may kill its Consumer, or take long
            if not seq or (began and now - began < REVOKE_AFTER):
                entries = ledger.take(lane.number, lane.chunk + 1, most)
                room -= len(entries)
                self._send(lane, entries)

    def revoke(self, now: float) -> None:
        """Take back messages that wait behind others: while another Consumer is idle, or behind a long one."""
        soon = not self._ledger.backlog.ready and any(self.fleet.idle())
        for lane in self.fleet.busy():
            seq, began = lane.in_hand()
            if seq and ((soon and now - lane.since > REVOKE_AFTER) or (began and now - began > REVOKE_ANYHOW)):
                waiting = self._ledger.assignments.on(lane.number)
                if len(waiting) > 1 and waiting[-1].seq != seq:
                    self._take_back(lane)
            if lane.number in self._revoking and self._revoking.certain(lane.number, seq, now):
                self._ledger.revoke(lane.number, seq)

    # --- inside

    def _take_back(self, lane: Lane) -> None:
        """Stop a lane after its message in hand; `revoke` takes the rest back, or the end of its chunks does."""
        self._revoking.told(lane.number, lane.stop_after_message(), time.monotonic())

    def _send(self, lane: Lane, entries: list[Entry]) -> None:
        desired = self._desired
        now = time.monotonic()
        for entry in entries:
            self.wait_time.observe(now - entry.received)
        items = [Item(e.seq, e.properties, e.body, e.redelivered, e.exchange, e.routing_key, e.key) for e in entries]
        params = desired.generation.params if self._behind(lane) else None
        generation = desired.generation.number if lane.code == desired.generation.code else lane.sent
        if entries:
            self.fleet.staffing.switch.fed(lane.code, now)
        more = self._ledger.backlog.ahead is not None
        soft, hard, level, stops = desired.soft_limit, desired.hard_limit, desired.log_level, self._stop_at_failure
        lane.feed(Chunk(lane.chunk + 1, generation, params, soft, level, items, more, 0, stops, hard))

    def _behind(self, lane: Lane) -> bool:
        """Whether a lane needs the present parameters; one that will be replaced keeps those of its own generation."""
        generation = self._desired.generation
        return lane.sent < generation.number and lane.code == generation.code

    def _observe_quarantine(self, now: float) -> May:
        """Return what may begin now; also ends the isolation of a suspect that has outlived its window."""
        assignments = self._ledger.assignments
        isolated = assignments.isolated
        if isolated is not None:
            lane = self.fleet.lanes[isolated.lane or 0]
            seq, began = lane.in_hand()
            if seq != isolated.seq or not outlived(now, began, isolated.window):
                return May.NOBODY
            self._suspects.outlived(isolated.key)
            self._register.end_isolation()
            assignments.end_isolation()
        window = self._ledger.backlog.shortest_window
        begun = []
        for lane in self.fleet.busy() if window is not None else ():
            self._take_back(lane)  # otherwise its Consumer would begin more messages
            seq, began = lane.in_hand()
            if seq and not began and window is not None:
                began = now - window  # it waits for a shared object, and harms nobody meanwhile
            begun.append(began if len(assignments.on(lane.number)) == 1 else 0.0)
        return may_begin(now, begun, window)

    def _clear(self, entry: Entry, *, suspected: bool = False) -> None:
        """Clear a message of suspicion, unless it stays suspected: it has an outcome, or is charged with a death."""
        if entry.isolation is Isolation.STAGE:
            self._register.end_isolation()
        if not suspected:
            self._suspects.clear(entry.key)

    def _charge(self, entry: Entry, lane: Lane, death: Death, duration: float) -> None:
        reason = "timeout" if lane.kill_reason.startswith(TIME_LIMIT) else "crash"
        oom = evidence.oom_kills() > lane.oom_kills
        failure = evidence.describe(reason, death, lane.kill_reason, lane.output_tail, duration, oom=oom)
        self._settlement.crashed(entry, failure, lane.sent, duration)

    def _report_end(self, lane: Lane, death: Death) -> None:
        reason = _exit_reason(lane, death)
        self.exits[reason] = self.exits.get(reason, 0) + 1
        failure = lane.unfit.failure if lane.unfit else None
        why = lane.kill_reason or (f"{failure.type}: {failure.message}" if failure else lane.replace_reason)
        message = f"Consumer {lane.slot} {death}" + (f" ({why})" if why else "")
        level = _EXIT_LEVELS.get(reason, logging.WARNING)
        trace = failure.traceback if failure else None
        logs.report(log, level, "consumer_ended", message, consumer_pid=lane.pid, traceback=trace)


def _exit_reason(lane: Lane, death: Death) -> str:
    if lane.unfit is not None:
        return "setup"
    if lane.kill_reason == NOT_WANTED:
        return "asked"
    if lane.kill_reason:
        return "timeout" if lane.kill_reason.startswith(TIME_LIMIT) else "killed"
    if death.code < 0:
        return "signal"
    return lane.replace_reason or ("asked" if death.code == 0 and lane.left else "exit")
