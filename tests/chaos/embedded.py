"""The embedded broker in the campaign: a publisher with its own process and thread, and the drain of outcomes.

The publisher writes batches in separate transactions, as another program on the same machine would.
"""

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import DROP, Publication
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.admin import SqliteAdmin
from mqworker.brokers.sqlite.file import File
from tests.chaos.load import Queues
from tests.chaos.records import Outcome, Round
from tests.chaos.source import Source

BATCH = 25
LOOK = 0.05  # seconds between looks at the backlog


class FilePublisher(threading.Thread):
    """Keeps the input queue filled; a batch whose transaction fails stays ambiguous."""

    def __init__(self, path: Path, queue: str, source: Source) -> None:
        super().__init__(name="publisher", daemon=True)
        self._path, self._queue, self._source = path, queue, source
        self._over = threading.Event()

    def stop(self) -> None:
        """Stop after the current batch."""
        self._over.set()
        self.join(30)

    def run(self) -> None:
        file = File(self._path)
        try:
            while not self._over.wait(LOOK):
                queue = store.queue_id(file.db, self._queue)
                if queue is not None and store.count_ready(file.db, queue) < self._source.backlog:
                    with contextlib.suppress(sqlite3.Error):
                        self._batch(file)
        finally:
            file.close()

    def _batch(self, file: File) -> None:
        messages = [message for _ in range(BATCH) if (message := self._source.next()) is not None]
        with file.transaction() as db:
            for message in messages:
                properties = Properties()
                properties.content_type = "application/json"
                properties.message_id, properties.correlation_id = message.id, message.correlation
                for name, value in message.headers.items():
                    properties.headers[name] = value
                store.publish(db, Publication("", self._queue, properties.encode(), message.body))
        for message in messages:
            self._source.confirmed(message.id)


class Embedded:
    """A file in a folder; see the module head."""

    kind = "sqlite"
    secrets: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "broker.db"

    @property
    def url(self) -> str:
        """Where the service finds the broker."""
        return f"sqlite:////{str(self.path).lstrip('/')}"

    def prepare(self, queues: Queues, _kind: str) -> None:
        """Start with a new set of queues."""
        file = File(self.path)
        with file.transaction() as db:
            for queue in (queues.input, queues.output, queues.dead):
                store.make_queue(db, queue)
        file.close()

    def publisher(self, queues: Queues, source: Source) -> FilePublisher:
        """Return a publisher, not started."""
        return FilePublisher(self.path, queues.input, source)

    def left(self, queues: Queues) -> str:
        """Return what is still in the input queue, leased or delayed; "" when nothing is."""
        query = "SELECT count(*) FROM message WHERE queue NOT IN (SELECT id FROM queue WHERE name IN (?, ?))"
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
            count = db.execute(query, (queues.output, queues.dead)).fetchone()[0]
        return f"{count} messages" if count else ""

    def drain(self, queues: Queues) -> list[Outcome]:
        """Take all outcomes, in one transaction for each 500."""
        return asyncio.run(self._drain(queues))

    async def _drain(self, queues: Queues) -> list[Outcome]:
        outcomes: list[Outcome] = []
        admin = SqliteAdmin(self.path)
        try:
            for queue, word in ((queues.output, "result"), (queues.dead, "dead")):

                def take(block: bytes, body: bytes, word: str = word) -> str:
                    told = Properties.decode(block)
                    headers = {name: told.headers[name] for name in told.headers}
                    outcomes.append(Outcome(told.message_id or "", word, told.correlation_id or "", headers, body))
                    return DROP

                await admin.move(queue, 1_000_000, take, 120)
        finally:
            await admin.close()
        return outcomes

    def account(self, into: Round) -> None:
        """Check that the file is sound."""
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            answer = db.execute("PRAGMA integrity_check").fetchone()[0]
        if answer != "ok":
            into.violations.append(f"the file is damaged: {answer}")

    def heal(self) -> None:
        """Does nothing: there is nothing to undo."""

    def close(self, queues: Queues | None = None) -> None:
        """Does nothing: nothing is held."""
