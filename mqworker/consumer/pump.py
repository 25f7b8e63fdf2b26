"""The pump of a Consumer that works on several messages at once: takes chunks from the lane, and sends outcomes up.

Runs in a thread of its own, beside a loop that may be blocked; if messages run in threads, in the main thread. Only the
pump reads the lane, and only the pump sends outcomes and the pieces of large results. Owns the seats (SeatTable) and
writes the Consumer's words in the in-hand register. Gives messages to a SeatCrew, which works on them and reports each
to `finished`, from any thread. When the pump cannot go on, the process ends: every message in hand runs again.

The pump also finds out what a blocked loop cannot report: what holds it, and where a message is whose time is up.
"""

import collections
import logging
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec

from mqworker.amqp.fingerprint import fingerprint
from mqworker.consumer.hatch import Hatch
from mqworker.consumer.lane_end import LaneEnd
from mqworker.consumer.loop_watch import NOBODY, LoopWatch
from mqworker.consumer.register import Seats
from mqworker.consumer.seats import Finished, SeatedMessage, SeatTable, Setting, current
from mqworker.ipc import logs
from mqworker.ipc.consumer_messages import Chunk, Outcome, Outcomes, Stack, Uplink
from mqworker.ipc.generation import Generation
from mqworker.ipc.pipes import capacity
from mqworker.ipc.proc import rss
from mqworker.ipc.stage_spec import StageSpec

PULSE = 0.25  # seconds between two checks, while anything is in hand
GAP = 1.0  # seconds by which a check may be late before the process is taken to have stood still
FRAME = 1 << 22  # bytes of outcomes in a frame
MEASURE = 0.1  # seconds between two measurements of memory use

log = logging.getLogger("mqworker.consumer.pump")


class SeatCrew(Protocol):
    """Works on messages; called by the pump."""

    over: float  # seconds after the hard limit in which the crew may end a message itself
    has_loop: bool  # it has a loop, and itself accounts for the time in which that stood still

    def begin(self, works: list[SeatedMessage]) -> None:
        """Begin these messages."""

    def beat(self, now: float) -> None:
        """Write the pulse as soon as whatever works on messages makes progress."""

    def where(self, work: SeatedMessage) -> str:
        """Return where in the code a message is."""

    def where_loop(self) -> str:
        """Return where in the code the loop is; "" if there is none."""

    def end(self) -> None:
        """Stop working: nothing is in hand, and nothing more will come."""


class LanePump:
    """See the module head."""

    def __init__(
        self, spec: StageSpec, born: Generation, lane: LaneEnd, hatch: Hatch, up: int, seats: Seats,
        send: Callable[[Uplink], None],
    ) -> None:  # fmt: skip
        """`born`: the generation that the Consumer was set up with. `up` is the pipe that `send` writes to."""
        self._crew: SeatCrew
        self._lane = lane
        self._hatch = hatch
        self._up = up
        self._holds = capacity(up)
        self._seats = seats
        self._send = send
        self._table = SeatTable(len(seats.slots), spec.config)
        self._setting = Setting(born.number, born.params, 0.0, 0.0)
        self._level = 0
        self._finished: collections.deque[Finished] = collections.deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch = LoopWatch()
        self._rss, self._measured = 0, 0.0
        self._leaving = ""
        self._pid = os.getpid()

    # --- called by the crew, from any thread

    def finished(self, finished: Finished) -> None:
        """Have an outcome sent up soon."""
        if os.getpid() != self._pid:
            os._exit(0)  # a copy that user code has forked
        self._finished.append(finished)
        os.eventfd_write(self._wake, 1)

    # --- its own thread

    def run(self, crew: SeatCrew) -> None:
        """Pump until the sentinel comes."""
        self._crew = crew
        try:
            self._run()
        except BaseException:  # noqa: BLE001 - without the pump nothing goes on
            traceback.print_exc()
            os._exit(1)
        crew.end()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._lane.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        table, before = self._table, 0.0
        while True:
            ready = [fd for fd, _ in poll.poll(PULSE * 1000 if table.in_hand else None)]
            if table.in_hand:
                now = time.monotonic()
                if before and now - before > PULSE + GAP:
                    self._stood_still(now - before)
                before = now
                self._crew.beat(now)
            if self._wake in ready:
                os.eventfd_read(self._wake)
            taken = 0
            back: tuple[int, ...] = ()
            if len(ready) > (self._wake in ready):
                chunk = self._lane.wait()
                if chunk is None:
                    return
                taken, back = chunk.number, self._take(chunk)
            self._write(taken, back)
            if table.in_hand:
                self._look(time.monotonic())
            else:
                before = 0.0

    def _take(self, chunk: Chunk) -> tuple[int, ...]:
        """Begin the messages of a chunk, or none if it was stopped; returns those that are given back in that case."""
        seats, now = self._seats, time.monotonic()
        setting = self._setting
        params = setting.params if chunk.params is None else chunk.params
        wanted = Setting(chunk.generation, params, chunk.soft_limit, chunk.hard_limit)
        if wanted != setting:
            self._setting = setting = wanted
        if chunk.log_level != self._level:
            self._level = chunk.log_level
            logs.set_level(self._level)
        if not self._table.in_hand:  # it was not written while there was nothing to do
            seats.pulse = now
        works = self._table.take(chunk.items, setting, self._lane.lost)
        for work in works:
            item = work.item
            seats.slots[work.seat].begin(item.seq, item.fingerprint or fingerprint(item.properties, item.body), now)
        if seats.stop >= chunk.number:  # after begin: otherwise these messages could be dispatched elsewhere too
            for work in works:
                seats.slots[work.seat].end()
                self._table.leave(work)
            return tuple(work.item.seq for work in works)
        for work in works if self._level <= logging.DEBUG else ():
            with _about(work):
                logs.report(log, logging.DEBUG, "begun", "started")
        self._crew.begin(works)
        return ()

    def _write(self, taken: int, back: tuple[int, ...]) -> None:
        """Send all outcomes that are ready, and report the chunk that was taken."""
        finished: list[Finished] = []
        size = 0
        while self._finished:
            finished.append(self._finished.popleft())
            size += len(finished[-1].outcome)
            if finished[-1].large or size > FRAME:
                self._frame(finished)
                finished, size = [], 0
        if finished or taken:
            self._frame(finished, taken, back)

    def _frame(self, finished: list[Finished], taken: int = 0, back: tuple[int, ...] = ()) -> None:
        if capacity(self._up) != self._holds:
            os._exit(1)  # user code has closed the pipe
        if finished and finished[-1].large:  # before its outcome, and after all others
            if finished[:-1]:
                self._frame(finished[:-1])
            del finished[:-1]
            for body in finished[-1].large:
                for piece in self._hatch.put(body):
                    self._send(piece)
                    self._crew.beat(time.monotonic())
        now = time.monotonic()
        if now - self._measured > MEASURE:
            self._measured, self._rss = now, rss(self._pid)
        for each in finished:
            self._leaving = self._table.written(each, self._rss)
        outcomes: list[Outcome] = [msgspec.Raw(each.outcome) for each in finished]  # type: ignore[misc]  # encoded
        self._send(Outcomes(outcomes, self._setting.generation, taken, rss=self._rss, leaving=self._leaving, back=back))
        for each in finished:
            self._seats.slots[each.work.seat].end()
        if self._table.in_hand:
            self._crew.beat(time.monotonic())

    # --- what the crew cannot say

    def _look(self, now: float) -> None:
        seats, over = self._seats, self._crew.over
        seq, since = seats.running, seats.running_since
        if not seq and self._crew.has_loop:
            seq, since = NOBODY, max(since, seats.pulse)
        if seats.running == max(seq, 0) and self._watch.is_due(seq, since, now):
            self._blocked(seq, now - since, now)
        for work in list(self._table.in_hand.values()):
            if work.setting.hard and not work.reported:
                started = seats.slots[work.seat].started
                if started and now - started > work.setting.hard + over:
                    work.reported = True
                    self._send(Stack(work.item.seq, self._where(work)))

    def _blocked(self, seq: int, seconds: float, now: float) -> None:
        work = self._table.in_hand.get(seq)
        where = self._where(work)
        place = _place(where)
        held_back = self._watch.count(place, now)
        if held_back is None:
            return
        others = len(self._table.in_hand) - (work is not None)
        who = "a task that a finished message has left behind" if seq > 0 else "a callback, or a task of no message,"
        who = who if work is None else "this message"
        what = f"{who} has held the loop for {seconds:.1f} s, so {others} others stand still: {place}"
        more = f" ({held_back} more times since this was last logged)" if held_back else ""
        with _about(work):
            logs.report(log, logging.WARNING, "loop_blocked", what + more, traceback=where)

    def _where(self, work: SeatedMessage | None) -> str:
        """Return where a message is, or the loop if there is no message; "" if that is unknown."""
        try:
            return self._crew.where_loop() if work is None else self._crew.where(work)
        except Exception:  # noqa: BLE001 - it examines objects of user code while they change
            return ""

    def _stood_still(self, seconds: float) -> None:
        """Count the time in which not even this thread ran against no message."""
        if self._crew.has_loop:
            return
        for slot in self._seats.slots:
            if slot.seq and (started := slot.started):
                slot.go_on(started + seconds)


@contextmanager
def _about(work: SeatedMessage | None) -> Iterator[None]:
    """Log as if from a message."""
    token = current.set(work)
    try:
        yield
    finally:
        current.reset(token)


def _place(where: str) -> str:
    """Return the innermost place in the user's code, as far as that is known."""
    lines = [line.strip() for line in where.splitlines() if line.startswith('  File "')]
    ours = ("<frozen", f'File "{sys.prefix}', f'File "{sys.base_prefix}', "site-packages", "/mqworker/consumer/")
    mine = [line for line in lines if not any(each in line for each in ours)]
    return (mine or lines or ["it is not known where"])[-1]
