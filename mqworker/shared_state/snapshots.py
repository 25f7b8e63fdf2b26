"""Begins, finishes and abandons snapshots, and knows which part of the journal each one replaces.

Lives on the loop of the process of the shared object. Owns the copy of this process that writes a snapshot, at most
one. The order of the steps: begin the next segment, write the snapshot of what came before to a file with another name,
rename it, then remove older files; so at every moment the folder holds one complete state. A snapshot that fails
changes nothing: the journal goes on growing, and another attempt follows later. Raises OSError when the next segment
cannot be begun.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mqworker.shared_state import recovery, snapshot
from mqworker.shared_state.instance import cannot_be_kept
from mqworker.shared_state.journal import Journal
from mqworker.shared_state.memory import SavedStage
from mqworker.shared_state.messages import SharedSpec
from mqworker.shared_state.state import SharedState


class _Replaced(NamedTuple):
    """What a snapshot replaces when it is finished."""

    number: int
    made: float
    records: int
    bytes: int


class Snapshots:
    """`made` is the time of the last snapshot; `finished` is called after each one, with True if it has failed."""

    def __init__(
        self,
        spec: SharedSpec,
        folder: Path,
        state: SharedState,
        journal: Journal,
        finished: Callable[[bool], None],
        log: Callable[[str], None],
    ) -> None:
        self.made: float | None = None  # seconds since the epoch
        self.count = 0
        self.problem = ""  # why the last one was not made
        self.pidfd = -1  # readable when the copy has ended; -1 if there is no copy
        self._spec, self._folder, self._state, self._journal = spec, folder, state, journal
        self._finished, self._log = finished, log

    def begin(self) -> None:
        """Fork a copy that writes a snapshot; if `pidfd` is set then, the caller waits for it and calls `finish`."""
        self._replaced = replaced = self._next()
        try:
            self._pid = snapshot.fork_writer(*self._content(replaced), self._spec.snapshot_deadline)
        except OSError as error:  # no memory, or no process left
            self._fail(replaced, f"a process could not be started: {error.strerror}")
            return
        self.pidfd = os.pidfd_open(self._pid)

    def finish(self) -> None:
        """Publish the snapshot that the copy has written, or abandon it."""
        code = self._reap()
        if code == 0:
            self._publish(self._replaced)
            return
        if code == -signal.SIGALRM:
            why = f"it took longer than {self._spec.snapshot_deadline:g} s"
        elif code == snapshot.FAILED:
            why = snapshot.read_failure(snapshot.new_path(self._folder, self._replaced.number))
        else:
            why = f"its writer ended with {code}"
        self._fail(self._replaced, why)

    def write_now(self) -> None:
        """Write a snapshot in this process, unless the last one has everything; kills a copy that is writing one."""
        if self.pidfd >= 0:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self._reap()
        if not self._journal.records and self.made is not None:
            return
        replaced = self._next()
        try:
            snapshot.write(*self._content(replaced))
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; the journal has it all
            self._fail(replaced, cannot_be_kept(self._state.instance.state, error))
        else:
            self._publish(replaced)

    def _next(self) -> _Replaced:
        before = self._journal.records, self._journal.bytes
        return _Replaced(self._state.next_segment(), time.time(), *before)

    def _content(self, replaced: _Replaced) -> tuple[Path, snapshot.SnapshotFacts, dict[str, SavedStage], Any]:
        facts = snapshot.SnapshotFacts(self._spec.job, self._spec.digest, replaced.made)
        path = snapshot.new_path(self._folder, replaced.number)
        return path, facts, self._state.memory.save(), self._state.instance.state

    def _reap(self) -> int:
        _, status = os.waitpid(self._pid, 0)
        os.close(self.pidfd)
        self.pidfd = -1
        return os.waitstatus_to_exitcode(status)

    def _publish(self, replaced: _Replaced) -> None:
        snapshot.publish(self._folder, snapshot.new_path(self._folder, replaced.number), replaced.number)
        recovery.remove(self._folder, recovery.obsolete(self._folder))
        self._journal.records -= replaced.records
        self._journal.bytes -= replaced.bytes
        self.made, self.problem = replaced.made, ""
        self.count += 1
        self._finished(False)

    def _fail(self, replaced: _Replaced, why: str) -> None:
        snapshot.new_path(self._folder, replaced.number).unlink(missing_ok=True)
        if why != self.problem:
            self._log(f"the snapshot of {self._spec.name} was not made: {why}; the journal has everything, and grows")
        self.problem = why
        self._finished(True)
