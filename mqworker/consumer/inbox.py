"""The inbox: the body of a large message on its way down, in memory that a Producer shares with its Consumer.

Through a pipe, the Producer would make two more copies of it, one of them on its loop, and write it in a thousand
steps. One memory file of the kernel for each lane, without a name. The Producer writes one body, then puts its chunk;
the Consumer takes the body, which empties the file, before it reports the chunk as taken. So neither ever waits for the
other. It is empty when the Producer has no memory for a body, which is then in the chunk.
"""

import contextlib
import os
import threading
from multiprocessing import reduction
from typing import Any


class Inbox:
    """Made by the Producer, passed to its Consumer at the start."""

    def __init__(self) -> None:
        self._open(os.memfd_create("mqw-inbox", os.MFD_CLOEXEC))

    def __getstate__(self) -> Any:
        """Pickle it; possible only while a Consumer is being spawned."""
        return reduction.DupFd(self._fd)

    def __setstate__(self, handle: Any) -> None:
        self._open(handle.detach())

    def _open(self, fd: int) -> None:
        self._fd = fd
        self._same = _identity(fd)
        self._using = threading.Lock()  # the Producer's feeder thread writes, its main thread closes

    def put(self, body: bytes) -> bool:
        """Write a body into the empty inbox; returns False, and leaves it empty, if there is no memory for it."""
        left = memoryview(body)
        with self._using:
            try:
                while left:
                    left = left[os.pwrite(self._fd, left, len(body) - len(left)) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, 0)
                return False
        return True

    def take(self, size: int) -> bytes:
        """Remove and return the body, which has this size; OSError when user code has closed the descriptor."""
        if _identity(self._fd) != self._same:
            raise OSError("the memory for large messages was closed")
        body = os.pread(self._fd, size, 0)
        if len(body) != size:
            raise OSError(f"{len(body):,} bytes of {size:,} are there")
        os.ftruncate(self._fd, 0)
        return body

    def close(self) -> None:
        """Close our descriptor; may be called again."""
        with self._using:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
