"""The loop of `mqworker map`: reads lines, has them computed, stores what is ready, and ends.

Runs on the main thread of the verb's process, which is the Producer of one stage and starts its Consumers. Two threads
read and write; what decides is here or in the Window. Hears signals, the Stage and its FileLink; says what a Watcher
wants to know. `main` returns how it ended, and never leaves a process behind. The first INT, TERM or HUP lets lines in
hand finish for GRACE seconds, a second one does not wait; what is ready is stored in any case.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from mqworker.brokers.base import Sink, Topology
from mqworker.brokers.files import FileLink
from mqworker.brokers.files.reader import InputFault, LineReader
from mqworker.brokers.files.window import MOST_LINES, Window
from mqworker.code_check.client import check_code
from mqworker.config.model import BrokerConfig
from mqworker.config.stop_budget import LEAVE
from mqworker.exits import Exit
from mqworker.ipc import logs
from mqworker.ipc.messages import CodeReport, Desired, Generation, LogEvent, StageSpec
from mqworker.ipc.spawn import forget_main
from mqworker.mapping.files import MapFiles, MapState
from mqworker.mapping.work import MapError, MapStage
from mqworker.producer.acks import GAP_WAIT
from mqworker.producer.stage import Stage
from mqworker.producer.timers import Timers
from mqworker.service.instance import be_parent
from mqworker.service.orphans import Orphans

SAVE = 1.0  # seconds between two portions that are stored
LOOK = 0.5  # seconds between two figures
GRACE = 2.5  # seconds for lines in hand after a signal; together with the rest it ends within 5
LAST = 0.5  # seconds for each of the steps after that
STUCK = 5.0  # seconds after which a line that others wait for is named
INTERRUPTED, BROKEN_PIPE = 128 + signal.SIGINT, 128 + signal.SIGPIPE
_ENDS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: Exit.GIVEN_BACK, signal.SIGHUP: Exit.GIVEN_BACK}
_NEVER = ("Consumers cannot be set up", "a Consumer could not be started")  # how such problems begin

T = TypeVar("T")

log = logging.getLogger("mqworker.mapping")


class MapFigures(NamedTuple):
    """How far it is."""

    position: int  # in the file
    lines: int  # settled, and all before them are
    dead: int  # lines stored as dead letters
    rate: float  # lines settled per second, lately
    waits_for: int  # the line that others have waited for since a while; 0: none
    waited: float  # seconds


class MapResult(NamedTuple):
    """How it ended."""

    code: int
    message: str  # what is wrong; "": nothing
    state: MapState
    finished: bool


class Watcher(Protocol):
    """Whoever looks on; calls come on the loop."""

    def event(self, event: LogEvent) -> None:
        """Take a log event of any process."""

    def failed(self, line: int, about: str) -> None:
        """Take the news that a line is dead."""

    def figures(self, figures: MapFigures) -> None:
        """Take the newest figures."""


def run(stage: MapStage, files: MapFiles, fd: int, watcher: Watcher) -> MapResult:
    """Compute the lines of an open file; `files` are claimed. Raises MapError or StartError if nothing was begun."""
    forget_main()
    be_parent({stage.name: stage.config}, stage.consumers)
    gc.freeze()
    logs.use(logs.ForwardingHandler(watcher.event, "map"), logging.INFO)
    return asyncio.run(MapRun(stage, files, fd, watcher).main())


class MapRun:
    """See the module head."""

    def __init__(self, stage: MapStage, files: MapFiles, fd: int, watcher: Watcher) -> None:
        self._map_stage = stage
        self._files = files
        self._watcher = watcher
        self._reader = LineReader(fd, stage.config.max_body)
        self._window = Window(files.state.place)
        self._stage: Stage
        self._link: FileLink
        self._threads = {name: ThreadPoolExecutor(1, f"map-{name}") for name in ("reader", "writer")}
        self._orphans = Orphans()
        self._wake = asyncio.Event()  # there may be something to do before the next portion is due
        self._room = asyncio.Event()  # another batch is wanted
        self._signals: list[signal.Signals] = []
        self._fault: tuple[int, str] | None = None  # why it cannot go on: exit code and sentence
        self._damage = ""  # why the input cannot be read to its end
        self._storing: asyncio.Task[None] | None = None
        self._was_ready = False  # a Consumer was set up
        self._rates: deque[tuple[float, int]] = deque(maxlen=11)  # time, lines settled
        self._moved_at = (0.0, -1)  # when the first unsettled line last changed, and which it is

    async def main(self) -> MapResult:
        """Do all of it."""
        loop = asyncio.get_running_loop()
        for number in _ENDS:
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._orphans.look)
        generation = await self._unless_ended(self._check())
        if generation is None:
            return self._result(self._ended_by())
        self._files.open()
        self._begin(generation)
        reading = self._begin_task(self._read())
        try:
            await self._serve()
        finally:
            reading.cancel()
            await self._end()
        return await self._conclude()

    # --- the start

    async def _unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` does, or None if a signal comes first."""
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

    async def _check(self) -> Generation:
        """Check the code, and return what the Consumers run."""
        stage = self._map_stage
        report = await check_code(
            *(stage.name, stage.root, stage.work.jobs, stage.work.params, stage.config.setup_deadline),
            self._watcher.event,
            state_dir=self._files.folder,
            shared=stage.shared,
        )
        if problems := _problems(report):
            raise MapError(Exit.CONFIG, "\n".join(problems))
        if report.shared:
            names = ", ".join(use.name for use in report.shared)
            what = f"{names}: shared objects have their state in a service, and map has none"
            raise MapError(Exit.CONFIG, f"{what}; run the stage, and send it the lines by `mqworker send`")
        for warning in report.warnings:
            logs.report(log, logging.WARNING, "user_code", warning)
        params = msgspec.json.encode(stage.work.params)
        return Generation(1, 1, list(stage.work.jobs), report.copy, params)

    def _begin(self, generation: Generation) -> None:
        stage, limits = self._map_stage, self._map_stage.config.time_limit
        config = stage.config
        spec = StageSpec(
            *("map", stage.name, config, BrokerConfig(url="file:", ack_timeout=0.0)),
            *(str(stage.root), str(self._files.folder), GRACE),
        )
        desired = Desired(1, True, stage.consumers, generation, None, limits.soft, limits.hard, logging.INFO)
        self._stage = Stage(spec, desired, self._watcher.event, self._changed, self._open_link)
        self._timers = Timers(self._stage)
        self._stage.start()
        self._tick()
        self._look()

    def _open_link(self, _broker: BrokerConfig, topology: Topology, sink: Sink, name: str) -> FileLink:  # noqa: ARG002 - a Link's usual arguments
        place, most = self._files.state.place, self._map_stage.config.max_body
        begun = place.line + MOST_LINES if self._files.resumed else 0
        self._link = FileLink(
            *(self._window, topology, sink),
            most=most,
            begun=begun,
            moved=self._moved,
            failed=self._watcher.failed,
        )
        return self._link

    # --- what happens

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals.append(number)
        self._wake.set()

    def _changed(self) -> None:
        self._was_ready = self._was_ready or self._stage.dispatch.fleet.working() > 0

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
        task = asyncio.create_task(work)
        task.add_done_callback(self._look_at)
        return task

    def _look_at(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the run failed", exc_info=error, extra={"event": "failed"})
            self._fails(Exit.INTERNAL, f"{type(error).__name__}: {error}")

    def _tick(self) -> None:
        try:
            wait = self._timers.tick()
            if hopeless := self._hopeless():
                self._fails(Exit.RESTARTS_EXHAUSTED, hopeless)
        except Exception as error:
            log.exception("the periodic work failed", extra={"event": "failed"})
            self._fails(Exit.INTERNAL, f"{type(error).__name__}: {error}")
            return
        asyncio.get_running_loop().call_later(wait, self._tick)

    def _hopeless(self) -> str:
        """Return why no line will ever be computed."""
        fleet = self._stage.dispatch.fleet
        staffing = fleet.staffing
        if not staffing.crash_loop or fleet.working() or (self._was_ready and not staffing.problem.startswith(_NEVER)):
            return ""
        return staffing.problem

    def _look(self) -> None:
        """Tell how far it is, and again soon."""
        now, window = time.monotonic(), self._window
        self._orphans.look()
        settled = window.line + window.behind
        self._rates.append((now, settled))
        since, before = self._rates[0]
        if self._moved_at[1] != window.line or not window.behind:
            self._moved_at = now, window.line
        waited = now - self._moved_at[0]
        stuck = waited > STUCK
        self._watcher.figures(
            MapFigures(
                *(window.position, window.line, self._files.state.dead),
                (settled - before) / (now - since) if now > since else 0.0,
                *(window.line + 1 if stuck else 0, waited if stuck else 0.0),
            )
        )
        asyncio.get_running_loop().call_later(LOOK, self._look)

    # --- reading and writing

    async def _in(self, thread: str, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads[thread], work, *arguments)

    async def _read(self) -> None:
        window, place = self._window, self._files.state.place
        try:
            if place.line:
                await self._in("reader", self._reader.skip, *place)
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
        window.ended = True
        self._moved()

    async def _store(self) -> None:
        """Store what is ready."""
        portion = self._window.portion()
        if portion is None:
            return
        try:
            await self._in("writer", self._files.store, portion)
        except BrokenPipeError:
            self._fails(BROKEN_PIPE, "")
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            self._fails(Exit.INTERNAL, f"the output{where} cannot be written: {error.strerror}")
        else:
            self._window.stored(portion)
            self._link.pump()
            if self._window.done:
                self._wake.set()

    async def _serve(self) -> None:
        """Go on until all is stored, or it cannot go on, or must not."""
        while not (self._signals or self._fault or self._all_stored()):
            if self._storing is None or self._storing.done():
                self._storing = self._begin_task(self._store())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), SAVE)
            self._wake.clear()

    def _all_stored(self) -> bool:
        return self._window.done and self._files.state.place.line == self._window.line

    # --- the end

    async def _end(self) -> None:
        """End all processes: those with a line in hand get GRACE seconds, those without one may leave in order."""
        stage, before = self._stage, len(self._signals)
        ledger, fleet = stage.ledger, stage.dispatch.fleet
        stage.register.end_life()  # whatever is in hand from now on is not to blame
        stage.quiet()
        end = time.monotonic() + (0.0 if self._fault else GRACE)
        while (len(ledger.assignments) or len(ledger.publications)) and time.monotonic() < end:
            if len(self._signals) > max(before, 1):
                break
            stage.intake.give_back_held()  # what a dying Consumer left
            await asyncio.sleep(0.01)
        if len(ledger.assignments):
            fleet.kill_all("the run ends")
        stage.settlement.send_acks(time.monotonic() + GAP_WAIT)  # also those that would wait behind a gap
        await self._emptied(LEAVE if self._all_stored() else max(LAST, end - time.monotonic()), before)
        fleet.kill_all("it did not end in time")
        await self._emptied(LAST, len(self._signals))
        await self._orphans.end(LAST)

    async def _emptied(self, seconds: float, signals: int) -> None:
        """Wait until no Consumer is left, or another signal comes."""
        end, lanes = time.monotonic() + seconds, self._stage.dispatch.fleet.lanes
        while lanes and time.monotonic() < end and len(self._signals) <= max(signals, 1):  # noqa: ASYNC110 - runs once, at the end
            await asyncio.sleep(0.005)

    async def _conclude(self) -> MapResult:
        """Store what came last, and return how it ended."""
        if self._all_stored() and not self._damage:
            await self._in("writer", self._files.complete)
            self._files.finish()
            return self._result(Exit.DEAD if self._files.state.dead else Exit.OK, finished=True)
        if not self._fault:
            if self._storing is not None:
                await asyncio.wait([self._storing], timeout=LAST)
            await asyncio.wait([self._begin_task(self._store())], timeout=LAST)
        if self._fault:
            return self._result(*self._fault)
        if self._damage:
            return self._result(Exit.INTERNAL, self._damage)
        return self._result(self._ended_by())

    def _ended_by(self) -> int:
        return _ENDS[self._signals[0]]

    def _result(self, code: int, message: str = "", *, finished: bool = False) -> MapResult:
        return MapResult(code, message, self._files.state, finished)


def _problems(report: CodeReport) -> list[str]:
    return report.problems + [f"params.{field}: {problem}" for field, problem in report.fields]
