"""What a source reports about itself.

Lives on the loop of the source's process. Reads the pump and the handover; keeps the counts of the last seconds.
"""

import os
import time
from collections import deque

from mqworker.ipc.source_messages import SourceSpec, SourceState, SourceStatus
from mqworker.sources.ahead import MOST
from mqworker.sources.handover import Handover
from mqworker.sources.pump import Pump

SLOW = 5.0  # seconds for one item, after which the status reports it
RATE_OVER = 5  # pulses


class Statuses:
    """See the module head."""

    def __init__(self, spec: SourceSpec, pump: Pump, handover: Handover) -> None:
        self.stall = 0.0  # the longest time for which the loop was blocked
        self._spec = spec
        self._pump = pump
        self._handover = handover
        self._counts: deque[tuple[float, int]] = deque(maxlen=RATE_OVER + 1)  # time, items confirmed

    def pulse(self, now: float, late: float) -> None:
        """Note by how much this pulse is late; called once a second."""
        self.stall = max(self.stall, late)
        self._counts.append((now, self._pump.confirmed_count))

    def status(self, *, ending: bool) -> SourceStatus:
        """Return the state of the source."""
        state, reason = self._state(ending=ending)
        pump, handover = self._pump, self._handover
        return SourceStatus(
            pid=os.getpid(),
            state=state,
            reason=reason,
            position=pump.position,
            items=pump.confirmed_count,
            unconfirmed=pump.sent - pump.confirmed_count,
            rate=self._rate(),
            last_item=pump.last_item,
            depth=pump.credit.depth,
            due=handover.due,
            last_tick=handover.last_tick,
            missed=handover.missed,
            ticks=handover.ticks,
            progress=pump.records_stored + handover.ticks + handover.runs,
            since=handover.began,
            stall=round(self.stall, 3),
        )

    def _rate(self) -> float:
        if len(self._counts) < 2:
            return 0.0
        (began, first), (now, last) = self._counts[0], self._counts[-1]
        return (last - first) / (now - began)

    def _state(self, *, ending: bool) -> tuple[SourceState, str]:
        pump, doing, seconds = self._pump, self._handover.doing, time.monotonic() - self._handover.since
        if ending:
            return "ending", ""
        if not pump.is_open:
            return ("standby" if pump.standby else "connecting"), pump.reason
        if pump.blocked_for:
            return "blocked", pump.blocked_for
        if doing == "waiting":
            return "waiting", ""
        if pump.held_back:
            return "held back", pump.full()
        return "running", self._slowness(doing, seconds)

    def _slowness(self, doing: str, seconds: float) -> str:
        """Return what is taking long; "" for nothing."""
        if seconds < SLOW:
            return ""
        if doing == "working":
            return f"waits for its {'function' if self._spec.config.scheduled else 'generator'} for {seconds:.0f} s"
        if doing != "waiting for room":
            return ""
        if self._pump.sent - self._pump.confirmed_count >= MOST or not self._pump.ahead.all_stored:
            return f"the broker has not confirmed what was published for {seconds:.0f} s"
        return f"how much queue {self._spec.stage.input.queue} holds is not known for {seconds:.0f} s"
