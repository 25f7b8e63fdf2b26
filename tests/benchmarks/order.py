"""How busy an order leaves the Consumers: `.venv/bin/python -m tests.benchmarks.order --help`.

Three stages take turns on a private RabbitMQ node, each with 4 Consumers and a backlog: without an order, in the order
of the input, and by key, with 1,000 keys of which one has 15 % of the messages. A message waits in its handler, so that
two CPUs carry four Consumers: each for the same time, or for lognormal times with the same mean and a standard
deviation of 1.3 times that. Told is the share of their time in which the Consumers wait in a handler; its ratio to
that of the stage without an order is to be at least 0.9. Rounds are as in `scripts/bench`.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import code
from tests.benchmarks.contestants.mqworker import measure
from tests.benchmarks.figures import Case, table
from tests.benchmarks.queues import Queues
from tests.benchmarks.rounds import mirrored
from tests.support.rabbitmq import temporary

CONSUMERS = 4
KEYS, HOT = 1000, 0.15  # how many keys there are, and the share of the messages that one of them has
SIGMA = 1.0  # of the logarithm of a lognormal service time
FREE = "without an order"
STAGES = {FREE: "", "by key": 'ordered_by = "correlation_id"', "by input": 'ordered_by = "input"'}
KINDS = ("fixed", "lognormal")
GOAL = 0.9


def service_times(kind: str, count: int, mean: float) -> list[float]:
    """Return the seconds that each message takes; the same ones at each call."""
    if kind == "fixed":
        return [mean] * count
    chance = random.Random(kind)
    return [chance.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA) for _ in range(count)]


def keys(count: int) -> list[str]:
    """Return the key of each message; the same ones at each call."""
    chance = random.Random("keys")
    return ["hot" if chance.random() < HOT else str(chance.randrange(KEYS - 1)) for _ in range(count)]


def busy(queues: Queues, now: Path, more: str, times: list[float]) -> float:
    """Return for which share of their time the Consumers of one stage wait in a handler, in percent."""
    bodies = [json.dumps({"id": number, "seconds": seconds}).encode() for number, seconds in enumerate(times)]
    measured = measure(queues, "wait", now, bodies, more, consumers=CONSUMERS, keys=keys(len(times)))
    assert list(map(json.loads, measured.results)) == list(map(json.loads, bodies))
    return 100 * sum(times) / (CONSUMERS * measured.seconds)


def compare(queues: Queues, now: Path, options: argparse.Namespace) -> list[Case]:
    """Measure all stages with each kind of service times."""
    cases: list[Case] = []
    for kind in KINDS:
        times = service_times(kind, options.messages, options.milliseconds / 1000)
        rounds: list[dict[str, float]] = []
        for number in range(options.rounds):
            found: dict[str, list[float]] = {name: [] for name in STAGES}
            for name in mirrored(list(STAGES), number):
                found[name].append(busy(queues, now, STAGES[name], times))
            rounds.append({name: statistics.harmonic_mean(runs) for name, runs in found.items()})
            print(f"round {number + 1} of {options.rounds}: {kind}, {rounds[-1]}", file=sys.stderr, flush=True)
        for name in (name for name in STAGES if name != FREE):
            what = f"{kind} service times, {options.milliseconds:g} ms on average"
            case = Case(name, what, "% busy", name, {FREE: GOAL})
            case.rounds = rounds
            cases.append(case)
    return cases


def main() -> int:
    """Run it; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=4000, help="of one run")
    parser.add_argument("--milliseconds", type=float, default=5.0, help="the mean service time")
    parser.add_argument("--json", action="store_true", help="print one JSON document with every round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mqw-order-") as folder:
        now = code.present(Path(folder) / "now")
        node = temporary(Path(folder) / "node")
        try:
            cases = compare(Queues(node.url()), now, options)
        finally:
            node.close()
    if options.json:
        print(json.dumps({"cases": [case.document() for case in cases]}, indent=2))
    else:
        print(table(cases))
    return int(not all(case.met() for case in cases))


if __name__ == "__main__":
    sys.exit(main())
