"""The receiver of a run in an order on RabbitMQ: takes results off their queue as they come, and is slow now and then.

A thread with a plain pika connection of its own, past the proxy. The queue holds few messages and refuses more, so
whenever the receiver stops for a moment, results are refused. `outcomes` has them as they came.
"""

import random
import threading
import time

import pika

from tests.chaos.records import Outcome

LIMIT = 4  # messages in the queue
AHEAD = 4  # messages that are on their way to the receiver
STOPS = (0.1, 0.4)  # seconds that it stops
# Mean seconds between two stops. By key a stop makes up to 20 refusals; in one order it makes a single one.
EVERY = {"key": 4.0, "input": 1.0}


class Receiver(threading.Thread):
    """See the module head."""

    def __init__(self, url: str, queue: str, by: str) -> None:
        super().__init__(name="receiver", daemon=True)
        self.outcomes: list[Outcome] = []
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 0
        self._queue, self._every = queue, EVERY[by]
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
        due = time.monotonic() + self._every
        for method, properties, body in channel.consume(self._queue, inactivity_timeout=0.5):
            if method is not None:
                headers = dict(properties.headers or {})
                name = properties.message_id
                self.outcomes.append(Outcome(name, "result", properties.correlation_id or "", headers, body))
                channel.basic_ack(method.delivery_tag)
            elif self._over.is_set():
                break
            if time.monotonic() > due and not self._over.is_set():
                time.sleep(self._chance.uniform(*STOPS))  # this is what makes the queue full
                due = time.monotonic() + self._chance.expovariate(1 / self._every)
        channel.close()
        connection.close()
