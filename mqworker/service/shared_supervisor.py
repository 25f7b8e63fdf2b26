"""The supervisor of one shared object: keeps its process alive, ends a call that takes too long, takes new code over.

Lives in the Service's main thread, on its loop. Owns the process that serves the object, and during a change of code a
second one, on trial. Sends SharedSpecs and SharedOrders, receives SharedReports. A process that dies is started again,
with backoff when it achieves nothing; the call that it died in is charged, once. One that says why it cannot serve
(its class, its files) is not started again with the same code until somebody asks for it.

New code: the object is paused and writes a snapshot; a second process loads that under the new class. Only when it has
done so may the change be committed; then it takes over. Callers wait meanwhile, and notice nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from mqworker.control.control import SharedView
from mqworker.ipc import logs
from mqworker.ipc.child import Child
from mqworker.ipc.messages import CodeCopy, LogEvent
from mqworker.ipc.restart_budget import Budget
from mqworker.ipc.spawn import Death
from mqworker.shared_state.execution import read_execution
from mqworker.shared_state.folder import EXECUTION, folder_of
from mqworker.shared_state.messages import (
    Charge,
    Pause,
    ResetState,
    Resume,
    SetLevel,
    SharedEnded,
    SharedOrder,
    SharedReport,
    SharedSpec,
    SharedStatus,
    SharedUnfit,
    StopSharing,
    TakeSnapshot,
)
from mqworker.shared_state.process import SharedObject
from mqworker.shared_state.written_by import written_by

FRUITFUL_AGE = 10.0  # seconds after which a life counts as fruitful
MOVE_DEADLINE = 600.0  # seconds to load the state under the code of a start
STOP_GRACE = 0.5  # seconds that a process may take to end beyond the deadline it was told

_reports = msgspec.msgpack.Decoder(SharedReport)

log = logging.getLogger("mqworker.service.shared_supervisor")


class SharedCode(NamedTuple):
    """The code of a shared object."""

    job: str  # "module:Class"
    copy: CodeCopy | None

    @property
    def digest(self) -> str:
        """Return what tells it from other code."""
        return self.copy.digest if self.copy is not None else f"in the folder: {self.job}"


class _Life:
    """One life of its process."""

    def __init__(self, code: SharedCode) -> None:
        self.code = code
        self.began = time.monotonic()
        self.status: SharedStatus | None = None
        self.unfit: SharedUnfit | None = None
        self.ended = False
        self.child: Child
        self.news = asyncio.Event()


class SharedSupervisor:
    """See the module head. `on_change` is called when there is something new to show, `on_log` with each log event."""

    def __init__(
        self,
        name: str,
        root: Path,
        state_dir: Path,
        deadline: float,
        on_change: Callable[[], None],
        on_log: Callable[[LogEvent], None],
    ) -> None:
        self.name = name
        self.restarts = 0
        self.problem = ""
        self._root, self._state_dir, self._deadline = root, state_dir, deadline
        self._on_change, self._on_log = on_change, on_log
        self._level = logging.INFO
        self._code: SharedCode | None = None  # that should serve
        self._serving: _Life | None = None
        self._trial: _Life | None = None
        self._charge: Charge | None = None
        self._stuck = False  # it has said why it cannot serve
        self._ending = False
        self._budget = Budget()
        self._task: asyncio.Task[str] | None = None

    # --- what is wanted

    def want(self, code: SharedCode, level: int) -> None:
        """Serve the object with this code; if it is served with other code, that gives way, or has been prepared to."""
        self.use_level(level)
        if self._code is None:
            self._code = code
        elif self._trial is not None and self._trial.code == code:
            self.take_over(code)
        elif self.needs_move(code):
            self._stuck = False
            self._task = asyncio.create_task(self._move(code))
        self.beat()

    def needs_move(self, code: SharedCode) -> bool:
        """Return whether the state has to be loaded under this code before it can serve."""
        return self._code is not None and self._code != code

    def use_level(self, level: int) -> None:
        """Log from this level on."""
        if level != self._level:
            self._level = level
            self._send(self._serving, SetLevel(level))

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        now = time.monotonic()
        life = self._serving
        if life is not None:
            found = read_execution(folder_of(self._state_dir, self.name) / EXECUTION)
            if found is not None and now - found.started > self._deadline and life.child.alive:
                life.child.kill(f"its call of {found.method or 'handle'} took longer than {self._deadline:g} s")
        elif not self._ending and not self._stuck and self._code is not None and self._budget.may_start(now):
            self._begin(self._code)

    def reset(self) -> None:
        """Replace the object by a new one; what is remembered of calls stays."""
        if self._serving is not None:
            self._send(self._serving, ResetState())
        elif self._code is not None:
            self._stuck = False
            self._serving = self._start(self._code, fresh=True)

    def end(self, until: float) -> None:
        """End for good, with a snapshot, until `until` (CLOCK_MONOTONIC) at most."""
        self._ending = True
        for life in (self._serving, self._trial):
            if life is not None and life.child.alive:
                self._send(life, StopSharing())
                life.child.kill_after(max(0.0, until - time.monotonic()) + STOP_GRACE, "it did not end in time")

    @property
    def alive(self) -> bool:
        """Whether any process is left."""
        return any(life is not None and life.child.alive for life in (self._serving, self._trial))

    def view(self) -> SharedView:
        """Return the object for the snapshot."""
        status = self._serving.status if self._serving is not None else None
        state = status.state if status is not None else "starting" if self._serving is not None else "down"
        return SharedView(self.name, self._code.job if self._code else "", state, self.problem, self.restarts, status)

    # --- a change of code

    async def prepare(self, code: SharedCode, deadline: float) -> str:
        """Load the state under other code, beside the process that serves; returns why that cannot be, or "".

        Afterwards either `take_over` or `give_up` has to be called.
        """
        life = self._serving
        if life is None or not life.child.alive:
            return ""  # the next start takes care of it
        try:
            async with asyncio.timeout(deadline):
                self._send(life, Pause())
                self._send(life, TakeSnapshot())
                why = await self._reported(life, lambda status: status.state == "paused" and not status.journaled)
                if not why and life.status is not None and life.status.snapshot_problem:
                    why = life.status.snapshot_problem
                if not why:
                    self._trial = trial = self._start(code, trial=True)
                    why = await self._reported(trial, lambda status: status.state == "trial")
        except TimeoutError:
            return f"the state of the shared object {self.name} could not be taken over within {deadline:g} s"
        return why and f"the shared object {self.name}: {why}"

    def take_over(self, code: SharedCode) -> None:
        """Let the prepared process serve, in the place of the other."""
        self._code = code
        old, self._serving, self._trial = self._serving, self._trial, None
        if self._serving is None:
            self._serving = old  # there was no state to take over: nothing served then
            return
        if old is not None:
            old.child.kill("other code has taken its state over")
        self._send(self._serving, Resume())

    def give_up(self) -> None:
        """Go on with the code that served before."""
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.child.kill("the change was undone")
        self._send(self._serving, Resume())

    # --- processes

    def _begin(self, code: SharedCode) -> None:
        """Start it; if its journal was written by other code, by that code first, which then gives way."""
        digest = written_by(folder_of(self._state_dir, self.name))
        first = code
        if digest and digest != code.digest:
            copy = CodeCopy(digest, str(self._root))
            if copy.path(self._state_dir).is_dir():
                first = SharedCode(code.job, copy)
        self._serving = self._start(first)
        if first != code and self._serving is not None:
            self._task = asyncio.create_task(self._move(code))

    async def _move(self, code: SharedCode) -> str:
        """Load the state under other code, and let that serve."""
        life = self._serving
        why = await self._reported(life, lambda status: status.state == "serving") if life is not None else ""
        why = why or await self.prepare(code, MOVE_DEADLINE)
        if why:
            self.give_up()
            what = f"{why}; the code of before serves the shared object {self.name}"
            logs.report(log, logging.ERROR, "shared_code", what, shared=self.name)
        else:
            self.take_over(code)
        return why

    def _start(self, code: SharedCode, *, trial: bool = False, fresh: bool = False) -> _Life | None:
        life = _Life(code)
        life.child = child = Child(
            _reports,
            lambda report: self._on_report(life, report),
            lambda death: self._on_death(life, death),
            self._on_log,
        )
        try:
            child.start(SharedObject(self.name))
        except OSError as error:
            self.problem = f"its process could not be started: {error.strerror}"
            self._budget.died(time.monotonic(), fruitful=False)
            return None
        charge, self._charge = (None if trial else self._charge), (self._charge if trial else None)
        child.send(
            SharedSpec(
                name=self.name,
                job=code.job,
                root=str(self._root),
                copy=code.copy,
                digest=code.digest,
                state_dir=str(self._state_dir),
                log_level=self._level,
                fresh=fresh,
                trial=trial,
                charge=charge,
            )
        )
        return life

    def _send(self, life: _Life | None, order: SharedOrder) -> None:
        if life is not None:
            life.child.send(order)

    async def _reported(self, life: _Life | None, fits: Callable[[SharedStatus], bool]) -> str:
        """Wait for a report that fits; returns why there will be none, or ""."""
        if life is None:
            return self.problem
        while not (life.status is not None and fits(life.status)):
            if life.unfit is not None:
                return life.unfit.reason
            if not life.child.alive:
                return f"its process {life.child.death}"
            life.news.clear()
            await life.news.wait()
        return ""

    # --- what the processes report

    def _on_report(self, life: _Life, report: SharedReport) -> None:
        match report:
            case SharedStatus():
                life.status = report
                if life is self._serving and report.state in ("serving", "paused"):
                    self.problem = report.snapshot_problem or report.describe_problem
            case SharedUnfit():
                life.unfit = report
                self._refused(life, report)
            case SharedEnded():
                life.ended = True
        life.news.set()
        self._on_change()

    def _refused(self, life: _Life, report: SharedUnfit) -> None:
        if life is not self._serving:
            return
        self._stuck = report.kind != "disk"
        self.problem = report.reason
        logs.report(
            *(log, logging.ERROR, "shared_unfit", f"the shared object {self.name} cannot be served: {report.reason}"),
            shared=self.name,
            traceback=report.traceback or None,
        )

    def _on_death(self, life: _Life, death: Death) -> None:
        life.news.set()
        if life is self._trial:
            self._trial = None
        if life is not self._serving:
            return
        self._serving = None
        if life.ended or life.unfit is not None:
            self._budget.died(time.monotonic(), fruitful=life.ended)
            return
        now = time.monotonic()
        self.restarts += 1
        self._budget.died(now, fruitful=now - life.began > FRUITFUL_AGE)
        why = life.child.kill_reason or f"it {death}"
        found = read_execution(folder_of(self._state_dir, self.name) / EXECUTION)
        what = f"the process of the shared object {self.name} {death}"
        if found is not None and found.message:
            self._charge = Charge(found.stage, found.message, found.call, f"the shared object died in this call: {why}")
            what += f" in a call of {found.method or 'handle'} for stage {found.stage}, whose message is charged"
        logs.report(log, logging.ERROR, "shared_died", f"{what}: {why}", shared=self.name)
        self.problem = f"its last process {death}"
        self.beat()
        self._on_change()
