"""The loop of a shared object: wait, make calls, flush, answer; then what is due.

Runs in the main thread of its process, which has no other. Owns the listening socket, the connections, the state with
its journal, and its snapshots. Receives orders on the pipe `down` and sends reports through `send`. Ends by returning:
at StopSharing, or when its parent is gone. An OSError of the journal passes through, and ends the process.
"""

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mqworker.ipc import frames, logs
from mqworker.jobs.loading import JobLoadError
from mqworker.shared_state import folder as folders
from mqworker.shared_state.connections import Connections
from mqworker.shared_state.execution import ExecutionNote
from mqworker.shared_state.journal import JournalSync
from mqworker.shared_state.messages import (
    COUNTS,
    Pause,
    ResetState,
    Resume,
    SetLevel,
    SharedEnded,
    SharedOrder,
    SharedReport,
    SharedSpec,
    SharedStatus,
    StopSharing,
    TakeSnapshot,
)
from mqworker.shared_state.recovery import Recovered, take_over
from mqworker.shared_state.schedule import REPORT, Schedule
from mqworker.shared_state.snapshots import Snapshots
from mqworker.shared_state.state import SharedState

READY = 64  # connections that are served before the journal is flushed

_order = msgspec.msgpack.Decoder(SharedOrder)


class Outside:
    """What the loop has from its process: orders come from `down`, the rest is to be called."""

    def __init__(self, down: int, send: Callable[[SharedReport], None], log: Callable[[str], None]) -> None:
        self.down, self.send, self.log = down, send, log


class Trial:
    """Reports on a state that another process still has, until it is told to take it over; see SharedSpec."""

    def __init__(self, spec: SharedSpec, outside: Outside, state: SharedState) -> None:
        self._spec, self._outside, self._state = spec, outside, state

    def passed(self) -> bool:
        """Wait for the order; False if it is to end."""
        described, problem = self._state.instance.described()
        parser = frames.FrameParser()
        while True:
            self._outside.send(status(self._spec, "trial", self._state, described=described, describe_problem=problem))
            if not select.select([self._outside.down], [], [], REPORT)[0]:
                continue
            if not (data := os.read(self._outside.down, frames.READ_SIZE)):
                return False
            for payload in parser.feed(data):
                match _order.decode(payload):
                    case Resume():
                        return True
                    case StopSharing():
                        self._outside.send(SharedEnded(""))
                        return False


class Serving:
    """See the module head; the caller holds the folder's lock."""

    def __init__(
        self, spec: SharedSpec, folder: Path, recovered: Recovered, outside: Outside, sync: JournalSync
    ) -> None:
        """Begin to write and to listen; raises StateError, OSError."""
        self._spec, self._outside, self._sync = spec, outside, sync
        note = ExecutionNote(folder / folders.EXECUTION)
        self._journal = take_over(folder, recovered, spec.digest)
        self._state = state = recovered.state
        state.charge = spec.charge
        state.open(self._journal, note)
        self._schedule = Schedule(time.monotonic(), spec.tick_seconds, spec.snapshot_bytes)
        self._snapshots = Snapshots(spec, folder, state, self._journal, self._snapshot_finished, outside.log)
        if spec.fresh:
            self._snapshots.write_now()
        else:
            self._snapshots.made = recovered.made
        self._ending, self._paused = False, spec.held
        self._orders = frames.FrameParser()
        self._poll = select.epoll()
        self._connections = Connections(self._poll, state, outside.log)
        self._folder = folder
        self._listening: socket.socket | None = None
        os.set_blocking(outside.down, False)
        self._poll.register(outside.down, select.EPOLLIN)
        if not spec.held:
            self._listen()
        os.register_at_fork(after_in_child=self._close_copies)

    def _close_copies(self) -> None:
        """Close, in a process that user code has forked, what would outlive us there: callers would wait for it."""
        self._poll.close()
        if self._listening is not None:
            self._listening.close()
        self._connections.close_copies()
        self._journal.close()

    def run(self) -> None:
        """Serve until the end."""
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
            self._poll.unregister(fd)
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

    def _snapshot_finished(self, failed: bool) -> None:
        self._schedule.written(time.monotonic(), failed=failed)

    # --- orders

    def _take_orders(self) -> None:
        try:
            data = os.read(self._outside.down, frames.READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self._ending = True  # the parent is gone, and so are we soon
        for payload in self._orders.feed(data):
            self._obey(_order.decode(payload))
            if self._ending:
                return
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
                try:
                    self._state.reset(time.time())
                except JobLoadError as error:
                    self._outside.log(f"the object could not be reset: {error}")
            case StopSharing():
                self._snapshots.write_now()
                self._outside.send(SharedEnded(self._snapshots.problem))
                self._ending = True
            case SetLevel():
                logs.set_level(order.log_level)

    def _listen(self) -> None:
        if self._listening is None:
            self._listening = folders.listen(self._folder)
            self._poll.register(self._listening, select.EPOLLIN)

    def _pause(self) -> None:
        """Be as if there were no process: callers then know that they wait, and it counts toward nobody's limit."""
        self._paused = True
        self._snapshots.problem = ""
        if self._listening is not None:
            self._poll.unregister(self._listening)
            self._listening.close()
            self._listening = None
            self._connections.close()

    def _take_snapshot(self) -> None:
        if self._paused:
            self._snapshots.write_now()
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
        remembered=len(memory),
        kept=memory.kept,
        evicted=memory.evicted,
        diverged=dict(state.diverged),
        **others,
    )
