"""(j) what else there is, with the goals that it was made by: calls of a shared object from four processes, one by one
and 64 together, beside a BaseManager's proxy: 3 and 20 times; how busy an order by key or by input keeps 4
Consumers, beside a stage without one: at least 0.9; 64 coroutines that wait in one Consumer: at least 0.9 of the
ideal rate; 1 ms of CPU time for each line of a file by `mqworker map`, beside Pool.imap and GNU parallel: at least
0.9; lines sent by `mqworker send`: at least 10,000/s; items of a source, from the first one to the last result:
told;
"""

import json
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.benchmarks import order, seats, sent_lines
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants.mqworker import FIRST, configuration, project
from tests.benchmarks.figures import Case
from tests.benchmarks.lines import FUNCTION, runs
from tests.benchmarks.queues import OUTPUT
from tests.benchmarks.rounds import Run, Trial
from tests.benchmarks.shared_calls import CHUNK, managers, ours

LETTERS = "j"
MANAGER, POOL, PARALLEL = "BaseManager", "Pool.imap", "parallel"
MEAN = 0.005  # seconds that an ordered message takes on average
SEATS, IDEAL = 64, 0.9
SENT = 10_000.0  # lines/s
LOOK = 0.02  # seconds between two looks whether all results are there
SOURCE = '[sources.{name}]\njob = "bench_jobs:numbers"\ninto = "{stage}"\n'
GENERATOR = """

def numbers(position):
    for number in range(0 if position is None else position + 1, {count}):
        yield mqworker.Item({{"id": number, "at": time.monotonic()}}, position=number)
"""


def trials(bench: Bench) -> list[Trial]:
    """Return a trial for each."""
    return [
        _calls(bench, "one by one", 1, 3.0),
        _calls(bench, f"{CHUNK} together (the manager's one by one)", CHUNK, 20.0),
        *(_ordered(bench, kind) for kind in order.KINDS),
        _one(bench, "coroutines", f"{SEATS} coroutines that wait, part of the ideal rate", "", IDEAL, _coroutines, 13),
        _mapped(bench),
        _one(bench, "send", "lines sent by `mqworker send`, each confirmed", "lines/s", SENT, _sent, 10),
        _one(bench, "source", "items of a source, to the last result", "items/s", None, _source, 10),
    ]


def _one(bench: Bench, part: str, what: str, unit: str, limit: float | None, run, seconds: float) -> Trial:
    """Return a trial of mqworker alone."""
    case = Case("j", what, unit, bench.subject, part=part, limit=limit)
    return Trial(what, [case], {bench.subject: partial(run, bench)}, seconds, bench.sizes.rounds)


def _calls(bench: Bench, how: str, chunk: int, goal: float) -> Trial:
    what = f"calls of a shared object from four processes, {how}"
    case = Case("j", what, "calls/s", bench.subject, {MANAGER: goal}, part=f"calls {chunk}")
    contestants: dict[str, Run] = {
        bench.subject: partial(_in_a_folder, ours, bench.sizes.calls, chunk),
        MANAGER: partial(_in_a_folder, managers, bench.sizes.calls),
    }
    return Trial(what, [case], contestants, 2 + bench.sizes.calls / 3_000, bench.sizes.rounds)


def _in_a_folder(measured, *arguments: int) -> tuple[float]:
    with tempfile.TemporaryDirectory(prefix="mqw-bench-") as folder:
        return (measured(Path(folder), *arguments),)


def _ordered(bench: Bench, kind: str) -> Trial:
    """Return a trial of all orders with one kind of service times, from which each has a case of its own."""
    what = f"how busy 4 Consumers are, {kind} service times of {MEAN * 1000:g} ms on average"
    orders = [name for name in order.STAGES if name != order.FREE]
    cases = [Case("j", what, "%", name, {order.FREE: order.GOAL}, part=f"{name}, {kind}") for name in orders]
    times = order.service_times(kind, max(40, int(4 * bench.sizes.work / MEAN)), MEAN)
    contestants = {name: partial(_busy, bench, more, times, len(cases)) for name, more in order.STAGES.items()}
    return Trial(what, cases, contestants, 4 + 1.3 * bench.sizes.work, bench.sizes.rounds)


def _busy(bench: Bench, more: str, times: list[float], cases: int) -> tuple[float, ...]:
    return (order.busy(bench.queues, bench.code, more, times),) * cases


def _coroutines(_: Bench) -> tuple[float]:
    return seats.measure("task", SEATS, 100)[:1]


def _mapped(bench: Bench) -> Trial:
    what = "1 ms of CPU time for each line of a file"
    case = Case("j", what, "lines/s", "mqworker", {POOL: 0.9, PARALLEL: 0.9}, part="map")
    contestants = runs(bench.code, bench.sizes.lines, FUNCTION)
    return Trial(what, [case], contestants, 3 + bench.sizes.lines / 1_500, bench.sizes.rounds)


def _sent(bench: Bench) -> tuple[float]:
    lines = b"".join(
        json.dumps({"id": number, "pad": "x" * 150}).encode() + b"\n" for number in range(5 * bench.sizes.lines)
    )
    return tuple(sent_lines.rates(f'[broker]\nurl = "{bench.queues.url}"', "classic", lines, 1))


def _source(bench: Bench) -> tuple[float]:
    """Measure a source with a name of its own, because the broker keeps how far one has come."""
    count, name = bench.sizes.lines, f"numbers-{time.monotonic_ns()}"
    config = configuration(bench.queues.url, "same") + SOURCE.format(name=name, stage=FIRST)
    bench.queues.empty()
    with project(config, bench.code, GENERATOR.format(count=count)) as service:
        service.start()
        began = time.monotonic()
        while bench.queues.ready(OUTPUT) < count:
            time.sleep(LOOK)
            assert time.monotonic() - began < 60 + count / 500, "the results of the source's items do not come"
        ended = time.monotonic()
        items = list(map(json.loads, bench.queues.take(count).values()))
    assert sorted(item["id"] for item in items) == list(range(count))
    return (count / (ended - min(item["at"] for item in items)),)
