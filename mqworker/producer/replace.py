"""Replacing one Consumer by a new one, for an operator who asks.

Lives in the Producer, on its loop. Receives an AskReplace, answers with a ReplaceAnswer; the fleet starts the new one.
When a Consumer is killed, its message is charged as with a crash, because that may be why it was stuck: otherwise a
message that gets each Consumer stuck would go round for ever. It is asked for its stacks first, which are then in the
evidence; that takes at most a second. The caller may say which process it means, of the two that a slot has while one
replaces another, and which message it has seen: if that process has ended, or has another message in hand by then,
nothing is done, so that no message is charged for the one before it. Not every message has an id, and a
Consumer may have had none in hand: the number in the ledger tells these apart, too. The answer says what a killed one
had in hand: one that ran is charged, of several the one at fault (blame.py).
"""

import time
from collections.abc import Callable, Mapping

from mqworker.ipc.inspection import AskReplace, ReplaceAnswer
from mqworker.producer.fleet import Fleet
from mqworker.producer.lane import Lane
from mqworker.producer.stacks import Stacks, lane_of, why_none

REASON = "asked"  # why it ends, as ends are counted
KILLED = "an operator replaced it"


def replace(fleet: Fleet, stacks: Stacks, asked: AskReplace, reply: Callable[[ReplaceAnswer], None]) -> None:
    """Let a Consumer finish what it has and leave, or kill it now; a new one takes its slot."""
    lane = lane_of(fleet.roster, asked.slot, asked.pid)
    if lane is None:
        why, unknown = why_none(fleet.roster, asked.slot, asked.pid)
        reply(ReplaceAnswer(asked.number, why, unknown=unknown))
    elif lane.state == "starting" and not asked.now:
        verb = f" (`mqworker replace {asked.slot} --now`)" if lane is lane_of(fleet.roster, asked.slot) else ""
        reply(ReplaceAnswer(asked.number, f"Consumer {asked.slot} is still being set up; it can be killed{verb}"))
    elif why := changed(asked, stacks.in_hand(lane)):
        reply(ReplaceAnswer(asked.number, why))
    elif asked.now:
        if not asked.message_id and asked.seq is None:
            lane.replace_reason = lane.replace_reason or REASON
        stacks.take(lane, lambda _stack: reply(_kill(stacks, asked, lane)))
    else:
        lane.replace_reason = lane.replace_reason or REASON
        if not fleet.roster.at_work(lane):
            fleet.retire(lane)  # staffing would keep it, idle, until the change of code is over
        fleet.reconcile(time.monotonic())
        fleet.idled(lane)
        reply(ReplaceAnswer(asked.number, pid=lane.pid))


def changed(asked: AskReplace, in_hand: Mapping[int, str]) -> str:
    """Return why a Consumer has not in hand what whoever asks has seen, if he has said; ids of messages by seq."""
    other = asked.message_id and asked.message_id not in in_hand.values()
    if other or (asked.seq and asked.seq not in in_hand):
        name = f"message {asked.message_id}" if asked.message_id else "the message that was seen"
        what = f"{name} is no longer in hand in Consumer {asked.slot}"
    elif asked.seq == 0 and in_hand:
        what = f"Consumer {asked.slot} has begun a message since it was seen without one"
    else:
        return ""
    there = ", ".join(each or "one without an id" for each in in_hand.values()) or "none"
    return f"{what} (it has {there}): nothing is done to it"


def _kill(stacks: Stacks, asked: AskReplace, lane: Lane) -> ReplaceAnswer:
    in_hand = {} if lane.state == "dead" else stacks.in_hand(lane)
    if why := changed(asked, in_hand):
        return ReplaceAnswer(asked.number, why)
    running = [seq for seq in stacks.running(lane) if seq in in_hand]
    lane.replace_reason = lane.replace_reason or REASON
    lane.kill(KILLED)
    only = in_hand[running[0]] if len(running) == 1 else ""
    return ReplaceAnswer(asked.number, pid=lane.pid, in_hand=len(in_hand), running=len(running), message_id=only)
