"""Objects that all Consumers share, in a whole service: each effect once, also under new code."""

import contextlib
import json
import os
import re
import signal

import pytest

from tests.support.embedded import DEAD, OUTPUT, Client, config, put
from tests.support.service import SEMAPHORES, ServiceProcess, gone
from tests.support.waiting import wait_for
from tests.system.stage import counted

pytestmark = pytest.mark.system

JOBS = """\
import os, time
from pathlib import Path

class Counts:
    def __init__(self):
        self.counts = {}
    def add(self, name, params):
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.counts[name]
    def describe(self):
        return {"entries": len(self.counts), "most": max(self.counts.values(), default=0)}

class Gate:
    shared = True
    def __init__(self):
        self.last = -10
    def handle(self, body):
        if body.get("gate") and body["n"] - self.last < 3:
            return None
        self.last = body["n"]
        return body

def handle(body, counts):
    times = counts.add(str(body["n"]))
    time.sleep(0.003)
    if body.get("kill") and times == 1 and not Path(__file__).with_name(f"killed-{body['n']}").exists():
        Path(__file__).with_name(f"killed-{body['n']}").touch()
        os._exit(3)
    return body | {"times": times}
"""
SHARED = '[shared.counts]\njob = "jobs:Counts"\n'
WITH_SIZE = JOBS.replace(
    "def describe(self):", "def size(self):\n        return len(self.counts)\n    def describe(self):"
).replace('"times": times', '"size": counts.size(), "times": times')
CHOOSY = JOBS.replace("def add(", "def __setstate__(self, state):\n        raise ValueError('not this')\n    def add(")


def shared(running: ServiceProcess, name: str = "counts") -> dict:
    status, told = running.ask("GET", f"/api/v1/shared/{name}")
    assert status == 200, told
    return told


def entries(running: ServiceProcess) -> int | None:
    """Return how many entries the object says it has; None while it says nothing."""
    status = shared(running)["status"] or {}
    return (status.get("described") or {}).get("entries")


def kill_one(running: ServiceProcess, kind: str) -> None:
    """Kill a process of this kind; others come and go meanwhile."""

    def killed() -> bool:
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(running.named(kind)[0], signal.SIGKILL)
            return True
        return False

    wait_for(killed, 20, kind)


def test_each_message_has_its_effect_once_whatever_is_killed(service):
    """Consumers, the Producer, the object's process and the Service are killed: every entry is exactly 1."""
    running = service(config("crash = { max = 20 }") + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(200)
        client.send(5, kill=True)
        for victim in ("mqw-consumer", "mqw-shared", "mqw-producer", "mqw-shared", "mqw-consumer"):
            before = client.ready(OUTPUT)
            client.send(40)
            wait_for(lambda: client.ready(OUTPUT) > before + 10, 30, "some results")  # noqa: B023 - at once
            kill_one(running, victim)
        running.signal(signal.SIGKILL)
        running.process.wait(10)
        running.start()
        client.send(40)
        wait_for(lambda: client.ready(OUTPUT) >= client.sent, 60, "all results")
        results = client.results()
        assert {one.body["times"] for one in results} == {1}
        wait_for(lambda: entries(running) == client.sent, 10, "a new report")
        told = shared(running)
    assert told["status"]["described"] == {"entries": client.sent, "most": 1}
    assert told["status"]["diverged"] == {}
    assert running.stop() == 0
    gone(running)
    # Who is killed between making a semaphore and telling multiprocessing's resource tracker of it leaves that one.
    (*left,) = running.leaked_semaphores()
    assert len(left) <= 1
    for name in left:
        (SEMAPHORES / name).unlink()


def test_new_code_takes_the_state_over(service):
    """Its class goes on where the old one was; what cannot be loaded is refused, and the old one goes on."""
    running = service(config() + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(50)
        client.finish()
        running.write("jobs.py", WITH_SIZE)
        put(running, "restart", method="POST")
        client.send(1)
        assert client.finish()[-1].body["size"] == 51
        running.write("jobs.py", CHOOSY)
        status, told = running.ask("POST", "/api/v1/stages/work/restart?wait=30")
        assert (status, "not this" in told["detail"]) == (422, True), told
        client.send(1)
        assert client.finish()[-1].body["size"] == 52
        put(running, "rollback", {}, method="POST")
        client.send(1)
        assert client.finish()[-1].body["times"] == 1
        wait_for(lambda: entries(running) == client.sent, 10, "a new report")
    assert running.stop() == 0


def test_a_shared_link_decides_for_all_consumers(service):
    """One call at a time, before the jobs that take time: what it drops is dropped."""
    text = config(consumers=1).replace('"jobs:handle"', '"jobs:Gate", "jobs:handle"')
    running = service(text + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(30, gate=True)
        wait_for(lambda: client.ready(OUTPUT) == 10 and client.ready() == 0, 30, "what the gate lets through")
        assert [one.body["n"] for one in client.results()] == list(range(0, 30, 3))
        told = json.loads(running.cli("shared", "list", "--json").stdout)
        assert [each["name"] for each in told] == ["counts", "jobs.Gate"]
        wait_for(lambda: entries(running) == 10, 10, "a new report")
        shown = running.cli("shared", "show", "counts").stdout
        assert '"entries": 10' in shown
        assert re.search(r"^calls +10$", shown, re.MULTILINE), shown
        assert running.cli("shared", "reset", "counts").returncode == 0
        wait_for(lambda: entries(running) == 0, 10, "an empty object")
    assert running.stop() == 0


def test_a_killed_service_with_other_code_in_its_folder_replays_under_the_code_of_before(service):
    """Its journal was written by code that is in the folder no more; then the new class takes the state over."""
    running = service(config() + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(40)
        client.finish()
        running.signal(signal.SIGKILL)
        running.process.wait(10)
        running.write("jobs.py", WITH_SIZE)
        running.start()
        client.send(1)
        assert client.finish()[-1].body["size"] == 41
        told = shared(running)
        assert (told["status"]["diverged"], told["restarts"], told["problem"]) == ({}, 0, "")
        running.signal(signal.SIGKILL)
        running.process.wait(10)
        running.write("jobs.py", CHOOSY)
        running.start()
        assert "not this" in running.event("shared_code")["msg"]
        client.send(1)
        assert client.finish()[-1].body["times"] == 1, "the previous code serves"
        running.write("jobs.py", JOBS)
        put(running, "restart", method="POST")
        client.send(1)
        assert client.finish()[-1].body["times"] == 1
        wait_for(lambda: entries(running) == client.sent, 10, "a new report")
    assert running.stop() == 0


SLOW = JOBS.replace(
    "def add(self, name, params):",
    "def add(self, name, params):\n        if name == '7' and not Path(__file__).with_name('slow').exists():\n"
    "            Path(__file__).with_name('slow').touch()\n            time.sleep(60)",
)


def test_a_call_that_takes_too_long_costs_its_message_one_attempt_and_nobody_else_anything(service):
    """The object's process is killed and restored; who waits is served, and the message runs again."""
    running = service(
        config("retry = { base = 0.1 }", "time_limit = { hard = 20.0 }", consumers=3) + SHARED + "deadline = 1.0\n",
        {"jobs.py": SLOW},
    ).start()
    with Client(running) as client:
        client.send(60)
        results = client.finish()
        assert {one.body["times"] for one in results} == {1}
        assert {
            one.body["n"]: one.properties.headers["x-mqworker-attempt"] for one in results if one.body["n"] == 7
        } == {7: 2}
        counted(running, retried=1, dead=0)
        assert "its deadline of 1 s" in running.event("shared_died")["msg"]
        assert shared(running)["restarts"] == 1
    assert running.stop() == 0


def test_two_stages_that_share_an_object_change_their_code_at_once(service):
    """A HUP reloads both: the state is moved once, and both changes are committed."""
    second = '[stages.second]\ninput = "second"\njobs = ["jobs:handle"]\noutput = "second.out"\nconsumers = 1\n'
    running = service(config() + second + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(20)
        client.finish()
        running.write("jobs.py", WITH_SIZE)
        running.signal(signal.SIGHUP)

        def both() -> bool:
            return [event["event"] for event in running.events()].count("committed") == 2

        wait_for(both, 30, "both commits")
        client.send(1)
        assert client.finish()[-1].body["size"] == 21
    assert not [event for event in running.events() if event["event"] in ("undone", "shared_died", "shared_unfit")]
    assert running.stop() == 0


def test_a_helper_that_is_killed_is_replaced_with_its_object(service):
    """What brings the journal to the disk may be killed too: the object is back at once, with all that it had."""
    running = service(config() + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(20)
        client.finish()
        kill_one(running, "mqw-sync")
        wait_for(lambda: shared(running)["restarts"] == 1, 10, "the end of the object's process")
        wait_for(lambda: entries(running) == 20, 10, "the object to be back")
    assert not [event for event in running.events() if event["event"] == "shared_unfit"]
    assert running.stop() == 0


def test_a_reset_that_cannot_be_made_is_told_and_does_not_come_later(service):
    """Damaged files stay as they are; once they are restored, the object is the one of before, not a new one."""
    running = service(config() + SHARED, {"jobs.py": JOBS}, MQWORKER_TEST_TIME="service.shared_lives:RETRY=4").start()
    with Client(running) as client:
        client.send(20)
        client.finish()
        journal = running.folder / ".mqworker/shared/counts/journal-0000000001"
        whole = journal.read_bytes()
        journal.write_bytes(whole[:100] + bytes((whole[100] ^ 1,)) + whole[101:])
        kill_one(running, "mqw-shared")
        assert "damaged" in running.event("shared_unfit")["msg"]
        wait_for(lambda: shared(running)["state"] == "down", 10, "its end")
        assert running.cli("shared", "reset", "counts").returncode == 0
        wait_for(lambda: "was not reset" in shared(running)["problem"], 20, "the reason")
        journal.write_bytes(whole)
        client.send(1)
        assert client.finish(90)[-1].body["times"] == 1
        wait_for(lambda: entries(running) == 21, 10, "the object of before")
    assert running.stop() == 0


def test_a_reset_of_an_object_that_hangs_is_made_by_its_successor(service):
    """The order is not lost with the process that could not read it."""
    slow = SLOW.replace("if name == '7'", "if name == '20'")
    running = service(config("retry = { base = 0.1 }") + SHARED + "deadline = 2.0\n", {"jobs.py": slow}).start()
    with Client(running) as client:
        client.send(20)
        client.finish()
        client.send(1)
        wait_for((running.folder / "slow").exists, 10, "the call that hangs")
        assert running.cli("shared", "reset", "counts").returncode == 0
        result = client.finish()[-1]
        assert result.properties.headers["x-mqworker-attempt"] == 2, "the call that hung is charged all the same"
        wait_for(lambda: entries(running) == 1, 10, "the new object")
    assert running.stop() == 0


WITH_PARAMS = """\
import msgspec
from typing import Annotated

class Params(msgspec.Struct, forbid_unknown_fields=True):
    window: Annotated[float, msgspec.Meta(gt=0)] = 3.0

class Counts:
    def add(self, name, params):
        return params.window
"""
CALLS = """\
import msgspec

class Params(msgspec.Struct, forbid_unknown_fields=True):
    factor: int = 2

def handle(body, counts, params):
    return body | {"window": counts.add("x"), "factor": params.factor}
"""


def test_the_parameters_of_a_shared_class_are_checked_like_those_of_a_job(service):
    """Also where its module is another one: what it reads is known, and a wrong value is refused."""
    settings = config() + '[shared.counts]\njob = "counts:Counts"\n'
    running = service(settings, {"jobs.py": CALLS, "counts.py": WITH_PARAMS}).start()
    checked = running.cli("check")
    assert checked.returncode == 0, checked.stdout
    assert "counts: each message has its effect once if it has a message_id" in checked.stdout
    with Client(running) as client:
        put(running, "params", {"window": 5.0, "factor": 3}, method="PATCH")
        client.send(1)
        assert client.finish()[-1].body == {"n": 0, "window": 5.0, "factor": 3}
        for wrong in ({"window": -1.0}, {"windows": 5.0}):
            status, told = running.ask("PATCH", "/api/v1/stages/work/params", wrong)
            assert status == 422, told
    running.write("counts.py", WITH_PARAMS + "    def tick(self): pass\n")
    status, told = running.ask("POST", "/api/v1/stages/work/restart?wait=20")
    assert (status, "tick" in told["detail"]) == (422, True), told
    assert running.stop() == 0


NEW_ATTRIBUTE = JOBS.replace("self.counts = {}", "self.counts = {}\n        self.calls = 0").replace(
    "self.counts[name] = self.counts.get(name, 0) + 1",
    "self.calls += 1; self.counts[name] = self.counts.get(name, 0) + 1",
)


def test_a_class_that_does_not_fit_the_state_is_refused_and_a_reset_takes_the_new_one(service):
    """A new attribute without a __setstate__, a describe that fails; where the start has refused, a reset helps."""
    running = service(config() + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(20)
        client.finish()
        running.write("jobs.py", NEW_ATTRIBUTE)
        status, told = running.ask("POST", "/api/v1/stages/work/restart?wait=30")
        assert status == 422, told
        assert (
            "the state of jobs:Counts has no calls, which its class sets in __init__; write a __setst" in told["detail"]
        )
        running.write("jobs.py", JOBS.replace("len(self.counts), ", "self.gone, "))
        status, told = running.ask("POST", "/api/v1/stages/work/restart?wait=30")
        assert (status, "describe of the new class fails with this state" in told["detail"]) == (422, True), told
        running.write("jobs.py", NEW_ATTRIBUTE)
        assert running.stop() == 0
        running.start()
        assert "has no calls" in running.event("shared_code")["msg"]
        wait_for(lambda: entries(running) == 20, 10, "the object of before")
        assert running.cli("shared", "reset", "counts").returncode == 0
        wait_for(lambda: entries(running) == 0, 20, "a new object")
        client.send(1)
        assert client.finish()[-1].body["times"] == 1
        assert (shared(running)["problem"], shared(running)["restarts"]) == ("", 0)
    assert running.stop() == 0


WAITS = WITH_SIZE.replace(
    "def add(",
    "def __setstate__(self, state):\n"
    "        end = time.monotonic() + 60\n"
    "        while not Path(__file__).with_name('go').exists() and time.monotonic() < end:\n"
    "            time.sleep(0.01)\n"
    "        self.__dict__.update(state)\n    def add(",
)


@pytest.mark.parametrize("victim", ["service", "producer", "object", "trial"])
def test_a_kill_while_the_state_moves_to_new_code_leaves_one_code_and_every_effect_once(service, victim):
    """Whoever dies while the new class loads the state: then one generation runs, and no effect is lost or twice."""
    running = service(config("crash = { max = 20 }") + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(40)
        client.finish()
        serving = shared(running)["status"]["pid"]
        running.write("jobs.py", WAITS)
        assert running.ask("POST", "/api/v1/stages/work/restart")[0] == 202
        others = wait_for(lambda: set(running.named("mqw-shared")) - {serving}, 30, "the process on trial")
        client.send(20)  # they wait, or have the old code
        if victim == "service":
            running.signal(signal.SIGKILL)
            running.process.wait(10)
            running.start(ready=None)
        elif victim == "producer":
            kill_one(running, "mqw-producer")
        else:
            os.kill(serving if victim == "object" else others.pop(), signal.SIGKILL)
        running.write("go", "")
        running.wait_ready()
        results = client.finish(90)
        assert {one.body["times"] for one in results} == {1}
        wait_for(lambda: entries(running) == 60, 20, "all entries")
        wait_for(lambda: (running.stage("work")["change"] or {"state": "undone"})["state"] == "undone", 30, "its end")
        put(running, "restart", method="POST")
        client.send(10)
        assert {one.body["size"] for one in client.finish()[-10:]} <= set(range(61, 71))
        assert shared(running)["problem"] == ""
    assert running.stop() == 0


GREEDY = """\
class Counts:
    def __init__(self):
        self.fails = 1
    def add(self, name):
        return {1, 2} if name == "set" else len(name)
    def tick(self, now):
        raise RuntimeError("no time")

def handle(body, counts):
    return {"n": counts.add(body["name"])}
"""


def test_what_an_object_does_wrong_is_named_once(service):
    """A wrong answer makes its message dead at once; a tick that fails is shown; a state that nobody uses is told."""
    running = service(config() + SHARED, {"jobs.py": GREEDY})
    (running.folder / ".mqworker" / "shared" / "before").mkdir(parents=True)
    running.start()
    assert "no running stage uses the shared object before" in running.event("shared_unused")["msg"]
    with Client(running) as client:
        client.send(1, name="set")
        dead = wait_for(lambda: client.results(DEAD), 20, "the dead letter")[0].properties.headers
        assert (dead["x-mqworker-reason"], dead["x-mqworker-attempt"]) == ("unencodable", 1)
        assert "the answer of Counts.add is of type set" in dead["x-mqworker-message"]
        wait_for(lambda: "tick raised RuntimeError: no time" in shared(running)["problem"], 20, "the problem")
        put(running, "consumers", {"count": 1})
    assert running.stop() == 0
    assert [event["event"] for event in running.events()].count("shared_unused") == 1
