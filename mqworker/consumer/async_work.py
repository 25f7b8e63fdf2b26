"""Like `work`, for chains with `async def` jobs: turns one delivery into one outcome, on a loop.

Runs in the task of its message, in the main thread of a Consumer.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from mqworker.amqp.properties import Properties
from mqworker.consumer.work import Worker
from mqworker.errors import HardTimeLimit, SoftTimeLimit
from mqworker.ipc.consumer_messages import Item, Outcome
from mqworker.jobs.async_chain import AsyncRun, AsyncSeveral


class TaskLimits(Protocol):
    """The time limits of the message that a task works on, and the thread beside the loop that belongs to it."""

    def passed(self) -> SoftTimeLimit | HardTimeLimit | None:
        """Return the limit because of which the task was cancelled; None if it was no limit."""

    def raise_missed(self) -> None:
        """Raise the limit that passed while a plain function ran, because nothing interrupts that."""

    async def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a plain function in the thread that belongs to the message."""


class AsyncWorker(Worker):
    """See the module head."""

    async def compute_async(self, item: Item, limits: TaskLimits) -> Outcome:
        """Like `compute`, for a chain with `async def` jobs."""
        began = time.monotonic()
        self.failed = False
        try:
            properties = Properties.decode(item.properties)
            value = await self._run_async(item, properties, began, limits)
            duration = time.monotonic() - began
            return self._outcome(item, properties, value, duration)
        except BaseException as error:  # noqa: BLE001 - as in `work`, and a task ends with an outcome
            failure = self._failure(error)
        return Outcome(item.seq, time.monotonic() - began, self.generation, failure=failure)

    async def _run_async(self, item: Item, properties: Properties, began: float, limits: TaskLimits) -> Any:
        body, message = self._open(item, properties)
        deadline = self._deadline(began) if self._chain.takes_deadline else None
        if self._shared is not None:
            await limits.aside(self._shared.begin, item, properties)
        try:
            value = await AsyncRun(self._chain, message, deadline, limits.aside, limits.raise_missed).run(body)
            if type(value) is AsyncSeveral:
                value = await self._messages.encode_all_async(value)
        except asyncio.CancelledError:
            if (passed := limits.passed()) is None:
                raise
            raise passed from None
        finally:
            if self._shared is not None:
                await limits.aside(self._shared.end)
        if isinstance(passed := limits.passed(), HardTimeLimit):
            raise passed
        return value
