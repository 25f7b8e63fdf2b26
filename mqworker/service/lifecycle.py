"""When a stage's Producer is started, sent a new state, stopped and killed, and which state is shown.

Pure: takes events and times (CLOCK_MONOTONIC), returns actions. Owned by a StageSupervisor, which carries the actions
out at once and reports their results. The rules:

- A Producer that should be running but is not is started, with backoff after fruitless lives; after too many of those
  in a row, the stage is given up, and with it the Service.
- A Producer that should not be running is ordered to drain, and killed if it does not end in time.
- A Producer that is silent for SILENT beats of the Service is killed. Beats are counted instead of seconds, so that no
  Producer is killed because the whole machine paused.
- A revision counts as applied once the Producer has reported it, or a later one, as completely applied.
"""

from typing import NamedTuple

import msgspec

from mqworker.config.stop_budget import StopBudget
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.restart_budget import Budget
from mqworker.ipc.spawn import Death
from mqworker.ipc.stage_status import StageStatus

SILENT = 30  # beats of the Service, half a second each, without a report until a Producer counts as hanging
FRUITLESS_MAX = 8  # Producers in a row that end before they are connected
FRUITFUL_AGE = 10.0  # seconds after which a life counts as fruitful in any case


class StartProducer(NamedTuple):
    """Start a Producer; the answer is `started` or `not_started`."""

    desired: Desired


class SendDesired(NamedTuple):
    """Send the Producer the desired state."""

    desired: Desired


class StopProducer(NamedTuple):
    """Order the Producer to drain, and kill it if it still exists at `kill_at`; a later order replaces this one."""

    until: float
    kill_at: float


class KillProducer(NamedTuple):
    """Kill the Producer now."""

    reason: str


Action = StartProducer | SendDesired | StopProducer | KillProducer


class Lifecycle:
    """See the module head; every method takes one event."""

    def __init__(self, drain_deadline: float) -> None:
        self.alive = False
        self.status: StageStatus | None = None  # of the present Producer
        self.ended = False  # the Producer has reported that it ends as ordered
        self.given_back = 0  # messages that were returned to the broker unfinished
        self.restarts = 0
        self.budget = Budget(limit=FRUITLESS_MAX)
        self._drain_deadline = drain_deadline
        self._desired: Desired | None = None  # its revision is the last one that changed it
        self._revision = 0  # that of the document, with other stages' changes
        self._applied_before = 0  # the newest revision that was applied before the last change
        self._running = False
        self._final = False
        self._until: float | None = None  # the deadline of the drain that was ordered
        self._born = 0.0
        self._silent = 0  # beats since its last report
        self._last_problem = ""

    # --- events

    def want(self, desired: Desired, now: float, *, running: bool) -> list[Action]:
        """Establish this state; a revision that changes nothing in this stage is not sent to the Producer."""
        self._applied_before = self.applied
        known = self._desired
        new = known is None or msgspec.structs.replace(known, revision=desired.revision) != desired
        if new:
            self._desired = desired
        self._revision, self._running = desired.revision, running
        orders: list[Action] = [SendDesired(desired)] if new and self.alive and self._until is None else []
        return orders + self._due(now)

    def end(self, until: float) -> list[Action]:
        """Drain for good; a second call can only bring the end forward."""
        self._final = True
        return self._stop(until)

    def beat(self, now: float) -> list[Action]:
        """Do everything that is due; called every half second."""
        if self.alive:
            self._silent += 1
            if self._silent > SILENT:
                self._silent = 0
                return [KillProducer(f"it reported nothing for {SILENT / 2:g} s")]
        return self._due(now)

    def started(self, now: float) -> None:
        """Note that the process has been started."""
        self.alive, self.ended = True, False
        self._born, self._silent = now, 0
        self._applied_before = 0

    def not_started(self, problem: str, now: float) -> None:
        """Note that the process could not be started."""
        self._last_problem = problem
        self.budget.died(now, fruitful=False)

    def reported(self, status: StageStatus) -> None:
        """Note a status report of the Producer, which is also its pulse."""
        self._silent = 0
        self.status = status

    def ends(self, given_back: int) -> None:
        """Note the report of the Producer that it ends as ordered."""
        self.ended = True
        self.given_back += given_back

    def died(self, death: Death, now: float) -> list[Action]:
        """Note that the process is gone and everything that it sent has been read."""
        self.alive = False
        if not self.ended and self._desired is not None:  # a candidate does not outlive the Producer that set it up
            self._desired = msgspec.structs.replace(self._desired, candidate=None)
        if self.ended:
            self._last_problem = ""
        else:
            self.restarts += 1
            self._last_problem = f"the last Producer {death}"
        if self.ended or self._until is not None:  # it was ordered to end
            self.budget.died(now, fruitful=True)
        else:
            connected = self.status is not None and self.status.link.connected
            failed = death.code > 0  # its own fault, which the next one would have too
            self.budget.died(now, fruitful=now - self._born > FRUITFUL_AGE or (connected and not failed))
        if self._until is not None and not self.ended and self.status is not None:
            self.given_back += self.status.dispatched + self.status.computed + self.status.settling
        self.status, self._until = None, None
        return self._due(now)

    # --- what is shown

    @property
    def given_up(self) -> bool:
        """Whether too many Producers in a row have died without achieving anything."""
        return self.budget.exhausted

    @property
    def revision_sent(self) -> int:
        """The revision of the last desired state that the Producer was sent; 0 if it is stopping, or there is none."""
        return self._desired.revision if self.alive and self._until is None and self._desired is not None else 0

    @property
    def applied(self) -> int:
        """The newest revision of the document that is completely applied in this stage."""
        if not self.alive:
            return 0 if self._running else self._revision
        reported = self.status.revision if self.status is not None else 0
        up_to_date = self._desired is not None and reported >= self._desired.revision
        if up_to_date and self._running and self._until is None:
            return self._revision
        return max(self._applied_before, reported)

    @property
    def state(self) -> str:
        """One word: stopped, backoff, starting, running, draining, crash loop, stopping."""
        if not self.alive:
            return "backoff" if self._running and not self._final else "stopped"
        if self._until is not None:
            return "stopping"
        if self.status is None:
            return "starting"
        return "crash loop" if self.status.crash_loop else self.status.state

    @property
    def problem(self) -> str:
        """One sentence, or nothing."""
        if self.status is not None:
            return self.status.problem or ("" if self.status.link.connected else self.status.link.reason)
        return "" if self.alive or self._final else self._last_problem

    # --- inside

    def _due(self, now: float) -> list[Action]:
        wanted = self._running and not self._final
        if self.alive:
            return [] if wanted or self._until is not None else self._stop(now + self._drain_deadline)
        if wanted and self._desired is not None and not self.given_up and self.budget.may_start(now):
            return [StartProducer(self._desired)]
        return []

    def _stop(self, until: float) -> list[Action]:
        if not self.alive or (self._until is not None and until >= self._until):
            return []
        self._until = until
        return [StopProducer(until, StopBudget(until).kill)]
