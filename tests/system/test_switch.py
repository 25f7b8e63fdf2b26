"""Code and chain change at one moment: how a switch goes, how it fails, and what an unfinished one leaves behind."""

import contextlib
import http.client
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqworker.exits import Exit
from tests.support.embedded import OUTPUT, Client, config, put, steady
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

PATH = "/api/v1/stages/work"


def code(tag: str, *, top: str = "", setup: str = "", handle: str = "") -> str:
    """Return a module with a job that says which code it is; further statements for its import, set-up and handler."""
    return f"""\
import os, signal, socket, time
from pathlib import Path

HERE = Path(__file__).parent

def until(name):
    while not (HERE / name).exists():
        time.sleep(0.01)

{top}
class Job:
    def setup(self):
        {setup or "pass"}
    def handle(self, body):
        {handle or "pass"}
        time.sleep(0.003)
        return body | {{"code": "{tag}"}}

class Slow:
    def setup(self):
        until("go")
    def handle(self, body):
        return body | {{"slow": True}}

def other(body):
    return body | {{"other": True}}
"""


def of(*lines: str, consumers: int = 2) -> str:
    """Return a configuration with the job of `code`."""
    return config(*lines, consumers=consumers).replace("jobs:handle", "jobs:Job")


def change(running: ServiceProcess) -> dict | None:
    """Return what the stage says of its last change."""
    return running.stage("work")["change"]


def preparing(running: ServiceProcess) -> dict:
    """Wait until a change is in progress, and return it."""

    def so() -> dict | None:
        now = change(running)
        return now if now is not None and now["state"] == "preparing" and now["wanted"] else None

    return wait_for(so, 20, "a change in progress")


def asked(running: ServiceProcess, method: str, path: str, body: dict | None = None) -> tuple[threading.Thread, list]:
    """Ask for a change in a thread; its answer comes in the list, if the service answers."""
    answers: list = []

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answers.append(running.ask(method, f"{PATH}{path}?wait=30", body))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


def test_new_code_takes_over_at_one_moment(service):
    """Every message that is sent after the answer meets the new code; none is lost, repeated, failed or mixed."""
    running = service(of(), {"jobs.py": code("a")}).start()
    with Client(running) as client:
        for tag in "bcd":
            client.send(150)
            running.write("jobs.py", code(tag))
            put(running, "restart", method="POST")
            now = client.send(20)
            wait_for(lambda: client.ready(OUTPUT) >= client.sent, 30, "all results")
            assert {one.body["code"] for one in client.results() if one.body["n"] in now} == {tag}
        results = client.finish()
        wait_for(lambda: len(running.stage("work")["actual"]["consumers"]) == 2, 10, "the others to have left")
        actual = running.stage("work")["actual"]
    assert len({one.generation for one in results}) == len({(one.generation, one.body["code"]) for one in results})
    assert not [event for event in running.events() if event["event"] == "consumer_ended"]
    assert actual["counters"]["retried"] == 0
    assert running.stop() == 0


FAILURES = {
    "the import": (code("b", top="raise ValueError('no import')"), "no import"),
    "the set-up": (code("b", setup="raise ValueError('no model')"), "ValueError: no model"),
    "a set-up that ends its process": (code("b", setup="os._exit(3)"), "end before their first message: exited with"),
    "a set-up that takes too long": (code("b", setup="time.sleep(60)"), "took longer than setup_deadline, 4 s"),
    "the first message": (code("b", handle="os.kill(os.getpid(), signal.SIGSEGV)"), "SIGSEGV"),
}


def test_new_code_that_fails_leaves_the_old_at_work(service):
    """Whatever fails, the caller is told why, no message pays for it, and the old code goes on, also after a start."""
    running = service(of("setup_deadline = 4.0"), {"jobs.py": code("a")}).start()
    with Client(running) as client:
        for what, (new, why) in FAILURES.items():
            client.send(3000 if "message" in what else 600)  # some must be left when the new code is ready
            running.write("jobs.py", new)
            told = running.cli("restart", "--timeout", "30")
            assert (told.returncode, why in told.stderr) == (Exit.CONFIG, True), (what, told)
            client.send(50)
            results = client.finish()
            assert {one.body["code"] for one in results} == {"a"}
            stage = running.stage("work")
            assert (stage["actual"]["counters"]["retried"], stage["actual"]["counters"]["dead"]) == (0, 0)
            if "import" in what:
                continue
            assert (stage["change"]["state"], why in stage["change"]["reason"]) == ("undone", True)
            assert any(why in event["msg"] for event in running.events() if event["event"] == "undone")
            assert f"generation {stage['change']['generation']} was undone" in running.cli("status").stderr
            assert running.stop() == 0
            running.start()
            client.send(10)
            assert {one.body["code"] for one in client.finish()} == {"a"}
    assert running.stop() == 0


def test_a_change_that_nobody_finished_leaves_one_generation_at_work(service):
    """Kill -9 of Producer or Service while the new Consumers are set up: the old chain works, and it is said."""
    running = service(of(), {"jobs.py": code("a")}).start()
    with Client(running) as client:
        for victim in ("producer", "service"):
            thread, answers = asked(running, "POST", "/jobs", {"job": "jobs:Slow"})
            now = preparing(running)
            view = running.stage("work")
            assert (now["ready"], now["wanted"], now["update"]) == (0, 2, "switch")
            assert now["generation"] > view["desired"]["generation"]
            os.kill(view["actual"]["pid"] if victim == "producer" else running.process.pid, signal.SIGKILL)
            if victim == "service":
                running.process.wait(10)
                running.start()
            thread.join(40)
            if victim == "producer":
                status, told = answers[0]
                assert (status, "killed by SIGKILL" in told["detail"]) == (422, True), told
                assert change(running)["state"] == "undone"
            assert running.cli("jobs", "list").stdout.count("jobs:") == 1
            client.send(20)
            assert not [one for one in client.finish() if "slow" in one.body]
    assert [event for event in running.events() if "was not committed before the service ended" in event["msg"]]
    assert running.stop() == 0


def test_a_killed_service_runs_what_was_committed(service):
    """And a Producer that is killed before the new code has finished a message takes the change back."""
    running = service(of(), {"jobs.py": code("a")}).start()
    with Client(running) as client:
        put(running, "jobs", {"job": "jobs:other"}, method="POST")
        assert change(running)["state"] == "committed"
        running.signal(signal.SIGKILL)
        running.process.wait(10)
        running.start()
        client.send(10)
        assert {"other" in one.body for one in client.finish()} == {True}
        put(running, "jobs/other", {"enabled": False}, method="PATCH")
        os.kill(running.stage("work")["actual"]["pid"], signal.SIGKILL)
        wait_for(lambda: (change(running) or {}).get("state") == "undone", 20, "the change to be taken back")
        assert "before the new code had finished a message" in change(running)["reason"]
        client.send(10)
        assert {"other" in one.body for one in client.finish()} == {True}
    assert running.stop() == 0


def test_a_newer_change_builds_on_the_one_in_progress_and_takes_its_place(service):
    """Who waited for the first is told; both edits are in the second. A rollback takes back what is in progress."""
    running = service(of(), {"jobs.py": code("a")}).start()
    with Client(running) as client:
        first, answers = asked(running, "POST", "/jobs", {"job": "jobs:Slow"})
        generation = preparing(running)["generation"]
        status, told = running.ask("POST", f"{PATH}/jobs", {"job": "jobs:other"}, headers={"If-Match": '"1"'})
        assert (status, "Slow (jobs:Slow)" in told["detail"]) == (412, True), told
        second, later = asked(running, "POST", "/jobs", {"job": "jobs:other"})
        first.join(30)
        status, told = answers[0]
        assert (status, f"generation {generation} was undone" in told["detail"]) == (409, True), told
        assert "Slow, other" in running.cli("jobs", "list").stderr
        running.write("go", "")
        second.join(30)
        assert later[0][0] == 200, later
        client.send(10)
        assert {(one.body.get("slow"), one.body.get("other")) for one in client.finish()} == {(True, True)}
        (running.folder / "go").unlink()
        before = running.stage("work")["desired"]["generation"]
        third, last = asked(running, "PUT", "/jobs", {"jobs": ["jobs:Slow"]})
        preparing(running)
        told = running.cli("rollback")
        assert (told.returncode, "what was being prepared is taken back" in told.stderr) == (0, True), told
        third.join(30)
        assert (last[0][0], running.stage("work")["desired"]["generation"]) == (409, before), last
        client.send(10)
        client.finish()
    assert running.stop() == 0


MODULE = """\
import time
import msgspec
from pathlib import Path

class Params(msgspec.Struct, forbid_unknown_fields=True):
    n: int = 0

def handle(body, params):
    time.sleep(0.003)
    return body | {"param": params.n}

class Slow:
    def setup(self):
        while not Path(__file__).with_name("go").exists():
            time.sleep(0.01)
    def handle(self, body):
        return body | {"slow": True}
"""


def test_parameters_and_numbers_change_while_a_change_is_in_progress(service):
    """New parameters are in force at once and go into the change; scaling resizes both sets of Consumers."""
    running = service(config("params = { n = 1 }"), {"jobs.py": MODULE}).start()
    with Client(running) as client:
        client.send(100)
        thread, answers = asked(running, "POST", "/jobs", {"job": "jobs:Slow"})
        before = preparing(running)
        told = put(running, "params", {"n": 2}, method="PATCH")
        assert told["generation"] > before["generation"]
        put(running, "consumers", {"count": 3})
        now = wait_for(lambda: (one := preparing(running))["wanted"] == 3 and one, 10, "the change to follow")
        assert (now["change"], now["generation"] > told["generation"]) == (before["change"], True)
        wait_for(lambda: client.ready(OUTPUT) == client.sent, 20, "all results")
        at_once = client.send(50)
        wait_for(lambda: client.ready(OUTPUT) == client.sent, 20, "all results")
        found = [one.body for one in client.results() if one.body["n"] in at_once]
        assert {(one["param"], "slow" in one) for one in found} == {(2, False)}
        running.write("go", "")
        thread.join(30)
        assert (answers[0][0], answers[0][1]["generation"]) == (200, now["generation"])
        client.send(50)
        results = client.finish()
    numbers = {one.generation for one in results}
    assert numbers == {before["generation"] - 1, told["generation"], now["generation"]}
    last = [one.body for one in results if one.generation == now["generation"]]
    assert {(one["param"], one["slow"]) for one in last} == {(2, True)}
    assert running.stop() == 0


def test_old_first_gives_up_the_port_before_its_successor_takes_it(service):
    """A restart, recycling and scaling complete where two Consumers can never hold a port at the same time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    setup = f"self.port = socket.socket(); self.port.bind(('127.0.0.1', {number})); self.port.listen()"
    running = service(
        of('update = "old-first"', "max_messages = 20", consumers=1), {"jobs.py": code("a", setup=setup)}
    ).start()
    with Client(running) as client:
        client.send(70)
        wait_for(lambda: client.ready(OUTPUT) == 70, 30, "some Consumers to be replaced")
        client.send(70)
        running.write("jobs.py", code("b", setup=setup))
        put(running, "restart", method="POST")
        client.send(70)
        put(running, "consumers", {"count": 0})
        put(running, "consumers", {"count": 1})
        client.send(10)
        results = client.finish()
        assert {one.body["code"] for one in results} == {"a", "b"}
        running.write("jobs.py", code("c", setup="raise ValueError('no')"))
        status, told = running.ask("POST", f"{PATH}/restart?wait=30")
        assert (status, "ValueError: no" in told["detail"]) == (422, True), told
        client.send(10)
        assert {one.body["code"] for one in client.finish()[-10:]} == {"b"}
    ended = {event["msg"] for event in running.events() if event["event"] == "consumer_ended"}
    assert not [words for words in ended if "in use" in words], ended
    assert running.stop() == 0


def test_without_consumers_one_is_set_up_to_try_the_change(service):
    """Not working, or scaled to none: what cannot be set up is refused; a stopped stage takes what can be imported."""
    running = service(of(), {"jobs.py": code("a")}).start()
    put(running, "consumers", {"count": 0})
    running.write("jobs.py", code("b", setup="raise ValueError('no model')"))
    status, told = running.ask("POST", f"{PATH}/restart?wait=30")
    assert (status, "no model" in told["detail"]) == (422, True), told
    running.write("jobs.py", code("c"))
    put(running, "restart", method="POST")
    assert steady(running)["actual"]["consumers"] == []
    put(running, "stop", method="POST")
    running.write("jobs.py", code("d"))
    put(running, "restart", method="POST")
    put(running, "start", method="POST")
    put(running, "consumers", {"count": 1})
    with Client(running) as client:
        client.send(5)
        assert {one.body["code"] for one in client.finish()} == {"d"}
    assert running.stop() == 0


def test_a_start_with_code_that_is_refused_runs_the_last_generation_and_says_so(service):
    """As it was, with its chain and parameters; /readyz and status name the fault, and the next start tries again."""
    running = service(of("params = { n = 1 }"), {"jobs.py": code("a")}).start()
    put(running, "jobs", {"job": "jobs:other"}, method="POST")
    assert running.stop() == 0
    running.write("jobs.py", code("b", top="raise ValueError('no import')"))
    for starts in (2, 3):
        running.start(ready=None)

        def begun(starts: int = starts) -> bool:
            return [event["event"] for event in running.events()].count("started") == starts

        wait_for(begun, 20, "the start")
        status, told = running.ask("GET", "/readyz")
        assert (status, "works on, because what is there now is refused" in told["detail"]) == (503, True), told
        with Client(running) as client:
            client.sent = client.ready(OUTPUT)
            client.send(5)
            assert {(one.body["code"], "other" in one.body) for one in client.finish()} == {("a", True)}
        told = running.cli("status")
        assert "no import" in told.stdout + told.stderr
        assert running.stop() == 0
    running.write("jobs.py", code("c"))
    running.start()
    with Client(running) as client:
        client.sent = client.ready(OUTPUT)
        client.send(5)
        assert {(one.body["code"], "other" in one.body) for one in client.finish()[-5:]} == {("c", True)}
    assert running.stop() == 0


@pytest.fixture
def memory() -> Iterator[Path]:
    """A control group for memory, of either version; skipped for a user who may not make one."""
    group = memory_group()
    if group is None:
        pytest.skip("this user may not limit memory by a control group")
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text(), 60, "the control group to be empty")
    group.rmdir()


def memory_group() -> Path | None:
    """Make a control group that can limit memory."""
    for parent in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        group = parent / f"mqworker-test-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if limit_file(group) is not None:
                return group
            group.rmdir()
    return None


def limit_file(group: Path) -> Path | None:
    """Return the file of its limit."""
    files = (group / name for name in ("memory.max", "memory.limit_in_bytes"))
    return next((file for file in files if file.exists()), None)


def test_without_memory_for_a_second_set_consumers_are_replaced_one_by_one(service, memory):
    """A container that holds four Consumers, and one more, but not eight: log and status say what is done instead."""
    setup = "self.model = b'x' * (64 << 20)"
    running = service(of(consumers=4), {"jobs.py": code("a", setup=setup)}).start()
    for pid in running.pids():
        (memory / "cgroup.procs").write_text(str(pid))
    sizes = [
        Path(f"/proc/{one['pid']}/statm").read_text().split() for one in running.stage("work")["actual"]["consumers"]
    ]
    own = max(int(resident) - int(shared) for _, resident, shared, *_ in sizes) * os.sysconf("SC_PAGE_SIZE")
    limit = limit_file(memory)
    assert own > 64 << 20
    assert limit is not None
    limit.write_text(str(2 * own))  # what they have now was charged elsewhere, before they came
    with Client(running) as client:
        client.send(500)
        running.write("jobs.py", code("b", setup=setup))
        thread, answers = asked(running, "POST", "/restart")
        assert "one by one" in running.event("update")["msg"]
        limit.write_text(str(1 << 40))
        thread.join(30)
        assert answers[0][0] == 200, answers
        client.send(10)
        assert {one.body["code"] for one in client.finish()[-10:]} == {"b"}
    assert running.stop() == 0
