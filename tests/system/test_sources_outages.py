"""Sources on a RabbitMQ that fails: away, killed, blocked by an alarm; and a source that is frozen."""

import os
import signal
from collections import Counter
from itertools import pairwise

import pytest

from tests.support.foreign import Client
from tests.support.waiting import wait_for
from tests.system.test_sources import CODE, config, finished, source, state, until

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq, pytest.mark.xdist_group("outages")]  # they share a node

HIGH, LOW = (
    "rabbit_disk_monitor:set_disk_free_limit(1000000000000000)",
    'rabbit_disk_monitor:set_disk_free_limit("1MB")',
)


def rows(last: int, pace: float) -> str:
    return source("rows", "rows", f"params = {{ last = {last}, pace = {pace} }}")


def numbers(node, queue: str, count: int) -> list[int]:
    """Take messages off a queue that nobody consumes; return their rows, in order."""
    with Client(node.url()) as client:
        return [int(got.properties.message_id.removeprefix("rows:")) for got in client.take(queue, count, 60)]


def quiet(running) -> None:
    """Let the stage take nothing, so that the queue shows what the source has published."""
    assert running.ask("PUT", "/api/v1/stages/work/listening?wait=20", {"enabled": False})[0] == 200


def test_a_source_that_starts_before_its_broker_waits_for_it(node, service):
    """In one process, without restarts; the service tells why."""
    node.stop()
    running = service(config(rows(500, 0.0), url=node.url(), queue="absent"), {"jobs.py": CODE}).start(ready=None)
    running.event("started", 30)
    told = until(running, "rows", lambda told: "cannot be reached" in told["problem"])
    assert told["state"] == "connecting"
    (pid,) = running.named("mqw-source")
    node.start()
    told = until(running, "rows", finished)
    assert (told["items"], told["restarts"]) == (500, 0)
    assert any(event["pid"] == pid for event in running.events() if event["event"] == "source_started")


def test_an_alarm_holds_a_source_and_loses_nothing(node, service):
    """It is blocked as long as the broker takes nothing, keeps its lock and its process, and goes on."""
    running = service(config(rows(3000, 0.002), url=node.url(), queue="alarm"), {"jobs.py": CODE, "hold": "0"}).start()
    quiet(running)
    running.write("hold", "1000000")
    until(running, "rows", lambda told: told["items"] > 100)
    (pid,) = running.named("mqw-source")
    node.eval(HIGH)
    try:
        told = until(running, "rows", lambda told: told["state"] == "blocked")
        assert "alarm" in told["problem"]
        assert running.named("mqw-source") == [pid]
    finally:
        node.eval(LOW)
    told = until(running, "rows", finished)
    assert told["restarts"] == 0
    assert numbers(node, "alarm", 3000) == list(range(1, 3001))


@pytest.mark.long
@pytest.mark.parametrize(
    ("queue_type", "kills"),
    [
        ("quorum", 1),
        pytest.param("quorum", 2, marks=pytest.mark.release),
        pytest.param("classic", 2, marks=pytest.mark.release),
    ],
)
def test_a_killed_broker_costs_no_row(node, service, queue_type, kills):
    """After kills of the broker every row is there; what came twice is not more than what was ahead of the position."""
    total, queue, stage = 1000 * kills + 500, f"killed-{queue_type}-{kills}", f'queue_type = "{queue_type}"'
    running = service(
        config(rows(total, 0.002), url=node.url(), queue=queue, stage=stage),
        {"jobs.py": CODE, "hold": "0"},
        MQWORKER_TEST_TIME="ipc.restart_budget:MOST=2",
    ).start()
    quiet(running)
    running.write("hold", "1000000")
    for kill in range(kills):
        until(running, "rows", lambda told, kill=kill: told["items"] > 500 * (kill + 1))
        node.kill()
        node.start()
    until(running, "rows", finished, 120)
    with Client(node.url()) as client:
        found: list[int] = []

        def complete() -> bool:  # how much a quorum queue holds is told some seconds late
            missing = total - len(set(found))
            found.extend(
                int(got.properties.message_id.removeprefix("rows:")) for got in client.take(queue, missing, 60)
            )
            return len(set(found)) == total

        wait_for(complete, 60, "every row")
        found += [int(got.properties.message_id.removeprefix("rows:")) for got in client.rest(queue)]
    counts = Counter(found)
    assert set(counts) == set(range(1, total + 1)), set(range(1, total + 1)) - set(counts)
    assert len(found) - total <= kills * 1000
    assert state(running, "rows")["restarts"] >= kills


@pytest.mark.long
def test_a_frozen_source_is_replaced_and_publishes_nothing_more(node, service):
    """Another service takes over when heartbeats are missing; the old one thaws without a lock: nothing comes late."""
    text = config(rows(1_000_000, 0.005), url=node.url(), queue="frozen-source")
    text = text.replace("[broker]", "[broker]\nheartbeat = 4")
    first = service(text, {"jobs.py": CODE, "hold": "0"}).start()
    quiet(first)
    second = service(text, {"jobs.py": CODE}).start()
    quiet(second)
    until(second, "rows", lambda told: told["state"] == "standby")
    first.write("hold", "1000000")
    until(first, "rows", lambda told: told["items"] > 50)
    (pid,) = first.named("mqw-source")
    os.kill(pid, signal.SIGSTOP)
    until(second, "rows", lambda told: told["items"] > 50, 20)
    os.kill(pid, signal.SIGCONT)
    until(first, "rows", lambda told: told["state"] == "standby", 30)
    before = state(second, "rows")["items"]
    until(second, "rows", lambda told: told["items"] > before + 50)
    for each in (first, second):
        assert each.cli("sources", "stop", "rows").returncode == 0
    with Client(node.url()) as client:
        wait_for(lambda: client.ready("frozen-source") > 150, 20, "the rows")
        found = [int(got.properties.message_id.removeprefix("rows:")) for got in client.rest("frozen-source")]
    falls = [(one, other) for one, other in pairwise(found) if other <= one]
    assert len(falls) <= 1, falls  # at the takeover
    assert all(one - other < 1000 for one, other in falls)
    assert set(found) == set(range(1, max(found) + 1))
