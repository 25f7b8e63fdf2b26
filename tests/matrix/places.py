"""Where a bench's messages are: a private RabbitMQ node, or the file of an embedded broker.

Runs in the harness, with a client that is not the service's. `publish` returns when the broker has confirmed
everything, so that whatever is missing later was lost by the service or by a broken promise of the broker.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pika
from pika.exceptions import AMQPError

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Publication
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.file import File
from tests.support.rabbitmq import RabbitNode

INPUT, OUTPUT = "matrix.in", "matrix.out"
DEAD = f"{INPUT}.dlq"


class Rabbit:
    """A node in `folder`; its queues are of `kind`, and the service declares them."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.node = RabbitNode(folder)
        self._connection: pika.BlockingConnection | None = None
        self._unconfirmed: set[int] = set()
        self._number = 0

    def start(self) -> None:
        """Start the node, even after it was killed."""
        self.node.start()

    @property
    def url(self) -> str:
        """For the service's configuration."""
        return self.node.url()

    @property
    def pid(self) -> int:
        """The broker's."""
        return self.node.pid

    def close(self) -> None:
        """Stop the node."""
        self.node.close()

    def publish(self, ids: Iterable[str]) -> None:
        """Publish one message for each id, all in flight at once, and wait for every confirm."""
        self._connect()
        for each in ids:
            properties = pika.BasicProperties("application/json", message_id=each, delivery_mode=2)
            self._number += 1
            self._unconfirmed.add(self._number)
            self._in.basic_publish("", INPUT, json.dumps({"id": each}).encode(), properties, mandatory=True)
        end = time.monotonic() + 30
        while self._unconfirmed:
            assert time.monotonic() < end, "the broker did not confirm what was published to it"
            assert self._connection is not None
            self._connection.process_data_events(0.01)

    def take(self, queue: str = OUTPUT) -> list[tuple[str, Any]]:
        """Return what is in a queue: message ids and bodies. Call it only when the broker is well."""
        found: list[tuple[str, Any]] = []
        while (message := self._ask(lambda channel: channel.basic_get(queue)))[0] is not None:
            method, properties, body = message
            self._channel.basic_ack(method.delivery_tag)
            found.append((properties.message_id, json.loads(body)))
        return found

    def depth(self, queue: str) -> int:
        """Return how many messages are ready in a queue."""
        return self._ask(lambda channel: channel.queue_declare(queue, passive=True)).method.message_count

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        """Return the answer to a question; a quorum queue has none for some seconds after a kill, without a leader."""
        end = time.monotonic() + 30
        while True:
            try:
                self._connect()
                return question(self._channel)
            except AMQPError as error:
                self._disconnect()  # what is left of a question that failed would spoil the next one
                if time.monotonic() > end:
                    raise AssertionError(f"the broker does not answer the harness: {error!r}") from None
                time.sleep(0.2)

    def _disconnect(self) -> None:
        with contextlib.suppress(AMQPError):
            if self._connection is not None:
                self._connection.close()
        self._connection = None

    def _connect(self) -> None:
        """Make sure of a connection that works; the broker may have been killed since."""
        if self._connection is not None:
            with contextlib.suppress(AMQPError):
                self._connection.process_data_events(0)
                if self._connection.is_open:
                    return
            self._disconnect()
        parameters = pika.URLParameters(self.url)
        parameters.heartbeat = 0
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._in = self._connection.channel()._impl  # the blocking one waits for each confirm by itself
        self._in.confirm_delivery(self._answered)
        self._number = 0
        self._unconfirmed.clear()

    def _answered(self, frame: Any) -> None:
        method = frame.method
        assert isinstance(method, pika.spec.Basic.Ack), "the broker refused a message of the harness"
        done = {
            n for n in self._unconfirmed if n == method.delivery_tag or (method.multiple and n < method.delivery_tag)
        }
        self._unconfirmed -= done


class Embedded:
    """The file of an embedded broker in `folder`."""

    kind = "classic"
    pid = 0

    def __init__(self, folder: Path) -> None:
        self._path = folder / "broker.db"

    def start(self) -> None:
        """Does nothing: the service makes the file."""

    @property
    def url(self) -> str:
        """For the service's configuration."""
        return f"sqlite:///{self._path}"

    def close(self) -> None:
        """Does nothing: there is nothing to end."""

    def publish(self, ids: Iterable[str]) -> None:
        """Store one message for each id, in one transaction."""

        def work(db: sqlite3.Connection) -> None:
            for each in ids:
                properties = Properties(content_type="application/json", message_id=each, delivery_mode=2)
                store.publish(db, Publication("", INPUT, properties.encode(), json.dumps({"id": each}).encode()))

        self._transaction(work)

    def take(self, queue: str = OUTPUT) -> list[tuple[str, Any]]:
        """Take what is in a queue: message ids and bodies."""
        found: list[tuple[str, Any]] = []

        def work(db: sqlite3.Connection) -> None:
            number = store.queue_id(db, queue)
            ids = store.ready_ids(db, number, 100_000) if number is not None else []
            for each in ids:
                content = store.content(db, each)
                assert content is not None
                found.append((Properties.decode(content[0]).message_id or "", json.loads(content[1])))
            store.remove(db, ids)

        self._transaction(work)
        return found

    def depth(self, queue: str) -> int:
        """Messages ready in a queue."""
        counts: list[int] = []

        def work(db: sqlite3.Connection) -> None:
            number = store.queue_id(db, queue)
            counts.append(0 if number is None else store.count_ready(db, number))

        self._transaction(work)
        return counts[0]

    def _transaction(self, work: Any) -> None:
        """Run one transaction on a new connection; others may hold the lock for a while."""
        end = time.monotonic() + 20
        while True:
            file = File(self._path)
            try:
                with file.transaction() as db:
                    work(db)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
            else:
                return
            finally:
                file.close()
