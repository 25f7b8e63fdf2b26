"""A service between exchanges: bound inputs, several results a message, results as their handler wishes."""

import json
import os
import signal

import pytest

from tests.support.foreign import Client
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for
from tests.system.stage import counted

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

JOBS = """
import time
from mqworker import Result


def frames(body):
    for number in range(body["frames"]):
        time.sleep(body.get("seconds", 0))
        yield {"n": body["n"], "frame": number}


def detect(frame):
    region = "eu" if frame["frame"] % 2 else "us"
    return Result(frame, routing_key=f"{region}.found", headers={"frame": frame["frame"]}, priority=frame["frame"])
"""


def between(queue: str, url: str) -> str:
    return f"""
broker.url = "{url}"
[control]
port = 0
[stages.work]
input = {{ queue = "{queue}", exchange = "{queue}.in", bindings = ["cam.*.film"] }}
jobs = ["jobs:frames", "jobs:detect"]
output = {{ exchange = "{queue}.results" }}
consumers = 2
"""


@pytest.fixture
def exchanges(rabbit, queue):
    """The topic exchanges before and behind the stage, with a queue for the results of each region."""
    with Client(rabbit.url()) as client:
        for name in (f"{queue}.in", f"{queue}.results"):
            client.channel.exchange_declare(name, "topic", durable=True)
        for region in ("eu", "us"):
            client.channel.queue_declare(f"{queue}.{region}", durable=True)
            client.channel.queue_bind(f"{queue}.{region}", f"{queue}.results", f"{region}.*")
        yield client
        for region in ("eu", "us"):
            client.channel.queue_delete(f"{queue}.{region}")
        for name in (f"{queue}.in", f"{queue}.results"):
            client.channel.exchange_delete(name)


def film(client: Client, queue: str, n: int, **more) -> None:
    properties = {"content_type": "application/json", "message_id": f"film-{n}"}
    body = json.dumps({"n": n, **more}).encode()
    client.publish_to(f"{queue}.in", f"cam.{n}.film", body, **properties)


def test_each_frame_of_a_film_goes_where_it_belongs(rabbit, queue, service, exchanges):
    """Messages come through a topic exchange; each result has its own id, key, headers and priority."""
    running: ServiceProcess = service(between(queue, rabbit.url()), {"jobs.py": JOBS}).start()
    for n in range(20):
        film(exchanges, queue, n, frames=5)
    eu = exchanges.take(f"{queue}.eu", 40, 60)
    us = exchanges.take(f"{queue}.us", 60, 60)
    found = {got.properties.message_id: got for got in eu + us}
    assert found.keys() == {f"film-{n}.{part}" for n in range(20) for part in range(1, 6)}
    for name, got in found.items():
        n, part = map(int, name.removeprefix("film-").split("."))
        assert json.loads(got.body) == {"n": n, "frame": part - 1}
        assert got.properties.priority == got.headers["frame"] == part - 1
        assert (got.headers["x-mqworker-part"], got.headers["x-mqworker-parts"]) == (part, 5)
    film(exchanges, queue, 20, frames=0)
    answer = running.cli("send", "--wait", '{"n": 21, "frames": 3}')
    assert (answer.returncode, len(answer.stdout.splitlines())) == (0, 3), answer.stderr
    assert [json.loads(line)["frame"] for line in answer.stdout.splitlines()] == [0, 1, 2]
    wait_for(lambda: rabbit.queue(queue)["messages"] == 0, 20, "all settled")
    counted(running, result=21, dropped=1)
    assert running.stop() == 0


def test_killed_producers_lose_no_part(rabbit, queue, service, exchanges):
    """An input is acked when all of its results are confirmed: whatever is killed, each film has all its frames."""
    running: ServiceProcess = service(between(queue, rabbit.url()), {"jobs.py": JOBS}).start()
    for n in range(300):
        film(exchanges, queue, n, frames=4, seconds=0.002)
    for share in (250, 600):
        wait_for(
            lambda least=share: exchanges.ready(f"{queue}.eu") + exchanges.ready(f"{queue}.us") > least, 60, "some"
        )
        (producer,) = running.named("mqw-producer")
        os.kill(producer, signal.SIGKILL)
        wait_for(lambda last=producer: running.named("mqw-producer") not in ([], [last]), 60, "another Producer")
    wait_for(lambda: rabbit.queue(queue)["messages"] == 0, 120, "all settled")
    results = exchanges.rest(f"{queue}.eu") + exchanges.rest(f"{queue}.us")
    assert {got.properties.message_id for got in results} == {
        f"film-{n}.{part}" for n in range(300) for part in range(1, 5)
    }
    assert running.stop() == 0


def test_on_the_embedded_broker_all_parts_come_or_none(queue, service):
    """A result that cannot be placed holds back those beside it, and its input."""
    settings = """
service.drain_deadline = 1
[control]
port = 0
[stages.cut]
input = { queue = "films", exchange = "in", bindings = ["cam.#"] }
jobs = ["jobs:frames", "jobs:detect"]
output = { exchange = "results" }
consumers = 1
[stages.eu]
input = { queue = "eu", exchange = "results", bindings = ["eu.*"] }
jobs = ["jobs:show"]
output = "shown"
consumers = 1
"""
    jobs = JOBS + "\n\ndef show(body):\n    return body\n"
    running: ServiceProcess = service(settings, {"jobs.py": jobs}).start()
    assert running.cli("send", '{"n": 1, "frames": 2}', "--stage", "cut").returncode == 0
    wait_for(lambda: running.stage("cut")["actual"]["counters"]["refused"] >= 2, 20, "a refusal of both")
    assert running.stage("eu")["actual"]["counters"]["received"] == 0
    assert running.stage("cut")["actual"]["counters"]["settled"] == 0
    assert running.stop() == 75  # the message went back to its queue
    running.write("mqworker.toml", settings.replace('["eu.*"]', '["*.found"]'))
    running.start()
    wait_for(lambda: running.stage("eu")["actual"]["counters"]["settled"] == 2, 20, "both results")
    wait_for(lambda: running.stage("cut")["actual"]["counters"]["settled"] == 1, 20, "the report of the other stage")
    assert running.stop() == 0
