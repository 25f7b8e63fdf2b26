"""The http_calls example: 64 calls at once in one Consumer, over connections that its one client keeps open."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest

from tests.support import foreign
from tests.support.embedded import DEAD, OUTPUT, Client
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "http_calls"
FILES = {"calls.py": (EXAMPLE / "calls.py").read_text()}
CALLS = 1000


@pytest.fixture
def server():
    """The other side, as a process; gives its address."""
    with subprocess.Popen([sys.executable, EXAMPLE / "server.py", "0"], stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().split()[-1]
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def example(server: str, source: str, output: str) -> str:
    """Return the example's configuration with this server, and the queues of the test."""
    text = (EXAMPLE / "mqworker.toml").read_text()
    for old, new in (('"meters"\n', f'"{source}"\n'), ('"readings"\n', f'"{output}"\n')):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text + f'params = {{ url = "{server}" }}\n[service]\nlog_format = "json"\n[control]\nport = 0\n'


@pytest.mark.system
def test_one_consumer_makes_64_calls_at_once(server):
    """1,000 calls of 50 ms take a few seconds, with one client; who is busy is asked again, an unknown one is dead."""
    known = [n for n in range(CALLS) if n % 100 != 13]
    with ServiceProcess(example(server, "in", "out"), FILES) as service:
        service.start()
        with Client(service) as client:
            client.send_raw(json.dumps({"meter": n}).encode() for n in range(CALLS))
            began = time.monotonic()
            wait_for(lambda: client.ready(OUTPUT) > CALLS * 0.9, 60, "most results")
            took = time.monotonic() - began
            wait_for(
                lambda: (client.ready(OUTPUT), client.ready(DEAD)) == (len(known), CALLS // 100), 60, "all outcomes"
            )
            found = {one.body["meter"]: one.body["reading"] for one in client.results()}
            dead = {one.body["meter"] for one in client.results(DEAD)}
        with urllib.request.urlopen(f"{server}/calls") as answer:
            calls = json.load(answer)
        assert service.stop() == 0
    assert found == {n: n * 7 % 1000 for n in known}
    assert dead == {n for n in range(CALLS) if n % 100 == 13}
    assert took < 0.05 * CALLS / 3, "one after the other takes 50 s"
    assert 32 <= calls["most"] <= 64
    assert calls["connections"] <= 64 + 1  # and this question


@pytest.mark.system
@pytest.mark.rabbitmq
def test_on_rabbitmq_the_calls_of_a_killed_consumer_are_made_again(server, rabbit):
    """Each meter has one reading, although the Consumer is killed in the middle of its calls."""
    queue = f"meters.{uuid.uuid4().hex[:8]}"
    text = example(server, queue, f"{queue}.out") + f'[broker]\nurl = "{rabbit.url()}"\n'
    meters = [n for n in range(400) if n % 100 not in (7, 13)]
    with ServiceProcess(text, FILES) as service, foreign.Client(rabbit.url()) as client:
        service.start()
        for n in meters:
            client.publish(queue, json.dumps({"meter": n}).encode(), message_id=str(n), content_type="application/json")
        wait_for(lambda: client.ready(f"{queue}.out") > 100, 30, "some readings")
        os.kill(service.named("mqw-consumer")[0], signal.SIGKILL)
        found = [json.loads(one.body) for one in client.take(f"{queue}.out", len(meters), 60)]
        assert service.stop() == 0
        assert {one["meter"]: one["reading"] for one in found} == {n: n * 7 % 1000 for n in meters}
        for suffix in ("", ".out", ".dlq"):
            client.channel.queue_delete(queue + suffix)
