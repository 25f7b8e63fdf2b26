"""Feeding: which messages go down which lane, now.

Lives in the Producer, on its loop; a part of dispatch. Takes messages out of the ledger and sends chunks down the
lanes, with the parameters that a Consumer does not have yet. To a Consumer that works on one message at a time it sends
the next chunk when that is idle, or ahead while messages are short; to one with seats for several as many messages as
it has free seats (seating.py decides). A message that may have killed the whole tree runs isolated (quarantine.py
decides when). With a throttle, not more is sent than it allows, because the output queue is bounded.
"""

import sys
import time
from heapq import nsmallest

from mqworker.config.model import INPUT
from mqworker.consumer.register import InHandRegister
from mqworker.ipc.consumer_messages import LARGE, Chunk, Item
from mqworker.ipc.histogram import Histogram
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer.entry import Entry, Isolation
from mqworker.producer.lane import Lane
from mqworker.producer.lane_seats import LaneSeats
from mqworker.producer.ledger import Ledger
from mqworker.producer.pacing import AHEAD_BYTES, AHEAD_LEAST, ServiceTime, chunk_size, may_wait
from mqworker.producer.quarantine import May, may_begin, outlived
from mqworker.producer.revoking import Revoking
from mqworker.producer.roster import Roster
from mqworker.producer.seating import WINDOW, Alone, KeptSuccessor, Seating, roomiest, seat
from mqworker.producer.suspects import Suspects
from mqworker.producer.throttle import Throttle

REVOKE_AFTER = 0.02  # seconds that a chunk may take while some of it waits and another Consumer is idle


class Feeding:
    """See the module head."""

    def __init__(
        self,
        spec: StageSpec,
        desired: Desired,
        roster: Roster,
        ledger: Ledger,
        suspects: Suspects,
        register: InHandRegister,
        service_time: ServiceTime,
        throttle: Throttle | None,
    ) -> None:
        self.desired = desired
        self.wait_time = Histogram()  # from a delivery's arrival to a lane
        self.revoking = Revoking()
        self.successor = KeptSuccessor()
        self._spec = spec
        config = spec.config
        self._stop_at_failure = config.holds and config.ordered_by != INPUT
        self._roster = roster
        self._ledger = ledger
        self._suspects = suspects
        self._register = register
        self._service_time = service_time
        self._throttle = throttle

    def feed(self, *, frozen: bool) -> None:
        """Give the lanes the messages that may begin now; none may while the stage is `frozen`."""
        ledger, roster = self._ledger, self._roster
        may = May.NOBODY if frozen else May.OTHERS
        if not frozen and (ledger.assignments.isolated is not None or ledger.backlog.shortest_window is not None):
            may = self._observe_quarantine(time.monotonic())
        high = self._service_time.quantile() if ledger.backlog.ready else None
        working = roster.working()
        room = sys.maxsize if self._throttle is None else self._throttle.room()
        for lane in roster.idle():
            entries: list[Entry] = []
            if ready := ledger.backlog.ready:
                most = chunk_size(high, ready, working, self._spec.config.queue_size)
                entries = ledger.assignments.take(lane.number, lane.chunk + 1, min(most, room), may)
                room -= len(entries)
                if entries and may is May.SUSPECT:
                    self._register.isolate(entries[0].key)
                    may = May.NOBODY
            if entries or self._behind(lane):
                self._send(lane, entries)
        if roster.seated:
            room -= self._feed_seats(room, may)
        if ledger.backlog.ahead is not None and may is May.OTHERS and may_wait(high):
            self._feed_ahead(high, working, room)
        if self._throttle is not None:
            self._throttle.look(time.monotonic())

    def take_back(self, lane: Lane) -> None:
        """Stop a lane from beginning more of what was put; what it has not begun comes back, or can be revoked then."""
        in_hand = lane.stop_after_message()
        if lane.seats is None:
            self.revoking.stopping(lane.number, in_hand, time.monotonic())

    def forget(self, lane: int, now: float) -> None:
        """Note that a lane is gone."""
        self.revoking.forget(lane)
        self.successor.ended(lane, now)

    # --- one message at a time

    def _feed_ahead(self, high: float | None, working: int, room: int) -> None:
        """Put the next chunk behind the one that a Consumer works on, so that it need not wait for it."""
        ledger, now = self._ledger, time.monotonic()
        for lane in self._roster.open():
            first, bound = ledger.backlog.ahead, self._spec.config.queue_size
            if first is None or first.weight > AHEAD_BYTES or first.isolation is not Isolation.NONE:
                return
            most = min(chunk_size(high, ledger.backlog.ready, working, bound), room)
            if most < min(AHEAD_LEAST, chunk_size(high, bound, 1, bound)):
                return
            seq, began = lane.in_hand()
            if lane.number in self.revoking or self._behind(lane):
                continue
            before = ledger.assignments.on(lane.number)
            if len(before) == 1 and (before[0].isolation is not Isolation.NONE or before[0].weight > LARGE):
                continue  # it may kill its Consumer, or take long
            if not seq or (began and now - began < REVOKE_AFTER):
                entries = ledger.assignments.take(lane.number, lane.chunk + 1, most)
                room -= len(entries)
                self._send(lane, entries)

    # --- several at once

    def _feed_seats(self, room: int, may: May) -> int:
        """Give the Consumers with seats what may begin, at most `room` messages; returns how many."""
        now, backlog = time.monotonic(), self._ledger.backlog
        lanes = self._roster.with_seats()
        for _, seats in lanes:
            self._look_at_alone(seats, now)
        alone = nsmallest(len(lanes), backlog.alone, key=_is_doubted) if may is May.OTHERS else []
        kept = self.successor.kept(now)
        facts = [
            Seating(
                *(lane.number, seats.room, lane.state == "idle" or lane.open, seats.begun() if alone else ()),
                *(seats.alone != 0, lane.number == kept),
            )
            for lane, seats in lanes
        ]
        given = 0
        if may is May.SUSPECT:
            given = self._give_suspect(roomiest(facts)) if room > 0 else 0
        elif may is May.OTHERS:
            apart = [Alone(entry.window or WINDOW, not _is_doubted(entry)) for entry in alone]
            for number, most, which in seat(facts, backlog.beside, apart, now, room):
                given += self._give(self._roster.lanes[number], most, None if which is None else alone[which], now)
        for lane, _ in lanes:
            if (lane.state == "idle" or lane.open) and self._behind(lane):
                self._send(lane, [])
        return given

    def _give(self, lane: Lane, most: int, alone: Entry | None, now: float) -> int:
        number = lane.chunk + 1
        if alone is None:
            entries = self._ledger.assignments.take_beside(lane.number, number, most)
        else:
            assert lane.seats is not None
            entries = self._ledger.assignments.take_alone(lane.number, number, alone)
            lane.seats.alone = alone.seq if entries else 0
            self.successor.ended(lane.number, now)
        if entries:
            self._send(lane, entries)
        return len(entries)

    def _give_suspect(self, number: int | None) -> int:
        """Send the suspect that may begin to a lane, if there is room in one."""
        if number is None:
            return 0
        lane = self._roster.lanes[number]
        entries = self._ledger.assignments.take(number, lane.chunk + 1, 1, May.SUSPECT)
        if entries:
            self._register.isolate(entries[0].key)
            self._send(lane, entries)
        return len(entries)

    def _look_at_alone(self, seats: LaneSeats, now: float) -> None:
        """Let others begin beside a message that was alone, once it is done or has outlived its window."""
        if not seats.alone:
            return
        entry = self._ledger.entry(seats.alone)
        if entry is None or entry.seq not in seats.out:
            seats.alone = 0
            return
        began = seats.working().get(entry.seq)
        if began == 0.0:  # it waits for a shared object, perhaps for long, and harms nobody meanwhile
            seats.alone = 0
        elif began is not None and outlived(now, began, entry.window or WINDOW):
            seats.alone = 0
            if entry.doubt is not None and entry.isolation is Isolation.CHUNK:
                entry.doubt, entry.window, entry.isolation = entry.doubt.outlived(), 0.0, Isolation.NONE

    # --- inside

    def _send(self, lane: Lane, entries: list[Entry]) -> None:
        desired = self.desired
        now = time.monotonic()
        for entry in entries:
            self.wait_time.observe(now - entry.received)
        items = [Item(e.seq, e.properties, e.body, e.redelivered, e.exchange, e.routing_key, e.key) for e in entries]
        params = desired.generation.params if self._behind(lane) else None
        generation = desired.generation.number if lane.code == desired.generation.code else lane.sent
        if entries:
            self._roster.switch.fed(lane.code, now)
        more = self._ledger.backlog.ahead is not None
        soft, hard, level, stops = desired.soft_limit, desired.hard_limit, desired.log_level, self._stop_at_failure
        lane.feed(Chunk(lane.chunk + 1, generation, params, soft, level, items, more, 0, stops, hard))

    def _behind(self, lane: Lane) -> bool:
        """Whether a lane needs the present parameters; one that will be replaced keeps those of its own generation."""
        generation = self.desired.generation
        return lane.sent < generation.number and lane.code == generation.code

    def _observe_quarantine(self, now: float) -> May:
        """Return what may begin now; also ends the isolation of a suspect that has outlived its window."""
        assignments = self._ledger.assignments
        isolated = assignments.isolated
        if isolated is not None:
            lane = self._roster.lanes[isolated.lane or 0]
            if not outlived(now, _began(lane, isolated.seq), isolated.window):
                return May.NOBODY
            self._suspects.outlived(isolated.key)
            self._register.end_isolation()
            assignments.end_isolation()
        window = self._ledger.backlog.shortest_window
        begun: list[float] = []
        for lane in self._roster.busy() if window is not None else ():
            self.take_back(lane)  # otherwise its Consumer would begin more messages
            waited = now - (window or 0.0)  # one that waits for a shared object harms nobody meanwhile
            if lane.seats is not None:
                begun += lane.seats.begun(waited)
                continue
            seq, began = lane.in_hand()
            if seq and not began:
                began = waited
            begun.append(began if len(assignments.on(lane.number)) == 1 else 0.0)
        return may_begin(now, begun, window)


def _is_doubted(entry: Entry) -> bool:
    """Return whether a message that must be alone is only doubted; one that has killed goes first."""
    return entry.doubt is not None and entry.doubt.doubted


def _began(lane: Lane, seq: int) -> float:
    """Return when a message began in a lane; 0: it has not, or waits."""
    if lane.seats is not None:
        return lane.seats.working().get(seq, 0.0)
    in_hand, began = lane.in_hand()
    return began if in_hand == seq else 0.0
