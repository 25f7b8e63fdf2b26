"""The supervisor of one shared object: keeps its process alive, ends calls that take too long, moves it to new code.

Lives in the Service's main thread, on its loop. Owns the process that serves the object, and during a move a second
one, on trial. Sends SharedSpecs and SharedOrders, receives SharedReports. A process that dies is started again, with
backoff when it achieves nothing; the call that it died in is charged, once. One that says why it cannot serve (its
class, its files) is tried again now and then, and whenever somebody asks.

A move to new code: the object is paused and writes a snapshot; a second process loads that under the new class. Only
when it has done so may the change be committed; then it takes over. Callers wait meanwhile. There is one move at a
time; if either process dies, it has failed, and nothing has changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

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
PAUSED = 30.0  # seconds that a loaded trial may wait for its commit, while callers wait
RETRY = 30.0  # seconds until one that cannot serve is tried again
STOP_GRACE = 0.5  # seconds that a process may take to end beyond the deadline it was told

_reports = msgspec.msgpack.Decoder(SharedReport)

log = logging.getLogger("mqworker.service.shared_supervisor")


class SharedCode(NamedTuple):
    """The code of a shared object; `build` tells code apart that is not kept in copies."""

    job: str  # "module:Class"
    copy: CodeCopy | None
    build: int = 0

    @property
    def digest(self) -> str:
        """Return what names it in the journal."""
        return self.copy.digest if self.copy is not None else UNKNOWN


UNKNOWN = "not kept"  # the digest of code without a copy


class _Life:
    """One life of its process."""

    def __init__(self, code: SharedCode) -> None:
        self.code = code
        self.began = time.monotonic()
        self.status: SharedStatus | None = None
        self.unfit: SharedUnfit | None = None
        self.ended = False
        self.judged = 0.0  # when the call began for which we killed it
        self.child: Child
        self.news = asyncio.Event()

    @property
    def state(self) -> str:
        """What it last reported."""
        return self.status.state if self.status is not None else "starting"


class _Move:
    """A move to other code; `owners` are those who have asked for it."""

    def __init__(self, code: SharedCode) -> None:
        self.code = code
        self.owners: set[object] = set()
        self.trial: _Life | None = None
        self.task: asyncio.Task[str]
        self.ready_at: float | None = None


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
        self.ending = False
        self._root, self._state_dir, self._deadline = root, state_dir, deadline
        self._folder = folder_of(state_dir, name)
        self._on_change, self._on_log = on_change, on_log
        self._level = logging.INFO
        self._wanted: SharedCode | None = None  # committed: it serves, or is moved to
        self._code: SharedCode | None = None  # of the process that serves
        self._serving: _Life | None = None
        self._move: _Move | None = None
        self._charge: Charge | None = None
        self._retry_at = 0.0  # when what could not be is tried again
        self._fresh = False  # the next process begins with a new object
        self._without_before = False  # the code that wrote the state cannot be used: try the wanted code at once
        self._budget = Budget()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what is wanted

    def want(self, code: SharedCode) -> None:
        """Serve the object with this code, which is committed: at once if that was prepared, else after a move."""
        self._wanted, self._retry_at = code, 0.0
        move = self._move
        if move is not None and move.code == code and move.ready_at is not None:
            self._take_over(move)
        elif move is not None and move.code != code:
            self.give_up(move.code, self)
        self.beat()

    def use_level(self, level: int) -> None:
        """Log from this level on."""
        if level != self._level:
            self._level = level
            self._send(self._serving, SetLevel(level))

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        now = time.monotonic()
        life, move = self._serving, self._move
        if move is not None and move.ready_at is not None and now - move.ready_at > PAUSED:
            self._drop(move)
        if life is not None and life.state in ("serving", "paused"):
            self._judge(life, now)
        if self._move is not None or self._wanted is None or self.ending or now < self._retry_at:
            return
        if life is None and self._budget.may_start(now):
            self._begin(self._wanted)
        elif life is not None and life.state in ("serving", "paused") and self._code != self._wanted:
            self._retry_at = now + RETRY
            self._go(self._moved())

    def reset(self) -> str:
        """Replace the object by a new one, and keep what is remembered of calls; returns why that cannot be, or ""."""
        life = self._serving
        if self._move is not None or (life is not None and life.unfit is not None):
            return "its process is being replaced: try again in a moment"
        if life is not None:
            self._send(life, ResetState())
        else:
            self._fresh, self._retry_at = True, 0.0
            self.beat()
        return ""

    def end(self, until: float) -> None:
        """End for good, with a snapshot, until `until` (CLOCK_MONOTONIC) at most."""
        self.ending = True
        if self._move is not None:
            self._drop(self._move)
        life = self._serving
        if life is not None and life.child.alive:
            self._send(life, StopSharing())
            life.child.kill_after(max(0.0, until - time.monotonic()) + STOP_GRACE, "it did not end in time")

    @property
    def alive(self) -> bool:
        """Whether its process is left."""
        return self._serving is not None

    def view(self) -> SharedView:
        """Return the object for the snapshot."""
        life = self._serving
        state = "down" if life is None else life.state
        job = self._wanted.job if self._wanted is not None else ""
        return SharedView(self.name, job, state, self.problem, self.restarts, life.status if life is not None else None)

    # --- a move to other code

    def is_prepared(self, code: SharedCode) -> bool:
        """Return whether this code may be committed."""
        move, life = self._move, self._serving
        if move is not None:
            return move.code == code and move.ready_at is not None
        return self._code == code and life is not None and life.state in ("serving", "paused")

    async def prepare(self, code: SharedCode, deadline: float, owner: object) -> str:
        """Load the state under other code, beside the process that serves; returns why that cannot be, or "".

        Afterwards `want` lets it serve; `give_up`, a dead process, or too long a wait undoes it.
        """
        try:
            async with asyncio.timeout(deadline):
                while self._move is not None and self._move.code != code:
                    await asyncio.wait({self._move.task})
                    if self._move is not None and self._move.code != code:
                        await asyncio.sleep(0.05)  # it waits for its commit
                if self._code == code and self._serving is not None:
                    why = await self._reported(self._serving, "serving", "paused")
                else:
                    if self._move is None:
                        self._move = move = _Move(code)
                        move.task = asyncio.create_task(self._load(move))
                    self._move.owners.add(owner)
                    (done,), _ = await asyncio.wait({self._move.task})
                    why = "its process was replaced meanwhile" if done.cancelled() else done.result()
        except TimeoutError:
            self.give_up(code, owner)
            why = f"its state could not be loaded within {deadline:g} s"
        return why and f"the shared object {self.name}: {why}"

    def give_up(self, code: SharedCode, owner: object) -> None:
        """Go on with the code that serves, if there is a move to this code that nobody else has asked for."""
        move = self._move
        if move is not None and move.code == code:
            move.owners.discard(owner)
            if not move.owners:
                self._drop(move)

    def _drop(self, move: _Move) -> None:
        """End a move, and go on with the process that serves."""
        self._move = None
        if move.task is not asyncio.current_task():
            move.task.cancel()
        if move.trial is not None:
            move.trial.child.kill("the change was undone")
        self._send(self._serving, Resume())

    async def _load(self, move: _Move) -> str:
        """Pause, write a snapshot, and load it under the other code; returns why that cannot be, or ""."""
        try:
            life, why = self._serving, ""
            if life is not None and not await self._reported(life, "serving", "paused"):
                life.status = None  # what it says from now on counts
                self._send(life, Pause())
                self._send(life, TakeSnapshot())
                why = await self._reported(life, "paused", empty=True)
            if not why:  # one that cannot serve has written everything
                move.trial = self._start(move.code, trial=True)
                why = await self._reported(move.trial, "trial")
        except Exception as error:  # otherwise callers would wait for ever
            log.exception("the shared object %s could not be moved", self.name, extra={"event": "failed"})
            why = f"{type(error).__name__}: {error}"
        if why:
            self._drop(move)
        else:
            move.ready_at = time.monotonic()
        return why

    async def _moved(self) -> None:
        """Move to the code that is committed; until that succeeds, the code of before serves."""
        code = self._wanted
        if code is None:
            return
        why = await self.prepare(code, MOVE_DEADLINE, self)
        if why:
            what = f"{why}; the code of before serves it, and this is tried again"
            logs.report(log, logging.ERROR, "shared_code", what, shared=self.name)
            if self._move is None:
                self._send(self._serving, Resume())  # it may have begun paused
        elif code == self._wanted and self._move is not None and self._move.code == code:
            self._take_over(self._move)

    def _take_over(self, move: _Move) -> None:
        """Let the trial serve, in the place of the process that has served so far."""
        old, self._move = self._serving, None
        self._code, self._serving = move.code, move.trial
        if old is not None:
            old.child.kill("other code has taken its state over")
        self._send(self._serving, SetLevel(self._level))
        self._send(self._serving, Resume())

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- processes

    def _begin(self, code: SharedCode) -> None:
        """Start it; if its state needs other code, with that, which serves nobody before the move was tried."""
        digest = written_by(self._folder)
        copy = CodeCopy(digest, str(self._root))
        there = digest and digest != code.digest and copy.path(self._state_dir).is_dir()
        if not there or self._without_before or self._fresh:
            self._code = code
            self._serving = self._start(code, fresh=self._fresh)
        else:
            self._code = SharedCode(code.job, copy)
            self._serving = self._start(self._code, held=True)

    def _start(self, code: SharedCode, *, trial: bool = False, fresh: bool = False, held: bool = False) -> _Life | None:
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
        charge = None
        if not trial:
            charge, self._charge = self._charge, None
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
                held=held,
                charge=charge,
            )
        )
        return life

    def _judge(self, life: _Life, now: float) -> None:
        """Kill the process if its call takes too long."""
        found = read_execution(self._folder / EXECUTION)
        if found is not None and found.started >= life.began and now - found.started > self._deadline:
            life.judged = found.started
            life.child.kill(f"its call of {found.method or 'handle'} took longer than {self._deadline:g} s")

    def _send(self, life: _Life | None, order: SharedOrder) -> None:
        if life is not None:
            life.child.send(order)

    async def _reported(self, life: _Life | None, *states: str, empty: bool = False) -> str:
        """Wait until it reports one of these states, `empty`: with an empty journal; returns why it will not, or ""."""
        if life is None:
            return self.problem or "it is down"
        while True:
            status = life.status
            if life.unfit is not None:
                return life.unfit.reason
            if not life.child.alive:
                return f"its process {life.child.death}"
            if status is not None and status.state in states:
                if not (empty and status.journaled):
                    return ""
                if status.snapshot_problem:
                    return status.snapshot_problem
            life.news.clear()
            await life.news.wait()

    # --- what the processes report

    def _on_report(self, life: _Life, report: SharedReport) -> None:
        match report:
            case SharedStatus():
                life.status = report
                if life is self._serving and report.state in ("serving", "paused"):
                    self._fresh = self._without_before = False
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
        self._retry_at = time.monotonic() + RETRY
        if life.code != self._wanted:
            self._without_before, self._retry_at = True, 0.0
        if self.problem != report.reason:
            what = f"the shared object {self.name} cannot be served: {report.reason}"
            trace = report.traceback or None
            logs.report(log, logging.ERROR, "shared_unfit", what, shared=self.name, traceback=trace)
        self.problem = report.reason

    def _on_death(self, life: _Life, death: Death) -> None:
        life.news.set()
        move = self._move
        if move is not None and life is move.trial and move.ready_at is not None:
            self._drop(move)  # until then, whoever loads it sees that, and why
        if life is not self._serving:
            return
        self._serving, now = None, time.monotonic()
        if life.ended or life.unfit is not None:
            self._budget.died(now, fruitful=life.ended)
        else:
            self._died(life, death, now)
        self.beat()
        self._on_change()

    def _died(self, life: _Life, death: Death, now: float) -> None:
        """Note an end that nobody ordered, and whose call it was."""
        self.restarts += 1
        served = life.status is not None and life.status.counts["calls"] > 0
        self._budget.died(now, fruitful=served or now - life.began > FRUITFUL_AGE)
        self.problem = f"its last process {death}"
        why = life.child.kill_reason or f"it {death}"
        found = read_execution(self._folder / EXECUTION)
        what = f"the process of the shared object {self.name} {death}"
        guilty = found is not None and found.started >= life.began and life.judged in (0.0, found.started)
        if found is not None and guilty and found.message:
            self._charge = Charge(found.stage, found.message, found.call, f"the shared object died in this call: {why}")
            what += f" in a call of {found.method or 'handle'} for stage {found.stage}, whose message is charged"
        logs.report(log, logging.ERROR, "shared_died", f"{what}: {why}", shared=self.name)
