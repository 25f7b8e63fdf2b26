"""Which lines are out, which are settled, and what may be written: all results, in the order of the lines.

Pure: no clock, no I/O. Lines are added in batches and taken one by one; each is settled in the end, and may be given
back before that to be computed again. `portion` returns what has become ready since its last call: the results and dead
letters of all lines before the first unsettled one. Lines and bytes count toward the limits until their portion is
stored; so the limits also cover results that wait for a slow line, and those that wait for the disk.
"""

import heapq
from collections import deque
from typing import NamedTuple

from mqworker.brokers.files.reader import LineBatch

MOST_LINES = 100_000  # lines that are not stored yet, at most
MOST_BYTES = 256 << 20  # bytes of those lines and their results, at most
AHEAD = 2_000  # lines that should be ready to be taken


class Line:
    """One line of the input, until its results are stored."""

    __slots__ = ("body", "dead", "length", "number", "offset", "properties", "results", "settled", "size", "tag")

    def __init__(self, number: int, offset: int, body: bytes, size: int, length: int) -> None:
        self.number = number  # from 1
        self.offset = offset  # in the input, decompressed
        self.body = body  # empty if it is too long
        self.size = size  # bytes in the input, with the newline
        self.length = length  # bytes in the input, without the newline
        self.properties = b""  # of the message, for a further attempt
        self.tag = 0  # of the delivery that may settle it; 0: none
        self.results: list[bytes] = []
        self.dead = b""  # its dead letter
        self.settled = False

    @property
    def weight(self) -> int:
        """Bytes that the line and its results take."""
        return len(self.body) + len(self.dead) + sum(map(len, self.results))


class Extent(NamedTuple):
    """How far the input is done."""

    line: int = 0  # this many lines
    offset: int = 0  # this many bytes, decompressed
    digest: str = ""  # of those bytes; "": there are none


class Portion(NamedTuple):
    """What is to be stored together."""

    results: list[bytes]
    dead: list[bytes]
    place: Extent  # after the last of its lines
    lines: int
    weight: int


class Window:
    """See the module head. `begin`: what is stored already."""

    def __init__(self, begin: Extent, most_lines: int = MOST_LINES, most_bytes: int = MOST_BYTES) -> None:
        self.ended = False  # no further batch will come
        self.line = begin.line  # lines that are settled, without a gap
        self.behind = 0  # settled lines that wait for others
        self._digest = begin.digest  # of everything before the first batch
        self._position = 0  # the corresponding offset in the file itself
        self._batches: deque[LineBatch] = deque()  # batches whose lines are not all settled
        self._passed = 0  # settled lines of the first of them
        self._unread: deque[LineBatch] = deque()  # batches whose lines are not all taken
        self._next = 0  # the place of the next line in the first of them
        self._at = begin.offset  # where that line begins
        self._fresh = 0  # lines that have not been taken
        self._open: deque[Line] = deque()  # taken, from the first unsettled one on
        self._back: list[tuple[int, Line]] = []  # heap of those to be taken again
        self._ready: list[Line] = []  # settled, for the next portion
        self._most_lines, self._most_bytes = most_lines, most_bytes
        self._lines = self._bytes = 0  # taken, but not stored

    # --- lines in

    @property
    def wants(self) -> bool:
        """Whether another batch should be added."""
        return not self.ended and self._fresh < AHEAD and self._room()

    def add(self, batch: LineBatch) -> None:
        """Add the lines that follow."""
        self._batches.append(batch)
        self._unread.append(batch)
        self._fresh += len(batch.lines)

    def take(self) -> Line | None:
        """Return the next line to compute; None if there is none, or no room. Blank ones are settled here."""
        if self._back:
            return heapq.heappop(self._back)[1]
        while self._unread and self._room():
            line = self._take()
            if line.length != len(line.body) or (line.body and not line.body.isspace()):
                return line
            self.settle(line)
        return None

    def back(self, line: Line) -> None:
        """Give a line back, to be taken again before all others."""
        heapq.heappush(self._back, (line.number, line))

    # --- lines out

    def add_result(self, line: Line, body: bytes) -> None:
        """Add one of its results to a line."""
        line.results.append(body)
        self._bytes += len(body)

    def kill(self, line: Line, letter: bytes) -> None:
        """Give a line a dead letter instead of results."""
        self._bytes += len(letter) - sum(map(len, line.results))
        line.results.clear()
        line.dead = letter

    def settle(self, line: Line) -> None:
        """Note that nothing about a line will change any more."""
        line.settled = True
        self.behind += 1
        while self._open and self._open[0].settled:
            first = self._open.popleft()
            self._ready.append(first)
            self.line = first.number
            self.behind -= 1
            self._pass()

    def portion(self) -> Portion | None:
        """Return what has become ready since the last call; None if nothing has."""
        ready, self._ready = self._ready, []
        if not ready:
            return None
        results = [result for line in ready for result in line.results]
        dead = [line.dead for line in ready if line.dead]
        last = ready[-1]
        place = Extent(last.number, last.offset + last.size, self._digest_here())
        return Portion(results, dead, place, len(ready), sum(line.weight for line in ready))

    def stored(self, portion: Portion) -> None:
        """Make room: a portion is stored."""
        self._lines -= portion.lines
        self._bytes -= portion.weight

    @property
    def done(self) -> bool:
        """Whether all lines are settled and no others will come."""
        return self.ended and not self._fresh and not self._open

    @property
    def position(self) -> int:
        """About how many bytes of the file itself are done."""
        if not self._batches:
            return self._position
        first = self._batches[0]
        return self._position + (first.position - self._position) * self._passed // len(first.lines)

    # --- inside

    def _room(self) -> bool:
        return self._lines < self._most_lines and self._bytes < self._most_bytes

    def _take(self) -> Line:
        batch, place = self._unread[0], self._next
        body = batch.lines[place]
        size = len(body) + 1
        self._next += 1
        if self._next == len(batch.lines):
            size = batch.offset + batch.size - self._at
            self._unread.popleft()
            self._next = 0
        line = Line(batch.first + place, self._at, body, size, batch.too_long or len(body))
        self._at += size
        self._fresh -= 1
        self._lines += 1
        self._bytes += len(body)
        self._open.append(line)
        return line

    def _pass(self) -> None:
        self._passed += 1
        batch = self._batches[0]
        if self._passed == len(batch.lines):
            self._batches.popleft()
            self._passed, self._position, self._digest = 0, batch.position, batch.after.hexdigest()

    def _digest_here(self) -> str:
        """Return the digest of everything up to the last settled line."""
        if not self._passed:
            return self._digest
        batch = self._batches[0]
        running = batch.before.copy()
        running.update(b"".join(line + b"\n" for line in batch.lines[: self._passed]))
        return running.hexdigest()
