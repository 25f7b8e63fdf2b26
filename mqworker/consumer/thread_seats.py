"""Several messages at once in threads, one for each seat; each works like a serial Consumer, except for the soft limit.

Runs in a Consumer whose jobs are plain functions. Each thread owns a Desk, made and torn down in it. Receives messages
from the pump, and reports each to it when it is finished. A thread cannot be interrupted, so the Producer kills the
Consumer of a message that exceeds the hard limit.
"""

import contextvars
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable

from mqworker.consumer.desk import OVER, Desk, Maker
from mqworker.consumer.pump import LanePump
from mqworker.consumer.register import Seats
from mqworker.consumer.seats import Finished, SeatedMessage, current


class ThreadSeats:
    """See the module head; implements pump.SeatCrew."""

    has_loop = False

    def __init__(self, maker: Maker, seats: Seats, finished: Callable[[Finished], None]) -> None:
        self.over = OVER if maker.has_programs else 0.0
        self._maker = maker
        self._finished = finished
        self._threads = [_SeatThread(self, number) for number in range(len(seats.slots))]
        self.words = seats

    def setup(self) -> None:
        """Set up what exists once for the process, then all threads at the same time; raises the first failure."""
        common = self._maker.common
        common.setup(own=False)
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.end()
            common.teardown()
            raise
        failures = [failure for thread in self._threads if (failure := thread.is_set_up()) is not None]
        if failures:
            self.end()
            common.teardown()
            raise failures[0]

    def work(self, pump: LanePump) -> None:
        """Work on messages until the sentinel comes."""
        pump.run(self)

    def begin(self, works: list[SeatedMessage]) -> None:
        """Begin these messages."""
        for work in works:
            self._threads[work.seat].works.put(work)

    def beat(self, now: float) -> None:
        """Write the pulse at once: if the pump can run, so can the threads."""
        self.words.pulse = now

    def where(self, work: SeatedMessage) -> str:
        """Return where in the code a message is."""
        frame = sys._current_frames().get(self._threads[work.seat].ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def where_loop(self) -> str:
        """Return "": there is no loop."""
        return ""

    def end(self) -> None:
        """Let every thread tear down what it has made, and end."""
        for thread in self._threads:
            thread.works.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def teardown(self) -> None:
        """Tear down what exists once for the process."""
        self._maker.common.teardown()

    def make_desk(self, number: int) -> Desk:
        """Return the desk of a seat, made in its thread."""
        slot = self.words.slots[number]
        slot.thread = threading.get_ident()
        return Desk(self._maker, slot)

    def report(self, finished: Finished) -> None:
        """Pass an outcome on to the pump."""
        self._finished(finished)


class _SeatThread(threading.Thread):
    def __init__(self, crew: ThreadSeats, number: int) -> None:
        super().__init__(name=f"seat-{number}", daemon=True)
        self.works: queue.SimpleQueue[SeatedMessage | None] = queue.SimpleQueue()
        self._crew = crew
        self._number = number
        self._ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def is_set_up(self) -> BaseException | None:
        """Wait until the thread is set up, and return the failure, if any."""
        return self._ready.get()

    def run(self) -> None:
        try:
            desk = self._crew.make_desk(self._number)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            self._ready.put(error)
            return
        self._ready.put(None)
        while (work := self.works.get()) is not None:
            try:
                contextvars.copy_context().run(self._work, desk, work)
            except BaseException:  # noqa: BLE001 - user code has damaged what is ours, perhaps for this message
                traceback.print_exc()
                os._exit(1)
            del work  # so that its body takes no memory during the wait
        try:
            desk.chain.teardown()
        except BaseException:  # noqa: BLE001 - like a serial Consumer, whose teardown fails at its end
            traceback.print_exc()

    def _work(self, desk: Desk, work: SeatedMessage) -> None:
        current.set(work)
        worker = desk.worker
        refused = desk.use(work)
        outcome = worker.compute(work.item) if refused is None else worker.refuse(work.item, refused)
        encoded, large = worker.encode(work.item, outcome)
        out_of_memory, worker.out_of_memory = worker.out_of_memory, False
        self._crew.report(Finished(work, encoded, large, out_of_memory))
