"""The broker's file: how it is opened, transactions on it, and what its errors mean.

Runs in the thread that opened the file (a Link's writer, an Admin's worker); owns the connection. WAL mode with
`synchronous=FULL`: once `transaction` returns, what it wrote survives a power failure. Fails with `sqlite3.Error`,
`OSError`, or `Unusable` for a file that must not be used; `explain` turns each into a sentence that includes the fix. A
file with other content or of another version is left as it is: nothing here deletes or renames a user's data.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

VERSION = 1  # of the tables, in PRAGMA user_version
APPLICATION = 0x6D717772  # "mqwr" in PRAGMA application_id
BUSY_TIMEOUT = 1.0  # seconds; for longer waits the caller tries again, so that it can be stopped in between

# A message is two rows: `message` is small and changes with every delivery, `content` is written once.
_TABLES = """
CREATE TABLE owner (id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, pid INTEGER NOT NULL,
    started INTEGER NOT NULL, name TEXT NOT NULL,
    consumes TEXT, seen REAL);
CREATE TABLE queue (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, owner INTEGER);
CREATE TABLE binding (exchange TEXT, routing_key TEXT, queue INTEGER,
    PRIMARY KEY (exchange, routing_key, queue)) WITHOUT ROWID;
CREATE TABLE message (id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, owner INTEGER,
    redelivered INTEGER NOT NULL DEFAULT 0, deliveries INTEGER NOT NULL DEFAULT 0);
CREATE INDEX message_ready ON message (queue, owner) WHERE owner IS NULL;
CREATE INDEX message_owner ON message (owner) WHERE owner IS NOT NULL;
CREATE TABLE content (id INTEGER PRIMARY KEY, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    properties BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE delayed (id INTEGER PRIMARY KEY, target TEXT NOT NULL, delay INTEGER NOT NULL,
    boot TEXT NOT NULL, due REAL NOT NULL, due_wall REAL NOT NULL);
CREATE INDEX delayed_due ON delayed (due);
"""


class Unusable(Exception):  # noqa: N818 - named after the state of the file
    """The file cannot be used as a broker (any more); the message says why, and what to do."""


class Unsure(Exception):  # noqa: N818 - named after the state of the commit
    """The commit failed, and it is unknown whether its data was stored."""


def explain(error: Exception, path: Path) -> str:
    """Return one sentence: what is wrong with the broker's file, and what to do."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return (
            f"{path} is damaged or not an mqworker broker ({error}): stop the service, then restore it from a backup"
            f" or by `sqlite3 {path} .recover`, or move it away to begin with an empty one"
        )
    if is_full(error):
        return f"the disk that holds {path} is full: free some space"
    if is_busy(error):
        return f"another process keeps {path} locked: look for one that is stopped with `fuser -v {path}`"
    if isinstance(error, Unusable):
        return str(error)
    return f"{path} cannot be used ({error}): check that it and its folder can be written, and the disk"


def is_full(error: BaseException) -> bool:
    """Return whether the disk (or a quota, or a file size limit) is full."""
    # SHMSIZE: the index of the write-ahead log could not grow
    return getattr(error, "sqlite_errorname", "") in {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}


def is_busy(error: BaseException) -> bool:
    """Return whether another process held the lock for longer than the timeout."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"))


class File:
    """One open connection to the broker's file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _create(path)
        self.db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
            self._identity = self._look()
        except BaseException:
            self.db.close()
            raise

    def _prepare(self) -> None:
        if (version := self._version()) not in {0, VERSION}:
            raise Unusable(f"{self.path} has version {version}, this mqworker knows {VERSION}: use the newer version")
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("PRAGMA journal_size_limit = 67108864")
        if version == 0:
            self.db.execute("BEGIN IMMEDIATE")
            if self._version() == 0:  # otherwise another process was faster
                for statement in filter(str.strip, _TABLES.split(";")):
                    self.db.execute(statement)
                self.db.execute(f"PRAGMA application_id = {APPLICATION}")
                self.db.execute(f"PRAGMA user_version = {VERSION}")
            self.db.execute("COMMIT")

    def _version(self) -> int:
        version, tables = self.db.execute(
            "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        ).fetchone()
        application = self.db.execute("PRAGMA application_id").fetchone()[0]
        if tables and application != APPLICATION:
            raise Unusable(f"{self.path} is a database of another program: configure another path")
        return int(version)

    def _look(self) -> tuple[tuple[int, int], ...]:
        both = (self.path.stat(), self.path.with_name(self.path.name + "-wal").stat())
        return tuple((found.st_dev, found.st_ino) for found in both)

    def is_in_place(self) -> bool:
        """Return whether the paths still lead to the files that are open."""
        try:
            return self._look() == self._identity
        except OSError:
            return False

    def check_in_place(self) -> None:
        """Raise `Unusable` if they do not: whatever is written would be lost."""
        if not self.is_in_place():
            raise Unusable(f"{self.path} was moved, deleted or replaced while in use: put it back")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all or nothing: everything is stored on return, nothing if this raises anything but `Unsure`."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
            self.check_in_place()
        except BaseException:
            self._rollback()
            raise
        try:
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            self._rollback()
            if is_full(error):  # the log has no room for the commit's frame
                raise
            raise Unsure(str(error)) from error

    def _rollback(self) -> None:
        if self.db.in_transaction:  # SQLite ends some transactions by itself
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; SQLite leaves the log alone if another file has replaced this one."""
        with contextlib.suppress(sqlite3.Error):
            self.db.close()


def _create(path: Path) -> None:
    """Create the folder and an empty file that only we can read; SQLite gives its other two files the same mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
