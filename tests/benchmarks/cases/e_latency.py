"""(e) from publishing a message to the arrival of its result, one at a time, nothing else to do: the median at most 1.5
times that of a bare worker that blocks; the 99th percentile is told;
"""

import statistics
from functools import partial

from tests.benchmarks.bench import BLOCKING, CELERY, DRAMATIQ, FASTSTREAM, Bench
from tests.benchmarks.contestants import ours
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "e"
OTHERS = (BLOCKING, CELERY, DRAMATIQ, FASTSTREAM)


def trials(bench: Bench) -> list[Trial]:
    """Return one trial for both figures."""
    what = "latency of one message on an idle system"
    median = Case("e", f"{what}, median", "ms", bench.subject, bench.goals({BLOCKING: 1 / 1.5}), cost=True)
    slow = Case("e", f"{what}, 99th percentile", "ms", bench.subject, part="p99", cost=True)
    others = {name: partial(_peer, bench, name) for name in OTHERS if name in bench.peers}
    here = {bench.subject: partial(_ours, bench)}
    seconds = 3 + bench.sizes.trips * 0.004
    return [Trial(what, [median, slow], here | bench.others(others), seconds, bench.sizes.rounds)]


def _ours(bench: Bench) -> tuple[float, float]:
    return _figures(ours.latency(bench.queues, bench.code, bench.sizes.trips))


def _peer(bench: Bench, name: str) -> tuple[float, float]:
    return _figures(bench.peers[name].latency(bench.queues, bench.sizes.trips))


def _figures(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds) * 1000, sorted(seconds)[int(0.99 * len(seconds))] * 1000
