"""The camera example: with many Consumers its rule decides as one process does; as a class attribute it does not."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from mqworker.testing import SharedObjects, run_job
from tests.support.embedded import Client
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "camera_events"
CODE = (EXAMPLE / "camera_events.py").read_text()
CONSUMERS = 8
COUNT = 600
PARAMS = {"rounds": 1000}


@pytest.fixture
def module(monkeypatch):
    """Import the example."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in ("camera_events", "generate"):
        sys.modules.pop(name, None)
    yield importlib.import_module("camera_events"), importlib.import_module("generate")
    for name in ("camera_events", "generate"):
        sys.modules.pop(name, None)


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


def results(jobs, consumers, events, code=CODE):
    """Return what a service lets through of these events."""
    with ServiceProcess(config(jobs, consumers), {"camera_events.py": code}) as service:
        service.start()
        with Client(service) as client:
            client.send_raw(json.dumps(event).encode() for event in events)

            def settled():
                return service.stage("work")["actual"]["counters"]["settled"] >= len(events)

            wait_for(settled, 60, "all events")
            found = [one.body for one in client.results()]
        assert service.stop() == 0
    return found


@pytest.mark.system
def test_the_shared_rule_decides_as_one_process_does(module):
    """With one Consumer exactly, in the order of the input; with many, no two that passed are neighbours too soon."""
    rule, generate = module
    events = list(generate.events(COUNT, cameras=60))
    jobs = ["camera_events:NeighbourRule", "camera_events:look"]
    assert [one["n"] for one in results(jobs, 1, events)] == passed(events, rule)
    many = sorted(results(jobs, CONSUMERS, events), key=lambda event: event["time"])
    assert many
    assert not broken(many)


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
