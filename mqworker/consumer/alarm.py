"""The soft time limit of a Consumer that works on one message at a time: an alarm that interrupts the handler.

Runs in a Consumer's main thread, where it owns SIGALRM.
"""

import logging
import signal
import threading

# `signal.getsignal` converts its answer to an enumeration, which costs 4.6 us for each message instead of 0.1.
from _signal import getsignal as handler_of  # type: ignore[import-not-found]  # there is no stub for it
from typing import Protocol

from mqworker.errors import SoftTimeLimit
from mqworker.ipc.logs import report

TAKEN = (
    "user code has replaced the handler of SIGALRM, which the soft time limit needs: in a message that does so the"
    " limit has no effect; use one of the two"
)

log = logging.getLogger("mqworker.consumer.alarm")


class Alarm:
    """The soft time limit: raises SoftTimeLimit in the user's handler, and never outside it.

    `with alarm:` postpones the interruption to the end of the block, for work that must not be interrupted, such as
    writing a frame.
    """

    def __init__(self) -> None:
        self._armed = 0.0
        self._held = 0
        self._late = False
        self._left = 0.0  # remaining seconds, while the limit is suspended
        self._reported = False
        self._thread = threading.get_ident()  # the only thread that it interrupts
        self._handler = self._ring
        signal.signal(signal.SIGALRM, self._handler)

    def set(self, seconds: float) -> None:
        """Arm the alarm for a limit of `seconds`; 0 does nothing."""
        if seconds:
            if handler_of(signal.SIGALRM) is not self._handler:
                self._tell()
                signal.signal(signal.SIGALRM, self._handler)
            self._late = False
            self._left = 0.0
            self._armed = seconds
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def clear(self) -> None:
        """Disarm the alarm, also one that user code has set and left: it must not go off in the next message."""
        armed, self._armed = self._armed, 0.0
        self._left = 0.0
        taken = handler_of(signal.SIGALRM) is not self._handler
        if armed or taken:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        if armed and taken:
            self._tell()

    def wait(self, waiting: bool) -> None:
        """Suspend the limit while the handler waits for something that is not its fault, or resume it."""
        if threading.get_ident() != self._thread:
            return
        if waiting:
            self._left = signal.setitimer(signal.ITIMER_REAL, 0.0)[0] if self._armed else 0.0
        elif self._armed and self._left:
            left, self._left = self._left, 0.0
            signal.setitimer(signal.ITIMER_REAL, left)

    def lend(self) -> float:
        """Suspend the limit until `go_on`, and return how many seconds are left; 0 if there is no limit."""
        return signal.setitimer(signal.ITIMER_REAL, 0.0)[0] if self._armed else 0.0

    def go_on(self, seconds: float) -> None:
        """Interrupt in this many seconds; 0 for never."""
        if self._armed and seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _tell(self) -> None:
        if not self._reported:
            self._reported = True
            report(log, logging.WARNING, "sigalrm_taken", TAKEN)

    def __enter__(self) -> None:
        if threading.get_ident() == self._thread:
            self._held += 1

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() == self._thread:
            self._held -= 1
            if self._late:
                self._ring(0, None)

    def _ring(self, _signal: int, _frame: object) -> None:
        self._late = self._held > 0
        if self._armed and not self._late:
            raise SoftTimeLimit(f"the soft time limit of {self._armed:g} s has passed")


class Uninterrupted:
    """Takes the place of the alarm in threads and tasks, where nothing interrupts."""

    def set(self, seconds: float) -> None:
        """Do nothing."""

    def clear(self) -> None:
        """Do nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Waits(Protocol):
    """Called when a message begins to wait for a shared object that is down, and when the wait has ended."""

    def __call__(self, *, waiting: bool) -> None:
        """Note the beginning or the end of a wait."""


class SeatAlarm(Uninterrupted):
    """Takes the place of the alarm in calls of shared objects: reports their waits to what enforces the limits."""

    def __init__(self, waits: Waits | None) -> None:
        self._waits = waits

    def wait(self, waiting: bool) -> None:
        """Report that the message in this seat waits, or goes on."""
        if self._waits is not None:
            self._waits(waiting=waiting)
