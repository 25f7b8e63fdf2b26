"""The benchmark's reference: a plain pika relay in one process, written for speed, that loses nothing. No workers.

    relay.py AMQP_URL IN OUT COUNT [--like-mqworker | --large QUEUE]

One thread, one connection (asyncio; pika's select loop was no faster), one channel: prefetch 1000, each body published
persistent to OUT through the default exchange, with publisher confirms, and its input acked once the confirm is there.
The channel publishes once per delivery, in order, so the number of a confirm is the delivery tag to ack. Acks are
gathered: one `multiple` ack for all that one turn of the loop confirmed. Both queues must exist. With --like-mqworker
each result has properties and headers of the size that mqworker's have. With --large, bodies above 100 kB go to a queue
of their own. When COUNT results are confirmed and acked it prints one JSON line with messages, seconds and CPU seconds
(user + system), both from the moment it begins to consume; at a refused or returned message or a lost connection it
ends with 1 and the reason on stderr.
"""

import json
import resource
import sys
import time
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

PREFETCH = 1000
LARGE = 100_000  # bytes
BARE = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent.value)
LIKE_MQWORKER = pika.BasicProperties(
    content_type="application/json",
    headers={
        "x-mqworker-stage": "bench",
        "x-mqworker-generation": 1,
        "x-mqworker-duration-ms": "8 bytes.",
        "x-mqworker-attempt": 1,
    },
    delivery_mode=pika.DeliveryMode.Persistent.value,
    message_id="12345",
    timestamp=1_700_000_000,
)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Relay:
    """One relay; its callbacks run on the connection's loop, in the main thread."""

    def __init__(
        self, url: str, source: str, target: str, count: int, properties: pika.BasicProperties, large: str
    ) -> None:
        self.properties = properties
        self.source, self.target, self.count = source, target, count
        self.large = large
        self.acked = 0  # all up to this tag are acked
        self.prefix = 0  # all up to this tag are confirmed
        self.beyond = set()  # confirmed tags behind a gap
        self.flushing = False
        self.failure = "the connection was lost"
        self.report = None
        self.connection = AsyncioConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_open_error_callback=lambda _, error: self.stop(f"cannot connect: {error!r}"),
            on_close_callback=lambda _, reason: self.stop(str(reason)),
        )

    def run(self) -> None:
        """Relay until COUNT results are confirmed and acked, and print the report."""
        self.connection.ioloop.run_forever()
        if self.report is None:
            sys.exit(f"relay: {self.failure}")
        print(json.dumps(self.report))

    def stop(self, failure: str) -> None:
        """End the loop; `failure` counts unless the report is there."""
        self.failure = failure
        self.connection.ioloop.stop()

    def opened(self, channel: Any) -> None:
        """Ask for confirms, then for the prefetch, then consume."""
        self.channel = channel
        channel.add_on_close_callback(lambda _, reason: self.stop(str(reason)))
        channel.add_on_return_callback(lambda *_: self.stop(f"no route to {self.target}"))
        channel.confirm_delivery(
            self.confirmed, callback=lambda _: channel.basic_qos(0, PREFETCH, callback=self.consume)
        )

    def consume(self, _frame: Any) -> None:
        """Start the clock and the consumer."""
        self.began, self.cpu = time.perf_counter(), cpu_seconds()
        self.channel.basic_consume(self.source, self.delivered)

    def delivered(self, channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        """Pass a message on."""
        target = self.large if len(body) > LARGE else self.target
        channel.basic_publish("", target, body, self.properties, mandatory=True)

    def confirmed(self, frame: Any) -> None:
        """Extend the prefix of confirmed messages, and have it acked at the end of this turn of the loop."""
        method = frame.method
        if method.NAME != "Basic.Ack":
            self.stop("the broker refused a message")
            return
        tag = method.delivery_tag
        if method.multiple:
            if tag > self.prefix:
                self.beyond.difference_update(range(self.prefix + 1, tag + 1))
                self.prefix = tag
        else:
            self.beyond.add(tag)
        while self.prefix + 1 in self.beyond:
            self.prefix += 1
            self.beyond.remove(self.prefix)
        if self.prefix > self.acked and not self.flushing:
            self.flushing = True
            self.connection.ioloop.call_later(0, self.flush)

    def flush(self) -> None:
        """Ack the prefix at once; report after the last."""
        self.flushing = False
        self.channel.basic_ack(self.prefix, multiple=True)
        self.acked = self.prefix
        if self.acked >= self.count and self.report is None:
            self.report = {
                "messages": self.acked,
                "seconds": round(time.perf_counter() - self.began, 4),
                "cpu_seconds": round(cpu_seconds() - self.cpu, 4),
            }
            self.connection.close()


if __name__ == "__main__":
    url, source, target, count, *options = sys.argv[1:]
    properties = LIKE_MQWORKER if options == ["--like-mqworker"] else BARE
    large = options[1] if options[:1] == ["--large"] else target
    Relay(url, source, target, int(count), properties, large).run()
