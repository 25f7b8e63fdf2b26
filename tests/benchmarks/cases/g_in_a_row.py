"""(g) the messages of (a) through four stages in a row, each with 2 Consumers: how many pass a stage in a second, and
CPU time a message and stage, each at most 10 % worse than with one stage;
"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants import ours
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "g"
STAGES, ONE = 4, "one stage"
ROW = f"{STAGES} in a row"
GOAL = 1 / 1.1


def trials(bench: Bench) -> list[Trial]:
    """Return one trial for both figures."""
    what = f"200-byte JSON through {STAGES} stages in a row"
    rate = Case("g", f"{what}, stages passed", "messages/s", ROW, {ONE: GOAL})
    cost = Case("g", f"{what}, CPU time a message and stage", "us", ROW, {ONE: GOAL}, part="CPU", cost=True)
    contestants = {ROW: partial(run, bench, STAGES), ONE: partial(run, bench, 1)}
    seconds = 5 + bench.sizes.small / 4 * (1 + STAGES) / 2 / 8_000
    return [Trial(what, [rate, cost], contestants, seconds, bench.sizes.rounds)]


def run(bench: Bench, stages: int) -> tuple[float, float]:
    """Measure so many stages in a row."""
    messages = bodies.small(bench.sizes.small)[: max(10, bench.sizes.small // 4)]
    return ours.run(bench.queues, bench.code, "same", messages, stages=stages)
