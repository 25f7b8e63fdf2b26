"""(l) growth, as CPU time a message of the whole tree: a backlog of 1,000,000 beside 10,000; 16 Consumers beside 1; 8
stages in a row beside one, by message and stage: each at most 10 % more;
"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants import ours
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "l"
GOAL = 1 / 1.1
CONSUMERS = {"1 Consumer": 1, "2 Consumers": 2, "4 Consumers": 4, "8 Consumers": 8, "16 Consumers": 16}
STAGES = {"1 stage": 1, "2 stages": 2, "4 stages": 4, "8 stages": 8}
MOST_ROUNDS = 2  # of the largest backlogs, which take minutes


def trials(bench: Bench) -> list[Trial]:
    """Return a trial for each way to grow."""
    most = bench.sizes.waiting
    counts = {f"{count:,} messages": count for count in (most // 100, most // 10, most)}
    size = max(10, bench.sizes.small // 4)
    backlogs = {name: partial(_run, bench, count) for name, count in counts.items()}
    consumers = {name: partial(_run, bench, size, consumers=number) for name, number in CONSUMERS.items()}
    stages = {name: partial(_run, bench, size // 2, stages=number) for name, number in STAGES.items()}
    return [
        _trial("backlogs", backlogs, 10 + most / 3 / 4_000, min(MOST_ROUNDS, bench.sizes.rounds)),
        _trial("Consumers", consumers, 8 + size / 5_000, bench.sizes.rounds),
        _trial("stages in a row", stages, 8 + size / 3_000, bench.sizes.rounds),
    ]


def _trial(part: str, contestants: dict, seconds: float, rounds: int) -> Trial:
    """Return a trial of the largest beside the smallest, with those between."""
    least, *_, most = contestants
    case = Case("l", f"CPU time a message, {part}", "us", most, {least: GOAL}, part=part, cost=True)
    return Trial(case.what, [case], contestants, seconds, rounds)


def _run(bench: Bench, count: int, *, consumers: int = 2, stages: int = 1) -> tuple[float]:
    return ours.run(bench.queues, bench.code, "same", bodies.small(count), consumers=consumers, stages=stages)[1:]
