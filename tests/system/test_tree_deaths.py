"""Deaths of the whole tree with long messages in hand: what is held back, what is blamed, and what is not."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.embedded import DEAD, HANDLER, OUTPUT, Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system


def at_work(service: ServiceProcess) -> int:
    """Return how many Consumers report a message that they work on."""
    actual = service.stage("work")["actual"]
    return sum(bool(one["message_id"]) for one in actual["consumers"]) if actual else 0


def drains(service: ServiceProcess) -> int:
    """Return how often the Service has begun to drain."""
    return sum((event["event"], event["process"]) == ("draining", "service") for event in service.events())


def kill_producer(service: ServiceProcess) -> None:
    """Send SIGKILL, and wait for the next one."""
    (pid,) = service.named("mqw-producer")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: set(service.named("mqw-producer")) - {pid}, 20, "another Producer")


def restart(service: ServiceProcess) -> None:
    """Start it again, with or without work in hand."""
    service.start(ready=None)
    service.wait_ready()


@pytest.mark.parametrize("many", [6, pytest.param(16, marks=pytest.mark.release)])
def test_one_death_of_the_tree_serialises_nothing(service, many):
    """A message in each Consumer, SIGKILL of the Service: after the restart all are busy again, and none is charged."""
    running: ServiceProcess = service(config(consumers=many), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(many, until="finish")
        wait_for(lambda: at_work(running) == many, 30, "all at work")
        running.signal(signal.SIGKILL)
        running.wait()
        began = time.monotonic()
        restart(running)
        wait_for(lambda: at_work(running) == many, 30, "all at work again")
        print(f"{many} messages in hand, SIGKILL of the Service: all at work {time.monotonic() - began:.1f} s later")
        running.write("finish", "")
        assert {one.properties.headers["x-mqworker-attempt"] for one in client.finish()} == {1}


def test_two_deaths_hold_the_stage_up_for_seconds_and_outlived_suspects_are_cleared(service):
    """Long messages that met two kills run isolated for their windows, then all of them at once, uncharged."""
    running: ServiceProcess = service(config(consumers=2), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(2, until="finish")
        for _ in range(2):
            wait_for(lambda: at_work(running) == 2, 30, "both at work")
            kill_producer(running)
        wait_for(lambda: at_work(running) == 1, 30, "the first suspect at work")
        wait_for(lambda: at_work(running) == 2, 40, "both at work again")
        running.write("finish", "")
        wait_for(lambda: client.ready(OUTPUT) == 2, 90, "both results")
        assert client.ready(DEAD) == 0
        assert running.stage("work")["actual"]["counters"]["retried"] == 0


@pytest.mark.parametrize("how", ["drain past its deadline", "Consumer dies while draining", "SIGKILL after the TERM"])
def test_an_end_by_order_is_held_against_nobody(service, how):
    """A suspect that runs isolated is not convicted by two ordered ends, however they end its work."""
    running: ServiceProcess = service(config(service="drain_deadline = 1", consumers=1), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(1, until="finish")
        for _ in range(2):
            wait_for(lambda: at_work(running) == 1, 30, "the message in hand")
            kill_producer(running)
        for ends in (1, 2):
            wait_for(lambda: at_work(running) == 1, 30, "the message in hand again")
            running.signal(signal.SIGTERM)
            if how != "drain past its deadline":
                wait_for(lambda n=ends: drains(running) >= n, 20, "the drain")
                for pid in running.named("mqw-consumer" if how.startswith("Consumer") else "mqw-producer"):
                    with contextlib.suppress(ProcessLookupError):  # the deadline was faster
                        os.kill(pid, signal.SIGKILL)
            running.wait()
            restart(running)
        wait_for(lambda: at_work(running) == 1, 30, "the message in hand at the end")
        running.write("finish", "")
        client.finish()


BROKEN_TICK = """\
import os
from mqworker.producer.timers import Timers

measure = Timers._measure


def broken(self, now):
    if os.path.exists("now"):
        os.unlink("now")
        raise RuntimeError("injected")
    return measure(self, now)


Timers._measure = broken
"""


def test_an_error_in_the_producers_periodic_work_ends_it_and_another_takes_over(service):
    """Nothing ends silently: it is logged, the tree is rebuilt, the message in hand is charged with nothing."""
    running: ServiceProcess = service(config(), {"jobs.py": HANDLER, "sitecustomize.py": BROKEN_TICK})
    running.env["PYTHONPATH"] = f"{running.folder}:{Path.cwd()}"
    running.start()
    with Client(running) as client:
        client.send(1, until="finish")
        wait_for(lambda: at_work(running) == 1, 20, "the message in hand")
        (pid,) = running.named("mqw-producer")
        (running.folder / "now").touch()
        wait_for(lambda: set(running.named("mqw-producer")) - {pid}, 20, "another Producer")
        assert "injected" in running.event("failed")["traceback"]
        running.write("finish", "")
        wait_for(lambda: client.ready(OUTPUT) == 1, 20, "the result")
        assert client.ready(DEAD) == 0
