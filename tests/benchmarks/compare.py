"""The comparisons, round by round: mqworker against a commit of its own past, or against references without workers.

(a) 179-byte JSON, persistent, through a handler that returns it, 2 Consumers, from a backlog;
(b) the CPU time a message of the whole process tree in the same rounds;
(c) 10 ms of pure CPU time a message, 2 Consumers, from a backlog;
(d) calls of a shared object from four processes, one by one, and (e) a chunk's together; not with --against;
(f) matrix products of numpy, 2 Consumers, from a backlog: with each Consumer's share of the CPUs, which is the default,
    beside native libraries that use all CPUs in each Consumer (`native_threads = 0`); not with --against;
(g) bodies of 1 MB and (h) of 8 MB through a handler that returns them, 2 Consumers, from a backlog;
(i) 1 ms of CPU time for each line of a file, by `mqworker map`, Pool.imap and, if it is installed, GNU parallel; not
    with --against.
A round runs each contestant twice, in mirrored order (A B B A, then B A A B), so that neither a drift of the machine
nor going first counts for anybody. Every result is checked.
"""

import json
import multiprocessing
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.figures import Case
from tests.benchmarks.handlers import burn
from tests.benchmarks.lines import rates
from tests.benchmarks.queues import INPUT, OUTPUT, Queues
from tests.benchmarks.shared_calls import CHUNK, managers, ours
from tests.benchmarks.stage import measure

RELAY = Path(__file__).with_name("relay.py")
PAD = "x" * 150
SIZE = 600  # of a matrix: about 10 ms of work on one CPU
AGAINST = 0.97  # "not slower", with 3 % for the accuracy of the measurement
RATE, COST = "JSON through a handler that returns it", "CPU time a message, the whole tree"
WORK = "10 ms of CPU time a message"
SINGLE = "calls of a shared object from four processes, one by one"
MATRICES = f"products of two matrices of {SIZE}x{SIZE} by numpy"
LARGE = {"g": 1, "h": 8}  # MB of a body
TOGETHER = f"the same, {CHUNK} calls together (the BaseManager's are single)"


class Sizes(NamedTuple):
    """How much is measured."""

    rounds: int
    small: int  # messages of one run of (a) and (b)
    heavy: int  # messages of one run of (c) and (f)
    large: int  # MB of one run of (g) and (h)
    calls: int  # of each of four processes in one run of (d) and (e)
    lines: int  # of the file of one run of (i)


class Figures(NamedTuple):
    """What one run came to."""

    rate: float  # messages a second
    cpu_us: float  # CPU time a message in microseconds, 0 where nobody asks


Contestants = dict[str, Callable[[], Figures]]
Progress = Callable[[str], None]


def small_bodies(count: int) -> list[bytes]:
    """Return the messages of (a) and (b), all of one size."""
    return [json.dumps({"id": number, "pad": PAD + "x" * (10 - len(str(number)))}).encode() for number in range(count)]


def heavy_bodies(count: int) -> list[bytes]:
    """Return the messages of (c), which take 10 ms each here."""
    began = time.perf_counter()
    burn({"id": 0, "loops": 300_000})
    loops = int(300_000 * 0.010 / (time.perf_counter() - began))
    return [json.dumps({"id": number, "loops": loops}).encode() for number in range(count)]


def against(queues: Queues, codes: dict[str, Path], sizes: Sizes, say: Progress) -> list[Case]:
    """Compare two copies of the code, the first of which is the subject."""
    subject, other = codes
    goals = {other: AGAINST}
    bodies = small_bodies(sizes.small)
    rate = Case("a", f"{len(bodies[0])}-byte {RATE}", "messages/s", subject, goals)
    cost = Case("b", COST, "us", subject, goals, cost=True)
    _compare(
        {name: partial(mqworker, queues, code, "same", bodies) for name, code in codes.items()}, rate, cost, sizes, say
    )
    work = Case("c", WORK, "messages/s", subject, goals)
    bodies = heavy_bodies(sizes.heavy)
    _compare(
        {name: partial(mqworker, queues, code, "burn", bodies) for name, code in codes.items()}, work, None, sizes, say
    )
    return [rate, cost, work, *large(queues, codes, {}, goals, sizes, say)]


def references(queues: Queues, code: Path, sizes: Sizes, say: Progress) -> list[Case]:
    """Compare this code with a bare pika relay, that relay when its results have properties like ours, and a Pool."""
    bodies = small_bodies(sizes.small)
    rate = Case("a", f"{len(bodies[0])}-byte {RATE}", "messages/s", "mqworker", {"relay": 0.9, "relay like ours": 0.9})
    cost = Case("b", COST, "us", "mqworker", {"relay": 1 / 1.6}, cost=True)
    contestants = {
        "mqworker": partial(mqworker, queues, code, "same", bodies),
        "relay": partial(relay, queues, bodies),
        "relay like ours": partial(relay, queues, bodies, "--like-mqworker"),
    }
    _compare(contestants, rate, cost, sizes, say)
    work = Case("c", WORK, "messages/s", "mqworker", {"Pool": 0.97})
    bodies = heavy_bodies(sizes.heavy)
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the workers too; they end with the pool
    with multiprocessing.get_context("spawn").Pool(2, signal.signal, ignore) as workers:
        workers.map(burn, [{"id": 0, "loops": 1000}] * 4)
        contestants = {
            "mqworker": partial(mqworker, queues, code, "burn", bodies),
            "Pool": partial(pool, workers, bodies),
        }
        _compare(contestants, work, None, sizes, say)
    cases = [rate, cost, work, *shared(sizes, say), threads(queues, code, sizes, say)]
    cases += large(queues, {"mqworker": code}, {"relay": relay}, {"relay": 0.8}, sizes, say)
    return [*cases, files(code, sizes, say)]


def shared(sizes: Sizes, say: Progress) -> list[Case]:
    """Compare calls of a shared object with those of a BaseManager's proxy."""
    single = Case("d", SINGLE, "calls/s", "mqworker", {"BaseManager": 3.0})
    together = Case("e", TOGETHER, "calls/s", "mqworker", {"BaseManager": 20.0})
    for case, chunk in ((single, 1), (together, CHUNK)):
        contestants = {
            "mqworker": partial(calls, ours, sizes.calls, chunk),
            "BaseManager": partial(calls, managers, sizes.calls),
        }
        _compare(contestants, case, None, sizes, say)
    return [single, together]


def threads(queues: Queues, code: Path, sizes: Sizes, say: Progress) -> Case:
    """Compare native libraries that have a Consumer's share of the CPUs with those that use all in each Consumer."""
    case = Case("f", MATRICES, "messages/s", "shared", {"unlimited": 1.0})
    bodies = [json.dumps({"id": number, "size": SIZE}).encode() for number in range(sizes.heavy)]
    contestants = {
        "shared": partial(mqworker, queues, code, "multiply", bodies),
        "unlimited": partial(mqworker, queues, code, "multiply", bodies, "native_threads = 0"),
    }
    _compare(contestants, case, None, sizes, say)
    return case


def files(code: Path, sizes: Sizes, say: Progress) -> Case:
    """Compare `mqworker map` with others that compute the lines of a file."""
    measured = rates(code, sizes.lines)
    others = {"Pool.imap": 0.9, "parallel": 0.9}
    if "parallel" not in measured:
        say("(i) GNU parallel is not installed")
        del others["parallel"]
    case = Case("i", "1 ms of CPU time for each line of a file", "lines/s", "mqworker", others)
    contestants = {name: partial(_lines, rate) for name, rate in measured.items()}
    _compare(contestants, case, None, sizes, say)
    return case


def _lines(measured: Callable[[], float]) -> Figures:
    return Figures(measured(), 0.0)


def large(
    queues: Queues,
    codes: dict[str, Path],
    others: dict[str, Callable[[Queues, list[bytes]], Figures]],
    goals: dict[str, float],
    sizes: Sizes,
    say: Progress,
) -> list[Case]:
    """Compare copies of the code, of which the first is the subject, and others on large bodies."""
    cases = []
    for key, megabytes in LARGE.items():
        case = Case(
            key, f"bodies of {megabytes} MB through a handler that returns them", "MB/s", next(iter(codes)), goals
        )
        rest = random.Random(key).randbytes(megabytes * 1_000_000 - 8)
        bodies = [b"%08d" % number + rest for number in range(max(2, sizes.large // megabytes))]
        contestants = {name: partial(mqworker, queues, code, "same", bodies) for name, code in codes.items()}
        contestants |= {name: partial(other, queues, bodies) for name, other in others.items()}
        weighed = {name: partial(_weighed, measured, megabytes) for name, measured in contestants.items()}
        _compare(weighed, case, None, sizes, say)
        cases.append(case)
    return cases


def _weighed(measured: Callable[[], Figures], megabytes: int) -> Figures:
    """Measure MB instead of messages."""
    figures = measured()
    return figures._replace(rate=figures.rate * megabytes)


def calls(measured: Callable[..., float], *arguments: int) -> Figures:
    """Measure calls in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="mqw-bench-") as folder:
        return Figures(measured(Path(folder), *arguments), 0.0)


def _compare(contestants: Contestants, rate: Case, cost: Case | None, sizes: Sizes, say: Progress) -> None:
    """Add every round to the cases."""
    for number in range(sizes.rounds):
        found: dict[str, list[Figures]] = {name: [] for name in contestants}
        for name in mirrored(list(contestants), number):
            found[name].append(contestants[name]())
        rate.rounds.append({name: statistics.harmonic_mean([run.rate for run in runs]) for name, runs in found.items()})
        if cost is not None:
            cost.rounds.append({name: statistics.mean(run.cpu_us for run in runs) for name, runs in found.items()})
        words = "; ".join(case.last() for case in (rate, cost) if case is not None)
        say(f"round {number + 1} of {sizes.rounds}: {words}")


def mirrored(names: list[str], number: int) -> Iterator[str]:
    """Yield every name twice, in an order that reads the same backwards; the next round begins with the last."""
    turn = names if number % 2 else names[::-1]
    yield from turn
    yield from reversed(turn)


def mqworker(queues: Queues, code: Path, job: str, bodies: list[bytes], more: str = "") -> Figures:
    """Measure a stage; AssertionError unless every result is right."""
    measured = measure(queues, job, code, bodies, more)
    if not bodies[0].startswith(b"{"):
        assert measured.results == bodies
    else:
        assert list(map(json.loads, measured.results)) == _right(job, list(map(json.loads, bodies)))
    return Figures(len(bodies) / measured.seconds, measured.cpu_seconds / len(bodies) * 1e6)


def _right(job: str, bodies: list[dict]) -> list[dict]:
    """Return the results that the job has to have."""
    if job == "multiply":
        return [{"id": body["id"], "total": SIZE**3} for body in bodies]
    if job == "burn":
        total = burn(bodies[0])["total"]
        return [{"id": body["id"], "total": total} for body in bodies]
    return bodies


def relay(queues: Queues, bodies: list[bytes], *options: str) -> Figures:
    """Measure the relay; its results have no ids and are only counted."""
    queues.fill(bodies)
    command = [sys.executable, str(RELAY), queues.url, INPUT, OUTPUT, str(len(bodies)), *options]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert queues.ready(OUTPUT) == len(bodies)
    return Figures(len(bodies) / told["seconds"], told["cpu_seconds"] / len(bodies) * 1e6)


def pool(workers: Pool, bodies: list[bytes]) -> Figures:
    """Measure the process pool on the function that the stage runs."""
    inputs = [json.loads(body) for body in bodies]
    began = time.monotonic()
    answers = list(workers.imap_unordered(burn, inputs))
    seconds = time.monotonic() - began
    assert sorted(answer["id"] for answer in answers) == [body["id"] for body in inputs]
    return Figures(len(inputs) / seconds, 0.0)
