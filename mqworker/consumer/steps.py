"""Which message has the loop: wraps a coroutine, and notes at each step that its message has the loop.

Runs on the loop of a Consumer, around the task of each message and around the tasks that its handler starts. What it
writes to the in-hand register identifies the message that is charged when the process dies in the middle of a step, or
that holds the loop. This adds about a microsecond to each step.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

from mqworker.consumer.register import Seats
from mqworker.consumer.seats import current

LONG = 0.05  # seconds of a step above which it counts only against its message


class Hold:
    """The present step; after a long one, `held` is called with its message and its seconds."""

    def __init__(self, seats: Seats, held: Callable[[int, float], None]) -> None:
        self.spent = 0.0  # seconds in steps so far
        self._seats = seats
        self._held = held
        self._pid = os.getpid()
        self._now = (0, 0.0)

    def enter(self, seq: int) -> tuple[int, float]:
        """Begin a step; returns what `leave` needs."""
        before, self._now = self._now, (seq, time.monotonic())
        self._seats.run(*self._now)
        return before

    def leave(self, before: tuple[int, float]) -> None:
        """End the step; steps may be nested, when a task starts eagerly."""
        if os.getpid() != self._pid:
            os._exit(0)  # a copy that a handler forked has returned: it would run all other messages again
        seq, since = self._now
        took = time.monotonic() - since
        self._now = before
        self._seats.run(*before)
        if not before[0]:
            self.spent += took
        if took > LONG:
            self._held(seq, took)


class Steps(Coroutine[Any, Any, Any]):
    """Wraps a coroutine, and passes on its attributes."""

    __slots__ = ("__weakref__", "_coroutine", "_hold", "_seq")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], seq: int, hold: Hold) -> None:
        self._coroutine = coroutine
        self._seq = seq
        self._hold = hold

    def send(self, value: Any) -> Any:
        """Run the next step."""
        before = self._hold.enter(self._seq)
        try:
            return self._coroutine.send(value)
        finally:
            self._hold.leave(before)

    def throw(self, *error: Any) -> Any:
        """Run the next step by raising this error in the coroutine."""
        before = self._hold.enter(self._seq)
        try:
            return self._coroutine.throw(*error)
        finally:
            self._hold.leave(before)

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)


def task_factory(hold: Hold) -> Any:
    """Return a task factory for the loop: tasks that a handler starts count as steps of its message."""

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        context = options.get("context")
        work = current.get() if context is None else context.get(current)
        steps = coroutine if work is None else Steps(coroutine, work.item.seq, hold)
        return asyncio.Task(steps, loop=loop, **options)

    return make
