"""The outbox: outcomes that a Consumer has not sent up yet, in memory that it shares with its Producer.

A Consumer gathers the outcomes of short messages for some milliseconds, and can send nothing while the next message
runs, which may take minutes or kill it. So before each message it writes the gathered outcomes here. Its Producer reads
the outbox when that message takes long, and when the Consumer has died; it may find an outcome here and receive it
again later.

Each lane has one anonymous memory file. Only the Consumer writes to it: frames (mqworker/ipc/frames.py) after two
words, the version, which changes before frames are overwritten, and the end of the last frame. There is no lock: the
reader drops frames that were overwritten while it read them, because these are then on their way up the pipe.
"""

import mmap
import os
from multiprocessing import reduction
from typing import Any

from mqworker.ipc.frames import FrameError, FrameParser, pack

SIZE = 1 << 16
_HEAD = 16  # bytes: version, end
_VERSION, _END = 0, 1


class Outbox:
    """Made by the Producer, passed to its Consumer at the start; both call `settle` after that."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("mqw-board", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, SIZE)
            self._map()
        except BaseException:
            self.settle()
            raise
        self._words[_END] = _HEAD

    def __getstate__(self) -> Any:
        """Pickle the outbox; possible only while a Consumer is being spawned."""
        return reduction.DupFd(self._fd)

    def __setstate__(self, handle: Any) -> None:
        self._fd = handle.detach()
        self._map()
        self.settle()

    def _map(self) -> None:
        self._memory = mmap.mmap(self._fd, SIZE)
        self._words = memoryview(self._memory)[:_HEAD].cast("Q")
        self._seen = (0, _HEAD)

    def settle(self) -> None:
        """Close the descriptor, which only served to pass the file on; the mapping does not need it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def add(self, payload: bytes) -> bool:
        """Append one frame; returns False when there is no room for it."""
        frame = pack(payload)
        at = self._words[_END]
        end = at + len(frame)
        if end > SIZE:
            return False
        self._memory[at:end] = frame
        self._words[_END] = end
        return True

    def clear(self) -> None:
        """Empty the outbox, because everything in it has been sent up the pipe."""
        if self._words[_END] != _HEAD:
            self._words[_END] = _HEAD
            self._words[_VERSION] += 1

    def news(self) -> list[bytes]:
        """Return the frames in the outbox, or none if nothing has changed since the last call."""
        words = self._words
        now = words[_VERSION], words[_END]
        if now == self._seen:
            return []
        self._seen = now
        data = self._memory[_HEAD : now[1]]
        if words[_VERSION] != now[0]:
            return []
        try:
            return list(FrameParser().feed(data))
        except FrameError:  # user code wrote to this memory, or the Consumer has just overwritten it
            return []
