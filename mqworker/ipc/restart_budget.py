"""Restart budgets: how soon something that died is restarted, and when to give up.

Pure: times (seconds of any monotonic clock) are arguments. Used by a Producer for each Consumer slot and by the Service
for each Producer. A life that achieved something costs nothing: its successor starts at once. After fruitless lives in
a row, each start waits longer.
"""

from dataclasses import dataclass

FIRST = 0.5  # seconds before the third start in a row; then doubled ...
MOST = 60.0  # ... up to this
LOOP = 5  # fruitless lives in a row that make a crash loop


@dataclass
class Budget:
    """The restarts of one place in the tree; `limit` fruitless lives in a row exhaust it (0: never)."""

    limit: int = 0
    fruitless: int = 0
    due: float = 0.0  # not to be started before this

    def died(self, now: float, *, fruitful: bool) -> None:
        """Count a death."""
        if fruitful:
            self.fruitless = 0
            self.due = now
            return
        self.fruitless += 1
        self.due = now + (0.0 if self.fruitless == 1 else min(MOST, FIRST * 2.0 ** min(self.fruitless - 2, 10)))

    def prospered(self) -> None:
        """Reset the count: the current life has achieved something."""
        self.fruitless = 0

    def may_start(self, now: float) -> bool:
        """Return whether a start is due."""
        return now >= self.due

    @property
    def crash_loop(self) -> bool:
        """Whether it keeps dying without having achieved anything."""
        return self.fruitless >= LOOP

    @property
    def exhausted(self) -> bool:
        """Whether to give up."""
        return bool(self.limit) and self.fruitless >= self.limit
