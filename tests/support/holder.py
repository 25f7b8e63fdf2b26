"""A process that consumes a queue and acks only the first few: for tests that stop and kill it.

Run as `python -m tests.support.holder URL TOPOLOGY PREFETCH ACKS HEARTBEAT`, the topology as JSON; prints each body.
"""

import asyncio
import sys

import msgspec

from mqworker.brokers import open_link
from mqworker.brokers.base import Delivery, Topology
from mqworker.config.model import BrokerConfig
from tests.brokers.harness import Recorder


class Printer(Recorder):
    """Prints what comes."""

    def delivered(self, delivery: Delivery) -> None:
        super().delivered(delivery)
        print(delivery.body.decode(), flush=True)


async def hold(url: str, topology: Topology, prefetch: int, acks: int, heartbeat: int) -> None:
    """Consume, and keep all but the first."""
    sink = Printer()
    link = open_link(BrokerConfig(url=url, heartbeat=heartbeat), topology, sink, "holder")
    link.consume(prefetch, prefetch)
    link.start()
    await sink.has(acks, 60)
    for delivery in sink.deliveries[:acks]:
        link.ack(delivery.epoch, delivery.tag, multiple=False)
    await asyncio.sleep(600)


if __name__ == "__main__":
    topology = msgspec.json.decode(sys.argv[2], type=Topology)
    asyncio.run(hold(sys.argv[1], topology, *map(int, sys.argv[3:])))
