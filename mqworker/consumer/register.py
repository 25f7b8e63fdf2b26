"""A few bytes of shared memory for each Consumer: what it works on, since when, and a word from its Producer.

A memory-mapped file of the stage, in the state folder. The Consumer alone writes `seq`, `started` and `fingerprint` of
its slot, before the handler runs; the Producer alone writes `stop`. There is no lock: each word has one writer. The
file outlives the tree, so that after an unclean death of all of it the next Producer knows what was in hand.
"""

import mmap
import os
from pathlib import Path

SLOT = 64  # bytes: seq (8) started (8) stop (8) fingerprint (32), and 8 free
COUNT = 2048


class InHandRegister:
    """The file, mapped; owned by the Producer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, SLOT * COUNT)  # on a full disk an error now, not a SIGBUS at some later write
            self._map = mmap.mmap(fd, SLOT * COUNT)
        finally:
            os.close(fd)

    def in_hand(self) -> list[bytes]:
        """Fingerprints of the messages that were being worked on when the file was last written."""
        found = []
        for number in range(COUNT):
            slot = Slot(memoryview(self._map)[number * SLOT : (number + 1) * SLOT])
            if slot.seq:
                found.append(slot.fingerprint)
        return found

    def clear(self) -> None:
        """Forget all."""
        self._map[:] = bytes(SLOT * COUNT)

    def slot(self, number: int) -> "Slot":
        """One slot, cleared."""
        view = memoryview(self._map)[number * SLOT : (number + 1) * SLOT]
        view[:] = bytes(SLOT)
        return Slot(view)


def open_slot(path: Path, number: int) -> "Slot":
    """Map one slot in its Consumer."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        whole = mmap.mmap(fd, SLOT * COUNT)
    finally:
        os.close(fd)
    return Slot(memoryview(whole)[number * SLOT : (number + 1) * SLOT])


class Slot:
    """One Consumer's bytes; each word is written in one store."""

    def __init__(self, view: memoryview) -> None:
        self._words = view.cast("Q")
        self._times = view.cast("d")
        self._bytes = view

    def begin(self, seq: int, fingerprint: bytes, now: float) -> None:
        """Note that the work on a message begins."""
        self._bytes[24:56] = fingerprint
        self._times[1] = now
        self._words[0] = seq

    def end(self) -> None:
        """Note that it is over."""
        self._words[0] = 0

    @property
    def seq(self) -> int:
        """The message in hand; 0: none."""
        return self._words[0]

    @property
    def started(self) -> float:
        """When it began; only meaningful while `seq` is the same before and after reading this."""
        return self._times[1]

    @property
    def fingerprint(self) -> bytes:
        """Which message it is."""
        return bytes(self._bytes[24:56])

    @property
    def stop(self) -> int:
        """The number of the chunk of which nothing more is to be begun."""
        return self._words[2]

    @stop.setter
    def stop(self, chunk: int) -> None:
        self._words[2] = chunk
