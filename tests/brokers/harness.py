"""What the contract tests need from a broker; one small class for each.

A harness belongs to one test: its names are unique, and `close` closes what it opened.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import uuid4

from msgspec import structs

from mqworker.brokers import open_admin, open_link
from mqworker.brokers.base import Admin, Delivery, Link, LinkState, Placement, Topology
from mqworker.config.model import BrokerConfig
from tests.support.loop import on_loop
from tests.support.waiting import AMPLE, Patience, until


class Recorder:
    """A Sink that records everything."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.answers: dict[int, str] = {}  # publish_id: "" when confirmed, else why it was refused
        self.too_large: set[int] = set()  # publish_ids that were refused for their size
        self.publishes_lost_for: list[str] = []
        self.consuming_lost_for: list[tuple[int, str]] = []
        self.states: list[LinkState] = []
        self.depths: list[int] = []  # of the output queue
        self.dead_depths: list[int] = []
        self._news = asyncio.Event()  # a delivery, or an answer

    def delivered(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._news.set()

    def confirmed(self, publish_ids: Sequence[int]) -> None:
        for publish_id in publish_ids:
            assert publish_id not in self.answers, "answered twice"
            self.answers[publish_id] = ""
        self._news.set()

    def refused(self, publish_id: int, reason: str, *, too_large: bool = False) -> None:
        assert publish_id not in self.answers, "answered twice"
        self.answers[publish_id] = reason
        self._news.set()
        if too_large:
            self.too_large.add(publish_id)

    def publishes_lost(self, reason: str) -> None:
        self.publishes_lost_for.append(reason)

    def consuming_lost(self, epoch: int, reason: str) -> None:
        self.consuming_lost_for.append((epoch, reason))

    def link_changed(self, state: LinkState) -> None:
        self.states.append(state)

    def output_depth(self, messages: int) -> None:
        self.depths.append(messages)

    def dead_depth(self, messages: int) -> None:
        self.dead_depths.append(messages)

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    async def has(self, count: int, deadline: float = 10) -> list[Delivery]:
        """Wait for this many deliveries."""
        await self._until(lambda: len(self.deliveries) >= count, deadline, f"{count} deliveries")
        return self.deliveries

    async def answer(self, publish_id: int, deadline: float = 10) -> str:
        """Wait for the answer to a publication: "" when confirmed."""
        await self._until(lambda: publish_id in self.answers, deadline, f"answer to publication {publish_id}")
        return self.answers[publish_id]

    async def _until(self, predicate: Callable[[], bool], deadline: float, what: str) -> None:
        """Like `until`, but without a pause after the event: many are waited for one by one."""
        patience = Patience(deadline)
        while not predicate():
            assert not patience.over(), f"{what}: not within {deadline} s, but {len(self.deliveries)} deliveries"
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._news.wait()


class Harness(Protocol):
    """A broker under the contract."""

    topology: Topology

    async def publish(self, queue: str, properties: bytes, body: bytes) -> None:
        """Put a message into a queue without using a Link."""

    async def take(self, queue: str) -> tuple[bytes, bytes] | None:
        """Remove a message from a queue without using a Link; return its properties and body."""

    async def count(self, queue: str) -> int:
        """Return how many messages are ready in a queue."""

    def make_link(self, sink: Recorder, **config) -> Link:
        """Return a Link that is not started."""

    def make_admin(self) -> Admin:
        """Return an Admin."""

    async def close(self) -> None:
        """Close what was opened and remove what was made."""


class Common:
    """What all harnesses share: names, and Links and Admins that are closed at the end."""

    url: str

    def __init__(self, queue_type: str = "classic") -> None:
        unique = uuid4().hex[:8]
        output = Placement(f"{unique}.out", f"{unique}.exchange", "key")
        self.topology = Topology(f"{unique}.in", output, f"{unique}.in.dlq", queue_type)
        self._open: list[Link | Admin] = []

    def order(self, ordered: bool = True) -> None:
        """Make Links of an ordered stage from now on, or of one that is not."""
        self.topology = structs.replace(self.topology, ordered=ordered)

    def make_link(self, sink: Recorder, **config) -> Link:
        link = open_link(BrokerConfig(**{"url": self.url} | config), self.topology, sink, "contract")
        self._open.append(link)
        return link

    def make_admin(self, **config) -> Admin:
        admin = open_admin(BrokerConfig(url=self.url, **config))
        self._open.append(admin)
        return admin

    async def started(self, prefetch: int = 0, **config) -> tuple[Link, Recorder]:
        """Return a Link that is connected (and consumes), and its Recorder."""
        sink = Recorder()
        link = self.make_link(sink, **config)
        link.consume(prefetch)
        link.start()
        await until(lambda: link.state.connected and link.state.consuming == bool(prefetch), 15, "a connected link")
        return link, sink

    async def count(self, queue: str) -> int:
        info = await self.make_admin().queue(queue, AMPLE)
        assert info is not None
        return info.messages

    async def counts(self, queue: str, expected: int, deadline: float = 10) -> None:
        """Wait until a queue holds this many ready messages."""
        patience = Patience(deadline)
        while (count := await self.count(queue)) != expected:
            assert not patience.over(), f"{count} messages in {queue}, not {expected} within {deadline} s"
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Close the Links and Admins that were made."""
        for opened in reversed(self._open):
            with contextlib.suppress(Exception):
                await (opened.close(2) if hasattr(opened, "consume") else opened.close())


def contract(test):
    """Run an async test of one broker and close its harness on the same loop."""

    @functools.wraps(test)
    async def closing(broker: Common, **arguments):
        try:
            await test(broker, **arguments)
        finally:
            async with asyncio.timeout(AMPLE):  # a broker that the test left frozen or blocked answers nothing
                await broker.close()

    return on_loop(closing)
