"""Log events, from every process to the one place that writes them.

In every process: standard `logging` with a ForwardingHandler, which turns records into LogEvents and sends them up the
process's pipe. In the Service: LogWriter, one thread with a bounded queue, which alone writes stdout and keeps the last
lines for `/logs`. Settling a message never waits for a log: when the reader of stdout lags, lines are dropped and
counted, and the count is logged.
"""

import collections
import contextlib
import json
import logging
import os
import queue
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from mqworker.errors import SoftTimeLimit
from mqworker.ipc.json_safe import scalar, text
from mqworker.ipc.records import LogEvent

QUEUED = 10_000  # lines waiting for stdout
KEPT = 2_000  # lines kept for /logs
LINE_MAX = 32_000  # characters of one message or traceback
LAST_SECOND = 253_402_300_799.0  # of the year 9999

_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
LEVELS = {name: number for number, name in _LEVELS.items()}


def report(log: logging.Logger, level: int, event: str, msg: str, **fields: Any) -> None:
    """Log one event: a fixed event name, a sentence, and plain fields."""
    if log.isEnabledFor(level):
        log.log(level, "%s", msg, extra={"event": event, "fields": fields})


class ForwardingHandler(logging.Handler):
    """Passes records to `send` as LogEvents; in a process that user code has forked, it writes them to stderr.

    There, another writer on our pipe would tear frames, and the lock of `send` may be held by a thread that is gone.

    `labels` returns fields that every event has besides its own: in a Consumer, those of the message in hand.
    """

    def __init__(self, send: Callable[[LogEvent], None], process: str, stage: str = "") -> None:
        super().__init__()
        self._send = send
        self._process = process
        self._stage = stage
        self._pid = os.getpid()
        self.labels: Callable[[], dict[str, Any]] = dict

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; one that cannot be formatted is reported as such."""
        if os.getpid() != self._pid:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"{record.levelname} {record.name}: {record.getMessage()}\n")
            return
        try:
            event = self._event(record)
        except SoftTimeLimit:  # it belongs to the job that is logging
            raise
        except Exception as error:  # noqa: BLE001 - formatting the user's arguments and fields may raise anything
            where = f"{record.pathname}:{record.lineno}"
            message = text(f"log message could not be formatted ({type(error).__name__}) at {where}")
            event = LogEvent(
                record.created, record.levelno, "log", message, self._process, self._pid, self._stage, self.labels()
            )
        with contextlib.suppress(OSError):
            self._send(event)

    def _event(self, record: logging.LogRecord) -> LogEvent:
        fields = dict(getattr(record, "fields", {})) | self.labels()
        if record.exc_info and record.exc_info[0] is not None:
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))[-LINE_MAX:]
        event = getattr(record, "event", None) or ("warning" if record.name == "py.warnings" else "log")
        if record.name not in ("mqworker", "root") and not record.name.startswith("mqworker."):
            fields["logger"] = record.name
        return LogEvent(
            record.created,
            record.levelno,
            text(str(event)),
            text(record.getMessage())[:LINE_MAX],
            self._process,
            os.getpid(),
            self._stage,
            {text(str(key)): scalar(value, LINE_MAX) for key, value in fields.items()},
        )


class JobLogger(logging.Logger):
    """The `log` of jobs: whatever user code makes of Python's logging, what is said here arrives.

    It is not in the tree of loggers, so that no dictConfig or disable reaches it. It is pickled by its name, like any
    logger.
    """

    all: ClassVar[list["JobLogger"]] = []  # of this process; one in a Consumer

    def __init__(self, name: str, handler: logging.Handler, level: int) -> None:
        super().__init__(name, level)
        self.manager = logging.Manager(self)  # type: ignore[arg-type]  # a manager of its own
        self.propagate = False
        self.addHandler(handler)
        self.all.append(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the ordinary logger of this name elsewhere."""
        return logging.getLogger, (self.name,)


def use(handler: logging.Handler, level: int) -> None:
    """Make `handler` the process's only one."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False


def set_level(level: int) -> None:
    """Set the least severe level that is logged; chatty libraries log errors only."""
    for logger in JobLogger.all:
        logger.setLevel(level)
    logging.getLogger().setLevel(level)
    for name in ("pika", "waitress", "werkzeug"):
        logging.getLogger(name).setLevel(max(level, logging.ERROR))


def line_json(event: LogEvent, service: str) -> str:
    """Return one JSON Lines record; JSON escapes control characters, `ensure_ascii` line separators and the rest.

    Never raises, whatever the event holds: a Consumer's events contain whatever the user's code put there.
    """
    record: dict[str, Any] = {
        "time": timestamp(event.time),
        "level": _level_name(event.level),
        "event": text(event.event),
        "msg": text(event.msg),
        "service": service,
    }
    if event.stage:
        record["stage"] = text(event.stage)
    record |= {"process": text(event.process), "pid": event.pid}
    for key, value in event.fields.items():
        if value is not None:
            record.setdefault(text(key), scalar(value, LINE_MAX))
    return json.dumps(record, ensure_ascii=True, allow_nan=False)


def says(line: str, key: str, value: str) -> bool:
    """Whether a line of `line_json` has this text at `key`; quotes inside a value are escaped, so no text looks so."""
    return f'"{key}": {json.dumps(text(value))}' in line


def line_text(event: LogEvent, _service: str) -> str:
    """Return one readable line; a traceback follows on indented, escaped lines."""
    when = timestamp(event.time)[11:23]
    where = escape(event.process or event.stage)
    extra = " ".join(
        f"{escape(key)}={escape(str(scalar(value, LINE_MAX)))}"
        for key, value in event.fields.items()
        if value is not None and key != "traceback"
    )
    line = f"{when} {_level_name(event.level):7} {where:20} {escape(event.msg)}" + (f"  [{extra}]" if extra else "")
    for row in str(event.fields.get("traceback") or "").splitlines():
        line += "\n    | " + escape(row)
    return line


def escape(value: str) -> str:
    """Escape control characters, line separators and whatever else could start a line or control a terminal."""
    return value if value.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)


def timestamp(seconds: float) -> str:
    """Format as RFC 3339 in UTC with milliseconds, clamped to the years 1970 to 9999."""
    return (
        datetime.fromtimestamp(max(0.0, min(seconds, LAST_SECOND)), UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _level_name(level: int) -> str:
    return _LEVELS.get(level) or ("error" if level > logging.ERROR else "debug" if level < logging.INFO else "info")


class LogWriter:
    """Writes events to a descriptor from its own thread, whole lines only; `recent` lets others follow."""

    def __init__(self, service: str, fd: int, log_format: str = "auto") -> None:
        self._service = service
        self._fd = fd
        tty = os.isatty(fd)
        self._line = line_text if log_format == "text" or (log_format == "auto" and tty) else line_json
        self._queue: queue.Queue[LogEvent | None] = queue.Queue(QUEUED)
        self._dropped = 0  # guarded by _news
        self._torn = False  # part of a line was written, but not its end
        self._recent: collections.deque[tuple[int, str]] = collections.deque(maxlen=KEPT)
        self._count = 0
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, event: LogEvent) -> None:
        """Accept an event from any thread; never waits."""
        with self._news:
            self._count += 1
            self._recent.append((self._count, line_json(event, self._service)))
            self._news.notify_all()
            try:
                self._queue.put_nowait(event)
            except queue.Full:
                self._dropped += 1

    def recent(self, after: int, wait: float) -> list[tuple[int, str]]:
        """Return the lines (number, JSON) after number `after`, waiting up to `wait` seconds for the first."""
        with self._news:
            if self._count <= after and wait:
                self._news.wait(wait)
            return [item for item in self._recent if item[0] > after]

    def close(self, deadline: float) -> None:
        """Write what is queued, for at most `deadline` seconds."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=deadline / 2)
        self._thread.join(deadline / 2)

    def _run(self) -> None:
        for event in iter(self._queue.get, None):
            self._write(event)
            if self._queue.empty():
                self._report_dropped()
        self._report_dropped()

    def _report_dropped(self) -> None:
        with self._news:
            count, self._dropped = self._dropped, 0
        if count:
            message = f"{count} log lines were dropped: the reader of stdout was too slow"
            self._write(LogEvent(time.time(), logging.WARNING, "logs_dropped", message, "service", os.getpid()), count)

    def _write(self, event: LogEvent, stands_for: int = 1) -> None:
        line = ("\n" if self._torn else "") + self._line(event, self._service) + "\n"
        data = line.encode("utf-8", "backslashreplace")
        try:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                    self._torn = bool(data)
                except BlockingIOError:  # another program that shares stdout made it non-blocking
                    select.select([], [self._fd], [])
        except OSError:  # the reader is gone, or the disk is full: drop, count, go on
            with self._news:
                self._dropped += stands_for
            time.sleep(0.1)


def stdout_fd() -> int:
    """Return the descriptor that the Service writes its log to."""
    return sys.__stdout__.fileno() if sys.__stdout__ is not None else 1
