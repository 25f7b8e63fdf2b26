"""The desk: one spawned process that asks the broker on behalf of HTTP and the command line.

It looks at queues, purges, deletes, sends, waits for results and goes through dead letters, over a broker connection of
its own, so that all this works while a stage is stopped, and its death costs nothing but the answers in progress
(decisions 12). Receives AdminQuestions and sends AdminAnswers, many at a time; ends when the Service's pipe ends. The
Service's side is `client`.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from mqworker.broker_admin import dead_letters
from mqworker.brokers import open_admin
from mqworker.brokers.base import DROP, STOP, BrokerRefused, BrokerUnavailable, Publication
from mqworker.config.model import Config
from mqworker.ipc import logs
from mqworker.ipc.frames import FrameReader, FrameWriter
from mqworker.ipc.messages import AdminAnswer, AdminQuestion, LogEvent
from mqworker.ipc.spawn import Spawned, enter_child

LOOK_AT = 10_000  # dead letters that one question goes through
PAGE = 8 << 20  # bytes of bodies after which an answer with whole dead letters ends
GRACE = 2.0  # seconds that the desk has beyond a question's deadline before it is held to hang

_encoder = msgspec.msgpack.Encoder()
_asks = msgspec.msgpack.Decoder(AdminQuestion)
_answers = msgspec.msgpack.Decoder(AdminAnswer | LogEvent)

log = logging.getLogger("mqworker.broker_admin.process")


class BrokerAdmin(Spawned):
    """See the module head."""

    def __init__(self, config: Config, pipe: Connection) -> None:
        super().__init__(name="broker-admin")
        self._config = config
        self._pipe = pipe
        self._parent = os.getpid()

    def run(self) -> None:
        """Answer until the Service is gone."""
        enter_child("mqw-admin", self._parent, (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGHUP))
        asyncio.run(self._main())
        os._exit(0)

    async def _main(self) -> None:
        self._writer = FrameWriter(self._pipe.fileno())
        self._tasks: set[asyncio.Task[None]] = set()
        logs.use(logs.ForwardingHandler(self._forward, "broker-admin"), logging.INFO)
        over = asyncio.Event()
        verbs = Verbs(self._config)

        def on_ask(payload: bytes) -> None:
            task = asyncio.create_task(self._answer(verbs, _asks.decode(payload)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        reader = FrameReader(self._pipe.fileno(), on_ask, lambda _reason: over.set())
        await over.wait()
        reader.close()

    def _forward(self, event: LogEvent) -> None:
        self._writer.send(_encoder.encode(event), droppable=True)

    async def _answer(self, verbs: "Verbs", ask: AdminQuestion) -> None:
        try:
            value = await VERBS[ask.verb](verbs, ask.deadline, **ask.arguments)
            answer = AdminAnswer(ask.id, value)
        except BrokerUnavailable as error:
            answer = AdminAnswer(ask.id, error=str(error), kind="unavailable")
        except BrokerRefused as error:
            answer = AdminAnswer(ask.id, error=str(error), kind="refused")
        except TimeoutError:
            answer = AdminAnswer(ask.id, error=f"no answer within {ask.deadline:g} s", kind="deadline")
        except Exception as error:
            log.exception("the desk failed at %s", ask.verb, extra={"event": "desk_failed"})
            answer = AdminAnswer(ask.id, error=f"{type(error).__name__}: {error}", kind="internal")
        self._writer.send(_encoder.encode(answer))


class Verbs:
    """What can be asked; each takes its deadline in seconds first."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._desk = open_admin(config.broker)

    async def queues(self, deadline: float) -> list[dict[str, Any]]:
        """Every queue that the configuration names, and whether it is there."""
        found = []
        end = time.monotonic() + deadline
        for stage, config in self._config.stages.items():
            roles = {"input": config.input, "dead": config.dead}
            if config.output is not None:
                roles["output"] = config.output.queue
            for role, name in roles.items():
                info = await self._desk.queue(name, max(0.1, end - time.monotonic()))
                row: dict[str, Any] = {"name": name, "stage": stage, "role": role, "exists": info is not None}
                if info is not None:
                    row |= {"messages": info.messages, "consumers": info.consumers}
                found.append(row)
        return found

    async def retries(self, deadline: float) -> int:
        """Count the messages that wait to be tried again, in every stage."""
        end = time.monotonic() + deadline
        return sum(
            [
                await self._desk.delayed(config.input, max(0.1, end - time.monotonic()))
                for config in self._config.stages.values()
            ]
        )

    async def purge(self, deadline: float, name: str) -> int:
        """Remove all ready messages of a queue."""
        return await self._desk.purge(name, deadline)

    async def delete(self, deadline: float, name: str) -> int:
        """Delete a queue."""
        return await self._desk.delete(name, deadline)

    async def send(self, deadline: float, queue: str, properties: bytes, body: bytes) -> None:
        """Publish one message, confirmed."""
        await self._desk.send(queue, properties, body, deadline)

    async def call(self, deadline: float, queue: str, properties: bytes, body: bytes) -> dict[str, Any]:
        """Publish one message and wait for its result."""
        properties, body = await self._desk.call(queue, properties, body, deadline)
        return {"properties": properties, "body": body}

    async def dlq_list(self, deadline: float, stage: str, limit: int = 100) -> list[dict[str, Any]]:
        """Tell the dead letters of a stage, the oldest first."""
        found = await self._desk.peek(self._dead(stage), min(limit, LOOK_AT), deadline)
        told = [dead_letters.describe(letter.properties, letter.body) for letter in found]
        return sorted(told, key=lambda letter: str(letter.get("failed_at", "")))  # a quorum queue mixes them up

    async def dlq_show(self, deadline: float, stage: str, ids: list[str]) -> list[dict[str, Any]]:
        """Tell all of the dead letters of these names, as far as they are there; fewer when they are large."""
        chooser = _Chooser(ids, "", len(ids))
        size = 0

        def show(properties: bytes, body: bytes) -> bool | str:
            nonlocal size
            if not chooser.left or size >= PAGE:
                return STOP
            chosen = chooser.chosen(properties, body)
            size += len(body) if chosen else 0
            return chosen

        found = await self._desk.peek(self._dead(stage), LOOK_AT, deadline, show)
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
        queue = self._config.stages[stage].input
        chooser = _Chooser(ids, reason, limit)
        sent: set[bytes] = set()  # what they will be if they die again before this is over
        if dry:
            found = await self._desk.peek(self._dead(stage), LOOK_AT, deadline)
            return sum(chooser.chosen(letter.properties, letter.body) for letter in found)

        def wanted(properties: bytes, body: bytes) -> Publication | str | None:
            if not chooser.left:
                return STOP
            if dead_letters.lineage(properties, body) in sent or not chooser.chosen(properties, body):
                return None
            sent.add(dead_letters.lineage(properties, body, later=1))
            return dead_letters.replay(properties, body, queue)

        return await self._desk.move(self._dead(stage), LOOK_AT, wanted, deadline)

    async def dlq_drop(
        self, deadline: float, stage: str, ids: list[str] | None = None, reason: str = "", limit: int = LOOK_AT
    ) -> int:
        """Remove dead letters for good; returns how many."""
        chooser = _Chooser(ids, reason, limit)

        def wanted(properties: bytes, body: bytes) -> str | None:
            if not chooser.left:
                return STOP
            return DROP if chooser.chosen(properties, body) else None

        return await self._desk.move(self._dead(stage), LOOK_AT, wanted, deadline)

    def _dead(self, stage: str) -> str:
        return self._config.stages[stage].dead


VERBS: dict[str, Callable[..., Awaitable[Any]]] = {
    name: getattr(Verbs, name)
    for name in (
        "queues",
        "retries",
        "purge",
        "delete",
        "send",
        "call",
        "dlq_list",
        "dlq_show",
        "dlq_replay",
        "dlq_drop",
    )
}


class _Chooser:
    """Chooses dead letters by id and reason, the oldest first, until none of the limit is left."""

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
