"""One consumer at a time for the input of an ordered stage: finds out who else consumes it, or holds messages of it.

Runs in the thread that owns the `File`; owns nothing itself. Called in the transaction in which the stage takes
messages, so that nothing can change in between. A process that is alive keeps what it has, even if it is stopped. What
dead processes held returns to its place *before* anything is taken: otherwise messages after it would be taken first.
Fails with `sqlite3.Error`.
"""

import sqlite3
from typing import NamedTuple

from mqworker.brokers.sqlite import owners, store

# An owner holds messages only of the one queue that it consumes or has consumed; so few owners must be searched for
# them.
_OTHERS = (
    "SELECT id, boot, pid, started FROM owner WHERE id <> ? AND (consumes = ? OR consumes IS NULL AND EXISTS"
    " (SELECT 1 FROM message m WHERE m.owner = owner.id AND m.queue = (SELECT q.id FROM queue q WHERE q.name = ?)))"
)


class Other(NamedTuple):
    """An owner that consumes the queue, or holds messages of it."""

    id: int
    pid: int
    alive: bool


def others(db: sqlite3.Connection, name: str, owner: int) -> list[Other]:
    """Return the other owners that consume a queue or hold messages of it."""
    rows = db.execute(_OTHERS, (owner, name, name)).fetchall()
    return [Other(row[0], row[2], owners.is_alive(owners.Process._make(row[1:]))) for row in rows]


def wait_for(db: sqlite3.Connection, name: str, owner: int) -> str:
    """Release what dead owners held; return one sentence on which consumer `owner` has to wait for, "" for none."""
    waits = ""
    for other in others(db, name, owner):
        if other.alive:
            waits = (
                f"another consumer of queue {name!r} is active (process {other.pid}): this stage is ordered, and waits"
            )
        else:
            store.remove_owner(db, other.id)
    return waits
