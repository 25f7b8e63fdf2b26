"""What an operator finds out about one message, one Consumer and the failures of a stage, on a running service."""

import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("inspection")]

REMEMBERED = 40
CONFIG = """
[service]
log_format = "json"
[control]
port = 0
[stages.work]
input = "work.in"
jobs = ["jobs:handle"]
consumers = 2
retry = { base = 30, max_attempts = 2 }
[stages.order]
input = "order.in"
jobs = ["jobs:handle"]
consumers = 1
ordered_by = "input"
on_failure = "hold"
retry = { base = 30, max_attempts = 2 }
[stages.seats]
input = "seats.in"
jobs = ["jobs:later"]
consumers = 1
concurrency = 4
"""
JOBS = """\
import asyncio, signal, time
from pathlib import Path
from mqworker import Reject

def handle(body):
    if "wait" in body:
        {"signal": slips}.get(body["wait"], stuck)(body["wait"])
    if body.get("fail") == "value":
        raise ValueError(f"no such frame {body['n']} of {id(body)}")
    if body.get("fail") == "key":
        return {}[f"camera {body['n']}"]
    if body.get("fail") == "reject":
        raise Reject(f"never {body['n']}")
    return None if body.get("drop") else body

def stuck(name):
    while not Path(name).exists():
        time.sleep(0.01)

async def later(body):
    while not Path(body["wait"]).exists():
        await asyncio.sleep(0.01)

def slips(_):
    asked = []
    signal.signal(signal.SIGUSR2, lambda *_: asked.append(1))
    while not asked:
        time.sleep(0.01)
"""


def place(code: str) -> str:
    """Return the place of what this line of `handle` raises."""
    (number,) = [number for number, line in enumerate(JOBS.splitlines(), 1) if code in line]
    return f"jobs.py:{number} in handle"


VALUE, KEY, REJECT = place("raise ValueError"), place("return {}["), place("raise Reject")


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    times = {"MQWORKER_TEST_TIME": f"producer.journal:SETTLED={REMEMBERED}"}
    with ServiceProcess(CONFIG, {"jobs.py": JOBS}, **times) as running:
        yield running.start()


def send(service: ServiceProcess, stage: str, name: str, **body: Any) -> None:
    """Send a message with this id."""
    told = service.ask("POST", f"/api/v1/stages/{stage}/messages", body, headers={"X-Message-Id": name})
    assert told[0] in (200, 202), told


def found(service: ServiceProcess, name: str) -> dict[str, Any]:
    """Return where a message is."""
    status, told = service.ask("GET", f"/api/v1/messages/{name}")
    assert status == 200, told
    return told


def comes_to(service: ServiceProcess, name: str, *states: str) -> dict[str, Any]:
    """Wait until the newest trace of a message is in one of these states; each answer comes within a second."""

    def there() -> dict[str, Any] | None:
        began = time.monotonic()
        told = found(service, name)
        assert time.monotonic() - began < 1 or os.getloadavg()[0] > (os.cpu_count() or 1)
        assert not told["unanswered"]
        traces = [trace for stage in told["stages"] for trace in stage["traces"]]
        return told if traces and traces[-1]["state"] in states else None

    return wait_for(there, 30, f"message {name} to be {' or '.join(states)}")


def test_a_message_is_found_in_every_state(service):
    """In hand, waiting for a retry in a queue and in its place, settled, dead, and forgotten, which is said."""
    send(service, "work", "in-hand", wait="go-1")
    send(service, "work", "dropped", drop=True)
    send(service, "work", "retried", fail="value", n=1)
    send(service, "work", "dead", fail="reject", n=1)
    send(service, "order", "held", fail="value", n=2)
    send(service, "order", "behind")
    send(service, "seats", "seated", wait="go-1")
    for name, state, overall in (
        ("in-hand", "out", "in_hand"),
        ("dropped", "dropped", "settled"),
        ("retried", "retried", "retry"),
        ("dead", "dead", "dead"),
        ("held", "delayed", "retry"),
        ("seated", "out", "in_hand"),
    ):
        told = comes_to(service, name, state)
        assert told["state"] == overall, told
    assert found(service, "retried")["stages"][0]["traces"][-1]["place"] == VALUE
    shown = service.cli("message", "dead")
    assert shown.stdout.startswith("stage work: dead since "), shown
    assert f"never 1 ({REJECT})" in shown.stdout

    (service.folder / "go-1").touch()
    comes_to(service, "in-hand", "dropped", "result")
    for number in range(REMEMBERED + 1):
        send(service, "work", f"more-{number}", drop=True)
    comes_to(service, f"more-{REMEMBERED}", "dropped")
    forgotten = found(service, "in-hand")
    assert forgotten["state"] == "unknown"
    assert "or is forgotten: settled before that" in forgotten["sentence"]
    assert f"not in hand, nor among the {REMEMBERED} messages settled since" in forgotten["sentence"]
    assert found(service, "dead")["state"] == "dead", "failures are remembered longer"


def test_a_stuck_handler_is_seen_with_the_line_that_it_is_in(service):
    """In a serial Consumer and in a task of a loop, within two seconds; an unknown slot is named."""
    send(service, "work", "stuck", wait="go-2")
    send(service, "seats", "waits", wait="go-2")
    for stage, name, line in (("work", "stuck", r"line 1[78] in stuck"), ("seats", "waits", r"line 2[12], in later")):
        trace = comes_to(service, name, "out")["stages"]
        slot = next(each["traces"][-1]["consumer"] for each in trace if each["stage"] == stage)
        began = time.monotonic()
        status, told = service.ask("POST", f"/api/v1/stages/{stage}/consumers/{slot}/stack")
        assert time.monotonic() - began < 2 or os.getloadavg()[0] > (os.cpu_count() or 1)
        assert status == 200, told
        file = re.escape(str(service.folder / "jobs.py"))  # not its copy
        assert re.search(f'File "{file}", {line}', told["stack"]), told["stack"]
        assert told["message_id"] == name
    assert service.ask("POST", "/api/v1/stages/work/consumers/9/stack")[1]["kind"] == "unknown_slot"
    assert "in stuck" in service.cli("stack", "--stage", "work", str(_slot(service, "stuck"))).stdout
    (service.folder / "go-2").touch()


def _slot(service: ServiceProcess, name: str) -> int:
    (trace,) = [each for stage in found(service, name)["stages"] for each in stage["traces"]]
    return trace["consumer"]


def test_a_consumer_is_replaced_when_it_is_done_or_now(service):
    """The first way costs its message nothing, the second one crash; the new one says how the one before it ended."""
    send(service, "work", "finishes", wait="go-3")
    comes_to(service, "finishes", "out")
    slot = _slot(service, "finishes")
    before = _consumers(service, slot)[0]["pid"]
    assert service.cli("replace", str(slot), "--stage", "work").returncode == 0
    wait_for(lambda: len(_consumers(service, slot)) == 2, 30, "a second Consumer in the slot")
    (service.folder / "go-3").touch()
    comes_to(service, "finishes", "dropped", "result")
    (after,) = wait_for(lambda: len(told := _consumers(service, slot)) == 1 and told, 30, "one Consumer in the slot")
    assert after["pid"] != before
    assert "(asked)" in after["exit"]
    assert after["cpu"] > 0 or after["state"] == "idle"

    send(service, "work", "charged", wait="go-4")
    comes_to(service, "charged", "out")
    slot = _slot(service, "charged")
    there = wait_for(
        lambda: next((each for each in _consumers(service, slot) if each["message_id"]), None),
        30,
        "its message in the status",
    )
    path, pid, seq = f"/api/v1/stages/work/consumers/{slot}/replace", there["pid"], there["seq"]
    for seen in ({"pid": pid + 1}, {"seq": 0}, {"seq": seq + 1}, {"pid": pid, "message_id": "finishes"}):
        assert service.ask("POST", path, {"now": True} | seen)[0] == 409
    assert service.ask("POST", path, seen)[0] == 409
    killed = service.cli("replace", str(slot), "--stage", "work", "--now")  # with what it has seen
    assert killed.returncode == 0, killed.stderr
    assert "message charged is charged with a crash" in killed.stderr
    told = wait_for(lambda: len(told := _traces(service, "charged")) > 1 and told, 30, "the next life of the message")
    assert (told[0]["reason"], told[0]["place"]) == ("crash", "jobs.py in stuck")
    assert "an operator replaced it" in told[0]["error"]
    (service.folder / "go-4").touch()
    comes_to(service, "charged", "dropped", "result")


def test_of_several_in_hand_the_verb_claims_no_charge_that_does_not_happen(service):
    """What `replace --now` says of the messages in hand is what the log says at the Consumer's end."""
    for name in ("several-1", "several-2", "several-3"):
        send(service, "seats", name, wait="go-5")
    wait_for(lambda: len(service.stage("seats")["actual"]["consumers"][0]["messages"]) == 3, 30, "three in hand")
    (before,) = service.stage("seats")["actual"]["consumers"]
    killed = service.cli("replace", "0", "--stage", "seats", "--now")
    assert killed.returncode == 0, killed.stderr
    assert "its 3 messages in hand run again" in killed.stderr
    (service.folder / "go-5").touch()
    comes_to(service, "several-3", "dropped", "result")
    (ended,) = [
        each for each in service.events() if each.get("consumer_pid") == before["pid"] and "ended" in each["event"]
    ]
    assert "3 messages in hand will run again, uncharged" in ended["msg"]


def _consumers(service: ServiceProcess, slot: int) -> list[dict[str, Any]]:
    return [each for each in service.stage("work")["actual"]["consumers"] if each["slot"] == slot]


def _traces(service: ServiceProcess, name: str) -> list[dict[str, Any]]:
    return [trace for stage in found(service, name)["stages"] for trace in stage["traces"]]


def test_failures_are_grouped_by_their_place_and_counted_across_a_killed_producer(service):
    """Ids and numbers in texts make no further groups; the groups go on where the killed one had counted."""

    def counts() -> dict[str, int]:
        told = service.ask("GET", "/api/v1/stages/work/faults")[1]["faults"]
        return {fault["place"]: fault["retried"] + fault["dead"] for fault in told}

    def fail(first: int) -> None:
        for number in range(first, first + 10):
            for kind in ("value", "key", "reject"):
                send(service, "work", f"{kind}-{number}", fail=kind, n=number)

    before = counts()
    places = (VALUE, KEY, REJECT)

    def has(more: int) -> bool:
        now = counts()
        return all(now.get(place, 0) == before.get(place, 0) + more for place in places)

    fail(100)
    wait_for(lambda: has(10), 30, "ten more of each")
    (producer,) = {service.stage("work")["actual"]["pid"]}
    os.kill(producer, signal.SIGKILL)
    wait_for(lambda: (now := service.stage("work")["actual"]) and now["pid"] != producer, 30, "another Producer")
    fail(200)
    wait_for(lambda: has(20), 60, "ten more of each")
    assert set(counts()) - set(before) <= set(places)
    assert KEY in service.cli("faults", "--stage", "work").stdout
    assert found(service, "key-105")["state"] == "unknown", "the journal was that Producer's"
    letter = wait_for(lambda: _letter(service, "reject-105"), 30, "the dead letter")
    assert letter["letters"][0]["place"] == REJECT
    told = found(service, "reject-105")
    assert (told["state"], told["letters"]) == ("dead", letter["letters"]), "it was seen, and is found without a look"
    (group,) = [
        each for each in service.ask("GET", "/api/v1/stages/work/dlq/groups")[1]["groups"] if each["place"] == REJECT
    ]
    assert group["key"] in {fault["key"] for fault in service.ask("GET", "/api/v1/stages/work/faults")[1]["faults"]}


def _letter(service: ServiceProcess, name: str) -> dict[str, Any] | None:
    told = service.ask("GET", f"/api/v1/messages/{name}?look=true")[1]
    return told if told["letters"] else None


def test_a_message_that_ends_meanwhile_saves_its_consumer(service):
    """While a Consumer is asked for its stack, the message that an operator has seen ends: nothing is killed for it."""
    send(
        service, "work", "slip", wait="signal"
    )  # of the request for a stack, which its Consumer cannot answer any more
    comes_to(service, "slip", "out")
    slot = _slot(service, "slip")
    (before,) = _consumers(service, slot)
    path = f"/api/v1/stages/work/consumers/{slot}/replace"
    status, told = service.ask("POST", path, {"now": True, "pid": before["pid"], "message_id": "slip"})
    assert (status, told["detail"]) == (
        409,
        f"message slip is no longer in hand in Consumer {slot} (it has none): nothing is done to it",
    )
    comes_to(service, "slip", "result")
    assert [each["pid"] for each in _consumers(service, slot)] == [before["pid"]]
