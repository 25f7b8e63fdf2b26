"""(n) matrix products of numpy, 2 Consumers, from a backlog: with each Consumer's share of the CPUs, which is the
default, beside native libraries that use all CPUs in each Consumer (`native_threads = 0`): at least 1.0;
"""

import json
from functools import partial

from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants import ours
from tests.benchmarks.figures import Case
from tests.benchmarks.handlers import SIDE
from tests.benchmarks.rounds import Trial

LETTERS = "n"
SHARED, UNLIMITED = "shared", "unlimited"
PER_SECOND = 50  # products, roughly


def trials(bench: Bench) -> list[Trial]:
    """Return one trial."""
    what = f"products of two matrices of {SIDE}x{SIDE} by numpy"
    case = Case("n", what, "messages/s", SHARED, {UNLIMITED: 1.0})
    contestants = {SHARED: partial(_run, bench, ""), UNLIMITED: partial(_run, bench, "native_threads = 0")}
    return [Trial(what, [case], contestants, 4 + 1.5 * bench.sizes.work, bench.sizes.rounds)]


def _run(bench: Bench, more: str) -> tuple[float]:
    count = max(4, int(bench.sizes.work * 2 * PER_SECOND))
    messages = [json.dumps({"id": number, "size": SIDE}).encode() for number in range(count)]
    return ours.run(bench.queues, bench.code, "multiply", messages, more)[:1]
