"""RabbitMQ by AMQP 0-9-1: the only place that imports pika.

`wire` (one connection), `channel` (awaitable requests), `connection` (kept for ever), `topology` (what must exist),
then `consuming` and `publishing` (the two roles of a Link), `link` and `desk`. Everything runs on the asyncio loop
of the process that owns it.
"""

from mqworker.brokers.rabbitmq.admin import RabbitAdmin
from mqworker.brokers.rabbitmq.link import RabbitLink

__all__ = ["RabbitAdmin", "RabbitLink"]
