"""Dispatch: moves messages from the backlog to the lanes, and back again when a lane cannot go on.

Lives in the Producer, on its loop; owns the fleet, and has the lanes fed (feeding.py). Receives what lanes report:
ready, outcomes, death. Passes outcomes on to settlement, and charges with a death whoever is to blame (blame.py).
Messages that wait behind long work are revoked and dispatched to another lane.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from mqworker.amqp.labels import labels
from mqworker.consumer.register import InHandRegister
from mqworker.ipc import logs
from mqworker.ipc.consumer_messages import Outcomes
from mqworker.ipc.histogram import Histogram
from mqworker.ipc.json_safe import text
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Death
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer import deaths, seating
from mqworker.producer.blame import Doubt, Verdict, judge
from mqworker.producer.entry import Entry, Isolation
from mqworker.producer.feeding import REVOKE_AFTER, Feeding
from mqworker.producer.fleet import Fleet
from mqworker.producer.lane import Lane
from mqworker.producer.ledger import Ledger
from mqworker.producer.pacing import ServiceTime
from mqworker.producer.publications import AnyPublish
from mqworker.producer.settlement import Settlement
from mqworker.producer.suspects import Suspects
from mqworker.producer.throttle import Throttle

REVOKE_ANYHOW = 1.0  # seconds that a message may take while others wait behind it, also if no Consumer is idle
EXIT_TEXT = 300  # characters of how a Consumer ended, in the status
_EXIT_LEVELS = {"asked": logging.DEBUG, "max_messages": logging.INFO, "max_rss": logging.INFO}

log = logging.getLogger("mqworker.dispatch")


class Dispatch:
    """See the module head.

    `ask_turn` schedules a call of feed() after all present events, `staffed` is called when a Consumer is set up,
    `changed` when there is something new to report; `forward` receives the Consumers' log events.
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
        staffed: Callable[[float], None],
        changed: Callable[[], None],
        forward: Callable[[LogEvent], None],
    ) -> None:
        self.fleet = Fleet(spec, desired, register, self)
        self.exits: dict[str, int] = {}  # ends of Consumers, by reason
        self.last_exits: dict[int, tuple[str, float]] = {}  # by slot: how its last Consumer ended, and when
        self.lane_log = forward
        self._spec = spec
        self._draining = False
        self._frozen = False
        self._roster = self.fleet.roster
        self._feeding = Feeding(spec, desired, self._roster, ledger, suspects, register, service_time, throttle)
        self._ledger = ledger
        self._settlement = settlement
        self._suspects = suspects
        self._register = register
        self._service_time = service_time
        self._ask_turn = ask_turn
        self._staffed = staffed
        self._changed = changed

    @property
    def wait_time(self) -> Histogram:
        """From a delivery's arrival to a lane."""
        return self._feeding.wait_time

    # --- orders

    def want(self, desired: Desired) -> None:
        """Use these Consumers and parameters from now on; what others have not begun is taken back from them."""
        self._feeding.desired = desired
        self.fleet.want(desired, time.monotonic())
        for lane in self._roster.busy():
            if not self._roster.at_work(lane):
                self._feeding.take_back(lane)

    def quiet(self) -> None:
        """Stop dispatching, take back what no Consumer has begun, and let each Consumer leave when it is done."""
        self._draining = True
        for lane in self._roster.busy():
            self._feeding.take_back(lane)
        self.fleet.retire_all()

    def freeze(self, frozen: bool) -> None:
        """Let nothing begin, and take back what no Consumer has begun; or end that."""
        if frozen and not self._frozen:
            for lane in self._roster.busy():
                self._feeding.take_back(lane)
        self._frozen = frozen

    # --- what the lanes report (LaneOwner)

    def lane_ready(self, lane: Lane) -> None:
        """Put a new Consumer to work; one with the old code may leave in return."""
        now = time.monotonic()
        if lane.seats is not None:
            self._roster.seated[lane.number] = lane
            if self._roster.at_work(lane):
                self._feeding.successor.ready(lane.number, now)
        self._staffed(now)  # not at the next tick: messages are taken from now on
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
                    publishes += self._settlement.finished(entry, outcome, now, lane.slot)
            if outcomes.ended:
                self._ledger.assignments.chunk_ended(lane.number, outcomes.ended)
                if lane.state != "busy":
                    self._feeding.revoking.forget(lane.number)
            if outcomes.ended or lane.seats is not None:
                if outcomes.back:
                    self._ledger.assignments.give_back(lane.number, outcomes.back)
                if lane.replace_reason:
                    self.fleet.reconcile(now)
                self.fleet.idled(lane)
                self.feed()  # before the results are published, because the Consumer is waiting
        finally:
            self._settlement.send(publishes)
        self._ask_turn()

    def lane_died(self, lane: Lane, death: Death) -> None:
        """Charge whoever is to blame, dispatch the other messages again, replace the Consumer."""
        now = time.monotonic()
        ages = deaths.in_hand(lane, self._ledger, now)
        verdict = judge(deaths.death_facts(lane, death, ages, self._ledger, draining=self._draining))
        known_killer = any(self._is_killer(seq) for seq in verdict.charged)
        if ages and not known_killer and not self._draining and self.fleet.fails(lane, death, now):
            verdict = Verdict(1)  # the stage goes back to the previous code, which computes these messages
        self._doubt(verdict.doubts)
        charged = self._ledger.assignments.lane_died(lane.number, verdict.charged)
        self._feeding.forget(lane.number, now)
        self.fleet.died(lane, death, now, attributed=bool(charged) and known_killer)
        self._report_end(lane, death, len(ages) - len(charged))
        for entry in charged:
            if entry.key:
                self._clear(entry)
            if not self._draining:
                self._charge(entry, lane, death, ages[entry.seq])
        self.fleet.reconcile(now)
        self._ask_turn()
        self._changed()

    def lane_labels(self, seq: int) -> dict[str, Any]:
        """Return the labels of a message in hand."""
        entry = self._ledger.entry(seq)
        return {} if entry is None else labels(entry.properties, entry.body, self._spec.config.input.queue)

    # --- turns and time

    def feed(self) -> None:
        """Give the lanes the messages that may begin now."""
        if not self._draining:
            self._feeding.feed(frozen=self._frozen)

    def revoke(self, now: float) -> None:
        """Take back messages that wait behind others: while another Consumer is idle, or behind a long one."""
        soon = not self._ledger.backlog.ready and any(self._roster.idle())
        for lane in self._roster.busy():
            if lane.seats is not None:
                continue  # what it has taken it has begun
            seq, began = lane.in_hand()
            if seq and ((soon and now - lane.since > REVOKE_AFTER) or (began and now - began > REVOKE_ANYHOW)):
                waiting = self._ledger.assignments.on(lane.number)
                if len(waiting) > 1 and waiting[-1].seq != seq:
                    self._feeding.take_back(lane)
            if lane.number in self._feeding.revoking and self._feeding.revoking.certain(lane.number, seq, now):
                self._ledger.assignments.revoke(lane.number, seq)

    # --- inside

    def _clear(self, entry: Entry, *, suspected: bool = False) -> None:
        """Clear a message of suspicion, unless it stays suspected: it has an outcome, or is charged with a death."""
        if entry.isolation is Isolation.STAGE:
            self._register.end_isolation()
        if not suspected:
            self._suspects.clear(entry.key)

    def _is_killer(self, seq: int) -> bool:
        entry = self._ledger.entry(seq)
        return entry is not None and entry.isolation is not Isolation.NONE

    def _doubt(self, doubts: Mapping[int, Doubt]) -> None:
        """Count a death against messages that may have caused it; some may have to be alone from now on."""
        for seq, doubt in doubts.items():
            entry = self._ledger.entry(seq)
            if entry is not None:
                entry.doubt = doubt
                if doubt.doubted and entry.isolation is not Isolation.STAGE:
                    entry.isolation, entry.window = Isolation.CHUNK, seating.window(doubt.longest, doubt.deaths)
        if doubted := sum(doubt.doubted for doubt in doubts.values()):
            message = (
                f"nothing shows which of {doubted} messages ended two Consumers: each is alone in one for a while now"
            )
            logs.report(log, logging.WARNING, "doubted", message)

    def _charge(self, entry: Entry, lane: Lane, death: Death, duration: float) -> None:
        failure = deaths.failure(entry.seq, lane, death, duration)
        comes_back = self._settlement.crashed(entry, failure, lane.sent, duration, lane.slot)
        if comes_back and lane.seats is not None:
            self._feeding.successor.killed(time.monotonic())

    def _report_end(self, lane: Lane, death: Death, again: int) -> None:
        reason = deaths.exit_reason(lane, death)
        self.exits[reason] = self.exits.get(reason, 0) + 1
        failure = lane.unfit.failure if lane.unfit else None
        why = lane.kill_reason or (f"{failure.type}: {failure.message}" if failure else lane.replace_reason)
        message = f"Consumer {lane.slot} {death}" + (f" ({why})" if why else "")
        if again and lane.seats is not None:
            message += f"; {again} {'message' if again == 1 else 'messages'} in hand will run again, uncharged"
        self.last_exits[lane.slot] = text(message)[:EXIT_TEXT], time.monotonic()
        level = _EXIT_LEVELS.get(reason, logging.WARNING)
        trace = failure.traceback if failure else None
        logs.report(log, level, "consumer_ended", message, consumer_pid=lane.pid, traceback=trace)
