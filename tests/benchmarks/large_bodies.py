"""Small messages beside large ones: `.venv/bin/python -m tests.benchmarks.large_bodies --help`.

A service with one stage on a private RabbitMQ node takes 200-byte messages at a steady rate, alone and then with large
ones among them, at most one of these at a time; so does a bare pika relay, the reference, because broker and connection
carry a large message for some time whoever takes it. For each: the median and the 99th percentile of the time from
publishing a small message to its result; for the Producer also the most memory, in bodies above what it has at rest,
and the longest time that its loop was blocked so far. Rounds take turns, and the medians of the rounds are told.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pika

from tests.benchmarks.stage import HANDLERS
from tests.support.rabbitmq import temporary
from tests.support.service import ServiceProcess

MIB = 1 << 20
RELAY = Path(__file__).with_name("relay.py")
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


class Row(NamedTuple):
    """What one phase came to."""

    median: float  # ms
    p99: float  # ms
    large: float  # seconds from publishing a large message to its result, 0 for none
    bodies: float  # peak memory
    stall: float  # ms


class Watched:
    """What passes the messages on: a service, or the relay (without one)."""

    def __init__(self, url: str, service: ServiceProcess | None) -> None:
        self._service = service
        self._url = url
        self._channel = pika.BlockingConnection(pika.URLParameters(url)).channel()

    def phase(self, size: int, seconds: float, rate: float) -> Row:
        """Measure with large messages of `size` MiB, or none for 0."""
        times: list[float] = []
        over, large = threading.Event(), []
        taker = threading.Thread(target=self._take, args=(times, over))
        for queue in QUEUES:
            self._channel.queue_purge(queue)
        load = subprocess.Popen([sys.executable, "-c", LOAD, self._url, INPUT, str(rate)])
        taker.start()
        try:
            time.sleep(1)
            times.clear()
            rest = self._memory(forget=True)
            end, body = time.monotonic() + seconds, bytes(size * MIB)
            while time.monotonic() < end:
                large.append(self._pass(body)) if size else time.sleep(0.1)
                time.sleep(min(size * MIB / 8e6, max(0.0, end - time.monotonic())))  # 8 MB a second at most
            peak = self._memory()
        finally:
            load.kill()
            load.wait()
            over.set()
            taker.join()
        times.sort()
        bodies = (peak - rest) / size / MIB if size else 0.0
        stall = self._service.stage("s")["actual"]["stall"] * 1000 if self._service else 0.0
        cut = times[int(len(times) * 0.99)]
        return Row(statistics.median(times), cut, statistics.mean(large or [0.0]), bodies, stall)

    def _pass(self, body: bytes) -> float:
        properties = pika.BasicProperties("application/octet-stream", delivery_mode=2, message_id="large")
        began = time.monotonic()
        self._channel.basic_publish("", INPUT, body, properties)
        for _, _, result in self._channel.consume(BIG, auto_ack=True):
            assert result == body
            break
        self._channel.cancel()
        return time.monotonic() - began

    def _take(self, times: list[float], over: threading.Event) -> None:
        channel = pika.BlockingConnection(pika.URLParameters(self._url)).channel()
        for method, _, body in channel.consume(SMALL, auto_ack=True, inactivity_timeout=0.2):
            if over.is_set():
                break
            if method is not None:
                times.append((time.monotonic() - float(body[:20])) * 1000)
        channel.connection.close()

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
def passing(url: str, who: str) -> Iterator[Watched]:
    """Run one of the two."""
    if who == "relay":
        command = [sys.executable, str(RELAY), url, INPUT, SMALL, str(1 << 40), "--large", BIG]
        with subprocess.Popen(command) as relay:
            yield Watched(url, None)
            relay.kill()
        return
    with ServiceProcess(CONFIG.format(url=url), {"bench_jobs.py": HANDLERS.read_text()}) as service:
        yield Watched(url, service.start())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 1, 8, 64], help="MiB; 0: small messages alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one size in one round")
    parser.add_argument("--rate", type=float, default=200.0, help="small messages a second")
    options = parser.parse_args()
    rows: dict[tuple[str, int], list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="mqw-large-") as folder:
        node = temporary(Path(folder) / "node")
        try:
            node.limit_messages(2 * max(options.sizes) * MIB)
            channel = pika.BlockingConnection(pika.URLParameters(node.url())).channel()
            channel.exchange_declare("large", durable=True)
            for queue in QUEUES:
                channel.queue_declare(queue, durable=True)
                channel.queue_bind(queue, "large", queue)
            channel.connection.close()
            for number in range(options.rounds):
                for who in ("mqworker", "relay") if number % 2 else ("relay", "mqworker"):
                    with passing(node.url(), who) as watched:
                        for size in options.sizes:
                            row = watched.phase(size, options.seconds, options.rate)
                            rows.setdefault((who, size), []).append(row)
                            print(f"round {number + 1}: {who}, {size} MiB: {row}", file=sys.stderr, flush=True)
        finally:
            node.close()
    print("| who | beside | small: median | p99 | large takes | memory | loop blocked |\n|---|---|---|---|---|---|---|")
    for (who, size), found in rows.items():
        median, p99, large, bodies, stall = (statistics.median(column) for column in zip(*found, strict=True))
        beside = f"{size} MiB" if size else "nothing"
        told = f"{bodies:.1f} bodies | {stall:.0f} ms" if who == "mqworker" else "| "
        print(f"| {who} | {beside} | {median:.1f} ms | {p99:.1f} ms | {large:.2f} s | {told} |")


if __name__ == "__main__":
    main()
