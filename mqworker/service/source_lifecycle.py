"""When the process of a source is started, stopped and killed.

Pure: takes events and times (CLOCK_MONOTONIC), returns actions, which the source's supervisor carries out. After a life
that has made progress (a stored position, a tick, a run) or has run for a while, its successor starts at once. After
several fruitless lives in a row, each start waits longer, and the source is in a crash loop; it is never given up, and
nothing is ever skipped.
"""

from typing import NamedTuple

from mqworker.control.source_desired import SourceCode
from mqworker.ipc.restart_budget import Budget
from mqworker.ipc.source_messages import SourceEnded, SourceStatus
from mqworker.ipc.spawn import Death

STOP = 4.0  # seconds: 2 for confirms and the position, 2 for the generator's `finally` blocks
KILL = 0.5  # seconds after that
SILENT = 120  # beats without a report; many, because C code may hold the interpreter for a while
FRUITFUL_AGE = 60.0  # seconds of running user code after which a life counts as fruitful


class StartSource(NamedTuple):
    """Start the source's process; the answer is `started` or `not_started`."""

    code: SourceCode


class EndSource(NamedTuple):
    """Order the process to end, and kill it if it still exists at `kill_at`; a later EndSource replaces this one."""

    until: float
    kill_at: float


class KillSource(NamedTuple):
    """Kill the process now."""

    reason: str


Action = StartSource | EndSource | KillSource


class SourceLifecycle:
    """See the module head; every method takes one event."""

    def __init__(self) -> None:
        self.alive = False
        self.finished = False  # its generator has ended
        self.status: SourceStatus | None = None  # of the present process
        self.restarts = 0
        self.starts = 0
        self.budget = Budget()
        self._code: SourceCode | None = None
        self._runs: SourceCode | None = None  # the code of the present process
        self._running = False
        self._final = False
        self._until: float | None = None  # when the process must have ended
        self._silent = 0
        self._ended: SourceEnded | None = None  # its last report
        self._problem = ""  # why the last life ended

    # --- events

    def want(self, code: SourceCode, now: float, *, running: bool) -> list[Action]:
        """Establish this state; with other code, a finished source begins again."""
        if code != self._code or not running:
            self.finished = False
            self.budget = Budget()
        self._code, self._running = code, running
        return self._due(now)

    def again(self, now: float) -> list[Action]:
        """Begin again if the source has finished, and without delay if it waits for a restart."""
        self.finished = False
        if not self.alive:
            self.budget = Budget()
        return self._due(now)

    def end(self, now: float, kill_at: float) -> list[Action]:
        """End for good; a second call can only bring the end forward."""
        self._final = True
        return self._end(min(now + STOP, kill_at - KILL), kill_at)

    def beat(self, now: float) -> list[Action]:
        """Do everything that is due; called every half second."""
        if self.alive:
            self._silent += 1
            if self._silent > SILENT:
                self._silent = 0
                return [KillSource(f"it reported nothing for {SILENT / 2:g} s")]
        return self._due(now)

    def started(self, code: SourceCode) -> None:
        """Note that the process has been started."""
        self.alive, self._runs = True, code
        self.starts += 1
        self._silent = 0

    def not_started(self, problem: str, now: float) -> None:
        """Note that the process could not be started."""
        self._problem = problem
        self.budget.died(now, fruitful=False)

    def reported(self, status: SourceStatus, now: float) -> None:
        """Note a report, which is also the pulse of the process."""
        self._silent = 0
        self.status = status
        if _is_fruitful(status, now):
            self.budget.prospered()
            self._problem = ""

    def ends(self, ended: SourceEnded) -> None:
        """Note the last report of a process."""
        self._silent = 0
        self._ended = ended

    def died(self, death: Death, now: float) -> list[Action]:
        """Note that the process is gone and everything that it sent has been read."""
        status, ended, ordered = self.status, self._ended, self._until is not None
        self.alive, self.status, self._ended, self._until, self._runs = False, None, None, None, None
        if ended is not None and ended.how == "finished" and not ordered:  # its order may have been to begin again
            self.finished = True
        if ordered or self.finished:
            self.budget.died(now, fruitful=True)
            self._problem = ""
        else:
            self.restarts += 1
            self._problem = (ended.reason if ended is not None else "") or f"its last process {death}"
            self.budget.died(now, fruitful=status is not None and _is_fruitful(status, now))
        return self._due(now)

    # --- what is shown

    @property
    def state(self) -> str:
        """One word or two."""
        if not self.alive:
            if self.finished:
                return "finished"
            if not self._running or self._final:
                return "stopped"
            return "crash loop" if self.budget.crash_loop else "backoff" if self.budget.fruitless else "starting"
        if self._until is not None:
            return "ending"
        if self.budget.crash_loop:
            return "crash loop"
        return "starting" if self.status is None else self.status.state

    @property
    def problem(self) -> str:
        """One sentence, or nothing."""
        crashes = self._problem if self.budget.fruitless else ""
        return crashes or ("" if self.status is None else self.status.reason)

    @property
    def is_over(self) -> bool:
        """Whether, as things are, nothing more will come from the source."""
        return self.finished or not (self._running or self.alive)

    @property
    def is_ending(self) -> bool:
        """Whether its process has been ordered to end."""
        return self._until is not None

    # --- inside

    def _due(self, now: float) -> list[Action]:
        wanted = self._running and not self._final and not self.finished
        if self.alive:
            fits = wanted and self._runs == self._code
            return [] if fits or self._until is not None else self._end(now + STOP, now + STOP + KILL)
        if wanted and self._code is not None and self.budget.may_start(now):
            return [StartSource(self._code)]
        return []

    def _end(self, until: float, kill_at: float) -> list[Action]:
        if not self.alive or (self._until is not None and until >= self._until):
            return []
        self._until = until
        return [EndSource(until, kill_at)]


def _is_fruitful(status: SourceStatus, now: float) -> bool:
    """Return whether a life has made progress, or its code has run for a while."""
    return status.progress > 0 or (status.since > 0 and now - status.since > FRUITFUL_AGE)
