"""(m) the messages of (a) while four streams of the Feed are read, beside the same without: at least 0.97;"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import AGAINST, Bench
from tests.benchmarks.contestants import ours
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "m"
STREAMS = 4  # tabs of one browser that stream
WATCHED, ALONE = "watched", "alone"


def trials(bench: Bench) -> list[Trial]:
    """Return one trial."""
    what = f"200-byte JSON through a handler that returns it, {STREAMS} streams of the Feed"
    case = Case("m", what, "messages/s", WATCHED, {ALONE: AGAINST})
    contestants = {WATCHED: partial(_run, bench, STREAMS), ALONE: partial(_run, bench, 0)}
    return [Trial(what, [case], contestants, 5 + bench.sizes.small / 4 / 8_000, bench.sizes.rounds)]


def _run(bench: Bench, streams: int) -> tuple[float]:
    messages = bodies.small(bench.sizes.small)[: max(10, bench.sizes.small // 4)]
    return ours.run(bench.queues, bench.code, "same", messages, streams=streams)[:1]
