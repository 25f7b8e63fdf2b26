"""(h) memory as proportional set size, the whole tree: each idle Consumer beyond two, by services with 2 and with 16 of
them, at most 20 MB, Celery's beside it; and with 1,000,000 small messages waiting at most 1.1 times that with 10,000;
"""

from functools import partial

from tests.benchmarks.bench import CELERY, Bench
from tests.benchmarks.contestants import ours
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "h"
FEW, MANY = 2, 16  # Consumers
LIMIT = 20.0  # MB
FLAT = 1 / 1.1
LITTLE = 10_000  # messages: enough for the whole time
SECONDS = 5.0  # of work before memory is looked at
MOST_ROUNDS = 2  # filling a large backlog takes a minute, and memory hardly differs from run to run


def trials(bench: Bench) -> list[Trial]:
    """Return a trial with Consumers, and one with a backlog."""
    what = f"memory of an idle tree with {FEW} and {MANY} Consumers"
    each = Case("h", "memory of each further idle Consumer", "MB", bench.subject, cost=True, limit=LIMIT)
    tree = Case("h", f"memory of the tree with {FEW} idle Consumers", "MB", bench.subject, part="tree", cost=True)
    runs = bench.others({CELERY: partial(_celery, bench)} if CELERY in bench.peers else {})
    idle = Trial(what, [each, tree], {bench.subject: partial(_consumers, bench)} | runs, 12, bench.sizes.rounds)

    backlog = f"memory of the tree with {bench.sizes.waiting:,} small messages waiting"
    little = min(LITTLE, bench.sizes.waiting)
    much, less = f"{bench.sizes.waiting:,} waiting", f"{little:,} waiting"
    case = Case("h", backlog, "MB", much, {less: FLAT}, part="backlog", cost=True)
    contestants = {
        much: partial(_backlog, bench, bench.sizes.waiting),
        less: partial(_backlog, bench, little),
    }
    seconds = 10 + bench.sizes.waiting / 2 / 15_000
    return [idle, Trial(backlog, [case], contestants, seconds, min(bench.sizes.rounds, MOST_ROUNDS))]


def _consumers(bench: Bench) -> tuple[float, float]:
    few, many = (ours.memory(bench.queues, bench.code, consumers) for consumers in (FEW, MANY))
    return _figures(few, many)


def _celery(bench: Bench) -> tuple[float, float]:
    few, many = (sum(bench.peers[CELERY].memory(bench.queues, consumers)) for consumers in (FEW, MANY))
    return _figures(few, many)


def _figures(few: int, many: int) -> tuple[float, float]:
    return (many - few) / (MANY - FEW) / 1e6, few / 1e6


def _backlog(bench: Bench, waiting: int) -> tuple[float]:
    return (ours.memory_with(bench.queues, bench.code, waiting, SECONDS) / 1e6,)
