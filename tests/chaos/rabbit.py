"""RabbitMQ in the campaign: a private node, the proxy before it, a publisher, and the drain of outcomes.

The publisher is a plain pika client in a separate thread and does not go through the proxy. It never sends an id twice:
what was not confirmed stays ambiguous. It keeps the input queue filled up to a backlog, so that the stage is never idle
while faults occur. Everything else runs in the campaign's main thread.
"""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pika
from pika.exceptions import AMQPError

from mqworker.brokers.rabbitmq.queues import delay_arguments, delay_queue
from tests.chaos.load import Queues
from tests.chaos.proxy import Proxy
from tests.chaos.records import Outcome, Round
from tests.chaos.source import Source
from tests.chaos.wire import Wire
from tests.support.rabbitmq import RabbitNode, major_version

USER, PASSWORD = "chaos", "canary-of-a-password"
LOOK = 0.1  # seconds between looks at the backlog
WINDOW = 500  # publishes without an answer
# Milliseconds; longer than any fault keeps the service from its queues, and than the time between two uses of them.
EXPIRES = 40_000 if major_version() >= 4 else 25_000
DELAYS = (1, 2, 4)  # seconds of the retry queues that can be there


class Publisher(threading.Thread):
    """See the module head."""

    def __init__(self, url: str, queue: str, source: Source, exchange: str = "") -> None:
        """With an exchange, messages have the routing keys `cam.N.frame`."""
        super().__init__(name="publisher", daemon=True)
        self._exchange = exchange
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 10
        self._parameters.socket_timeout = self._parameters.stack_timeout = 5
        self._queue, self._source = queue, source
        self._over = threading.Event()
        self._room = 0
        self._pending: dict[int, str] = {}
        self._returned: set[str] = set()
        self._count = 0

    def stop(self) -> None:
        """End when all answers have arrived, or the connection is gone."""
        self._over.set()
        self.join(30)

    def run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(AMQPError, OSError):
                connection = pika.SelectConnection(
                    self._parameters,
                    on_open_callback=self._opened,
                    on_open_error_callback=lambda made, _: made.ioloop.stop(),
                    on_close_callback=lambda made, _: made.ioloop.stop(),
                )
                connection.ioloop.start()
            self._pending.clear()  # ambiguous for ever
            time.sleep(0.2)

    def _opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=lambda channel: self._serve(connection, channel))

    def _serve(self, connection: Any, channel: Any) -> None:
        # The broker closes it when the exchange is missing just now: the next connection goes on.
        channel.add_on_close_callback(lambda *_: connection.close() if connection.is_open else None)
        self._pending, self._count, self._room = {}, 0, 0
        channel.add_on_return_callback(lambda _c, _m, properties, _b: self._returned.add(properties.message_id))
        channel.confirm_delivery(self._answered)
        if self._exchange:  # its owner declares it at each connect: a killed broker may have forgotten a young one
            channel.exchange_declare(self._exchange, "topic", durable=True)
        self._look(connection, channel)

    def _look(self, connection: Any, channel: Any) -> None:
        if connection.is_open and channel.is_open:
            channel.queue_declare(
                self._queue, passive=True, callback=lambda found: self._fill(connection, channel, found)
            )

    def _fill(self, connection: Any, channel: Any, found: Any) -> None:
        if self._over.is_set():
            if not self._pending:
                connection.close()
                return
        else:
            room = self._source.backlog - found.method.message_count
            for _ in range(max(0, min(room, WINDOW - len(self._pending)))):
                message = self._source.next()
                if message is None:
                    break
                self._count += 1
                self._pending[self._count] = message.id
                properties = pika.BasicProperties(
                    "application/json",
                    headers=message.headers,
                    delivery_mode=2,
                    correlation_id=message.correlation,
                    message_id=message.id,
                )
                key = f"cam.{self._count}.frame" if self._exchange else self._queue
                channel.basic_publish(self._exchange, key, message.body, properties, mandatory=True)
        connection.ioloop.call_later(LOOK, lambda: self._look(connection, channel))

    def _answered(self, frame: Any) -> None:
        method = frame.method
        numbers = [n for n in self._pending if n <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        for number in numbers:
            name = self._pending.pop(number, None)
            if name is not None and isinstance(method, pika.spec.Basic.Ack) and name not in self._returned:
                self._source.confirmed(name)


class Rabbit:
    """A node, the proxy, and one connection for inspection; see the module head."""

    def __init__(self, folder: Path, *, foreign: bool = False) -> None:
        """`foreign`: a small frame, and a policy under which queues expire; exchanges are those of `prepare`."""
        self._foreign = foreign
        self.node = RabbitNode(folder, config=("frame_max = 8192",) if foreign else ())
        self.node.start()
        if foreign:
            expiring = (f'{{"expires": {EXPIRES}}}', "--apply-to", "queues")
            self.node.ctl("set_policy", "expiring", r"\.in", *expiring)  # the queue of results is not the stage's
        self.node.ctl("add_user", USER, PASSWORD)
        self.node.ctl("set_permissions", USER, ".*", ".*", ".*")
        self.kind = "classic"
        self.wire = Wire()
        self.proxy = Proxy(self.node.port, self.wire)
        self._log_from = 0
        self._looking: Any = None

    @property
    def url(self) -> str:
        """Where the service finds the broker: through the proxy."""
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.proxy.port}/%2F"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        return (PASSWORD,)

    def channel(self) -> Any:
        """Return a channel to the broker itself, without confirms; reopened when it is gone."""
        with contextlib.suppress(AMQPError, OSError):
            if self._looking is not None:
                return self._looking.channel()
        parameters = pika.URLParameters(self.node.url())
        parameters.heartbeat = 0
        parameters.socket_timeout = parameters.stack_timeout = 5
        self._looking = pika.BlockingConnection(parameters)
        return self._looking.channel()

    def prepare(self, queues: Queues, kind: str, *, limit: int = 0) -> None:
        """Begin with a new set of queues; with a limit, the stage makes its own, and that of results refuses more.

        Delay queues too, seconds before the first fault: RabbitMQ 3.10 that is killed within a second of making a
        quorum queue brings it back without its messages and without a leader (docs/guarantees.md).
        """
        self.kind = kind
        self._log_from = len(self.node.log())
        self.wire.__init__()  # the proxy keeps it
        arguments = {"x-queue-type": "quorum"} if kind == "quorum" else {}
        channel = self.channel()
        bounded = arguments | ({"x-max-length": limit, "x-overflow": "reject-publish"} if limit else {})
        channel.queue_declare(queues.output, durable=True, arguments=bounded)
        for queue in () if limit else (queues.input, queues.dead):
            channel.queue_declare(queue, durable=True, arguments=arguments)
        for delay in DELAYS:
            name = delay_queue(queues.input, delay)
            channel.queue_declare(name, durable=True, arguments=delay_arguments(queues.input, delay))
        channel.exchange_declare(queues.exchange, "topic" if self._foreign else "direct", durable=True)
        channel.queue_bind(queues.output, queues.exchange, "out")
        if self._foreign:
            channel.exchange_declare(queues.source, "topic", durable=True)
        channel.close()

    def publisher(self, queues: Queues, source: Source) -> Publisher:
        """Return a publisher, not started."""
        return Publisher(self.node.url(), queues.input, source, queues.source if self._foreign else "")

    def left(self, queues: Queues) -> str:
        """What is still in input and retry queues, or unacked; "" when nothing.

        Two looks: a passive declare tells of a quorum queue what is ready now, the other counts what is unacked.
        """
        names = {queues.input, *(delay_queue(queues.input, delay) for delay in DELAYS)}
        found = []
        for name in names:
            counts = self.node.queue(name)
            if counts is not None:
                channel = self.channel()
                ready = channel.queue_declare(name, passive=True).method.message_count
                channel.close()
                if ready or counts["messages"]:
                    found.append(f"{name}: {ready} ready, {counts['messages']} in all")
        return ", ".join(found)

    def drain(self, queues: Queues) -> list[Outcome]:
        """Take all outcomes; nothing else uses the broker meanwhile."""
        return self.take(queues.output, "result") + self.take(queues.dead, "dead")

    def take(self, queue: str, word: str) -> list[Outcome]:
        """Take everything from one queue, and make sure that the broker has the acks."""
        channel = self.channel()
        outcomes: list[Outcome] = []
        count = channel.queue_declare(queue, passive=True).method.message_count
        channel.basic_qos(prefetch_count=1000)
        while count:
            for method, properties, body in channel.consume(queue, inactivity_timeout=2):
                if method is None:
                    break
                headers = dict(properties.headers or {})
                outcomes.append(Outcome(properties.message_id, word, properties.correlation_id or "", headers, body))
                count -= 1
                if not count or not len(outcomes) % 500:
                    channel.basic_ack(method.delivery_tag, multiple=True)
                if not count:
                    break
            channel.cancel()
            count = channel.queue_declare(queue, passive=True).method.message_count
        channel.close()
        return outcomes

    def account(self, into: Round) -> None:
        """Copy what the wire showed, and clear it."""
        wire = self.wire
        into.violations += wire.violations
        into.steps = wire.steps
        into.acked, into.acks = dict(wire.acked), wire.acks
        into.most_unsettled = wire.most_unsettled
        into.consuming = sorted(wire.consuming.values())
        into.broker_log = self.node.log()[self._log_from :]

    def heal(self) -> None:
        """Undo every fault."""
        self.proxy.heal()
        self.node.thaw()

    def close(self, queues: Queues | None = None) -> None:
        """Delete a run's queues, or end everything."""
        if queues is not None:
            channel = self.channel()
            for queue in (queues.input, queues.output, queues.dead, *(delay_queue(queues.input, s) for s in DELAYS)):
                channel.queue_delete(queue)
            channel.exchange_delete(queues.exchange)
            channel.exchange_delete(queues.source)
            channel.close()
            return
        with contextlib.suppress(AMQPError, OSError):
            if self._looking is not None:
                self._looking.close()
        self.proxy.close()
        self.node.close()
