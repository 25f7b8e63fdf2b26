"""The input and the output queue of a measurement: filled with a backlog before it, counted and checked after it.

Runs in the benchmark's process, with a connection of its own to the node.
"""

from collections.abc import Sequence

import pika

from tests.support.waiting import wait_for

INPUT = "bench.in"
OUTPUT = "bench.out"
DEADLINE = 60.0  # seconds


class Queues:
    """See the module head."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        for queue in (INPUT, OUTPUT):
            self._channel.queue_declare(queue, durable=True)

    def fill(self, bodies: list[bytes], keys: Sequence[str] = ()) -> None:
        """Empty both queues and publish the bodies as a backlog, persistent, with their position as message id.

        `keys` has a correlation id for each, if they have any.
        """
        kind = "application/json" if bodies[0].startswith(b"{") else "application/octet-stream"
        for queue in (INPUT, OUTPUT):
            self._channel.queue_purge(queue)
        for number, body in enumerate(bodies):
            key = keys[number] if keys else None
            properties = pika.BasicProperties(kind, delivery_mode=2, message_id=str(number), correlation_id=key)
            self._channel.basic_publish("", INPUT, body, properties)
        wait_for(lambda: self.ready(INPUT) == len(bodies), DEADLINE, "the backlog")

    def ready(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        return self._channel.queue_declare(queue, passive=True).method.message_count

    def results(self, count: int) -> list[bytes]:
        """Return the results in the order of their inputs; AssertionError unless each input has exactly one."""
        wait_for(lambda: self.ready(OUTPUT) >= count, DEADLINE, "all results")
        bodies: dict[str, bytes] = {}
        for method, properties, body in self._channel.consume(OUTPUT, auto_ack=True, inactivity_timeout=2):
            if method is None:
                break
            assert properties.message_id not in bodies, "a result came twice"
            bodies[properties.message_id] = body
            if len(bodies) == count:
                break
        self._channel.cancel()
        assert len(bodies) == count, f"{len(bodies)} results of {count}"
        assert self.ready(INPUT) == self.ready(OUTPUT) == 0
        return [bodies[str(number)] for number in range(count)]
