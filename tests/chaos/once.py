"""Whether each message has its effect on a shared object once: `scripts/chaos --shared --help`.

A service is sent messages with ids; each increments its own entry of two shared objects, of one by a link that is asked
for whole chunks, of one by a call, and a part of them fails once, runs into the hard limit, kills its Consumer, or
becomes a dead letter that an operator replays; some are sent twice.
Meanwhile Consumers, Producers, the object's process, the Service and the broker are killed at random. At the end every
entry must be 1, and every result must have got that answer. `--broken` turns off what makes it so: then it must show.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pika

from tests.chaos.private_node import PrivateNode
from tests.support import embedded
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

JOBS = """\
import os, random, signal, time
from pathlib import Path
from mqworker import Reject

HERE = Path(__file__).parent

class Entries:
    def __init__(self):
        self.entries = {}
    def add(self, n):
        self.entries[n] = self.entries.get(n, 0) + 1
        return self.entries[n]
    def describe(self):
        return {"entries": len(self.entries), "above": sum(times > 1 for times in self.entries.values())}

class Links(Entries):
    shared = True
    def handle(self, body):
        return body | {"linked": self.add(body["n"])}

def once(name):
    try:
        (HERE / "marks" / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def handle(body, entries):
    n = body["n"]
    times = entries.add(n)
    kind = n % 100
    if kind == 1 and once(f"failed-{n}"):
        raise ValueError("once")
    if kind == 2 and n % 1000 == 2 and once(f"slow-{n}"):
        time.sleep(30)
    if kind == 3 and once(f"killed-{n}"):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == 4 and not (HERE / "replay").exists():
        raise Reject("until it is replayed")
    time.sleep(random.random() * 0.004)
    return {"n": n, "times": times, "linked": body["linked"]}
"""
CONFIG = """\
[service]
log_format = "json"
[control]
port = 0
{broker}
[stages.work]
input = "in"
jobs = ["jobs:Links", "jobs:handle"]
output = "out"
consumers = 4
queue_type = "{queue_type}"
crash = {{ max = 10000 }}
retry = {{ max_attempts = 10000, base = 0.05, max = 1.0 }}
time_limit = {{ hard = 1.0 }}
[shared.entries]
job = "jobs:Entries"
"""
VICTIMS = {"consumers": "mqw-consumer", "producers": "mqw-producer", "shared": "mqw-shared"}
BATCH = 100  # messages that are sent together
AHEAD = 2000  # messages that may wait
STEP = 0.12  # seconds between two kills
MARK = "MQWORKER_TEST_BROKEN"


class Embedded:
    """The embedded broker, and its client."""

    config, queue_type = "", "classic"

    def begin(self, service: ServiceProcess) -> None:
        self._client = embedded.Client(service)

    def send(self, numbers: list[int], ids: bool) -> None:
        bodies = [embedded.Client._message(json.dumps({"n": n}).encode(), f"id-{n}" if ids else None) for n in numbers]

        def work(db: Any) -> None:
            embedded.store.make_queue(db, "in")
            for body in bodies:
                embedded.store.publish(db, body)

        self._client._runner.run(self._client._admin._ask(work, 60))

    def ready(self, queue: str) -> int:
        return self._client.ready(queue)

    def results(self) -> list[dict[str, Any]]:
        return [one.body for one in self._client.results()]

    def kill(self) -> None:
        """There is no broker to kill."""

    def close(self) -> None:
        self._client.__exit__()


class Rabbit(PrivateNode):
    """RabbitMQ."""

    def __init__(self, folder: Path, queue_type: str) -> None:
        super().__init__(folder, queue_type)
        self._taken: list[dict[str, Any]] = []

    def send(self, numbers: list[int], ids: bool) -> None:
        left = list(numbers)
        while left:
            with self._again():
                while left:
                    name = f"id-{left[0]}" if ids else None
                    told = pika.BasicProperties("application/json", delivery_mode=2, message_id=name)
                    self._client.channel.basic_publish(
                        "", "in", json.dumps({"n": left[0]}).encode(), told, mandatory=True
                    )
                    del left[0]

    def ready(self, queue: str) -> int:
        while True:
            with self._again():
                return self._client.ready(queue)

    def results(self) -> list[dict[str, Any]]:
        with self._again():
            self._taken += [json.loads(got.body) for got in self._client.rest("out")]
        return self._taken


def main() -> int:
    """See the module head; returns 0 if every effect happened once (with --broken: if one did not)."""
    parser = argparse.ArgumentParser(
        "scripts/chaos --shared", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker", choices=("sqlite", "classic", "quorum"), default="sqlite")
    parser.add_argument("--consumers", type=int, default=1000, help="kills of Consumers")
    parser.add_argument("--producers", type=int, default=100)
    parser.add_argument("--shared", type=int, default=100)
    parser.add_argument("--services", type=int, default=30)
    parser.add_argument("--brokers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--without-ids",
        action="store_true",
        help="messages without a message_id: no replays, and kills of Consumers and of the objects' processes only",
    )
    parser.add_argument("--broken", choices=("remembering", "ring"), help="a negative control")
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    kills = [name for name in (*VICTIMS, "services", "brokers") for _ in range(getattr(asked, name))]
    if asked.broker == "sqlite":
        kills = [name for name in kills if name != "brokers"]
    if asked.without_ids:
        kills = [name for name in kills if name in ("consumers", "shared")]
    chance.shuffle(kills)
    with TemporaryDirectory(prefix="mqw-once-") as folder:
        broker = Embedded() if asked.broker == "sqlite" else Rabbit(Path(folder) / "node", asked.broker)
        env = {MARK: asked.broken} if asked.broken else {}
        text = CONFIG.format(broker=broker.config, queue_type=broker.queue_type)
        with ServiceProcess(text, {"jobs.py": JOBS}, **env) as service:
            (service.folder / "marks").mkdir()
            if asked.without_ids:
                (
                    service.folder / "replay"
                ).touch()  # nothing becomes a dead letter: its replay would be another message
            service.start()
            broker.begin(service)
            sent, done = run(service, broker, kills, chance, ids=not asked.without_ids)
            good, twice = judge(service, broker, sent, done)
            service.stop()
        broker.close()
    return int(not (twice if asked.broken else good))


def run(
    service: ServiceProcess, broker: Any, kills: list[str], chance: random.Random, *, ids: bool
) -> tuple[int, Counter[str]]:
    """Send and kill; returns how many messages were sent, and the kills."""
    sent, done = 0, Counter[str]()
    for victim in kills:
        if broker.ready("in") < AHEAD:
            numbers = list(range(sent, sent + BATCH))
            sent += BATCH
            broker.send(numbers + (chance.sample(numbers, 3) if ids else []), ids)
        time.sleep(STEP * chance.random() * 2)
        if victim == "brokers":
            broker.kill()
        elif victim == "services":
            assert service.process is not None
            service.signal(signal.SIGKILL)
            service.process.wait(10)
            service.start(ready=None)
        else:
            wait_for(lambda: kill_one(service, VICTIMS[victim], chance), 60, victim)  # noqa: B023 - at once
        done[victim] += 1
        if sum(done.values()) % 100 == 0:
            say(f"{dict(done)}, {sent} messages sent")
    return sent, done


def kill_one(service: ServiceProcess, kind: str, chance: random.Random) -> bool:
    """Kill a process of this kind, if there is one now; of Consumers one that is not the last, or none would finish."""
    with contextlib.suppress(ProcessLookupError):
        if len(found := service.named(kind)) > (kind == VICTIMS["consumers"]):
            os.kill(chance.choice(found), signal.SIGKILL)
            return True
    return False


def judge(service: ServiceProcess, broker: Any, sent: int, done: Counter[str]) -> tuple[bool, bool]:
    """Let it settle, replay what is dead, and look at every entry; returns whether each is 1, and if any is above."""
    service.wait_ready(120)
    if not (service.folder / "replay").exists():
        dead = sum(n % 100 == 4 for n in range(sent))
        wait_for(lambda: broker.ready("in") == 0 and broker.ready("in.dlq") >= dead, 600, "the dead letters")
        (service.folder / "replay").touch()
        told = service.cli("dlq", "replay", "--all", "--timeout", "60")
        assert told.returncode == 0, told.stderr

    def missing() -> int:
        return sent - len({one["n"] for one in broker.results()})

    wait_for(lambda: missing() == 0, 600, "a result of every message")
    time.sleep(3.0)  # a report is at most a second old, and repeats come last
    found = Counter((one["linked"], one["times"]) for one in broker.results())
    say(f"kills {dict(done)}; {sent} messages, {sum(found.values())} results; effects by link and call: {dict(found)}")
    good, twice = set(found) == {(1, 1)}, False
    for name in ("jobs.Links", "entries"):
        status = wait_for(lambda: reported(service, name), 30, f"a report of {name}")  # noqa: B023 - at once
        say(f"{name}: {status['described']}, diverged {status['diverged']}; its last life {status['counts']}")
        good = good and status["described"] == {"entries": sent, "above": 0} and not status["diverged"]
        twice = twice or status["described"]["above"] > 0
    return good, twice


def reported(service: ServiceProcess, name: str) -> dict[str, Any] | None:
    """Return the status of an object that says what it has."""
    code, view = service.ask("GET", f"/api/v1/shared/{name}")
    assert code == 200, view
    status: dict[str, Any] | None = view["status"]
    return status if status is not None and status["described"] else None


def say(what: str) -> None:
    """Print it at once."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
