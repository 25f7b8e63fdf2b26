"""The death of a Consumer: what its Producer knows of it, for the verdict (blame.py), the dead letter and the log.

Used by dispatch on the Producer's loop; reads the lane, its words in the in-hand register and the ledger, and changes
nothing.
"""

import re
import signal
from collections.abc import Mapping

from mqworker.ipc.consumer_messages import Failure
from mqworker.ipc.spawn import Death
from mqworker.producer import evidence
from mqworker.producer.blame import Accused, DeathFacts, Doubt
from mqworker.producer.entry import Entry, Isolation
from mqworker.producer.fleet import NOT_WANTED
from mqworker.producer.lane import Lane
from mqworker.producer.ledger import Ledger
from mqworker.producer.seat_limits import TIME_LIMIT

_THREAD = re.compile(r"Current thread 0x([0-9a-f]+)")


def in_hand(lane: Lane, ledger: Ledger, now: float) -> dict[int, float]:
    """Return for how long each message had run that may be to blame: not one that waited for a shared object."""
    began = dict([lane.in_hand()]) if lane.seats is None else lane.seats.working()
    out = {entry.seq for entry in ledger.assignments.on(lane.number)}
    return {seq: now - since for seq, since in began.items() if since and seq in out}


def death_facts(lane: Lane, death: Death, ages: Mapping[int, float], ledger: Ledger, *, draining: bool) -> DeathFacts:
    """Return what is known about it; `ages` as `in_hand` returns them."""
    entries = [entry for entry in ledger.assignments.on(lane.number) if entry.seq in ages]
    seats = lane.seats
    if seats is None:
        return DeathFacts([Accused(entry.seq, ages[entry.seq]) for entry in entries])
    found = _THREAD.search(lane.crash) if -death.code in evidence.FATAL else None
    return DeathFacts(
        [_accused(entry, ages[entry.seq], seats.words.thread_of(entry.seq)) for entry in entries],
        excused=draining,
        overdue=seats.overdue,
        still=seats.still,
        tasks=seats.kind == "tasks",
        running=seats.words.running,
        loop=seats.words.loop,
        thread=int(found[1], 16) if found else 0,
        killed=death.code == -signal.SIGKILL and not lane.kill_reason,
        no_memory=evidence.oom_kills() > lane.oom_kills,
    )


def failure(seq: int, lane: Lane, death: Death, duration: float) -> Failure:
    """Return why a message has failed that is charged with the death."""
    stack = ""
    if lane.seats is not None:
        stack = lane.seats.stacks.get(seq, "") or (lane.crash if -death.code in evidence.FATAL else "")
    reason = "timeout" if lane.kill_reason.startswith(TIME_LIMIT) else "crash"
    oom = evidence.oom_kills() > lane.oom_kills
    return evidence.describe(
        *(reason, death, lane.kill_reason, lane.output_tail, duration), oom=oom, stack=stack, folders=lane.folders
    )


def exit_reason(lane: Lane, death: Death) -> str:
    """Return under which name such an end is counted."""
    if lane.unfit is not None:
        return "setup"
    if lane.kill_reason == NOT_WANTED:
        return "asked"
    if lane.kill_reason:
        return "timeout" if lane.kill_reason.startswith(TIME_LIMIT) else "killed"
    if death.code < 0:
        return "signal"
    return lane.replace_reason or ("asked" if death.code == 0 and lane.left else "exit")


def _accused(entry: Entry, age: float, thread: int) -> Accused:
    return Accused(entry.seq, age, thread, entry.isolation is not Isolation.NONE, entry.doubt or Doubt())
