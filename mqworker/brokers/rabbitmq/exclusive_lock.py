"""A lock among connections to one broker: an exclusive queue, which ends with the connection that has it.

Runs on the loop of whoever wants it. Owns nothing. Raises `Lost`, also where we may not declare the queue.
"""

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.queues import LOCKED, TYPE, attempt


async def take_lock(connection: AmqpConnection, name: str) -> bool:
    """Take the lock for this connection, or have it already; returns False while another connection has it."""
    try:
        await attempt(connection, "queue_declare", queue=name, exclusive=True, arguments={TYPE: "classic"})
    except Lost as lost:
        if not connection.usable or lost.code != LOCKED:
            raise
        return False
    return True


async def release_lock(connection: AmqpConnection, name: str) -> None:
    """Give the lock back."""
    if connection.usable:
        await attempt(connection, "queue_delete", queue=name)
