"""What the streams of the Feed share: the events of a second, and what has changed since when.

Used by the server's threads under a lock; one instance for the whole server. Holds a few seconds of encoded events, and
of what changes now and then (operations, records of the audit, groups of failures) the newest state of each with the
second in which it came: so a client that was away is sent what it has not seen, and no more.
"""

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import msgspec

SECONDS = 3  # latest seconds whose events are kept, for streams that come late


class LatestStates:
    """The newest state of at most `most` things, and in which second each has changed last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._noted = -1  # the last second in which things were taken in
        self._things: dict[Hashable, tuple[int, msgspec.Raw]] = {}  # those that changed last are last

    def note(self, n: int, things: Iterable[tuple[Hashable, Any]]) -> None:
        """Add things under their names; once a second, or a client that was sent this second would miss later ones."""
        if n <= self._noted:
            return
        self._noted = n
        for name, thing in things:
            new = msgspec.Raw(msgspec.json.encode(thing))
            known = self._things.pop(name, None)
            self._things[name] = known if known is not None and known[1] == new else (n, new)
        while len(self._things) > self._most:
            del self._things[next(iter(self._things))]

    @property
    def newest(self) -> int:
        """Return the number of the newest thing, where things are numbered; 0: there is none."""
        return max((name for name in self._things if isinstance(name, int)), default=0)

    def since(self, n: int) -> list[msgspec.Raw]:
        """Return what has changed after this second."""
        return [thing for changed, thing in self._things.values() if changed > n]


class FeedState:
    """See the module head."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._events: dict[int, dict[Hashable, bytes]] = {}  # of the last seconds
        self._changes: dict[str, LatestStates] = {}

    def event(self, n: int, name: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return the event of a second; the first that asks makes it, under the lock."""
        with self._lock:
            events = self._events.get(n)
            if events is None:
                events = self._events[n] = {}
                for old in [second for second in self._events if second <= n - SECONDS]:
                    del self._events[old]
            if name not in events:
                events[name] = make()
            return events[name]

    def changed(
        self, topic: str, n: int, since: int, things: Iterable[tuple[Hashable, Any]], most: int
    ) -> list[msgspec.Raw]:
        """Note the things of a topic in second `n`, and return those that changed after second `since`."""
        with self._lock:
            changes = self._changes.setdefault(topic, LatestStates(most))
            changes.note(n, things)
            return changes.since(since)

    def newest(self, topic: str) -> int:
        """Return the number of the newest thing of a topic; 0: there is none."""
        with self._lock:
            return self._changes[topic].newest if topic in self._changes else 0
