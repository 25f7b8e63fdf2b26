"""Connects the two threads of a source's process: the main thread runs the user's code, the loop's serves the broker.

The main thread waits here until the source is open, until it may pull the next item, and until the next tick. It hands
over publications, and in each turn the loop takes all that are there. The loop sets how many items may be pulled, and
when to stop: then every wait in the main thread raises Stopped, and the user's generator is closed. What the source is
doing is in plain attributes, which the main thread replaces.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mqworker.brokers.base import Publication
from mqworker.brokers.records import PositionRecord
from mqworker.ipc.source_messages import Tick


class Stopped(Exception):  # noqa: N818 - an instruction, not an error
    """The source is to end."""


class Handed(NamedTuple):
    """A publication, a record, or both; the record may be stored once all publications up to here are confirmed."""

    publication: Publication | None
    record: bytes | None


class Handover:
    """See the module head. `wake` makes the loop call `take` soon; it is called in the main thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.doing, self.since = "loading", time.monotonic()  # what the main thread is doing, and since when
        self.began = 0.0  # when it began to run the user's code
        self.due: int | None = None  # the next tick
        self.last_tick: Tick | None = None
        self.ticks = self.missed = self.runs = 0
        self._wake = wake
        self._changed = threading.Condition()
        self._handed: deque[Handed] = deque()
        self._taken = 0  # items that have been handed over
        self._pulling = 0  # 1: the user's code is making the next one
        self._limit = 0  # how many items may be pulled in all
        self._confirmed = 0
        self._opened = self._stopped = False
        self._record: PositionRecord | None = None
        self._run = ""  # the id of a run that has been asked for

    # --- the main thread's side

    def wait_opened(self) -> PositionRecord | None:
        """Wait until the source is open; returns the last record that was stored."""
        self._do("opening")
        with self._changed:
            self._wait(lambda: self._opened)
            self.began = time.monotonic()
            return self._record

    def pull(self) -> None:
        """Wait until the next item may be made; `put` or `give_up` follows."""
        with self._changed:
            if self._stopped or self._taken >= self._limit:
                self._do("waiting for room")
                self._wait(lambda: self._taken < self._limit)
            self._pulling = 1
        self._do("working")

    def put(self, publication: Publication | None, record: bytes | None) -> None:
        """Hand over an item that was pulled, or a record alone; the first in a turn wakes the loop."""
        with self._changed:
            idle = not self._handed
            self._handed.append(Handed(publication, record))
            if publication is not None:
                self._taken, self._pulling = self._taken + 1, 0
        if idle:
            self._wake()

    def begin_call(self) -> None:
        """Note that the user's function is called."""
        self._do("working")

    def give_up(self) -> None:
        """Note that the pull is over, whether or not it yielded an item."""
        with self._changed:
            self._pulling = 0

    def pause(self, seconds: float) -> str:
        """Wait for so many seconds, or until a run is asked for; returns its id, "" for none."""
        self._do("waiting")
        with self._changed:
            if not (self._stopped or self._run):
                self._changed.wait(max(0.0, seconds))
            if self._stopped:
                raise Stopped
            run, self._run = self._run, ""
            return run

    def wait_confirmed(self) -> None:
        """Wait until everything that has been handed over is confirmed."""
        self._do("waiting for the broker")
        with self._changed:
            self._wait(lambda: self._confirmed >= self._taken)

    def _wait(self, until: Callable[[], bool]) -> None:
        while not self._stopped and not until():
            self._changed.wait()
        if self._stopped:
            raise Stopped

    def _do(self, what: str) -> None:
        self.doing, self.since = what, time.monotonic()

    # --- the loop's side

    def open(self, record: PositionRecord | None) -> None:
        """Let the main thread begin."""
        with self._changed:
            self._opened, self._record = True, record
            self._changed.notify_all()

    def take(self) -> list[Handed]:
        """Return everything that has been handed over since the last call."""
        with self._changed:
            handed = list(self._handed)
            self._handed.clear()
            return handed

    @property
    def pulled(self) -> int:
        """How many items have been pulled so far."""
        return self._taken + self._pulling

    def allow(self, limit: Callable[[int], int]) -> None:
        """Let the main thread pull this many items in all; `limit` gets the number pulled so far, and is quick."""
        with self._changed:
            self._limit = limit(self._taken + self._pulling)
            self._changed.notify_all()

    def confirmed(self, count: int) -> None:
        """Note how many items are confirmed in all."""
        with self._changed:
            self._confirmed = count
            self._changed.notify_all()

    def stop(self) -> None:
        """End every wait of the main thread, and prevent further ones."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def ask_run(self, run: str) -> bool:
        """Ask for a run; returns False if one has been asked for already."""
        with self._changed:
            if self._run:
                return False
            self._run = run
            self._changed.notify_all()
            return True
