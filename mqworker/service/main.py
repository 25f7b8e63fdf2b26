"""The Service: the main process, parent of all others, which owns signals, the desired state and the process trees.

Its main thread runs one asyncio loop and is the only one that starts processes and changes anything; it runs no user
code and holds no broker connection. Owns the lock of the instance, the log's writer, the control server, the broker
admin, stages and sources. Receives signals, the HTTP threads' commands (operations.py), the stages' reports; publishes
Snapshots. Its loop: wait, take signals, do what is due, publish. Ends with the codes of mqworker.exits: a TERM drains
(0, or 75 when work had to be given back), a second one gives everything back at once (75). An error in the loop also
gives everything back and ends the process with 1, so that supervisord or its like starts it again.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import NoReturn

from mqworker import __version__
from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.config.load import Loaded, redact_url
from mqworker.config.stop_budget import CLOSE, StopBudget
from mqworker.control.control import Control, Snapshot
from mqworker.control.desired_state import Document
from mqworker.control.store import Store
from mqworker.exits import Exit
from mqworker.http.server import HttpServer
from mqworker.ipc import logs
from mqworker.ipc.messages import Held
from mqworker.ipc.source_messages import RunDone
from mqworker.ipc.spawn import forget_main
from mqworker.service.broker_kind import remember
from mqworker.service.burst import Burst
from mqworker.service.instance import StartError, acquire_lock, prepare
from mqworker.service.memory import give_back_large_blocks
from mqworker.service.operations import Operations
from mqworker.service.orphans import Orphans
from mqworker.service.shared_supervisors import SharedSupervisors
from mqworker.service.signals import Signals, dump_stacks
from mqworker.service.sources import Sources
from mqworker.service.stages import Stages
from mqworker.service.startup import start_up
from mqworker.service.switches import Switches

BEAT = 0.5  # seconds between two checks for work that is due, and between snapshots when nothing changes
SAME_TERM = 0.5  # seconds within which two signals to end are one: a wrapper gets it, and so does its whole group
EXIT_DELAY = 5.0  # seconds to wait before a failing exit under supervisord, which restarts a late exit at once

log = logging.getLogger("mqworker.service.main")


def run(loaded: Loaded, *, burst: bool = False) -> NoReturn:
    """Run the service in the foreground, and end the process with its exit code."""
    give_back_large_blocks()
    service = loaded.config.service
    forget_main()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # some parents start a program with signals blocked: TERM never came
    writer = logs.LogWriter(service.name, logs.stdout_fd(), service.log_format)
    logs.use(logs.ForwardingHandler(writer.put, "service"), logs.LEVELS[service.log_level])
    began: Service | None = None
    try:
        brokers = ", ".join(map(redact_url, loaded.config.broker.urls))
        logs.report(log, logging.INFO, "starting", f"mqworker {__version__} on {brokers}")
        prepare(loaded)
        lock = acquire_lock(loaded.state_dir / "lock", service.drain_deadline)
        remember(loaded)
        began = Service(loaded, writer, lock, burst=burst)
        code = asyncio.run(began.main())
    except StartError as error:
        what, _, detail = str(error).partition("\n")  # the user's own traceback, if it is about the user's code
        logs.report(log, logging.ERROR, "cannot_start", what, exit_code=int(error.code), traceback=detail or None)
        code = error.code
    except Exception:
        log.exception("the service failed", extra={"event": "failed"})
        code = Exit.INTERNAL
    failed = code not in (Exit.OK, Exit.DEAD, Exit.GIVEN_BACK, Exit.CONFIG)
    if failed and began and not began.terms and "SUPERVISOR_ENABLED" in os.environ:
        time.sleep(EXIT_DELAY)
    writer.close(began.time_left() if began else CLOSE)
    os._exit(code)  # an ordinary exit is slow, and would wait for a Producer that cannot be killed


class Service:
    """See the module head; everything here runs on the main loop."""

    def __init__(self, loaded: Loaded, writer: logs.LogWriter, lock: int, *, burst: bool) -> None:
        self.terms = 0  # signals that asked for the end
        self._last_term = 0.0
        self._loaded = loaded
        self._config = loaded.config
        self._writer = writer
        self._wake = asyncio.Event()  # there is something to do before the next beat
        self._signals = Signals(self._wake.set)
        self._control = Control(loaded, writer)
        self._broker_admin = BrokerAdminClient(self._config, writer.put)
        self._burst = Burst(self._broker_admin) if burst else None
        self._orphans = Orphans()
        self._stages = Stages(loaded, lock, self._wake.set, writer.put)
        self._shared = SharedSupervisors(loaded, self._wake.set, writer.put)
        self._sources = Sources(loaded, self._wake.set, writer.put, burst=burst)
        self._switches: Switches  # set once the start has ended
        self._operations: Operations  # set once the start has ended
        self._state = "starting"  # starting | running | draining
        self._paused = False
        self._started = time.time()
        self._stop: StopBudget | None = None  # in CLOCK_MONOTONIC; set once the end has begun
        self._code = Exit.OK

    # --- life

    async def main(self) -> Exit:
        """Start, run, end; returns the exit code. Raises StartError."""
        control = self._config.control
        server = HttpServer(
            self._control, control.host, control.port, self._loaded.socket, control.token, control.hosts
        )
        self._signals.listen()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._orphans.look)
        store = Store(self._loaded.state_dir / "desired.json")
        try:
            document = await self._start(server, store)
        except StartError:
            server.stop(0.0)
            raise
        if document is None:
            server.stop(0.0)
            logs.report(log, logging.INFO, "stopped", "stopped before it had started", exit_code=int(Exit.OK))
            return Exit.OK
        self._operations = Operations(self._loaded, document, store, self._broker_admin, self._writer.put, self)
        self._switches = Switches(self._loaded, self._shared, self._operations, self._wake.set)
        try:
            self._begin(server)
            await self._serve()
            await self._close(server)
        except Exception:
            log.exception("the service failed, and ends", extra={"event": "failed"})
            self._code = Exit.INTERNAL
            await self._stages.give_all_back()
            with contextlib.suppress(Exception):
                await self._close(server)
        if self._code == Exit.OK and self._stages.given_back:
            self._code = Exit.GIVEN_BACK
        what = f"stopped with exit code {int(self._code)}"
        logs.report(log, logging.INFO, "stopped", what, exit_code=int(self._code))
        return self._code

    async def _start(self, server: HttpServer, store: Store) -> Document | None:
        """Return the initial desired state; None when a signal has ended the start."""
        starting = asyncio.create_task(start_up(self._loaded, server, store, self._writer.put))
        starting.add_done_callback(lambda _task: self._wake.set())
        while not starting.done():
            await self._wake.wait()
            self._wake.clear()
            self._take_signals()
            if self.terms:
                starting.cancel()
        document = None if starting.cancelled() else starting.result()
        return None if self.terms else document

    def _begin(self, server: HttpServer) -> None:
        """Start the desired stages, and begin to answer over HTTP."""
        self._state = "running"
        self.document_changed()
        self._control.attach(asyncio.get_running_loop(), self._operations)
        server.start()
        url = f"http://{self._config.control.host}:{server.port}"
        brokers = ", ".join(map(redact_url, self._config.broker.urls))
        logs.report(log, logging.INFO, "started", f"running: control at {url}, broker {brokers}", url=url)

    async def _serve(self) -> None:
        """Loop until the last Producer has ended or is given up."""
        due = 0.0
        while not self._over():
            self._take_signals()
            now = time.monotonic()
            if now >= due:
                due = now + BEAT
                self._beat()
            self._switches.end(self._stages.due())
            self._publish()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), due - now)
            self._wake.clear()

    def _over(self) -> bool:
        left = self._stages.alive or self._sources.alive
        return self._stop is not None and (not left or time.monotonic() >= self._stop.abandon)

    def _beat(self) -> None:
        """Do everything that is due. An error here ends the Service: no part of this work may stop unnoticed."""
        self._orphans.look()
        self._stages.beat()
        self._shared.beat()
        self._sources.beat()
        if self._state != "running":
            return
        if reason := self._stages.given_up:
            logs.report(log, logging.ERROR, "restarts_exhausted", reason)
            self._code = Exit.RESTARTS_EXHAUSTED
            self._end(time.monotonic())
        elif self._burst is not None:
            over, views = self._sources.over, self._stages.views().values()
            code = self._burst.beat(views, paused=self._paused, sources_over=over)
            if code is not None:
                self._code = code
                self.begin_drain()

    async def _close(self, server: HttpServer) -> None:
        left = self.time_left()
        await asyncio.gather(
            asyncio.to_thread(server.stop, left / 2),
            self._orphans.end(left / 2),
            self._shared.close(left / 2),
            self._broker_admin.stop("the service ends", left / 2),
        )

    # --- the end

    def begin_drain(self) -> None:
        """Begin to end as on a first TERM, unless the end has begun."""
        if self._state == "running":
            self._end(time.monotonic() + self._config.service.drain_deadline)

    def _end(self, until: float) -> None:
        self._state = "draining"
        self._operations.ending = True
        patience = max(0.0, until - time.monotonic())
        logs.report(log, logging.INFO, "draining", f"draining, at most {patience:.3g} s")
        for view in self._stages.views().values() if self._stop is None else ():
            if view.stop_destroys:
                logs.report(log, logging.WARNING, "destroys", view.stop_destroys)
        self._stop = StopBudget(until)
        asyncio.get_running_loop().call_at(self._stop.abandon, self._wake.set)
        self._sources.end(self._stop.sources(time.monotonic()))
        self._stages.end(until)
        self._wake.set()

    def time_left(self) -> float:
        """Return the seconds that the next step of the end may take."""
        left = CLOSE if self._stop is None else self._stop.service - time.monotonic()
        return max(0.25, min(CLOSE, left))

    def reset_shared(self, name: str) -> str | None:
        """Replace a shared object by a new one; returns why that cannot be now, or "", or None if there is none."""
        return self._shared.reset(name)

    def source_again(self, name: str) -> None:
        """Let a source that has finished begin again."""
        self._sources.again(name)

    async def run_source(self, name: str, patience: float) -> RunDone:
        """Call a scheduled function now, and return when it has ended. Raises ControlError."""
        return await self._sources.run(name, patience)

    async def ask_held(self, stage: str, skip: str) -> Held:
        """Return the failed messages that a stage holds, or let one go. Raises ControlError."""
        return await self._stages.ask_held(stage, skip)

    # --- signals

    def _take_signals(self) -> None:
        for number in self._signals.take():
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    self._terminate()
                case signal.SIGUSR2:
                    dump_stacks()
                    self._stages.dump_stacks()
                    self._sources.dump_stacks()
                case signal.SIGHUP if self._state == "running":
                    self._operations.reload_all()
                case signal.SIGTSTP | signal.SIGCONT if self._state == "running":
                    self._pause(number == signal.SIGTSTP)

    def _terminate(self) -> None:
        now = time.monotonic()
        if self.terms and now - self._last_term < SAME_TERM:
            return
        self.terms += 1
        self._last_term = now
        if self._state == "running":
            self.begin_drain()
        elif self._state == "draining" and self.terms == 2:
            logs.report(log, logging.WARNING, "giving_back", "second signal: giving everything back at once")
            self._code = self._code or Exit.GIVEN_BACK
            self._end(time.monotonic())

    def _pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            logs.report(log, logging.INFO, "paused" if paused else "resumed", "paused" if paused else "resumed")
            self.document_changed()

    # --- what is published

    def document_changed(self) -> None:
        """Bring about the state in the document, and publish it before the change is answered."""
        document = self._operations.document
        logs.set_level(logs.LEVELS[document.log_level])
        if self._state != "draining":
            self._shared.want(document)
            self._sources.want(document)
        self._stages.want(document, paused=self._paused)
        self._publish()

    def _publish(self) -> None:
        self._control.publish(
            Snapshot(
                time=time.monotonic(),
                service=self._config.service.name,
                pid=os.getpid(),
                started=self._started,
                state=self._state,
                paused=self._paused,
                document=self._operations.document,
                stages=self._stages.views(),
                shared=self._shared.views(),
                sources=self._sources.views(),
            )
        )
