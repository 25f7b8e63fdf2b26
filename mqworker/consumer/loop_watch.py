"""When to log that something holds the loop: soon, then rarely, and not again and again for the same place.

Pure; used by the pump, which sees in the in-hand register which message has the loop.
"""

AFTER = (0.5, 5.0, 50.0)  # seconds of one step after which it is logged
EVERY = 60.0  # seconds between two lines about the same place in the code
PLACES = 1000  # places that are remembered
NOBODY = -1  # instead of a message: a callback, or a task without a message


class LoopWatch:
    """See the module head."""

    def __init__(self) -> None:
        self._step = (0, 0.0)
        self._reported = 0  # how many of AFTER have been reached in this step
        self._places: dict[
            str, tuple[float, int]
        ] = {}  # when a place was last logged, and how often it was held back since

    def is_due(self, seq: int, since: float, now: float) -> bool:
        """Return whether to log the step that a message began at `since`; seq 0: there is no step.

        NOBODY counts only when it is seen a second time: between two steps, the loop belongs to no message for a
        moment.
        """
        if (seq, since) != self._step:
            self._step, self._reported = (seq, since), 0
            if seq == NOBODY:
                return False
        reached = sum(now - since >= each for each in AFTER) if seq else 0
        due, self._reported = reached > self._reported, max(reached, self._reported)
        return due

    def count(self, place: str, now: float) -> int | None:
        """Return how often this place was held back since it was last logged; None if it is held back now."""
        last, held = self._places.get(place, (-EVERY, 0))
        if now - last < EVERY and self._reported < len(AFTER):
            self._places[place] = last, held + 1
            return None
        if len(self._places) >= PLACES:
            self._places.clear()
        self._places[place] = now, 0
        return held
