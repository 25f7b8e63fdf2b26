"""Large bodies through whole services on both brokers, beside small ones."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqworker.amqp.properties import Properties
from mqworker.brokers import open_admin
from mqworker.brokers.base import DROP, Admin
from mqworker.config.model import BrokerConfig
from mqworker.ipc.consumer_messages import LARGE
from tests.support import embedded
from tests.support.service import ServiceProcess
from tests.support.waiting import AMPLE, wait_for

pytestmark = [pytest.mark.system, pytest.mark.long]

MIB = 1 << 20
SIZES = (1, 8, 64)  # MiB
BODIES = 3  # of the largest size: what the Producer's memory may grow by with one such message in hand
SMALL = 20  # beside each large one
CONFIG = """
[service]
log_format = "json"
[broker]
url = "{url}"
max_message_size = 134217728
[control]
port = 0
[stages.work]
input = "{queue}"
output = "{queue}.out"
jobs = ["jobs:handle"]
consumers = 2
max_body = 134217728
"""
JOBS = "def handle(body):\n    return body[::-1]\n"


class Queues:
    """The input and the output, seen from outside of the service."""

    def __init__(self, url: str, queue: str) -> None:
        self._runner = asyncio.Runner()
        self._queue = queue
        self._admin: Admin = self._runner.run(self._open(url))

    async def _open(self, url: str) -> Admin:
        return open_admin(BrokerConfig(url=url))

    def send(self, name: str, body: bytes) -> None:
        """Put a message into the input."""
        block = Properties(content_type="application/octet-stream", message_id=name, delivery_mode=2).encode()
        self._runner.run(self._admin.send(self._queue, block, body, AMPLE))

    def ready(self) -> int:
        """Return how many results there are."""
        info = self._runner.run(self._admin.queue(f"{self._queue}.out", AMPLE))
        return info.messages if info else 0

    def take(self, count: int) -> dict[str, bytes]:
        """Wait for this many results, and remove them all; returns them by their ids."""
        wait_for(lambda: self.ready() >= count, AMPLE, f"{count} results")
        found: dict[str, bytes] = {}

        def wanted(properties: bytes, body: bytes) -> str:
            name = Properties.decode(properties).message_id or ""
            assert name not in found
            found[name] = body
            return DROP

        self._runner.run(self._admin.move(f"{self._queue}.out", count + 1, wanted, AMPLE))
        return found

    def close(self) -> None:
        """Close the connection."""
        self._runner.run(self._admin.close())
        self._runner.close()


@pytest.fixture(params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def running(request, service, tmp_path) -> Iterator[tuple[ServiceProcess, Queues]]:
    """A service on each broker, and its queues."""
    node, url, queue = None, f"sqlite:///{tmp_path}/broker.db", "in"
    if request.param == "rabbitmq":
        node, queue = request.getfixturevalue("rabbit"), request.getfixturevalue("queue")
        node.limit_messages(2 * max(SIZES) * MIB)
        url = node.url()
    started = service(CONFIG.format(url=url, queue=queue), {"jobs.py": JOBS}).start()
    queues = Queues(url, queue)
    yield started, queues
    queues.close()
    if node is not None:
        node.limit_messages()


def peak(pid: int) -> int:
    """Return the most memory that a process has had, in bytes, since `forget_peak`."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def forget_peak(pid: int) -> None:
    """Let the most be what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_large_bodies_pass_beside_small_ones_within_three_bodies_of_memory(running):
    """1, 8 and 64 MiB come back unharmed, so do small ones beside them, and the Producer never holds a fourth copy."""
    service, queues = running
    [producer] = service.named("mqw-producer")
    queues.send("first", b"abc")
    assert queues.take(1) == {"first": b"cba"}
    for size in SIZES:
        body = random.Random(size).randbytes(size * MIB)
        expected = {f"{size}": body[::-1]}
        forget_peak(producer)
        rest = peak(producer)
        for number in range(SMALL):
            expected[f"{size}-{number}"] = b"%d" % number
            queues.send(f"{size}-{number}", (b"%d" % number)[::-1])
            if number == SMALL // 2:
                queues.send(f"{size}", body)
        assert queues.take(len(expected)) == expected
        grown = peak(producer) - rest
        print(f"{size} MiB: {rest / MIB:.1f} MiB at rest, {grown / size / MIB:.2f} bodies more at most")
        if size == max(SIZES):
            assert grown < BODIES * size * MIB
    assert service.named("mqw-producer") == [producer]


SLOW = """
import time


def handle(body):
    time.sleep(0.9 if "pad" in body else 0.0003)
    return {"n": body["n"]}
"""


def test_small_messages_do_not_wait_in_the_lane_of_a_large_one(service):
    """However many wait, none is put behind it: when it is done, all that came soon after it are done long since."""
    running = service(embedded.config(), {"jobs.py": SLOW}).start()
    with embedded.Client(running) as client:
        warm = client.send(100)  # until it is known that they are short, nothing is put ahead
        wait_for(lambda: client.ready(embedded.OUTPUT) == len(warm), AMPLE, "the first results")
        embedded.put(running, "listening", {"enabled": False})
        (large,) = client.send(1, pad="x" * (LARGE + 1))
        client.send(5000)
        embedded.put(running, "listening", {"enabled": True})
        order = [result.body["n"] for result in client.finish()]
    done = order.index(large) - len(warm)
    assert min(order[order.index(large) + 1 :]) - large > done / 2, f"{done} were done before it"
