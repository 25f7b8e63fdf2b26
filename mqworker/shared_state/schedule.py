"""When the process of a shared object reports, syncs its journal, ticks and makes a snapshot.

Pure: takes times and sizes, returns what is due.
"""

from typing import Final

REPORT: Final = 1.0  # seconds
SYNC: Final = 1.0
FIRST_SNAPSHOT: Final = 300.0  # seconds after the start: an object that cannot be pickled is found early
NEXT_SNAPSHOT: Final = 3600.0  # seconds after the last one, if anything is new: bounds the replay
RETRY_SNAPSHOT: Final = 300.0  # seconds after a snapshot has failed
SHARE_OF_REPORTS: Final = 20  # a slow report (`describe`) comes again after this many times its duration


class Schedule:
    """Times are monotonic. A snapshot is due after `snapshot_bytes` of journal, or after some time."""

    def __init__(self, now: float, tick_seconds: float, snapshot_bytes: int) -> None:
        self._tick_seconds = tick_seconds
        self._snapshot_bytes = snapshot_bytes
        self._report, self._sync, self._tick = now, now + SYNC, now + tick_seconds
        self._snapshot = now  # not before
        self._old = now + FIRST_SNAPSHOT
        self._writing = False

    def due(self, now: float, journal_bytes: int) -> list[str]:
        """Return which of `tick`, `sync`, `snapshot` and `report` are due; each is returned once."""
        enough = journal_bytes > self._snapshot_bytes or (journal_bytes > 0 and now >= self._old)
        wants_snapshot = enough and now >= self._snapshot and not self._writing
        if now < min(self._report, self._sync, self._tick) and not wants_snapshot:
            return []  # as nearly always
        found = []
        if now >= self._tick:
            self._tick = now + self._tick_seconds
            found.append("tick")
        if now >= self._sync:
            self._sync = now + SYNC
            found.append("sync")
        if wants_snapshot:
            self._writing = True
            found.append("snapshot")
        if now >= self._report:
            self._report = now + REPORT
            found.append("report")
        return found

    def wait(self, now: float) -> float:
        """Return how many seconds there are until something is due."""
        return max(0.0, min(self._report, self._sync, self._tick) - now)

    def writing(self) -> None:
        """Note that a snapshot is being written."""
        self._writing = True

    def written(self, now: float, *, failed: bool) -> None:
        """Note that the snapshot is finished, or has failed."""
        self._writing = False
        self._snapshot = now + RETRY_SNAPSHOT if failed else now
        self._old = now + NEXT_SNAPSHOT

    def reported(self, began: float, ended: float) -> None:
        """Note how long a report took."""
        self._report = max(self._report, ended + SHARE_OF_REPORTS * (ended - began) - REPORT)
