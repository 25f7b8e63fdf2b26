"""(d) 1 % of the messages wait for 500 ms, the others for 0.2 ms, 4 Consumers, from a backlog: at least twice the best
peer, and no short one waits behind a long one while a Consumer is idle;
"""

from functools import partial

from tests.benchmarks import bodies
from tests.benchmarks.bench import CELERY, DRAMATIQ, FASTSTREAM, Bench
from tests.benchmarks.contestants import ours
from tests.benchmarks.figures import Case
from tests.benchmarks.rounds import Trial

LETTERS = "d"
PEERS = (CELERY, DRAMATIQ, FASTSTREAM)
CONSUMERS = 4


def trials(bench: Bench) -> list[Trial]:
    """Return one trial for both figures; of the peers nobody knows which Consumer was idle."""
    goals = bench.goals(dict.fromkeys(PEERS, 2.0))
    what = "1 % of the messages wait for 500 ms, the others for 0.2 ms, 4 Consumers"
    rate = Case("d", what, "messages/s", bench.subject, goals)
    behind = "short messages that waited behind a long one while a Consumer was idle"
    waited = Case("d", behind, "messages", bench.subject, part="behind", cost=True, limit=0.0)
    messages = _messages(bench)
    here = {bench.subject: partial(_ours, bench)}
    others = {name: partial(_peer, bench, name) for name in PEERS if name in bench.peers}
    ideal = len(messages) * (bodies.PART * bodies.LONG + bodies.SHORT) / CONSUMERS
    return [Trial(what, [rate, waited], here | bench.others(others), 5 + 1.5 * ideal, bench.sizes.rounds)]


def _messages(bench: Bench) -> list[bytes]:
    """Return what needs about so long as a run of work, at best."""
    return bodies.mixed(max(200, int(CONSUMERS * bench.sizes.work / (bodies.PART * bodies.LONG))))


def _ours(bench: Bench) -> tuple[float, float]:
    return ours.mixed(bench.queues, bench.code, _messages(bench), CONSUMERS)


def _peer(bench: Bench, name: str) -> tuple[float, None]:
    return bench.peers[name].run(bench.queues, "mixed", _messages(bench), workers=CONSUMERS).rate, None
