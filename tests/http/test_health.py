"""Health: what it reports in each state, and that it answers while everything else is stuck."""

import threading
import time

import msgspec
import pytest

from mqworker.brokers.base import LinkState
from mqworker.control.desired_state import Document, StageDesired
from mqworker.control.views import Snapshot, StageView
from mqworker.http.health import staleness, unreadiness
from tests.http.operator import stage_status
from tests.support.waiting import AMPLE, wait_for


def snapshot(actual, desired=None, paused=False, at=100.0) -> Snapshot:
    """One stage in one state."""
    view = StageView("alpha", desired or StageDesired(), "running", actual, "its problem", 0, 1)
    return Snapshot(at, "test", 1, 0.0, "running", paused, Document(), {"alpha": view})


DOWN = LinkState(connected=False, reason="the broker refused the password")
IDLE = LinkState(connected=True, consuming=False, reason="")
UNBOUND = LinkState(connected=True, consuming=True, reason="", unbound=("events",))


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        (snapshot(stage_status()), []),
        (snapshot(None), ["stage alpha: no Producer runs (running): its problem"]),
        (snapshot(None, StageDesired(running=False)), []),
        (snapshot(stage_status(link=DOWN)), ["stage alpha: not connected: the broker refused the password"]),
        (snapshot(stage_status(link=IDLE)), ["stage alpha: not consuming: not yet"]),
        (snapshot(stage_status(link=IDLE, problem="held back")), ["stage alpha: not consuming: held back"]),
        (snapshot(stage_status(link=IDLE), StageDesired(listening=False)), []),
        (snapshot(stage_status(link=IDLE), StageDesired(working=False)), []),
        (snapshot(stage_status(link=IDLE), StageDesired(consumers=0)), []),
        (snapshot(stage_status(link=IDLE), paused=True), []),
        (snapshot(stage_status(link=UNBOUND)), [f"stage alpha: {UNBOUND.problem}"]),
        (snapshot(stage_status(crash_loop=True, problem="setup fails")), ["stage alpha: crash loop: setup fails"]),
        (snapshot(stage_status(), at=90.0), ["the main thread has not responded for 11 s"]),
        (msgspec.structs.replace(snapshot(stage_status()), state="draining"), ["the service is draining"]),
        (None, ["the service is still starting"]),
    ],
)
def test_readiness(given, reasons):
    """Ready means that every running stage is connected and consumes if it should; otherwise each reason is listed."""
    assert unreadiness(given, 101.0) == reasons


@pytest.mark.parametrize(("age", "stale"), [(0.0, False), (9.9, False), (10.0, True), (100.0, True)])
def test_staleness(age, stale):
    """A snapshot older than 10 s means that the main thread hangs."""
    assert bool(staleness(snapshot(None), 100.0 + age)) is stale


def test_answers(service):
    """Alive and ready are 200, unready is 503 with the list of reasons."""
    assert service.ask("GET", "/livez").status == 200
    assert service.ask("GET", "/readyz").status == 200
    service.tell("beta", stage_status("beta", link=DOWN))
    answer = service.ask("GET", "/readyz")
    assert (answer.status, len(answer.json["reasons"])) == (503, 1)
    assert service.ask("GET", "/livez").status == 200


def test_health_while_the_main_thread_is_stuck(service):
    """With the main loop blocked and every thread busy, health still answers at once, on both listeners."""
    statuses = []

    def command() -> None:
        statuses.append(service.ask("PUT", "/api/v1/stages/alpha/consumers", {"count": 1}).status)

    callers = [threading.Thread(target=command) for _ in range(40)]
    with service.blocked():
        for caller in callers:
            caller.start()
        slowest = 0.0
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            for ask in (service.ask, service.ask_unix):
                began = time.monotonic()
                assert ask("GET", "/livez").status == 200
                assert ask("GET", "/readyz").status == 200
                slowest = max(slowest, time.monotonic() - began)
    for caller in callers:
        caller.join(AMPLE)
    assert set(statuses) == {202}
    assert slowest < 5.0  # the others wait for as long as it is blocked


def test_a_hanging_main_thread_is_told(service):
    """Once the snapshot is too old, /livez answers 503 with the reason; commands get 504 or 503."""
    with service.blocked():
        service.publish(time=time.monotonic() - 11)
        answer = wait_for(lambda: (got := service.ask("GET", "/livez")).status == 503 and got, 5, "503")
        assert "main thread" in answer.json["detail"]
