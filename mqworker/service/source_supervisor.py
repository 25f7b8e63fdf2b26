"""The supervisor of one source: starts its process, passes orders on, and notices when it dies or hangs.

Lives in the Service's main thread, on its loop. Owns the process, as a Child; its SourceLifecycle decides what is done,
and when. Sends a SourceSpec once and then SourceOrders; receives SourceReports. A start that fails is tried again.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable

import msgspec

from mqworker.config.model import Config
from mqworker.control.errors import ControlError
from mqworker.control.source_desired import SourceCode, SourceDesired, source_kind
from mqworker.control.views import SourceView
from mqworker.ipc import logs
from mqworker.ipc.child import Child
from mqworker.ipc.records import LogEvent
from mqworker.ipc.source_messages import (
    DumpSourceStacks,
    RunDone,
    RunNow,
    SetSourceLevel,
    SourceEnded,
    SourceOrder,
    SourceReport,
    SourceSpec,
    SourceStatus,
    StopSource,
)
from mqworker.ipc.spawn import Death
from mqworker.service.source_lifecycle import Action, EndSource, KillSource, SourceLifecycle, StartSource
from mqworker.sources.process import SourceProcess

_reports = msgspec.msgpack.Decoder(SourceReport)

log = logging.getLogger("mqworker.service.source_supervisor")


class SourceSupervisor:
    """See the module head. `on_change` is called when there is something new to show, `on_log` with each log event."""

    def __init__(
        self,
        name: str,
        config: Config,
        where: tuple[str, str],
        on_change: Callable[[], None],
        on_log: Callable[[LogEvent], None],
    ) -> None:
        """`where`: the folder of the user's code, and the state folder."""
        self.name = name
        self.life = SourceLifecycle()
        self._config = config
        self._where = where
        self._on_change, self._on_log = on_change, on_log
        self._desired: SourceDesired
        self._level = logging.INFO
        self._child: Child | None = None
        self._kill_at: asyncio.TimerHandle | None = None
        self._runs: dict[str, asyncio.Future[RunDone]] = {}
        self._items = self._missed = 0  # counts of the previous processes

    def want(self, desired: SourceDesired, level: int, *, running: bool) -> None:
        """Establish this state; `running`: whether the source may run at all."""
        self._desired = desired
        if level != self._level:
            self._level = level
            self._send(SetSourceLevel(level))
        self._do(self.life.want(desired.code, time.monotonic(), running=running))

    def again(self) -> None:
        """Begin again if the source has finished, and without delay if it waits for a restart."""
        self._do(self.life.again(time.monotonic()))

    def beat(self) -> None:
        """Do everything that is due; called every half second."""
        self._do(self.life.beat(time.monotonic()))

    def end(self, kill_at: float) -> None:
        """End for good, by `kill_at` at the latest (CLOCK_MONOTONIC)."""
        self._do(self.life.end(time.monotonic(), kill_at))

    def dump_stacks(self) -> None:
        """Order the process to write its stacks to the log."""
        self._send(DumpSourceStacks())

    async def run(self, patience: float) -> RunDone:
        """Call a scheduled function now, and wait for its end. Raises ControlError."""
        if self._child is None or self.life.status is None:
            raise ControlError("refused", f"source {self.name} is {self.life.state} here: nothing can be run")
        run = uuid.uuid4().hex[:12]
        answer: asyncio.Future[RunDone] = asyncio.get_running_loop().create_future()
        self._runs[run] = answer
        self._send(RunNow(run))
        try:
            async with asyncio.timeout(patience):
                done = await answer
        except TimeoutError:
            what = (
                f"source {self.name} has not ended its run within {patience:g} s; it goes on; the log says how it ends"
            )
            raise ControlError("deadline", what) from None
        finally:
            del self._runs[run]
        if done.reason:
            raise ControlError("refused", f"source {self.name}: {done.reason}")
        return done

    def view(self) -> SourceView:
        """Return the source for the snapshot."""
        life, status = self.life, self.life.status
        config = self._config.sources[self.name]
        return SourceView(
            name=self.name,
            into=config.into,
            kind=source_kind(config),
            desired=self._desired,
            state=life.state,
            problem=life.problem or self._desired.refused,
            restarts=life.restarts,
            starts=life.starts,
            items=self._items + (status.items if status is not None else 0),
            missed=self._missed + (status.missed if status is not None else 0),
            status=status,
        )

    # --- what the lifecycle asks for

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case StartSource():
                    self._start(action.code)
                case EndSource():
                    self._end(action)
                case KillSource():
                    self._kill(action.reason)

    def _start(self, code: SourceCode) -> None:
        source = self._config.sources[self.name]
        child = Child(_reports, self._on_report, self._on_death, self._on_log)
        try:
            child.start(SourceProcess(self.name, source.into))
        except OSError as error:
            self.life.not_started(f"its process could not be started: {error.strerror}", time.monotonic())
            return
        self._child = child
        root, state_dir = self._where
        child.send(
            SourceSpec(
                service=self._config.service.name,
                name=self.name,
                config=source,
                stage=self._config.stages[source.into],
                broker=self._config.broker,
                root=root,
                state_dir=state_dir,
                job=code.job,
                params=code.params,
                copy=code.copy,
                log_level=self._level,
                sharing=len(self._config.sources_into(source.into)),
            )
        )
        self.life.started(code)

    def _send(self, order: SourceOrder) -> None:
        if self._child is not None:
            self._child.send(order)

    def _end(self, end: EndSource) -> None:
        self._send(StopSource(end.until))
        self._cancel_kill()
        self._kill_at = asyncio.get_running_loop().call_at(end.kill_at, self._kill, "it did not end in time")

    def _kill(self, why: str) -> None:
        if self._child is not None:
            logs.report(log, logging.WARNING, "source_killed", f"killing source {self.name}: {why}")
            self._child.kill(why)

    def _cancel_kill(self) -> None:
        if self._kill_at is not None:
            self._kill_at.cancel()
            self._kill_at = None

    # --- what the process sends

    def _on_report(self, report: SourceStatus | RunDone | SourceEnded) -> None:
        match report:
            case SourceStatus():
                self.life.reported(report, time.monotonic())
            case RunDone():
                answer = self._runs.get(report.id)
                if answer is not None and not answer.done():
                    answer.set_result(report)
            case SourceEnded():
                self.life.ends(report)
        self._on_change()

    def _on_death(self, death: Death) -> None:
        assert self._child is not None
        why = f" ({self._child.kill_reason})" if self._child.kill_reason else ""
        self._child = None
        self._cancel_kill()
        status = self.life.status
        if status is not None:
            self._items, self._missed = self._items + status.items, self._missed + status.missed
        for answer in self._runs.values():
            if not answer.done():
                answer.set_exception(ControlError("busy", f"source {self.name} ended during the run; try again"))
        was_told = self.life.is_ending
        actions = self.life.died(death, time.monotonic())
        if self.life.finished:
            logs.report(log, logging.INFO, "source_finished", f"source {self.name} has finished")
        elif was_told:
            logs.report(log, logging.INFO, "source_ended", f"source {self.name} has ended")
        else:
            what = f"the process of source {self.name} {death}{why}: {self.life.problem}"
            logs.report(log, logging.WARNING, "source_died", what, fruitless=self.life.budget.fruitless)
        self._do(actions)
        self._on_change()
