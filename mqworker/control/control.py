"""Between the HTTP threads and the main thread: a snapshot that is always available, and operations by the main thread.

`Control` is the only object that they share. Reading never waits: the main thread replaces an immutable Snapshot
whenever something changes. What an HTTP thread wants done, it passes to `ask` as a call of the Operator, which runs on
the main loop; a change is stored before it is answered, and a caller that wants to know when it is applied waits for a
snapshot that says so. Every wait has a deadline; what fails raises ControlError or ChangeRefused.

Beside the snapshot stands what is remembered for longer: the audit, the history, the faults, the reasons.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from mqworker.config.load import Loaded
from mqworker.control.audit import AuditTrail, find_author
from mqworker.control.desired_state import Change
from mqworker.control.errors import ControlError
from mqworker.control.faults import Faults
from mqworker.control.history import History
from mqworker.control.operator import ADMIN_GRACE, STORE_DEADLINE, Operator
from mqworker.control.views import Snapshot
from mqworker.control.why_since import WhySince
from mqworker.ipc.admin_messages import BulkView
from mqworker.ipc.logs import LogWriter

T = TypeVar("T")

MARGIN = 3.0  # seconds that a caller waits beyond the deadline that the main thread enforces


class Control:
    """See the module head; every method may be called from any thread and never blocks longer than its deadline."""

    def __init__(self, loaded: Loaded, logs: LogWriter) -> None:
        self.loaded = loaded
        self.logs = logs
        self.trail = AuditTrail(loaded.state_dir)
        self.history = History(time.monotonic(), f"{time.time_ns() // 1_000_000 & 0xFFFFFFFF:08x}")
        self.why_since = WhySince()
        self.commands = 0  # control commands taken, for the metrics
        self.faults = Faults()  # of all stages; the main thread feeds it
        self.on_publish: Callable[[Snapshot], None] | None = None  # receives every snapshot, on the main thread
        # Reports of other parts, as plain data; each part puts its function here, and until then there is nothing.
        self.audit: Callable[[int], Sequence[Any]] = self.trail.since  # records after this number, each with `n`
        self.peers: Callable[[], Sequence[Any]] = tuple  # other services
        self._snapshot: Snapshot | None = None
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._operator: Operator | None = None

    # --- the main thread's side

    def attach(self, loop: asyncio.AbstractEventLoop, operator: Operator) -> None:
        """Begin to pass commands on."""
        self._loop, self._operator = loop, operator

    def publish(self, snapshot: Snapshot) -> None:
        """Replace the snapshot and wake all threads that wait for one."""
        if self.on_publish is not None:
            self.on_publish(snapshot)
        with self._changed:
            self._snapshot = snapshot
            self._changed.notify_all()

    # --- the other threads' side

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot; None only before the Service has begun."""
        return self._snapshot

    def wait(self, until: Callable[[Snapshot], bool], deadline: float) -> Snapshot | None:
        """Wait at most `deadline` seconds for a snapshot that fits; returns it, or None."""
        end = time.monotonic() + deadline
        with self._changed:
            while True:
                snapshot = self._snapshot
                if snapshot is not None and until(snapshot):
                    return snapshot
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def paused_by(self, stage: str) -> tuple[str, float | None]:
        """Return who has paused or stopped a stage, and when; "" and None where it is not known."""
        snapshot = self._snapshot
        desired = snapshot.document.stages.get(stage) if snapshot is not None else None
        if snapshot is None or desired is None or (desired.running and desired.listening):
            return "", None
        field = "listening" if desired.running else "running"
        recent = ((each.origin.by, each.time, each.changes) for each in reversed(snapshot.changes))
        found = find_author(recent, stage, field) or self.trail.author(stage, field)
        return found[:2] if found is not None and found.value is False else ("", None)

    def ask(self, call: Callable[[Operator], Coroutine[Any, Any, T]], deadline: float = STORE_DEADLINE) -> T:
        """Let the main thread carry out an operation, and return its result; raises what it raises.

        The operation keeps to `deadline` itself: the wait for its answer is longer, so that its own error is reported.
        """
        loop, operator = self._loop, self._operator
        if loop is None or operator is None:
            raise ControlError("busy", "the service is still starting; try again in a moment")
        self.commands += 1
        future = asyncio.run_coroutine_threadsafe(call(operator), loop)
        try:
            return future.result(deadline + MARGIN)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise ControlError("deadline", f"no answer from the main thread within {deadline:g} s") from None

    def change(self, asked: Change) -> int:
        """Store a change; returns the revision that contains it."""
        return self.ask(lambda operator: operator.change(asked))

    def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Let the broker admin carry out a verb within `deadline` seconds."""
        return self.ask(lambda operator: operator.ask_admin(verb, arguments, deadline), deadline + ADMIN_GRACE)

    def operations(self) -> tuple[BulkView, ...]:
        """Return the operations on dead letters: those in progress, and the last ones; the oldest first."""
        return () if self._operator is None else self._operator.bulk.all

    def bulk_counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return how many dead letters operations have moved, by stage, kind and outcome."""
        return {} if self._operator is None else self._operator.bulk.counts
