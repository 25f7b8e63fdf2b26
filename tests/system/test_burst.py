"""`run --burst` of a line of stages: it ends when everything has an outcome, and its exit code tells of what failed."""

import pytest

from mqworker.exits import Exit
from tests.support.embedded import DEAD, OUTPUT, Client, config
from tests.support.service import gone

pytestmark = pytest.mark.system

LINE = """\
[service]
log_format = "json"
[control]
port = 0
[stages.first]
input = "in"
jobs = ["jobs:first"]
output = "second"
consumers = 1
[stages.second]
input = "second"
jobs = ["jobs:second"]
output = "third"
consumers = 1
[stages.third]
input = "third"
jobs = ["jobs:third"]
output = "out"
consumers = 1
"""
JOBS = """\
import time
from mqworker import Reject, Retry

def first(body):
    time.sleep(0.005)
    return body

def second(body, message):
    if body["n"] % 10 == 3 and message.attempt == 1:
        raise Retry("later", after=1)
    if body.get("bad"):
        raise Reject("never")
    return body

def third(body):
    return body
"""

BROKEN = """\
class Job:
    def setup(self):
        raise OSError("no camera")

    def handle(self, body):
        return body
"""


def done(running) -> dict:
    """Return the summary of the last burst."""
    return [event for event in running.events() if event["event"] == "burst_done"][-1]


def test_a_burst_goes_through_all_stages_and_tells_what_is_dead(service):
    """All messages go through three stages, with retries between them; one that dies makes the exit code 65."""
    running = service(LINE, {"jobs.py": JOBS})
    (running.folder / ".mqworker").mkdir()
    with Client(running) as client:
        client.send(100)
        running.start("--burst", ready=None)
        assert running.wait() == Exit.OK, running.log.read_text()
        assert client.ready(OUTPUT) == 100
        told = done(running)
        assert (told["result"], told["retried"], told["dead"], told["left"]) == (300, 10, 0, 0)
        gone(running)
        client.send(1, bad=True)
        client.send(20)
        running.start("--burst", ready=None)
        assert running.wait() == Exit.DEAD, running.log.read_text()
        assert (client.ready(OUTPUT), client.ready("second.dlq"), client.ready(DEAD)) == (120, 1, 0)
        assert done(running)["dead"] == 1
        gone(running)
    running.start("--burst", ready=None)  # the dead letter of before is none of this run's
    assert running.wait() == Exit.OK


def test_a_burst_does_not_wait_for_a_paused_stage(service):
    """What waits in a stage that was paused before stays there, and the summary says how much it is."""
    running = service(LINE, {"jobs.py": JOBS}).start()
    assert running.cli("pause", "--stage", "third").returncode == Exit.OK
    assert running.stop() == Exit.OK
    gone(running)
    with Client(running) as client:
        client.send(30)
        running.start("--burst", ready=None)
        assert running.wait() == Exit.OK, running.log.read_text()
        assert (client.ready("third"), client.ready(OUTPUT)) == (30, 0)
    assert done(running)["left"] == 30
    assert "30 are left in third" in done(running)["msg"]


def test_a_burst_with_a_stage_in_a_crash_loop_ends(service):
    """A stage whose Consumers cannot be set up is not waited for when nothing else is to do: it is named, exit 70."""
    running = service(
        config(consumers=1).replace("jobs:handle", "jobs:Job"),
        {"jobs.py": BROKEN},
        MQWORKER_TEST_TIME="service.burst_rule:STUCK=3 ipc.restart_budget:MOST=1",
    )
    (running.folder / ".mqworker").mkdir()
    with Client(running) as client:
        client.send(3)
        running.start("--burst", ready=None)
        assert running.wait() == Exit.RESTARTS_EXHAUSTED, running.log.read_text()
        assert client.ready() == 3
    assert done(running)["crash_loops"] == "work"
