"""Which log lines a stream of the Feed gets. Pure: lines as the log's writer keeps them go in, JSON as they are."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from mqworker.http.feed_events import FeedLogs
from mqworker.ipc.logs import LEVELS, says

MOST = 500  # lines in one second; beyond them there is a gap
TAIL = 200  # lines that a new stream begins with
_HEAD = frozenset(("time", "level", "event", "service", "stage", "process", "pid"))


class LogFilter(NamedTuple):
    """Which lines are wanted; an empty text means any."""

    level: str = ""  # the least severe one
    stage: str = ""
    text: str = ""  # in the message or in any field of its own, whatever the case of its letters
    message: str = ""  # the id of the message that it is about

    def fits(self, line: str) -> bool:
        """Return whether a line is wanted."""
        if self.level and not any(says(line, "level", name) for name in LEVELS if LEVELS[name] >= LEVELS[self.level]):
            return False
        if self.stage and not says(line, "stage", self.stage):
            return False
        if self.message and not says(line, "message_id", self.message):
            return False
        return not self.text or self._has_text(line)

    def _has_text(self, line: str) -> bool:
        wanted = self.text.casefold()
        fields = msgspec.json.decode(line)
        return any(wanted in str(value).casefold() for name, value in fields.items() if name not in _HEAD)


def new_lines(kept: Sequence[tuple[int, str]], after: int, wanted: LogFilter) -> tuple[FeedLogs, int]:
    """Return what comes after line number `after` (0: the tail), of all lines that are kept; and the last number."""
    lines = [(number, line) for number, line in kept if number > after]
    fitting = [(number, msgspec.Raw(line.encode())) for number, line in lines if wanted.fits(line)]
    last = kept[-1][0] if kept else after
    if not after:
        return FeedLogs(fitting[-TAIL:], 0), last
    gap = max(0, lines[0][0] - after - 1) if lines else 0
    return FeedLogs(fitting[-MOST:], gap + max(0, len(fitting) - MOST)), last
