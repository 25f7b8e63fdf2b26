"""The lives of a shared object's process, one after another: which one serves, and what follows when it dies.

Lives in the Service's main thread, on its loop; part of a SharedSupervisor. Owns the process that serves the object,
and the charges that still hold. A process that dies is started again, with backoff if it achieves nothing; the call in
which it died is charged once. A process that reports why it cannot serve (its class, its files) is started again now
and then, and on request. If a process dies before it carries out a reset, its successor does.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from mqworker.ipc import logs
from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.records import LogEvent
from mqworker.ipc.restart_budget import Budget
from mqworker.ipc.spawn import Death
from mqworker.service.shared_life import SharedCode, SharedLife
from mqworker.shared_state.folder import folder_of
from mqworker.shared_state.messages import (
    Charge,
    ChargeEnded,
    ResetState,
    Resume,
    SetLevel,
    SharedOrder,
    SharedReport,
    SharedReset,
    SharedSpec,
    SharedStatus,
    SharedUnfit,
    StopSharing,
)
from mqworker.shared_state.written_by import written_by

FRUITFUL_AGE = 10.0  # seconds after which a life counts as fruitful
CHARGED = 3600.0  # seconds after which a charged call is not expected any more
MOST_CHARGES = 1000
REPLACED = "the object is replaced by a new one of other code"
RETRY = 30.0  # seconds until a process that cannot serve is started again
STOP_GRACE = 0.5  # seconds that a process may take to end after its deadline

log = logging.getLogger("mqworker.service.shared_lives")


class SharedLives:
    """See the module head. `serving` is None while there is no process.

    `on_change` is called when there is something new to show, `on_end` with each process that has ended, whether it was
    serving or on trial.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        state_dir: Path,
        on_change: Callable[[], None],
        on_end: Callable[[SharedLife], None],
        on_log: Callable[[LogEvent], None],
    ) -> None:
        self.name = name
        self.serving: SharedLife | None = None
        self.restarts = 0
        self.problem = ""
        self._root, self._state_dir = root, state_dir
        self._on_change, self._on_end, self._on_log = on_change, on_end, on_log
        self._level = logging.INFO
        self._charges: dict[tuple[str, bytes, bytes], Charge] = {}  # charges that still hold
        self._retry_at = 0.0  # when a process that could not serve is started again
        self._resetting = False  # a reset was ordered; if this process does not carry it out, the next one does
        self._without_before = False  # the code that wrote the state cannot be used: try the wanted code at once
        self._held_why = ""  # why the code that wrote the state could not serve
        self._budget = Budget()

    # --- what is wanted

    def begin(self, code: SharedCode, now: float) -> None:
        """Start a process to serve the object, unless there is one or it is too early.

        If the state needs other code than this, the process gets that code, and does not serve until a move has been
        tried.
        """
        if self.serving is not None or now < self._retry_at or not self._budget.may_start(now):
            return
        digest = written_by(folder_of(self._state_dir, self.name))
        copy = CodeCopy(digest, str(self._root))
        there = digest and digest != code.digest and copy.path(self._state_dir).is_dir()
        if not there or self._without_before or self._resetting:
            self.serving = self.start(code, fresh=self._resetting)
        else:
            self.serving = self.start(SharedCode(code.job, copy), held=True)

    def retry(self) -> None:
        """Let the next `begin` start a process at once."""
        self._retry_at = 0.0

    def start(
        self, code: SharedCode, *, trial: bool = False, fresh: bool = False, held: bool = False
    ) -> SharedLife | None:
        """Start a process; see SharedSpec. Returns None if that fails."""
        spec = SharedSpec(
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
            charges=tuple(each for each in self._charges.values() if each.made > time.monotonic() - CHARGED),
        )
        try:
            return SharedLife(code, spec, self._on_report, self._on_death, self._on_log)
        except OSError as error:
            self.problem = f"its process could not be started: {error.strerror}"
            self._budget.died(time.monotonic(), fruitful=False)
            return None

    def replace(self, successor: SharedLife) -> None:
        """Let a process that was on trial serve the object."""
        old, self.serving = self.serving, successor
        if old is not None:
            old.child.kill("other code has taken its state over")
        self.send(SetLevel(self._level))
        self.send(Resume())

    def send(self, order: SharedOrder) -> None:
        """Send an order to the serving process, if there is one."""
        if self.serving is not None:
            self.serving.send(order)

    def use_level(self, level: int) -> None:
        """Log from this level on."""
        if level != self._level:
            self._level = level
            self.send(SetLevel(level))

    def reset(self, code: SharedCode) -> None:
        """Replace the object by a new one of this code; if the present process cannot do so, the next one does."""
        self._resetting = True
        self._retry_at = 0.0
        if self.serving is not None and self.serving.code != code:
            self.serving.child.kill(REPLACED)
        else:
            self.send(ResetState())

    def end(self, until: float) -> None:
        """End the process for good, with a snapshot, until `until` (CLOCK_MONOTONIC) at most."""
        life = self.serving
        if life is not None and life.child.alive:
            life.send(StopSharing())
            life.child.kill_after(max(0.0, until - time.monotonic()) + STOP_GRACE, "it did not end in time")

    # --- what the processes report

    def _on_report(self, life: SharedLife, report: SharedReport) -> None:
        match report:
            case SharedStatus() if life is self.serving and life.serves:
                self._without_before, self._held_why = False, ""
                if life.fresh:
                    life.fresh = self._resetting = False
                self.problem = report.snapshot_problem or report.tick_problem or report.describe_problem
            case SharedReset():
                self._resetting = False
                if report.problem:
                    what = f"the shared object {self.name} was not reset: {report.problem}"
                    logs.report(log, logging.ERROR, "shared_reset", what, shared=self.name)
            case ChargeEnded():
                self._charges.pop(report.charge.key, None)
            case SharedUnfit() if life is self.serving:
                self._refused(life, report)
        self._on_change()

    def _refused(self, life: SharedLife, report: SharedUnfit) -> None:
        reason = report.reason
        self._without_before = report.kind == "code" and life.held
        self._retry_at = 0.0 if self._without_before else time.monotonic() + RETRY
        if life.fresh:  # a later attempt must not replace what an operator has restored in the meantime
            self._resetting, reason = False, f"it was not reset: {reason}"
        if life.held:
            self._held_why = reason
        elif self._held_why:
            reason = f"{self._held_why}; and under the wanted code: {reason}"  # the first is the cause
        if reason in self.problem:
            return  # both are tried in turn, and both have been reported
        self.problem = reason
        what = f"the shared object {self.name} cannot be served: {reason}"
        logs.report(log, logging.ERROR, "shared_unfit", what, shared=self.name, traceback=report.traceback or None)

    def _on_death(self, life: SharedLife, death: Death) -> None:
        if life is self.serving:
            self.serving, now = None, time.monotonic()
            if not life.ended and life.unfit is None:  # RETRY applies to those that cannot serve
                self._died(life, death, now)
        self._on_end(life)

    def _died(self, life: SharedLife, death: Death, now: float) -> None:
        """Note an end that was not ordered, and whose call it was."""
        if life.child.kill_reason == REPLACED:
            return  # killed by `reset`
        self.restarts += 1
        served = life.status is not None and life.status.counts["calls"] > 0
        self.problem = f"its last process was ended: {death}"
        what = f"the process of the shared object {self.name} was ended ({life.child.kill_reason or death})"
        found = life.culprit()
        if found is not None:
            what += f" in a call of {found.method or 'handle'}"
        charged = found is not None and bool(found.message)
        if found is not None and charged:
            charge = life.charge_for(found, death)
            self._charges[charge.key] = charge
            if len(self._charges) > MOST_CHARGES:
                del self._charges[next(iter(self._charges))]
            what += f" for stage {found.stage}, whose message is charged"
        self._budget.died(now, fruitful=served or charged or now - life.began > FRUITFUL_AGE)
        logs.report(log, logging.ERROR, "shared_died", what, shared=self.name)
