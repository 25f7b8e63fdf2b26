"""What fails inside the Service itself: nothing of it stops unseen, and what was in hand is charged to nobody."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from mqworker.config.stop_budget import StopBudget
from tests.support.embedded import DEAD, HANDLER, OUTPUT, Client, config
from tests.support.service import ServiceProcess, gone
from tests.support.waiting import wait_for, within

pytestmark = pytest.mark.system

FAILING = """\
from pathlib import Path

from mqworker.service import orphans

look = orphans.Orphans.look


def fail(self, *arguments):
    if Path("fail").exists():
        raise RuntimeError("injected")
    return look(self, *arguments)


orphans.Orphans.look = fail
"""


def in_hand(service: ServiceProcess) -> int:
    """How many Consumers work on a message."""
    actual = service.stage("work")["actual"]
    return 0 if actual is None else sum(bool(one["message_id"]) for one in actual["consumers"])


def test_an_error_in_periodic_work_ends_the_service(service):
    """An exception in the beat: exit 1 in time, with the reason; what was in hand is back uncharged, nobody is left."""
    running = service(config(), {"jobs.py": HANDLER, "sitecustomize.py": FAILING})
    running.env["PYTHONPATH"] = str(running.folder)
    running.start()
    with Client(running) as client:
        client.send(2, seconds=300)
        wait_for(lambda: in_hand(running) == 2, 20, "both messages to be in hand")
        (running.folder / "fail").touch()
        with within(StopBudget(0).least + 5, "the end of the service"):
            assert running.wait() == 1
        gone(running)
        (event,) = [event for event in running.events() if event["event"] == "failed"]
        assert "injected" in event["traceback"]
        assert (client.ready(), client.ready(OUTPUT), client.ready(DEAD)) == (2, 0, 0)
        assert not [event for event in running.events() if event["event"] == "producer_died"]
    assert running.events()[-1]["exit_code"] == 1


ANOTHER_USER = """\
import subprocess


def handle(body):
    subprocess.Popen(["sleep", "600"], user=65534)
    return body
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_an_orphan_that_may_not_be_killed_is_reported_once(service):
    """A program that became another user's: said once; the Service goes on to replace a Producer that dies."""
    running: ServiceProcess = service(
        config(consumers=1), {"jobs.py": ANOTHER_USER}, MQWORKER_TEST_TIME="service.lifecycle:SILENT=8"
    )
    with running.log.open("ab") as log:
        running.process = subprocess.Popen(
            ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill", sys.executable, "-m", "mqworker", "run"],
            cwd=running.folder,
            env=running.env,
            stdout=log,
            stderr=log,
        )
    running.wait_ready()
    with Client(running) as client:
        client.send(1)
        client.finish()
    (program,) = running.named("sleep")
    (consumer,) = running.named("mqw-consumer")
    os.kill(consumer, signal.SIGKILL)
    assert running.event("orphan_not_killed")["orphan_pid"] == program
    (producer,) = running.named("mqw-producer")
    os.kill(producer, signal.SIGSTOP)
    wait_for(lambda: set(running.named("mqw-producer")) - {producer}, 40, "a frozen Producer to be replaced")
    running.wait_ready()
    assert running.stop() == 0
    os.kill(program, signal.SIGKILL)
    assert [event["event"] for event in running.events()].count("orphan_not_killed") == 1
