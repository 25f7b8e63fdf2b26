"""Where a Consumer is in its code, for an operator who asks.

Lives in the Producer, on its loop, and never blocks it. Asks the Consumer for its stacks by a signal, which
faulthandler serves even while native code holds the interpreter; a Consumer whose messages are tasks adds where each of
them waits. What it writes is in its output: what has changed there and then stays is all of it. Of a Consumer that
writes nothing within a second, that is the answer.
"""

import asyncio
import re
import time
from collections.abc import Callable

from mqworker.ipc.inspection import AskStack, StackAnswer
from mqworker.ipc.output import CRASH
from mqworker.ipc.slots import meant
from mqworker.producer.evidence import split_stack
from mqworker.producer.lane import Lane
from mqworker.producer.roster import Roster

LOOK = 0.02  # seconds between two reads of the output
QUIET = 0.06  # seconds for which it must stay as it is
MOST = 1.2  # seconds until what is there is all
NONE = "it has written no stack: user code has taken SIGUSR2, or closed stderr, or the process is stopped"
_SUSPENDED = re.compile(r"^message [^\n]*, \d+\.\d s:\n", re.MULTILINE)  # as task_seats writes


class StackWatch:
    """Takes the stacks out of a Consumer's output. Pure: `tail` is its last output, before and after it was asked."""

    def __init__(self, tail: str, now: float) -> None:
        self._before = self._last = tail
        self._asked = self._changed = now

    def look(self, tail: str, now: float) -> str | None:
        """Return the stacks once they are complete; "" if there are none; None: look again."""
        if tail != self._last:
            self._last, self._changed = tail, now
        late = now - self._asked > MOST
        if not late and (tail == self._before or now - self._changed < QUIET):
            return None
        return written(self._before, tail)


def written(before: str, after: str) -> str:
    """Return the stacks in what was written between two reads of the last output."""
    new = after.removeprefix(before) if after.startswith(before) else after[_overlap(before, after) :]
    stack, _ = split_stack(new)
    suspended = _SUSPENDED.search(new)
    return f"{stack}\n\n{new[suspended.start() :].strip()}".strip() if suspended else stack


def _overlap(before: str, after: str) -> int:
    """Return how much of the beginning of `after` is the end of `before`: the oldest output was cut off meanwhile."""
    for size in range(min(len(before), len(after)), 0, -1):
        if after.startswith(before[-size:]):
            return size
    return 0


class Stacks:
    """See the module head. `labels` returns the labels of a message by its number, `reply` receives each answer."""

    def __init__(
        self, roster: Roster, labels: Callable[[int], dict[str, str]], reply: Callable[[StackAnswer], None]
    ) -> None:
        self._roster = roster
        self._labels = labels
        self._reply = reply

    def ask(self, asked: AskStack) -> None:
        """Ask a Consumer, and answer once it has written."""
        lane = lane_of(self._roster, asked.slot, asked.pid)
        if lane is None:
            why, unknown = why_none(self._roster, asked.slot, asked.pid)
            self._reply(StackAnswer(asked.number, refused=why, unknown=unknown))
            return
        self.take(lane, lambda stack: self._reply(self._answer(asked, lane, stack)))

    def take(self, lane: Lane, then: Callable[[str], None]) -> None:
        """Call `then` with the stacks of a Consumer, once it has written them; "": it has written none."""
        watch = StackWatch(lane.output_tail, time.monotonic())
        lane.ask_stack()
        self._look(lane, watch, then)

    def in_hand(self, lane: Lane) -> dict[int, str]:
        """Return the messages that a Consumer works on, by their numbers in the ledger: their ids."""
        return {seq: str(self._labels(seq).get("message_id", "")) for seq in _working(lane) if seq}

    def running(self, lane: Lane) -> list[int]:
        """Return those of them that may be charged with a crash: the others wait for a shared object."""
        return [seq for seq, began in _working(lane).items() if seq and began]

    def _look(self, lane: Lane, watch: StackWatch, then: Callable[[str], None]) -> None:
        stack = watch.look(lane.output_tail, time.monotonic())
        if stack is None and lane.state != "dead":
            asyncio.get_running_loop().call_later(LOOK, self._look, lane, watch, then)
        else:
            then(stack or "")

    def _answer(self, asked: AskStack, lane: Lane, stack: str) -> StackAnswer:
        if not stack:
            why = "it ended before it reported its stack" if lane.state == "dead" else NONE
            return StackAnswer(asked.number, refused=f"Consumer {asked.slot} (pid {lane.pid}): {why}")
        now = time.monotonic()
        seq, since = min(_working(lane).items(), key=lambda each: each[1] or now, default=(0, 0.0))
        name = str(self._labels(seq).get("message_id", "")) if seq else ""
        if CRASH not in stack and lane.crash:  # so many messages that it was cut off
            stack = f"{lane.crash}\n...\n{stack}"
        stack = stack.replace(f"{lane.folders[0]}/", f"{lane.folders[-1]}/")  # not those of the copy
        return StackAnswer(asked.number, stack, lane.slot, lane.pid, name, now - since if since else 0.0)


def _working(lane: Lane) -> dict[int, float]:
    return dict([lane.in_hand()]) if lane.seats is None else lane.seats.working()


def lane_of(roster: Roster, slot: int, pid: int = 0) -> Lane | None:
    """Return the lane of a slot's Consumer.

    While one replaces another, that is the one with this pid, or without a pid the one that gets messages or has one.
    """
    found = sorted((lane for lane in roster.lanes.values() if lane.slot == slot), key=lambda lane: lane.number)
    if pid:
        return next((lane for lane in found if lane.pid == pid and lane.state != "dead"), None)
    place = meant([roster.state_of(lane) for lane in found])
    return None if place is None else found[place]


def why_none(roster: Roster, slot: int, pid: int) -> tuple[str, bool]:
    """Return a sentence on why `lane_of` finds no Consumer, and whether that is because the slot has none."""
    living = [lane for lane in roster.lanes.values() if lane.state != "dead"]
    pids = [lane.pid for lane in living if lane.slot == slot]
    if not pids:
        slots = sorted({lane.slot for lane in living})
        return f"there is no Consumer {slot}; known: {', '.join(map(str, slots)) or 'none'}", True
    others = [lane.slot for lane in living if lane.pid == pid]
    if others:
        return f"pid {pid} is Consumer {others[0]}, not Consumer {slot}: nothing is done to it", False
    there = " and ".join(map(str, pids))
    return f"Consumer {slot} is another process by now (pid {there}, not {pid}): nothing is done to it", False
