"""(c) 1, 10 and 100 ms of pure CPU time a message, 2 Consumers, from a backlog: at least 0.85, 0.97 and 0.99 of
multiprocessing.Pool, which has no broker;
"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants import ours, pool
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "c"
POOL = "Pool"
GOALS = {1: 0.85, 10: 0.97, 100: 0.99}  # by milliseconds


def trials(bench: Bench) -> list[Trial]:
    """Return a trial for each length of work."""
    found = []
    for milliseconds, goal in GOALS.items():
        what = f"{milliseconds} ms of CPU time a message"
        goals = bench.goals({POOL: goal})
        case = Case("c", what, "messages/s", bench.subject, goals, part=f"{milliseconds} ms")
        here = {name: partial(_ours, bench, name, milliseconds) for name in bench.codes}
        others = bench.others({POOL: partial(_pool, bench, milliseconds)})
        found.append(Trial(what, [case], here | others, 3 + 1.2 * bench.sizes.work, bench.sizes.rounds))
    return found


def _ours(bench: Bench, name: str, milliseconds: int) -> tuple[float]:
    return ours.run(bench.queues, bench.codes[name], "burn", bodies.heavy(milliseconds, bench.sizes.work))[:1]


def _pool(bench: Bench, milliseconds: int) -> tuple[float]:
    return pool.run(bodies.heavy(milliseconds, bench.sizes.work))
