"""(o) a small program started for each line of a file, by `mqworker map`, a process pool and GNU parallel: at least 0.9
of parallel.
"""

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Case
from tests.benchmarks.lines import PROGRAM, runs
from tests.benchmarks.rounds import Trial

LETTERS = "o"


def trials(bench: Bench) -> list[Trial]:
    """Return one trial; `subprocess.run` in a pool has no goal: no limits, and what the program started may stay."""
    what = "a small program for each line of a file"
    case = Case("o", what, "lines/s", "mqworker", {"parallel": 0.9})
    contestants = runs(bench.code, bench.sizes.programs, PROGRAM)
    return [Trial(what, [case], contestants, 2 + bench.sizes.programs / 400, bench.sizes.rounds)]
