"""Moves a source's items from the handover to the broker, as far as the queue and the stored position allow.

Lives on the loop of the source's process. Owns the Outlet and receives its events. Decides with credit.py and ahead.py
how many items may be pulled, and passes that to the handover; asks the broker how much the queue holds. Without
answers, or while the broker stores nothing, no more items are pulled. `changed` is called when there is something new
to report, `lost` once with the reason when the Outlet is lost.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable

import msgspec

from mqworker.brokers import open_outlet
from mqworker.brokers.credit import Credit, Sent
from mqworker.brokers.outlet import Inlet
from mqworker.brokers.records import PositionRecord
from mqworker.config.model import StageConfig
from mqworker.ipc import logs
from mqworker.ipc.source_messages import SourceSpec
from mqworker.sources.ahead import Ahead
from mqworker.sources.handover import Handover

SHOWN = 200  # characters of a position

_to_json = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(PositionRecord).decode

log = logging.getLogger("mqworker.sources")


def inlet(stage: StageConfig, name: str) -> Inlet:
    """Return what the source with this name needs on the broker."""
    where = (stage.input.queue, stage.position_queue(name), stage.source_lock(name))
    return Inlet(*where, stage.queue_type, stage.ordered_by is not None)


class Pump:
    """See the module head; made on the running loop."""

    def __init__(
        self, spec: SourceSpec, handover: Handover, changed: Callable[[], None], lost: Callable[[str], None]
    ) -> None:
        self.ahead = Ahead()
        self.credit = Credit(spec.config.max_backlog, spec.sharing)
        self.sent = self.confirmed_count = self.records_stored = 0
        self.last_item = 0.0  # CLOCK_MONOTONIC
        self.position: str | None = None  # as stored, for display
        self.is_open = self.standby = self.held_back = False
        self.reason = "its code is being loaded"  # why it is not open
        self.blocked_for = ""  # why the broker stores nothing
        self._lost = lost
        self._spec = spec
        self._handover = handover
        self._changed = changed
        self._records = 0
        self._positions: deque[tuple[int, bytes]] = deque()  # records that are not stored yet
        self._timer: asyncio.TimerHandle | None = None
        name = f"{spec.service} source {spec.name}"
        self._outlet = open_outlet(spec.broker, inlet(spec.stage, spec.name), self, name)

    def start(self) -> None:
        """Begin to connect."""
        self.waits("connecting", standby=False)
        self._outlet.start()

    @property
    def settled(self) -> bool:
        """Whether nothing is on its way."""
        return not self.is_open or (self.confirmed_count == self.sent and self.ahead.all_stored)

    async def close(self, seconds: float) -> None:
        """Release the lock, and ask the broker nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        await self._outlet.close(seconds)

    def take(self) -> None:
        """Publish what has been handed over."""
        for publication, record in self._handover.take():
            if record is not None:
                self._records += 1
                if publication is None and self._positions:
                    self._positions.pop()  # this record replaces it, unless it is being stored already
                self._positions.append((self._records, record))
            if publication is not None:
                self.sent += 1
            self.ahead.sent(self.sent, self._records if record is not None else None)
            if publication is not None:
                self._outlet.send(publication, record)
            elif record is not None:
                self._outlet.store(record)
        if not self.credit.room(self._flow(self._handover.pulled)):
            self._look()

    def full(self) -> str:
        """Return in words how full the queue is."""
        depth = "?" if self.credit.depth is None else f"{self.credit.depth:,}"
        queue, mark = self._spec.stage.input.queue, self._spec.config.max_backlog
        return f"queue {queue} holds {depth} messages (max_backlog {mark:,})"

    # --- what the Outlet calls

    def waits(self, reason: str, *, standby: bool) -> None:
        """Receive the reason why it is not open yet."""
        if standby and not self.standby:
            logs.report(log, logging.INFO, "source_standby", f"source {self._spec.name} stands by: {reason}")
        if (reason, standby) != (self.reason, self.standby):
            self.reason, self.standby = reason, standby
            self._changed()

    def opened(self, record: PositionRecord | None) -> None:
        """Let the user's code begin."""
        self.is_open, self.standby, self.reason = True, False, ""
        where = "begins: no position is stored"
        if record is not None:
            self.position = _shown(record)
            where = "goes on" if self.position is None else f"goes on after {self.position}"
            if record.job != self._spec.job:
                what = f"source {self._spec.name}: its position comes from {record.job}, and now it is {self._spec.job}"
                logs.report(log, logging.WARNING, "source_job", what)
        what = f"source {self._spec.name} {where}"
        logs.report(log, logging.INFO, "source_started", what, position=self.position)
        self._handover.open(record)
        self._look()
        self._changed()

    def blocked(self, reason: str) -> None:
        """Receive the reason why the broker stores nothing now."""
        self.blocked_for = reason
        self._changed()

    def confirmed(self, number: int) -> None:
        """Let more items be pulled."""
        self.confirmed_count, self.last_item = number, time.monotonic()
        self.ahead.confirmed(number)
        self._handover.confirmed(number)
        self._allow()

    def stored(self, number: int) -> None:
        """Note that the records up to this one are stored."""
        record = b""
        while self._positions and self._positions[0][0] <= number:
            _, record = self._positions.popleft()
        if record:
            self.position = _shown(_record(record))
        self.records_stored = number
        self.ahead.stored(number)
        self._allow()

    def depth(self, messages: int) -> None:
        """Take the number of messages in the queue."""
        chance = random.random()  # noqa: S311 - jitter, no secret
        self.credit.answered(messages, self._flow(self._handover.pulled), time.monotonic(), chance)
        self._allow()
        self._look()

    def lost(self, reason: str) -> None:
        """End: the lock is gone."""
        self._lost(reason)

    # --- inside

    def _flow(self, pulled: int) -> Sent:
        return Sent(self.sent, self.sent - self.confirmed_count, pulled - self.sent)

    def _allow(self) -> None:
        self._handover.allow(lambda pulled: min(pulled + self.credit.room(self._flow(pulled)), self.ahead.limit))

    def _look(self) -> None:
        """Ask how much the queue holds, if it is time to, and schedule the next call."""
        if self._timer is not None:
            self._timer.cancel()
        now, flow = time.monotonic(), self._flow(self._handover.pulled)
        if self.credit.must_ask(flow, now):
            self._outlet.ask_depth()
        held_back = self.credit.held_back(now)
        if held_back != self.held_back:
            self.held_back = held_back
            event, word = ("held_back", "is") if held_back else ("not_held_back", "is no longer")
            what = f"source {self._spec.name} {word} held back: {self.full()}"
            logs.report(log, logging.INFO, event, what, depth=self.credit.depth)
            self._changed()
        later = max(0.001, self.credit.due(flow) - now)
        self._timer = asyncio.get_running_loop().call_later(later, self._look)


def _shown(record: PositionRecord) -> str | None:
    """Return a position for display."""
    if record.position is msgspec.UNSET:
        return None
    text = _to_json(record.position).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
