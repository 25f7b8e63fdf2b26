"""When to say that something holds the loop: soon, then rarely, and not for the same place over and over.

Pure; used by the pump, which sees who has the loop in the in-hand register.
"""

AFTER = (0.5, 5.0, 50.0)  # seconds of one step
EVERY = 60.0  # seconds between two lines about the same place in the code
PLACES = 1000  # places that are remembered
NOBODY = -1  # in the place of a message: a callback, or a task of no message


class LoopWatch:
    """See the module head."""

    def __init__(self) -> None:
        self._step = (0, 0.0)
        self._reported = 0  # how many of AFTER were reached in this step
        self._places: dict[
            str, tuple[float, int]
        ] = {}  # when one was last named, and how often it would have been since

    def is_due(self, seq: int, since: float, now: float) -> bool:
        """Return whether something is to be said about the step that a message has begun then; seq 0: there is none.

        NOBODY is named when it is seen for a second time: between two steps the loop is nobody's for a moment.
        """
        if (seq, since) != self._step:
            self._step, self._reported = (seq, since), 0
            if seq == NOBODY:
                return False
        reached = sum(now - since >= each for each in AFTER) if seq else 0
        due, self._reported = reached > self._reported, max(reached, self._reported)
        return due

    def count(self, place: str, now: float) -> int | None:
        """Return how often this place was held back since it was last named; None: it is held back now."""
        last, held = self._places.get(place, (-EVERY, 0))
        if now - last < EVERY and self._reported < len(AFTER):
            self._places[place] = last, held + 1
            return None
        if len(self._places) >= PLACES:
            self._places.clear()
        self._places[place] = now, 0
        return held
