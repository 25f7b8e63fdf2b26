"""Clients of RabbitMQ that are not ours: amqp-publish from Debian's amqp-tools, and plain pika for the rest.

Run in the test process, one blocking connection for each client, without heartbeats because tests may pause for long.
"""

import subprocess
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import pika

from tests.support.waiting import Patience

BLOCKED = 120  # seconds; an alarm that another test has left behind must not hang this one
CHUNK = 1.0  # seconds of waiting for a message between two looks at the clock


class Got(NamedTuple):
    """A message taken off a queue."""

    body: bytes
    properties: pika.BasicProperties

    @property
    def headers(self) -> dict[str, Any]:
        """Return its headers, empty when there are none."""
        return self.properties.headers or {}


class Client:
    """One connection and channel of a plain pika client with publisher confirms."""

    def __init__(self, url: str) -> None:
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0
        parameters.blocked_connection_timeout = BLOCKED
        self._connection = pika.BlockingConnection(parameters)
        self.open()

    def open(self) -> None:
        """Open a channel, also after the broker has closed the previous one."""
        self.channel = self._connection.channel()
        self.channel.confirm_delivery()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.is_open:
            self._connection.close()

    def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        """Publish one persistent message and wait for the broker's confirm."""
        self.publish_to("", queue, body, **properties)

    def publish_to(self, exchange: str, routing_key: str, body: bytes, **properties: Any) -> None:
        """The same through an exchange that has a route for the key."""
        told = pika.BasicProperties(delivery_mode=2, **properties)
        self.channel.basic_publish(exchange, routing_key, body, told, mandatory=True)

    def publish_all(self, queue: str, bodies: Iterable[bytes], deadline: float = 120) -> None:
        """Publish persistent JSON messages one after the other; returns when the broker has confirmed all of them."""
        blocking = self._connection.channel()
        channel = blocking._impl  # the blocking one waits for each confirm by itself
        waiting: dict[int, None] = {}

        def answered(frame: Any) -> None:
            method = frame.method
            assert isinstance(method, pika.spec.Basic.Ack), "the broker refused a message"
            if method.multiple:
                while waiting and (first := next(iter(waiting))) <= method.delivery_tag:
                    del waiting[first]
            else:
                del waiting[method.delivery_tag]

        channel.confirm_delivery(answered)
        told = pika.BasicProperties("application/json", delivery_mode=2)
        for number, body in enumerate(bodies, 1):
            waiting[number] = None
            channel.basic_publish("", queue, body, told)
        patience = Patience(deadline)
        while waiting:
            assert not patience.over(), f"{len(waiting)} messages without a confirm within {deadline} s"
            self._connection.process_data_events(CHUNK)
        blocking.close()

    def ready(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        return self.channel.queue_declare(queue, passive=True).method.message_count

    def take(self, queue: str, count: int, deadline: float) -> list[Got]:
        """Take `count` messages off a queue, even if they arrive late; AssertionError after `deadline` seconds."""
        patience = Patience(deadline)
        found: list[Got] = []
        while len(found) < count:
            assert not patience.over(), f"{len(found)} of {count} messages in {queue} within {deadline} s"
            found += self._some(queue, count - len(found))
        return found

    def rest(self, queue: str) -> list[Got]:
        """Take everything that is in a queue now."""
        return self._some(queue, self.ready(queue))

    def _some(self, queue: str, most: int) -> list[Got]:
        found: list[Got] = []
        if most:
            self.channel.basic_qos(prefetch_count=min(most, 65_535))  # never hold more than is asked for
            for method, raw, body in self.channel.consume(queue, inactivity_timeout=CHUNK):
                if method is None:
                    break
                found.append(Got(body, _plain(raw)))
                last = method.delivery_tag
                if len(found) == most:
                    break
            else:
                raise AssertionError(f"{queue} was deleted")
            self.channel.cancel()  # gives back what was not looked at; before the ack, which would bring more
            if found:
                self.channel.basic_ack(last, multiple=True)
            self.ready(queue)  # the queue has seen the acks
        return found


def _plain(raw: Any) -> pika.BasicProperties:
    """Pika's own properties, also where mqworker keeps them raw in this process (other tests import its broker)."""
    if isinstance(raw, pika.BasicProperties):
        return raw
    properties = pika.BasicProperties()
    properties.decode(raw.block)
    return properties


def publish_lines(url: str, queue: str, lines: Iterable[str], deadline: float = 300) -> None:
    """Publish one persistent JSON message for each line by amqp-publish, into a classic queue.

    It asks for no confirms and leaves when all is written. A quorum queue on a busy machine then loses the last ones.
    """
    command = ["amqp-publish", f"--url={url}", f"--routing-key={queue}", "-p", "-l", "-C", "application/json"]
    text = "".join(f"{line}\n" for line in lines)
    subprocess.run(command, input=text.encode(), timeout=deadline, check=True, capture_output=True)
