"""`SqliteAdmin`: one-off requests to the embedded broker.

Runs in the broker admin process; its one worker thread owns an open file, which it keeps until an error. A request
that writes is one transaction, which is rolled back if its deadline has passed: a request that is not answered in time
has changed nothing. Fails with `BrokerUnavailable` (the file, the lock, the deadline) and `BrokerRefused` (no such
queue, no route).
"""

import asyncio
import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from mqworker.amqp.properties import decode_leniently
from mqworker.brokers.base import (
    STOP,
    BrokerRefused,
    BrokerUnavailable,
    Fetched,
    Moving,
    Peeked,
    Publication,
    QueueInfo,
    Show,
    Wanted,
    decode_or_refuse,
    no_queue,
)
from mqworker.brokers.replies import Replies
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.choosing import TOGETHER, Choosing
from mqworker.brokers.sqlite.file import File, Unsure, Unusable, explain, is_busy

REPLY_POLL = 0.015  # seconds between looks for a reply
MOVED = TOGETHER  # messages that one transaction of `move` takes

T = TypeVar("T")


class SqliteAdmin:
    """Implements `mqworker.brokers.base.Admin` on a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-admin")
        self._file: File | None = None
        self._owner: int | None = None  # our registration in that file, for reply queues
        self._name = f"admin {uuid.uuid4().hex}"

    async def queue(self, name: str, deadline: float) -> QueueInfo | None:
        """See `Admin.queue`."""

        def work(db: sqlite3.Connection) -> QueueInfo | None:
            queue = store.queue_id(db, name)
            if queue is None:
                return None
            return QueueInfo(name, store.count_ready(db, queue), store.count_consumers(db, name))

        return await self._ask(work, deadline, writes=False)

    async def delayed(self, name: str, deadline: float) -> int:
        """See `Admin.delayed`."""
        return await self._ask(lambda db: store.count_delayed(db, name), deadline, writes=False)

    async def purge(self, name: str, deadline: float) -> int:
        """See `Admin.purge`."""
        return await self._ask(lambda db: store.purge_queue(db, _existing(db, name)), deadline)

    async def delete(self, name: str, deadline: float) -> int:
        """See `Admin.delete`."""
        return await self._ask(lambda db: store.delete_queue(db, _existing(db, name)), deadline)

    async def send(self, queue: str, properties: bytes, body: bytes, deadline: float) -> None:
        """See `Admin.send`."""
        publication = Publication("", queue, properties, body)
        await self._ask(lambda db: store.publish(db, publication), deadline)

    async def send_many(self, queue: str, messages: Sequence[tuple[bytes, bytes]], deadline: float) -> list[str]:
        """See `Admin.send_many`; all are stored in one transaction, or all refused."""
        publications = [Publication("", queue, properties, body) for properties, body in messages]

        def work(db: sqlite3.Connection) -> list[str]:
            try:
                store.publish_together(db, publications)
            except store.Refused as refusal:
                return [str(refusal)] * len(publications)
            return [""] * len(publications)

        return await self._ask(work, deadline)

    async def call(self, queue: str, properties: bytes, body: bytes, deadline: float) -> list[tuple[bytes, bytes]]:
        """See `Admin.call`; the reply queue ends with the request."""
        until = time.monotonic() + deadline
        request = decode_or_refuse(properties)
        request.reply_to = reply = f"mqworker.reply.{uuid.uuid4().hex}"
        request.correlation_id = correlation = uuid.uuid4().hex
        publication = Publication("", queue, request.encode(), body)

        def send(db: sqlite3.Connection) -> None:
            store.publish(db, publication)
            store.make_queue(db, reply, self._registered(db))

        replies, seen = Replies(), 0

        def receive(db: sqlite3.Connection) -> bool:
            """Read the new replies; returns whether all have come."""
            nonlocal seen
            queue = _existing(db, reply)
            new = store.ready_ids(db, queue, store.count_ready(db, queue))[seen:]
            seen += len(new)
            read = [each for number in new if (each := store.content(db, number)) is not None]
            return any(replies.add(*each) for each in read if decode_leniently(each[0]).correlation_id == correlation)

        await self._ask(send, deadline)
        try:
            while not await self._ask(receive, max(until - time.monotonic(), 0.01), writes=False):
                if time.monotonic() >= until:
                    what = f"{replies.came} from {queue!r} within {deadline:g} s"
                    raise BrokerUnavailable(f"{what}: is its stage running?")
                await asyncio.sleep(REPLY_POLL)
        finally:
            # a queue that cannot be deleted now is deleted when this process ends
            with contextlib.suppress(BrokerUnavailable, BrokerRefused):
                await self._ask(lambda db: store.delete_queue(db, _existing(db, reply)), 1.0)
        return replies.all()

    async def peek(
        self,
        queue: str,
        limit: int,
        deadline: float,
        show: Show | None = None,
        *,
        singly: bool = False,  # noqa: ARG002 - part of the interface; a look changes nothing here
        fetched: Fetched | None = None,  # noqa: ARG002 - as above; no message costs a round trip
    ) -> list[Peeked]:
        """See `Admin.peek`."""
        return await self._ask(lambda db: _peek(db, _existing(db, queue), limit, show), deadline, writes=False)

    async def move(
        self,
        queue: str,
        limit: int,
        wanted: Wanted,
        deadline: float,
        *,
        most: int | None = None,
        singly: bool = False,  # noqa: ARG002 - as above
        together: int = MOVED,  # noqa: ARG002 - nothing is doubled in a transaction
        moving: Moving | None = None,
    ) -> int:
        """See `Admin.move`; one transaction moves up to 500 messages or 32 MiB.

        A publication without a route raises `BrokerRefused`; then nothing of that transaction was done.
        """
        until = time.monotonic() + deadline

        def left() -> float:
            return max(until - time.monotonic(), 0.01)

        def begin(db: sqlite3.Connection) -> Choosing:
            found = _existing(db, queue)
            return Choosing(found, store.ready_ids(db, found, limit), wanted)

        choosing = await self._ask(begin, deadline, writes=False)
        moved = 0
        while most is None or moved < most:
            room = MOVED if most is None else min(MOVED, most - moved)
            while not choosing.enough(room):
                await self._ask(partial(choosing.read, room=room, until=until), left(), writes=False)
            taking = choosing.take()
            if not taking or (moving is not None and not moving.begins(0)):
                break
            gone = await self._ask(taking.carry_out, left())
            moved += gone
            if moving is not None:
                moving.moved(gone)
        return moved

    async def close(self) -> None:
        """See `Admin.close`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _ask(self, work: Callable[[sqlite3.Connection], T], deadline: float, *, writes: bool = True) -> T:
        until = time.monotonic() + deadline
        loop = asyncio.get_running_loop()
        try:
            answer = loop.run_in_executor(self._thread, self._work, work, until, writes)
            return await asyncio.wait_for(answer, deadline)
        except TimeoutError:
            raise BrokerUnavailable(f"{self._path} did not answer within {deadline:g} s") from None

    def _work(self, work: Callable[[sqlite3.Connection], T], until: float, writes: bool) -> T:
        while True:
            try:
                return self._once(work, until, writes)
            except store.Refused as refusal:
                raise BrokerRefused(str(refusal)) from None
            except UnicodeEncodeError:
                raise BrokerRefused("a queue name must be valid UTF-8") from None
            except (sqlite3.Error, OSError, Unusable, Unsure) as error:
                if not is_busy(error) or time.monotonic() >= until:
                    self._drop()
                    raise BrokerUnavailable(explain(error, self._path)) from error

    def _once(self, work: Callable[[sqlite3.Connection], T], until: float, writes: bool) -> T:
        if self._file is not None and not self._file.is_in_place():
            self._drop()
        self._file = self._file or File(self._path)
        if not writes:
            return work(self._file.db)
        with self._file.transaction() as db:
            result = work(db)
            if time.monotonic() > until:  # nobody is waiting for it any more
                raise BrokerUnavailable(f"{self._path} did not answer in time")
        return result

    def _registered(self, db: sqlite3.Connection) -> int:
        if self._owner is None or not store.has_owner(db, self._owner):
            self._owner = store.add_owner(db, self._name)
        return self._owner

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._owner = None

    def _close(self) -> None:
        owner = self._owner
        if self._file is not None and owner is not None:
            with contextlib.suppress(sqlite3.Error, Unusable, Unsure), self._file.transaction() as db:
                store.remove_owner(db, owner)
        self._drop()


def _existing(db: sqlite3.Connection, name: str) -> int:
    queue = store.queue_id(db, name)
    if queue is None:
        raise store.Refused(no_queue(name))
    return queue


def _peek(db: sqlite3.Connection, queue: int, limit: int, show: Show | None = None) -> list[Peeked]:
    found: list[Peeked] = []
    for position, each in enumerate(store.ready_ids(db, queue, limit)):
        content = store.content(db, each)
        if content is None:  # taken by another process in the meantime
            continue
        verdict = True if show is None else show(*content)
        if verdict == STOP:
            break
        if verdict:
            found.append(Peeked(position, *content))
    return found
