"""When a message that may have killed the whole tree runs, and what may begin beside it.

Pure: facts and time in, a decision out; used by dispatch. Such a message, a suspect, is isolated by a *window in which
nothing else begins*, not by an empty tree, which long messages would keep busy for hours. It begins when everything in
hand has been in hand for the length of its window, and others begin again once it has run that long. So whatever dies
within the window died beside nothing that had just begun, and one suspect holds the stage up for two windows at most.
"""

from collections.abc import Sequence
from enum import Enum


class May(Enum):
    """What may begin now."""

    OTHERS = 0
    SUSPECT = 1  # the one with the shortest window
    NOBODY = 2


def may_begin(now: float, in_hand: Sequence[float], waiting: float | None) -> May:
    """Decide from when each message in hand began (monotonic), and the shortest window of the suspects that wait.

    A time of 0 stands for a Consumer that has a chunk and works on no message of it just now.
    """
    if waiting is None:
        return May.OTHERS
    aged = all(began and now - began >= waiting for began in in_hand)
    return May.SUSPECT if aged else May.NOBODY


def outlived(now: float, began: float, window: float) -> bool:
    """Whether the isolated message has run for its window; `began` is 0 while it has not begun."""
    return bool(began) and now - began >= window
