"""The first benchmark: mqworker beside what it is to be measured against, in one run, round by round.

(a) a handler that returns its input, 200-byte JSON, persistent, 2 Consumers, a backlog: rate against a bare pika relay
    (and against the same relay when it publishes properties like ours, whose bytes cost the broker as bodies do);
(b) CPU time a message of the whole tree in the same rounds, against the relay's;
(c) 10 ms of pure CPU a message, 2 Consumers: rate against multiprocessing.Pool(2) on the same function.
Each round runs the reference and then mqworker; the medians are compared. Every answer is counted and checked.
"""

import argparse
import contextlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pika

from tests.support.rabbitmq import RabbitNode, temporary
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

RELAY = Path(__file__).with_name("relay.py")
PAD = "x" * 150
JOBS = """
def same(body):
    return body


def burn(body):
    total = 0
    for number in range(body["loops"]):
        total += number * number % 7
    return {"id": body["id"], "total": total}
"""
CONFIG = """
[broker]
url = "{url}"
[control]
port = 0
[stages.bench]
input = "bench.in"
jobs = ["bench_jobs:{job}"]
output = {{ queue = "bench.out" }}
consumers = 2
"""


def burn(loops: int) -> int:
    """The work of (c)."""
    total = 0
    for number in range(loops):
        total += number * number % 7
    return total


class Bench:
    """One node and what the measurements share."""

    def __init__(self, node: RabbitNode) -> None:
        self.url = node.url()
        self._connection = pika.BlockingConnection(pika.URLParameters(self.url))
        self.channel = self._connection.channel()
        for queue in ("bench.in", "bench.out"):
            self.channel.queue_declare(queue, durable=True)

    def fill(self, bodies: list[bytes]) -> None:
        """Publish a backlog."""
        for queue in ("bench.in", "bench.out"):
            self.channel.queue_purge(queue)
        for number, body in enumerate(bodies):
            properties = pika.BasicProperties("application/json", delivery_mode=2, message_id=str(number))
            self.channel.basic_publish("", "bench.in", body, properties)
        wait_for(lambda: self.ready("bench.in") == len(bodies), 60, "the backlog")

    def ready(self, queue: str) -> int:
        """Messages in a queue."""
        return self.channel.queue_declare(queue, passive=True).method.message_count

    def results(self, count: int) -> list[bytes]:
        """All results; each input has to have exactly one."""
        wait_for(lambda: self.ready("bench.out") >= count, 30, "all results")
        bodies = {}
        for method, properties, body in self.channel.consume("bench.out", auto_ack=True, inactivity_timeout=2):
            if method is None:
                break
            assert properties.message_id not in bodies, "a result came twice"
            bodies[properties.message_id] = body
            if len(bodies) == count:
                break
        self.channel.cancel()
        assert len(bodies) == count, f"{len(bodies)} results of {count}"
        assert self.ready("bench.in") == 0
        return [bodies[str(number)] for number in range(count)]

    def relay(self, bodies: list[bytes], *options: str) -> tuple[float, float]:
        """(seconds, CPU seconds) of the reference; its results have no ids, so only the number is checked."""
        self.fill(bodies)
        command = [sys.executable, str(RELAY), self.url, "bench.in", "bench.out", str(len(bodies)), *options]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert self.ready("bench.out") == len(bodies)
        return told["seconds"], told["cpu_seconds"]

    def mqworker(self, service: ServiceProcess, bodies: list[bytes]) -> tuple[float, float, list[bytes]]:
        """(seconds, CPU seconds of the tree, results), from the start of listening to the last result."""
        self.fill(bodies)
        before = cpu(service)
        began = time.monotonic()
        ask(service, "PUT", "/api/v1/stages/bench/listening", {"enabled": True})
        while (done := self.ready("bench.out")) < len(bodies):  # each look costs the broker, so there are few
            left = (len(bodies) - done) * (time.monotonic() - began) / max(done, 1)
            time.sleep(min(max(left / 2, 0.01), 0.2))
        seconds = time.monotonic() - began
        used = cpu(service) - before
        pause(service)
        return seconds, used, self.results(len(bodies))


def ask(service: ServiceProcess, method: str, path: str, body: object) -> None:
    """Make a change that has to succeed."""
    status, told = service.ask(method, path, body)
    assert status < 300, told


def pause(service: ServiceProcess) -> None:
    """Stop listening, and wait until it is so: the service costs nothing until it is resumed."""
    ask(service, "PUT", "/api/v1/stages/bench/listening?wait=20", {"enabled": False})


def cpu(service: ServiceProcess) -> float:
    """CPU seconds of the whole tree so far."""
    total = 0
    for pid in service.pids():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / 100


def loops_for(seconds: float) -> int:
    """How many turns of `burn` take so long here."""
    began = time.perf_counter()
    burn(300_000)
    return int(300_000 * seconds / (time.perf_counter() - began))


def small(bench: Bench, count: int, rounds: int) -> None:
    """(a) and (b)."""
    bodies = [
        json.dumps({"id": number, "pad": PAD + "x" * (10 - len(str(number)))}).encode() for number in range(count)
    ]
    rows = []
    with ServiceProcess(CONFIG.format(url=bench.url, job="same"), {"bench_jobs.py": JOBS}).start() as service:
        pause(service)
        for number in range(rounds):
            relay, relay_cpu = bench.relay(bodies)
            same, _ = bench.relay(bodies, "--like-mqworker")
            ours, our_cpu, results = bench.mqworker(service, bodies)
            assert all(json.loads(one) == json.loads(other) for one, other in zip(results, bodies, strict=True))
            rows.append((count / relay, count / same, count / ours, relay_cpu / count * 1e6, our_cpu / count * 1e6))
            print(f"round {number + 1}: {_words(*rows[-1])}", flush=True)
    relay, same, ours, relay_cpu, our_cpu = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"(a) {len(bodies[0])}-byte JSON: mqworker {ours:,.0f}/s, relay {relay:,.0f}/s, "
        f"ratio {ours / relay:.2f} (goal 0.90); relay with our properties {same:,.0f}/s, ratio {ours / same:.2f}"
    )
    print(
        f"(b) CPU a message: mqworker {our_cpu:.1f} us, relay {relay_cpu:.1f} us, "
        f"ratio {our_cpu / relay_cpu:.2f} (goal at most 1.60)"
    )


def _words(relay: float, same: float, ours: float, relay_us: float, our_us: float) -> str:
    references = f"relay {relay:,.0f}/s {relay_us:.1f} us, with our properties {same:,.0f}/s"
    return f"{references}, mqworker {ours:,.0f}/s {our_us:.1f} us"


def heavy(bench: Bench, count: int, rounds: int) -> None:
    """(c)."""
    loops = loops_for(0.010)
    bodies = [json.dumps({"id": number, "loops": loops}).encode() for number in range(count)]
    right = burn(loops)
    rows = []
    with (
        ServiceProcess(CONFIG.format(url=bench.url, job="burn"), {"bench_jobs.py": JOBS}).start() as service,
        multiprocessing.get_context("spawn").Pool(2) as pool,
    ):
        pause(service)
        pool.map(burn, [1000] * 4)
        for number in range(rounds):
            began = time.monotonic()
            answers = list(pool.imap_unordered(burn, [loops] * count))
            pooled = time.monotonic() - began
            assert answers == [right] * count
            ours, _, results = bench.mqworker(service, bodies)
            assert all(json.loads(result)["total"] == right for result in results)
            rows.append((count / pooled, count / ours))
            print(f"round {number + 1}: Pool {rows[-1][0]:.1f}/s, mqworker {rows[-1][1]:.1f}/s", flush=True)
    pooled, ours = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"(c) 10 ms of CPU: mqworker {ours:.1f}/s, Pool {pooled:.1f}/s, ratio {ours / pooled:.3f} (goal 0.970)")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=50_000, help="backlog of (a) and (b)")
    parser.add_argument("--heavy", type=int, default=1000, help="messages of (c)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mqw-bench-") as folder:
        node = temporary(Path(folder))
        try:
            bench = Bench(node)
            small(bench, options.messages, options.rounds)
            heavy(bench, options.heavy, options.rounds)
        finally:
            node.close()


if __name__ == "__main__":
    main()
