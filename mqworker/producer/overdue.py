"""Which messages have exceeded the hard limit in a Consumer that works on several, and what becomes of the Consumer.

Pure: facts and time in, a decision out; used by limits. The time of a message is its own: while another one holds the
loop it stands still (one that holds it for a minute makes itself overdue and nobody else), and while nothing in its
Consumer makes progress, which shows as a missing pulse, no clock runs. Where there is a loop, the loop writes the
pulse: a callback, or a task that a finished message has left behind, may hold it too. A Consumer in which nothing makes
progress for the length of the limit is killed without charging a message. What the Consumer itself knows of such times
it has added to when the message began.

A Consumer with an overdue message is *closed*: it gets nothing more, a successor starts, and its other messages have
one more hard limit to finish. Then it is killed; at once where nothing else is in hand, or the overdue one holds the
loop. If the overdue message ends by itself before, its outcome counts, and the Consumer leaves when it is empty.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

HELD = 0.05  # seconds from which on a step of a task counts as holding the loop: shorter ones delay nobody
PULSE = 1.0  # seconds without a pulse after which a Consumer counts as standing still


class Do(Enum):
    """What to do with the Consumer."""

    NOTHING = 0
    CLOSE = 1
    KILL = 2  # for the overdue messages
    KILL_STILL = 3  # nothing in it makes progress


class Moment(NamedTuple):
    """One look at a Consumer."""

    began: Mapping[int, float]  # of each message in hand; 0: it waits for a shared object
    running: int = 0  # the message whose task has the loop; 0: none
    running_since: float = 0.0
    pulse: float = 0.0  # the last one
    closed_at: float = 0.0  # 0: it is open
    patience: float = 0.0  # seconds that the Consumer has to end a message itself


class Judged(NamedTuple):
    """What to do, and for which messages."""

    do: Do
    overdue: frozenset[int] = frozenset()


def look(moment: Moment, hard_limit: float, now: float) -> Judged:
    """Decide what to do about overdue messages; a `hard_limit` of 0 means no limit."""
    if not hard_limit or not moment.began:
        return Judged(Do.NOTHING)
    most = hard_limit + moment.patience
    late = frozenset(seq for seq, age in ages(moment, now).items() if age > most)
    holds = moment.running in late and now - moment.running_since > HELD
    if late and (holds or len(late) == len(moment.began) or _closed_for(moment, now) > hard_limit):
        return Judged(Do.KILL, late)
    if now - _gets_on(moment, now) > max(most, PULSE):
        return Judged(Do.KILL_STILL)
    return Judged(Do.CLOSE if late and not moment.closed_at else Do.NOTHING, late)


def ages(moment: Moment, now: float) -> dict[int, float]:
    """Return for how many seconds of its own each message has run."""
    held, gets_on = _held(moment, now), _gets_on(moment, now)
    until = moment.running_since if held else now
    if now - gets_on > PULSE:
        until = min(until, gets_on)
    return {
        seq: max(0.0, (now if held and seq == moment.running else until) - began) if began else 0.0
        for seq, began in moment.began.items()
    }


def still(moment: Moment, now: float) -> tuple[float, int]:
    """Return since when nothing else in the Consumer makes progress, and the message that holds its loop.

    (0, 0): it makes progress, or has made none for less than PULSE. Without a message it is a callback, or native code
    that holds the interpreter, or the process is stopped.
    """
    since = moment.running_since if _held(moment, now) else _gets_on(moment, now)
    if not moment.began or not since or now - since <= PULSE:
        return 0.0, 0
    return since, moment.running if moment.running in moment.began else 0


def _held(moment: Moment, now: float) -> bool:
    """Return whether a task holds the loop, of whichever message."""
    return bool(moment.running) and now - moment.running_since > HELD


def _gets_on(moment: Moment, now: float) -> float:
    """Return when the Consumer last got on: when it wrote its pulse, began a step, or began to have messages."""
    first = min((began for began in moment.began.values() if began), default=0.0)
    pulse = 0.0 if _held(moment, now) else moment.pulse
    return max(pulse, moment.running_since, first)


def _closed_for(moment: Moment, now: float) -> float:
    return now - moment.closed_at if moment.closed_at else 0.0
