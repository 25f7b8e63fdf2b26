"""Cuts what a process writes into lines, for the log, and keeps the last of it as evidence.

Used by whoever reads the pipe: a parent for its child, a Consumer for a program. Trusts nothing: of a long line only
the beginning is returned, bytes that are not UTF-8 are escaped, blank lines are passed over.
"""

LINE = 8192  # bytes of a line that are logged


class LineCutter:
    """See the module head. `keeps`: bytes of the tail."""

    def __init__(self, keeps: int) -> None:
        self._keeps = keeps
        self._line = bytearray()  # the beginning of a line
        self._cut = False  # of the present line the beginning was returned, and no more is
        self._tail = bytearray()

    @property
    def unfinished(self) -> bool:
        """Whether there is the beginning of a line that was not returned."""
        return bool(self._line)

    @property
    def tail(self) -> str:
        """The last of it, as text."""
        return self._tail.decode("utf-8", "backslashreplace")

    def keep(self, data: bytes) -> None:
        """Keep what is not to be cut into lines, in the tail."""
        self._tail += data[-self._keeps :]
        del self._tail[: -self._keeps]

    def take(self, data: bytes) -> list[str]:
        """Return the lines that this ends, and keep the beginning of the next."""
        self.keep(data)
        *lines, rest = data.split(b"\n")
        found = []
        for line in lines:
            self._line += line
            found += self.end()
        self._line += rest
        if len(self._line) > LINE:
            found += self.end()
            self._cut = True
        return found

    def end(self) -> list[str]:
        """End the line that has begun, and return it if there is something in it."""
        line, self._line = self._line[:LINE], bytearray()
        cut, self._cut = self._cut, False
        return [] if cut or not line.strip() else [line.decode("utf-8", "backslashreplace")]
