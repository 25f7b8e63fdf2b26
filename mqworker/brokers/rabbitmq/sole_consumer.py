"""The right to consume the input of an ordered stage alone.

Runs on the loop of the Link, for `consuming`. Also one instance needs it: when we give a connection up that does not
answer, the broker keeps what it has sent there until it notices too (two heartbeats), and what stands behind that would
come first to our next connection.

A queue with `x-single-active-consumer`, as we make it, sees to that itself: our consumer gets nothing while another one
was there first. On any other queue we wait until it has no consumer. Whoever does so holds a lock, an exclusive queue
of that connection: two that saw no consumer at one moment would both begin, and giving back what they have got would
reorder a quorum queue. Consumers that know nothing of the lock can still come later; a warning says so.

The lock's name stays as it is: two versions of mqworker that had different ones could both begin. So a queue that
somebody else has made with this name is refused, instead of another name taken.

Owns the lock. Raises `Lost` with the connection, when the queue is gone, and when the lock is a queue of somebody else.
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
        self.waits = ""  # for which other consumer, in one sentence
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
        """Let another stage consume; raises Lost."""
        connection, self._locked_on = self._locked_on, None
        self.alone()
        if connection is not None:
            await release_lock(connection, self._lock)

    async def _locks(self, connection: AmqpConnection) -> bool:
        """Take the lock; returns False while another connection has it. Where we may have none, there is none."""
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
        """Raise Lost if what has the lock's name is no lock: anybody may look at a queue that is not exclusive."""
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
