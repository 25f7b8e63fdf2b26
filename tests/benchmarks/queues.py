"""The input and the output queue of a measurement: filled with a backlog before it, counted and checked after it.

Runs in the benchmark's process, with a connection of its own to the node.
"""

import json
import time
from collections.abc import Sequence

import pika

from tests.support.waiting import wait_for

INPUT = "bench.in"
OUTPUT = "bench.out"
DEADLINE = 60.0  # seconds
WARM = 20  # messages before those whose time counts


def unhurried(url: str) -> pika.URLParameters:
    """Return parameters without heartbeats: nobody serves the connection while a contestant is measured."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    return parameters


class Queues:
    """See the module head."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = pika.BlockingConnection(unhurried(url))
        self._channel = self._connection.channel()
        for queue in (INPUT, OUTPUT):
            self._channel.queue_declare(queue, durable=True)

    def empty(self) -> None:
        """Remove what waits in both queues."""
        for queue in (INPUT, OUTPUT):
            self._channel.queue_purge(queue)

    def fill(self, bodies: list[bytes], keys: Sequence[str] = ()) -> None:
        """Empty both queues and publish the bodies as a backlog, persistent, with their position as message id.

        `keys` has a correlation id for each, if they have any.
        """
        kind = "application/json" if bodies[0].startswith(b"{") else "application/octet-stream"
        self.empty()
        for number, body in enumerate(bodies):
            key = keys[number] if keys else None
            properties = pika.BasicProperties(kind, delivery_mode=2, message_id=str(number), correlation_id=key)
            self._channel.basic_publish("", INPUT, body, properties)
        wait_for(lambda: self.ready(INPUT) == len(bodies), 4 * DEADLINE, "the backlog")

    def trips(self, count: int) -> list[float]:
        """Return the seconds from publishing each message to the arrival of its result, one at a time; empties both."""
        self.empty()
        arrived: list[bytes] = []
        tag = self._channel.basic_consume(OUTPUT, lambda *told: arrived.append(told[3]), auto_ack=True)
        seconds = []
        for number in range(count + WARM):
            body = json.dumps({"id": number, "pad": "x" * 150}).encode()
            properties = pika.BasicProperties("application/json", delivery_mode=2, message_id=str(number))
            began = time.perf_counter()
            self._channel.basic_publish("", INPUT, body, properties)
            while not arrived:
                self._connection.process_data_events(DEADLINE)
                assert arrived or time.perf_counter() - began < DEADLINE, "no result"
            seconds.append(time.perf_counter() - began)
            assert json.loads(arrived.pop()) == json.loads(body)
        self._channel.basic_cancel(tag)
        return seconds[WARM:]

    def send(self, body: bytes) -> None:
        """Publish one persistent message."""
        self._channel.basic_publish("", INPUT, body, pika.BasicProperties("application/json", delivery_mode=2))

    def arrival(self) -> float:
        """Return when the next result arrives (monotonic)."""
        for method, _, _ in self._channel.consume(OUTPUT, auto_ack=True, inactivity_timeout=DEADLINE):
            assert method is not None, "no result"
            break
        arrived = time.monotonic()
        self._channel.cancel()
        return arrived

    def ready(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        return self._channel.queue_declare(queue, passive=True).method.message_count

    def results(self, count: int) -> list[bytes]:
        """Return the results in the order of their inputs; AssertionError unless each input has exactly one."""
        bodies = self.take(count)
        assert self.ready(INPUT) == 0
        return [bodies[str(number)] for number in range(count)]

    def take(self, count: int) -> dict[str, bytes]:
        """Return so many results by their message ids; AssertionError if there are others, or one comes twice."""
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
        assert self.ready(OUTPUT) == 0
        return bodies
