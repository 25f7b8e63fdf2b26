"""Load from a client that is not ours, and the account of what became of every message.

Runs in the test process on one blocking pika connection. Each message has a number as its id; `send` returns when the
broker has it. The handler in `HANDLER` records the start and the end of each message in a journal, one file for each
process, so that a test knows what a killed Consumer had in hand without asking mqworker.
"""

import contextlib
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import pika
from pika.exceptions import ChannelClosedByBroker

from tests.support.foreign import BLOCKED
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

T = TypeVar("T")
PREFETCH = 40

HANDLER = """\
import os, time
from pathlib import Path

journal = None


def note(sign, body):
    global journal
    if journal is None:
        folder = Path(__file__).parent / "journal"
        folder.mkdir(exist_ok=True)
        journal = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    os.write(journal, f"{time.monotonic()} {sign} {body['n']}\\n".encode())


def work(body, message):
    note("begin", body)
    while "until" in body and not Path(__file__).with_name(body["until"]).exists():
        time.sleep(0.01)
    time.sleep(body.get("seconds", 0.004))
    note("end", body)
    return {"n": body["n"], "crashes": message.headers.get("x-mqworker-crashes", 0), "attempt": message.attempt}
"""


class Note(NamedTuple):
    """One line of the journal."""

    time: float  # monotonic
    pid: int
    sign: str  # begin | end
    n: int


class Traffic:
    """See the module head. `results` and `dead` are (body, properties) as taken from the queues."""

    def __init__(self, url: str) -> None:
        self.url = url
        unique = uuid.uuid4().hex[:8]
        self.input, self.output = f"{unique}.in", f"{unique}.out"
        self.sent = 0
        self.pad = 0  # bytes by which every fifth message is larger
        self.results: list[dict[str, Any]] = []
        self.dead: dict[int, pika.BasicProperties] = {}
        parameters = pika.URLParameters(url)
        parameters.blocked_connection_timeout = BLOCKED
        self._connection = pika.BlockingConnection(parameters)
        self._in = self._connection.channel()
        self._out = self._connection.channel()
        for queue in (self.input, self.output, f"{self.input}.dlq"):
            self._out.queue_declare(queue, durable=True)
        self._out.basic_consume(self.output, self._take, auto_ack=True)
        self._out.basic_consume(f"{self.input}.dlq", self._take_dead, auto_ack=True)

    def config(self, *, consumers: int = 4, stage: str = "", service: str = "") -> str:
        """Return a configuration of one stage `work` on these queues; `stage` and `service` are further lines."""
        return (
            f'[service]\ndrain_deadline = 10\n{service}\n[control]\nport = 0\n[broker]\nurl = "{self.url}"\n'
            f'[stages.work]\ninput = "{self.input}"\njobs = ["work:work"]\noutput = {{ queue = "{self.output}" }}\n'
            f"consumers = {consumers}\nprefetch = {PREFETCH}\n{stage}\n"
        )

    # --- in and out

    def send(self, count: int, **more: Any) -> range:
        """Publish this many messages and wait until the broker has them; return their numbers."""
        numbers = range(self.sent, self.sent + count)
        for n in numbers:
            properties = pika.BasicProperties("application/json", message_id=str(n), delivery_mode=2)
            pad = {"pad": "x" * self.pad} if n % 5 == 0 and self.pad else {}
            self._in.basic_publish("", self.input, json.dumps({"n": n, **more, **pad}).encode(), properties)
        self.sent += count
        self._in.queue_declare(self.input, passive=True)  # a channel is served in order; much faster than confirms
        return numbers

    def _take(self, _channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        result = json.loads(body)
        assert properties.message_id == str(result["n"])
        self.results.append(result)

    def _take_dead(self, _channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        n = json.loads(body)["n"]
        assert n not in self.dead, f"{n} is dead twice"
        self.dead[n] = properties

    def pump(self) -> None:
        """Take the results that have arrived."""
        self._connection.process_data_events(0.01)

    def until(self, predicate: Callable[[], T], deadline: float, what: str) -> T:
        """Like `wait_for`, with messages flowing: results are taken, and some work is always waiting."""

        def look() -> T:
            self.pump()
            if self.waiting() < 10 * PREFETCH:
                self.send(5 * PREFETCH)
            return predicate()

        return wait_for(look, deadline, what)

    def done(self) -> set[int]:
        """Return the numbers that have a result."""
        return {result["n"] for result in self.results}

    def waiting(self) -> int:
        """Return how many have no outcome yet."""
        return self.sent - len(self.done() | self.dead.keys())

    def repeats(self) -> int:
        """Return how many results came more than once."""
        return len(self.results) - len(self.done())

    def finish(self, deadline: float = 60) -> None:
        """Wait until every message has its outcome, and assert that it has only one kind and nothing is left."""

        def over() -> bool:
            self.pump()
            return not self.waiting()

        try:
            wait_for(over, deadline, "every message to have its outcome")
        except AssertionError:
            missing = sorted(set(range(self.sent)) - self.done() - self.dead.keys())
            raise AssertionError(
                f"without an outcome after {deadline} s: {missing[:20]}, {len(missing)} in all"
            ) from None
        assert self.done() | self.dead.keys() == set(range(self.sent))
        assert not self.done() & self.dead.keys()

    def charged(self) -> dict[int, int]:
        """Return the crashes charged to each finished message, as its handler saw them."""
        return {result["n"]: result["crashes"] for result in self.results if result["crashes"]}

    def ready(self) -> int:
        """Return how many messages wait in the input queue."""
        return self._out.queue_declare(self.input, passive=True).method.message_count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for queue in (self.input, self.output, f"{self.input}.dlq", f"{self.input}.retry.1s"):
            with contextlib.suppress(ChannelClosedByBroker):
                self._connection.channel().queue_delete(queue)
        self._connection.close()


def journal(service: ServiceProcess) -> list[Note]:
    """Return the handlers' notes, in order of time."""
    notes = []
    for path in (service.folder / "journal").glob("*"):
        for line in path.read_text().splitlines():
            when, sign, n = line.split()
            notes.append(Note(float(when), int(path.name), sign, int(n)))
    return sorted(notes)


def in_hand(service: ServiceProcess, pid: int) -> int | None:
    """Return the message that a process has started and not finished."""
    path = service.folder / "journal" / str(pid)
    last = path.read_text().splitlines()[-1:] if path.exists() else []
    return int(last[0].split()[2]) if last and last[0].split()[1] == "begin" else None


def producers(service: ServiceProcess) -> list[int]:
    """Return the pids of Producers, without the forked copies that exist for a moment at a start."""
    named = service.named("mqw-producer")
    return [pid for pid in named if parent(pid) not in named]


def parent(pid: int) -> int:
    """Return the pid of a process's parent; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Watcher:
    """Checks every 50 ms, from its own thread, for what must never be: two trees at once."""

    def __init__(self, service: ServiceProcess, traffic: Traffic) -> None:
        self.producers = Counter[int]()  # how often so many were seen
        self.registered = Counter[int]()  # consumers of the input queue, as the broker counts them
        self._service, self._traffic = service, traffic
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self._traffic.url))
        channel = connection.channel()
        while not self._over.wait(0.05):
            self.producers[len(producers(self._service))] += 1
            declared = channel.queue_declare(self._traffic.input, passive=True)
            self.registered[declared.method.consumer_count] += 1
        connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def check(self) -> None:
        """Assert that there was never more than one."""
        assert max(self.producers) == 1, self.producers
        assert max(self.registered) == 1, self.registered


class Lasts:
    """Durations of one kind, for a report."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.seconds: list[float] = []

    def since(self, moment: float, until: float | None = None) -> None:
        """Record how long ago `moment` was."""
        self.seconds.append((time.monotonic() if until is None else until) - moment)

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        middle, most = ordered[len(ordered) // 2], ordered[-1]
        return f"{self.what}: median {middle:.3f} s, longest {most:.3f} s of {len(ordered)}"
