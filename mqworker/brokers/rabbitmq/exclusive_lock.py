"""A lock among connections to one broker: an exclusive queue, which is deleted when its connection ends.

Runs on the loop of the caller. Owns nothing. Raises `Lost`, also where we are not allowed to declare the queue.
"""

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.queues import LOCKED, TYPE, attempt


async def take_lock(connection: AmqpConnection, name: str) -> bool:
    """Take the lock for this connection, which may have it already; returns False while another connection has it."""
    try:
        await attempt(connection, "queue_declare", queue=name, exclusive=True, arguments={TYPE: "classic"})
    except Lost as lost:
        if not connection.usable or lost.code != LOCKED:
            raise
        return False
    return True


async def release_lock(connection: AmqpConnection, name: str) -> None:
    """Release the lock."""
    if connection.usable:
        await attempt(connection, "queue_delete", queue=name)
