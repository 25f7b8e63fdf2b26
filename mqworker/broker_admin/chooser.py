"""Chooses dead letters by id and reason, the oldest first, until a limit is reached. Pure; used by the broker admin."""

from mqworker.broker_admin import dead_letters


class Chooser:
    """See the module head; without ids or a reason, all are chosen."""

    def __init__(self, ids: list[str] | None, reason: str, limit: int) -> None:
        self.left = limit
        self._ids = None if ids is None else frozenset(ids)
        self._reason = reason

    def chosen(self, properties: bytes, body: bytes) -> bool:
        """Return whether this letter is chosen."""
        if self.left <= 0 or (self._ids is not None and dead_letters.letter_id(properties, body) not in self._ids):
            return False
        fits = not self._reason or dead_letters.reason(properties) == self._reason
        self.left -= fits
        return fits

    def takes(self, letter: str, reason: str) -> bool:
        """Return whether a letter with this id and reason is chosen."""
        fits = self.left > 0 and (self._ids is None or letter in self._ids) and self._reason in ("", reason)
        self.left -= fits
        return fits
