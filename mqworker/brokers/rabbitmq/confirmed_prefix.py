"""Which of a source's records may be stored, and when: never one that passes an item which is not confirmed.

Pure: what is sent, confirmed and stored, and time, in; the record to store now out. Used by the Outlet.
"""

from collections import deque

EVERY = 500  # items that are confirmed beyond the stored record before the next is stored ...
AGE = 1.0  # ... or seconds; and at once when nothing is unconfirmed


class ConfirmedPrefix:
    """See the module head. Publications have numbers without gaps, from 1; records too."""

    def __init__(self) -> None:
        self.sent = 0  # the number of the last publication
        self.confirmed = 0  # up to this one all are
        self._beyond: set[int] = set()  # confirmed ones that come later
        self._records: deque[tuple[int, int, bytes]] = deque()  # publication, number, content; not stored yet
        self._made = 0  # the number of the last record
        self._storing: tuple[int, int, bytes] | None = None  # the one on its way; number 0: it was stored before
        self._last: bytes | None = None  # what is stored
        self._stored = 0  # the publication whose record is stored
        self._stored_at = 0.0

    def send(self, record: bytes | None) -> int:
        """Note a publication, with the record that may be stored once it is confirmed; returns its number."""
        self.sent += 1
        if record is not None:
            self.mark(record)
        return self.sent

    def mark(self, record: bytes) -> None:
        """Note a record that may be stored once all publications so far are confirmed, instead of one before it."""
        self._made += 1
        if self._records and self._records[-1][0] == self.sent:
            self._records.pop()
        self._records.append((self.sent, self._made, record))

    def confirm(self, number: int) -> None:
        """Note that a publication is confirmed."""
        self._beyond.add(number)
        while self.confirmed + 1 in self._beyond:
            self.confirmed += 1
            self._beyond.remove(self.confirmed)

    def due(self, now: float) -> bytes | None:
        """Return the record to store now, if there is one: the newest; counts as being stored from then on."""
        if self._storing is not None or not self._records or self._records[0][0] > self.confirmed:
            return None
        last = self.confirmed == self.sent
        if not last and now - self._stored_at < AGE and self.confirmed - self._stored < EVERY:
            return None
        while self._records and self._records[0][0] <= self.confirmed:
            at, number, record = self._records.popleft()
        self._storing = at, number, record
        return record

    def found(self, record: bytes) -> None:
        """Note what an earlier life has stored."""
        self._last = record

    def again(self) -> bytes | None:
        """Return what is stored, to store it again; None if there is nothing, or a newer one is on its way."""
        if self._storing is not None or self._last is None:
            return None
        self._storing = self._stored, 0, self._last
        return self._last

    def stored(self, now: float) -> int:
        """Note that the record on its way is stored; returns its number, 0 if it was stored before."""
        assert self._storing is not None
        self._stored, number, self._last = self._storing
        self._storing, self._stored_at = None, now
        return number
