"""Between the two threads of a source's process: who waits for what, and what a stop does."""

import threading
import time

import pytest

from mqworker.brokers.base import Publication
from mqworker.sources.handover import Handed, Handover, Stopped
from tests.support.waiting import wait_for

ITEM = Publication("", "q", b"", b"body")


def waiting(handover: Handover, call) -> tuple[threading.Thread, list[object]]:
    """Call in a thread, as the user's code would; returns what it returned or raised."""
    told: list[object] = []

    def run() -> None:
        try:
            told.append(call())
        except Stopped as stopped:
            told.append(stopped)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, told


def test_items_are_pulled_only_as_far_as_allowed():
    """And handed over in order; the first in a turn wakes the loop."""
    woken: list[int] = []
    handover = Handover(lambda: woken.append(1))
    handover.allow(lambda pulled: pulled + 2)
    for _ in range(2):
        handover.pull()
        handover.put(ITEM, None)
    assert len(woken) == 1
    thread, told = waiting(handover, handover.pull)
    wait_for(lambda: handover.doing == "waiting for room", 5, "a wait")
    assert handover.take() == [Handed(ITEM, None)] * 2
    assert not told
    handover.allow(lambda pulled: pulled + 1)
    thread.join(5)
    assert told == [None]
    assert handover.pulled == 3


def test_an_item_that_is_being_made_counts_and_one_that_does_not_come_does_not():
    """So that no credit is given twice, and none is lost."""
    handover = Handover(lambda: None)
    handover.allow(lambda pulled: 1)
    handover.pull()
    assert handover.pulled == 1
    handover.give_up()
    assert handover.pulled == 0
    handover.pull()
    handover.put(ITEM, None)
    handover.give_up()
    assert handover.pulled == 1


@pytest.mark.parametrize("wait", ["wait_opened", "pull", "wait_confirmed"])
def test_a_stop_ends_every_wait(wait):
    """And every later one at once."""
    handover = Handover(lambda: None)
    if wait == "wait_confirmed":
        handover.put(ITEM, None)
    thread, told = waiting(handover, getattr(handover, wait))
    time.sleep(0.01)
    handover.stop()
    thread.join(5)
    assert isinstance(told[0], Stopped)
    with pytest.raises(Stopped):
        handover.pull()
    with pytest.raises(Stopped):
        handover.pause(100)


def test_a_pause_ends_with_a_run_that_is_asked_for():
    """One at a time."""
    handover = Handover(lambda: None)
    thread, told = waiting(handover, lambda: handover.pause(100))
    assert handover.ask_run("a")
    thread.join(5)
    assert told == ["a"]
    assert handover.ask_run("b")
    assert not handover.ask_run("c")
    assert handover.pause(0) == "b"
    assert handover.pause(0) == ""
