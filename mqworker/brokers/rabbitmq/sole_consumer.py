"""The right to consume the input of an ordered stage alone.

Runs on the loop of the Link, for `consuming`. Even a single instance needs this: when we abort a connection that does
not answer, the broker keeps the messages that it has sent on it until it notices too (two heartbeats), and our next
connection would get the messages after them first.

A queue with `x-single-active-consumer`, as we declare it, ensures this itself: our consumer gets nothing while there is
an earlier one. With any other queue, we wait until it has no consumer, and hold a lock, an exclusive queue of that
connection: without it, two instances that see no consumer at the same moment would both begin, and returning what they
got would reorder a quorum queue. Consumers that do not know the lock can still come later; a warning says so.

The lock's name must not change: two versions of mqworker with different names could both begin. So if somebody else has
made a queue with this name, that is an error; no other name is used.

Owns the lock. Raises `Lost` when the connection is lost, when the queue is gone, and when the lock is a queue of
somebody else.
"""

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.exclusive_lock import release_lock, take_lock
from mqworker.brokers.rabbitmq.queues import LOCKED, NOT_FOUND, Found, queue_status
from mqworker.config.model import ORDER_LOCK

POLL = 1.0  # seconds between two checks while others consume
_SO = "this stage is ordered, and waits until that one is gone"


class SoleConsumer:
    """See the module head."""

    def __init__(self, queue: str) -> None:
        self.waits = ""  # one sentence that says for which other consumer it waits
        self._queue = queue
        self._lock = f"{queue}{ORDER_LOCK}"
        self._locked_on: AmqpConnection | None = None

    async def may_consume(self, connection: AmqpConnection, found: Found) -> bool:
        """Return whether a consumer may be registered now; if not, ask again after POLL."""
        alone = found.single_active or await self._locks(connection)
        status = await queue_status(connection, self._queue)
        if status is None:
            raise Lost(f"queue {self._queue!r} is gone", NOT_FOUND)
        self.waits = ""
        if status.consumer_count:
            self.waits = f"queue {self._queue!r} has another consumer: {_SO}"
        elif not alone:
            self.waits = f"another connection has the exclusive queue {self._lock!r}, which is our lock: {_SO}"
        return found.single_active or not self.waits

    def alone(self) -> None:
        """Note that there is no other consumer now."""
        self.waits = ""

    async def release(self) -> None:
        """Release the lock, so that another stage can consume; raises Lost."""
        connection, self._locked_on = self._locked_on, None
        self.alone()
        if connection is not None:
            await release_lock(connection, self._lock)

    async def _locks(self, connection: AmqpConnection) -> bool:
        """Take the lock; returns False while another connection has it, and True if we are not allowed to have it."""
        if self._locked_on is connection:
            return True
        try:
            taken = await take_lock(connection, self._lock)
        except Lost:
            if not connection.usable:
                raise
            return True
        if not taken:
            await self._refuse_foreign(connection)
            return False
        self._locked_on = connection
        return True

    async def _refuse_foreign(self, connection: AmqpConnection) -> None:
        """Raise Lost if the queue with the lock's name is no lock, because it is not exclusive: anybody can see it."""
        try:
            foreign = await queue_status(connection, self._lock) is not None
        except Lost:
            if not connection.usable:
                raise
            foreign = False
        if foreign:
            self.alone()
            raise Lost(
                f"queue {self._lock!r} is in the way: the ordered stage on {self._queue!r} needs its name for a lock"
                " that keeps others out; delete it, or declare the input with x-single-active-consumer",
                LOCKED,
            )
