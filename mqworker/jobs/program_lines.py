"""What a program writes to stderr, line by line, as far as it is logged; the last of it is kept as evidence.

Lives in a Consumer (or a user's test) for one run. Trusts nothing: long lines are cut, many are counted, bytes that are
not UTF-8 are escaped.
"""

from collections.abc import Callable

LINE = 8192  # bytes of a line that are logged
LINES = 1000  # that are logged for one run
TAIL = 4096  # bytes that are kept


class Lines:
    """See the module head."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._line = bytearray()  # the beginning of a line
        self._cut = False  # of the present line the beginning was logged, and no more is
        self._count = 0
        self._tail = bytearray()

    @property
    def tail(self) -> str:
        """The last of it, as text."""
        return self._tail.decode("utf-8", "backslashreplace")

    def take(self, data: bytes) -> None:
        """Log the lines that this ends."""
        self._tail += data[-TAIL:]
        del self._tail[:-TAIL]
        if self._count > LINES:
            self._count += data.count(b"\n")
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._line += line
            self._end_line()
        self._line += rest
        if len(self._line) > LINE:
            self._end_line()
            self._cut = True

    def end(self) -> None:
        """Log what is left, and how many lines were not logged."""
        self._end_line()
        if self._count > LINES:
            self._say(f"... and {self._count - LINES:,} more lines")

    def _end_line(self) -> None:
        line, self._line = self._line[:LINE], bytearray()
        cut, self._cut = self._cut, False
        if cut or not line.strip():
            return
        self._count += 1
        if self._count <= LINES:
            self._say(line.decode("utf-8", "backslashreplace"))
