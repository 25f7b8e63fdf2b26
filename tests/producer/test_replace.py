"""Whether a Consumer is still as an operator has seen it, before it is replaced."""

import pytest

from mqworker.ipc.inspection import AskReplace
from mqworker.producer.replace import changed


@pytest.mark.parametrize(
    ("pid", "message_id", "in_hand", "why"),
    [
        (0, "", ["m-2"], ""),
        (70, "", [], ""),
        (70, "m-1", ["m-1"], ""),
        (0, "m-1", ["m-0", "m-1"], ""),
        (71, "m-1", ["m-1"], "Consumer 3 is another process by now (pid 70, not 71)"),
        (70, "m-1", ["m-2"], "message m-1 is not in hand in Consumer 3 any more (it has m-2)"),
        (70, "m-1", [], "message m-1 is not in hand in Consumer 3 any more (it has none)"),
    ],
)
def test_only_what_was_seen_is_replaced(pid, message_id, in_hand, why):
    """Another process, or another message in hand, is left alone; what was not said is not compared."""
    asked = AskReplace(1, 3, now=True, pid=pid, message_id=message_id)
    assert changed(asked, 70, in_hand) == (f"{why}: nothing is done to it" if why else "")
