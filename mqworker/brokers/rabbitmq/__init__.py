"""RabbitMQ by AMQP 0-9-1: the only place that imports pika.

    fast_frames, loop_adapter, amqp_connection   one connection, on an asyncio loop
    channel                                      awaitable requests
    reconnector                                  a connection that is kept
    topology                                     what must exist
    consumer_channel, consuming                  the consuming role of a Link: one epoch, and one after the other
    destinations, sender, publishing             its publishing role: where to, one channel, and one after the other
    link                                         the Link
    shared_connection, admin                     the Admin

Everything runs on the asyncio loop of the process that owns it.
"""

from mqworker.brokers.rabbitmq.admin import RabbitAdmin
from mqworker.brokers.rabbitmq.link import RabbitLink

__all__ = ["RabbitAdmin", "RabbitLink"]
