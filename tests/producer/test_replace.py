"""Whether a Consumer still has in hand what an operator has seen, before it is replaced."""

import pytest

from mqworker.ipc.inspection import AskReplace
from mqworker.producer.replace import changed


@pytest.mark.parametrize(
    ("pid", "message_id", "seq", "in_hand", "why"),
    [
        (0, "", None, {2: "m-2"}, ""),
        (70, "", None, {}, ""),
        (70, "m-1", None, {1: "m-1"}, ""),
        (0, "m-1", 1, {0: "m-0", 1: "m-1"}, ""),
        (0, "", 0, {}, ""),
        (0, "", 4, {4: "", 5: ""}, ""),
        (70, "m-1", None, {2: "m-2"}, "message m-1 is no longer in hand in Consumer 3 (it has m-2)"),
        (70, "m-1", None, {}, "message m-1 is no longer in hand in Consumer 3 (it has none)"),
        (70, "m-1", 1, {8: "m-1"}, "message m-1 is no longer in hand in Consumer 3 (it has m-1)"),
        (
            70,
            "",
            4,
            {5: ""},
            "the message that was seen is no longer in hand in Consumer 3 (it has one without an id)",
        ),
        (70, "", 4, {}, "the message that was seen is no longer in hand in Consumer 3 (it has none)"),
        (70, "", 0, {5: "m-5"}, "Consumer 3 has begun a message since it was seen without one (it has m-5)"),
    ],
)
def test_only_what_was_seen_is_replaced(pid, message_id, seq, in_hand, why):
    """A Consumer with another message in hand is left alone; what was not said is not compared."""
    asked = AskReplace(1, 3, now=True, pid=pid, message_id=message_id, seq=seq)
    assert changed(asked, in_hand) == (f"{why}: nothing is done to it" if why else "")
