"""Waiting for events in tests: always with a deadline, never by sleeping and hoping."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(predicate: Callable[[], T], deadline: float, what: str) -> T:
    """Poll until `predicate()` is true and return its value; AssertionError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := predicate()):
        assert time.monotonic() < end, f"{what}: not within {deadline} s"
        time.sleep(0.01)
    return value


async def until(predicate: Callable[[], T], deadline: float, what: str) -> T:
    """Like `wait_for`, on a running event loop."""
    end = time.monotonic() + deadline
    while not (value := predicate()):
        assert time.monotonic() < end, f"{what}: not within {deadline} s"
        await asyncio.sleep(0.005)
    return value
