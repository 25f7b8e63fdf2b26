"""What the campaign of sources reads out of the notes of its generators."""

import pytest

from tests.chaos.source_faults import Handovers, Note, handovers


def worked(life: str, *times: float) -> list[Note]:
    """Notes of one life."""
    return [Note(when, 1, life) for when in times]


@pytest.mark.parametrize(
    ("notes", "found"),
    [
        pytest.param(worked("a", 1, 2, 3), Handovers(0, 0.0, 0.0), id="one that never ends"),
        pytest.param(worked("a", 1, 2) + worked("b", 7, 8), Handovers(1, 5.0, 0.0), id="one after the other"),
        pytest.param(worked("a", 1, 9) + worked("b", 7, 8), Handovers(1, 6.0, 2.0), id="the old one goes on"),
        pytest.param(
            worked("a", 1, 20) + worked("b", 7, 8) + worked("c", 9, 10), Handovers(2, 6.0, 13.0), id="beside two others"
        ),
        pytest.param(worked("b", 7, 8) + worked("a", 1, 2), Handovers(1, 5.0, 0.0), id="in any order"),
    ],
)
def test_who_worked_beside_whom_is_seen(notes, found):
    """Takeovers, the longest time without anybody, and the longest in which two worked."""
    assert handovers(notes) == found
