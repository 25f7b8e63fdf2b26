"""Requests to the broker admin: queues, sending, waiting for results, receiving; for dead letters: `letter_verbs`.

Runs in the broker admin, on its loop. Owns the broker connection, which is opened when it is first needed. Each verb
takes its deadline in seconds as its first argument and returns plain values; it raises BrokerUnavailable,
BrokerRefused, TimeoutError. Verbs that go through a queue, or purge it, lock it (`queue_locks`).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from mqworker.broker_admin import dead_letters
from mqworker.broker_admin.letter_looks import PAGE
from mqworker.broker_admin.letter_verbs import LetterVerbs
from mqworker.broker_admin.queue_locks import QueueLocks
from mqworker.brokers import open_admin
from mqworker.brokers.base import DROP, STOP
from mqworker.config.model import Config
from mqworker.ipc.admin_messages import AdminProgress

MOVING = 0.5  # seconds that a message takes at most from a retry queue to the input
MOVED = 200  # how many messages further back a message that was taken may be by now


class Verbs:
    """See the module head."""

    def __init__(self, config: Config, tell: Callable[[AdminProgress], None] = lambda _: None) -> None:
        """`tell` receives the progress of operations on dead letters."""
        self._config = config
        self._admin = open_admin(config.broker)
        self._locks = QueueLocks()
        self.letters = LetterVerbs(config, self._admin, self._locks, tell)

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
        """Count the messages of each stage that wait for their next attempt, are ready, or are dead.

        The inputs are counted a moment after the retry queues, so that messages on their way between them are not
        missed.
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
            try:
                return await self._admin.purge(name, left)
            finally:
                self.letters.forget(name)

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
        """Remove messages of a queue by the ids of those that were taken, and return the next ones in full.

        So no message is removed before the caller has confirmed that it has it; equal messages have the same id.
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
            if taken:  # they come first, unless others have come back or been taken elsewhere since
                await self._admin.move(name, len(taken) + MOVED, wanted, patience, singly=True)
            return await self._in_full(name, limit, max(0.1, end - time.monotonic())) if limit else []

    async def _in_full(self, queue: str, limit: int, deadline: float) -> list[dict[str, Any]]:
        """Return the first messages of a queue; fewer if they are large."""
        size = 0

        def show(properties: bytes, body: bytes) -> bool | str:  # noqa: ARG001 - the interface of `peek`
            nonlocal size
            if size and size + len(body) > PAGE:
                return STOP
            size += len(body)
            return True

        found = await self._admin.peek(queue, limit, deadline, show, singly=True)
        return [dead_letters.describe(message.properties, message.body, whole=True) for message in found]


def _about_letters(name: str) -> Callable[..., Awaitable[Any]]:
    def verb(verbs: Verbs, *values: Any, **arguments: Any) -> Awaitable[Any]:
        asked: Awaitable[Any] = getattr(verbs.letters, name)(*values, **arguments)
        return asked

    return verb


VERBS: dict[str, Callable[..., Awaitable[Any]]] = {
    name: getattr(Verbs, name) for name in ("queues", "left", "purge", "delete", "send", "send_many", "call", "receive")
} | {name: _about_letters(name) for name in vars(LetterVerbs) if name.startswith("dlq_")}
