"""A source's Outlet to the embedded broker.

`SqliteOutlet` lives on the loop of the source's process and never blocks it: each call becomes a command to a thread,
the only one that touches the file, whose reports come back by `call_soon_threadsafe`. The thread holds the lock (a
queue whose owner is the thread's registration, and which ends with it) and executes all waiting commands in one
transaction: items and the newest record together, or neither. So nothing is ever repeated here. Each transaction first
checks whether the lock is still ours. If the disk is full, or another process has locked the file, the commands are
kept and tried again. Any other error loses the Outlet.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Publication
from mqworker.brokers.outlet import RUNS_ELSEWHERE, Inlet, OutletSink
from mqworker.brokers.records import PositionRecord, newest
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.file import File, Unusable, explain, is_busy, is_full

# all in seconds
LOOK = 0.5  # between looks at the file
STANDBY = 1.0  # between checks whether the lock is free
REOPEN = 1.0
AGAIN = 0.2  # after a transaction that a full disk or another process prevented
BATCH = 1000  # commands in one transaction

_RECORD = Properties(content_type="application/json", delivery_mode=2).encode()


class _Send(NamedTuple):
    publication: Publication | None
    record: bytes | None
    records: int  # how many records it stands for; only the newest is stored


class _Ask(NamedTuple):
    pass


class _Close(NamedTuple):
    pass


class SqliteOutlet:
    """Implements `mqworker.brokers.outlet.Outlet` on a file; see the module head."""

    def __init__(self, path: Path, inlet: Inlet, sink: OutletSink, *, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._closed = False
        self._thread = _Writer(path, inlet, sink, self._post, f"{name} {uuid.uuid4().hex}")

    def start(self) -> None:
        """See `Outlet.start`."""
        self._thread.start()

    def send(self, publication: Publication, record: bytes | None) -> None:
        """See `Outlet.send`; confirmed means synced to the disk."""
        self._thread.commands.put(_Send(publication, record, int(record is not None)))

    def store(self, record: bytes) -> None:
        """See `Outlet.store`."""
        self._thread.commands.put(_Send(None, record, 1))

    def ask_depth(self) -> None:
        """See `Outlet.ask_depth`."""
        self._thread.commands.put(_Ask())

    async def close(self, deadline: float) -> None:
        """See `Outlet.close`; after the deadline, it is left to the end of the process."""
        if not self._closed and self._thread.is_alive():
            self._thread.commands.put(_Close())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), deadline)
        self._closed = True

    def _post(self, call: Callable[[], None] | None) -> None:
        """Schedule a call on the loop; None reports the end of the thread. Called in the thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed before
            self._loop.call_soon_threadsafe(call or self._ended.set)


class _Writer(threading.Thread):
    """See the module head."""

    def __init__(
        self,
        path: Path,
        inlet: Inlet,
        sink: OutletSink,
        post: Callable[[Callable[[], None] | None], None],
        name: str,
    ) -> None:
        super().__init__(name="sqlite-outlet", daemon=True)
        self.commands: queue.SimpleQueue[_Send | _Ask | _Close] = queue.SimpleQueue()
        self._path, self._inlet, self._sink, self._post, self._owner_name = path, inlet, sink, post, name
        self._owner = 0
        self._pending: list[_Send] = []  # not executed yet
        self._sent = self._stored = 0  # publications and records so far
        self._asked = self._closing = False
        self._count_from = 0.0
        self._reason = ""  # why nothing is stored

    def run(self) -> None:
        """Open the file, take the lock, and serve; then report the end."""
        file = self._begin()
        if file is not None:
            try:
                self._serve(file)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must be reported
                refused = isinstance(error, store.Refused)
                self._post(partial(self._sink.lost, str(error) if refused else explain(error, self._path)))
            with contextlib.suppress(Exception), file.transaction() as db:  # otherwise the end of this process does it
                store.remove_owner(db, self._owner)
            file.close()
        self._post(None)

    def _begin(self) -> File | None:
        """Return the open file once the lock is ours; None if that is no longer wanted."""
        file: File | None = None
        wait = 0.0
        while not self._receive(wait):
            try:
                file = file or File(self._path)
                if self._lock(file):
                    return file
            except Exception as error:  # noqa: BLE001 - whatever it is, it must be reported and tried again
                if file is not None:
                    file.close()
                file, wait = None, REOPEN
                self._post(partial(self._sink.waits, explain(error, self._path), standby=False))
            else:
                wait = STANDBY
                self._post(partial(self._sink.waits, RUNS_ELSEWHERE, standby=True))
        if file is not None:
            file.close()
        return None

    def _lock(self, file: File) -> bool:
        """Take the lock, and report what is stored; returns False while a living process has it."""
        with file.transaction() as db:
            for owner in store.dead_owners(db):
                store.remove_owner(db, owner)
            if store.queue_id(db, self._inlet.lock) is not None:
                return False
            self._owner = store.add_owner(db, self._owner_name)
            store.make_queue(db, self._inlet.lock, self._owner)
            store.make_queue(db, self._inlet.queue)
            record = _read(db, store.make_queue(db, self._inlet.position))
        self._post(partial(self._sink.opened, record))
        return True

    def _serve(self, file: File) -> None:
        look = 0.0
        while not self._closing or self._pending:
            if time.monotonic() >= look:
                file.check_in_place()
                look = time.monotonic() + LOOK
            if self._pending:
                self._write(file)
            if self._asked:
                self._count(file)
            self._receive(AGAIN if self._reason else 0 if self._pending else self._idle())
            if self._closing and self._reason:
                break  # what cannot be stored now will be yielded again in the next life

    def _receive(self, timeout: float) -> bool:
        """Wait for a command, and take all that have arrived; returns whether one of them asked for the end."""
        try:
            command = self.commands.get(timeout=timeout) if timeout > 0 else self.commands.get_nowait()
            while True:
                if isinstance(command, _Send) and command.publication is None and self._pending:
                    last = self._pending[-1]  # so that records do not pile up while nothing is stored
                    self._pending[-1] = _Send(last.publication, command.record, last.records + 1)
                elif isinstance(command, _Send):
                    self._pending.append(command)
                elif isinstance(command, _Ask):
                    self._asked = True
                else:
                    self._closing = True
                if len(self._pending) >= BATCH:
                    break
                command = self.commands.get_nowait()
        except queue.Empty:
            pass
        return self._closing

    def _idle(self) -> float:
        """Return how long to wait for a command: until then there is nothing else to do."""
        return min(LOOK, max(0.0, self._count_from - time.monotonic())) if self._asked else LOOK

    def _write(self, file: File) -> None:
        """Store everything that is waiting, in one transaction."""
        records = [each.record for each in self._pending if each.record is not None]
        publications = [each.publication for each in self._pending if each.publication is not None]
        try:
            with file.transaction() as db:
                if not self._is_ours(db):
                    raise Unusable(f"the lock {self._inlet.lock} in {self._path} was taken away")
                store.publish_together(db, publications)
                if records:
                    _replace(db, self._inlet.position, records[-1])
        except sqlite3.Error as error:
            if not (is_busy(error) or is_full(error)):
                raise
            self._tell(explain(error, self._path))
            return
        self._sent += len(publications)
        self._stored += sum(each.records for each in self._pending)
        self._pending = []
        self._tell("")
        self._post(partial(self._sink.confirmed, self._sent))
        if records:
            self._post(partial(self._sink.stored, self._stored))

    def _is_ours(self, db: sqlite3.Connection) -> bool:
        query = "SELECT 1 FROM queue q JOIN owner o ON o.id = q.owner WHERE q.name = ? AND q.owner = ?"
        return db.execute(query, (self._inlet.lock, self._owner)).fetchone() is not None

    def _tell(self, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            self._post(partial(self._sink.blocked, reason))

    def _count(self, file: File) -> None:
        """Report how much the input holds; at most a hundredth of the time is spent on counting."""
        began = time.monotonic()
        if began < self._count_from:
            return
        found = store.queue_id(file.db, self._inlet.queue)
        depth = 0 if found is None else store.count_ready(file.db, found)
        self._asked = False
        self._count_from = began + 100 * (time.monotonic() - began)
        self._post(partial(self._sink.depth, depth))


def _read(db: sqlite3.Connection, position: int) -> PositionRecord | None:
    rows = db.execute("SELECT c.body FROM message m JOIN content c ON c.id = m.id WHERE m.queue = ?", (position,))
    return newest(row[0] for row in rows.fetchall())


def _replace(db: sqlite3.Connection, name: str, record: bytes) -> None:
    position = store.make_queue(db, name)
    store.purge_queue(db, position)
    store.place(db, position, Publication("", name, _RECORD, record))
