"""The camera example: with many Consumers its rule decides as one process does; as a class attribute it does not."""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import pytest
from redis import Redis

from mqworker import Reject
from mqworker.shared_state import segments, values
from mqworker.shared_state.messages import CallEntry, Entry
from mqworker.testing import SharedObjects, run_job
from tests.support import redis
from tests.support.embedded import Client
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "camera_events"
CODE = (EXAMPLE / "camera_events.py").read_text()
REDIS = (EXAMPLE / "camera_redis.py").read_text()
CONSUMERS = 8
COUNT = 600
PARAMS = {"rounds": 1000}


NAMES = ("camera_events", "camera_redis", "generate")


@pytest.fixture
def module(monkeypatch):
    """Import the example."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in NAMES:
        sys.modules.pop(name, None)
    yield importlib.import_module("camera_events"), importlib.import_module("generate")
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def redis_url(short_path):
    """A Redis server for this test."""
    if not redis.available():
        if os.environ.get("CI"):
            pytest.fail("CI needs redis-server")
        pytest.skip("redis-server is not installed")
    with redis.server(short_path) as url:
        yield url


def passed(events, module):
    """Return which events one process lets through, in this order."""
    rule = module.NeighbourRule()
    return [event["n"] for event in events if rule.handle(event, module.Params()) is not None]


def test_the_rule_alone(module):
    """An event keeps its camera and both neighbours quiet, also if it was dropped itself; a replay gives the same."""
    rule, _ = module
    shared = SharedObjects({}, EXAMPLE)

    def asked(camera, time):
        event = {"cid": camera, "time": time}
        return run_job("camera_events:NeighbourRule", event, root=EXAMPLE, shared=shared) is not None

    assert [asked(5, 0), asked(6, 10), asked(7, 20), asked(9, 30), asked(5, 309), asked(5, 610)] == [
        *(True, False, False, True, False, True),
    ]
    assert shared["camera_events.NeighbourRule"].describe() == {"cameras": 7, "newest": 610.0}
    old = rule.NeighbourRule({1: 0.0, 2: 5000.0}, 5000.0)
    old.tick(0.0)
    assert old.heard == {2: 5000.0}


def config(jobs, consumers):
    return (
        f'[service]\nlog_format = "json"\n[control]\nport = 0\n[stages.work]\ninput = "in"\njobs = {json.dumps(jobs)}\n'
        f'output = "out"\nconsumers = {consumers}\nparams = {{ rounds = 1000 }}\n'
    )


def results(jobs, consumers, events, code=CODE, look=lambda _: None):
    """Return what a service lets through of these events; `look` is given the service before it ends."""
    with ServiceProcess(config(jobs, consumers), {"camera_events.py": code}) as service:
        service.start()
        with Client(service) as client:
            client.send_raw(json.dumps(event).encode() for event in events)
            settled(service, len(events))
            found = [one.body for one in client.results()]
        look(service)
        assert service.stop() == 0
    return found


def settled(service, count, deadline=60):
    """Wait until this many messages have a result, or were dropped."""

    def done():
        counters = service.stage("work")["actual"]["counters"]
        return counters["result"] + counters["dropped"] >= count

    wait_for(done, deadline, "all events")


def heard(service):
    """Yield the events in the order in which the shared rule was asked, from its journal."""
    folder = service.folder / ".mqworker/shared/camera_events.NeighbourRule"
    files = segments.choose(path.name for path in folder.iterdir())
    assert not files.snapshot, "the journal has everything"
    for number in files.journal:
        data = (folder / segments.segment_name(number)).read_bytes()
        for payload, _ in segments.read_records(data, segments.read_head(data)):
            entry = msgspec.msgpack.decode(payload, type=Entry)
            if isinstance(entry, CallEntry):
                yield values.decode(entry.body)


@pytest.mark.system
def test_the_shared_rule_decides_as_one_process_does(module):
    """With one Consumer in the order of the input; with many in the order in which it was asked, and no two that passed
    are neighbours too soon.
    """
    rule, generate = module
    events = list(generate.events(COUNT, cameras=60))
    jobs = ["camera_events:NeighbourRule", "camera_events:look"]
    assert [one["n"] for one in results(jobs, 1, events)] == passed(events, rule)
    asked = []
    found = results(jobs, CONSUMERS, events, look=lambda service: asked.extend(heard(service)))
    assert sorted(event["n"] for event in asked) == list(range(COUNT)), "each was asked about once"
    assert sorted(one["n"] for one in found) == sorted(passed(asked, rule))
    many = sorted(found, key=lambda event: event["time"])
    assert many
    assert not broken(many)


KILLS = int(os.environ.get("MQWORKER_TEST_KILLS", "5"))
SLOW = """\
import os, time
from pathlib import Path

def slow(event):
    Path(__file__).with_name(f"begun-{os.getpid()}").touch()
    time.sleep(0.01)
    return event
"""


def begun(service):
    """Return a Consumer that has begun to look at an event; 0 if there is none."""
    return next((pid for pid in service.named("mqw-consumer") if (service.folder / f"begun-{pid}").exists()), 0)


@pytest.mark.system
@pytest.mark.timeout(400 + 5 * KILLS)
def test_with_an_order_a_consumer_that_is_killed_every_second_decides_as_one_process_does(module):
    """The same events pass as in a single process that is fed in the order of the input, and leave in this order,
    although the one Consumer is killed with an event in hand about every second, MQWORKER_TEST_KILLS times.
    """
    rule, generate = module
    events = list(generate.events(150 * KILLS, cameras=2000))
    text = config(["camera_events:NeighbourRule", "slow:slow", "camera_events:look"], 1) + 'ordered_by = "input"\n'
    with ServiceProcess(text, {"camera_events.py": CODE, "slow.py": SLOW}) as service:
        service.start()
        with Client(service) as client:
            client.store_all(Client._message(json.dumps(event).encode(), str(event["n"])) for event in events)
            for _ in range(KILLS):
                due = time.monotonic() + 1.0
                pid = wait_for(lambda due=due: time.monotonic() > due and begun(service), 60, "a Consumer at work")
                os.kill(pid, signal.SIGKILL)
            settled(service, len(events), 60 + 3 * KILLS)
            found = [one.body["n"] for one in client.results()]
        assert len(list(service.folder.glob("begun-*"))) == KILLS + 1, "each was at work, and so was the last one"
        reasons = [event["reason"] for event in service.events() if event["event"] == "retried"]
        assert set(reasons) == {"crash"}, "some had an event in hand"
        assert service.stop() == 0
    assert found == passed(events, rule)


ATTRIBUTE = CODE.replace("    shared: ClassVar[bool] = True  # one instance for all Consumers\n", "")


@pytest.mark.system
def test_an_attribute_of_the_class_is_another_one_in_each_process(module):
    """As in the original script: each process has a rule of its own, and neighbours pass that others have heard of."""
    _, generate = module
    events = list(generate.events(COUNT, cameras=60))
    assert ATTRIBUTE != CODE
    each = sorted(
        results(["camera_events:NeighbourRule", "camera_events:look"], CONSUMERS, events, ATTRIBUTE),
        key=lambda event: event["time"],
    )
    assert broken(each)


def broken(events):
    """Return pairs that passed although they are neighbours within the interval."""
    return [
        (one, other)
        for at, one in enumerate(events)
        for other in events[at + 1 :]
        if abs(one["cid"] - other["cid"]) <= 1 and other["time"] - one["time"] < 300
    ]


def test_the_rule_in_redis_decides_as_the_shared_one_does_once_a_message(module, redis_url, monkeypatch):
    """Whoever asks again for a message gets the answer of the first time; without an id nothing is decided."""
    rule, generate = module
    monkeypatch.setenv("REDIS_URL", redis_url)
    events = list(generate.events(300, cameras=60))

    def asked(event, **properties):
        return run_job("camera_redis:NeighbourRule", event, root=EXAMPLE, **properties) is not None

    found = [(asked(event, message_id=str(event["n"])), asked(event, message_id=str(event["n"]))) for event in events]
    let_through = set(passed(events, rule))
    assert found == [(event["n"] in let_through,) * 2 for event in events]
    with pytest.raises(Reject, match="message_id"):
        asked(events[0])


KILLER = """\
import os, signal
from pathlib import Path

def once(event):
    mark = Path(__file__).with_name(f"killed-{event['n']}")
    if event["n"] % 8 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return event
"""


@pytest.mark.system
def test_the_rule_in_redis_decides_for_several_services_whatever_is_killed(module, redis_url):
    """Two services, as on two machines: no neighbours pass too soon, and what passed has a result after a crash."""
    _, generate = module
    events = list(generate.events(COUNT, cameras=60))
    text = config(["camera_redis:NeighbourRule", "killer:once", "camera_events:look"], 2)
    files = {"camera_events.py": CODE, "camera_redis.py": REDIS, "killer.py": KILLER}
    with contextlib.ExitStack() as stack:
        services = [stack.enter_context(ServiceProcess(text, files, REDIS_URL=redis_url)) for _ in range(2)]
        for service in services:
            service.start()
        clients = [stack.enter_context(Client(service)) for service in services]
        for number, client in enumerate(clients):
            for event in events[number::2]:
                client.send_raw([json.dumps(event).encode()], first=event["n"])
        for number, service in enumerate(services):
            settled(service, len(events[number::2]))
        found = sorted((one.body for client in clients for one in client.results()), key=lambda event: event["time"])
        killed = {int(path.name[7:]) for service in services for path in service.folder.glob("killed-*")}
        assert all(service.stop() == 0 for service in services)
        with Redis.from_url(redis_url) as asked:
            keys = list(asked.scan_iter("{cameras}:answer:*"))
            answers = {int(key.rpartition(b"-")[2]): int(asked.get(key)) for key in keys}
    assert sorted(answers) == list(range(COUNT))
    assert [one["n"] for one in found] == [n for n, passes in sorted(answers.items()) if passes]
    assert not broken(found)
    assert killed & {one["n"] for one in found}, "some that passed were computed again"
