"""The loop of a shared object: wait, make calls, flush the journal, answer; then do what is due.

Runs in the main thread of its process, which has no other. Owns the listening socket, the connections, the state with
its journal, and its snapshots. Receives orders on the pipe `down` and sends reports through `send`. Ends by returning:
at StopSharing, or when its parent is gone. An OSError of the journal is raised to the caller, and ends the process.
"""

import os
import select
import socket
import time
from pathlib import Path
from typing import Any

from mqworker.ipc import logs
from mqworker.jobs.loading import JobLoadError
from mqworker.shared_state import folder as folders
from mqworker.shared_state.charges import Charges
from mqworker.shared_state.connections import Connections
from mqworker.shared_state.execution import ExecutionNote
from mqworker.shared_state.journal import JournalSync
from mqworker.shared_state.messages import (
    COUNTS,
    ChargeEnded,
    Pause,
    ResetState,
    Resume,
    SetLevel,
    SharedEnded,
    SharedOrder,
    SharedReset,
    SharedSpec,
    SharedStatus,
    StopSharing,
    TakeSnapshot,
)
from mqworker.shared_state.outside import Outside
from mqworker.shared_state.recovery import Recovered, take_over
from mqworker.shared_state.schedule import REPORT, Schedule
from mqworker.shared_state.snapshots import Snapshots
from mqworker.shared_state.state import SharedState

READY = 64  # connections that are served before the journal is flushed


class Trial:
    """Reports on a state that another process still owns, until it is ordered to take it over; see SharedSpec."""

    def __init__(self, spec: SharedSpec, outside: Outside, state: SharedState) -> None:
        self._spec, self._outside, self._state = spec, outside, state

    def passed(self) -> bool:
        """Wait for the order to take over; returns False if the process is to end."""
        described, problem = self._state.instance.described()
        outside = self._outside
        while True:
            outside.send(status(self._spec, "trial", self._state, described=described, describe_problem=problem))
            select.select([outside.down], [], [], REPORT)
            if not outside.read():
                return False
            while (order := outside.order()) is not None:
                match order:
                    case Resume():
                        return True  # later orders are for the loop
                    case SetLevel():
                        logs.set_level(order.log_level)
                    case StopSharing():
                        outside.send(SharedEnded())
                        return False


class Serving:
    """See the module head; the caller holds the folder's lock."""

    def __init__(
        self, spec: SharedSpec, folder: Path, recovered: Recovered, outside: Outside, sync: JournalSync
    ) -> None:
        """Begin to write the journal and to listen; raises StateError, OSError, DamagedState."""
        self._spec, self._outside, self._sync = spec, outside, sync
        note = ExecutionNote(folder / folders.EXECUTION)
        self._journal = take_over(folder, recovered, spec.digest)
        self._state = state = recovered.state
        state.charges = Charges(spec.charges, lambda charge: outside.send(ChargeEnded(charge)))
        state.open(self._journal, note)
        self._schedule = Schedule(time.monotonic(), spec.tick_seconds, spec.snapshot_bytes)
        self._snapshots = Snapshots(spec, folder, state, self._journal, self._snapshot_finished, outside.log)
        if spec.fresh:
            self._snapshots.write_now()
            if self._snapshots.problem:  # otherwise the next process would load the object as it was
                raise folders.StateError(f"the new object could not be kept: {self._snapshots.problem}")
        else:
            self._snapshots.made = recovered.made
        self._ending, self._paused = False, spec.held
        self._poll = select.epoll()
        self._connections = Connections(self._poll, state, outside.log)
        self._folder = folder
        self._listening: socket.socket | None = None
        self._poll.register(outside.down, select.EPOLLIN)
        if not spec.held:
            self._listen()
        os.register_at_fork(after_in_child=self._close_copies)

    def _close_copies(self) -> None:
        """In a process that user code has forked, close our descriptors: callers would wait while it has them."""
        self._poll.close()
        if self._listening is not None:
            self._listening.close()
        self._connections.close_copies()
        self._journal.close()

    def run(self) -> None:
        """Serve until the end."""
        self._take_orders()
        while not self._ending:
            for fd, events in self._poll.poll(self._schedule.wait(time.monotonic()), READY):
                if not self._connections.ready(fd, events):
                    self._ready(fd)
            self._state.flush()
            self._connections.send()
            for what in self._schedule.due(time.monotonic(), self._journal.bytes):
                self._do(what)

    def _ready(self, fd: int) -> None:
        if fd == self._outside.down:
            self._take_orders()
        elif self._listening is not None and fd == self._listening.fileno():
            self._connections.accept(self._listening)
        elif fd == self._snapshots.pidfd:
            self._forget_copy()
            self._snapshots.finish()

    def _do(self, what: str) -> None:
        """Do what is due."""
        if what == "tick" and not self._paused:
            self._state.tick(time.time())
        elif what == "sync":
            self._sync.request(self._journal.number)
        elif what == "snapshot":
            self._begin_snapshot()
        elif what == "report":
            self._report()

    def _begin_snapshot(self) -> None:
        self._snapshots.begin()
        if self._snapshots.pidfd >= 0:
            self._poll.register(self._snapshots.pidfd, select.EPOLLIN)

    def _forget_copy(self) -> None:
        """Stop watching the copy of this process that writes a snapshot."""
        if self._snapshots.pidfd >= 0:
            self._poll.unregister(self._snapshots.pidfd)

    def _write_snapshot(self) -> None:
        """Write a snapshot in this process; a copy that is writing one is killed."""
        self._forget_copy()
        self._snapshots.write_now()

    def _snapshot_finished(self, failed: bool) -> None:
        self._schedule.written(time.monotonic(), failed=failed)

    # --- orders

    def _take_orders(self) -> None:
        if not self._outside.read():
            self._ending = True  # the parent is gone, so this process ends
        while not self._ending and (order := self._outside.order()) is not None:
            self._obey(order)
            if not self._ending:
                self._report()

    def _obey(self, order: SharedOrder) -> None:
        match order:
            case Pause():
                self._pause()
            case Resume():
                self._paused = False
                self._listen()
            case TakeSnapshot():
                self._take_snapshot()
            case ResetState():
                self._reset()
            case StopSharing():
                self._write_snapshot()
                self._outside.send(SharedEnded())
                self._ending = True
            case SetLevel():
                logs.set_level(order.log_level)

    def _reset(self) -> None:
        problem = ""
        try:
            self._state.reset(time.time())
        except JobLoadError as error:
            problem = str(error)
        self._state.flush()  # before the report: the process may die in the next call
        self._outside.send(SharedReset(problem))

    def _listen(self) -> None:
        if self._listening is None:
            self._listening = folders.listen(self._folder)
            self._poll.register(self._listening, select.EPOLLIN)

    def _pause(self) -> None:
        """Close the socket as if there were no process: so callers notice, and count the wait toward no time limit."""
        self._paused = True
        self._snapshots.problem = ""
        if self._listening is not None:
            self._poll.unregister(self._listening)
            self._listening.close()
            self._listening = None
            self._connections.close()

    def _take_snapshot(self) -> None:
        if self._paused:
            self._write_snapshot()
        elif self._snapshots.pidfd < 0:
            self._schedule.writing()
            self._begin_snapshot()

    # --- reports

    def _report(self) -> None:
        began = time.monotonic()
        described, problem = self._state.describe()
        snapshots, journal = self._snapshots, self._journal
        self._outside.send(
            status(
                self._spec,
                "paused" if self._paused else "serving",
                self._state,
                journaled=journal.records,
                journal_bytes=journal.bytes,
                snapshot_age=None if snapshots.made is None else max(0.0, time.time() - snapshots.made),
                snapshots=snapshots.count,
                snapshot_problem=snapshots.problem,
                connections=len(self._connections),
                times=self._state.times.times,
                described=described,
                describe_problem=problem,
            )
        )
        self._schedule.reported(began, time.monotonic())


def status(spec: SharedSpec, mode: str, state: SharedState, **others: Any) -> SharedStatus:
    """Return a report."""
    memory = state.memory
    counts = {name: state.counts[name] for name in COUNTS}
    return SharedStatus(
        spec.name,
        os.getpid(),
        mode,
        spec.digest,
        counts,
        tick_problem=state.instance.tick_problem,
        remembered=len(memory),
        kept=memory.kept,
        evicted=memory.evicted,
        diverged=dict(state.diverged),
        **others,
    )
