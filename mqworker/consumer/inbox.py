"""The inbox: the body of a large message on its way down, in memory that a Producer shares with its Consumer.

Through a pipe, the Producer would make two more copies of the body, one of them on its loop, and write it in a thousand
steps. Each lane has one anonymous memory file. The Producer writes one body, then puts its chunk; the Consumer takes
the body, which empties the file, before it reports the chunk as taken. So neither ever waits for the other. If the
Producer has no memory for a body, the inbox stays empty; the chunk says so, and the message fails.
"""

import contextlib
import os
import threading
from multiprocessing import reduction
from typing import Any

STEP = 1 << 22  # bytes written at once; `close` waits for at most one such write


class Inbox:
    """Made by the Producer, passed to its Consumer at the start."""

    def __init__(self) -> None:
        self._open(os.memfd_create("mqw-inbox", os.MFD_CLOEXEC))

    def __getstate__(self) -> Any:
        """Pickle the inbox; possible only while a Consumer is being spawned."""
        return reduction.DupFd(self._fd)

    def __setstate__(self, handle: Any) -> None:
        self._open(handle.detach())

    def _open(self, fd: int) -> None:
        self._fd = fd
        self._same = identity(fd)
        self._using = threading.Lock()  # the Producer's feeder thread writes, its main thread closes

    def put(self, body: bytes) -> None:
        """Write a body into the empty inbox; raises OSError, and leaves it empty, if there is no memory for it."""
        left = memoryview(body)
        try:
            while left:
                with self._using:
                    left = left[os.pwrite(self._fd, left[:STEP], len(body) - len(left)) :]
        except OSError:
            with self._using:
                self._empty()
            raise

    def take(self, size: int) -> bytes:
        """Remove the body, which has this size, and return it.

        Raises MemoryError if there is no memory for it here, OSError if user code has closed or changed the file.
        """
        if identity(self._fd) != self._same:
            raise OSError("the memory for large messages was closed")
        try:
            body = os.pread(self._fd, size, 0)
        except MemoryError:
            raise MemoryError(f"no memory for its body of {size:,} bytes") from None
        finally:
            os.ftruncate(self._fd, 0)
        if len(body) != size:
            raise OSError(f"{len(body):,} bytes of {size:,} are there")
        return body

    def close(self) -> None:
        """Free the memory, even if a process that user code has forked holds it, and close our descriptor.

        May be called again.
        """
        with self._using:
            if self._fd >= 0:
                self._empty()
                os.close(self._fd)
                self._fd = -1

    def _empty(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)


def identity(fd: int) -> tuple[int, int]:
    """Return the identity of a descriptor's file: user code may have closed ours and opened another in its place."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
