"""When and how the Service ends: tables of events, and what holds for any events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.stop_budget import CLOSE, StopBudget
from mqworker.exits import Exit
from mqworker.service.ending import SAME_TERM, DrainBy, Ending

DRAIN = 30.0


class Driver:
    """One Ending, and a clock that the events set; each event returns how long to drain, as text."""

    def __init__(self) -> None:
        self.ending = Ending(DRAIN)
        self.now = 100.0

    def do(self, event: str) -> str:
        match event.split():
            case ["start"]:
                self.ending.started()
                return ""
            case ["sleep", seconds]:
                self.now += float(seconds)
                return ""
            case ["term"]:
                return self.told(self.ending.terminated(self.now))
            case ["drain"]:
                return self.told(self.ending.drain(self.now))
            case ["done", code]:
                return self.told(self.ending.done(Exit[code], self.now))
            case ["give", "up"]:
                return self.told(self.ending.give_up(self.now))
            case ["failed"]:
                self.ending.failed()
                return ""
            case ["ended", given_back]:
                self.ending.ended(int(given_back))
                return ""
        raise AssertionError(event)

    def told(self, drain: DrainBy | None) -> str:
        if drain is None:
            return ""
        assert self.ending.stop == StopBudget(drain.until)
        return f"drain {drain.until - self.now:g}{' first' * drain.first}{' hurried' * drain.hurried}"


TABLES = {
    "a signal drains, and nothing was given back": [
        ("start", "", "running 0"),
        ("term", "drain 30 first", "draining 0"),
        ("ended 0", "", "draining 0"),
    ],
    "a signal drains, and not everything was finished": [
        ("start", "", "running 0"),
        ("term", "drain 30 first", "draining 0"),
        ("ended 3", "", "draining 75"),
    ],
    "a second signal gives everything back, a third changes nothing": [
        ("start", "", "running 0"),
        ("term", "drain 30 first", "draining 0"),
        ("sleep 2", "", "draining 0"),
        ("term", "drain 0 hurried", "draining 75"),
        ("sleep 2", "", "draining 75"),
        ("term", "", "draining 75"),
        ("ended 0", "", "draining 75"),
    ],
    "a signal to a wrapper and to its group is one": [
        ("start", "", "running 0"),
        ("term", "drain 30 first", "draining 0"),
        ("sleep 0.1", "", "draining 0"),
        ("term", "", "draining 0"),
        ("sleep 0.45", "", "draining 0"),
        ("term", "drain 0 hurried", "draining 75"),
    ],
    "a second signal after the deadline postpones nothing": [
        ("start", "", "running 0"),
        ("term", "drain 30 first", "draining 0"),
        ("sleep 32", "", "draining 0"),
        ("term", "drain -2 hurried", "draining 75"),
    ],
    "an operator's order drains, and the first signal after it does not hurry": [
        ("start", "", "running 0"),
        ("drain", "drain 30 first", "draining 0"),
        ("drain", "", "draining 0"),
        ("sleep 2", "", "draining 0"),
        ("term", "", "draining 0"),
        ("sleep 2", "", "draining 0"),
        ("term", "drain 0 hurried", "draining 75"),
    ],
    "nothing is drained while it starts": [
        ("term", "", "starting 0"),
        ("drain", "", "starting 0"),
        ("sleep 2", "", "starting 0"),
        ("term", "", "starting 0"),
    ],
    "the end of a burst keeps its code": [
        ("start", "", "running 0"),
        ("done DEAD", "drain 30 first", "draining 65"),
        ("sleep 2", "", "draining 65"),
        ("term", "", "draining 65"),
        ("sleep 2", "", "draining 65"),
        ("term", "drain 0 hurried", "draining 65"),
        ("ended 2", "", "draining 65"),
    ],
    "a stage that cannot be kept running ends everything at once": [
        ("start", "", "running 0"),
        ("give up", "drain 0 first", "draining 70"),
        ("ended 2", "", "draining 70"),
    ],
    "a fault counts more than what went back": [
        ("start", "", "running 0"),
        ("term", "drain 30 first", "draining 0"),
        ("failed", "", "draining 1"),
        ("ended 2", "", "draining 1"),
    ],
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_what_ends_it_and_with_which_code(table):
    """Event by event: what is to be drained, the state, and the exit code so far."""
    driver = Driver()
    for event, drain, shown in table:
        assert driver.do(event) == drain, event
        assert f"{driver.ending.state} {int(driver.ending.code)}" == shown, event


def test_it_is_over_when_nothing_is_left_or_nothing_more_is_waited_for():
    """Never before the end has begun; a process that even SIGKILL does not end is waited for until `abandon`."""
    ending = Ending(DRAIN)
    ending.started()
    assert not ending.over(1e9, alive=False)
    ending.drain(100.0)
    budget = StopBudget(130.0)
    assert ending.over(100.0, alive=False)
    assert not ending.over(budget.abandon - 0.1, alive=True)
    assert ending.over(budget.abandon, alive=True)


def test_each_step_of_the_end_gets_what_is_left_of_the_budget():
    """At most CLOSE, and always a little, so that the log is written also where the budget is used up."""
    ending = Ending(DRAIN)
    assert ending.time_left(100.0) == CLOSE
    ending.started()
    ending.drain(100.0)
    assert ending.time_left(100.0) == CLOSE
    assert ending.time_left(StopBudget(130.0).service - 1.0) == pytest.approx(1.0)
    assert ending.time_left(1e9) == 0.25


@given(st.lists(st.sampled_from(["term", "drain", "sleep 0.2", "sleep 0.6", "sleep 40", "done OK", "give up"])))
def test_whatever_happens_the_end_only_comes_nearer(events):
    """It begins once, no later order postpones it, and it is hurried once."""
    driver = Driver()
    driver.ending.started()
    until, first, hurried = float("inf"), 0, 0
    for event in events:
        if event == "give up" and driver.ending.state != "running":
            continue  # the Service looks for that only while it runs
        told = driver.do(event)
        if told:
            stop = driver.ending.stop
            assert stop is not None
            assert stop.drain <= until
            until = stop.drain
            first, hurried = first + ("first" in told), hurried + ("hurried" in told)
    assert first == (driver.ending.stop is not None)
    assert hurried <= 1
    assert SAME_TERM < 1
