"""What a Producer does: its stage on one asyncio loop, what it receives and sends, and its end.

Runs in the Producer's process, on its main thread, and owns all that `process` says; it is a module of its own because
the Service, which starts Producers, needs nothing of it.
"""

import asyncio
import faulthandler
import logging
import math
import os
import signal
import time
from collections.abc import Callable

import msgspec

from mqworker.config.stop_budget import StopBudget
from mqworker.exits import Exit
from mqworker.ipc import logs
from mqworker.ipc.frame_streams import FrameReader, FrameWriter
from mqworker.ipc.inspection import AskMessage, AskReplace, AskStack, FaultReport, InspectionAnswer
from mqworker.ipc.producer_messages import AskHeld, Desired, Drain, DumpStacks, Ended, Order
from mqworker.ipc.records import LogEvent
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer import inspect_message
from mqworker.producer.acks import GAP_WAIT
from mqworker.producer.held_messages import answer
from mqworker.producer.replace import replace
from mqworker.producer.stacks import Stacks
from mqworker.producer.stage import Stage
from mqworker.producer.status import stage_status
from mqworker.producer.timers import Timers

PULSE = 1.0  # seconds between reports when nothing changes
NEWS = 0.05  # seconds between two reports of changes, so that several are reported together
CLOSE_DEADLINE = 0.8  # seconds to close the broker connection normally
KILLED = 0.25  # seconds until killed Consumers must be gone
FLUSH = 0.5  # seconds to write the last reports

_encoder = msgspec.msgpack.Encoder()
_orders = msgspec.msgpack.Decoder(Order)

log = logging.getLogger("mqworker.producer")


class Life:
    """See the module head. `up` and `down` are the descriptors of its pipes."""

    def __init__(self, name: str, spec: StageSpec, desired: Desired, down: int, up: int) -> None:
        self._name = name
        self._spec = spec
        self._desired = desired
        self._down = down
        self._up = up

    async def live(self) -> None:
        """Run the stage until it has ended."""
        loop = asyncio.get_running_loop()
        self._writer = FrameWriter(self._up)
        self._news: asyncio.TimerHandle | None = None
        self._reported = -math.inf  # on the loop's clock
        self._ending: asyncio.Task[None] | None = None
        self._until = math.inf  # CLOCK_MONOTONIC: when work in hand is given back
        self._exit_at: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()
        self._not_forwarded = 0  # log events that were dropped and not reported yet
        logs.use(logs.ForwardingHandler(self._forward, self._name, self._spec.stage), self._desired.log_level)
        self._stage = Stage(self._spec, self._desired, self._forward, self._changed)
        self._timers = Timers(self._stage)
        dispatch = self._stage.dispatch
        self._stacks = Stacks(dispatch.fleet.roster, dispatch.lane_labels, self._answer)
        self._reader = FrameReader(self._down, self._on_order, self._on_service_gone)
        loop.add_signal_handler(signal.SIGTERM, lambda: self._drain(time.monotonic() + self._spec.drain_deadline))
        self._stage.start()
        self._repeat("tick", self._timers.tick)
        self._repeat("pulse", self._pulse)
        await self._over.wait()
        await self._writer.flush(FLUSH)

    def _repeat(self, name: str, work: Callable[[], float]) -> None:
        """Call `work` again and again, each time after the seconds that it returned; an error in it ends this process.

        Otherwise limits, reports or dispatch could end unnoticed. No message is to blame for such an end.
        """
        try:
            seconds = work()
        except Exception:
            log.exception("the Producer's %s failed: it ends and is started again", name, extra={"event": "failed"})
            self._stage.register.end_life()
            self._failing = asyncio.create_task(self._fail())
            return
        asyncio.get_running_loop().call_later(seconds, self._repeat, name, work)

    async def _fail(self) -> None:
        await self._writer.flush(FLUSH)
        os._exit(Exit.INTERNAL)

    # --- what it receives

    def _on_order(self, payload: bytes) -> None:
        order = _orders.decode(payload)
        match order:
            case Desired():
                self._stage.want(order)
                self._changed()
            case Drain():
                self._drain(order.until)
            case AskHeld():
                self._writer.send(_encoder.encode(answer(self._stage, order)))
            case AskMessage():
                self._answer(inspect_message.answer(self._stage, order))
            case AskStack():
                self._stacks.ask(order)
            case AskReplace():
                replace(self._stage.dispatch.fleet, self._stacks, order, self._answer)
            case DumpStacks():
                faulthandler.dump_traceback(file=2, all_threads=True)
                for lane in self._stage.dispatch.fleet.roster.lanes.values():
                    lane.ask_stack()

    def _answer(self, answer: InspectionAnswer) -> None:
        self._writer.send(_encoder.encode(answer))

    def _on_service_gone(self, _reason: str) -> None:
        os._exit(1)

    # --- what it sends

    def _forward(self, event: LogEvent) -> None:
        if not self._writer.send(_encoder.encode(event), droppable=True):
            self._not_forwarded += 1

    def _report_dropped(self) -> None:
        """Log how many log events were dropped; if that is dropped too, it counts, and is logged later."""
        count, self._not_forwarded = self._not_forwarded, 0
        if count:
            message = f"{count} log events of this stage were dropped: the Service took them too slowly"
            logs.report(log, logging.WARNING, "logs_dropped", message)
            self._not_forwarded += count if self._not_forwarded else 0

    def _changed(self) -> None:
        if self._news is None:
            loop = asyncio.get_running_loop()
            self._news = loop.call_at(max(loop.time(), self._reported + NEWS), self._report)

    def _report(self) -> None:
        self._news = None
        self._reported = asyncio.get_running_loop().time()
        self._writer.send(_encoder.encode(stage_status(self._stage, self._timers)))

    def _pulse(self) -> float:
        self._report()
        self._report_faults()
        self._report_dropped()
        return PULSE

    def _report_faults(self) -> None:
        """Report which failures have been counted since the last time."""
        faults = self._stage.settlement.faults
        if (changed := faults.news()) is not None:
            self._writer.send(_encoder.encode(FaultReport(os.getpid(), changed, faults.other)))

    # --- the stop ladder: quiet, drain, give back, kill

    def _drain(self, until: float) -> None:
        """Begin to drain; a later order can only shorten the time."""
        self._stage.register.end_life()  # however this ends, no message in hand from now on is to blame
        if until >= self._until:
            return
        self._until = until
        loop = asyncio.get_running_loop()
        if self._exit_at is not None:
            self._exit_at.cancel()
        self._exit_at = loop.call_at(StopBudget(until).producer, self._give_up)
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        stage = self._stage
        ledger, fleet = stage.ledger, stage.dispatch.fleet
        patience = max(0.0, self._until - time.monotonic())
        in_hand = len(ledger.assignments)
        logs.report(log, logging.INFO, "draining", f"draining: {in_hand} in hand, at most {patience:.3g} s")
        stage.quiet()
        self._changed()
        while (len(ledger.assignments) or len(ledger.publications)) and time.monotonic() < self._until:
            stage.intake.give_back_held()  # messages that a dying Consumer left
            await asyncio.sleep(0.01)
        drained, unfinished = time.monotonic(), len(ledger)
        if stage.ordering is not None:  # what nobody has begun goes back with the connection, in its place
            unfinished = len(ledger.assignments) + len(ledger.publications)
        if unfinished:
            fleet.kill_all("the drain deadline has passed")
        given_back = unfinished + ledger.publications.computed  # the computed ones: their turn did not come
        stage.settlement.send_acks(drained + GAP_WAIT)  # also those that would wait behind a gap
        closing = asyncio.create_task(stage.link.close(CLOSE_DEADLINE))
        await self._emptied(lambda: StopBudget(self._until).consumers(drained))
        fleet.kill_all("it did not end in time")
        await asyncio.wait([closing], timeout=CLOSE_DEADLINE)
        killed = time.monotonic()
        await self._emptied(lambda: killed + KILLED)
        level = logging.WARNING if given_back else logging.INFO
        logs.report(log, level, "ended", f"ended; {given_back} unfinished messages went back to the broker")
        self._report()
        self._report_faults()
        self._writer.send(_encoder.encode(Ended(given_back)))
        self._over.set()

    def _give_up(self) -> None:
        """Exit although `_end` still waits: the connections and the Consumers end with the process."""
        os._exit(Exit.GIVEN_BACK)

    async def _emptied(self, end: Callable[[], float]) -> None:
        while self._stage.dispatch.fleet.roster.lanes and time.monotonic() < end():  # noqa: ASYNC110 - runs once, at the end
            await asyncio.sleep(0.005)
