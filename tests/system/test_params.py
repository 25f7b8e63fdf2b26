"""A whole service's parameters and code, changed while messages flow: which message was computed with what."""

import contextlib
import json
import os
import signal
import threading
import time
from typing import Self

import pytest

from mqworker.exits import Exit
from mqworker.service.orphans import GRACE
from tests.support.embedded import OUTPUT, Client, Result, config, put, steady
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

HANDLER = """\
import time
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

CODE = 1


@dataclass
class Params:
    factor: Annotated[int, Meta(ge=1, le=1000)] = 1
    pause: float = 0.0003


def handle(body, params):
    began = time.monotonic()
    time.sleep(body.get("seconds", params.pause))
    return {"n": body["n"], "began": began, "product": body["n"] * params.factor, "factor": params.factor, "code": CODE}
"""
PATH = "/api/v1/stages/work/params"


def code(number: int) -> str:
    """Return the handler of this version."""
    return HANDLER.replace("CODE = 1", f"CODE = {number}")


class Load:
    """Keeps messages waiting while entered: chunks of several, sometimes with a long one among them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self._over.wait(0.05):
                if self._client.ready() < 200:
                    for _ in range(3):
                        self._client.send(1, seconds=0.25)
                        self._client.send(50)
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


def more(service: ServiceProcess, count: int = 60) -> None:
    """Wait until this many more messages are settled."""

    def settled() -> int:
        actual = service.stage("work")["actual"]
        return int(actual["counters"]["result"]) if actual else 0

    before = settled()
    wait_for(lambda: settled() >= before + count, 20, f"{count} more results")


def test_a_patch_holds_for_every_message_that_is_started_after_its_answer(service):
    """PATCH ?wait= under load: later messages have the new value, a bad value changes nothing."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    changes: list[tuple[float, int, int]] = []  # answered when, generation, factor

    def patch(factor: int) -> None:
        told = put(running, "params", {"factor": factor}, method="PATCH")
        changes.append((time.monotonic(), told["generation"], factor))

    with Client(running) as client:
        with Load(client):
            more(running)
            for factor in (2, 3, 5, 7):
                patch(factor)
                more(running)
            before = running.stage("work")["desired"]
            for bad, field in (
                ({"factor": "many"}, "factor"),
                ({"factor": 0}, "factor"),
                ({"factor": 17, "pause": "long"}, "pause"),
                ({"factro": 3}, "factro"),
            ):
                status, told = running.ask("PATCH", f"{PATH}?wait=30", bad)
                assert status == 422
                assert [each["field"] for each in told["fields"]] == [field], told
            assert running.stage("work")["desired"] == before
            status, told = running.ask("POST", f"{PATH}/rollback?wait=30")
            assert (status, told["applied"], told["params"]) == (200, True, {"factor": 5})
            changes.append((time.monotonic(), told["generation"], 5))
            more(running)
        results = client.finish()
        print(f"{client.sent} messages, {len(changes)} generations")
    judge(results, changes)
    assert running.stop() == 0


def judge(results: list[Result], changes: list[tuple[float, int, int]]) -> None:
    """Compare each result with the parameters that had been confirmed when its handler started."""
    generations = [generation for _, generation, _ in changes]
    assert generations == sorted(set(generations))
    factor_of = {generations[0] - 1: 1} | {generation: factor for _, generation, factor in changes}
    for result in results:
        body = result.body
        assert body["product"] == body["n"] * body["factor"]
        assert body["factor"] == factor_of[result.generation], "what the header says is what the handler had"
        answered = [generation for when, generation, _ in changes if when < body["began"]]
        assert result.generation >= max(answered, default=0), f"{body} began after the answer for {answered[-1]}"
    assert {result.generation for result in results} == factor_of.keys(), "the load met every generation"


def test_parameters_outlive_a_restart_until_the_file_changes(service):
    """Live parameters survive a restart, are shown as live, and yield to a new configured value."""
    running = service(config("params = { factor = 2 }"), {"jobs.py": HANDLER}).start()
    told = running.cli("params", "set", "factor=5")
    assert told.returncode == 0, told.stderr
    assert running.stop() == 0
    running.start()
    assert json.loads(running.cli("params", "get", "factor").stdout) == 5
    assert origin(running) == ("5", "live")
    assert not [event for event in running.events() if event["event"] == "configuration"]
    assert running.stop() == 0
    line = 1 + config("params = { factor = 2 }").splitlines().index("params = { factor = 2 }")
    assert origin(running) == ("2", f"mqworker.toml:{line}")  # nobody to ask for the live value
    running.write("mqworker.toml", config("params = { factor = 9 }"))
    running.start()
    (event,) = [event for event in running.events() if event["event"] == "configuration"]
    assert (
        event["msg"] == "stage work: params in the configuration has changed and replaces the value that was set live"
    )
    assert running.stage("work")["desired"]["params"] == {"factor": 9}
    assert origin(running) == ("9", f"mqworker.toml:{line}")
    with Client(running) as client:
        client.send(20)
        assert {result.body["factor"] for result in client.finish()} == {9}
    assert running.cli("params", "rollback").returncode == 0
    assert running.stage("work")["desired"]["params"] == {"factor": 5}
    assert running.stop() == 0


def test_a_code_check_may_take_longer_than_an_orphan_lives(service):
    """Code that takes long to import: parameters are checked with it and applied; nobody kills the check."""
    slow = "import time\nfrom pathlib import Path\n\nif Path('slow').exists():\n    time.sleep(3.5)\n\n"
    running = service(config(), {"jobs.py": slow + HANDLER}).start()
    running.write("slow", "")
    began = time.monotonic()
    put(running, "params", {"factor": 5}, method="PATCH")
    assert time.monotonic() - began > GRACE + 1, "the check was as slow as it should be"
    assert not [event for event in running.events() if event["event"] == "orphan_killed"]
    assert running.stop() == 0


def origin(service: ServiceProcess) -> tuple[str, str]:
    """Return value and origin of the parameter `factor` in `mqworker config show --origin`."""
    shown = service.cli("config", "show", "--origin")
    assert shown.returncode == 0, shown.stderr
    (row,) = [row for row in shown.stdout.splitlines() if row.startswith("stages.work.params.factor")]
    value, _, whence = row.partition("=")[2].partition("#")
    return value.strip(), whence.strip()


class Timers:
    """Samples over HTTP, while entered, how many Consumers of the stage are ready."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[tuple[int, str]] = []  # ready Consumers, /readyz

    def _run(self) -> None:
        while not self._over.wait(0.01):
            consumers = self._service.stage("work")["actual"]["consumers"]
            ready = self._service.ask("GET", "/readyz")
            self.samples.append((sum(one["state"] in ("idle", "busy") for one in consumers), str(ready[1])))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def consumers(service: ServiceProcess) -> set[int]:
    """Return the pids that the service reports."""
    return {one["pid"] for one in service.stage("work")["actual"]["consumers"]}


def kill_consumers(service: ServiceProcess) -> None:
    """Kill all of them, also those that are about to leave after a switch."""
    for pid in consumers(service):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_restart_imports_the_code_afresh_without_a_gap(service):
    """POST /restart and SIGHUP under load: new code in new processes, one ready at every moment, nothing lost."""
    running = service(config(), {"jobs.py": code(1)}).start()
    answered: list[tuple[float, int]] = []  # when, code
    with Client(running) as client:
        with Load(client), Timers(running) as watch:
            more(running)
            old = consumers(running)
            running.write("jobs.py", code(22))
            put(running, "restart", method="POST")
            answered.append((time.monotonic(), 22))
            wait_for(lambda: not old & consumers(running), 20, "the old ones to have left")
            more(running)
            old = consumers(running)
            running.write("jobs.py", code(333))
            running.signal(signal.SIGHUP)
            wait_for(lambda: not old & consumers(running), 20, "new Consumers")
            steady(running)
            answered.append((time.monotonic(), 333))
            more(running)
        results = client.finish()
    judge_codes(results, answered)
    assert len(watch.samples) > 20
    assert min(ready for ready, _ in watch.samples) >= 1, watch.samples
    assert {told for _, told in watch.samples} == {"{'status': 'ready'}"}
    print(f"{client.sent} messages, {len(watch.samples)} samples, {min(watch.samples)[0]} Consumers ready at least")
    assert running.stop() == 0


def judge_codes(results: list[Result], answered: list[tuple[float, int]]) -> None:
    """Assert that every message started after an answer was computed by the code of that time, or later code."""
    for result in results:
        newest = max((number for when, number in answered if when < result.body["began"]), default=1)
        assert result.body["code"] >= newest, result.body
    assert {result.body["code"] for result in results} == {1} | {number for _, number in answered}


def test_new_code_that_cannot_be_imported_leaves_the_old_consumers_at_work(service):
    """A restart with broken code is refused with the reason, the old Consumers go on; fixed code is taken over."""
    running = service(config(), {"jobs.py": code(1)}).start()
    with Client(running) as client:
        with Load(client):
            more(running)
            old = consumers(running)
            running.write("jobs.py", 'raise RuntimeError("the table of tariffs is missing")\n')
            status, told = running.ask("POST", "/api/v1/stages/work/restart?wait=20")
            assert status == 422
            assert "RuntimeError: the table of tariffs is missing" in told["detail"]
            refused = running.cli("restart")
            assert refused.returncode == Exit.CONFIG
            assert refused.stderr.splitlines()[-1] == "RuntimeError: the table of tariffs is missing"
            running.signal(signal.SIGHUP)
            assert "the table of tariffs is missing" in running.event("not_reloaded")["msg"]
            more(running)
            assert old <= consumers(running)
            assert running.ask("GET", "/readyz")[0] == 200
            running.write("jobs.py", code(22))
            put(running, "restart", method="POST")
            wait_for(lambda: not old & consumers(running), 20, "the old ones to have left")
            assert running.stage("work")["problem"] == ""
            more(running)
        results = client.finish()
    assert {result.body["code"] for result in results} == {1, 22}
    assert running.stop() == 0


JOBS = """\
from pathlib import Path

def handle(body):
    import late
    data = Path(__file__).with_name("data.txt").read_text()
    return {"n": body["n"], "code": CODE, "late": late.NUMBER, "data": data}
"""


def write_version(service: ServiceProcess, number: int) -> None:
    """Write a version of two modules, of which one is imported only when a message comes, and of their data."""
    service.write("jobs.py", JOBS.replace("CODE", str(number)))
    service.write("late.py", f"NUMBER = {number}\n")
    service.write("data.txt", str(number))


def test_a_consumer_that_starts_after_an_edit_runs_the_code_of_its_generation(service):
    """Edited code runs nowhere before a restart asks for it, whatever is imported when; data is read as it is."""
    running = service(config())
    write_version(running, 1)
    running.start()
    with Client(running) as client:
        write_version(running, 2)
        kill_consumers(running)
        client.send(20)
        wait_for(lambda: client.ready(OUTPUT) == 20, 20, "the results")
        before = running.stage("work")["desired"]["generation"]
        put(running, "restart", method="POST")
        client.send(20)
        results = client.finish()
    found = {(one.generation <= before, one.body["code"], one.body["late"], one.body["data"]) for one in results}
    assert found == {(True, 1, 1, "2"), (False, 2, 2, "2")}
    assert len(list((running.folder / ".mqworker/code").glob("[0-9a-f]*"))) == 2
    assert running.stop() == 0


def test_a_rollback_brings_the_code_back_and_keeps_it(service):
    """Killed Consumers and a restarted service run it as long as the folder is the same; other code replaces it."""
    running = service(config(consumers=2), {"jobs.py": code(1)}).start()
    with Client(running) as client:

        def next_code() -> int:
            before = client.ready(OUTPUT)
            client.send(1)
            wait_for(lambda: client.ready(OUTPUT) > before, 20, "a result")
            return int(client.results()[-1].body["code"])

        put(running, "params", {"factor": 3}, method="PATCH")
        running.write("jobs.py", code(22))
        put(running, "restart", method="POST")
        put(running, "params", {"factor": 4}, method="PATCH")
        assert next_code() == 22
        listed = json.loads(running.cli("rollback", "--list", "--json").stdout)["generations"]
        assert [each["params"].get("factor") for each in listed] == [4, 3, 3, None]
        digests = [each["code"] for each in listed]
        assert digests[0] == digests[1] != digests[2] == digests[3]
        told = running.cli("rollback", str(listed[2]["generation"]))
        assert (told.returncode, f"as {listed[2]['generation']} was (applied)" in told.stderr) == (0, True), told.stderr
        assert next_code() == 1
        assert running.stage("work")["desired"]["params"] == {"factor": 3}
        kill_consumers(running)
        assert next_code() == 1
        assert running.stop() == 0
        running.start()
        assert next_code() == 1
        assert running.stop() == 0
        running.write("jobs.py", code(333))
        running.start()
        assert next_code() == 333
        refused = running.cli("rollback", "999")
        assert (
            refused.returncode,
            "cannot go back to generation 999; by its number it can go back to" in refused.stderr,
        ) == (
            2,
            True,
        )
    assert running.stop() == 0


def test_a_module_that_becomes_a_package_harms_no_consumer_that_starts(service):
    """Nor does the folder's code, whatever it is by then, decide what the copy is taken for."""
    running = service(config(consumers=1), {"jobs.py": code(1)}).start()
    with Client(running) as client:
        (running.folder / "jobs.py").unlink()
        (running.folder / "jobs").mkdir()
        (running.folder / "jobs/__init__.py").write_text(code(2))
        kill_consumers(running)
        client.send(5)
        assert {one.body["code"] for one in client.finish()} == {1}
        put(running, "restart", method="POST")
        client.send(5)
        assert {one.body["code"] for one in client.finish()} == {1, 2}
    assert running.stop() == 0


def test_reloads_that_wait_for_the_same_check_are_one(service):
    """Several HUPs while the code is being imported: one more reload follows, with what the folder has then."""
    running = service(config(), {"jobs.py": SLOW + HANDLER}).start()
    hold = running.folder / "hold"
    before = steady(running)["desired"]["generation"]

    def imports() -> int:
        return [event["msg"] for event in running.events()].count("importing")

    seen = imports()
    hold.touch()
    running.signal(signal.SIGHUP)
    wait_for(lambda: imports() > seen, 20, "the check to begin")
    running.write("jobs.py", SLOW + HANDLER + "# edited\n")
    for _ in range(5):
        running.signal(signal.SIGHUP)
        time.sleep(0.05)  # signals of one kind that are pending are one
    hold.unlink()
    wait_for(lambda: running.stage("work")["desired"]["generation"] == before + 2, 20, "the second reload")
    put(running, "params", {"factor": 2}, method="PATCH")
    assert running.stage("work")["desired"]["generation"] == before + 3
    assert running.stop() == 0


def test_parameters_are_checked_by_the_code_that_runs(service):
    """A changed `Params` in the folder counts from the restart on: until then the Consumers do not know it."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    running.write("jobs.py", HANDLER.replace("    pause:", "    offset: int = 0\n    pause:"))
    status, told = running.ask("PATCH", PATH, {"offset": 3})
    assert (status, told["fields"][0]["field"]) == (422, "offset")
    put(running, "restart", method="POST")
    put(running, "params", {"offset": 3}, method="PATCH")
    assert running.stop() == 0


def test_a_folder_with_too_much_code_is_used_as_it_is_and_says_so(service):
    """Beyond 5,000 files nothing is copied: there is a warning, and the service works."""
    running = service(config(), {"jobs.py": code(1)})
    heap = running.folder / "heap"
    heap.mkdir()
    for number in range(5_000):
        (heap / f"m{number}.py").touch()
    running.start()
    assert "has more than 5,000 files" in running.event("user_code")["msg"]
    with Client(running) as client:
        client.send(5)
        assert {one.body["code"] for one in client.finish()} == {1}
        put(running, "params", {"factor": 2}, method="PATCH")
        running.write("jobs.py", code(2))
        put(running, "restart", method="POST")
        client.send(5)
        assert {one.body["code"] for one in client.finish()} == {1, 2}
    assert not list((running.folder / ".mqworker/code").glob("[0-9a-f]*"))
    assert running.stop() == 0


SLOW = """\
import sys
import time
from pathlib import Path

print("importing", file=sys.stderr)
while Path(__file__).with_name("hold").exists():
    time.sleep(0.01)
"""


def test_code_that_imports_for_minutes_can_have_its_parameters_changed(service):
    """Who asked is answered 504 after its wait, and the change goes on: stored if it is accepted, else logged.

    What the code prints meanwhile reaches the service's own output as events, line by line.
    """
    running = service(config(), {"jobs.py": SLOW + HANDLER}).start()
    hold = running.folder / "hold"
    for patch, word in (({"factor": 7}, "changed"), ({"factor": 0}, "params_refused")):
        hold.touch()
        began = time.monotonic()
        status, told = running.ask("PATCH", f"{PATH}?wait=1", patch)
        assert (status, "still being checked after 1 s" in told["detail"]) == (504, True), told
        assert 1 <= time.monotonic() - began < 50
        assert running.ask("GET", "/livez")[0] == 200
        hold.unlink()
        event = running.event(word)
        assert ("factor: " in event["msg"]) == (word == "params_refused"), event
    assert running.stage("work")["desired"]["params"] == {"factor": 7}
    hold.touch()
    told = running.cli("params", "set", "factor=3", "--timeout", "1")
    assert (told.returncode, "still being checked" in told.stderr) == (4, True), told.stderr
    hold.unlink()
    wait_for(lambda: running.stage("work")["desired"]["params"] == {"factor": 3}, 20, "the third value")
    lines = running.log.read_text().splitlines()
    printed = [event for event in map(json.loads, lines) if event["msg"] == "importing"]
    assert {event["process"] for event in printed} >= {"work.code-check"}, printed
    assert {event["event"] for event in printed} == {"output"}
    assert running.stop() == 0
