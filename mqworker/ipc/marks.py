"""Which message a line of output belongs to: the marks that a Consumer writes into the pipe of its stdout and stderr.

A line carries the labels of the message in hand, whoever wrote it: Python, native code, a program that the handler
runs. When a message ends and the pipe still holds something, the Consumer writes a mark with its labels behind it.
Because one read takes all that the pipe holds, what is read without a mark behind it belongs to the message in hand. If
that changes at the very moment of the read, the next mark tells whose it was; without one, the lines get no labels
rather than wrong ones. What cannot be known: what a thread or program writes counts for the message in hand, even if an
earlier one has started it.

Mark runs in a Consumer's main thread; its parent splits what it reads with `split`, in `ipc/output.py`.
"""

import contextlib
import fcntl
import json
import os
import re
import termios
from collections.abc import Callable, Sequence
from typing import Any, TextIO

MARK = b"\x00mqworker:"  # then the labels as JSON and the end of the line: too short to be torn in a pipe

_EMPTY = bytes(4)
_MARKS = re.compile(MARK + rb"([^\n]*)\n")


class Mark:
    """Writes marks to the pipe `fd`, behind what `streams` hold back."""

    def __init__(self, fd: int, streams: Sequence[TextIO]) -> None:
        self._fd = os.dup(fd)  # the pipe, wherever user code directs its output
        self._streams = tuple(streams)
        self._held = bytearray(4)  # filled by the kernel: the bytes in the pipe

    def end(self, labels: Callable[[], dict[str, Any]]) -> bool:
        """Note the end of a message, and return whether something is unread; costs less than 1 us if nothing is."""
        try:
            for stream in self._streams:
                stream.flush()
        except (OSError, ValueError):
            self._streams = ()  # user code has closed them: nothing is held back
        try:
            fcntl.ioctl(self._fd, termios.FIONREAD, self._held)
            if self._held == _EMPTY:
                return False
            os.write(self._fd, MARK + json.dumps(labels()).encode() + b"\n")
        except OSError:
            return False  # user code has closed the pipe: nobody reads what is printed
        return True


def split(data: bytes) -> tuple[list[tuple[bytes, dict[str, Any]]], bytes]:
    """Return each text that a mark follows, with the labels in the mark, and the text behind the last mark."""
    *parts, rest = _MARKS.split(data)
    return list(zip(parts[::2], map(_labels, parts[1::2]), strict=True)), rest


def _labels(told: bytes) -> dict[str, Any]:
    """Return the labels in a mark; empty if user code wrote what only looks like one."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        said = json.loads(told)
        return {"message_id": str(said["message_id"]), "attempt": int(said["attempt"])}
    return {}
