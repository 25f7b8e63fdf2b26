"""What the embedded broker can do, as functions on an open file: queues, routes, messages, leases, delays.

Runs in the thread that owns the `File`; owns nothing itself. Functions that write are called inside `File.transaction`.
Raises `sqlite3.Error`, and `Refused` for a publication, of which nothing was written.
"""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mqworker.amqp.topics import matches
from mqworker.brokers.base import Publication, Topology
from mqworker.brokers.sqlite import owners
from mqworker.ipc.proc import boot_id

LARGE = 8 << 20  # bytes above which a body is written in pieces: SQLite would copy it twice ...
PIECE = 1 << 20  # ... but that is faster for smaller ones
MAX_SIZE = 512 << 20  # bytes of one message; SQLite's own limit is a little under 1 GB
TAKE_BYTES = 32 << 20  # bytes of bodies taken in one transaction, during which other processes wait for the lock


class Refused(Exception):  # noqa: N818 - named after what happened to the publication
    """This publication cannot be stored; `too_large` says that its size is the reason."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


class Taken(NamedTuple):
    """A message under lease."""

    id: int
    redelivered: int
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


def declare(db: sqlite3.Connection, topology: Topology) -> None:
    """Create what a stage needs."""
    output, bindings = topology.output, topology.bindings
    for name in topology.queues:
        make_queue(db, name)
    bound = [(bindings.exchange, key, topology.input) for key in bindings.keys] if bindings else []
    if output and output.queue and output.exchange:
        bound.append((output.exchange, output.routing_key, output.queue))
    db.executemany("INSERT OR IGNORE INTO binding SELECT ?, ?, id FROM queue WHERE name = ?", bound)


def is_declared(db: sqlite3.Connection, topology: Topology) -> bool:
    """Return whether the whole topology still exists."""
    return all(queue_id(db, name) is not None for name in topology.queues)


def make_queue(db: sqlite3.Connection, name: str, owner: int | None = None) -> int:
    """Return the id of a queue, which is created if missing; with an owner, it ends together with that owner."""
    db.execute("INSERT OR IGNORE INTO queue (name, owner) VALUES (?, ?)", (name, owner))
    found = queue_id(db, name)
    assert found is not None
    return found


def queue_id(db: sqlite3.Connection, name: str) -> int | None:
    """Return the id of a queue; None when there is no such queue."""
    row = db.execute("SELECT id FROM queue WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def delete_queue(db: sqlite3.Connection, queue: int) -> int:
    """Delete a queue with its messages, leased ones too; returns how many were ready."""
    ready = count_ready(db, queue)
    remove(db, _ids(db, "SELECT id FROM message WHERE queue = ?", queue))
    db.execute("DELETE FROM delayed WHERE id NOT IN (SELECT id FROM message)")
    db.execute("DELETE FROM binding WHERE queue = ?", (queue,))
    db.execute("DELETE FROM queue WHERE id = ?", (queue,))
    return ready


def purge_queue(db: sqlite3.Connection, queue: int) -> int:
    """Remove all messages of a queue that nobody has taken; returns how many."""
    ids = _ids(db, "SELECT id FROM message WHERE queue = ? AND owner IS NULL", queue)
    remove(db, ids)
    db.execute("DELETE FROM delayed WHERE id NOT IN (SELECT id FROM message)")
    return len(ids)


def ready_ids(db: sqlite3.Connection, queue: int, limit: int) -> list[int]:
    """Return the first ready messages of a queue."""
    query = "SELECT id FROM message WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT ?"
    return [row[0] for row in db.execute(query, (queue, limit))]


def content(db: sqlite3.Connection, message: int) -> tuple[bytes, bytes] | None:
    """Return properties and body of a message; None if it is not ready."""
    query = (
        "SELECT c.properties, c.body FROM message m JOIN content c ON c.id = m.id WHERE m.id = ? AND m.owner IS NULL"
    )
    found: tuple[bytes, bytes] | None = db.execute(query, (message,)).fetchone()
    return found


def is_ready(db: sqlite3.Connection, queue: int, message: int) -> bool:
    """Return whether a message is in a queue and nobody has taken it."""
    query = "SELECT 1 FROM message WHERE id = ? AND queue = ? AND owner IS NULL"
    return db.execute(query, (message, queue)).fetchone() is not None


def count_consumers(db: sqlite3.Connection, name: str) -> int:
    """Return how many live owners consume a queue."""
    rows = db.execute("SELECT boot, pid, started FROM owner WHERE consumes = ?", (name,)).fetchall()
    return sum(owners.is_alive(owners.Process._make(row)) for row in rows)


def _ids(db: sqlite3.Connection, query: str, queue: int) -> list[int]:
    return [row[0] for row in db.execute(query, (queue,))]


def count_ready(db: sqlite3.Connection, queue: int) -> int:
    """Return how many messages of a queue are ready: nobody has taken them."""
    return int(db.execute("SELECT count(*) FROM message WHERE queue = ? AND owner IS NULL", (queue,)).fetchone()[0])


def count_delayed(db: sqlite3.Connection, name: str) -> int:
    """Return how many messages will come to a queue when their delays are over."""
    return int(db.execute("SELECT count(*) FROM delayed WHERE target = ?", (name,)).fetchone()[0])


def has_ready(db: sqlite3.Connection, name: str) -> bool:
    """Return whether there is something to take from a queue."""
    query = "SELECT 1 FROM message WHERE queue = (SELECT id FROM queue WHERE name = ?) AND owner IS NULL LIMIT 1"
    return db.execute(query, (name,)).fetchone() is not None


def publish(db: sqlite3.Connection, publication: Publication) -> None:
    """Store a message in every queue that its exchange and routing key lead to; `Refused` when there is none."""
    publish_together(db, (publication,))


def publish_together(db: sqlite3.Connection, publications: Sequence[Publication]) -> None:
    """Store all of these messages, or none if one of them is `Refused`."""
    places = [(publication, _queues(db, publication)) for publication in publications]
    for publication, queues in places:
        for queue in queues:
            place(db, queue, publication)


def _queues(db: sqlite3.Connection, publication: Publication) -> list[int]:
    if len(publication.body) + len(publication.properties) > MAX_SIZE:
        raise Refused(f"too large: more than {MAX_SIZE} bytes", too_large=True)
    try:
        return _route(db, publication)
    except UnicodeEncodeError:
        raise Refused("returned: exchange or routing key is not valid UTF-8") from None


def _route(db: sqlite3.Connection, publication: Publication) -> list[int]:
    exchange, key = publication.exchange, publication.routing_key
    if publication.delay:
        found = queue_id(db, key)
        queues = [] if found is None else [make_queue(db, f"{key}.retry.{publication.delay}")]
    elif exchange:
        bound = db.execute("SELECT routing_key, queue FROM binding WHERE exchange = ?", (exchange,)).fetchall()
        if not bound:
            raise Refused(f"returned: no exchange {exchange!r}")
        queues = list(dict.fromkeys(queue for binding_key, queue in bound if matches(binding_key, key)))
    else:
        found = queue_id(db, key)
        queues = [] if found is None else [found]
    if not queues and publication.mandatory:
        raise Refused(f"returned: no queue for exchange {exchange!r} and routing key {key!r}")
    return queues


def place(db: sqlite3.Connection, queue: int, publication: Publication) -> None:
    """Put a message at the end of a queue."""
    new = db.execute("INSERT INTO message (queue) VALUES (?)", (queue,)).lastrowid
    assert new is not None
    exchange = "" if publication.delay else publication.exchange
    head, body = (new, exchange, publication.routing_key, publication.properties), publication.body
    if len(body) <= LARGE:
        db.execute("INSERT INTO content VALUES (?, ?, ?, ?, ?)", (*head, body))
    else:
        db.execute("INSERT INTO content VALUES (?, ?, ?, ?, zeroblob(?))", (*head, len(body)))
        with db.blobopen("content", "body", new) as blob:
            for start in range(0, len(body), PIECE):
                blob.write(body[start : start + PIECE])
    if publication.delay:
        delay = publication.delay
        due, wall = time.clock_gettime(time.CLOCK_BOOTTIME) + delay, time.time() + delay
        row = (new, publication.routing_key, delay, boot_id(), due, wall)
        db.execute("INSERT INTO delayed VALUES (?, ?, ?, ?, ?, ?)", row)


def take(db: sqlite3.Connection, name: str, limit: int, owner: int) -> list[Taken]:
    """Lease the first ready messages of a queue to `owner`; stops early at `TAKE_BYTES`."""
    rows: list[Taken] = []
    size = 0
    for row in db.execute(
        "SELECT m.id, m.redelivered, c.exchange, c.routing_key, c.properties, c.body"
        " FROM message m JOIN content c ON c.id = m.id"
        " WHERE m.queue = (SELECT id FROM queue WHERE name = ?) AND m.owner IS NULL ORDER BY m.id LIMIT ?",
        (name, limit),
    ):
        rows.append(Taken._make(row))
        size += len(rows[-1].body)
        if size > TAKE_BYTES:
            break
    leased = ((owner, row.id) for row in rows)
    db.executemany("UPDATE message SET owner = ?, deliveries = deliveries + 1 WHERE id = ?", leased)
    return rows


def remove(db: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Delete messages for good."""
    keys = [(each,) for each in ids]
    db.executemany("DELETE FROM message WHERE id = ?", keys)
    db.executemany("DELETE FROM content WHERE id = ?", keys)


def release(db: sqlite3.Connection, ids: Iterable[int]) -> None:
    """End leases: the messages are ready again, in their old places."""
    keys = ((each,) for each in ids)
    db.executemany("UPDATE message SET owner = NULL, redelivered = 1 WHERE id = ?", keys)


def add_owner(db: sqlite3.Connection, name: str) -> int:
    """Register this process as one that may hold leases; leases that it held under the same name are released."""
    row = (*owners.current(), name)
    query = "SELECT id FROM owner WHERE boot = ? AND pid = ? AND started = ? AND name = ?"
    for (former,) in db.execute(query, row).fetchall():
        remove_owner(db, former)
    new = db.execute("INSERT INTO owner (boot, pid, started, name) VALUES (?, ?, ?, ?)", row).lastrowid
    assert new is not None
    return new


def has_owner(db: sqlite3.Connection, owner: int) -> bool:
    """Return whether the registration, and with it every lease, is still valid."""
    return db.execute("SELECT 1 FROM owner WHERE id = ?", (owner,)).fetchone() is not None


def remove_owner(db: sqlite3.Connection, owner: int) -> None:
    """End an owner, its leases and its own queues."""
    db.execute("UPDATE message SET owner = NULL, redelivered = 1 WHERE owner = ?", (owner,))
    for (queue,) in db.execute("SELECT id FROM queue WHERE owner = ?", (owner,)).fetchall():
        delete_queue(db, queue)
    db.execute("DELETE FROM owner WHERE id = ?", (owner,))


def dead_owners(db: sqlite3.Connection) -> list[int]:
    """Return the owners whose process is gone."""
    rows = db.execute("SELECT id, boot, pid, started FROM owner").fetchall()
    return [row[0] for row in rows if not owners.is_alive(owners.Process._make(row[1:]))]


def has_due(db: sqlite3.Connection) -> bool:
    """Return whether a delay is over, or began before the machine was rebooted."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    # not `?1`, because early versions of Python 3.12 warn about it
    query = "SELECT 1 FROM delayed WHERE boot <> ? OR due <= ? AND target IN (SELECT name FROM queue) LIMIT 1"
    return db.execute(query, (boot_id(), now)).fetchone() is not None


def move_due(db: sqlite3.Connection) -> None:
    """Move every message whose delay is over to its target; one whose target is missing keeps waiting."""
    now, boot = time.clock_gettime(time.CLOCK_BOOTTIME), boot_id()
    # after a reboot, only the wall clock shows the rest of a delay; its jumps may shorten a delay, but not prolong it
    db.execute(
        "UPDATE delayed SET due = ? + max(0, min(delay, due_wall - ?)), boot = ? WHERE boot <> ?",
        (now, time.time(), boot, boot),
    )
    rows = db.execute(
        "SELECT q.id, d.id FROM delayed d JOIN queue q ON q.name = d.target WHERE d.due <= ?", (now,)
    ).fetchall()
    db.executemany("UPDATE message SET queue = ? WHERE id = ?", rows)
    db.executemany("DELETE FROM delayed WHERE id = ?", [(row[1],) for row in rows])
