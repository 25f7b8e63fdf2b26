"""Which log lines a stream of the Feed gets in a second. Pure: lines as the log's writer keeps them go in and out."""

from collections.abc import Sequence

import msgspec

from mqworker.http.feed_events import FeedLogs
from mqworker.http.log_filter import LogFilter

MOST = 500  # lines in one second; beyond them there is a gap
TAIL = 200  # lines that a new stream begins with


def new_lines(kept: Sequence[tuple[int, str]], after: int, wanted: LogFilter) -> tuple[FeedLogs, int]:
    """Return what comes after line number `after` (0: the tail), of all lines that are kept; and the last number."""
    lines = [(number, line) for number, line in kept if number > after]
    fitting = [(number, msgspec.Raw(line.encode())) for number, line in lines if wanted.fits(line)]
    last = kept[-1][0] if kept else after
    if not after:
        return FeedLogs(fitting[-TAIL:], 0), last
    gap = max(0, lines[0][0] - after - 1) if lines else 0
    return FeedLogs(fitting[-MOST:], gap + max(0, len(fitting) - MOST)), last
