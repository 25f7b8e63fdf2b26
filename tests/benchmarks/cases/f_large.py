"""(f) bodies of 100 kB, 1 MB and 8 MB through a handler that reads every byte and returns them, 2 Consumers, from a
backlog: at least 0.8 of the relay's MB/s;
"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import Bench
from tests.benchmarks.contestants import ours, relay
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "f"
RELAY = "relay"
SIZES = {"100 kB": 100, "1 MB": 1_000, "8 MB": 8_000}  # kB of a body


def trials(bench: Bench) -> list[Trial]:
    """Return a trial for each size."""
    found = []
    for size, kilobytes in SIZES.items():
        what = f"bodies of {size} through a handler that reads every byte"
        case = Case("f", what, "MB/s", bench.subject, bench.goals({RELAY: 0.8}), part=size)
        here = {name: partial(_ours, bench, name, kilobytes) for name in bench.codes}
        others = bench.others({RELAY: partial(_relay, bench, kilobytes)})
        found.append(Trial(what, [case], here | others, 3 + bench.sizes.large / 50, bench.sizes.rounds))
    return found


def _ours(bench: Bench, name: str, kilobytes: int) -> tuple[float]:
    messages = bodies.large(kilobytes, bench.sizes.large)
    return (ours.run(bench.queues, bench.codes[name], "touch", messages)[0] * kilobytes / 1000,)


def _relay(bench: Bench, kilobytes: int) -> tuple[float]:
    return (relay.run(bench.queues, bodies.large(kilobytes, bench.sizes.large))[0] * kilobytes / 1000,)
