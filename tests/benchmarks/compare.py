"""The comparisons, round by round: mqworker against a commit of its own past, or against references without workers.

(a) 179-byte JSON, persistent, through a handler that returns it, 2 Consumers, from a backlog;
(b) the CPU time a message of the whole process tree in the same rounds;
(c) 10 ms of pure CPU time a message, 2 Consumers, from a backlog;
(d) calls of a shared object from four processes, one by one, and (e) a chunk's together; not with --against;
(f) matrix products of numpy, 2 Consumers, from a backlog: with each Consumer's share of the CPUs, which is the default,
    beside native libraries that use all CPUs in each Consumer (`native_threads = 0`); not with --against;
(g) bodies of 1 MB and (h) of 8 MB through a handler that returns them, 2 Consumers, from a backlog;
(i) the messages of (a) through four stages in a row, each with 2 Consumers, beside one stage: how many pass a stage in
    a second, and (j) the CPU time a message and stage in the same rounds; not with --against;
(k) 1 ms of CPU time for each line of a file in a Python function, and (l) a small program started for each line, by
    `mqworker map`, Pool.imap and, if it is installed, GNU parallel (which starts a script of its own for each thousand
    lines of (k)); not with --against;
(m) the messages of (a) while four streams of the Feed are read, beside the same without; not with --against.
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
from tests.benchmarks.lines import FUNCTION, PROGRAM, rates
from tests.benchmarks.queues import INPUT, OUTPUT, Queues
from tests.benchmarks.shared_calls import CHUNK, managers, ours
from tests.benchmarks.stage import measure

CASES, CASES_AGAINST = "abcdefghijklm", "abcgh"
RELAY = Path(__file__).with_name("relay.py")
PAD = "x" * 150
SIZE = 600  # of a matrix: about 10 ms of work on one CPU
AGAINST = 0.97  # "not slower", with 3 % for the accuracy of the measurement
STAGES, IN_A_ROW = 4, 1 / 1.1  # in a row a message and stage may cost 10 % more than in one stage
STREAMS = 4  # tabs of one browser that stream
RATE, COST = "JSON through a handler that returns it", "CPU time a message, the whole tree"
WORK = "10 ms of CPU time a message"
SINGLE = "calls of a shared object from four processes, one by one"
MATRICES = f"products of two matrices of {SIZE}x{SIZE} by numpy"
LARGE = {"g": 1, "h": 8}  # MB of a body
TOGETHER = f"the same, {CHUNK} calls together (the BaseManager's are single)"


class Sizes(NamedTuple):
    """How much is measured."""

    rounds: int
    small: int  # messages of one run of (a), (b), (i), (j) and (m)
    heavy: int  # messages of one run of (c) and (f)
    large: int  # MB of one run of (g) and (h)
    calls: int  # of each of four processes in one run of (d) and (e)
    lines: int  # of the file of one run of (k)
    programs: int  # lines of the file of one run of (l)
    cases: str  # letters; what is measured in the same rounds, or by the same function, comes together


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

    def same() -> list[Case]:
        bodies = small_bodies(sizes.small)
        rate = Case("a", f"{len(bodies[0])}-byte {RATE}", "messages/s", subject, goals)
        cost = Case("b", COST, "us", subject, goals, cost=True)
        contestants = {name: partial(mqworker, queues, code, "same", bodies) for name, code in codes.items()}
        return _compare(contestants, rate, cost, sizes, say)

    def work() -> list[Case]:
        bodies = heavy_bodies(sizes.heavy)
        contestants = {name: partial(mqworker, queues, code, "burn", bodies) for name, code in codes.items()}
        return _compare(contestants, Case("c", WORK, "messages/s", subject, goals), None, sizes, say)

    return _wanted(sizes, {"ab": same, "c": work, "gh": partial(large, queues, codes, {}, goals, sizes, say)})


def references(queues: Queues, code: Path, sizes: Sizes, say: Progress) -> list[Case]:
    """Compare this code with a bare pika relay, a process pool, a BaseManager, and with itself in other settings."""
    these = queues, code, sizes, say
    against_relay = partial(large, queues, {"mqworker": code}, {"relay": relay}, {"relay": 0.8}, sizes, say)
    cases: dict[str, Callable[[], list[Case]]] = {
        "ab": partial(relays, *these),
        "c": partial(processes, *these),
        "de": partial(shared, sizes, say),
        "f": partial(threads, *these),
        "gh": against_relay,
        "ij": partial(in_a_row, *these),
        "k": partial(files, code, "k", sizes, say),
        "l": partial(files, code, "l", sizes, say),
        "m": partial(watched, *these),
    }
    return _wanted(sizes, cases)


def _wanted(sizes: Sizes, cases: dict[str, Callable[[], list[Case]]]) -> list[Case]:
    """Measure those cases, by their letters, that are asked for."""
    return [case for letters, measured in cases.items() if set(letters) & set(sizes.cases) for case in measured()]


def relays(queues: Queues, code: Path, sizes: Sizes, say: Progress) -> list[Case]:
    """Compare with a bare pika relay, and with that relay when its results have properties like ours."""
    bodies = small_bodies(sizes.small)
    rate = Case("a", f"{len(bodies[0])}-byte {RATE}", "messages/s", "mqworker", {"relay": 0.9, "relay like ours": 0.9})
    cost = Case("b", COST, "us", "mqworker", {"relay": 1 / 1.6}, cost=True)
    contestants = {
        "mqworker": partial(mqworker, queues, code, "same", bodies),
        "relay": partial(relay, queues, bodies),
        "relay like ours": partial(relay, queues, bodies, "--like-mqworker"),
    }
    return _compare(contestants, rate, cost, sizes, say)


def processes(queues: Queues, code: Path, sizes: Sizes, say: Progress) -> list[Case]:
    """Compare with a process pool."""
    work = Case("c", WORK, "messages/s", "mqworker", {"Pool": 0.97})
    bodies = heavy_bodies(sizes.heavy)
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the workers too; they end with the pool
    with multiprocessing.get_context("spawn").Pool(2, signal.signal, ignore) as workers:
        workers.map(burn, [{"id": 0, "loops": 1000}] * 4)
        contestants = {
            "mqworker": partial(mqworker, queues, code, "burn", bodies),
            "Pool": partial(pool, workers, bodies),
        }
        return _compare(contestants, work, None, sizes, say)


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


def threads(queues: Queues, code: Path, sizes: Sizes, say: Progress) -> list[Case]:
    """Compare native libraries that have a Consumer's share of the CPUs with those that use all in each Consumer."""
    case = Case("f", MATRICES, "messages/s", "shared", {"unlimited": 1.0})
    bodies = [json.dumps({"id": number, "size": SIZE}).encode() for number in range(sizes.heavy)]
    contestants = {
        "shared": partial(mqworker, queues, code, "multiply", bodies),
        "unlimited": partial(mqworker, queues, code, "multiply", bodies, "native_threads = 0"),
    }
    return _compare(contestants, case, None, sizes, say)


def in_a_row(queues: Queues, code: Path, sizes: Sizes, say: Progress) -> list[Case]:
    """Compare several stages in a row with one, by message and stage."""
    row, bodies = f"{STAGES} in a row", small_bodies(sizes.small)
    rate = Case("i", f"{len(bodies[0])}-byte {RATE}, stages passed", "messages/s", row, {"one": IN_A_ROW})
    cost = Case("j", "CPU time a message and stage, the whole tree", "us", row, {"one": IN_A_ROW}, cost=True)
    contestants = {
        row: partial(mqworker, queues, code, "same", bodies, stages=STAGES),
        "one": partial(mqworker, queues, code, "same", bodies),
    }
    return _compare(contestants, rate, cost, sizes, say)


def watched(queues: Queues, code: Path, sizes: Sizes, say: Progress) -> list[Case]:
    """Compare a service whose Feed is read with one that nobody looks at."""
    bodies = small_bodies(sizes.small)
    case = Case("m", f"{RATE}, {STREAMS} streams of the Feed", "messages/s", "watched", {"alone": AGAINST})
    contestants = {
        "watched": partial(mqworker, queues, code, "same", bodies, streams=STREAMS),
        "alone": partial(mqworker, queues, code, "same", bodies),
    }
    return _compare(contestants, case, None, sizes, say)


def files(code: Path, key: str, sizes: Sizes, say: Progress) -> list[Case]:
    """Compare `mqworker map` with others that compute the lines of a file."""
    what = "1 ms of CPU time for each line of a file" if key == "k" else "a small program for each line of a file"
    measured = rates(code, sizes.lines, FUNCTION) if key == "k" else rates(code, sizes.programs, PROGRAM)
    # `subprocess.run` in a pool has no goal in (l): it has no limits, and leaves what the program started
    others = {"Pool.imap": 0.9, "parallel": 0.9} if key == "k" else {"parallel": 0.9}
    if "parallel" not in measured:
        say(f"({key}) GNU parallel is not installed, so it is left out (scripts/setup --benchmarks)")
        del others["parallel"]
    case = Case(key, what, "lines/s", "mqworker", others)
    contestants = {name: partial(_lines, rate) for name, rate in measured.items()}
    return _compare(contestants, case, None, sizes, say)


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


def _compare(contestants: Contestants, rate: Case, cost: Case | None, sizes: Sizes, say: Progress) -> list[Case]:
    """Add every round to the cases; returns them."""
    cases = [case for case in (rate, cost) if case is not None]
    for number in range(sizes.rounds):
        found: dict[str, list[Figures]] = {name: [] for name in contestants}
        for name in mirrored(list(contestants), number):
            found[name].append(contestants[name]())
        rate.rounds.append({name: statistics.harmonic_mean([run.rate for run in runs]) for name, runs in found.items()})
        if cost is not None:
            cost.rounds.append({name: statistics.mean(run.cpu_us for run in runs) for name, runs in found.items()})
        words = "; ".join(case.last() for case in cases)
        say(f"round {number + 1} of {sizes.rounds}: {words}")
    return cases


def mirrored(names: list[str], number: int) -> Iterator[str]:
    """Yield every name twice, in an order that reads the same backwards; the next round begins with the last."""
    turn = names if number % 2 else names[::-1]
    yield from turn
    yield from reversed(turn)


def mqworker(
    queues: Queues, code: Path, job: str, bodies: list[bytes], more: str = "", *, stages: int = 1, streams: int = 0
) -> Figures:
    """Measure a stage, or several in a row by message and stage; AssertionError unless every result is right."""
    measured = measure(queues, job, code, bodies, more, stages=stages, streams=streams)
    if not bodies[0].startswith(b"{"):
        assert measured.results == bodies
    else:
        assert list(map(json.loads, measured.results)) == _right(job, list(map(json.loads, bodies)))
    passed = stages * len(bodies)
    return Figures(passed / measured.seconds, measured.cpu_seconds / passed * 1e6)


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
