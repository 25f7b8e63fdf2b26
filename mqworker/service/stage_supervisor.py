"""The keeper of one stage: starts its Producer, tells it what should be, and notices when it dies or hangs.

Lives in the Service's main thread, on its loop. Owns the Producer process and both pipes to it. Hears Reports; a
Producer that says nothing for PULSE_DEADLINE is killed. A dead one is built again at once, with backoff when its lives
are fruitless; when the budget is used up the Service ends with 70 and supervisord starts over.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Protocol

import msgspec

from mqworker.config.stop_budget import StopBudget
from mqworker.control.control import StageView
from mqworker.control.desired_state import Document
from mqworker.ipc import logs
from mqworker.ipc.frames import FrameReader, FrameWriter
from mqworker.ipc.messages import Desired, Drain, DumpStacks, Ended, LogEvent, Order, Report, StageSpec, StageStatus
from mqworker.ipc.output import OutputReader
from mqworker.ipc.restart_budget import Budget
from mqworker.ipc.spawn import SPAWN, Death, reap
from mqworker.producer.process import Producer

PULSE_DEADLINE = 15.0  # seconds without a report until a Producer counts as hanging
FRUITLESS_MAX = 8  # Producers in a row that die before they are connected
FRUITFUL_AGE = 10.0  # seconds after which a life counts as fruitful anyway

_encoder = msgspec.msgpack.Encoder()
_reports = msgspec.msgpack.Decoder(Report)

log = logging.getLogger("mqworker.service.stage_supervisor")


class StageOwner(Protocol):
    """Who hears a keeper, on the main loop."""

    def stage_changed(self) -> None:
        """Hear that there is something new to show."""

    def stage_log(self, event: LogEvent) -> None:
        """Take an event of the tree."""


class StageSupervisor:
    """See the module head."""

    def __init__(self, spec: StageSpec, owner: StageOwner, lock: int) -> None:
        self.name = spec.stage
        self.status: StageStatus | None = None
        self.given_back = 0
        self.restarts = 0
        self.budget = Budget(limit=FRUITLESS_MAX)
        self._spec = spec
        self._owner = owner
        self._lock = lock
        self._document: Document | None = None
        self._paused = False
        self._process: Producer | None = None
        self._born = 0.0
        self._heard = 0.0
        self._until: float | None = None  # monotonic: it was told to end, and to give back what is in hand then
        self._kill_at: asyncio.TimerHandle | None = None
        self._ended: Ended | None = None
        self._final = False

    # --- what is wanted

    def want(self, document: Document, *, paused: bool) -> None:
        """Aim at this document."""
        self._document, self._paused = document, paused
        if self._process is not None and self._until is None:
            self._send(self._desired())
        self.reconcile(time.monotonic())

    def end(self, until: float) -> None:
        """Drain for good; a second time to give back sooner."""
        self._final = True
        self._stop(until)

    def dump_stacks(self) -> None:
        """Have the tree write its stacks to the log."""
        if self._process is not None:
            self._send(DumpStacks())

    @property
    def alive(self) -> bool:
        """Whether there is a Producer."""
        return self._process is not None

    def pids(self) -> set[int]:
        """The Producer's, if there is one."""
        return {self._process.pid} if self._process is not None and self._process.pid else set()

    def reconcile(self, now: float) -> None:
        """Start, stop or kill, as is due."""
        document = self._document
        if document is None:
            return
        wanted = document.stages[self.name].running and not self._final
        if self._process is None:
            if wanted and self.budget.may_start(now):
                self._start(now)
        elif not wanted and self._until is None:
            self._stop(now + self._spec.drain_deadline)
        elif now - self._heard > PULSE_DEADLINE:
            self._kill(f"it said nothing for {PULSE_DEADLINE:g} s")

    # --- what is

    def view(self) -> StageView:
        """The stage for the snapshot."""
        document = self._document
        assert document is not None
        desired = document.stages[self.name]
        status = self.status
        applied = document.revision if self._process is None and not desired.running else 0
        if status is not None and self._until is None and desired.running:
            applied = status.revision
        return StageView(
            name=self.name,
            desired=desired,
            state=self._state(),
            actual=status,
            problem=self._problem(),
            restarts=self.restarts,
            applied=applied,
        )

    def _state(self) -> str:
        if self._process is None:
            running = self._document is not None and self._document.stages[self.name].running and not self._final
            return "backoff" if running else "stopped"
        if self._until is not None:
            return "stopping"
        if self.status is None:
            return "starting"
        return "crash loop" if self.status.crash_loop else self.status.state

    def _problem(self) -> str:
        if self.status is not None:
            return self.status.problem or ("" if self.status.link.connected else self.status.link.reason)
        return "" if self._process is not None or self._final else self._last_words

    _last_words = ""

    # --- the process

    def _desired(self) -> Desired:
        document = self._document
        assert document is not None
        stage = document.stages[self.name]
        return Desired(
            revision=document.revision,
            listening=stage.listening and not self._paused,
            consumers=stage.consumers if stage.working else 0,
            generation=stage.generation,
            code=stage.code,
            params=msgspec.json.encode(stage.params),
            soft_limit=stage.soft_limit,
            hard_limit=stage.hard_limit,
            log_level=logs.LEVELS[document.log_level],
        )

    def _start(self, now: float) -> None:
        self._pipe, far = SPAWN.Pipe(duplex=True)
        self._out, out_far = SPAWN.Pipe(duplex=False)
        lock = Connection(os.dup(self._lock), readable=True, writable=False)
        process = Producer(self._spec, self._desired(), far, out_far, lock)
        try:
            process.start()
        except OSError as error:
            self._pipe.close()
            self._out.close()
            self._last_words = f"the Producer could not be started: {error.strerror}"
            self.budget.died(now, fruitful=False)
            return
        finally:
            far.close()
            out_far.close()
            lock.close()
        assert process.pid is not None
        self._process = process
        self._born = self._heard = now
        self._until = None
        self._ended = None
        self.status = None
        self._writer = FrameWriter(self._pipe.fileno())
        self._reader = FrameReader(self._pipe.fileno(), self._on_report, lambda _reason: None)
        self._output = OutputReader(self._out.fileno(), process.name, process.pid, self.name, self._owner.stage_log)
        self._pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_death)

    def _send(self, order: Order) -> None:
        self._writer.send(_encoder.encode(order))

    def _stop(self, until: float) -> None:
        if self._process is None or (self._until is not None and until >= self._until):
            return
        self._until = until
        self._send(Drain(until))
        if self._kill_at is not None:
            self._kill_at.cancel()
        loop = asyncio.get_running_loop()
        self._kill_at = loop.call_at(StopBudget(until).kill, self._kill, "it did not end in time")
        self._owner.stage_changed()

    def _kill(self, why: str) -> None:
        if self._process is not None and self._process.pid is not None:
            logs.report(log, logging.ERROR, "producer_killed", f"killing the Producer of {self.name}: {why}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def _on_report(self, payload: bytes) -> None:
        report = _reports.decode(payload)
        self._heard = time.monotonic()
        match report:
            case LogEvent():
                self._owner.stage_log(report)
            case StageStatus():
                self.status = report
                if report.link.connected:
                    self.budget.prospered()
                self._owner.stage_changed()
            case Ended():
                self._ended = report
                self.given_back += report.given_back

    def _on_death(self) -> None:
        process = self._process
        assert process is not None
        death = reap(process)
        if death is None:
            return
        now = time.monotonic()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._reader.drain()
        self._reader.close()
        self._writer.close()
        self._output.finish()
        self._pipe.close()
        self._out.close()
        process.close()
        self._process = None
        if self._kill_at is not None:
            self._kill_at.cancel()
        self._kill_at = None
        self._after_death(death, now)
        self.status = None
        self._until = None
        self.reconcile(now)
        self._owner.stage_changed()

    def _after_death(self, death: Death, now: float) -> None:
        if self._ended is not None:
            self._last_words = ""
            self.budget.died(now, fruitful=True)
            return
        if self._until is not None and self.status is not None:
            self.given_back += self.status.dispatched + self.status.settling
        connected = self.status is not None and self.status.link.connected
        self.budget.died(now, fruitful=connected or now - self._born > FRUITFUL_AGE)
        self.restarts += 1
        self._last_words = f"the last Producer {death}"
        words = f"the Producer of {self.name} {death}; its unsettled messages go back to the broker"
        logs.report(log, logging.ERROR, "producer_died", words, fruitless=self.budget.fruitless)
