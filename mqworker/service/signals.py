"""The signals of the Service: noted when they arrive, taken by its loop. docs/operations.md says what each one does.

Runs on the Service's main loop.
"""

import asyncio
import logging
import signal
import sys
import traceback
from collections.abc import Callable

from mqworker.ipc import logs

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT, signal.SIGHUP, signal.SIGUSR2)

log = logging.getLogger("mqworker.service.signals")


class Signals:
    """Signals that were received but not yet taken; `wake` is called for each."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._noted: list[int] = []
        self._wake = wake

    def listen(self) -> None:
        """Receive signals from now on, on the running loop."""
        for number in HEARD:
            asyncio.get_running_loop().add_signal_handler(number, self._note, number)

    def take(self) -> list[int]:
        """Return the noted signals in the order in which they arrived."""
        taken, self._noted = self._noted, []
        return taken

    def _note(self, number: int) -> None:
        self._noted.append(number)
        self._wake()


def dump_stacks() -> None:
    """Log the stack of each thread of this process."""
    for thread, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        logs.report(log, logging.INFO, "stack", f"stack of thread {thread}", traceback=stack)
