"""A whole service on a host whose clock jumps, or that runs out of descriptors, processes or threads."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.embedded import HANDLER, Client, config
from tests.support.service import ServiceProcess
from tests.support.traffic import producers
from tests.support.waiting import wait_for, within

pytestmark = pytest.mark.system

HOUR = 3600
RETRIED = """\
import time
from pathlib import Path


def handle(body, message):
    if body.get("fails") and message.attempt == 1:
        raise ConnectionError("once more")
    while "until" in body and not Path(__file__).with_name(body["until"]).exists():
        time.sleep(0.01)
    return {"n": body["n"], "attempt": message.attempt}
"""


def ahead(service: ServiceProcess) -> float:
    """Return by how many seconds the last line of the log is ahead of the real clock."""
    last = datetime.fromisoformat(service.events()[-1]["time"])
    return (last - datetime.now(UTC)) / timedelta(seconds=1)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_changes_only_the_displayed_time(service, jump):
    """An hour forth or back: no limit fires, retries come when due, leases and processes stay, answers come."""
    stage = ("retry = { base = 2 }", "time_limit = { soft = 600, hard = 900 }")
    running: ServiceProcess = service(config(*stage), {"jobs.py": RETRIED, "clock": ""})
    running.env["MQWORKER_TEST_CLOCK"] = str(running.folder / "clock")
    running.start()
    with Client(running) as client:
        client.send(20)
        wait_for(lambda: client.ready("out") == 20, 20, "results")
        before = {pid: name for pid, name in running.pids().items() if name.startswith("mqw-")}
        client.send(1, until="finish")  # in hand while the clock jumps
        client.send(1, fails=True)
        began = time.monotonic()
        running.event("retried")
        (running.folder / "clock").write_text(str(jump))
        client.send(20)
        wait_for(lambda: client.ready("out") >= 40, 20, "results after the jump")
        status, told = running.ask("POST", "/api/v1/stages/work/messages?wait=30", {"n": client.sent})
        client.sent += 1
        running.write("finish", "")
        assert (status, told["outcome"]) == (200, "result"), told
        client.finish(30)
        assert 2 <= time.monotonic() - began < HOUR / 10
        attempts = [result.body["attempt"] for result in client.results()]
        assert sorted(attempts)[-2:] == [1, 2]
    assert running.ask("PUT", "/api/v1/stages/work/consumers?wait=30", {"count": 3})[0] == 200
    after = running.pids()
    assert before.items() <= after.items(), "a process was replaced"
    actual = running.stage("work")["actual"]
    assert (actual["counters"]["voided"], actual["link"]["reconnects"]) == (0, 0)
    assert running.stop() == 0
    assert abs(ahead(running) - jump) < 60, "the clock has not jumped at all"
    assert not {"consumer_ended", "producer_died", "consuming_lost"} & {
        event["event"] for event in running.events() if event["level"] in ("warning", "error")
    }


def test_too_few_descriptors_are_refused_at_the_start(service):
    """With `ulimit -n 64`: exit 78 before anything is started, with the limit to raise."""
    running = service(config(), {"jobs.py": HANDLER})
    done = subprocess.run(
        ["prlimit", "--nofile=64:64", sys.executable, "-m", "mqworker", "run"],
        cwd=running.folder,
        env=running.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78, done.stdout + done.stderr
    assert re.search(r"\d+ descriptors are needed, 64 are allowed: raise `ulimit -n`", done.stdout), done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def problem(service: ServiceProcess, words: str) -> None:
    """Wait until the stage reports this problem."""
    wait_for(lambda: words in service.stage("work")["problem"], 20, f"the problem {words!r}")


def healthy(service: ServiceProcess) -> None:
    """Assert that control answers at once."""
    with within(5, "two answers"):
        assert service.ask("GET", "/livez")[0] == 200
        assert service.ask("GET", "/api/v1/stages/work")[0] == 200


def test_a_producer_without_descriptors_goes_on_and_recovers(service):
    """No descriptor for a new Consumer: the other goes on, the stage reports why, nothing leaks, then it starts."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    (producer,) = producers(running)
    with Client(running) as client:
        client.send(20)
        client.finish()
        used = running.descriptors(producer)
        limits = resource.prlimit(producer, resource.RLIMIT_NOFILE)
        # Numbers are what is limited: those of the dead one are free again, but not enough for a lane.
        resource.prlimit(producer, resource.RLIMIT_NOFILE, (used - 3, limits[1]))
        os.kill(running.named("mqw-consumer")[-1], signal.SIGKILL)
        problem(running, "a Consumer could not be started: Too many open files")
        client.send(50)
        client.finish()
        healthy(running)
        assert running.descriptors(producer) <= used
        resource.prlimit(producer, resource.RLIMIT_NOFILE, limits)
        wait_for(lambda: len(running.named("mqw-consumer")) == 2, 70, "the second Consumer")
        wait_for(lambda: running.descriptors(producer) == used, 20, "as many descriptors as before")
        client.send(50)
        client.finish()
    assert producers(running) == [producer]
    assert running.stop() == 0


class Processes:
    """A control group that counts and limits the processes and threads of a service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, service: ServiceProcess) -> None:
        for pid in service.pids():
            (self._folder / "cgroup.procs").write_text(str(pid))

    def used(self) -> int:
        return int((self._folder / "pids.current").read_text())

    def limit(self, count: int | None) -> None:
        (self._folder / "pids.max").write_text("max" if count is None else str(count))

    def remove(self) -> bool:
        try:
            self._folder.rmdir()
        except OSError:  # somebody is still in it
            return False
        return True


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Skipped for a user who may not make one."""
    for parent in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        folder = parent / f"mqworker-test-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
            (folder / "pids.max").write_text("max")
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        made = Processes(folder)
        yield made
        made.limit(None)
        wait_for(made.remove, 60, "the control group to be empty")
        return
    pytest.skip("this user may not limit processes by a control group")


def test_without_more_processes_it_goes_on_and_recovers(processes, service):
    """With no processes or threads available, the existing ones go on, control answers, and later all is rebuilt."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    processes.take(running)
    (producer,) = producers(running)
    with Client(running) as client:
        client.send(20)
        client.finish()
        processes.limit(1)
        os.kill(running.named("mqw-consumer")[0], signal.SIGKILL)
        problem(running, "a Consumer could not be started")
        client.send(50)
        client.finish()
        healthy(running)
        status, told = running.ask("GET", "/api/v1/queues")
        assert (status, "the broker admin could not be started" in told["detail"]) == (503, True), told
        status, told = running.ask("PATCH", "/api/v1/stages/work/params", {"factor": 2})
        assert (status, "the check could not be started" in str(told)) == (422, True), told
        # One more is allowed: a process without the thread that feeds it must not take a chunk that nobody hands over.
        processes.limit(processes.used() + 1)
        client.send(200)
        client.finish(40)
        assert producers(running) == [producer]
        processes.limit(1)
        os.kill(producer, signal.SIGKILL)
        wait_for(lambda: running.stage("work")["state"] == "backoff", 20, "the stage to wait")
        wait_for(lambda: "the Producer could not be started" in running.stage("work")["problem"], 20, "the reason")
        healthy(running)
        client.send(20)
        processes.limit(None)
        client.finish(70)
    wait_for(lambda: len(running.named("mqw-consumer")) == 2, 70, "two Consumers")
    assert running.ask("GET", "/api/v1/queues")[0] == 200
    assert not [event["msg"] for event in running.events() if event["event"] == "log"], "something was not expected"
    assert running.stop() == 0
