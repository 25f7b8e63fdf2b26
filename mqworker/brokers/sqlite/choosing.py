"""Which messages a move in the embedded broker takes: they are read and chosen first, then a transaction moves them.

Runs in the thread of the Admin. Reading needs no lock, so other writers wait only for the transaction, which contains
nothing but the chosen messages. A message that somebody else has taken by then is left alone. Raises what the caller's
`wanted` raises, `Refused`, `BrokerUnavailable` and SQLite's errors; when `read` is called again after an error, it goes
on where it was.
"""

import sqlite3
import time
from typing import NamedTuple

from mqworker.brokers.base import DROP, STOP, BrokerUnavailable, Publication, Wanted
from mqworker.brokers.sqlite import store

TOGETHER = 500  # messages of one transaction
AT_ONCE = 32 << 20  # bytes that are read before others get a turn, and that one transaction stores


class _Chosen(NamedTuple):
    """A message that is to be removed."""

    id: int
    instead: Publication | None


class Choosing:
    """Goes through messages of a queue, and chooses; see the module head."""

    def __init__(self, queue: int, ids: list[int], wanted: Wanted) -> None:
        self._queue = queue
        self._ids = ids
        self._wanted = wanted
        self._next = 0  # index
        self._chosen: list[_Chosen] = []
        self._bytes = 0  # size of the publications
        self._db: sqlite3.Connection | None = None  # the database that the chosen messages were read from

    @property
    def over(self) -> bool:
        """Return whether there are no more messages."""
        return self._next >= len(self._ids)

    def enough(self, room: int) -> bool:
        """Return whether a transaction for at most `room` messages can begin, or nothing more is to come."""
        return self.over or len(self._chosen) >= room or self._bytes >= AT_ONCE

    def read(self, db: sqlite3.Connection, room: int, until: float) -> None:
        """Read and choose messages for a while."""
        if self._chosen and self._db is not db:
            raise BrokerUnavailable("the file was reopened in the meantime")
        self._db = db
        size, last = 0, self._next + TOGETHER
        while not self.enough(room) and self._next < last and size < AT_ONCE:
            if time.monotonic() > until:
                raise BrokerUnavailable("the messages could not be read in time")
            message = self._ids[self._next]
            content = store.content(db, message)
            self._next += 1
            if content is None:  # taken by another process since
                continue
            size += len(content[0]) + len(content[1])
            action = self._wanted(*content)
            if action == STOP:
                self._next = len(self._ids)
            elif isinstance(action, Publication):
                self._chosen.append(_Chosen(message, action))
                self._bytes += len(action.body)
            elif action == DROP:
                self._chosen.append(_Chosen(message, None))

    def take(self) -> "Taking":
        """Return what has been chosen, and begin a new choice."""
        taking = Taking(self._queue, self._chosen, self._db)
        self._chosen, self._bytes = [], 0
        return taking


class Taking:
    """Moves what was chosen."""

    def __init__(self, queue: int, chosen: list[_Chosen], db: sqlite3.Connection | None) -> None:
        self._queue = queue
        self._chosen = chosen
        self._db = db

    def __bool__(self) -> bool:
        """Return whether anything was chosen."""
        return bool(self._chosen)

    def carry_out(self, db: sqlite3.Connection) -> int:
        """Move the chosen messages, within a transaction; returns how many were removed."""
        if db is not self._db:  # in another file the ids are those of other messages
            raise BrokerUnavailable("the file was reopened in the meantime; nothing of this step was done")
        gone = []
        for each in self._chosen:
            if not store.is_ready(db, self._queue, each.id):  # taken by another process since
                continue
            if each.instead is not None:
                store.publish(db, each.instead)
            gone.append(each.id)
        store.remove(db, gone)
        return len(gone)
