"""(k) the messages of (a) on the embedded broker, which syncs to the disk: at least 5,000 messages/s;"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants import embedded
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "k"
LIMIT = 5_000.0  # messages/s


def trials(bench: Bench) -> list[Trial]:
    """Return one trial."""
    what = "200-byte JSON through a handler that returns it, embedded broker"
    cases = [
        Case("k", what, "messages/s", bench.subject, limit=LIMIT),
        Case("k", f"{what}, CPU time a message", "us", bench.subject, part="CPU", cost=True),
    ]
    return [Trial(what, cases, {bench.subject: partial(_run, bench)}, 5, bench.sizes.rounds)]


def _run(bench: Bench) -> tuple[float, float]:
    return embedded.run(bench.code, bodies.small(bench.sizes.small)[: max(10, bench.sizes.small // 4)])
