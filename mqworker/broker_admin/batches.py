"""How far a move of dead letters came before it failed, for the caller's error. Pure; used by the broker admin.

Follows the move as `brokers.base.Moving`. Letters are published, confirmed, and only then acked: if that is
interrupted, the letters of the last batch may be in both queues, and those of the batch before whose acks were lost.
"""

from mqworker.broker_admin.bulk import TOGETHER


class Batches:
    """See the module head."""

    def __init__(self) -> None:
        self._moved = self._begun = 0

    def begins(self, count: int) -> bool:
        """See `brokers.base.Moving`."""
        self._begun = count
        return True

    def moved(self, count: int) -> None:
        """See `brokers.base.Moving`."""
        self._moved += count
        self._begun = 0

    def suffix(self, published: bool, *, refused: bool = False) -> str:
        """Return what is added to the sentence about a failure; `published`: the letters went to another queue.

        `refused`: the broker has reported which ones it refuses, and has the acks of all others.
        """
        if refused or not published:
            return f"; {self._moved} were {'moved' if published else 'removed'}" if self._moved else ""
        unsure = min(2 * TOGETHER, self._moved + self._begun)
        return f"; {self._moved} were moved, up to {unsure} may be in both queues" if unsure else ""
