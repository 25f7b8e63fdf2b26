"""A message that takes longer than the broker waits for its ack, or than its connection lasts, is computed once."""

import json
import re
import time
from collections import Counter
from datetime import datetime

import pytest

from tests.support.foreign import Client
from tests.support.service import ServiceProcess
from tests.support.traffic import HANDLER, PREFETCH, Traffic, journal
from tests.support.waiting import wait_for
from tests.system.stage import config, counted, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


@pytest.fixture
def impatient(rabbit):
    """The node, closing channels that are opened now if their messages are not settled within five seconds."""
    names = ("consumer_timeout", "channel_tick_interval")
    before = [rabbit.eval(f"application:get_env(rabbit, {name})") for name in names]
    for name, value in zip(names, (5000, 1000), strict=True):
        rabbit.eval(f"application:set_env(rabbit, {name}, {value})")
    yield rabbit
    for name, was in zip(names, before, strict=True):
        found = re.fullmatch(r"{ok, *(\d+)}", was)
        rabbit.eval(
            f"application:set_env(rabbit, {name}, {found[1]})" if found else f"application:unset_env(rabbit, {name})"
        )


def begun(service: ServiceProcess, n: int) -> int:
    """Return how often the handler has started a message."""
    return sum((note.n, note.sign) == (n, "begin") for note in journal(service))


def lost(service: ServiceProcess) -> list[str]:
    """Return why deliveries were voided, each time."""
    return [event["msg"] for event in service.events() if event["event"] == "consuming_lost"]


def adopted(service: ServiceProcess) -> int:
    """Return how many redeliveries took over what was computed for a lost delivery."""
    return int(service.stage("work")["actual"]["counters"]["adopted"])


def judge_repeats(service: ServiceProcess, traffic: Traffic) -> None:
    """Acks in transit when the broker closes a channel are lost: at most the prefetch is repeated, right after it."""
    losses = [
        datetime.fromisoformat(event["time"]).timestamp() - time.time() + time.monotonic()
        for event in service.events()
        if event["event"] == "consuming_lost"
    ]
    repeated = [n for n, times in Counter(result["n"] for result in traffic.results).items() if times > 1]
    assert traffic.repeats() <= PREFETCH * len(losses)
    begins: dict[int, list[float]] = {n: [] for n in repeated}
    for note in journal(service):
        if note.sign == "begin" and note.n in begins:
            begins[note.n].append(note.time)
    for n, (first, *again) in begins.items():
        assert any(first < loss + 0.05 and again and again[0] > loss - 0.05 for loss in losses), f"{n} is repeated"
    print(f"{traffic.sent} messages, {len(losses)} losses, {len(repeated)} repeated")


def test_a_message_longer_than_the_ack_timeout_is_computed_once(service, impatient):
    """Work that lasts until the broker has closed the channel: it goes on, each redelivery adopts it."""
    with Traffic(impatient.url()) as traffic:
        running = service(traffic.config(consumers=2), {"work.py": HANDLER}).start()
        (long,) = traffic.send(1, until="finish")
        wait_for(lambda: begun(running, long), 20, "the long message to be begun")
        traffic.until(lambda: lost(running), 30, "the channel to be closed by the broker")
        before = len(traffic.results)
        traffic.until(lambda: len(traffic.results) > before + 200, 10, "short messages to flow meanwhile")
        assert long not in traffic.done()
        running.write("finish", "")
        traffic.until(lambda: long in traffic.done(), 30, "the result of the long message")
        traffic.finish()
        assert all("timed out" in words or "timeout" in words for words in lost(running)), lost(running)
        assert begun(running, long) == 1
        assert not traffic.dead
        assert sum(result["n"] == long for result in traffic.results) == 1
        judge_repeats(running, traffic)
        assert {(result["attempt"], result["crashes"]) for result in traffic.results} == {(1, 0)}
        wait_for(lambda: adopted(running) >= 1, 10, "the redelivery to be told as adopted")
        settled(impatient, traffic.input)
        assert running.stop() == 0


def test_a_message_whose_connections_are_closed_is_computed_once(service, rabbit, queue):
    """All connections closed while it is worked on: the work goes on, its outcome is kept, the redelivery adopts it."""
    code = HANDLER.replace("def work", "def handle")
    running = service(config(rabbit.url(), queue), {"jobs.py": code}).start()
    with Client(rabbit.url()) as client:
        client.publish(queue, json.dumps({"n": 0, "until": "finish"}).encode(), message_id="0")
    wait_for(lambda: begun(running, 0), 20, "the long message to be begun")
    rabbit.close_connections()
    wait_for(lambda: lost(running), 20, "the loss to be seen")
    running.write("finish", "")
    wait_for(lambda: adopted(running) >= 1, 20, "the redelivery to be adopted")
    with Client(rabbit.url()) as client:
        for n in range(1, 101):
            client.publish(queue, json.dumps({"n": n}).encode(), message_id=str(n))
        results = [json.loads(got.body) for got in client.take(f"{queue}.out", 101, 30)]
        assert sorted(result["n"] for result in results) == list(range(101))
        assert {(result["attempt"], result["crashes"]) for result in results} == {(1, 0)}
        counted(running, result=101, dead=0, retried=0)
        settled(rabbit, queue)
        assert client.rest(f"{queue}.out") == []
    assert begun(running, 0) == 1
