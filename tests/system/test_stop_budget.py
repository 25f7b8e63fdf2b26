"""The end of a service under a real supervisord that waits as long as it must and no longer: no kill comes early."""

import os
import signal
import time

import pytest

from mqworker.config.stop_budget import StopBudget
from tests.support.embedded import HANDLER, Client, config
from tests.support.service import ServiceProcess
from tests.support.supervised import Supervised
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

NATIVE = """\
import ctypes

def handle(body):
    return ctypes.PyDLL(None).sleep(60)  # holds the interpreter: no signal handler and no thread can run
"""
SLOW_TO_LEAVE = """\
import time
from pathlib import Path

class handle:
    def handle(self, body):
        return body

    def teardown(self):
        time.sleep(SECONDS)
        (Path(__file__).parent / "left").touch()
"""


def stop(service: Supervised, drain: float) -> float:
    """Stop the program; return how long it took: supervisord did not have to kill it after its least stopwaitsecs."""
    asked = time.monotonic()
    assert service.ctl("stop", "mqworker") == "mqworker: stopped\n"
    took = time.monotonic() - asked
    print(f"stopped after {took:.2f} s, drain deadline {drain:g} s")
    assert "SIGKILL" not in (service.state / "supervisord.log").read_text()
    return took


def supervised(drain: float, jobs: str) -> Supervised:
    """A service on the embedded broker; supervisord waits for the minimum that the budget allows."""
    service = Supervised(config(service=f"drain_deadline = {drain:g}", consumers=1), {"jobs.py": jobs})
    text = service.conf.read_text()
    service.conf.write_text(text.replace("stopwaitsecs=40", f"stopwaitsecs={StopBudget(drain).least:g}"))
    assert f"stopwaitsecs={StopBudget(drain).least:g} " in service.conf.read_text()
    return service


def in_hand(service: ServiceProcess) -> bool:
    """Return whether the Consumer works on a message."""
    actual = service.stage("work")["actual"]
    return actual is not None and any(one["message_id"] for one in actual["consumers"])


@pytest.mark.parametrize("stuck", ["native code", "teardown", "frozen Producer"])
def test_a_stop_ends_in_time_whoever_is_stuck(stuck):
    """Native code, an endless teardown, a hanging Producer: an exit in time, and no SIGKILL from outside."""
    jobs = {"native code": NATIVE, "teardown": SLOW_TO_LEAVE.replace("SECONDS", "60")}.get(stuck, HANDLER)
    with supervised(1, jobs) as service:
        service.supervise()
        with Client(service) as client:
            if stuck != "teardown":
                client.send(1, seconds=60)
                wait_for(lambda: in_hand(service), 20, "the message to be in hand")
            if stuck == "frozen Producer":
                os.kill(service.named("mqw-producer")[0], signal.SIGSTOP)
            stop(service, 1)
            assert service.info()["exitstatus"] == (0 if stuck == "teardown" else 75)
            killed = [event for event in service.events() if event["event"] == "producer_killed"]
            assert bool(killed) == (stuck == "frozen Producer")
            if not killed:  # the lease of a Producer that was killed ends when somebody looks for dead owners
                assert client.ready() == client.sent
        service.shut()


def test_a_teardown_has_what_is_left_of_the_drain_deadline():
    """With nothing in hand, a teardown of three seconds is not cut short."""
    with supervised(60, SLOW_TO_LEAVE.replace("SECONDS", "3")) as service:
        service.supervise()
        assert 3 < stop(service, 60) < 40  # and is not waited for longer than it lasts
        assert service.info()["exitstatus"] == 0
        assert (service.folder / "left").exists()
        assert "stopwaitsecs" not in (service.state / "watchdog.log").read_text()
        service.shut()


def test_the_watchdog_reports_a_stopwaitsecs_that_is_too_short():
    """With the drain deadline alone supervisord may kill in the middle of the end: the watchdog's log says so."""
    with supervised(7, HANDLER) as service:
        service.conf.write_text(service.conf.read_text().replace("stopwaitsecs=12", "stopwaitsecs=7"))
        service.supervise()
        told = service.state / "watchdog.log"
        wait_for(lambda: told.exists() and "stopwaitsecs" in told.read_text(), 20, "the warning")
        assert "mqworker: stopwaitsecs is 7, but an orderly stop may take 12 s" in told.read_text()
        service.shut()


def test_a_producers_own_term_has_the_configured_drain_deadline(service):
    """SIGTERM to the Producer alone: what outlasts the drain deadline is given back, uncharged, to the next one."""
    running = service(config(service="drain_deadline = 1", consumers=1), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(1, seconds=600)
        wait_for(lambda: in_hand(running), 20, "the message to be in hand")
        (producer,) = running.named("mqw-producer")
        asked = time.monotonic()
        os.kill(producer, signal.SIGTERM)
        wait_for(lambda: producer not in running.pids(), StopBudget(1).kill + 5, "the Producer to end")
        assert time.monotonic() - asked >= 1
        wait_for(lambda: in_hand(running), 20, "the next one to work on it")
        assert running.stop() == 75
        (waiting,) = client.results("in")
        assert not [name for name in waiting.properties.headers if name.startswith("x-mqworker-")], "it was charged"
