"""(i) from the command to the first result: the tree's own share, beyond an interpreter that imports the user's module,
at most 0.5 s; from the death of the only Consumer to the next result: at most 0.2 s beyond the user's imports;
"""

from functools import partial

from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants import life
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "i"


def trials(bench: Bench) -> list[Trial]:
    """Return a trial for the start, and one for a Consumer's successor."""
    start, next_one = "from the command to the first result", "from the death of a Consumer to the next result"
    who = bench.subject
    starts = [
        Case("i", start, "s", who, part="start", cost=True),
        Case("i", f"{start}, the tree's own share", "s", who, cost=True, limit=0.5),
    ]
    nexts = [
        Case("i", next_one, "s", who, part="next", cost=True),
        Case("i", f"{next_one}, beyond the user's imports", "s", who, part="replaced", cost=True, limit=0.2),
    ]
    return [
        Trial(start, starts, {who: partial(life.first_result, bench.queues, bench.code)}, 2, bench.sizes.rounds),
        Trial(next_one, nexts, {who: partial(life.replaced, bench.queues, bench.code)}, 3, bench.sizes.rounds),
    ]
