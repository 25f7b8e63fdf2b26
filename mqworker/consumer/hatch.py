"""The hatch: large results on their way up, in memory that a Consumer shares with its Producer.

Through the pipe, each byte would be copied nine times and checked twice, mostly on the Producer's loop; through the
hatch, it is copied twice. Each lane has one anonymous memory file with PLACES places for a piece each, and a counter of
the free places. The Consumer waits for a free place, writes a piece into it, and announces it in a frame (a Piece); the
Producer puts the piece where it belongs, and frees the place. So a result of any size takes little shared memory, and
the Producer copies PIECE bytes at a time. The outcome follows its pieces directly, before any other outcome, so the
pieces need no names. If the Producer has no memory for a result, or a piece is not as announced, the message fails; its
attempts limit how often.
"""

import contextlib
import os
from collections.abc import Iterator
from io import BytesIO
from multiprocessing import reduction
from typing import Any

from mqworker.consumer.inbox import identity
from mqworker.ipc.consumer_messages import Outcomes, Piece
from mqworker.ipc.pieces import put_back

PIECE = 1 << 20  # bytes
PLACES = 2  # one is filled while the other is being emptied


class Hatch:
    """Made by the Producer, passed to its Consumer at the start."""

    def __init__(self) -> None:
        fd = os.memfd_create("mqw-hatch", os.MFD_CLOEXEC)
        try:
            self._open(fd, os.eventfd(PLACES, os.EFD_CLOEXEC | os.EFD_SEMAPHORE))
        except OSError:
            os.close(fd)
            raise

    def __getstate__(self) -> Any:
        """Pickle the hatch; possible only while a Consumer is being spawned."""
        return reduction.DupFd(self._fd), reduction.DupFd(self._free)

    def __setstate__(self, handles: Any) -> None:
        self._open(*(handle.detach() for handle in handles))

    def _open(self, fd: int, free: int) -> None:
        self._fd, self._free = fd, free
        self._same = identity(fd)
        self._next = 0  # the place for the next piece
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.used = False  # pieces have come since the last outcomes
        self._whole: list[bytes] = []
        self._body: BytesIO | None = None  # the body of which some pieces are still to come
        self._problem: Exception | None = None  # why some body is not there

    # --- the Consumer's side

    def put(self, body: bytes) -> Iterator[Piece]:
        """Write a body piece by piece, each once there is a place for it, and yield each piece to be announced.

        Raises OSError when there is no memory, or if user code has closed the file.
        """
        view = memoryview(body)
        for start in range(0, len(body), PIECE):
            left = piece = view[start : start + PIECE]
            os.read(self._free, 8)  # `os.eventfd_read` would not go on after a signal
            if identity(self._fd) != self._same:
                raise OSError("the memory for large results was closed")
            while left:
                left = left[os.pwrite(self._fd, left, self._next * PIECE + len(piece) - len(left)) :]
            yield Piece(self._next, len(piece), len(body))
            self._next = (self._next + 1) % PLACES

    # --- the Producer's side

    def take(self, piece: Piece) -> None:
        """Put a piece where it belongs, and free its place."""
        self.used = True
        try:
            if self._problem is None:
                self._add(piece)
        except (MemoryError, OSError, ValueError) as error:
            self._problem = error
        finally:
            os.eventfd_write(self._free, 1)

    def _add(self, piece: Piece) -> None:
        if self._body is None:
            self._body = BytesIO(bytes(piece.whole))  # it never grows, so it is never copied
        body, start = self._body, self._body.tell()
        with body.getbuffer() as buffer, buffer[start : start + piece.size] as room:
            there = os.preadv(self._fd, [room], piece.place * PIECE)
        if there != piece.size:
            raise ValueError(f"{there:,} bytes of {piece.size:,} are there")
        body.seek(there, os.SEEK_CUR)
        if body.tell() == piece.whole:
            self._whole.append(body.getvalue())  # shared with the BytesIO, not copied
            self._body = None

    def put_back(self, outcomes: Outcomes) -> Outcomes:
        """Return the outcomes with the bodies that came before them; one that lacks a body becomes a failure."""
        bodies, problem = self._whole, self._problem
        self._begin_anew()
        return put_back(outcomes, bodies, problem)

    def close(self) -> None:
        """Free the memory, even if a process that user code has forked holds it, and close our descriptors.

        May be called again.
        """
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            os.close(self._free)
            self._fd = self._free = -1
