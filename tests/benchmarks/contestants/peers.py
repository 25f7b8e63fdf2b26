"""What mqworker is compared with: Celery, Dramatiq, FastStream and a blocking worker, all measured in the same way.

Runs in the benchmark's process. Each contestant is a program of its own (`celery_app.py` and so on, whose heads explain
their settings), run by its own command line from `.venv-benchmarks`, in a tree of processes that is killed afterwards
(tree.py). Its messages come from a queue of its own, in the format of its own client, and its results go to OUTPUT.

The clock of `run` is that of mqworker's own measurement: workers up, and warmed up by a tenth of the messages; all of
them stopped (SIGSTOP) while the backlog is published, as a stage is paused then; from the moment they go on to the last
result. CPU time is that of all processes of the tree in that time. WrongAnswersError unless every message has its right
answer; ContestantError, which shows its output, if it does not start or goes no further.
"""

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pika

from tests.benchmarks.contestants import Figures
from tests.benchmarks.contestants.answers import check
from tests.benchmarks.contestants.tree import Tree
from tests.benchmarks.contestants.wire import STALLED, Message, Wire, delete
from tests.benchmarks.queues import OUTPUT, Queues
from tests.support.waiting import wait_for

HERE = Path(__file__).parent
VENV = Path(__file__).resolve().parents[3] / ".venv-benchmarks"
PROGRAMS = VENV / "bin"
INSTALLED = VENV / ".setup-stamp"  # which scripts/setup writes at its end
START = 60.0  # seconds in which the workers of a contestant listen
WARM = 50  # messages for each worker before memory or latency is measured
CELERY_EMBED = b'{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
Settings = Mapping[str, str]


class Peer(NamedTuple):
    """One contestant; `settings` go to its command line (`command`) and, as BENCH_*, to its program."""

    name: str
    program: Path
    command: Callable[[int, Settings], list[str]]  # for so many workers
    message: Callable[[str, bytes], Message]  # as its own client sends the body to the queue
    listens: Callable[[int], int]  # how many consumers its queue has when so many workers are up
    settings: Settings
    settings_of: Mapping[str, Settings] = {}  # by job, where others are best
    arguments: Callable[[str], Mapping[str, str]] = lambda _: {}  # with which its workers declare their queue
    patience: float = STALLED  # seconds without a new result after which it is given up

    @property
    def queue(self) -> str:
        """The queue that its workers consume."""
        return f"bench.{self.name.lower().replace(' ', '-')}"

    def run(self, queues: Queues, job: str, bodies: list[bytes], *, workers: int = 2, **settings: str) -> Figures:
        """Measure the job ("same", "burn", "mixed") on a backlog of JSON bodies, each with an `id` of its own."""
        warm = bodies[: max(1, len(bodies) // 10)]
        with self._working(queues.url, job, workers, settings) as (tree, wire):
            self._pass(tree, wire, warm)
            check(job, warm, wire.answers(len(warm)))
            seconds, cpu = self._pass(tree, wire, bodies)
            checked = check(job, bodies, wire.answers(len(bodies)))
        return Figures(len(bodies) / seconds, cpu / len(bodies) * 1e6, checked.results, checked.repeats)

    def latency(self, queues: Queues, count: int) -> list[float]:
        """Return the seconds from the publishing of a message to the arrival of its result, one message at a time."""
        bodies = _small(WARM + count)
        with self._working(queues.url, "same", 2, {}) as (_, wire):
            trips = wire.one_by_one(self.queue, [self.message(self.queue, body) for body in bodies])
        check("same", bodies, [answer for _, answer in trips])
        return [seconds for seconds, _ in trips[WARM:]]

    def memory(self, queues: Queues, workers: int) -> list[int]:
        """Return the proportional set size in bytes of each process of the idle tree, after some messages."""
        bodies = _small(WARM * workers)
        with self._working(queues.url, "same", workers, {}) as (tree, wire):
            self._pass(tree, wire, bodies)
            check("same", bodies, wire.answers(len(bodies)))
            return tree.memory()

    def _pass(self, tree: Tree, wire: Wire, bodies: list[bytes]) -> tuple[float, float]:
        """Return (seconds, CPU seconds of the tree) from the start to the last result."""
        messages = [self.message(self.queue, body) for body in bodies]
        tree.hold()
        wire.fill(self.queue, messages)
        cpu = tree.cpu()
        tree.release()
        seconds = wire.wait(len(bodies), tree.ended, self.patience)
        if seconds is None:
            raise tree.error(f"{self.name}: {wire.ready(OUTPUT)} of {len(bodies)} results, and no more")
        return seconds, tree.cpu() - cpu

    @contextlib.contextmanager
    def _working(self, url: str, job: str, workers: int, changed: Settings) -> Iterator[tuple[Tree, Wire]]:
        """Have so many workers up and idle."""
        settings = {**self.settings, **self.settings_of.get(job, {}), **changed}
        told = {"url": url, "job": job, "in": self.queue, "out": OUTPUT, **settings}
        env = {f"BENCH_{name.upper()}": value for name, value in told.items()}
        files = {path.name: path.read_text() for path in (self.program, HERE / "jobs.py")}
        with contextlib.ExitStack() as ending:
            made = [self.queue + suffix for suffix in ("", ".DQ", ".XQ")]  # Dramatiq has one for delayed, one for dead
            ending.callback(delete, url, made)
            wire = ending.enter_context(Wire(url))
            wire.make(self.queue, self.arguments(self.queue))
            with Tree(self.command(workers, settings), files, env) as tree:
                enough = self.listens(workers)
                try:
                    wait_for(lambda: tree.ended() or wire.listeners(self.queue) >= enough, START, "its workers")
                except AssertionError as error:
                    raise tree.error(f"{self.name} does not start: {error}") from error
                if tree.ended():
                    raise tree.error(f"{self.name} does not start")
                yield tree, wire


def available() -> dict[str, Peer]:
    """Return the contestants by name; none where `scripts/setup --benchmarks` has not installed them."""
    return {peer.name: peer for peer in PEERS} if INSTALLED.exists() else {}


def _small(count: int) -> list[bytes]:
    return [json.dumps({"id": number, "pad": "x" * (160 - len(str(number)))}).encode() for number in range(count)]


def _plain(_queue: str, body: bytes) -> Message:
    return body, pika.BasicProperties("application/json", delivery_mode=2)


def _celery_message(_queue: str, body: bytes) -> Message:
    """Message protocol 2; argsrepr and kwargsrepr, which only logs and monitors show, are empty."""
    task = str(uuid.uuid4())
    headers = {
        "lang": "py",
        "task": "job",
        "id": task,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task,
        "parent_id": None,
        "argsrepr": "",
        "kwargsrepr": "",
        "origin": "bench",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = pika.BasicProperties("application/json", "utf-8", headers, 2, 0, task)
    return b"[[%b], {}, %b]" % (body, CELERY_EMBED), properties


def _dramatiq_message(queue: str, body: bytes) -> Message:
    rest = {
        "kwargs": {},
        "options": {},
        "message_id": str(uuid.uuid4()),
        "message_timestamp": int(time.time() * 1000),
    }
    head = {"queue_name": queue, "actor_name": "job"}
    text = b'%b, "args": [%b], %b' % (json.dumps(head)[:-1].encode(), body, json.dumps(rest)[1:].encode())
    return text, pika.BasicProperties(delivery_mode=2)


def _celery(workers: int, settings: Settings) -> list[str]:
    return [*_celery_worker(settings), "--pool", "prefork", "--concurrency", str(workers)]


def _celery_solo(workers: int, settings: Settings) -> list[str]:
    command = " ".join([*_celery_worker(settings), "--pool", "solo"])
    return ["sh", "-c", " ".join([*(f"{command} -n worker{number} &" for number in range(workers)), "wait"])]


def _celery_worker(settings: Settings) -> list[str]:
    without = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    multiplier = ("--prefetch-multiplier", settings["multiplier"])
    return [str(PROGRAMS / "celery"), "-A", "celery_app", "worker", "-l", "WARNING", *without, *multiplier]


def _dramatiq(workers: int, settings: Settings) -> list[str]:
    counts = ("--processes", str(workers), "--threads", settings["threads"])
    prefetch = (f"dramatiq_queue_prefetch={settings['prefetch']}",)
    return ["env", *prefetch, str(PROGRAMS / "dramatiq"), "dramatiq_app", *counts]


def _faststream(workers: int, _settings: Settings) -> list[str]:
    return [str(PROGRAMS / "faststream"), "run", "faststream_app:app", "-w", str(workers), "-l", "warning"]


def _blocking(workers: int, _settings: Settings) -> list[str]:
    return [str(PROGRAMS / "python"), "blocking_worker.py", str(workers)]


def _each(workers: int) -> int:
    return workers


CELERY = Peer(
    "Celery",
    HERE / "celery_app.py",
    _celery,
    _celery_message,
    lambda _: 1,
    {"multiplier": "64"},
    {"burn": {"multiplier": "1"}, "mixed": {"multiplier": "1"}},
)
DRAMATIQ = Peer(
    "Dramatiq",
    HERE / "dramatiq_app.py",
    _dramatiq,
    _dramatiq_message,
    _each,
    {"threads": "12", "prefetch": "48"},
    {"burn": {"threads": "1", "prefetch": "4"}, "mixed": {"threads": "1", "prefetch": "1"}},
    arguments=lambda queue: {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{queue}.XQ"},
)
FASTSTREAM = Peer(
    "FastStream",
    HERE / "faststream_app.py",
    _faststream,
    _plain,
    _each,
    {"prefetch": "100"},
    {"burn": {"prefetch": "2"}, "mixed": {"prefetch": "1"}},
)
BLOCKING = Peer("blocking worker", HERE / "blocking_worker.py", _blocking, _plain, _each, {"prefetch": "1"})
PEERS = (
    CELERY,
    CELERY._replace(name="Celery solo", command=_celery_solo, listens=_each),
    DRAMATIQ,
    FASTSTREAM,
    BLOCKING,
)
