"""Fixed selections of dead letters: which ones, and how many of each. Pure; used by the broker admin.

A letter is identified by its content, so equal letters have the same id; a selection counts as many of them as it
found. Letters that come later are not in it, unless they are equal to one that is. A selection is forgotten 10 minutes
after its last use, when there are too many, or when the process ends.
"""

import secrets
from collections import Counter
from collections.abc import Iterable

from mqworker.ipc.admin_messages import LetterRow

KEPT = 16
FORGOTTEN = 600.0  # seconds after its last use


class Selection:
    """Some dead letters of a stage; `letters` counts them by id (8 bytes)."""

    def __init__(self, stage: str, rows: Iterable[LetterRow]) -> None:
        self.stage = stage
        self.letters: Counter[bytes] = Counter()
        self.ids: list[str] = []  # of all letters, in the order of the list
        self.oldest: str | None = None
        self.newest: str | None = None
        self.operation = ""  # the operation that was begun with it
        self.kind = ""  # of that operation
        times = []
        for row in rows:
            self.letters[bytes.fromhex(row.id)] += 1
            self.ids.append(row.id)
            if row.failed_at:
                times.append(row.failed_at)
        if times:
            self.oldest, self.newest = min(times), max(times)

    @property
    def count(self) -> int:
        """Return how many letters are selected."""
        return len(self.ids)


class Selections:
    """See the module head; `now` is any clock in seconds."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Selection, float]] = {}  # with the time of the last use, the oldest first

    def add(self, selection: Selection, now: float) -> str:
        """Keep a selection; returns its name."""
        self._forget(now)
        while len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        name = secrets.token_hex(6)
        self._kept[name] = (selection, now)
        return name

    def get(self, name: str, stage: str, now: float) -> Selection | None:
        """Return a selection of a stage; None if it does not exist or has expired."""
        self._forget(now)
        found = self._kept.get(name)
        if found is None or found[0].stage != stage:
            return None
        del self._kept[name]
        self._kept[name] = (found[0], now)
        return found[0]

    def _forget(self, now: float) -> None:
        for name, (_, used) in list(self._kept.items()):
            if now - used >= FORGOTTEN:
                del self._kept[name]
