"""The Service's table of operations on dead letters."""

import pytest

from mqworker.control.control import ControlError
from mqworker.ipc.admin_messages import AdminProgress
from mqworker.service.bulk_operations import DOUBLED, ENDED, BulkOperations
from tests.support.loop import on_loop


class Admin:
    """A broker admin that begins everything, and reports nothing by itself."""

    def __init__(self) -> None:
        self.asked = []
        self.before = ""

    async def ask(self, verb, arguments, deadline):
        self.asked.append((verb, arguments))
        if arguments.get("count") == 0:
            raise ControlError("count", "another number")
        return self.before or arguments["operation"]


def told(operation: str, state: str, done: int = 0, **more) -> AdminProgress:
    values = {"looked": 9, "wanted": 500, "gone": 0, "unsure": 0, "refused": 0, "reason": "", "at": 1.0}
    return AdminProgress(operation=operation, state=state, done=done, **(values | more))


@on_loop
async def test_progress_is_shown_and_counted_until_the_end():
    """What comes after the end changes nothing; what nobody has begun is no operation."""
    admin = Admin()
    bulk = BulkOperations(admin)
    begun = await bulk.begin("s", "sel", "replay", 500, "token")
    assert (begun.state, begun.wanted, begun.by) == ("looking", 500, "token")
    for progress in (
        told(begun.operation, "moving", 100, unsure=50),
        told(begun.operation, "done", 498, gone=2),
        told(begun.operation, "moving", 499),
        told("unknown", "done", 7),
    ):
        admin.on_progress(progress)
    (view,) = bulk.all
    assert (view.state, view.done, view.gone, view.unsure, view.stage) == ("done", 498, 2, 0, "s")
    assert bulk.counts == {("s", "replay", "done"): 498, ("s", "replay", "gone"): 2}
    assert await bulk.cancel(begun.operation) == view
    assert [verb for verb, _ in admin.asked] == ["dlq_begin"]


@on_loop
async def test_the_death_of_the_broker_admin_fails_what_was_at_work():
    """Up to the last two batches of a replay may be in both queues, nothing of a drop; what has ended stays."""
    admin = Admin()
    bulk = BulkOperations(admin)
    for kind, state, done in (
        ("replay", "moving", 450),
        ("replay", "moving", 10),
        ("drop", "moving", 99),
        ("drop", "done", 5),
    ):
        begun = await bulk.begin("s", "sel", kind, 500, "")
        admin.on_progress(told(begun.operation, state, done))
    admin.on_end("it was killed")
    why = "it was killed"
    assert [(view.state, view.unsure, view.reason) for view in bulk.all] == [
        *(("failed", DOUBLED, why), ("failed", 10, why), ("failed", 0, why), ("done", 0, "")),
    ]
    assert bulk.counts["s", "replay", "unsure"] == DOUBLED + 10


@on_loop
async def test_what_cannot_begin_leaves_nothing():
    """A refusal is passed on; asked twice for one selection, there is one operation."""
    admin = Admin()
    bulk = BulkOperations(admin)
    with pytest.raises(ControlError, match="another number"):
        await bulk.begin("s", "sel", "replay", 0, "")
    assert bulk.all == ()
    first = await bulk.begin("s", "sel", "replay", 500, "")
    admin.before = first.operation
    assert await bulk.begin("s", "sel", "replay", 500, "") == first
    assert bulk.all == (first,)
    with pytest.raises(ControlError, match="no operation"):
        await bulk.cancel("unknown")
    await bulk.cancel(first.operation)
    assert admin.asked[-1] == ("dlq_cancel", {"operation": first.operation})


@on_loop
async def test_the_table_is_bounded():
    """Of those that have ended the last 50 are kept, and all that are at work."""
    admin = Admin()
    bulk = BulkOperations(admin)
    at_work = await bulk.begin("s", "sel", "drop", 500, "")
    for _ in range(ENDED + 5):
        ended = await bulk.begin("s", "sel", "drop", 500, "")
        admin.on_progress(told(ended.operation, "cancelled"))
    assert len(bulk.all) == ENDED + 1
    assert bulk.all[0] == at_work
