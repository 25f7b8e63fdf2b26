"""How many calls may wait or be slow, and how many streams may run, at the same time on one listener.

Runs in the server's threads; one instance for each listener, which access.py puts into the environ of requests. Each
waiting call, each stream, and each slow call (which goes through a queue, or has user code checked) occupies a thread.
Their places are apart, so that neither a page with many tabs nor a broker that does not answer keeps anybody from
pausing a stage; and each listener has its own, so that nothing that comes over TCP keeps the command line waiting.

Calls that send without waiting for a result have threads of their own (serving.py), and queue for them in front of the
app; send_places.py says which of them may begin, and which are refused.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mqworker.http.problems import Problem, retry_later
from mqworker.http.send_places import LINES_SENDS, SOON, SendPlaces
from mqworker.ipc import logs

PLACES = "mqworker.places"  # in the environ
KINDS = ("feed", "logs", "events")  # of streams
CALLS = 8  # calls that may wait at the same time, on each listener
SLOW = 6  # calls at the same time that may take half a minute, on each listener
TCP_STREAMS, UNIX_STREAMS = 12, 4
QUIET = 60.0  # seconds between two log lines about refusals

log = logging.getLogger("mqworker.http")


class Places:
    """See the module head."""

    def __init__(self, calls: int, streams: int, sends: int) -> None:
        self.calls, self.streams = calls, streams
        self.sends, self.lines = SendPlaces(sends), SendPlaces(LINES_SENDS)  # of one message, of many
        self._lock = threading.Lock()
        self._waiting = self._slow = 0
        self.running = dict.fromkeys(KINDS, 0)  # streams, by their kind
        self.refused = 0  # streams
        self._quiet_until = 0.0  # CLOCK_MONOTONIC

    @property
    def threads(self) -> int:
        """How many threads are occupied when all places are taken; those that send are others."""
        return self.calls + self.streams + SLOW

    @property
    def free(self) -> tuple[int, int]:
        """How many places are free: for calls, and for streams."""
        return self.calls - self._waiting, self.streams - sum(self.running.values())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Hold a place for a waiting call while inside; raises a 503 Problem."""
        with self._lock:
            if self._waiting >= self.calls:
                raise retry_later(f"{self.calls} requests are already waiting", SOON)
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Hold a place for a slow call while inside; raises a 503 Problem."""
        with self._lock:
            if self._slow >= SLOW:
                raise retry_later(f"{SLOW} requests that take long, such as looks at dead letters, are under way", SOON)
            self._slow += 1
        try:
            yield
        finally:
            with self._lock:
                self._slow -= 1

    def take_stream(self, kind: str) -> None:
        """Take a place for a stream, which `give_stream` returns; raises a 503 Problem."""
        with self._lock:
            full = sum(self.running.values()) >= self.streams
            self.refused += full
            self.running[kind] += not full
        if full:
            raise self._refusal()

    def _refusal(self) -> Problem:
        now, sentence = time.monotonic(), f"{self.streams} streams are already running"
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            logs.report(log, logging.WARNING, "stream_refused", f"a stream was refused: {sentence}")
        return retry_later(sentence, SOON)

    def give_stream(self, kind: str) -> None:
        """See take_stream."""
        with self._lock:
            self.running[kind] -= 1
