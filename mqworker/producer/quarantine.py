"""When a message that may have killed the whole tree may run, and what may begin beside it.

Pure: facts and time in, a decision out; used by dispatch. Such a message, a suspect, is isolated by a *window in which
nothing else begins*. (To wait for an empty tree could take hours, because of long messages.) The suspect begins once
every message in hand has run for the length of the window, and others begin again once the suspect has run that long.
So if the tree dies within the window, no other message had just begun; and one suspect delays the stage by two windows
at most.
"""

from collections.abc import Sequence
from enum import Enum


class May(Enum):
    """What may begin now."""

    OTHERS = 0
    SUSPECT = 1  # the one with the shortest window
    NOBODY = 2


def may_begin(now: float, in_hand: Sequence[float], waiting: float | None) -> May:
    """Decide from when each message in hand began (monotonic), and the shortest window among the waiting suspects.

    A time of 0 stands for a Consumer that has a chunk but is working on none of its messages.
    """
    if waiting is None:
        return May.OTHERS
    aged = all(began and now - began >= waiting for began in in_hand)
    return May.SUSPECT if aged else May.NOBODY


def outlived(now: float, began: float, window: float) -> bool:
    """Whether the isolated message has run for its window; `began` is 0 while it has not begun."""
    return bool(began) and now - began >= window
