"""How late retries come when their broker is killed: `.venv/bin/python -m tests.benchmarks.late_retries --help`.

Messages wait for one second each in a delay queue as mqworker makes it, and come due one after the other. Meanwhile
SIGKILL ends the node: a single one, or with `--nodes 3` the one of a cluster that leads the input, and the delay queue
too unless `--apart`. It is started again after `--away` seconds. Half of the messages are due before the kill, half
after it; three more are sent while a cluster is without the node. A round ends when all have come, or after `--wait`
seconds: what is missing then is told, and looked for in the rounds that follow and in `--last` seconds at the end.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import pika

from mqworker.brokers.rabbitmq.queues import delay_arguments, delay_queue
from tests.support.cluster import RabbitCluster
from tests.support.foreign import Client
from tests.support.rabbitmq import RabbitNode
from tests.support.waiting import wait_for

INPUT, DELAY = "in", 1
BATCH = 20  # messages of a round
EVERY = 0.05  # seconds between two of them
AWAY_EVERY = 5.0  # seconds between two that are sent without the node
START = 180.0  # seconds for a node to start, also on a busy machine
TIMEOUT = "{{dead_letter_worker_publisher_confirm_timeout, {}}}"


class Rounds:
    """The messages of all rounds, and what has come of them."""

    def __init__(self, node: RabbitNode, kind: str, queues: int) -> None:
        self.sent = self.twice = 0
        self.missing: dict[str, float] = {}  # message id -> when it was due
        self._seen: set[str] = set()
        self._client = Client(node.url())
        retry = {"x-queue-type": "quorum"} | delay_arguments(INPUT, DELAY)
        self._client.channel.queue_declare(INPUT, durable=True, arguments={"x-queue-type": kind})
        self._client.channel.queue_declare(delay_queue(INPUT, DELAY), durable=True, arguments=retry)
        for number in range(queues):
            self._client.channel.queue_declare(f"q{number}", durable=True, arguments={"x-queue-type": "quorum"})
        time.sleep(2.0)  # a quorum queue that was just made may be gone after a kill

    def use(self, node: RabbitNode) -> None:
        """Go on over this node."""
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            self._client.__exit__()
        self._client = wait_for(lambda: self._connected(node), START, "a connection")

    def _connected(self, node: RabbitNode) -> Client | None:
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            return Client(node.url())
        return None

    def send(self) -> None:
        """Send one."""
        self.sent += 1
        self._client.publish(delay_queue(INPUT, DELAY), b"", message_id=str(self.sent))
        self.missing[str(self.sent)] = time.monotonic() + DELAY

    def take(self) -> list[float]:
        """Take what has come; returns by how much each was late."""
        late = []
        while (got := self._client.channel.basic_get(INPUT))[0] is not None:
            self._client.channel.basic_ack(got[0].delivery_tag)
            name = got[1].message_id
            self.twice += name in self._seen
            self._seen.add(name)
            if name in self.missing:
                late.append(time.monotonic() - self.missing.pop(name))
        return late


def one(rounds: Rounds, nodes: list[RabbitNode], killed: RabbitNode, away: float, wait: float) -> str:
    """Kill the node as retries come due; returns what came."""
    other = next((node for node in reversed(nodes) if node is not killed), killed)
    rounds.use(other)
    for _ in range(BATCH):
        rounds.send()
        time.sleep(EVERY)
    time.sleep(DELAY - BATCH * EVERY / 2)
    early = len(rounds.take())
    killed.kill()
    began, back, sent = time.monotonic(), False, 0
    late: list[float] = []
    while not back or (rounds.missing and time.monotonic() - began < wait):
        if not back and time.monotonic() - began >= away:
            killed.spawn()
            back = True
            if other is killed:
                rounds.use(killed)
        if other is killed and not back:
            time.sleep(EVERY)
            continue
        if other is not killed and not back and sent < 3 and time.monotonic() - began > (sent + 1) * AWAY_EVERY:
            with contextlib.suppress(pika.exceptions.AMQPError):
                rounds.send()
            sent += 1
        try:
            late += rounds.take()
        except pika.exceptions.AMQPError:  # 3.10 cannot tell a message from a queue without a leader
            rounds.use(other)
        time.sleep(EVERY)
    wait_for(killed.running, START, "the node to run again")
    longest = f", the last {max(late):.1f} s late" if late else ""
    return f"{early} came before the kill, {len(late)} after it{longest}; {len(rounds.missing)} missing"


def main() -> None:
    """Print a line a round, and a sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--kind", choices=("classic", "quorum"), default="quorum", help="the type of the input")
    parser.add_argument("--apart", action="store_true", help="another node leads the delay queue")
    parser.add_argument("--queues", type=int, default=0, help="quorum queues that are there besides")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--away", type=float, default=0.0, help="seconds until the node is started again")
    parser.add_argument("--wait", type=float, default=400.0)
    parser.add_argument("--last", type=float, default=400.0)
    parser.add_argument(
        "--timeout", type=int, default=180_000, help="confirm timeout of RabbitMQ's mover, milliseconds"
    )
    asked = parser.parse_args()
    advanced = TIMEOUT.format(asked.timeout)
    with tempfile.TemporaryDirectory(prefix="mqw-late-") as folder, contextlib.ExitStack() as stack:
        if asked.nodes == 1:
            nodes = [RabbitNode(Path(folder) / "node", advanced=advanced)]
            stack.callback(nodes[0].close)
            nodes[0].start(START)
        else:
            cluster = stack.enter_context(RabbitCluster(Path(folder), advanced=advanced))
            nodes = cluster.nodes
        rounds = Rounds(nodes[-1], asked.kind, asked.queues)
        for number in range(asked.rounds):
            killed, leads = nodes[number % len(nodes)], nodes[(number + asked.apart) % len(nodes)]
            if asked.nodes > 1:
                wait_for(lambda: cluster.together(killed) == asked.nodes, START, "all nodes")  # noqa: B023 - at once
                cluster.lead(INPUT, killed)
                cluster.lead(delay_queue(INPUT, DELAY), leads)
            print(f"{number + 1}: {one(rounds, nodes, killed, asked.away, asked.wait)}", flush=True)
        rounds.use(nodes[-1])
        until = time.monotonic() + asked.last
        while rounds.missing and time.monotonic() < until:
            rounds.take()
            time.sleep(EVERY)
        print(f"{rounds.sent} messages, {rounds.twice} came twice, {len(rounds.missing)} have not come")


if __name__ == "__main__":
    main()
