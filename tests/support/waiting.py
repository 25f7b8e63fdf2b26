"""Waiting for events in tests: always with a deadline, never by sleeping and hoping."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PROCESSORS = os.cpu_count() or 1
LATER = 0.05  # of the time waited so far: by how much later than it could be an event may be noticed
AMPLE = 60.0  # seconds; the deadline of a question whose answer is needed: it has to be finite, and is never waited for


def share() -> float:
    """The part of a processor that each process gets which could run now; 1.0 on a machine that is not busy."""
    running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    return max(PROCESSORS / max(running, PROCESSORS), 0.2)  # a wait is at most five times as long: it must end


class Patience:
    """A deadline in seconds of a machine that is not busy: on one that is, a second counts for what one gets of it."""

    def __init__(self, seconds: float) -> None:
        self._left, self._since = seconds, time.monotonic()

    def over(self) -> bool:
        """Whether it has passed; asked several times a second."""
        now = time.monotonic()
        self._left -= (now - self._since) * share()
        self._since = now
        return self._left < 0


def wait_for(predicate: Callable[[], T], deadline: float, what: str) -> T:
    """Poll until `predicate()` is true and return its value; AssertionError after `deadline` seconds (see Patience).

    A predicate that takes long, or was asked for long, is asked less often: what is waited for needs the processor.
    """
    patience, began, asked = Patience(deadline), time.monotonic(), time.monotonic()
    while not (value := predicate()):
        assert not patience.over(), f"{what}: not within {deadline} s"
        now = time.monotonic()
        time.sleep(min(max(0.01, 3 * (now - asked), LATER * (now - began)), 0.25))
        asked = time.monotonic()
    return value


async def until(predicate: Callable[[], T], deadline: float, what: str) -> T:
    """Like `wait_for`, on a running event loop."""
    patience, began = Patience(deadline), time.monotonic()
    while not (value := predicate()):
        assert not patience.over(), f"{what}: not within {deadline} s"
        await asyncio.sleep(min(max(0.005, LATER * (time.monotonic() - began)), 0.1))
    return value


@contextlib.contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Assert that the block, unless it raises, lasts at most so many seconds, which count as for Patience."""
    patience, over = Patience(seconds), threading.Event()

    def count() -> None:
        while not over.wait(0.1):
            patience.over()

    counting = threading.Thread(target=count, daemon=True)
    counting.start()
    try:
        yield
    finally:
        over.set()
        counting.join(5)
    assert not patience.over(), f"{what}: not within {seconds} s"
