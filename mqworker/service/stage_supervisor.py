"""The supervisor of one stage: starts its Producer, sends it the desired state, and notices when it dies or hangs.

Lives in the Service's main thread, on its loop. Owns the Producer process, as a Child; its Lifecycle decides what is
done, and when. Receives Reports; sends the StageSpec once and then Orders, and calls back with log events and changes.
A start that fails is tried again with backoff; any other error is raised to the Service's loop.

The first Producer can be prepared: it imports what it needs while the user's code is checked, and does nothing until it
gets its first Desired. If it is not needed, it ends unreported; if it dies before that, another is started in its
place, also unreported.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec

from mqworker.control.chain import enabled
from mqworker.control.desired_state import Commit, Document, Revert, Undo
from mqworker.control.errors import ControlError
from mqworker.control.faults import Faults
from mqworker.control.stage_desired import Version
from mqworker.control.views import StageView
from mqworker.ipc import logs
from mqworker.ipc.child import Child
from mqworker.ipc.generation import Generation
from mqworker.ipc.inspection import FaultReport
from mqworker.ipc.producer_messages import AskHeld, Desired, Drain, DumpStacks, Ended, Order, Report
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Death
from mqworker.ipc.stage_spec import StageSpec
from mqworker.ipc.stage_status import StageStatus
from mqworker.producer.process import Producer
from mqworker.service.lifecycle import Action, KillProducer, Lifecycle, SendDesired, StartProducer, StopProducer
from mqworker.service.producer_requests import ProducerAnswer, ProducerRequest, ProducerRequests
from mqworker.service.switch_follower import SwitchFollower

_reports = msgspec.msgpack.Decoder(Report)

log = logging.getLogger("mqworker.service.stage_supervisor")


class StageSupervisor:
    """See the module head."""

    def __init__(
        self,
        spec: StageSpec,
        lock: int,
        on_change: Callable[[], None],
        on_log: Callable[[LogEvent], None],
        faults: Faults,
    ) -> None:
        self.name = spec.stage
        self.life = Lifecycle(spec.drain_deadline)
        self.switch = SwitchFollower(spec.stage)
        self._requests = ProducerRequests(self._send)
        self._spec = spec
        self._on_change = on_change
        self._on_log = on_log
        self._faults = faults
        self._lock = lock  # the lock of this instance; every Producer holds it too
        self._document: Document
        self._child: Child | None = None
        self._prepared: Child | None = None  # a Producer that waits for its first Desired
        self._kill_at: asyncio.TimerHandle | None = None

    # --- what is wanted

    def prepare(self) -> None:
        """Start a Producer that imports what it needs, then waits until it is wanted."""
        with contextlib.suppress(OSError):  # the start is tried again when it is wanted
            self._prepared = self._new()

    def want(self, document: Document, *, paused: bool) -> None:
        """Establish the state of the stage in this document."""
        self._document = document
        self.switch.want(document.stages[self.name], time.monotonic())
        running = document.stages[self.name].running
        self._do(self.life.want(_desired(document, self.name, paused=paused), time.monotonic(), running=running))
        if self._prepared is not None:
            self._prepared.kill("it is not needed")

    def end(self, until: float) -> None:
        """Drain for good, by `until` at the latest (CLOCK_MONOTONIC); a second call can only bring that forward."""
        self._do(self.life.end(until))

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        self._do(self.life.beat(time.monotonic()))

    def dump_stacks(self) -> None:
        """Order the tree to write its stacks to the log."""
        self._send(DumpStacks())

    async def ask(self, request: ProducerRequest, deadline: float) -> ProducerAnswer:
        """Return the Producer's answer. Raises ControlError."""
        if self._child is None:
            why = "no message waits here" if isinstance(request, AskHeld) else "it has no processes"
            raise ControlError("refused", f"stage {self.name} is {self.life.state}: {why}")
        return await self._requests.ask(request, deadline)

    def due(self) -> Commit | Undo | Revert | None:
        """Return how the change in progress must end, if that is known."""
        life = self.life
        return self.switch.due(life.status, life.revision_sent)

    # --- what is

    def view(self) -> StageView:
        """Return the stage for the snapshot."""
        life = self.life
        return StageView(
            name=self.name,
            desired=self._document.stages[self.name],
            state=life.state,
            actual=life.status,
            problem=life.problem or self._document.stages[self.name].degraded,
            restarts=life.restarts,
            applied=life.applied,
        )

    # --- what the Lifecycle asks for

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case StartProducer():
                    self._start(action.desired)
                case SendDesired():
                    self._send(action.desired)
                case StopProducer():
                    self._stop(action)
                case KillProducer():
                    self._kill(action.reason)

    def _start(self, desired: Desired) -> None:
        now = time.monotonic()
        try:
            self._child = self._take_prepared() or self._new()
        except OSError as error:
            self.life.not_started(f"the Producer could not be started: {error.strerror}", now)
            return
        self._child.send(desired)
        self.life.started(now)

    def _take_prepared(self) -> Child | None:
        """Return the Producer that waits, unless it was killed, or is dead, which the loop may not have noticed yet."""
        child, self._prepared = self._prepared, None
        if child is not None:
            child.notice_death()
        return child if child is not None and child.alive and not child.kill_reason else None

    def _new(self) -> Child:
        """Start a Producer; raises OSError."""
        child = Child(_reports, self._on_report, lambda death: self._on_death(child, death), self._on_log)
        with Connection(os.dup(self._lock), readable=True, writable=False) as lock:
            child.start(Producer(self.name, lock))
        child.send(self._spec)
        return child

    def _send(self, order: Order) -> None:
        if self._child is not None:
            self._child.send(order)

    def _stop(self, stop: StopProducer) -> None:
        self._send(Drain(stop.until))
        self._cancel_kill()
        self._kill_at = asyncio.get_running_loop().call_at(stop.kill_at, self._kill, "it did not end in time")

    def _kill(self, why: str) -> None:
        if self._child is not None:
            logs.report(log, logging.ERROR, "producer_killed", f"killing the Producer of {self.name}: {why}")
            self._child.kill(why)

    def _cancel_kill(self) -> None:
        if self._kill_at is not None:
            self._kill_at.cancel()
            self._kill_at = None

    # --- what the Producer sends

    def _on_report(self, report: StageStatus | Ended | FaultReport | ProducerAnswer) -> None:
        match report:
            case StageStatus():
                self.life.reported(report)
                self._on_change()
            case Ended():
                self.life.ends(report.given_back)
            case FaultReport():
                self._faults.take(self.name, report, time.time())
            case _:
                self._requests.answered(report)

    def _on_death(self, child: Child, death: Death) -> None:
        if child is not self._child:
            self._prepared = None
            return
        why = f" ({child.kill_reason})" if child.kill_reason else ""
        self._child = None
        self._requests.producer_died()
        self._cancel_kill()
        orderly = self.life.ended
        if not orderly and self.life.revision_sent:
            self.switch.producer_died(f"the Producer {death}{why}", time.monotonic())
        actions = self.life.died(death, time.monotonic())
        if not orderly:
            what = f"the Producer of {self.name} {death}{why}; its unsettled messages go back to the broker"
            logs.report(log, logging.ERROR, "producer_died", what, fruitless=self.life.budget.fruitless)
        self._do(actions)
        self._on_change()


def _desired(document: Document, name: str, *, paused: bool) -> Desired:
    stage = document.stages[name]
    candidate = stage.candidate
    return Desired(
        revision=document.revision,
        listening=stage.listening and not paused,
        consumers=stage.consumers if stage.working else 0,
        generation=_generation(stage.version, stage.code),
        candidate=None if candidate is None else _generation(candidate.version, candidate.code),
        soft_limit=stage.soft_limit,
        hard_limit=stage.hard_limit,
        log_level=logs.LEVELS[document.log_level],
        auto=stage.auto and stage.working,
    )


def _generation(version: Version, code: int) -> Generation:
    params = msgspec.json.encode(version.params)
    return Generation(version.generation, code, enabled(version.jobs), version.copy, params, version.shared)
