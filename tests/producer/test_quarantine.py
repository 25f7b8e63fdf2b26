"""Quarantine: what may start while a message that may have killed the tree waits or runs."""

import pytest

from mqworker.producer.quarantine import May, may_begin, outlived


@pytest.mark.parametrize(
    ("in_hand", "window", "may"),
    [
        pytest.param([], None, May.OTHERS, id="no suspect waits"),
        pytest.param([99.0, 0.0], None, May.OTHERS, id="no suspect waits, whatever is in hand"),
        pytest.param([], 15.0, May.SUSPECT, id="nothing is in hand"),
        pytest.param([85.0, 1.0], 15.0, May.SUSPECT, id="all in hand has been for the whole window"),
        pytest.param([85.1, 1.0], 15.0, May.NOBODY, id="one in hand began within the window"),
        pytest.param([1.0, 0.0], 15.0, May.NOBODY, id="one Consumer is between two messages"),
    ],
)
def test_what_may_begin(in_hand, window, may):
    """A suspect starts beside nothing that started within its window; meanwhile nothing else starts."""
    assert may_begin(100.0, in_hand, window) is may


def test_a_suspect_holds_the_stage_up_for_two_windows_at_most():
    """However long the messages in hand take, the suspect starts after one window, and others start after one more."""
    window, began, now = 15.0, [0.0, 99.0, 99.9], 100.0
    in_hand = [max(start, 0.1) for start in began]
    while may_begin(now, in_hand, window) is May.NOBODY:
        now += 0.1
    assert now <= 100.0 + window
    started = now
    while not outlived(now, started, window):
        now += 0.1
    assert now <= started + window + 0.1


def test_a_message_that_has_not_begun_outlives_nothing():
    """Its window starts with its work, not with its dispatch."""
    assert not outlived(100.0, 0.0, 15.0)
    assert outlived(100.0, 85.0, 15.0)
