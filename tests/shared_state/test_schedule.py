"""When a shared object reports, syncs, ticks and makes snapshots."""

import pytest

from mqworker.shared_state.schedule import FIRST_SNAPSHOT, NEXT_SNAPSHOT, REPORT, RETRY_SNAPSHOT, Schedule

EVENTS = [
    # (time, journal bytes, what is due)
    (0.0, 0, ["report"]),
    (0.5, 0, []),
    (1.0, 0, ["sync", "report"]),
    (1.5, 101, ["snapshot"]),
    (1.6, 101, []),  # it is being written
    (2.5, 101, ["sync", "report"]),
    (5.0, 0, ["tick", "sync", "report"]),
    (20.0, 0, ["tick", "sync", "report"]),  # late, and once
    (20.1, 0, []),
]


def test_what_is_due_when():
    """Each at its time, once, however late it is asked for."""
    schedule = Schedule(0.0, 5.0, 100)
    for now, size, due in EVENTS:
        assert schedule.due(now, size) == due, now


def test_it_waits_until_the_next_is_due():
    """And not at all when something is."""
    schedule = Schedule(0.0, 5.0, 100)
    assert schedule.wait(0.0) == 0.0
    schedule.due(0.0, 0)
    assert schedule.wait(0.25) == pytest.approx(0.75)
    assert schedule.wait(9.0) == 0.0


def test_a_snapshot_that_fails_is_tried_again_later():
    """Not at once, and no second one begins while one is being written."""
    schedule = Schedule(0.0, 5.0, 100)
    assert "snapshot" in schedule.due(0.0, 101)
    schedule.written(1.0, failed=True)
    assert "snapshot" not in schedule.due(RETRY_SNAPSHOT, 101)
    assert "snapshot" in schedule.due(1.0 + RETRY_SNAPSHOT, 101)
    schedule.written(100.0, failed=False)
    assert "snapshot" in schedule.due(100.0, 101)


def test_a_snapshot_is_made_in_time_where_there_is_something_new():
    """The first soon after the start, then once an hour, whatever the size; none of an empty journal."""
    schedule = Schedule(0.0, 5.0, 100)
    assert "snapshot" not in schedule.due(FIRST_SNAPSHOT - 1, 1)
    assert "snapshot" not in schedule.due(FIRST_SNAPSHOT, 0)
    assert "snapshot" in schedule.due(FIRST_SNAPSHOT + 1, 1)
    schedule.written(400.0, failed=False)
    assert "snapshot" not in schedule.due(400.0 + NEXT_SNAPSHOT - 1, 1)
    assert "snapshot" in schedule.due(400.0 + NEXT_SNAPSHOT, 1)


def test_a_report_that_takes_long_comes_less_often():
    """So that `describe` never takes more than a twentieth of the time."""
    schedule = Schedule(0.0, 5.0, 100)
    schedule.due(0.0, 0)
    schedule.reported(0.0, 0.001)
    assert schedule.wait(0.0) == pytest.approx(REPORT)
    schedule.reported(0.0, 2.0)
    assert "report" not in schedule.due(30.0, 0)
    assert "report" in schedule.due(42.0, 0)
