"""Logs what a program writes to stderr, line by line, up to a limit; the end of it is kept as evidence.

Lives in a Consumer (or a user's test) for one run. Lines beyond the limit are only counted.
"""

from collections.abc import Callable

from mqworker.ipc.lines import LineCutter

LINES = 1000  # lines logged for one run, at most
TAIL = 4096  # bytes of the end that are kept


class Lines:
    """See the module head."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._cutter = LineCutter(TAIL)
        self._count = 0

    @property
    def tail(self) -> str:
        """The end of what was written, as text."""
        return self._cutter.tail

    def take(self, data: bytes) -> None:
        """Log the lines that are complete with these bytes."""
        if self._count > LINES:
            self._cutter.keep(data)
            self._count += data.count(b"\n")
        else:
            self._log(self._cutter.take(data))

    def end(self) -> None:
        """Log what is left, and how many lines were not logged."""
        self._log(self._cutter.end())
        if self._count > LINES:
            self._say(f"... and {self._count - LINES:,} more lines")

    def _log(self, lines: list[str]) -> None:
        for line in lines:
            self._count += 1
            if self._count <= LINES:
                self._say(line)
