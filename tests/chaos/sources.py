"""Whether every row of a source arrives, whoever is killed: `scripts/chaos --sources --help`.

Two services have the same two sources, generators over a row of numbers with a position each. Their processes,
Producers, the Services and the broker are killed at random, while this program takes what they publish off the input
queue, looks how much that holds, and notes every id. At the end every row must have come; what came twice must be among
the last thousand before a kill; the queue must never have held more than its mark. Each generator notes when it worked:
two of one source must not have worked at once for longer than the broker takes to give a silent connection up (three
heartbeats), which a source that is frozen (SIGSTOP, then SIGCONT) puts to the test. `--broken` stores each position
before its item is confirmed: then rows must be missing.

The whole campaign is `scripts/chaos --sources --rows 500000 --broker B` for each broker: a million rows of two sources.
"""

import argparse
import contextlib
import math
import random
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import DROP
from tests.chaos.private_node import PrivateNode
from tests.chaos.source_faults import FROZEN, SOURCES, VICTIMS, Faults, handovers, notes, say
from tests.support import embedded
from tests.support.service import ServiceProcess

JOBS = """\
from pathlib import Path
import os, time
from mqworker import Item

def rows(position, params):
    file = os.open(params["works"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    life = os.urandom(6).hex()
    note = lambda: os.write(file, f"{time.monotonic():f} {os.getpid()} {life}\\n".encode())
    while not Path("go").exists():
        yield None
        time.sleep(0.01)
    for n in range((position or 0) + 1, params["last"] + 1):
        if n % 50 == 0:
            time.sleep(params["pace"])
            note()
        yield Item({"n": n}, position=n)
    note()

def handle(body):
    return body
"""
CONFIG = """\
[service]
log_format = "json"
[control]
port = 0
{broker}
[stages.work]
input = "in"
jobs = ["jobs:handle"]
consumers = 1
queue_type = "{queue_type}"
[sources.one]
job = "jobs:rows"
into = "work"
max_backlog = {mark}
params = {{ last = {rows}, pace = {pace}, works = "{folder}/one" }}
[sources.two]
job = "jobs:rows"
into = "work"
max_backlog = {mark}
params = {{ last = {rows}, pace = {pace}, works = "{folder}/two" }}
"""
MARK = 4000
AHEAD = 1000
BROKEN = "MQWORKER_TEST_BROKEN"
HEARTBEATS = 30.0  # seconds in which two of one source may work
PATIENCE = 60.0  # seconds without a row, until it is over
KILLING = 0.8  # of the rows, in which there are kills
TOLD = 10.0  # seconds between two lines of progress


class Embedded:
    """The embedded broker."""

    queue_type, exact = "classic", True

    def __init__(self, folder: Path) -> None:
        self.config = f'[broker]\nurl = "sqlite:///{folder}/broker.db"'
        self._file = folder / "broker.db"

    def begin(self, service: ServiceProcess) -> None:
        self._client = embedded.Client(service, str(self._file))

    def take(self) -> list[str]:
        """Take all that is in the input; returns the ids."""
        ids: list[str] = []

        def wanted(properties: bytes, _body: bytes) -> str:
            ids.append(Properties.decode(properties).message_id or "")
            return DROP

        self._client._runner.run(self._client._admin.move("in", 1000, wanted, 60))
        return ids

    def ready(self) -> int:
        return self._client.ready("in")

    def kill(self) -> None:
        """There is no broker to kill."""

    def close(self) -> None:
        self._client.__exit__()


class Rabbit(PrivateNode):
    """RabbitMQ."""

    exact = False
    lost = (*PrivateNode.lost, AssertionError)

    def take(self) -> list[str]:
        with self._again():
            return [str(got.properties.message_id) for got in self._client.rest("in")]
        return []

    def ready(self) -> int:
        with self._again():
            return self._client.ready("in")
        return 0


class Seen:
    """What has arrived."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.newest = dict.fromkeys(SOURCES, 0)
        self.far = 0  # repeats of rows that were further behind the newest than may be
        self.most = 0  # messages that the queue has held

    def note(self, ids: list[str]) -> None:
        for name in ids:
            source, _, number = name.partition(":")
            n = int(number)
            if self.counts[name] and self.newest[source] - n >= AHEAD:
                self.far += 1
            self.newest[source] = max(self.newest[source], n)
            self.counts[name] += 1


def main() -> int:
    """See the module head; returns 0 if every row came (with --broken: if one did not)."""
    parser = argparse.ArgumentParser(
        "scripts/chaos --sources", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker", choices=("sqlite", "classic", "quorum"), default="classic")
    parser.add_argument("--rows", type=int, default=20_000, help="of each of the two sources")
    parser.add_argument("--pace", type=float, default=0.01, help="seconds that each 50 rows take")
    parser.add_argument("--sources", type=int, default=20, help="kills of their processes")
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--services", type=int, default=4)
    parser.add_argument("--brokers", type=int, default=2)
    parser.add_argument("--freezes", type=int, default=1, help=f"of a source, for {FROZEN:g} s (not with sqlite)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", action="store_true", help="a negative control")
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    victims = (*VICTIMS, "services") if asked.broker == "sqlite" else (*VICTIMS, "services", "brokers")
    kills = [name for name in victims for _ in range(getattr(asked, name))]
    chance.shuffle(kills)
    # The last ones, which come first here: while one source is frozen the other comes to its end.
    kills = ["freezes"] * (0 if asked.broker == "sqlite" else asked.freezes) + kills
    say(f"{asked.broker}, two sources of {asked.rows:,} rows, {len(kills)} faults, seed {asked.seed}")
    with TemporaryDirectory(prefix="mqw-sources-") as folder, contextlib.ExitStack() as stack:
        broker: Any = (
            Embedded(Path(folder)) if asked.broker == "sqlite" else Rabbit(Path(folder) / "node", asked.broker)
        )
        stack.callback(broker.close)
        text = CONFIG.format(
            broker=broker.config,
            queue_type=broker.queue_type,
            folder=folder,
            mark=MARK,
            rows=asked.rows,
            pace=asked.pace,
        )
        env = {BROKEN: "positions"} if asked.broken else {}
        services = [stack.enter_context(ServiceProcess(text, {"jobs.py": JOBS}, **env)) for _ in range(2)]
        for service in services:
            service.start()
            assert service.ask("PUT", "/api/v1/stages/work/listening?wait=30", {"enabled": False})[0] == 200
        for service in services:
            service.write("go", "")
        broker.begin(services[0])
        faults = Faults(services, broker, chance, Path(folder))
        seen = run(broker, faults, kills, asked.rows)
        good, lost = judge(broker, seen, faults.done, asked.rows)
        good = alone(Path(folder)) and good
        for service in services:
            service.stop()
    return int(not (lost if asked.broken else good))


def run(broker: Any, faults: "Faults", kills: list[str], rows: int) -> Seen:
    """Take and kill until every row has come, or none comes any more."""
    seen, left = Seen(), list(kills)
    due = next_fault(0, left, rows)
    last = told = time.monotonic()
    while len(seen.counts) < 2 * rows and time.monotonic() - last < PATIENCE:
        if (ready := broker.ready()) > max(seen.most, MARK):
            say(f"the queue holds {ready:,} messages, above its mark of {MARK:,}")
        seen.most = max(seen.most, ready)
        taken = broker.take()
        now = time.monotonic()
        if taken:
            last = now
        seen.note(taken)
        if now - told > TOLD:
            told = now
            say(f"{len(seen.counts):,} of {2 * rows:,} rows, {len(left)} faults to come")
        faults.thaw(now)
        if left and not faults.frozen and len(seen.counts) > due and faults.do(left[-1]):
            left.pop()
            due = next_fault(len(seen.counts), left, rows)
        time.sleep(0.02)
    faults.thaw(math.inf)
    return seen


def next_fault(come: int, left: list[str], rows: int) -> float:
    """Return how many rows have come when the next fault comes: kills in the first part, then the freezes."""
    first = KILLING * 2 * rows
    kills = sum(name != "freezes" for name in left)
    return come + max(0.0, first - come) / (kills + 1) if kills else max(first, come)


def alone(folder: Path) -> bool:
    """Return whether never two of one source worked for longer than may be."""
    good = True
    for source in SOURCES:
        count, longest, both = handovers(notes(folder / source))
        say(
            f"source {source}: {count} takeovers, the longest took {longest:.1f} s; two worked at once for {both:.2f} s"
        )
        good = good and both <= HEARTBEATS
    return good


def judge(broker: Any, seen: Seen, done: Counter[str], rows: int) -> tuple[bool, bool]:
    """Return whether all is as promised, and whether rows are missing."""
    missing = [name for source in SOURCES for n in range(1, rows + 1) if not seen.counts[name := f"{source}:{n}"]]
    foreign_ids = len(seen.counts) - 2 * rows + len(missing)
    repeats = sum(seen.counts.values()) - len(seen.counts)
    say(f"{2 * rows} rows, {len(missing)} missing {missing[:5]}, {repeats} came again ({seen.far} of them from too far")
    say(f"behind), at most {seen.most} in the queue (mark {MARK}), {foreign_ids} ids of others; killed {dict(done)}")
    allowed = 0 if broker.exact else AHEAD * sum(done.values()) * len(SOURCES)
    far = 0 if not done["brokers"] else seen.far  # a broker that was killed may give out again what was acknowledged
    good = not missing and not foreign_ids and repeats <= allowed and seen.far <= far and seen.most <= MARK
    return good, bool(missing)


if __name__ == "__main__":
    sys.exit(main())
