"""(a) 200-byte JSON through a handler that returns it, 2 Consumers, from a backlog: at least 0.9 of a bare relay
    without workers, and 5 times the fastest peer;
(b) CPU time a message of the whole process tree in the same runs: at most 1.5 times the relay's;
"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import CELERY, DRAMATIQ, FASTSTREAM, SOLO, Bench
from tests.benchmarks.contestants import ours, relay
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "ab"
PEERS = (CELERY, SOLO, DRAMATIQ, FASTSTREAM)
RELAY, LIKE_OURS = "relay", "relay like ours"  # the second's results have properties of the size that ours have


def trials(bench: Bench) -> list[Trial]:
    """Return one trial for both."""
    goals = bench.goals({RELAY: 0.9} | dict.fromkeys(PEERS, 5.0))
    costs = bench.goals({RELAY: 1 / 1.5})
    rate = Case("a", "200-byte JSON through a handler that returns it", "messages/s", bench.subject, goals)
    cost = Case("b", "CPU time a message, the whole tree", "us", bench.subject, costs, cost=True)
    here = {name: partial(_ours, bench, name) for name in bench.codes}
    others = {
        RELAY: partial(_relay, bench),
        LIKE_OURS: partial(_relay, bench, "--like-mqworker"),
    } | {name: partial(_peer, bench, name) for name in PEERS if name in bench.peers}
    seconds = 6 + bench.sizes.small / 5_000
    return [Trial(rate.what, [rate, cost], here | bench.others(others), seconds, bench.sizes.rounds)]


def _ours(bench: Bench, name: str) -> tuple[float, float]:
    return ours.run(bench.queues, bench.codes[name], "same", bodies.small(bench.sizes.small))


def _relay(bench: Bench, *options: str) -> tuple[float, float]:
    return relay.run(bench.queues, bodies.small(bench.sizes.small), *options)


def _peer(bench: Bench, name: str) -> tuple[float, float]:
    figures = bench.peers[name].run(bench.queues, "same", bodies.small(bench.sizes.small)[: bench.sizes.peers])
    return figures.rate, figures.cpu_us
