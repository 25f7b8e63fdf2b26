"""What the broker admin can be asked: queues, sending, waiting for a result, receiving, dead letters.

Runs in the broker admin, on its loop. Owns the broker connection, which is opened when it is first needed. Each verb
takes its deadline in seconds first and returns plain values; it raises BrokerUnavailable, BrokerRefused, TimeoutError.
Those that go through a queue, or purge it, have it alone (`queue_locks`).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from mqworker.broker_admin import dead_letters
from mqworker.broker_admin.queue_locks import QueueLocks
from mqworker.brokers import open_admin
from mqworker.brokers.base import DROP, STOP, Peeked, Publication, Show, Wanted
from mqworker.config.model import Config

MOVING = 0.5  # seconds in which a message gets from a retry queue to the input
LOOK_AT = 10_000  # dead letters that one question goes through
PAGE = 8 << 20  # bytes of bodies after which an answer with whole messages ends
MOVED = 200  # messages behind those that were taken among which one of them may be by now


class Verbs:
    """See the module head."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._admin = open_admin(config.broker)
        self._locks = QueueLocks()

    async def queues(self, deadline: float) -> list[dict[str, Any]]:
        """Return every queue that the configuration names, and whether it exists."""
        found = []
        end = time.monotonic() + deadline
        for stage, config in self._config.stages.items():
            roles = [("input", config.input.queue), ("dead", config.dead)]
            if config.output is not None and config.output.queue:
                roles.append(("output", config.output.queue))
            roles += [("position", config.position_queue(source)) for source in self._config.sources_into(stage)]
            for role, name in roles:
                info = await self._admin.queue(name, max(0.1, end - time.monotonic()))
                row: dict[str, Any] = {"name": name, "stage": stage, "role": role, "exists": info is not None}
                if info is not None:
                    row |= {"messages": info.messages, "consumers": info.consumers}
                found.append(row)
        return found

    async def left(self, deadline: float) -> dict[str, tuple[int, int, int]]:
        """Count the messages of each stage that wait for their next attempt, that are ready, and that are dead.

        The inputs come a moment after the retry queues: what was on its way from there to the input is not missed.
        """
        end, stages = time.monotonic() + deadline, self._config.stages

        def until() -> float:
            return max(0.1, end - time.monotonic())

        async def ready(queue: str) -> int:
            info = await self._admin.queue(queue, until())
            return 0 if info is None else info.messages

        retries = [await self._admin.delayed(stage.input.queue, until()) for stage in stages.values()]
        await asyncio.sleep(MOVING)
        return {
            name: (waiting, await ready(stage.input.queue), await ready(stage.dead))
            for (name, stage), waiting in zip(stages.items(), retries, strict=True)
        }

    async def purge(self, deadline: float, name: str) -> int:
        """Remove all ready messages of a queue."""
        async with self._locks.alone(name, deadline) as left:
            return await self._admin.purge(name, left)

    async def delete(self, deadline: float, name: str) -> int:
        """Delete a queue."""
        return await self._admin.delete(name, deadline)

    async def send(self, deadline: float, queue: str, properties: bytes, body: bytes) -> None:
        """Publish one message, confirmed."""
        await self._admin.send(queue, properties, body, deadline)

    async def send_many(self, deadline: float, queue: str, messages: list[tuple[bytes, bytes]]) -> list[str]:
        """Publish messages, each (properties, body); returns for each why it was refused, "" if it is confirmed."""
        return await self._admin.send_many(queue, messages, deadline)

    async def call(self, deadline: float, queue: str, properties: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
        """Publish one message and wait for its results."""
        return await self._admin.call(queue, properties, body, deadline)

    async def receive(self, deadline: float, name: str, limit: int, taken: list[str]) -> list[dict[str, Any]]:
        """Remove the messages of a queue that have been taken, by id, and return the next ones in full.

        So none is removed before whoever takes it has said that it is safe there; equal messages have the same id.
        """
        left = Counter(taken)

        def wanted(properties: bytes, body: bytes) -> str | None:
            if not left.total():
                return STOP
            letter = dead_letters.letter_id(properties, body)
            found = left[letter] > 0
            left[letter] -= found
            return DROP if found else None

        async with self._locks.alone(name, deadline) as patience:
            end = time.monotonic() + patience
            if taken:  # they are the first ones, unless others have come back or been taken elsewhere since
                await self._admin.move(name, len(taken) + MOVED, wanted, patience, singly=True)
            return await self._in_full(name, limit, max(0.1, end - time.monotonic())) if limit else []

    async def dlq_list(self, deadline: float, stage: str, limit: int = 100) -> list[dict[str, Any]]:
        """Return the dead letters of a stage, the oldest first."""
        told: list[dict[str, Any]] = []

        def show(properties: bytes, body: bytes) -> bool:
            told.append(dead_letters.describe(properties, body))
            return False  # what was told is enough: bodies may be large

        await self._look(stage, deadline, show, limit=min(limit, LOOK_AT))
        return sorted(told, key=lambda letter: str(letter.get("failed_at", "")))  # replays may have mixed them up

    async def dlq_show(self, deadline: float, stage: str, ids: list[str]) -> list[dict[str, Any]]:
        """Return the dead letters with these ids in full, as far as they exist; fewer when they are large."""
        chooser = _Chooser(ids, "", len(ids))
        size = 0

        def show(properties: bytes, body: bytes) -> bool | str:
            nonlocal size
            if not chooser.left or size >= PAGE:
                return STOP
            chosen = chooser.chosen(properties, body)
            size += len(body) if chosen else 0
            return chosen

        found = await self._look(stage, deadline, show)
        return [dead_letters.describe(letter.properties, letter.body, whole=True) for letter in found]

    async def dlq_replay(
        self,
        deadline: float,
        stage: str,
        ids: list[str] | None = None,
        reason: str = "",
        limit: int = LOOK_AT,
        *,
        dry: bool = False,
    ) -> int:
        """Send dead letters back to the input (those named, or of one reason, or all); returns how many."""
        queue = self._config.stages[stage].input.queue
        chooser = _Chooser(ids, reason, limit)
        sent: set[bytes] = set()  # their digests if they die again before this is over
        if dry:

            def count(properties: bytes, body: bytes) -> bool | str:
                chooser.chosen(properties, body)
                return False if chooser.left else STOP

            await self._look(stage, deadline, count)
            return limit - chooser.left

        def wanted(properties: bytes, body: bytes) -> Publication | str | None:
            if not chooser.left:
                return STOP
            if dead_letters.lineage(properties, body) in sent or not chooser.chosen(properties, body):
                return None
            sent.add(dead_letters.lineage(properties, body, later=1))
            return dead_letters.replay(properties, body, queue)

        return await self._move(stage, wanted, deadline, limit)

    async def dlq_drop(
        self, deadline: float, stage: str, ids: list[str] | None = None, reason: str = "", limit: int = LOOK_AT
    ) -> int:
        """Remove dead letters for good; returns how many."""
        chooser = _Chooser(ids, reason, limit)

        def wanted(properties: bytes, body: bytes) -> str | None:
            if not chooser.left:
                return STOP
            return DROP if chooser.chosen(properties, body) else None

        return await self._move(stage, wanted, deadline, limit)

    async def _in_full(self, queue: str, limit: int, deadline: float) -> list[dict[str, Any]]:
        """Return the first messages of a queue; fewer when they are large."""
        size = 0

        def show(properties: bytes, body: bytes) -> bool | str:  # noqa: ARG001 - the interface of `peek`
            nonlocal size
            if size and size + len(body) > PAGE:
                return STOP
            size += len(body)
            return True

        found = await self._admin.peek(queue, limit, deadline, show, singly=True)
        return [dead_letters.describe(message.properties, message.body, whole=True) for message in found]

    async def _look(
        self, stage: str, deadline: float, show: Show | None = None, *, limit: int = LOOK_AT
    ) -> list[Peeked]:
        queue = self._config.stages[stage].dead
        async with self._locks.alone(queue, deadline) as left:
            return await self._admin.peek(queue, limit, left, show)

    async def _move(self, stage: str, wanted: Wanted, deadline: float, most: int) -> int:
        queue = self._config.stages[stage].dead
        async with self._locks.alone(queue, deadline) as left:
            return await self._admin.move(queue, LOOK_AT, wanted, left, most=most)


VERBS: dict[str, Callable[..., Awaitable[Any]]] = {
    name: getattr(Verbs, name)
    for name in (
        "queues",
        "left",
        "purge",
        "delete",
        "send",
        "send_many",
        "call",
        "receive",
        "dlq_list",
        "dlq_show",
        "dlq_replay",
        "dlq_drop",
    )
}


class _Chooser:
    """Chooses dead letters by id and reason, the oldest first, until the limit is reached."""

    def __init__(self, ids: list[str] | None, reason: str, limit: int) -> None:
        self.left = limit
        self._ids = None if ids is None else frozenset(ids)
        self._reason = reason

    def chosen(self, properties: bytes, body: bytes) -> bool:
        """Whether this is one of them."""
        fits = self.left > 0 and (self._ids is None or dead_letters.letter_id(properties, body) in self._ids)
        if fits and self._reason:
            fits = dead_letters.reason(properties) == self._reason
        self.left -= fits
        return fits
