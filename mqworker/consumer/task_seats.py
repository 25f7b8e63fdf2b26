"""Several messages at once as tasks of one loop, for chains in which a job is `async def`.

Runs in the main thread of a Consumer. Owns the loop and the seats' tasks, each with a Desk, and for each seat a
companion thread if anything in the chain is not `async def`. Receives messages from the pump, and reports each to it
when it is finished. A task that exceeds a time limit is cancelled (loop_limits.py). If it does not end after that, or
does not release the loop, the Producer kills the Consumer.
"""

import asyncio
import contextlib
import faulthandler
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mqworker.consumer.desk import OVER, Maker
from mqworker.consumer.fatal import fatal
from mqworker.consumer.loop_limits import LoopLimits
from mqworker.consumer.pump import LanePump
from mqworker.consumer.register import Seats
from mqworker.consumer.seats import Finished, SeatedMessage
from mqworker.consumer.steps import task_factory
from mqworker.consumer.task_seat import TaskSeat

THREADS = 32  # for `asyncio.to_thread`, at least; each is started when needed
LEFT = 2.0  # seconds for tasks that handlers have left behind to end, when they are cancelled at the end


class TaskSeats:
    """See the module head; implements pump.SeatCrew."""

    has_loop = True
    over = OVER

    def __init__(self, maker: Maker, seats: Seats, finished: Callable[[Finished], None]) -> None:
        self._maker = maker
        self._words = seats
        self._loop = asyncio.new_event_loop()
        self._limits = LoopLimits(self._loop, seats, lambda seat: self._seats[seat].cancel())
        numbers = range(len(seats.slots))
        self._seats = [TaskSeat(number, maker, seats, self._limits, finished) for number in numbers]
        self._main = threading.get_ident()
        self._ending = False
        self._beats = True  # the loop has written the last requested pulse

    # --- its life, in the main thread

    def setup(self) -> None:
        """Set up what exists once for the process, on the loop, then every seat; raises the first failure."""
        asyncio.set_event_loop(self._loop)
        self._loop.set_task_factory(task_factory(self._limits.hold))
        # Python's default executor has few threads: messages that call `asyncio.to_thread` would wait for each other.
        threads = max(len(self._seats), THREADS)
        self._loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="asyncio"))
        self._loop.run_until_complete(self._set_up())

    async def _set_up(self) -> None:
        await self._maker.common.setup_common()
        made = await asyncio.gather(*(seat.set_up() for seat in self._seats), return_exceptions=True)
        failures = [each for each in made if isinstance(each, BaseException)]
        if failures:
            await self._tear_down()
            raise failures[0]

    def work(self, pump: LanePump) -> None:
        """Work on messages until the sentinel comes, whatever user code does to the loop."""
        if signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:  # otherwise user code has taken it
            self._show_on_signal()
        pumping = threading.Thread(target=pump.run, args=(self,), name="pump", daemon=True)
        pumping.start()
        while not self._ending:
            # user code may call `loop.stop()`; SystemExit and KeyboardInterrupt in a task are its message's failure
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()
        pumping.join()

    def _show_on_signal(self) -> None:
        """Let SIGUSR2 write all stacks at once, even while native code holds the interpreter, then the messages'."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        faulthandler.unregister(signal.SIGUSR2)  # registering it twice would leave only our handler
        signal.signal(signal.SIGUSR2, self._show)
        faulthandler.register(signal.SIGUSR2, file=2, all_threads=True, chain=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])

    def teardown(self) -> None:
        """Tear everything down, then cancel the tasks that are left.

        In this order, because a client that is to be closed gracefully has tasks of its own, some of which were started
        while a message ran: nothing distinguishes these from tasks that a handler has left behind.
        """
        loop = self._loop
        try:
            try:
                loop.run_until_complete(self._tear_down())
            finally:
                loop.run_until_complete(self._cancel_left())
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    async def _cancel_left(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LEFT)

    async def _tear_down(self) -> None:
        """Tear down the seats, then what exists once for the process; raises the first failure."""
        made = await asyncio.gather(*(seat.tear_down() for seat in self._seats), return_exceptions=True)
        failures = [each for each in made if isinstance(each, BaseException)]
        await self._maker.common.teardown_async()
        if failures:
            raise failures[0]

    # --- called by the pump

    def begin(self, works: list[SeatedMessage]) -> None:
        """Begin these messages as soon as the loop gets to it."""
        self._loop.call_soon_threadsafe(self._begin, works)

    def beat(self, now: float) -> None:  # noqa: ARG002 - the loop writes the time at which it gets to it
        """Let the loop write the pulse as soon as it gets to it."""
        if self._beats:  # one waiting request is enough, however long the loop is held
            self._beats = False
            self._loop.call_soon_threadsafe(self._beat)

    def where(self, work: SeatedMessage) -> str:
        """Return where in the code a message is: if it has the loop, where the loop is."""
        return self.where_loop() if self._words.running == work.item.seq else self._seats[work.seat].where()

    def where_loop(self) -> str:
        """Return where in the code the loop is."""
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def end(self) -> None:
        """Stop working."""
        self._loop.call_soon_threadsafe(self._end)

    # --- on the loop

    def _end(self) -> None:
        self._ending = True
        self._loop.stop()

    @fatal
    def _beat(self) -> None:
        self._words.pulse = time.monotonic()
        self._beats = True

    @fatal
    def _begin(self, works: list[SeatedMessage]) -> None:
        now = time.monotonic()
        for work in works:
            self._limits.begin(work, now)
            self._seats[work.seat].begin(work, self._loop)
        self._limits.watch(now)

    # --- SIGUSR2

    def _show(self, _signal: int, _frame: object) -> None:
        """Write where every message is, the oldest last, because the end of long output is kept."""
        now = time.monotonic()
        with contextlib.suppress(Exception):  # it would be raised in whichever message has the loop
            ages = ((now - self._words.slots[seat.number].started, seat) for seat in self._seats)
            for seconds, seat in sorted(ages, key=lambda each: each[0]):
                if seat.task is not None and not seat.task.done():
                    sys.stderr.write(f"message {seat.name}, {seconds:.1f} s:\n{seat.where()}\n")
