"""What a child writes to its stdout and stderr: logs it line by line, keeps the tail as evidence.

Runs on the parent's loop, as a part of a Child. Never trusts the text: long lines are cut, bytes that are not UTF-8 are
escaped, and a child that writes endlessly delays itself, not its parent.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable

from mqworker.ipc.frames import unread
from mqworker.ipc.messages import LogEvent

TAIL = 8192  # bytes kept
LINE = 8192  # bytes after which a line without an end is cut
READ = 16384  # bytes at a time: they may be thousands of lines, and the loop has other work


class OutputReader:
    """Reads one pipe until `finish`; its owner closes the descriptor."""

    def __init__(self, fd: int, process: str, pid: int, stage: str, log: Callable[[LogEvent], None]) -> None:
        self._fd = fd
        self._process = process
        self._pid = pid
        self._stage = stage
        self._log = log
        self._line = bytearray()
        self._cut = False  # the rest of the present line is not logged
        self._tail = bytearray()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    @property
    def tail(self) -> str:
        """Return the last 8 kB, as text."""
        return self._tail.decode("utf-8", "backslashreplace")

    def finish(self) -> None:
        """Read only what the dead child left in the pipe: a copy that it forked may keep writing."""
        left = 0
        with contextlib.suppress(OSError):
            left = unread(self._fd)
        while left > 0 and (taken := self._read()):
            left -= taken
        if self._line:
            self._log_line(bytes(self._line))
            self._line.clear()
        self._loop.remove_reader(self._fd)

    def _read(self) -> int:
        try:
            data = os.read(self._fd, READ)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._fd)
            return 0
        self._tail += data
        del self._tail[:-TAIL]
        self._line += data
        *lines, rest = self._line.split(b"\n")
        for line in lines:
            if not self._cut:
                self._log_line(bytes(line[:LINE]))
            self._cut = False
        if len(rest) > LINE and not self._cut:
            self._log_line(bytes(rest[:LINE]))
            self._cut = True
        self._line = bytearray() if self._cut else rest
        return len(data)

    def _log_line(self, line: bytes) -> None:
        if line.strip():
            text = line.decode("utf-8", "backslashreplace")
            self._log(LogEvent(time.time(), logging.INFO, "output", text, self._process, self._pid, self._stage))
