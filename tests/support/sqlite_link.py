"""A recorder for a Link's events, and a small program around a `SqliteLink` for tests that kill processes.

Run as `python -m tests.support.sqlite_link hold|publish|relay PATH`; prints one line for each thing that a test waits
for.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from mqworker.brokers.base import Delivery, LinkState, Placement, Publication, Topology
from mqworker.brokers.sqlite.link import SqliteLink
from tests.support.waiting import AMPLE, until

TOPOLOGY = Topology("in", Placement("out", "exchange", "key"), "in.dlq")


class Recorder:
    """A Sink that keeps everything, and counts its publications."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.confirmed_ids: list[int] = []
        self.refusals: dict[int, str] = {}
        self.too_large: set[int] = set()
        self.lost: list[str] = []
        self.voided: list[tuple[int, str]] = []
        self.states: list[LinkState] = []
        self.published = 0

    def delivered(self, delivery):
        self.deliveries.append(delivery)

    def confirmed(self, publish_ids):
        self.confirmed_ids += publish_ids

    def refused(self, publish_id, reason, *, too_large=False):
        self.refusals[publish_id] = reason
        if too_large:
            self.too_large.add(publish_id)

    def publishes_lost(self, reason):
        self.lost.append(reason)

    def consuming_lost(self, epoch, reason):
        self.voided.append((epoch, reason))

    def link_changed(self, state):
        self.states.append(state)

    @property
    def bodies(self):
        return [delivery.body for delivery in self.deliveries]

    def publish(self, link, body, key="in", exchange="", **options):
        self.published += 1
        link.publish(self.published, Publication(exchange, key, b"\0\0", body, **options))
        return self.published

    async def placed(self, link, body, key="in", exchange="", **options):
        """Publish and wait for the answer: '' or why it was refused."""
        publish_id = self.publish(link, body, key, exchange, **options)
        await until(
            lambda: publish_id in self.confirmed_ids or publish_id in self.refusals, 10, "an answer to a publish"
        )
        return self.refusals.get(publish_id, "")


@contextlib.asynccontextmanager
async def opened(path: Path, topology: Topology = TOPOLOGY) -> AsyncIterator[tuple[SqliteLink, Recorder]]:
    """Return a connected Link and its Recorder."""
    sink = Recorder()
    link = SqliteLink(path, topology, sink, name="test")
    link.start()
    try:
        await until(lambda: link.state.connected, 10, "connecting")
        yield link, sink
    finally:
        await link.close(AMPLE)


async def hold(path: Path) -> None:
    """Take everything and keep it."""
    async with opened(path) as (link, sink):
        link.consume(100)
        await until(lambda: sink.deliveries, 10, "a delivery")
        print(len(sink.deliveries), flush=True)
        await asyncio.sleep(60)


async def publish(path: Path) -> None:
    """Publish numbers without end; print each confirmed one."""
    async with opened(path) as (link, sink):
        told = 0
        while True:
            if sink.published - len(sink.confirmed_ids) < 200:
                sink.publish(link, b"%d" % (sink.published + 1))
            else:
                await asyncio.sleep(0)
            for publish_id in sink.confirmed_ids[told:]:
                print(publish_id)
            sys.stdout.flush()
            told = len(sink.confirmed_ids)


async def relay(path: Path) -> None:
    """Publish, take, move to the output and ack for 2 s; print what was published, refused and lost."""
    async with opened(path) as (link, sink):
        link.consume(50)
        done = inputs = 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            if sink.published - len(sink.confirmed_ids) < 100:
                sink.publish(link, b"x")
                inputs += 1
            for delivery in sink.deliveries[done:]:
                place = (delivery.epoch, delivery.tag)
                sink.publish(link, delivery.body, "key", "exchange", settles=place)
                link.ack(*place, multiple=False)
            done = len(sink.deliveries)
            await asyncio.sleep(0.001)
        await until(lambda: len(sink.confirmed_ids) == sink.published, 20, "all confirms")
        print(inputs, len(sink.refusals), len(sink.lost), len(sink.voided), flush=True)


if __name__ == "__main__":
    asyncio.run({"hold": hold, "publish": publish, "relay": relay}[sys.argv[1]](Path(sys.argv[2])))
