"""The thread beside the loop that belongs to one seat: it calls what is not `async def`, one call at a time.

Owned by a seat of a Consumer whose loop works on several messages. Plain jobs, programs and the calls of shared objects
run here, in the caller's context.
"""

import asyncio
import contextvars
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from mqworker.consumer.fatal import fatal

Call = tuple["asyncio.Future[Any]", contextvars.Context, Callable[..., Any], tuple[Any, ...]]


class Companion:
    """See the module head; made on the loop."""

    def __init__(self, number: int) -> None:
        """Start the thread; raises RuntimeError if it cannot be started."""
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"seat-{number}", daemon=True)
        self._thread.start()

    @property
    def ident(self) -> int:
        """Return the thread's id, as from `threading.get_ident`."""
        return self._thread.ident or 0

    def ask(self, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        """Have a function called in the thread; the future gets what it returns or raises."""
        future = self._loop.create_future()
        self._calls.put((future, contextvars.copy_context(), function, arguments))
        return future

    def end(self) -> None:
        """Let the thread end once it has made all calls."""
        self._calls.put(None)
        self._thread.join()

    @fatal
    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, context, function, arguments = call
            value: Any = None
            failure: BaseException | None = None
            try:
                value = context.run(function, *arguments)
            except StopIteration as error:
                failure = RuntimeError(f"it raised StopIteration ({error})")  # a future cannot hold one
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                failure = error
            if os.getpid() != self._pid:
                os._exit(0)  # a copy that the function forked
            self._loop.call_soon_threadsafe(_finish, future, value, failure)
            del call, future, context, function, arguments, value, failure  # so that they take no memory while it waits


@fatal
def _finish(future: "asyncio.Future[Any]", value: Any, failure: BaseException | None) -> None:
    if future.done():
        return  # the caller is gone
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(value)
