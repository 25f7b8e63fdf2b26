"""The audit: who asked for what, what it has changed, and how it was answered.

Kept by the Service: the last records in memory, and all of the last two megabytes in files of `state_dir`, which are
read again after a kill. The HTTP threads write their own records, and a separate thread those of the main thread; one
lock keeps the records in order, another guards the file, so that a hanging disk does not block readers of what is in
memory. A record is flushed, not synced: nobody waits for the disk. A record that cannot be written stays in memory,
and the failure is logged once; what a hanging disk delays is written when it responds again. A number is never used
twice: those of records that are in memory only are reserved, a thousand at a time, in a file of a few bytes.

`ORIGIN` names who asked for what is being done: asyncio passes the context of the HTTP thread on to what the main
loop does for it, so that whatever is stored there records its author.
"""

import contextlib
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mqworker.control.difference import FieldChange
from mqworker.ipc import logs

RECORDS = 1000  # in memory,
PASSING = 200  # besides, of those who may only look
BYTES = 1 << 20  # and no more than this of JSON
FILE = 1 << 20  # bytes after which a file gives way to the next
CHANGES = 256  # changes that a snapshot remembers
RESERVED = 1000  # numbers for records that are in memory only, so that the next Service does not use them again
PATIENCE = 1.0  # seconds for which a request waits for the records of others to be written

log = logging.getLogger("mqworker.audit")


class Origin(NamedTuple):
    """On whose behalf something is done."""

    number: int  # of the request, within the life of the Service
    by: str


ORIGIN: ContextVar[Origin | None] = ContextVar("mqworker.origin", default=None)


class Attributed(msgspec.Struct, frozen=True):
    """A change of the desired state that somebody has asked for."""

    origin: Origin
    time: float  # wall clock
    changes: tuple[FieldChange, ...]


class Author(NamedTuple):
    """Who last set a field, and to what."""

    by: str
    time: float  # wall clock
    value: Any


class AuditRecord(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    """One request."""

    n: int
    time: float  # wall clock, of the answer
    by: str  # socket | token | read token | session 3f9a | anybody | login | signal
    sender: str  # the address
    agent: str  # what the client calls itself
    method: str
    path: str
    stage: str  # "" for the service
    what: str  # what the route does
    status: int
    answer: str  # why it was refused, or how far it has come
    seconds: float
    asked: str = ""  # the beginning of the body
    forwarded: str = ""  # what a proxy, or whoever else, says of the sender
    changes: tuple[FieldChange, ...] = ()


class AuditTrail:
    """See the module head. `folder` is the state folder."""

    def __init__(self, folder: Path) -> None:
        self.answers: Counter[str] = Counter()  # done, refused, failed: for the metrics
        self._path = folder / "audit.jsonl"
        self._lock = threading.Lock()  # of what is in memory: nothing under it waits
        self._file = threading.Lock()  # of the file: under it a disk may hang
        self._unwritten: deque[bytes] = deque(maxlen=RECORDS)
        self._records: deque[tuple[AuditRecord, int]] = deque()  # with their sizes
        self._passing: deque[AuditRecord] = deque(maxlen=PASSING)
        self._size = 0
        self._fault = ""
        for record, size in _stored((self._path.with_suffix(".jsonl.1"), self._path)):
            self._keep(record, size)
        self._number = folder / "audit.number"
        self._reserved = self._noted = _number(
            self._number
        )  # the highest number that may be used without a lasting record
        self._last = max(self._reserved, self._records[-1][0].n if self._records else 0)

    def add(self, record: AuditRecord, *, lasting: bool = True, wait: bool = True, logged: bool = True) -> None:
        """Keep a record, under the next number; one that does not last is in memory only, and displaces no other.

        Without `wait` it is written by another thread.
        """
        outcome = "done" if record.status < 400 else "refused" if record.status < 500 else "failed"
        with self._lock:
            self._last += 1
            record = msgspec.structs.replace(record, n=self._last)
            self.answers[outcome] += 1
            if lasting:
                data = msgspec.json.encode(record) + b"\n"
                self._keep(record, len(data))
                self._unwritten.append(data)
            else:
                self._passing.append(record)
                if self._last > self._reserved:
                    self._reserved = self._last + RESERVED
        if logged:
            logs.report(log, logging.INFO, "audit", sentence(record))
        if wait and (lasting or self._noted < self._reserved):
            self._flush()
        elif lasting:
            threading.Thread(target=self._flush, name="audit", daemon=True).start()

    def after(self, number: int, limit: int = RECORDS, stage: str | None = None) -> tuple[list[AuditRecord], int]:
        """Return the newest records after this number, the oldest first, and how many after it are forgotten."""
        with self._lock:
            records = [record for record, _ in self._records]
            passing, last = list(self._passing), self._last
        oldest = records[0].n if records else last + 1
        every = sorted((*records, *passing), key=lambda record: record.n)
        about = [record for record in every if record.n > number and (stage is None or _is_about(record, stage))]
        return about[-limit:] if limit else [], max(0, oldest - number - 1) if number else 0

    def since(self, number: int) -> list[AuditRecord]:
        """Return the remembered records with a higher number, the oldest first."""
        return self.after(number)[0]

    def author(self, stage: str, field: str) -> Author | None:
        """Return who has last set a field of a stage; None: it is not known any more."""
        with self._lock:
            records = [record for record, _ in self._records]
        return find_author(((each.by, each.time, each.changes) for each in reversed(records)), stage, field)

    def _keep(self, record: AuditRecord, size: int) -> None:
        self._records.append((record, size))
        self._size += size
        while len(self._records) > RECORDS or (self._size > BYTES and len(self._records) > 1):
            self._size -= self._records.popleft()[1]

    def _flush(self) -> None:
        """Write what is not written yet. Where another thread does that and hangs, it will write ours too."""
        while self._file.acquire(timeout=PATIENCE):
            try:
                self._reserve()
                while data := self._next():
                    self._write(data)
            finally:
                self._file.release()
            if not self._unwritten:  # records of requests that have stopped waiting
                return

    def _reserve(self) -> None:
        """Store the highest number that may be used; if that fails, the next Service may use some numbers again."""
        number = self._reserved
        if number > self._noted:
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                with os.fdopen(os.open(self._number, flags, 0o600), "wb") as file:
                    file.write(b"%016d\n" % number)  # always of the same length, so that it is never truncated
            self._noted = number

    def _next(self) -> bytes:
        with self._lock:
            return self._unwritten.popleft() if self._unwritten else b""

    def _write(self, data: bytes) -> None:
        try:
            append(self._path, data)
        except OSError as error:
            if not self._fault:
                self._fault = f"the audit cannot be written to {self._path}, and stays in memory: {error.strerror}"
                logs.report(log, logging.ERROR, "audit_not_written", self._fault)
        else:
            self._fault = ""


def signalled(name: str, *changes: FieldChange) -> AuditRecord:
    """Return the record of a signal that was obeyed."""
    what = {"SIGHUP": "Take the code in the folder", "SIGTSTP": "Pause the service", "SIGCONT": "Resume the service"}
    return AuditRecord(0, time.time(), "signal", "", "", name, "", "", what[name], 200, "", 0.0, changes=changes)


def find_author(changes: Iterable[tuple[str, float, tuple[FieldChange, ...]]], stage: str, field: str) -> Author | None:
    """Return who has last set a field; `changes` begin with the newest."""
    found = ((by, at, row) for by, at, rows in changes for row in rows if (row.stage, row.field) == (stage, field))
    return next((Author(by, at, row.new) for by, at, row in found), None)


def append(path: Path, data: bytes) -> None:
    """Append a line to a file that only we may read, and begin another one when it is full; raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # a kill, or a full disk, has cut the last record
        os.write(fd, b"\n" * torn + data)
    finally:
        os.close(fd)
    if size + len(data) > FILE:
        path.replace(path.with_suffix(".jsonl.1"))


def sentence(record: AuditRecord) -> str:
    """Return a record as one line for a person."""
    rows = "; ".join(map(_row, record.changes))
    answer = f" ({record.answer})" if record.answer else ""
    call = f"{record.method} {record.path}".rstrip()
    where = f" from {record.sender}" if record.sender else ""
    return f"{record.by}{where}: {call}: {record.status}{answer}{'; ' if rows else ''}{rows}"


def _row(row: FieldChange) -> str:
    old, new = ("-" if value is msgspec.UNSET else msgspec.json.encode(value).decode() for value in (row.old, row.new))
    return f"{row.stage}{'.' if row.stage else ''}{row.field}: {old} -> {new}"


def _is_about(record: AuditRecord, stage: str) -> bool:
    return record.stage == stage or any(row.stage == stage for row in record.changes)


def _number(path: Path) -> int:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            return min(int(file.read(17)), 2**52)
    except (OSError, ValueError):
        return 0


def _stored(paths: Iterable[Path]) -> Iterable[tuple[AuditRecord, int]]:
    lines: list[bytes] = []
    for path in paths:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(fd, "rb") as file:
                lines += file.read(2 * FILE).splitlines()
    for line in lines[-RECORDS:]:
        with contextlib.suppress(msgspec.MsgspecError, ValueError):  # cut by a kill, or of another version
            yield msgspec.json.decode(line, type=AuditRecord), len(line) + 1
