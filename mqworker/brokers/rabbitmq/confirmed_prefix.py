"""Which of a source's records may be stored, and when: never one that follows an unconfirmed item.

Pure: takes what is sent, confirmed and stored, and the time; returns the record to store now. Used by the Outlet.
"""

from collections import deque

EVERY = 500  # items confirmed after the stored record before the next record is stored ...
AGE = 1.0  # ... or seconds; and at once when nothing is unconfirmed


class ConfirmedPrefix:
    """See the module head. Publications have numbers without gaps, from 1; records too."""

    def __init__(self) -> None:
        self.sent = 0  # the number of the last publication
        self.confirmed = 0  # all publications up to this one are confirmed
        self._beyond: set[int] = set()  # numbers of later ones that are confirmed
        self._records: deque[tuple[int, int, bytes]] = deque()  # publication, number, content; not stored yet
        self._made = 0  # the number of the last record
        self._storing: tuple[int, int, bytes] | None = None  # the record being stored; number 0: it was stored before
        self._last: bytes | None = None  # the stored record
        self._stored = 0  # the publication to which the stored record belongs
        self._stored_at = 0.0

    def send(self, record: bytes | None) -> int:
        """Note a publication, with the record that may be stored once it is confirmed; returns its number."""
        self.sent += 1
        if record is not None:
            self.mark(record)
        return self.sent

    def mark(self, record: bytes) -> None:
        """Note a record that may be stored, in place of an earlier one, once all publications so far are confirmed."""
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
        """Return the newest record that may be stored now, if any; from then on it counts as being stored."""
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
        """Note the record that an earlier life has stored."""
        self._last = record

    def again(self) -> bytes | None:
        """Return the stored record, to store it again; None if there is none, or a newer one is being stored."""
        if self._storing is not None or self._last is None:
            return None
        self._storing = self._stored, 0, self._last
        return self._last

    def stored(self, now: float) -> int:
        """Note that the record being stored is stored now; returns its number, 0 if it was stored before."""
        assert self._storing is not None
        self._stored, number, self._last = self._storing
        self._storing, self._stored_at = None, now
        return number
