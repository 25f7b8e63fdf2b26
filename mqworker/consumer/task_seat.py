"""One seat of a Consumer whose loop works on several messages: the task of the message in it, and what the task needs.

Runs on the loop; a part of TaskSeats. Owns a Desk and, if anything in the chain is not `async def`, a companion thread.
Reports the outcome of its message, whatever happens to the task.
"""

import asyncio
import contextvars
import functools
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

from mqworker.consumer import await_stack
from mqworker.consumer.async_work import AsyncWorker
from mqworker.consumer.companion import Companion
from mqworker.consumer.deadlines import HARD
from mqworker.consumer.desk import Desk, Maker
from mqworker.consumer.fatal import fatal
from mqworker.consumer.loop_limits import LoopLimits
from mqworker.consumer.register import Seats
from mqworker.consumer.seats import Finished, SeatedMessage, current
from mqworker.consumer.steps import Steps
from mqworker.errors import HardTimeLimit, SoftTimeLimit


class TaskSeat:
    """See the module head; implements async_work.TaskLimits."""

    def __init__(
        self, number: int, maker: Maker, words: Seats, limits: LoopLimits, finished: Callable[[Finished], None]
    ) -> None:
        self.number = number
        self.task: asyncio.Task[tuple[bytes, list[bytes]]] | None = None
        self._maker = maker
        self._words = words
        self._limits = limits
        self._finished = finished
        self._work: SeatedMessage | None = None
        self._missed = False  # a limit has passed, but nothing was cancelled because of it
        self._companion: Companion | None = None
        self._desk: Desk | None = None

    async def set_up(self) -> None:
        """Make the desk in the thread that it belongs to."""
        if not self._maker.has_plain_work:
            self._desk = self._make()
            return
        self._companion = Companion(self.number)
        self._words.slots[self.number].thread = self._companion.ident
        self._desk = await self._companion.ask(self._make)

    def _make(self) -> Desk:
        slot = self._words.slots[self.number]
        return Desk(self._maker, slot, AsyncWorker, self.call, self._limits.waits(self.number))

    async def tear_down(self) -> None:
        """Tear the desk down in that thread."""
        try:
            if self._desk is not None:
                await self.aside(self._desk.chain.teardown)
        finally:
            if self._companion is not None:
                self._companion.end()

    @property
    def name(self) -> str:
        """The name of the message in the log."""
        return str(self._work.labels["message_id"]) if self._work is not None else ""

    def begin(self, work: SeatedMessage, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a message."""
        self._work = work
        self._missed = False
        context = contextvars.copy_context()
        context.run(current.set, work)
        steps = Steps(self._compute(work), work.item.seq, self._limits.hold)
        self.task = asyncio.Task(steps, loop=loop, context=context, name=f"message-{work.item.seq}")
        self.task.add_done_callback(functools.partial(self._end, work))

    @property
    def _worker(self) -> AsyncWorker:
        assert self._desk is not None, "it is set up"
        assert isinstance(self._desk.worker, AsyncWorker)
        return self._desk.worker

    async def _compute(self, work: SeatedMessage) -> tuple[bytes, list[bytes]]:
        worker, desk = self._worker, self._desk
        assert desk is not None
        if (refused := desk.use(work)) is not None:
            outcome = worker.refuse(work.item, refused)
        else:
            outcome = await worker.compute_async(work.item, self)
        return worker.encode(work.item, outcome)

    @fatal
    def _end(self, work: SeatedMessage, task: "asyncio.Task[tuple[bytes, list[bytes]]]") -> None:
        """Report the outcome."""
        worker = self._worker
        if task.cancelled():  # by another message's handler, before it began
            error = RuntimeError("its task was cancelled by another one before it began")
            encoded, large = worker.encode(work.item, worker.refuse(work.item, error))
        elif (failure := task.exception()) is not None:  # user code has damaged our state, perhaps for this message
            traceback.print_exception(failure)
            self._words.run(work.item.seq, time.monotonic())  # so that it is charged
            os._exit(1)
        else:
            encoded, large = task.result()
        self._limits.end(work)
        out_of_memory, worker.out_of_memory = worker.out_of_memory, False
        self._work = self.task = None
        self._finished(Finished(work, encoded, large, out_of_memory))

    def cancel(self) -> None:
        """Cancel the message in hand, because a limit has passed."""
        if self.task is not None:
            self.task.cancel()

    def where(self) -> str:
        """Return where in the code the waiting message is."""
        task = self.task
        if task is None:
            return ""
        return await_stack.text(await_stack.frames(task.get_coro()))

    # --- TaskLimits

    def passed(self) -> SoftTimeLimit | HardTimeLimit | None:
        """Return the limit that has passed."""
        passed, work = self._limits.passed(self.number), self._work
        if not passed or work is None:
            return None
        if passed == HARD:
            return HardTimeLimit(f"the hard time limit of {work.setting.hard:g} s has passed")
        return SoftTimeLimit(f"the soft time limit of {work.setting.soft:g} s has passed")

    def raise_missed(self) -> None:
        """Raise the limit that passed while a job ran in the companion: the next job would have no limit."""
        if self._missed and (passed := self.passed()) is not None:
            self._missed = False
            raise passed

    async def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a job in the companion; what it returns or raises counts, even if a limit has passed in the meantime."""
        return await self._ask(function, arguments, job=True)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a shared object in the companion, for an `async def` job that awaits the call."""
        if current.get() is not self._work:  # the seat belongs to another message, or to none
            raise RuntimeError("the message of this task has ended, so its call of a shared object has no message")
        return await self._ask(function, arguments, job=False)

    async def _ask(self, function: Callable[..., Any], arguments: tuple[Any, ...], *, job: bool) -> Any:
        """Wait until it returns, even if the wait is cancelled: nothing interrupts it, and the next call would wait."""
        if self._companion is None:
            return function(*arguments)
        asked = self._companion.ask(function, *arguments)
        cancelled: asyncio.CancelledError | None = None
        while not asked.done():
            try:
                await asyncio.wait((asked,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            self._missed = job and self.passed() is not None
            if not self._missed:
                asked.exception()  # so that asyncio does not report it as unretrieved
                raise cancelled
        return asked.result()
