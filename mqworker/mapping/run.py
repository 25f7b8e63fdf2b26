"""The loop of `mqworker map`: reads lines, has them computed, stores what is ready, and ends the run.

Runs on the main thread of the command's process, which is the Producer of one stage and starts its Consumers (`crew`).
Two threads read and write; the decisions are made here or in the Window. Receives signals and the calls of the FileLink
and the crew; reports progress to a Watcher. Returns how the run ended, and leaves no process behind. After the first
INT, TERM or HUP, lines in hand may finish for GRACE seconds; a second signal ends the wait. What is ready is stored in
any case.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from mqworker.brokers.base import Sink, Topology
from mqworker.brokers.files import FileLink
from mqworker.brokers.files.reader import InputFault, LineReader
from mqworker.brokers.files.window import MOST_LINES, Window
from mqworker.config.model import BrokerConfig
from mqworker.config.stop_budget import LEAVE
from mqworker.exits import Exit
from mqworker.ipc import logs
from mqworker.ipc.generation import Generation
from mqworker.ipc.spawn import forget_main
from mqworker.mapping.crew import GRACE, LAST, Crew, checked
from mqworker.mapping.files import MapFiles, MapState
from mqworker.mapping.watcher import Pace, Watcher
from mqworker.mapping.work import MapStage
from mqworker.service.instance import be_parent

SAVE = 1.0  # seconds between two stored portions
LOOK = 0.5  # seconds between two reports of progress
INTERRUPTED, BROKEN_PIPE = 128 + signal.SIGINT, 128 + signal.SIGPIPE
_ENDS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: Exit.GIVEN_BACK, signal.SIGHUP: Exit.GIVEN_BACK}

T = TypeVar("T")

log = logging.getLogger("mqworker.mapping")


class MapResult(NamedTuple):
    """How it ended."""

    code: int
    message: str  # what is wrong; "" for nothing
    state: MapState
    finished: bool
    goes_on: bool = True  # can be continued with the same input and --resume


def run(stage: MapStage, files: MapFiles, fd: int, watcher: Watcher) -> MapResult:
    """Compute the lines of an open file; `files` must be claimed. Raises MapError or StartError before it begins."""
    forget_main()
    be_parent({stage.name: stage.config}, stage.consumers)
    gc.freeze()
    logs.use(logs.ForwardingHandler(watcher.event, "map"), logging.INFO)
    return asyncio.run(MapRun(stage, files, fd, watcher).main())


class MapRun:
    """See the module head."""

    def __init__(self, stage: MapStage, files: MapFiles, fd: int, watcher: Watcher) -> None:
        self._stage = stage
        self._files = files
        self._watcher = watcher
        self._reader = LineReader(fd, stage.config.max_body)
        self._window = Window(files.state.place)
        self._pace = Pace()
        self._crew: Crew
        self._link: FileLink
        self._threads = {name: ThreadPoolExecutor(1, f"map-{name}") for name in ("reader", "writer")}
        self._wake = asyncio.Event()  # there may be something to do before the next portion is due
        self._room = asyncio.Event()  # another batch is wanted
        self._signals: list[signal.Signals] = []
        self._fault: tuple[int, str] | None = None  # why the run cannot go on: exit code and sentence
        self._damage = ""  # why the input cannot be read to its end
        self._same_input = True  # as that of the earlier run that this one continues
        self._storing: asyncio.Task[None] | None = None
        self._writable = True  # no write has failed

    async def main(self) -> MapResult:
        """Do the whole run."""
        for number in _ENDS:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started by nohup
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        generation = await self._unless_ended(checked(self._stage, self._files.folder, self._watcher))
        if generation is not None:
            self._files.open()
            self._begin(generation)
            reading = self._begin_task(self._read())
            try:
                await self._serve()
            finally:
                reading.cancel()
                before = max(1, len(self._signals))
                patience, leave = 0.0 if self._fault else GRACE, LEAVE if self._all_stored() else LAST
                await self._crew.end(patience, leave, lambda: len(self._signals) > before)
        return await self._conclude()

    # --- the start

    async def _unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of `work`, or None if a signal comes first."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _task: self._wake.set())
        while not task.done() and not self._signals:
            await self._wake.wait()
            self._wake.clear()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            return None
        return task.result()

    def _begin(self, generation: Generation) -> None:
        self._crew = Crew(self._stage, generation, self._files.folder, self._watcher, self._open_link, self._fails)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._crew.orphans.look)
        self._crew.start()
        self._look()

    def _open_link(self, _broker: BrokerConfig, topology: Topology, sink: Sink, name: str) -> FileLink:  # noqa: ARG002 - as `open_link`
        self._link = FileLink(
            *(self._window, topology, sink),
            most=self._stage.config.max_body,
            begun=self._files.state.place.line + MOST_LINES if self._files.resumed else 0,
            moved=self._moved,
            failed=self._watcher.failed,
        )
        return self._link

    # --- what happens

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals.append(number)
        self._wake.set()

    def _moved(self) -> None:
        if self._window.wants:
            self._room.set()
        if self._window.done:
            self._wake.set()

    def _fails(self, code: int, message: str) -> None:
        self._fault = self._fault or (code, message)
        self._wake.set()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task; an error in it ends the run."""

        def look(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("the run failed", exc_info=error, extra={"event": "failed"})
                self._fails(Exit.INTERNAL, f"{type(error).__name__}: {error}")

        task = asyncio.create_task(work)
        task.add_done_callback(look)
        return task

    def _look(self) -> None:
        """Report how far the run is, now and every LOOK seconds."""
        self._crew.orphans.look()
        self._watcher.figures(self._pace.look(self._window, self._files.state.dead, time.monotonic()))
        asyncio.get_running_loop().call_later(LOOK, self._look)

    # --- reading and writing

    async def _in(self, thread: str, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads[thread], work, *arguments)

    async def _read(self) -> None:
        window, place = self._window, self._files.state.place
        try:
            if place.line and not await self._is_same_input():
                return
            while (batch := await self._in("reader", self._reader.read)) is not None:
                window.add(batch)
                self._link.pump()
                while not window.wants:
                    self._room.clear()
                    await self._room.wait()
        except InputFault as error:
            self._damage = f"the input: {error}"
        except OSError as error:
            self._damage = f"the input cannot be read: {error.strerror}"
        finally:
            window.ended = True
            self._moved()

    async def _is_same_input(self) -> bool:
        """Skip to where the earlier run was; return False if the input begins with something else."""
        try:
            await self._in("reader", self._reader.skip, *self._files.state.place)
        except InputFault as error:
            self._same_input = False
            self._damage = f"the input: {error}; give that input, or to start over, remove {self._files.left}"
        return self._same_input

    async def _store(self) -> None:
        """Store what is ready."""
        portion = self._window.portion()
        if portion is None:
            return
        self._writable = False  # until it is stored
        try:
            await self._in("writer", self._files.store, portion)
        except BrokenPipeError:
            self._fails(BROKEN_PIPE, "")
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            self._fails(Exit.INTERNAL, f"the output{where} cannot be written: {error.strerror}")
        else:
            self._writable = True
            self._window.stored(portion)
            self._link.pump()
            if self._window.done:
                self._wake.set()

    async def _serve(self) -> None:
        """Store portions until everything is stored, or a fault or a signal ends the run."""
        while not (self._signals or self._fault or self._all_stored()):
            if self._storing is None or self._storing.done():
                self._storing = self._begin_task(self._store())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), SAVE)
            self._wake.clear()

    def _all_stored(self) -> bool:
        return self._window.done and self._files.state.place.line == self._window.line

    async def _conclude(self) -> MapResult:
        """Store what came last, and return how the run ended."""
        if self._all_stored() and not self._damage:
            await self._in("writer", self._files.complete)
            self._files.finish()
            return MapResult(Exit.DEAD if self._files.state.dead else Exit.OK, "", self._files.state, finished=True)
        if self._storing is not None:
            await asyncio.wait([self._storing], timeout=LAST)
        if self._writable:  # after a failed write, nothing more is stored
            await asyncio.wait([self._begin_task(self._store())], timeout=LAST)
        code, message = self._fault or (Exit.INTERNAL, self._damage)
        if not message and self._signals:
            code = _ENDS[self._signals[0]]
        return MapResult(code, message, self._files.state, finished=False, goes_on=self._same_input)
