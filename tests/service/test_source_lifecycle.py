"""When the process of a source is started, stopped and killed: a table of events."""

from typing import Any

import pytest

from mqworker.control.source_desired import SourceCode
from mqworker.ipc.source_messages import SourceEnded, SourceStatus
from mqworker.ipc.spawn import Death
from mqworker.service.source_lifecycle import (
    FRUITFUL_AGE,
    KILL,
    SILENT,
    STOP,
    Action,
    EndSource,
    KillSource,
    SourceLifecycle,
    StartSource,
)

OLD, NEW = SourceCode("m:old", {}, None), SourceCode("m:new", {}, None)
FAILED = Death(1, 0)


def status(state: Any = "running", **more: Any) -> SourceStatus:
    return SourceStatus(pid=1, state=state, reason="", **more)


class Driver:
    """One lifecycle, and a clock that the events set; every start succeeds."""

    def __init__(self) -> None:
        self.life = SourceLifecycle()
        self.now = 1000.0

    def want(self, code: SourceCode = OLD, *, running: bool = True) -> str:
        return self.do(self.life.want(code, self.now, running=running))

    def beat(self, seconds: float = 0.5) -> str:
        self.now += seconds
        return self.do(self.life.beat(self.now))

    def report(self, state: Any = "running", **more: Any) -> None:
        self.life.reported(status(state, **more), self.now)

    def die(self, how: Any = "", death: Death = FAILED, reason: str = "") -> str:
        if how:
            self.life.ends(SourceEnded(how, reason))
        return self.do(self.life.died(death, self.now))

    def do(self, actions: list[Action]) -> str:
        told = []
        for action in actions:
            match action:
                case StartSource():
                    told.append(f"start {action.code.job}")
                    self.life.started(action.code)
                case EndSource():
                    told.append(f"end in {action.until - self.now:g} s")
                case KillSource():
                    told.append("kill")
        return ", ".join(told)


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_it_is_started_and_shows_what_its_process_reports(driver):
    """From the first start on."""
    assert driver.life.state == "stopped"
    assert driver.want() == "start m:old"
    assert driver.life.state == "starting"
    driver.report("standby")
    assert driver.life.state == "standby"


def test_one_that_has_finished_is_not_started_again_by_itself(driver):
    """Only by a word of somebody, or with other code."""
    driver.want()
    assert driver.die("finished", Death(0, 0)) == ""
    assert driver.life.state == "finished"
    assert driver.life.is_over
    assert driver.beat(1000) == ""
    assert driver.want() == ""
    assert driver.do(driver.life.again(driver.now)) == "start m:old"
    driver.die("finished", Death(0, 0))
    assert driver.want(NEW) == "start m:new"


def test_a_stop_and_a_start(driver):
    """It gets its time, is not started meanwhile, and then begins."""
    driver.want()
    driver.report()
    assert driver.want(running=False) == f"end in {STOP:g} s"
    assert driver.life.state == "ending"
    assert not driver.life.is_over
    assert driver.want() == ""
    assert driver.die("stopped", Death(0, 0)) == "start m:old"
    assert driver.life.restarts == 0


def test_a_start_that_meets_a_generator_which_is_just_finishing_is_not_lost(driver):
    """It was ordered to end, ended by itself meanwhile, and begins again with the code that is wanted now."""
    driver.want()
    driver.report()
    assert driver.want(NEW) == f"end in {STOP:g} s"
    assert driver.die("finished", Death(0, 0)) == "start m:new"


def test_other_code_takes_the_place_of_the_old(driver):
    """The old process ends in order; then the new one starts."""
    driver.want()
    driver.report()
    assert driver.want(NEW) == f"end in {STOP:g} s"
    assert driver.die("stopped", Death(0, 0)) == "start m:new"


def test_after_progress_a_death_costs_nothing(driver):
    """Its successor starts at once, however often."""
    driver.want()
    for _ in range(20):
        driver.report(progress=1)
        assert driver.die("failed", reason="ValueError: no") == "start m:old"
    assert driver.life.state == "starting"
    assert driver.life.restarts == 20


def test_five_lives_without_progress_are_a_crash_loop_and_each_start_waits_longer(driver):
    """It is never given up; the first item ends it."""
    driver.want()
    for _ in range(5):
        driver.die("failed", reason="ValueError: no")
        while not driver.life.alive:
            driver.beat()
    assert driver.life.state == "crash loop"
    assert driver.life.problem == "ValueError: no"
    driver.die("failed", reason="ValueError: no")
    assert driver.beat(2.0) == ""
    assert driver.life.state == "crash loop"
    assert driver.beat(60.0) == "start m:old"
    driver.report(progress=1)
    assert driver.life.state == "running"
    assert driver.life.problem == ""


def test_one_that_waited_long_for_something_to_yield_was_fruitful(driver):
    """A quiet source that dies once a month is in no crash loop."""
    driver.want()
    for _ in range(10):
        driver.report(since=driver.now)
        driver.now += FRUITFUL_AGE + 1
        assert driver.die() == "start m:old"


def test_a_crash_loop_is_over_when_the_code_has_run_for_a_while(driver):
    """Also if it has nothing to yield."""
    driver.want()
    for _ in range(5):
        driver.die("failed", reason="ValueError: no")
        while not driver.life.alive:
            driver.beat()
    began = driver.now
    driver.report("waiting", since=began)
    assert driver.life.state == "crash loop"
    driver.now += FRUITFUL_AGE + 1
    driver.report("waiting", since=began)
    assert driver.life.state == "waiting"


def test_time_on_standby_is_no_progress(driver):
    """Only what the user's code has run for counts."""
    driver.want()
    for _ in range(5):
        driver.report("standby")
        driver.now += 1000
        driver.die()
        driver.beat(61)
    assert driver.life.state == "crash loop"


def test_the_end_is_final_and_can_only_come_sooner(driver):
    """Sources stop at once when the service drains."""
    driver.want()
    driver.report()
    assert driver.do(driver.life.end(driver.now, driver.now + 30)) == f"end in {STOP:g} s"
    assert driver.do(driver.life.end(driver.now, driver.now + 60)) == ""
    assert driver.do(driver.life.end(driver.now, driver.now + 1)) == f"end in {1 - KILL:g} s"
    assert driver.die("stopped", Death(0, 0)) == ""
    assert driver.beat() == ""
    assert driver.life.state == "stopped"


def test_one_that_is_silent_is_killed(driver):
    """Beats are counted, so that nobody is killed because the machine paused."""
    driver.want()
    driver.report()
    assert driver.beat(3600) == ""
    assert [driver.beat() for _ in range(SILENT)][-1] == "kill"


def test_a_start_that_fails_is_tried_again(driver):
    """With backoff."""
    assert driver.life.want(OLD, driver.now, running=True) == [StartSource(OLD)]
    driver.life.not_started("no process left", driver.now)
    assert driver.life.problem == "no process left"
    assert driver.beat() == "start m:old"
