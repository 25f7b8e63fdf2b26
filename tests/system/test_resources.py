"""Slots, CPUs and niceness in a whole service on the embedded broker."""

import os
import signal
from collections import Counter

import pytest

from mqworker.exits import Exit
from tests.support.embedded import OUTPUT, Client, config, put, steady
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

HANDLER = """\
import os, subprocess, sys, time
SLOT = os.environ.get("MQWORKER_SLOT")


def handle(body):
    time.sleep(body.get("seconds", 0.01))
    started = "import os; print(sorted(os.sched_getaffinity(0)), os.nice(0), os.environ['MQWORKER_SLOT'])"
    told = ""
    if body.get("ask"):
        told = subprocess.run([sys.executable, "-c", started], capture_output=True, text=True).stdout
    return {"n": body["n"], "slot": SLOT, "pid": os.getpid(), "told": told}
"""


def slots(service: ServiceProcess) -> dict[int, int]:
    """Return the slot of each Consumer by its pid."""
    return {each["pid"]: each["slot"] for each in service.stage("work")["actual"]["consumers"]}


def found(client: Client, count: int) -> dict[int, int]:
    """Let Consumers compute messages, and return the slots that they found in their environment, by pid."""
    before = len(client.results())
    client.send(count)
    wait_for(lambda: client.ready(OUTPUT) == before + count, 60, "all results")
    return {result.body["pid"]: int(result.body["slot"]) for result in client.results()[before:]}


def agree(service: ServiceProcess, client: Client, number: int) -> dict[int, int]:
    """Wait until so many Consumers are there, each has another slot and finds it itself; return the slots by pid."""
    steady(service, 60)
    found(client, 4)  # those of before a switch stay until there is a message
    wait_for(lambda: sorted(slots(service).values()) == list(range(number)), 60, f"the slots 0 to {number - 1}")
    known: dict[int, int] = {}

    def all_asked() -> bool:
        known.update(found(client, 20))
        return known.keys() >= slots(service).keys()

    wait_for(all_asked, 60, "a message for each Consumer")
    told = slots(service)
    assert {pid: known[pid] for pid in told} == told
    return told


def test_a_successor_has_the_slot_and_n_consumers_have_n(service):
    """After a kill, scaling down and up, new code and recycling, the slots are 0 to N-1, each once."""
    running = service(config(consumers=3), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        before = agree(running, client, 3)
        victim = next(pid for pid, slot in before.items() if slot == 1)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in slots(running) and len(slots(running)) == 3, 30, "a successor")
        after = agree(running, client, 3)
        (successor,) = after.keys() - before.keys()
        assert after[successor] == 1
        put(running, "consumers", {"count": 2})
        fewer = agree(running, client, 2)
        assert fewer == {pid: slot for pid, slot in after.items() if slot < 2}
        put(running, "consumers", {"count": 4})
        more = agree(running, client, 4)
        assert more.items() >= fewer.items()
        restarted = running.cli("restart")
        assert restarted.returncode == 0, restarted.stderr
        assert not agree(running, client, 4).keys() & more.keys()


def test_with_old_first_no_two_have_the_same_slot_at_once(service):
    """Whoever has a device by its slot has it alone, while Consumers are replaced by new code and for their number."""
    lines = ('update = "old-first"', "max_messages = 15")
    running = service(config(*lines, consumers=2), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(120, seconds=0.03)
        asked = running.ask("POST", "/api/v1/stages/work/restart")
        assert asked[0] in {200, 202}, asked

        def over() -> bool:
            shared = [slot for slot, times in Counter(slots(running).values()).items() if times > 1]
            assert not shared, shared
            return client.ready(OUTPUT) == 120

        wait_for(over, 90, "all results")
        assert {result.body["slot"] for result in client.results()} == {"0", "1"}
        assert len({result.body["pid"] for result in client.results()}) > 4


def test_what_a_handler_starts_has_the_resources_of_its_stage(service):
    """CPUs, niceness and slot are those of its Consumer, one for each CPU; the Producer keeps its own."""
    cpu = max(os.sched_getaffinity(0))
    lines = (f"cpus = [{cpu}]", "nice = 4")
    text = config(*lines).replace("consumers = 2\n", "")
    running = service(text, {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(1, ask=True)
        wait_for(lambda: client.ready(OUTPUT) == 1, 30, "the result")
        (result,) = client.results()
    assert result.body["told"] == f"[{cpu}] {min(19, os.nice(0) + 4)} 0\n"
    assert len(running.named("mqw-consumer")) == 1
    (producer,) = running.named("mqw-producer")
    assert os.sched_getaffinity(producer) == os.sched_getaffinity(0)
    assert os.getpriority(os.PRIO_PROCESS, producer) == os.nice(0)


def test_a_service_without_the_cpus_of_a_stage_does_not_start(service):
    """78, and a sentence with those that it may use."""
    running = service(config("cpus = [8000]"), {"jobs.py": HANDLER}).start(ready=None)
    assert running.wait(60) == Exit.CONFIG
    last = running.events()[-1]
    assert "stages.work.cpus: this service may not run on 8000; it may run on " in last["msg"]
