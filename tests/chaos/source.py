"""Where a round's inputs come from: shared by the publisher's thread and the campaign's.

One lock guards it. `tried` holds every message that was ever issued, `confirmed` the ids that the broker confirmed.
"""

import threading
import time
from collections.abc import Callable

from tests.chaos.load import Message


class Source:
    """Issues messages, at most `most`; `backlog` is how many should wait in the input queue."""

    def __init__(self, make: Callable[[int], Message], most: int, backlog: int) -> None:
        self.backlog = backlog
        self.tried: dict[str, Message] = {}
        self._confirmed: dict[str, float] = {}  # id -> when
        self._make, self._most = make, most
        self._lock = threading.Lock()

    def next(self) -> Message | None:
        """Return the next message to publish; None when there are no more."""
        with self._lock:
            if len(self.tried) >= self._most:
                return None
            message = self._make(len(self.tried))
            self.tried[message.id] = message
            return message

    def confirmed(self, name: str) -> None:
        """Record that the broker has it."""
        with self._lock:
            self._confirmed[name] = time.monotonic()

    @property
    def safe(self) -> set[str]:
        """Return the ids confirmed so far."""
        with self._lock:
            return set(self._confirmed)

    @property
    def stored(self) -> list[float]:
        """Return when inputs were confirmed, in order."""
        with self._lock:
            return list(self._confirmed.values())

    @property
    def used_up(self) -> bool:
        """Return whether all were issued."""
        with self._lock:
            return len(self.tried) >= self._most
