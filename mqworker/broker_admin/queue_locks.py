"""One look at a queue at a time.

Runs in the broker admin, on its loop. A look at a queue of RabbitMQ holds its messages until it is over, so a second
look would not see them. The second look waits for the first one instead, for at most its own deadline, and then raises
`BrokerUnavailable`. Looks of other processes are not known here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from mqworker.brokers.base import BrokerUnavailable

LEAST = 0.1  # least seconds for a request, even if it has waited until its deadline


class QueueLocks:
    """See the module head."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # those that are held or awaited

    @asynccontextmanager
    async def alone(self, queue: str, deadline: float) -> AsyncIterator[float]:
        """Lock a queue against other operations; yields the seconds that are left of the deadline."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline
        lock = self._locks.get(queue)
        if lock is None:
            lock = self._locks[queue] = asyncio.Lock()
        try:
            async with asyncio.timeout(deadline):
                await lock.acquire()
        except TimeoutError:
            why = f"somebody else has been looking at {queue!r} for {deadline:g} s, and one look hides it from another"
            raise BrokerUnavailable(why) from None
        try:
            yield max(LEAST, until - loop.time())
        finally:
            lock.release()
