"""The edge of a source's process: its pipes to the Service, and its end.

Lives on a loop in a thread of its own (edge_thread.py). Receives SourceOrders and sends SourceReports, at least once a
second. The user's code runs in the main thread (user.py); what it yields comes through the handover, and the pump
publishes it. A lost Outlet ends the process at once: the lock is gone, and another service may run the source. The end
of the Service and an error on the loop end it too.
"""

import asyncio
import faulthandler
import logging
import math
import os
import time
from typing import Any

import msgspec

from mqworker.exits import Exit
from mqworker.ipc import logs
from mqworker.ipc.frame_streams import FrameReader, FrameWriter
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
    StopSource,
)
from mqworker.sources.handover import Handover
from mqworker.sources.pump import Pump
from mqworker.sources.status import Statuses

PULSE = 1.0  # seconds between reports
CONFIRMS = 2.0  # seconds to wait at the end for confirms and for the position to be stored
CLOSE = 0.5  # seconds to close the broker connection normally
FLUSH = 0.5  # seconds to write the last reports
POLL = 0.01  # seconds between two checks, at the end, whether everything is settled

_encoder = msgspec.msgpack.Encoder()
_orders = msgspec.msgpack.Decoder(SourceOrder)

log = logging.getLogger("mqworker.sources")


class Edge:
    """See the module head; made on the running loop. What the main thread calls (edge_thread.py) comes first."""

    def __init__(self, spec: SourceSpec, handover: Handover, down: int, up: int) -> None:
        self._spec = spec
        self._handover = handover
        self._ending: asyncio.Task[None] | None = None
        self._until = math.inf  # CLOCK_MONOTONIC: when the process must have ended
        self._said: SourceEnded | None = None  # how the main thread has ended
        self._code = Exit.OK
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._failed)
        self._over = asyncio.Event()
        self._writer = FrameWriter(up)
        self._pump = Pump(spec, handover, self._report, self._lost)
        self._statuses = Statuses(spec, self._pump, handover)
        self._reader = FrameReader(down, self._on_order, lambda _reason: os._exit(1))

    async def run(self) -> Exit:
        """Work until the end; returns the exit code."""
        self._pulse(self._loop.time())
        await self._over.wait()
        await self._writer.flush(FLUSH)
        return self._code

    def connect(self) -> None:
        """Connect to the broker, unless the process is already ending."""
        if self._ending is None:
            self._pump.start()

    def take(self) -> None:
        """Publish what has been handed over."""
        self._pump.take()

    def forward(self, event: LogEvent) -> None:
        """Send a log event to the Service, or drop it if too much is waiting already."""
        self._writer.send(_encoder.encode(event), droppable=True)

    def send(self, report: SourceReport) -> None:
        """Send a report to the Service."""
        self._writer.send(_encoder.encode(report))

    def ended(self, ended: SourceEnded) -> None:
        """End the process, because the user's code has ended."""
        self._said = ended
        self._pump.take()
        if self._ending is None:
            self._ending = asyncio.create_task(self._finish(ended))

    # --- inside

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the process after an error in a callback: nothing here may stop unnoticed."""
        log.error("source %s: %s", self._spec.name, context["message"], exc_info=context.get("exception"))
        self._code = Exit.INTERNAL
        self._leave(SourceEnded("lost", "an error inside mqworker; the log has the details"))

    def _report(self) -> None:
        self.send(self._statuses.status(ending=self._ending is not None))

    def _pulse(self, expected: float) -> None:
        now = self._loop.time()
        self._statuses.pulse(now, now - expected)
        self._report()
        self._loop.call_at(now + PULSE, self._pulse, now + PULSE)

    # --- orders

    def _on_order(self, payload: bytes) -> None:
        order = _orders.decode(payload)
        match order:
            case StopSource():
                self._stop(order.until)
            case RunNow():
                self._run_now(order.id)
            case SetSourceLevel():
                logs.set_level(order.level)
            case DumpSourceStacks():
                faulthandler.dump_traceback(file=2, all_threads=True)

    def _run_now(self, run: str) -> None:
        why = ""
        if not self._pump.is_open:
            why = f"it does not run here: {self._pump.reason}"
        elif not self._handover.ask_run(run):
            why = "a run has already been requested"
        if why:
            self.send(RunDone(run, 0, why))

    # --- the end

    def _stop(self, until: float) -> None:
        self._until = min(self._until, until)
        self._handover.stop()
        if self._ending is None:
            self._ending = asyncio.create_task(self._finish(SourceEnded("stopped")))
            self._report()

    async def _finish(self, ended: SourceEnded) -> None:
        """Wait for what is in progress, release the lock, and let the user's code end."""
        began = time.monotonic()
        while not self._pump.settled:
            patient = ended.how == "finished" and self._until == math.inf
            if not patient and time.monotonic() > min(began + CONFIRMS, self._until):
                break
            await asyncio.sleep(POLL)
        await self._pump.close(CLOSE)
        while self._said is None and time.monotonic() < self._until:  # noqa: ASYNC110 - runs once, at the end
            await asyncio.sleep(POLL)
        if self._said is None:
            logs.report(log, logging.WARNING, "source_stuck", f"source {self._spec.name} did not end in time")
        if ended.how in ("failed", "unfit"):
            self._code = Exit.INTERNAL
        self._leave(ended)

    def _lost(self, reason: str) -> None:
        """End at once: there is nothing to wait for."""
        stall = self._statuses.stall
        fields = {"stall": round(stall, 3)} if stall > PULSE else {}
        what = f"source {self._spec.name} ends, and will start again: {reason}"
        logs.report(log, logging.WARNING, "source_lost", what, **fields)
        self._code = Exit.INTERNAL
        self._leave(SourceEnded("lost", reason))

    def _leave(self, ended: SourceEnded) -> None:
        if not self._over.is_set():
            self._report()
            self.send(ended)
            self._over.set()
