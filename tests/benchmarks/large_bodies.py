"""Small messages beside large ones: `.venv/bin/python -m tests.benchmarks.large_bodies --help`.

A service with one stage of two Consumers on a private RabbitMQ node takes 200-byte messages at a steady rate, alone and
with large ones among them, at most one of these at a time and 8 MB a second; so does a bare pika relay, the reference,
because broker and connection carry a large message for some time whoever takes it. For each: the median, the 99th
percentile and the most of the time from publishing a small message to its result; for the Producer also the most
memory, in bodies above what it has at rest, and the longest time that its loop was blocked so far.

Each phase with large messages has one without right before it, services and relays take turns, and the medians of the
rounds are told. "times" is the 99th percentile beside large ones by that of the phase before. Publisher and receiver of
the small ones are processes of their own, so that the large ones do not hold them up.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pika

from tests.benchmarks.contestants.mqworker import HANDLERS
from tests.support.rabbitmq import temporary
from tests.support.service import ServiceProcess

MIB = 1 << 20
PACE = 8e6  # bytes a second of large messages at most
RELAY = Path(__file__).parent / "contestants/pika_relay.py"
QUEUES = INPUT, SMALL, BIG = "large.in", "large.small", "large.big"
CONFIG = """
[broker]
url = "{url}"
[control]
port = 0
[stages.s]
input = "large.in"
jobs = ["bench_jobs:sorted_by_size"]
output = {{ exchange = "large", routing_key = "large.small" }}
consumers = 2
max_body = 134217728
"""
LOAD = """
import sys, time, pika
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel, due, pause = connection.channel(), time.monotonic(), 1 / float(sys.argv[3])
properties = pika.BasicProperties("application/octet-stream", delivery_mode=2, message_id="small")
while True:
    channel.basic_publish("", sys.argv[2], b"%020.9f" % time.monotonic() + bytes(180), properties)
    due += pause
    time.sleep(max(0.0, due - time.monotonic()))
"""
TAKE = """
import sys, time, pika
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
for _, _, body in channel.consume(sys.argv[2], auto_ack=True):
    print(float(body[:20]), time.monotonic(), flush=True)
"""


class Row(NamedTuple):
    """What one phase came to."""

    median: float  # ms
    p99: float  # ms
    most: float  # ms
    large: float  # seconds from publishing a large message to its result, 0 for none
    bodies: float  # peak memory
    stall: float  # ms


class Watched:
    """What passes the messages on: a service, or the relay (without one)."""

    def __init__(self, url: str, service: ServiceProcess | None, received: Path) -> None:
        self._service = service
        self._received = received
        self._channel = pika.BlockingConnection(pika.URLParameters(url)).channel()

    def phase(self, size: int, seconds: float) -> Row:
        """Measure with large messages of `size` MiB, or none for 0."""
        rest = self._memory(forget=True)
        began, large, body = time.monotonic(), [], bytes(size * MIB)
        while (left := began + seconds - time.monotonic()) > 0:
            if size:
                large.append(self._pass(body))
            self._channel.connection.sleep(min(size * MIB / PACE or left, max(0.0, began + seconds - time.monotonic())))
        ended = time.monotonic()
        peak = self._memory()
        times = self._times(began, ended)
        bodies = (peak - rest) / size / MIB if size else 0.0
        stall = self._service.stage("s")["actual"]["stall"] * 1000 if self._service else 0.0
        cut = times[int(len(times) * 0.99)]
        return Row(statistics.median(times), cut, times[-1], statistics.mean(large or [0.0]), bodies, stall)

    def _pass(self, body: bytes) -> float:
        properties = pika.BasicProperties("application/octet-stream", delivery_mode=2, message_id="large")
        began = time.monotonic()
        self._channel.basic_publish("", INPUT, body, properties)
        for _, _, result in self._channel.consume(BIG, auto_ack=True):
            assert result == body
            break
        self._channel.cancel()
        return time.monotonic() - began

    def _times(self, began: float, ended: float) -> list[float]:
        """Return how long the small messages took that were published in this time, in ms, once all have arrived."""
        deadline = time.monotonic() + 60
        while True:
            pairs = [tuple(map(float, line.split())) for line in self._received.read_text().split("\n")[:-1]]
            if pairs and pairs[-1][0] > ended:
                return sorted((taken - sent) * 1000 for sent, taken in pairs if began <= sent < ended)
            assert time.monotonic() < deadline, "no small message arrives any more"
            time.sleep(0.1)

    def _memory(self, *, forget: bool = False) -> int:
        """Return the Producer's most memory since it was told to forget it, in bytes."""
        if self._service is None:
            return 0
        folder = Path("/proc", str(self._service.named("mqw-producer")[0]))
        if forget:
            (folder / "clear_refs").write_text("5")
        [line] = [line for line in (folder / "status").read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) << 10


@contextlib.contextmanager
def passing(url: str, who: str, rate: float, folder: Path) -> Iterator[Watched]:
    """Run one of the two, with small messages at this rate."""
    with contextlib.ExitStack() as running:
        service = None
        if who == "relay":
            command = [str(RELAY), url, INPUT, SMALL, str(1 << 40), "--large", BIG]
            running.enter_context(_ended(subprocess.Popen([sys.executable, *command])))
        else:
            service = ServiceProcess(CONFIG.format(url=url), {"bench_jobs.py": HANDLERS.read_text()})
            running.enter_context(service).start()
        received = folder / f"{time.monotonic_ns()}"
        with received.open("w") as file:
            running.enter_context(_ended(subprocess.Popen([sys.executable, "-c", TAKE, url, SMALL], stdout=file)))
        running.enter_context(_ended(subprocess.Popen([sys.executable, "-c", LOAD, url, INPUT, str(rate)])))
        watched = Watched(url, service, received)
        watched.phase(0, 2)
        yield watched


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def declare(url: str) -> None:
    """Make the queues, or empty them."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.exchange_declare("large", durable=True)
    for queue in QUEUES:
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "large", queue)
        channel.queue_purge(queue)
    connection.close()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 64], help="MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one phase")
    parser.add_argument("--rate", type=float, default=200.0, help="small messages a second")
    options = parser.parse_args()
    rows: dict[tuple[str, int], list[tuple[Row, Row]]] = {}
    with tempfile.TemporaryDirectory(prefix="mqw-large-") as folder:
        node = temporary(Path(folder) / "node")
        try:
            node.limit_messages(2 * max(options.sizes) * MIB)
            for number in range(options.rounds):
                for who in ("mqworker", "relay") if number % 2 else ("relay", "mqworker"):
                    declare(node.url())
                    with passing(node.url(), who, options.rate, Path(folder)) as watched:
                        for size in options.sizes:
                            pair = watched.phase(0, options.seconds), watched.phase(size, options.seconds)
                            rows.setdefault((who, size), []).append(pair)
                            print(f"round {number + 1}: {who}, {size} MiB: {pair}", file=sys.stderr, flush=True)
        finally:
            node.close()
    print("| who | beside | alone: median, p99, most | beside it | times | large takes | memory | loop blocked |")
    print("|---|---|---|---|---|---|---|---|")
    for (who, size), pairs in rows.items():
        alone, beside = (Row(*map(statistics.median, zip(*column, strict=True))) for column in zip(*pairs, strict=True))
        times = statistics.median(large.p99 / small.p99 for small, large in pairs)
        told = f"{beside.bodies:.1f} bodies | {beside.stall:.0f} ms" if who == "mqworker" else "| "
        both = " | ".join(f"{row.median:.1f}, {row.p99:.1f}, {row.most:.1f} ms" for row in (alone, beside))
        print(f"| {who} | {size} MiB | {both} | {times:.1f} | {beside.large:.2f} s | {told} |")


if __name__ == "__main__":
    main()
