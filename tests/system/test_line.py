"""Several stages in a line: in one service, and in two that run a part each."""

import json
from collections.abc import Iterator

import pytest

from mqworker.exits import Exit
from tests.support.embedded import Client
from tests.support.foreign import Client as ForeignClient
from tests.support.ports import free_port
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

STAGES = """\
[service]
log_format = "json"
[control]
port = 0
{broker}
[stages.store]
input = "{to}c"
jobs = ["jobs:store"]
output = "{to}out"
consumers = 1
[stages.decode]
input = "{to}in"
jobs = ["jobs:decode"]
output = "{to}b"
consumers = 1
[stages.detect]
input = "{to}b"
jobs = ["jobs:detect"]
output = {{ exchange = "{to}found", queue = "{to}c", routing_key = "found" }}
consumers = 1
"""
JOBS = """\
import time
from pathlib import Path

def decode(body):
    return body | {"via": ["decode"]}

def detect(body):
    if not Path(__file__).with_name("fast").exists():
        time.sleep(0.05)
    return body | {"via": [*body["via"], "detect"]}

def store(body):
    return body | {"via": [*body["via"], "store"]}

class Seen:
    shared = True
    def handle(self, body):
        return body

class Counts:
    def add(self):
        return 1

def count(body, counts):
    return body
"""
SHARED_LINK = STAGES.replace('["jobs:store"]', '["jobs:Seen", "jobs:store"]')
SHARED_LINK = SHARED_LINK.replace('["jobs:decode"]', '["jobs:Seen", "jobs:decode"]')
SHARED_NAME = STAGES.replace('["jobs:store"]', '["jobs:count", "jobs:store"]')
SHARED_NAME = SHARED_NAME.replace('["jobs:decode"]', '["jobs:count", "jobs:decode"]')
SHARED_NAME += '[shared.counts]\njob = "jobs:Counts"\n'
VIA = ["decode", "detect", "store"]
FILE = '[broker]\nurl = "sqlite:///broker.db"'  # one broker for both parts


def status(running: ServiceProcess) -> dict:
    """Return the service's status, with its stages by name."""
    code, told = running.ask("GET", "/api/v1/status")
    assert code == 200, told
    return told | {"stages": {stage["name"]: stage for stage in told["stages"]}}


def line_of(running: ServiceProcess) -> list[list[str]]:
    """Return the rows of the line that `mqworker status` prints, split at wide gaps."""
    done = running.cli("status")
    assert done.returncode == 0, done.stderr
    _, _, line = done.stdout.partition("\nline ")
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in line.splitlines()[1:]]


def test_three_stages_in_one_service(service):
    """All messages go through all three; the status shows the line in its order, and names the stage that is slow."""
    running = service(STAGES.format(broker="", to=""), {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(2_000)

        def saturated() -> dict | None:
            told = status(running)
            return told if told["bottlenecks"] else None

        told = wait_for(saturated, 90, "a bottleneck")
        assert told["bottlenecks"] == ["detect"]
        assert [(place["name"], place["level"], place["feeds"], place["here"]) for place in told["line"]] == [
            ("decode", 0, ["detect"], True),
            ("detect", 1, ["store"], True),
            ("store", 2, [], True),
        ]
        detect = told["stages"]["detect"]
        assert detect["held_back_by"] == "consumers"
        assert detect["actual"]["service_time"] == pytest.approx(0.05, rel=0.5)
        assert detect["actual"]["utilisation"] >= 0.8
        assert detect["actual"]["arrival_rate"] > 0
        assert detect["unfinished"] > 1
        assert detect["growing"] or detect["seconds_left"] > 1
        rows = line_of(running)
        assert [row[0] for row in rows] == ["decode", "-> detect", "-> store"]
        assert rows[1][-1] == "consumers: the bottleneck"
        assert running.cli("pause", "--stage", "detect").returncode == 0
        assert status(running)["stages"]["detect"]["held_back_by"] == "paused"
        assert line_of(running)[1][-1] == "paused"
        assert running.cli("resume", "--stage", "detect").returncode == 0
        (running.folder / "fast").touch()
        results = client.finish(120)
        assert all(result.body["via"] == VIA for result in results)

        def done() -> bool:
            stages = status(running)["stages"].values()
            return all((each["unfinished"], each["seconds_left"]) == (0, 0.0) for each in stages)

        wait_for(done, 20, "every stage to be done")
        assert {each["held_back_by"] for each in status(running)["stages"].values()} == {"nothing"}


def parts(service, broker: str, to: str) -> tuple[ServiceProcess, ServiceProcess]:
    """Start two services on one configuration: decode and store, and detect with its own state folder and port."""
    first: ServiceProcess = service(STAGES.format(broker=broker, to=to), {"jobs.py": JOBS, "fast": ""})
    second: ServiceProcess = service("", MQWORKER_CONFIG=str(first.folder / "mqworker.toml"))
    second.env["MQWORKER_SERVICE__STATE_DIR"] = str(second.folder / ".mqworker")
    second.env["MQWORKER_CONTROL__PORT"] = str(free_port())
    return first.start("--stage", "store", "--stage", "decode"), second.start("--stage", "detect")


def test_two_services_run_a_part_each(service):
    """On one embedded broker: all messages go through both, and each knows its stages and those that run elsewhere."""
    first, second = parts(service, FILE, "")
    with Client(first, "broker.db") as client:
        client.send(200)
        assert all(result.body["via"] == VIA for result in client.finish())
    assert [row[0] + ": " + row[-1] for row in line_of(first)] == [
        *("decode: nothing", "-> detect: runs elsewhere", "-> store: nothing")
    ]
    assert [(place["name"], place["here"]) for place in status(second)["line"]] == [
        *(("decode", False), ("detect", True), ("store", False))
    ]
    assert list(status(second)["stages"]) == ["detect"]
    assert second.ask("GET", "/api/v1/stages/decode")[0] == 404
    assert (first.stop(), second.stop()) == (0, 0)


@pytest.fixture
def names(rabbit, queue) -> Iterator[str]:
    """Yield the prefix of this test's queues; they are deleted afterwards."""
    yield f"{queue}."
    with ForeignClient(rabbit.url()) as client:
        for name in ("in", "b", "c", "out", "in.dlq", "b.dlq", "c.dlq"):
            client.channel.queue_delete(f"{queue}.{name}")
        client.channel.exchange_delete(f"{queue}.found")


@pytest.mark.rabbitmq
def test_two_services_run_a_part_each_on_rabbitmq(rabbit, names, service):
    """All messages go through both services, each once."""
    first, second = parts(service, f'[broker]\nurl = "{rabbit.url()}"', names)
    with ForeignClient(rabbit.url()) as client:
        client.publish_all(f"{names}in", [json.dumps({"n": n}).encode() for n in range(500)])
        results = [json.loads(got.body) for got in client.take(f"{names}out", 500, 60)]
        assert client.rest(f"{names}out") == []
    assert sorted(result["n"] for result in results) == list(range(500))
    assert all(result["via"] == VIA for result in results)
    assert (first.stop(), second.stop()) == (0, 0)


def test_the_line_is_shown_while_the_broker_is_away(service):
    """What is at the broker is not known then, and shown so; the reason is the broker."""
    broker = f'[broker]\nurl = "amqp://guest:guest@127.0.0.1:{free_port()}/"'
    running = service(STAGES.format(broker=broker, to=""), {"jobs.py": JOBS}).start(ready=None)
    running.event("started")

    def away() -> bool:
        return {each["held_back_by"] for each in status(running)["stages"].values()} == {"broker"}

    wait_for(away, 30, "every stage to tell of the broker")
    assert {each["unfinished"] for each in status(running)["stages"].values()} == {None}
    for shown, name in zip(line_of(running), ("decode", "-> detect", "-> store"), strict=True):
        assert shown[3] in ("-", "0%")  # known to be idle, once it has been for a while
        assert [*shown[:3], *shown[4:]] == [name, "?", "-", "?", "-", "broker"]


def test_what_was_set_live_outlives_runs_of_other_parts(service):
    """A stage that is not run for once keeps its live values and the numbers of its generations."""
    running = service(STAGES.format(broker=FILE, to=""), {"jobs.py": JOBS}).start()
    assert running.cli("scale", "3", "--stage", "store").returncode == 0
    assert running.cli("params", "set", "x=1", "--stage", "store").returncode == 0
    before = running.stage("store")["desired"]
    assert running.stop() == 0
    for part in ("decode", "detect"):
        running.start("--stage", part)
        assert list(status(running)["stages"]) == [part]
        assert running.stop() == 0
    running.start()
    after = running.stage("store")["desired"]
    assert (after["consumers"], after["params"]) == (3, {"x": 1})
    assert after["generation"] > before["generation"]


def test_what_a_part_cannot_be(service):
    """A cut line without a common broker, an unknown stage and a second service in one state folder: all refused."""
    running = service(STAGES.format(broker="", to=""), {"jobs.py": JOBS})
    done = running.cli("run", "--stage", "decode")
    assert done.returncode == Exit.CONFIG
    assert "stage decode feeds stage detect, and detect does not run here" in done.stdout
    assert "set broker.url for both" in done.stdout
    checked = running.cli("check", "--stage", "decode")
    assert (checked.returncode, "fix: set broker.url for both" in checked.stdout) == (Exit.CONFIG, True)
    running.write("mqworker.toml", STAGES.format(broker=FILE, to=""))
    running.start("--stage", "decode")
    done = running.cli("run", "--stage", "decode", "--stage", "stor")
    assert done.returncode == Exit.CONFIG
    assert "--stage stor: there is no such stage; known: store, decode, detect" in done.stderr
    done = running.cli("run", "--stage", "store")
    assert done.returncode == Exit.INTERNAL
    assert "MQWORKER_SERVICE__STATE_DIR, MQWORKER_CONTROL__PORT" in done.stdout


@pytest.mark.parametrize(("config", "name"), [(SHARED_LINK, "jobs.Seen"), (SHARED_NAME, "counts")])
def test_a_shared_object_is_in_one_service(service, config, name):
    """A part with an object that a stage elsewhere uses too does not start (78), and it cannot be added there."""
    running = service(config.format(broker=FILE, to=""), {"jobs.py": JOBS})
    done = running.cli("run", "--stage", "decode", "--stage", "detect")
    assert done.returncode == Exit.CONFIG
    assert f"the shared object {name} is also used by stage store, which does not run here" in done.stdout
    running.start("--stage", "detect")
    job = "jobs:Seen" if name == "jobs.Seen" else "jobs:count"
    done = running.cli("jobs", "add", job, "--stage", "detect")
    assert done.returncode == Exit.USAGE
    assert f"the shared object {name} is also used by stage store" in done.stderr
    assert running.stop() == 0
    running.start("--stage", "decode", "--stage", "store")
    assert list(status(running)["stages"]) == ["store", "decode"]
