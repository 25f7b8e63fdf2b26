"""The benchmark's own connection to the broker while a contestant is measured: messages go in, answers come out.

Runs in the benchmark's process; one connection, used by one thread.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import pika

from tests.benchmarks.queues import OUTPUT, unhurried

Message = tuple[bytes, pika.BasicProperties]
STALLED = 30.0  # seconds without a new result after which a contestant is given up
QUIET = 3.0  # seconds without a further answer after which none is expected


class Wire:
    """See the module head."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(unhurried(url))
        self._channel = self._connection.channel()
        self._channel.queue_declare(OUTPUT, durable=True)
        self._channel.queue_purge(OUTPUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # Ctrl-C within one of its calls leaves it in any state
            self._connection.close()

    def fill(self, queue: str, messages: Iterable[Message]) -> None:
        """Publish them all to the queue, and return when it has them."""
        for body, properties in messages:
            self._channel.basic_publish("", queue, body, properties)
        self.ready(queue)  # asked on the same channel, so the queue answers after it has got them

    def ready(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        return int(self._channel.queue_declare(queue, passive=True).method.message_count)

    def make(self, queue: str, arguments: Mapping[str, str]) -> None:
        """Declare a queue anew, with these arguments."""
        self._channel.queue_delete(queue)
        self._channel.queue_declare(queue, durable=True, arguments=dict(arguments))

    def listeners(self, queue: str) -> int:
        """Return how many consumers a queue has."""
        return int(self._channel.queue_declare(queue, passive=True).method.consumer_count)

    def wait(self, count: int, ended: Callable[[], bool], patience: float = STALLED) -> float | None:
        """Return the seconds until so many results wait in OUTPUT; None when none comes for `patience` seconds."""
        began = progress = time.monotonic()
        done = 0
        while done < count:  # each look costs the broker, so there are few
            left = (count - done) * (time.monotonic() - began) / max(done, 1)
            time.sleep(min(max(left / 2, 0.01), 0.2))
            if (ready := self.ready(OUTPUT)) > done:
                done, progress = ready, time.monotonic()
            if ended() or time.monotonic() - progress > patience:
                return None
        return time.monotonic() - began

    def answers(self, count: int) -> list[bytes]:
        """Take the answers out of OUTPUT: all that are there, and at least so many if they come."""
        found: list[bytes] = []
        for method, _, body in self._channel.consume(OUTPUT, auto_ack=True, inactivity_timeout=QUIET):
            if method is None:
                break
            found.append(body)
            if len(found) >= count and self.ready(OUTPUT) == 0:
                break
        self._channel.cancel()
        return found

    def one_by_one(self, queue: str, messages: Iterable[Message]) -> list[tuple[float, bytes]]:
        """Publish each message when the one before it is answered; returns (seconds from it to its answer, answer)."""
        trips: list[tuple[float, bytes]] = []
        arrived: list[tuple[float, bytes]] = []
        tag = self._channel.basic_consume(
            OUTPUT, lambda *told: arrived.append((time.perf_counter(), told[3])), auto_ack=True
        )
        for body, properties in messages:
            began = time.perf_counter()
            self._channel.basic_publish("", queue, body, properties)
            while not arrived and time.perf_counter() - began < STALLED:
                self._connection.process_data_events(STALLED)
            assert len(arrived) == 1, f"{len(arrived)} answers to one message"
            when, answer = arrived.pop()
            trips.append((when - began, answer))
        self._channel.basic_cancel(tag)
        return trips


def delete(url: str, queues: Iterable[str]) -> None:
    """Delete queues, whether they are there or not, by a connection that nothing has interrupted."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        for queue in queues:
            channel.queue_delete(queue)
