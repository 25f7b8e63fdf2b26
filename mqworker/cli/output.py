"""How verbs print: tables and JSON on stdout, words and progress on stderr. Pure but for the printing itself."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

REPORT_EVERY = 0.5  # seconds between updates of a progress line on a terminal
TELL_EVERY = 5.0  # and elsewhere


def data(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def words(text: str) -> None:
    """Say something to the person at the terminal."""
    click.echo(text, err=True)


def clean(value: Any) -> str:
    """Text of anything from outside, safe for a terminal."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print columns, as wide as their widest cell."""
    cells = [list(head), *([clean("" if cell is None else cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def seconds(value: float) -> str:
    """Write a duration with two or three digits that matter."""
    for below, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (100.0, 1.0, "s")):
        if value < below:
            return f"{value * factor:.3g} {unit}"
    hours, minutes = divmod(int(value) // 60, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(value) % 60} s"


class Progress:
    """One line on stderr, updated in place on a terminal and repeated now and then elsewhere."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._every = REPORT_EVERY if self._tty else TELL_EVERY
        self._next = time.monotonic() + self._every
        self._shown = False

    def update(self, text: str, *, now: bool = False) -> None:
        """Show `text` if it is time."""
        if not now and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        if self._tty:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
            self._shown = True
        else:
            click.echo(text, err=True)

    def done(self) -> None:
        """Leave the line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._shown = False
