"""The fault table: the failures of this stage by reason, error type and place in the code, counted.

Pure; lives in the Producer, noted by settlement, reported to the Service at most once a second. Texts of errors do not
split a fault: ids and numbers in them would make each failure its own. Bounded: what is of a further kind when the
table is full is only counted.
"""

from mqworker.ipc.consumer_messages import Failure
from mqworker.ipc.inspection import TEXT, FaultCount
from mqworker.ipc.json_safe import text

MOST = 200  # faults
EXAMPLES = 3  # ids of messages of each

Key = tuple[str, str, str]  # reason, error type, place


class _Row:
    __slots__ = ("dead", "error", "examples", "first", "last", "retried")

    def __init__(self, now: float) -> None:
        self.first = self.last = now
        self.retried = self.dead = 0
        self.error = ""
        self.examples: list[str] = []


class FaultTable:
    """See the module head."""

    def __init__(self) -> None:
        self.other = 0  # failures of kinds beyond those in the table
        self._rows: dict[Key, _Row] = {}
        self._changed: set[Key] = set()
        self._other_reported = 0

    def __len__(self) -> int:
        """How many faults there are."""
        return len(self._rows)

    def note(self, failure: Failure, outcome: str, message_id: str, now: float) -> bool:
        """Count a failure; returns whether it is of a kind that has not occurred before. `now`: wall clock."""
        key = failure.reason, text(failure.type), failure.place
        row = self._rows.get(key)
        new = row is None
        if row is None:
            if len(self._rows) >= MOST:
                self.other += 1
                return False
            row = self._rows[key] = _Row(now)
        if outcome == "retried":
            row.retried += 1
        else:
            row.dead += 1
        row.last = now
        row.error = failure.message
        if message_id not in row.examples:
            row.examples = [message_id, *row.examples[: EXAMPLES - 1]]
        self._changed.add(key)
        return new

    def news(self) -> tuple[FaultCount, ...] | None:
        """Return the faults that have changed since the last call; None: nothing has."""
        if not self._changed and self.other == self._other_reported:
            return None
        changed = tuple(self._count_of(key) for key in self._changed)
        self._changed.clear()
        self._other_reported = self.other
        return changed

    def _count_of(self, key: Key) -> FaultCount:
        row = self._rows[key]
        return FaultCount(
            *(*key, row.retried, row.dead, row.first, row.last, text(row.error[:TEXT])),
            tuple(row.examples),
        )
