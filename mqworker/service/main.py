"""The Service: the main process, parent of all others, which owns signals, the desired state and the process trees.

Its main thread runs one asyncio loop and is the only one that starts processes and changes anything; it runs no user
code and holds no broker connection. Owns the lock of the instance, the log's writer, the control server, the broker
admin, stages and sources. Receives signals, the HTTP threads' commands (operations.py) and the stages' reports;
publishes Snapshots. Its loop: wait, take signals, do what is due, publish. `ending` decides when and how it ends, with
the codes of mqworker.exits. After an error in the loop, it returns everything to the broker and ends the process with
1, so that supervisord or the like starts it again.
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
from mqworker.config.stop_budget import CLOSE
from mqworker.control.audit import signalled
from mqworker.control.control import Control
from mqworker.control.desired_state import Document
from mqworker.control.difference import FieldChange
from mqworker.control.store import Store
from mqworker.control.views import Snapshot
from mqworker.exits import Exit
from mqworker.http.server import HttpServer
from mqworker.ipc import imports, logs
from mqworker.ipc.spawn import forget_main
from mqworker.service.broker_kind import remember
from mqworker.service.burst import Burst
from mqworker.service.ending import DrainBy, Ending
from mqworker.service.instance import StartError, acquire_lock, prepare
from mqworker.service.memory import give_back_large_blocks
from mqworker.service.operations import Operations, Trees
from mqworker.service.orphans import Orphans
from mqworker.service.shared_supervisors import SharedSupervisors
from mqworker.service.signals import Signals, dump_stacks
from mqworker.service.sources import Sources
from mqworker.service.stages import Stages
from mqworker.service.startup import start_up
from mqworker.service.switches import Switches

BEAT = 0.5  # seconds between two checks for work that is due, and between snapshots when nothing changes
BATCH = 1.0  # seconds for operations on dead letters to end between two batches, so that nothing is doubled
EXIT_DELAY = 5.0  # seconds to wait before a failing exit under supervisord, which restarts at once after a late exit

log = logging.getLogger("mqworker.service.main")


def run(loaded: Loaded, *, burst: bool = False) -> NoReturn:
    """Run the service in the foreground, and end the process with its exit code."""
    give_back_large_blocks()
    service = loaded.config.service
    forget_main()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # some parents start programs with TERM blocked
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
        what, _, detail = str(error).partition("\n")  # the user's own traceback, if the error is in the user's code
        logs.report(log, logging.ERROR, "cannot_start", what, exit_code=int(error.code), traceback=detail or None)
        code = error.code
    except Exception:
        log.exception("the service failed", extra={"event": "failed"})
        code = Exit.INTERNAL
    failed = code not in (Exit.OK, Exit.DEAD, Exit.GIVEN_BACK, Exit.CONFIG)
    if failed and began and not began.ending.terms and "SUPERVISOR_ENABLED" in os.environ:
        time.sleep(EXIT_DELAY)
    writer.close(began.ending.time_left(time.monotonic()) if began else CLOSE)
    os._exit(code)  # an ordinary exit is slow, and would wait for a Producer that cannot be killed


class Service:
    """See the module head; everything here runs on the main loop."""

    def __init__(self, loaded: Loaded, writer: logs.LogWriter, lock: int, *, burst: bool) -> None:
        self.ending = Ending(loaded.config.service.drain_deadline)
        self._loaded = loaded
        self._config = loaded.config
        self._writer = writer
        self._wake = asyncio.Event()  # there is something to do before the next beat
        self._signals = Signals(self._wake.set)
        self._control = Control(loaded, writer)
        self._broker_admin = BrokerAdminClient(self._config, writer.put)
        self._burst = Burst(self._broker_admin) if burst else None
        self._orphans = Orphans()
        self._stages = Stages(loaded, lock, self._wake.set, writer.put, self._control.faults)
        self._shared = SharedSupervisors(loaded, self._wake.set, writer.put)
        self._sources = Sources(loaded, self._wake.set, writer.put, burst=burst)
        self._switches: Switches  # set once the start has ended
        self._operations: Operations  # set once the start has ended
        self._opening: asyncio.Task[None] | None = None  # begins to answer over HTTP
        self._paused = False
        self._paused_since: float | None = None  # wall clock
        self._started = time.time()

    # --- life

    async def main(self) -> Exit:
        """Start, run, end; returns the exit code. Raises StartError."""
        control = self._config.control
        server = HttpServer(
            self._control,
            *(control.host, control.port, self._loaded.socket, control.token, control.hosts, control.read_token),
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
        trees = Trees(self._stages, self._shared, self._sources)
        self._operations = Operations(self._loaded, document, store, self._broker_admin, self._writer.put, trees, self)
        self._switches = Switches(self._loaded, self._shared, self._operations, self._wake.set)
        try:
            self._begin(server)
            await self._serve()
            await self._close(server)
        except Exception:
            log.exception("the service failed, and ends", extra={"event": "failed"})
            self.ending.failed()
            await self._stages.give_all_back()
            with contextlib.suppress(Exception):
                await self._close(server)
        self.ending.ended(self._stages.given_back)
        code = self.ending.code
        logs.report(log, logging.INFO, "stopped", f"stopped with exit code {int(code)}", exit_code=int(code))
        return code

    async def _start(self, server: HttpServer, store: Store) -> Document | None:
        """Return the initial desired state; None when a signal has ended the start."""
        starting = asyncio.create_task(start_up(self._loaded, server, store, self._writer.put, self._stages.prepare))
        starting.add_done_callback(lambda _task: self._wake.set())
        while not starting.done():
            await self._wake.wait()
            self._wake.clear()
            self._take_signals()
            if self.ending.terms:
                starting.cancel()
        document = None if starting.cancelled() else starting.result()
        return None if self.ending.terms else document

    def _begin(self, server: HttpServer) -> None:
        """Start the desired stages, and begin to answer over HTTP."""
        self.ending.started()
        self.document_changed()
        self._opening = asyncio.create_task(self._open(server))
        self._opening.add_done_callback(lambda _task: self._wake.set())

    async def _open(self, server: HttpServer) -> None:
        """Load what HTTP needs, then answer over HTTP: so the first messages do not wait for the imports."""
        await asyncio.to_thread(server.load)
        if self.ending.state != "running":
            return
        self._control.attach(asyncio.get_running_loop(), self._operations)
        imports.settle()
        url = f"http://{self._config.control.host}:{server.port}"
        brokers = ", ".join(map(redact_url, self._config.broker.urls))
        logs.report(log, logging.INFO, "started", f"running: control at {url}, broker {brokers}", url=url)
        server.start()  # last, so that a client that gets an answer finds the line in the log

    async def _serve(self) -> None:
        """Loop until the last Producer has ended, or the wait for it is given up."""
        due = 0.0
        while not self.ending.over(time.monotonic(), alive=self._stages.alive or self._sources.alive):
            if self._opening is not None and self._opening.done():
                self._opening.result()
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

    def _beat(self) -> None:
        """Do everything that is due. An error here ends the Service: no part of this work may stop unnoticed."""
        self._orphans.look()
        self._stages.beat()
        self._shared.beat()
        self._sources.beat()
        if self.ending.state != "running":
            return
        if reason := self._stages.given_up:
            logs.report(log, logging.ERROR, "restarts_exhausted", reason)
            self._end(self.ending.give_up(time.monotonic()))
        elif self._burst is not None:
            over, views = self._sources.over, self._stages.views().values()
            code = self._burst.beat(views, paused=self._paused, sources_over=over)
            if code is not None:
                self._end(self.ending.done(code, time.monotonic()))

    async def _close(self, server: HttpServer) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening], timeout=self.ending.time_left(time.monotonic()) / 3)
        self._operations.bulk.end()
        await self._operations.bulk.ended(min(BATCH, self.ending.time_left(time.monotonic()) / 3))
        left = self.ending.time_left(time.monotonic())
        await asyncio.gather(
            asyncio.to_thread(server.stop, left / 2),
            self._orphans.end(left / 2),
            self._shared.close(left / 2),
            self._broker_admin.stop("the service ends", left / 2),
        )

    # --- the end

    def begin_drain(self) -> None:
        """Begin the end as on a first TERM, unless it has begun."""
        self._end(self.ending.drain(time.monotonic()))

    def _end(self, drain: DrainBy | None) -> None:
        """Carry out what `ending` has decided; None for nothing."""
        stop, now = self.ending.stop, time.monotonic()
        if drain is None or stop is None:
            return
        if drain.hurried:
            logs.report(log, logging.WARNING, "giving_back", "second signal: giving everything back at once")
        self._operations.ending = True
        self._operations.bulk.end()
        logs.report(log, logging.INFO, "draining", f"draining, at most {max(0.0, drain.until - now):.3g} s")
        for view in self._stages.views().values() if drain.first else ():
            if view.stop_destroys:
                logs.report(log, logging.WARNING, "destroys", view.stop_destroys)
        asyncio.get_running_loop().call_at(stop.abandon, self._wake.set)
        self._sources.end(stop.sources(now))
        self._stages.end(drain.until)
        self._wake.set()

    # --- signals

    def _take_signals(self) -> None:
        for number in self._signals.take():
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    self._end(self.ending.terminated(time.monotonic()))
                case signal.SIGUSR2:
                    dump_stacks()
                    self._stages.dump_stacks()
                    self._sources.dump_stacks()
                case signal.SIGHUP if self.ending.state == "running":
                    self._control.trail.add(signalled("SIGHUP"), wait=False)
                    self._operations.reload_all()
                case signal.SIGTSTP | signal.SIGCONT if self.ending.state == "running":
                    self._pause(number == signal.SIGTSTP)

    def _pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            self._paused_since = time.time() if paused else None
            logs.report(log, logging.INFO, "paused" if paused else "resumed", "paused" if paused else "resumed")
            change = FieldChange("", "paused", not paused, paused)
            self._control.trail.add(signalled("SIGTSTP" if paused else "SIGCONT", change), wait=False)
            self.document_changed()

    # --- what is published

    def document_changed(self) -> None:
        """Establish the state in the document, and publish it before the change is answered."""
        document = self._operations.document
        logs.set_level(logs.LEVELS[document.log_level])
        if self.ending.state != "draining":
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
                state=self.ending.state,
                paused=self._paused,
                document=self._operations.document,
                stages=self._stages.views(),
                shared=self._shared.views(),
                sources=self._sources.views(),
                changes=self._operations.changes,
                paused_since=self._paused_since,
            )
        )
