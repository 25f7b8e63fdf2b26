"""Replacing one Consumer by a new one, for an operator who asks.

Lives in the Producer, on its loop. Receives an AskReplace, answers with a ReplaceAnswer; the fleet starts the new one.
When a Consumer is killed, its message is charged as with a crash, because that may be why it was stuck: otherwise a
message that gets each Consumer stuck would go round for ever. It is asked for its stacks first, which are then in the
evidence; that takes at most a second.
"""

import time

from mqworker.ipc.inspection import AskReplace, ReplaceAnswer
from mqworker.producer.fleet import Fleet
from mqworker.producer.stacks import Stacks, lane_of, no_such

REASON = "asked"  # why it ends, as ends are counted
KILLED = "an operator replaced it"


def replace(fleet: Fleet, stacks: Stacks, asked: AskReplace) -> ReplaceAnswer:
    """Let a Consumer finish what it has and leave, or kill it now; a new one takes its slot."""
    lane = lane_of(fleet.roster, asked.slot)
    if lane is None:
        return ReplaceAnswer(asked.number, no_such(fleet.roster, asked.slot), unknown=True)
    if lane.state == "starting" and not asked.now:
        why = f"Consumer {asked.slot} is still being set up; it can be killed (`mqworker replace {asked.slot} --now`)"
        return ReplaceAnswer(asked.number, why)
    lane.replace_reason = lane.replace_reason or REASON
    if asked.now:
        stacks.take(lane, lambda _stack: lane.kill(KILLED))
    else:
        fleet.reconcile(time.monotonic())
        fleet.idled(lane)
    return ReplaceAnswer(asked.number, pid=lane.pid)
