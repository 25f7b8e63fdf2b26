"""Whether every row of a source arrives, whoever is killed: `scripts/chaos --sources --help`.

Two services have the same two sources, generators over a row of numbers with a position each. Their processes,
Producers, the Services and the broker are killed at random, while this program takes what they publish off the input
queue, looks how much that holds, and notes every id. At the end every row must have come; what came twice must be among
the last thousand before a kill; the queue must never have held more than its mark. `--broken` stores each position
before its item is confirmed: then rows must be missing.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import DROP
from tests.chaos.private_node import PrivateNode
from tests.support import embedded
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

JOBS = """\
from pathlib import Path
import time
from mqworker import Item

def rows(position, params):
    while not Path("go").exists():
        yield None
        time.sleep(0.01)
    for n in range((position or 0) + 1, params["last"] + 1):
        if n % 50 == 0:
            time.sleep(params["pace"])
        yield Item({"n": n}, position=n)

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
params = {{ last = {rows}, pace = {pace} }}
[sources.two]
job = "jobs:rows"
into = "work"
max_backlog = {mark}
params = {{ last = {rows}, pace = {pace} }}
"""
MARK = 4000
AHEAD = 1000
SOURCES = ("one", "two")
VICTIMS = {"sources": "mqw-source", "producers": "mqw-producer"}
BROKEN = "MQWORKER_TEST_BROKEN"


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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", action="store_true", help="a negative control")
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    kills = [name for name in (*VICTIMS, "services", "brokers") for _ in range(getattr(asked, name))]
    if asked.broker == "sqlite":
        kills = [name for name in kills if name != "brokers"]
    chance.shuffle(kills)
    with TemporaryDirectory(prefix="mqw-sources-") as folder, contextlib.ExitStack() as stack:
        broker: Any = (
            Embedded(Path(folder)) if asked.broker == "sqlite" else Rabbit(Path(folder) / "node", asked.broker)
        )
        stack.callback(broker.close)
        text = CONFIG.format(
            broker=broker.config, queue_type=broker.queue_type, mark=MARK, rows=asked.rows, pace=asked.pace
        )
        env = {BROKEN: "positions"} if asked.broken else {}
        services = [stack.enter_context(ServiceProcess(text, {"jobs.py": JOBS}, **env)) for _ in range(2)]
        for service in services:
            service.start()
            assert service.ask("PUT", "/api/v1/stages/work/listening?wait=30", {"enabled": False})[0] == 200
        for service in services:
            service.write("go", "")
        broker.begin(services[0])
        seen, done = run(services, broker, kills, chance, asked.rows)
        good, lost = judge(broker, seen, done, asked.rows)
        for service in services:
            service.stop()
    return int(not (lost if asked.broken else good))


def run(
    services: list[ServiceProcess], broker: Any, kills: list[str], chance: random.Random, rows: int
) -> tuple[Seen, Counter[str]]:
    """Take and kill until every row has come, or none comes any more; returns what came, and the kills."""
    seen, done, left = Seen(), Counter[str](), list(kills)
    each = 2 * rows / (len(kills) + 1)  # rows between two kills
    last = time.monotonic()
    while len(seen.counts) < 2 * rows and time.monotonic() - last < 60:
        seen.most = max(seen.most, broker.ready())
        taken = broker.take()
        if taken:
            last = time.monotonic()
        seen.note(taken)
        if left and len(seen.counts) > (len(kills) - len(left) + 1) * each:
            kill(left.pop(), services, broker, chance, done)
        time.sleep(0.02)
    return seen, done


def kill(victim: str, services: list[ServiceProcess], broker: Any, chance: random.Random, done: Counter[str]) -> None:
    """Kill one of these."""
    if victim == "brokers":
        broker.kill()
    elif victim == "services":
        service = chance.choice(services)
        assert service.process is not None
        service.signal(signal.SIGKILL)
        service.process.wait(10)
        service.start(ready=None)
    else:
        wait_for(lambda: kill_one(services, VICTIMS[victim], chance) or finished(services, victim), 60, victim)
    done[victim] += 1
    say(f"killed: {dict(done)}")


def finished(services: list[ServiceProcess], victim: str) -> bool:
    """Return whether there is nobody left to kill: every source has published all that it has."""
    if victim != "sources":
        return False
    told = [service.ask("GET", "/api/v1/sources") for service in services]
    rows = [row for code, answer in told if code == 200 for row in answer["sources"]]
    return bool(rows) and not any(row["state"] in ("running", "starting", "backoff") for row in rows)


def kill_one(services: list[ServiceProcess], kind: str, chance: random.Random) -> bool:
    """Kill a process of this kind, if there is one now."""
    found = [pid for service in services for pid in service.named(kind)]
    with contextlib.suppress(ProcessLookupError):
        if found:
            os.kill(chance.choice(found), signal.SIGKILL)
            return True
    return False


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


def say(what: str) -> None:
    """Print it at once."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
