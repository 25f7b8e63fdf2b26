"""The receiver of a run in an order on RabbitMQ: takes results off their queue as they come, and is slow now and then.

A thread with a plain pika connection of its own, past the proxy. The queue holds few messages and refuses more, so
whenever the receiver stops for a moment, results are refused. It stops as long as fewer than SHARE of the results were
refused so far, at random times. `outcomes` has them as they came.
"""

import random
import threading
import time
from collections.abc import Callable

import pika

from tests.chaos.records import Outcome

LIMIT = 4  # messages in the queue
AHEAD = 4  # messages that are on their way to the receiver
SHARE = 0.01  # refusals for each result: by key a stop makes up to 20, in one order often a single one
STOPS = (0.1, 0.4)  # seconds that it stops
EVERY = 0.5  # mean seconds between two stops, at least


class Receiver(threading.Thread):
    """See the module head; `refused` tells how many results were refused so far."""

    def __init__(self, url: str, queue: str, refused: Callable[[], int]) -> None:
        super().__init__(name="receiver", daemon=True)
        self.outcomes: list[Outcome] = []
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 0
        self._queue, self._refused = queue, refused
        self._chance = random.Random(queue)
        self._over = threading.Event()

    def stop(self) -> None:
        """End when nothing has come for a while."""
        self._over.set()
        self.join(30)

    def run(self) -> None:
        connection = pika.BlockingConnection(self._parameters)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=AHEAD)
        due = time.monotonic()
        for method, properties, body in channel.consume(self._queue, inactivity_timeout=0.5):
            if method is not None:
                headers = dict(properties.headers or {})
                name = properties.message_id
                self.outcomes.append(Outcome(name, "result", properties.correlation_id or "", headers, body))
                channel.basic_ack(method.delivery_tag)
                if time.monotonic() > due and self._refused() < SHARE * len(self.outcomes):
                    time.sleep(self._chance.uniform(*STOPS))  # this is what makes the queue full
                    due = time.monotonic() + self._chance.expovariate(1 / EVERY)
            elif self._over.is_set():
                break
        channel.close()
        connection.close()
