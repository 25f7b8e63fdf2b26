"""Requests that are made again while the service refuses them before it has begun anything.

Runs in the user's process, in any thread. So a sender keeps its turn while others occupy the service, or the broker
confirms nothing for a while; what is refused like this was never sent.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from mqworker.address import CallError

T = TypeVar("T")


def until_begun(
    ask: Callable[[], T], patience: float, note: Callable[[str], None], wait: Callable[[float], object]
) -> T:
    """Make a request until it is not refused like this, for at most `patience` seconds; raises what it comes to.

    `note` gets a sentence before each wait; `wait` waits so many seconds, or returns true: give up.
    """
    end = time.monotonic() + patience
    while True:
        try:
            return ask()
        except CallError as error:
            left = end - time.monotonic()
            if not error.not_begun or left <= 0:
                raise
            seconds = min(error.retry_after, left)
            note(f"{error}; trying again in {seconds:.0f} s")
            if wait(seconds):
                raise
