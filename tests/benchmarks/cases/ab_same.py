"""(a) 200-byte JSON through a handler that returns it, 2 Consumers, from a backlog: at least 0.9 of a bare relay
    without workers, and 5 times the fastest peer;
(b) CPU time a message of the whole process tree in the same runs: at most 1.5 times the relay's;
both also for a stage whose results have no more headers than the relay's.
"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import CELERY, DRAMATIQ, FASTSTREAM, SOLO, Bench
from tests.benchmarks.contestants import ours, relay
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "ab"
PEERS = (CELERY, SOLO, DRAMATIQ, FASTSTREAM)
UNSTAMPED = "unstamped"  # mqworker with `stamp = "none"`
RELAY, LIKE_OURS = "relay", "relay like ours"  # the second's results have properties of the size that ours have


def trials(bench: Bench) -> list[Trial]:
    """Return one trial for both."""
    goals = bench.goals({RELAY: 0.9} | dict.fromkeys(PEERS, 5.0))
    costs = bench.goals({RELAY: 1 / 1.5})
    rate = Case("a", "200-byte JSON through a handler that returns it", "messages/s", bench.subject, goals)
    cost = Case("b", "CPU time a message, the whole tree", "us", bench.subject, costs, cost=True)
    here = {name: partial(_ours, bench, name) for name in bench.codes}
    others = {
        UNSTAMPED: partial(_ours, bench, bench.subject, 'stamp = "none"'),
        RELAY: partial(_relay, bench),
        LIKE_OURS: partial(_relay, bench, "--like-mqworker"),
    } | {name: partial(_peer, bench, name) for name in PEERS if name in bench.peers}
    seconds = 6 + bench.sizes.small / 5_000
    found = [rate, cost]
    if not bench.against:
        found += [
            Case("a", "the same, whose results have no headers of ours", rate.unit, UNSTAMPED, goals, part="unstamped"),
            Case("b", "of that", cost.unit, UNSTAMPED, costs, part="unstamped", cost=True),
        ]
    return [Trial(rate.what, found, here | bench.others(others), seconds, bench.sizes.rounds)]


def _ours(bench: Bench, name: str, more: str = "") -> tuple[float, float, float, float]:
    rate, cost = ours.run(bench.queues, bench.codes[name], "same", bodies.small(bench.sizes.small), more)
    return rate, cost, rate, cost


def _relay(bench: Bench, *options: str) -> tuple[float, float, float, float]:
    rate, cost = relay.run(bench.queues, bodies.small(bench.sizes.small), *options)
    return rate, cost, rate, cost


def _peer(bench: Bench, name: str) -> tuple[float, float, float, float]:
    figures = bench.peers[name].run(bench.queues, "same", bodies.small(bench.sizes.small)[: bench.sizes.peers])
    return figures.rate, figures.cpu_us, figures.rate, figures.cpu_us
