"""The writer: the only thread of a Link that touches the broker's file.

Runs as a daemon thread in the stage's Producer; owns the session on the file. It receives commands from the Link
through a queue and executes all waiting ones in one transaction (group commit: one sync of the disk for many messages);
it reports through `WriterEvents`, with one call for each transaction, after the commit. If the disk is full, or another
process has locked the file, the transaction is rolled back: its publications are refused, its acks are kept and tried
again. Any other error ends the session: its epoch is void, and the file is opened again, with backoff, until that
succeeds.
"""

import queue
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from mqworker.brokers.base import LinkState, Sink, Topology
from mqworker.brokers.sqlite.file import Unsure, explain, is_busy, is_full
from mqworker.brokers.sqlite.session import Call, Command, PublishCommand, Session

# all in seconds
POLL = (0.02, 0.1)  # between looks for messages of other processes: after some have come, and while none come
TICK = 0.5  # between checks for dead owners, for ended delays, and whether the file is in place
RETRY = (0.1, 5.0)  # seconds of backoff before the file is opened again, least and most
STEADY = 10.0  # seconds that a session must last for the backoff to start small again
LOCKED = 4.0  # seconds that another process may hold the lock before publications are refused

BATCH = 4096  # commands in one transaction


class Consume(msgspec.Struct, frozen=True):
    """Command: take at most this many unsettled deliveries."""

    prefetch: int


class CountOutput(msgspec.Struct, frozen=True):
    """Command: report how many messages are ready in the output queue."""


class CountDead(msgspec.Struct, frozen=True):
    """Command: report how many messages are ready in the dead-letter queue."""


class EndEpoch(msgspec.Struct, frozen=True):
    """Command: take nothing more, and return the unsettled deliveries after executing all commands before this one."""


class Close(msgspec.Struct, frozen=True):
    """Command: return the unsettled deliveries by this time (monotonic clock), and end."""

    until: float


class WriterEvents(Protocol):
    """What the writer reports to its Link; only `post` is called in the writer's thread."""

    def post(self, calls: list[Call]) -> None:
        """Schedule these calls on the loop, in this order."""

    def changed(self, state: LinkState) -> None:
        """Receive the new state."""

    def lost(self, reason: str) -> None:
        """Begin a new era: publications of the present one get no answers any more."""

    def output_counted(self, depth: int) -> None:
        """Receive the answer to CountOutput."""

    def dead_counted(self, depth: int) -> None:
        """Receive the answer to CountDead."""

    def ended(self) -> None:
        """Note that the thread is about to end."""


class Writer(threading.Thread):
    """See the module head; `commands` is its only input, `WriterEvents` and the `Sink` are its only outputs."""

    def __init__(self, path: Path, topology: Topology, sink: Sink, events: WriterEvents, *, name: str) -> None:
        super().__init__(name="sqlite-writer", daemon=True)
        self.commands: queue.SimpleQueue[Command | Consume | CountOutput | CountDead | EndEpoch | Close] = (
            queue.SimpleQueue()
        )
        self.depth: int | None = None
        self.stale_acks = 0
        self._path, self._topology, self._sink, self._owner_name = path, topology, sink, name
        self._events = events
        self._state = LinkState(reason=f"{path} is being opened")
        self._epoch = 1
        self._era = 0
        self._prefetch = 0
        self._ending = False  # the epoch has to end
        self._rest = topology.ordered  # no further epoch is wanted
        self._until: float | None = None  # when closing must end; None: not closing
        self._pending: list[Command] = []  # not executed yet
        self._locked_since = 0.0  # since when another process holds the lock; 0: none does
        self._poll = POLL[0]
        self._output_asked = False
        self._dead_asked = False

    def run(self) -> None:
        """Open the file and serve, again and again until it is closed."""
        backoff = RETRY[0]
        while self._until is None:
            began = time.monotonic()
            try:
                session = Session(self._path, self._topology, self._sink, self._owner_name, self._epoch)
            except Exception as error:  # noqa: BLE001 - any error must be reported, then tried again
                reason = explain(error, self._path)
                self._report(connected=False, consuming=False, blocked=False, reason=reason)
            else:
                reason = self._serve(session)
            if time.monotonic() - began > STEADY:
                backoff = RETRY[0]
            self._wait_to_reopen(backoff, reason)
            backoff = min(2 * backoff, RETRY[1])
        self._report(connected=False, consuming=False, blocked=False, reason="closed")
        self._events.post([self._events.ended])

    def _serve(self, session: Session) -> str:
        """Work until the session ends; returns why it did."""
        try:
            self._report(connected=True, reason="", reconnects=self._era, resting=self._rest)
            next_tick = 0.0
            while self._until is None or self._pending:
                if time.monotonic() >= next_tick:
                    session.tick()
                    self.depth = session.depth
                    next_tick = time.monotonic() + TICK
                self._step(session)
                self._count(session)
                if self._until is not None and time.monotonic() > self._until:
                    break
            self._finish(session)
        except Exception as error:  # noqa: BLE001 - as above
            reason = explain(error, self._path)
            self._fail(reason, unsure=isinstance(error, Unsure))
            return reason
        else:
            return "closed"
        finally:
            session.close()

    def _step(self, session: Session) -> None:
        """Wait for something to do, and do it in one transaction."""
        if self._state.blocked:
            self._receive(TICK)
        else:
            self._receive(0 if self._has_work(session) else self._poll)
        changed = session.notice_writes()
        if not (self._state.blocked or self._has_work(session)):
            self._poll = POLL[0] if changed else min(self._poll * 1.2, POLL[1])
            return
        self._poll = POLL[0]
        try:
            calls = session.run(self._pending, self._prefetch, end=self._ending)
        except sqlite3.Error as error:
            self._tolerate(error)
            session.chores = True
            return
        self._pending, self._locked_since = [], 0.0
        self._epoch, self._ending = session.epoch, False
        resting = self._rest and session.at_rest
        if self._state.resting and not resting:
            self._report(resting=False)  # before its first delivery
        if calls:
            self._events.post(calls)
        self._report(blocked=False, consuming=session.consuming, resting=resting, waits=session.waits, reason="")

    def _has_work(self, session: Session) -> bool:
        return bool(self._pending) or self._ending or session.has_work(self._prefetch)

    def _count(self, session: Session) -> None:
        depth = session.count_output() if self._output_asked else None
        if depth is not None:
            self._output_asked = False
            self._events.post([partial(self._events.output_counted, depth)])
        dead = session.count_dead() if self._dead_asked else None
        if dead is not None:
            self._dead_asked = False
            self._events.post([partial(self._events.dead_counted, dead)])

    def _tolerate(self, error: sqlite3.Error) -> None:
        """Keep what was rolled back because of a temporary error; raise any other."""
        if is_busy(error):
            self._locked_since = self._locked_since or time.monotonic()
            if time.monotonic() - self._locked_since < LOCKED:
                return
        elif not is_full(error):
            raise error
        reason = explain(error, self._path)
        self._refuse(reason)
        self._report(blocked=True, reason=reason)

    def _refuse(self, reason: str) -> None:
        commands = [command for command in self._pending if isinstance(command, PublishCommand)]
        refused = [publish_id for command in commands for publish_id in command.publish_ids]
        self._pending = [command for command in self._pending if not isinstance(command, PublishCommand)]
        if refused:
            self._events.post([partial(self._sink.refused, publish_id, reason) for publish_id in refused])

    def _fail(self, reason: str, *, unsure: bool) -> None:
        """Report the end of the session, and answer each publication without an answer."""
        if not unsure:
            self._refuse(reason)
        self._pending = []
        self._locked_since = 0.0
        self._era += 1
        self.depth = None
        lost: list[Call] = [partial(self._events.lost, reason), partial(self._sink.consuming_lost, self._epoch, reason)]
        self._epoch += 1
        self._events.post(lost)
        self._report(connected=False, consuming=False, resting=False, waits="", blocked=False, reason=reason)

    def _wait_to_reopen(self, seconds: float, reason: str) -> None:
        until = time.monotonic() + seconds
        while self._until is None and (left := until - time.monotonic()) > 0:
            self._receive(left)
            self._refuse(reason)

    def _receive(self, timeout: float) -> None:
        """Wait for a command, and take all that have arrived."""
        try:
            command = self.commands.get(timeout=timeout) if timeout > 0 else self.commands.get_nowait()
            while True:
                if isinstance(command, Consume):
                    self._prefetch = command.prefetch
                    self._rest = not command.prefetch and (self._rest or self._topology.ordered)
                elif isinstance(command, CountOutput):
                    self._output_asked = True
                elif isinstance(command, CountDead):
                    self._dead_asked = True
                elif isinstance(command, EndEpoch):
                    self._prefetch, self._ending, self._rest = 0, True, True
                elif isinstance(command, Close):
                    self._until = command.until
                elif self._is_valid(command):
                    self._pending.append(command)
                if len(self._pending) >= BATCH:
                    return
                command = self.commands.get_nowait()
        except queue.Empty:
            return

    def _is_valid(self, command: Command) -> bool:
        if isinstance(command, PublishCommand):
            return command.era == self._era  # otherwise it has been reported as lost
        if command.epoch != self._epoch:
            self.stale_acks += 1
        return command.epoch == self._epoch

    def _finish(self, session: Session) -> None:
        """Return the unsettled deliveries; if that fails until the deadline, the end of this process does it."""
        while True:
            try:
                session.finish()
            except sqlite3.Error as error:
                if not (is_full(error) or is_busy(error)) or time.monotonic() > (self._until or 0):
                    raise
                time.sleep(0.05)
            else:
                return

    def _report(self, **changes: object) -> None:
        state = msgspec.structs.replace(self._state, **changes)
        if state != self._state:
            self._state = state
            self._events.post([partial(self._events.changed, state)])
