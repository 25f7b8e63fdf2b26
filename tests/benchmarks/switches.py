"""What a switch of the chain costs under load: `.venv/bin/python -m tests.benchmarks.switches --help`.

One service on a private RabbitMQ node is sent messages at a steady rate, first without a change, then with one change
of its chain or code after the other; every fifth fails: at its import, in its set-up, or at its first message. Told are
the longest times without a result, and how many results mix generations, are missing or repeated, or began under an
earlier generation after a later one had begun.
"""

import argparse
import itertools
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pika

from tests.support.rabbitmq import RabbitNode
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

JOBS = """\
import os, signal, time

{top}
class Job:
    def setup(self):
        {setup}
    def handle(self, body):
        {handle}
        return {{"n": body["n"], "began": time.monotonic(), "code": "{tag}", "jobs": ["Job"]}}

def second(body):
    return body | {{"jobs": [*body["jobs"], "second"]}}

def third(body):
    return body | {{"jobs": [*body["jobs"], "third"]}}
"""
CONFIG = """\
[service]
log_format = "json"
[control]
port = 0
[broker]
url = "{url}"
[stages.work]
input = "in"
jobs = ["jobs:Job"]
output = {{ queue = "out" }}
consumers = {consumers}
prefetch = 200
"""
FAILURES = {
    "import": {"top": "raise ValueError('no import')"},
    "setup": {"setup": "raise ValueError('no set-up')"},
    "first message": {"handle": "os.kill(os.getpid(), signal.SIGKILL)"},
}
PATH = "/api/v1/stages/work"


def code(tag: str, top: str = "", setup: str = "pass", handle: str = "pass") -> str:
    return JOBS.format(tag=tag, top=top, setup=setup, handle=handle)


@dataclass
class Load:
    """Publishes at a steady rate and takes the results, in two threads with a connection each."""

    url: str
    rate: int
    sent: int = 0
    results: list[tuple[float, int, dict]] = field(default_factory=list)  # (arrival, generation, body)
    over: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._publish, self._take)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop publishing, and return when every message has a result."""
        self.over.set()
        self._threads[0].join(10)
        wait_for(lambda: len({body["n"] for _, _, body in self.results}) >= self.sent, 120, "all results")
        self.done.set()
        for thread in self._threads:
            thread.join(10)

    def _publish(self) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = connection.channel()
        began = time.monotonic()
        told = pika.BasicProperties("application/json", delivery_mode=2)
        while not self.over.is_set():
            while self.sent < (time.monotonic() - began) * self.rate:
                channel.basic_publish("", "in", json.dumps({"n": self.sent}).encode(), told)
                self.sent += 1
            connection.sleep(0.005)
        connection.close()

    def _take(self) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = connection.channel()

        def taken(_channel: object, _method: object, properties: pika.BasicProperties, body: bytes) -> None:
            self.results.append((time.monotonic(), properties.headers["x-mqworker-generation"], json.loads(body)))

        channel.basic_consume("out", taken, auto_ack=True)
        while not self.done.is_set():
            connection.process_data_events(0.05)
        connection.close()


class Made(NamedTuple):
    """A change, and when it was asked for and answered (monotonic)."""

    kind: str
    asked: float
    answered: float


def changes(service: ServiceProcess, count: int) -> Iterator[Made]:
    """Make changes one after the other."""
    kinds = random.Random(1)
    for number in range(count):
        began = time.monotonic()
        if number % 5 == 4:
            kind = list(FAILURES)[number // 5 % len(FAILURES)]
            good = (service.folder / "jobs.py").read_text()
            service.write("jobs.py", code(f"bad-{number}", **FAILURES[kind]))
            status, told = service.ask("POST", f"{PATH}/restart?wait=30")
            assert status == 422, (kind, told)
            service.write("jobs.py", good)
        elif number % 5 == 2:
            kind = "code"
            service.write("jobs.py", code(f"good-{number}"))
            status, told = service.ask("POST", f"{PATH}/restart?wait=30")
            assert status == 200, told
        else:
            kind = "chain"
            chain = ["jobs:Job", *kinds.sample(["jobs:second", "jobs:third"], kinds.randint(0, 2))]
            status, told = service.ask("PUT", f"{PATH}/jobs?wait=30", {"jobs": chain})
            assert status == 200, told
        yield Made(kind, began, time.monotonic())


def gaps(load: Load, made: Sequence[Made]) -> list[str]:
    """Return the longest times without a result in ms, each with the change that was in progress."""
    pairs = itertools.pairwise(arrival for arrival, _, _ in load.results)
    longest = sorted(pairs, key=lambda pair: pair[0] - pair[1])[:5]
    return [
        f"{1000 * (end - begin):.0f}"
        + "".join(f" ({each.kind})" for each in made if each.asked < end and begin < each.answered)
        for begin, end in longest
    ]


def report(name: str, load: Load, made: Sequence[Made] = ()) -> None:
    """Print what the results say."""
    found = defaultdict(set)
    seen: dict[int, int] = defaultdict(int)
    for _, generation, body in load.results:
        found[generation].add((body["code"], tuple(body["jobs"])))
        seen[body["n"]] += 1
    begun = sorted((body["began"], generation) for _, generation, body in load.results)
    newest, since, late, latest = 0, 0.0, 0, 0.0
    for began, generation in begun:
        if generation > newest:
            newest, since = generation, began
        elif generation < newest:
            late, latest = late + 1, max(latest, began - since)
    print(f"{name}: {load.sent} messages, {len(found)} generations")
    print(f"  longest times without a result, ms: {', '.join(gaps(load, made))}")
    print(
        f"  mixed generations {sum(len(what) > 1 for what in found.values())}, missing {load.sent - len(seen)},"
        f" repeated {sum(count > 1 for count in seen.values())}; begun under an earlier generation after a later one"
        f" {late} (at most {1000 * latest:.1f} ms after)"
    )


def main() -> None:
    """See the module head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=2000, help="messages a second")
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--consumers", type=int, default=2)
    parser.add_argument("--calm", type=float, default=30.0, help="seconds without a change, before")
    asked = parser.parse_args()
    with TemporaryDirectory(prefix="mqw-switches-") as folder:
        node = RabbitNode(Path(folder))
        node.start()
        try:
            config = CONFIG.format(url=node.url(), consumers=asked.consumers)
            with ServiceProcess(config, {"jobs.py": code("first")}) as service:
                service.start()
                calm = Load(node.url(), asked.rate)
                time.sleep(asked.calm)
                calm.end()
                report("without changes", calm)
                load = Load(node.url(), asked.rate)
                made = list(changes(service, asked.changes))
                load.end()
                report(f"with {asked.changes} changes", load, made)
                took: dict[str, list[float]] = defaultdict(list)
                for kind, began, ended in made:
                    took[kind].append(ended - began)
                for kind, each in took.items():
                    print(f"  {kind}: {len(each)}, {min(each):.2f} to {max(each):.2f} s until the answer")
                assert service.stop() == 0
        finally:
            node.stop()


if __name__ == "__main__":
    main()
