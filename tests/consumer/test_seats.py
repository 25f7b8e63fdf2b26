"""What a Consumer that works on several messages at once has in hand: decisions as tables."""

import math

import pytest

from mqworker.config.model import InputConfig, StageConfig
from mqworker.consumer.deadlines import HARD, SOFT, Deadlines
from mqworker.consumer.loop_watch import NOBODY, LoopWatch
from mqworker.consumer.seats import Finished, SeatedMessage, SeatTable, Setting
from mqworker.ipc.consumer_messages import Item

SETTING = Setting(1, b"{}", 0.0, 0.0)


def items(*seqs):
    return [Item(seq, b"\0\0", b"1", False, "", "in") for seq in seqs]


def table(count=3, **stage):
    return SeatTable(count, StageConfig(input=InputConfig(queue="in"), jobs=("jobs:f",), **stage))


def finished(work, **more):
    return Finished(work, b"", [], **{"out_of_memory": False} | more)


def test_a_seat_is_free_when_its_outcome_is_written():
    """A Consumer never holds more than it has seats, whatever was computed meanwhile."""
    seats = table(3)
    first = seats.take(items(1, 2, 3), SETTING)
    assert sorted(work.seat for work in first) == [0, 1, 2]
    with pytest.raises(IndexError):
        seats.take(items(4), SETTING)
    seats.written(finished(first[1]), 0)
    (fourth,) = seats.take(items(4), SETTING)
    assert fourth.seat == first[1].seat
    assert set(seats.in_hand) == {1, 3, 4}
    seats.leave(first[0])  # given back
    assert seats.take(items(5), SETTING)[0].seat == first[0].seat


def test_a_body_is_not_kept_for_longer_than_its_message():
    """Whoever remembers the message, as the context of a pooled connection does: its labels stay, the body goes."""
    seats = table(2)
    small, large = seats.take([Item(n, b"\0\0", b"1" * n, False, "", "in") for n in (1, 100_000)], SETTING)
    names = [SeatedMessage(0, each.item, SETTING, "in", None).labels for each in (small, large)]
    seats.written(finished(small), 0)
    seats.written(finished(large), 0)
    assert [each.labels for each in (small, large)] == names
    assert (small.item.body, large.item.body, large.item.seq) == (b"1", b"", 100_000)


@pytest.mark.parametrize(
    ("stage", "outcomes", "why"),
    [
        ({}, [({}, 0)] * 5, ""),
        ({"max_messages": 3}, [({}, 0)] * 2, ""),
        ({"max_messages": 3}, [({}, 0)] * 3, "max_messages"),
        ({"max_rss": 100}, [({}, 99)], ""),
        ({"max_rss": 100}, [({}, 100), ({}, 1)], "max_rss"),
        ({}, [({"out_of_memory": True}, 0), ({}, 0)], "memory"),
    ],
)
def test_why_it_asks_to_be_replaced(stage, outcomes, why):
    """The first reason stays."""
    seats, said = table(8, **stage), ""
    for seq, (more, rss) in enumerate(outcomes, 1):
        (work,) = seats.take(items(seq), SETTING)
        said = seats.written(finished(work, **more), rss)
    assert said == why


def test_whoever_holds_the_loop_is_overdue_alone():
    """A long step counts against its own message, and moves the limits of all others."""
    due = Deadlines()
    due.begin(0, 0.0, 5.0, 10.0)
    due.begin(1, 0.0, 5.0, 10.0)
    due.begin(2, 0.0, 0.0, 0.0)
    assert due.held(0, 60.0) == [1, 2]
    assert due.pass_now(60.0) == [0]
    assert (due.passed(0), due.passed(1), due.passed(2)) == (HARD, "", "")
    assert due.next() == 65.0
    assert due.pass_now(65.0) == [1]
    assert due.passed(1) == SOFT
    assert due.pass_now(69.0) == []
    assert due.pass_now(70.0) == [1]
    assert (due.passed(1), due.next()) == (HARD, math.inf)


def test_its_own_short_steps_count():
    """What others do in short steps is not told, and counts as for processes that share a CPU."""
    due = Deadlines()
    due.begin(0, 0.0, 5.0, 0.0)
    assert due.pass_now(4.9) == []
    assert due.pass_now(5.0) == [0]
    due.end(0)
    assert (due.passed(0), due.next()) == ("", math.inf)


def test_limits_stand_still_while_a_call_waits():
    """Also when two calls of a message wait at once, and nothing else moves them meanwhile."""
    due = Deadlines()
    due.begin(0, 0.0, 5.0, 0.0)
    due.wait(0, 1.0, waiting=True)
    due.wait(0, 2.0, waiting=True)
    assert due.held(1, 3.0) == []
    due.wait(0, 50.0, waiting=False)
    assert (due.pass_now(60.0), due.next()) == ([], math.inf)
    due.wait(0, 61.0, waiting=False)
    assert due.next() == 65.0
    due.wait(7, 1.0, waiting=True)  # one that is gone


def test_a_blocked_loop_is_named_soon_and_then_seldom():
    """After half a second, 5 and 50; another step begins anew; the same place in the code is named once a minute."""
    watch = LoopWatch()
    told = [now for now in range(600) if watch.is_due(7, 100.0, 100.0 + now / 10)]
    assert told == [5, 50, 500]
    assert not watch.is_due(0, 100.0, 200.0)
    assert [watch.is_due(NOBODY, 100.0, at) for at in (200.0, 200.25, 200.5)] == [False, True, False]
    assert watch.is_due(7, 201.0, 201.6)
    assert watch.count("a.py", 0.0) == 0
    assert watch.count("a.py", 30.0) is None
    assert watch.count("b.py", 30.0) == 0
    assert watch.count("a.py", 61.0) == 1
