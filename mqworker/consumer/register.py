"""The in-hand register: which message each Consumer works on and since when, in memory shared with its Producer.

A memory-mapped file of the stage, in the state folder. Only a Consumer writes `seq`, `started` and `fingerprint` of its
slot, before the handler runs. Only the Producer writes `stop`, and the header after the slots: which life of the tree
this is, when it was last seen alive, whether it is ending by order, and which message runs isolated. There is no lock:
each word has one writer. The file outlives the tree, so that after the whole tree has died, the next Producer knows
which messages were in hand.

A Consumer that works on several messages at once has a slot for each of them in a block of its own, after the header;
its own slot then has words about the Consumer itself. The header has the number of slots in a block; 0 if there are no
blocks.

Longer than most modules, because the layout of the file and the code of both sides that read and write it belong
together.
"""

import contextlib
import mmap
import os
import secrets
import uuid
from pathlib import Path
from typing import NamedTuple

from mqworker.config.model import MOST_SEATS, most_consumers
from mqworker.ipc.mapped import map_private
from mqworker.ipc.proc import boot_id

SLOT = 64  # bytes: seq (8) started (8) stop (8) fingerprint (32), and 8 free
COUNT = 2048
HEADER = SLOT * COUNT  # offset of: boot id (16) fingerprint (32) isolated (8) ending (8) pulse (8) life (8)
BLOCKS = 1 << 18  # offset of the blocks; before it, the file has the layout that versions without blocks know
LARGEST = BLOCKS + SLOT * 2 * 16 * MOST_SEATS  # bytes of a file
_BOOT, _FINGERPRINT = slice(0, 16), slice(16, 48)
_ISOLATED, _ENDING, _PULSE, _LIFE, _SEATS = 6, 7, 8, 9, 10  # words of 8 bytes
_WHOLE = 128  # bytes of the header
_UNUSED = bytes(SLOT)  # a slot without a message and without seats, as nearly all of them are
_KINDS = ("", "threads", "tasks")  # by the number in the last word of a Consumer's own slot


class LastLife(NamedTuple):
    """The last tree that wrote the register, as the register describes it."""

    life: int  # a random number; 0 if there was no life
    this_boot: bool  # it lived after the last boot of the machine
    ending: bool  # it was ending by order
    pulse: float  # when it was last seen alive (monotonic)
    isolated: bytes  # fingerprint of the message that ran isolated; empty if none did
    in_hand: dict[bytes, float]  # fingerprint of each message in hand -> when it began (monotonic)


class InHandRegister:
    """The file, mapped; owned by the Producer."""

    def __init__(self, path: Path, seats: int = 1) -> None:
        """`seats`: how many messages one Consumer may work on at once."""
        self.path = path
        self.places = places(seats)  # places for Consumers
        self._seats = seats
        wanted = BLOCKS + self.places * seats * SLOT
        with contextlib.suppress(FileNotFoundError):
            wanted = max(wanted, min(path.stat().st_size, LARGEST))  # the blocks of the previous life
        self._map = map_private(path, wanted)
        self._header = memoryview(self._map)[HEADER : HEADER + _WHOLE]
        self._words = self._header.cast("Q")
        self._times = self._header.cast("d")

    def last_life(self) -> LastLife:
        """Return what the previous tree left behind."""
        in_hand: dict[bytes, float] = {}
        seats = self._words[_SEATS] if self._words[_SEATS] <= (len(self._map) - BLOCKS) // SLOT else 0
        for number in range(COUNT):
            if self._map[number * SLOT : (number + 1) * SLOT] == _UNUSED:
                continue
            own = self._slot(number * SLOT)
            block = range(BLOCKS + number * seats * SLOT, BLOCKS + (number + 1) * seats * SLOT, SLOT)
            slots = [own]
            if own.kind and block and block.stop <= len(self._map):
                slots = [self._slot(at) for at in block]
            if own.kind == "tasks":  # a waiting task kills nothing, and otherwise all of them would be suspects
                slots = [slot for slot in slots if slot.seq == own.seq]
            for slot in slots:
                if slot.seq and slot.started:  # a message that waited for a shared object has killed nothing
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
        """Forget the previous tree. The life's number is written last, so that a kill in between begins no new life."""
        self._map[:HEADER] = bytes(HEADER)
        self._map[BLOCKS:] = bytes(len(self._map) - BLOCKS)
        self._words[_SEATS] = self._seats
        self.end_isolation()
        self._words[_ENDING] = 0
        self._times[_PULSE] = now
        self._header[_BOOT] = uuid.UUID(boot_id()).bytes
        self._words[_LIFE] = secrets.randbits(63) | 1

    def pulse(self, now: float) -> None:
        """Note that the tree is alive."""
        self._times[_PULSE] = now

    def end_life(self) -> None:
        """Note that the tree ends by order, so that nothing in hand is charged."""
        self._words[_ENDING] = 1

    def isolate(self, fingerprint: bytes) -> None:
        """Note, before it is dispatched, that this message runs isolated."""
        self._header[_FINGERPRINT] = fingerprint
        self._words[_ISOLATED] = 1

    def end_isolation(self) -> None:
        """Note that nothing runs isolated any more."""
        self._words[_ISOLATED] = 0

    def slot(self, number: int) -> "Slot":
        """Return the slot of a Consumer, cleared."""
        if not 0 <= number < self.places:
            raise IndexError(f"slot {number}: there are {self.places}")
        view = memoryview(self._map)[number * SLOT : (number + 1) * SLOT]
        view[:] = bytes(SLOT)
        return Slot(view)

    def seats(self, number: int) -> "Seats":
        """Return the words of a Consumer that works on several messages at once, cleared; they include its own slot."""
        own = self.slot(number)
        block = memoryview(self._map)[_block(number, self._seats)]
        block[:] = bytes(len(block))
        return Seats(own, block)

    def _slot(self, at: int) -> "Slot":
        return Slot(memoryview(self._map)[at : at + SLOT])


def places(seats: int) -> int:
    """Return how many Consumers there can be, if each works on that many messages at once."""
    return 2 * most_consumers(seats)


def _block(number: int, seats: int) -> slice:
    return slice(BLOCKS + number * seats * SLOT, BLOCKS + (number + 1) * seats * SLOT)


def open_slot(path: Path, number: int) -> "Slot":
    """Map the slot of a Consumer, in the Consumer's process; raises OSError."""
    return Slot(memoryview(_map(path))[number * SLOT : (number + 1) * SLOT])


def open_seats(path: Path, number: int, seats: int) -> "Seats":
    """Map the words of a Consumer that works on several messages at once, in its process; raises OSError."""
    whole = memoryview(_map(path))
    return Seats(Slot(whole[number * SLOT : (number + 1) * SLOT]), whole[_block(number, seats)])


def _map(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return mmap.mmap(fd, 0)
    finally:
        os.close(fd)


class Seats:
    """The words of a Consumer that works on several messages at once; a seat is a position for one of them.

    Only the Consumer writes them, except for `stop`.
    """

    def __init__(self, own: "Slot", block: memoryview) -> None:
        self.own = own
        self.slots = tuple(Slot(block[at : at + SLOT]) for at in range(0, len(block), SLOT))

    def begin(self, kind: str, loop: int) -> None:
        """Note that this Consumer has seats, how it works on messages (in threads or tasks), and the loop's thread."""
        self.own._words[4] = loop
        self.own.kind = kind

    @property
    def loop(self) -> int:
        """The id of the loop's thread, as from `threading.get_ident`; 0 if there is no loop."""
        return self.own._words[4]

    def run(self, seq: int, now: float) -> None:
        """Note that the task of this message has the loop from now on; 0 if none has it."""
        if seq:
            self.own._times[1] = now
        self.own._words[0] = seq

    @property
    def running(self) -> int:
        """The message whose task has the loop; 0 for none."""
        return self.own._words[0]

    @property
    def running_since(self) -> float:
        """Since when it has the loop; valid only if `running` is the same before and after reading this."""
        return self.own._times[1]

    @property
    def pulse(self) -> float:
        """When the Consumer last showed that its loop, or its threads, made progress while it had messages."""
        return self.own._times[3]

    @pulse.setter
    def pulse(self, now: float) -> None:
        self.own._times[3] = now

    @property
    def stop(self) -> int:
        """The number of the chunk of which the Consumer must begin nothing more; 0 for none."""
        return self.own.stop

    @stop.setter
    def stop(self, chunk: int) -> None:
        self.own.stop = chunk

    def working(self) -> dict[int, float]:
        """Return the messages in hand, and when each began, adjusted for waits; 0 while it waits."""
        found = {}
        for slot in self.slots:
            seq = slot.seq
            if seq:
                started = slot.started
                if slot.seq == seq:
                    found[seq] = started
        return found

    def thread_of(self, seq: int) -> int:
        """Return the id of the thread that a message runs in, as from `threading.get_ident`; 0 if it is not known."""
        return next((slot.thread for slot in self.slots if slot.seq == seq), 0)


class Slot:
    """The bytes of one Consumer, or in a block those of one message; each word is written in one store."""

    def __init__(self, view: memoryview) -> None:
        self._words = view.cast("Q")
        self._times = view.cast("d")
        self._bytes = view

    def begin(self, seq: int, fingerprint: bytes, now: float) -> None:
        """Note that work on a message begins."""
        self._bytes[24:56] = fingerprint
        self._times[1] = now
        self._words[0] = seq

    def end(self) -> None:
        """Note that work on the message has ended."""
        self._words[0] = 0

    def wait(self) -> float:
        """Note that the message in hand waits for something that is not its fault; returns when it began."""
        began, self._times[1] = self._times[1], 0.0
        return began

    def go_on(self, began: float) -> None:
        """Note that the message goes on; `began` is adjusted for the wait."""
        self._times[1] = began

    @property
    def seq(self) -> int:
        """The message in hand; 0 for none."""
        return self._words[0]

    @property
    def started(self) -> float:
        """When the message began, 0 while it waits; valid only if `seq` is the same before and after reading this."""
        return self._times[1]

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the message."""
        return bytes(self._bytes[24:56])

    @property
    def kind(self) -> str:
        """How its Consumer works on several messages at once: threads or tasks; "" if it does not."""
        return _KINDS[self._words[7]] if self._words[7] < len(_KINDS) else ""

    @kind.setter
    def kind(self, kind: str) -> None:
        self._words[7] = _KINDS.index(kind)

    @property
    def thread(self) -> int:
        """In a block: the id of the thread that the message runs in; 0 if it has no thread of its own."""
        return self._words[2]

    @thread.setter
    def thread(self, ident: int) -> None:
        self._words[2] = ident

    @property
    def stop(self) -> int:
        """In a Consumer's own slot: the number of the chunk of which it must begin nothing more; 0 for none."""
        return self._words[2]

    @stop.setter
    def stop(self, chunk: int) -> None:
        self._words[2] = chunk
