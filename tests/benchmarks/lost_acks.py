"""How many acknowledgements a killed RabbitMQ forgets: `.venv/bin/python -m tests.benchmarks.lost_acks --help`.

For each type of queue: a backlog is stored, then drained at a steady rate; after some seconds the node is killed and
started again. What comes back although it was acknowledged is counted, and told in seconds of the rate too. The three
types are drained at the same time, on one private node. "Silent": nobody publishes into the queue meanwhile; otherwise
one persistent message is published this often, and confirmed.
"""

import argparse
import asyncio
import itertools
import tempfile
from pathlib import Path

from mqworker.brokers.base import Delivery, Publication, Topology
from mqworker.brokers.rabbitmq.link import RabbitLink
from mqworker.brokers.rabbitmq.queues import attempt
from mqworker.config.model import BrokerConfig
from tests.brokers.harness import Recorder
from tests.support.rabbitmq import RabbitNode
from tests.support.waiting import until

TYPES = {
    "classic, version 1": {"x-queue-type": "classic", "x-queue-version": 1},
    "classic, version 2": {"x-queue-type": "classic", "x-queue-version": 2},
    "quorum": {"x-queue-type": "quorum"},
}
TICK = 0.01  # seconds between acknowledgements
PREFETCH = BATCH = 1000
START = 180.0  # seconds for a node to start, also on a busy machine


class Drained:
    """One queue, its backlog, and what was acknowledged of it."""

    def __init__(self, name: str, url: str, kind: str, every: float) -> None:
        self.name, self.kind, self.every = name, kind, every
        self.stored = self.acked = self.left = 0
        self._sink = Recorder()
        topology = Topology(name, None, f"{name}.dlq", TYPES[kind]["x-queue-type"])
        self._link = RabbitLink(BrokerConfig(url=url), topology, self._sink, name=name)

    async def fill(self, messages: int) -> None:
        """Make the queue and store its backlog."""
        self._link.start()
        await until(lambda: self._link.state.connected, 30, "a connection")
        connection = self._link._consuming.connection
        await attempt(connection, "queue_delete", queue=self.name)
        await attempt(connection, "queue_declare", queue=self.name, durable=True, arguments=TYPES[self.kind])
        await until(lambda: self._link.state.connected, 30, "a connection")
        while self.stored < messages:
            for _ in range(BATCH):
                self._store()
            await until(lambda: len(self._sink.answers) == self.stored, 60, "the backlog")
        assert not any(self._sink.answers.values())

    def _store(self) -> None:
        self.stored += 1
        self._link.publish(self.stored, Publication("", self.name, b"\x10\x00\x02", b"x" * 200))

    async def drain(self, rate: int, seconds: float) -> None:
        """Acknowledge so many a second."""
        self._link.consume(PREFETCH)
        await self._sink.has(1)
        loop = asyncio.get_running_loop()
        began, published = loop.time(), 0
        while (passed := loop.time() - began) < seconds:
            due: list[Delivery] = self._sink.deliveries[self.acked : int(passed * rate)]
            if due:
                self._link.ack(due[-1].epoch, due[-1].tag, multiple=True)
                self.acked += len(due)
            if self.every and passed >= (published + 1) * self.every:
                published += 1
                self._store()
            await asyncio.sleep(TICK)

    async def close(self) -> None:
        """Forget the connection."""
        await self._link.close(1)

    async def count(self, url: str) -> None:
        """Count what is left."""
        link = RabbitLink(
            BrokerConfig(url=url), Topology(self.name, None, f"{self.name}.dlq"), Recorder(), name="count"
        )
        link.start()
        await until(lambda: (link.depth() or 0) > 0, 60, "the depth")
        self.left = link.depth() or 0
        await link.close(1)

    def row(self, rate: int) -> str:
        """Return what came back, as a row of a table."""
        back = self.left - (self.stored - self.acked)
        other = f"every {self.every:g} s" if self.every else "silent"
        return f"| {self.kind} | {other} | {rate} | {self.acked} | {back} | {back / rate:.2f} s |"


async def measure(node: RabbitNode, rate: int, seconds: float, every: float) -> list[str]:
    """Measure every type of queue, with such a pause between publications (0: none)."""
    queues = [Drained(f"acks.{n}", node.url(), kind, every) for n, kind in enumerate(TYPES)]
    for queue in queues:
        await queue.fill(int(rate * seconds) + 2 * PREFETCH)
    await asyncio.gather(*(queue.drain(rate, seconds) for queue in queues))
    node.kill()
    await asyncio.gather(*(queue.close() for queue in queues))
    node.start(START)
    for queue in queues:
        await queue.count(node.url())
    return [queue.row(rate) for queue in queues]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, nargs="+", default=[10, 100, 1000], help="acknowledgements a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, nargs="+", default=[0.0, 10.0, 1.0], help="seconds between publications")
    options = parser.parse_args()
    print("| queue | others publish | acks/s | acknowledged | came back | of the last |\n|---|---|---|---|---|---|")
    for rate, every in itertools.product(options.rate, options.every):
        with tempfile.TemporaryDirectory(prefix="mqw-acks-") as folder:
            node = RabbitNode(Path(folder) / "node")
            try:
                node.start(START)
                print("\n".join(asyncio.run(measure(node, rate, options.seconds, every))), flush=True)
            finally:
                node.close()


if __name__ == "__main__":
    main()
