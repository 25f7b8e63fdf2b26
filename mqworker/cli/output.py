"""How verbs print: tables and JSON on stdout, notes and progress on stderr. Pure except for the printing itself."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from mqworker.control.wording import seconds, size

__all__ = ["Progress", "clean", "data", "note", "seconds", "size", "table"]

REPORT_EVERY = 0.5  # seconds between updates of a progress line on a terminal
REPORT_EVERY_PIPED = 5.0  # and elsewhere


def data(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def note(text: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    click.echo(text, err=True)


def clean(value: Any) -> str:
    """Return any value from outside as text that is safe for a terminal."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print columns, each as wide as its widest cell."""
    cells = [list(head), *([clean("" if cell is None else cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


class Progress:
    """One line on stderr, updated in place on a terminal and repeated at intervals elsewhere."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._every = REPORT_EVERY if self._tty else REPORT_EVERY_PIPED
        self._next = time.monotonic() + self._every
        self._shown = False

    def update(self, text: str, *, now: bool = False) -> None:
        """Show `text` if the interval has passed."""
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        if self._tty:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
            self._shown = True
        else:
            click.echo(text, err=True)

    def done(self) -> None:
        """Clear the line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._shown = False
