"""What `mqworker map` shows on stderr: click's progress bar on a terminal, failures, and what the jobs print and log.

Runs on the loop of the run, which calls it. Without a terminal there is no bar.
"""

import logging
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from mqworker.cli import output

if TYPE_CHECKING:
    from mqworker.ipc.records import LogEvent
    from mqworker.mapping.watcher import MapFigures

MOST = 20  # lines of one kind that are shown; of the others, the number
_TOLD = frozenset(("retried", "dead"))  # events that the list of failures shows


class Screen:
    """Implements `mqworker.mapping.watcher.Watcher`. `size`: of the input in bytes; None: unknown."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._tty = sys.stderr.isatty()
        self._bar: Any = None  # made by the first figures
        self._line = output.Progress() if self._tty and not size else None
        self._words = ""
        self._at = 0
        self._shown: Counter[str] = Counter()

    def event(self, event: "LogEvent") -> None:
        """Show what a job prints or logs, and what is wrong with the processes."""
        ours = event.process == "map"
        if event.event in _TOLD or (ours and event.level < logging.WARNING):
            return
        lines = [event.msg, *str(event.fields.get("traceback") or "").splitlines()]
        if not ours or self._may(event.event):
            self._say(lines)

    def failed(self, line: int, about: str) -> None:
        """Show that a line is dead."""
        if self._may("line that failed"):
            self._say([f"line {line}: {about}"])

    def figures(self, figures: "MapFigures") -> None:
        """Show how far it is."""
        words = f"{figures.rate:,.1f} lines/s" + (f", {figures.dead:,} dead" if figures.dead else "")
        if figures.waits_for:
            words += f"; line {figures.waits_for} has kept others waiting for {output.seconds(figures.waited)}"
        if self._line is not None:
            self._line.update(f"{figures.lines:,} lines, {words}")
        elif self._tty:
            self._words = words
            self._draw(figures.position)

    def close(self) -> None:
        """End the bar, and say how much was not shown."""
        if self._line is not None:
            self._line.done()
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
        for kind, count in self._shown.items():
            if count > MOST:
                output.note(f"... {count - MOST:,} more of this kind: {kind}")

    def _draw(self, position: int) -> None:
        if self._bar is None:
            self._at = position
            self._bar = click.progressbar(
                length=max(1, (self._size or 0) - position),
                file=sys.stderr,
                item_show_func=lambda _item: self._words,
            )
            self._bar.render_progress()
        self._bar.update(position - self._at, "")
        self._bar.render_progress()  # the words may be new, too
        self._at = position

    def _may(self, kind: str) -> bool:
        self._shown[kind] += 1
        return self._shown[kind] <= MOST

    def _say(self, lines: list[str]) -> None:
        if self._bar is not None or self._line is not None:
            click.echo("\r\x1b[K", err=True, nl=False)
        click.echo("\n".join(map(output.clean, lines)), err=True)
