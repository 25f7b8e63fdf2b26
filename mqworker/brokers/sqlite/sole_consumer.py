"""One consumer at a time, for the input of an ordered stage: who else consumes it, or holds a part of it.

Runs in the thread that owns the `File`; owns nothing itself. Asked in the transaction in which the stage takes
messages, so that nothing can change in between. Who is alive keeps what he has, also when he is stopped. What the dead
held returns to its places *before* anything is taken: otherwise what stands behind it would be taken first. Fails with
`sqlite3.Error`.
"""

import sqlite3

from mqworker.brokers.sqlite import owners, store

_OTHERS = (
    "SELECT id, boot, pid, started FROM owner WHERE id <> ? AND (consumes = ? OR EXISTS"
    " (SELECT 1 FROM message m WHERE m.owner = owner.id AND m.queue = (SELECT q.id FROM queue q WHERE q.name = ?)))"
)


def others(db: sqlite3.Connection, name: str, owner: int, *, alive: bool) -> list[tuple[int, int]]:
    """Return the other owners, alive or dead, that consume a queue or hold messages of it, with their process ids."""
    rows = db.execute(_OTHERS, (owner, name, name)).fetchall()
    return [(row[0], row[2]) for row in rows if owners.is_alive(owners.Process._make(row[1:])) is alive]


def wait_for(db: sqlite3.Connection, name: str, owner: int) -> str:
    """Release what the dead held, and return for whom `owner` has to wait, in one sentence; "" for nobody."""
    for dead, _ in others(db, name, owner, alive=False):
        store.remove_owner(db, dead)
    alive = others(db, name, owner, alive=True)
    if not alive:
        return ""
    return f"another consumer of queue {name!r} is at work (process {alive[0][1]}): this stage is ordered, and waits"
