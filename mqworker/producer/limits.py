"""What no Consumer may do: run over the hard time limit, stall in the middle of a chunk, keep outcomes to itself.

Lives in the Producer, on its loop, and is called with each tick. Reads the in-hand register; kills Consumers (dispatch
receives their deaths) and reads their outboxes. A Consumer whose chain has programs kills them at the limit, and has a
moment for that. Consumers that work on several messages at once are the matter of seat_limits.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from mqworker.ipc.producer_messages import Desired
from mqworker.producer.fleet import Fleet
from mqworker.producer.lane import Lane
from mqworker.producer.seat_limits import TIME_LIMIT, SeatLimits

LONG = 0.005  # seconds that finished outcomes may wait behind a running message
STALL = 10.0  # seconds that a Consumer may hold a chunk without working on a message: it is stopped, or stuck
STACK_WAIT = 1.0  # seconds for a Consumer to write its stacks before it is killed; sooner once it has written them
KILLS_ITSELF = 3.0  # seconds more for a Consumer to kill its program, and the keeper of that if it does not answer


class _Asked(NamedTuple):
    """A Consumer that was asked for its stacks, because of this message."""

    message: int
    at: float
    before: str  # its last output then
    last: str  # the same, as last seen: what has changed and then stays is all that it writes


class Limits:
    """Watches the busy lanes of one fleet. `labels` returns the labels of a message by its number."""

    def __init__(self, fleet: Fleet, labels: Callable[[int], dict[str, Any]]) -> None:
        self._roster = fleet.roster
        self._seats = SeatLimits(fleet, labels)
        self._stacks: dict[int, _Asked] = {}  # by lane
        self._stalled: dict[int, tuple[int, int]] = {}  # lane -> (its last ended chunk, ticks with nothing in hand)

    def enforce(self, desired: Desired, now: float, tick: float) -> None:
        """Check every busy lane; `tick` is the time between two calls while Consumers are busy."""
        hard_limit = desired.hard_limit
        if self._roster.seated:
            self._seats.enforce(hard_limit, KILLS_ITSELF, now)
        stacks, self._stacks = self._stacks, {}
        stalled, self._stalled = self._stalled, {}
        for lane in self._roster.busy():
            if lane.seats is not None:
                continue
            seq, began = lane.in_hand()
            if not seq:
                self._watch_chunk(lane, stalled.get(lane.number, (0, 0)), tick)
                continue
            if not began:  # it waits for a shared object
                lane.read_outbox()
                continue
            if hard_limit and now - began > hard_limit + (KILLS_ITSELF if lane.has_program else 0.0):
                self._stacks[lane.number] = _kill(lane, seq, hard_limit, now, stacks.get(lane.number))
            if now - began > LONG:
                lane.read_outbox()

    def _watch_chunk(self, lane: Lane, before: tuple[int, int], tick: float) -> None:
        # Count ticks instead of seconds: a Consumer must not be killed because this process paused.
        chunk, ticks = before
        ticks = ticks + 1 if chunk == lane.ended else 1
        self._stalled[lane.number] = (lane.ended, ticks)
        if ticks * tick > STALL:
            lane.kill(f"it began no message of its chunk for {STALL:g} s")


def _kill(lane: Lane, seq: int, hard_limit: float, now: float, asked: _Asked | None) -> _Asked:
    """Ask a Consumer for its stacks, and kill it once it has written them."""
    tail = lane.output_tail
    if asked is None or asked.message != seq:
        lane.ask_stack()
        asked = _Asked(seq, now, tail, tail)
    elif now - asked.at > STACK_WAIT or asked.before != tail == asked.last:
        lane.kill(f"{TIME_LIMIT} of {hard_limit:g} s")
    return asked._replace(last=tail)
