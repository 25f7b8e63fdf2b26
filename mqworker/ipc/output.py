"""What a child writes to its stdout and stderr: logs it line by line, keeps the tail as evidence.

OutputReader runs on the parent's loop, as a part of a Child. It never trusts the text: long lines are cut, bytes that
are not UTF-8 are escaped, and a child that writes endlessly delays itself, not its parent.

The lines of a Consumer carry the labels of the message that wrote them (`ipc/marks.py`).
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from mqworker.ipc.frames import unread
from mqworker.ipc.marks import split
from mqworker.ipc.messages import LogEvent

TAIL = 8192  # bytes kept
LINE = 8192  # bytes after which a line without an end is cut
READ = 16384  # bytes at a time, which may be thousands of lines: the loop has other work. Also what the pipe holds.


def no_labels(_number: int) -> dict[str, Any]:
    """Label nothing: the output of a process that has no messages."""
    return {}


class OutputReader:
    """Reads one pipe until `finish`; its owner closes the descriptor.

    `in_hand` returns the number of the message in hand (0: none), `labels` the labels of a message by its number.
    """

    def __init__(
        self,
        fd: int,
        process: str,
        pid: int,
        stage: str,
        log: Callable[[LogEvent], None],
        in_hand: Callable[[], int] = int,
        labels: Callable[[int], dict[str, Any]] = no_labels,
    ) -> None:
        self._fd = fd
        self._process = process
        self._pid = pid
        self._stage = stage
        self._log = log
        self._in_hand = in_hand
        self._labels = labels
        self._line = bytearray()  # the beginning of a line, or what follows a line that was cut
        self._line_labels: dict[str, Any] = {}
        self._cut = False  # the rest of the present line is not logged
        self._unsure: tuple[bytes, dict[str, Any]] = (b"", {})  # read while a message ended, and that message's labels
        self._tail = bytearray()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    @property
    def tail(self) -> str:
        """Return the last 8 kB, as text."""
        return self._tail.decode("utf-8", "backslashreplace")

    def catch_up(self, *, read: bool = True) -> None:
        """Read what is in the pipe now, and not what is written meanwhile; a line ends with its message."""
        left = 0
        if read:
            with contextlib.suppress(OSError):
                left = unread(self._fd)
        while left > 0 and (taken := self._read()):
            left -= taken
        self._settle({})
        if self._line and self._line_labels:
            in_hand = self._in_hand()
            if not in_hand or self._labels(in_hand) != self._line_labels:
                self._end_line()

    def finish(self) -> None:
        """Read only what the dead child left in the pipe: a copy that it forked may keep writing."""
        self.catch_up()
        self._end_line()
        self._loop.remove_reader(self._fd)

    def _read(self) -> int:
        before = self._in_hand()
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._fd)
            return 0
        sure = before == self._in_hand()
        marked, rest = split(data)
        self._settle(marked[0][1] if marked else {})
        for text, labels in marked:
            self._take(text, labels)
            self._end_line()
        labels = self._labels(before) if before else {}
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
            self._end_line()
        self._line_labels = labels
        self._tail += text
        del self._tail[:-TAIL]
        *lines, rest = text.split(b"\n")
        for line in lines:
            self._line += line
            self._end_line()
        self._line += rest
        if len(self._line) > LINE:
            self._end_line()
            self._cut = True

    def _end_line(self) -> None:
        if not self._cut and self._line.strip():
            said = self._line[:LINE].decode("utf-8", "backslashreplace")
            who = self._process, self._pid, self._stage
            self._log(LogEvent(time.time(), logging.INFO, "output", said, *who, self._line_labels))
        self._cut = False
        self._line.clear()
