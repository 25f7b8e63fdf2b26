"""Stages that share Consumers: a service follows the load. MQWORKER_TEST_BALANCE=full: minutes, beside fixed splits."""

import os
import re
import threading
import time
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from mqworker.exits import Exit
from tests.support.embedded import OUTPUT, Client
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

FULL = os.environ.get("MQWORKER_TEST_BALANCE") == "full"
UNIT = 0.06  # seconds that the quickest handler takes; on a busy machine a message takes some milliseconds more
RATE = 15 if FULL else 13  # messages per second; seven Consumers at their best can do 16.7
KEPT = 180.0 if FULL else 12.0  # seconds for which a good split is watched
FOUND = 60.0 if FULL else 120.0  # seconds within which it is found
TICK = 1.0
# Seconds for which who has received gives none, and over which capacity is measured: half of what they are.
HALF = {} if FULL else {"MQWORKER_TEST_TIME": "control.balance:HOLD=15 producer.flow:WINDOW=15"}
STAGES = """\
[service]
log_format = "json"
processes = 7
[control]
port = 0
[stages.decode]
input = "in"
jobs = ["jobs:decode"]
output = "b"
consumers = {0}
[stages.detect]
input = "b"
jobs = ["jobs:detect"]
output = "c"
consumers = {1}
[stages.store]
input = "c"
jobs = ["jobs:store"]
output = "out"
consumers = {2}
"""
JOBS = f"""\
import time
from pathlib import Path

def turned():
    return Path(__file__).with_name("turned").exists()

def decode(body):
    time.sleep({4 * UNIT} if turned() else {UNIT})
    return body

def detect(body):
    time.sleep({UNIT} if turned() else {4 * UNIT})
    return body

def store(body):
    time.sleep({2 * UNIT})
    return body
"""
AUTO = STAGES.format(*['"auto"'] * 3)
BEST, TURNED = {"decode": 1, "detect": 4, "store": 2}, {"decode": 4, "detect": 1, "store": 2}


class Look(NamedTuple):
    """What the service told at one moment."""

    wanted: dict[str, int]
    present: int
    done: int


class Load:
    """Sends messages at a steady rate, looks at the service, and keeps what it saw."""

    def __init__(self, running: ServiceProcess, client: Client) -> None:
        self._running, self._client = running, client
        self._pace = threading.Event()  # is never set
        self.looks: list[Look] = []

    def last(self, seconds: float, until: dict[str, int] | None = None) -> float:
        """Go on for so long, or until the stages are to have this many; return the messages done per second."""
        began, before = time.monotonic(), self._client.ready(OUTPUT)
        due = began
        while (now := time.monotonic()) < began + seconds:
            if now < due:
                self._pace.wait(due - now)
                continue
            due += TICK
            self._client.send(int(RATE * TICK))
            look = self._look()
            self.looks.append(look)
            if look.wanted == until:
                break
        else:
            assert until is None, f"{until} was not reached within {seconds} s: {self.looks}"
        return (self._client.ready(OUTPUT) - before) / (time.monotonic() - began)

    def _look(self) -> Look:
        told = status(self._running)
        wanted = {name: stage["desired"]["consumers"] for name, stage in told.items()}
        present = sum(len(stage["actual"]["consumers"]) for stage in told.values() if stage["actual"])
        return Look(wanted, present, self._client.ready(OUTPUT))


def status(running: ServiceProcess) -> dict[str, Any]:
    """Return the stages by name."""
    code, told = running.ask("GET", "/api/v1/status")
    assert code == 200, told
    return {stage["name"]: stage for stage in told["stages"]}


def moves(running: ServiceProcess) -> list[dict[str, Any]]:
    """Return the log events of all moves."""
    return [event for event in running.events() if event["event"] == "balanced"]


def fixed(service, split: dict[str, int], *, turned: bool) -> float:
    """Return the messages per second that a fixed split can do."""
    files = {"jobs.py": JOBS} | ({"turned": ""} if turned else {})
    running = service(STAGES.format(*split.values()), files).start()
    with Client(running) as client:
        load = Load(running, client)
        load.last(30)
        rate = load.last(60)
    assert running.stop() in (Exit.OK, Exit.GIVEN_BACK)
    return rate


@pytest.mark.long
@pytest.mark.timeout(2400 if FULL else 400)
def test_consumers_follow_the_load(service):
    """The best split is there soon (full: within a minute), stays, and comes again when the load turns."""
    best = [fixed(service, BEST, turned=False), fixed(service, TURNED, turned=True)] if FULL else [RATE, RATE]
    running = service(AUTO, {"jobs.py": JOBS}, **HALF).start()
    assert {name: each["desired"]["consumers"] for name, each in status(running).items()} == {
        "decode": 3,
        "detect": 2,
        "store": 2,
    }
    revision = running.ask("GET", "/api/v1/status")[1]["revision"]
    with Client(running) as client:
        load, rates = Load(running, client), []
        for split in (BEST, TURNED):
            load.last(FOUND, until=split)
            found = len(moves(running))
            rates.append(load.last(KEPT))
            assert len(moves(running)) == found, "it is stable"
            (running.folder / "turned").touch()
        print(f"best fixed {best}, automatic {rates}, {[event['msg'] for event in moves(running)]}")
        assert all(rate >= 0.9 * other for rate, other in zip(rates, best, strict=True))
        assert max(look.present for look in load.looks) <= 7
        assert max(sum(look.wanted.values()) for look in load.looks) <= 7
        results = client.finish(120)
    assert len(results) == client.sent
    told = moves(running)
    times = [datetime.fromisoformat(event["time"]).timestamp() for event in told]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 4.9
    assert "messages wait there" in told[0]["msg"]
    assert running.ask("GET", "/api/v1/status")[1]["revision"] == revision, "no move is a change"
    counted = re.findall(r"^mqworker_consumers_moved_total{.*} (.*)$", running.ask("GET", "/metrics")[1], re.MULTILINE)
    assert sum(map(float, counted)) == len(told)


def test_an_operator_and_the_balance(service):
    """A number given by hand holds, also after a restart; the others share the rest, until `scale auto`."""
    running = service(AUTO, {"jobs.py": JOBS}).start()

    def counts() -> dict[str, int]:
        return {name: each["desired"]["consumers"] for name, each in status(running).items()}

    def shown() -> list[str]:
        rows = running.cli("status").stdout.splitlines()[2:5]
        return [" ".join(row.split()[3:5]) for row in rows]

    wait_for(lambda: shown() == ["3/3 auto", "2/2 auto", "2/2 auto"], 30, "seven Consumers")
    assert running.cli("scale", "5", "--stage", "detect").returncode == 0
    wait_for(lambda: counts() == {"decode": 1, "detect": 5, "store": 1}, 30, "the others to share the rest")
    assert not status(running)["detect"]["desired"]["auto"]
    assert running.cli("stop", "--stage", "decode").returncode == 0
    wait_for(lambda: counts() == {"decode": 0, "detect": 5, "store": 2}, 30, "store to have what decode had")
    assert running.cli("start", "--stage", "decode").returncode == 0
    assert running.stop() == 0
    running.start()
    assert counts() == {"decode": 1, "detect": 5, "store": 1}
    origin = running.cli("config", "show", "--origin").stdout
    assert [row.split("  # ")[1] for row in origin.splitlines() if ".consumers " in row] == [
        *("mqworker.toml:10, now 1", "live", "mqworker.toml:20, now 1")
    ]
    assert running.cli("scale", "auto", "--stage", "detect").returncode == 0
    wait_for(lambda: sum(counts().values()) == 7, 30, "seven to be shared again")
    assert all(each["desired"]["auto"] for each in status(running).values())


LONG = """\
[service]
log_format = "json"
processes = 3
[control]
port = 0
[stages.slow]
input = "in"
jobs = ["jobs:slow"]
consumers = "auto"
[stages.quick]
input = "b"
jobs = ["jobs:quick"]
output = "out"
consumers = "auto"
"""
LONG_JOBS = """\
import time
from pathlib import Path

def slow(body):
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)

def quick(body):
    time.sleep(0.5)
    return body
"""


def test_a_change_does_not_wait_for_a_consumer_that_moves(service):
    """One that has to end a long message before another stage gets it holds up no change of its stage."""
    running = service(LONG, {"jobs.py": LONG_JOBS}).start()

    def busy() -> int:
        return [one["state"] for one in status(running)["slow"]["actual"]["consumers"]].count("busy")

    with Client(running) as client:
        client.send(2)
        wait_for(lambda: busy() == 2, 60, "two long messages to begin")
        assert running.cli("send", "{}", "-n", "600", "--stage", "quick").returncode == 0
        (move, *_) = wait_for(lambda: moves(running), 60, "a move")
        assert (move["giver"], move["receiver"]) == ("slow", "quick")
        code, told = running.ask("PUT", "/api/v1/stages/slow/time-limit?wait=20", {"soft": 0, "hard": 3000})
        assert (code, told["applied"]) == (200, True)
        assert busy() == 2, "neither has ended its message"
        wanted = {name: each["desired"]["consumers"] for name, each in status(running).items()}
        assert wanted == {"slow": 1, "quick": 1}
        (running.folder / "go").touch()
        wait_for(lambda: status(running)["quick"]["desired"]["consumers"] == 2, 60, "the Consumer to come")
