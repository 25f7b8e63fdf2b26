"""How many items a source may be ahead of its stored position, which is how many may repeat after a death.

Pure; counts items and records by their numbers. An item without a position makes no record. So a source that has no
positions, or only now and then, does not wait for a record that never comes: its limit counts unconfirmed items
instead.
"""

from collections import deque

MOST = 1000


class Ahead:
    """See the module head."""

    def __init__(self) -> None:
        self._confirmed = 0
        self._open: deque[tuple[int, int]] = deque()  # for each record that is not stored: its number, and its item's

    def sent(self, item: int, record: int | None) -> None:
        """Note an item, and the record that came with it."""
        if record is not None:
            if self._open and self._open[-1][1] == item:
                self._open.pop()  # this record replaces it
            self._open.append((record, item))

    def confirmed(self, item: int) -> None:
        """Note that all items up to this one are confirmed."""
        self._confirmed = item

    def stored(self, record: int) -> None:
        """Note that the records up to this one are stored."""
        while self._open and self._open[0][0] <= record:
            self._open.popleft()

    @property
    def limit(self) -> int:
        """The number of the last item that may be made now."""
        return min(self._confirmed, self._open[0][1] - 1 if self._open else self._confirmed) + MOST

    @property
    def all_stored(self) -> bool:
        """Whether every record is stored."""
        return not self._open
