"""What `mqworker map` reports about a run while it goes on. The figures are pure: times are arguments."""

from collections import deque
from typing import NamedTuple, Protocol

from mqworker.brokers.files.window import Window
from mqworker.ipc.records import LogEvent

STUCK = 5.0  # seconds after which a line that later ones wait for is named
LOOKS = 11  # from which the rate is computed


class MapFigures(NamedTuple):
    """How far a run has come."""

    position: int  # in the file
    lines: int  # settled, with all lines before them
    dead: int  # lines stored as dead letters
    rate: float  # lines settled per second, lately
    waits_for: int  # the line that later ones have waited for; 0: none
    waited: float  # seconds


class Watcher(Protocol):
    """Receives what happens in a run; called on the loop."""

    def event(self, event: LogEvent) -> None:
        """Receive a log event of any process."""

    def failed(self, line: int, about: str) -> None:
        """Receive the notice that a line is dead."""

    def figures(self, figures: MapFigures) -> None:
        """Receive the newest figures."""


class Pace:
    """Computes figures from a window that is looked at now and then."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=LOOKS)  # time, lines settled
        self._stands = (0.0, -1)  # since when nothing has moved, and behind which line

    def look(self, window: Window, dead: int, now: float) -> MapFigures:
        """Return the figures of this moment."""
        settled = window.line + window.behind
        self._looks.append((now, settled))
        since, before = self._looks[0]
        if self._stands[1] != window.line or not window.behind:
            self._stands = now, window.line
        waited = now - self._stands[0]
        return MapFigures(
            *(window.position, window.line, dead),
            (settled - before) / (now - since) if now > since else 0.0,
            *((window.line + 1, waited) if waited > STUCK else (0, 0.0)),
        )
