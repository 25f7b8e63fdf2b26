"""A stage that keeps an order: results leave as the messages came, whatever fails, is killed, paused or scaled."""

import json
import os
import signal
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Publication
from mqworker.exits import Exit
from tests.support import foreign
from tests.support.embedded import DEAD, INPUT, OUTPUT, Client, put
from tests.support.embedded import config as embedded
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for
from tests.system.stage import config, counted

pytestmark = pytest.mark.system

HANDLER = """\
import random, time

def handle(body, message):
    time.sleep(random.random() * body.get("seconds", 0.01))
    if body["n"] % 20 == 7 and message.attempt == 1:
        raise RuntimeError("not at once")
    if body["n"] % 50 == 13:
        raise RuntimeError("never")
    return body
"""
ASYNC = (
    HANDLER.replace("def handle", "async def handle")
    .replace("time.sleep", "await asyncio.sleep")
    .replace("import random, time", "import asyncio, random")
)
SEVERAL = {"serial": (HANDLER, ()), "threads": (HANDLER, ("concurrency = 8",)), "tasks": (ASYNC, ("concurrency = 8",))}
KEYS = 5
RETRIES = "retry = { base = 0.05, max_attempts = 3 }"
BY_KEY, BY_INPUT = "header:camera", "input"


def message(n: int, queue: str = INPUT, **more: Any) -> Publication:
    """Return message number n, of one of KEYS cameras."""
    key = f"camera-{n * 7 % 11 % KEYS}"
    block = Properties(
        content_type="application/json", delivery_mode=2, message_id=str(n), headers=Headers({"camera": key})
    )
    return Publication("", queue, block.encode(), json.dumps({"n": n, "key": key} | more).encode())


def send(client: Client, numbers: Iterable[int]) -> None:
    """Store messages in the embedded broker's input, in one transaction."""
    client.store_all(message(n) for n in numbers)


def publish(client: foreign.Client, queue: str, numbers: Iterable[int]) -> None:
    """Publish messages into a real queue, one after the other."""
    for n in numbers:
        one = message(n, queue)
        headers = Properties.decode(one.properties).headers.to_dict()
        client.publish(queue, one.body, headers=headers, message_id=str(n), content_type="application/json")


def first_ones(bodies: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each result where it first appears."""
    firsts: dict[int, dict[str, Any]] = {}
    for body in bodies:
        firsts.setdefault(body["n"], body)
    return list(firsts.values())


def misplaced(bodies: list[dict[str, Any]], ordered_by: str, *, but: Iterable[int] = ()) -> list[tuple[int, int]]:
    """Return each number that is lower than the one before it, of its key or of all; leave out those that may pass."""
    units: dict[str, list[int]] = {}
    for body in bodies:
        if body["n"] not in but:
            units.setdefault(body["key"] if ordered_by == BY_KEY else "", []).append(body["n"])
    return [(one, other) for numbers in units.values() for one, other in pairwise(numbers) if other < one]


def take_all(client: foreign.Client, queue: str, wanted: set[int]) -> list[dict[str, Any]]:
    """Take results off a queue until each of these numbers has one, and whatever else is there then."""
    bodies: list[dict[str, Any]] = []

    def complete() -> bool:
        bodies.extend(json.loads(got.body) for got in client.rest(queue))
        return {body["n"] for body in bodies} >= wanted

    wait_for(complete, 120, "all results")
    return bodies


def order(running: ServiceProcess) -> dict[str, Any]:
    """Return what the status says of the order."""
    told: dict[str, Any] = running.stage("work")["actual"]["order"]
    return told


def pause_and_resume(running: ServiceProcess) -> None:
    """Pause the stage until everything is back at the broker, and let it go on."""
    put(running, "listening", {"enabled": False})
    actual = wait_for(lambda: (now := running.stage("work")["actual"])["link"]["resting"] and now, 30, "a rest")
    assert (actual["held"], actual["dispatched"]) == (0, 0)
    wait_for(lambda: running.stage("work")["actual"]["link"]["connected"], 30, "a rest that counts as connected")
    put(running, "listening", {"enabled": True})


@pytest.mark.parametrize(
    ("ordered_by", "on_failure", "kind"),
    [
        (BY_INPUT, "hold", "serial"),
        pytest.param(BY_INPUT, "pass", "serial", marks=pytest.mark.release),
        pytest.param(BY_KEY, "hold", "serial", marks=pytest.mark.release),
        (BY_KEY, "pass", "serial"),
        (BY_INPUT, "hold", "tasks"),
        (BY_KEY, "hold", "threads"),
    ],
)
def test_results_leave_in_order(service, ordered_by, on_failure, kind):
    """With four Consumers and messages that fail; what fails holds up those behind it, or lets them pass, as told."""
    handler, more = SEVERAL[kind]
    lines = (RETRIES, f'ordered_by = "{ordered_by}"', f'on_failure = "{on_failure}"', *more)
    running = service(embedded(*lines, consumers=4), {"jobs.py": handler}).start()
    count = 400
    dead = [n for n in range(count) if n % 50 == 13]
    late = [n for n in range(count) if n % 20 == 7] if on_failure == "pass" else []
    with Client(running) as client:
        send(client, range(count))
        wait_for(lambda: client.ready(OUTPUT) + client.ready(DEAD) == count, 60, "all results")
        bodies = [one.body for one in client.results()]
        assert sorted(body["n"] for body in bodies) == [n for n in range(count) if n not in dead]
        assert misplaced(bodies, ordered_by, but=late) == []
        if late:
            assert misplaced(bodies, ordered_by)
        assert sorted(int(one.properties.message_id) for one in client.results(DEAD)) == dead
    counters = counted(running, dead=len(dead))
    assert (counters["delayed"] > 0) == (on_failure == "hold")
    assert running.stop() == 0


@pytest.mark.parametrize(
    ("ordered_by", "kind"),
    [
        (BY_INPUT, "serial"),
        (BY_KEY, "tasks"),
        pytest.param(BY_KEY, "serial", marks=pytest.mark.release),
        pytest.param(BY_INPUT, "threads", marks=pytest.mark.release),
    ],
)
def test_order_survives_kills_pauses_and_scaling(service, ordered_by, kind):
    """Consumers and Producers are killed, the stage is paused, scaled and restarted: first results are in order."""
    handler, more = SEVERAL[kind]
    lines = (RETRIES, f'ordered_by = "{ordered_by}"', *more)
    running = service(embedded(*lines, consumers=4), {"jobs.py": handler}).start()
    count = 1000
    dead = {n for n in range(count) if n % 50 == 13}

    def killed(title: str) -> None:
        os.kill(wait_for(lambda: running.named(title), 30, f"a {title}")[0], signal.SIGKILL)

    steps = [
        lambda: killed("mqw-consumer"),
        lambda: pause_and_resume(running),
        lambda: killed("mqw-producer"),
        lambda: put(running, "consumers", {"count": 1}),
        lambda: killed("mqw-consumer"),
        lambda: put(running, "consumers", {"count": 3}),
        lambda: put(running, "restart", method="POST"),
    ]
    with Client(running) as client:
        send(client, range(count))
        for number, step in enumerate(steps, 1):
            goal = number * count // (len(steps) + 2)
            wait_for(lambda g=goal: client.ready(OUTPUT) >= g, 60, f"{goal} results")
            step()
        wanted = set(range(count)) - dead
        wait_for(lambda: {one.body["n"] for one in client.results()} >= wanted, 90, "all results")
        wait_for(lambda: client.ready() == 0 and running.stage("work")["actual"]["held"] == 0, 30, "the end")
        bodies = first_ones(one.body for one in client.results())
        assert {body["n"] for body in bodies} == wanted
        assert misplaced(bodies, ordered_by) == []
    assert running.stop() == 0


@pytest.mark.rabbitmq
def test_each_pause_ends_its_epoch(rabbit, queue, service):
    """Also the second one, of a stage that was paused before it had connected, or lost its connection in a pause."""
    lines = (RETRIES, f'ordered_by = "{BY_INPUT}"')
    running = service(config(rabbit.url(), queue, *lines), {"jobs.py": HANDLER}).start()
    put(running, "listening", {"enabled": False})
    assert running.stop() == 0
    running.start()  # paused, as it was left
    put(running, "listening", {"enabled": True})
    wait_for(lambda: running.stage("work")["actual"]["link"]["consuming"], 30, "a first epoch")
    pause_and_resume(running)
    put(running, "listening", {"enabled": False})
    wait_for(lambda: running.stage("work")["actual"]["link"]["resting"], 30, "a rest")
    rabbit.close_connections()
    wait_for(lambda: running.stage("work")["actual"]["link"]["reconnects"], 30, "another connection")
    put(running, "listening", {"enabled": True})
    wait_for(lambda: running.stage("work")["actual"]["link"]["consuming"], 30, "a next epoch")
    pause_and_resume(running)
    assert running.stop() == 0


def test_another_service_goes_on_where_the_active_one_was_killed(service, tmp_path):
    """One of two services takes messages at a time; the other one stands by, is ready, and goes on in order."""
    broker = f'\n[broker]\nurl = "sqlite:///{tmp_path}/broker.db"\n'
    settings = embedded(RETRIES, f'ordered_by = "{BY_INPUT}"', consumers=2) + broker
    first = service(settings, {"jobs.py": HANDLER}).start()
    with Client(first, f"{tmp_path}/broker.db") as client:
        send(client, range(100))
        wait_for(lambda: client.ready(OUTPUT) > 50, 30, "the first results")
        second = service(settings, {"jobs.py": HANDLER}).start()
        waits = wait_for(lambda: second.stage("work")["actual"]["link"]["waits"], 30, "the second to stand by")
        assert "this stage is ordered" in waits
        assert "standby" in second.cli("status").stdout
        assert second.ask("GET", "/readyz")[0] == 200
        send(client, range(100, 1500))
        wait_for(lambda: client.ready(OUTPUT) > 200, 30, "more results of the first")
        first.process.send_signal(signal.SIGKILL)
        wanted = {n for n in range(1500) if n % 50 != 13}
        wait_for(lambda: {one.body["n"] for one in client.results()} >= wanted, 60, "all results")
        assert misplaced(first_ones(one.body for one in client.results()), BY_INPUT) == []
    assert second.stop() == 0


def skip(running: ServiceProcess, client: Client) -> None:
    """Let message 3 of 60 go, on which those of its key wait."""
    (told,) = json.loads(running.cli("held", "list", "--json").stdout)["work"]
    assert (told["message_id"], told["attempt"], told["error_type"], told["error"]) == (
        *("3", 2, "RuntimeError"),
        "later",
    )
    assert "RuntimeError: later" in running.cli("held", "list", "--stage", "work").stdout
    unknown = running.cli("held", "skip", "61")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "no message 61 waits in stage work" in unknown.stderr
    assert "`mqworker held list` shows those that do" in unknown.stderr
    assert running.cli("held", "skip", "3").returncode == 0
    wait_for(lambda: client.ready(OUTPUT) == 59, 30, "the results of the others")
    bodies = [one.body for one in client.results()]
    assert misplaced(bodies, BY_KEY) == []
    assert {body["n"] for body in bodies} == set(range(60)) - {3}
    (letter,) = json.loads(running.cli("dlq", "list", "--json").stdout)["work"]
    assert (letter["message_id"], letter["reason"], letter["attempt"]) == ("3", "skipped", 2)
    assert (letter["error_type"], letter["message"]) == ("RuntimeError", "skipped by an operator, after: later")
    assert running.ask("GET", "/api/v1/stages/work/held") == (200, {"held": [], "total": 0})
    assert running.ask("POST", "/api/v1/stages/work/held/3/skip")[0] == 404


def test_a_held_message_is_told_and_skipped(service):
    """Status names the message that holds others up, since when, why, and how many; the others of its key wait.

    It is let go by the command line: a dead letter that says so, and those behind it follow in order.
    """
    jobs = "def handle(body):\n    if body['n'] == 3:\n        raise RuntimeError('later')\n    return body\n"
    lines = ("retry = { base = 60, max_attempts = 3 }", f'ordered_by = "{BY_KEY}"')
    running = service(embedded(*lines), {"jobs.py": jobs}).start()
    key = json.loads(message(3).body)["key"]
    with Client(running) as client:
        send(client, range(60))
        behind = [n for n in range(4, 60) if json.loads(message(n).body)["key"] == key]
        wait_for(lambda: client.ready(OUTPUT) == 60 - 1 - len(behind), 30, "the results of the others")
        told = wait_for(lambda: order(running)["blocked"], 20, "a message that blocks")
        assert (told["message_id"], told["key"], told["behind"]) == ("3", key, len(behind))
        assert "next attempt" in told["reason"]
        assert (order(running)["hottest"], order(running)["delayed"]) == (key, 1)
        assert "blocked by message 3" in running.cli("status").stderr
        skip(running, client)
    assert running.stop() == 0


def test_a_stop_tells_of_results_whose_turn_has_not_come(service):
    """What is computed behind a message that waits goes back unpublished, so it counts, and the exit code says so."""
    jobs = "def handle(body):\n    if body['n'] == 3:\n        raise RuntimeError('later')\n    return body\n"
    lines = ("retry = { base = 60, max_attempts = 3 }", f'ordered_by = "{BY_INPUT}"')
    running = service(embedded(*lines), {"jobs.py": jobs}).start()
    with Client(running) as client:
        send(client, range(20))
        wait_for(lambda: running.stage("work")["actual"]["computed"] == 16, 30, "the results behind the third")
        assert running.stop() == Exit.GIVEN_BACK
        assert client.ready(OUTPUT) == 3
        assert client.ready(INPUT) == 17


SECOND = """\
import time
from pathlib import Path
from mqworker import Retry

def handle(body, message):
    if message.attempt == 1:
        raise RuntimeError("not at once")
    Path(__file__).with_name("begun").touch()
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)
    raise Retry(after=60)
"""


def test_only_a_message_that_waits_is_skipped(service):
    """Not one that runs, nor while the stage is paused; afterwards it waits again, with the attempts that it had."""
    running = service(embedded(RETRIES, f'ordered_by = "{BY_INPUT}"'), {"jobs.py": SECOND}).start()
    skip = ("POST", "/api/v1/stages/work/held/3/skip")
    begun = running.folder / "begun"
    with Client(running) as client:
        send(client, [3])
        wait_for(begun.exists, 30, "the second attempt")
        status, refused = running.ask(*skip)
        assert status == 409
        assert "message 3 is being computed" in refused["detail"]
        running.write("go", "")
        wait_for(lambda: order(running)["delayed"] == 1, 30, "a failure of the second attempt")
        put(running, "listening", {"enabled": False})
        status, refused = running.ask(*skip)
        assert status == 404
        assert "the stage takes nothing now" in refused["detail"]
        put(running, "listening", {"enabled": True})
        (told,) = wait_for(lambda: running.ask("GET", skip[1].removesuffix("/3/skip"))[1]["held"], 30, "its return")
        assert (told["attempt"], told["behind"], told["seconds"] > 0) == (3, 0, True)
        assert running.ask(*skip) == (200, {"skipped": "3"})
        wait_for(lambda: client.ready(DEAD) == 1, 30, "the dead letter")
        wait_for(lambda: running.stage("work")["actual"]["counters"]["dead"] == 1, 30, "its confirm")
    assert running.stop() == 0


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    ("ordered_by", "queue_type"),
    [
        (BY_INPUT, "quorum"),
        (BY_KEY, "classic"),
        pytest.param(BY_INPUT, "classic", marks=pytest.mark.release),
        pytest.param(BY_KEY, "quorum", marks=pytest.mark.release),
    ],
)
def test_order_on_rabbitmq(rabbit, queue, service, ordered_by, queue_type):
    """The same with real queues: a Consumer, a Producer and the connections are lost, and the stage is paused."""
    lines = (RETRIES, f'ordered_by = "{ordered_by}"', f'queue_type = "{queue_type}"')
    with foreign.Client(rabbit.url()) as client:
        client.channel.queue_declare(f"{queue}.out", durable=True)  # a quorum queue may reorder what is looked at
    running = service(config(rabbit.url(), queue, *lines, consumers=4), {"jobs.py": HANDLER}).start()
    count = 1200
    dead = {n for n in range(count) if n % 50 == 13}
    steps = [
        lambda: os.kill(running.named("mqw-consumer")[0], signal.SIGKILL),
        lambda: pause_and_resume(running),
        lambda: os.kill(running.named("mqw-producer")[0], signal.SIGKILL),
        rabbit.close_connections,
    ]
    with foreign.Client(rabbit.url()) as client:
        publish(client, queue, range(count))
    for number, step in enumerate(steps, 1):
        goal = number * count // (len(steps) + 2)
        wait_for(lambda g=goal: rabbit.queue(f"{queue}.out")["messages_ready"] >= g, 90, f"{goal} results")
        step()
    with foreign.Client(rabbit.url()) as client:
        firsts = first_ones(take_all(client, f"{queue}.out", set(range(count)) - dead))
    assert {body["n"] for body in firsts} == set(range(count)) - dead
    assert misplaced(firsts, ordered_by) == []
    assert running.stop() == 0


SIGNED = (
    HANDLER.replace("import random, time", "import os, random, time\nfrom pathlib import Path")
    .replace("):\n", "):\n    Path(__file__).with_name('begun').touch()\n", 1)
    .replace("return body\n", "return body | {'who': os.environ['WHO'], 'at': time.monotonic()}\n")
)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("made_by", ["quorum", "others", pytest.param("classic", marks=pytest.mark.release)])
def test_another_service_goes_on_soon_after_the_active_one_was_killed_on_rabbitmq(rabbit, queue, service, made_by):
    """Of two services with one ordered stage the other one goes on in order, also on a queue that others have made.

    On a machine that does nothing else it does so within 5 s; how long it took is printed.
    """
    lines = (RETRIES, f'ordered_by = "{BY_INPUT}"', f'queue_type = "{"quorum" if made_by == "quorum" else "classic"}"')
    settings, count = config(rabbit.url(), queue, *lines), 800
    with foreign.Client(rabbit.url()) as client:
        client.channel.queue_declare(f"{queue}.out", durable=True)  # a quorum queue may reorder what is looked at
        if made_by == "others":
            client.channel.queue_declare(queue, durable=True)
        first = service(settings, {"jobs.py": SIGNED}, WHO="first").start()
        publish(client, queue, range(100))
        wait_for(lambda: client.ready(f"{queue}.out") > 50, 30, "the first results")
        second = service(settings, {"jobs.py": SIGNED}, WHO="second").start()
        wait_for(lambda: second.stage("work")["actual"]["link"]["waits"], 30, "the second to stand by")
        publish(client, queue, range(100, count))
        wait_for(lambda: client.ready(f"{queue}.out") > 150, 60, "more results of the first")
        assert not (second.folder / "begun").exists()
        killed = time.monotonic()
        first.signal(signal.SIGKILL)
        wait_for((second.folder / "begun").exists, 20, "the second to go on")
        bodies = take_all(client, f"{queue}.out", {n for n in range(count) if n % 50 != 13})
    since = min(body["at"] for body in bodies if body["who"] == "second") - killed
    print(f"{made_by}: the second service had its first result {since:.2f} s after the kill of the first")
    assert [body["n"] for body in first_ones(bodies)] == [n for n in range(count) if n % 50 != 13]
    assert bodies[0]["who"] == "first"
    assert second.stop() == 0
