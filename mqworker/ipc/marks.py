"""Which message a line of output belongs to: the marks that a Consumer writes into the pipe of its stdout and stderr.

A line carries the labels of the message in hand, whoever wrote it: Python, native code, a program that the handler
runs. When a message ends and the pipe still holds something, the Consumer writes a mark with its labels behind it.
Because one read takes all that the pipe holds, what is read without a mark behind it belongs to the message in hand. If
that changes at the very moment of the read, the next mark tells whose it was; without one, the lines get no labels
rather than wrong ones. Each Consumer's marks have a random token, so what a handler prints of a body is never one. What
cannot be known: what a thread or program writes counts for the message in hand, even if an earlier one has started it,
and so does what C holds back, whenever C flushes it.

Mark runs in a Consumer's main thread; its parent splits what it reads with `split`, in `ipc/output.py`.
"""

import contextlib
import fcntl
import json
import os
import re
import sys
import termios
from collections.abc import Callable
from typing import Any, TextIO

_EMPTY = bytes(4)


def mark(token: str) -> bytes:
    """Return how a mark begins; its labels as JSON and the end of the line follow: too short to be torn in a pipe."""
    return b"\x00mqworker:" + token.encode() + b":"


class Mark:
    """Writes marks to the pipe `fd`, behind what `streams` and the present stdout and stderr of Python hold back."""

    def __init__(self, fd: int, token: str, streams: tuple[TextIO, TextIO]) -> None:
        """`streams`: stdout and stderr as they are at first."""
        self._fd = os.dup(fd)  # the pipe, wherever user code directs its output
        self._mark = mark(token)
        self._streams: tuple[TextIO | None, ...] = streams
        self._held = bytearray(4)  # filled by the kernel: the bytes in the pipe

    def end(self, labels: Callable[[], dict[str, Any]]) -> bool:
        """Note the end of a message, and return whether something is unread; costs about 1 us if nothing is."""
        streams = self._streams
        now = getattr(sys, "stdout", None), getattr(sys, "stderr", None)
        if now != streams:  # user code has put others in their place
            streams = (*now, *streams)
        for stream in streams:
            try:  # noqa: SIM105 - `suppress` would double the cost of a message that prints nothing
                stream.flush()  # type: ignore[union-attr]  # user code may have closed it, or put anything in its place
            except Exception:  # noqa: BLE001, S110 - as above: nothing can be flushed then
                pass
        try:
            fcntl.ioctl(self._fd, termios.FIONREAD, self._held)
            if self._held == _EMPTY:
                return False
            line = self._mark + json.dumps(labels()).encode() + b"\n"
            try:
                os.write(self._fd, line)
            except BlockingIOError:  # a program that shares the pipe made it non-blocking, and it is full
                os.set_blocking(self._fd, True)
                os.write(self._fd, line)
        except OSError:
            return False  # user code has closed the pipe: nobody reads what is printed
        return True


def split(data: bytes, token: str) -> tuple[list[tuple[bytes, dict[str, Any]]], bytes]:
    """Return each text that a mark follows, with the labels in the mark, and the text behind the last mark."""
    *parts, rest = re.split(re.escape(mark(token)) + rb"([^\n]*)\n", data)
    return list(zip(parts[::2], map(_labels, parts[1::2]), strict=True)), rest


def _labels(text: bytes) -> dict[str, Any]:
    """Return the labels in a mark; empty if user code has torn it."""
    with contextlib.suppress(Exception):
        said = json.loads(text)
        if (type(said["message_id"]), type(said["attempt"])) == (str, int):
            return {"message_id": said["message_id"], "attempt": said["attempt"]}
    return {}
