"""The Service: the main process, which owns signals, the desired state and the process trees.

It runs no user code and holds no broker socket. Its main thread runs one asyncio loop and is the only one that starts
processes and changes anything; the Flask threads ask it through `Control`. Hears signals, commands and its Producers'
reports. Ends with the codes of mqworker.exits: a TERM drains (0, or 75 when work had to be given back), a second one
gives back at once (75).
"""

import asyncio
import functools
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded, redact_url
from mqworker.config.stop_budget import CLOSE, StopBudget
from mqworker.control import desired_state
from mqworker.control.control import Control, ControlError, ParamsRefused, Snapshot
from mqworker.control.desired_state import Change, Document, SetLogLevel
from mqworker.control.store import Store
from mqworker.exits import Exit
from mqworker.http.server import HttpServer
from mqworker.ipc import logs
from mqworker.ipc.messages import CodeReport, LogEvent, StageSpec
from mqworker.ipc.spawn import forget_main
from mqworker.jobs.params import merge_patch
from mqworker.producer.staffing import START_DEADLINE
from mqworker.service.instance import StartError, acquire_lock, prepare
from mqworker.service.orphans import Orphans
from mqworker.service.stage_supervisor import StageSupervisor

HEARTBEAT = 0.5  # seconds between snapshots when nothing changes
PORT_PATIENCE = 10.0
START_CHECK = 60.0  # seconds for the check of the code at the start; what takes longer is left to the Consumers
EXIT_DELAY = 5.0  # seconds before a failing exit under supervisord, which restarts late exits without a pause

log = logging.getLogger("mqworker.service.main")


def run(loaded: Loaded, *, burst: bool = False) -> int:
    """Run the service in the foreground until it is told to end; returns the exit code."""
    service = loaded.config.service
    forget_main()
    writer = logs.LogWriter(service.name, logs.stdout_fd(), service.log_format)
    logs.use(logs.ForwardingHandler(writer.put, "service"), logs.LEVELS[service.log_level])
    began: Service | None = None
    try:
        prepare(loaded)
        with_lock = acquire_lock(loaded.state_dir / "lock", service.drain_deadline)
        began = Service(loaded, writer, with_lock, burst=burst)
        code = asyncio.run(began.main())
    except StartError as error:
        words, _, detail = str(error).partition("\n")  # the user's own traceback, if it is about the user's code
        logs.report(log, logging.ERROR, "cannot_start", words, exit_code=int(error.code), traceback=detail or None)
        code = int(error.code)
    except Exception:
        log.exception("the service failed", extra={"event": "failed"})
        code = int(Exit.INTERNAL)
    if code not in (Exit.OK, Exit.GIVEN_BACK, Exit.CONFIG) and began and "SUPERVISOR_ENABLED" in os.environ:
        time.sleep(EXIT_DELAY)
    writer.close(began.time_left() if began else CLOSE)
    return code


class Service:
    """See the module head; everything here runs on the main loop."""

    def __init__(self, loaded: Loaded, writer: logs.LogWriter, lock: int, *, burst: bool) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._writer = writer
        self._burst = burst
        self._store = Store(loaded.state_dir / "desired.json")
        self._control = Control(loaded, writer)
        self._orphans = Orphans()
        self._broker_admin = BrokerAdminClient(self._config, writer.put)
        self._document: Document
        self._state = "starting"
        self._paused = False
        self._code: int = Exit.OK
        self._idle = 0
        self._terms = 0
        self._checking = asyncio.Lock()
        self._changes: set[asyncio.Task[int]] = set()  # of parameters, being checked
        self._ended = asyncio.Event()
        self._started = time.time()
        self._budget: StopBudget | None = None  # in CLOCK_MONOTONIC, once the end has begun
        self._supervisors = {name: StageSupervisor(self._spec(name), self, lock) for name in self._config.stages}

    def _spec(self, name: str) -> StageSpec:
        return StageSpec(
            service=self._config.service.name,
            stage=name,
            config=self._config.stages[name],
            broker=self._config.broker,
            root=str(self._loaded.root),
            state_dir=str(self._loaded.state_dir),
            drain_deadline=self._config.service.drain_deadline,
        )

    # --- life

    async def main(self) -> int:
        """Start, run, end; returns the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, lambda: self._orphans.look(time.monotonic()))
        control = self._config.control
        server = HttpServer(
            self._control, control.host, control.port, self._loaded.socket, control.token, control.hosts
        )
        self._starting = asyncio.create_task(self._start(server))
        self._signals(loop)
        try:
            await self._starting
        except (StartError, asyncio.CancelledError) as error:
            server.stop(0.0)
            if isinstance(error, StartError):
                raise
            logs.report(log, logging.INFO, "stopped", "stopped before it had started", exit_code=int(Exit.OK))
            return int(Exit.OK)
        self._want()
        self._control.attach(loop, self)
        self._publish()
        server.start()
        urls = ", ".join(map(redact_url, self._config.broker.urls))
        words = f"running: control at http://{control.host}:{server.port}, broker {urls}"
        logs.report(log, logging.INFO, "started", words, url=f"http://{control.host}:{server.port}")
        beat = asyncio.create_task(self._beat())
        await self._ended.wait()
        beat.cancel()
        self._broker_admin.stop("the service ends")
        left = self.time_left()
        await asyncio.gather(asyncio.to_thread(server.stop, left / 2), self._orphans.end(left / 2))
        if self._code == Exit.OK and any(supervisor.life.given_back for supervisor in self._supervisors.values()):
            self._code = Exit.GIVEN_BACK
        logs.report(
            log, logging.INFO, "stopped", f"stopped with exit code {int(self._code)}", exit_code=int(self._code)
        )
        return int(self._code)

    async def _start(self, server: HttpServer) -> None:
        """Do all that can refuse the start or take long; a TERM cancels it, wherever it is."""
        await self._bind(server)
        old, damage = self._store.load()
        self._document, told = desired_state.begin(old, self._config)
        for words in (damage, *told, *self._loaded.warnings):
            if words:
                logs.report(log, logging.WARNING, "configuration", words)
        await self._check_user_code()
        try:
            self._save(self._document)
        except ControlError as error:  # no reason to give up for good: supervisord tries again, and space may return
            raise StartError(Exit.INTERNAL, f"{error}; free some space, or set service.state_dir") from None
        logs.set_level(logs.LEVELS[self._document.log_level])
        self._state = "running"

    async def _bind(self, server: HttpServer) -> None:
        control = self._config.control
        end = time.monotonic() + PORT_PATIENCE
        while True:
            try:
                server.bind()
            except OSError as error:
                if time.monotonic() > end:
                    words = f"the control address {control.host}:{control.port} cannot be used ({error.strerror})"
                    raise StartError(Exit.INTERNAL, f"{words}: stop what listens there, or set control.port") from None
                await asyncio.sleep(0.2)
            else:
                return

    async def _check_user_code(self) -> None:
        names = list(self._config.stages)
        answers = await asyncio.gather(
            *(self._check(name, self._document.stages[name].params, START_CHECK) for name in names)
        )
        problems = []
        for name, answer in zip(names, answers, strict=True):
            if answer.died:
                for words in answer.problems:
                    logs.report(log, logging.ERROR, "user_code", f"stage {name}: {words}", stage_name=name)
                continue
            problems += [f"stage {name}: {words}" for words in answer.problems]
            problems += [f"stage {name}: params.{field}: {words}" for field, words in answer.fields]
        if problems:
            parts = [words.partition("\n") for words in problems]
            raise StartError(
                Exit.CONFIG, "\n".join(["; ".join(words for words, _, _ in parts), *(d for _, _, d in parts)])
            )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            now = time.monotonic()
            self._orphans.look(now)
            for supervisor in self._supervisors.values():
                supervisor.beat()
                if supervisor.life.given_up and self._state == "running":
                    deaths = supervisor.life.budget.fruitless
                    words = f"the Producer of {supervisor.name} died {deaths} times in a row: giving up"
                    logs.report(log, logging.ERROR, "restarts_exhausted", words)
                    self._code = Exit.RESTARTS_EXHAUSTED
                    self._begin_end(now)
            self._watch_burst()
            self._publish()

    def _watch_burst(self) -> None:
        if not self._burst or self._state != "running":
            return
        idle = all(
            supervisor.life.status is not None and supervisor.life.status.idle
            for supervisor in self._supervisors.values()
        )
        self._idle = self._idle + 1 if idle else 0
        if self._idle >= 4:
            logs.report(log, logging.INFO, "burst_done", "the input is empty: ending")
            self._drain()

    # --- signals

    def _signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        loop.add_signal_handler(signal.SIGTSTP, self._pause, True)
        loop.add_signal_handler(signal.SIGCONT, self._pause, False)
        loop.add_signal_handler(signal.SIGHUP, self._reload_all)
        loop.add_signal_handler(signal.SIGUSR2, self._dump_stacks)

    def _terminate(self) -> None:
        self._terms += 1
        if self._state == "starting":
            self._starting.cancel()
        elif self._terms == 1 or self._state == "running":
            self._drain()
        elif self._terms == 2:
            logs.report(log, logging.WARNING, "giving_back", "second signal: giving everything back at once")
            self._code = self._code or Exit.GIVEN_BACK
            self._begin_end(time.monotonic())

    def _pause(self, paused: bool) -> None:
        if self._state == "running" and paused != self._paused:
            self._paused = paused
            logs.report(log, logging.INFO, "paused" if paused else "resumed", "paused" if paused else "resumed")
            self._want()

    def _reload_all(self) -> None:
        if self._state == "running":
            for name in self._supervisors:
                self._apply(desired_state.Reload(name))

    def _dump_stacks(self) -> None:
        for thread, frame in sys._current_frames().items():
            stack = "".join(traceback.format_stack(frame))
            logs.report(log, logging.INFO, "stack", f"stack of thread {thread}", traceback=stack)
        for supervisor in self._supervisors.values():
            supervisor.dump_stacks()

    def _drain(self) -> None:
        self._begin_end(time.monotonic() + self._config.service.drain_deadline)

    def _begin_end(self, until: float) -> None:
        self._state = "draining"
        patience = max(0.0, until - time.monotonic())
        logs.report(log, logging.INFO, "draining", f"draining, at most {patience:.3g} s")
        self._budget = StopBudget(until)
        asyncio.get_running_loop().call_at(self._budget.abandon, self._ended.set)
        for supervisor in self._supervisors.values():
            supervisor.end(until)
        self.stage_changed()

    def time_left(self) -> float:
        """Seconds for what the end still needs."""
        left = CLOSE if self._budget is None else self._budget.service - time.monotonic()
        return max(0.25, min(CLOSE, left))

    # --- what supervisors say (StageOwner)

    def stage_changed(self) -> None:
        """Show it; end when the last Producer has ended."""
        self._publish()
        if self._state == "draining" and not any(supervisor.life.alive for supervisor in self._supervisors.values()):
            self._ended.set()

    def stage_log(self, event: LogEvent) -> None:
        """Write it down."""
        self._writer.put(event)

    # --- what the HTTP threads ask (Operator)

    async def change(self, asked: Change) -> int:
        """Store a change and pass it on."""
        return self._apply(asked)

    async def patch_params(self, stage: str, patch: dict[str, Any], patience: float) -> int:
        """Validate and store a merge patch, one at a time."""
        return await self._check_and_store(stage, lambda: merge_patch(self._stage(stage).params, patch), patience)

    async def rollback_params(self, stage: str, patience: float) -> int:
        """Go back to the parameters before the present ones."""
        return await self._check_and_store(stage, lambda: self._earlier_params(stage), patience)

    async def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Have the desk ask the broker."""
        return await self._broker_admin.ask(verb, arguments, deadline)

    async def drain(self) -> None:
        """Begin the end, as SIGTERM does."""
        if self._state == "running":
            self._drain()

    # --- inside

    def _stage(self, name: str) -> desired_state.StageDesired:
        try:
            return self._document.stages[name]
        except KeyError:
            known = ", ".join(self._document.stages)
            raise ControlError("unknown_stage", f"there is no stage {name}; there is {known}") from None

    def _apply(self, asked: Change) -> int:
        if self._state != "running":
            raise ControlError("draining", "the service is ending and takes no changes")
        if not isinstance(asked, SetLogLevel):
            self._stage(asked.stage)
        new = desired_state.change(self._document, asked, self._config)
        if new != self._document:
            self._save(new)
            self._document = new
            words = f"changed: {type(asked).__name__}"
            logs.report(
                log, logging.INFO, "changed", words, revision=new.revision, stage_name=getattr(asked, "stage", None)
            )
            logs.set_level(logs.LEVELS[new.log_level])
            self._want()
        return new.revision

    def _save(self, document: Document) -> None:
        try:
            self._store.save(document)
        except OSError as error:
            where = self._loaded.state_dir
            raise ControlError("storage", f"the state in {where} cannot be written: {error.strerror}") from None

    def _want(self) -> None:
        for supervisor in self._supervisors.values():
            supervisor.want(self._document, paused=self._paused)
        self._publish()

    async def _check(self, stage: str, params: dict[str, Any], deadline: float) -> CodeReport:
        jobs = self._config.stages[stage].jobs
        return await check_code(stage, self._loaded.root, jobs, params, deadline, self._writer.put)

    async def _check_and_store(self, stage: str, make: Callable[[], dict[str, Any]], patience: float) -> int:
        """Store parameters if the user's code accepts them; after `patience` the asker is sent away, and it goes on."""
        task = asyncio.create_task(self._store_checked(stage, make))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        done, _ = await asyncio.wait({task}, timeout=patience)
        if done:
            return task.result()
        task.add_done_callback(functools.partial(_report_late, stage))
        raise ControlError(
            "deadline",
            f"the code is still being checked after {patience:g} s; the parameters are stored if it accepts them,"
            " and the log says so",
        )

    async def _store_checked(self, stage: str, make: Callable[[], dict[str, Any]]) -> int:
        async with self._checking:
            params = make()
            answer = await self._check(stage, params, START_DEADLINE)
            if answer.fields or answer.problems:
                raise ParamsRefused(answer.fields, answer.problems)
            return self._apply(desired_state.SetParams(stage, params))

    def _earlier_params(self, stage: str) -> dict[str, Any]:
        desired = self._stage(stage)
        older = [version.params for version in desired.history if version.params != desired.params]
        if not older:
            raise ControlError("refused", f"stage {stage} has no earlier parameters")
        return older[-1]

    def _publish(self) -> None:
        if self._state == "starting":
            return
        self._control.publish(
            Snapshot(
                time=time.monotonic(),
                service=self._config.service.name,
                pid=os.getpid(),
                started=self._started,
                state=self._state,
                paused=self._paused,
                document=self._document,
                stages={name: supervisor.view() for name, supervisor in self._supervisors.items()},
            )
        )


def _report_late(stage: str, task: asyncio.Task[int]) -> None:
    """Log why parameters were not stored whose asker had left; that they were is an event of its own."""
    if not task.cancelled() and (error := task.exception()) is not None:
        what = f"the parameters of stage {stage} were not changed: {error}"
        logs.report(log, logging.WARNING, "params_refused", what, stage_name=stage)
