"""Since when each stage has had its present answer to "Why is nothing happening?".

Written by the main thread about once a second, read by the others: an entry is replaced as a whole, so no lock is
needed.
"""


class WhySince:
    """See the module head."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}  # the code of the last answer, and when it came (wall clock)

    def note(self, stage: str, code: str, wall: float) -> None:
        """Record the present code."""
        known = self._known.get(stage)
        if known is None or known[0] != code:
            self._known[stage] = code, wall

    def since(self, stage: str, code: str) -> float | None:
        """Return since when a stage has had this code; None: that is not known."""
        known = self._known.get(stage)
        return known[1] if known is not None and known[0] == code else None
