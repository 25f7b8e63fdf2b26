"""Which of two Consumers in one slot is meant by the slot's number: while one replaces another, both have it.

Pure; the Producer and the command line use it, so that what the one has seen is what the other one acts on.
"""

from collections.abc import Sequence

ORDER = ("busy", "idle", "spare", "starting", "leaving")  # states: who gets messages or has one comes first


def meant(states: Sequence[str]) -> int | None:
    """Return which of a slot's Consumers is meant, by its place; `states`: of the oldest first. None: there is none."""
    known = [place for place, state in enumerate(states) if state in ORDER]
    return min(known, key=lambda place: (ORDER.index(states[place]), -place), default=None)
