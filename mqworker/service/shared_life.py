"""One life of a shared object's process, as its supervisor sees it.

Lives in the Service's main thread, on its loop. Owns the child. Sends a SharedSpec once, then SharedOrders; notes what
the process reports, and passes it on. Kills a process whose call takes too long, or that is silent. A process that is
gone is reaped, and reports nothing more.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from mqworker.ipc.child import Child
from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Death
from mqworker.shared_state.execution import Execution, read_execution
from mqworker.shared_state.folder import EXECUTION, folder_of
from mqworker.shared_state.messages import (
    Charge,
    SharedEnded,
    SharedOrder,
    SharedReport,
    SharedSpec,
    SharedStatus,
    SharedUnfit,
)
from mqworker.shared_state.process import SharedObject

SERVES = ("serving", "paused")  # states of a process that owns the state
SILENT = 60.0  # seconds without a report or a call after which a serving process counts as stuck
PAUSE = 5.0  # seconds between two checks above which they prove nothing: this process was stopped
LOADING = 3600.0  # seconds for the same while it imports code or reads a snapshot

_reports = msgspec.msgpack.Decoder(SharedReport)


class SharedCode(NamedTuple):
    """The code of a shared object; `build` distinguishes versions of code that is not kept in copies."""

    job: str  # "module:Class"
    copy: CodeCopy | None
    build: int = 0

    @property
    def digest(self) -> str:
        """Return what identifies the code in the journal."""
        return self.copy.digest if self.copy is not None else UNKNOWN


UNKNOWN = "not kept"  # the digest of code without a copy


class SharedLife:
    """See the module head."""

    def __init__(
        self,
        code: SharedCode,
        spec: SharedSpec,
        on_report: Callable[["SharedLife", SharedReport], None],
        on_death: Callable[["SharedLife", Death], None],
        on_log: Callable[[LogEvent], None],
    ) -> None:
        """Start the process; raises OSError."""
        self.code = code
        self.fresh = spec.fresh  # the process begins with a new object
        self.held = spec.held  # the process runs the code that wrote the state, not the wanted code
        self.began = self.heard = time.monotonic()
        self.status: SharedStatus | None = None
        self.unfit: SharedUnfit | None = None
        self.ended = False
        self.news = asyncio.Event()
        self._name = spec.name
        self._execution = folder_of(spec.state_dir, spec.name) / EXECUTION
        self._judged = self.began
        self._slow = 0.0  # when the call for which it was killed began
        self._on_report, self._on_death = on_report, on_death
        self.child = Child(_reports, self._reported, self._died, on_log)
        self.child.start(SharedObject(spec.name))
        self.child.send(spec)

    @property
    def state(self) -> str:
        """The last reported state."""
        return self.status.state if self.status is not None else "starting"

    @property
    def serves(self) -> bool:
        """Whether it owns the state and is up."""
        return self.state in SERVES

    def send(self, order: SharedOrder) -> None:
        """Send it an order."""
        self.child.send(order)

    def forget_status(self) -> None:
        """Consider only what it reports from now on."""
        self.status = None

    async def until(self, *states: str, empty: bool = False) -> str:
        """Wait until it reports one of these states (`empty`: and an empty journal); returns why it will not, or ""."""
        while True:
            status = self.status
            if self.unfit is not None:
                return self.unfit.reason
            if not self.child.alive:
                return f"its process has ended: {self.child.death}"
            if status is not None and status.state in states:
                if not (empty and status.journaled):
                    return ""
                if status.snapshot_problem:
                    return status.snapshot_problem
            self.news.clear()
            await self.news.wait()

    def judge(self, deadline: float, now: float, *, moving: bool) -> None:
        """Kill the process if its call takes longer than `deadline` seconds, or if it is stuck without one.

        `moving`: it may be writing a snapshot, which has its own deadline. Called twice a second.
        """
        paused, self._judged = now - self._judged > PAUSE, now
        if moving or paused:
            self.heard = now
        if paused:  # this process was stopped, perhaps with all others, so the times prove nothing
            return
        found = self._in_execution()
        if found is not None:
            self.heard = max(self.heard, found.started)
            if now - found.started > deadline:
                self._slow = found.started
                self.child.kill(
                    f"its call of {found.method or 'handle'} took longer than its deadline of {deadline:g} s"
                )
        elif now - self.heard > (SILENT if self.serves else LOADING):
            self.child.kill(f"it was silent for {now - self.heard:.0f} s")

    def culprit(self) -> Execution | None:
        """Return the call in which the process died; None if it died outside calls, or because of another call."""
        found = self._in_execution()
        return found if found is not None and self._slow in (0.0, found.started) else None

    def charge_for(self, found: Execution, death: Death) -> Charge:
        """Return the charge for the call in which the process died."""
        why = self.child.kill_reason or str(death)
        what = f"the process of the shared object {self._name} was ended in this call ({why})"
        return Charge(found.stage, found.message, found.call, what, time.monotonic())

    def _in_execution(self) -> Execution | None:
        found = read_execution(self._execution)
        return found if found is not None and found.started >= self.began else None

    def _reported(self, report: SharedReport) -> None:
        self.heard = time.monotonic()
        match report:
            case SharedStatus():
                self.status = report
            case SharedUnfit():
                self.unfit = report
            case SharedEnded():
                self.ended = True
        self._on_report(self, report)
        self.news.set()

    def _died(self, death: Death) -> None:
        self.news.set()
        self._on_death(self, death)
