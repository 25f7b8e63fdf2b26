"""The in-hand register: which message each Consumer works on and since when, in memory shared with its Producer.

A memory-mapped file of the stage, in the state folder. Only a Consumer writes `seq`, `started` and `fingerprint` of its
slot, before the handler runs; only the Producer writes `stop`, and the header behind the slots: which life of the tree
this is, when it was last seen alive, whether it is ending by order, and which message runs isolated. There is no lock:
each word has one writer. The file outlives the tree, so after the whole tree has died the next Producer knows which
messages were in hand.
"""

import mmap
import os
import secrets
import uuid
from pathlib import Path
from typing import NamedTuple

from mqworker.ipc.mapped import map_private
from mqworker.ipc.proc import boot_id

SLOT = 64  # bytes: seq (8) started (8) stop (8) fingerprint (32), and 8 free
COUNT = 2048
HEADER = SLOT * COUNT  # offset of: boot id (16) fingerprint (32) isolated (8) ending (8) pulse (8) life (8)
SIZE = HEADER + 128
_BOOT, _FINGERPRINT = slice(0, 16), slice(16, 48)
_ISOLATED, _ENDING, _PULSE, _LIFE = 6, 7, 8, 9  # words of 8 bytes


class LastLife(NamedTuple):
    """The last tree that wrote the register, as the register describes it."""

    life: int  # a random number; 0: there was none
    this_boot: bool  # it lived after the last boot of the machine
    ending: bool  # it was ending by order
    pulse: float  # when it was last seen alive (monotonic)
    isolated: bytes  # fingerprint of the message that ran isolated; empty: none
    in_hand: dict[bytes, float]  # fingerprint of each message in hand -> when it began (monotonic)


class InHandRegister:
    """The file, mapped; owned by the Producer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = map_private(path, SIZE)
        self._header = memoryview(self._map)[HEADER:]
        self._words = self._header.cast("Q")
        self._times = self._header.cast("d")

    def last_life(self) -> LastLife:
        """Return what the previous tree left behind."""
        in_hand: dict[bytes, float] = {}
        for number in range(COUNT):
            slot = Slot(memoryview(self._map)[number * SLOT : (number + 1) * SLOT])
            if slot.seq and slot.started:  # one that waited for a shared object has killed nobody
                in_hand[slot.fingerprint] = min(slot.started, in_hand.get(slot.fingerprint, slot.started))
        return LastLife(
            self._words[_LIFE],
            bytes(self._header[_BOOT]) == uuid.UUID(boot_id()).bytes,
            bool(self._words[_ENDING]),
            self._times[_PULSE],
            bytes(self._header[_FINGERPRINT]) if self._words[_ISOLATED] else b"",
            in_hand,
        )

    def begin_life(self, now: float) -> None:
        """Forget the previous tree; the life's number is written last, so a kill in between begins no new life."""
        self._map[:HEADER] = bytes(HEADER)
        self.end_isolation()
        self._words[_ENDING] = 0
        self._times[_PULSE] = now
        self._header[_BOOT] = uuid.UUID(boot_id()).bytes
        self._words[_LIFE] = secrets.randbits(63) | 1

    def pulse(self, now: float) -> None:
        """Note that the tree is alive."""
        self._times[_PULSE] = now

    def end_life(self) -> None:
        """Note that the tree ends by order: whatever is in hand then is not to blame."""
        self._words[_ENDING] = 1

    def isolate(self, fingerprint: bytes) -> None:
        """Note, before it is dispatched, that this message runs isolated."""
        self._header[_FINGERPRINT] = fingerprint
        self._words[_ISOLATED] = 1

    def end_isolation(self) -> None:
        """Note that nothing runs isolated any more."""
        self._words[_ISOLATED] = 0

    def slot(self, number: int) -> "Slot":
        """Return one slot, cleared."""
        if not 0 <= number < COUNT:
            raise IndexError(f"slot {number}: there are {COUNT}")
        view = memoryview(self._map)[number * SLOT : (number + 1) * SLOT]
        view[:] = bytes(SLOT)
        return Slot(view)


def open_slot(path: Path, number: int) -> "Slot":
    """Map one slot, in its Consumer; raises OSError."""
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
        """Note that the work on it has ended."""
        self._words[0] = 0

    def wait(self) -> float:
        """Note that the message in hand waits for something that is not its own; returns when it began."""
        began, self._times[1] = self._times[1], 0.0
        return began

    def go_on(self, began: float) -> None:
        """Note that it goes on; `began`: as if it had not waited."""
        self._times[1] = began

    @property
    def seq(self) -> int:
        """The message in hand; 0: none."""
        return self._words[0]

    @property
    def started(self) -> float:
        """When it began, 0 while it waits; valid only if `seq` is the same before and after reading this."""
        return self._times[1]

    @property
    def fingerprint(self) -> bytes:
        """Which message it is."""
        return bytes(self._bytes[24:56])

    @property
    def stop(self) -> int:
        """The number of the chunk of which the Consumer must begin nothing more; 0: none."""
        return self._words[2]

    @stop.setter
    def stop(self, chunk: int) -> None:
        self._words[2] = chunk
