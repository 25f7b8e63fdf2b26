"""What a child writes to its stdout and stderr: logs it line by line, keeps the tail as evidence.

OutputReader runs on the parent's loop, as a part of a Child. A child that writes endlessly delays itself, not its
parent. A line that cannot be logged is lost alone; the first is reported.

The lines of a Consumer carry the labels of the message that wrote them (`ipc/marks.py`).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from mqworker.ipc.frames import unread
from mqworker.ipc.lines import LineCutter
from mqworker.ipc.marks import split
from mqworker.ipc.records import LogEvent

TAIL = 8192  # bytes kept
# With these begins what faulthandler writes about a crash, and in that the stack of the thread in which it happened:
FATAL, CRASH = "Fatal Python error: ", "Current thread 0x"
HOLDS = 16384  # bytes that the pipe should hold, and one read takes: thousands of lines, and the loop has other work

log = logging.getLogger("mqworker.ipc.output")


def no_labels(_number: int) -> dict[str, Any]:
    """Label nothing: the output of a process that has no messages."""
    return {}


class OutputReader:
    """Reads one pipe until `finish`; its owner closes the descriptor.

    `token` is in the marks of this child, `in_hand` returns the number of the message in hand (0: none), `labels` the
    labels of a message by its number.
    """

    def __init__(
        self,
        fd: int,
        process: str,
        pid: int,
        stage: str,
        log: Callable[[LogEvent], None],
        token: str,
        in_hand: Callable[[], int] = int,
        labels: Callable[[int], dict[str, Any]] = no_labels,
    ) -> None:
        self._fd = fd
        self._process = process
        self._pid = pid
        self._stage = stage
        self._log = log
        self._token = token
        self._in_hand = in_hand
        self._labels = labels
        self._lines = LineCutter(TAIL)
        self._line_labels: dict[str, Any] = {}
        self._failed = False  # a line could not be logged
        self._unsure: tuple[bytes, dict[str, Any]] = (b"", {})  # read while a message ended, and that message's labels
        self._crash = ""  # the stack of the thread that crashed: those of others may fill the tail
        self._crashing = False  # it has not ended
        self._fatal = ""  # what kind of crash it is
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    @property
    def tail(self) -> str:
        """Return the last 8 KiB, as text."""
        return self._lines.tail

    @property
    def crash(self) -> str:
        """Return the last stack that faulthandler wrote of a thread that crashed, as text; "" for none."""
        return self._crash

    def catch_up(self, *, read: bool = True) -> None:
        """Read what is in the pipe now, not what is written meanwhile; a line ends with its message. Never raises."""
        try:
            self._catch_up(read=read)
        except Exception as error:  # noqa: BLE001 - what a message printed must not cost its outcome
            self._report_failure(error)

    def finish(self) -> None:
        """Read only what the dead child left in the pipe: a copy that it forked may keep writing."""
        self.catch_up()
        self._log_lines(self._lines.end())
        self._loop.remove_reader(self._fd)

    def _catch_up(self, *, read: bool) -> None:
        left = 0
        if read:
            with contextlib.suppress(OSError):
                left = unread(self._fd)
        while left > 0 and (taken := self._read()):
            left -= taken
        self._settle({})
        if self._lines.unfinished and self._line_labels:
            in_hand = self._in_hand()
            if not in_hand or self._labels(in_hand) != self._line_labels:
                self._log_lines(self._lines.end())

    def _read(self) -> int:
        before = self._in_hand()
        try:
            data = os.read(self._fd, fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ))  # all that it can hold: see marks
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._fd)
            return 0
        sure = before == self._in_hand()
        marked, rest = split(data, self._token)
        self._settle(marked[0][1] if marked else {})
        for text, labels in marked:
            self._take(text, labels)
            self._log_lines(self._lines.end())
        labels = self._labels(before) if before and rest else {}
        if sure or not labels:
            self._take(rest, labels)
        else:
            self._unsure = rest, labels
        return len(data)

    def _settle(self, ended: dict[str, Any]) -> None:
        """Log what was read while the message changed: it is of the message before if that one's mark came later."""
        (text, labels), self._unsure = self._unsure, (b"", {})
        if text:
            self._take(text, labels if labels == ended else {})

    def _take(self, text: bytes, labels: dict[str, Any]) -> None:
        """Log the lines of a text that one message has written, and keep the beginning of the next."""
        if labels != self._line_labels:
            self._log_lines(self._lines.end())
        self._line_labels = labels
        self._log_lines(self._lines.take(text))

    def _log_lines(self, lines: list[str]) -> None:
        who = self._process, self._pid, self._stage
        for line in lines:
            if self._crashing or line.startswith((FATAL, CRASH)):
                self._keep_crash(line)
            try:
                self._log(LogEvent(time.time(), logging.INFO, "output", line, *who, self._line_labels))
            except Exception as error:  # noqa: BLE001 - only this line is lost
                self._report_failure(error)

    def _keep_crash(self, line: str) -> None:
        if line.startswith(FATAL):
            self._fatal = f"{line}\n\n"
            return
        if line.startswith(CRASH):
            self._crash, self._fatal, self._crashing = self._fatal, "", True
        elif not line.startswith("  ") or len(self._crash) > TAIL:
            self._crashing = False
            return
        self._crash += f"{line}\n"

    def _report_failure(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            what = "the output of process %d cannot be logged, or only in part"
            log.error(what, self._pid, exc_info=error, extra={"event": "record_failed"})
