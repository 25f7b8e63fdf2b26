"""What no Consumer may do: run over the hard time limit, stall in the middle of a chunk, keep outcomes to itself.

Lives in the Producer, on its loop, and is called with each tick. Reads the in-hand register; kills Consumers (dispatch
receives their deaths) and reads their outboxes. A Consumer whose chain has programs kills them at the limit, and has a
moment for that.
"""

from typing import NamedTuple

from mqworker.ipc.messages import Desired
from mqworker.producer.fleet import Fleet

TIME_LIMIT = "hard time limit"  # the reason for killing a Consumer that took too long begins with this
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
    """Watches the busy lanes of one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._stacks: dict[int, _Asked] = {}  # by lane
        self._stalled: dict[int, tuple[int, int]] = {}  # lane -> (its last ended chunk, ticks with nothing in hand)

    def enforce(self, desired: Desired, now: float, tick: float) -> None:
        """Check every busy lane; `tick` is the time between two calls while Consumers are busy."""
        hard_limit = desired.hard_limit
        stacks, self._stacks = self._stacks, {}
        stalled, self._stalled = self._stalled, {}
        for lane in self._fleet.busy():
            seq, began = lane.in_hand()
            if not seq:
                # Count ticks instead of seconds: a Consumer must not be killed because this process paused.
                chunk, ticks = stalled.get(lane.number, (0, 0))
                ticks = ticks + 1 if chunk == lane.ended else 1
                self._stalled[lane.number] = (lane.ended, ticks)
                if ticks * tick > STALL:
                    lane.kill(f"it began no message of its chunk for {STALL:g} s")
                continue
            if not began:  # it waits for a shared object
                lane.read_outbox()
                continue
            if hard_limit and now - began > hard_limit + (KILLS_ITSELF if lane.has_program else 0.0):
                asked, tail = stacks.get(lane.number), lane.output_tail
                if asked is None or asked.message != seq:
                    lane.ask_stack()
                    asked = _Asked(seq, now, tail, tail)
                elif now - asked.at > STACK_WAIT or asked.before != tail == asked.last:
                    lane.kill(f"{TIME_LIMIT} of {hard_limit:g} s")
                self._stacks[lane.number] = asked._replace(last=tail)
            if now - began > LONG:
                lane.read_outbox()
