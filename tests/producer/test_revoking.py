"""What a Consumer has not begun is taken back only when it is certain that it will not begin it."""

import pytest

from mqworker.producer.revoking import SETTLED, Revoking

LANE = 3


@pytest.mark.parametrize(
    ("seen", "certain_at"),
    [
        ([(7, 0.0), (7, SETTLED)], 1),  # the same message, long enough
        ([(7, 0.0), (7, SETTLED / 2), (7, SETTLED)], 2),
        ([(8, SETTLED), (8, 2 * SETTLED)], 1),  # it had begun another one, which now counts
        ([(8, SETTLED), (9, 2 * SETTLED), (9, 2.5 * SETTLED)], None),
        ([(0, SETTLED), (0, 9 * SETTLED)], None),  # between two messages: the end of the chunk gives them back
        ([(0, SETTLED), (8, 2 * SETTLED), (8, 4 * SETTLED)], 2),
    ],
)
def test_only_behind_a_message_that_stays_in_hand(seen, certain_at):
    """The message must be the same at two looks that are SETTLED apart, both after the Consumer was told."""
    revoking = Revoking()
    revoking.stopping(LANE, 7, 0.0)
    answers = [revoking.certain(LANE, in_hand, now) for in_hand, now in seen]
    assert [number for number, certain in enumerate(answers) if certain] == ([] if certain_at is None else [certain_at])
    assert (LANE in revoking) == (certain_at is None)


def test_being_told_again_begins_nothing_anew():
    """Who is told at every turn is settled all the same, and is forgotten when its chunks have ended."""
    revoking = Revoking()
    for turn in range(4):
        revoking.stopping(LANE, 7, turn * SETTLED / 3)
    assert revoking.certain(LANE, 7, SETTLED)
    revoking.stopping(LANE, 7, 1.0)
    revoking.forget(LANE)
    revoking.forget(LANE)
    assert LANE not in revoking
