"""The limits of Consumers that work on several messages at once: overdue.py decides, this carries it out.

Lives in the Producer, on its loop, and is called with each tick. Reads the in-hand register; closes Consumers, asks
them for their stacks and kills them (dispatch receives their deaths, and charges the overdue messages alone). A
Consumer itself says where an overdue message is, if its interpreter is running.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from mqworker.ipc import logs
from mqworker.ipc.proc import cpu
from mqworker.producer.fleet import Fleet
from mqworker.producer.lane import Lane
from mqworker.producer.lane_seats import LaneSeats
from mqworker.producer.overdue import Do, Moment, look

TIME_LIMIT = "hard time limit"  # the reason for killing a Consumer that took too long begins with this
EVERY = 0.1  # seconds between two checks
STALL = 10.0  # seconds that a Consumer may leave a chunk in its lane without any progress: stopped, or stuck
STACK_WAIT = 1.0  # seconds for a Consumer to write its stacks before it is killed
CANCELS = 1.0  # seconds more for a Consumer to cancel a task
CLOSED = "hard_limit"  # why a closed Consumer is replaced

log = logging.getLogger("mqworker.limits")


class _Stalled(NamedTuple):
    """A Consumer that has not taken a chunk."""

    chunk: int
    cpu: int  # CPU time that it had used; 0: it does not count, because nothing is in hand
    looks: int  # since then


class SeatLimits:
    """Watches the lanes with seats of one fleet. `labels` returns the labels of a message by its number."""

    def __init__(self, fleet: Fleet, labels: Callable[[int], dict[str, Any]]) -> None:
        self._fleet = fleet
        self._labels = labels
        self._due = 0.0
        self._asked: dict[int, float] = {}  # when a lane's Consumer that is about to be killed was asked for its stacks
        self._stalled: dict[int, _Stalled] = {}  # by lane

    def enforce(self, hard_limit: float, patience: float, now: float) -> None:
        """Check every lane; `patience`: seconds that a Consumer has to end its programs."""
        if now < self._due:
            return
        self._due = now + EVERY
        asked, self._asked = self._asked, {}
        stalled, self._stalled = self._stalled, {}
        for lane in list(self._fleet.roster.seated.values()):
            seats = lane.seats
            if seats is None or lane.state != "busy":
                continue
            began = seats.working()
            if lane.taken != lane.chunk and (not began or now - seats.words.pulse > STALL):
                self._watch_chunk(lane, seats, bool(began), stalled.get(lane.number))
            moment = Moment(
                *(began, seats.words.running, seats.words.running_since, seats.words.pulse, seats.closed_at),
                (patience if lane.has_program else 0.0) + (CANCELS if seats.kind == "tasks" else 0.0),
            )
            what, overdue = look(moment, hard_limit, now)
            if what is Do.CLOSE:
                self._close(lane, seats, overdue, hard_limit, now)
            elif what is not Do.NOTHING:
                self._kill(lane, seats, overdue, hard_limit, now, asked.get(lane.number))

    def _watch_chunk(self, lane: Lane, seats: LaneSeats, works: bool, before: "_Stalled | None") -> None:
        # A message may hold the interpreter for long, and would be computing. Looks are counted instead of seconds: a
        # Consumer must not be killed because this process paused.
        used = cpu(lane.pid) if works else 0
        looks = before.looks + 1 if before is not None and before[:2] == (lane.chunk, used) else 1
        self._stalled[lane.number] = _Stalled(lane.chunk, used, looks)
        if looks * EVERY > STALL:
            seats.still = True
            lane.kill(f"it did not take its messages for {STALL:g} s")

    def _close(self, lane: Lane, seats: LaneSeats, overdue: frozenset[int], hard_limit: float, now: float) -> None:
        seats.closed_at = now
        lane.replace_reason = lane.replace_reason or CLOSED
        others = len(seats.out) - len(overdue)
        what = (
            f"the message has exceeded the {TIME_LIMIT} of {hard_limit:g} s: Consumer {lane.slot} takes nothing more,"
            f" and its other {others} have {hard_limit:g} s to finish before it is killed"
        )
        for seq in overdue:
            logs.report(log, logging.WARNING, "closing", what, **self._labels(seq), consumer_pid=lane.pid)
        self._fleet.reconcile(now)

    def _kill(
        self,
        lane: Lane,
        seats: LaneSeats,
        overdue: frozenset[int],
        hard_limit: float,
        now: float,
        asked: float | None,
    ) -> None:
        """Kill it once it is known where the overdue messages are, or that this cannot be found out."""
        if not (overdue and overdue <= seats.stacks.keys()):
            if asked is None:
                lane.ask_stack()
            self._asked[lane.number] = asked = now if asked is None else asked
            if now - asked < STACK_WAIT:
                return
        seats.overdue, seats.still = overdue, not overdue
        still = "" if overdue else ": nothing in it got on for so long"
        lane.kill(f"{TIME_LIMIT} of {hard_limit:g} s{still}")
